"""EfficientAttention and AttnConv: CloFormer's attention, in which every pixel weighs its own neighbourhood.

Q. Fan et al., "Rethinking Local Perception in Lightweight Vision Transformer", 2023 (arXiv 2303.17803).

    map ─┬─ local heads: tanh(attention map of q * k) * v; q, k, v from depthwise convolutions ─┬─ proj ─ map
         └─ global heads: softmax attention to the map averaged over windows ───────────────────┘

The names and shapes of the parameters are those of CloFormer's published code, whose state dicts load strictly. The
numbers are the same where the window divides both sides of the map; the published code goes wrong elsewhere, and here a
window at the border averages the pixels that it has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatdet.detection.attention.layer import AttentionLayer, is_positive
from hatdet.detection.attention.registration import AttentionModule, register

__all__ = ["AttnConv", "EfficientAttention"]


class AttnMap(nn.Module):
    """The nonlinear map from `q * k` to the weights of the values, before their tanh. Shape: `(b, dim, h, w)`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.act_block = nn.Sequential(nn.Conv2d(dim, dim, 1), nn.SiLU(), nn.Conv2d(dim, dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act_block(x)
        return out


class EfficientAttention(AttentionLayer):
    """CloFormer's attention: groups of local heads, each with its own kernel, beside global heads.

    Args:
        dim: Channels.
        num_heads: Number of heads; it divides `dim`. Unless given it follows from `group_split`, or else gives heads of
            16 channels (8 below a width of 64), of fewer where their number would be odd.
        group_split: How many heads each group has; the last number is that of the global heads, and 0 is no group.
            Unless given, half of the heads are global and the others are shared out among the kernels.
        kernel_sizes: The side of the depthwise convolution of each local group, odd. Unless given, 5 for each.
        window_size: Global heads attend to averages over windows of this side in pixels of the feature map, from 1 up.
            The paper has 8, 4, 2 and 1 at strides 4, 8, 16 and 32.
        attn_drop: Dropout of the attention weights in training, in [0, 1].
        proj_drop: Dropout of the output in training, in [0, 1].
        qkv_bias: Whether the 1x1 convolutions outside the attention maps have a bias.
        residual: See `AttentionLayer`.

    Raises:
        ValueError: `dim` is missing, or arguments that do not fit it or each other.
    """

    def __init__(
        self,
        dim: int | None = None,
        num_heads: int | None = None,
        group_split: Sequence[int] | None = None,
        kernel_sizes: Sequence[int] | None = None,
        window_size: int = 4,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        qkv_bias: bool = True,
        residual: bool = False,
    ) -> None:
        super().__init__(dim, residual)
        name = type(self).__name__
        if group_split is not None:
            _check_numbers(f"group_split of {name}", group_split, least=0)
        if num_heads is None:
            num_heads = self._default_heads() if group_split is None else sum(group_split)
        self._check_divides(num_heads, "num_heads")
        if kernel_sizes is None:
            kernel_sizes = [5] * (1 if group_split is None else len(group_split) - 1)
        _check_numbers(f"kernel_sizes of {name}", kernel_sizes, least=1)
        if any(kernel % 2 == 0 for kernel in kernel_sizes):
            raise ValueError(f"kernel_sizes of {name} must be odd, got {list(kernel_sizes)}")
        if group_split is None:
            group_split = self._default_split(num_heads, len(kernel_sizes))
        if sum(group_split) != num_heads:
            raise ValueError(
                f"group_split of {name} must add up to its {num_heads} heads, got {list(group_split)} "
                f"with a sum of {sum(group_split)}"
            )
        if len(group_split) != len(kernel_sizes) + 1:
            raise ValueError(
                f"group_split of {name} must hold a number for each kernel and one for the global heads, "
                f"got {list(group_split)} for kernel_sizes {list(kernel_sizes)}"
            )
        if not is_positive(window_size):
            raise ValueError(f"window_size of {name} must be a positive whole number, got {window_size!r}")

        self.num_heads, self.window_size = num_heads, window_size
        self.dim_head = self.dim // num_heads
        self.scale = self.dim_head**-0.5
        *local_heads, self.global_heads = group_split
        groups = [(m * self.dim_head, k) for m, k in zip(local_heads, kernel_sizes, strict=True) if m]
        self.qkvs = nn.ModuleList(nn.Conv2d(self.dim, 3 * c, 1, bias=qkv_bias) for c, _ in groups)
        self.convs = nn.ModuleList(nn.Conv2d(3 * c, 3 * c, k, padding=k // 2, groups=3 * c) for c, k in groups)
        self.act_blocks = nn.ModuleList(AttnMap(c) for c, _ in groups)
        if self.global_heads:
            channels = self.global_heads * self.dim_head
            self.global_q = nn.Conv2d(self.dim, channels, 1, bias=qkv_bias)
            self.global_kv = nn.Conv2d(self.dim, 2 * channels, 1, bias=qkv_bias)
        self.proj = nn.Conv2d(self.dim, self.dim, 1, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj_drop = nn.Dropout(proj_drop)

    def attend(self, x: Tensor) -> Tensor:
        groups = [
            self._local(conv(qkv(x)), attention_map)
            for qkv, conv, attention_map in zip(self.qkvs, self.convs, self.act_blocks, strict=True)
        ]
        if self.global_heads:
            groups.append(self._global(x))
        out: Tensor = self.proj_drop(self.proj(torch.cat(groups, dim=1)))
        return out

    def _local(self, qkv: Tensor, attention_map: nn.Module) -> Tensor:
        q, k, v = qkv.chunk(3, dim=1)
        weights: Tensor = self.attn_drop(torch.tanh(attention_map(q * k) * self.scale))
        return weights * v

    def _global(self, x: Tensor) -> Tensor:
        averages = F.avg_pool2d(x, self.window_size, ceil_mode=True, count_include_pad=False)
        k, v = self.global_kv(averages).chunk(2, dim=1)
        # Contiguous, for the fused attention is several times slower on transposed tensors.
        q, k, v = (
            t.reshape(t.shape[0], self.global_heads, self.dim_head, -1).transpose(-2, -1).contiguous()
            for t in (self.global_q(x), k, v)
        )
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.attn_drop.p if self.training else 0.0)
        return y.transpose(-2, -1).reshape(x.shape[0], -1, x.shape[2], x.shape[3])

    def _default_heads(self) -> int:
        if self.dim % 8:
            raise ValueError(
                f"{type(self).__name__} has no default number of heads for a width of {self.dim}, which is no multiple "
                "of 8: give num_heads"
            )
        return self.dim // math.gcd(self.dim // 2, 16 if self.dim >= 64 else 8)

    def _default_split(self, num_heads: int, kernels: int) -> list[int]:
        local = num_heads - num_heads // 2 if kernels else 0
        return [local // kernels + (i < local % kernels) for i in range(kernels)] + [num_heads - local]


class AttnConv(EfficientAttention):
    """The local heads of `EfficientAttention` alone: a convolution whose weights follow from what it sees.

    It is `EfficientAttention` with a `group_split` of `[num_heads, 0]`, parameter names included. Its cost grows with
    the number of pixels. For the arguments and errors see there.
    """

    def __init__(
        self,
        dim: int | None = None,
        num_heads: int | None = None,
        kernel_size: int = 5,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        qkv_bias: bool = True,
        residual: bool = False,
    ) -> None:
        super().__init__(
            dim,
            num_heads,
            kernel_sizes=[kernel_size],
            attn_drop=attn_drop,
            proj_drop=proj_drop,
            qkv_bias=qkv_bias,
            residual=residual,
        )

    def _default_split(self, num_heads: int, kernels: int) -> list[int]:
        return [num_heads, 0]


def _check_numbers(what: str, numbers: object, least: int) -> None:
    """Raise a ValueError unless `numbers` is a list of whole numbers from `least` up."""
    if not isinstance(numbers, (list, tuple)) or any(
        isinstance(n, bool) or not isinstance(n, int) or n < least for n in numbers
    ):
        raise ValueError(f"{what} must be a list of whole numbers from {least} up, got {numbers!r}")


_PAPER = "Fan et al., Rethinking Local Perception in Lightweight Vision Transformer, arXiv 2303.17803"
_ORIGIN = "qhfan/CloFormer (MIT)"
# Kernels and windows are the paper's at these strides.
register(
    AttentionModule(
        cls=EfficientAttention,
        summary="half of the heads weigh their neighbourhood by convolutions, half attend to averages of the whole map",
        paper=_PAPER,
        origin=_ORIGIN,
        constraints="width a multiple of 8, or of num_heads; any size; cost grows with (h * w / window_size)²",
        arguments={8: (None, None, [5], 4), 16: (None, None, [7], 2), 32: (16, [4, 12], [9], 1)},
    )
)
register(
    AttentionModule(
        cls=AttnConv,
        summary="every pixel weighs its neighbourhood by convolutions: the local half of EfficientAttention",
        paper=_PAPER,
        origin=_ORIGIN,
        constraints="width a multiple of 8, or of num_heads; any size; cost grows with h * w",
        arguments={8: (None, 5), 16: (None, 7), 32: (None, 9)},
    )
)
