"""CPCA, channel prior convolutional attention.

H. Huang et al., "Channel prior convolutional attention for medical image segmentation", 2023 (arXiv 2306.05196).

    x ─ 1x1 ─ GELU ─ channel attention ─┬─ strip convolutions ─ 1x1 ─(x)─ 1x1 ─
                                        └────────────────────────────┘

The strip convolutions are those of MSCA. The names of parameters are those of the authors' code, where the block is
called `RepBlock` and its three 1x1 convolutions are one and the same: they share their weights.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from hatdet.detection.attention.layer import AttentionLayer
from hatdet.detection.attention.msca import depthwise
from hatdet.detection.attention.registration import AttentionModule, register

__all__ = ["CPCA"]


class _ChannelAttention(nn.Module):
    """A weight between 0 and 2 for each channel, from its mean and its maximum. `(b, c, h, w)` to `(b, c, 1, 1)`."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean, maximum = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        return self._weights(mean) + self._weights(maximum)

    def _weights(self, pooled: Tensor) -> Tensor:
        weights: Tensor = self.fc2(F.relu(self.fc1(pooled))).sigmoid()
        return weights


class CPCA(AttentionLayer):
    """Weighs first the channels, by their mean and maximum, then each pixel of each channel by what surrounds it.

    Shape: `(b, dim, h, w)` to the same.

    Args:
        dim: Channels, `c2` in a row.
        channel_attention_reduce: The channel attention has `dim // channel_attention_reduce` hidden neurons. From 1 to
            `dim`. The authors' code calls it `channelAttention_reduce`.
        residual: Add the layer to its input through a gate that starts at zero.

    Raises:
        ValueError: An argument is not what it must be.
    """

    def __init__(self, dim: int | None = None, channel_attention_reduce: int = 4, residual: bool = False) -> None:
        super().__init__(dim, residual)
        reduce = channel_attention_reduce
        if isinstance(reduce, bool) or not isinstance(reduce, int) or not 1 <= reduce <= self.dim:
            raise ValueError(
                "channel_attention_reduce of CPCA must be a whole number from 1 to its width "
                f"{self.dim}, got {reduce!r}"
            )
        self.ca = _ChannelAttention(self.dim, self.dim // reduce)
        self.dconv5_5 = depthwise(self.dim, 5, 5)
        self.dconv1_7 = depthwise(self.dim, 1, 7)
        self.dconv7_1 = depthwise(self.dim, 7, 1)
        self.dconv1_11 = depthwise(self.dim, 1, 11)
        self.dconv11_1 = depthwise(self.dim, 11, 1)
        self.dconv1_21 = depthwise(self.dim, 1, 21)
        self.dconv21_1 = depthwise(self.dim, 21, 1)
        self.conv = nn.Conv2d(self.dim, self.dim, 1)

    def attend(self, x: Tensor) -> Tensor:
        x = F.gelu(self.conv(x))
        x = x * self.ca(x)
        near = self.dconv5_5(x)
        small = self.dconv7_1(self.dconv1_7(near))
        middle = self.dconv11_1(self.dconv1_11(near))
        large = self.dconv21_1(self.dconv1_21(near))
        weights = self.conv(near + small + middle + large)
        y: Tensor = self.conv(x * weights)
        return y


register(
    AttentionModule(
        cls=CPCA,
        summary="channel prior convolutional attention: channel weights, then strip convolutions weigh each pixel",
        paper="H. Huang et al., Channel Prior Convolutional Attention, 2023 (arXiv 2306.05196)",
        origin="Cuthbert-Huang/CPCANet, RepBlock (no licence found; only its parameter names are used)",
        constraints="1 <= channel_attention_reduce <= c2",
    )
)
