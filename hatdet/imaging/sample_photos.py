"""The photos that ship inside ultralytics: what is shown, compared and measured where no image is given."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from hatdet.core.errors import WeightsError
from hatdet.imaging.files import read_image, write_image
from hatdet.imaging.resize import reduced

__all__ = ["SAMPLE_REDUCTION", "sample_photos", "write_samples"]

SAMPLE_REDUCTION = 8  # until their objects are hard to see


def sample_photos() -> list[Path]:
    """The files, in the order of their names.

    Raises:
        WeightsError: they are not there.
    """
    spec = find_spec("ultralytics")
    photos = sorted((Path(spec.origin).parent / "assets").glob("*.jpg")) if spec and spec.origin else []
    if not photos:
        raise WeightsError("the sample photos of ultralytics are not there: reinstall it")
    return photos


def write_samples(folder: Path) -> list[Path]:
    """Write the photos to a folder, reduced, as PNG files.

    Raises:
        WeightsError: they are not there.
        OptionsError: the folder cannot be written.
    """
    written = []
    for photo in sample_photos():
        written.append(folder / f"{photo.stem}.png")
        write_image(reduced(read_image(photo), SAMPLE_REDUCTION), written[-1])
    return written
