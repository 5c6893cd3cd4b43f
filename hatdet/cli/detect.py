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
from hatdet.cli.fleet import RayCoresOption, RayOption, RayWorkersOption
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
    from hatdet.cli.detect_results import Job, ReportFiles
    from hatdet.cli.detect_steps import DetectingSteps
    from hatdet.cli.fleet import Results
    from hatdet.cli.session import Session
    from hatdet.cli.steps import Done, ImageWork
    from hatdet.deploy.fleet import Fleet
    from hatdet.imaging.sources import Source
    from hatdet.runs.manifest import Record

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
_NOT_BY_SEVERAL = "several workers take images: videos and --budget need one --device, and no --ray"


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
    ray: RayOption = None,
    ray_workers: RayWorkersOption = None,
    ray_cores: RayCoresOption = 1,
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
        from hatdet.cli.detect_chain import Enlarging, Looking
        from hatdet.cli.detect_regions import check_regions
        from hatdet.cli.detect_results import ReportFiles, planned
        from hatdet.cli.detect_slices import Slicing
        from hatdet.cli.detect_steps import DetectingSteps, Finding
        from hatdet.cli.detect_video import detect_in_videos, plan_videos
        from hatdet.cli.fleet import Results, chosen_fleet, device_of, joined, record_of, refuse_urls, settings_of
        from hatdet.cli.resumable import check_on_error
        from hatdet.cli.steps import ImageWork
        from hatdet.core.errors import OptionsError

        if geojson is not None:
            from hatdet.imaging.map_coordinates import require_rasterio

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
        fleet = chosen_fleet(device, ray, ray_workers, ray_cores)
        if fleet is not None and budget is not None:
            raise OptionsError(_NOT_BY_SEVERAL)
        where = Results(output)
        refuse_urls(inputs or [], where, fleet)
        with joined(fleet):
            from hatdet.imaging.files import MAX_PIXELS

            max_pixels = max_pixels or MAX_PIXELS
            plan = plan_videos(context, inputs or [], output, frames, track, json_file)
            if fleet is not None and plan is not None:
                raise OptionsError(_NOT_BY_SEVERAL)
            jobs: list[Job] = []
            sources: list[Source] = []
            if plan is None:
                sources, reports = _sources(session, inputs, where), files.places()
                jobs = planned(sources, output, labels=save_txt, larger=save_sr, crops=save_crop, reports=reports)
            finding = Finding(enlarging if upscale else None, looking, engine, precision, max_pixels)
            chain = finding.chain(session, device_of(device, fleet))
            started = time.perf_counter()
            try:
                if plan is not None:
                    detect_in_videos(session, plan, chain, max_pixels, on_error)
                    return
                settings = settings_of(chain.settings, fleet, precision)
                manifest = record_of(fleet, where, settings, sources)
                steps = DetectingSteps(session, chain, max_pixels)
                images = _Run(session, steps, files, manifest, where)
                work = ImageWork(finding, output, where.store)
                images.over(jobs, work, fleet, overwrite=overwrite, stop=on_error == "stop")
                session.finish(started, where.name(output))
            finally:
                if chain.budget is not None and (line := chain.budget.keeping.line()):
                    session.say(line)


def _sources(session: Session, inputs: Sequence[str] | None, where: Results) -> list[Source]:
    """The images that are named; without any, samples that are written for the purpose."""
    from hatdet.imaging.sample_photos import SAMPLE_REDUCTION, write_samples
    from hatdet.imaging.sources import find_sources
    from hatdet.runs.inputs import sources_of

    if inputs:
        return sources_of(inputs, [where.output, *RESULTS], where.store)
    folder = (RESULTS[1] if where.store else where.output) / "samples"
    sources = find_sources(write_samples(folder))
    session.say(f"no input given: two sample photos reduced {SAMPLE_REDUCTION} times, in {folder}")
    return sources


class _Run:
    """The loop over the images, and what is remembered of them."""

    def __init__(
        self, session: Session, steps: DetectingSteps, files: ReportFiles, manifest: Record, where: Results
    ) -> None:
        self.session, self.steps, self.files, self.manifest, self.where = session, steps, files, manifest, where
        self.reports: dict[Path, Any] = {}  # of this run, and of those before it

    def over(self, jobs: Sequence[Job], work: ImageWork, fleet: Fleet | None, *, overwrite: bool, stop: bool) -> None:
        """Do those that no earlier run has done (all, to overwrite), up to the first that fails if it is to `stop`."""
        from hatdet.cli.fleet import over
        from hatdet.cli.resumable import say_what_was_done, says_what_remains
        from hatdet.core.errors import OptionsError

        session = self.session
        with self.manifest:
            left = jobs if overwrite else [job for job in jobs if not self.done_before(job)]
            say_what_was_done(session, self.manifest, len(jobs) - len(left), len(jobs))
            try:
                # Closed before the manifest is: what was begun to be written is put into it.
                with (
                    says_what_remains(session, left) as stopping,
                    closing(over(left, self.steps, self.keep, fleet, work, stopping)) as running,
                ):
                    for job, finish in session.over(running, "detecting", len(left)):
                        line = ""
                        with session.one(job.source.name):
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
        self.remember(job, {**before, "source": job.source.name})
        return True

    def remember(self, job: Job, report: dict[str, Any]) -> None:
        """Hold a report until all are written; of a million images only if they are."""
        if self.files.wanted:
            self.reports[job.source.path] = report

    def keep(self, job: Job, done: Done) -> str:
        """Remember an image whose results are written; the line that says so."""
        from hatdet.cli.fleet import put

        self.remember(job, done.report)
        if job.crops is not None:  # of other settings there may have been more
            for crop in {*self.manifest.files_of(job.picture)} - {*done.files}:
                if job.crops in crop.parents and ".." not in crop.parts:
                    self.where.remove(crop)
        put(self.manifest, job.source.path, done)
        return f"{job.source.name}: {done.text} -> {self.where.name(job.picture)}"

    def report(self, jobs: Sequence[Job]) -> None:
        """The files about all images."""
        from hatdet.cli.detect_results import write_reports

        images = [self.reports[job.source.path] for job in jobs if job.source.path in self.reports]
        write_reports(images, self.steps.chain, self.files, self.session)
