"""Upscaling of parts of an image in `hatdet detect`: the options, and the upscaler that they make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hatdet.core.types import Upscaler
    from hatdet.detection.regions import SelectiveUpscaler
    from hatdet.detection.yolo import YoloDetector

__all__ = ["FIRST_LOOK", "MaxShareOption", "RegionsOption", "check_regions", "in_regions"]

_PANEL = "Super-resolution"
FIRST_CONFIDENCE = 0.05  # of boxes that make a part of an image worth the network
FIRST_LOOK = f"1 {FIRST_CONFIDENCE}"  # another number for another way of finding regions: what is cached goes by it

RegionsOption = Annotated[
    str | None,
    typer.Option(
        help="Upscale with the network only where a first look, quick and at a low threshold, sees something small or "
        "uncertain; the rest is interpolated.",
        metavar="auto",
        rich_help_panel=_PANEL,
        show_default="everything",
    ),
]
MaxShareOption = Annotated[
    float | None,
    typer.Option(
        help="With --regions or --budget: at most this share of the pixels goes through the network, 0.3 say.",
        metavar="SHARE",
        rich_help_panel=_PANEL,
        show_default="all that is marked",
    ),
]


def check_regions(upscale: bool, regions: str | None, max_share: float | None, budget: str | None) -> None:
    """Raise an OptionsError for what cannot be."""
    from hatdet.core.errors import OptionsError

    if regions is not None and regions != "auto":
        raise OptionsError(f"--regions must be auto, got {regions!r}")
    if regions is not None and not upscale:
        raise OptionsError("--regions says what to upscale: it needs --upscale")
    if max_share is not None and regions is None and budget is None:
        raise OptionsError("--max-share says how much of the regions is upscaled: it needs --regions auto or --budget")
    if max_share is not None and not 0 < max_share <= 1:
        raise OptionsError(f"--max-share must be above 0 and at most 1, got {max_share:g}")


def in_regions(upscaler: Upscaler, detector: YoloDetector, max_share: float | None) -> SelectiveUpscaler:
    """The upscaler, on what the detector sees at a low threshold in the image enlarged by interpolation."""
    from dataclasses import replace

    from hatdet.detection.regions import FirstPass, SelectiveUpscaler

    quick = replace(detector, confidence=min(detector.confidence, FIRST_CONFIDENCE), imgsz=None, shrinks=True)
    return SelectiveUpscaler(upscaler, FirstPass(quick), max_share)
