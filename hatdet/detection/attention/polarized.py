"""Polarized self-attention. Not Ultralytics' PSA, which is the partial self-attention of YOLOv10.

H. Liu et al., "Polarized Self-Attention: Towards High-quality Pixel-wise Regression", 2021 (arXiv 2107.00782).

One branch gives a weight for each channel, from all pixels; the other a weight for each pixel, from all channels.

    parallel:    x ─┬─ x(channel weights) ─(+)─        sequential:   x ─ x(channel weights) ─ x(pixel weights) ─
                    └─ x(pixel weights) ────┘

Names of parameters and numbers are those of the authors' code, with which their models were trained. For the pixel
weights the paper has a softmax over the channels of the pooled query; that code has one over the pixels instead: of the
product in the parallel form, of the values in the sequential one.
"""

from __future__ import annotations

from torch import Tensor, nn

from hatdet.detection.attention.layer import AttentionLayer
from hatdet.detection.attention.registration import AttentionModule, register

__all__ = ["PolarizedSelfAttention"]


class PolarizedSelfAttention(AttentionLayer):
    """Weighs each channel by a summary of all pixels, and each pixel by a summary of all channels.

    Shape: `(b, dim, h, w)` to the same.

    Args:
        dim: Channels, `c2` in a row. From 2 up, in sequential mode from 16 up: there a layer norm over `dim // 8`
            channels would else see a single number and pass nothing on.
        mode: "parallel": both branches read the input, and their outputs are added. "sequential": the pixel branch
            reads what the channel branch wrote. The authors' `PSA_p` and `PSA_s`.
        residual: Add the layer to its input through a gate that starts at zero.

    Raises:
        ValueError: An argument is not what it must be.
    """

    def __init__(self, dim: int | None = None, mode: str = "parallel", residual: bool = False) -> None:
        super().__init__(dim, residual)
        if mode not in ("parallel", "sequential"):
            raise ValueError(f"mode of PolarizedSelfAttention must be 'parallel' or 'sequential', got {mode!r}")
        least = 2 if mode == "parallel" else 16
        if self.dim < least:
            raise ValueError(f"a {mode} PolarizedSelfAttention needs a width of at least {least}, got {self.dim}")
        self.mode = mode
        half, eighth = self.dim // 2, self.dim // 2 // 4
        self.conv_q_right = nn.Conv2d(self.dim, 1, 1, bias=False)
        self.conv_v_right = nn.Conv2d(self.dim, half, 1, bias=False)
        self.conv_up: nn.Module = (
            nn.Conv2d(half, self.dim, 1, bias=False)
            if mode == "parallel"
            else nn.Sequential(
                nn.Conv2d(half, eighth, 1), nn.LayerNorm([eighth, 1, 1]), nn.ReLU(), nn.Conv2d(eighth, self.dim, 1)
            )
        )
        self.conv_q_left = nn.Conv2d(self.dim, half, 1, bias=False)
        self.conv_v_left = nn.Conv2d(self.dim, half, 1, bias=False)
        for conv in (self.conv_q_right, self.conv_v_right, self.conv_q_left, self.conv_v_left):
            nn.init.kaiming_normal_(conv.weight)

    def attend(self, x: Tensor) -> Tensor:
        by_channel = x * self._channel_weights(x)
        if self.mode == "parallel":
            return by_channel + x * self._pixel_weights(x)
        return by_channel * self._pixel_weights(by_channel)

    def _channel_weights(self, x: Tensor) -> Tensor:
        """Weights between 0 and 1, `(b, dim, h, w)` to `(b, dim, 1, 1)`."""
        attention = self.conv_q_right(x).flatten(2).softmax(-1)  # (b, 1, h w)
        context = self.conv_v_right(x).flatten(2) @ attention.transpose(1, 2)  # (b, dim / 2, 1)
        weights: Tensor = self.conv_up(context.unsqueeze(-1)).sigmoid()
        return weights

    def _pixel_weights(self, x: Tensor) -> Tensor:
        """Weights between 0 and 1, `(b, dim, h, w)` to `(b, 1, h, w)`."""
        # The mean is taken before the convolution, where it costs least: a 1x1 convolution commutes with it.
        query = self.conv_q_left(x.mean((2, 3), keepdim=True)).flatten(2).transpose(1, 2)  # (b, 1, dim / 2)
        values = self.conv_v_left(x).flatten(2)  # (b, dim / 2, h w)
        weights: Tensor = (query @ values).softmax(-1) if self.mode == "parallel" else query @ values.softmax(-1)
        return weights.reshape(-1, 1, x.shape[2], x.shape[3]).sigmoid()


register(
    AttentionModule(
        cls=PolarizedSelfAttention,
        summary="polarized self-attention: all pixels weigh each channel, all channels weigh each pixel",
        paper="H. Liu et al., Polarized Self-Attention, 2021 (arXiv 2107.00782)",
        origin="DeLightCMU/PSA, PSA_p and PSA_s (no licence found; only its parameter names are used)",
        constraints="c2 of at least 2, of at least 16 in sequential mode",
    )
)
