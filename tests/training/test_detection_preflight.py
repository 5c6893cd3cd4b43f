"""Checks of images with boxes before a run, and the picture of a batch."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from hatdet.cli.app import app
from hatdet.core.errors import OptionsError
from hatdet.imaging.files import read_image, to_array
from hatdet.training.detection_preflight import drawn_batch
from hatdet.training.preflight import check_data
from tests.training.helpers import detection_file, detection_options, option_file, tiny_options


def test_nothing_is_wrong_with_data_as_they_should_be(tmp_path):
    assert check_data(detection_options(tmp_path, 1)) == []


def test_what_is_wrong_is_named_by_file(tmp_path):
    options = detection_options(tmp_path, 1)
    images, labels = tmp_path / "boxes" / "images" / "train", tmp_path / "boxes" / "labels" / "train"
    (images / "0.png").write_bytes(b"no image")
    (labels / "1.txt").write_text("7 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1\n")
    (labels / "2.txt").unlink()  # an image without objects
    (tmp_path / "photos" / "p1.png").write_bytes((tmp_path / "photos" / "p1.png").read_bytes()[:50])
    found = {(complaint.phase, complaint.path): complaint.problem for complaint in check_data(options)}
    assert {path for _, path in found} == {
        str(images / "0.png"),
        str(labels / "1.txt"),
        str(tmp_path / "photos" / "p1.png"),
    }
    told = [str(complaint) for complaint in check_data(options) if complaint.path.endswith("1.txt")]
    assert len(told) == 2
    assert "line 1 has class 7, expected one of 0 (thing), 1 (other): left out" in told[0]
    assert "line 2: expected 'class cx cy w h'" in told[1]


def test_the_command_checks_and_draws(tmp_path):
    drawn = tmp_path / "out" / "batch.png"
    told = CliRunner().invoke(app, ["check-data", "-opt", str(detection_file(tmp_path)), "--draw", str(drawn)])
    assert told.exit_code == 0, told.output
    assert "train boxes: 8 images, 0 wrong" in told.output
    assert "val held: 4 images, 0 wrong" in told.output
    picture = to_array(read_image(drawn))
    width = 32 + 6 + 16  # a crop, a gap, its reduction
    assert picture.shape[1] == 2 * width
    assert picture.shape[0] > 32  # and a caption


def test_a_batch_is_the_one_that_training_reads_first(tmp_path):
    options = detection_options(tmp_path, 1)
    np.testing.assert_array_equal(drawn_batch(options), drawn_batch(options))
    assert drawn_batch(options, 5).shape[1] == 4 * (32 + 6 + 16)
    with pytest.raises(
        OptionsError, match="--draw draws boxes, which datasets:train of type PairedImageDataset has not"
    ):
        drawn_batch(tiny_options(tmp_path))


def test_data_without_boxes_are_not_drawn(tmp_path):
    told = CliRunner().invoke(
        app, ["check-data", "-opt", str(option_file(tmp_path)), "--draw", str(tmp_path / "x.png")]
    )
    assert told.exit_code == 2
    assert not (tmp_path / "x.png").exists()
