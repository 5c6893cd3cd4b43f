"""Slices of `hatdet detect`: the options, and the detector that they make."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    from hatdet.core.types import Detector, Upscaler
    from hatdet.detection.slicing import Sliced

__all__ = ["MergeOption", "SliceOption", "SliceOverlapOption", "Slicing", "at_least", "in_windows", "sliced"]

_PANEL = "Slices"

SliceOption = Annotated[
    str | None,
    typer.Option(
        "--slice",
        help="Look at overlapping slices, and once at the whole: WxH in pixels of the image, or auto, as large as the "
        "detector takes them.",
        metavar="auto|WxH",
        rich_help_panel=_PANEL,
        show_default="with --upscale auto for images whose upscaled side is over 2560, else none",
    ),
]
SliceOverlapOption = Annotated[
    float, typer.Option(help="Of two neighbours, as a share of a slice.", min=0, max=0.95, rich_help_panel=_PANEL)
]
MergeOption = Annotated[
    str,
    typer.Option(
        help="What two slices found of one object: nms keeps the more confident box, nmm and greedy-nmm unite them.",
        metavar="nms|nmm|greedy-nmm",
        rich_help_panel=_PANEL,
    ),
]


@dataclass(frozen=True)
class Slicing:
    """How images are cut, in the words of the command line. `size`: `auto`, `WxH` in pixels of the image, None."""

    size: str | None
    overlap: float
    merge: str

    @property
    def size_wh(self) -> tuple[int, int] | None:
        """That was asked for; None where none was.

        Raises:
            OptionsError: something that is no size.
        """
        from hatdet.core.errors import OptionsError

        if self.size is None or self.size == "auto":
            return None
        found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", self.size)
        if found is None:
            raise OptionsError(f"--slice must be auto or WIDTHxHEIGHT in pixels of the image, got {self.size!r}")
        return int(found[1]), int(found[2])

    def check(self) -> None:
        """Raise an OptionsError for a size or a merge that cannot be."""
        from hatdet.core.errors import OptionsError
        from hatdet.detection.merging import MERGES

        _ = self.size_wh
        if self.merge not in MERGES:
            raise OptionsError(f"--merge must be one of {', '.join(MERGES)}, got {self.merge!r}")

    def settings(self) -> Mapping[str, Any]:
        """That boxes follow from, for the manifest."""
        return {"slice": self.size, "slice-overlap": self.overlap, "merge": self.merge}


def sliced(detector: Detector, slicing: Slicing, scale: int) -> Detector:
    """The detector, over slices where images are to be cut.

    Args:
        detector: of a slice. Its `imgsz` is the long side of a slice on its canvas.
        slicing: as asked for. If nothing was, upscaled images too large for the detector are cut, unless its `imgsz`
            says that they are to be shrunk.
        scale: of the images that it is going to see.

    Raises:
        OptionsError: a size, an overlap or a merge that cannot be; boxes are to be united that are not only boxes.
    """
    from dataclasses import replace

    from hatdet.core.errors import OptionsError
    from hatdet.detection.merging import Merge
    from hatdet.detection.slicing import Sliced
    from hatdet.detection.yolo import LARGEST_IMGSZ, PLAIN_IMGSZ, YoloDetector

    wanted, imgsz = slicing.size_wh, getattr(detector, "imgsz", None)
    slicing.check()
    if slicing.merge != "nms" and getattr(detector, "task", "detect") != "detect":
        raise OptionsError(f"--merge {slicing.merge} unites boxes, and {detector.name} finds more than boxes: use nms")
    if slicing.size is None and (scale == 1 or imgsz is not None):
        return detector
    canvas = imgsz or (PLAIN_IMGSZ if scale == 1 else LARGEST_IMGSZ)
    w, h = (canvas, canvas) if wanted is None else (wanted[0] * scale, wanted[1] * scale)
    whole, batch = detector, 1
    if isinstance(detector, YoloDetector):
        # For what is larger than a slice it is enough that the whole comes on one canvas.
        whole = replace(detector, imgsz=canvas, shrinks=True)
        # The CPU is no faster with several slices; elsewhere as many as make one large canvas.
        batch = 1 if detector.device.type == "cpu" else max(1, LARGEST_IMGSZ**2 // (w * h))
    merge = cast(Merge, slicing.merge)
    return Sliced(detector, (w, h), slicing.overlap, merge, whole, wanted is None, batch)


def at_least(detector: Detector, confidence: float) -> Detector:
    """The detector with another least confidence, if it is one that has such a number."""
    from dataclasses import replace

    from hatdet.detection.slicing import Sliced
    from hatdet.detection.yolo import YoloDetector

    if isinstance(detector, Sliced):
        whole = None if detector.whole is None else at_least(detector.whole, confidence)
        return replace(detector, detector=at_least(detector.detector, confidence), whole=whole)
    return replace(detector, confidence=confidence) if isinstance(detector, YoloDetector) else detector


def in_windows(upscaler: Upscaler, detector: Detector) -> Sliced:
    """A detector of parts of an image that are upscaled one after the other: no canvas is larger than a slice's."""
    from dataclasses import replace

    from hatdet.detection.chain import Upscaled
    from hatdet.detection.slicing import Sliced
    from hatdet.detection.yolo import LARGEST_IMGSZ

    if not isinstance(detector, Sliced):  # `imgsz` says how much of the image comes on one canvas
        side = getattr(detector, "imgsz", None) or LARGEST_IMGSZ
        detector = Sliced(detector, (side, side))
    w, h = (max(1, side // upscaler.scale) for side in detector.slice_wh)
    return replace(detector, detector=Upscaled(upscaler, detector.detector), slice_wh=(w, h))
