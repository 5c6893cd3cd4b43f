"""Pixels from disk and to disk. RGB inside, whatever the library beside it speaks."""

from __future__ import annotations

import io
import threading
import warnings
from pathlib import Path
from typing import TypeAlias, cast

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from numpy.typing import NDArray

from hatdet.core.atomic import write_bytes
from hatdet.core.errors import InputError
from hatdet.core.types import Image

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "Pixels",
    "eight_bits",
    "read_image",
    "to_array",
    "write_array",
    "write_image",
]

Pixels: TypeAlias = NDArray[np.uint8 | np.uint16]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")  # no PostScript: a picture runs no program
_TIFF_BITS_PER_SAMPLE = 258
STRIP = 2**20  # pixels that are converted at once
MAX_PIXELS = 178_956_970  # from where Pillow takes an image for a decompression bomb
_PILLOWS_LIMIT = threading.Lock()


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image:
    """Read an image upright (EXIF), as RGB in [0, 1]; 16-bit files keep their 16 bits. Grey becomes RGB, alpha goes.

    Args:
        path: of the file.
        max_pixels: a larger image is refused before it is decoded: a small file can say that it holds any number.

    Raises:
        InputError: there is no such file, it is no image, it is too large, or it is damaged.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if not data:
        raise InputError(f"{path} is not an image: the file is empty")
    pixels: Pixels | None = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd but readable files
            with _opened(data) as opened:
                w, h = opened.size
                if w * h > max_pixels:
                    raise InputError(f"{path} has {w}x{h} pixels: at most {max_pixels:,} are read (--max-pixels)")
                bits = _bits(opened, data)
                opened.load()  # a damaged file fails here, and not in OpenCV, which is noisy or silent about it
                upright = opened if bits == 16 else PIL.ImageOps.exif_transpose(opened)
                if bits != 16:
                    pixels = np.asarray(upright if upright.mode == "RGB" else upright.convert("RGB"))
        if bits > 16:
            raise InputError(f"{path} has {bits}-bit samples: expected 8 or 16 bits")
    # ImportError: once ultralytics is loaded, Pillow's open looks for a HEIF plug-in before it gives up.
    except (PIL.UnidentifiedImageError, ImportError) as error:
        raise InputError(f"{path} is not an image that can be read (JPEG, PNG, WebP, TIFF, BMP)") from error
    # Decoders raise all of these on damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if pixels is None:
        try:
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        except cv2.error as error:  # it has a limit too: 2^30 pixels
            raise InputError(f"{path} is damaged, or a 16-bit image too large for OpenCV: {error.err}") from error
        if decoded is None or decoded.dtype != np.uint16:
            raise InputError(f"{path} is damaged, or a 16-bit image of a kind that cannot be read")
        pixels = np.ascontiguousarray(decoded[..., ::-1])
    depth = 16 if pixels.dtype == np.uint16 else 8
    # By NumPy: it is read beside a network, whose threads would have to share their processors with PyTorch's here.
    values = np.empty((3, *pixels.shape[:2]), np.float32)
    for channel in range(3):
        np.divide(pixels[..., channel], np.float32(2**depth - 1), out=values[channel])
    return Image(torch.from_numpy(values), bit_depth=depth)


def _opened(data: bytes) -> PIL.Image.Image:
    """The file, of which the header has been read. Pillow's own limit of pixels is one for the whole process."""
    PIL.Image.init()  # formats named to open() must have been loaded
    with _PILLOWS_LIMIT:
        kept, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            return PIL.Image.open(io.BytesIO(data), formats=FORMATS)
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = kept


def _bits(opened: PIL.Image.Image, data: bytes) -> int:
    """Bits of one sample in the file; Pillow decodes deep RGB to 8 bits without a word."""
    if opened.format == "PNG":
        return data[24]  # in the header chunk, which comes first
    if opened.format == "TIFF":
        bits = opened.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (8,))  # type: ignore[attr-defined]
        return int(max(bits) if isinstance(bits, tuple) else bits)
    return 8


def to_array(image: Image) -> Pixels:
    """`(h, w, 3)` RGB, uint8 or uint16 by the image's bit depth, on the host."""
    depth, kind = (torch.uint16, np.uint16) if image.bit_depth == 16 else (torch.uint8, np.uint8)
    array: Pixels = np.empty((image.height, image.width, 3), kind)
    # Strip by strip: a picture may be most of the memory, and its bytes are a quarter of what it is in float32. They
    # are made where it lies, so that no more than they comes from another device.
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.pixels[:, top : top + rows].mul(image.levels).round_().to(depth).cpu().numpy()
        cv2.merge(list(strip), array[top : top + rows])
    return array


def eight_bits(array: Pixels) -> NDArray[np.uint8]:
    """The same picture in 8 bits."""
    return (array >> 8).astype(np.uint8) if array.dtype == np.uint16 else cast("NDArray[np.uint8]", array)


def write_array(array: Pixels, path: Path, *, drawn: bool = False) -> None:
    """Write `(h, w, 3)` RGB as PNG; the file is there whole or not at all.

    Args:
        array: the picture.
        path: of the file.
        drawn: whether many of its rows are like those above them, which is then made use of: the file is smaller, and
            sooner there.

    Raises:
        OptionsError: the place cannot be written.
    """
    settings = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP, cv2.IMWRITE_PNG_COMPRESSION, 1] if drawn else []
    done, encoded = cv2.imencode(".png", cv2.cvtColor(array, cv2.COLOR_RGB2BGR), settings)
    if not done:
        raise ValueError(f"an image of shape {array.shape} and type {array.dtype} cannot be encoded as PNG")
    write_bytes(path, encoded.data)


def write_image(image: Image, path: Path) -> None:
    """Write an image as PNG, 8 or 16 bits; the file is there whole or not at all.

    Raises:
        OptionsError: the place cannot be written.
    """
    write_array(to_array(image), path)
