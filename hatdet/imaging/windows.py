"""Images too large to be in memory: parts of them, read when they are wanted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hatdet.core.errors import InputError
from hatdet.core.types import Image
from hatdet.imaging.carried import Carried, kept_exif
from hatdet.imaging.decoding import opened_file
from hatdet.imaging.files import MAX_PIXELS, check_size, image_of, say_what_is_left_out, to_array
from hatdet.imaging.tiff import TIFF_MAGIC, open_tiff

__all__ = ["Windows", "held", "open_windows", "overview"]

OVERVIEW = 2048  # pixels of its long side, at most


@dataclass(frozen=True, eq=False)
class Windows:
    """An image of which any part can be had.

    Attributes:
        height, width: in pixels.
        bit_depth: 8 or 16.
        carried: what goes with all of it; its alpha is None, `has_alpha` says whether there is some.
        has_alpha: whether the last channel is alpha.
        read: top, bottom, left, right to `(bottom - top, right - left, n)`, uint8 or uint16: one grey channel or three
            colours, and alpha. Raises an InputError where the file is damaged.
        close: lets go of the file.
    """

    height: int
    width: int
    bit_depth: int
    carried: Carried
    has_alpha: bool
    read: Callable[[int, int, int, int], NDArray[Any]]
    close: Callable[[], None]

    @property
    def channels(self) -> int:
        """That `read` gives."""
        return (1 if self.carried.grey else 3) + self.has_alpha

    def image(self, top: int, bottom: int, left: int, right: int) -> Image:
        """A part as an image of its own, alpha left out."""
        return image_of(colours(self.read(top, bottom, left, right), self.has_alpha))


def colours(samples: NDArray[Any], has_alpha: bool) -> NDArray[Any]:
    """RGB of what `Windows.read` gives. Shape: `(h, w, n)` to `(h, w, 3)`."""
    shown = samples[..., :-1] if has_alpha else samples
    return np.broadcast_to(shown, (*shown.shape[:2], 3))


def open_windows(path: str | Path, max_pixels: int = MAX_PIXELS) -> Windows | None:
    """A file that can be read in parts; None for one that has to be read as a whole: all but upright TIFF.

    Raises:
        InputError: there is no such file, or it has too many pixels.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if not file.read(4).startswith(TIFF_MAGIC):
                return None
        tiff = open_tiff(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception:  # a damaged header, of which the reader of whole files knows more to say
        return None
    if tiff is None or tiff.orientation != 1:
        if tiff is not None:
            tiff.close()
        return None

    def read(top: int, bottom: int, left: int, right: int) -> NDArray[Any]:
        try:
            return tiff.read(top, bottom, left, right)
        except Exception as error:  # decoders raise anything
            raise InputError(f"{path} is damaged: {' '.join(str(error).split())}") from error

    try:
        check_size(path, tiff.width, tiff.height, max_pixels)
    except InputError:
        tiff.close()
        raise
    say_what_is_left_out(path, tiff)
    exif = None
    with contextlib.suppress(Exception), opened_file(path) as opened:
        exif = kept_exif(opened)
    carried = Carried(tiff.grey, None, exif, tiff.icc, tiff.geo)
    return Windows(tiff.height, tiff.width, tiff.bit_depth, carried, tiff.has_alpha, read, tiff.close)


def held(image: Image, carried: Carried) -> Windows:
    """An image that is in memory already, at a quarter of what an `Image` takes."""
    samples = to_array(image)
    if carried.grey:
        samples = samples[..., :1]
    if carried.alpha is not None:
        samples = np.concatenate([samples, carried.alpha[..., None]], axis=2)

    def read(top: int, bottom: int, left: int, right: int) -> NDArray[Any]:
        return samples[top:bottom, left:right]

    rest, has_alpha = replace(carried, alpha=None), carried.alpha is not None
    return Windows(image.height, image.width, image.bit_depth, rest, has_alpha, read, lambda: None)


def overview(source: Windows) -> tuple[NDArray[np.uint8], float]:
    """A small picture of all of an image, `(h, w, 3)` in 8 bits, and its pixels for each of the image's."""
    factor = max(1, -(-max(source.height, source.width) // OVERVIEW))
    h, w = max(1, source.height // factor), max(1, source.width // factor)
    picture = np.empty((h, w, 3), np.uint8)
    across = min(w * factor, source.width)
    for row in range(h):
        samples = source.read(row * factor, min((row + 1) * factor, source.height), 0, across)
        means = colours(samples, source.has_alpha).reshape(len(samples), w, -1, 3).mean((0, 2))
        picture[row] = means / (257 if source.bit_depth == 16 else 1)
    return picture, 1 / factor
