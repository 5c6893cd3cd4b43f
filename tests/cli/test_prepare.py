"""`hatdet prepare` as its users type it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from hatdet.cli.app import app
from hatdet.imaging.files import read_image, write_image
from tests.helpers import random_image


def prepare(*arguments: object) -> Result:
    threads = torch.get_num_threads()
    result = CliRunner().invoke(app, ["prepare", *(str(argument) for argument in arguments)])
    torch.set_num_threads(threads)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def photos(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("a.png", "b.png", "sub/c.png")):
        write_image(random_image(30 + i, 40 + i, seed=i), Path("photos") / name)
    return tmp_path


def names(folder: str) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def test_a_data_set_of_three_scales(photos):
    result = prepare("photos", "-o", "datasets/mine", "--scale", 2, 3, 4)
    assert result.exit_code == 0, result.output
    for scale in (2, 3, 4):
        assert (
            names(f"datasets/mine/GTmod{scale}")
            == names(f"datasets/mine/LRbicx{scale}")
            == ["a.png", "b.png", "sub/c.png"]
        )
        lines = Path(f"datasets/mine/meta_info_mine_x{scale}.txt").read_text().splitlines()
        assert lines[0] == f"a.png ({30 // scale * scale},{40 // scale * scale},3)"
        assert len(lines) == 3
    assert "x4: 3 pairs in datasets/mine/GTmod4 and datasets/mine/LRbicx4" in result.stdout
    assert "3 images in" in result.stderr


def test_sub_images_are_what_the_list_names(photos):
    assert prepare("photos", "-o", "set", "--scale", "2,4", "--sub-images", 16, "--step", 16).exit_code == 0
    listed = [line.split(" ")[0] for line in Path("set/meta_info_set_x4.txt").read_text().splitlines()]
    assert listed == names("set/GTmod4_sub") == names("set/LRbicx4_sub")
    assert read_image("set/LRbicx4_sub/a_s001.png").width == 4


def test_a_second_run_adds_what_is_new(photos):
    prepare("photos", "-o", "set")
    stamp = Path("set/GTmod4/a.png").stat().st_mtime_ns
    write_image(random_image(20, 20), Path("photos/d.png"))
    result = prepare("photos", "-o", "set", "--scale", "2,4")
    assert result.exit_code == 0
    assert Path("set/GTmod4/a.png").stat().st_mtime_ns == stamp
    assert "d.png (20,20,3)" in Path("set/meta_info_set_x4.txt").read_text()
    assert names("set/GTmod2")[-1] == "sub/c.png"


def test_a_data_set_of_other_settings_is_not_touched(photos):
    prepare("photos", "-o", "set")
    before = names("set")
    result = prepare("photos", "-o", "set", "--sub-images", 16, "--step", 8)
    assert result.exit_code == 2
    assert "set was made with sub-images of None every 240 pixels, now asked for 16 every 8" in result.stderr
    assert names("set") == before


def test_broken_photos_are_one_line_each_and_the_rest_is_done(photos):
    Path("photos/broken.png").write_text("no image")
    write_image(random_image(3, 3), Path("photos/tiny.png"))
    result = prepare("photos", "-o", "set")
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 2
    assert "photos/broken.png is not an image" in errors[0]
    assert "photos/tiny.png (3x3) is too small for scale 4" in errors[1]
    assert names("set/LRbicx4") == ["a.png", "b.png", "sub/c.png"]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--scale", "two"], "--scale 'two'"),
        (["--scale", "1"], "scale must be at least 2"),
        (["--sub-images", "30"], "sub-images of 30 every 240 pixels do not divide by scale 4"),
    ],
)
def test_settings_that_cannot_be_are_exit_code_2(photos, more, sentence):
    result = prepare("photos", "-o", "set", *more)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert not Path("set").exists()
    assert prepare("nowhere", "-o", "set").exit_code == 2
