"""`hatdet sr`: images in, larger images out."""

from __future__ import annotations

import time
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
    OutputOption,
    OverlapOption,
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
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Upscale images by super-resolution. Results are PNG files; the tree of a given folder is kept.

    Examples: `hatdet sr --scale 4 input/` · `hatdet sr photo.jpg -o out/ --upscaler hat` · `hatdet sr "in/**/*.png"`
    """
    from hatdet.cli.session import Session, guarded

    with guarded(debug), Session(quiet, debug) as session:
        from hatdet.cli.overlap import overlapped
        from hatdet.cli.weights import engine_with_progress, upscaler_with_progress
        from hatdet.imaging.files import MAX_PIXELS, read_image, to_array, write_array
        from hatdet.imaging.sources import check_results, find_sources, result_paths

        side = tile_or_auto(tile)
        refuse_beside_engine(context, ("upscaler", "scale", "tile"), engine)
        sources = find_sources(inputs, leave_out=[output, *RESULTS])
        targets = result_paths(sources, output)
        check_results(sources, targets)
        if engine is not None:
            upscale = engine_with_progress(session, engine, device, precision, overlap, batch)
        else:
            upscale = upscaler_with_progress(session, upscaler, scale, device, precision, side, overlap, batch)
        started = time.perf_counter()

        def upscaled(_: tuple[Source, Path], image: Image) -> tuple[str, Pixels]:
            session.begin()
            # What is kept until it is written is the array: a quarter of the canvas.
            return f"{image.width}x{image.height}", to_array(upscale(image))

        def written(job: tuple[Source, Path], found: tuple[str, Pixels]) -> str:
            (source, target), (size, larger) = job, found
            write_array(larger, target)
            return f"{source.path} -> {target} ({size} -> {larger.shape[1]}x{larger.shape[0]})"

        jobs = list(zip(sources, targets, strict=True))
        results = overlapped(jobs, lambda job: read_image(job[0].path, max_pixels or MAX_PIXELS), upscaled, written)
        for (source, _), finish in session.over(results, "upscaling", len(jobs)):
            line = ""
            with session.one(source.path):
                line = finish()
            if line:
                session.result(line)
        session.finish(started, output)
