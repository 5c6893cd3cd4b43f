"""`hatdet metrics` as its users type it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from hatdet.cli.app import app
from hatdet.core.types import Image
from hatdet.evaluation.fidelity import Protocol, compare
from hatdet.imaging.files import read_image, to_array, write_image
from hatdet.imaging.resize import reduced, resize_bicubic
from tests.helpers import random_image, sample_photo


def metrics(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["metrics", *(str(argument) for argument in arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def folders(tmp_path: Path, monkeypatch) -> Path:
    """HR/ with two crops of a photo, one of a size that 4 does not divide; SR/ with bicubic x4 of their reductions."""
    monkeypatch.chdir(tmp_path)
    photo = read_image(sample_photo("bus")).pixels
    for name, h, w in (("a", 64, 80), ("sub/b", 63, 81)):
        hr = Image(photo[:, 400 : 400 + h, 300 : 300 + w].contiguous())
        write_image(hr, Path("HR") / f"{name}.png")
        small = reduced(hr, 4)
        sr = resize_bicubic(small, (small.height * 4, small.width * 4), 4)
        write_image(sr, Path("SR") / f"{name}.png")
    return tmp_path


def test_table_means_and_protocol(folders):
    result = metrics("SR", "HR")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["PSNR-Y", "SSIM-Y", "PSNR-RGB", "SSIM-RGB"]
    a = compare(to_array(read_image("SR/a.png")), to_array(read_image("HR/a.png")), Protocol("Y", 4))
    assert lines[1].split()[:2] == [f"{a.psnr:.3f}", f"{a.ssim:.4f}"]
    assert lines[2].split()[4] == "sub/b.png"
    assert lines[3].endswith("mean of 2 images")
    assert lines[4] == (
        "PSNR-Y and SSIM-Y, crop 4, MATLAB YCbCr; PSNR-RGB and SSIM-RGB, crop 4; references cropped mod 4"
    )


def test_json(folders):
    report = json.loads(metrics("SR", "HR", "--json", "-", "--crop", 2).stdout)
    assert report["schema"] == 1
    assert [row["source"] for row in report["images"]] == ["SR/a.png", "SR/sub/b.png"]
    mean = sum(row["psnr_y"] for row in report["images"]) / 2
    assert report["mean"]["psnr_y"] == pytest.approx(mean)
    assert report["protocol"][0] == "PSNR-Y and SSIM-Y, crop 2, MATLAB YCbCr"


def test_an_identical_pair_is_counted_apart(folders):
    shutil.copy("HR/a.png", "SR/a.png")
    result = metrics("SR", "HR", "--json", "m.json")
    report = json.loads(Path("m.json").read_text())
    assert report["images"][0]["psnr_y"] is None
    assert report["mean"]["identical"] == 1
    assert report["mean"]["psnr_y"] == report["images"][1]["psnr_y"]
    assert "1 identical and in no mean of PSNR" in result.stdout


def test_two_files_are_a_pair(folders):
    assert metrics("SR/a.png", "HR/a.png").exit_code == 0


def test_what_does_not_fit_is_one_line_each(folders):
    write_image(random_image(64, 80), Path("SR/lonely.png"))
    write_image(random_image(64, 72), Path("SR/a.png"))
    Path("SR/sub/b.png").write_text("no image")
    write_image(Image(torch.zeros(3, 64, 80)), Path("SR/c.png"))
    write_image(Image(torch.ones(3, 64, 80)), Path("HR/c.png"))
    result = metrics("SR", "HR")
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 3
    assert "SR/lonely.png has no reference of its name in HR" in errors[0]
    assert "SR/a.png (72x64, uint8) does not fit HR/a.png (80x64, uint8) at scale 4" in errors[1]
    assert "mean of 1 images" in result.stdout


def test_nothing_to_compare_is_exit_code_2(folders):
    write_image(random_image(8, 8), Path("other/x.png"))
    assert metrics("other", "HR").exit_code == 2
    assert metrics("nowhere", "HR").exit_code == 2
    assert metrics("SR", "HR", "--scale", 0).exit_code == 2
