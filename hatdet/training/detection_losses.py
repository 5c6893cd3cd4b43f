"""Losses of an upscaler that are about what a detector makes of its pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hatdet.detection.differentiable import Boxes, DifferentiableDetector, Seen
from hatdet.imaging.resize import reduced_batch

__all__ = ["DetectorBoxLoss", "DetectorFeatureLoss", "ReductionLoss"]


class DetectorFeatureLoss(nn.Module):
    """How far a frozen detector's feature maps of the upscaled image are from those of the reference.

    The mean absolute difference of each map, over the mean magnitude of the reference's; their mean. It needs no
    labels. J. Kim et al., "Beyond Image Super-Resolution for Image Recognition with Task-Driven Perceptual Loss",
    CVPR 2024 (SR4IR), there without the division.

    Args:
        loss_weight: of the loss.
        levels: which of the maps that the head reads, 3 to 5 for P3 to P5.
        relative: divide each map's difference by the reference's magnitude.
    """

    def __init__(self, loss_weight: float = 1.0, levels: Sequence[int] = (3, 4, 5), relative: bool = True) -> None:
        super().__init__()
        self.loss_weight, self.levels, self.relative = loss_weight, tuple(levels), relative

    def forward(self, seen: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        """Maps of the upscaled image and of the reference, P3 first: a number."""
        distances = []
        for level in self.levels:
            if not 3 <= level < 3 + len(seen):
                raise ValueError(f"levels must be from 3 to {2 + len(seen)}, got {level}")
            ours, theirs = seen[level - 3], wanted[level - 3]
            distance = (ours - theirs).abs().mean()
            distances.append(distance / theirs.abs().mean() if self.relative else distance)
        return self.loss_weight * torch.stack(distances).mean()


class DetectorBoxLoss(nn.Module):
    """The detector's own loss of the labelled boxes in the upscaled image, per image.

    M. Haris, G. Shakhnarovich, N. Ukita, "Task-Driven Super Resolution: Object Detection in Low-resolution Images",
    2018, https://arxiv.org/abs/1803.11316. Most of it is there on the reference, too: a weight of 1 outvotes every
    other loss by hundreds.

    Args:
        loss_weight: of the loss.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, detector: DifferentiableDetector, seen: Seen, boxes: Boxes) -> Tensor:
        """What a detector saw, and the boxes of its classes: a number."""
        return self.loss_weight * detector.loss(seen, boxes)


class ReductionLoss(nn.Module):
    """How far the upscaled image, reduced again, is from the low-resolution one: L1.

    What an upscaler adds may not contradict what it was given.

    Args:
        loss_weight: of the loss.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, output: Tensor, lq: Tensor) -> Tensor:
        """`(b, 3, scale * h, scale * w)` and `(b, 3, h, w)`: a number."""
        factor = output.shape[2] // lq.shape[2]
        return self.loss_weight * (reduced_batch(output.float(), factor) - lq).abs().mean()
