"""The page of an evaluation: what it says, that nothing in it is markup that came from outside, and that it works."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from hatdet.core.types import Image
from hatdet.evaluation.changes import ImageChanges, JudgedBox
from hatdet.evaluation.report import GalleryImage, html_report
from hatdet.evaluation.wording import fixed, number, p_value, signed
from hatdet.imaging.files import read_image, to_array
from hatdet.imaging.resize import nearest, reduced, resize_bicubic
from tests.helpers import sample_photo

CHROMIUM = Path("/usr/bin/chromium")
NAMES = {0: "person", 5: "bus", 27: "tie"}
HOSTILE = "<script>alert('x')</script>\"&amp;</script><!--ü 漢{{ 7*7 }}"

# arm: PSNR-Y, SSIM-Y, mAP50-95, AP of tiny, small, medium, large objects, ms
ARMS: dict[str, tuple[float | None, ...]] = {
    "lr": (None, None, 0.214, 0.002, 0.021, 0.178, 0.457, 31.0),
    "lr@imgsz": (None, None, 0.339, 0.011, 0.118, 0.361, 0.571, 82.4),
    "nearest": (24.87, 0.7012, 0.326, 0.009, 0.104, 0.349, 0.562, 83.1),
    "bicubic": (26.31, 0.7441, 0.352, 0.012, 0.127, 0.378, 0.583, 84.9),
    "hat-xs": (27.34, 0.7823, 0.373, 0.014, 0.161, 0.401, 0.594, 812.3),
    "hr": (None, None, 0.437, 0.052, 0.246, 0.458, 0.622, 81.7),
}
# outcome, arm, control, metric, kind, difference, interval, p, Holm's p, words
VERDICTS: list[tuple[Any, ...]] = [
    ("better", "hat-xs", "bicubic", "map50_95", "primary", 0.021, 0.006, 0.035, 0.004, None,
     "hat-xs beats bicubic by 2.1 mAP50-95 [0.6, 3.5]; small objects gain most; cost 9.6x per image"),
    ("better", "hat-xs", "lr@imgsz", "map50_95", "planned", 0.034, 0.015, 0.052, 0.0005, 0.001,
     "hat-xs beats lr@imgsz by 3.4 mAP50-95 [1.5, 5.2]; small objects gain most; cost 9.9x per image"),
    ("not resolved", "hat-xs", "nearest", "map50_95", "planned", 0.011, -0.007, 0.029, 0.23, 0.23,
     "not resolved by 128 images: hat-xs against nearest +1.1 mAP50-95 [-0.7, 2.9]; about 670 images would resolve "
     "a difference of this size (128 images resolve 2.5 or more); cost 9.8x per image"),
    ("worse", "nearest", "bicubic", "map50_95", "exploratory", -0.026, -0.041, -0.010, 0.002, None,
     "upscaling by nearest hurts here: it loses 2.6 mAP50-95 [1.0, 4.1] to bicubic; bicubic is enough"),
    ("enough", "hat-xs", "bicubic", "ap_large", "exploratory", 0.002, -0.004, 0.0045, 0.4, None,
     "bicubic is enough: hat-xs gains 0.2 AP of large objects [-0.4, 0.5] over it, less than 0.5"),
    ("better", "hat-xs", "bicubic", "ap_small", "exploratory", 0.034, 0.008, 0.061, 0.012, None,
     "hat-xs beats bicubic by 3.4 AP of small objects [0.8, 6.1]"),
]  # fmt: skip


def sample_report(detectors: tuple[str, ...] = ("yolo11n_dequant",)) -> dict[str, Any]:
    """A report of believable numbers."""
    first, *others = detectors
    rows = [_row(name, arm, 0.035 * i) for i, name in enumerate(detectors) for arm in ARMS]
    verdicts = [_verdict(first, *values) for values in VERDICTS]
    verdicts += [
        _verdict(name, "not resolved", "hat-xs", "bicubic", "map50_95", "planned", 0.009, -0.004, 0.021, 0.17, 0.34,
                 "not resolved by 128 images: hat-xs against bicubic +0.9 mAP50-95 [-0.4, 2.1]")
        for name in others
    ]  # fmt: skip
    return {
        "schema": 1,
        "command": "hatdet eval --data coco128.yaml --arms lr,lr@imgsz,nearest,bicubic,hat-xs,hr --html report.html",
        "settings": {
            "data": "coco128.yaml",
            "split": "val",
            "scale": 4,
            "images": 128,
            "low_resolution": "MATLAB bicubic reduction by 4",
            "confidence": 0.001,
            "nms_iou": 0.7,
            "boxes_kept": 300,
            "boxes_evaluated": 100,
            "imgsz": None,
            "size_frame": "hr",
            "fidelity": ["PSNR-Y and SSIM-Y, crop 4, MATLAB YCbCr", "PSNR-RGB and SSIM-RGB, crop 4"],
            "resamples": 2000,
            "seed": 0,
            "groups": None,
            "device": "cpu",
            "precision": "fp32",
            "deterministic": True,
            "versions": {"hatdet": "0.1.0", "torch": "2.15.0", "ultralytics": "8.4.190", "python": "3.11.7"},
            "weights": {"yolo11n_dequant": "3f" * 32, "hat-xs": "a7" * 32},
        },
        "data": {
            "images": 128,
            "boxes": 898,
            "boxes_by_size": {"all": 898, "tiny": 100, "small": 265, "medium": 311, "large": 322},
            "images_without_objects": 2,
            "classes": 80,
            "classes_with_boxes": 63,
            "median_images_per_class": 3.0,
            "problems": ["labels/val/000000000250.txt is missing: 1 image counts as one without objects"],
            "counts": {"clipped": 1, "left_out": 2},
        },
        "rows": rows,
        "verdicts": verdicts,
    }


def _verdict(
    detector: str, outcome: str, arm: str, control: str, metric: str, kind: str, *numbers: Any
) -> dict[str, Any]:
    keys = ("difference", "low", "high", "p", "p_holm", "words")
    return {
        "kind": kind,
        "detector": detector,
        "arm": arm,
        "control": control,
        "metric": metric,
        "standard_deviation": 0.0075,
        "outcome": outcome,
        "images_needed": 670 if outcome == "not resolved" else None,
        **dict(zip(keys, numbers, strict=True)),
    }


def _row(detector: str, arm: str, plus: float) -> dict[str, Any]:
    psnr, ssim, found, tiny, small, medium, large, ms = ARMS[arm]
    assert found is not None
    assert ms is not None
    found += plus
    lost = 0.55 - found
    dap = {
        "classification": 0.06,
        "localisation": 0.12,
        "both": 0.02,
        "duplicate": 0.003,
        "background": 0.1,
        "missed": 0.3,
    }
    errors = {kind: {"count": round(9000 * share * lost), "dap": share * lost} for kind, share in dap.items()}
    errors["false_positive"] = {"count": round(30000 * lost), "dap": 0.5 * lost}
    errors["false_negative"] = {"count": round(1500 * lost), "dap": 1.1 * lost}
    recall = np.linspace(0, 1, 101)
    curves = {
        iou: (np.clip(1.1 - recall ** (5 * found) - hard, 0, 1) * (recall < found + 0.4 - hard)).round(4).tolist()
        for iou, hard in (("0.5", 0.0), ("0.75", 0.12))
    }
    changes = {
        "control": "bicubic",
        "confidence": 0.25,
        "iou": 0.5,
        "gained": 34,
        "lost": 17,
        "added": 21,
        "removed": 14,
    }
    return {
        "detector": detector,
        "arm": arm,
        "images": 128,
        "psnr_images": 128 if psnr else 0,
        "psnr_y": psnr,
        "ssim_y": ssim,
        "psnr_rgb": psnr - 1.42 if psnr else None,
        "ssim_rgb": ssim - 0.0121 if ssim else None,
        "lpips": None,
        "map50_95": found,
        "map50": found * 1.44,
        "map75": found * 1.03,
        "ar100": found * 1.31,
        "ap_tiny": tiny,
        "ap_small": small,
        "ap_medium": medium,
        "ap_large": large,
        "ms_per_image": ms,
        "upscale_ms": ms - 81 if ms > 81 else 0.0,
        "detect_ms": min(ms, 81.0),
        "upscaled_share": 1.0 if psnr else None,
        "pareto": None if arm == "hr" else arm in ("lr", "bicubic", "hat-xs"),
        "gap_closed": None if arm in ("lr", "hr") else (found - plus - 0.214) / (0.437 - 0.214),
        "false_positives_of_other_classes": round(40 * lost),
        "errors": errors,
        "changes": changes if arm == "hat-xs" else None,
        "per_class": {"person": {"ap": found, "ap50": found * 1.4, "boxes": 254}},
        "precision_recall": curves,
    }


# Where the objects of the two photos are, and of which class.
BUS, *PEOPLE = (
    ((22.0, 231.0, 805.0, 756.0), 5),
    ((48.0, 398.0, 245.0, 902.0), 0),
    ((669.0, 392.0, 809.0, 877.0), 0),
    ((221.0, 405.0, 344.0, 857.0), 0),
    ((0.0, 550.0, 63.0, 873.0), 0),
)
RIGHT_MAN, LEFT_MAN = ((748.0, 41.0, 1147.0, 711.0), 0), ((148.0, 203.0, 1125.0, 714.0), 0)
TIE = ((437.0, 434.0, 524.0, 717.0), 27)
FRAMES = {"bus": (810.0, 1080.0), "zidane": (1280.0, 720.0)}


def found(where: Any, confidence: float, change: Any = None) -> JudgedBox:
    return JudgedBox(*where, confidence, "right", change)


def missed(where: Any, change: Any = None) -> JudgedBox:
    return JudgedBox(*where, None, "missed", change)


def sample_gallery() -> list[GalleryImage]:
    """Pictures of two photos: one gained objects by upscaling, one lost one, two changed in nothing."""
    stray = JudgedBox((330.0, 120.0, 470.0, 215.0), 27, 0.31, "wrong", "added")
    gone = JudgedBox((560.0, 480.0, 690.0, 700.0), 0, 0.44, "wrong", "removed")
    same = JudgedBox((60.0, 60.0, 200.0, 200.0), 5, 0.27, "wrong")
    gains = ImageChanges(
        (
            *(found(BUS, 0.81), found(PEOPLE[0], 0.77), found(PEOPLE[1], 0.62), gone),
            *(missed(PEOPLE[2], "gained"), missed(PEOPLE[3], "gained")),
        ),
        (
            *(found(BUS, 0.93), found(PEOPLE[0], 0.89), found(PEOPLE[1], 0.84)),
            *(found(PEOPLE[2], 0.71, "gained"), found(PEOPLE[3], 0.43, "gained"), stray),
        ),
    )
    loses = ImageChanges(
        (found(RIGHT_MAN, 0.83), found(LEFT_MAN, 0.66), found(TIE, 0.29, "lost"), same),
        (found(RIGHT_MAN, 0.85), found(LEFT_MAN, 0.71), same, missed(TIE, "lost")),
    )
    still = ImageChanges((missed(TIE),), (missed(TIE),))
    pictures = (("bus", gains), ("zidane", loses), ("still", still), ("none", ImageChanges((), ())))
    shows = {"bus": "bus", "zidane": "zidane", "still": "zidane", "none": "bus"}
    return [
        GalleryImage(f"val/{name}.jpg", "bicubic", "hat-xs", *_jpegs(shows[name]), FRAMES[shows[name]], changes, NAMES)
        for name, changes in pictures
    ]


@cache
def _jpegs(photo: str) -> tuple[bytes, bytes]:
    """A photo at half its size, reduced by four and enlarged again; and the same with less blur."""
    original = reduced(read_image(sample_photo(photo)), 2)
    low = reduced(original, 4)
    blurred = resize_bicubic(low, (low.height * 4, low.width * 4), 4.0)
    sharp = nearest(reduced(original, 2), 2)
    return _jpeg(blurred), _jpeg(Image(sharp.pixels[:, : blurred.height, : blurred.width]))


def _jpeg(image: Image) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(to_array(image)).save(file, "JPEG", quality=80)
    return file.getvalue()


def renamed(value: Any, names: dict[str, str]) -> Any:
    """The same with other names, as values and as keys that are data."""
    if isinstance(value, dict):
        return {names.get(key, key): renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [renamed(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


def without_numbers(value: Any) -> Any:
    """The same where nothing is known: names stay, every other value is null."""
    if isinstance(value, dict):
        kept = ("kind", "detector", "arm", "control", "metric", "outcome", "words", "data")
        return {
            key: item if key in kept and isinstance(item, str) else without_numbers(item) for key, item in value.items()
        }
    return [without_numbers(item) for item in value] if isinstance(value, list) and isinstance(value[0], dict) else None


VOID = {"meta", "input", "img", "br", "link"}
INLINE = {"b", "i", "span", "small", "code"}


class Page(HTMLParser):
    """The text of a page, and what is in it; complains where elements are not nested."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        assert len(attrs) == len(dict(attrs)), f"an attribute twice: {tag} {attrs}"
        if tag not in INLINE:
            self.words += " "
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> inside {self.open}"

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def words(html: str) -> str:
    return " ".join(Page(html).words.split())


@pytest.fixture(scope="module")
def html() -> str:
    return html_report(sample_report(), sample_gallery())


def test_the_primary_verdict_comes_first_in_words(html):
    said = words(html)
    primary = said.index("▲ Better hat-xs beats bicubic by 2.1 mAP50-95 [0.6, 3.5]; small objects gain most")
    assert "Difference +2.1 points 95 % interval +0.6 to +3.5 p 0.004 Images 128" in said
    planned = said.index("hat-xs beats lr@imgsz by 3.4")
    assert primary < planned < said.index("Exploratory comparisons (3)") < said.index("All arms")
    assert "Holm p 0.001" in said
    assert "about 670 images would resolve" in said


def test_the_table_has_every_arm_and_marks_the_best_that_is_not_the_ceiling(html):
    said = words(html)
    assert (
        "arm mAP50-95 mAP50 mAP75 AR100 tiny small medium large PSNR-Y SSIM-Y PSNR-RGB SSIM-RGB ms/image gap closed"
        in said
    )
    assert "hat-xs 37.3 53.7 38.4 48.9 1.4 16.1 40.1 59.4 27.34 0.7823 25.92 0.7702 812 71 %" in said
    assert "hr ceiling 43.7 62.9" in said
    bold = re.findall(r"<b>([\d.]+)</b>", html)
    assert {"37.3", "27.34", "31"} <= set(bold)
    assert "43.7" not in bold
    assert "LPIPS" not in said
    assert "PSNR-Y and SSIM-Y, crop 4, MATLAB YCbCr; PSNR-RGB and SSIM-RGB, crop 4" in said


def test_a_metric_is_a_column_once_any_arm_has_it():
    report = sample_report()
    report["rows"][3]["lpips"], report["rows"][4]["lpips"] = 0.31, 0.25
    page = html_report(report, [])
    assert "LPIPS" in words(page)
    assert "<b>0.2500</b>" in page  # lower is better


def test_errors_changes_and_settings_are_told(html):
    said = words(html)
    assert "An object that no box points at." in said
    assert "Objects gained 34 Objects lost 17 Wrong boxes added 21 Wrong boxes removed 14" in said
    assert "against bicubic; confidence 0.25, IoU 0.5" in said
    assert "Boxes of classes that have no object in these images" in said
    assert "labels/val/000000000250.txt is missing" in said
    assert sample_report()["command"] in said
    assert "a7" * 32 in said
    assert "nms iou 0.7" in said
    assert "torch 2.15.0" in said


def test_one_file_that_asks_for_nothing(html):
    (policy,) = [meta for meta in Page(html).all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert (
        policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    )
    for tag, attributes in Page(html).tags:
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/jpeg;base64,")), tag
    assert not re.search(r"https?:|url\(|@import|@font-face|\bfetch\(|XMLHttp", html)
    assert len(html) < 1_000_000


def test_charts_have_text_alternatives_and_tables_scopes(html):
    page = Page(html)
    for svg in page.all("svg"):
        assert svg.get("aria-hidden") == "true" or (svg["role"] == "img" and svg["aria-label"])
    assert any("hat-xs: 27.34 dB, mAP 37.3" in (svg.get("aria-label") or "") for svg in page.all("svg"))
    assert all(th["scope"] for th in page.all("th"))
    assert all(image["alt"] for image in page.all("img"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = {
        attributes[key]
        for _, attributes in page.tags
        for key in ("aria-labelledby", "aria-describedby")
        if key in attributes
    }
    assert named <= set(ids)
    assert {(a["href"] or "")[1:] for a in page.all("a")} <= set(ids)
    assert {"#verdict"} == {a["href"] for a in page.all("a") if a.get("class") == "skip"}


def test_names_are_text_whatever_they_contain():
    names = dict.fromkeys(["hat-xs", "bicubic", "yolo11n_dequant", "coco128.yaml", "hr"], "")
    report = renamed(sample_report(), {name: f"{name} {HOSTILE}" for name in names})
    report["command"] = f"hatdet eval {HOSTILE}"
    report["data"]["problems"] = [HOSTILE]
    report["verdicts"][0]["words"] = HOSTILE
    gallery = [
        GalleryImage(HOSTILE, HOSTILE, HOSTILE, b"", b"", image.size_wh, image.changes, dict.fromkeys(NAMES, HOSTILE))
        for image in sample_gallery()
    ]
    html = html_report(report, gallery)
    page = Page(html)
    ours = Page(html_report(sample_report(), sample_gallery()))
    assert len(page.all("script")) == len(ours.all("script")) == 1
    assert "alert('x')" not in re.sub(r"&lt;script&gt;alert\(&#39;x&#39;\)&lt;/script&gt;", "", html)
    assert page.words.count("<script>alert('x')</script>") > 20
    assert "49" not in re.findall(r"漢(\d+)", html)
    expected = {"html", "head", "meta", "title", "style", "script", "body"} | {tag for tag, _ in ours.tags}
    assert {tag for tag, _ in page.tags} <= expected


def test_what_is_not_known_is_said_to_be_not_available():
    report = without_numbers(sample_report())
    said = words(html_report(report, []))
    assert "hat-xs n/a n/a n/a" in said
    assert "Difference n/a" in said
    assert "No arm has both a PSNR and an mAP." in said
    assert "No arm has precision and recall." in said
    assert "None" not in said


def test_nothing_at_all_is_a_page_too():
    report = {"schema": 1, "command": None, "settings": None, "data": None, "rows": None, "verdicts": None}
    said = words(html_report(report, []))
    assert "No detector was evaluated." in said
    assert "No pictures were kept" in said


def test_without_an_upscaler_there_is_no_verdict():
    report = sample_report()
    report["verdicts"] = []
    report["rows"] = [row for row in report["rows"] if row["arm"] in ("lr", "hr")]
    said = words(html_report(report, []))
    assert "No verdict No upscaler was compared with a control" in said
    assert "No arm has both a PSNR and an mAP." in said
    assert "What upscaling changed" not in said
    assert "No pictures were kept" in said


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        ("worse", "▼ Worse"),
        ("enough", "= Control is enough"),
        ("not resolved", "? Not resolved"),
        ("none", "– No verdict"),
    ],
)
def test_every_outcome_has_its_words_and_colour(outcome, shown):
    report = sample_report()
    report["verdicts"][0]["outcome"] = outcome
    page = html_report(report, [])
    assert shown in words(page)
    assert f"verdict outcome-{outcome.replace(' ', '-')}" in page


def test_another_detector_has_its_planned_comparison_in_the_place_of_the_verdict():
    said = words(html_report(sample_report(("yolo11n_dequant", "yolo11s")), sample_gallery()))
    assert "Detector: yolo11s ? Not resolved A planned comparison; the primary one is of another detector." in said
    assert "p, after Holm 0.340" in said
    assert "The boxes are those of yolo11n_dequant." in said


def test_pictures_with_most_changes_come_first():
    html = html_report(sample_report(), sample_gallery()[::-1])
    positions = [html.index(f"<h3>{name}</h3>") for name in ("val/bus.jpg", "val/zidane.jpg", "val/none.jpg")]
    assert positions == sorted(positions)


def test_numbers_read_as_people_write_them():
    assert [signed(value) for value in (0.0214, -0.0214, 0.0, -0.0001, None)] == ["+2.1", "−2.1", "0.0", "0.0", "n/a"]
    assert [number(value) for value in (812.4, 8.24, 3.0, 2.5, 12345, None)] == [
        "812",
        "8.2",
        "3",
        "2.5",
        "12,345",
        "n/a",
    ]
    assert [p_value(value) for value in (0.0005, 0.001, 0.23, None)] == ["< 0.001", "0.001", "0.230", "n/a"]
    assert fixed(-1234.5, 1) == "−1,234.5"
    assert fixed(float("nan"), 1) == "n/a"


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield running
        running.close()


class Opened:
    """A page opened from disk, with everything that it asked for and complained about."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        self.page = self.context.new_page()
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, *_: object) -> None:
        self.context.close()
        assert [url[:20] for url in self.asked if not url.startswith(("file:", "data:"))] == []
        assert self.complaints == []


@pytest.fixture
def on_disk(html, tmp_path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(html, encoding="utf-8")
    return path


def shown(page: Any) -> list[str]:
    return [card.inner_text() for card in page.locator(".card:visible h3").all()]


def clips(stage: Any) -> tuple[str, str]:
    before, after = (
        stage.locator(f".{side}").evaluate("layer => getComputedStyle(layer).clipPath") for side in ("before", "after")
    )
    return before, after


def test_the_slider_moves_by_keys_and_by_dragging(browser, on_disk):
    with Opened(browser, on_disk) as page:
        stage = page.locator(".stage").first
        slider = stage.get_by_role("slider")
        assert clips(stage) == ("inset(0px 50% 0px 0px)", "inset(0px 0px 0px 50%)")
        slider.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert clips(stage) == ("inset(0px 46% 0px 0px)", "inset(0px 0px 0px 54%)")
        page.keyboard.press("Home")
        assert clips(stage) == ("inset(0px 100% 0px 0px)", "inset(0px 0px 0px 0%)")
        assert "solid" in stage.evaluate("stage => getComputedStyle(stage).outline")

        stage.scroll_into_view_if_needed()
        place = stage.bounding_box()
        page.mouse.move(place["x"] + 0.3 * place["width"], place["y"] + 50)
        page.mouse.down()
        assert slider.input_value() == "30"
        page.mouse.move(place["x"] + 0.8 * place["width"], place["y"] + 60)
        assert clips(stage) == ("inset(0px 20% 0px 0px)", "inset(0px 0px 0px 80%)")
        page.mouse.up()
        page.mouse.move(place["x"] + 5, place["y"] + 60)
        assert slider.input_value() == "80"
        other = page.locator(".stage").nth(1)
        assert clips(other) == ("inset(0px 50% 0px 0px)", "inset(0px 0px 0px 50%)")


def test_a_finger_drags_the_slider_too(browser, on_disk):
    with Opened(browser, on_disk, has_touch=True, viewport={"width": 360, "height": 740}) as page:
        stage = page.locator(".stage").first
        stage.scroll_into_view_if_needed()
        place = stage.bounding_box()
        page.touchscreen.tap(place["x"] + 0.2 * place["width"], place["y"] + place["height"] / 2)
        assert clips(stage) == ("inset(0px 80% 0px 0px)", "inset(0px 0px 0px 20%)")


def test_filters_keep_the_right_pictures_and_count_them(browser, on_disk):
    with Opened(browser, on_disk) as page:
        counter = page.locator("#counter")
        assert counter.inner_text() == "4 of 4 images"
        page.locator("[data-filter=lost]").click()
        assert page.get_by_role("button", name="lost by upscaling").get_attribute("aria-pressed") == "true"
        assert page.locator("[data-filter=all]").get_attribute("aria-pressed") == "false"
        assert shown(page) == ["val/zidane.jpg"]
        assert counter.inner_text() == "1 of 4 images"
        for kind in ("gained", "added", "removed"):
            page.locator(f"[data-filter={kind}]").click()
            assert shown(page) == ["val/bus.jpg"]
        page.locator("#class").select_option(label="bus")  # nothing removed is a bus
        assert shown(page) == []
        assert page.get_by_text("No picture has this change in this class.").is_visible()
        page.locator("[data-filter=all]").click()
        assert shown(page) == ["val/bus.jpg", "val/zidane.jpg"]
        assert page.locator("g.box:visible").count() == 4  # a bus before and after, and what was taken for one
        page.locator("#class").select_option(label="tie")
        assert shown(page) == ["val/bus.jpg", "val/zidane.jpg", "val/still.jpg"]
        assert counter.inner_text() == "3 of 4 images"


def test_boxes_and_labels_are_switched_off_and_on(browser, on_disk):
    with Opened(browser, on_disk) as page:
        for status in ("right", "wrong", "missed"):
            button, boxes = page.locator(f"[data-toggle={status}]"), page.locator(f"g.box.{status}:visible")
            before = boxes.count()
            assert before > 0
            button.click()
            assert button.get_attribute("aria-pressed") == "false"
            assert boxes.count() == 0
            button.click()
            assert boxes.count() == before
        labels, changed = page.locator(".tag:visible"), page.locator(".tag.changed").count()
        assert labels.count() == changed
        page.get_by_role("button", name="larger").first.click()
        assert labels.count() > changed
        page.locator("[data-toggle=labels]").press("Enter")
        assert labels.count() == 0
        assert page.locator("g.box:visible").count() > 0
        dashes = page.locator("g.missed rect").first.evaluate("rect => getComputedStyle(rect).strokeDasharray")
        assert dashes != "none"


def test_charts_switch_between_demands_and_arms(browser, on_disk):
    with Opened(browser, on_disk) as page:
        assert page.locator("[data-curves]:visible").get_attribute("data-curves") == "0.5"
        page.get_by_role("button", name="IoU 0.75").click()
        assert page.locator("[data-curves]:visible").get_attribute("data-curves") == "0.75"
        page.locator("[data-curves='0.75'] .legend button", has_text="bicubic").click()
        curves = page.locator("[data-curves='0.75'] polyline")
        hidden = [curves.nth(i).evaluate("line => getComputedStyle(line).visibility") for i in range(curves.count())]
        assert hidden == ["visible"] * 3 + ["hidden"] + ["visible"] * 2


OVERLAPS = """labels => labels.map(label => label.getBoundingClientRect()).flatMap((a, i, all) =>
  all.slice(0, i).filter(b => a.left < b.right && b.left < a.right && a.top + 3 < b.bottom && b.top + 3 < a.bottom))"""


@pytest.mark.parametrize("width", [1280, 360])
def test_labels_of_a_chart_keep_apart(browser, tmp_path, width):
    report = sample_report()
    for i, row in enumerate(report["rows"]):  # three points beside each other, three lines above each other
        row["map50_95"] = 0.35 + 0.001 * i
        row["psnr_y"] = row["psnr_y"] and 26 + 0.02 * i
        row["arm"] = f"arm of a long name {i}"
    path = tmp_path / "crowded.html"
    path.write_text(html_report(report, []), encoding="utf-8")
    with Opened(browser, path, viewport={"width": width, "height": 740}) as page:
        charts = page.locator(".chart:has(.label)")
        assert charts.count() == 2  # PSNR and time
        for chart in charts.all():
            labels, place = chart.locator(".label"), chart.bounding_box()
            assert labels.count() == len(ARMS)
            assert labels.evaluate_all(OVERLAPS) == []
            for label in labels.all():
                box = label.bounding_box()
                assert place["x"] < box["x"] < box["x"] + box["width"] < place["x"] + place["width"]
        charts.first.screenshot(path=tmp_path / "crowded.png")


def test_one_detector_is_shown_at_a_time(browser, tmp_path):
    path = tmp_path / "two.html"
    path.write_text(html_report(sample_report(("yolo11n_dequant", "<yolo> & 'co'")), []), encoding="utf-8")
    with Opened(browser, path) as page:
        assert page.locator(".verdict:visible").count() == 1
        assert page.locator(".verdict:visible .words").inner_text().startswith("hat-xs beats bicubic")
        page.locator("#detector").select_option(label="<yolo> & 'co'")
        assert page.locator(".verdict:visible").count() == 1
        assert page.locator(".verdict:visible .words").inner_text().startswith("not resolved by 128 images")
        assert page.locator("table.arms tbody:visible").count() == 2


def test_it_reads_without_javascript(browser, on_disk):
    with Opened(browser, on_disk, java_script_enabled=False) as page:
        assert page.locator(".verdict .words").is_visible()
        assert page.locator("table.arms tbody tr").count() == len(ARMS)
        assert page.locator("[data-curves]:visible").count() == 2
        assert page.locator("button:visible").count() == page.locator(".legend button").count()


def test_the_command_is_copied(browser, on_disk):
    with Opened(browser, on_disk, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.get_by_role("button", name="copy").click()
        page.get_by_role("button", name="copied").wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == sample_report()["command"]


@pytest.mark.parametrize("width", [1280, 360])
def test_it_fits_the_screen_and_is_pictured(browser, tmp_path, width):
    report = renamed(sample_report(("yolo11n_dequant", "yolo11s")), {"lr@imgsz": HOSTILE, "coco128.yaml": "a" * 90})
    path = tmp_path / "report.html"
    path.write_text(html_report(report, sample_gallery()), encoding="utf-8")
    with Opened(browser, path, viewport={"width": width, "height": 740}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.locator(".larger").first.click()
        page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate("scrollTo(0, 0)")
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            picture = tmp_path / f"{width}-{scheme}.png"
            page.screenshot(path=picture, full_page=True)
            colours = np.asarray(PIL.Image.open(picture).convert("L"))
            assert (np.median(colours) > 128) == (scheme == "light")


def test_costs_have_a_chart_with_the_arms_that_are_worth_their_time(html):
    """lr, bicubic and hat-xs in the sample; the reference is a line, since it is nobody's choice."""
    assert "What does it cost?" in words(html)
    (front,) = re.findall(r'<polyline class="axis" fill="none" points="([^"]*)"', html)
    places = [tuple(map(float, point.split(","))) for point in front.split(" ")]
    assert len(places) == 3
    assert places == sorted(places)
    assert [y for _, y in places] == sorted((y for _, y in places), reverse=True)  # upwards
    assert "hat-xs: mAP50-95 37.3, time for one image 812 ms" in html


def test_parts_that_are_upscaled_are_a_column_once_there_are_some():
    report = sample_report()
    assert "Share of the pixels that went through the upscaler" not in html_report(report, [])
    report["rows"][4]["upscaled_share"] = 0.31
    page = html_report(report, [])
    assert "Share of the pixels that went through the upscaler" in page
    assert "31 %" in page
    assert "<b>100 %</b>" not in page  # more is not better
