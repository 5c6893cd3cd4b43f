"""The command line as its users type it: results, messages, exit codes."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import typer
from rich.text import Text
from typer.testing import CliRunner, Result

from hatdet import __version__, load_upscaler
from hatdet.cli import detect, sr
from hatdet.cli.app import app
from hatdet.imaging.files import read_image, write_image
from hatdet.imaging.resize import reduced
from hatdet.sr.hat_arch import HAT
from tests.helpers import random_image, sample_photo, tiny_hat


def hatdet(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """A working folder with in/a.png (8x6), in/sub/b.png (5x9), in/notes.txt, and tiny weights for x2."""
    monkeypatch.chdir(tmp_path)
    write_image(random_image(6, 8), Path("in/a.png"))
    write_image(random_image(9, 5), Path("in/sub/b.png"))
    Path("in/notes.txt").write_text("no image")
    torch.save(tiny_hat().state_dict(), "tiny.pth")
    return tmp_path


def files(where: str) -> list[str]:
    """All but what hatdet remembers of its runs."""
    found = (path.relative_to(where) for path in Path(where).rglob("*") if path.is_file())
    return sorted(str(path) for path in found if path.parts[0] != ".hatdet")


def size_of(path: str) -> tuple[int, int]:
    with PIL.Image.open(path) as picture:
        return picture.size


def error_lines(result: Result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("error:")]


def test_version_and_help():
    assert hatdet("--version").stdout == f"hatdet {__version__}\n"
    for verb in ("sr", "detect", "models", "doctor"):
        assert verb in hatdet("--help").stdout
        assert hatdet(verb, "--help").exit_code == 0


def test_sr_keeps_the_tree_and_says_what_it_did(folder):
    result = hatdet("sr", "--scale", 2, "--upscaler", "tiny.pth", "in/", "-o", "out")
    assert result.exit_code == 0, result.output
    assert files("out") == ["a.png", "sub/b.png"]
    assert size_of("out/a.png") == (16, 12)
    assert result.stdout.splitlines()[0] == "in/a.png -> out/a.png (8x6 -> 16x12)"
    assert re.search(r"2 images in .* images/s\): out", result.stderr)


def test_sr_writes_to_results_by_default_and_does_not_read_its_results(folder):
    for _ in range(2):
        assert hatdet("sr", "--upscaler", "nearest", ".").exit_code == 0
        assert files("results/sr") == ["in/a.png", "in/sub/b.png"]


@pytest.mark.parametrize("upscaler", ["nearest", "bicubic", "hat-xs"])
def test_sr_with_what_needs_no_file(folder, upscaler):
    assert hatdet("sr", "in/a.png", "--upscaler", upscaler, "-o", "out", "-q").exit_code == 0
    assert size_of("out/a.png") == (32, 24)


def test_sr_with_the_fastest_tile(folder, monkeypatch):
    monkeypatch.setattr("hatdet.sr.upscalers.seconds_of", lambda compute, device, choice: 1.0)
    arguments = ("sr", "--scale", 2, "--upscaler", "tiny.pth", "--tile", "auto", "in/a.png", "-o", "out")
    first, second = hatdet(*arguments), hatdet(*arguments)
    assert (first.exit_code, second.exit_code) == (0, 0), first.output
    assert "finding the fastest tile of tiny on cpu, once ..." in first.stderr
    assert "finding" not in second.stderr
    assert "the fastest for tiny on cpu" in second.stderr
    assert size_of("out/a.png") == (16, 12)


@pytest.mark.parametrize("verb", [("sr",), ("detect", "--upscale")])
def test_what_has_no_tiles_takes_auto(folder, verb):
    result = hatdet(*verb, "--upscaler", "bicubic", "--tile", "auto", "in/a.png", "-o", "out")
    assert result.exit_code == 0, result.output
    assert "finding" not in result.stderr


@pytest.mark.parametrize("verb", ["eval", "export"])
def test_what_is_compared_or_fixed_takes_no_auto(folder, verb):
    result = hatdet(verb, "--tile", "auto")
    assert result.exit_code == 2
    assert "Invalid value for '--tile'" in result.stderr


def test_all_help_is_shown_as_it_is_written():
    """Rich takes words in brackets for markup, and shows nothing of them."""

    def commands(command, name):
        yield name, command
        for word, part in getattr(command, "commands", {}).items():
            yield from commands(part, f"{name} {word}")

    found = dict(commands(typer.main.get_command(app), "hatdet"))
    assert "hatdet attention add" in found
    for name, command in found.items():
        for parameter in command.params:
            written = getattr(parameter, "help", None) or ""
            assert Text.from_markup(written).plain == written, f"{name} {parameter.name}"
        assert Text.from_markup(command.help or "").plain == (command.help or ""), name


def test_a_default_that_is_found_is_in_the_help():
    assert "[default: (what fits on CUDA, at most 16, else 1)]" in hatdet("sr", "--help").stdout


@pytest.mark.parametrize("verb", [sr.run, detect.run])
def test_defaults_on_the_command_line_are_the_librarys(verb):
    """Written twice, because the command line imports no torch before it runs."""
    given = {name: parameter.default for name, parameter in inspect.signature(verb).parameters.items()}
    own = {name: parameter.default for name, parameter in inspect.signature(load_upscaler).parameters.items()}
    for name in ("scale", "tile", "overlap", "batch", "device", "precision"):
        assert str(given[name]) == str(own[name])
    assert given["upscaler"] == own["name"]


def test_quiet_prints_nothing(folder):
    result = hatdet("sr", "in", "--upscaler", "nearest", "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def broken_inputs(folder: Path) -> None:
    good = Path("in/a.png").read_bytes()
    Path("in/cut.png").write_bytes(good[: len(good) // 2])
    Path("in/empty.png").write_bytes(b"")
    Path("in/text.png").write_text("hello")


def test_broken_files_are_one_line_each_and_the_rest_is_done(folder):
    broken_inputs(folder)
    for verb in (["sr", "--upscaler", "nearest"], ["detect"]):
        result = hatdet(*verb, "in", "-o", "out")
        assert result.exit_code == 1
        assert files("out") == ["a.png", "sub/b.png"]
        lines = error_lines(result)
        assert len(lines) == 3
        for line, name in zip(lines, ("cut.png", "empty.png", "text.png"), strict=True):
            assert f"in/{name} " in line
        assert "2 images" in result.stderr
        assert "3 failed" in result.stderr


def test_a_named_file_that_is_no_image_counts_as_failed(folder):
    result = hatdet("sr", "in/notes.txt", "in/a.png", "--upscaler", "nearest", "-o", "out")
    assert result.exit_code == 1
    assert files("out") == ["a.png"]
    assert "in/notes.txt is not an image" in error_lines(result)[0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sr", "nowhere"], "error: nowhere does not exist"),
        (["sr", "hollow"], "error: hollow contains no images"),
        (["detect", "nowhere"], "error: nowhere does not exist"),
        (["sr", "in", "--scale", "3"], "error: hat-xs has no weights for scale 3: it has 4"),
        (["sr", "in", "--upscaler", "none.pth"], "error: weights none.pth do not exist"),
        (["sr", "in", "--upscaler", "tiny.pth"], "error: tiny.pth upscales by 2, got --scale 4"),
        (["sr", "in", "--precision", "fp16"], "error: precision fp16 is refused"),
        (["sr", "in", "--device", "cuda:9"], "error: device 'cuda:9' is not usable here"),
        (["sr", "in", "--tile", "2"], "error: tile must be at least 8"),
        (["sr", "in", "--tile", "large"], "error: --tile must be a whole number or auto, got 'large'"),
        (["sr", "in", "--tile", "64.5", "--upscaler", "nearest"], "error: --tile must be a whole number or auto"),
        (["detect", "in", "--tile", ""], "error: --tile must be a whole number or auto, got ''"),
        (["sr", "in", "--tile", "-8"], "error: tile must be at least 1, got -8"),
        (["sr", "in", "-o", "tiny.pth/x"], "error: tiny.pth/x/a.png cannot be written"),
        (["detect", "in", "-o", "tiny.pth/x"], "error: tiny.pth/x/a.png cannot be written"),
        (["detect", "in", "--weights", "none.pt"], "error: weights none.pt do not exist"),
        (["detect", "in", "--weights", "tiny.pth"], "error: tiny.pth must end in .pt or .safetensors"),
        (["detect", "in", "--conf", "2"], "error: conf must be between 0 and 1"),
        (["detect", "in", "--classes", "zebra crossing"], "error: class 'zebra crossing' is not the detector's"),
        (["detect", "in", "--save-sr"], "error: --save-sr writes upscaled images: it needs --upscale"),
        (["detect", "in", "--json", "tiny.pth/x.json"], "error: tiny.pth/x.json cannot be written"),
        (["models", "get", "yolo99"], "error: no weights are called 'yolo99'"),
        (["sr", "in", "--batch", "0", "--upscaler", "nearest"], "error: batch must be at least 1, got 0"),
        (["sr", "in", "--precision", "banana", "--upscaler", "nearest"], "error: precision must be auto, fp32 or bf16"),
        (["sr", "in", "--device", "meta"], "error: device 'meta' is not usable here"),
        (["sr", ""], "error: an input is empty"),
        (["models", "get", "in/a.png"], "error: no weights are called 'in/a.png'"),
        (["models", "get", "hat-s", "--scale", "3"], "error: HAT-S_SRx3.pth could not be fetched"),
        (["models", "get", "HAT_SRx2"], "error: HAT_SRx2.pth could not be fetched"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(folder, arguments, sentence):
    Path("hollow").mkdir()
    before = files(".")
    result = hatdet(*arguments)
    assert result.exit_code == 2
    assert len(error_lines(result)) == 1
    assert error_lines(result)[0].startswith(sentence)
    assert files(".") == before


def test_an_input_is_never_overwritten(folder):
    before = Path("in/a.png").read_bytes()
    for verb in (["sr", "--upscaler", "nearest"], ["detect"]):
        result = hatdet(*verb, "in", "-o", "in")
        assert result.exit_code == 2
        assert error_lines(result) == [
            "error: in/a.png is an input and would be overwritten: give another folder with -o"
        ]
    assert Path("in/a.png").read_bytes() == before


def test_results_of_different_kinds_never_meet(folder):
    write_image(random_image(4, 4), Path("more/x.png"))
    write_image(random_image(4, 4), Path("more/sr/x.png"))
    result = hatdet("detect", "--upscale", "--upscaler", "nearest", "more", "--save-sr", "-o", "out")
    assert result.exit_code == 2
    assert "two different results would be written to out/sr/x.png" in result.stderr
    assert hatdet("detect", "in", "-o", "out", "--json", "out/a.png").exit_code == 2


def test_a_blocked_result_fails_that_image_only(folder):
    Path("out/sub/b.png").mkdir(parents=True)
    result = hatdet("sr", "in", "--upscaler", "nearest", "-o", "out")
    assert result.exit_code == 1
    assert "out/sub/b.png cannot be written" in error_lines(result)[0]
    assert "1 image in" in result.stderr


@pytest.mark.parametrize("name", ["", "in", "tiny.pth/x.json"])
def test_a_json_file_that_cannot_be_is_refused_before_the_work(folder, name):
    result = hatdet("detect", "in", "-o", "out", "--json", name)
    assert result.exit_code == 2
    assert len(error_lines(result)) == 1
    assert not Path("out").exists()


def hatdet_process(*arguments: str, **how) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "hatdet", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **how)


def test_any_file_name_comes_through(folder):
    for name in ("ünï cödé.png", "\udcff.png", "[x] *.png"):
        write_image(random_image(4, 4), Path("names") / name)
    process = hatdet_process("detect", "names", "--json", "boxes.json")
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert len(json.loads(Path("boxes.json").read_bytes().decode("ascii"))["images"]) == 3


def test_a_reader_that_stops_reading_is_no_failed_image(folder):
    """`hatdet sr in | head -1`"""
    process = hatdet_process("sr", "in", "--upscaler", "nearest", "-o", "out")
    process.stdout.close()
    stderr = process.stderr.read()
    process.stderr.close()
    assert process.wait() in (0, 1)
    assert "error" not in stderr
    assert "Traceback" not in stderr
    assert "Exception" not in stderr


@pytest.mark.slow
def test_a_killed_run_leaves_whole_files_only(folder):
    for i in range(30):
        write_image(random_image(64, 64, seed=i), Path("many") / f"{i:02d}.png")
    for wait_for in (1, 5, 12):
        process = hatdet_process("sr", "many", "-o", "out")
        for _ in range(wait_for):
            process.stdout.readline()
        process.kill()
        process.communicate()
        results = list(Path("out").glob("*.png"))
        assert len(results) >= wait_for
        for path in results:
            assert read_image(path).width == 256


@pytest.mark.parametrize(
    "arguments", [["sr"], ["sr", "in", "--uspcaler", "hat"], ["fly"], ["sr", "in", "--scale", "two"]]
)
def test_unknown_options_are_exit_code_2(folder, arguments):
    assert hatdet(*arguments).exit_code == 2


def test_an_error_inside_the_network_fails_that_image_and_writes_no_file_for_it(folder, monkeypatch):
    real = HAT.forward

    def forward(self, x):
        if tuple(x.shape[2:]) == (9, 5):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        return real(self, x)

    monkeypatch.setattr(HAT, "forward", forward)
    for verb in (["sr", "-o", "sr"], ["detect", "--upscale", "-o", "detect"]):
        result = hatdet(*verb, "--scale", 2, "--upscaler", "tiny.pth", "in")
        assert result.exit_code == 1
        assert error_lines(result) == ["error: in/sub/b.png: RuntimeError: mat1 and mat2 shapes cannot be multiplied"]
    assert files("sr") == ["a.png"]
    assert files("detect") == ["a.png"]


def test_an_interrupted_run_exits_130_and_keeps_the_boxes_so_far(folder, monkeypatch):
    real = HAT.forward

    def forward(self, x):
        if tuple(x.shape[2:]) == (9, 5):
            raise KeyboardInterrupt
        return real(self, x)

    monkeypatch.setattr(HAT, "forward", forward)
    result = hatdet("detect", "--upscale", "--scale", 2, "--upscaler", "tiny.pth", "in", "--json", "boxes.json")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert [image["source"] for image in json.loads(Path("boxes.json").read_text())["images"]] == ["in/a.png"]


@pytest.fixture(scope="module")
def street(tmp_path_factory) -> Path:
    """bus.jpg reduced eight times."""
    path = tmp_path_factory.mktemp("street") / "bus.png"
    write_image(reduced(read_image(sample_photo("bus")), 8), path)
    return path


def test_detect_writes_boxes_pictures_labels_and_upscaled_images(street, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = hatdet(
        "detect", "--upscale", street.parent, "-o", "out", "--json", "out/boxes.json", "--save-txt", "--save-sr"
    )
    assert result.exit_code == 0, result.output
    assert files("out") == ["boxes.json", "bus.png", "labels/bus.txt", "sr/bus.png"]
    report = json.loads(Path("out/boxes.json").read_text())
    assert report["schema"] == 1
    assert (report["upscaler"], report["detector"]) == ("hat-xs-x4", "yolo11n-upscaled")
    (image,) = report["images"]
    assert sorted(image) == ["detections", "height", "source", "timing_ms", "upscaled_by", "upscaled_share", "width"]
    assert (image["upscaled_by"], image["upscaled_share"]) == ("hat-xs-x4", 1)
    assert (image["source"], image["width"], image["height"]) == (str(street), 101, 135)
    assert sorted(image["timing_ms"]) == ["detect", "read", "upscale"]
    assert image["timing_ms"]["upscale"] > 0
    names = [found["class_name"] for found in image["detections"]]
    assert "bus" in names
    assert names.count("person") >= 3
    for found, line in zip(image["detections"], Path("out/labels/bus.txt").read_text().splitlines(), strict=True):
        assert sorted(found) == [
            *("class_id", "class_name", "confidence"),
            *("corners", "crop", "keypoints", "polygons", "track_id", "xyxy"),
        ]
        assert found["corners"] is found["keypoints"] is found["polygons"] is None
        x1, y1, x2, y2 = found["xyxy"]
        assert 0 <= x1 <= x2 <= 101
        assert 0 <= y1 <= y2 <= 135
        class_id, *centre_and_size = line.split()
        assert int(class_id) == found["class_id"]
        expected = [(x1 + x2) / 202, (y1 + y2) / 270, (x2 - x1) / 101, (y2 - y1) / 135]
        assert np.allclose([float(number) for number in centre_and_size], expected, atol=1e-4)
    assert size_of("out/sr/bus.png") == (404, 540)


def test_detect_without_upscaling(street, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = hatdet("detect", street, "--json", "-")
    assert result.exit_code == 0
    report = json.loads(result.stdout)  # nothing else is on stdout
    assert report["upscaler"] is None
    assert report["images"][0]["timing_ms"]["upscale"] is None
    assert report["images"][0]["upscaled_by"] is report["images"][0]["upscaled_share"] is None
    assert files("results/detect") == ["bus.png"]


def test_detect_filters_classes_and_confidence(street, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = hatdet("detect", street, "--json", "-", "--classes", "bus,7", "--conf", "0.3", "--max-det", "1", "-q")
    (image,) = json.loads(result.stdout)["images"]
    assert len(image["detections"]) <= 1
    assert all(found["class_name"] in ("bus", "truck") for found in image["detections"])


def test_detect_without_input_shows_what_it_can_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = hatdet("detect", "--upscale")
    assert result.exit_code == 0, result.output
    assert files("results/detect") == ["bus.png", "samples/bus.png", "samples/zidane.png", "zidane.png"]
    assert size_of("results/detect/samples/bus.png") == (101, 135)


def test_a_saved_upscaled_image_gives_the_boxes_of_the_live_one(street, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hatdet("detect", "--upscale", street, "--save-sr", "--json", "live.json", "--imgsz", 544)
    hatdet("detect", "results/detect/sr/bus.png", "--json", "saved.json", "--imgsz", 544, "-o", "again")
    live, saved = (
        json.loads(Path(f"{name}.json").read_text())["images"][0]["detections"] for name in ("live", "saved")
    )
    assert len(live) == len(saved) > 0
    for a, b in zip(live, saved, strict=True):
        assert np.allclose(np.array(a["xyxy"]) * 4, b["xyxy"], atol=0.02)
        assert a["confidence"] == pytest.approx(b["confidence"], abs=1e-4)


def test_models_lists_everything():
    result = hatdet("models")
    assert result.exit_code == 0
    for word in ("hat-xs-x4", "embedded", "HAT-L_SRx3_ImageNet-pretrain", "78af181bedf1", "40,883,503", "Apache-2.0"):
        assert word in result.stdout


def test_models_get_of_what_is_embedded_prints_its_path():
    result = hatdet("models", "get", "hat-xs-x4")
    assert Path(result.stdout.strip()).name == "hat-xs-x4.safetensors"
    assert hatdet("models", "get", "yolo11n-upscaled").exit_code == 0


def test_doctor_is_content_here():
    result = hatdet("doctor")
    assert result.exit_code == 0, result.output
    assert "everything is in order" in result.stdout
    assert "all hashes right" in result.stdout


def test_doctor_names_a_torchvision_that_does_not_fit(monkeypatch):
    import torchvision

    def missing(*arguments):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(torchvision.ops, "nms", missing)
    result = hatdet("doctor")
    assert result.exit_code == 1
    assert re.search(r"PROBLEM: torch \S+ and torchvision \S+ do not fit each other .*pip install", result.stderr)


def test_doctor_names_damaged_weights(monkeypatch):
    monkeypatch.setattr("hatdet.sr.weights.sha256_of", lambda path: "0" * 64)
    result = hatdet("doctor")
    assert result.exit_code == 1
    assert "PROBLEM: weights: " in result.stderr
    assert "is damaged" in result.stderr


def test_debug_shows_the_traceback(folder):
    result = CliRunner().invoke(app, ["sr", "nowhere", "--debug"])
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
