"""A detector as a function that gradients pass: what an upscaler is trained with.

Its picture, letterbox and normalisation are those of `YoloDetector`. It is a judge and not a pupil: its parameters get
no gradient, its batch norms keep their statistics, whatever mode it is asked to be in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

import hatdet.detection.ultralytics_setup  # noqa: F401 (before ultralytics)
from hatdet.core.errors import WeightsError
from hatdet.core.fetch import Progress
from hatdet.detection.letterbox import Letterbox
from hatdet.detection.weights import find_detector, load_model

__all__ = ["Boxes", "DifferentiableDetector", "Seen", "load_differentiable"]


@dataclass(frozen=True, eq=False)
class Boxes:
    """Labelled objects of a batch of images.

    Attributes:
        image: `(n,)` int64, which image of the batch.
        class_id: `(n,)` int64, the detector's.
        xyxy: `(n, 4)` float32, pixels of the image.
    """

    image: Tensor
    class_id: Tensor
    xyxy: Tensor

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True, eq=False)
class Seen:
    """What a detector makes of a batch of images.

    Attributes:
        features: the maps that its head reads, P3 to P5, `(b, c, H / stride, W / stride)` each.
        predictions: what the head says of them, as Ultralytics' losses take it.
        view: how the images were put on the canvas.
        images: how many there are.
    """

    features: Sequence[Tensor]
    predictions: Any
    view: Letterbox
    images: int


class DifferentiableDetector(nn.Module):
    """An Ultralytics detection model (YOLOv8, YOLO11, YOLOv10, YOLO26 and their like), unfused, behind a letterbox.

    Computes in float32 under any autocast.

    Attributes:
        name: for reports.
        class_names: by id.

    Raises:
        WeightsError: a model whose head is not a YOLO's, so that it has no such loss.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        from ultralytics.nn.modules.head import Detect
        from ultralytics.utils import DEFAULT_CFG_DICT, IterableSimpleNamespace

        known = cast(Any, model)
        head = known.model[-1]
        if not isinstance(head, Detect) or getattr(head, "cv2", None) is None:
            raise WeightsError(f"{name} cannot train an upscaler: expected a YOLO detection head as it was trained")
        # Loaded models have a dict, where losses look up attributes: box 7.5, cls 0.5, dfl 1.5 of Ultralytics' own.
        known.args = IterableSimpleNamespace(**DEFAULT_CFG_DICT)
        self.model = model.float().eval().requires_grad_(False)
        self.name = name
        self.class_names: Mapping[int, str] = {int(key): str(value) for key, value in known.names.items()}
        self.stride = max(int(known.stride.max()), 32)
        self._criterion: Any = None

    def train(self, mode: bool = True) -> DifferentiableDetector:
        """Stays in eval mode: in training mode batch norms would follow the batches."""
        del mode
        return super().train(False)

    def _apply(self, fn: Any, recurse: bool = True) -> DifferentiableDetector:
        """Moved to a device: the loss holds tensors of its own, so it is made anew; so are the cached anchors."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._criterion = None
        cast(Any, self.model).model[-1].shape = None
        return self

    def view_of(self, size_hw: tuple[int, int]) -> Letterbox:
        """How `YoloDetector` shows its model an upscaled image of that size: its pixels, grey around them."""
        return Letterbox.fit(size_hw, None, self.stride)

    def look(self, pixels: Tensor, view: Letterbox | None = None) -> Seen:
        """Run the model.

        Args:
            pixels: `(b, 3, h, w)`, RGB in [0, 1].
            view: how they come onto the canvas, whose sides are multiples of the stride; by default `view_of`.
        """
        view = self.view_of((pixels.shape[2], pixels.shape[3])) if view is None else view
        if any(side % self.stride for side in view.canvas_hw):  # boxes of the wrong scale would come, and no error
            raise ValueError(f"sides of the canvas must be multiples of {self.stride}, got {view.canvas_hw}")
        with torch.autocast(pixels.device.type, enabled=False):
            predictions = self.model(view.apply(pixels.float()))[1]
        branch = predictions.get("one2many", predictions)
        return Seen(branch["feats"], predictions, view, len(pixels))

    def loss(self, seen: Seen, boxes: Boxes) -> Tensor:
        """Ultralytics' own loss of the labelled boxes, of the head that is used at inference, per image.

        A number; images without boxes count by their classes alone. The assignment of boxes to predictions is not
        differentiated (nor is it in Ultralytics).
        """
        xyxy = seen.view.place(boxes.xyxy)
        canvas_h, canvas_w = seen.view.canvas_hw
        centre, size = (xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]
        batch = {
            "batch_idx": boxes.image.float(),
            "cls": boxes.class_id.float()[:, None],
            "bboxes": torch.cat([centre, size], 1) / xyxy.new_tensor([canvas_w, canvas_h, canvas_w, canvas_h]),
        }
        with torch.autocast(xyxy.device.type, enabled=False):
            total, _ = self.criterion(seen.predictions, batch)
        return cast(Tensor, total.sum() / seen.images)

    @property
    def criterion(self) -> Any:
        """Ultralytics' loss, of one of two heads where there are two."""
        if self._criterion is None:
            model = cast(Any, self.model)
            self._criterion = model.init_criterion()
            if hasattr(self._criterion, "one2one"):
                used = 1.0 if model.model[-1].end2end else 0.0
                self._criterion.o2m, self._criterion.o2o = 1.0 - used, used
        return self._criterion

    @property
    def head(self) -> Literal["one to one", "one to many"]:
        """Which of the heads says the boxes at inference."""
        return "one to one" if cast(Any, self.model).model[-1].end2end else "one to many"


def load_differentiable(weights: str | Path | None, on_fetch: Progress | None = None) -> DifferentiableDetector:
    """Load a detector by a name or a file, as `load_detector` does.

    Raises:
        WeightsError: weights that are not there, damaged, or not a YOLO detection model's.
    """
    path = find_detector(weights, on_fetch)
    return DifferentiableDetector(load_model(path, ("detect",), fuse=False), path.stem)
