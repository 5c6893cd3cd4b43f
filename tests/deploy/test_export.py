"""What is written, what it says about itself, and what is never written."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
import torch

import hatdet
from hatdet.core.errors import DeviceError, OptionsError
from hatdet.deploy import export
from hatdet.deploy.cards import ChainCard, UpscalerCard, read_card
from hatdet.deploy.engines import FORMATS, ChainEngine, load_engine
from hatdet.deploy.export import export_chain, export_upscaler
from hatdet.detection.yolo import YoloDetector
from hatdet.imaging.resize import reduced
from tests.deploy.conftest import SUFFIX, TILE, needs_openvino
from tests.deploy.stand_ins import Cells
from tests.helpers import random_image, relative_difference, tiny_hat


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_computes_what_pytorch_does(engine_file):
    tiles = torch.stack([random_image(TILE, TILE, seed=i).pixels for i in range(3)])
    engine = load_engine(engine_file)
    with torch.no_grad():
        for batch in (tiles[:1], tiles, tiles[:2]):
            found, expected = engine.run(batch), tiny_hat()(batch)
            assert found.dtype == torch.float32
            assert relative_difference(found, expected) < 1e-5
            assert relative_difference(found, tiny_hat(seed=1)(batch)) > 0.1
        beyond = engine.run(3 * tiles)  # a network's output is not clamped
        assert relative_difference(beyond, tiny_hat()(3 * tiles)) < 1e-5
        assert float(beyond.max()) > 1


def test_a_file_says_what_it_holds(engine_file, tiny_weights):
    sha256 = hashlib.sha256(tiny_weights.path.read_bytes()).hexdigest()
    assert load_engine(engine_file).card == UpscalerCard("tiny", 2, TILE, 8, sha256, hatdet.__version__)


@pytest.mark.parametrize("form", SUFFIX)
def test_a_file_that_differs_from_pytorch_is_not_written(form, tiny_weights, tmp_path, monkeypatch):
    """The last convolution is changed by a thousandth on the way into the file."""
    needs_openvino(form)
    path = tmp_path / f"a{SUFFIX[form]}"
    path.write_bytes(b"what was there")
    for name in ("onnx_bytes", "torchscript_bytes"):
        real = getattr(export, name)

        def changed(network, *rest, real=real):
            network.conv_last.bias += 1e-3
            content = real(network, *rest)
            network.conv_last.bias -= 1e-3
            return content

        monkeypatch.setattr(export, name, changed)
    with pytest.raises(OptionsError, match=r"differs from PyTorch by 1\.0e-03 of full scale.*nothing was written"):
        export_upscaler(tiny_weights, 2, form, TILE, path)
    assert files(tmp_path) == [path.name]
    assert path.read_bytes() == b"what was there"


@pytest.mark.parametrize("form", SUFFIX)
def test_a_write_that_fails_leaves_nothing(form, tiny_weights, tmp_path, monkeypatch):
    needs_openvino(form)
    real = Path.replace

    def full(self, target):
        if Path(target).parent == tmp_path:
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OptionsError, match="cannot be written: No space left on device"):
        export_upscaler(tiny_weights, 2, form, TILE, tmp_path / f"a{SUFFIX[form]}")
    assert files(tmp_path) == []


def test_of_two_files_the_main_one_is_never_there_with_anothers_weights(tiny_weights, tmp_path, monkeypatch):
    """OpenVINO's description names no weights: beside those of another network it would be silently wrong."""
    pytest.importorskip("openvino")
    export_upscaler(tiny_weights, 2, "openvino", TILE, tmp_path / "a.xml")
    assert files(tmp_path) == ["a.bin", "a.xml"]
    real = Path.replace

    def stopped(self, target):
        if target == tmp_path / "a.xml":
            raise OSError(4, "stopped here")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.raises(OptionsError, match="stopped here"):
        export_upscaler(tiny_weights, 2, "openvino", TILE, tmp_path / "a.xml")
    assert files(tmp_path) == ["a.bin"]


@pytest.mark.parametrize(
    ("form", "tile", "name", "sentence"),
    [
        ("onnx", 20, "a.onnx", r"tile must be a multiple of 8 \(the network's window\), got 20: 16 or 24"),
        ("onnx", 4, "a.onnx", r"got 4: 8$"),
        ("onnx", 16, "a.pt", r"a file of the format onnx ends in \.onnx, got .*a\.pt"),
        ("openvino", 16, "a.onnx", r"a file of the format openvino ends in \.xml"),
        ("ncnn", 16, "a.onnx", "format must be one of onnx, torchscript, openvino, engine, got 'ncnn'"),
    ],
)
def test_what_cannot_be_asked_for(tiny_weights, tmp_path, form, tile, name, sentence):
    with pytest.raises(OptionsError, match=sentence):
        export_upscaler(tiny_weights, 2, form, tile, tmp_path / name)
    assert files(tmp_path) == []


@pytest.mark.parametrize(("form", "package"), [("onnx", "onnx"), ("openvino", "openvino"), ("engine", "tensorrt")])
def test_a_package_that_is_missing_is_named(tiny_weights, tmp_path, monkeypatch, form, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(OptionsError, match="pip install"):
        export_upscaler(tiny_weights, 2, form, TILE, tmp_path / f"a{FORMATS[form][0]}")
    assert files(tmp_path) == []


class FakeTensorRT:
    """What is asked of TensorRT: it "builds" the network that it is given, backwards."""

    BuilderFlag = SimpleNamespace(TF32="tf32")
    Logger = type("Logger", (), {"WARNING": 1, "__init__": lambda self, level: None})

    def __init__(self) -> None:
        self.flags = {"tf32"}
        self.parsed = b""

    def Builder(self, logger):  # noqa: N802
        config = SimpleNamespace(clear_flag=self.flags.discard)
        return SimpleNamespace(
            create_network=lambda flags: "network",
            create_builder_config=lambda: config,
            build_serialized_network=lambda network, config: self.parsed[::-1],
        )

    def OnnxParser(self, network, logger):  # noqa: N802
        def parse(content):
            self.parsed = content
            return True

        return SimpleNamespace(parse=parse)


def test_tensorrt_gets_one_size_without_tf32_and_no_file_comes_unchecked(tiny_weights, tmp_path, monkeypatch):
    """On a machine without a GPU, where nothing can be compared."""
    tensorrt, written = FakeTensorRT(), []
    real = export._tensorrt_content
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(export, "_tensorrt_content", lambda *given: written.append(real(*given)) or written[0])
    with pytest.raises(DeviceError, match="engines of TensorRT run on CUDA"):
        export_upscaler(tiny_weights, 2, "engine", TILE, tmp_path / "a.engine")
    assert files(tmp_path) == []
    model = onnx.load_from_string(tensorrt.parsed)
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, TILE, TILE]
    assert tensorrt.flags == set()
    (content,) = written
    size = int.from_bytes(content[:4], "little")
    assert read_card(content[4 : 4 + size].decode(), tmp_path).name == "tiny"
    assert content[4 + size :] == tensorrt.parsed[::-1]


@pytest.fixture
def cells(monkeypatch) -> YoloDetector:
    """A detector for chains; the photos that they are compared on are half as large here."""
    photos = [reduced(image, 2) for image in export.sample_images()]
    monkeypatch.setattr(export, "sample_images", lambda: photos)
    return YoloDetector(Cells(), "cells", iou=0.3)


def test_a_chain_is_compared_and_says_what_it_holds(tiny_weights, tmp_path, cells):
    check = export_chain(tiny_weights, 2, cells, tiny_weights.path, tmp_path / "chain.onnx")
    assert check.boxes > 5
    assert check.confidence == 0.25
    card = load_engine(tmp_path / "chain.onnx").card
    assert isinstance(card, ChainCard)
    assert (card.upscaler, card.detector, card.scale, card.window, card.stride) == ("tiny", "cells", 2, 8, 32)
    assert (card.confidence, card.iou, card.max_detections, card.canvas) == (0.25, 0.3, 300, 2560)
    assert card.names == ("dark", "light")
    assert card.upscaler_sha256 == hashlib.sha256(tiny_weights.path.read_bytes()).hexdigest()
    assert isinstance(ChainEngine(load_engine(tmp_path / "chain.onnx")), ChainEngine)


@pytest.mark.parametrize(
    ("threshold", "value", "whose"), [("iou", 0.9, "the exported"), ("confidence", 0.95, "PyTorch's"), ("most", 2, "")]
)
def test_a_chain_with_other_boxes_is_not_written(tiny_weights, tmp_path, cells, monkeypatch, threshold, value, whose):
    class Other(export.ChainGraph):
        def __init__(self, *given) -> None:
            super().__init__(*given)
            setattr(self, threshold, value)

    monkeypatch.setattr(export, "ChainGraph", Other)
    with pytest.raises(OptionsError, match=rf"finds other boxes than PyTorch: .* {whose}.* alone: nothing was written"):
        export_chain(tiny_weights, 2, cells, tiny_weights.path, tmp_path / "chain.onnx")
    assert files(tmp_path) == []


def test_a_chain_that_finds_nothing_is_compared_at_a_lower_confidence(tiny_weights, tmp_path, cells):
    detector = replace(cells, confidence=1.0)
    check = export_chain(tiny_weights, 2, detector, tiny_weights.path, tmp_path / "chain.onnx")
    assert check.confidence == 0.01
    assert check.boxes > 5
    assert load_engine(tmp_path / "chain.onnx").card.confidence == 1.0
    assert len(ChainEngine(load_engine(tmp_path / "chain.onnx"))(random_image(40, 40))) == 0


def test_what_a_chain_cannot_be(tiny_weights, tmp_path, cells):
    with pytest.raises(OptionsError, match=r"ends in \.onnx"):
        export_chain(tiny_weights, 2, cells, tiny_weights.path, tmp_path / "chain.xml")
    with pytest.raises(ValueError, match="a chain has all classes of its detector"):
        export_chain(tiny_weights, 2, YoloDetector(Cells(), "a", imgsz=320), tiny_weights.path, tmp_path / "chain.onnx")
    assert files(tmp_path) == []
