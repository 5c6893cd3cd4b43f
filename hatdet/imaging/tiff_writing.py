"""TIFF files with what a picture carries: deflated, with the place on the map, a colour profile and EXIF."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
import tifffile
from numpy.typing import NDArray
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from hatdet.imaging.carried import EXIF_IFD, GPS_IFD, Carried
from hatdet.imaging.geo_tags import GEO_DOUBLES, GEO_KEYS, GEO_TEXTS, NO_DATA

__all__ = ["tiff_bytes", "tiff_settings"]

ASCII, SHORT, LONG, DOUBLE = 2, 3, 4, 12
_TEXTS = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298)  # EXIF's that are text in any TIFF
_HEADER = b"II*\0\x08\0\0\0"
_WIDTH, _HEIGHT, _UNIT = 0x011A, 0x011B, 0x0128  # pixels per unit of length
# tifffile writes no directories but its own: the next code, which nobody uses, keeps the place in the order.
_STAND_INS = {EXIF_IFD: EXIF_IFD + 1, GPS_IFD: GPS_IFD + 1}


def tiff_bytes(samples: NDArray[np.uint8 | np.uint16], carried: Carried) -> bytes:
    """A whole file. `samples` are `(h, w)` grey or `(h, w, n)`: grey or RGB, then alpha where `carried` has some."""
    file = io.BytesIO()
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    big = samples.nbytes > 2**31
    settings = tiff_settings(channels, replace(carried, exif=None) if big else carried)
    with tifffile.TiffWriter(file, bigtiff=big, byteorder="<") as writer:
        writer.write(samples, **settings)
    if carried.exif is not None and not big:
        _add_directories(file, carried.exif)
    return file.getvalue()


def tiff_settings(channels: int, carried: Carried) -> dict[str, Any]:
    """How tifffile is to write an image of so many channels, colours and alpha. Directories of EXIF have stand-ins."""
    exif = PIL.Image.Exif()
    exif.load(carried.exif or b"")
    density = {}
    if _WIDTH in exif and _HEIGHT in exif:
        density = {
            "resolution": (float(exif[_WIDTH]), float(exif[_HEIGHT])),
            "resolutionunit": int(exif.get(_UNIT, 2)),
        }
    return {
        **density,
        "photometric": "minisblack" if carried.grey else "rgb",
        "planarconfig": "contig" if channels > 1 else None,
        "extrasamples": ["unassalpha"] if carried.alpha is not None else None,
        "compression": "zlib",
        "predictor": True,
        "metadata": None,
        "software": False,
        "iccprofile": carried.icc,
        "extratags": [*_geo_tags(carried), *_exif_tags(exif)],
    }


def _geo_tags(carried: Carried) -> list[tuple[int, int, int, Any, bool]]:
    tags: list[tuple[int, int, int, Any, bool]] = []
    for code, value in carried.geo.values if carried.geo is not None else ():
        kind = {GEO_KEYS: SHORT, GEO_TEXTS: ASCII, NO_DATA: ASCII, GEO_DOUBLES: DOUBLE}.get(code, DOUBLE)
        tags.append((code, kind, 0 if kind == ASCII else len(value), value, True))
    return tags


def _exif_tags(exif: PIL.Image.Exif) -> list[tuple[int, int, int, Any, bool]]:
    """Texts, and room for where the directories of EXIF will be."""
    texts = [(tag, ASCII, 0, str(exif[tag]), True) for tag in _TEXTS if tag in exif]
    return [*texts, *((other, LONG, 1, 0, True) for tag, other in _STAND_INS.items() if exif.get_ifd(tag))]


def _add_directories(file: BinaryIO, exif: bytes) -> None:
    """Put the directories of EXIF at the end of a file, which has room for where they are."""
    loaded = PIL.Image.Exif()
    loaded.load(exif)
    file.seek(0)
    with tifffile.TiffFile(file) as written:
        page: Any = written.pages[0]
        places = {tag: page.tags[other].offset for tag, other in _STAND_INS.items() if other in page.tags}
    for tag, entry in places.items():
        directory = ImageFileDirectory_v2(_HEADER, group=tag)
        for inside, value in loaded.get_ifd(tag).items():
            directory[inside] = value
        at = file.seek(0, io.SEEK_END)
        at += at % 2
        file.seek(at)
        file.write(directory.tobytes(at))
        file.seek(entry)
        file.write(struct.pack("<HHII", tag, LONG, 1, at))
