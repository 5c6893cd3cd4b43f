"""Runs over many images: broken files, broken-off runs, other settings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hatdet.cli.app import app
from hatdet.core.types import Image
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


@dataclass(frozen=True)
class Interrupting:
    """An upscaler in the middle of whose third image Ctrl-C comes, so many times."""

    times: int
    name: str = "interrupting"
    scale: int = 2
    seen: list[Image] = field(default_factory=list)

    def __call__(self, image: Image) -> Image:
        self.seen.append(image)
        for _ in range(self.times if len(self.seen) == 3 else 0):
            signal.raise_signal(signal.SIGINT)
        return Image(image.pixels.repeat_interleave(2, 1).repeat_interleave(2, 2), scale=image.scale * 2)


@pytest.fixture
def press(monkeypatch):
    """Have the next runs interrupted."""

    def interrupted(times: int) -> None:
        upscaler = Interrupting(times)
        monkeypatch.setattr("hatdet.sr.upscalers.load_upscaler", lambda *_, **__: upscaler)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    yield interrupted
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_finishes_the_image_in_work_and_says_what_remains(images, press):
    (images / "in" / "1.png").write_bytes(b"no image")
    press(1)
    stopped = sr()
    assert stopped.exit_code == 130
    assert written().keys() == {"0.png", "2.png", "3.png"}
    assert len(stopped.stdout.splitlines()) == 3
    assert stopped.stderr.splitlines()[-2:] == [
        "3 of 6 images are done, 1 failed: the same command does the rest",
        "interrupted",
    ]
    press(0)
    assert [line.split(" -> ")[0] for line in sr().stdout.splitlines()] == ["in/4.png", "in/5.png"]


def test_a_second_ctrl_c_stops_at_once(press):
    press(2)
    stopped = sr()
    assert stopped.exit_code == 130
    assert written().keys() == {"0.png", "1.png"}
    assert "2 of 6 images are done: the same command does the rest" in stopped.stderr or (
        "1 of 6 images are done: the same command does the rest" in stopped.stderr  # the second was being written
    )
    assert not list(Path("out").rglob("*.part"))


def test_ctrl_c_in_the_last_image_leaves_nothing_to_do(images, press):
    for number in (3, 4, 5):
        (images / "in" / f"{number}.png").unlink()
    press(1)
    stopped = sr()
    assert (stopped.exit_code, stopped.stderr.splitlines()) == (130, ["3 of 3 images are done", "interrupted"])
    assert sr().exit_code == 0


def test_a_process_that_gets_ctrl_c_ends_as_promised(images):
    for number in range(6, 30):
        write_image(random_image(160, 200, seed=number), images / "in" / f"{number:02d}.png")
    start = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from hatdet.cli.app import main; sys.argv = ['hatdet', *sys.argv[1:]]; main()"
    )
    command = [sys.executable, "-c", start, "sr", "in", "-o", "out", "--upscaler", "bicubic", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        lines, messages = process.communicate()
    assert process.returncode == 130
    done = 1 + len(lines.splitlines())
    assert done < 30
    assert messages.splitlines()[-4:] == [
        "",
        "stopping after the image in work (Ctrl-C again: at once)",
        f"{done} of 30 images are done: the same command does the rest",
        "interrupted",
    ]
    assert len(written()) == done
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


def test_boxes_found_before_ctrl_c_are_in_the_report(press):
    press(1)
    assert detect("in", "--json", "a.json").exit_code == 130
    report = json.loads(Path("a.json").read_text())
    assert [image["source"] for image in report["images"]] == ["in/0.png", "in/1.png", "in/2.png"]


@pytest.mark.parametrize("more", [["--save-txt"], ["--save-sr"], ["--conf", 0.5], ["--classes", "person"]])
def test_what_is_wanted_in_addition_is_made(more):
    detect("in/0.png")
    before = written()
    assert len(detect("in/0.png", *more).stdout.splitlines()) == 1
    assert written()["0.png"] >= before["0.png"]
    assert detect("in/0.png", *more).stdout == ""
