"""The blocks of HAT, the Hybrid Attention Transformer, as in figure 2 of the paper.

X. Chen et al., "Activating More Pixels in Image Super-Resolution Transformer", CVPR 2023 (arXiv 2205.04437).

    RHAG = HAB x m ─ OCAB ─ conv, with a residual      (residual hybrid attention group)
    HAB  = window attention beside a channel-attention block, then an MLP      (hybrid attention block)
    OCAB = each window attends to a larger window around it, then an MLP       (overlapping cross-attention block)

The names of parameters are those of the published checkpoints. What differs from the published code, with the same
numbers:

* features stay `(b, h, w, c)` throughout; a permute makes them channels-last for the convolutions, without a copy;
* attention is `scaled_dot_product_attention` with the relative-position bias as its additive mask. The shift mask is
  not one mask a window: it differs only in the last row and the last column of windows, so four masks serve any size;
* bias and masks are made in the compute dtype and, outside training, kept;
* what depends on the size of the map is computed from it when a graph is recorded (TorchScript, ONNX), so that the
  graph is right at every size: one mask for the whole map there, and no branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hatdet.blocks.attention import attend, lowered, tracing

__all__ = [
    "CAB",
    "HAB",
    "OCAB",
    "RHAG",
    "AttentionBlocks",
    "ChannelAttention",
    "WindowAttention",
    "head_width",
    "relative_position_index",
    "shift_mask",
    "widen_heads",
]

# What Swin's published mask adds to the score of a pair of tokens that the cyclic shift made neighbours.
SHIFT_MASK_VALUE = -100.0

# ------------------------------------------------------------------------------------------ 0. windows and positions


def relative_position_index(window: int, key_window: int) -> Tensor:
    """Row of the bias table for each pair of a query in a window and a key in the (larger) window around it.

    Shape: `(window², key_window²)`, int64. For `key_window > window` some entries are negative, as in the published
    checkpoints, and count from the table's end.
    """
    query, key = torch.arange(window), torch.arange(key_window)
    if key_window == window:  # self-attention: query minus key
        offset = query[:, None] - key[None, :] + window - 1
    else:  # overlapping cross-attention: key minus query
        offset = key[None, :] - query[:, None] + window - key_window + 1
    rows = (window + key_window - 1) * offset  # (window, key_window)
    pairs = rows[:, None, :, None] + offset[None, :, None, :]
    return pairs.reshape(window * window, key_window * key_window)


def shift_mask(window: int, shift: int, *, last_row: bool, last_column: bool) -> Tensor:
    """Additive mask of one shifted window: 0 inside a region that was together before the shift, -100 across.

    Shape: `(window², window²)`. A window that is in neither the last row nor the last column has no mask.
    """
    position = torch.arange(window)
    row_region = (position >= window - shift) & last_row
    column_region = (position >= window - shift) & last_column
    region = (2 * row_region[:, None] + column_region[None, :]).reshape(-1)
    return torch.where(region[:, None] == region[None, :], 0.0, SHIFT_MASK_VALUE)


def whole_shift_mask(h: int, w: int, window: int, shift: int, like: Tensor) -> Tensor:
    """`shift_mask` of every window of a map, without a branch on its size. Shape: `(windows, window², window²)`."""

    def region(side: int) -> Tensor:  # 0, or 1 and 2 for the two parts of the last row (column) of windows
        position = torch.arange(side, device=like.device)
        return (position >= side - window).long() + (position >= side - shift).long()

    regions = 3 * region(h)[:, None] + region(w)[None, :]
    regions = rearrange(regions, "(y i) (x j) -> (y x) (i j)", i=window, j=window)
    together = regions[:, :, None] == regions[:, None, :]
    return torch.where(together, 0.0, SHIFT_MASK_VALUE).to(like.dtype)


def _shift_mask(device: torch.device, window: int, last_row: bool, last_column: bool, shift: int) -> Tensor:
    return shift_mask(window, shift, last_row=last_row, last_column=last_column).to(device)


@lru_cache(maxsize=64)
def _shift_mask_once(device: torch.device, window: int, last_row: bool, last_column: bool, shift: int) -> Tensor:
    """`shift_mask`, made once for a device: in training it is wanted at every step."""
    with torch.inference_mode(False):
        return _shift_mask(device, window, last_row, last_column, shift)


class WindowOrder(NamedTuple):
    """In which order the pixels of a batch of maps stand in windows.

    `order` holds, window by window, the number of each pixel in the batch of maps, and `inverse` the way back. Windows
    that share a mask stand together; `groups` holds, in that order, how many and which: the arguments of `shift_mask`.
    """

    order: Tensor
    inverse: Tensor
    groups: list[tuple[int, tuple[bool, bool, int] | None]]


def window_order(size: Sequence[int], window: int, shift: int, device: torch.device, *, grouped: bool) -> WindowOrder:
    """The order for maps of `size` (b, h, w), of which each is first rolled by `shift` to the upper left.

    Not `grouped`, it is window by window and map by map, without a branch on the size, and one group.
    """
    b, h, w = size
    pixels = torch.arange(h * w, device=device).view(h, w)
    if shift:
        pixels = pixels.roll((-shift, -shift), (0, 1))
    pixels = rearrange(pixels, "(y i) (x j) -> (y x) (i j)", i=window, j=window)
    pixels = pixels + h * w * torch.arange(b, device=device)[:, None, None]  # (b, windows, window²)
    groups: list[tuple[int, tuple[bool, bool, int] | None]] = [(b * pixels.shape[1], None)]
    if grouped and shift:
        rows, columns = h // window, w // window
        last_row = torch.arange(rows, device=device) == rows - 1
        last_column = torch.arange(columns, device=device) == columns - 1
        kind = (2 * last_row[:, None] + last_column[None, :]).expand(b, rows, columns).reshape(-1)
        pixels = pixels.flatten(0, 1)[kind.argsort(stable=True)]
        counts = {  # interior, right, bottom, corner
            (False, False): (rows - 1) * (columns - 1),
            (False, True): rows - 1,
            (True, False): columns - 1,
            (True, True): 1,
        }
        groups = [(b * count, (*last, shift)) for last, count in counts.items() if count]
    order = pixels.reshape(-1)
    inverse = torch.empty_like(order).scatter_(0, order, torch.arange(order.shape[0], device=device))
    return WindowOrder(order, inverse, groups)


@lru_cache(maxsize=64)
def _window_order_once(b: int, h: int, w: int, window: int, shift: int, device: torch.device) -> WindowOrder:
    with torch.inference_mode(False):
        return window_order((b, h, w), window, shift, device, grouped=True)


class _Reorder(torch.autograd.Function):
    """Rows in another order. The gradient takes the way back; PyTorch's own would add rows up one by one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(order, inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        order, inverse = ctx.saved_tensors
        return _reordered(gradients[0], inverse, order), None, None


def _reordered(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """The rows of `x` in that order: all copying that windows need, in one pass over the map."""
    if torch.is_grad_enabled() and x.requires_grad and not tracing():
        return cast(Tensor, _Reorder.apply(x, order, inverse))
    return x.index_select(0, order)


class DropPath(nn.Module):
    """Drop the whole branch for a random share of the samples in training (stochastic depth)."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if self.probability == 0.0 or not self.training:
            return x
        keep = 1.0 - self.probability
        kept = torch.rand((x.shape[0],) + (1,) * (x.ndim - 1), device=x.device, dtype=torch.float32) < keep
        return x * (kept.to(x.dtype) / keep)


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.drop(self.fc2(self.drop(F.gelu(self.fc1(x))))))


# ------------------------------------------------------------------------------------------ 1. attention with a bias


class _BiasTable:
    """The relative-position bias of one attention, gathered once and kept while nobody trains.

    The kept tensor follows the table: a loaded, trained, moved or cast table is gathered again.
    """

    def __init__(self) -> None:
        self._kept: dict[object, tuple[int, Tensor]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> _BiasTable:
        return _BiasTable()

    def __getstate__(self) -> dict[str, Any]:
        return {"_kept": {}}

    def gather(self, table: Tensor, index: Tensor, dtype: torch.dtype, mask: Tensor | None, mask_key: object) -> Tensor:
        """Return the bias, plus the mask if there is one, as `(1, heads, queries, keys)` in `dtype`."""
        keep = not torch.is_grad_enabled() and not table.is_inference()
        key = (dtype, table.device, mask_key)
        if keep and key in self._kept and self._kept[key][0] == table._version:
            return self._kept[key][1]
        # F.embedding and not table[index]: its gradient is far cheaper, but it takes no negative index.
        bias = F.embedding(index.remainder(table.shape[0]), table)  # (queries, keys, heads)
        bias = bias.permute(2, 0, 1)[None]
        if mask is not None:
            bias = bias + mask
        bias = bias.to(dtype).contiguous()
        if keep:
            self._kept[key] = (table._version, bias)
        return bias


def _joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)


def _parts(whole: Tensor, counts: list[int]) -> Sequence[Tensor]:
    return [whole] if len(counts) == 1 else torch.split(whole, counts)


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, optionally shifted by half a window (W-MSA and SW-MSA).

    Shape: `(b, h, w, c)` to the same; h and w are multiples of the window.
    """

    def __init__(
        self,
        dim: int,
        window_size: int,
        num_heads: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.num_heads = num_heads
        self.scale = qk_scale or (dim // num_heads) ** -0.5
        self.attn_drop = attn_drop
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self._bias = _BiasTable()

    def forward(self, x: Tensor, index: Tensor, shift: int = 0) -> Tensor:
        b, h, w, c = x.shape
        size, mask = self.window_size, None
        if tracing():
            place = window_order((b, h, w), size, shift, x.device, grouped=False)
            mask = whole_shift_mask(h, w, size, shift, x) if shift else None
        elif torch.compiler.is_compiling():  # which folds what follows from the size, and warns about what is kept
            place = window_order((b, h, w), size, shift, x.device, grouped=True)
        else:
            place = _window_order_once(b, h, w, size, shift, x.device)
        tokens = _reordered(x.reshape(-1, c), place.order, place.inverse)
        qkv = rearrange(self.qkv(tokens), "(n t) (three h d) -> three n h t d", t=size**2, three=3, h=self.num_heads)
        counts = [count for count, _ in place.groups]
        parts = zip(place.groups, *(_parts(tensor, counts) for tensor in qkv.unbind()), strict=True)
        attended = [self._attend(q, k, v, index, border, mask) for (_, border), q, k, v in parts]
        out = self.proj(_joined([rearrange(part, "n h t d -> (n t) (h d)") for part in attended], 0))
        return cast(Tensor, self.proj_drop(_reordered(out, place.inverse, place.order).view(b, h, w, c)))

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        index: Tensor,
        border: tuple[bool, bool, int] | None,
        whole_mask: Tensor | None,
    ) -> Tensor:
        """Attend inside windows, which share one mask or have one each. Shape: `(windows, heads, tokens, width)`."""
        if whole_mask is not None:
            bias = self._bias.gather(self.relative_position_bias_table, index, q.dtype, None, None)
            bias = bias + whole_mask[:, None]  # (windows of one sample, heads, tokens, tokens)
            q, k, v = (rearrange(t, "(b n) h t d -> b n h t d", n=whole_mask.shape[0]) for t in (q, k, v))
            return rearrange(attend(q, k, v, bias, self.scale), "b n h t d -> (b n) h t d")
        mask = None
        if border is not None and (border[0] or border[1]):
            # A compiler folds the mask into the kernel that adds it, and warns about what is kept beside the graph.
            make = _shift_mask if torch.compiler.is_compiling() else _shift_mask_once
            mask = make(q.device, self.window_size, *border)
        bias = self._bias.gather(self.relative_position_bias_table, index, q.dtype, mask, border)
        dropout = self.attn_drop if self.training else 0.0
        return attend(q, k, v, bias, self.scale, dropout)


# ------------------------------------------------------------------------------------------ 2. HAB


class ChannelAttention(nn.Module):
    """Channel attention of RCAN: each channel scaled by a gate computed from the means of all. `(b, c, h, w)`."""

    def __init__(self, num_feat: int, squeeze_factor: int = 16) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(num_feat, num_feat // squeeze_factor, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(num_feat // squeeze_factor, num_feat, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * cast(Tensor, self.attention(x))


class CAB(nn.Module):
    """Channel attention block: two 3x3 convolutions through a narrow middle, then channel attention. `(b, c, h, w)`."""

    def __init__(self, num_feat: int, compress_ratio: int = 3, squeeze_factor: int = 30) -> None:
        super().__init__()
        self.cab = nn.Sequential(
            nn.Conv2d(num_feat, num_feat // compress_ratio, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(num_feat // compress_ratio, num_feat, 3, padding=1),
            ChannelAttention(num_feat, squeeze_factor),
        )

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.cab(x))


class HAB(nn.Module):
    """Hybrid attention block (paper, eq. 3): `x + (S)W-MSA(LN x) + conv_scale * CAB(LN x)`, then an MLP.

    Shape: `(b, h, w, c)` to the same; h and w are multiples of the window.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        shift_size: int = 0,
        compress_ratio: int = 3,
        squeeze_factor: int = 30,
        conv_scale: float = 0.01,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.shift_size = shift_size
        self.conv_scale = conv_scale
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window_size, num_heads, qkv_bias, qk_scale, attn_drop, drop)
        self.conv_block = CAB(dim, compress_ratio, squeeze_factor)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        normed = lowered(self.norm1(x))
        channels = self.conv_block(normed.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = torch.add(x + self.drop_path(self.attn(normed, index, self.shift_size)), channels, alpha=self.conv_scale)
        return x + cast(Tensor, self.drop_path(self.mlp(self.norm2(x))))


# ------------------------------------------------------------------------------------------ 3. OCAB


class OCAB(nn.Module):
    """Overlapping cross-attention block (paper, section 3.3): queries of a window, keys of the larger one around it.

    Keys and values beyond the border are zero and take part in the softmax, as in the published network.
    Shape: `(b, h, w, c)` to the same; h and w are multiples of the window.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        overlap_ratio: float = 0.5,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        mlp_ratio: float = 2.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.overlap_win_size = window_size + int(window_size * overlap_ratio)
        self.scale = qk_scale or (dim // num_heads) ** -0.5
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        table_side = window_size + self.overlap_win_size - 1
        self.relative_position_bias_table = nn.Parameter(torch.empty(table_side**2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self._bias = _BiasTable()

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        _, h, w, _ = x.shape
        size, key_size = self.window_size, self.overlap_win_size
        qkv = self.qkv(lowered(self.norm1(x)))
        c = self.qkv.out_features // 3  # more than those of x where heads were made wider
        # Copied in whole rows of channels; the heads are views of them.
        q = rearrange(qkv[..., :c], "b (y i) (x j) c -> (b y x) (i j) c", i=size, j=size)
        q = rearrange(q, "n t (h d) -> n h t d", h=self.num_heads)
        margin = (key_size - size) // 2
        around = F.pad(qkv[..., c:], (0, 0, margin, margin, margin, margin))  # (b, h + 2m, w + 2m, 2c)
        if tracing():  # what an exporter makes of a view of overlapping windows is slow, or right at one size only
            rows, columns = (torch.arange(n // size, device=x.device)[:, None] * size for n in (h, w))
            reach = torch.arange(key_size, device=x.device)
            around = around[:, rows + reach][:, :, :, columns + reach].permute(0, 1, 3, 5, 2, 4)
        else:  # overlapping windows as a view; the rearrangement below is the only copy
            around = around.unfold(1, key_size, size).unfold(2, key_size, size)  # (b, y, x, 2c, i, j)
        kv = rearrange(around, "b y x c i j -> (b y x) (i j) c")
        kv = rearrange(kv, "n t (two h d) -> two n h t d", two=2, h=self.num_heads)
        bias = self._bias.gather(self.relative_position_bias_table, index, q.dtype, None, None)
        out = attend(q, kv[0], kv[1], bias, self.scale)
        out = rearrange(out, "(b y x) h (i j) d -> b (y i) (x j) (h d)", y=h // size, x=w // size, i=size, j=size)
        x = cast(Tensor, self.proj(out)) + x
        return x + cast(Tensor, self.mlp(self.norm2(x)))


# ------------------------------------------------------------------------------------------ 4. RHAG


def head_width(attention: WindowAttention | OCAB) -> int:
    """Channels of one head."""
    return attention.qkv.out_features // 3 // attention.num_heads


def widen_heads(attention: WindowAttention | OCAB, multiple: int) -> None:
    """Make the heads of an attention as wide as a kernel wants them, by channels of zeros: the same numbers.

    Queries, keys and values get zeros, and the projection ignores what comes of them. The scale of the scores stays
    that of the width before.
    """
    heads, missing = attention.num_heads, -head_width(attention) % multiple
    qkv, proj = attention.qkv, attention.proj

    def wider(rows: Tensor) -> Tensor:
        """Zeros behind each head of each third. Shape: `(3 h d, ...)` to `(3 h d', ...)`."""
        thirds = rearrange(rows, "(three h d) c -> three h c d", three=3, h=heads)
        return rearrange(F.pad(thirds, (0, missing)), "three h c d -> (three h d) c")

    attention.qkv = _linear(wider(qkv.weight), None if qkv.bias is None else wider(qkv.bias[:, None])[:, 0])
    columns = F.pad(rearrange(proj.weight, "c (h d) -> c h d", h=heads), (0, missing))
    attention.proj = _linear(rearrange(columns, "c h d -> c (h d)"), proj.bias)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer for inference with this weight and bias."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.contiguous(), requires_grad=False)
    return layer


class AttentionBlocks(nn.Module):
    """The HABs of one group, every second one shifted by half a window, and the OCAB after them."""

    def __init__(self, blocks: Sequence[HAB], overlap_attn: OCAB, use_checkpoint: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.overlap_attn = overlap_attn
        self.use_checkpoint = use_checkpoint

    def forward(self, x: Tensor, index_sa: Tensor, index_oca: Tensor) -> Tensor:
        for block in self.blocks:
            if self.use_checkpoint and self.training:
                x = cast(Tensor, checkpoint(block, x, index_sa, use_reentrant=False))
            else:
                x = block(x, index_sa)
        return cast(Tensor, self.overlap_attn(x, index_oca))


class RHAG(nn.Module):
    """Residual hybrid attention group. Shape: `(b, h, w, c)` to the same; h and w are multiples of the window."""

    def __init__(self, residual_group: AttentionBlocks, dim: int, resi_connection: str = "1conv") -> None:
        super().__init__()
        self.residual_group = residual_group
        self.conv = nn.Conv2d(dim, dim, 3, padding=1) if resi_connection == "1conv" else nn.Identity()

    def forward(self, x: Tensor, index_sa: Tensor, index_oca: Tensor) -> Tensor:
        features = self.residual_group(x, index_sa, index_oca)
        return cast(Tensor, self.conv(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)) + x
