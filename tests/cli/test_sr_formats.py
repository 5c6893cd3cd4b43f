"""`hatdet sr` on files of every kind: what goes in comes out larger, and nothing else of it changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
import torch
from typer.testing import CliRunner, Result

from hatdet.cli.app import app
from hatdet.imaging.carried import Carried
from hatdet.imaging.encoding import FORMATS
from hatdet.imaging.files import read_carried, read_image, to_array, write_carried, write_image
from hatdet.imaging.resize import resize_bicubic, resize_samples, to_scale
from tests.helpers import random_image, tiny_hat


def sr(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["sr", *(str(argument) for argument in arguments), "--device", "cpu"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def here(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.save(tiny_hat().state_dict(), "tiny.pth")
    Path("in").mkdir()
    return tmp_path


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_deep_grey_with_alpha_stays_that(here, kind, suffix):
    samples = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (10, 12, 2)).astype(kind)
    grey = Carried(True, np.ascontiguousarray(samples[..., 1]))
    write_carried(np.broadcast_to(samples[..., :1], (10, 12, 3)), grey, Path(f"in/a.{suffix}"), FORMATS[suffix])
    assert sr("in", "-o", "out", "--upscaler", "tiny.pth", "--scale", 2, "--format", suffix).exit_code == 0
    image, carried = read_carried(f"out/a.{suffix}")
    assert (image.width, image.height, image.bit_depth, carried.grey) == (24, 20, 8 * np.dtype(kind).itemsize, True)
    assert carried.alpha is not None
    assert np.array_equal(carried.alpha, resize_samples(samples[..., 1], (20, 24), 2))
    seen = read_image(f"in/a.{suffix}")
    with torch.no_grad():
        made = tiny_hat()(seen.pixels[None])[0].clamp(0, 1).mul(seen.levels).add(0.5).floor()
    expected = made.double().mean(0).add(0.5).floor().numpy()
    assert np.abs(to_array(image)[..., 0].astype(float) - expected).max() <= (1 if kind == "uint8" else 2)


def test_every_format_is_written_and_said(here):
    write_image(random_image(20, 24), Path("in/a.png"))
    for form in FORMATS:
        done = sr("in", "-o", form, "--upscaler", "bicubic", "--scale", 2, "--format", form)
        assert done.exit_code == 0
        assert done.stdout == f"in/a.png -> {form}/a.{form} (24x20 -> 48x40)\n"
        with PIL.Image.open(f"{form}/a.{form}") as opened:
            assert (opened.format, opened.size) == (FORMATS[form].name, (48, 40))


def test_any_scale_in_the_end(here):
    write_image(random_image(7, 9), Path("in/a.png"))
    command = ("in", "-o", "out", "--upscaler", "tiny.pth", "--scale", 2)
    assert sr(*command).exit_code == 0
    twice = read_image("out/a.png")
    changed = sr(*command, "--outscale", 1.5)
    assert "made with other settings before, made again: 1 images (outscale)" in changed.stderr
    expected = to_scale(type(twice)(twice.pixels, 2, 8), 1.5)
    assert torch.equal(read_image("out/a.png").pixels, expected.pixels)
    assert (expected.width, expected.height) == (14, 11)


def test_the_ensemble_is_another_picture_and_another_setting(here):
    write_image(random_image(9, 9), Path("in/a.png"))
    command = ("in", "-o", "out", "--upscaler", "tiny.pth", "--scale", 2)
    sr(*command)
    before = read_image("out/a.png")
    changed = sr(*command, "--ensemble")
    assert "(ensemble)" in changed.stderr
    assert not torch.equal(read_image("out/a.png").pixels, before.pixels)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--format", "gif"], "--format must be one of png"),
        (["--quality", 90], "--quality goes with"),
        (["--outscale", 0], "--outscale must be above 0"),
        (["--outscale", "nan"], "--outscale must be above 0"),
        (["--ensemble", "--upscaler", "bicubic"], "bicubic has none"),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(here, arguments, sentence):
    write_image(random_image(4, 4), Path("in/a.png"))
    refused = sr("in", "-o", "out", "--scale", 2, "--upscaler", "tiny.pth", *arguments)
    assert refused.exit_code == 2
    assert sentence in refused.stderr
    assert not Path("out").exists()


def test_a_picture_too_large_for_its_format_is_one_failed_image(here):
    write_image(random_image(2, 9000), Path("in/a.png"))
    write_image(random_image(4, 4), Path("in/b.png"))
    done = sr("in", "-o", "out", "--upscaler", "nearest", "--scale", 2, "--format", "webp")
    assert done.exit_code == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert errors[0].startswith("error: in/a.png: out/a.webp cannot be written as WEBP")
    assert [path.name for path in Path("out").glob("*.webp")] == ["b.webp"]


def test_a_place_on_the_map_is_kept_in_a_tiff(here):
    geo = [(33550, 12, 3, (10.0, 10.0, 0.0), True), (33922, 12, 6, (0, 0, 0, 500.0, 900.0, 0), True)]
    keys = (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32633)
    samples = np.random.default_rng(0).integers(0, 65536, (8, 9, 3)).astype(np.uint16)
    tags = [*geo, (34735, 3, len(keys), keys, True)]
    tifffile.imwrite("in/a.tif", samples, photometric="rgb", extratags=tags, metadata=None)
    assert sr("in", "-o", "out", "--upscaler", "bicubic", "--scale", 4, "--format", "tiff").exit_code == 0
    with tifffile.TiffFile("out/a.tiff") as file:
        page = file.pages[0]
        assert page.tags[33550].value == (2.5, 2.5, 0.0)
        assert page.tags[33922].value == (0.0, 0.0, 0.0, 500.0, 900.0, 0.0)
        assert page.tags[34735].value == keys
        expected = to_array(resize_bicubic(read_image("in/a.tif"), (32, 36), 4))
        assert np.array_equal(page.asarray(), expected)
    lost = sr("in", "-o", "png", "--upscaler", "bicubic", "--scale", 4)
    assert "in/a.tif: the place on the map lost in a file of the kind PNG" in lost.stderr


def test_the_short_name_of_tiff_is_written_in_bands_too(here, monkeypatch):
    write_carried(np.zeros((90, 70, 3), np.uint8), Carried(), Path("in/a.png"), FORMATS["png"])
    monkeypatch.setattr("hatdet.sr.upscalers.CANVAS_BUDGET", 1000)
    sr("in", "--upscaler", "tiny.pth", "--scale", 2, "--format", "tif", "--tile", 32, "-o", "banded")
    with tifffile.TiffFile("banded/a.tif") as made:
        assert made.pages[0].is_tiled


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_a_canvas_over_the_budget_is_written_in_bands_and_is_the_same(here, monkeypatch, suffix):
    samples = np.random.default_rng(0).integers(0, 256, (90, 70, 4)).astype(np.uint8)
    carried = Carried(alpha=np.ascontiguousarray(samples[..., 3]))
    write_carried(samples[..., :3], carried, Path(f"in/a.{suffix}"), FORMATS[suffix])
    command = ("in", "--upscaler", "tiny.pth", "--scale", 2, "--format", "tiff", "--tile", 32)
    whole = sr(*command, "-o", "whole")
    monkeypatch.setattr("hatdet.sr.upscalers.CANVAS_BUDGET", 1000)
    banded = sr(*command, "-o", "banded")
    assert banded.stdout == whole.stdout.replace("whole", "banded")
    with tifffile.TiffFile("whole/a.tiff") as before, tifffile.TiffFile("banded/a.tiff") as after:
        assert (before.pages[0].is_tiled, after.pages[0].is_tiled) == (False, True)
        assert np.array_equal(before.asarray(), after.asarray())
    assert sr(*command, "-o", "banded").stdout == ""  # done
    assert sorted(path.name for path in Path("banded").iterdir()) == [".hatdet", "a.tiff"]


def test_a_file_that_breaks_off_in_bands_leaves_nothing(here, monkeypatch):
    samples = np.random.default_rng(0).integers(0, 256, (400, 70, 3)).astype(np.uint8)
    tifffile.imwrite("in/a.tif", samples, photometric="rgb", metadata=None)
    Path("in/a.tif").write_bytes(Path("in/a.tif").read_bytes()[:50_000])
    monkeypatch.setattr("hatdet.sr.upscalers.CANVAS_BUDGET", 1000)
    done = sr("in", "-o", "out", "--upscaler", "bicubic", "--scale", 2, "--format", "tiff")
    assert done.exit_code == 1
    assert "error: in/a.tif is damaged: the file ends early" in done.stderr
    assert not list(Path("out").glob("[!.]*"))
    assert not list(Path("out").glob(".*.part"))
