"""From the options of `hatdet detect` to what it computes with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hatdet.cli.detect_budget import Budget, Way
from hatdet.cli.detect_regions import in_regions
from hatdet.cli.detect_slices import Slicing, at_least, sliced
from hatdet.cli.session import Session

if TYPE_CHECKING:
    from hatdet.core.types import Detector, Image, Upscaler
    from hatdet.detection.chain import ChainResult
    from hatdet.detection.yolo import YoloDetector

__all__ = ["Chain", "Enlarging", "Looking", "load_chain"]


@dataclass(frozen=True)
class Enlarging:
    """How images are upscaled, in the words of the command line."""

    upscaler: str
    scale: int
    tile: int | Literal["auto"]
    overlap: int
    batch: int | None
    regions: bool
    max_share: float | None
    budget_ms: float | None = None
    named: bool = False  # whether the upscaler was


@dataclass(frozen=True)
class Looking:
    """How objects are looked for, in the words of the command line."""

    weights: str | None
    conf: float
    iou: float
    max_det: int
    classes: str | None
    imgsz: int | None
    trust: bool
    slicing: Slicing


@dataclass(frozen=True, eq=False)
class Chain:
    """What an image goes through.

    Attributes:
        enlarge: the upscaler; None where there is none, or where it is part of the detector (an exported chain).
        detector: of what `enlarge` makes, or of the image.
        upscaled_by: the upscaler's name; None where nothing is upscaled.
        names: of the classes that the detector knows, by id.
        settings: everything that results follow from besides the image, for the manifest.
        budget: chooses the upscaler for each image; then `enlarge` stands for all of one scale.
    """

    enlarge: Upscaler | None
    detector: Detector
    upscaled_by: str | None
    names: Mapping[int, str]
    settings: Mapping[str, Any]
    budget: Budget | None = None

    def way(self, size_wh: tuple[int, int]) -> Way:
        """What an image of that size goes through."""
        return Way(self.enlarge, self.detector) if self.budget is None else self.budget.way(size_wh, self.detector)

    def run(self, image: Image) -> tuple[ChainResult, str | None]:
        """What came of an image, and the name of what upscaled it.

        Raises:
            InputError, WeightsError, DeviceError: as of the upscaler and the detector.
        """
        from hatdet.detection.chain import run_chain

        way = self.way((image.width, image.height))
        found = run_chain(image, way.enlarge, way.detector)
        if self.budget is not None:
            self.budget.took(way, (found.upscale_ms or 0.0) + found.detect_ms)
            return found, None if way.enlarge is None else way.enlarge.name
        return found, self.upscaled_by

    def at_least(self, confidence: float) -> Chain:
        """The same with another least confidence of boxes."""
        budget = None if self.budget is None else self.budget.at_least(confidence)
        return replace(self, detector=at_least(self.detector, confidence), budget=budget)


def load_chain(
    session: Session,
    enlarging: Enlarging | None,
    looking: Looking,
    engine: Path | None,
    device: str,
    precision: str,
) -> Chain:
    """Load the upscaler and the detector.

    Args:
        session: for messages and progress.
        enlarging: None to detect in the images as they are.
        looking: how objects are looked for.
        engine: an exported file: with `enlarging` the network that upscales, without it the whole chain.
        device, precision: as on the command line.

    Raises:
        WeightsError, OptionsError, DeviceError: as `load_upscaler`, `load_detector` and `load_engine`.
    """
    from hatdet.cli.resumable import detected_by, made_by
    from hatdet.cli.weights import download_progress, engine_with_progress, upscaler_with_progress
    from hatdet.detection.yolo import load_detector

    if engine is not None and enlarging is None:
        from hatdet.deploy.engines import ChainEngine, load_engine

        whole = ChainEngine(load_engine(engine, device=device, precision=precision))
        settings = {"verb": "detect", **detected_by(whole, looking.weights, engine)}
        return Chain(None, whole, whole.card.upscaler, dict(enumerate(whole.card.names)), settings)
    enlarge: Upscaler | None = None
    if enlarging is not None and enlarging.budget_ms is None:
        how = enlarging
        if engine is not None:
            enlarge = engine_with_progress(session, engine, device, precision, how.overlap, how.batch)
        else:
            enlarge = upscaler_with_progress(
                session, how.upscaler, how.scale, device, precision, how.tile, how.overlap, how.batch
            )
    with download_progress(session, str(looking.weights)) as on_fetch:
        detector = load_detector(
            looking.weights,
            confidence=looking.conf,
            iou=looking.iou,
            max_detections=looking.max_det,
            classes=[name.strip() for name in looking.classes.split(",")] if looking.classes else None,
            imgsz=looking.imgsz,
            device=device,
            trust=looking.trust,
            on_fetch=on_fetch,
        )
    settings = {"verb": "detect", **detected_by(detector, looking.weights, engine), **looking.slicing.settings()}
    names = detector.class_names
    if enlarging is not None and enlarging.budget_ms is not None:
        return _within_budget(session, enlarging, looking, detector, device, precision, settings)
    if enlarge is None or enlarging is None:
        return Chain(None, sliced(detector, looking.slicing, 1), None, names, settings)
    settings |= made_by(enlarge, enlarging.upscaler, enlarging.scale, engine)
    settings |= {"regions": enlarging.regions, "max-share": enlarging.max_share}
    if enlarging.regions:
        enlarge = in_regions(enlarge, detector, enlarging.max_share)
    return Chain(enlarge, sliced(detector, looking.slicing, enlarge.scale), enlarge.name, names, settings)


def _within_budget(
    session: Session,
    how: Enlarging,
    looking: Looking,
    detector: YoloDetector,
    device: str,
    precision: str,
    settings: Mapping[str, Any],
) -> Chain:
    """A chain that chooses for each image what upscales it, from what this machine takes."""
    from hatdet.cli.weights import upscaler_with_progress
    from hatdet.deploy.budget import Keeping
    from hatdet.deploy.calibration import calibrated
    from hatdet.sr.upscalers import load_upscaler

    assert how.budget_ms is not None
    calibration = calibrated(
        scale=how.scale,
        upscalers=[how.upscaler] if how.named else None,
        weights=looking.weights,
        device=device,
        precision=precision,
        trust=looking.trust,
        on_measure=lambda part: session.say(f"measuring once how long {part} takes here"),
    )

    def load(name: str) -> Upscaler:
        return upscaler_with_progress(session, name, how.scale, device, precision, how.tile, how.overlap, how.batch)

    budget = Budget(
        how.budget_ms, calibration, detector, load, how.max_share or 1.0, Keeping(how.budget_ms), session.say
    )
    settings = {
        **settings,
        "upscaler": [part.name for part in calibration.upscalers],
        "scale": how.scale,
        "budget": how.budget_ms,
        "max-share": how.max_share,
    }
    # What is said of an image before it is known what upscales it follows from the scale alone.
    stands_for_all = load_upscaler("bicubic", how.scale, device=device)
    larger = sliced(detector, looking.slicing, how.scale)
    return Chain(stands_for_all, larger, "by budget", detector.class_names, settings, budget)
