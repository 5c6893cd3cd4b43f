"""Networks that a chain can be made of without weights: an exact upscaler, a detector that looks at the pixels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers import FixedBoxes

CELL = 32


class Repeat(nn.Module):
    """Every pixel twice: nothing to round, whatever the runtime."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


class Fixed(FixedBoxes):
    """`FixedBoxes` that can be recorded: it computes nothing, and remembers nothing."""

    def __init__(self, rows: Any) -> None:
        super().__init__(rows)
        self.predictions = super().forward(torch.zeros(1))

    def forward(self, batch: Tensor) -> Tensor:
        return self.predictions


class Cells(nn.Module):
    """A detection model of two classes with one box around each cell of the canvas, moved and sized by its colours.

    Confidences are from 0 to 1 and as different as the cells are; neighbouring boxes overlap.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names = {0: "dark", 1: "light"}
        self.stride = torch.tensor([CELL])
        self.place = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.seen: list[Tensor] = []

    def forward(self, batch: Tensor) -> Tensor:
        if not torch.jit.is_tracing():
            self.seen.append(batch.clone())
        cells = F.avg_pool2d(batch, CELL)
        _, _, h, w = cells.shape
        spread = (40 * (cells - 0.45)).sigmoid().flatten(2)  # (1, 3, h * w), far apart
        x = (torch.arange(w) * CELL + CELL / 2).repeat(h)
        y = (torch.arange(h) * CELL + CELL / 2).repeat_interleave(w)
        red, green, blue = spread.unbind(1)
        boxes = [x + 8 * red, y - 8 * green, 40 + 30 * green, 40 + 30 * red]
        return torch.stack([*boxes, blue, 1 - blue], dim=1)
