"""Runs over many images that go on where they were: what is left to do, and what is said about it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from hatdet.cli.session import Session

if TYPE_CHECKING:
    from hatdet.core.types import Detector, Upscaler
    from hatdet.runs.manifest import Record

__all__ = ["check_on_error", "detected_by", "made_by", "say_what_was_done", "says_what_remains"]


def made_by(upscaler: Upscaler, name: str, scale: int, engine: Path | None) -> dict[str, Any]:
    """Everything that the pixels of an upscaled image follow from, besides the image."""
    from hatdet import __version__
    from hatdet.core.fetch import sha256_of
    from hatdet.sr.upscalers import HatUpscaler
    from hatdet.sr.weights import find_weights

    made: dict[str, Any] = {"hatdet": __version__, "upscaler": upscaler.name, "scale": upscaler.scale}
    if isinstance(upscaler, HatUpscaler):
        file = engine if engine is not None else find_weights(name, scale).path
        made |= {"weights": sha256_of(file), "tile": upscaler.tile, "overlap": upscaler.overlap}
        made |= {"precision": str(upscaler.precision).removeprefix("torch."), "device": upscaler.device.type}
    return made


def detected_by(detector: Detector, weights: str | None, engine: Path | None) -> dict[str, Any]:
    """Everything that boxes follow from, besides the image that the detector sees."""
    from hatdet.core.fetch import sha256_of
    from hatdet.detection.weights import find_detector
    from hatdet.detection.yolo import YoloDetector

    if not isinstance(detector, YoloDetector):
        return {"detector": detector.name, "chain": None if engine is None else sha256_of(engine)}
    return {
        "detector": detector.name,
        "detector's weights": sha256_of(find_detector(weights)),
        "conf": detector.confidence,
        "iou": detector.iou,
        "max-det": detector.max_detections,
        "classes": None if detector.class_ids is None else list(detector.class_ids),
        "imgsz": detector.imgsz,
    }


def check_on_error(on_error: str) -> None:
    """Raise an OptionsError for something that `--on-error` cannot be."""
    from hatdet.core.errors import OptionsError

    if on_error not in ("skip", "stop"):
        raise OptionsError(f"--on-error must be skip or stop, got {on_error!r}")


def say_what_was_done(session: Session, manifest: Record, done: int, total: int) -> None:
    """What an earlier run leaves to do."""
    if done:
        session.say(f"{done} of {total} images were done before (--overwrite makes them again)")
    if manifest.changed:
        names = ", ".join(manifest.changed)
        session.say(f"made with other settings before, made again: {max(manifest.changed.values())} images ({names})")


@contextmanager
def says_what_remains(session: Session, jobs: Sequence[object]) -> Iterator[Callable[[], bool]]:
    """A run over the jobs that Ctrl-C ends after the image in work, and a second Ctrl-C at once; then how to go on.

    Gives a function that says whether to take no further image.

    Raises:
        KeyboardInterrupt: at the end of a run that was told to stop.
    """
    told = False

    def tell(number: int, frame: object) -> None:
        nonlocal told
        if told:
            raise KeyboardInterrupt
        told = True
        # Straight to the terminal: whoever else is about to write there may have been stopped in the middle of it.
        with suppress(OSError):
            os.write(
                2, b"" if session.console.quiet else b"\nstopping after the image in work (Ctrl-C again: at once)\n"
            )

    try:
        with _on_interrupt(tell):
            yield lambda: told
            if told:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        failed = f", {session.failed} failed" if session.failed else ""
        rest = ": the same command does the rest" if session.done < len(jobs) else ""
        session.say(f"{session.done} of {len(jobs)} images are done{failed}{rest}")
        raise


@contextmanager
def _on_interrupt(tell: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have Ctrl-C call `tell`, unless it is ignored (a job in the background) or this is not the main thread."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, tell)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
