"""What `hatdet sr` does with one image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hatdet.cli.session import Session
from hatdet.cli.steps import Done

if TYPE_CHECKING:
    from hatdet.core.types import Image, Upscaler
    from hatdet.imaging.carried import Carried
    from hatdet.imaging.encoding import Format
    from hatdet.imaging.files import Pixels
    from hatdet.imaging.sources import Source
    from hatdet.imaging.windows import Windows
    from hatdet.sr.upscalers import TileSize

    # What came before the steps of one image: its state, and itself or windows of it.
    Read = tuple[str, tuple[Image, Carried] | Windows]
    # Its state; pixels to write with what they carry, None where they are written; sizes before and after.
    Larger = tuple[str, tuple[Pixels, Carried] | None, tuple[int, int], tuple[int, int]]

__all__ = ["Making", "Upscaling", "UpscalingJob"]


@dataclass(frozen=True)
class UpscalingJob:
    """An image, and where its result goes."""

    source: Source
    target: Path

    def moved(self, source: Source, output: Path, to: Path) -> UpscalingJob:
        """The same with another source, and with its result below `to` instead of `output`."""
        return UpscalingJob(source, to / self.target.relative_to(output))


@dataclass(frozen=True)
class Upscaling:
    """How images are upscaled, in the words of the command line."""

    upscaler: str
    scale: int
    tile: TileSize
    overlap: int
    batch: int | None
    engine: Path | None
    precision: str
    ensemble: bool
    outscale: float | None


@dataclass(frozen=True)
class Making:
    """How images are upscaled and written; called with a device it loads what that takes, in a worker."""

    how: Upscaling
    form: str
    quality: int | None
    max_pixels: int | None

    @property
    def kind(self) -> Format:
        """The format, by any of its names."""
        from hatdet.imaging.encoding import checked_format

        return checked_format(self.form, self.quality)

    def __call__(self, device: str) -> _Steps:
        return self.steps(Session(True, False), device)

    def steps(self, session: Session, device: str) -> _Steps:
        """The steps on a device; downloads and tiles are shown by the session.

        Raises:
            WeightsError, OptionsError, DeviceError: as `load_upscaler`, `load_engine`.
        """
        from hatdet.cli.weights import engine_with_progress, upscaler_with_progress
        from hatdet.sr.ensemble import with_ensemble

        how = self.how
        if how.engine is not None:
            upscale = engine_with_progress(session, how.engine, device, how.precision, how.overlap, how.batch)
        else:
            upscale = upscaler_with_progress(
                session, how.upscaler, how.scale, device, how.precision, how.tile, how.overlap, how.batch
            )
        return _Steps(self, with_ensemble(upscale) if how.ensemble else upscale, session)


@dataclass(frozen=True, eq=False)
class _Steps:
    making: Making
    upscale: Upscaler
    session: Session

    def settings(self) -> dict[str, Any]:
        """Everything that results follow from besides the image."""
        from hatdet.cli.resumable import made_by

        how = self.making.how
        settings = {"verb": "sr", **made_by(self.upscale, how.upscaler, how.scale, how.engine)}
        settings |= {"outscale": how.outscale, "ensemble": how.ensemble}
        return settings | {"format": self.making.form, "quality": self.making.quality}

    @property
    def banded(self) -> bool:
        """Whether a result may be written in bands."""
        return self.making.kind.name == "TIFF" and self.making.how.outscale is None

    def read(self, job: UpscalingJob) -> Read:
        from hatdet.cli.huge import read_or_open
        from hatdet.imaging.files import MAX_PIXELS
        from hatdet.runs.manifest import state_of

        state, path = state_of(job.source.path), job.source.path
        return state, read_or_open(path, self.making.max_pixels or MAX_PIXELS, self.upscale, self.banded)

    def compute(self, job: UpscalingJob, found: Read) -> Larger:
        from hatdet.cli.huge import in_bands, upscale_to_tiff
        from hatdet.imaging.files import to_array
        from hatdet.imaging.resize import to_scale

        self.session.begin()
        state, pixels = found
        huge = in_bands(pixels, self.upscale, self.banded)
        if huge is not None:
            return state, None, (huge.width, huge.height), upscale_to_tiff(self.upscale, huge, job.target)
        assert isinstance(pixels, tuple)
        image, carried = pixels
        larger = self.upscale(image)
        if self.making.how.outscale is not None:
            larger = to_scale(larger, self.making.how.outscale)
        # What is kept until it is written is the array: a quarter of the canvas.
        kept = carried.enlarged((larger.height, larger.width), larger.scale)
        return state, (to_array(larger), kept), (image.width, image.height), (larger.width, larger.height)

    def write(self, job: UpscalingJob, made: Larger) -> Done:
        from hatdet.imaging.files import write_carried

        state, to_write, size, larger = made
        if to_write is not None:
            write_carried(*to_write, job.target, self.making.kind, self.making.quality, of=Path(job.source.name))
        report = {"width": larger[0], "height": larger[1], "source_width": size[0], "source_height": size[1]}
        text = f"{'x'.join(map(str, size))} -> {'x'.join(map(str, larger))}"
        return Done(state, [job.target], report, text)
