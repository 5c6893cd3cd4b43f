"""TIFF files read in windows, whatever their size: what Pillow has no mode for (deep colour, many bands, BigTIFF).

Rows and columns of a window are NumPy's: `top : bottom` and `left : right` in pixels of the file as it lies on disk.
"""

from __future__ import annotations

import contextlib
import io
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from hatdet.imaging.geo_tags import GeoTags

__all__ = ["TIFF_MAGIC", "Tiff", "open_tiff", "quiet_opencv"]

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ORIENTATION, ICC_PROFILE = 274, 34675
MIN_IS_WHITE, MIN_IS_BLACK, RGB, YCBCR = 0, 1, 2, 6
JPEG = 7
UNDEFINED, PREMULTIPLIED, STRAIGHT = 0, 1, 2  # what a channel beyond the colours is
LARGEST_SEGMENT = 2**28  # bytes that are decoded at once


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """Without OpenCV's remarks on odd but readable files."""
    log = cv2.utils.logging
    level = log.getLogLevel()
    log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        log.setLogLevel(level)


class _Silent(logging.Filter):
    """Keeps back what tifffile says of odd files while a thread of ours reads one."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(self.reading, "now", False)


_SILENT = _Silent()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    logging.getLogger("tifffile").addFilter(_SILENT)  # once, however often it is called
    _SILENT.reading.now = True
    try:
        yield
    finally:
        _SILENT.reading.now = False


class Tiff:
    """The first picture of a TIFF file: grey or RGB, of 8 or 16 bits; a context manager. Made by `open_tiff`.

    Attributes:
        height, width: in pixels.
        bit_depth: 8 or 16.
        channels: that `read` gives: 1 (grey) or 3 (RGB), and one more for alpha.
        left_out: channels that are neither colour nor alpha, such as infrared.
        orientation: EXIF's; 1 is upright. Windows are not turned.
        icc: the colour profile.
        geo: where on the map the pixels lie.
    """

    def __init__(self, file: tifffile.TiffFile, page: Any, extra: tuple[int, ...]) -> None:
        self._file, self._page, self._extra = file, page, extra
        self.height, self.width = int(page.imagelength), int(page.imagewidth)
        self.bit_depth = int(page.bitspersample)
        self._colours = int(page.samplesperpixel) - len(extra)
        self.has_alpha = bool(extra) and extra[0] in (PREMULTIPLIED, STRAIGHT)
        self.channels = self._colours + self.has_alpha
        self.left_out = len(extra) - self.has_alpha
        self.orientation = int(self._tag(ORIENTATION) or 1)
        self.icc: bytes | None = self._tag(ICC_PROFILE) or None
        self.geo = GeoTags.found(self._tag)

    def __enter__(self) -> Tiff:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def grey(self) -> bool:
        """Whether there is one colour channel."""
        return self._colours == 1

    @property
    def segment_rows(self) -> int:
        """Rows of the file that are decoded together."""
        return 1 if self._page.is_contiguous else int(self._page.chunks[0])

    def _tag(self, code: int) -> Any:
        tag = self._page.tags.get(code)
        return None if tag is None else tag.value

    def read(self, top: int, bottom: int, left: int, right: int) -> NDArray[Any]:
        """A window. Shape: `(bottom - top, right - left, channels)`, uint8 or uint16.

        Raises:
            ValueError: the file ends early, or is damaged.
        """
        with _quietly():
            found = self._contiguous if self._page.is_contiguous else self._from_segments
            samples = found(top, bottom, left, right)
        kept = samples[..., : self._colours]
        if int(self._page.photometric) == MIN_IS_WHITE:
            kept = np.iinfo(kept.dtype).max - kept
        if not self.has_alpha:
            return kept
        alpha = samples[..., self._colours : self._colours + 1]
        if self._extra[0] == PREMULTIPLIED:
            kept = _divided(kept, alpha)
        return np.concatenate([kept, alpha], axis=2)

    def _contiguous(self, top: int, bottom: int, left: int, right: int) -> NDArray[Any]:
        """Samples that are not compressed and lie one after another: only the rows asked for are read."""
        page, native = self._page, np.dtype(f"u{self.bit_depth // 8}")
        per_pixel = int(page.samplesperpixel)
        planes = 1 if int(page.planarconfig) == 1 else per_pixel
        each = per_pixel // planes
        kind = native.newbyteorder(self._file.byteorder)
        row = self.width * each * kind.itemsize
        parts = []
        for plane in range(planes):
            start = page.dataoffsets[0] + (plane * self.height + top) * row
            data = self._bytes(start, (bottom - top) * row)
            parts.append(np.frombuffer(data, kind).reshape(bottom - top, self.width, each)[:, left:right])
        joined = parts[0] if planes == 1 else np.concatenate(parts, axis=2)
        return joined.astype(native)

    def _from_segments(self, top: int, bottom: int, left: int, right: int) -> NDArray[Any]:
        """From the strips or tiles that the window touches."""
        page = self._page
        samples = np.zeros((bottom - top, right - left, int(page.samplesperpixel)), f"u{self.bit_depth // 8}")
        separate = int(page.planarconfig) == 2 and int(page.samplesperpixel) > 1
        h, w = (int(side) for side in page.chunks[:2])
        across, down = -(-self.width // w), -(-self.height // h)
        for plane in range(int(page.samplesperpixel) if separate else 1):
            for row in range(top // h, -(-bottom // h)):
                for column in range(left // w, -(-right // w)):
                    index = (plane * down + row) * across + column
                    segment = self._segment(index)
                    if segment is None:  # a sparse file: nothing was written there
                        continue
                    y, x = row * h, column * w
                    y1, y2 = max(top, y), min(bottom, y + segment.shape[0])
                    x1, x2 = max(left, x), min(right, x + segment.shape[1])
                    there = samples[y1 - top : y2 - top, x1 - left : x2 - left]
                    there[..., plane if separate else 0 :][..., : segment.shape[2]] = segment[
                        y1 - y : y2 - y, x1 - x : x2 - x
                    ]
        return samples

    def _segment(self, index: int) -> NDArray[Any] | None:
        """One strip or tile. Shape: `(h, w, channels)`."""
        page = self._page
        count = int(page.databytecounts[index])
        data = self._bytes(int(page.dataoffsets[index]), count) if count else None
        decoded: NDArray[Any] | None = page.decode(data, index, jpegtables=page.jpegtables)[0]
        if decoded is None:
            return None
        segment: NDArray[Any] = decoded[0]
        return segment

    def _bytes(self, start: int, count: int) -> bytes:
        handle = self._file.filehandle
        handle.seek(start)
        data: bytes = handle.read(count)
        if len(data) < count:
            raise ValueError("the file ends early")
        return data


def _divided(colours: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Colours that were multiplied by alpha, as they were before."""
    largest = np.iinfo(colours.dtype).max
    whole: NDArray[np.float64] = np.floor(colours * np.float64(largest) / np.maximum(alpha, 1) + 0.5)
    return np.minimum(whole, largest).astype(colours.dtype)


def open_tiff(source: Path | bytes) -> Tiff | None:
    """A TIFF file, of which the directory has been read; None where it is of a kind that Pillow has to read.

    That is: a palette, inks, other than 8 or 16 bits, a compression that needs the extra `geo`.

    Raises:
        Whatever tifffile does on damaged files.
    """
    with _quietly():
        file = tifffile.TiffFile(io.BytesIO(source) if isinstance(source, bytes) else source)
        try:
            page: Any = file.pages[0]
            extra = _extra_channels(page)
            if extra is not None and _decodable(page):
                return Tiff(file, page, extra)
        except BaseException:
            file.close()
            raise
        file.close()
    return None


def _extra_channels(page: Any) -> tuple[int, ...] | None:
    """What the channels beyond grey or RGB are; None where the colours are something else."""
    photometric, samples = int(page.photometric), int(page.samplesperpixel)
    extra = tuple(int(kind) for kind in page.extrasamples)
    if page.dtype not in (np.uint8, np.uint16) or page.bitspersample not in (8, 16) or page.imagedepth != 1:
        return None
    if photometric == YCBCR and int(page.compression) != JPEG:
        return None
    # GDAL calls three bands of 16 bits one grey and two undefined channels.
    if photometric == MIN_IS_BLACK and samples >= 3 and len(extra) == samples - 1 and extra[:2] == (UNDEFINED,) * 2:
        extra = extra[2:]
        photometric = RGB
    colours = {MIN_IS_WHITE: 1, MIN_IS_BLACK: 1, RGB: 3, YCBCR: 3}.get(photometric)
    return extra if colours == samples - len(extra) else None


def _decodable(page: Any) -> bool:
    """Whether there is a decoder, and segments that are not the whole of a huge picture."""
    if page.is_contiguous:
        return True
    if int(np.prod(page.chunks)) * int(page.bitspersample) // 8 > LARGEST_SEGMENT:
        return False
    try:
        page.decode(None, 0)  # of nothing: it says whether it could
    except (ValueError, NotImplementedError):
        return False
    return True
