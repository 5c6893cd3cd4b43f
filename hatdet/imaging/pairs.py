"""Training pairs from high-resolution photos: mod-cropped references and their MATLAB-bicubic reductions.

The folders are named as BasicSR's and HAT's option files name them:

    NAME/GTmod4/...       references, cropped on the right and the bottom to a multiple of the scale
    NAME/LRbicx4/...      the same, reduced; equal names
    NAME/GTmod4_sub/...   overlapping squares of both, `_s001` and on, for faster reading in training (optional)
    NAME/LRbicx4_sub/...
    NAME/meta_info_NAME_x4.txt    a line for each reference: its name, height, width, channels
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hatdet.core.errors import InputError
from hatdet.core.types import Image
from hatdet.imaging.files import read_image, write_image
from hatdet.imaging.resize import reduced

__all__ = ["MadeReference", "PairSettings", "make_pairs", "meta_info", "square_starts"]


@dataclass(frozen=True)
class PairSettings:
    """What is made of each photo.

    Attributes:
        scales: factors of the reduction.
        square: side of the sub-images in reference pixels; None for none. A multiple of every scale.
        step: from one sub-image to the next, in reference pixels. A multiple of every scale.

    Raises:
        ValueError: a scale below 2, a square or step that a scale does not divide.
    """

    scales: tuple[int, ...]
    square: int | None = None
    step: int = 240

    def __post_init__(self) -> None:
        for scale in self.scales:
            if scale < 2:
                raise ValueError(f"scale must be at least 2, got {scale}")
            if self.square is not None and (self.square < scale or self.square % scale or self.step % scale):
                raise ValueError(f"sub-images of {self.square} every {self.step} pixels do not divide by scale {scale}")
        if self.step < 1:
            raise ValueError(f"step must be at least 1, got {self.step}")

    def names(self, scale: int) -> tuple[str, str]:
        """Folders of the references and of the reductions that training reads."""
        end = "" if self.square is None else "_sub"
        return f"GTmod{scale}{end}", f"LRbicx{scale}{end}"


@dataclass(frozen=True)
class MadeReference:
    """One line of a `meta_info` file: a reference that training reads, and its size."""

    scale: int
    name: str
    height: int
    width: int


def make_pairs(photo: Path, relative: Path, folder: Path, settings: PairSettings) -> list[MadeReference]:
    """Write everything that is made of one photo, except what is already there, and say what training will read.

    Files appear whole or not at all, so a run that was stopped goes on where it was.

    Raises:
        InputError: the photo is broken, or too small for a scale or a sub-image.
        OptionsError: the place cannot be written.
    """
    image = read_image(photo)
    made = []
    for scale in settings.scales:
        if min(image.height, image.width) < scale:
            raise InputError(f"{photo} ({image.width}x{image.height}) is too small for scale {scale}")
        h, w = image.height // scale * scale, image.width // scale * scale
        reference = Image(image.pixels[:, :h, :w].contiguous(), bit_depth=image.bit_depth)
        gt, lq = (folder / name / relative.with_suffix(".png") for name in (f"GTmod{scale}", f"LRbicx{scale}"))
        low = None
        if not gt.is_file():
            write_image(reference, gt)
        if not lq.is_file():
            low = reduced(reference, scale)
            write_image(low, lq)
        if settings.square is None:
            made.append(MadeReference(scale, relative.with_suffix(".png").as_posix(), h, w))
            continue
        if min(h, w) < settings.square:
            raise InputError(f"{photo} ({image.width}x{image.height}) is smaller than a sub-image of {settings.square}")
        names = settings.names(scale)
        for number, y, x in _squares(h, w, settings):
            name = relative.with_name(f"{relative.stem}_s{number:03d}.png")
            made.append(MadeReference(scale, name.as_posix(), settings.square, settings.square))
            targets = [folder / part / name for part in names]
            if all(target.is_file() for target in targets):
                continue
            low = low if low is not None else read_image(lq)
            write_image(_square(reference, y, x, settings.square), targets[0])
            write_image(_square(low, y // scale, x // scale, settings.square // scale), targets[1])
    return made


def square_starts(length: int, square: int, step: int) -> list[int]:
    """Where squares begin along a side: every `step`, and a last one that ends at the border."""
    starts = list(range(0, length - square + 1, step))
    if starts[-1] + square < length:
        starts.append(length - square)
    return starts


def meta_info(made: Sequence[MadeReference], scale: int) -> str:
    """BasicSR's `meta_info` text for one scale, sorted by name."""
    lines = sorted(f"{m.name} ({m.height},{m.width},3)" for m in made if m.scale == scale)
    return "".join(line + "\n" for line in lines)


def _squares(h: int, w: int, settings: PairSettings) -> Iterator[tuple[int, int, int]]:
    assert settings.square is not None
    number = 0
    for y in square_starts(h, settings.square, settings.step):
        for x in square_starts(w, settings.square, settings.step):
            number += 1
            yield number, y, x


def _square(image: Image, y: int, x: int, side: int) -> Image:
    return Image(image.pixels[:, y : y + side, x : x + side].contiguous(), bit_depth=image.bit_depth)
