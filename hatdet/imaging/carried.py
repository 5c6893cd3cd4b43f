"""What a picture file carries besides the colours of its pixels, on its way to the file that is made from it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from hatdet.imaging.geo_tags import GeoTags
from hatdet.imaging.resize import resize_samples

__all__ = ["NOTHING", "Carried", "exif_of_size", "kept_exif"]

ORIENTATION = 0x0112
EXIF_IFD, GPS_IFD = 0x8769, 0x8825
_WIDTH, _HEIGHT, _INTEROPERABILITY = 0xA002, 0xA003, 0xA005
# Of the first directory what tells of the picture; in a TIFF file it also says how the pixels are stored.
_TELLING = (0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298)


@dataclass(frozen=True, eq=False)
class Carried:
    """What an `Image` does not hold.

    Attributes:
        grey: the file has one colour channel; the three of the image are equal.
        alpha: `(h, w)`, how opaque each pixel is, uint8 or uint16 as the image's bit depth; None: all are.
        exif: as Pillow writes it, without an orientation, since the image is upright, and without a thumbnail.
        icc: the colour profile of the pixels; None where they are sRGB, or the file does not say.
        geo: where on the map they lie.
    """

    grey: bool = False
    alpha: NDArray[np.uint8 | np.uint16] | None = None
    exif: bytes | None = None
    icc: bytes | None = None
    geo: GeoTags | None = None

    def enlarged(self, size_hw: tuple[int, int], scale: float) -> Carried:
        """Of the image that is `scale` times as large, `size_hw` in pixels.

        Alpha is resized bicubically whatever upscales the colours: it is a mask, with no texture for a network to
        find, which would draw edges of its own where there are none and cost as much as the picture.
        """
        return replace(
            self,
            alpha=None if self.alpha is None else resize_samples(self.alpha, size_hw, scale),
            geo=None if self.geo is None else self.geo.scaled(scale),
        )


NOTHING = Carried()


def kept_exif(opened: PIL.Image.Image) -> bytes | None:
    """What the EXIF of a file tells of the picture, for another file; None where that is nothing, or cannot be read."""
    with contextlib.suppress(Exception):  # directories inside others, of which any number may be damaged
        found = opened.getexif()
        kept: dict[int, Any] = {tag: found[tag] for tag in _TELLING if tag in found}
        for directory in (EXIF_IFD, GPS_IFD):
            if inside := dict(found.get_ifd(directory)):
                inside.pop(_INTEROPERABILITY, None)  # a pointer into the file that was read
                kept[directory] = inside
        return _exif_bytes(kept.items()) if kept else None
    return None


def exif_of_size(exif: bytes, size_hw: tuple[int, int]) -> bytes:
    """The same, for a picture of that size: where it says a size, this one."""
    loaded = PIL.Image.Exif()
    loaded.load(exif)
    inside = dict(loaded.get_ifd(EXIF_IFD))
    inside.update({tag: side for tag, side in ((_HEIGHT, size_hw[0]), (_WIDTH, size_hw[1])) if tag in inside})
    directories = {EXIF_IFD: inside, GPS_IFD: dict(loaded.get_ifd(GPS_IFD))}
    rest = {tag: loaded[tag] for tag in _TELLING if tag in loaded}
    return _exif_bytes({**rest, **{tag: there for tag, there in directories.items() if there}}.items())


def _exif_bytes(values: Iterable[tuple[int, Any]]) -> bytes:
    made = PIL.Image.Exif()
    for tag, value in values:
        made[tag] = value
    return made.tobytes()
