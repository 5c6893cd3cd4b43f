"""`hatdet models`: what weights there are, and fetching one."""

from __future__ import annotations

from typing import Annotated

import typer

from hatdet.cli.options import DebugOption, QuietOption

__all__ = ["app"]

app = typer.Typer(help="List the weights that exist, or fetch some.", invoke_without_command=True)


@app.callback(invoke_without_command=True)
def table(context: typer.Context) -> None:
    """List what is embedded, published and cached: scale, parameters, sha256, licence."""
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console
    from rich.table import Table

    from hatdet.cli.session import guarded

    with guarded(debug=False):
        from hatdet.core.fetch import cache_dir, sha256_of
        from hatdet.detection.weights import EMBEDDED
        from hatdet.sr.catalogue import CATALOGUE
        from hatdet.sr.weights import record_path

        rows = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("name", "stands for", "scale", "parameters", "where", "sha256", "licence", "for"):
            rows.add_column(
                column,
                justify="right" if column in ("scale", "parameters") else "left",
                no_wrap=column == "name",
                overflow="fold",
            )
        defaults: set[tuple[str, int]] = set()
        for record in CATALOGUE:
            key = (record.family, record.scale)
            stands_for = "" if key in defaults else f"{record.family} x{record.scale}"
            defaults.add(key)
            where = record.kind if record.kind == "embedded" else ("cached" if record_path(record) else "published")
            rows.add_row(
                record.name,
                stands_for,
                f"x{record.scale}",
                f"{record.parameters:,}",
                where,
                record.sha256[:12],
                record.licence,
                record.note,
            )
        rows.add_row(
            EMBEDDED.name,
            "the detector",
            "-",
            f"{EMBEDDED.parameters:,}",
            "embedded",
            EMBEDDED.sha256[:12],
            EMBEDDED.licence,
            EMBEDDED.note,
        )
        for path in sorted(cache_dir().glob("*.pt")):
            rows.add_row(path.stem, "", "-", "", "cached", sha256_of(path)[:12], "AGPL-3.0", "an Ultralytics detector")
        # Whole lines where nobody looks at them on a screen: for grep, and for logs.
        screen = Console()
        (screen if screen.is_terminal else Console(width=200)).print(rows)
        typer.echo(f"\nPublished weights are fetched when first used, or by `hatdet models get NAME`, to {cache_dir()}")


@app.command("get")
def get(
    name: Annotated[str, typer.Argument(help="A name from `hatdet models`, or an Ultralytics model such as yolo11s.")],
    scale: Annotated[int, typer.Option(help="For a family such as hat-s: at which scale.")] = 4,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Fetch weights, check their hash, and print where they are.

    Of Ultralytics' models no hash is published: that of the first download is kept and holds from then on.
    """
    from hatdet.cli.session import Session, guarded

    with guarded(debug), Session(quiet, debug) as session:
        from hatdet.cli.weights import download_progress
        from hatdet.core.errors import WeightsError
        from hatdet.core.fetch import sha256_of
        from hatdet.detection.weights import EMBEDDED, find_detector, released_file
        from hatdet.sr.catalogue import CATALOGUE, FAMILIES, default_record, named_record
        from hatdet.sr.weights import find_weights

        record = default_record(name, scale) if name in FAMILIES else named_record(name)
        with download_progress(session, name) as on_fetch:
            if record is not None:
                path = find_weights(record.name, record.scale, on_fetch).path
            elif name == EMBEDDED.name or released_file(name):
                path = find_detector(name, on_fetch)
            else:
                known = ", ".join(record.name for record in CATALOGUE)
                raise WeightsError(f"no weights are called {name!r}: expected an Ultralytics model or one of {known}")
        typer.echo(path)
        session.say(f"sha256 {sha256_of(path)}")
