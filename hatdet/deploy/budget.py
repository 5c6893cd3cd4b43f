"""What fits into a time for each image: which upscaler, on how much of the image, in how many slices.

Pure: what a machine takes comes from a `Calibration`, the clock is the caller's. In full, an image takes

    upscaling of every pixel + detection on the upscaled canvas

and with a share of it below 1, as `SelectiveUpscaler` computes it,

    a first pass of the detector + bicubic everywhere + the network on the share + detection on the canvas.

A canvas that exceeds the detector's is cut into overlapping slices of the image, each of which takes that, and the
whole image is looked at once more, on a canvas of that size.

**The order of plans**, from the least to the best; of those whose expected time fits, the best is taken:

1. no upscaling
2. bicubic
3. a network on less than `MIN_SHARE` of the image, at least `LEAST_SHARE`: the larger share, then the better network
4. a network on at least `MIN_SHARE` of it: the better network, then the larger share

So a network computes the whole image before a smaller one is thought of, and a larger network with `MIN_SHARE` comes
before a smaller one in full. Which network is better says `calibration.QUALITY`: the order of their published PSNR.
Where nothing fits, the fastest of no upscaling and bicubic is taken, and the plan says that it does not fit.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hatdet.core.errors import OptionsError
from hatdet.deploy.calibration import QUALITY, Calibration, Part
from hatdet.detection.letterbox import Letterbox
from hatdet.detection.slicing import SLICE_OVERLAP, slice_starts
from hatdet.detection.yolo import LARGEST_IMGSZ, PLAIN_IMGSZ
from hatdet.sr.catalogue import named_record
from hatdet.sr.tiling import plan_axis

__all__ = [
    "LEAST_SHARE",
    "MIN_SHARE",
    "Better",
    "Keeping",
    "Plan",
    "correction",
    "parse_budget",
    "plan",
    "sentence",
    "slices",
    "upscale_ms",
]

MIN_SHARE = 0.3  # of the image: from here on a better network counts more than more of the image
LEAST_SHARE = 0.05  # below this the first pass is not worth its time
REGION_PIXELS = 64 * 64  # of the image that one call of a network takes where only regions are upscaled
RECENT = 15  # images that the correction looks back to
LEAST_CORRECTION, MOST_CORRECTION = 0.5, 4.0

_BUDGET = re.compile(r"(\d+(?:\.\d+)?) ?(ms|s)")


def parse_budget(text: str) -> float:
    """Milliseconds from `200ms`, `2s`, `1.5 s`.

    Raises:
        OptionsError: something else, or no time at all.
    """
    found = _BUDGET.fullmatch(text.strip())
    ms = float(found[1]) * (1e3 if found[2] == "s" else 1) if found else 0.0
    if not 0 < ms < math.inf:
        raise OptionsError(f"--budget must be a time for each image, as in 200ms or 1.5s, got {text!r}")
    return ms


# ------------------------------------------------------------------------------------------ 1. what things take


def slices(size_wh: tuple[int, int], most: int) -> tuple[tuple[int, int], int]:
    """The sides of the fewest slices of at most `most` pixels along each side that cover an image, and their number.

    They are as small as that number and an overlap of a fifth allow: what is computed twice is for nothing.
    """
    sides, count = [], 1
    for length in size_wh:
        fewest = len(_starts(length, most)) if length > most else 1
        side = length
        if fewest > 1:
            side = min(most, math.ceil(length / (fewest - (fewest - 1) * SLICE_OVERLAP)))
            while len(_starts(length, side)) > fewest:  # by a pixel that the overlap was rounded by
                side += 1
        sides.append(side)
        count *= fewest
    return (sides[0], sides[1]), count


def _starts(length: int, side: int) -> list[int]:
    return slice_starts(length, side, SLICE_OVERLAP)


def upscale_ms(part: Part, size_wh: tuple[int, int]) -> float:
    """Milliseconds for an image, with the overlaps of the tiles that `HatUpscaler` cuts it into."""
    width, height = size_wh
    if part.tile is None:
        return part.line.ms(width * height)
    columns, rows = (plan_axis(side, part.tile, part.overlap, part.multiple) for side in (width, height))
    tiles = len(columns.starts) * len(rows.starts)
    pixels = tiles * _padded(columns.size, part.multiple) * _padded(rows.size, part.multiple)
    return part.line.ms(pixels, -(-tiles // part.batch))


def _padded(side: int, multiple: int) -> int:
    return side + -side % multiple


@dataclass(frozen=True)
class _Work:
    """What an image takes, in parts that do not depend on the budget.

    Attributes:
        calibration: what it is reckoned from.
        size_wh: of the image.
        imgsz: as the detector's; None for its own rule.
        first_pass: long side of the canvas of the first pass.
        piece_wh, pieces: of slices; the image itself where it is not sliced.
    """

    calibration: Calibration
    size_wh: tuple[int, int]
    imgsz: int | None
    first_pass: int
    piece_wh: tuple[int, int]
    pieces: int

    @classmethod
    def of(cls, calibration: Calibration, size_wh: tuple[int, int], imgsz: int | None, first_pass: int) -> _Work:
        most = max(1, (imgsz or LARGEST_IMGSZ) // calibration.scale)
        return cls(calibration, size_wh, imgsz, first_pass, *slices(size_wh, most))

    def plain(self) -> float:
        """No upscaling: the image on the detector's canvas, once."""
        return self._canvas_ms(self.size_wh, self.imgsz or PLAIN_IMGSZ)

    def full(self, part: Part) -> float:
        """Every pixel upscaled."""
        return self._looking() + self._upscaling(part)

    def shared(self, part: Part) -> tuple[float, float]:
        """The time without the network, and what its share is multiplied with."""
        if self.pieces == 1:
            first = self._canvas_ms(self.piece_wh, self.first_pass)
        else:
            first = self.pieces * self._square_ms(self.first_pass)
        pixels = self.pieces * self.piece_wh[0] * self.piece_wh[1]
        fixed = self._looking() + first + self._upscaling(self.calibration.upscaler("bicubic"))
        return fixed, part.line.ms(pixels, pixels / REGION_PIXELS / part.batch)

    def _looking(self) -> float:
        """Detection on the upscaled canvas, or on those of the slices and on the whole image."""
        width, height = (side * self.calibration.scale for side in self.piece_wh)
        if self.pieces == 1:
            return self._canvas_ms((width, height), self.imgsz)
        one = self._canvas_ms((width, height), None) if self.imgsz is None else self._square_ms(self.imgsz)
        return self.pieces * one + self._canvas_ms(self.size_wh, self.imgsz or LARGEST_IMGSZ)

    def _upscaling(self, part: Part) -> float:
        whole = upscale_ms(part, self.piece_wh)
        if self.pieces == 1:
            return whole
        # Not by the tiles of one slice, which fit it now well and now badly: a larger image is never cheaper.
        width, height = self.piece_wh
        ratio = 1.0 if part.tile is None else (part.tile / (part.tile - part.overlap)) ** 2
        pixels = self.pieces * width * height * ratio
        calls = float(self.pieces) if part.tile is None else max(self.pieces, pixels / part.tile**2 / part.batch)
        most = max(1, (self.imgsz or LARGEST_IMGSZ) // self.calibration.scale)
        unsliced = (min(self.size_wh[0], most), min(self.size_wh[1], most))
        return max(part.line.ms(pixels, calls), upscale_ms(part, unsliced))

    def _canvas_ms(self, size_wh: tuple[int, int], long_side: int | None) -> float:
        detector = self.calibration.detector
        height, width = Letterbox.fit((size_wh[1], size_wh[0]), long_side, detector.multiple).canvas_hw
        return detector.line.ms(height * width)

    def _square_ms(self, side: int) -> float:
        """Of one slice, whatever its shape: at most a square."""
        detector = self.calibration.detector
        return detector.line.ms(_padded(side, detector.multiple) ** 2)


# ------------------------------------------------------------------------------------------ 2. the choice


@dataclass(frozen=True)
class Better:
    """What would have been better and did not fit."""

    upscaler: str
    share: float
    expected_ms: float


@dataclass(frozen=True)
class Plan:
    """What to do with an image.

    Attributes:
        upscaler: what `load_upscaler` takes; None for no upscaling.
        share: of the image's pixels that go through it, in whole percents; 1 for all, without a first pass.
        slice_wh: the sides of the slices, in pixels of the image; None where it is looked at as a whole.
        expected_ms: of upscaling and detecting, corrected.
        fits: whether that is at most the budget.
        budget_ms, size_wh: what it was made for.
        correction: what the calibration's time was multiplied with.
        better: the cheapest plan of a better kind; None if there is none.
    """

    upscaler: str | None
    share: float
    slice_wh: tuple[int, int] | None
    expected_ms: float
    fits: bool
    budget_ms: float
    size_wh: tuple[int, int]
    correction: float = 1.0
    better: Better | None = None


@dataclass(frozen=True)
class _Candidate:
    """A possible plan, and its place in the order."""

    upscaler: str | None
    share: float
    ms: float
    place: tuple[int, float, float]


def plan(
    calibration: Calibration,
    size_wh: tuple[int, int],
    budget_ms: float,
    *,
    imgsz: int | None = None,
    regions: bool = True,
    most_share: float = 1.0,
    first_pass: int = PLAIN_IMGSZ,
    correction: float = 1.0,
) -> Plan:
    """The best plan for an image that fits into the budget, in the order that stands at the top of this file.

    A larger budget never gives a worse plan, nor a larger image of the same shape a better one.

    Args:
        calibration: of this machine, for the scale.
        size_wh: of the image, in its own pixels.
        budget_ms: for upscaling and detecting.
        imgsz: as the detector's; None for its own rule. An upscaled canvas above it, or above 2560, is sliced.
        regions: whether a network may be used on a share of the image.
        most_share: of the image that may go through a network. Below 1, none computes all of it.
        first_pass: long side of the canvas on which the first pass looks for regions.
        correction: what the calibration's times are multiplied with, from `Keeping`.

    Raises:
        ValueError: an empty image, a budget or correction that is not positive, a share that is not in (0, 1].
    """
    if min(size_wh) < 1 or not budget_ms > 0 or not correction > 0 or not 0 < most_share <= 1:
        raise ValueError(
            "size, budget and correction must be positive and most_share in (0, 1], "
            f"got {size_wh}, {budget_ms}, {correction}, {most_share}"
        )
    work = _Work.of(calibration, size_wh, imgsz, first_pass)
    candidates = sorted(_candidates(work, regions, most_share, correction), key=lambda one: one.place)
    fitting = [one for one in candidates if one.ms <= budget_ms]
    simple = [one for one in candidates if one.upscaler in (None, "bicubic")]
    chosen = fitting[-1] if fitting else min(simple, key=lambda one: one.ms)
    above = [
        one for one in candidates if one.place > chosen.place and (one.upscaler != chosen.upscaler or one.share == 1)
    ]
    next_one = min(above, key=lambda one: one.ms) if above else None
    sliced = work.pieces > 1 and chosen.upscaler is not None
    return Plan(
        chosen.upscaler,
        chosen.share,
        work.piece_wh if sliced else None,
        chosen.ms,
        bool(fitting),
        budget_ms,
        size_wh,
        correction,
        None if next_one is None else Better(str(next_one.upscaler), next_one.share, next_one.ms),
    )


def _candidates(work: _Work, regions: bool, most_share: float, correction: float) -> Iterator[_Candidate]:
    yield _Candidate(None, 1.0, work.plain() * correction, (0, 0, 0))
    for part in work.calibration.upscalers:
        quality = _quality(part.name)
        if quality == 0:
            yield _Candidate(part.name, 1.0, work.full(part) * correction, (1, 0, 0))
            continue
        if most_share == 1:
            yield _Candidate(part.name, 1.0, work.full(part) * correction, (3, quality, 1))
        fixed, for_all = work.shared(part) if regions else (0.0, 0.0)
        for percent in range(1, 100) if regions else ():
            share = percent / 100
            if LEAST_SHARE <= share <= most_share:
                place = (3, quality, share) if share >= MIN_SHARE else (2, share, quality)
                yield _Candidate(part.name, share, (fixed + share * for_all) * correction, place)


def _quality(name: str) -> int:
    """The place in the order; a network that it does not know was asked for by name, and is the best."""
    if name == "nearest":
        return 0
    record = named_record(name)
    family = name if record is None else record.family
    return QUALITY.index(family) if family in QUALITY else len(QUALITY)


def sentence(plan: Plan) -> str:
    """What was chosen and why, in one line."""
    width, height = plan.size_wh
    image = f"a {width}x{height} image"
    if plan.upscaler is None:
        what = f"no upscaling of {image}"
    else:
        what = f"{plan.upscaler} on {'all' if plan.share == 1 else f'{plan.share:.0%}'.replace('%', ' %')} of {image}"
    if plan.slice_wh is not None:
        what += f", in slices of {plan.slice_wh[0]}x{plan.slice_wh[1]}"
    if not plan.fits:
        return f"--budget {spoken(plan.budget_ms)} cannot be kept to: {what}, {spoken(plan.expected_ms)} expected"
    line = f"--budget {spoken(plan.budget_ms)}: {what}, {spoken(plan.expected_ms)} expected"
    if plan.better is not None:
        share = "all" if plan.better.share == 1 else f"{plan.better.share * 100:.0f} %"
        line += f" ({plan.better.upscaler} on {share} would take {spoken(plan.better.expected_ms)})"
    return line


def spoken(ms: float) -> str:
    """A time in words: `180 ms`, `1.25 s`."""
    if ms < 9.95:
        return f"{ms:.1f} ms".replace(".0 ", " ")
    return f"{ms:.0f} ms" if ms < 999.5 else f"{float(f'{ms / 1e3:.3g}'):g} s"


# ------------------------------------------------------------------------------------------ 3. what was kept to


def correction(ratios: Sequence[float]) -> float:
    """What to multiply the next prediction with: the median of the last measured times over predicted ones.

    A ratio of 1 is always among them, so that one slow image alone (the first, say) does not decide. Between 0.5 and 4.
    """
    return min(MOST_CORRECTION, max(LEAST_CORRECTION, statistics.median([1.0, *ratios[-RECENT:]])))


class Keeping:
    """How the images of a run kept to the budget, and what that teaches for the next of them."""

    def __init__(self, budget_ms: float) -> None:
        self._budget_ms = budget_ms
        self._ms: list[float] = []
        self._ratios: list[float] = []

    def add(self, ms: float, plan: Plan) -> None:
        """An image took so many milliseconds of upscaling and detecting, and was done by this plan."""
        self._ms.append(ms)
        predicted = plan.expected_ms / plan.correction
        if predicted > 0:
            self._ratios.append(ms / predicted)

    @property
    def correction(self) -> float:
        """For the next image's `plan`."""
        return correction(self._ratios)

    def line(self) -> str:
        """What was kept to, in one line; empty before the first image."""
        if not self._ms:
            return ""
        kept = sum(ms <= self._budget_ms for ms in self._ms)
        images = "1 image" if len(self._ms) == 1 else f"{len(self._ms)} images"
        return (
            f"{kept} of {images} kept to {spoken(self._budget_ms)}: "
            f"median {spoken(statistics.median(self._ms))}, worst {spoken(max(self._ms))}"
        )
