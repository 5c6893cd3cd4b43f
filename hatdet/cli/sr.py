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
    from hatdet.imaging.carried import Carried
    from hatdet.imaging.files import Pixels
    from hatdet.imaging.sources import Source
    from hatdet.imaging.windows import Windows

    # Pixels to write with what they carry, None where they are written; sizes before and after.
    Larger = tuple[tuple[Pixels, Carried] | None, tuple[int, int], tuple[int, int]]

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
    `hatdet sr mosaic.tif --format tiff`
    """
    from hatdet.cli.session import Session, guarded

    with guarded(debug), Session(quiet, debug) as session:
        from hatdet.cli.huge import in_bands, read_or_open, upscale_to_tiff
        from hatdet.cli.overlap import overlapped
        from hatdet.cli.resumable import check_on_error, made_by, say_what_was_done, says_what_remains
        from hatdet.cli.weights import engine_with_progress, upscaler_with_progress
        from hatdet.core.errors import OptionsError
        from hatdet.imaging.encoding import checked_format
        from hatdet.imaging.files import MAX_PIXELS, to_array, write_carried
        from hatdet.imaging.resize import to_scale
        from hatdet.imaging.sources import check_results, find_sources, result_paths
        from hatdet.runs.manifest import Manifest, state_of
        from hatdet.sr.ensemble import with_ensemble

        kind = checked_format(form, quality)
        if outscale is not None and not 0 < outscale <= _LARGEST_OUTSCALE:
            raise OptionsError(f"--outscale must be above 0 and at most {_LARGEST_OUTSCALE}, got {outscale:g}")
        side = tile_or_auto(tile)
        check_on_error(on_error)
        refuse_beside_engine(context, ("upscaler", "scale", "tile"), engine)
        sources = find_sources(inputs, leave_out=[output, *RESULTS])
        targets = result_paths(sources, output, f".{form}")
        check_results(sources, targets)
        if engine is not None:
            upscale = engine_with_progress(session, engine, device, precision, overlap, batch)
        else:
            upscale = upscaler_with_progress(session, upscaler, scale, device, precision, side, overlap, batch)
        if ensemble:
            upscale = with_ensemble(upscale)
        settings = {"verb": "sr", **made_by(upscale, upscaler, scale, engine), "outscale": outscale}
        settings |= {"ensemble": ensemble, "format": form, "quality": quality}
        started = time.perf_counter()
        states: dict[Path, str] = {}

        banded = kind.name == "TIFF" and outscale is None

        def read(job: tuple[Source, Path]) -> tuple[Image, Carried] | Windows:
            states[job[0].path] = state_of(job[0].path)
            return read_or_open(job[0].path, max_pixels or MAX_PIXELS, upscale, banded)

        def upscaled(job: tuple[Source, Path], found: tuple[Image, Carried] | Windows) -> Larger:
            """What is left to write, and both sizes."""
            session.begin()
            huge = in_bands(found, upscale, banded)
            if huge is not None:
                return None, (huge.width, huge.height), upscale_to_tiff(upscale, huge, job[1])
            assert isinstance(found, tuple)
            image, carried = found
            larger = upscale(image)
            if outscale is not None:
                larger = to_scale(larger, outscale)
            # What is kept until it is written is the array: a quarter of the canvas.
            kept = carried.enlarged((larger.height, larger.width), larger.scale)
            return (to_array(larger), kept), (image.width, image.height), (larger.width, larger.height)

        def written(job: tuple[Source, Path], made: Larger) -> str:
            (source, target), (to_write, size, larger_size) = job, made
            if to_write is not None:
                write_carried(*to_write, target, kind, quality, of=source.path)
            manifest.put(source.path, states.pop(source.path), target)
            return f"{source.path} -> {target} ({'x'.join(map(str, size))} -> {'x'.join(map(str, larger_size))})"

        jobs = list(zip(sources, targets, strict=True))
        with Manifest(output, settings) as manifest:
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
