"""Images whose upscaled canvas does not belong in memory: read in windows, written in bands, looked at in windows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from hatdet.core.types import Detections, Detector, Image, Upscaler
    from hatdet.imaging.carried import Carried
    from hatdet.imaging.files import Pixels
    from hatdet.imaging.windows import Windows

__all__ = ["in_bands", "look_in_windows", "open_or_read", "read_or_open", "upscale_to_tiff"]


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
    from hatdet.core.atomic import written_whole
    from hatdet.core.errors import OptionsError
    from hatdet.imaging.tiff_writing import write_tiff_bands
    from hatdet.sr.bands import enlarged_bands

    height, width = source.height * upscaler.scale, source.width * upscaler.scale
    carried = source.carried.enlarged((height, width), upscaler.scale)
    try:
        with written_whole(target) as temporary:
            shape = (height, width, source.channels)
            bands = enlarged_bands(upscaler, source)
            write_tiff_bands(temporary, bands, shape, source.bit_depth, carried, source.has_alpha)
    except OSError as error:  # of writing: what reading raises is an InputError by now
        raise OptionsError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        source.close()
    return width, height


def open_or_read(path: Path, max_pixels: int, upscaler: Upscaler | None) -> Image | Windows:
    """The image for a detector; windows of one whose upscaled canvas is too large for memory, whatever its format.

    Raises:
        InputError: as of `read_image`.
    """
    from hatdet.imaging.carried import NOTHING
    from hatdet.imaging.files import read_image
    from hatdet.imaging.windows import held
    from hatdet.sr.bands import needs_bands

    if upscaler is None:
        return read_image(path, max_pixels)
    found = read_or_open(path, max_pixels, upscaler, True)
    if not isinstance(found, tuple):
        return found
    image, _ = found
    return held(image, NOTHING) if needs_bands(upscaler, image.height, image.width) else image


def look_in_windows(
    source: Windows, upscaler: Upscaler, detector: Detector, on_progress: Callable[[int, int], None]
) -> tuple[Detections, Pixels, float, float]:
    """What is found in windows of an image, each upscaled to the largest canvas of the detector.

    Returns the objects; a small picture of the image, and its pixels for each of the image's; the share of the pixels
    of all windows that the network saw.
    """
    from hatdet.cli.detect_slices import in_windows
    from hatdet.detection.regions import SelectiveUpscaler
    from hatdet.imaging.files import image_of
    from hatdet.imaging.windows import overview

    picture, shown = overview(source)
    shares: list[tuple[float, int]] = []
    if isinstance(upscaler, SelectiveUpscaler):
        upscaler = replace(upscaler, on_share=lambda share, pixels: shares.append((share, pixels)))
    slices = replace(in_windows(upscaler, detector), on_progress=on_progress)
    small = replace(image_of(picture), scale=shown)
    found = slices.over(source.image, (source.height, source.width), overview=small)
    pixels = sum(pixels for _, pixels in shares)
    return found, picture, shown, sum(share * n for share, n in shares) / pixels if pixels else 1.0
