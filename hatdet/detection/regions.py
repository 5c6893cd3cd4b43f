"""Upscaling only where it matters: a network on the parts of an image that a scorer marks, interpolation elsewhere.

    image ─┬─▶ scorer ─▶ cells ─▶ rectangles with a margin ─▶ network ─┐ blended in over the margin
           └─▶ bicubic ────────────────────────────────────────────────┴─▶ one picture ─▶ detector, once

What comes out is a picture like any upscaler's, so the detector sees each object in its surroundings, and no boxes of
different passes have to be put together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from hatdet.core.errors import OptionsError
from hatdet.core.types import Detections, Detector, Image, Upscaler
from hatdet.imaging.resize import resize_bicubic, round_

__all__ = ["CELL", "FIRST_LOOK_SCALE", "FirstPass", "Regions", "SelectiveUpscaler", "enclosing", "share_of"]

CELL = 16  # source pixels: the side of what is marked or not
MARGIN = 8  # source pixels around a region: what the network sees of its surroundings, and where it is blended in
BLOCK = 32  # cells: no rectangle is larger, so that finding them takes time in proportion to the image
EXTRA = 16 * 16  # pixels that one more rectangle is worth: what it costs besides its pixels
FIRST_LOOK_SCALE = 2  # how many times larger, interpolated, the image is in which a first pass looks for regions
ALL = 0.9  # from this share on everything is upscaled: about the same cost, and no seams

Score = Callable[[Image], NDArray[np.float32]]
Rectangles = NDArray[np.int64]  # (n, 4) left, top, right, bottom


@dataclass(frozen=True, eq=False)
class Regions:
    """What was done with one image.

    Attributes:
        picture: the upscaled image.
        rectangles: that the network saw, with their margins, `(n, 4)` left, top, right, bottom in source pixels.
        share: of the image's pixels that went through the network; 1 where all of them did. Those that several
            rectangles have count more than once.
    """

    picture: Image
    rectangles: Rectangles
    share: float


@dataclass(frozen=True, eq=False)
class SelectiveUpscaler:
    """An upscaler that sends only parts of an image through another one.

    Attributes:
        upscaler: for the parts.
        score: an image to `(rows, columns)` cells of 16x16 source pixels (the last ones may reach beyond): 0 where
            nothing is worth the network, else the more the sooner.
        max_share: of the pixels that may go through the network, in (0, 1]: the cells of the least score are left out.
            None: all cells that have one.
        on_share: called with the share of each image and its pixels.

    Raises:
        OptionsError: a share that is not above 0 and at most 1.
    """

    upscaler: Upscaler
    score: Score
    max_share: float | None = None
    on_share: Callable[[float, int], None] | None = None

    def __post_init__(self) -> None:
        if self.max_share is not None and not 0 < self.max_share <= 1:
            raise OptionsError(f"max-share must be above 0 and at most 1, got {self.max_share}")

    @property
    def name(self) -> str:
        return f"regions:{self.upscaler.name}"

    @property
    def scale(self) -> int:
        return self.upscaler.scale

    def __call__(self, image: Image) -> Image:
        return self.regions(image).picture

    def regions(self, image: Image) -> Regions:
        """The upscaled image, and which parts of it the network made."""
        done = self._regions(image)
        if self.on_share is not None:
            self.on_share(done.share, image.height * image.width)
        return done

    def _regions(self, image: Image) -> Regions:
        # Once: the first look, the interpolation and the network are all computed there.
        image = image.to(getattr(self.upscaler, "device", image.pixels.device))
        size_hw = image.height, image.width
        score = self.score(image)
        expected = tuple(-(-side // CELL) for side in size_hw)
        if score.shape != expected:
            raise ValueError(f"the score of {image.width}x{image.height} pixels must be {expected}, got {score.shape}")
        found = self._chosen(score, size_hw)
        share = share_of(found, size_hw)
        if share >= ALL and (self.max_share is None or self.max_share == 1):
            whole = np.array([[0, 0, image.width, image.height]])
            return Regions(self.upscaler(image), whole, 1.0)
        larger = (image.height * self.scale, image.width * self.scale)
        made = [self.upscaler(_part(image, one)) for one in found]
        canvas = resize_bicubic(image, larger, self.scale).pixels
        for one, part in zip(found, made, strict=True):
            left, top, right, bottom = (int(edge) * self.scale for edge in one)
            weight = _weight(one, size_hw, self.scale, canvas.device)
            canvas[:, top:bottom, left:right].lerp_(part.pixels.to(canvas.device), weight)
        round_(canvas, image.levels)
        return Regions(Image(canvas, image.scale * self.scale, image.bit_depth), found, share)

    def _chosen(self, score: NDArray[np.float32], size_hw: tuple[int, int]) -> Rectangles:
        """Around as many of the cells, those of the highest score first, as the share allows."""
        order = np.argsort(-score, axis=None, kind="stable")
        most = int((score > 0).sum())

        def around(count: int) -> Rectangles:
            marked = np.zeros(score.size, np.bool_)
            marked[order[:count]] = True
            return enclosing(marked.reshape(score.shape), size_hw)

        everything = around(most)
        if self.max_share is None or share_of(everything, size_hw) <= self.max_share:
            return everything
        fits, too_many = 0, most
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if share_of(around(middle), size_hw) <= self.max_share:
                fits = middle
            else:
                too_many = middle
        return around(fits)


def enclosing(marked: NDArray[np.bool_], size_hw: tuple[int, int]) -> Rectangles:
    """Rectangles around all marked cells, with their margins, that cost little together.

    Two are made one where that takes fewer pixels, margins and what a rectangle costs by itself included: greedily,
    the best pair first.

    Args:
        marked: `(rows, columns)` cells.
        size_hw: of the image, which cuts the margins.
    """
    found = []
    for top in range(0, marked.shape[0], BLOCK):
        for left in range(0, marked.shape[1], BLOCK):
            block = marked[top : top + BLOCK, left : left + BLOCK]
            if block.any():
                found.append(_united(_runs(block) + np.array([left, top, left, top])))
    if not found:
        return np.empty((0, 4), np.int64)
    edges = np.concatenate(found) * CELL + [-MARGIN, -MARGIN, MARGIN, MARGIN]
    h, w = size_hw
    return np.stack([edges[:, :2].clip(0), edges[:, 2:].clip(None, [w, h])], 1).reshape(-1, 4)


def share_of(rectangles: Rectangles, size_hw: tuple[int, int]) -> float:
    """The pixels of rectangles for each of the image's."""
    return float((rectangles[:, 2:] - rectangles[:, :2]).prod(1).sum()) / (size_hw[0] * size_hw[1])


def _runs(marked: NDArray[np.bool_]) -> Rectangles:
    """Marked cells that stand side by side, as rectangles of one row."""
    found = []
    for y, row in enumerate(np.pad(marked, ((0, 0), (1, 1))).astype(np.int8)):
        change = np.diff(row)
        found += [[x1, y, x2, y + 1] for x1, x2 in zip(*(np.flatnonzero(change == k) for k in (1, -1)), strict=True)]
    return np.array(found, np.int64)


def _united(boxes: Rectangles) -> Rectangles:
    while len(boxes) > 1:
        low = np.minimum(boxes[:, None, :2], boxes[None, :, :2])
        high = np.maximum(boxes[:, None, 2:], boxes[None, :, 2:])
        cost = _cost(np.concatenate([boxes[:, :2], boxes[:, 2:]], 1))
        gain = cost[:, None] + cost[None] - _cost(np.concatenate([low, high], 2))
        np.fill_diagonal(gain, -1)
        a, b = np.unravel_index(int(gain.argmax()), gain.shape)
        if gain[a, b] < 0:
            break
        joined = np.concatenate([low[a, b], high[a, b]])
        boxes = np.concatenate([np.delete(boxes, [a, b], 0), joined[None]])
    return boxes


def _cost(boxes: Rectangles) -> NDArray[np.int64]:
    sides = (boxes[..., 2:] - boxes[..., :2]) * CELL + 2 * MARGIN
    cost: NDArray[np.int64] = sides.prod(-1) + EXTRA
    return cost


def _part(image: Image, one: NDArray[np.int64]) -> Image:
    left, top, right, bottom = one.tolist()
    return replace(image, pixels=image.pixels[:, top:bottom, left:right].contiguous())


def _weight(one: NDArray[np.int64], size_hw: tuple[int, int], scale: int, device: torch.device) -> torch.Tensor:
    """Of the network's pixels: 1 inside, less and less over the margin, but where the image ends. `(h, w)`."""
    ramps = []
    for low, high, size in ((one[1], one[3], size_hw[0]), (one[0], one[2], size_hw[1])):
        length = int(high - low) * scale
        at = torch.arange(length, device=device) + 0.5
        ramp = torch.ones(length, device=device)
        if low > 0:
            ramp = ramp.minimum(at / (MARGIN * scale))
        if high < size:
            ramp = ramp.minimum((length - at) / (MARGIN * scale))
        ramps.append(ramp)
    return ramps[0][:, None] * ramps[1][None]


@dataclass(frozen=True, eq=False)
class FirstPass:
    """Marks where a detector, at a low threshold and on a small canvas, sees something small or uncertain.

    Attributes:
        detector: boxes of little confidence are wanted of it.
        enlarged: how many times larger it sees the image, interpolated.
        sure, large: a box of at least that confidence whose shorter side is at least so many source pixels gains
            nothing from more pixels.
        grown: cells around a box that are marked with it.
    """

    detector: Detector
    enlarged: int = FIRST_LOOK_SCALE
    sure: float = 0.7
    large: float = 32
    grown: int = 0

    def __call__(self, image: Image) -> NDArray[np.float32]:
        """The confidence of the surest such box of each cell."""
        score = np.zeros((-(-image.height // CELL), -(-image.width // CELL)), np.float32)
        shown = image
        if self.enlarged > 1:
            shown = resize_bicubic(image, (image.height * self.enlarged, image.width * self.enlarged), self.enlarged)
        found = self._worth_it(self.detector(shown))
        for (x1, y1, x2, y2), confidence in zip(found.xyxy * image.scale, found.confidence, strict=True):
            left, top = (max(int(edge // CELL) - self.grown, 0) for edge in (x1, y1))
            right, bottom = (int(-(-edge // CELL)) + self.grown for edge in (x2, y2))
            part = score[top : max(bottom, top + 1), left : max(right, left + 1)]
            np.maximum(part, confidence, out=part)
        return score

    def _worth_it(self, found: Detections) -> Detections:
        shorter = (found.xyxy[:, 2:] - found.xyxy[:, :2]).min(1, initial=np.inf)
        return found.taken((found.confidence < self.sure) | (shorter < self.large))
