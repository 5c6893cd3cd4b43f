"""TIFF files with what a picture carries: deflated, with the place on the map, a colour profile and EXIF."""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
import tifffile
from numpy.typing import NDArray
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from hatdet.imaging.carried import EXIF_IFD, GPS_IFD, Carried
from hatdet.imaging.geo_tags import GEO_DOUBLES, GEO_KEYS, GEO_TEXTS, NO_DATA

__all__ = ["tiff_bytes", "write_tiff_bands"]

log = logging.getLogger(__name__)

SIDE = 256  # of the tiles of a file that is written in bands
LARGEST_CLASSIC = 2**31  # bytes of samples: beyond it the file is BigTIFF

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
    kept = _fitting(carried, samples.nbytes)
    with tifffile.TiffWriter(file, bigtiff=samples.nbytes > LARGEST_CLASSIC, byteorder="<") as writer:
        writer.write(samples, **_settings(channels, kept, carried.alpha is not None))
    if kept.exif is not None:
        _add_directories(file, kept.exif)
    return file.getvalue()


def write_tiff_bands(
    path: Path, bands: Iterable[NDArray[Any]], shape: tuple[int, int, int], bits: int, carried: Carried, alpha: bool
) -> None:
    """Write an image from top to bottom, in tiles; no more of it is in memory than a band and a row of tiles.

    Args:
        path: of the file.
        bands: `(rows, width, channels)`, together all rows. None is looked at after the next one is asked for.
        shape: height, width and channels of the image.
        bits: of a sample, 8 or 16.
        carried: what goes with it; its alpha is in the bands.
        alpha: whether the last channel is alpha.
    """
    height, width, channels = shape
    count = height * width * channels * bits // 8
    kept = _fitting(carried, count)
    with tifffile.TiffWriter(path, bigtiff=count > LARGEST_CLASSIC, byteorder="<") as writer:
        writer.write(
            _tiles(bands, channels),
            shape=shape if channels > 1 else shape[:2],
            dtype=f"u{bits // 8}",
            tile=(SIDE, SIDE),
            maxworkers=1,  # more of them read far ahead, and the bands would be in memory after all
            **_settings(channels, kept, alpha),
        )
    if kept.exif is not None:
        with path.open("r+b") as file:
            _add_directories(file, kept.exif)


def _tiles(bands: Iterable[NDArray[Any]], channels: int) -> Iterator[NDArray[Any]]:
    """Bands of any heights to tiles, row by row; those at the right and the bottom are filled up with zeros.

    A band may be written over once the next one is asked for: what no full row of tiles has used is kept, and no more.
    """
    kept: NDArray[Any] | None = None
    for band in bands:
        kept = band[:0] if kept is None else kept
        done = 0
        while len(kept) + len(band) - done >= SIDE:
            more = band[done : done + SIDE - len(kept)]
            yield from _cut(kept, more, channels)
            done, kept = done + len(more), band[:0]
        kept = np.concatenate([kept, band[done:]]) if len(kept) else band[done:].copy()
    if kept is not None and len(kept):
        yield from _cut(kept, kept[:0], channels)


def _cut(above: NDArray[Any], below: NDArray[Any], channels: int) -> Iterator[NDArray[Any]]:
    """The tiles of at most SIDE rows, the first of which are `above`."""
    rows = len(above) + len(below)
    for left in range(0, above.shape[1], SIDE):
        columns = slice(left, left + SIDE)
        tile = np.concatenate([above[:, columns], below[:, columns]])
        whole = np.pad(tile, [(0, SIDE - rows), (0, SIDE - tile.shape[1]), (0, 0)])
        yield whole if channels > 1 else whole[..., 0]


def _fitting(carried: Carried, count: int) -> Carried:
    """What a file of so many bytes of samples keeps."""
    if carried.exif is None or count <= LARGEST_CLASSIC:
        return carried
    log.warning("EXIF is lost in a BigTIFF, which a picture of %.1f GiB has to be", count / 2**30)
    return replace(carried, exif=None)


def _settings(channels: int, carried: Carried, alpha: bool) -> dict[str, Any]:
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
        "extrasamples": ["unassalpha"] if alpha else None,
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
