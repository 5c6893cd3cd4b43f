"""`hatdet export`, and its files behind `--engine`, as users type them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from typer.testing import CliRunner, Result

from hatdet.cli.app import app
from hatdet.deploy.engines import load_engine
from hatdet.imaging.files import read_image, write_image
from hatdet.imaging.resize import reduced
from tests.helpers import iou, random_image, sample_photo, tiny_hat


def hatdet(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def error_lines(result: Result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("error:")]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A folder with tiny.pth for x2, tiny.onnx for tiles of 16, and chain.onnx of what is embedded."""
    folder = tmp_path_factory.mktemp("exported")
    torch.save(tiny_hat().state_dict(), folder / "tiny.pth")
    result = hatdet(
        *("export", "--upscaler", folder / "tiny.pth", "--scale", 2, "--tile", 16, "-o", folder / "tiny.onnx")
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{folder / 'tiny.onnx'}\n"
    assert "compared with PyTorch on tiles of sample photos: differs by" in result.stderr
    result = hatdet("export", "--chain", "-o", folder / "chain.onnx")
    assert result.exit_code == 0, result.output
    assert "compared with PyTorch on sample photos: the same 9 boxes from 0.25 on" in result.stderr
    return folder


@pytest.fixture
def folder(exported, tmp_path, monkeypatch) -> Path:
    """A working folder with in/a.png (8x6) and in/b.png (40x33)."""
    monkeypatch.chdir(tmp_path)
    write_image(random_image(6, 8), Path("in/a.png"))
    write_image(random_image(33, 40), Path("in/b.png"))
    return tmp_path


def pixels(path: str) -> np.ndarray:
    with PIL.Image.open(path) as picture:
        return np.asarray(picture).astype(int)


def test_sr_with_an_engine_gives_the_pictures_of_its_weights(exported, folder):
    assert hatdet("sr", "in", "--engine", exported / "tiny.onnx", "--overlap", 4, "-o", "a").exit_code == 0
    tiny = ("--upscaler", exported / "tiny.pth", "--scale", 2)
    assert hatdet("sr", "in/a.png", *tiny, "-o", "b").exit_code == 0
    assert pixels("a/b.png").shape == (66, 80, 3)
    assert pixels("a/a.png").shape == (12, 16, 3)
    assert pixels("b/a.png").shape == (12, 16, 3)


def test_detect_with_an_upscalers_engine(exported, folder):
    result = hatdet("detect", "in", "--upscale", "--engine", exported / "tiny.onnx", "--save-sr", "--json", "-")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["upscaler"], report["detector"]) == ("tiny", "yolo11n-upscaled")
    assert pixels("results/detect/sr/b.png").shape == (66, 80, 3)


def boxes_of(image: dict) -> list:
    return sorted((found["class_name"], found["xyxy"], found["confidence"]) for found in image["detections"])


def test_detect_with_a_chain_finds_what_pytorchs_chain_finds(exported, folder):
    """Two photos at three sizes; none was recorded, one is small enough to find nothing in."""
    for photo, factor in (("bus", 8), ("zidane", 8), ("bus", 7), ("zidane", 11), ("bus", 100)):
        write_image(reduced(read_image(sample_photo(photo)), factor), Path(f"street/{photo}{factor}.png"))
    reports = []
    for name, more in (("engine", ["--engine", exported / "chain.onnx"]), ("eager", ["--upscale"])):
        result = hatdet(
            "detect", "street", *more, "-o", name, "--json", f"{name}.json", "--save-txt", "--device", "cpu"
        )
        assert result.exit_code == 0, result.output
        assert len(list(Path(name).glob("*.png"))) == len(list(Path(name, "labels").glob("*.txt"))) == 5
        reports.append(json.loads(Path(f"{name}.json").read_text()))
    assert [(report["upscaler"], report["detector"]) for report in reports] == [("hat-xs-x4", "yolo11n-upscaled")] * 2
    counts = []
    for found, expected in zip(*(report["images"] for report in reports), strict=True):
        assert found["source"] == expected["source"]
        assert found["timing_ms"]["upscale"] is None
        for a, b in zip(boxes_of(found), boxes_of(expected), strict=True):
            assert a[0] == b[0]
            assert iou(a[1], b[1]) >= 0.99
            assert a[2] == pytest.approx(b[2], abs=0.01)
        counts.append(len(found["detections"]))
    assert counts[0] == 0
    assert min(counts[1:]) > 1
    assert pixels("engine/bus8.png").shape == (135, 101, 3)  # there is no upscaled picture to draw


def test_an_image_too_large_for_a_chain_fails_by_its_name(exported, folder):
    write_image(random_image(8, 641), Path("in/wide.png"))
    result = hatdet("detect", "in", "--engine", exported / "chain.onnx", "-o", "out")
    assert result.exit_code == 1
    (line,) = error_lines(result)
    assert line.startswith("error: in/wide.png: an image of 641x8 is too large for this chain: it takes up to 640x640")
    assert sorted(path.name for path in Path("out").glob("*.png")) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("sr in --engine CHAIN", "chain.onnx holds a whole chain, expected an upscaler"),
        ("detect in --upscale --engine CHAIN", "chain.onnx holds a whole chain, expected an upscaler"),
        ("detect in --engine TINY", "tiny.onnx holds an upscaler, expected a whole chain"),
        ("sr in --engine none.onnx", "engine none.onnx does not exist"),
        ("sr in --engine in/a.png", "in/a.png cannot be an engine: its name must end in"),
        ("sr in --engine foreign.onnx", "foreign.onnx is not a file of `hatdet export`"),
        ("sr in --engine rubbish.onnx", "rubbish.onnx cannot be read by ONNX Runtime"),
        ("sr in --engine TINY --scale 4", "--scale does not go with --engine"),
        ("sr in --engine TINY --upscaler hat", "--upscaler does not go with --engine"),
        ("sr in --engine TINY --precision bf16", "engines compute in fp32"),
        ("detect in --upscale --engine TINY --tile 64", "--tile does not go with --engine"),
        ("detect in --engine CHAIN --conf 0.5", "--conf does not go with --engine"),
        ("detect in --engine CHAIN --max-det 5", "--max-det does not go with --engine"),
        ("detect in --engine CHAIN --weights yolo11s", "--weights does not go with --engine"),
        ("detect in --engine CHAIN --save-sr", "--save-sr writes upscaled images: it needs --upscale"),
        ("export --upscaler bicubic", "bicubic has no network to export"),
        ("export --tile 20", "tile must be a multiple of 8"),
        ("export --format song", "format must be one of onnx, torchscript, openvino, engine, got 'song'"),
        ("export -o a.pth", "a file of the format onnx ends in .onnx, got a.pth"),
        ("export --scale 3", "hat-xs has no weights for scale 3: it has 4"),
        ("export --conf 0.1", "--conf needs --chain"),
        ("export --chain --tile 64", "--tile does not go with --chain"),
        ("export --chain --format openvino", "--chain is written as onnx only, got --format openvino"),
        ("export --chain --weights none.pt", "weights none.pt do not exist"),
        ("export --chain --conf 2", "conf must be between 0 and 1, got 2"),
        ("export -o in/a.png/b.onnx", "in/a.png/b.onnx cannot be written"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(exported, folder, arguments, sentence):
    import onnx

    model = onnx.load(exported / "tiny.onnx")
    del model.metadata_props[:]
    onnx.save(model, "foreign.onnx")
    Path("rubbish.onnx").write_bytes(b"rubbish" * 99)
    before = sorted(folder.rglob("*"))
    places = {"CHAIN": str(exported / "chain.onnx"), "TINY": str(exported / "tiny.onnx")}
    result = hatdet(*(places.get(word, word) for word in arguments.split()))
    assert result.exit_code == 2
    (line,) = error_lines(result)
    assert sentence in line
    assert sorted(folder.rglob("*")) == before


def test_a_missing_runtime_is_one_line(exported, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for verb in (["sr", "--engine", exported / "tiny.onnx"], ["detect", "--engine", exported / "chain.onnx"]):
        result = hatdet(*verb, "in")
        assert result.exit_code == 2
        (line,) = error_lines(result)
        assert line.endswith("needs ONNX Runtime: pip install 'hatdet[export]'")


def test_an_export_has_a_name_of_its_own(exported, folder):
    result = hatdet(
        *("export", "--upscaler", exported / "tiny.pth", "--scale", 2, "--tile", 16, "--format", "torchscript", "-q")
    )
    assert (result.exit_code, result.output) == (0, "")
    assert load_engine("results/export/tiny-16.torchscript").card.name == "tiny"
