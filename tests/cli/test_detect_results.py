"""What `hatdet detect` writes of oriented boxes, masks and keypoints."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from hatdet.cli.app import app
from hatdet.cli.detect_crops import crop_places, write_crops
from hatdet.cli.detect_results import Found, Job, image_report, write_results
from hatdet.cli.detect_tables import coco, csv_text
from hatdet.core.types import Detections, Image
from hatdet.detection.weights import load_model
from hatdet.detection.yolo import YoloDetector
from hatdet.imaging.files import read_image, to_array, write_image
from hatdet.imaging.sources import Source
from tests.detection.untrained import street, task_of, untrained

TASKS = ["-obb", "-seg", "-pose"]
SIZE = (320, 203)  # width and height of the photo that untrained models look at


def hatdet(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {task: untrained(f"yolo11n{task}.yaml", folder / f"tiny{task}.pt", nc=3) for task in TASKS}


@pytest.fixture
def working(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_image(Image(street()), Path("in/street.png"))
    return tmp_path


def found_by_hand(**more) -> Found:
    """A box at 10, 20, 30, 60 of an image of 100 by 80 pixels."""
    xyxy, sure = np.array([[10, 20, 30, 60]], np.float32), np.array([0.75], np.float32)
    detections = Detections(xyxy, sure, np.array([2]), {2: "ship"}, **more)
    return Found(np.zeros((80, 100, 3), np.uint8), None, detections, {"read": 1.0, "upscale": None, "detect": 2.0})


def job_in(folder: Path, crops: Path | None = None) -> Job:
    source = Source(Path("a.png"), Path("a.png"))
    return Job(source, folder / "a.png", folder / "a.txt", None, crops, Path("a"))


def labels_of(found: Found, folder: Path) -> str:
    write_results(job_in(folder), found, None)
    return (folder / "a.txt").read_text()


CORNERS = np.array([[[20, 20], [30, 40], [20, 60], [10, 40]]], np.float32)
TRIANGLE = np.array([[10, 20], [30, 20], [30, 60]], np.float32)
POINTS = np.array([[[20, 40], [25, 60]]], np.float32)
SURE = np.array([[0.5, 0.25]], np.float32)


@pytest.mark.parametrize(
    ("more", "field", "said", "line"),
    [
        ({}, None, None, "2 0.200000 0.500000 0.200000 0.500000"),
        (
            {"corners": CORNERS},
            "corners",
            [[20, 20], [30, 40], [20, 60], [10, 40]],
            "2 0.200000 0.250000 0.300000 0.500000 0.200000 0.750000 0.100000 0.500000",
        ),
        (
            {"polygons": [[TRIANGLE]]},
            "polygons",
            [[[10, 20], [30, 20], [30, 60]]],
            "2 0.100000 0.250000 0.300000 0.250000 0.300000 0.750000",
        ),
        (
            {"keypoints": POINTS, "keypoint_confidence": SURE},
            "keypoints",
            [[20, 40, 0.5], [25, 60, 0.25]],
            "2 0.200000 0.500000 0.200000 0.500000 0.200000 0.500000 0.500000 0.250000 0.750000 0.250000",
        ),
        (
            {"keypoints": POINTS},
            "keypoints",
            [[20, 40, None], [25, 60, None]],
            "2 0.200000 0.500000 0.200000 0.500000 0.200000 0.500000 0.250000 0.750000",
        ),
    ],
    ids=["box", "corners", "mask", "keypoints", "keypoints without confidence"],
)
def test_json_and_labels_of_each_task(more, field, said, line, tmp_path):
    found = found_by_hand(**more)
    (detection,) = image_report(job_in(Path("out")), found)["detections"]
    assert detection["xyxy"] == [10, 20, 30, 60]
    for name in ("corners", "polygons", "keypoints"):
        assert detection[name] == (said if name == field else None)
    assert labels_of(found, tmp_path) == f"{line}\n"


def test_an_object_with_an_empty_mask_has_no_label(tmp_path):
    assert labels_of(found_by_hand(polygons=[[]]), tmp_path) == ""


def numbers(text: str) -> list[list[float]]:
    return [[float(word) for word in line.split()] for line in text.splitlines()]


@pytest.mark.parametrize("task", TASKS)
def test_labels_are_those_that_ultralytics_writes(task, models, working):
    from ultralytics import YOLO

    yolo = YOLO(models[task])
    (theirs,) = yolo.predict(working / "in" / "street.png", verbose=False, imgsz=SIZE[0], conf=0.5, max_det=9)
    theirs.save_txt(working / "theirs.txt")
    network = yolo.predictor.model.model
    network.task = task_of(task)
    image = read_image("in/street.png")
    detections = YoloDetector(network, "same", confidence=0.5, max_detections=9, imgsz=SIZE[0])(image)
    ours = numbers(labels_of(Found(to_array(image), None, detections, {}), working))
    expected = numbers((working / "theirs.txt").read_text())
    assert len(ours) == len(expected) > 2
    for a, b in zip(ours, expected, strict=True):
        assert a[0] == b[0]
        if task == "-seg":  # theirs run through the centres of pixels
            assert overlap(a[1:], b[1:]) > 0.9
        else:
            assert a == pytest.approx(b, abs=1e-4)


def overlap(a: list[float], b: list[float]) -> float:
    """Of two polygons in shares of the image, drawn eight times as large."""
    drawn = []
    for ring in (a, b):
        points = np.round(np.array(ring).reshape(-1, 2) * SIZE * 8).astype(np.int32)
        drawn.append(cv2.fillPoly(np.zeros((SIZE[1] * 8, SIZE[0] * 8), np.uint8), [points], 1).astype(bool))
    return float((drawn[0] & drawn[1]).sum() / (drawn[0] | drawn[1]).sum())


@pytest.mark.parametrize(("task", "field"), [("-obb", "corners"), ("-seg", "polygons"), ("-pose", "keypoints")])
def test_detect_with_a_model_of_each_task(task, field, models, working):
    write_image(Image(street()[:, 50:150, 100:260].contiguous()), Path("small/street.png"))
    arguments = ("--weights", models[task], "--conf", 0.4, "--max-det", 5, "--save-txt", "--json", "found.json")
    result = hatdet("detect", "--upscale", "--upscaler", "bicubic", "--scale", 2, "small", "-o", "out", *arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(Path("found.json").read_text())
    assert report["schema"] == 1
    (image,) = report["images"]
    assert 1 <= len(image["detections"]) <= 5
    for found in image["detections"]:
        assert found[field]
        assert [name for name in ("corners", "polygons", "keypoints") if found[name] is not None] == [field]
    assert len(Path("out/labels/street.txt").read_text().splitlines()) == len(image["detections"])
    assert read_image("out/street.png").width > 2 * 320


@pytest.mark.parametrize("task", TASKS)
def test_detect_finds_what_the_network_finds(task, models, working):
    """From the checkpoint to the file, without upscaling: nothing is lost on the way but digits."""
    result = hatdet("detect", "in", "--weights", models[task], "--imgsz", SIZE[0], "--json", "-", "--max-det", 4)
    network = load_model(models[task])
    expected = YoloDetector(network, "same", max_detections=4, imgsz=SIZE[0])(read_image("in/street.png"))
    found = json.loads(result.stdout)["images"][0]["detections"]
    assert [one["class_id"] for one in found] == expected.class_id.tolist()
    for said, one in zip(found, expected, strict=True):
        assert said["xyxy"] == pytest.approx(one.xyxy, abs=1e-3)
        for ours, theirs in zip(said["corners"] or (), one.corners or (), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-3)
        for ring, other in zip(said["polygons"] or (), one.polygons or (), strict=True):
            assert np.allclose(ring, other, atol=1e-3)
        assert np.allclose(said["keypoints"] or [], one.keypoints or [], atol=1e-3)


def boxes_by_hand(xyxy, names: list[str]) -> Detections:
    """A class for each box."""
    sure = np.linspace(0.9, 0.5, len(xyxy), dtype=np.float32)
    return Detections(np.array(xyxy, np.float32), sure, np.arange(len(xyxy)), dict(enumerate(names)))


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("traffic light", "traffic light"),
        ("großes Schiff", "großes Schiff"),
        ("../../evil", "_.._evil"),
        ("..", "_"),
        ("", "_"),
        ("/etc/passwd", "_etc_passwd"),
        ("a\x00b\nc", "a_b_c"),
        (".hidden", "hidden"),
        ("x" * 300, "x" * 60),
    ],
)
def test_the_folder_of_a_class_is_in_the_folder_of_crops(name, folder):
    found = boxes_by_hand([[0, 0, 1, 1]], [name])
    assert crop_places(found, Path("out/crops"), Path("sub/a")) == [Path("out/crops", folder, "sub/a_1.png")]


def test_crops_of_one_image_are_numbered_in_each_folder():
    found = boxes_by_hand([[0, 0, 1, 1]] * 4, ["car", "a/b", "Car", "a_b"])
    names = [place.as_posix() for place in crop_places(found, Path("c"), Path("a"))]
    assert names == ["c/car/a_1.png", "c/a_b/a_1.png", "c/Car/a_2.png", "c/a_b/a_2.png"]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("xyxy", "rows", "columns"),
    [
        ((1, 2, 4, 6), (2, 6), (1, 4)),
        ((1.2, 2.9, 3.1, 5.01), (2, 6), (1, 4)),  # a pixel of which a part is in the box is in the crop
        ((0, 0, 8, 6), (0, 6), (0, 8)),
        ((8, 6, 8, 6), (5, 6), (7, 8)),  # a box of no size is a pixel
        ((3, 3, 3, 3), (3, 4), (3, 4)),
    ],
)
def test_crops_are_pixels_of_the_source(xyxy, rows, columns, kind, tmp_path):
    picture = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (6, 8, 3)).astype(kind)
    write_crops(picture, boxes_by_hand([xyxy], ["a"]), [tmp_path / "a.png"])
    assert (to_array(read_image(tmp_path / "a.png")) == picture[slice(*rows), slice(*columns)]).all()


def pictures_in(folder: str) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*.png"))


def test_save_crop(models, working):
    arguments = ("in", "-o", "out", "--weights", models["-pose"], "--imgsz", SIZE[0], "--json", "found.json")
    assert hatdet("detect", *arguments, "--max-det", 6).exit_code == 0
    assert all(found["crop"] is None for found in json.loads(Path("found.json").read_text())["images"][0]["detections"])
    first = hatdet("detect", *arguments, "--max-det", 6, "--save-crop")
    assert len(first.stdout.splitlines()) == 1  # made again, since the crops were missing
    six = json.loads(Path("found.json").read_text())["images"][0]["detections"]
    assert sorted(found["crop"].removeprefix("crops/") for found in six) == pictures_in("out/crops")
    for found in six:
        assert found["crop"].startswith(f"crops/{found['class_name']}/street_")
        width, height = (found["xyxy"][side + 2] - found["xyxy"][side] for side in (0, 1))
        crop = read_image(Path("out", found["crop"]))
        assert width - 0.01 <= crop.width <= width + 2.01
        assert height - 0.01 <= crop.height <= height + 2.01
    assert hatdet("detect", *arguments, "--max-det", 6, "--save-crop").stdout == ""
    Path("out", six[0]["crop"]).unlink()
    assert len(hatdet("detect", *arguments, "--max-det", 6, "--save-crop").stdout.splitlines()) == 1
    assert len(pictures_in("out/crops")) == 6
    assert hatdet("detect", *arguments, "--max-det", 2, "--save-crop").exit_code == 0
    assert len(pictures_in("out/crops")) == 2  # and none of the other four is left over


def test_crops_take_no_place_of_anything_else(working):
    write_image(Image(street()), Path("all/crops/car/a_1.png"))
    for arguments in (["all", "-o", "out"], ["all/crops/car/a_1.png", "-o", "all"]):
        result = hatdet("detect", *arguments, "--save-crop")
        assert result.exit_code == 2
        assert "is in the folder of crops" in result.stderr
    assert not Path("out").exists()


def reported(source: str = "a.png", **more) -> dict:
    return {**image_report(job_in(Path("out")), found_by_hand(**more)), "source": source}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' masks under NumPy 2
@pytest.mark.parametrize("task", TASKS)
def test_cocos_tools_load_what_coco_writes(task, models, working):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    write_image(Image(street()[:, 10:170, 20:250].contiguous()), Path("in/part.png"))
    arguments = ("--weights", models[task], "--imgsz", SIZE[0], "--max-det", 5, "--json", "found.json")
    assert hatdet("detect", "in", "-o", "out", *arguments, "--coco", "coco.json").exit_code == 0
    found = json.loads(Path("found.json").read_text())["images"]
    data = COCO("coco.json")
    assert [data.imgs[i]["file_name"] for i in (1, 2)] == ["in/part.png", "in/street.png"]
    assert [category["name"] for category in data.loadCats(data.getCatIds())] == ["0", "1", "2"]
    annotations = data.loadAnns(data.getAnnIds())
    assert len(annotations) == sum(len(image["detections"]) for image in found) > 2
    predictions = data.loadRes(json.loads(Path("coco.json").read_text())["annotations"])
    kinds = {"-obb": ["bbox", "segm"], "-seg": ["bbox", "segm"], "-pose": ["bbox"]}[task]
    for kind in kinds:  # against themselves, they are right
        evaluation = COCOeval(data, predictions, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1)
    if task == "-seg":
        for annotation in annotations:
            area = data.annToMask(annotation).sum()  # of whole pixels
            assert abs(area - annotation["area"]) < 0.2 * annotation["area"] + 60
    if task == "-pose":
        assert all(len(annotation["keypoints"]) == 3 * annotation["num_keypoints"] == 51 for annotation in annotations)
        assert len(data.cats[0]["keypoints"]) == 17


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, {"bbox": [10, 20, 20, 40], "area": 800}),
        ({"corners": CORNERS}, {"segmentation": [[20, 20, 30, 40, 20, 60, 10, 40]], "area": 400}),
        ({"polygons": [[TRIANGLE]]}, {"segmentation": [[10, 20, 30, 20, 30, 60]], "area": 400}),
        (
            {"keypoints": POINTS, "keypoint_confidence": SURE},
            {"keypoints": [20, 40, 2, 25, 60, 1], "num_keypoints": 2, "area": 800},
        ),
        ({"keypoints": POINTS}, {"keypoints": [20, 40, 2, 25, 60, 2]}),
    ],
    ids=["box", "corners", "mask", "keypoints", "keypoints without confidence"],
)
def test_annotations_of_each_task(more, expected):
    (annotation,) = coco([reported(**more)], {2: "ship"}, "1")["annotations"]
    same = {"id": 1, "image_id": 1, "category_id": 2, "score": 0.75, "iscrowd": 0, "bbox": [10, 20, 20, 40]}
    assert {**same, **expected} == {name: annotation[name] for name in {**same, **expected}}
    assert ("segmentation" in annotation, "keypoints" in annotation) == (
        "segmentation" in expected,
        "keypoints" in expected,
    )


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["x/000000000139.jpg", "y/000000000285.jpg"], [139, 285]),
        (["a.jpg", "000000000139.jpg"], [1, 2]),
        (["1.jpg", "01.png"], [1, 2]),
        (["²³.jpg"], [1]),
        ([], []),
    ],
)
def test_images_that_are_called_by_numbers_keep_them(names, ids):
    data = coco([reported(name) for name in names], {2: "ship"}, "1")
    assert [image["id"] for image in data["images"]] == ids
    assert [annotation["image_id"] for annotation in data["annotations"]] == ids


def test_a_table_has_a_line_for_each_object(models, working):
    names = ['in/a, "b".png', "in/\udcff.png", "in/new\nline.png"]
    for name in names:
        write_image(Image(street()), Path(name))
    arguments = ("--weights", models["-obb"], "--imgsz", SIZE[0], "--max-det", 2, "-q")
    assert hatdet("detect", "in", *arguments, "--csv", "found.csv", "--json", "found.json").exit_code == 0
    with Path("found.csv").open(newline="", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    images = json.loads(Path("found.json").read_text())["images"]
    found = [(image, one) for image in images for one in image["detections"]]
    assert {image["source"] for image, _ in found} >= set(names)
    assert len(rows) == len(found) > 4
    for row, (image, one) in zip(rows, found, strict=True):
        assert row["source"] == image["source"]
        assert [int(row["width"]), int(row["height"])] == list(SIZE)
        assert [float(row[edge]) for edge in ("x1", "y1", "x2", "y2")] == one["xyxy"]
        assert (int(row["class_id"]), row["class_name"]) == (one["class_id"], one["class_name"])
        assert float(row["confidence"]) == one["confidence"]
        assert json.loads(row["corners"]) == one["corners"]
        assert row["polygons"] == row["keypoints"] == row["crop"] == ""


def test_a_table_of_nothing_is_its_names():
    assert csv_text([]).splitlines() == [
        "source,width,height,class_id,class_name,confidence,x1,y1,x2,y2,corners,polygons,keypoints,crop"
    ]


@pytest.mark.parametrize("option", ["--coco", "--csv"])
def test_files_about_all_images_replace_nothing_and_are_whole_after_a_second_run(option, working):
    for name, sentence in (
        ("in/street.png", "is an input"),
        ("out/street.png", "two different results"),
        ("in", "needs"),
    ):
        result = hatdet("detect", "in", "-o", "out", option, name)
        assert result.exit_code == 2
        assert sentence in result.stderr
    assert not pictures_in("out")
    assert hatdet("detect", "in", "-o", "out", option, "all").exit_code == 0
    first = Path("all").read_bytes()
    assert hatdet("detect", "in", "-o", "out", option, "all").stdout == ""
    assert Path("all").read_bytes() == first


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("verb", [("eval", "--data", "data.yaml"), ("export", "--chain", "-o", "chain.onnx")])
def test_what_compares_or_exports_boxes_takes_models_of_boxes_only(verb, task, models, working):
    write_image(Image(street()), Path("images/val/a.png"))
    Path("labels/val").mkdir(parents=True)
    Path("labels/val/a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    Path("data.yaml").write_text("path: .\nval: images/val\nnames: [a, b, c]\n")
    result = hatdet(*verb, "--weights", models[task])
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    kind = task_of(task)
    assert line.endswith(f"is a model for the task '{kind}': expected a YOLO detection model (boxes)")
    assert not Path("chain.onnx").exists()
