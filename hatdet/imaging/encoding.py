"""Samples to the bytes of a picture file: which formats there are, and what each of them can keep."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from hatdet.core.errors import OptionsError
from hatdet.imaging.carried import Carried, exif_of_size
from hatdet.imaging.tiff_writing import tiff_bytes

__all__ = ["FORMATS", "Format", "checked_format", "encode", "samples_of"]

LONGEST_JPEG_EXIF = 65_533
_SIGNATURE_AND_HEADER = 8 + 25  # bytes at the beginning of every PNG


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        name: Pillow's.
        deep: it keeps 16 bits.
        grey, alpha, exif, icc, geo: it keeps these; without `grey` a grey picture becomes RGB with equal channels.
        quality: the default of one that loses something on purpose.
    """

    name: str
    deep: bool = False
    grey: bool = True
    alpha: bool = True
    exif: bool = True
    icc: bool = True
    geo: bool = False
    quality: int | None = None


_JPEG = Format("JPEG", alpha=False, quality=95)
_TIFF = Format("TIFF", deep=True, geo=True)
FORMATS = {
    "png": Format("PNG", deep=True),
    "jpg": _JPEG,
    "jpeg": _JPEG,
    "webp": Format("WEBP", grey=False, quality=95),
    "tiff": _TIFF,
    "tif": _TIFF,
    "bmp": Format("BMP", alpha=False, exif=False, icc=False),
    "jp2": Format("JPEG2000", exif=False, icc=False),
    "avif": Format("AVIF", grey=False, quality=90),
}


def checked_format(name: str, quality: int | None) -> Format:
    """The format of that name.

    Raises:
        OptionsError: there is none, this Pillow cannot write it, or it has no quality.
    """
    form = FORMATS.get(name)
    if form is None:
        raise OptionsError(f"--format must be one of {', '.join(FORMATS)}, got {name!r}")
    PIL.Image.init()
    if form.name not in PIL.Image.SAVE:
        raise OptionsError(f"--format {name} needs a Pillow that writes {form.name}: this one does not")
    if quality is not None and form.quality is None:
        lossy = ", ".join(key for key, other in FORMATS.items() if other.quality is not None)
        raise OptionsError(f"--quality goes with a format that loses something ({lossy}), not with {name}")
    return form


def samples_of(rgb: NDArray[Any], carried: Carried, form: Format) -> tuple[NDArray[Any], Carried, list[str]]:
    """What of a picture a format keeps.

    Args:
        rgb: `(h, w, 3)`, uint8 or uint16.
        carried: what goes with it.
        form: the format.

    Returns `(h, w)` or `(h, w, n)`: grey or RGB, then alpha; what goes with that; and what is lost, in words.
    """
    lost = []
    kept = replace(carried, grey=carried.grey and form.grey)
    colours = grey_of(rgb)[..., None] if kept.grey else rgb
    if rgb.dtype == np.uint16 and not form.deep:
        lost.append("8 of 16 bits")
        colours = _in_eight_bits(colours)
        kept = replace(kept, alpha=None if kept.alpha is None else _in_eight_bits(kept.alpha))
    if kept.alpha is not None and not form.alpha:
        lost.append("transparency")
        kept = replace(kept, alpha=None)
    if kept.exif is not None:
        kept = replace(kept, exif=exif_of_size(kept.exif, rgb.shape[:2]))
        too_long = form.name == "JPEG" and kept.exif is not None and len(kept.exif) > LONGEST_JPEG_EXIF
        if not form.exif or too_long:
            lost.append("EXIF")
            kept = replace(kept, exif=None)
    if kept.icc is not None and not form.icc:
        lost.append("the colour profile")
        kept = replace(kept, icc=None)
    if carried.grey and not kept.grey and kept.icc is not None and kept.icc[16:20] == b"GRAY":
        kept = replace(kept, icc=None)  # it does not say what red is
    if kept.geo is not None and not form.geo:
        lost.append("the place on the map")
        kept = replace(kept, geo=None)
    samples = colours if kept.alpha is None else np.dstack([colours, kept.alpha])
    return (samples[..., 0] if samples.shape[2] == 1 else samples), kept, lost


def grey_of(rgb: NDArray[Any]) -> NDArray[Any]:
    """The mean of channels that were equal before a network saw them. Shape: `(h, w, 3)` to `(h, w)`."""
    total = rgb[..., 0].astype(np.uint32)
    total += rgb[..., 1]
    total += rgb[..., 2]
    return ((2 * total + 3) // 6).astype(rgb.dtype)


def _in_eight_bits(samples: NDArray[Any]) -> NDArray[np.uint8]:
    """The nearest of 256 levels: 257 of 65536 are one."""
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def encode(samples: NDArray[Any], carried: Carried, form: Format, quality: int | None = None) -> bytes | memoryview:
    """A file of what `samples_of` gives.

    Raises:
        ValueError: the format does not take it: too large a picture, say.
    """
    if form.name == "TIFF":
        return tiff_bytes(samples, carried)
    if form.name == "PNG":
        return _png(samples, carried)
    settings: dict[str, Any] = {}
    if form.quality is not None:
        settings["quality"] = form.quality if quality is None else quality
    if form.name == "JPEG":
        settings["subsampling"] = 0
    if form.name == "WEBP":
        settings["exact"] = True  # colours that cannot be seen stay too
    if carried.exif is not None:
        settings["exif"] = carried.exif
    if carried.icc is not None:
        settings["icc_profile"] = carried.icc
    file = io.BytesIO()
    PIL.Image.fromarray(np.ascontiguousarray(samples)).save(file, form.name, **settings)
    return file.getbuffer()


def _png(samples: NDArray[Any], carried: Carried) -> bytes | memoryview:
    chunks = []
    if carried.icc is not None:
        chunks.append(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(carried.icc)))
    if carried.exif is not None:
        chunks.append(_chunk(b"eXIf", carried.exif.removeprefix(b"Exif\0\0")))
    if samples.ndim == 3 and samples.shape[2] == 2:
        encoded = memoryview(_grey_with_alpha(samples))
    else:
        order = cv2.COLOR_RGB2BGR if samples.shape[-1] == 3 else cv2.COLOR_RGBA2BGRA
        swapped = samples if samples.ndim == 2 else cv2.cvtColor(samples, order)
        done, buffer = cv2.imencode(".png", swapped)
        if not done:
            raise ValueError(f"an image of shape {samples.shape} and type {samples.dtype} cannot be encoded as PNG")
        encoded = buffer.data
    if not chunks:
        return encoded
    # After the header, and so before the pixels, as the profile must be.
    return b"".join([encoded[:_SIGNATURE_AND_HEADER], *chunks, encoded[_SIGNATURE_AND_HEADER:]])


def _grey_with_alpha(samples: NDArray[Any]) -> bytes:
    """A PNG of two channels, which OpenCV does not write, nor Pillow in 16 bits."""
    h, w, _ = samples.shape
    rows = np.ascontiguousarray(samples.astype(samples.dtype.newbyteorder(">"))).view(np.uint8).reshape(h, -1)
    lines = np.zeros((h, 1 + rows.shape[1]), np.uint8)
    lines[:, 0] = 2  # each row is written as its difference from the one above
    lines[:, 1:] = rows
    lines[1:, 1:] -= rows[:-1]
    header = struct.pack(">IIBBBBB", w, h, 8 * samples.dtype.itemsize, 4, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in parts)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
