"""Pixels from disk and to disk. RGB inside, whatever the library beside it speaks."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from numpy.typing import NDArray

from hatdet.core.atomic import write_bytes
from hatdet.core.errors import InputError
from hatdet.core.types import Image

__all__ = ["IMAGE_SUFFIXES", "read_image", "to_array", "write_array", "write_image"]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")  # no PostScript: a picture runs no program
_TIFF_BITS_PER_SAMPLE = 258


def read_image(path: str | Path) -> Image:
    """Read an image upright (EXIF), as RGB in [0, 1]; 16-bit files keep their 16 bits. Grey becomes RGB, alpha goes.

    Raises:
        InputError: there is no such file, it is no image, or it is damaged.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if not data:
        raise InputError(f"{path} is not an image: the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd but readable files
            PIL.Image.init()  # formats named to open() must have been loaded
            with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                bits = _bits(opened, data)
                opened.load()  # a damaged file fails here, and not in OpenCV, which is noisy or silent about it
                upright = opened if bits == 16 else PIL.ImageOps.exif_transpose(opened)
                pixels = None if bits == 16 else np.array(upright.convert("RGB"))
        if bits > 16:
            raise InputError(f"{path} has {bits}-bit samples: expected 8 or 16 bits")
    # ImportError: once ultralytics is loaded, Pillow's open looks for a HEIF plug-in before it gives up.
    except (PIL.UnidentifiedImageError, ImportError) as error:
        raise InputError(f"{path} is not an image that can be read (JPEG, PNG, WebP, TIFF, BMP)") from error
    except PIL.Image.DecompressionBombError as error:
        raise InputError(f"{path} has more pixels than are read at once: {error}") from error
    # Decoders raise all of these on damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if pixels is None:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        if decoded is None or decoded.dtype != np.uint16:
            raise InputError(f"{path} is damaged, or a 16-bit image of a kind that cannot be read")
        pixels = np.ascontiguousarray(decoded[..., ::-1])
    depth = 16 if pixels.dtype == np.uint16 else 8
    values = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1).contiguous()
    return Image(values.div_(2**depth - 1), bit_depth=depth)


def _bits(opened: PIL.Image.Image, data: bytes) -> int:
    """Bits of one sample in the file; Pillow decodes deep RGB to 8 bits without a word."""
    if opened.format == "PNG":
        return data[24]  # in the header chunk, which comes first
    if opened.format == "TIFF":
        bits = opened.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (8,))  # type: ignore[attr-defined]
        return int(max(bits) if isinstance(bits, tuple) else bits)
    return 8


def to_array(image: Image) -> NDArray[np.uint8 | np.uint16]:
    """`(h, w, 3)` RGB, uint8 or uint16 by the image's bit depth."""
    values = image.pixels.mul(image.levels).round().permute(1, 2, 0).cpu().numpy()
    return values.astype(np.uint16 if image.bit_depth == 16 else np.uint8)


def write_array(array: NDArray[np.uint8 | np.uint16], path: Path) -> None:
    """Write `(h, w, 3)` RGB as PNG; the file is there whole or not at all.

    Raises:
        OptionsError: the place cannot be written.
    """
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(array[..., ::-1]))
    if not done:
        raise ValueError(f"an image of shape {array.shape} and type {array.dtype} cannot be encoded as PNG")
    write_bytes(path, encoded.tobytes())


def write_image(image: Image, path: Path) -> None:
    """Write an image as PNG, 8 or 16 bits; the file is there whole or not at all.

    Raises:
        OptionsError: the place cannot be written.
    """
    write_array(to_array(image), path)
