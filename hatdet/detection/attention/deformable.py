"""Deformable attention: every pixel attends to a few points, and the feature map itself chooses where they lie.

Z. Xia et al., "Vision Transformer with Deformable Attention", CVPR 2022 (arXiv 2201.00520), and "DAT++: Spatially
Dynamic Vision Transformer with Deformable Attention" (arXiv 2309.01430).

    x ─ proj_q ─┬────────────────────────────────────────────────── q ─┐
                └─ conv_offset ─(+ references)─ points                 ├─ softmax(q kᵀ / √d + bias) v ─ proj_out ─ y
    x ──────── bilinear at the points ────────── proj_k, proj_v ─ k, v ┘    bias: a function of pixel minus point

Coordinates are `(y, x)` with -1 at the centre of the first pixel and 1 at that of the last. The names of parameters are
those of the published code. What differs from it, with the same numbers:

* a single row or column, of pixels or of points, has the coordinate 0, where the published code divides by zero;
* coordinates are float32 or wider whatever the precision of the map, and follow its size in an exported model;
* the output is the map alone; `sample_points` gives the points;
* no dropout, and no fixed average pooling: `offset_range_factor=0` keeps the points on their references.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatdet.blocks.attention import attend, tracing
from hatdet.detection.attention.layer import AttentionLayer, heads_for, is_positive
from hatdet.detection.attention.registration import AttentionModule, register

__all__ = ["DAttention", "DAttentionBaseline", "LayerNormProxy"]

log = logging.getLogger("hatdet")

POSITIONS = ("rpe", "log-cpb", "dwc", "fixed", "none")
REFERENCES = ("datpp", "dat")  # not "dat++": Ultralytics reads the words of a row as Python, and that is none
CPB_WIDTH = 32  # hidden units of the network behind "log-cpb"
LARGE_BYTES = 512 * 2**20  # of the largest tensor, for one image, in float32

_said_large: set[tuple[int, int, str]] = set()


class LayerNormProxy(nn.Module):
    """Layer norm over the channels of a `(b, dim, h, w)` map."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class DAttention(AttentionLayer):
    """Deformable attention of DAT and DAT++. Shape: `(b, dim, h, w)` to the same, h and w from 1 up.

    Memory grows with pixels times points: a stride of 4, 2 and 1 at strides 8, 16 and 32 of the map keeps both bounded.
    What needs more than 512 MiB for one image is named in a warning of the logger `hatdet`, once in a process.

    Args:
        dim: Channels (`c2` in a row).
        n_heads: Heads; divides `dim`. By default the largest such number that leaves a head 32 channels or more.
        n_groups: Groups of channels, each with points of its own; divides `n_heads`. By default one for two heads, or
            the largest number that leaves each two or more.
        stride: Pixels of the map from one point to the next, along each axis.
        ksize: Kernel of the depthwise convolution that the offsets are computed with. DAT++ has 9, 7, 5, 3 for the
            strides 8, 4, 2, 1.
        offset_range_factor: How far a point can move. Negative: anywhere inside the map. Otherwise this many times half
            the distance between two points, softly limited (tanh), beyond the border too, where the map is zero.
        position: What the scores know of where a pixel and a point lie. "rpe": a learned table over their difference,
            read bilinearly, for maps of any size. "log-cpb": a small network of the logarithm of their difference.
            "dwc": nothing, but a depthwise convolution of the queries is added to the output. "fixed": a learned number
            for each pair, for maps of exactly `table_size` (Ultralytics runs a model at 256 px when it builds it, so
            in a row that must be the size that the map has there). "none": nothing.
        reference: Where the points start. "datpp": `(i + 1/2) / (n - 1)` of the map for point i of n, half a step off
            centre, as the published DAT++ models were trained. "dat": `(i + 1/2) / n`, symmetric, as in the code of the
            CVPR paper, with pixels and the reach of the offsets to match; but negative factors clamp as in DAT++.
        table_size: Side of the map, or height and width, that sets the resolution of the tables of "rpe" and "fixed".
            By default 20, the number of points along 640 px with the strides above.
        residual: See `AttentionLayer`.

    Raises:
        ValueError: An argument is none of these, or a map does not have the size of a "fixed" table.
    """

    rpe_table: nn.Parameter | nn.Sequential | nn.Conv2d | None

    def __init__(
        self,
        dim: int | None = None,
        n_heads: int | None = None,
        n_groups: int | None = None,
        stride: int = 1,
        ksize: int = 3,
        offset_range_factor: float = -1.0,
        position: str = "rpe",
        reference: str = "datpp",
        table_size: int | Sequence[int] = 20,
        residual: bool = False,
    ) -> None:
        super().__init__(dim, residual)
        dim = self.dim
        n_heads = heads_for(dim) if n_heads is None else n_heads
        self._check_divides(n_heads, "n_heads")
        n_groups = heads_for(n_heads, 2) if n_groups is None else n_groups
        if not is_positive(n_groups) or n_heads % n_groups:
            raise ValueError(
                f"n_groups of DAttention must be a positive whole number that divides its {n_heads} heads, "
                f"got {n_groups!r}"
            )
        for name, number in (("stride", stride), ("ksize", ksize)):
            if not is_positive(number):
                raise ValueError(f"{name} of DAttention must be a positive whole number, got {number!r}")
        factor = offset_range_factor
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not math.isfinite(factor):
            raise ValueError(f"offset_range_factor of DAttention must be a finite number, got {factor!r}")
        for name, word, words in (("position", position, POSITIONS), ("reference", reference, REFERENCES)):
            if word not in words:
                raise ValueError(f"{name} of DAttention must be one of {', '.join(words)}, got {word!r}")
        sides = tuple(table_size) if isinstance(table_size, list | tuple) else (table_size, table_size)
        if len(sides) != 2 or not all(map(is_positive, sides)):
            raise ValueError(
                f"table_size of DAttention must be a positive whole number or two of them, got {table_size!r}"
            )

        self.n_heads, self.n_groups, self.stride, self.ksize = n_heads, n_groups, stride, ksize
        self.offset_range_factor, self.position, self.reference = float(factor), position, reference
        self.table_size: tuple[int, int] = sides
        self.padding = 0 if ksize == stride else ksize // 2

        width = dim // n_groups
        self.conv_offset = nn.Sequential(
            nn.Conv2d(width, width, ksize, stride, self.padding, groups=width),
            LayerNormProxy(width),
            nn.GELU(),
            nn.Conv2d(width, 2, 1, bias=False),
        )
        self.proj_q = nn.Conv2d(dim, dim, 1)
        self.proj_k = nn.Conv2d(dim, dim, 1)  # its bias shifts all scores of a pixel alike and has no effect
        self.proj_v = nn.Conv2d(dim, dim, 1)
        self.proj_out = nn.Conv2d(dim, dim, 1)
        self.rpe_table = self._new_table()

    def _new_table(self) -> nn.Parameter | nn.Sequential | nn.Conv2d | None:
        h, w = self.table_size
        if self.position == "none":
            return None
        if self.position == "dwc":
            return nn.Conv2d(self.dim, self.dim, 3, padding=1, groups=self.dim)
        if self.position == "log-cpb":
            return nn.Sequential(
                nn.Linear(2, CPB_WIDTH), nn.ReLU(), nn.Linear(CPB_WIDTH, self.n_heads // self.n_groups, bias=False)
            )
        sides = (h * w, self._count(h) * self._count(w)) if self.position == "fixed" else (2 * h - 1, 2 * w - 1)
        table = nn.Parameter(torch.empty(self.n_heads, *sides))
        nn.init.trunc_normal_(table, std=0.01)
        return table

    def _count(self, side: int) -> int:
        """The points along a side of the map."""
        return (max(side + 2 * self.padding, self.ksize) - self.ksize) // self.stride + 1

    def sample_points(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Where the layer samples the map `x`, and where the points would lie without their offsets.

        Shape: `(b, n_groups, hk, wk, 2)` and `(hk, wk, 2)`, each `(y, x)`, float32 or wider.
        """
        points, references = self._points(self.proj_q(x))
        return points.reshape(-1, self.n_groups, *references.shape), references

    def attend(self, x: Tensor) -> Tensor:
        if not tracing():
            self._check_map(x)
        h, w = x.shape[-2:]
        q = self.proj_q(x)
        points, _ = self._points(q)
        hk, wk = points.shape[1:3]
        groups = x.reshape(-1, self.dim // self.n_groups, h, w)
        sampled = _sample(groups, points.flip(-1)).to(x.dtype).reshape(-1, self.dim, hk, wk)
        queries, keys, values = map(self._heads, (q, self.proj_k(sampled), self.proj_v(sampled)))

        scale, bias = (self.dim // self.n_heads) ** -0.5, self._bias(points, h, w, queries.dtype)
        if bias is None:
            out = F.scaled_dot_product_attention(queries, keys, values, scale=scale)
        else:
            out = attend(queries, keys, values, bias, scale)
        out = out.transpose(2, 3).reshape(-1, self.dim, h, w)
        if self.position == "dwc":
            out = out + cast(nn.Conv2d, self.rpe_table)(q)
        return cast(Tensor, self.proj_out(out))

    def _heads(self, x: Tensor) -> Tensor:
        """`(b, dim, h, w)` to `(b, n_heads, h w, dim / n_heads)`."""
        return x.reshape(-1, self.n_heads, self.dim // self.n_heads, x.shape[2] * x.shape[3]).transpose(2, 3)

    def _points(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """The points of each group, `(b n_groups, hk, wk, 2)`, and their references, `(hk, wk, 2)`."""
        h, w = q.shape[-2:]
        groups = q.reshape(-1, self.dim // self.n_groups, h, w)
        if self.padding == 0:  # a map smaller than the kernel has one point
            groups = F.pad(groups, (0, _lack(w, self.ksize), 0, _lack(h, self.ksize)))
        offsets = self.conv_offset(groups).permute(0, 2, 3, 1)
        offsets = offsets.to(torch.promote_types(offsets.dtype, torch.float32))
        rows, columns = _indices(offsets.shape[1], offsets), _indices(offsets.shape[2], offsets)
        references = _grid((2 * rows + 1) / self._steps(rows) - 1, (2 * columns + 1) / self._steps(columns) - 1)
        if self.offset_range_factor < 0:
            return (references + offsets).clamp(-1, 1), references
        steps = torch.cat([self._steps(rows), self._steps(columns)])
        return references + offsets.tanh() * self.offset_range_factor / steps, references

    def _steps(self, index: Tensor) -> Tensor:
        """How many steps the map has for the points or pixels `0 .. n-1` of an axis, by the reference convention."""
        return index[-1:] + 1 if self.reference == "dat" else index[-1:].clamp(min=1)

    def _pixels(self, side: int, like: Tensor) -> Tensor:
        """The coordinate of each pixel of an axis, as the biases see it."""
        index = _indices(side, like)
        return (2 * index - index[-1:]) / self._steps(index)

    def _bias(self, points: Tensor, h: int, w: int, dtype: torch.dtype) -> Tensor | None:
        """What is added to the scores, `(b or 1, n_heads, h w, hk wk)` in `dtype`, or None for nothing."""
        table, points = self.rpe_table, points.flatten(1, 2)
        if self.position in ("none", "dwc"):
            return None
        if self.position == "fixed":
            return cast(Tensor, table)[None].to(dtype)
        pixels = _grid(self._pixels(h, points), self._pixels(w, points)).flatten(0, 1)
        if self.position == "rpe":  # half the difference, in the order of grid_sample
            pixels, points = pixels.flip(-1) / 2, points.flip(-1) / 2
        difference = pixels[None, :, None] - points[:, None]  # (b n_groups, h w, hk wk, 2)
        if self.position == "rpe":
            tables = cast(Tensor, table).reshape(self.n_groups, -1, *cast(Tensor, table).shape[1:])
            bias = _sample(tables.repeat(points.shape[0] // self.n_groups, 1, 1, 1), difference).to(dtype)
        else:
            logarithm = difference.sign() * torch.log2(4 * difference.abs() + 1) / 3
            bias = cast(nn.Sequential, table)(logarithm.to(dtype)).permute(0, 3, 1, 2)
        return bias.reshape(-1, self.n_heads, pixels.shape[0], points.shape[1])

    def _check_map(self, x: Tensor) -> None:
        """Refuse what a fixed table does not hold; say what is expensive."""
        h, w = x.shape[-2:]
        if self.position == "fixed" and (h, w) != self.table_size:
            raise ValueError(
                f"DAttention with fixed positions has a table for maps of {self.table_size[0]}x{self.table_size[1]} "
                f'and got {h}x{w}: set table_size, or position="rpe" for maps of any size'
            )
        pairs = h * w * self._count(h) * self._count(w)
        size = 4 * pairs * (CPB_WIDTH * self.n_groups if self.position == "log-cpb" else self.n_heads)
        kind = (self.dim, self.stride, self.position)
        if size > LARGE_BYTES and kind not in _said_large:
            _said_large.add(kind)
            log.warning(
                "DAttention of %d channels needs %d MiB or more for each %dx%d map, as its stride is %d: twice the "
                "stride (with the next ksize of 3, 5, 7, 9) needs a quarter of that",
                *(self.dim, size // 2**20, h, w, self.stride),
            )


DAttentionBaseline = DAttention


def _lack(side: int, needed: int) -> int:
    """`max(needed - side, 0)`, without the branch that tracing would decide once for all sizes."""
    return (abs(needed - side) + needed - side) // 2


def _indices(count: int, like: Tensor) -> Tensor:
    """`0 .. count - 1`. What is derived from it, unlike from `count`, follows the size of a map in a traced model."""
    return torch.arange(count, device=like.device).to(like.dtype)


def _grid(rows: Tensor, columns: Tensor) -> Tensor:
    """All pairs of a row and a column. Shape: `(h,)` and `(w,)` to `(h, w, 2)`."""
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)


def _sample(x: Tensor, points: Tensor) -> Tensor:
    """`x` at the points `(x, y)`, bilinearly, zero outside, in their dtype: half precision would displace them."""
    return F.grid_sample(x.to(points.dtype), points, align_corners=True)


register(
    AttentionModule(
        cls=DAttention,
        summary="pixels attend to points that the map itself chooses",
        paper="Z. Xia et al., CVPR 2022, arXiv 2201.00520; DAT++, arXiv 2309.01430",
        origin="LeapLabTHU/DAT (Apache-2.0)",
        constraints="n_heads divides the width, n_groups divides n_heads; position fixed: one size of map; "
        "ONNX from opset 16",
        arguments={8: (None, None, 4, 7), 16: (None, None, 2, 5), 32: ()},
        aliases=("DAttentionBaseline",),
    )
)
