"""`hatdet sr`: images in, larger images out."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
    from hatdet.core.types import Image
    from hatdet.imaging.files import Pixels
    from hatdet.imaging.sources import Source

__all__ = ["run"]


def run(
    context: typer.Context,
    inputs: Annotated[
        list[str], typer.Argument(help="Images, folders (searched recursively) and globs.", metavar="INPUT...")
    ],
    output: OutputOption = RESULTS[0],
    scale: ScaleOption = 4,
    upscaler: UpscalerOption = "hat-xs",
    tile: TileOrAutoOption = "256",
    overlap: OverlapOption = 32,
    batch: BatchOption = None,
    engine: EngineOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    max_pixels: MaxPixelsOption = None,
    overwrite: OverwriteOption = False,
    on_error: OnErrorOption = "skip",
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Upscale images by super-resolution. Results are PNG files; the tree of a given folder is kept.

    A run that was broken off goes on where it was when the same command is given again.

    Examples: `hatdet sr --scale 4 input/` · `hatdet sr photo.jpg -o out/ --upscaler hat` · `hatdet sr "in/**/*.png"`
    """
    from hatdet.cli.session import Session, guarded

    with guarded(debug), Session(quiet, debug) as session:
        from hatdet.cli.overlap import overlapped
        from hatdet.cli.resumable import check_on_error, made_by, say_what_was_done, says_what_remains
        from hatdet.cli.weights import engine_with_progress, upscaler_with_progress
        from hatdet.imaging.files import MAX_PIXELS, read_image, to_array, write_array
        from hatdet.imaging.sources import check_results, find_sources, result_paths
        from hatdet.runs.manifest import Manifest, state_of

        side = tile_or_auto(tile)
        check_on_error(on_error)
        refuse_beside_engine(context, ("upscaler", "scale", "tile"), engine)
        sources = find_sources(inputs, leave_out=[output, *RESULTS])
        targets = result_paths(sources, output)
        check_results(sources, targets)
        if engine is not None:
            upscale = engine_with_progress(session, engine, device, precision, overlap, batch)
        else:
            upscale = upscaler_with_progress(session, upscaler, scale, device, precision, side, overlap, batch)
        started = time.perf_counter()
        states: dict[Path, str] = {}

        def read(job: tuple[Source, Path]) -> Image:
            states[job[0].path] = state_of(job[0].path)
            return read_image(job[0].path, max_pixels or MAX_PIXELS)

        def upscaled(_: tuple[Source, Path], image: Image) -> tuple[str, Pixels]:
            session.begin()
            # What is kept until it is written is the array: a quarter of the canvas.
            return f"{image.width}x{image.height}", to_array(upscale(image))

        def written(job: tuple[Source, Path], found: tuple[str, Pixels]) -> str:
            (source, target), (size, larger) = job, found
            write_array(larger, target)
            manifest.put(source.path, states.pop(source.path), target)
            return f"{source.path} -> {target} ({size} -> {larger.shape[1]}x{larger.shape[0]})"

        jobs = list(zip(sources, targets, strict=True))
        with Manifest(output, {"verb": "sr", **made_by(upscale, upscaler, scale, engine)}) as manifest:
            left = [job for job in jobs if overwrite or manifest.done(job[0].path, job[1]) is None]
            say_what_was_done(session, manifest, len(jobs) - len(left), len(jobs))
            # Closed before the manifest is: what was begun to be written is put into it.
            with (
                says_what_remains(session, left) as stopping,
                closing(overlapped(left, read, upscaled, written, stopping)) as results,
            ):
                for (source, _), finish in session.over(results, "upscaling", len(left)):
                    line = ""
                    with session.one(source.path):
                        line = finish()
                    if line:
                        session.result(line)
                    if session.failed and on_error == "stop":
                        break
        session.finish(started, output)
