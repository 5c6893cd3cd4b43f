"""MSCA, the multi-scale convolutional attention of SegNeXt.

M.-H. Guo et al., "SegNeXt: Rethinking Convolutional Attention Design for Semantic Segmentation", NeurIPS 2022
(arXiv 2209.08575).

    x ─ 5x5 ─┬──────────────────┬─(+)─ 1x1 ─(x)─      all but the last are depthwise
    │        ├─ 1x7  ─ 7x1  ────┤             │
    │        ├─ 1x11 ─ 11x1 ────┤             │
    │        └─ 1x21 ─ 21x1 ────┘             │
    └─────────────────────────────────────────┘

The names of parameters are those of SegNeXt's `spatial_gating_unit`.
"""

from __future__ import annotations

from torch import Tensor, nn

from hatdet.detection.attention.layer import AttentionLayer
from hatdet.detection.attention.registration import AttentionModule, register

__all__ = ["MSCA", "depthwise"]


def depthwise(dim: int, height: int, width: int) -> nn.Conv2d:
    """Return a convolution of each channel alone, with a kernel of odd sides, that keeps the size."""
    return nn.Conv2d(dim, dim, (height, width), padding=(height // 2, width // 2), groups=dim)


class MSCA(AttentionLayer):
    """Weighs each pixel and channel by what surrounds it, as seen through crosses of 7, 11 and 21 pixels.

    Only the weighing, without the 1x1 convolutions and the shortcut that SegNeXt puts around it. The weights are not
    bounded: there is no sigmoid. Shape: `(b, dim, h, w)` to the same.

    Args:
        dim: Channels, `c2` in a row.
        residual: Add the layer to its input through a gate that starts at zero.

    Raises:
        ValueError: `dim` or `residual` is not what it must be.
    """

    def __init__(self, dim: int | None = None, residual: bool = False) -> None:
        super().__init__(dim, residual)
        self.conv0 = depthwise(self.dim, 5, 5)
        self.conv0_1 = depthwise(self.dim, 1, 7)
        self.conv0_2 = depthwise(self.dim, 7, 1)
        self.conv1_1 = depthwise(self.dim, 1, 11)
        self.conv1_2 = depthwise(self.dim, 11, 1)
        self.conv2_1 = depthwise(self.dim, 1, 21)
        self.conv2_2 = depthwise(self.dim, 21, 1)
        self.conv3 = nn.Conv2d(self.dim, self.dim, 1)

    def attend(self, x: Tensor) -> Tensor:
        near = self.conv0(x)
        small = self.conv0_2(self.conv0_1(near))
        middle = self.conv1_2(self.conv1_1(near))
        large = self.conv2_2(self.conv2_1(near))
        weights: Tensor = self.conv3(near + small + middle + large)
        return x * weights


register(
    AttentionModule(
        cls=MSCA,
        summary="multi-scale convolutional attention: strip convolutions of 7, 11 and 21 pixels weigh the input",
        paper="M.-H. Guo et al., SegNeXt, NeurIPS 2022 (arXiv 2209.08575)",
        origin="Visual-Attention-Network/SegNeXt, AttentionModule (Apache-2.0)",
        constraints="none",
    )
)
