"""A time for each image in `hatdet detect`: the option, and what keeps to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hatdet.core.types import Detector, Upscaler
    from hatdet.deploy.budget import Keeping, Plan
    from hatdet.deploy.calibration import Calibration
    from hatdet.detection.yolo import YoloDetector

__all__ = ["Budget", "BudgetOption", "Way", "checked_budget"]

BudgetOption = Annotated[
    str | None,
    typer.Option(
        help="With --upscale: milliseconds or seconds for upscaling and detecting one image, 200ms or 1.5s. Picks the "
        "network (of those that are here, or --upscaler), the slices and the share of the image that is upscaled, from "
        "what `hatdet bench --calibrate` measured here, at the first time now.",
        metavar="TIME",
        rich_help_panel="Super-resolution",
        show_default="no limit",
    ),
]


def checked_budget(text: str | None, upscale: bool, engine: Path | None, slices: str | None) -> float | None:
    """The milliseconds that `--budget` says.

    Raises:
        OptionsError: something that is no time, or beside what leaves it nothing to choose.
    """
    if text is None:
        return None
    from hatdet.core.errors import OptionsError
    from hatdet.deploy.budget import parse_budget

    if not upscale:
        raise OptionsError("--budget chooses how images are upscaled: it needs --upscale")
    for option, value in (("--engine", engine), ("--slice", slices)):
        if value is not None:
            raise OptionsError(f"{option} does not go with --budget, which chooses that")
    return parse_budget(text)


@dataclass(frozen=True, eq=False)
class Way:
    """What one image goes through. `plan` is None where no budget says so."""

    enlarge: Upscaler | None
    detector: Detector
    plan: Plan | None = None


@dataclass(eq=False)
class Budget:
    """Chooses a way for each image, and learns from what each took.

    Attributes:
        ms: for upscaling and detecting one image.
        calibration: of this machine.
        detector: as it sees images that are not upscaled.
        load: an upscaler by its name.
        most_share: of an image that may be upscaled by a network.
        keeping: what was kept to.
        say: called with a sentence when something else is chosen than for the image before.
    """

    ms: float
    calibration: Calibration
    detector: YoloDetector
    load: Callable[[str], Upscaler]
    most_share: float
    keeping: Keeping
    say: Callable[[str], None]
    _loaded: dict[str, Upscaler] = field(default_factory=dict)
    _said: object = None

    def way(self, size_wh: tuple[int, int], detector: Detector) -> Way:
        """For an image of that size, whose upscaled picture `detector` is to see."""
        from hatdet.cli.detect_regions import in_regions
        from hatdet.deploy.budget import plan, sentence
        from hatdet.detection.regions import FIRST_LOOK_SCALE

        chosen = plan(
            self.calibration,
            size_wh,
            self.ms,
            imgsz=self.detector.imgsz,
            most_share=self.most_share,
            first_pass=FIRST_LOOK_SCALE * max(size_wh),
            correction=self.keeping.correction,
        )
        what = (chosen.upscaler, chosen.share == 1, chosen.fits, chosen.slice_wh is None)
        if what != self._said:
            self._said = what
            self.say(sentence(chosen))
        if chosen.upscaler is None:
            return Way(None, self.detector, chosen)
        if chosen.upscaler not in self._loaded:
            self._loaded[chosen.upscaler] = self.load(chosen.upscaler)
        upscaler = self._loaded[chosen.upscaler]
        if chosen.share < 1:
            upscaler = in_regions(upscaler, self.detector, chosen.share)
        return Way(upscaler, detector, chosen)

    def took(self, way: Way, ms: float) -> None:
        """An image was done, in so many milliseconds of upscaling and detecting."""
        if way.plan is not None:
            self.keeping.add(ms, way.plan)

    def at_least(self, confidence: float) -> Budget:
        """The same with another least confidence of boxes in images that are not upscaled."""
        return replace(self, detector=replace(self.detector, confidence=confidence))
