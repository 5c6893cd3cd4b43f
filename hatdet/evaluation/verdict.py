"""Does one arm beat another? Differences with their intervals, and what they allow one to say.

Every number of every arm is computed on the same resamples of the images (a paired bootstrap), so a difference has an
interval of its own, much narrower than those of the two numbers. One contrast is primary and stands alone; the other
planned ones share their error by Holm's step-down; whatever else is shown is exploratory. A difference that is not
resolved is never called equality: what is said is how many images would resolve it.

Precedent: M. Everingham et al., "Assessing the significance of performance differences on the PASCAL VOC challenges
via bootstrapping", 2013. Holm: S. Holm, "A simple sequentially rejective multiple test procedure", 1979.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FEWEST_UNITS",
    "METRIC_WORDS",
    "Contrast",
    "Difference",
    "Resampled",
    "after_holm",
    "compare_arms",
    "difference",
    "holm",
    "planned_pairs",
]

LEVEL = 0.05
# 80 % power in a two-sided test at 5 %: 1.96 + 0.84 standard deviations.
DETECTABLE = 2.8
FEWEST_UNITS = 20  # a bootstrap over fewer images or sequences says nothing
MOST_IMAGES = 1_000_000

Kind = Literal["primary", "planned", "exploratory"]
Outcome = Literal["better", "worse", "enough", "not resolved", "none"]

METRIC_WORDS = {
    "map50_95": "mAP50-95",
    "map50": "mAP50",
    "map50_95_common": "mAP50-95 of the common classes",
    "ap_tiny": "AP of tiny objects",
    "ap_small": "AP of small objects",
    "ap_medium": "AP of medium objects",
    "ap_large": "AP of large objects",
}


@dataclass(frozen=True, eq=False)
class Resampled:
    """One number of one arm: on the images as they are, and on every resample of them (NaN where it has none)."""

    estimate: float
    draws: NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Arm minus control.

    Attributes:
        value: on the images as they are.
        low, high: the percentile interval of 95 %.
        p: two-sided; none below one over the number of resamples.
        standard_deviation: over the resamples.
    """

    value: float
    low: float
    high: float
    p: float
    standard_deviation: float


@dataclass(frozen=True)
class Contrast:
    """A comparison of two arms behind one detector, and what it allows one to say.

    Attributes:
        kind: `primary`, `planned` (judged after Holm's correction) or `exploratory`.
        difference: None where either arm has no such number.
        p_holm: of planned contrasts.
        outcome: `better`, `worse`, `enough` (the gain is smaller than the margin), `not resolved`, `none`.
        images_needed: how many would resolve a difference of this size, 80 times of 100; None where that says nothing.
        words: one sentence.
    """

    kind: Kind
    detector: str
    arm: str
    control: str
    metric: str
    difference: Difference | None
    p_holm: float | None
    outcome: Outcome
    images_needed: int | None
    words: str

    def as_row(self) -> dict[str, Any]:
        """Plain values for the report, missing ones None."""
        found = self.difference
        return {
            "kind": self.kind,
            "detector": self.detector,
            "arm": self.arm,
            "control": self.control,
            "metric": self.metric,
            "difference": found and found.value,
            "low": found and found.low,
            "high": found and found.high,
            "p": found and found.p,
            "p_holm": self.p_holm,
            "standard_deviation": found and found.standard_deviation,
            "outcome": self.outcome,
            "images_needed": self.images_needed,
            "words": self.words,
        }


def difference(arm: Resampled, control: Resampled) -> Difference | None:
    """Arm minus control over common resamples; None where one has no number.

    Raises:
        ValueError: the two were not resampled together.
    """
    if arm.draws.shape != control.draws.shape:
        raise ValueError(f"arms must share their resamples, got {arm.draws.shape} and {control.draws.shape}")
    draws = arm.draws - control.draws
    draws = draws[np.isfinite(draws)]
    value = arm.estimate - control.estimate
    if not math.isfinite(value) or not len(draws):
        return None
    low, high = np.quantile(draws, [LEVEL / 2, 1 - LEVEL / 2])
    p = 2 * min(float(np.mean(draws <= 0)), float(np.mean(draws >= 0)))
    return Difference(value, float(low), float(high), min(1.0, max(p, 1 / len(draws))), float(np.std(draws)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: reject those at most the level, and the chance of one wrong rejection is at most the level."""
    order = np.argsort(p_values, kind="stable")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def planned_pairs(upscalers: Sequence[str], controls: Mapping[str, float]) -> list[tuple[str, str]]:
    """Which arms are compared with which, the primary pair first.

    The primary contrast is the first upscaler against the better of `bicubic` and `lr@imgsz`, by their estimates: a
    choice that can only favour the control. Then every upscaler against each of the two, and the other controls.

    Args:
        upscalers: arms that are no controls, in the order they were asked for.
        controls: the controls among the arms (`lr`, `lr@...`, `nearest`, `bicubic`), and their mAP50-95.
    """
    strong = [name for name in controls if name == "bicubic" or name.startswith("lr@")]
    strong.sort(key=lambda name: -controls[name])  # stable: of equals the first
    others = [name for name in controls if name not in strong]
    pairs = [(upscaler, control) for control in [*strong, *others] for upscaler in upscalers]
    return pairs if strong else []


def compare_arms(
    kind: Kind,
    detector: str,
    pair: tuple[str, str],
    metric: str,
    numbers: Mapping[str, Resampled],
    images: int,
    units: int,
    margin: float,
) -> Contrast:
    """One contrast, judged by its interval alone: `after_holm` looks at planned ones again.

    Args:
        pair: arm and control.
        numbers: of this metric, by arm.
        images: how many there are.
        units: how many things were resampled: images, or sequences of them.
        margin: a gain below it is not worth an upscaler.
    """
    arm, control = pair
    found = difference(numbers[arm], numbers[control])
    outcome, needed = _outcome(found, units, margin), None
    if found is not None and outcome == "not resolved":
        needed = _images_needed(found, images)
    contrast = Contrast(kind, detector, arm, control, metric, found, None, outcome, needed, "")
    return replace(contrast, words=_words(contrast, images, units, margin))


def after_holm(contrasts: Sequence[Contrast], images: int, units: int, margin: float) -> list[Contrast]:
    """The planned contrasts with their adjusted p; what does not survive it is not resolved."""
    judged = [contrast for contrast in contrasts if contrast.difference is not None]
    adjusted = holm([contrast.difference.p for contrast in judged if contrast.difference is not None])
    by_id = {id(contrast): p for contrast, p in zip(judged, adjusted, strict=True)}
    out = []
    for contrast in contrasts:
        p, found = by_id.get(id(contrast)), contrast.difference
        if p is None or found is None:
            out.append(contrast)
            continue
        contrast = replace(contrast, p_holm=p)
        if p > LEVEL and contrast.outcome in ("better", "worse"):
            contrast = replace(contrast, outcome="not resolved", images_needed=_images_needed(found, images))
            contrast = replace(contrast, words=_words(contrast, images, units, margin))
        out.append(contrast)
    return out


def _outcome(found: Difference | None, units: int, margin: float) -> Outcome:
    if found is None or units < FEWEST_UNITS:
        return "none"
    if found.low > 0:
        return "better"
    if found.high < 0:
        return "worse"
    # Also for two arms that never differ: an interval of no width holds no gain.
    return "enough" if found.high < margin else "not resolved"


def _images_needed(found: Difference, images: int) -> int | None:
    """Standard deviations fall with the root of the number of images."""
    if found.standard_deviation == 0 or found.value == 0:
        return None
    needed = images * (DETECTABLE * found.standard_deviation / abs(found.value)) ** 2
    return math.ceil(max(needed, images + 1)) if needed < MOST_IMAGES else None


def _words(contrast: Contrast, images: int, units: int, margin: float) -> str:  # noqa: PLR0911 (a case a sentence)
    arm, control, found = contrast.arm, contrast.control, contrast.difference
    metric = METRIC_WORDS.get(contrast.metric, contrast.metric)
    if found is None:
        return f"no verdict on {arm} and {control}: there is no {metric}"
    interval = f"[{_points(found.low)}, {_points(found.high)}]"
    gain = f"{_signed(found.value)} {metric} {interval}"
    if contrast.outcome == "none":
        what = "images" if units == images else "groups of images"
        return (
            f"no verdict on {arm} and {control} from {units} {what}, at least {FEWEST_UNITS} are needed: "
            f"{_signed(found.value)} {metric} here"
        )
    if contrast.kind == "exploratory":
        return f"{arm} against {control}: {gain}"
    if contrast.outcome == "better":
        return f"{arm} beats {control} by {_points(found.value)} {metric} {interval}"
    if contrast.outcome == "worse":
        loss = f"{_points(-found.value)} {metric} [{_points(-found.high)}, {_points(-found.low)}]"
        enough = f"; {control} is enough" if control in ("bicubic", "nearest") else ""
        return f"upscaling by {arm} hurts here: it loses {loss} to {control}{enough}"
    if contrast.outcome == "enough":
        return f"{control} is enough: {arm} against it {gain}, a gain below {_points(margin)}"
    detectable = _points(DETECTABLE * found.standard_deviation)
    needed = "no realistic number" if contrast.images_needed is None else f"about {contrast.images_needed:,}"
    holm_words = (
        "" if contrast.p_holm is None or contrast.p_holm <= found.p else f", p {contrast.p_holm:.2g} after Holm"
    )
    return (
        f"not resolved by {images} images: {arm} against {control} {gain}{holm_words}; these resolve {detectable} and "
        f"more, and {needed} would resolve a difference of this size"
    )


def _points(fraction: float) -> str:
    """In percent points, as mAP is spoken of."""
    return f"{100 * fraction + 0.0:.1f}".replace("-0.0", "0.0")


def _signed(fraction: float) -> str:
    return f"{100 * fraction:+.1f}"
