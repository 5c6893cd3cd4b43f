"""A time for each image in `hatdet detect`, with a calibration that is made up and the embedded detector."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hatdet.cli.app import app
from hatdet.deploy.calibration import Calibration, Line, Part
from hatdet.imaging.files import read_image, write_image
from hatdet.imaging.resize import reduced
from tests.helpers import sample_photo


@pytest.fixture
def asked(tmp_path: Path, monkeypatch) -> list[dict]:
    """in/a.png; bicubic takes 10 s, hat-xs 1000 s for a million pixels, the detector nothing."""
    monkeypatch.chdir(tmp_path)
    calls: list[dict] = []

    def calibrated(**options) -> Calibration:
        calls.append(options)
        parts = (Part("bicubic", Line(0, 10_000)), Part("hat-xs", Line(0, 1_000_000), 8, 256, 32))
        return Calibration(options["scale"], parts, Part("detector", Line(0, 0), 32), {})

    monkeypatch.setattr("hatdet.deploy.calibration.calibrated", calibrated)
    write_image(reduced(read_image(sample_photo("bus")), 8), Path("in/a.png"))  # 101x135: 13,635 pixels
    return calls


def detect(*arguments: object) -> Result:
    command = ["detect", "in", "--upscale", "--device", "cpu", "--json", "boxes.json", "-o", "out", *arguments]
    result = CliRunner().invoke(app, [str(argument) for argument in command])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def image() -> dict:
    (one,) = json.loads(Path("boxes.json").read_text())["images"]
    return one


@pytest.mark.parametrize(
    ("budget", "upscaled_by", "least", "most"),
    [
        ("100s", "hat-xs-x4", 1, 1),
        ("9s", "regions:hat-xs-x4", 0.1, 0.65),
        ("0.2s", "bicubic", 1, 1),
        ("1ms", None, None, None),
    ],
)
def test_what_fits_is_chosen_and_said(asked, budget, upscaled_by, least, most):
    done = detect("--budget", budget)
    assert done.exit_code == 0, done.output
    assert image()["upscaled_by"] == upscaled_by
    share = image()["upscaled_share"]
    assert share is None if least is None else least <= share <= most
    assert (
        f"--budget {budget.replace('ms', ' ms').replace('0.2s', '200 ms').replace('00s', '00 s')}"[:10] in done.stderr
    )
    assert "of 1 image kept to" in done.stderr


def test_the_share_of_the_pixels_has_another_limit_too(asked):
    assert detect("--budget", "100s", "--max-share", "0.2").exit_code == 0
    assert image()["upscaled_share"] <= 0.2


def test_a_named_upscaler_is_the_only_network(asked):
    assert detect("--budget", "100s").exit_code == 0
    assert detect("--budget", "100s", "--upscaler", "hat-xs").exit_code == 0
    assert [call["upscalers"] for call in asked] == [None, ["hat-xs"]]


def test_another_budget_is_another_result(asked):
    assert detect("--budget", "100s").exit_code == 0
    assert "1 of 1 images were done before" in detect("--budget", "100s").stderr
    assert "made with other settings before" in detect("--budget", "0.2s").stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--budget", "soon"), "--budget must be a time for each image, as in 200ms or 1.5s, got 'soon'"),
        (("--budget", "1s", "--slice", "auto"), "--slice does not go with --budget, which chooses that"),
        (("--budget", "1s", "--engine", "a.onnx"), "--engine does not go with --budget, which chooses that"),
        (("--max-share", "0.3"), "--max-share says how much of the regions is upscaled: it needs --regions auto or"),
        (("--regions", "some"), "--regions must be auto, got 'some'"),
        (("--regions", "auto", "--max-share", "2"), "--max-share must be above 0 and at most 1, got 2"),
    ],
)
def test_what_cannot_be_is_one_line(asked, options, sentence):
    done = detect(*options)
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert not Path("out").exists()


def test_regions_and_budgets_are_for_upscaling(asked):
    for option in (("--budget", "1s"), ("--regions", "auto")):
        done = CliRunner().invoke(app, ["detect", "in", *option])
        assert done.exit_code == 2
        assert "it needs --upscale" in done.stderr


def test_regions_without_a_budget(asked):
    done = detect("--regions", "auto", "--max-share", "0.5")
    assert done.exit_code == 0, done.output
    assert 0 < image()["upscaled_share"] <= 0.5
    assert image()["upscaled_by"] == "regions:hat-xs-x4"
    assert "% upscaled)" in done.stdout
    assert len(image()["detections"]) >= 3
