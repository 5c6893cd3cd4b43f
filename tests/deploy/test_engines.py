"""Exported files at work: any size of image, exact boxes, and files that are not what they should be."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from hatdet.core.errors import DeviceError, InputError, OptionsError, WeightsError
from hatdet.core.types import Detector, Image
from hatdet.deploy.cards import KEY, ChainCard, UpscalerCard, read_card, to_json
from hatdet.deploy.engines import ChainEngine, Engine, engine_upscaler, load_engine
from hatdet.sr.upscalers import HatUpscaler
from tests.deploy.conftest import TILE
from tests.helpers import psnr, random_image, tiny_hat

UPSCALER = UpscalerCard("tiny", 2, TILE, 8, "0" * 64, "0.1.0")
CHAIN = ChainCard("tiny", "", "fixed", "", 2, 8, 32, 64, 0.25, 0.7, 300, ("thing", "other"), "0.1.0")


class FilledUp(nn.Module):
    """A network that sees a small image continued by its mirror images up to the tile, as numpy mirrors."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x):
        _, _, h, w = x.shape
        filled = np.pad(x.numpy(), ((0, 0), (0, 0), (0, TILE - h), (0, TILE - w)), "reflect")
        return self.network(torch.from_numpy(filled))[:, :, : 2 * h, : 2 * w]


@pytest.mark.parametrize(("h", "w"), [(1, 1), (5, 11), (16, 3), (16, 16), (17, 16), (40, 33), (9, 70)])
@pytest.mark.parametrize("batch", [1, 3])
def test_an_image_of_any_size_is_upscaled_as_pytorch_does(engine_file, h, w, batch):
    image = random_image(h, w)
    upscaler = engine_upscaler(load_engine(engine_file), overlap=4, batch=batch)
    found = upscaler(image)
    assert (found.scale, found.width, found.height, upscaler.name) == (2, 2 * w, 2 * h, "tiny")
    eager = HatUpscaler(FilledUp(tiny_hat()), 2, "eager", window=TILE, tile=TILE, overlap=4)
    difference = (found.pixels - eager(image).pixels).abs()
    assert float(difference.max()) <= 1 / 255 + 1e-6  # where a value falls between two
    assert float((difference > 1e-6).float().mean()) < 0.01
    other = HatUpscaler(FilledUp(tiny_hat(seed=1)), 2, "other", window=TILE, tile=TILE, overlap=4)
    assert psnr(found.pixels, other(image).pixels) < 30


def test_every_tile_is_the_engines_own(engine_file):
    engine = load_engine(engine_file)
    shapes = []

    def run(batch):
        shapes.append(tuple(batch.shape))
        return engine.run(batch)

    engine_upscaler(Engine(engine.path, engine.card, run), overlap=4, batch=2)(random_image(40, 33))
    assert {shape[2:] for shape in shapes} == {(TILE, TILE)}
    assert shapes[0][0] == 2


def test_sixteen_bits_stay_sixteen_bits(engine_file):
    image = random_image(10, 10, bit_depth=16)
    found = engine_upscaler(load_engine(engine_file))(image)
    assert found.bit_depth == 16
    eager = HatUpscaler(FilledUp(tiny_hat()), 2, "eager", window=TILE, tile=TILE)
    assert float((found.pixels - eager(image).pixels).abs().max()) < 1e-4


@pytest.mark.parametrize("card", [UPSCALER, CHAIN], ids=lambda card: card.kind)
def test_a_card_is_read_as_it_was_written(card, tmp_path):
    assert read_card(to_json(card), tmp_path) == card


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "is not a file of `hatdet export`"),
        ("", "is not a file of `hatdet export`"),
        ("[1]", "is not a file of `hatdet export`"),
        ("rubbish", "is not a file of `hatdet export`"),
        ('{"schema": 1}', "is not a file of `hatdet export`"),
        (to_json(UPSCALER).replace('"schema": 1', '"schema": 2'), "has schema 2, expected 1"),
        (to_json(UPSCALER).replace('"tile"', '"title"'), "has an incomplete description"),
        ('{"schema": 1, "kind": "chain"}', "has an incomplete description"),
        ('{"schema": 1, "kind": "song"}', "holds 'song', expected an upscaler or a chain"),
    ],
)
def test_what_is_no_card_is_said(text, sentence, tmp_path):
    with pytest.raises(WeightsError, match=r"a\.onnx") as caught:
        read_card(text, tmp_path / "a.onnx")
    assert sentence in str(caught.value)


def onnx_file(path, text=None):
    """The identity as an ONNX file."""
    sizes = [1, 3, TILE, TILE]
    image, upscaled = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes) for name in ("image", "upscaled")
    )
    node = onnx.helper.make_node("Identity", ["image"], ["upscaled"])
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", [image], [upscaled]),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=10,
    )
    if text is not None:
        onnx.helper.set_model_props(model, {KEY: text})
    onnx.save(model, path)
    return path


def test_files_that_are_not_of_hatdet_export(tmp_path):
    with pytest.raises(WeightsError, match=r"foreign\.onnx is not a file of `hatdet export`"):
        load_engine(onnx_file(tmp_path / "foreign.onnx"))
    for name in ("a.onnx", "a.torchscript", "a.pt", "a.xml"):
        if name == "a.xml":
            pytest.importorskip("openvino")
        (tmp_path / name).write_bytes(b"rubbish" * 99)
        with pytest.raises(WeightsError, match=f"{name} cannot be read by") as caught:
            load_engine(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "kind", "sentence"),
    [
        ("none.onnx", {}, WeightsError, "none.onnx does not exist"),
        ("a.pth", {}, WeightsError, r"a.pth cannot be an engine: its name must end in one of .onnx, .torchscript"),
        ("a.onnx", {"precision": "bf16"}, OptionsError, "engines compute in fp32"),
        ("a.onnx", {"precision": "fp16"}, OptionsError, "engines compute in fp32"),
        ("a.onnx", {"device": "cuda"}, DeviceError, "device 'cuda' is not usable"),
        ("a.torchscript", {"device": "cuda:99"}, DeviceError, "device 'cuda:99' is not usable"),
        ("a.engine", {}, OptionsError, "a.engine needs TensorRT: pip install tensorrt"),
    ],
)
def test_what_cannot_be_loaded_is_said(tmp_path, monkeypatch, name, options, kind, sentence):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    onnx_file(tmp_path / "a.onnx", to_json(UPSCALER))
    for other in ("a.pth", "a.torchscript", "a.engine"):
        (tmp_path / other).write_bytes(b"rubbish")
    with pytest.raises(kind, match=sentence):
        load_engine(tmp_path / name, **options)


@pytest.mark.parametrize(("name", "package"), [("a.onnx", "onnxruntime"), ("a.xml", "openvino")])
def test_a_runtime_that_is_missing_is_named(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(OptionsError, match="pip install 'hatdet"):
        load_engine(tmp_path / name)


def test_openvino_computes_in_fp32_unless_it_is_told_otherwise(tiny_weights, tmp_path):
    """By itself it takes bf16 on processors that have it, which is a thousand times less exact."""
    pytest.importorskip("openvino")
    from hatdet.deploy.export import export_upscaler

    export_upscaler(tiny_weights, 2, "openvino", TILE, tmp_path / "a.xml")
    image = random_image(TILE, TILE).pixels[None]
    with torch.no_grad():
        expected = tiny_hat()(image)
    assert float((load_engine(tmp_path / "a.xml").run(image) - expected).abs().max()) < 1e-5
    load_engine(tmp_path / "a.xml", precision="bf16").run(image)


def chain_engine(rows, card=CHAIN) -> ChainEngine:
    return ChainEngine(Engine("chain.onnx", card, lambda batch: torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)))


def test_a_chains_boxes_come_most_confident_first_in_source_pixels():
    chain = chain_engine([[2, 4, 6, 8, 0.5, 1], [0, 0, 2, 2, 0.75, 0]])
    assert isinstance(chain, Detector)
    assert chain.name == "fixed"
    found = list(chain(Image(random_image(16, 20).pixels, scale=2)))
    assert [(d.xyxy, d.confidence, d.class_name) for d in found] == [
        ((0, 0, 1, 1), 0.75, "thing"),
        ((1, 2, 3, 4), 0.5, "other"),
    ]
    assert len(chain_engine([])(random_image(16, 20))) == 0


def test_an_image_that_the_canvas_does_not_hold_is_refused():
    chain = chain_engine([])
    chain(random_image(32, 32))
    for h, w in ((33, 8), (8, 33)):
        with pytest.raises(InputError, match=rf"an image of {w}x{h} is too large for this chain: it takes up to 32x32"):
            chain(random_image(h, w))


def test_upscalers_and_chains_are_not_mistaken_for_each_other():
    upscaler, chain = (Engine("a.onnx", card, lambda batch: batch) for card in (UPSCALER, CHAIN))
    with pytest.raises(WeightsError, match=r"a\.onnx holds a whole chain, expected an upscaler"):
        engine_upscaler(chain)
    with pytest.raises(WeightsError, match=r"a\.onnx holds an upscaler, expected a whole chain"):
        ChainEngine(upscaler)
