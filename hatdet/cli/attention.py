"""`hatdet attention`: attention layers in YOLO model files, what there is, whether a file is right, and making one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hatdet.cli.options import DebugOption, QuietOption

if TYPE_CHECKING:
    from hatdet.detection.attention.inspection import Cost
    from hatdet.detection.attention.registration import AttentionModule

__all__ = ["app"]

app = typer.Typer(
    help="Attention layers in YOLO model files: list them, check a file, make one, repair an article's.",
    no_args_is_help=True,
)

FileOption = Annotated[Path, typer.Option("-o", "--output", help="The model file to write.", metavar="FILE.yaml")]
OverwriteOption = Annotated[bool, typer.Option("--force", help="Write over a file that is there.")]


@app.command("list")
def table(
    as_json: Annotated[bool, typer.Option("--json", help="Everything that is known, as JSON.")] = False,
    debug: DebugOption = False,
) -> None:
    """List the layers: how a row names them, what they ask for, what they cost, where they come from."""
    from rich.console import Console
    from rich.table import Table

    from hatdet.cli.session import guarded

    with guarded(debug):
        import json

        from hatdet.detection.attention.inspection import MAPS, cost_of
        from hatdet.detection.attention.registration import known_modules

        modules = [module for _, module in sorted(known_modules().items())]
        if as_json:
            typer.echo(json.dumps([_as_json(module, cost_of(module)) for module in modules], indent=2))
            return
        rows = Table(box=None, header_style="bold", pad_edge=False)
        for column in (
            "name",
            "row",
            "needs",
            *(f"P{stride.bit_length() - 1}" for stride in MAPS),
            "paper",
            "origin, licence",
        ):
            rows.add_column(column, no_wrap=column == "name", overflow="fold")
        for module in modules:
            costs = [f"{cost.parameters:,} / {cost.gflops:.2f}" for cost in cost_of(module)]
            names = " = ".join((module.name, *module.aliases))
            rows.add_row(names, f"[{module.signature}]", module.constraints, *costs, module.paper, module.origin)
        screen = Console(markup=False)
        # Whole lines where nobody looks at them on a screen: for grep, and for logs.
        (screen if screen.is_terminal else Console(width=1000, markup=False)).print(rows)
        maps = ", ".join(f"{side}x{side}x{channels}" for channels, side in MAPS.values())
        typer.echo(
            "\nP3, P4, P5: parameters, and GFLOPs of one image (2 a multiply-add, the products of attention counted), "
            f"on the maps of YOLO11n at 640 px ({maps}) with the arguments recommended there, which --json lists"
        )


@app.command("check")
def check(
    file: Annotated[str, typer.Argument(help="A path, or a name such as yolo11n-halo.yaml.")],
    scale: Annotated[str, typer.Option(help="One scale, such as n.", show_default="the name's, or all")] = "",
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Check the attention rows of a model file: written right, built at every scale, any size, learning.

    Prints a line for each check, and what is wrong, a line each. Exit code 1 if anything is.

    Example: `hatdet attention check yolo11n-halo.yaml`
    """
    from hatdet.cli.session import FAILED, Session, guarded

    with guarded(debug), Session(quiet, debug) as session:
        from hatdet.core.errors import InputError, OptionsError
        from hatdet.detection.attention.inspection import check_model_file
        from hatdet.detection.model_files import find_model_file, read_model_file, scale_letter

        path = find_model_file(file)
        model = read_model_file(path)
        chosen = scale or scale_letter(path)
        if chosen and chosen not in model.scales:
            raise OptionsError(f"{path} has no scale {chosen!r}: expected one of {', '.join(model.scales) or 'none'}")
        for finding in check_model_file(model, [chosen] if chosen else None):
            if not finding.problems:
                session.result(f"ok  {finding.what}")
            for problem in finding.problems:
                with session.one(file):
                    raise InputError(f"{path.name}: {problem}")
        if session.failed:
            raise typer.Exit(FAILED)


@app.command("add")
def add(
    stock: Annotated[str, typer.Argument(help="A model file: a name such as yolo11.yaml, or a path.")],
    output: FileOption,
    module: Annotated[str, typer.Option(help="A layer of `hatdet attention list`.")],
    after: Annotated[int, typer.Option(help="The number of the layer that it stands behind.")],
    args: Annotated[
        str | None,
        typer.Option(
            help='What follows c2 in the row, as in "2, 1".',
            show_default="what is recommended for that map",
        ),
    ] = None,
    residual: Annotated[
        bool, typer.Option("--residual", help="Beside the layer above and not behind it: changes nothing at first.")
    ] = False,
    force: OverwriteOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a model file with an attention layer more; all numbers of layers behind it are moved.

    It is built at every scale before it is written. Name it as Ultralytics names its own: the letter of a scale is
    found behind the number, as in yolo11n-mine.yaml for a file yolo11-mine.yaml.

    Example: `hatdet attention add yolo11.yaml --module HaloAttention --after 9 -o yolo11-mine.yaml`
    """
    from hatdet.cli.session import Session, guarded

    with guarded(debug), Session(quiet, debug) as session:
        from hatdet.core.atomic import write_text
        from hatdet.core.errors import InputError, OptionsError
        from hatdet.detection.attention.inspection import (
            attention_module,
            build,
            complete_arguments,
            stride_at,
            width_problems,
        )
        from hatdet.detection.model_files import find_model_file, insert_row, model_text, read_model_file

        _check_output(output, force)
        layer = attention_module(module)
        source = find_model_file(stock)
        model = read_model_file(source)
        if not 0 <= after < len(model.rows) - 1:
            raise OptionsError(
                f"--after must be a layer of {source.name} above its head, 0 to {len(model.rows) - 2}, got {after}"
            )
        given = layer.arguments.get(stride_at(model, after), ()) if args is None else _parsed(args)
        new = insert_row(model, after, module, complete_arguments(layer, given, residual))
        for scale in new.scales or ("",):
            if problems := width_problems(new, build(new, scale)):
                raise InputError(problems[0])
        write_text(
            output, model_text(new, f"{source.name} with {module} behind layer {after}, by hatdet attention add.")
        )
        session.result(f"{output}: row {after + 1} is {new.rows[after + 1]}")


@app.command("repair")
def repair(
    article: Annotated[Path, typer.Argument(help="A model file as an article prints it.")],
    output: FileOption,
    force: OverwriteOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Mend what is known to be wrong with the model files of articles, and say what it was.

    Missing widths, anchors that are no longer taken, layer numbers that were not moved. Nothing else is changed. Exit
    code 2, and no file, where something is left that only its author can decide.
    """
    from hatdet.cli.session import REFUSED, Session, guarded

    with guarded(debug), Session(quiet, debug) as session:
        from hatdet.core.atomic import write_text
        from hatdet.core.errors import InputError
        from hatdet.detection.article_repairs import repair as repaired
        from hatdet.detection.model_files import model_text, read_model_file

        _check_output(output, force)
        model, repairs = repaired(read_model_file(article))
        for each in repairs:
            if each.now is None:
                with session.one(article):
                    raise InputError(f"{article}: {each}")
            else:
                session.result(str(each))
        if session.failed:
            raise typer.Exit(REFUSED)
        if not repairs:
            session.result("nothing to repair")
        write_text(output, model_text(model, f"{article.name}, repaired by hatdet attention repair."))


def _as_json(module: AttentionModule, costs: list[Cost]) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "name": module.name,
        "aliases": module.aliases,
        "row": f"[{module.signature}]",
        "summary": module.summary,
        "constraints": module.constraints,
        "paper": module.paper,
        "origin": module.origin,
        "costs": [asdict(cost) for cost in costs],
    }


def _parsed(arguments: str) -> list[Any]:
    """The arguments of a row, from their text.

    Raises:
        OptionsError: it is no list of values.
    """
    import yaml

    from hatdet.core.errors import OptionsError

    try:
        found = yaml.safe_load(f"[{arguments}]")
    except yaml.YAMLError as error:
        raise OptionsError(f"--args must be values with commas between them, got {arguments!r}") from error
    assert isinstance(found, list)
    return found


def _check_output(output: Path, force: bool) -> None:
    """Look at the file to write before the work and not after it.

    Raises:
        OptionsError: it is there already, or Ultralytics would not take its name for a model file's.
    """
    from hatdet.core.errors import OptionsError

    if output.suffix not in (".yaml", ".yml"):
        raise OptionsError(f"-o {output} must end in .yaml")
    if output.exists() and not force:
        raise OptionsError(f"{output} is there already: --force writes over it")
