"""The part of `hatdet detect` that looks at videos and streams, frame by frame."""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from hatdet.cli.options import given, writable_file

if TYPE_CHECKING:
    from hatdet.cli.detect_chain import Chain
    from hatdet.cli.session import Session
    from hatdet.core.types import Detections, Image
    from hatdet.imaging.files import Pixels
    from hatdet.imaging.video import Frame
    from hatdet.imaging.video_sources import VideoSource

__all__ = ["FramesOption", "TrackOption", "VideoPlan", "detect_in_videos", "plan_videos"]

_VIDEO = "Video"
# What one picture for each image is for; a video has thousands.
_FOR_IMAGES = ("save_txt", "save_crop", "save_sr", "coco", "csv", "geojson", "overwrite")

FramesOption = Annotated[
    str | None,
    typer.Option(
        help="Of a video, only these frames: the first, the one that is too many, and the step. 10:200:5, 100:, :50 "
        "or ::10.",
        metavar="START:STOP:STEP",
        rich_help_panel=_VIDEO,
        show_default="all",
    ),
]
TrackOption = Annotated[
    str | None,
    typer.Option(
        help="Follow the objects through a video: each has a number. botsort also follows the camera's own motion.",
        metavar="bytetrack|botsort",
        rich_help_panel=_VIDEO,
        show_default="none",
    ),
]


@dataclass(frozen=True)
class VideoPlan:
    """What is to be done to which videos.

    Attributes:
        videos, results: the videos, and the file that each becomes.
        output: where people are told to look.
        frames: numbers of the frames that are looked at.
        track: the tracker's name; None for none.
        confidence: of boxes that are shown, and begin a track.
        json_file: for the boxes; - is stdout.
    """

    videos: list[VideoSource]
    results: list[Path]
    output: Path
    frames: range
    track: str | None
    confidence: float
    json_file: str | None


def plan_videos(
    context: typer.Context,
    inputs: list[str],
    output: Path,
    frames: str | None,
    track: str | None,
    json_file: str | None,
) -> VideoPlan | None:
    """What the command line asks for, if it names videos; None if it names images.

    Raises:
        OptionsError: it asks for something that does not go with videos, or only with them; what is needed is
            not installed.
    """
    from hatdet.core.errors import OptionsError
    from hatdet.detection.tracking import check_tracker
    from hatdet.imaging.sources import Source, check_results
    from hatdet.imaging.video import check_pyav
    from hatdet.imaging.video_sources import KEPT_SUFFIXES, VIDEO_SUFFIXES, find_videos, video_paths

    videos = find_videos(inputs)
    if not videos:
        for option in given(context, {"frames", "track"}):
            raise OptionsError(f"{option} needs a video or a stream")
        return None
    for option in given(context, _FOR_IMAGES):
        raise OptionsError(
            f"{option} is for images: {videos[0].name} is a video (--json has its boxes, frame by frame)"
        )
    if track is not None:
        check_tracker(track)
    wanted = _frames(frames)
    check_pyav()
    if output.suffix.lower() in VIDEO_SUFFIXES - KEPT_SUFFIXES and not output.is_dir():
        raise OptionsError(f"{output} cannot be written: expected {' '.join(sorted(KEPT_SUFFIXES))}, or a folder")
    if output.suffix.lower() in KEPT_SUFFIXES and not output.is_dir():
        if len(videos) > 1:
            raise OptionsError(f"{output} is one file for {len(videos)} videos: give a folder with -o")
        results = [output]
    else:
        results = video_paths(videos, output)
    written = results if json_file in (None, "-") else [*results, writable_file(json_file, "--json")]
    check_results([Source(video.path, video.path) for video in videos if video.path is not None], written)
    return VideoPlan(videos, results, output, wanted, track, context.params["conf"], json_file)


def _frames(text: str | None) -> range:
    """What `--frames` says."""
    from hatdet.core.errors import OptionsError
    from hatdet.imaging.video import EVERY_FRAME

    if text is None:
        return EVERY_FRAME
    found = re.fullmatch(r"(\d*):(\d*)(?::(\d*))?", text.strip(), re.ASCII)
    start, stop, step = (int(part) if part else None for part in found.groups()) if found else (None, 0, None)
    wanted = range(start or 0, EVERY_FRAME.stop if stop is None else stop, 1 if step is None else max(step, 0) or 1)
    if not wanted or step == 0:
        raise OptionsError(f"--frames must be START:STOP:STEP, such as 10:200:5, 100: or ::10, got {text!r}")
    return wanted


class _Lines:
    """JSON Lines of what is found, for memory that does not grow: a header, then a line for each frame.

    A file is there when the run has ended, with what was found by then; stdout has each line at once.
    """

    def __init__(self, target: str | None, header: dict[str, Any]) -> None:
        self._target, self._header = target, header
        self.frames = 0  # that were found, whether or not they are written
        self._path: Path | None = None
        self._file: IO[str] | None = None

    @contextmanager
    def opened(self) -> Iterator[None]:
        from hatdet.core.atomic import written_whole
        from hatdet.core.errors import OptionsError

        if self._target in (None, "-"):
            yield
            return
        stopped: BaseException | None = None
        try:
            with written_whole(Path(str(self._target))) as self._path:
                try:
                    yield
                    self._begin()
                except BaseException as error:  # what was found so far is not lost
                    stopped = error
                finally:
                    if self._file is not None:
                        self._file.close()
        except OptionsError:
            if stopped is None:  # a second error does not hide the first
                raise
        if stopped is not None:
            raise stopped

    def add(self, line: dict[str, Any]) -> None:
        """Write the line of a frame.

        Raises:
            OptionsError: the place cannot be written.
            BrokenPipeError: nobody reads it.
        """
        from hatdet.core.errors import OptionsError

        self.frames += 1
        if self._target is None:
            return
        try:
            file = self._begin()
            file.write(json.dumps(line) + "\n")
            if self._target == "-":
                file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OptionsError(f"{self._target} cannot be written: {error.strerror or error}") from error

    def _begin(self) -> IO[str]:
        """The file, with its header."""
        if self._file is None:
            self._file = sys.stdout if self._path is None else self._path.open("w", encoding="ascii")
            self._file.write(json.dumps(self._header) + "\n")
        return self._file


class _Counts:
    """How many boxes, or objects if they are tracked, of which class; no more is kept of a frame."""

    def __init__(self, tracked: bool) -> None:
        self._tracked = tracked
        self._boxes: dict[str, int] = {}
        self._tracks: dict[int, str] = {}
        self.frames = 0

    def add(self, detections: Detections) -> None:
        self.frames += 1
        for detection in detections:
            self._boxes[detection.class_name] = self._boxes.get(detection.class_name, 0) + 1
            if detection.track_id is not None:
                self._tracks.setdefault(detection.track_id, detection.class_name)

    def __str__(self) -> str:
        counts = Counter(self._tracks.values()) if self._tracked else self._boxes
        found = ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
        return f"{self.frames} frames, {'objects' if self._tracked else 'boxes'}: {found}"


@dataclass(frozen=True, eq=False)
class _Looked:
    """A frame that was looked at: what is drawn and written of it. No tensor is kept until then."""

    seen: Pixels
    scale: float
    detections: Detections
    report: dict[str, Any]


def detect_in_videos(
    session: Session,
    plan: VideoPlan,
    chain: Chain,
    max_pixels: int,
    on_error: str,
) -> None:
    """Look at each video, write it with its boxes, and say what was found."""
    from hatdet.cli.detect_results import JSON_SCHEMA
    from hatdet.detection.tracking import LOWEST_CONFIDENCE

    started = time.perf_counter()
    name = chain.detector.name
    if plan.track is not None:
        chain = chain.at_least(min(plan.confidence, LOWEST_CONFIDENCE))
    header = {"schema": JSON_SCHEMA, "upscaler": chain.upscaled_by, "detector": name, "tracker": plan.track}
    lines = _Lines(plan.json_file, header)
    with lines.opened():
        for video, result in zip(plan.videos, plan.results, strict=True):
            line = ""
            with session.one(video.name):
                line = _detect_in_video(session, plan, video, result, chain, max_pixels, lines)
            if line and plan.json_file != "-":
                session.result(line)
            if session.failed and on_error == "stop":
                break
    session.finish(started, plan.output, lines.frames)


def _detect_in_video(
    session: Session,
    plan: VideoPlan,
    source: VideoSource,
    result: Path,
    chain: Chain,
    max_pixels: int,
    lines: _Lines,
) -> str:
    """Write one video with its boxes, and its lines; what was found, for people.

    Frames are read, looked at and written one after the other, so that a few are in memory, however long the video. A
    stream that ends, by itself or by an interruption, leaves what came until then. Of a file that is interrupted
    nothing is written.
    """
    from hatdet.cli.detect_results import detections_report, share_report, timing_report
    from hatdet.cli.overlap import overlapped
    from hatdet.core.atomic import written_whole
    from hatdet.core.errors import InputError
    from hatdet.detection.tracking import Tracker
    from hatdet.imaging.drawing import with_boxes
    from hatdet.imaging.files import to_array
    from hatdet.imaging.video import Video, newest
    from hatdet.imaging.video_writer import VideoWriter

    tracker = None if plan.track is None else Tracker(plan.track, plan.confidence)
    counts = _Counts(tracker is not None)
    interrupted = False

    def read(frame: Frame) -> tuple[Image, float]:
        began = time.perf_counter()
        image = frame.image()
        return image, frame.read_ms + (time.perf_counter() - began) * 1e3

    def looked_at(frame: Frame, image_and_time: tuple[Image, float]) -> _Looked:
        session.begin()
        image, read_ms = image_and_time
        try:
            found, upscaled_by = chain.run(image)
        except InputError as error:
            raise InputError(f"{source.name}, frame {frame.number}: {error}") from error
        detections = found.detections if tracker is None else tracker(found.detections, image)
        report = {
            "source": source.name,
            "frame": frame.number,
            "seconds": round(float(frame.seconds), 6),
            "width": image.width,
            "height": image.height,
            "detections": detections_report(detections),
            "upscaled_by": upscaled_by,
            "upscaled_share": share_report(found.share),
            "timing_ms": timing_report({"read": read_ms, "upscale": found.upscale_ms, "detect": found.detect_ms}),
        }
        return _Looked(to_array(found.seen), found.seen.scale, detections, report)

    with (
        Video(source, max_pixels) as video,
        written_whole(result) as temporary,
        VideoWriter(temporary, result, video, plan.frames.start == 0) as writer,
    ):

        def written(frame: Frame, looked: _Looked) -> None:
            writer.write(frame, with_boxes(looked.seen, looked.detections, looked.scale))
            lines.add(looked.report)
            counts.add(looked.detections)

        frames = video.frames(plan.frames)
        if source.live:
            frames = newest(frames)
        try:
            with closing(frames), closing(overlapped(frames, read, looked_at, written)) as running:
                what, total = f"detecting {source.name}", _total(plan.frames, video.count)
                for _, finish in session.over(running, what, total, "frames"):
                    finish()
        except KeyboardInterrupt:
            if not source.stream or not writer.frames:
                raise
            interrupted = True
        writer.finish()
    if interrupted:
        session.say(f"{source.name}: {counts} -> {result}")
        raise KeyboardInterrupt
    if video.broken or video.damaged:
        trouble = video.broken or f"{video.damaged} packets of it are damaged"
        raise InputError(f"{source.name}: {trouble}; the {writer.frames} frames that could be used are in {result}")
    return f"{source.name}: {counts} -> {result}"


def _total(wanted: range, count: int | None) -> int | None:
    """How many frames will come, as far as one knows."""
    stop = wanted.stop if count is None else min(wanted.stop, count)
    return None if stop == sys.maxsize else len(range(wanted.start, stop, wanted.step))
