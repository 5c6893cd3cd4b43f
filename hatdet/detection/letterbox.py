"""How an image is put on the detector's canvas, and where what is found there is in the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["PADDING", "Letterbox", "rounded"]

PADDING = 114 / 255  # the grey that YOLO models are trained with


class _Rounding(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, pixels: Tensor, levels: int) -> Tensor:
        return pixels.mul(levels).round().div(levels)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def rounded(pixels: Tensor, levels: int) -> Tensor:
    """Values in [0, 1] to the nearest multiples of `1 / levels`; gradients pass unchanged ("straight through")."""
    return cast(Tensor, _Rounding.apply(pixels, levels))


@dataclass(frozen=True)
class Letterbox:
    """How an image of `size_hw` is put on the detector's canvas: resized to `resized_hw`, grey around it.

    A coordinate on the canvas is `(x - left) * width / resized width` in the image, exactly.
    """

    size_hw: tuple[int, int]
    resized_hw: tuple[int, int]
    top: int
    left: int
    canvas_hw: tuple[int, int]

    @classmethod
    def fit(cls, size_hw: tuple[int, int], long_side: int | None, stride: int) -> Letterbox:
        """The smallest canvas of whole strides around the image, resized so that its long side is `long_side`.

        Without a `long_side` the image keeps its size. Rounding and placing as Ultralytics' predictor does.
        """
        gain = 1.0 if long_side is None else long_side / max(size_hw)
        h, w = (max(1, round(side * gain)) for side in size_hw)
        spare_h, spare_w = -h % stride, -w % stride
        top, left = round(spare_h / 2 - 0.1), round(spare_w / 2 - 0.1)
        return cls(size_hw, (h, w), top, left, (h + spare_h, w + spare_w))

    def apply(self, pixels: Tensor) -> Tensor:
        """`(3, h, w)` or `(b, 3, h, w)` to `(b, 3, H, W)`: bilinear without antialias, rounded to 8 bits, as the
        detector's training. Gradients pass the rounding as if it were none.
        """
        batch = pixels if pixels.ndim == 4 else pixels[None]
        if self.resized_hw != self.size_hw:
            batch = F.interpolate(batch, self.resized_hw, mode="bilinear", align_corners=False)
            batch = rounded(batch, 255)
        (h, w), (canvas_h, canvas_w) = self.resized_hw, self.canvas_hw
        around = (self.left, canvas_w - w - self.left, self.top, canvas_h - h - self.top)
        return F.pad(batch, around, value=PADDING)

    def undo_points(self, points: Tensor) -> Tensor:
        """Points on the canvas to points in the image. Shape: `(..., 2)` to the same."""
        (h, w), (resized_h, resized_w) = self.size_hw, self.resized_hw
        return (points - points.new_tensor([self.left, self.top])) * points.new_tensor([w / resized_w, h / resized_h])

    def place(self, xyxy: Tensor) -> Tensor:
        """Boxes in the image to boxes on the canvas. Shape: `(n, 4)` to the same."""
        (h, w), (resized_h, resized_w) = self.size_hw, self.resized_hw
        offset = xyxy.new_tensor([self.left, self.top, self.left, self.top])
        return xyxy * xyxy.new_tensor([resized_w / w, resized_h / h, resized_w / w, resized_h / h]) + offset

    def undo(self, xyxy: Tensor) -> Tensor:
        """Boxes on the canvas to boxes in the image. Shape: `(n, 4)` to the same."""
        return self.undo_points(xyxy.reshape(-1, 2, 2)).reshape(-1, 4)
