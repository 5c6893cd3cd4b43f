"""HaloAttention: each block of a feature map attends to itself and to a margin around it.

A. Vaswani et al., "Scaling Local Self-Attention for Parameter Efficient Visual Backbones", CVPR 2021 (arXiv
2103.12731).

    map ─ blocks of b x b ───────────────── queries ─┐
     └─── windows of b + 2o a side, stride b ─ keys ─┴─ softmax(q kᵀ + rows + columns) ─ values ─ blocks ─ map

The names and shapes of the parameters are those of halonet-pytorch, whose state dicts load strictly and give the same
numbers where that code runs. What differs: sides that are no multiple of the block are padded inside, and padding is
never attended to.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatdet.detection.attention.layer import AttentionLayer, is_positive, pad_bottom_right
from hatdet.detection.attention.registration import AttentionModule, register

__all__ = ["HaloAttention"]


class RelPosEmb(nn.Module):
    """What a query says of the rows and the columns of its window, a table for each axis (section 2.2 of the paper)."""

    def __init__(self, block: int, window: int, dim_head: int) -> None:
        super().__init__()
        self.block, self.window = block, window
        # A row for each distance of a key to a query, in which the first of the window stands for the block's first.
        self.rel_height = nn.Parameter(torch.randn(2 * window - 1, dim_head) * dim_head**-0.5)
        self.rel_width = nn.Parameter(torch.randn(2 * window - 1, dim_head) * dim_head**-0.5)

    def forward(self, q: Tensor) -> Tensor:
        """Shape: `(..., block, block, d)` to `(..., block, block, window, window)`, rows before columns."""
        # Query i of an axis needs the distances -i to window - 1 - i, which begin at row window - 1 - i of a table.
        starts = [self.window - 1 - i for i in range(self.block)]
        rows, columns = q @ self.rel_height.t(), q @ self.rel_width.t()
        by_row = [rows[..., i, :, s : s + self.window] for i, s in enumerate(starts)]
        by_column = [columns[..., i, s : s + self.window] for i, s in enumerate(starts)]
        return torch.stack(by_row, -3).unsqueeze(-1) + torch.stack(by_column, -2).unsqueeze(-2)


class HaloAttention(AttentionLayer):
    """Multi-head attention from blocks to the windows around them.

    It holds `heads * h * w * (block_size + 2 * halo_size) ** 2` attention weights for a feature map of `h x w`, and
    copies keys and values `((block_size + 2 * halo_size) / block_size) ** 2` times.

    Args:
        dim: Channels.
        block_size: Side of a block in pixels of the feature map, from 1 up.
        halo_size: Margin around a block that it also attends to, in pixels, from 1 up. The paper has 8 and 3.
        dim_head: Channels of a head, inside: they need not divide `dim`.
        heads: Number of heads.
        residual: See `AttentionLayer`.

    Raises:
        ValueError: `dim` is missing, or one of the numbers is no positive whole number.
    """

    def __init__(
        self,
        dim: int | None = None,
        block_size: int = 8,
        halo_size: int = 3,
        dim_head: int = 64,
        heads: int = 8,
        residual: bool = False,
    ) -> None:
        super().__init__(dim, residual)
        numbers = {"block_size": block_size, "halo_size": halo_size, "dim_head": dim_head, "heads": heads}
        for what, number in numbers.items():
            if not is_positive(number):
                raise ValueError(f"{what} of HaloAttention must be a positive whole number, got {number!r}")
        self.block_size, self.halo_size = block_size, halo_size
        self.window = block_size + 2 * halo_size
        self.dim_head, self.heads = dim_head, heads
        self.scale = dim_head**-0.5
        inner = dim_head * heads
        self.rel_pos_emb = RelPosEmb(block_size, self.window, dim_head)
        self.to_q = nn.Linear(self.dim, inner, bias=False)
        self.to_kv = nn.Linear(self.dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, self.dim)

    def attend(self, x: Tensor) -> Tensor:
        batch, _, h, w = x.shape
        block, heads, d = self.block_size, self.heads, self.dim_head
        padded = pad_bottom_right(x, block).permute(0, 2, 3, 1)
        rows, columns = padded.shape[1] // block, padded.shape[2] // block

        q = self.to_q(padded) * self.scale
        q = q.reshape(batch, rows, block, columns, block, heads, d).permute(0, 1, 3, 5, 2, 4, 6).flatten(1, 2)
        # Projected before they are cut: windows overlap, and without a bias the padding stays zero.
        k, v = self.to_kv(padded).permute(0, 3, 1, 2).chunk(2, dim=1)

        scores = q.flatten(-3, -2) @ self._windows(k, heads, d)  # (b, blocks, heads, queries, keys)
        scores = scores + self.rel_pos_emb(q).flatten(-2).flatten(-3, -2)
        inside = self._windows(pad_bottom_right(torch.ones_like(x[:1, :1]), block), 1, 1)
        # Each window holds a pixel of the map, so no row is all masked; and a finite value cannot make a NaN.
        weights = scores.masked_fill(inside == 0, torch.finfo(scores.dtype).min).softmax(-1)
        y = weights @ self._windows(v, heads, d).transpose(-2, -1)

        y = y.reshape(batch, rows, columns, heads, block, block, d).permute(0, 1, 4, 2, 5, 3, 6)
        y = y.reshape(batch, rows * block, columns * block, heads * d)[:, :h, :w]
        out: Tensor = self.to_out(y)
        return out.permute(0, 3, 1, 2).contiguous()

    def _windows(self, x: Tensor, heads: int, d: int) -> Tensor:
        """The window of each block, zero outside the map: `(b, heads * d, h, w)` to `(b, blocks, heads, d, keys)`."""
        cut = F.unfold(x, self.window, padding=self.halo_size, stride=self.block_size)
        return cut.reshape(x.shape[0], heads, d, self.window**2, -1).permute(0, 4, 1, 2, 3)


register(
    AttentionModule(
        cls=HaloAttention,
        summary="local attention: blocks of pixels attend to themselves and a margin around them",
        paper="Vaswani et al., Scaling Local Self-Attention for Parameter Efficient Visual Backbones, arXiv 2103.12731",
        origin="halonet-pytorch 0.0.5 (MIT)",
        constraints="any width and size; memory grows with heads * (block_size + 2 * halo_size)²",
        # 640 px: fewer and narrower heads where the map is large; small blocks where it is small.
        arguments={8: (8, 2, 32, 4), 16: (8, 3), 32: (2, 1, 32, 4)},
    )
)
