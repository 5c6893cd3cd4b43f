"""`hatdet prepare`: from photos to the pairs that super-resolution is trained and tested on."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hatdet.cli.options import DebugOption, QuietOption

if TYPE_CHECKING:
    from hatdet.cli.session import Session
    from hatdet.imaging.pairs import MadeReference, PairSettings

__all__ = ["run"]


def run(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders of high-resolution photos, searched recursively.", metavar="HR_DIR...", show_default=False
        ),
    ] = None,
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the data set, such as datasets/NAME.")],
    scale: Annotated[str, typer.Option(help="Factors of the reduction: 4, or 2 3 4, or 2,3,4.")] = "4",
    sub_images: Annotated[
        int | None,
        typer.Option(
            help="Also cut squares of this many pixels, which training reads faster than whole photos; 480 is usual."
        ),
    ] = None,
    step: Annotated[int, typer.Option(help="From one square to the next, in pixels of the photo.")] = 240,
    lmdb: Annotated[
        bool,
        typer.Option(
            "--lmdb",
            help="Also put what training reads into LMDBs (BasicSR's io_backend lmdb): one file each, not many.",
        ),
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Photos at a time.", show_default="one a core")] = None,
    detection: Annotated[
        Path | None,
        typer.Option(
            help="Instead of photos: an Ultralytics data file, whose images are reduced, with their labels.",
            metavar="D.yaml",
        ),
    ] = None,
    upscaler: Annotated[
        str, typer.Option(help="With --detection: upscale again, by hat-xs, bicubic, ...; none leaves them small.")
    ] = "none",
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Make training pairs: mod-cropped references and their MATLAB-bicubic reductions, with meta_info files.

    Photos of folders in the folder are called FOLDER_NAME. A run that was stopped goes on where it was. A data set made
    with other settings is not touched.

    With --detection: a detection data set as it looks in low resolution, or upscaled again, for training a detector.

    Examples: `hatdet prepare photos/ -o datasets/mine --scale 2 3 4 --sub-images 480` ·
    `hatdet prepare --detection coco128.yaml -o datasets/coco128-hat --scale 4 --upscaler hat-xs`
    """
    from hatdet.cli.session import Session, guarded

    with guarded(debug), Session(quiet, debug) as session:
        import os
        from concurrent.futures import ThreadPoolExecutor

        import torch

        from hatdet.cli.prepare_detection import prepare_detection
        from hatdet.core.atomic import write_text
        from hatdet.core.errors import OptionsError
        from hatdet.imaging.lmdb_files import lmdb_key, require_lmdb
        from hatdet.imaging.pairs import PairSettings, make_pairs, meta_info
        from hatdet.imaging.sources import find_sources, result_paths

        if detection is not None:
            if inputs or lmdb or not scale.isdigit():
                raise OptionsError("--detection takes its images from the data file, and one scale, and makes no LMDB")
            prepare_detection(session, detection, output, int(scale), upscaler)
            return
        if not inputs:
            raise OptionsError("prepare needs a folder of photos, or --detection with a data file")
        try:
            # `--scale 2 3 4` leaves 3 and 4 among the folders, where no folder is called so.
            numbers = [name for name in inputs if name.isdigit() and not Path(name).exists()]
            factors = tuple(sorted({int(factor) for factor in [*scale.split(","), *numbers]}))
            settings = PairSettings(factors, sub_images, step)
        except ValueError as error:
            given = f"--scale {scale!r}, --sub-images {sub_images}, --step {step}"
            raise OptionsError(f"{given} cannot be: {error}") from error
        sources = find_sources([name for name in inputs if name not in numbers], leave_out=[output])
        names = _flat([path.relative_to(output) for path in result_paths(sources, output)])
        if lmdb:
            require_lmdb()
            for name in names:
                lmdb_key(name)  # before the work, not after it
        _claim(output, settings)
        made: list[MadeReference] = []
        started = time.perf_counter()
        torch.set_num_threads(1)  # the photos are what runs side by side
        with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
            jobs = [
                (source, pool.submit(make_pairs, source.path, name, output, settings))
                for source, name in zip(sources, names, strict=True)
            ]
            try:
                for source, job in session.over(jobs, "preparing"):
                    with session.one(source.path):
                        made += job.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        for factor in factors:
            target = output / f"meta_info_{output.resolve().name}_x{factor}.txt"
            write_text(target, meta_info(made, factor))
            gt, lq = settings.names(factor)
            count = sum(m.scale == factor for m in made)
            session.result(f"x{factor}: {count} pairs in {output / gt} and {output / lq}, listed in {target}")
            if lmdb:
                _write_lmdbs(session, output, (gt, lq), [m.name for m in made if m.scale == factor])
        session.finish(started, output)


def _write_lmdbs(session: Session, output: Path, folders: tuple[str, str], names: list[str]) -> None:
    """The named images of each folder as an LMDB beside it, unless that is there and holds the same images."""
    from hatdet.imaging.lmdb_files import is_complete, lmdb_key, write_lmdb

    keys = [lmdb_key(Path(name)) for name in names]
    for folder in folders if keys else ():
        target = output / f"{folder}.lmdb"
        if not is_complete(target, keys):
            images = [(key, output / folder / name) for key, name in zip(keys, names, strict=True)]
            write_lmdb(session.over(images, f"writing {target.name}"), target)
        session.result(f"    {len(keys)} images in {target}")


def _flat(names: Sequence[Path]) -> list[Path]:
    """Names without folders, `a/b.png` as `a_b.png`: BasicSR's paired data set does not look into folders.

    Raises:
        OptionsError: two names become one.
    """
    from hatdet.core.errors import OptionsError

    taken: dict[str, Path] = {}
    for name in names:
        flat = "_".join(name.parts)
        other = taken.setdefault(flat.casefold(), name)
        if other is not name:
            raise OptionsError(f"{other} and {name} would both be called {flat}: prepare their folders one by one")
    return [Path("_".join(name.parts)) for name in names]


def _claim(output: Path, settings: PairSettings) -> None:
    """Note the settings in the data set's folder; refuse one that was made with others."""
    from dataclasses import asdict

    from hatdet.core.atomic import write_text
    from hatdet.core.errors import OptionsError

    note = output / "prepare.json"
    now = json.loads(json.dumps(asdict(settings)))
    if settings.square is None:
        now["step"] = None  # it means nothing then
    if note.is_file():
        before = json.loads(note.read_text())
        if {**before, "scales": None} != {**now, "scales": None}:
            was, wanted = (
                f"sub-images of {made['square']} every {made['step']} pixels" if made["square"] else "no sub-images"
                for made in (before, now)
            )
            raise OptionsError(f"{output} was made with {was}, now asked for {wanted}: give another folder with -o")
        now["scales"] = sorted({*before["scales"], *now["scales"]})
    write_text(note, json.dumps(now) + "\n")
