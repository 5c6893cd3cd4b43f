"""Graphs: what is computed elsewhere, and how it is recorded (ONNX, TorchScript)."""

from __future__ import annotations

import copy
import io
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.jit import TracerWarning  # type: ignore[attr-defined]

from hatdet.core.errors import OptionsError
from hatdet.deploy.cards import IMAGE, KEY, Card, to_json
from hatdet.detection.letterbox import PADDING
from hatdet.detection.yolo import YoloDetector

__all__ = ["OPSET", "ChainGraph", "onnx_bytes", "torchscript_bytes"]

OPSET = 18
Shape = Sequence[int | str]
CLASS_OFFSET = 7680  # moves the boxes of one class away from those of another, as Ultralytics' NMS does


class ChainGraph(nn.Module):
    """`run_chain` with a network over the whole image, as one graph without a branch on the image's size.

    Shape: `(1, 3, h, w)`, RGB in [0, 1], any h and w from 1 for which the upscaled image fits the detector's canvas;
    to `(n, 6)`: x1, y1, x2, y2 in pixels of the image, confidence, class; the most confident first.
    """

    def __init__(self, network: nn.Module, detector: YoloDetector, scale: int, window: int) -> None:
        super().__init__()
        self.network = network
        self.model = copy.deepcopy(detector.model)
        self.scale, self.window, self.stride = scale, window, detector.stride
        self.confidence, self.iou, self.most = detector.confidence, detector.iou, detector.max_detections
        self.classes = len(detector.class_names)
        self.end2end = bool(getattr(detector.model, "end2end", False))
        self.candidates = 0  # an end-to-end head's own limit
        for head in self.model.modules():
            if hasattr(head, "export") and hasattr(head, "postprocess"):
                head.export = head.dynamic = True  # type: ignore[assignment] # anchors follow the size of the map
                if self.end2end:  # its choice of the best has a number of anchors in it: it is made below
                    self.candidates = int(cast(int, head.max_det))
                    head.postprocess = _as_they_are  # type: ignore[assignment]

    def forward(self, image: Tensor) -> Tensor:
        h, w = image.shape[2:]
        seen = self._upscaled(image)
        # The letterbox: grey around it, up to whole strides.
        spare_h, spare_w = -(h * self.scale) % self.stride, -(w * self.scale) % self.stride
        top, left = spare_h // 2, spare_w // 2
        predictions = self.model(F.pad(seen, (left, spare_w - left, top, spare_h - top), value=PADDING))
        if isinstance(predictions, tuple):
            predictions = predictions[0]
        rows = self._chosen(predictions[0]) if self.end2end else self._suppressed(predictions[0].T)
        offset = torch.stack([_number(edge) for edge in (left, top, left, top)]).to(rows.dtype)
        limit = torch.stack([_number(side) for side in (w, h, w, h)]).to(rows.dtype)
        xyxy = torch.minimum(((rows[:, :4] - offset) / self.scale).clamp(min=0), limit)
        return torch.cat([xyxy, rows[:, 4:]], dim=1)

    def _upscaled(self, image: Tensor) -> Tensor:
        """The upscaled image, rounded to 8 bits. The network pads too, but by branches on the size."""
        h, w = image.shape[2:]
        rows, columns = _padding_index(h, self.window, image), _padding_index(w, self.window, image)
        larger = self.network(image[:, :, rows][:, :, :, columns])[:, :, : h * self.scale, : w * self.scale]
        return cast(Tensor, larger.clamp(0, 1).mul(255).add(0.5).floor().div(255))

    def _suppressed(self, predictions: Tensor) -> Tensor:
        """Rows of boxes after class-aware NMS. Shape: `(anchors, 4 + classes)` to `(n, 6)`."""
        boxes, scores = predictions[:, :4], predictions[:, 4 : 4 + self.classes]
        centre, half = boxes[:, :2], boxes[:, 2:] / 2
        boxes = torch.cat([centre - half, centre + half], dim=1)
        confidence, class_id = scores.max(dim=1)
        apart = boxes + CLASS_OFFSET * class_id[:, None].to(boxes.dtype)
        kept = _Nms.apply(apart, confidence, self.confidence, self.iou, self.most)
        return torch.cat([boxes[kept], confidence[kept, None], class_id[kept, None].to(boxes.dtype)], dim=1)

    def _chosen(self, predictions: Tensor) -> Tensor:
        """Rows of boxes of an end-to-end head, as its own `postprocess` chooses them. Shapes as above, xyxy."""
        boxes, scores = predictions[:, :4], predictions[:, 4 : 4 + self.classes]
        best = scores.amax(dim=1).sort(descending=True)[1][: self.candidates]
        confidence, index = scores[best].flatten().sort(descending=True)  # of all classes together, as many again
        confidence, index = confidence[: best.shape[0]], index[: best.shape[0]]
        class_id = (index % self.classes).to(boxes.dtype)
        rows = torch.cat([boxes[best][index // self.classes], confidence[:, None], class_id[:, None]], dim=1)
        return rows[rows[:, 4] > self.confidence][: self.most]


def _as_they_are(predictions: Tensor) -> Tensor:
    return predictions


def _number(value: int | Tensor) -> Tensor:
    """A size as a tensor: under tracing it is one already, and a copy of it would be a constant."""
    return value if isinstance(value, Tensor) else torch.tensor(value)


def _padding_index(side: int | Tensor, multiple: int, like: Tensor) -> Tensor:
    """Which row (column) of an image stands where after `pad_to_multiple`, without a branch on the side."""
    amount = -side % multiple
    index = torch.arange(side + amount, device=like.device)  # type: ignore[arg-type]
    last = side - 1
    return torch.where(_number(amount < side), last - (index - last).abs(), torch.minimum(index, _number(last)))


class _Nms(torch.autograd.Function):
    """Indices of the boxes that greedy suppression keeps, the most confident first; ONNX has an operator for it."""

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, confidence: float, iou: float, most: int) -> Tensor:
        candidates = (scores > confidence).nonzero()[:, 0]
        kept = torchvision.ops.nms(boxes[candidates], scores[candidates], iou)[:most]
        return candidates[kept]

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, confidence: float, iou: float, most: int) -> Any:
        def constant(value: Any) -> Any:
            return g.op("Constant", value_t=torch.tensor(value))

        selected = g.op(
            "NonMaxSuppression",
            g.op("Unsqueeze", boxes, constant([0])),
            g.op("Unsqueeze", scores, constant([0, 1])),
            constant([most]),
            constant([float(iou)]),
            constant([float(confidence)]),
        )
        return g.op("Gather", selected, constant(2), axis_i=1)  # rows of batch, class, index


def onnx_bytes(graph: nn.Module, example: Tensor, takes: Shape, output: str, gives: Shape, card: Card) -> bytes:
    """The graph as an ONNX file with its card in the metadata.

    Args:
        graph: in eval mode, on the CPU.
        example: an input, to record the graph with.
        takes: the shape of the input; a dimension that is a name may have any size.
        output: the name of what comes out.
        gives: the shape of the output.
        card: what the file is to say about itself.

    Raises:
        OptionsError: the package onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise OptionsError("writing ONNX needs a package more: pip install 'hatdet[export]'") from error
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), _recording():
        path = Path(folder, "graph.onnx")
        torch.onnx.export(
            graph,
            (example,),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[IMAGE],
            output_names=[output],
            dynamic_axes={
                name: {axis: size for axis, size in enumerate(shape) if isinstance(size, str)}
                for name, shape in ((IMAGE, takes), (output, gives))
            },
        )
        model = onnx.load(path)
    for dimension, size in zip(model.graph.output[0].type.tensor_type.shape.dim, gives, strict=True):
        if isinstance(size, int):
            dimension.dim_value = size  # the exporter names what it did not work out
    onnx.helper.set_model_props(model, {KEY: to_json(card)})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def torchscript_bytes(graph: nn.Module, example: Tensor, card: Card) -> bytes:
    """The graph as a TorchScript file with its card beside the code; arguments as of `onnx_bytes`."""
    buffer = io.BytesIO()
    with torch.no_grad(), _recording():
        traced = torch.jit.trace(graph, example, check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, buffer, _extra_files={KEY: to_json(card)})
    return buffer.getvalue()


@contextmanager
def _recording() -> Iterator[None]:
    """Without the warnings that recording a graph is known for. Others are shown."""
    with warnings.catch_warnings():
        # PyTorch would rather have its newer exporters used.
        warnings.filterwarnings("ignore", "You are using the legacy TorchScript-based ONNX export", DeprecationWarning)
        warnings.filterwarnings("ignore", "The feature will be removed", DeprecationWarning)
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
        # An optimisation that PyTorch leaves to the runtime.
        warnings.filterwarnings("ignore", "Constant folding - Only steps=1", UserWarning)
        # The network asks whether there is something to pad. There is not, whatever the size: it was padded before.
        warnings.filterwarnings("ignore", "Converting a tensor", TracerWarning, r"hatdet\.sr\.hat_arch")
        yield
