"""HAT, the Hybrid Attention Transformer, as in figure 2 of the paper.

X. Chen et al., "Activating More Pixels in Image Super-Resolution Transformer", CVPR 2023 (arXiv 2205.04437).

    image ─ conv_first ─┬─ RHAG x n ─ norm ─ conv_after_body ─(+)─ conv_before_upsample ─ upsample ─ conv_last ─ image
                        └──────────────────────────────────────┘

The groups (RHAG) are in `blocks/hat_blocks.py`, which a detector's layer shares. Names of parameters and buffers are
those of the published checkpoints, which load strictly. What differs from the published code, with the same numbers,
is said there, and: any input size from 1x1 up is padded inside, and the output is cropped to exactly `upscale` times
the input.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatdet.blocks.hat_blocks import (
    HAB,
    OCAB,
    RHAG,
    AttentionBlocks,
    WindowAttention,
    head_width,
    relative_position_index,
    widen_heads,
)

__all__ = ["HAT", "pad_to_multiple"]

# The paper's training images (DF2K); the published checkpoints subtract it from their input.
RGB_MEAN = (0.4488, 0.4371, 0.4040)

HEAD_MULTIPLE = 8  # of the channels of a head that PyTorch's fused attention takes in 16 bits


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

    def with_low_weights(self, dtype: torch.dtype) -> HAT:
        """A copy for autocast to `dtype`, whose weights need no cast any more; the same numbers.

        Those that autocast leaves alone stay: norms, the bias tables, the first convolution, the reconstruction.
        """
        low = copy.deepcopy(self)
        for module in [*low.layers.modules(), *low.conv_after_body.modules()]:
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(dtype)
        return low

    def with_wide_heads(self, multiple: int = HEAD_MULTIPLE) -> HAT:
        """This network, or a copy whose heads are a multiple of so many channels wide; the same numbers.

        HAT's heads have 30 channels, and fused kernels for a bias want multiples of 8. The copy is for inference: its
        weights are no longer those of a checkpoint.
        """
        if all(head_width(attention) % multiple == 0 for attention in _attentions(self)):
            return self
        wide = copy.deepcopy(self)
        for attention in _attentions(wide):
            widen_heads(attention, multiple)
        return wide

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


def _attentions(network: HAT) -> Iterator[WindowAttention | OCAB]:
    for module in network.modules():
        if isinstance(module, WindowAttention | OCAB):
            yield module


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
