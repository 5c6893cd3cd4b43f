"""`hatdet eval` as its users type it: embedded weights, a few small photos, every option."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from hatdet.cli.app import app
from hatdet.cli.evaluate_parts import Machine, load_arms
from hatdet.cli.session import Session
from hatdet.core.types import Image
from hatdet.evaluation.fidelity import Protocol, compare
from hatdet.imaging.files import read_image, to_array, write_image
from hatdet.imaging.resize import reduced, resize_bicubic
from hatdet.sr.upscalers import HatUpscaler
from tests.helpers import sample_photo

# Parts of the two photos: name, photo, top, left, and YOLO labels of what is there (class, xyxy in pixels of 192x256).
PARTS = {
    "a.png": ("bus", 400, 20, [(0, 38, 1, 182, 256)]),
    "b.png": ("bus", 380, 600, [(5, 1, 1, 191, 255)]),
    "d.png": ("zidane", 300, 0, []),
    "deep/c.png": ("bus", 480, 180, [(0, 40, 0, 164, 255), (0, 0, 33, 22, 255)]),
}
WIDTH, HEIGHT = 192, 256
ROW_KEYS = {
    *("detector", "arm", "images", "psnr_images", "psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "lpips"),
    *("map50_95", "map50", "map75", "ar100", "ap_tiny", "ap_small", "ap_medium", "ap_large"),
    *("ms_per_image", "upscale_ms", "detect_ms", "upscaled_share", "pareto", "gap_closed"),
    *("false_positives_of_other_classes",),
    *("errors", "changes", "per_class", "precision_recall"),
}


def evaluate(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["eval", *(str(argument) for argument in arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def report_of(*arguments: object) -> dict:
    result = evaluate(*arguments, "--json", "-", "--quiet")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """data.yaml with images/val/... and labels/val/..., three classes; what runs keep is kept for the module."""
    root = tmp_path_factory.mktemp("eval")
    names = {0: "person", 5: "bus", 27: "tie"}
    for name, (photo, top, left, boxes) in PARTS.items():
        pixels = read_image(sample_photo(photo)).pixels
        write_image(Image(pixels[:, top : top + HEIGHT, left : left + WIDTH].contiguous()), root / "images/val" / name)
        label = root / "labels/val" / Path(name).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("".join(yolo_row(*box) for box in boxes))
    (root / "data.yaml").write_text(yaml.safe_dump({"path": ".", "val": "images/val", "names": names}))
    return root


def yolo_row(class_id: int, x1: float, y1: float, x2: float, y2: float) -> str:
    w, h = WIDTH, HEIGHT
    return f"{class_id} {(x1 + x2) / 2 / w} {(y1 + y2) / 2 / h} {(x2 - x1) / w} {(y2 - y1) / h}\n"


@pytest.fixture
def data(made, monkeypatch) -> Path:
    """The data file; the cache is the module's, so that only the first test waits for the network."""
    monkeypatch.chdir(made)
    return Path("data.yaml")


def test_table_verdict_and_every_file(data):
    result = evaluate("--data", data, "--json", "r/r.json", "--html", "r/r.html", "--csv", "r/r.csv")
    assert result.exit_code == 0, result.output
    arms = ["lr", "lr@imgsz", "nearest", "bicubic", "hat-xs", "hr"]
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:7]] == arms
    assert lines[0].split()[:4] == ["mAP50-95", "mAP50", "mAP75", "AR100"]
    assert "no verdict on hat-xs and" in result.stdout  # four images
    assert "PSNR-Y and SSIM-Y, crop 4, MATLAB YCbCr" in result.stdout

    report = json.loads(Path("r/r.json").read_text())
    assert report["schema"] == 1
    assert [row["arm"] for row in report["rows"]] == arms
    assert {row["detector"] for row in report["rows"]} == {"yolo11n-upscaled"}
    for row in report["rows"]:
        assert set(row) == ROW_KEYS
        assert 0 <= row["map50_95"] <= row["map50"] <= 1
        assert (row["psnr_y"] is not None) == (row["arm"] in ("nearest", "bicubic", "hat-xs"))
    by_arm = {row["arm"]: row for row in report["rows"]}
    assert by_arm["lr"]["gap_closed"] == 0
    assert by_arm["hr"]["gap_closed"] == 1
    assert by_arm["hat-xs"]["changes"]["control"] in ("bicubic", "lr@imgsz")
    assert report["data"]["boxes"] == 4
    assert report["data"]["images_without_objects"] == 1
    assert report["settings"]["images"] == 4
    assert len(report["settings"]["weights"]["hat-xs"]) == 64
    assert [verdict["kind"] for verdict in report["verdicts"]][:2] == ["primary", "planned"]
    assert {verdict["outcome"] for verdict in report["verdicts"]} == {"none"}

    table = list(csv.DictReader(io.StringIO(Path("r/r.csv").read_text())))
    assert [row["arm"] for row in table] == arms
    assert float(table[4]["map50_95"]) == by_arm["hat-xs"]["map50_95"]
    page = Path("r/r.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 2
    assert "no verdict on hat-xs and" in page


def test_fidelity_is_that_of_metrics(data):
    row = report_of("--data", data, "--arms", "bicubic")["rows"][0]
    values = []
    for name in PARTS:
        image = read_image(Path("images/val") / name)
        small = reduced(image, 4)
        back = resize_bicubic(small, (HEIGHT, WIDTH), 4)
        values.append(compare(to_array(back), to_array(image), Protocol("Y", 4)))
    assert row["psnr_y"] == pytest.approx(np.mean([value.psnr for value in values]), abs=1e-9)
    assert row["ssim_y"] == pytest.approx(np.mean([value.ssim for value in values]), abs=1e-9)


def test_a_second_run_is_the_first_without_the_work(data, monkeypatch):
    first = report_of("--data", data)

    def never(self, image):
        raise AssertionError("this was upscaled before")

    monkeypatch.setattr(HatUpscaler, "__call__", never)
    second = report_of("--data", data)
    assert {**first, "command": ""} == {**second, "command": ""}


def test_dumped_boxes_give_the_same_numbers_in_pycocotools(data):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    report = report_of("--data", data, "--arms", "lr,hat-xs", "--save-boxes", "boxes")
    with contextlib.redirect_stdout(io.StringIO()):
        labels = COCO("boxes/labels.json")
        for row in report["rows"]:
            judged = COCOeval(labels, labels.loadRes(f"boxes/yolo11n-upscaled-{row['arm']}.json"), "bbox")
            judged.evaluate()
            judged.accumulate()
            judged.summarize()
            assert judged.stats[:3] == pytest.approx([row["map50_95"], row["map50"], row["map75"]], abs=1e-6)
            assert judged.stats[8] == pytest.approx(row["ar100"], abs=1e-6)
    assert [image["file_name"] for image in labels.dataset["images"]] == sorted(PARTS)


def test_coco_annotations_are_read_and_crowds_are_no_objects(data):
    boxes = [
        (1, "a.png", 0, [38, 1, 144, 255], 0),
        (2, "b.png", 5, [1, 1, 190, 254], 0),
        (3, "b.png", 0, [60, 0, 99, 99], 1),
    ]
    ids = {"a.png": 10, "b.png": 20}
    content = {
        "images": [{"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for name, i in ids.items()],
        "annotations": [
            {"id": i, "image_id": ids[name], "category_id": category, "bbox": box, "iscrowd": crowd, "area": 1}
            for i, name, category, box, crowd in boxes
        ]
        + [{"id": 9, "image_id": 77, "category_id": 0, "bbox": [0, 0, 1, 1], "iscrowd": 0, "area": 1}],
        "categories": [{"id": 0, "name": "person"}, {"id": 5, "name": "bus"}],
    }
    Path("instances.json").write_text(json.dumps(content))
    result = evaluate("--data", "instances.json", "--images", "images/val", "--arms", "hr", "--json", "coco.json")
    assert result.exit_code == 1  # one annotation is of no image
    assert "77" in result.stderr
    report = json.loads(Path("coco.json").read_text())
    assert (report["data"]["images"], report["data"]["boxes"]) == (2, 2)
    assert report["data"]["counts"] == {"image": 1}
    assert report["rows"][0]["map50"] == pytest.approx(1, abs=1e-9)


def test_several_detectors_are_measured_against_the_first_ones_ceiling(data):
    other = Path("other.safetensors")
    if not other.exists():
        from hatdet.detection.weights import EMBEDDED

        other.write_bytes(EMBEDDED.path.read_bytes())
    result = evaluate("--data", data, "--arms", "lr,hr", "--weights", EMBEDDED.path, "--weights", other)
    assert result.exit_code == 0, result.output
    assert "other hr" in result.stdout
    report = report_of("--data", data, "--arms", "lr,hr", "--weights", EMBEDDED.path, "--weights", other)
    assert [(row["detector"], row["arm"]) for row in report["rows"]] == [
        ("yolo11n-upscaled", "lr"),
        ("yolo11n-upscaled", "hr"),
        ("other", "lr"),
        ("other", "hr"),
    ]
    # The same weights under two names: the same numbers, and the gap on one scale.
    assert [row["gap_closed"] for row in report["rows"]] == [0, 1, 0, 1]


def test_limit_takes_the_first_by_name(data):
    report = report_of("--data", data, "--arms", "lr", "--limit", "2")
    assert report["data"]["images"] == 2
    assert report["data"]["boxes"] == 2


def test_images_that_are_small_themselves(data):
    report = report_of("--data", data, "--arms", "lr,bicubic", "--no-reference", "--scale", "2")
    assert [row["psnr_y"] for row in report["rows"]] == [None, None]
    assert report["settings"]["size_frame"] == "source"
    assert report["settings"]["fidelity"] == []
    by_size = report["data"]["boxes_by_size"]
    larger = report_of("--data", data, "--arms", "lr", "--no-reference", "--scale", "2", "--size-frame", "hr")
    assert by_size["medium"] > larger["data"]["boxes_by_size"]["medium"]


def test_without_a_reference_the_default_arms_have_no_ceiling(data):
    report = report_of("--data", data, "--no-reference", "--limit", "1")
    assert [row["arm"] for row in report["rows"]] == ["lr", "lr@imgsz", "nearest", "bicubic", "hat-xs"]
    assert {row["gap_closed"] for row in report["rows"]} == {None}


def test_a_folder_of_pairs(data):
    for name in PARTS:
        write_image(reduced(read_image(Path("images/val") / name), 4), Path("lr") / name)
    pairs = report_of("--data", data, "--arms", "bicubic,hr", "--lr", "lr")
    made = report_of("--data", data, "--arms", "bicubic,hr")
    for one, other in zip(pairs["rows"], made["rows"], strict=True):
        assert one == other
    write_image(reduced(read_image("images/val/b.png"), 2), Path("lr/b.png"))
    Path("lr/d.png").unlink()
    result = evaluate("--data", data, "--arms", "bicubic", "--lr", "lr")
    assert result.exit_code == 1
    assert "error: lr/b.png (96x128) does not fit images/val/b.png (192x256) at scale 4" in result.stderr
    assert "error: images/val/d.png has no low-resolution image of its name" in result.stderr
    assert "2 images in" in result.stderr


def test_degraded_reductions_are_seeded(data):
    Path("noise.yml").write_text("noise_range: [20, 20]\njpeg_range: [30, 30]\nseed: 3\n")
    clean = report_of("--data", data, "--arms", "bicubic")
    first, second = (report_of("--data", data, "--arms", "bicubic", "--degrade", "noise.yml") for _ in range(2))
    assert first["rows"] == second["rows"]
    assert first["rows"][0]["psnr_y"] < clean["rows"][0]["psnr_y"] - 1
    assert "noise" in first["settings"]["low_resolution"]


def test_wrong_labels_are_named_and_counted(data, tmp_path):
    for name in PARTS:
        target = tmp_path / "images/val" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((Path("images/val") / name).read_bytes())
    labels = tmp_path / "labels/val"
    labels.mkdir(parents=True)
    (labels / "a.txt").write_text(
        yolo_row(0, 30, 0, 190, 250) + yolo_row(5, 300, 0, 400, 100) + yolo_row(5, 150, 9, 222, 99)
    )
    (labels / "b.txt").write_text(yolo_row(99, 60, 20, 190, 256) + yolo_row(0, 60, 20, 190, 256))
    (labels / "d.txt").write_text("")  # an image without labels; deep/c.txt is missing
    content = yaml.safe_load(data.read_text()) | {"path": str(tmp_path)}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(content))
    result = evaluate("--data", tmp_path / "data.yaml", "--arms", "lr", "--json", tmp_path / "r.json")
    assert result.exit_code == 1  # two labels were left out
    text = result.stderr
    assert f"{labels / 'a.txt'}:2" in text
    assert f"{labels / 'a.txt'}:3" in text
    assert f"{labels / 'b.txt'}:1" in text
    assert "99" in text
    assert f"{labels / 'deep/c.txt'}" in text
    assert "d.txt" not in text
    found = json.loads((tmp_path / "r.json").read_text())["data"]
    assert found["boxes"] == 3
    assert found["images_without_objects"] == 2
    assert found["counts"] == {"outside": 1, "clipped": 1, "class": 1, "missing": 1}
    assert len(found["problems"]) == 4
    assert "4 images (2 without objects), 3 boxes" in result.stdout


def test_a_damaged_image_is_left_out_of_every_arm(data, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / name).write_bytes((Path("images/val") / name).read_bytes())
    (tmp_path / "images/b.png").write_bytes(b"no image")
    content = yaml.safe_load(data.read_text()) | {"path": str(tmp_path), "val": "images"}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(content))
    result = evaluate("--data", tmp_path / "data.yaml", "--arms", "lr,bicubic", "--json", tmp_path / "r.json")
    assert result.exit_code == 1, result.output
    assert "b.png is not an image" in result.stderr
    assert [row["images"] for row in json.loads((tmp_path / "r.json").read_text())["rows"]] == [1, 1]


def test_sequences_are_resampled_whole(data):
    report = report_of("--data", data, "--arms", "lr,bicubic", "--groups", "folder")
    assert report["settings"]["groups"] == "folder"
    result = evaluate("--data", data, "--arms", "lr,bicubic,hat-xs", "--groups", r"^(?:deep/)?([ab])")
    assert result.exit_code == 2
    assert "finds no name in d.png" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--split", "test"], "test"),
        (["--arms", "lr,lr"], "twice"),
        (["--arms", "lr,hat-xxs"], "hat-xxs"),
        (["--arms", "hr", "--no-reference"], "no-reference"),
        (["--lr", "lr", "--no-reference"], "exclude one another"),
        (["--lr", "nowhere"], "nowhere"),
        (["--degrade", "nowhere.yml"], "nowhere.yml"),
        (["--size-frame", "lr"], "hr or source"),
        (["--groups", "("], "regular expression"),
        (["--scale", "3"], "scale"),
        (["--json", "."], "--json"),
        (["--weights", "nowhere.pt"], "nowhere.pt"),
    ],
)
def test_what_cannot_be_done_is_one_line(data, arguments, words):
    result = evaluate("--data", data, *arguments)
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert words in line


def test_classes_that_the_detector_does_not_know_are_named_and_not_evaluated(data, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / name).write_bytes((Path("images/val") / name).read_bytes())
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text(yolo_row(1, 38, 1, 182, 256) + yolo_row(0, 0, 0, 50, 50))
    (tmp_path / "labels/b.txt").write_text(yolo_row(2, 1, 1, 191, 255))
    # Other ids than the detector's, and another spelling: classes are matched by name.
    content = {"path": str(tmp_path), "val": "images", "names": ["wug", "Person", "bus"]}
    (tmp_path / "d.yaml").write_text(yaml.safe_dump(content))
    result = evaluate("--data", tmp_path / "d.yaml", "--arms", "hr", "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    assert "classes that a detector does not know are not evaluated: wug" in result.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["data"]["classes"], report["data"]["boxes"]) == (2, 2)
    assert set(report["rows"][0]["per_class"]) == {"Person", "bus"}
    assert report["rows"][0]["map50"] > 0.9


def test_data_and_detector_without_a_common_class(data, tmp_path):
    (tmp_path / "d.yaml").write_text(yaml.safe_dump({"path": str(Path.cwd()), "val": "images/val", "names": ["wug"]}))
    result = evaluate("--data", tmp_path / "d.yaml")
    assert result.exit_code == 2
    assert "wug" in result.stderr


def test_an_interrupted_run_says_how_to_go_on(data, tmp_path, monkeypatch):
    import hatdet.evaluation.joint as joint

    real, seen = joint.JointEvaluation.add, []

    def interrupted(self, name, *rest):
        seen.append(name)
        if len(seen) == 3:
            raise KeyboardInterrupt
        real(self, name, *rest)

    monkeypatch.setattr(joint.JointEvaluation, "add", interrupted)
    result = evaluate("--data", data, "--arms", "lr", "--cache", tmp_path / "cache")
    assert result.exit_code == 130
    assert f"2 of 4 images are in {tmp_path / 'cache'}: the same command goes on from there" in result.stderr


def test_a_tile_that_memory_made_smaller_has_pictures_of_its_own(monkeypatch):
    machine = Machine("cpu", "fp32", 256, 32, None)

    def fingerprint(free: int) -> str:
        monkeypatch.setattr("hatdet.sr.upscalers.free_memory", lambda device: free)
        (arm,) = load_arms(Session(True, False), ["hat-xs"], 4, machine, None)
        return arm.upscaler.fingerprint

    assert fingerprint(2**40).endswith(" cpu 256 32")
    assert fingerprint(2**20).endswith(" cpu 64 32")


def test_slices_and_regions_are_arms(data):
    """With the share of the pixels that the network saw, and who is worth his time."""
    arms = ["bicubic", "sliced:none", "sliced:bicubic", "hat-xs", "regions:hat-xs", "regions:hat-xs@0.2"]
    report = report_of("--data", data, "--arms", ",".join(arms), "--slice", "40x40")
    by_arm = {row["arm"]: row for row in report["rows"]}
    assert list(by_arm) == arms
    assert (report["settings"]["slice"], report["settings"]["slice_overlap"]) == ("40x40", 0.2)
    assert by_arm["sliced:none"]["upscaled_share"] is None
    assert by_arm["hat-xs"]["upscaled_share"] == 1
    assert 0 < by_arm["regions:hat-xs@0.2"]["upscaled_share"] <= 0.2
    assert by_arm["regions:hat-xs@0.2"]["upscaled_share"] < by_arm["regions:hat-xs"]["upscaled_share"] <= 1
    assert by_arm["bicubic"]["psnr_y"] < by_arm["regions:hat-xs@0.2"]["psnr_y"] < by_arm["hat-xs"]["psnr_y"]
    assert by_arm["sliced:bicubic"]["psnr_y"] == by_arm["bicubic"]["psnr_y"]
    cheapest = min(report["rows"], key=lambda row: row["ms_per_image"])
    best = max(report["rows"], key=lambda row: (row["map50_95"], -row["ms_per_image"]))
    assert cheapest["pareto"]
    assert best["pareto"]


def test_a_merge_that_is_none_is_one_line(data):
    result = evaluate("--data", data, "--merge", "wbf")
    assert result.exit_code == 2
    assert "--merge must be one of nms, nmm, greedy-nmm, got 'wbf'" in result.stderr


def test_what_is_too_large_for_the_detector_is_sliced_in_every_arm(data, monkeypatch):
    """The reference as much as what is upscaled, so that they are compared at one size."""
    from hatdet.detection.slicing import Sliced

    seen = []
    real = Sliced.over
    monkeypatch.setattr("hatdet.detection.yolo.LARGEST_IMGSZ", 128)
    monkeypatch.setattr(Sliced, "over", lambda self, *a, **k: seen.append(a[1]) or real(self, *a, **k))
    report_of("--data", data, "--arms", "bicubic,hr", "--cache", "sliced", "--limit", "1")
    assert len(seen) == 2
    assert seen[0] == seen[1]
