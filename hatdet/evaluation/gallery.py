"""The images that changed most, as pictures for the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hatdet.core.types import Image
from hatdet.evaluation.arms import Arm
from hatdet.evaluation.changes import ImageChanges
from hatdet.evaluation.joint import JointEvaluation
from hatdet.evaluation.report import GalleryImage
from hatdet.imaging.drawing import jpeg

__all__ = ["GALLERY_IMAGES", "make_gallery", "most_changed"]

GALLERY_IMAGES = 48
LARGEST_BYTES = 13_000_000  # of JPEG: base64 makes 17 MB of it, and the report is to stay under 20
# Long side in pixels and quality, the best first.
SIZES = ((960, 85), (800, 80), (640, 75), (480, 70), (320, 60))


def most_changed(changes: Sequence[ImageChanges], limit: int = GALLERY_IMAGES) -> list[int]:
    """Indices of the images with most boxes gained, lost, added or removed, most of them first."""
    counts = [one.gained + one.lost + one.added + one.removed for one in changes]
    return sorted(range(len(counts)), key=lambda index: -counts[index])[:limit]  # stable: of equals the first by name


def make_gallery(
    evaluation: JointEvaluation,
    changes: Sequence[ImageChanges],
    arms: tuple[Arm, Arm],
    read_low: Callable[[int], Image],
    classes: Mapping[int, str],
) -> list[GalleryImage]:
    """Pictures of the most changed images, control and arm, small enough that the report stays one file to send.

    Args:
        changes: one for each image of the evaluation.
        arms: the control and the arm that it was compared with.
        read_low: the low-resolution image of an index.
        classes: names by id.
    """
    chosen = most_changed(changes)
    for long_side, quality in SIZES:
        pictures = {}
        for index in chosen:  # read again rather than kept: pixels of one image at a time
            low = read_low(index)
            w, h = low.width * evaluation.scale, low.height * evaluation.scale
            share = min(1.0, long_side / max(w, h))
            size = max(1, round(w * share)), max(1, round(h * share))
            before, after = (jpeg(_shown(arm, low), size, quality) for arm in arms)
            pictures[index] = before, after
        if sum(len(before) + len(after) for before, after in pictures.values()) <= LARGEST_BYTES:
            break
    return [
        GalleryImage(
            evaluation.images[index].name,
            arms[0].name,
            arms[1].name,
            *pictures[index],
            evaluation.images[index].size_wh,
            changes[index],
            classes,
        )
        for index in chosen
    ]


def _shown(arm: Arm, low: Image) -> Image:
    return low if arm.upscaler is None else arm.upscaler(low)
