"""`hatdet check-data`: whether the data of an option file can be trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hatdet.cli.options import (
    DebugOption,
    ForceOption,
    MoreArgument,
    OptOption,
    QuietOption,
    overrides,
    writable_file,
)

__all__ = ["run"]

SHOWN = 10


def run(
    opt: OptOption,
    force_yml: ForceOption = None,
    more: MoreArgument = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Name everything that is wrong, not the first 10.")] = False,
    draw: Annotated[
        Path | None,
        typer.Option(
            help="Draw the first batch of images with boxes as training will read it, as a PNG, and look at it.",
            metavar="FILE",
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Pairs at a time.", show_default="one a core")] = None,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Check the data sets of an option file before a run: every pair, every size, every image decoded.

    Prints a line for each data set, and what is wrong by the file's name. Exit code 1 if anything is.

    Examples: `hatdet check-data -opt options/train/train_HAT-XS_SRx4.yml` ·
    `hatdet check-data -opt options/train/train_HAT-XS_SRx4_detection.yml --draw batch.png`
    """
    from hatdet.cli.session import FAILED, Session, guarded

    with guarded(debug), Session(quiet, debug) as session:
        from hatdet.core.errors import InputError
        from hatdet.training.options import read_options
        from hatdet.training.preflight import check_data_sets

        options = read_options(opt, train=_trains(opt), overrides=overrides(force_yml, more), check_paths=False)
        if draw is not None:
            from hatdet.imaging.files import write_array
            from hatdet.training.detection_preflight import drawn_batch

            writable_file(str(draw), "--draw")
            write_array(drawn_batch(options), draw, drawn=True)
            session.say(f"the first batch, with its boxes and its low-resolution images, in {draw}")
        wrong = 0
        for checked in check_data_sets(options, lambda pairs: session.over(pairs, "checking"), workers):
            session.result(str(checked))
            wrong += len(checked.complaints)
            shown = checked.complaints if every else checked.complaints[:SHOWN]
            for complaint in shown:
                with session.one(complaint.path):
                    raise InputError(str(complaint))
            if len(checked.complaints) > len(shown):
                session.say(f"... and {len(checked.complaints) - len(shown)} more in this data set: --all names them")
        if wrong:
            raise typer.Exit(FAILED)


def _trains(option_file: str) -> bool:
    """Whether an option file is one of a training; by its name where it is none here, but one that ships."""
    from hatdet.training.safe_yaml import parse_mapping

    path = Path(option_file).expanduser()
    if not path.is_file():
        return path.name.startswith("train")
    return "train" in parse_mapping(path.read_text(encoding="utf-8-sig", errors="replace"), option_file)
