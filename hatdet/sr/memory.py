"""How much memory one call of HAT takes, how much there is, and which tiles fit.

The model counts the tensors that are alive at once, in two places where the most are: the MLP behind a group's
overlapping attention, whose keys and values are still there, and the last pixel shuffle. What is left over of the free
memory is for what it does not count: the workspaces of convolutions, the canvas, other programs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from hatdet.blocks.hat_blocks import HAB, OCAB
from hatdet.sr.hat_arch import HAT

__all__ = [
    "MOST_TILES",
    "SHARE",
    "Choice",
    "Footprint",
    "body_bytes",
    "fitting",
    "footprint",
    "free_memory",
    "tail_bytes",
]

SHARE = 0.8  # of the free memory that a call may take
MOST_TILES = 16  # in one call: beyond that a GPU has enough to do
FLOAT32 = 4


class Choice(NamedTuple):
    """A tile's side in input pixels, and tiles in one call."""

    tile: int
    batch: int


@dataclass(frozen=True)
class Footprint:
    """The peak memory of one call, in bytes: `fixed`, and `per_pixel` for each input pixel of all its tiles."""

    fixed: int
    per_pixel: int

    def bytes(self, choice: Choice) -> int:
        """Of a call with so many square tiles of that side."""
        return self.fixed + self.per_pixel * choice.batch * choice.tile**2

    def most_tiles(self, tile: int, limit: float) -> int:
        """How many tiles of that side fit into `limit` bytes; possibly none."""
        return max(0, int((limit - self.fixed) // (self.per_pixel * tile * tile)))

    def largest_tile(self, limit: float, multiple: int) -> int:
        """The side of the largest tile that fits into `limit` bytes, a multiple of `multiple`; possibly 0."""
        side = math.isqrt(max(0, int((limit - self.fixed) // self.per_pixel)))
        return side - side % multiple


def body_bytes(embed_dim: int, hidden: int, window: int, key_window: int, compute_bytes: int) -> int:
    """The peak of the groups, in bytes an input pixel.

    Args:
        embed_dim: channels of the residual stream, which is float32.
        hidden: channels in the middle of the MLP.
        window, key_window: sides of the windows of queries and of keys in the overlapping attention.
        compute_bytes: of one number that is multiplied: 4, or 2 in bf16.
    """
    stream = 5 * embed_dim  # first features, input of the group, of the block, of the MLP, and its norm
    around = 2 * embed_dim * (key_window / window) ** 2  # keys and values, once for each window that sees them
    # qkv, q by windows, keys and values with a margin, and the result of the attention.
    attended = (3 + 1 + 2 + 1) * embed_dim
    return math.ceil(FLOAT32 * stream + compute_bytes * (attended + around + 2 * hidden))


def tail_bytes(embed_dim: int, num_feat: int, scale: int) -> int:
    """The peak of the reconstruction, which is float32, in bytes an input pixel.

    Three maps of `num_feat` channels in the output's size: what the last convolution made, the same shuffled, and a
    convolution's copy in its own layout. Beside them its input, and the sum of the groups.
    """
    return FLOAT32 * (3 * num_feat * scale**2 + num_feat + embed_dim)


def footprint(network: HAT, precision: torch.dtype) -> Footprint:
    """The model of this network, with matrix products in `precision`. Weights are not counted: they are there before.

    The fixed part is the biases of all attentions, which are kept after the first call.
    """
    blocks = [block for block in network.modules() if isinstance(block, HAB)]
    across = [block for block in network.modules() if isinstance(block, OCAB)]
    window, key_window = network.window_size, across[0].overlap_win_size
    biases = _bias_numbers(blocks, across)
    embed_dim = network.conv_first.out_channels
    body = body_bytes(embed_dim, across[0].mlp.fc1.out_features, window, key_window, precision.itemsize)
    tail = tail_bytes(embed_dim, network.conv_last.in_channels, network.upscale)
    return Footprint(precision.itemsize * biases, max(body, tail))


def _bias_numbers(blocks: Iterable[HAB], across: Iterable[OCAB]) -> int:
    """A shifted block keeps a bias for each of the four masks."""
    own = (block.attn.num_heads * block.attn.window_size**4 * (4 if block.shift_size else 1) for block in blocks)
    return sum(own) + sum(block.num_heads * (block.window_size * block.overlap_win_size) ** 2 for block in across)


def free_memory(device: torch.device) -> int:
    """Bytes that can be had on a device: on CUDA with what torch holds and does not use, else of the machine."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + kept)
    import psutil

    return int(psutil.virtual_memory().available)


def fitting(needed: Footprint, limit: float, asked: Choice, *, window: int, least: int) -> Choice:
    """What was asked for, or what of it fits into `limit` bytes.

    The batch, on which no result depends, gives way first. A tile that is made smaller becomes a multiple of `window`,
    and not smaller than `least`, whether or not that fits.
    """
    tile, batch = asked
    whole = tile - tile % window
    if needed.bytes(Choice(whole, 1)) > limit:
        tile = min(whole, max(needed.largest_tile(limit, window), least + -least % window))
    return Choice(tile, max(1, min(batch, needed.most_tiles(tile - tile % window, limit))))
