"""The bytes of a picture file to its samples: upright, in RGB, with what else the file holds.

TIFF files are read by tifffile where they are grey or RGB, everything else of 8 bits by Pillow, and deeper samples,
which Pillow would cut down without a word, by OpenCV.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps
from numpy.typing import NDArray

from hatdet.imaging.carried import ORIENTATION, Carried, kept_exif
from hatdet.imaging.geo_tags import GeoTags
from hatdet.imaging.tiff import Tiff, quiet_opencv

__all__ = ["FORMATS", "Samples", "bits_of", "decode", "decode_tiff", "opened_file", "opened_picture"]

FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP", "JPEG2000", "AVIF")  # no PostScript: a picture runs no program
_BITS_PER_SAMPLE = 258
_PILLOWS_LIMIT = threading.Lock()
_GREY = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L")


@dataclass(frozen=True, eq=False)
class Samples:
    """What was decoded: `(h, w, 3)` RGB, uint8 or uint16 (a view of one channel of a grey file), and the rest."""

    rgb: NDArray[np.uint8 | np.uint16]
    carried: Carried


def opened_picture(data: bytes) -> contextlib.AbstractContextManager[PIL.Image.Image]:
    """The picture in these bytes, of which the header has been read."""
    return opened_file(io.BytesIO(data))


@contextlib.contextmanager
def opened_file(file: Path | BinaryIO) -> Iterator[PIL.Image.Image]:
    """A file, of which the header has been read. Pillow's own limit of pixels is one for the whole process."""
    PIL.Image.init()  # formats named to open() must have been loaded
    there = [name for name in FORMATS if name in PIL.Image.OPEN]  # AVIF is not in every Pillow
    with _PILLOWS_LIMIT:
        kept, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            opened = PIL.Image.open(file, formats=there)
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = kept
    with opened:
        yield opened


def bits_of(opened: PIL.Image.Image, data: bytes) -> int:
    """Bits of one sample in the file, as it says; AVIF is read in 8."""
    if opened.format == "PNG":
        return data[24]  # in the header chunk, which comes first
    if opened.format == "TIFF":
        bits = opened.tag_v2.get(_BITS_PER_SAMPLE, (8,))  # type: ignore[attr-defined]
        return int(max(bits) if isinstance(bits, tuple) else bits)
    if opened.format == "JPEG2000":
        # The markers that begin a codestream, then a length, sizes and the number of channels: 42 bytes.
        size_marker = data.find(b"\xff\x4f\xff\x51")
        return (data[size_marker + 42] & 0x7F) + 1
    return 8


def decode_tiff(tiff: Tiff, data: bytes) -> Samples:
    """All of a file that tifffile reads; `data` is all of its bytes.

    Raises:
        Whatever the decoders raise on damaged files.
    """
    rgb, grey, alpha = _split(_upright(tiff.read(0, tiff.height, 0, tiff.width), tiff.orientation))
    exif = None
    with contextlib.suppress(Exception), opened_picture(data) as opened:  # Pillow opens fewer
        exif = kept_exif(opened)
    geo = tiff.geo if tiff.orientation == 1 else None  # a map is not turned
    return Samples(rgb, Carried(grey, alpha, exif, tiff.icc, geo))


def decode(opened: PIL.Image.Image, data: bytes, bits: int) -> Samples:
    """All of a file that Pillow opens.

    Raises:
        Whatever the decoders raise on damaged files. ValueError: samples or channels of a kind that is not read.
    """
    tags = getattr(opened, "tag_v2", None) if opened.format == "TIFF" else None
    turned = 1 if tags is None else int(tags.get(ORIENTATION, 1))
    geo = None if tags is None or turned != 1 else GeoTags.found(tags.get)
    opened.load()  # a damaged file fails here, and not in OpenCV, which is noisy or silent about it
    icc = opened.info.get("icc_profile") or None
    grey = opened.mode in _GREY or (opened.format == "PNG" and data[25] == 4)  # grey with alpha
    if bits > 8:
        if tags is None:
            turned = int(opened.getexif().get(ORIENTATION, 1))
        rgb, one_channel, alpha = _split(_upright(_deep(opened, data), turned))
        grey = grey or one_channel
    else:
        upright = opened if tags is not None else PIL.ImageOps.exif_transpose(opened)  # Pillow turns TIFF itself
        rgb, alpha = _eight_bits(upright, icc)
        if opened.mode == "CMYK":
            icc = None  # it was the inks'
    return Samples(rgb, Carried(grey, alpha, kept_exif(opened), icc, geo))


def _eight_bits(picture: PIL.Image.Image, icc: bytes | None) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """RGB, and alpha where there is some, of anything that Pillow holds in 8 bits."""
    if picture.mode == "CMYK":
        return np.asarray(_from_inks(picture, icc)), None
    if picture.has_transparency_data:
        rgba = np.asarray(picture if picture.mode == "RGBA" else picture.convert("RGBA"))
        return rgba[..., :3], np.ascontiguousarray(rgba[..., 3])
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB")), None


def _from_inks(picture: PIL.Image.Image, icc: bytes | None) -> PIL.Image.Image:
    """CMYK to sRGB by the file's own profile, and where it has none (or a broken one) as if inks were ideal."""
    if icc is not None:
        with contextlib.suppress(PIL.ImageCms.PyCMSError, OSError, ValueError):
            profile = PIL.ImageCms.ImageCmsProfile(io.BytesIO(icc))
            made = PIL.ImageCms.profileToProfile(picture, profile, PIL.ImageCms.createProfile("sRGB"), outputMode="RGB")
            if made is not None:
                return made
    return picture.convert("RGB")


def _deep(opened: PIL.Image.Image, data: bytes) -> NDArray[np.uint16]:
    """More than 8 bits of a file, as RGB: `(h, w)`, or `(h, w, n)` with n from 2 to 4."""
    with quiet_opencv():
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if decoded is None or decoded.dtype != np.uint16:
        raise ValueError("an image of more than 8 bits of a kind that cannot be read")
    if decoded.ndim == 2:
        clear = opened.info.get("transparency")
        if isinstance(clear, int):  # one grey is transparent, which OpenCV heeds in colour only
            alpha = np.where(decoded == clear, 0, 65535).astype(np.uint16)
            return np.dstack([decoded, alpha])
        one: NDArray[np.uint16] = decoded
        return one
    swapped: NDArray[np.uint16] = np.ascontiguousarray(decoded[..., [2, 1, 0, 3][: decoded.shape[2]]])
    return swapped


def _split(samples: NDArray[Any]) -> tuple[NDArray[Any], bool, NDArray[Any] | None]:
    """RGB, whether it is grey, and alpha, of one to four channels."""
    if samples.ndim == 2:
        samples = samples[..., None]
    channels = samples.shape[2]
    grey = channels < 3
    alpha = np.ascontiguousarray(samples[..., -1]) if channels in (2, 4) else None
    colours = np.broadcast_to(samples[..., :1], (*samples.shape[:2], 3)) if grey else samples[..., :3]
    return colours, grey, alpha


def _upright(samples: NDArray[Any], orientation: int) -> NDArray[Any]:
    """`(h, w, ...)` turned as EXIF's orientation says: 1 is upright."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    down, right = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(orientation, (1, 1))
    return samples[::down, ::right]
