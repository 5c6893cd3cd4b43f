"""From boxes to rows and verdicts: what is compared with what, and the numbers that rows take from where."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from hatdet.evaluation.arms import Arm
from hatdet.evaluation.boxes import Found, Truth
from hatdet.evaluation.results import csv_rows, describe_data, measure
from hatdet.evaluation.text import report_lines

CLASSES = {0: "car", 7: "bus"}
QUALITY = {"lr": 0.2, "lr@imgsz": 0.5, "nearest": 0.1, "bicubic": 0.6, "hat-xs": 0.9, "own.pth": 0.6, "hr": 1.0}


def truth(index: int) -> Truth:
    """Three objects, a tiny one, a small one and a large one; a bus in every third image."""
    xyxy = np.array([[10, 10, 20, 20], [50, 50, 78, 78], [100, 100, 300, 300]], float) + index
    return Truth(xyxy, np.array([0, 0, 7 if index % 3 == 0 else 0]), np.zeros(3, np.bool_))


def found(index: int, quality: float) -> Found:
    """A share of the objects, in images that differ from arm to arm, and a wrong box in every image."""
    boxes = truth(index)
    kept = np.random.default_rng([index, 5]).random(3) < quality
    xyxy = np.concatenate([boxes.xyxy[kept], [[400.0, 0, 450, 50]]])
    confidence = np.linspace(0.9, 0.6, len(xyxy))
    return Found(xyxy, confidence, np.append(boxes.class_id[kept], 0))


def fake(arms: str, images: int = 40, detectors: tuple[str, ...] = ("yolo",)) -> SimpleNamespace:
    """A JointEvaluation that has seen its images."""
    upscaled = [name for name in arms.split(",") if not name.startswith(("lr", "hr"))]
    seen = [
        SimpleNamespace(
            truth=truth(index),
            name=f"{index}.png",
            fidelity={
                name: {"psnr_y": 20.0 + index, "ssim_y": 0.5, "psnr_rgb": math.inf, "ssim_rgb": math.nan}
                for name in upscaled
            },
            upscale_ms=dict.fromkeys(upscaled, 30.0),
            upscaled_share=dict.fromkeys(upscaled, 0.5),
        )
        for index in range(images)
    ]
    return SimpleNamespace(
        arms=[Arm(name) for name in arms.split(",")],
        detectors=[SimpleNamespace(name=name) for name in detectors],
        images=seen,
        founds=lambda detector, arm: [
            found(index, QUALITY[arm.name] * (1 if detector.name == "yolo" else 0.8)) for index in range(images)
        ],
        detect_ms=lambda detector, arm: [10.0] * images,
    )


ALL = "lr,lr@imgsz,nearest,bicubic,hat-xs,own.pth,hr"


def test_rows_are_in_order_and_their_numbers_from_their_places():
    parts = []
    results = measure(fake(ALL), CLASSES, arm_done=lambda done, total: parts.append((done, total)))
    assert [row["arm"] for row in results.rows] == ALL.split(",")
    assert parts == [(n, 7) for n in range(1, 8)]
    row = {row["arm"]: row for row in results.rows}
    assert row["hr"]["map50_95"] == pytest.approx(1, abs=0.02)
    assert row["hr"]["ap_medium"] is None  # no object of that size
    assert row["lr"]["map50_95"] < row["bicubic"]["map50_95"] < row["hat-xs"]["map50_95"]
    assert (row["lr"]["ms_per_image"], row["hat-xs"]["ms_per_image"]) == (10, 40)
    assert (row["lr"]["upscale_ms"], row["hat-xs"]["upscale_ms"]) == (None, 30)
    assert row["hat-xs"]["psnr_y"] == pytest.approx(39.5)
    # Identical pictures are in no mean, and pictures smaller than the window have no SSIM.
    assert row["hat-xs"]["psnr_rgb"] is None
    assert row["hat-xs"]["ssim_rgb"] is None
    assert row["lr"]["psnr_y"] is None
    low, high = row["lr"]["map50_95"], row["hr"]["map50_95"]
    assert row["bicubic"]["gap_closed"] == pytest.approx((row["bicubic"]["map50_95"] - low) / (high - low))
    assert row["hat-xs"]["per_class"]["bus"]["boxes"] == 14
    changes = row["hat-xs"]["changes"]
    assert changes["control"] == "bicubic"
    assert changes["gained"] > 10
    assert (changes["lost"], changes["added"], changes["removed"]) == (0, 0, 0)
    assert row["bicubic"]["changes"] is None
    assert sum(one.gained for one in results.primary_changes) == changes["gained"]


def test_one_primary_contrast_the_others_planned_the_rest_exploratory():
    results = measure(fake(ALL), CLASSES)
    kinds = [
        (verdict.kind, verdict.arm, verdict.control) for verdict in results.verdicts if verdict.metric == "map50_95"
    ]
    assert kinds[0] == ("primary", "hat-xs", "bicubic")
    planned = [(arm, control) for kind, arm, control in kinds if kind == "planned"]
    assert len(planned) == 7
    assert set(planned) | {("hat-xs", "bicubic")} == {
        (arm, control) for arm in ("hat-xs", "own.pth") for control in ("bicubic", "lr@imgsz", "lr", "nearest")
    }
    others = {(arm, control) for kind, arm, control in kinds if kind == "exploratory"}
    assert ("hr", "bicubic") in others
    assert ("bicubic", "lr@imgsz") in others
    assert not others & set(planned)
    first = results.verdicts[0]
    assert first.outcome == "better"
    assert first.words.startswith("hat-xs beats bicubic by ")
    assert "objects gain most" in first.words
    assert first.words.endswith("cost 1.0x per image")
    metrics = {verdict.metric for verdict in results.verdicts if verdict.arm == "hat-xs"}
    assert metrics == {"map50_95", "map50", "ap_tiny", "ap_small", "ap_large"}  # both classes are common: no third mean
    assert all(verdict.p_holm is not None for verdict in results.verdicts if verdict.kind == "planned")


def test_the_common_classes_have_a_verdict_of_their_own():
    results = measure(fake("bicubic,hat-xs", images=25), CLASSES)  # the bus is in nine images
    (common,) = [verdict for verdict in results.verdicts if verdict.metric == "map50_95_common"]
    assert common.kind == "exploratory"
    assert common.words.endswith("(the class in at least 10 images: car)")
    car = {row["arm"]: row["per_class"]["car"]["ap"] for row in results.rows}
    assert common.difference.value == pytest.approx(car["hat-xs"] - car["bicubic"], abs=1e-9)


def test_a_second_detector_is_planned_and_on_the_first_ones_scale():
    results = measure(fake("lr,bicubic,hat-xs,hr", detectors=("yolo", "weaker")), CLASSES)
    assert [verdict.detector for verdict in results.verdicts if verdict.kind == "primary"] == ["yolo"]
    weaker = [verdict for verdict in results.verdicts if verdict.kind == "planned" and verdict.detector == "weaker"]
    assert [(verdict.arm, verdict.control) for verdict in weaker] == [("hat-xs", "bicubic"), ("hat-xs", "lr")]
    row = {(row["detector"], row["arm"]): row for row in results.rows}
    assert row["weaker", "hr"]["gap_closed"] < row["yolo", "hr"]["gap_closed"] == 1


def test_without_a_strong_control_there_is_no_primary_verdict():
    results = measure(fake("lr,nearest,hat-xs"), CLASSES)
    assert {verdict.kind for verdict in results.verdicts} == {"exploratory"}
    assert ("hat-xs", "lr") in {(verdict.arm, verdict.control) for verdict in results.verdicts}
    assert measure(fake("hat-xs"), CLASSES).verdicts == []
    assert measure(fake("hat-xs"), CLASSES).primary_changes == []


def test_sequences_are_what_is_counted():
    groups = [index // 4 for index in range(40)]
    assert measure(fake("bicubic,hat-xs"), CLASSES, groups=groups).verdicts[0].outcome == "none"
    groups = [index // 2 for index in range(40)]
    assert measure(fake("bicubic,hat-xs"), CLASSES, groups=groups).verdicts[0].outcome == "better"


def test_a_seed_decides_everything():
    first, again, other = (measure(fake("bicubic,hat-xs"), CLASSES, seed=seed).verdicts for seed in (0, 0, 1))
    assert first == again
    assert first[0].difference != other[0].difference
    assert first[0].difference.value == other[0].difference.value


def test_what_the_data_hold():
    crowd = Truth(np.array([[0.0, 0, 50, 50]]), np.array([0]), np.array([True]))
    found = describe_data([truth(0), truth(1), crowd], CLASSES | {9: "wug"}, ["a problem"], {"clipped": 1})
    assert found["images"] == 3
    assert found["boxes"] == 6
    assert found["boxes_by_size"] == {"all": 6, "tiny": 2, "small": 4, "medium": 0, "large": 2}
    assert found["images_without_objects"] == 1
    assert (found["classes"], found["classes_with_boxes"], found["median_images_per_class"]) == (3, 2, 1.5)
    assert (found["problems"], found["counts"]) == (["a problem"], {"clipped": 1})


def test_spreadsheet_rows_are_flat():
    rows = csv_rows(measure(fake("bicubic,hat-xs"), CLASSES).rows)
    assert all(not isinstance(value, dict) for row in rows for value in row.values())
    assert list(rows[0]) == list(rows[1])
    assert rows[0]["gained"] is None
    assert rows[1]["gained"] > 0
    assert "error_missed_dap" in rows[0]


@pytest.mark.parametrize("arms", [ALL, "lr", "lr,nearest,hat-xs"])
def test_text_has_a_line_for_everything(arms):
    results = measure(fake(arms), CLASSES)
    data = describe_data([truth(index) for index in range(40)], CLASSES, [], {})
    settings = {
        "confidence": 0.001,
        "nms_iou": 0.7,
        "boxes_evaluated": 100,
        "size_frame": "hr",
        "resamples": 2000,
        "groups": None,
        "seed": 0,
        "fidelity": ["PSNR-Y"],
        "low_resolution": "MATLAB",
    }
    report = {
        "rows": results.rows,
        "verdicts": [v.as_row() for v in results.verdicts],
        "settings": settings,
        "data": data,
    }
    lines = report_lines(report)
    assert len({len(line) for line in lines[: len(results.rows) + 1]}) == 1  # the table is one
    for name in arms.split(","):
        assert sum(line.startswith(f"{name} ") for line in lines) >= 2  # table and errors
    text = "\n".join(lines)
    assert "LPIPS" not in text
    if arms == ALL:
        assert "Verdict: hat-xs beats bicubic" in text
        assert "hat-xs against bicubic, boxes of confidence 0.25 and more" in text
    elif arms == "lr":
        assert "No verdict: there is nothing to compare" in text
    else:
        assert "exploratory: hat-xs against lr" in text
    assert "40 images (0 without objects), 120 boxes, 2 of 2 classes (median 27 images a class)" in text
