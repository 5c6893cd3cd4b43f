"""Detection data sets: what is listed, where the labels are, what a crop does to them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hatdet.core.errors import InputError, OptionsError
from hatdet.evaluation.samples import cropped_labels, read_detection_data
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
    ("text", "sentence"),
    [
        ("names: [car]", "names no images: expected at least one of train, val, test"),
        ("val: images", "must name the classes"),
        ("[1, 2]", "must name the classes"),
        ("a: [b", "is not YAML"),
        ("{val: nowhere, names: [car]}", "nowhere does not exist"),
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
