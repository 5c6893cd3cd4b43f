"""Detection data sets: what is listed, where the labels are, what a crop does to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from hatdet.core.errors import InputError, OptionsError
from hatdet.evaluation.samples import CocoBox, cropped_labels, read_detection_data
from hatdet.imaging.files import write_image
from tests.helpers import random_image


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """set/images/{train,val}/..., labels beside them, set.yaml."""
    for name in ("train/a.png", "train/deep/b.png", "val/c.png"):
        write_image(random_image(8, 8), tmp_path / "set/images" / name)
    content = {"path": "set", "train": "images/train", "val": ["images/val"], "names": {0: "car", 2: "bus"}}
    (tmp_path / "set.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "set.yaml"


def test_folders_are_listed_and_labels_are_beside_them(data):
    found = read_detection_data(data)
    assert found.names == {0: "car", 2: "bus"}
    assert [str(sample.relative) for sample in found.splits["train"]] == ["a.png", "deep/b.png"]
    root = data.parent / "set"
    assert found.splits["train"][1].label == root / "labels/train/deep/b.txt"
    assert [sample.image for sample in found.splits["val"]] == [root / "images/val/c.png"]
    assert "test" not in found.splits


def test_a_text_file_lists_images_and_names_may_be_a_list(data):
    (data.parent / "set/some.txt").write_text("images/val/c.png\n\nimages/train/a.png\n")
    data.write_text("{path: set, val: some.txt, names: [car]}")
    found = read_detection_data(data)
    assert found.names == {0: "car"}
    assert [sample.label.name for sample in found.splits["val"]] == ["c.txt", "a.txt"]


def test_only_the_last_folder_called_images_becomes_labels(tmp_path):
    write_image(random_image(4, 4), tmp_path / "images/set/images/a.png")
    (tmp_path / "d.yaml").write_text("{val: images/set/images, names: [x]}")
    (sample,) = read_detection_data(tmp_path / "d.yaml").splits["val"]
    assert sample.label == tmp_path / "images/set/labels/a.txt"


@pytest.mark.parametrize(
    ("here", "data", "listed", "label"),
    [
        ("set", "{val: images/val, names: [x]}", "images/val/a.png", "labels/val/a.txt"),
        # above the current folder: as Ultralytics, who looks at the whole path
        ("set/images", "{val: val, names: [x]}", "val/a.png", "{root}/set/labels/val/a.txt"),
        ("plain", "{val: val, names: [x]}", "val/a.png", "{root}/plain/val/a.txt"),
    ],
)
def test_labels_are_found_from_any_current_folder(tmp_path, monkeypatch, here, data, listed, label):
    write_image(random_image(4, 4), tmp_path / here / listed)
    (tmp_path / here / "d.yaml").write_text(data)
    monkeypatch.chdir(tmp_path / here)
    (sample,) = read_detection_data(Path("d.yaml")).split("val")
    assert str(sample.image) == listed
    assert str(sample.label) == label.format(root=tmp_path)


def test_a_split_is_sorted_by_name_and_a_wrong_one_is_told(data):
    root = data.parent / "set"
    for name in ("images/train/z.png", "images/train/deep.png"):
        write_image(random_image(4, 4), root / name)
    (root / "some.txt").write_text("images/train/z.png\nimages/val/c.png\n")
    data.write_text("{path: set, train: images/train, val: some.txt, names: [car]}")
    found = read_detection_data(data)
    assert [str(sample.relative) for sample in found.split("train")] == ["a.png", "deep.png", "deep/b.png", "z.png"]
    assert [str(sample.relative) for sample in found.split("val")] == ["c.png", "z.png"]
    data.write_text("{path: set, train: [images/train/deep, images/again], val: images/val, names: [car]}")
    write_image(random_image(4, 4), root / "images/again/b.png")
    folders = [sample.image.parent.name for sample in read_detection_data(data).split("train")]
    assert folders == ["again", "deep"]  # of one name: by where they are
    with pytest.raises(OptionsError, match=r"^the data set has no split 'test': expected one of train, val$"):
        found.split("test")


def test_a_folder_of_images_is_for_coco_files_only(data):
    with pytest.raises(OptionsError, match=r"set\.yaml says itself where its images are"):
        read_detection_data(data, data.parent)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("names: [car]", "names no images: expected at least one of train, val, test"),
        ("val: images", "must name the classes"),
        ("[1, 2]", "must name the classes"),
        ("a: [b", "is not YAML"),
        ("{val: nowhere, names: [car]}", "nowhere does not exist"),
        ("{val: images, names: {null: car}}", r"must name the classes by number .*, got {None: 'car'}"),
        ("{val: images, names: {car: 0}}", r"must name the classes by number .*, got {'car': 0}"),
    ],
)
def test_a_data_file_that_cannot_be_used_is_one_sentence(tmp_path, text, sentence):
    (tmp_path / "d.yaml").write_text(text)
    with pytest.raises(OptionsError, match=sentence) as caught:
        read_detection_data(tmp_path / "d.yaml")
    assert "\n" not in str(caught.value)
    with pytest.raises(OptionsError, match="cannot be read"):
        read_detection_data(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # an image of 10x10 cropped to 8x8: x 2..4, y 2..6 in pixels stays what it is, in other shares
        ("0 0.3 0.4 0.2 0.4", "0 0.375000 0.500000 0.250000 0.500000\n"),
        # x 6..10 is cut at 8
        ("1 0.8 0.5 0.4 0.2", "1 0.875000 0.625000 0.250000 0.250000\n"),
        # x 8..10 is gone
        ("1 0.9 0.5 0.2 0.2", ""),
        ("", ""),
    ],
)
def test_labels_of_a_cropped_image(tmp_path, line, expected):
    (tmp_path / "a.txt").write_text(line + "\n")
    assert cropped_labels(tmp_path / "a.txt", (10, 10), (8, 8)) == expected


def test_an_image_without_a_label_file_shows_nothing(tmp_path):
    assert cropped_labels(tmp_path / "none.txt", (10, 10), (8, 8)) == ""


@pytest.mark.parametrize("line", ["0 0.5 0.5 0.1", "car 0.5 0.5 0.1 0.1", "0 0.5 0.5 0.1 0.1 0.9", "0 1.5 0.5 0.1 0.1"])
def test_a_line_that_is_no_label_is_named(tmp_path, line):
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n" + line + "\n")
    with pytest.raises(InputError, match=r"a\.txt:2 "):
        cropped_labels(tmp_path / "a.txt", (10, 10), (8, 8))


COCO: dict[str, Any] = {
    "info": {"year": 2017},
    "images": [
        {"id": 7, "file_name": "b.png", "width": 10, "height": 8},
        {"id": 3, "file_name": "a.png"},
    ],
    "annotations": [
        {"id": 11, "image_id": 7, "category_id": 90, "bbox": [1, 2, 3.5, 4], "iscrowd": 0, "ignore": 1, "area": 5},
        {"id": 12, "image_id": 99, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 0},
        {"id": 13, "image_id": 7, "category_id": 1, "bbox": [0, 0, 9, 8], "iscrowd": 1},
        {"id": 14, "image_id": [7], "category_id": 1},
        {"id": 15, "image_id": 7, "bbox": "all"},
    ],
    "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person", "supercategory": "who"}],
}


def coco(path: Path, folder: Path, /, **changes: Any) -> Path:
    """A COCO file of two images, which lie in `folder`."""
    for name in ("a.png", "b.png"):
        write_image(random_image(8, 10), folder / name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**COCO, **changes}))
    return path


def test_a_coco_file_keeps_its_ids_and_every_image(tmp_path):
    path = coco(tmp_path / "set.json", tmp_path)
    found = read_detection_data(path)
    assert found.names == {90: "toothbrush", 1: "person"}
    assert list(found.splits) == ["all"]
    for split in ("val", "train", "anything"):
        a, b = found.split(split)
        assert (a.image, a.relative, a.label) == (tmp_path / "a.png", Path("a.png"), path)
        assert (a.annotations, a.stated_wh) == ((), None)
        assert (b.image, b.relative, b.label) == (tmp_path / "b.png", Path("b.png"), path)
        assert b.stated_wh == (10, 8)
        assert b.annotations == (
            CocoBox(11, 90, (1, 2, 3.5, 4), crowd=False),
            CocoBox(13, 1, (0, 0, 9, 8), crowd=True),
            CocoBox(15, None, ("all",), crowd=False),
        )
    assert [(problem.kind, problem.text) for problem in found.problems] == [
        ("image", f"{path}: annotation 12 is of image 99, expected one that the file lists: left out"),
        ("image", f"{path}: annotation 14 is of image [7], expected one that the file lists: left out"),
    ]


@pytest.mark.parametrize(
    ("here", "file", "folder"),
    [
        (".", "coco/annotations/instances_val2017.json", "coco/annotations"),
        (".", "coco/annotations/instances_val2017.json", "coco/images/val2017"),
        (".", "coco/annotations/person_keypoints_val2017.JSON", "coco/val2017"),
        (".", "coco/annotations/val.json", "coco/images/val"),
        (".", "coco/annotations/instances_val2017.json", "coco/images"),
        ("coco/annotations", "instances_val2017.json", "../val2017"),
    ],
)
def test_the_images_of_a_coco_file_are_where_coco_has_them(tmp_path, monkeypatch, here, file, folder):
    (tmp_path / here).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / here)
    coco(Path(file), Path(folder))
    assert [sample.image for sample in read_detection_data(Path(file)).split("val")] == [
        Path(folder) / "a.png",
        Path(folder) / "b.png",
    ]


def test_of_several_folders_the_first_that_has_the_first_image_is_taken(tmp_path):
    """`b.png` is the first that the file lists."""
    path = coco(tmp_path / "annotations/instances_val2017.json", tmp_path / "images/val2017")
    coco(path, tmp_path / "val2017")
    (tmp_path / "images/val2017/a.png").unlink()
    assert read_detection_data(path).split("val")[1].image == tmp_path / "images/val2017/b.png"
    (tmp_path / "images/val2017/b.png").rename(tmp_path / "images/val2017/a.png")
    assert read_detection_data(path).split("val")[1].image == tmp_path / "val2017/b.png"


def test_images_of_a_coco_file_in_a_named_folder_or_nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = coco(Path("annotations/instances_val2017.json"), Path("elsewhere"))
    with pytest.raises(OptionsError) as caught:
        read_detection_data(path)
    assert str(caught.value) == (
        "b.png of annotations/instances_val2017.json is in none of annotations, images/val2017, val2017, images: "
        "name the folder of its images"
    )
    Path("elsewhere/b.png").unlink()  # a part of the images is an error of those that are not there
    assert read_detection_data(path, Path("elsewhere")).split("val")[1].image == Path("elsewhere/b.png")
    with pytest.raises(OptionsError, match=r"^annotations has none of the 2 images of .*val2017.json: expected b.png"):
        read_detection_data(path, Path("annotations"))


@pytest.mark.parametrize(
    ("file_name", "relative"), [("deep/c.png", "deep/c.png"), ("../c.png", "c.png"), ("{root}/c.png", "c.png")]
)
def test_a_coco_image_is_called_by_a_name_that_stays_below_its_folder(tmp_path, file_name, relative):
    name = file_name.format(root=tmp_path)
    image = tmp_path / "set" / name
    write_image(random_image(4, 4), image)
    (tmp_path / "set").mkdir(exist_ok=True)
    path = coco(tmp_path / "set/d.json", tmp_path / "other", images=[{"id": 1, "file_name": name}], annotations=[])
    (sample,) = read_detection_data(path).split("val")
    assert (sample.image, sample.relative) == (image, Path(relative))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", r"d\.json is not JSON: "),
        ("\xff", r"d\.json is not JSON: "),
        ("[" * 100_000, r"d\.json is not JSON: "),
        (
            [{"image_id": 1, "score": 0.5}],
            "is not COCO: expected lists of images, annotations and categories, got no images",
        ),
        ({"images": [], "categories": []}, "got no annotations$"),
        ({**COCO, "categories": {"1": "car"}}, "got no categories$"),
        ({**COCO, "images": ["a.png"]}, "got no images$"),
        ({**COCO, "images": []}, r"d\.json names no images$"),
        ({**COCO, "images": [{"id": 1}]}, "image 1 has no file_name$"),
        ({**COCO, "images": [{"id": 1, "file_name": ""}]}, "image 1 has no file_name$"),
        ({**COCO, "images": [{"file_name": "a.png"}]}, "expected images with an id, got {'file_name': 'a.png'}$"),
        ({**COCO, "images": COCO["images"] * 2}, "expected each id once, got two images of id 7$"),
        ({**COCO, "annotations": COCO["annotations"][:1] * 2}, "expected each id once, got two annotations of id 11$"),
        ({**COCO, "categories": COCO["categories"] * 2}, "expected each id once, got two categories of id 90$"),
        ({**COCO, "categories": [{"id": "1", "name": "car"}]}, "expected categories with a number and a name, got {"),
        ({**COCO, "categories": [{"id": 1}]}, "expected categories with a number and a name, got {'id': 1}$"),
    ],
)
def test_json_that_is_not_coco_is_one_sentence(tmp_path, content, sentence):
    path = coco(tmp_path / "d.json", tmp_path)
    path.write_bytes(content.encode("latin-1") if isinstance(content, str) else json.dumps(content).encode())
    with pytest.raises(OptionsError, match=sentence) as caught:
        read_detection_data(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    with pytest.raises(OptionsError, match=r"none\.json cannot be read"):
        read_detection_data(tmp_path / "none.json")
