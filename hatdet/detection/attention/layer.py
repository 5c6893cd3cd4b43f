"""What every attention layer of a YOLO model file has in common: its width, its row, its optional gate."""

from __future__ import annotations

from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatdet.blocks.attention import tracing

__all__ = ["AttentionLayer", "checked_width", "heads_for", "is_positive", "pad_bottom_right"]


def checked_width(name: str, dim: object) -> int:
    """Return `dim` if it is a width in channels.

    Raises:
        ValueError: it is missing, or no positive whole number.
    """
    if dim is None:
        raise ValueError(f"{name} needs its width as first argument: write c2 in the row, as in [-1, 1, {name}, [c2]]")
    if not is_positive(dim):
        raise ValueError(f"the first argument of {name} must be its width in channels (c2 in a row), got {dim!r}")
    return dim


def is_positive(number: object) -> TypeGuard[int]:
    """Whether it is a whole number from 1 up; True and False are none."""
    return isinstance(number, int) and not isinstance(number, bool) and number > 0


def heads_for(dim: int, head_width: int = 32) -> int:
    """The largest number of heads that divides `dim` and leaves each of them `head_width` channels or more."""
    return max(heads for heads in range(1, max(1, dim // head_width) + 1) if dim % heads == 0)


class AttentionLayer(nn.Module):
    """A layer that maps a feature map to one of the same shape, `(b, dim, h, w)` to `(b, dim, h, w)`.

    A row of a model file names it with `c2` for its width, which Ultralytics replaces by the scaled width of the row
    above: `[-1, 1, HaloAttention, [c2, 2, 1]]`. A subclass implements `attend`.

    Args:
        dim: Channels of the input and of the output.
        residual: Add the layer to its input through a gate, one number a channel, that starts at zero: the layer is the
            identity at first, so that pretrained weights around it still fit. Without it the layer stands in series.

    Raises:
        ValueError: `dim` is missing or is no positive whole number.
    """

    gate: nn.Parameter | None

    def __init__(self, dim: int | None, residual: bool = False) -> None:
        super().__init__()
        self._set_width(checked_width(type(self).__name__, dim), residual)

    def _set_width(self, dim: int, residual: bool) -> None:
        """The part of the constructor that comes after `nn.Module`'s."""
        if not isinstance(residual, bool):
            raise ValueError(f"residual of {type(self).__name__} must be True or False, got {residual!r}")
        self.dim = dim
        self.register_parameter("gate", nn.Parameter(torch.zeros(dim)) if residual else None)

    def forward(self, x: Tensor) -> Tensor:
        if not tracing():
            self._check_row(x)
        y = self.attend(x)
        return y if self.gate is None else x + self.gate.view(1, -1, 1, 1) * y

    def attend(self, x: Tensor) -> Tensor:
        """The layer without its gate. Shape: `(b, dim, h, w)` to the same, h and w from 1 up."""
        raise NotImplementedError

    def _check_row(self, x: Tensor) -> None:
        """Refuse a row whose `c2` is not the width of what it reads. Ultralytics runs every model once when built."""
        name = type(self).__name__
        source, index = getattr(self, "f", -1), getattr(self, "i", None)  # set by Ultralytics' parse_model
        if source != -1 and (index is None or source != index - 1):
            raise ValueError(
                f"row {index} takes {name} from {source}: an attention row must read the row above it (-1), "
                "whose width is what c2 stands for"
            )
        if x.shape[1] != self.dim:
            raise ValueError(
                f"{name} was built for {self.dim} channels and got {x.shape[1]}: its first argument must be the width "
                f"of its input, which is c2 in a row, as in [-1, 1, {name}, [c2]]"
            )

    def _check_divides(self, parts: int, what: str) -> None:
        """Raise a ValueError unless `parts`, such as the number of heads, is positive and divides the width."""
        if not is_positive(parts) or self.dim % parts:
            raise ValueError(
                f"{what} of {type(self).__name__} must be a positive whole number that divides its width {self.dim}, "
                f"got {parts!r}"
            )


def pad_bottom_right(x: Tensor, multiple: int) -> Tensor:
    """Return `x`, `(b, c, h, w)`, with zeros on the right and the bottom up to the next multiple of both sides.

    Without a branch on the size, so that a traced model pads whatever size it is given.
    """
    h, w = x.shape[-2], x.shape[-1]
    return F.pad(x, (0, (multiple - w % multiple) % multiple, 0, (multiple - h % multiple) % multiple))
