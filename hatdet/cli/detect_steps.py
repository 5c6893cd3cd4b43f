"""What `hatdet detect` does with one image."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hatdet.cli.detect_chain import Chain, Enlarging, Looking, load_chain
from hatdet.cli.detect_results import Found, Job, image_report, summary, write_results
from hatdet.cli.session import Session
from hatdet.cli.steps import Done

if TYPE_CHECKING:
    from hatdet.core.types import Image
    from hatdet.imaging.windows import Windows

    # What came before the steps of one image: its state, itself or windows of a huge one, and the milliseconds it took.
    Read = tuple[str, Image | Windows, float]

__all__ = ["DetectingSteps", "Finding"]


@dataclass(frozen=True)
class Finding:
    """How objects are found, in the words of the command line; called with a device it loads the chain, in a worker."""

    enlarging: Enlarging | None
    looking: Looking
    engine: Path | None
    precision: str
    max_pixels: int

    def __call__(self, device: str) -> DetectingSteps:
        session = Session(True, False)
        return DetectingSteps(session, self.chain(session, device), self.max_pixels)

    def chain(self, session: Session, device: str) -> Chain:
        """What images go through, on a device."""
        return load_chain(session, self.enlarging, self.looking, self.engine, device, self.precision)


@dataclass(frozen=True, eq=False)
class DetectingSteps:
    """From an image to its boxes, and to its files."""

    session: Session
    chain: Chain
    max_pixels: int

    def read(self, job: Job) -> Read:
        from hatdet.cli.huge import open_or_read
        from hatdet.runs.manifest import state_of

        state = state_of(job.source.path)
        began = time.perf_counter()
        image = open_or_read(job.source.path, self.max_pixels, self.chain.enlarge)
        return state, image, (time.perf_counter() - began) * 1e3

    def compute(self, job: Job, read: Read) -> tuple[str, Found]:
        """What is in the image."""
        from hatdet.core.errors import InputError
        from hatdet.core.types import Image
        from hatdet.imaging.files import to_array

        self.session.begin()
        state, image, read_ms = read
        if not isinstance(image, Image):
            return state, self.in_windows(job, image, read_ms)
        try:
            result, upscaled_by = self.chain.run(image)
        except InputError as error:
            raise InputError(f"{job.source.path}: {error}") from error
        timing = {"read": read_ms, "upscale": result.upscale_ms, "detect": result.detect_ms}
        seen = None if result.upscale_ms is None else to_array(result.seen)
        found = Found(to_array(image), seen, result.detections, timing, share=result.share, upscaled_by=upscaled_by)
        return state, found

    def in_windows(self, job: Job, image: Windows, read_ms: float) -> Found:
        """What is in a huge image; its crops are written here, while it is open."""
        from hatdet.cli.detect_crops import write_crops_of_windows
        from hatdet.cli.huge import look_in_windows
        from hatdet.core.errors import InputError

        assert self.chain.enlarge is not None
        with closing(image):
            if job.larger is not None:
                raise InputError(f"{job.source.path} is too large for --save-sr: `hatdet sr --format tiff` writes it")
            began = time.perf_counter()
            way = self.chain.way((image.width, image.height))
            enlarge = way.enlarge or self.chain.enlarge  # in windows without upscaling it would be another thing
            found, picture, shown, share = look_in_windows(image, enlarge, way.detector, self.session.part_done)
            both = (time.perf_counter() - began) * 1e3  # one window after another: not told apart
            if job.crops is not None:
                write_crops_of_windows(image, found, job.crops_of(found))
        timing = {"read": read_ms, "upscale": None, "detect": both}
        return Found(picture, None, found, timing, shown, (image.width, image.height), share, enlarge.name)

    def write(self, job: Job, made: tuple[str, Found]) -> Done:
        state, found = made
        write_results(job, found, found.upscaled_by)
        files = [job.picture, *job.others, *job.crops_of(found.detections)]
        part = "" if found.share in (None, 1) else f" ({100 * found.share:.0f} % upscaled)"
        return Done(state, files, image_report(job, found), f"{summary(found.detections)}{part}")
