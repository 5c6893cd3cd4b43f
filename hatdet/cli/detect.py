"""`hatdet detect`: images in, boxes out, in the coordinates of the images."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hatdet.cli.detect_video import FramesOption, TrackOption
from hatdet.cli.options import (
    RESULTS,
    BatchOption,
    DebugOption,
    DeviceOption,
    EngineOption,
    MaxPixelsOption,
    OnErrorOption,
    OverlapOption,
    OverwriteOption,
    PrecisionOption,
    QuietOption,
    ScaleOption,
    TileOrAutoOption,
    UpscalerOption,
    refuse_beside_engine,
    tile_or_auto,
    writable_file,
)

if TYPE_CHECKING:
    from hatdet.cli.session import Session
    from hatdet.core.types import Detections, Detector, Image, Upscaler
    from hatdet.imaging.files import Pixels
    from hatdet.imaging.sources import Source

    Job = tuple[Source, Path, Path, Path]  # and where its picture, its labels and its upscaled image go

__all__ = ["JSON_SCHEMA", "detections_report", "run", "timing_report"]

_BOXES = "Detection"
_FILES = "Results"
# Options that an exported file leaves nothing to decide for.
_DECIDED_BY_UPSCALER = ("upscaler", "scale", "tile")
_DECIDED_BY_CHAIN = (
    *_DECIDED_BY_UPSCALER,
    *("overlap", "batch", "weights", "conf", "iou", "classes", "max_det", "imgsz"),
)
JSON_SCHEMA = 1


@dataclass(frozen=True, eq=False)
class _Found:
    """What there is to write of one image: no tensor of it is kept until then.

    Attributes:
        source: the image, `(h, w, 3)`.
        seen: what the detector saw; None where that was the image itself.
        detections: in source coordinates.
        milliseconds: of each step; None for one that was not taken.
    """

    source: Pixels
    seen: Pixels | None
    detections: Detections
    milliseconds: Mapping[str, float | None]

    @property
    def width(self) -> int:
        return int(self.source.shape[1])

    @property
    def height(self) -> int:
        return int(self.source.shape[0])


def run(
    context: typer.Context,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Images, folders (searched recursively) and globs; or videos and streams: clip.mp4, rtsp://..., "
            "http://..., 0 for the first camera. Without any: two low-resolution samples.",
            metavar="[INPUT...]",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for the results; for one video also its file, out.mp4.")
    ] = RESULTS[1],
    upscale: Annotated[bool, typer.Option("--upscale", help="Upscale before detecting.")] = False,
    upscaler: UpscalerOption = "hat-xs",
    scale: ScaleOption = 4,
    tile: TileOrAutoOption = "256",
    overlap: OverlapOption = 32,
    batch: BatchOption = None,
    engine: EngineOption = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="The detector: an Ultralytics detection model by name (yolo11s) or file (.pt, .safetensors).",
            rich_help_panel=_BOXES,
            show_default="the embedded yolo11n-upscaled",
        ),
    ] = None,
    conf: Annotated[float, typer.Option(help="Least confidence of a box.", rich_help_panel=_BOXES)] = 0.25,
    iou: Annotated[
        float,
        typer.Option(help="Boxes of one class that overlap by more are one object (NMS).", rich_help_panel=_BOXES),
    ] = 0.7,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Classes to look for, by name or id: person,bus or 0,5.", rich_help_panel=_BOXES, show_default="all"
        ),
    ] = None,
    max_det: Annotated[int, typer.Option(help="Most boxes of one image.", rich_help_panel=_BOXES)] = 300,
    imgsz: Annotated[
        int | None,
        typer.Option(
            help="Long side of the detector's input.",
            rich_help_panel=_BOXES,
            show_default="640; with --upscale the upscaled side, at most 2560",
        ),
    ] = None,
    frames: FramesOption = None,
    track: TrackOption = None,
    json_file: Annotated[
        str | None,
        typer.Option(
            "--json",
            help="Write all boxes to this file; - is stdout. Of videos a line for each frame.",
            metavar="FILE",
            rich_help_panel=_FILES,
        ),
    ] = None,
    save_txt: Annotated[
        bool, typer.Option("--save-txt", help="Write labels/*.txt in YOLO's format.", rich_help_panel=_FILES)
    ] = False,
    save_sr: Annotated[
        bool, typer.Option("--save-sr", help="Write the upscaled images to sr/.", rich_help_panel=_FILES)
    ] = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    max_pixels: MaxPixelsOption = None,
    overwrite: OverwriteOption = False,
    on_error: OnErrorOption = "skip",
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Find objects; with --upscale in images that are too small to see them in.

    Boxes are in pixels of the images as they were given. Every image gets a picture: the source with its boxes and,
    beside it, what the detector saw. A video becomes a video of what the detector saw, with its boxes, its times and
    its sound.

    A run over images that was broken off goes on where it was when the same command is given again.

    Examples: `hatdet detect --upscale` · `hatdet detect --upscale street/ -o out/ --json boxes.json --save-txt` ·
    `hatdet detect --upscale clip.mp4 -o out.mp4 --track bytetrack --json boxes.jsonl`
    """
    from hatdet.cli.session import Session, guarded

    with guarded(debug), Session(quiet, debug) as session:
        from hatdet.cli.detect_video import detect_in_videos, plan_videos
        from hatdet.cli.overlap import overlapped
        from hatdet.cli.resumable import check_on_error, detected_by, made_by, say_what_was_done, says_what_remains
        from hatdet.cli.weights import download_progress, engine_with_progress, upscaler_with_progress
        from hatdet.core.errors import InputError, OptionsError
        from hatdet.detection.chain import run_chain
        from hatdet.detection.yolo import load_detector
        from hatdet.imaging.drawing import side_by_side, with_boxes
        from hatdet.imaging.files import MAX_PIXELS, read_image, to_array, write_array
        from hatdet.imaging.sample_photos import SAMPLE_REDUCTION, write_samples
        from hatdet.imaging.sources import check_results, find_sources, result_paths
        from hatdet.runs.manifest import Manifest, state_of

        check_on_error(on_error)
        side = tile_or_auto(tile)
        if save_sr and not upscale:
            raise OptionsError("--save-sr writes upscaled images: it needs --upscale")
        refuse_beside_engine(context, _DECIDED_BY_UPSCALER if upscale else _DECIDED_BY_CHAIN, engine)
        plan = plan_videos(context, inputs or [], output, frames, track, json_file)
        if plan is not None:
            sources = []
        elif inputs:
            sources = find_sources(inputs, leave_out=[output, *RESULTS])
        else:
            sources = find_sources(write_samples(output / "samples"))
            session.say(f"no input given: two sample photos reduced {SAMPLE_REDUCTION} times, in {output / 'samples'}")
        pictures = result_paths(sources, output)
        labels = result_paths(sources, output / "labels", ".txt")
        larger = result_paths(sources, output / "sr")
        results = [*pictures, *(labels if save_txt else ()), *(larger if save_sr else ())]
        check_results(sources, results if json_file in (None, "-") else [*results, writable_file(json_file, "--json")])
        enlarge: Upscaler | None = None
        detector: Detector
        if engine is not None and not upscale:
            from hatdet.deploy.engines import ChainEngine, load_engine

            detector = ChainEngine(load_engine(engine, device=device, precision=precision))
            upscaled_by: str | None = detector.card.upscaler
        else:
            if engine is not None:
                enlarge = engine_with_progress(session, engine, device, precision, overlap, batch)
            elif upscale:
                enlarge = upscaler_with_progress(session, upscaler, scale, device, precision, side, overlap, batch)
            upscaled_by = enlarge.name if enlarge is not None else None
            with download_progress(session, str(weights)) as on_fetch:
                detector = load_detector(
                    weights,
                    confidence=conf,
                    iou=iou,
                    max_detections=max_det,
                    classes=[name.strip() for name in classes.split(",")] if classes else None,
                    imgsz=imgsz,
                    device=device,
                    on_fetch=on_fetch,
                )

        if plan is not None:
            detect_in_videos(session, plan, enlarge, detector, max_pixels, on_error)
            return
        started = time.perf_counter()
        reports: dict[Path, Any] = {}  # of this run, and of those before it
        states: dict[Path, str] = {}

        def read(job: Job) -> tuple[Image, float]:
            states[job[0].path] = state_of(job[0].path)
            began = time.perf_counter()
            image = read_image(job[0].path, max_pixels or MAX_PIXELS)
            return image, (time.perf_counter() - began) * 1e3

        def detected(job: Job, image_and_time: tuple[Image, float]) -> _Found:
            session.begin()
            image, read_ms = image_and_time
            try:
                result = run_chain(image, enlarge, detector)
            except InputError as error:
                raise InputError(f"{job[0].path}: {error}") from error
            timing = {"read": read_ms, "upscale": result.upscale_ms, "detect": result.detect_ms}
            return _Found(
                to_array(image), to_array(result.seen) if enlarge is not None else None, result.detections, timing
            )

        def written(job: Job, found: _Found) -> str:
            source, picture, label, sr_file = job
            if found.seen is None:
                drawn = with_boxes(found.source, found.detections)
            else:
                drawn = side_by_side(found.source, found.seen, found.detections, upscaled_by or "")
            if save_sr and found.seen is not None:
                write_array(found.seen, sr_file)
            if save_txt:
                _write_labels(found, label)
            write_array(drawn, picture, drawn=True)
            reports[source.path] = _image_report(source.path, found)
            manifest.put(source.path, states.pop(source.path), picture, others(job), reports[source.path])
            return f"{source.path}: {_summary(found.detections)} -> {picture}"

        def others(job: Job) -> list[Path]:
            """What is written of an image besides its picture."""
            return [*([job[2]] if save_txt else []), *([job[3]] if save_sr else [])]

        def write_report() -> None:
            if json_file is not None:
                images = [reports[source.path] for source in sources if source.path in reports]
                header = {"schema": JSON_SCHEMA, "upscaler": upscaled_by, "detector": detector.name}
                _write_json({**header, "images": images}, json_file, session)

        settings = {"verb": "detect", **detected_by(detector, weights, engine)}
        settings |= {} if enlarge is None else made_by(enlarge, upscaler, scale, engine)
        with Manifest(output, settings) as manifest:
            left = []
            for job in zip(sources, pictures, labels, larger, strict=True):
                before = None if overwrite else manifest.done(job[0].path, job[1], others(job))
                if before is None:
                    left.append(job)
                else:
                    reports[job[0].path] = {**before, "source": str(job[0].path)}
            say_what_was_done(session, manifest, len(reports), len(sources))
            try:
                # Closed before the manifest is: what was begun to be written is put into it.
                with says_what_remains(session, left), closing(overlapped(left, read, detected, written)) as running:
                    for job, finish in session.over(running, "detecting", len(left)):
                        line = ""
                        with session.one(job[0].path):
                            line = finish()
                        if line and json_file != "-":
                            session.result(line)
                        if session.failed and on_error == "stop":
                            break
            except BaseException:
                # Interrupted: what was found so far is not lost, and a second error does not hide the first.
                if reports:
                    with contextlib.suppress(OptionsError, BrokenPipeError):
                        write_report()
                raise
        write_report()
        session.finish(started, output)


def _summary(detections: Detections) -> str:
    counts: dict[str, int] = {}
    for detection in detections:
        counts[detection.class_name] = counts.get(detection.class_name, 0) + 1
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"


def _image_report(source: Path, found: _Found) -> dict[str, Any]:
    return {
        "source": str(source),
        "width": found.width,
        "height": found.height,
        "detections": detections_report(found.detections),
        "timing_ms": timing_report(found.milliseconds),
    }


def detections_report(detections: Detections) -> list[dict[str, Any]]:
    """The objects of an image or a frame, as they stand in JSON."""
    return [
        {
            "xyxy": [round(edge, 3) for edge in detection.xyxy],
            "confidence": round(detection.confidence, 5),
            "class_id": detection.class_id,
            "class_name": detection.class_name,
            "track_id": detection.track_id,
        }
        for detection in detections
    ]


def timing_report(milliseconds: Mapping[str, float | None]) -> dict[str, float | None]:
    """What each step took, as it stands in JSON."""
    return {step: None if took is None else round(took, 3) for step, took in milliseconds.items()}


def _write_labels(found: _Found, path: Path) -> None:
    """YOLO's format: class, centre and size as shares of the source image."""
    from hatdet.core.atomic import write_text

    lines = []
    for detection in found.detections:
        x1, y1, x2, y2 = detection.xyxy
        w, h = found.width, found.height
        numbers = ((x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h)
        lines.append(" ".join([str(detection.class_id), *(f"{number:.6f}" for number in numbers)]) + "\n")
    write_text(path, "".join(lines))


def _write_json(report: Mapping[str, Any], file: str, session: Session) -> None:
    from hatdet.core.atomic import write_text

    text = json.dumps(report, indent=1) + "\n"  # in ASCII: a file's name need not fit the terminal's encoding
    if file == "-":
        sys.stdout.write(text)
    else:
        write_text(Path(file), text)
        session.say(f"boxes in {file}")
