"""Runs over many images: broken files, broken-off runs, other settings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hatdet.cli.app import app
from hatdet.imaging.files import read_image, write_image
from tests.helpers import random_image


def hatdet(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def sr(*arguments: object) -> Result:
    return hatdet("sr", "in", "-o", "out", "--upscaler", "bicubic", "--scale", 2, "--device", "cpu", *arguments)


def written(folder: str = "out") -> dict[str, int]:
    """When each result was written."""
    return {path.name: path.stat().st_mtime_ns for path in Path(folder).rglob("*.png")}


@pytest.fixture(autouse=True)
def images(tmp_path: Path, monkeypatch) -> Path:
    """A working folder with six images."""
    monkeypatch.chdir(tmp_path)
    for number in range(6):
        write_image(random_image(9, 12, seed=number), tmp_path / "in" / f"{number}.png")
    return tmp_path


def test_forty_good_and_bad_files(images):
    for number in range(6, 40):
        path = images / "in" / f"{number:02d}.png"
        write_image(random_image(9, 12, seed=number), path)
        if number % 3 == 0:
            whole = path.read_bytes()
            path.write_bytes([b"", whole[: len(whole) // 2], b"no image", whole[:20]][number // 3 % 4])
    bad = [number for number in range(6, 40) if number % 3 == 0]
    first = sr()
    assert first.exit_code == 1
    lines = first.stderr.splitlines()
    assert [sum(f"{number:02d}.png" in line for line in lines) for number in bad] == [1] * len(bad)
    results = written()
    assert len(results) == 40 - len(bad)
    assert not {f"{number:02d}.png" for number in bad} & results.keys()
    for name in results:
        assert read_image(Path("out", name)).width == 24
    again = sr()
    assert again.exit_code == 1
    assert again.stdout == ""
    assert f"{40 - len(bad)} of 40 images were done before (--overwrite makes them again)" in again.stderr
    assert written() == results


def test_a_run_with_nothing_left_to_do_writes_nothing():
    assert sr().exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")}
    again = sr()
    assert (again.exit_code, again.stdout) == (0, "")
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")} == before


def test_overwrite_makes_everything_again():
    sr()
    before = written()
    assert len(sr("--overwrite").stdout.splitlines()) == 6
    assert all(written()[name] > before[name] for name in before)


def test_other_settings_are_noticed():
    sr()
    before = written()
    changed = sr("--upscaler", "nearest")
    assert "made with other settings before, made again: 6 images (upscaler)" in changed.stderr
    assert all(written()[name] > before[name] for name in before)


def test_only_what_changed_is_made_again(images):
    sr()
    write_image(random_image(9, 12, seed=99), images / "in" / "3.png")
    (images / "out" / "5.png").unlink()
    assert [line.split(" -> ")[0] for line in sr().stdout.splitlines()] == ["in/3.png", "in/5.png"]


def test_stop_ends_with_the_first_broken_image_and_skip_does_the_rest(images):
    (images / "in" / "2.png").write_bytes(b"no image")
    stopped = sr("--on-error", "stop")
    assert stopped.exit_code == 1
    assert {"0.png", "1.png"} <= written().keys()
    assert not {"2.png", "5.png"} & written().keys()
    assert sr().exit_code == 1
    assert written().keys() == {"0.png", "1.png", "3.png", "4.png", "5.png"}


@pytest.mark.parametrize("verb", ["sr", "detect"])
def test_what_on_error_cannot_be(verb):
    result = hatdet(verb, "in", "--on-error", "cry")
    assert (result.exit_code, result.stderr) == (2, "error: --on-error must be skip or stop, got 'cry'\n")


def test_a_killed_run_leaves_whole_files_and_goes_on(images):
    """Killed for good, with images in work."""
    command = [sys.executable, "-m", "hatdet", "sr", "in", "-o", "out", "--upscaler", "bicubic", "--device", "cpu"]
    for number in range(6, 60):
        write_image(random_image(160, 200, seed=number), images / "in" / f"{number:02d}.png")
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        assert process.stdout is not None
        seen = [process.stdout.readline() for _ in range(5)]
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -9
    killed = written()
    assert 5 <= len(killed) < 60
    for name in killed:
        assert read_image(Path("out", name)).scale == 1
    again = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    # At most the image that was written when the end came, and was not put down yet, is made twice.
    assert 60 - len(killed) <= len(again.stdout.splitlines()) <= 61 - len(killed)
    assert len(written()) == 60
    assert all(line.decode().split(" -> ")[0] not in again.stdout for line in seen)
    assert not list(Path("out").rglob("*.part"))


def detect(*arguments: object) -> Result:
    return hatdet("detect", "--upscale", "--upscaler", "nearest", "-o", "out", "--device", "cpu", *arguments)


def test_boxes_of_an_earlier_run_are_in_the_report_of_the_next(images):
    assert detect("in/1.png", "--json", "a.json").exit_code == 0
    before = written()
    assert detect("in/0.png", "in/1.png", "--json", "b.json").exit_code == 0
    first, second = (json.loads(Path(name).read_text()) for name in ("a.json", "b.json"))
    assert [image["source"] for image in second["images"]] == ["in/0.png", "in/1.png"]
    assert second["images"][1] == first["images"][0]
    assert written()["1.png"] == before["1.png"]


@pytest.mark.parametrize("more", [["--save-txt"], ["--save-sr"], ["--conf", 0.5], ["--classes", "person"]])
def test_what_is_wanted_in_addition_is_made(more):
    detect("in/0.png")
    before = written()
    assert len(detect("in/0.png", *more).stdout.splitlines()) == 1
    assert written()["0.png"] >= before["0.png"]
    assert detect("in/0.png", *more).stdout == ""
