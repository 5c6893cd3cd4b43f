"""The `hatdet` command: one verb a file. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hatdet import __version__
from hatdet.cli import (
    attention,
    bench,
    check_data,
    detect,
    doctor,
    evaluate,
    export,
    metrics,
    models,
    prepare,
    sr,
    train,
    yolo,
)
from hatdet.cli.fleet import RayCommand
from hatdet.cli.quick_help import import_help

__all__ = ["app", "main"]

app = typer.Typer(
    name="hatdet",
    help="Find objects in imagery that is too small to see them in: HAT super-resolution in front of a YOLO detector.",
    epilog="Start with `hatdet detect --upscale`: it needs no files. Every verb has a --help of its own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hatdet {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


app.command("sr", cls=RayCommand)(sr.run)
app.command("detect", cls=RayCommand)(detect.run)
app.command("eval", cls=RayCommand)(evaluate.run)
app.command("metrics")(metrics.run)
app.command("prepare")(prepare.run)
app.command("check-data")(check_data.run)
app.command("train")(train.run)
app.command("test")(train.run_test)
app.add_typer(models.app, name="models")
app.add_typer(attention.app, name="attention")
app.command("yolo", context_settings=yolo.CONTEXT)(yolo.run)
app.command("export")(export.run)
app.command("bench")(bench.run)
app.command("doctor")(doctor.run)


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):  # a path that the terminal's encoding cannot show is no reason to stop
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if len(sys.argv) < 2 or not {"-h", "--help"}.isdisjoint(sys.argv):
        import_help()
    app()
