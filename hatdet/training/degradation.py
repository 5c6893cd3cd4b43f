"""How a good photo becomes a bad one of low resolution, and the pool of pairs that training draws from.

Real-ESRGAN's second-order degradation: X. Wang, L. Xie, C. Dong, Y. Shan, "Real-ESRGAN: Training Real-World Blind
Super-Resolution with Pure Synthetic Data", 2021, https://arxiv.org/abs/2107.10833, sections 3 and 4; on BasicSR's
filters, noise and JPEG. Numbers are drawn in BasicSR's order, so equal seeds give its images.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from basicsr.data.degradations import random_add_gaussian_noise_pt, random_add_poisson_noise_pt
from basicsr.utils import DiffJPEG
from basicsr.utils.img_process_util import filter2D
from torch import Tensor, nn
from torch.nn import functional as F

from hatdet.core.errors import OptionsError

__all__ = ["PairPool", "degrade", "jpeg_on"]

# ------------------------------------------------------------------------------------------ 1. degradation


def jpeg_on(device: torch.device) -> nn.Module:
    """JPEG compression as a network: `(b, 3, h, w)` in [0, 1] and `quality` `(b,)`, 1 to 99, give an image alike.

    `quality` is written to. A copy of BasicSR's, whose tables are one for all its instances, on whatever device.
    """
    made: nn.Module = copy.deepcopy(DiffJPEG(differentiable=False)).to(device).requires_grad_(False)
    return made


@torch.no_grad()
def degrade(
    gt: Tensor,
    kernel1: Tensor,
    kernel2: Tensor,
    sinc_kernel: Tensor,
    options: Mapping[str, Any],
    scale: int,
    jpeg: Callable[..., Tensor],
) -> Tensor:
    """Blur, resize, noise and JPEG, twice; in the second pass the final size and the sinc filter before or after JPEG.

    Resizing factors and kinds of noise are drawn once for the batch; their strengths, and the quality of JPEG, for
    each image. Draws come from Python's `random`, from NumPy's global generator and from PyTorch's of the device.

    Args:
        gt: `(b, 3, h, w)`, RGB in [0, 1], sides multiples of `scale`. Every size on the way must be more than half a
            kernel: 74 pixels are enough for kernels of 21, the published ranges and x4.
        kernel1, kernel2, sinc_kernel: `(b, k, k)`, k odd: the two passes' blurs, and the last filter.
        options: an option file's `resize_prob`, `resize_range`, `gaussian_noise_prob`, `noise_range`,
            `poisson_scale_range`, `gray_noise_prob`, `jpeg_range`, the same with a `2` at the end for the second pass,
            and `second_blur_prob`.
        scale: how many times smaller the result is.
        jpeg: `jpeg_on(gt.device)`.

    Returns:
        `(b, 3, h / scale, w / scale)` in [0, 1], rounded to 8 bits.

    Raises:
        ValueError: sides that the scale does not divide.
    """
    height, width = gt.shape[-2:]
    if height % scale or width % scale:
        raise ValueError(f"sides must be multiples of scale {scale}, got {width}x{height}")
    picture = filter2D(gt, kernel1)
    factor = _factor(options["resize_prob"], options["resize_range"])
    picture = F.interpolate(picture, scale_factor=factor, mode=_mode())
    picture = _compressed(_noisy(picture, options, ""), options["jpeg_range"], jpeg)

    if _uniform() < options["second_blur_prob"]:
        picture = filter2D(picture, kernel2)
    factor = _factor(options["resize_prob2"], options["resize_range2"])
    size = int(height / scale * factor), int(width / scale * factor)
    picture = _noisy(F.interpolate(picture, size=size, mode=_mode()), options, "2")
    size = height // scale, width // scale
    if _uniform() < 0.5:
        picture = filter2D(F.interpolate(picture, size=size, mode=_mode()), sinc_kernel)
        picture = _compressed(picture, options["jpeg_range2"], jpeg)
    else:
        picture = _compressed(picture, options["jpeg_range2"], jpeg)
        picture = filter2D(F.interpolate(picture, size=size, mode=_mode()), sinc_kernel)
    rounded: Tensor = (picture * 255).round_().clamp_(0, 255) / 255
    return rounded


def _uniform(low: float = 0.0, high: float = 1.0) -> float:
    return float(np.random.uniform(low, high))  # noqa: NPY002 (what training seeds)


def _factor(shares: Sequence[float], bounds: Sequence[float]) -> float:
    """A factor of size: larger, smaller or 1, with these shares."""
    way = random.choices(("up", "down", "keep"), shares)[0]  # noqa: S311 (not for secrets)
    if way == "up":
        return _uniform(1, bounds[1])
    return _uniform(bounds[0], 1) if way == "down" else 1.0


def _mode() -> str:
    return random.choice(("area", "bilinear", "bicubic"))  # noqa: S311


def _noisy(picture: Tensor, options: Mapping[str, Any], end: str) -> Tensor:
    """With Gaussian or Poisson noise, in [0, 1]; some of the images with one noise for all channels."""
    how = {"gray_prob": options[f"gray_noise_prob{end}"], "clip": True, "rounds": False}
    noisy: Tensor
    if _uniform() < options[f"gaussian_noise_prob{end}"]:
        noisy = random_add_gaussian_noise_pt(picture, sigma_range=options[f"noise_range{end}"], **how)
    else:
        noisy = random_add_poisson_noise_pt(picture, scale_range=options[f"poisson_scale_range{end}"], **how)
    return noisy


def _compressed(picture: Tensor, qualities: Sequence[float], jpeg: Callable[..., Tensor]) -> Tensor:
    quality = picture.new_zeros(len(picture)).uniform_(*qualities)
    return jpeg(picture.clamp(0, 1), quality=quality).contiguous()  # BasicSR's filter takes views of rows


# ------------------------------------------------------------------------------------------ 2. the pool of pairs


class PairPool:
    """Pairs of earlier batches, to draw batches from: images of one batch are degraded too much alike.

    As in Real-ESRGAN. `exchange` gives every batch back as it is until the pool is full; from then on it gives pairs
    drawn from the pool, and those of the batch take their places.

    Args:
        size: how many pairs there are in the pool.
        batch: how many there are in a batch.

    Raises:
        OptionsError: the size is not a multiple of the batch.
    """

    def __init__(self, size: int, batch: int) -> None:
        if size % batch:
            raise OptionsError(f"queue_size must be a multiple of batch_size_per_gpu {batch}, got {size}")
        self.size, self.batch, self.filled = size, batch, 0
        self._pairs: tuple[Tensor, Tensor] | None = None
        self._order = torch.arange(size)  # shuffling moves no pixels

    @torch.no_grad()
    def exchange(self, lq: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
        """Give a batch, `(b, 3, h, w)` and `(b, 3, h', w')`, for one of the same shape; PyTorch's generator draws."""
        if self._pairs is None:
            self._pairs = lq.new_zeros(self.size, *lq.shape[1:]), gt.new_zeros(self.size, *gt.shape[1:])
        lqs, gts = self._pairs
        if self.filled < self.size:
            places = self._order[self.filled : self.filled + len(lq)]
            self.filled += len(lq)
            taken = lq, gt
        else:
            self._order = self._order[torch.randperm(self.size)]
            places = self._order[: len(lq)]
            taken = lqs[places], gts[places]
        lqs[places], gts[places] = lq, gt
        return taken

    def state(self) -> dict[str, Tensor]:
        """What the pool holds, on the CPU: `lq` and `gt`; nothing before the first batch."""
        if self._pairs is None:
            return {}
        lqs, gts = (pictures.cpu()[self._order[: self.filled]] for pictures in self._pairs)
        return {"lq": lqs, "gt": gts}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Hold what `state` gave, on the device where it is now, and go on as that pool would have.

        A pool or a batch of another size takes as many whole batches as it has room for.
        """
        self._pairs, self.filled = None, 0
        if not state:
            return
        count = min(len(state["lq"]), self.size) // self.batch * self.batch
        self._order = torch.arange(self.size)
        for first in range(0, count, self.batch):
            self.exchange(*(state[key][first : first + self.batch] for key in ("lq", "gt")))
