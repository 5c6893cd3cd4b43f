"""The chain as one graph: what its detector sees, which boxes come out, at sizes that were never recorded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

import hatdet.detection.ultralytics_setup  # noqa: F401 (before ultralytics)
from hatdet.core.types import Image
from hatdet.deploy.cards import BOXES, IMAGE, KEY, ChainCard, read_card
from hatdet.deploy.graphs import ChainGraph, _padding_index, onnx_bytes
from hatdet.detection.chain import run_chain
from hatdet.detection.letterbox import Letterbox
from hatdet.detection.yolo import YoloDetector
from hatdet.sr.hat_arch import pad_to_multiple
from hatdet.sr.upscalers import HatUpscaler
from tests.deploy.stand_ins import Cells, Fixed, Repeat
from tests.helpers import random_image, tiny_hat

WINDOW = 8
CARD = ChainCard("a", "", "b", "", 2, WINDOW, 32, 2560, 0.25, 0.7, 300, ("dark", "light"), "0")
SIZES = [(1, 1), (9, 70), (40, 33), (100, 90)]  # none is that of the recording


def whole(network: torch.nn.Module) -> HatUpscaler:
    return HatUpscaler(network, 2, "whole", window=WINDOW, tile=1024)


def recorded(network: torch.nn.Module, detector: YoloDetector) -> bytes:
    graph = ChainGraph(network, detector, 2, WINDOW).eval()
    return onnx_bytes(graph, torch.zeros(1, 3, 15, 22), (1, 3, "height", "width"), BOXES, ("boxes", 6), CARD)


def session_of(network: torch.nn.Module, detector: YoloDetector) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(recorded(network, detector), providers=["CPUExecutionProvider"])


def rows_of(session: onnxruntime.InferenceSession, image: Image) -> NDArray[np.float32]:
    (rows,) = session.run(None, {IMAGE: image.pixels[None].numpy()})
    assert rows.shape == (len(rows), 6)
    assert (np.diff(rows[:, 4]) <= 1e-6).all()  # the most confident first
    return rows


def expected_rows(network: torch.nn.Module, detector: YoloDetector, image: Image) -> NDArray[np.float32]:
    found = run_chain(image, whole(network), detector).detections
    return np.c_[found.xyxy, found.confidence, found.class_id].astype(np.float32)


def the_same(a: NDArray[np.float32], b: NDArray[np.float32], within: float) -> bool:
    """Whether the rows are the same, in any order: equally confident boxes have none."""
    if len(a) != len(b):
        return False
    far = np.abs(a[:, None] - b[None]).max(2, initial=0) > within
    return not (len(a) and (far.all(0).any() or far.all(1).any()))


@pytest.mark.parametrize("multiple", [8, 16])
def test_padding_by_an_index_is_the_networks_padding(multiple):
    for side in range(1, 41):
        x = torch.arange(side, dtype=torch.float32)[None, None, None].expand(1, 1, multiple, side)
        expected = pad_to_multiple(x, multiple)
        assert torch.equal(x[..., _padding_index(side, multiple, x)], expected), side


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_the_detector_sees_the_canvas_of_the_chain(h, w):
    network, image = tiny_hat(), random_image(h, w)
    detector = YoloDetector(Cells(), "cells")
    graph = ChainGraph(network, detector, 2, WINDOW).eval()
    with torch.no_grad():
        graph(image.pixels[None])
    seen = whole(network)(image)
    canvas = Letterbox.fit((2 * h, 2 * w), None, 32).apply(seen.pixels)
    assert float((graph.model.seen[0] - canvas).abs().max()) < 1e-6


@pytest.fixture(scope="module", params=[{}, {"iou": 0.2}, {"max_detections": 3}, {"confidence": 1.0}], ids=str)
def chain(request):
    network, detector = tiny_hat(conv_scale=0.01), YoloDetector(Cells(), "cells", **request.param)
    return network, detector, session_of(network, detector)


def test_boxes_of_the_recorded_graph_are_those_of_the_chain(chain):
    network, detector, session = chain
    counts = []
    for h, w in SIZES:
        image = random_image(h, w, seed=h)
        expected, found = expected_rows(network, detector, image), rows_of(session, image)
        assert the_same(found, expected, 0.02), (h, w)
        counts.append(len(expected))
    if detector.confidence == 1:
        assert counts == [0, 0, 0, 0]
    elif detector.max_detections == 3:
        assert counts == [1, 3, 3, 3]
    else:
        assert counts[0] == 1
        assert counts[-1] > 10


def test_thresholds_matter(chain):
    """So that the test above can fail: another threshold gives other boxes."""
    network, detector, session = chain
    image = random_image(100, 90, seed=100)
    found = rows_of(session, image)
    other = replace(detector, iou=0.05 if detector.iou > 0.5 else 0.9, max_detections=300, confidence=0.25)
    assert not the_same(found, expected_rows(network, other, image), 0.02)


@pytest.mark.parametrize(("confidence", "expected"), [(0.1, np.zeros((0, 6))), (0.9, [[0, 1, 6, 10, 0.9, 1]])])
def test_no_box_and_one_box(confidence, expected):
    """A canvas of 96x64 around 80x52 pixels of 40x26: 6 above, 8 to the left."""
    session = session_of(Repeat(), YoloDetector(Fixed([[8, 8, 20, 26, confidence, 1]]), "fixed"))
    found = rows_of(session, random_image(26, 40))
    assert found.shape == np.shape(expected)
    assert np.allclose(found, expected, atol=1e-5)


def test_boxes_of_different_classes_do_not_suppress_each_other_and_boxes_end_at_the_border():
    rows = [[8, 6, 40, 40, 0.9, 0], [8, 6, 40, 40, 0.8, 1], [8, 6, 40, 41, 0.7, 1], [-50, -50, 500, 500, 0.6, 0]]
    session = session_of(Repeat(), YoloDetector(Fixed(rows), "fixed"))
    found = rows_of(session, random_image(26, 40))
    expected = [[0, 0, 16, 17, 0.9, 0], [0, 0, 16, 17, 0.8, 1], [0, 0, 40, 26, 0.6, 0]]
    assert np.allclose(found, expected, atol=1e-5)


TINY_YOLO = {
    "nc": 3,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 4]], [-1, 1, "Conv", [16, 3, 2]]],
    "head": [[[1, 2], 1, "Detect", ["nc"]]],
}


def tiny_yolo(end2end: bool) -> torch.nn.Module:
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    model = DetectionModel({**TINY_YOLO, "end2end": end2end, "reg_max": 4}, ch=3, verbose=False)
    for name, parameter in model.named_parameters():
        if name.endswith("weight") and parameter.ndim > 1 and "dfl" not in name:
            parameter.data.normal_(0, 2 / parameter[0].numel() ** 0.5)
    head = model.model[-1]
    for convolutions in (head.cv3, getattr(head, "one2one_cv3", None) or ()):
        for sequence in convolutions:
            sequence[-1].bias.data.fill_(0.0)
    model.end2end = end2end
    model.names = {0: "a", 1: "b", 2: "c"}
    return model.eval().fuse(verbose=False).requires_grad_(False)


@pytest.mark.parametrize("end2end", [False, True])
def test_heads_of_ultralytics_with_and_without_nms(end2end):
    model = tiny_yolo(end2end)
    assert model.end2end is end2end
    detector = YoloDetector(model, "tiny", iou=0.5)
    session = session_of(Repeat(), detector)
    assert ("NonMaxSuppression" in operators(detector)) is not end2end
    for h, w in SIZES:
        image = random_image(h, w, seed=h)
        expected = expected_rows(Repeat(), detector, image)
        assert len(expected) > 0
        assert the_same(rows_of(session, image), expected, 1e-3), (h, w)


def operators(detector: YoloDetector) -> set[str]:
    return {node.op_type for node in onnx.load_from_string(recorded(Repeat(), detector)).graph.node}


def test_recording_leaves_the_detector_as_it_was():
    model = tiny_yolo(end2end=True)
    before = model(torch.zeros(1, 3, 64, 64))[0]
    ChainGraph(Repeat(), YoloDetector(model, "tiny"), 2, WINDOW)
    assert torch.equal(model(torch.zeros(1, 3, 64, 64))[0], before)


def test_the_card_is_in_the_file():
    session = session_of(Repeat(), YoloDetector(Cells(), "cells"))
    assert read_card(session.get_modelmeta().custom_metadata_map[KEY], None) == CARD
    (given,), (found,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape, found.name, found.shape) == (IMAGE, [1, 3, "height", "width"], BOXES, ["boxes", 6])
