"""HAT's blocks as layers of a detector (X. Chen et al., CVPR 2023, arXiv 2205.04437).

`HATBlock` is one residual hybrid attention group (RHAG): some hybrid attention blocks (HAB), an overlapping
cross-attention block (OCAB), a 3x3 convolution, and a residual connection around them. `HAB` and `OCAB` are those
blocks alone. They are the upscaler's own, from `hatdet.blocks.hat_blocks`, under the published parameter names.

A map whose sides are no multiples of the window is extended by reflection on the right and the bottom, as HAT extends
its images, and the result is cropped. The extension takes part in attention like any other pixel: nothing is masked.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from hatdet.blocks import hat_blocks as blocks
from hatdet.blocks.attention import tracing
from hatdet.detection.attention.layer import AttentionLayer, checked_width, heads_for, is_positive
from hatdet.detection.attention.registration import AttentionModule, make_known, register

__all__ = ["HAB", "HAT", "OCAB", "HATBlock"]


class _WindowLayer(AttentionLayer):
    """Takes `(b, c, h, w)` of any size to tokens `(b, h', w', c)` of whole windows, and back."""

    window_size: int
    index_sa: Tensor
    index_oca: Tensor

    def _set_window(self, dim: int, heads: int, window: int, overlap: float, residual: bool) -> None:
        self._set_width(dim, residual)
        self.window_size = window
        self.num_heads = heads
        # Tables that follow from the window: the published checkpoints keep them outside the blocks.
        index_sa = blocks.relative_position_index(window, window)
        index_oca = blocks.relative_position_index(window, window + int(window * overlap))
        self.register_buffer("index_sa", index_sa, persistent=False)
        self.register_buffer("index_oca", index_oca, persistent=False)

    def attend(self, x: Tensor) -> Tensor:
        h, w = x.shape[2], x.shape[3]
        tokens = _reflected(x, self.window_size).permute(0, 2, 3, 1).contiguous()
        return self.attend_tokens(tokens).permute(0, 3, 1, 2)[:, :, :h, :w]

    def attend_tokens(self, tokens: Tensor) -> Tensor:
        raise NotImplementedError


class HATBlock(_WindowLayer, blocks.RHAG):  # type: ignore[misc]  # the forward is the layer's
    """One RHAG of HAT as a layer: `depth` HABs, every second one shifted by half a window, an OCAB, a convolution.

    It has a residual connection of its own. State dict: that of a group (`layers.N.`) of a published HAT.

    Args:
        dim: Channels.
        num_heads: Heads of all its attention; by default one for each 32 channels.
        window_size: Side of the windows in pixels of the feature map, even.
        depth: How many HABs.
        compress_ratio: How much narrower the middle of a channel-attention block is.
        squeeze_factor: How much narrower its squeeze is.
        conv_scale: Weight of the channel-attention branch.
        overlap_ratio: How far OCAB's keys reach beyond the window, in windows.
        mlp_ratio: Width of the MLPs, in widths.
        residual: A gated residual connection around the whole, see `AttentionLayer`.

    Raises:
        ValueError: arguments that do not fit the width or each other.
    """

    def __init__(
        self,
        dim: int | None = None,
        num_heads: int | None = None,
        window_size: int = 8,
        depth: int = 2,
        compress_ratio: int = 3,
        squeeze_factor: int = 30,
        conv_scale: float = 0.01,
        overlap_ratio: float = 0.5,
        mlp_ratio: float = 2.0,
        residual: bool = False,
    ) -> None:
        width, heads = _checked("HATBlock", dim, num_heads, window_size, overlap_ratio, compress_ratio, squeeze_factor)
        if not is_positive(depth):
            raise ValueError(f"depth of HATBlock must be a positive whole number, got {depth!r}")
        habs = [
            blocks.HAB(
                width,
                heads,
                window_size,
                window_size // 2 if i % 2 else 0,
                compress_ratio,
                squeeze_factor,
                conv_scale,
                mlp_ratio,
            )
            for i in range(depth)
        ]
        ocab = blocks.OCAB(width, heads, window_size, overlap_ratio, mlp_ratio=mlp_ratio)
        blocks.RHAG.__init__(self, blocks.AttentionBlocks(habs, ocab, use_checkpoint=False), width)
        self._set_window(width, heads, window_size, overlap_ratio, residual)

    def attend_tokens(self, tokens: Tensor) -> Tensor:
        return blocks.RHAG.forward(self, tokens, self.index_sa, self.index_oca)


class HAB(_WindowLayer, blocks.HAB):  # type: ignore[misc]
    """One hybrid attention block as a layer. `shift_size` is 0, or half a window as in every second block of HAT.

    The other arguments are those of `HATBlock`. It has a residual connection of its own.

    Raises:
        ValueError: arguments that do not fit the width or each other.
    """

    def __init__(
        self,
        dim: int | None = None,
        num_heads: int | None = None,
        window_size: int = 8,
        shift_size: int = 0,
        compress_ratio: int = 3,
        squeeze_factor: int = 30,
        conv_scale: float = 0.01,
        mlp_ratio: float = 2.0,
        residual: bool = False,
    ) -> None:
        width, heads = _checked("HAB", dim, num_heads, window_size, 0.5, compress_ratio, squeeze_factor)
        if not 0 <= shift_size < window_size:
            raise ValueError(f"shift_size of HAB must be from 0 to below its window {window_size}, got {shift_size!r}")
        blocks.HAB.__init__(
            self, width, heads, window_size, shift_size, compress_ratio, squeeze_factor, conv_scale, mlp_ratio
        )
        self._set_window(width, heads, window_size, 0.5, residual)

    def attend_tokens(self, tokens: Tensor) -> Tensor:
        return blocks.HAB.forward(self, tokens, self.index_sa)


class OCAB(_WindowLayer, blocks.OCAB):  # type: ignore[misc]
    """One overlapping cross-attention block as a layer; arguments as of `HATBlock`.

    It has a residual connection of its own.

    Raises:
        ValueError: arguments that do not fit the width or each other.
    """

    def __init__(
        self,
        dim: int | None = None,
        num_heads: int | None = None,
        window_size: int = 8,
        overlap_ratio: float = 0.5,
        mlp_ratio: float = 2.0,
        residual: bool = False,
    ) -> None:
        width, heads = _checked("OCAB", dim, num_heads, window_size, overlap_ratio)
        blocks.OCAB.__init__(self, width, heads, window_size, overlap_ratio, mlp_ratio=mlp_ratio)
        self._set_window(width, heads, window_size, overlap_ratio, residual)

    def attend_tokens(self, tokens: Tensor) -> Tensor:
        return blocks.OCAB.forward(self, tokens, self.index_oca)


class HAT(nn.Module):
    """A row `HAT` is refused: a whole upscaler is no layer of a detector.

    Raises:
        ValueError: always, with what to write instead.
    """

    def __init__(self, *_: Any) -> None:
        raise ValueError(
            "HAT is an upscaler and no layer (as printed in articles the row computes nothing): write HATBlock, as in "
            "[-1, 1, HATBlock, [c2]], for its attention inside the detector, or upscale the image in front of it with "
            "`hatdet detect --upscale`"
        )

    def forward(self, x: Tensor) -> NoReturn:
        raise NotImplementedError


def _checked(
    name: str,
    dim: int | None,
    num_heads: int | None,
    window: int,
    overlap_ratio: float,
    compress_ratio: int = 1,
    squeeze_factor: int = 1,
) -> tuple[int, int]:
    """Width and number of heads of a row, if everything in it fits together."""
    width = checked_width(name, dim)
    heads = heads_for(width) if num_heads is None else num_heads
    if not is_positive(heads) or width % heads:
        raise ValueError(f"num_heads of {name} must be a positive divisor of its width {width}, got {heads!r}")
    if not is_positive(window) or window % 2:
        raise ValueError(f"window_size of {name} must be an even whole number, got {window!r}")
    overlap = window * overlap_ratio
    if overlap <= 0 or overlap % 2:
        raise ValueError(
            f"window_size times overlap_ratio of {name} must be an even whole number (half of it is added on each "
            f"side), got {window} x {overlap_ratio}"
        )
    for what, ratio in (("compress_ratio", compress_ratio), ("squeeze_factor", squeeze_factor)):
        if not 1 <= ratio <= width:
            raise ValueError(f"{what} of {name} must be from 1 to its width {width}, got {ratio!r}")
    return width, heads


def _reflected(x: Tensor, multiple: int) -> Tensor:
    """Extend by reflection on the right and the bottom to whole multiples, whatever the size and the multiple.

    Where the extension is longer than the map the reflection goes back and forth; a single row is repeated.
    """
    for axis in (2, 3):
        side = x.shape[axis]
        if not tracing() and side % multiple == 0:
            continue
        whole = (side + multiple - 1) // multiple * multiple
        position = torch.arange(whole, device=x.device)
        # Of a triangle wave with a period of 2 (side - 1); one row has no period, and clamping leaves it 0.
        last = torch.ones((), dtype=torch.long, device=x.device) * (side - 1)
        folded = position % (2 * last).clamp(min=1)
        x = x.index_select(axis, (last - (folded - last).abs()).clamp(min=0))
    return x


_COMMON: dict[str, Any] = {
    "paper": "Chen et al., CVPR 2023, arXiv 2205.04437",
    "origin": "XPixelGroup/HAT, Apache-2.0",
    "constraints": "num_heads divides the width; window_size even; any map size (reflected to whole windows)",
}
register(
    AttentionModule(
        HATBlock,
        "a residual hybrid attention group of HAT: window, channel and overlapping cross-attention",
        arguments={8: (None, 8, 1, 8), 16: (None, 8, 1, 8), 32: (None, 8, 1, 8)},
        **_COMMON,
    )
)
register(AttentionModule(HAB, "HAT's window attention beside channel attention, then an MLP", **_COMMON))
register(AttentionModule(OCAB, "HAT's overlapping cross-attention, then an MLP", **_COMMON))
make_known(HAT, "HAT")
