"""`hatdet sr`: images in, larger images out."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from hatdet.cli.fleet import RayCoresOption, RayOption, RayWorkersOption
from hatdet.cli.options import (
    RESULTS,
    BatchOption,
    DebugOption,
    DeviceOption,
    EngineOption,
    MaxPixelsOption,
    OnErrorOption,
    OutputOption,
    OverlapOption,
    OverwriteOption,
    PrecisionOption,
    QuietOption,
    ScaleOption,
    TileOrAutoOption,
    UpscalerOption,
    refuse_beside_engine,
    tile_or_auto,
)

if TYPE_CHECKING:
    from hatdet.cli.steps import Done

__all__ = ["run"]

_ENGINE = "Super-resolution"
_FILES = "Results"
_LARGEST_OUTSCALE = 32


def run(
    context: typer.Context,
    inputs: Annotated[
        list[str], typer.Argument(help="Images, folders (searched recursively) and globs.", metavar="INPUT...")
    ],
    output: OutputOption = RESULTS[0],
    scale: ScaleOption = 4,
    upscaler: UpscalerOption = "hat-xs",
    outscale: Annotated[
        float | None,
        typer.Option(
            help="How many times larger in the end: what --scale made is resized bicubically. 3.5, for example.",
            metavar="N",
            rich_help_panel=_ENGINE,
            show_default="--scale",
        ),
    ] = None,
    ensemble: Annotated[
        bool,
        typer.Option(
            "--ensemble",
            help="Ask the network about each tile in all 8 turns and mirrorings, and take the mean: 8 times slower.",
            rich_help_panel=_ENGINE,
        ),
    ] = False,
    tile: TileOrAutoOption = "256",
    overlap: OverlapOption = 32,
    batch: BatchOption = None,
    engine: EngineOption = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="png, jpg, webp, tiff, bmp, jp2 or avif. PNG and TIFF keep 16 bits, TIFF a place on the map too; what "
            "a format cannot keep is said.",
            metavar="FORMAT",
            rich_help_panel=_FILES,
        ),
    ] = "png",
    quality: Annotated[
        int | None,
        typer.Option(
            help="Of jpg, webp and avif: 100 loses least.",
            min=1,
            max=100,
            rich_help_panel=_FILES,
            show_default="95; avif 90",
        ),
    ] = None,
    device: DeviceOption = "auto",
    ray: RayOption = None,
    ray_workers: RayWorkersOption = None,
    ray_cores: RayCoresOption = 1,
    precision: PrecisionOption = "auto",
    max_pixels: MaxPixelsOption = None,
    overwrite: OverwriteOption = False,
    on_error: OnErrorOption = "skip",
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Upscale images by super-resolution. Results are PNG files, unless --format says otherwise; the tree of a given
    folder is kept. So are 16 bits, grey, transparency, EXIF and colour profiles.

    A run that was broken off goes on where it was when the same command is given again.

    Examples: `hatdet sr --scale 4 input/` · `hatdet sr photo.jpg -o out/ --upscaler hat` · `hatdet sr "in/**/*.png"` ·
    `hatdet sr mosaic.tif --format tiff` · `hatdet sr s3://survey/tiles -o s3://survey/x4 --ray`
    """
    from hatdet.cli.session import Session, guarded

    with guarded(debug), Session(quiet, debug) as session:
        from hatdet.cli.fleet import (
            Results,
            chosen_fleet,
            device_of,
            joined,
            over,
            put,
            record_of,
            refuse_urls,
            settings_of,
        )
        from hatdet.cli.resumable import check_on_error, say_what_was_done, says_what_remains
        from hatdet.cli.sr_steps import Making, Upscaling, UpscalingJob
        from hatdet.cli.steps import ImageWork
        from hatdet.core.errors import OptionsError

        if outscale is not None and not 0 < outscale <= _LARGEST_OUTSCALE:
            raise OptionsError(f"--outscale must be above 0 and at most {_LARGEST_OUTSCALE}, got {outscale:g}")
        check_on_error(on_error)
        refuse_beside_engine(context, ("upscaler", "scale", "tile"), engine)
        how = Upscaling(upscaler, scale, tile_or_auto(tile), overlap, batch, engine, precision, ensemble, outscale)
        making = Making(how, form, quality, max_pixels)
        fleet = chosen_fleet(device, ray, ray_workers, ray_cores)
        where = Results(output)
        refuse_urls(inputs, where, fleet)
        with joined(fleet):
            from hatdet.imaging.encoding import checked_format
            from hatdet.imaging.sources import check_results, result_paths
            from hatdet.runs.inputs import sources_of

            checked_format(form, quality)
            sources = sources_of(inputs, [output, *RESULTS], where.store)
            targets = result_paths(sources, output, f".{form}")
            check_results(sources, targets)
            jobs = [UpscalingJob(*one) for one in zip(sources, targets, strict=True)]
            steps = making.steps(session, device_of(device, fleet))
            settings = settings_of(steps.settings(), fleet, precision)
            started = time.perf_counter()
            with record_of(fleet, where, settings, sources) as manifest:
                left = [job for job in jobs if overwrite or manifest.done(job.source.path, job.target) is None]
                say_what_was_done(session, manifest, len(jobs) - len(left), len(jobs))

                def keep(job: UpscalingJob, done: Done) -> str:
                    put(manifest, job.source.path, done)
                    return f"{job.source.name} -> {where.name(job.target)} ({done.text})"

                # Closed before the manifest is: what was begun to be written is put into it.
                with (
                    says_what_remains(session, left) as stopping,
                    closing(
                        over(left, steps, keep, fleet, ImageWork(making, output, where.store), stopping)
                    ) as results,
                ):
                    for job, finish in session.over(results, "upscaling", len(left)):
                        line = ""
                        with session.one(job.source.name):
                            line = finish()
                        if line:
                            session.result(line)
                        if session.failed and on_error == "stop":
                            break
        session.finish(started, where.name(output))
