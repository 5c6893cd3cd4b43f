"""EMA, efficient multi-scale attention. Not the moving average of weights that Ultralytics calls ModelEMA.

D. Ouyang et al., "Efficient Multi-Scale Attention Module with Cross-Spatial Learning", ICASSP 2023 (arXiv 2305.13563).

The channels are cut into groups that share one small network. In each group, with `·` a product over channels:

    wide   = norm(x sigmoid(conv1x1(mean of each row)) sigmoid(conv1x1(mean of each column)))
    near   = conv3x3(x)
    output = x sigmoid(softmax(mean of wide) · near + softmax(mean of near) · wide)

So each branch weighs the channels of the other, which gives one weight a pixel. The norm takes each channel alone: the
mean of `wide` is the norm's bias and its softmax the same for every input, as in the authors' code.

The names of parameters are those of that code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hatdet.detection.attention.layer import AttentionLayer
from hatdet.detection.attention.registration import AttentionModule, register

__all__ = ["EMA"]


class EMA(AttentionLayer):
    """Weighs each pixel of each group of channels, by its row, its column and its neighbours.

    Shape: `(b, dim, h, w)` to the same.

    Args:
        dim: Channels, `c2` in a row.
        factor: Number of groups, a divisor of `dim`. The authors' default is 32; 8 divides every width of a YOLO.
        residual: Add the layer to its input through a gate that starts at zero.

    Raises:
        ValueError: An argument is not what it must be.
    """

    def __init__(self, dim: int | None = None, factor: int = 8, residual: bool = False) -> None:
        super().__init__(dim, residual)
        self._check_divides(factor, "factor")
        channels = self.dim // factor
        self.gn = nn.GroupNorm(channels, channels)
        self.conv1x1 = nn.Conv2d(channels, channels, 1)
        self.conv3x3 = nn.Conv2d(channels, channels, 3, padding=1)

    def attend(self, x: Tensor) -> Tensor:
        h, w = x.shape[2], x.shape[3]
        norm = self.gn
        groups = x.reshape(-1, norm.num_channels, h, w)
        rows = self.conv1x1(groups.mean(3, keepdim=True)).sigmoid()
        columns = self.conv1x1(groups.mean(2, keepdim=True)).sigmoid()
        # Not norm(...), which looks at the size and refuses a single pixel of a single group.
        wide = torch.group_norm(groups * rows * columns, norm.num_groups, norm.weight, norm.bias, norm.eps)
        near = self.conv3x3(groups)
        weights = _channel_weights(wide) @ near.flatten(2) + _channel_weights(near) @ wide.flatten(2)
        weighed: Tensor = groups * weights.reshape(-1, 1, h, w).sigmoid()
        return weighed.reshape(x.shape)


def _channel_weights(x: Tensor) -> Tensor:
    """Softmax over the channels of their means, `(n, c, h, w)` to `(n, 1, c)`."""
    return x.mean((2, 3)).softmax(-1).unsqueeze(1)


register(
    AttentionModule(
        cls=EMA,
        summary="efficient multi-scale attention: rows, columns and a 3x3 neighbourhood weigh each pixel of a group",
        paper="D. Ouyang et al., Efficient Multi-Scale Attention, ICASSP 2023 (arXiv 2305.13563)",
        origin="YOLOonMe/EMA-attention-module (no licence found; only its parameter names are used)",
        constraints="factor divides c2",
    )
)
