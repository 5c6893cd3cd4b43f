"""Options that several verbs share: one word, one meaning, one help text."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = [
    "RESULTS",
    "BatchOption",
    "DebugOption",
    "DeviceOption",
    "EngineOption",
    "ForceOption",
    "MaxPixelsOption",
    "MoreArgument",
    "OnErrorOption",
    "OptOption",
    "OutputOption",
    "OverlapOption",
    "OverwriteOption",
    "PrecisionOption",
    "QuietOption",
    "ScaleOption",
    "TileOption",
    "TileOrAutoOption",
    "TrustOption",
    "UpscalerOption",
    "given",
    "overrides",
    "refuse_beside_engine",
    "tile_or_auto",
    "writable_file",
]

# Where sr and detect write by default; never taken for input.
RESULTS = (Path("results/sr"), Path("results/detect"))

_ENGINE = "Super-resolution"
_MACHINE = "Machine"

UpscalerOption = Annotated[
    str,
    typer.Option(
        help="hat-xs, hat-s, hat, hat-l, real-hat, a name from `hatdet models`, a weights file, bicubic or nearest.",
        rich_help_panel=_ENGINE,
    ),
]
ScaleOption = Annotated[int, typer.Option(help="How many times larger, along each side.", rich_help_panel=_ENGINE)]
TileOption = Annotated[
    int, typer.Option(help="Side of the tiles a large image is cut into, in input pixels.", rich_help_panel=_ENGINE)
]
TileOrAutoOption = Annotated[
    str,
    typer.Option(
        help="Side of the tiles a large image is cut into, in input pixels. The picture depends slightly on it, and "
        "the default is the same everywhere; auto is the fastest here, measured once.",
        metavar="N|auto",
        rich_help_panel=_ENGINE,
    ),
]
OverlapOption = Annotated[
    int, typer.Option(help="By how many input pixels neighbouring tiles overlap.", rich_help_panel=_ENGINE)
]
BatchOption = Annotated[
    int | None,
    typer.Option(
        help="Tiles in one call of the network; the result does not depend on it.",
        rich_help_panel=_ENGINE,
        show_default="what fits on CUDA, at most 16, else 1",
    ),
]
EngineOption = Annotated[
    Path | None,
    typer.Option(
        help="A file of `hatdet export` to compute with: .onnx, .xml, .torchscript, .engine.",
        metavar="FILE",
        rich_help_panel=_ENGINE,
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        help="auto, cpu, cuda, cuda:1, mps; sr, detect and eval take several, a worker on each: 0,1,2,3.",
        rich_help_panel=_MACHINE,
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        help="Of the super-resolution network: auto (bf16 on CUDA, else fp32), fp32, bf16.", rich_help_panel=_MACHINE
    ),
]
OutputOption = Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")]
MaxPixelsOption = Annotated[
    int | None,
    typer.Option(
        help="Refuse images with more pixels than this, which a damaged or hostile file may claim.",
        min=1,
        rich_help_panel=_MACHINE,
        show_default="178,956,970",
    ),
]
OverwriteOption = Annotated[
    bool,
    typer.Option("--overwrite", help="Make again what an earlier run has done.", rich_help_panel=_MACHINE),
]
OnErrorOption = Annotated[
    str,
    typer.Option(
        help="What a broken image does to the run: skip goes on with the next, stop ends it.",
        metavar="skip|stop",
        rich_help_panel=_MACHINE,
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Load a .pt file of --weights whatever classes it holds. It can then run any code: only for files whose "
        "origin you know.",
        rich_help_panel=_MACHINE,
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.", rich_help_panel=_MACHINE)]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="On an error, print the whole traceback.", rich_help_panel=_MACHINE)
]
OptOption = Annotated[
    str,
    typer.Option(
        "-opt",
        "--opt",
        help="The option file: a path, or the name of one that ships, such as train_HAT-XS_SRx4.yml.",
        metavar="FILE",
        show_default=False,
    ),
]
ForceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--force_yml",
        "--force-yml",
        help="Change options: train:total_iter=20 name=mine. Takes several.",
        metavar="KEY:SUB=VALUE...",
        show_default=False,
    ),
]
# BasicSR's --force_yml takes all words that follow; a command line of this kind takes one, so the rest come here.
MoreArgument = Annotated[list[str] | None, typer.Argument(hidden=True, metavar="KEY:SUB=VALUE")]


def given(context: typer.Context, names: Collection[str]) -> list[str]:
    """Those of the named parameters that stand on the command line, as they are written there."""
    found = []
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            found.append(max(parameter.opts, key=len))
    return found


def refuse_beside_engine(context: typer.Context, names: Collection[str], engine: Path | None) -> None:
    """Raise an OptionsError if there is an engine, and one of the named parameters, which it decides, is given."""
    from hatdet.core.errors import OptionsError

    for option in given(context, names) if engine is not None else ():
        raise OptionsError(f"{option} does not go with --engine: {engine} decides it")


def tile_or_auto(text: str) -> int | Literal["auto"]:
    """What `--tile` says.

    Raises:
        OptionsError: neither a whole number nor auto.
    """
    from hatdet.core.errors import OptionsError

    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise OptionsError(f"--tile must be a whole number or auto, got {text!r}") from None


def overrides(force_yml: list[str] | None, more: list[str] | None) -> list[str]:
    """All words of `--force_yml a:b=c d:e=f`.

    Raises:
        OptionsError: a word that is no change of an option.
    """
    from hatdet.core.errors import OptionsError

    for word in more or ():
        if "=" not in word or not force_yml:
            raise OptionsError(f"{word} is no option: expected -opt FILE, and KEY:SUB=VALUE after --force_yml")
    return [*(force_yml or ()), *(more or ())]


def writable_file(name: str, option: str) -> Path:
    """A file that results will go to, looked at before the work and not after it; its folder is made.

    Raises:
        OptionsError: it is a folder, or the place cannot be written.
    """
    from hatdet.core.errors import OptionsError

    path = Path(name)
    if not name or path.is_dir():
        raise OptionsError(f"{option} needs a file's name or -, got {name!r}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionsError(f"{name} cannot be written: {error.strerror}") from error
    return path
