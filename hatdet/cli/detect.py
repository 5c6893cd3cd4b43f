"""`hatdet detect`: images in, boxes out, in the coordinates of the images."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hatdet.cli.detect_budget import BudgetOption
from hatdet.cli.detect_regions import MaxShareOption, RegionsOption
from hatdet.cli.detect_slices import MergeOption, SliceOption, SliceOverlapOption
from hatdet.cli.detect_video import FramesOption, TrackOption
from hatdet.cli.geojson import GeoJsonOption
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
    TrustOption,
    UpscalerOption,
    given,
    refuse_beside_engine,
    tile_or_auto,
)

if TYPE_CHECKING:
    from hatdet.cli.detect_chain import Chain
    from hatdet.cli.detect_results import Found, Job, ReportFiles
    from hatdet.cli.session import Session
    from hatdet.core.types import Image
    from hatdet.imaging.sources import Source
    from hatdet.imaging.windows import Windows

__all__ = ["run"]

_BOXES = "Detection"
_FILES = "Results"
# Options that an exported file leaves nothing to decide for.
_DECIDED_BY_UPSCALER = ("upscaler", "scale", "tile")
_DECIDED_BY_CHAIN = (
    *_DECIDED_BY_UPSCALER,
    *("overlap", "batch", "weights", "conf", "iou", "classes", "max_det", "imgsz"),
    *("slice_size", "slice_overlap", "merge"),
)


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
    regions: RegionsOption = None,
    max_share: MaxShareOption = None,
    budget: BudgetOption = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="The detector: an Ultralytics model by name (yolo11s) or file (.pt, .safetensors), for boxes, "
            "oriented boxes (-obb), masks (-seg) or keypoints (-pose).",
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
    slice_size: SliceOption = None,
    slice_overlap: SliceOverlapOption = 0.2,
    merge: MergeOption = "nms",
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
    geojson: GeoJsonOption = None,
    save_txt: Annotated[
        bool, typer.Option("--save-txt", help="Write labels/*.txt in Ultralytics' format.", rich_help_panel=_FILES)
    ] = False,
    coco: Annotated[
        str | None,
        typer.Option(
            help="Write all boxes as COCO's JSON: images, categories, and annotations with a score.",
            metavar="FILE",
            rich_help_panel=_FILES,
        ),
    ] = None,
    csv: Annotated[
        str | None,
        typer.Option(help="Write all boxes as a table, a line for each.", metavar="FILE", rich_help_panel=_FILES),
    ] = None,
    save_crop: Annotated[
        bool,
        typer.Option(
            "--save-crop", help="Write each object, cut out of the image, to crops/<class>/.", rich_help_panel=_FILES
        ),
    ] = False,
    save_sr: Annotated[
        bool, typer.Option("--save-sr", help="Write the upscaled images to sr/.", rich_help_panel=_FILES)
    ] = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    max_pixels: MaxPixelsOption = None,
    overwrite: OverwriteOption = False,
    on_error: OnErrorOption = "skip",
    trust: TrustOption = False,
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
        from hatdet.cli.detect_budget import checked_budget
        from hatdet.cli.detect_chain import Enlarging, Looking, load_chain
        from hatdet.cli.detect_regions import check_regions
        from hatdet.cli.detect_results import ReportFiles, planned
        from hatdet.cli.detect_slices import Slicing
        from hatdet.cli.detect_video import detect_in_videos, plan_videos
        from hatdet.cli.resumable import check_on_error
        from hatdet.core.errors import OptionsError
        from hatdet.imaging.files import MAX_PIXELS
        from hatdet.imaging.map_coordinates import require_rasterio

        if geojson is not None:
            require_rasterio()
        check_on_error(on_error)
        check_regions(upscale, regions, max_share, budget)
        enlarging = Enlarging(
            upscaler,
            scale,
            tile_or_auto(tile),
            overlap,
            batch,
            regions is not None,
            max_share,
            checked_budget(budget, upscale, engine, slice_size),
            bool(given(context, ["upscaler"])),
        )
        slicing = Slicing(slice_size, slice_overlap, merge)
        looking = Looking(weights, conf, iou, max_det, classes, imgsz, trust, slicing)
        if save_sr and not upscale:
            raise OptionsError("--save-sr writes upscaled images: it needs --upscale")
        refuse_beside_engine(context, _DECIDED_BY_UPSCALER if upscale else _DECIDED_BY_CHAIN, engine)
        files = ReportFiles(json_file, coco, csv, geojson)
        plan = plan_videos(context, inputs or [], output, frames, track, json_file)
        jobs: list[Job] = []
        if plan is None:
            sources = _sources(session, inputs, output)
            jobs = planned(sources, output, labels=save_txt, larger=save_sr, crops=save_crop, reports=files.places())
        chain = load_chain(session, enlarging if upscale else None, looking, engine, device, precision)

        started = time.perf_counter()
        try:
            if plan is not None:
                detect_in_videos(session, plan, chain, max_pixels or MAX_PIXELS, on_error)
                return
            images = _Run(session, chain, output, max_pixels or MAX_PIXELS, files)
            images.over(jobs, overwrite=overwrite, stop=on_error == "stop")
            session.finish(started, output)
        finally:
            if chain.budget is not None and (line := chain.budget.keeping.line()):
                session.say(line)


def _sources(session: Session, inputs: Sequence[str] | None, output: Path) -> list[Source]:
    """The images that are named; without any, samples that are written for the purpose."""
    from hatdet.imaging.sample_photos import SAMPLE_REDUCTION, write_samples
    from hatdet.imaging.sources import find_sources

    if inputs:
        return find_sources(inputs, leave_out=[output, *RESULTS])
    sources = find_sources(write_samples(output / "samples"))
    session.say(f"no input given: two sample photos reduced {SAMPLE_REDUCTION} times, in {output / 'samples'}")
    return sources


class _Run:
    """Images through the chain, and their results to files: three steps for each, and the loop over them."""

    def __init__(self, session: Session, chain: Chain, output: Path, max_pixels: int, files: ReportFiles) -> None:
        from hatdet.runs.manifest import Manifest

        self.session, self.chain, self.max_pixels, self.files = session, chain, max_pixels, files
        self.manifest = Manifest(output, chain.settings)
        self.reports: dict[Path, Any] = {}  # of this run, and of those before it
        self.states: dict[Path, str] = {}

    def over(self, jobs: Sequence[Job], *, overwrite: bool, stop: bool) -> None:
        """Do those that no earlier run has done (all, to overwrite), up to the first that fails if it is to `stop`."""
        from hatdet.cli.overlap import overlapped
        from hatdet.cli.resumable import say_what_was_done, says_what_remains
        from hatdet.core.errors import OptionsError

        session = self.session
        with self.manifest:
            left = jobs if overwrite else [job for job in jobs if not self.done_before(job)]
            say_what_was_done(session, self.manifest, len(self.reports), len(jobs))
            try:
                # Closed before the manifest is: what was begun to be written is put into it.
                with (
                    says_what_remains(session, left) as stopping,
                    closing(overlapped(left, self.read, self.detect, self.write, stopping)) as running,
                ):
                    for job, finish in session.over(running, "detecting", len(left)):
                        line = ""
                        with session.one(job.source.path):
                            line = finish()
                        if line and self.files.json != "-":
                            session.result(line)
                        if session.failed and stop:
                            break
            except BaseException:
                # Interrupted: what was found so far is not lost, and a second error does not hide the first.
                if self.reports:
                    with contextlib.suppress(OptionsError, BrokenPipeError):
                        self.report(jobs)
                raise
        self.report(jobs)

    def done_before(self, job: Job) -> bool:
        """Whether an earlier run has done it; its report is taken over."""
        before = self.manifest.done(job.source.path, job.picture, job.others)
        if before is None or (job.crops is not None and any(one["crop"] is None for one in before["detections"])):
            return False
        self.reports[job.source.path] = {**before, "source": str(job.source.path)}
        return True

    def read(self, job: Job) -> tuple[Image | Windows, float]:
        """The image, or windows of a huge one, and the milliseconds that it took."""
        from hatdet.cli.huge import open_or_read
        from hatdet.runs.manifest import state_of

        self.states[job.source.path] = state_of(job.source.path)
        began = time.perf_counter()
        image = open_or_read(job.source.path, self.max_pixels, self.chain.enlarge)
        return image, (time.perf_counter() - began) * 1e3

    def detect(self, job: Job, image_and_time: tuple[Image | Windows, float]) -> Found:
        """What is in the image."""
        from hatdet.cli.detect_results import Found
        from hatdet.core.errors import InputError
        from hatdet.core.types import Image
        from hatdet.imaging.files import to_array

        self.session.begin()
        image, read_ms = image_and_time
        if not isinstance(image, Image):
            return self.detect_in_windows(job, image, read_ms)
        try:
            result, upscaled_by = self.chain.run(image)
        except InputError as error:
            raise InputError(f"{job.source.path}: {error}") from error
        timing = {"read": read_ms, "upscale": result.upscale_ms, "detect": result.detect_ms}
        seen = None if result.upscale_ms is None else to_array(result.seen)
        share = result.share
        return Found(to_array(image), seen, result.detections, timing, share=share, upscaled_by=upscaled_by)

    def detect_in_windows(self, job: Job, image: Windows, read_ms: float) -> Found:
        """What is in a huge image; its crops are written here, while it is open."""
        from hatdet.cli.detect_crops import write_crops_of_windows
        from hatdet.cli.detect_results import Found
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

    def write(self, job: Job, found: Found) -> str:
        """Its files; the line that says so."""
        from hatdet.cli.detect_results import image_report, summary, write_results

        path = job.source.path
        write_results(job, found, found.upscaled_by)
        self.reports[path] = image_report(job, found)
        crops = job.crops_of(found.detections)
        if job.crops is not None:  # of other settings there may have been more
            for crop in {*self.manifest.files_of(job.picture)} - {*crops}:
                if job.crops in crop.parents and ".." not in crop.parts:
                    crop.unlink(missing_ok=True)
        self.manifest.put(path, self.states.pop(path), job.picture, [*job.others, *crops], self.reports[path])
        part = "" if found.share in (None, 1) else f" ({100 * found.share:.0f} % upscaled)"
        return f"{path}: {summary(found.detections)}{part} -> {job.picture}"

    def report(self, jobs: Sequence[Job]) -> None:
        """The files about all images."""
        from hatdet.cli.detect_results import write_reports

        images = [self.reports[job.source.path] for job in jobs if job.source.path in self.reports]
        write_reports(images, self.chain, self.files, self.session)
