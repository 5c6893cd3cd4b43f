"""From the options of `hatdet detect` to what it computes with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hatdet.cli.detect_regions import in_regions
from hatdet.cli.detect_slices import Slicing, sliced
from hatdet.cli.session import Session

if TYPE_CHECKING:
    from hatdet.core.types import Detector, Upscaler

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
    """

    enlarge: Upscaler | None
    detector: Detector
    upscaled_by: str | None
    names: Mapping[int, str]
    settings: Mapping[str, Any]


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
    if enlarging is not None:
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
    if enlarge is None or enlarging is None:
        return Chain(None, sliced(detector, looking.slicing, 1), None, names, settings)
    settings |= made_by(enlarge, enlarging.upscaler, enlarging.scale, engine)
    settings |= {"regions": enlarging.regions, "max-share": enlarging.max_share}
    if enlarging.regions:
        enlarge = in_regions(enlarge, detector, enlarging.max_share)
    return Chain(enlarge, sliced(detector, looking.slicing, enlarge.scale), enlarge.name, names, settings)
