"""YOLO model files of Ultralytics as values: read, given one row more, written, found by name.

A model file lists layers as rows `[from, repeats, module, args]`. `from` counts from the first layer (0 and up) or back
from the row itself (-1 is the row above; for the first row, the image).
"""

from __future__ import annotations

import difflib
import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from hatdet.core.assets import asset
from hatdet.core.atomic import write_bytes
from hatdet.core.errors import InputError
from hatdet.core.fetch import cache_dir

__all__ = [
    "ModelFile",
    "Row",
    "find_model_file",
    "insert_row",
    "model_text",
    "read_model_file",
    "remove_row",
    "scale_letter",
    "stock_model_files",
]

# As Ultralytics finds a scale in the name of a model file.
_SCALED = re.compile(r"yolo(?:e-)?v?\d+([nslmx])")
_UNSCALED = re.compile(r"yolo(?:e-)?v?\d+(?![nslmx\d])")
_PLAIN_WORDS = {"None", "c2", "nc", "kpt_shape", "anchors"}  # what a row's argument means rather than is


# ------------------------------------------------------------------------------------------ 1. what a model file is


@dataclass(frozen=True)
class Row:
    """A row `[from, repeats, module, args]`; its lists are tuples. As text it is as it stands in a file."""

    source: int | tuple[int, ...]
    repeats: int
    module: str
    args: tuple[Any, ...] = ()

    @property
    def sources(self) -> tuple[int, ...]:
        return self.source if isinstance(self.source, tuple) else (self.source,)

    def __str__(self) -> str:
        words = [self.source, self.repeats, _Word(self.module), _quoted(self.args)]
        return yaml.dump(_thawed(words), Dumper=_Dumper, default_flow_style=True, width=math.inf).strip()


@dataclass(frozen=True)
class ModelFile:
    """A model file's content.

    Attributes:
        keys: Everything that stands beside the rows, in its order: `nc`, `scales` and others.
        backbone, head: The rows; layers are numbered through both.

    Raises:
        ValueError: There is no row, or one reads a layer that is not above it.
    """

    keys: Mapping[str, Any]
    backbone: tuple[Row, ...]
    head: tuple[Row, ...]

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("a model file needs rows")
        for i, row in enumerate(self.rows):
            for source, read in zip(row.sources, self.producers(i), strict=True):
                if not 0 <= read < i and (i, source) != (0, -1):
                    raise ValueError(f"row {i}, {row}, reads {source}: expected a layer above it")

    @property
    def rows(self) -> tuple[Row, ...]:
        return self.backbone + self.head

    @property
    def scales(self) -> tuple[str, ...]:
        """The letters of the scales, such as n, s, m, l, x; none for a file of one size."""
        return tuple(self.keys.get("scales") or ())

    def producers(self, i: int) -> tuple[int, ...]:
        """The numbers of the layers that row `i` reads; -1 is the image."""
        return tuple(source if source >= 0 else i + source for source in self.rows[i].sources)

    def as_dict(self, scale: str = "") -> dict[str, Any]:
        """The file as Ultralytics has it in memory, for `DetectionModel(cfg=...)`; a new one each time.

        Raises:
            ValueError: The file has other scales.
        """
        if scale and scale not in self.scales:
            raise ValueError(f"there is no scale {scale!r}: expected one of {', '.join(self.scales) or 'none'}")
        content = _thawed(dict(self.keys))
        for part, rows in (("backbone", self.backbone), ("head", self.head)):
            content[part] = [_thawed([row.source, row.repeats, row.module, row.args]) for row in rows]
        return {**content, "scale": scale} if scale else {**content}


# ------------------------------------------------------------------------------------------ 2. files


def read_model_file(path: Path) -> ModelFile:
    """Read a model file.

    Raises:
        InputError: There is no such file, it is no YAML, or not of a model; the message says where.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)  # noqa: S506 (a SafeLoader)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{where}: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict) or not {"backbone", "head"} <= content.keys():
        raise InputError(f"{path} is no model file: expected a backbone and a head")
    try:
        parts = [tuple(_row(row) for row in _list(content.pop(part), part)) for part in ("backbone", "head")]
        return ModelFile(_frozen(content), *parts)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def model_text(model: ModelFile, about: str = "") -> str:
    """The file's text, as Ultralytics writes its own: a row a line, its number behind it. `about` comes first."""
    lines = [f"# {line}" if line else "#" for line in about.splitlines()]
    keys = "".join(_key(key, value) for key, value in model.keys.items())
    scales = "scales: # a letter in the file's name chooses one, as in yolo11n.yaml\n  # [depth, width, max_channels]\n"
    lines += ["", "# Parameters", keys.replace("scales:\n", scales).strip()]
    index = 0
    for part, rows in (("backbone", model.backbone), ("head", model.head)):
        lines += ["", f"{part}:", "  # [from, repeats, module, args]"]
        for place, row in enumerate(rows):
            if place > 1 and rows[place - 2].module == "Concat":
                lines.append("")  # what is joined and the block on it make a group
            lines.append(f"  - {row} # {index}")
            index += 1
    return "\n".join(lines).lstrip("\n") + "\n"


def _key(key: str, value: Any) -> str:
    flow = None if isinstance(value, dict | tuple) else False  # lists in one line, nothing else
    return str(yaml.dump({key: _thawed(value)}, Dumper=_Dumper, default_flow_style=flow, sort_keys=False))


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML's safe loader, the fast one where it is there."""


class _Word(str):
    """A word of a row that is written without quotes."""

    __slots__ = ()


class _Text(str):
    """A text in a row, in quotes as Ultralytics writes it."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """Numbers and words as in Ultralytics' model files: 0.50, True, "nearest"."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _float(dumper: _Dumper, number: float) -> yaml.Node:
    if float(f"{number:.2f}") == number:
        return dumper.represent_scalar("tag:yaml.org,2002:float", f"{number:.2f}")
    return yaml.SafeDumper.represent_float(dumper, number)


_Dumper.add_representer(float, _float)
_Dumper.add_representer(bool, lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:bool", str(value)))
_Dumper.add_representer(_Word, lambda dumper, word: dumper.represent_str(str(word)))
_Dumper.add_representer(_Text, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def _quoted(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_quoted(each) for each in value)
    return _Text(value) if isinstance(value, str) and value not in _PLAIN_WORDS else value


def _frozen(value: Any) -> Any:
    """Lists as tuples, however deep, so that nobody changes a row that two files share."""
    if isinstance(value, dict):
        return {key: _frozen(each) for key, each in value.items()}
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value


def _thawed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _thawed(each) for key, each in value.items()}
    return [_thawed(each) for each in value] if isinstance(value, list | tuple) else value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what} must be a list of rows, got {value!r}")
    return value


def _row(row: Any) -> Row:
    if isinstance(row, list) and len(row) == 4:
        source, repeats, module, args = row
        numbers = source if isinstance(source, list) and source else [source]
        if all(type(n) is int for n in [*numbers, repeats]) and isinstance(module, str) and isinstance(args, list):
            return Row(_frozen(source), repeats, module, _frozen(args))
    raise ValueError(f"a row must be [from, repeats, module, [arguments]], got {row!r}")


# ------------------------------------------------------------------------------------------ 3. a row more, a row less


def insert_row(model: ModelFile, after: int, module: str, args: Sequence[Any], repeats: int = 1) -> ModelFile:
    """The model with a layer behind layer `after`, in the same list of rows, that reads it and takes its place.

    Every later row that read layer `after`, by its number or counted back, reads the new layer: skip connections too
    see its output, and nothing else reads layer `after`. All other rows read what they read before.

    Raises:
        ValueError: There is no layer `after`, or it is the last: behind the head nothing can stand.
    """
    last = len(model.rows) - 1
    if not 0 <= after < last:
        raise ValueError(f"a row can stand behind layers 0 to {last - 1} of {last + 1}, got {after}")
    rows = [_moved(row, i, after, 1) if i > after else row for i, row in enumerate(model.rows)]
    rows.insert(after + 1, Row(-1, repeats, module, _frozen(list(args))))
    return _split(model, rows, len(model.backbone) + (after < len(model.backbone)))


def remove_row(model: ModelFile, index: int) -> ModelFile:
    """The model without layer `index`: what read it reads the layer above it. Undoes `insert_row` exactly.

    Raises:
        ValueError: There is no such layer, it is the first or the last, or does not read the layer above it.
    """
    last = len(model.rows) - 1
    if not 0 < index < last:
        raise ValueError(f"layers 1 to {last - 1} of {last + 1} can be removed, got {index}")
    if model.producers(index) != (index - 1,):
        raise ValueError(f"row {index}, {model.rows[index]}, cannot be removed: it does not read the row above it")
    rows = [_moved(row, i, index, -1) if i > index else row for i, row in enumerate(model.rows)]
    del rows[index]
    return _split(model, rows, len(model.backbone) - (index < len(model.backbone)))


def _moved(row: Row, i: int, at: int, by: int) -> Row:
    """Row `i`, moved by `by`, where the layers from `at` on are moved with it and those above `at` are not."""

    def moved(source: int) -> int:
        if source == -1:
            return source
        moves_too = (source if source >= 0 else i + source) >= at
        if source >= 0:
            return source + by if moves_too else source
        return source if moves_too else source - by

    return replace(row, source=tuple(map(moved, row.source)) if isinstance(row.source, tuple) else moved(row.source))


def _split(model: ModelFile, rows: Sequence[Row], backbone: int) -> ModelFile:
    return replace(model, backbone=tuple(rows[:backbone]), head=tuple(rows[backbone:]))


# ------------------------------------------------------------------------------------------ 4. names


def find_model_file(name: str | Path, folder: Path | None = None) -> Path:
    """The model file that a path or a name stands for, such as yolo11-halo.yaml, yolo11n-halo.yaml or yolo11n.yaml.

    A file of that path comes first, then the files that ship with hatdet, then Ultralytics' own. A letter behind the
    number asks for a scale, and Ultralytics reads it from the name of the file that it is given: where there is a file
    for all scales only, a copy of it under the name with the letter is written. Of the rest of a path, Ultralytics
    would also take `/v3n/` for a scale; here nothing but the file's own name is looked at. A name without a letter, of
    a model that has one file a scale, is the smallest's.

    Args:
        folder: For such copies. By default one in hatdet's cache, another for every content: a copy that is in use
            stays as it is.

    Raises:
        InputError: No file has that name, or it has no such scale.
        OptionsError: The copy cannot be written.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix not in (".yaml", ".yml"):
        path = path.with_name(f"{path.name}.yaml")
    for found in _places(path):
        if found.is_file():
            return found
    letter = scale_letter(path)
    if letter:
        for found in _places(path.with_name(_without_scale(path.name))):
            if found.is_file():
                return _copy(found, path.name, letter, folder)
    else:
        for found in _places(path.with_name(_with_scale(path.name, "n"))):
            if found.is_file():
                return found
    near = [each + Path(name).suffix for each in difflib.get_close_matches(path.stem, _known_names(), n=3)]
    hint = (
        f"did you mean {', '.join(near[:-1])}{' or ' if near[1:] else ''}{near[-1]}?"
        if near
        else "expected a path, or a name such as yolo11n-halo.yaml"
    )
    raise InputError(f"there is no model file {name}: {hint}")


def scale_letter(path: str | Path) -> str:
    """The letter of the scale that Ultralytics reads from a model file's name, or nothing."""
    found = _SCALED.search(Path(path).stem)
    return found.group(1) if found else ""


def stock_model_files() -> dict[str, Path]:
    """Ultralytics' own model files by name."""
    spec = find_spec("ultralytics")
    assert spec is not None
    assert spec.origin is not None
    return {path.name: path for path in sorted((Path(spec.origin).parent / "cfg" / "models").rglob("*.yaml"))}


def _places(path: Path) -> Iterator[Path]:
    """Where a file of that path may be; one with folders is nowhere else."""
    yield path
    if path.parent == Path():
        yield asset("options", "models") / path.name
        stock = stock_model_files()
        if path.name in stock:
            yield stock[path.name]


def _copy(source: Path, name: str, letter: str, folder: Path | None) -> Path:
    scales = read_model_file(source).scales
    if letter not in scales:
        raise InputError(f"{source.name} has no scale {letter!r}: expected one of {', '.join(scales) or 'none'}")
    content = source.read_bytes()
    copy = (folder or cache_dir().parent / "models" / hashlib.sha256(content).hexdigest()[:12]) / name
    if not copy.is_file() or copy.read_bytes() != content:
        write_bytes(copy, content)
    return copy


def _without_scale(name: str) -> str:
    found = _SCALED.search(name)
    return name[: found.start(1)] + name[found.end(1) :] if found else name


def _with_scale(name: str, letter: str) -> str:
    return _UNSCALED.sub(lambda found: found.group() + letter, name, count=1)


def _known_names() -> list[str]:
    names = {path.name for path in asset("options", "models").glob("*.yaml")} | stock_model_files().keys()
    names |= {_with_scale(name, letter) for name in names for letter in "nsmlx"}
    return sorted(name.removesuffix(".yaml") for name in names)
