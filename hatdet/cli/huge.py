"""Images whose upscaled canvas does not belong in memory: read in windows, written in bands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hatdet.core.types import Image, Upscaler
    from hatdet.imaging.carried import Carried
    from hatdet.imaging.windows import Windows

__all__ = ["in_bands", "read_or_open", "upscale_to_tiff"]


def read_or_open(path: Path, max_pixels: int, upscaler: Upscaler, banded: bool) -> tuple[Image, Carried] | Windows:
    """The image and what it carries; one that is worked on in bands and can be read in parts is only opened.

    Args:
        path: of the file.
        max_pixels: a larger image is refused.
        upscaler: what is done to it.
        banded: whether the result can be written in bands.

    Raises:
        InputError: as of `read_carried`.
    """
    from hatdet.imaging.files import read_carried
    from hatdet.imaging.windows import open_windows
    from hatdet.sr.bands import needs_bands

    windows = open_windows(path, max_pixels) if banded else None
    if windows is not None:
        if needs_bands(upscaler, windows.height, windows.width):
            return windows
        windows.close()
    return read_carried(path, max_pixels)


def in_bands(found: tuple[Image, Carried] | Windows, upscaler: Upscaler, banded: bool) -> Windows | None:
    """What to work on in bands; None of an image whose canvas is small enough, or of another format."""
    from hatdet.imaging.windows import held
    from hatdet.sr.bands import needs_bands

    if not isinstance(found, tuple):
        return found
    image, carried = found
    return held(image, carried) if banded and needs_bands(upscaler, image.height, image.width) else None


def upscale_to_tiff(upscaler: Upscaler, source: Windows, target: Path) -> tuple[int, int]:
    """Upscale and write a TIFF file, which is there whole or not at all; returns its width and height.

    Raises:
        InputError: the source is damaged. DeviceError: too little memory. OptionsError: the place cannot be written.
    """
    from hatdet.core.atomic import new_file
    from hatdet.imaging.tiff_writing import write_tiff_bands
    from hatdet.sr.bands import enlarged_bands

    height, width = source.height * upscaler.scale, source.width * upscaler.scale
    carried = source.carried.enlarged((height, width), upscaler.scale)
    try:
        with new_file(target) as temporary:
            shape = (height, width, source.channels)
            bands = enlarged_bands(upscaler, source)
            write_tiff_bands(temporary, bands, shape, source.bit_depth, carried, source.has_alpha)
    finally:
        source.close()
    return width, height
