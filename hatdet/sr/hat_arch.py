"""HAT, the Hybrid Attention Transformer, as in figure 2 of the paper.

X. Chen et al., "Activating More Pixels in Image Super-Resolution Transformer", CVPR 2023 (arXiv 2205.04437).

    image ─ conv_first ─┬─ RHAG x n ─ norm ─ conv_after_body ─(+)─ conv_before_upsample ─ upsample ─ conv_last ─ image
                        └──────────────────────────────────────┘
    RHAG = HAB x m ─ OCAB ─ conv, with a residual      (residual hybrid attention group)
    HAB  = window attention beside a channel-attention block, then an MLP      (hybrid attention block)
    OCAB = each window attends to a larger window around it, then an MLP       (overlapping cross-attention block)

The names of parameters and buffers are those of the published checkpoints, which load strictly.
What differs from the published code, with the same numbers:

* features stay `(b, h, w, c)` throughout; a permute makes them channels-last for the convolutions, without a copy;
* attention is `scaled_dot_product_attention` with the relative-position bias as its additive mask. The shift mask is
  not one mask a window: it differs only in the last row and the last column of windows, so four masks serve any size;
* bias and masks are made in the compute dtype and, outside training, kept;
* any input size from 1x1 up is padded inside, and the output is cropped to exactly `upscale` times the input.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hatdet.sr.attention import attend

__all__ = ["CAB", "HAB", "HAT", "OCAB", "RHAG", "ChannelAttention", "WindowAttention", "pad_to_multiple"]

# The paper's training images (DF2K); the published checkpoints subtract it from their input.
RGB_MEAN = (0.4488, 0.4371, 0.4040)
# What Swin's published mask adds to the score of a pair of tokens that the cyclic shift made neighbours.
SHIFT_MASK_VALUE = -100.0

# ------------------------------------------------------------------------------------------ 0. windows and positions


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Return `x` padded on the right and the bottom so that both sides are multiples of `multiple`.

    Reflection where it fits (the padding is smaller than the side), otherwise the last row or column repeated.
    Shape: `(b, c, h, w)` to `(b, c, h', w')`.
    """
    for axis, side in ((2, x.shape[2]), (3, x.shape[3])):
        amount = -side % multiple
        if amount:
            padding = (0, 0, 0, amount) if axis == 2 else (0, amount, 0, 0)
            x = F.pad(x, padding, mode="reflect" if amount < side else "replicate")
    return x


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


def _shift_mask(device: torch.device, window: int, last_row: bool, last_column: bool, shift: int) -> Tensor:
    return shift_mask(window, shift, last_row=last_row, last_column=last_column).to(device)


@lru_cache(maxsize=64)
def _shift_mask_once(device: torch.device, window: int, last_row: bool, last_column: bool, shift: int) -> Tensor:
    """`shift_mask`, made once for a device: in training it is wanted at every step."""
    with torch.inference_mode(False):
        return _shift_mask(device, window, last_row, last_column, shift)


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


class _Group(NamedTuple):
    """A rectangle of windows that share one mask, in pixels of the (shifted) map."""

    rows: slice
    columns: slice
    mask: tuple[bool, bool, int] | None  # in the last row, in the last column, the shift

    @property
    def size(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


def _joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)


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
        if shift:
            x = torch.roll(x, (-shift, -shift), (1, 2))
        groups = self._groups(x.shape[1], x.shape[2], shift)
        w = self.window_size
        # Partitioned before the projection to q, k, v: a third of the copying, and the three stay views.
        windows = [rearrange(x[:, g.rows, g.columns], "b (y i) (x j) c -> (b y x) (i j) c", i=w, j=w) for g in groups]
        counts = [len(part) for part in windows]
        qkv = self.qkv(_joined(windows, 0))
        qkv = rearrange(qkv, "n t (three h d) -> three n h t d", three=3, h=self.num_heads)
        parts = zip(groups, *(tensor.split(counts) for tensor in qkv.unbind()), strict=True)
        attended = [self._attend(q, k, v, index, group.mask) for group, q, k, v in parts]
        out = self.proj(_joined([rearrange(part, "n h t d -> n t (h d)") for part in attended], 0))
        merged = [
            rearrange(part, "(b y x) (i j) c -> b (y i) (x j) c", b=len(x), y=g.size[0] // w, i=w, j=w)
            for g, part in zip(groups, out.split(counts), strict=True)
        ]
        columns = len({g.columns.start for g in groups})
        rows = [_joined(merged[i : i + columns], 2) for i in range(0, len(merged), columns)]
        out = _joined(rows, 1)
        if shift:
            out = torch.roll(out, (shift, shift), (1, 2))
        return cast(Tensor, self.proj_drop(out))

    def _groups(self, h: int, w: int, shift: int) -> list[_Group]:
        """The windows of a map, grouped by their mask: all in one, or interior, right, bottom and corner."""
        if not shift:
            return [_Group(slice(0, h), slice(0, w), None)]
        inner_h, inner_w = h - self.window_size, w - self.window_size
        return [
            _Group(rows, columns, (last_row, last_column, shift))
            for rows, last_row in ((slice(0, inner_h), False), (slice(inner_h, h), True))
            for columns, last_column in ((slice(0, inner_w), False), (slice(inner_w, w), True))
            if rows.stop > rows.start and columns.stop > columns.start
        ]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, index: Tensor, border: tuple[bool, bool, int] | None) -> Tensor:
        """Attend inside windows that share one mask. Shape: `(windows, heads, tokens, head width)`."""
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
        normed = self.norm1(x)
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
        _, h, w, c = x.shape
        size, key_size = self.window_size, self.overlap_win_size
        qkv = self.qkv(self.norm1(x))
        q = rearrange(qkv[..., :c], "b (y i) (x j) (h d) -> (b y x) h (i j) d", i=size, j=size, h=self.num_heads)
        margin = (key_size - size) // 2
        around = F.pad(qkv[..., c:], (0, 0, margin, margin, margin, margin))  # (b, h + 2m, w + 2m, 2c)
        # Overlapping windows as a view; the rearrangement below is the only copy.
        around = around.unfold(1, key_size, size).unfold(2, key_size, size)  # (b, y, x, 2c, i, j)
        kv = rearrange(around, "b y x (n h d) i j -> n (b y x) h (i j) d", n=2, h=self.num_heads)
        bias = self._bias.gather(self.relative_position_bias_table, index, q.dtype, None, None)
        out = attend(q, kv[0], kv[1], bias, self.scale)
        out = rearrange(out, "(b y x) h (i j) d -> b (y i) (x j) (h d)", y=h // size, x=w // size, i=size, j=size)
        x = cast(Tensor, self.proj(out)) + x
        return x + cast(Tensor, self.mlp(self.norm2(x)))


# ------------------------------------------------------------------------------------------ 4. RHAG


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


# ------------------------------------------------------------------------------------------ 5. HAT


class PatchEmbed(nn.Module):
    """The norm in front of the first group, under the name that the published checkpoints give it."""

    def __init__(self, dim: int, patch_norm: bool) -> None:
        super().__init__()
        self.norm: nn.Module | None = nn.LayerNorm(dim) if patch_norm else None

    def forward(self, x: Tensor) -> Tensor:
        return x if self.norm is None else cast(Tensor, self.norm(x))


class Upsample(nn.Sequential):
    """Pixel-shuffle upsampling by 3, or by 2 as often as the scale asks. `(b, c, h, w)` to `(b, c, sh, sw)`."""

    def __init__(self, scale: int, num_feat: int) -> None:
        factors = [3] if scale == 3 else [2] * int(math.log2(scale))
        layers: list[nn.Module] = []
        for factor in factors:
            layers += [nn.Conv2d(num_feat, factor * factor * num_feat, 3, padding=1), nn.PixelShuffle(factor)]
        super().__init__(*layers)


class HAT(nn.Module):
    """Hybrid Attention Transformer for super-resolution by pixel shuffle.

    The arguments are the keys of `network_g` in the published option files. Input `(b, in_chans, h, w)` in
    [0, `img_range`], any h and w from 1 up; output `(b, in_chans, upscale * h, upscale * w)`, not clamped.

    Raises:
        ValueError: options that contradict each other or name something that does not exist.
    """

    def __init__(
        self,
        img_size: int = 64,
        patch_size: int = 1,
        in_chans: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (6, 6, 6, 6),
        num_heads: Sequence[int] = (6, 6, 6, 6),
        window_size: int = 8,
        compress_ratio: int = 3,
        squeeze_factor: int = 30,
        conv_scale: float = 0.01,
        overlap_ratio: float = 0.5,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        ape: bool = False,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
        upscale: int = 1,
        img_range: float = 1.0,
        upsampler: str = "pixelshuffle",
        resi_connection: str = "1conv",
        num_feat: int = 64,
    ) -> None:
        super().__init__()
        for complaint in _contradictions(locals()):
            raise ValueError(complaint)
        self.window_size = window_size
        self.upscale = upscale
        self.img_range = img_range
        self.fp32_tail = True  # whether autocast leaves the reconstruction in full precision
        overlap_window = window_size + int(window_size * overlap_ratio)
        self.register_buffer("relative_position_index_SA", relative_position_index(window_size, window_size))
        self.register_buffer("relative_position_index_OCA", relative_position_index(window_size, overlap_window))
        mean = torch.tensor(RGB_MEAN if in_chans == 3 else [0.0] * in_chans).view(1, in_chans, 1, 1)
        self.register_buffer("mean", mean, persistent=False)

        # Shallow features.
        self.conv_first = nn.Conv2d(in_chans, embed_dim, 3, padding=1)

        # Deep features.
        self.patch_embed = PatchEmbed(embed_dim, patch_norm)
        self.absolute_pos_embed: nn.Parameter | None = None
        if ape:
            self.absolute_pos_embed = nn.Parameter(torch.empty(1, img_size * img_size, embed_dim))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        self.pos_drop = nn.Dropout(drop_rate)
        total = sum(depths)  # the rate grows linearly from the first block to the last
        drop_path = (drop_path_rate * i / max(total - 1, 1) for i in range(total))
        self.layers = nn.ModuleList()
        for depth, heads in zip(depths, num_heads, strict=True):
            blocks = [
                HAB(
                    dim=embed_dim,
                    num_heads=heads,
                    window_size=window_size,
                    shift_size=window_size // 2 if i % 2 else 0,
                    compress_ratio=compress_ratio,
                    squeeze_factor=squeeze_factor,
                    conv_scale=conv_scale,
                    mlp_ratio=mlp_ratio,
                    qkv_bias=qkv_bias,
                    qk_scale=qk_scale,
                    drop=drop_rate,
                    attn_drop=attn_drop_rate,
                    drop_path=next(drop_path),
                )
                for i in range(depth)
            ]
            overlap_attn = OCAB(embed_dim, heads, window_size, overlap_ratio, qkv_bias, qk_scale, mlp_ratio)
            group = AttentionBlocks(blocks, overlap_attn, use_checkpoint)
            self.layers.append(RHAG(group, embed_dim, resi_connection))
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = (
            nn.Conv2d(embed_dim, embed_dim, 3, padding=1) if resi_connection == "1conv" else nn.Identity()
        )

        # Reconstruction.
        self.conv_before_upsample = nn.Sequential(nn.Conv2d(embed_dim, num_feat, 3, padding=1), nn.LeakyReLU(0.01))
        self.upsample = Upsample(upscale, num_feat)
        self.conv_last = nn.Conv2d(num_feat, in_chans, 3, padding=1)

        self.apply(_init_weights)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> HAT:
        """Build the network that a `network_g` section describes (its `type`, if there, is `HAT`).

        Raises:
            ValueError: an unknown key, with the nearest known one, or a contradiction between known ones.
        """
        known = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
        for name in options:
            if name not in known and name != "type":
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                raise ValueError(f"HAT has no option {name!r}: {hint}")
        if options.get("type", "HAT") != "HAT":
            raise ValueError(f"the network's type must be HAT, got {options['type']!r}")
        return cls(**{name: value for name, value in options.items() if name != "type"})

    def forward_features(self, x: Tensor) -> Tensor:
        """Deep features. Shape: `(b, c, h, w)` to the same; h and w are multiples of the window."""
        features = self.patch_embed(x.permute(0, 2, 3, 1).contiguous())  # (b, h, w, c)
        if self.absolute_pos_embed is not None:
            features = features + self.absolute_pos_embed.view(1, *self._embedded_size(features), -1)
        features = self.pos_drop(features)
        for layer in self.layers:
            features = layer(features, self.relative_position_index_SA, self.relative_position_index_OCA)
        return cast(Tensor, self.norm(features)).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        mean = cast(Tensor, self.mean).to(x.dtype)
        x = pad_to_multiple((x - mean) * self.img_range, self.window_size)
        # Under autocast the first convolution stays in full precision, and with it the residual stream that all
        # blocks add to; so does the reconstruction, unless speed is worth more.
        with torch.autocast(x.device.type, enabled=False):
            x = self.conv_first(x)
        x = self.conv_after_body(self.forward_features(x)) + x
        with torch.autocast(x.device.type, enabled=torch.is_autocast_enabled(x.device.type) and not self.fp32_tail):
            x = self.conv_last(self.upsample(self.conv_before_upsample(x)))
        x = x.to(mean.dtype) / self.img_range + mean
        return x[:, :, : h * self.upscale, : w * self.upscale]

    def _embedded_size(self, features: Tensor) -> tuple[int, int]:
        h, w = int(features.shape[1]), int(features.shape[2])
        assert self.absolute_pos_embed is not None
        if h * w != self.absolute_pos_embed.shape[1]:
            side = math.isqrt(self.absolute_pos_embed.shape[1])
            raise ValueError(f"with ape the input must be {side}x{side} (img_size), got {h}x{w}")
        return h, w


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _contradictions(given: Mapping[str, Any]) -> Iterator[str]:  # noqa: PLR0912 (a list of independent checks)
    """Yield a sentence for each thing that is wrong with the constructor's arguments."""
    window, dim, heads, depths = given["window_size"], given["embed_dim"], given["num_heads"], given["depths"]
    if given["upscale"] != 3 and given["upscale"] not in (1, 2, 4, 8):
        yield f"upscale must be 1, 2, 3, 4 or 8, got {given['upscale']}"
    if given["upsampler"] != "pixelshuffle":
        yield f"upsampler must be 'pixelshuffle', got {given['upsampler']!r}"
    if given["resi_connection"] not in ("1conv", "identity"):
        yield f"resi_connection must be '1conv' or 'identity', got {given['resi_connection']!r}"
    if given["patch_size"] != 1:
        yield f"patch_size must be 1, got {given['patch_size']}"
    if len(depths) != len(heads) or not len(depths):
        yield f"depths and num_heads must have one entry a group, got {list(depths)} and {list(heads)}"
    for count in heads:
        if count < 1 or dim % count:
            yield f"num_heads must divide embed_dim {dim}, got {count}"
    if window < 2 or window % 2:
        yield f"window_size must be even (every second block shifts by half of it), got {window}"
    overlap = window * given["overlap_ratio"]
    if overlap <= 0 or overlap != int(overlap) or int(overlap) % 2:
        yield (
            "window_size times overlap_ratio must be an even whole number (half of it is added on each side), "
            f"got {window} x {given['overlap_ratio']} = {overlap:g}"
        )
    if given["img_size"] <= window:
        yield f"img_size must be larger than window_size {window}, got {given['img_size']}"
    for name in ("compress_ratio", "squeeze_factor"):
        if given[name] < 1 or dim // given[name] < 1:
            yield f"{name} must be between 1 and embed_dim {dim}, got {given[name]}"
    for name in ("drop_rate", "attn_drop_rate", "drop_path_rate"):
        if not 0 <= given[name] < 1:
            yield f"{name} must be in [0, 1), got {given[name]}"
