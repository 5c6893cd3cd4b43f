"""Which files a command line means, and where the results of each go."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hatdet.core.errors import OptionsError
from hatdet.imaging.files import IMAGE_SUFFIXES

__all__ = ["Source", "find_sources", "result_paths"]


@dataclass(frozen=True)
class Source:
    """One image to work on.

    Attributes:
        path: as given on the command line, joined with what was found below it.
        relative: below the given folder; the bare name for a file that was named itself.
    """

    path: Path
    relative: Path


def find_sources(arguments: Sequence[str | Path], leave_out: Path | None = None) -> list[Source]:
    """Expand files, folders (recursively, images only) and globs, in a stable order, each file once.

    A file named by itself is taken whatever its suffix; in folders and globs only images are. What lies below
    `leave_out` (the results of an earlier run) is not taken from folders.

    Raises:
        OptionsError: a path that does not exist, a folder or glob without images.
    """
    found: dict[Path, Source] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            sources = [Source(file, file.relative_to(path)) for file in _images_below(path, leave_out)]
            nothing = f"{path} contains no images ({', '.join(sorted(IMAGE_SUFFIXES))})"
        elif path.exists():
            sources, nothing = [Source(path, Path(path.name))], ""
        elif glob.has_magic(str(argument)):
            sources = _from_glob(str(argument), leave_out)
            nothing = f"{argument} matches no images"
        else:
            raise OptionsError(f"{path} does not exist")
        if not sources:
            raise OptionsError(nothing)
        for source in sources:
            found.setdefault(source.path.resolve(), source)
    return list(found.values())


def result_paths(sources: Sequence[Source], folder: Path, suffix: str = ".png") -> list[Path]:
    """Where the result of each source goes: `folder`, its relative path, and `suffix` instead of its own.

    Where two would meet (`a.png`, `a.jpg`) both keep their own suffix in front of it (`a.jpg.png`).

    Raises:
        OptionsError: two sources from different folders that would still meet.
    """
    short = [folder / source.relative.with_suffix(suffix) for source in sources]
    # Case-insensitive file systems would let A.png and a.png meet.
    counts: dict[str, int] = {}
    for path in short:
        counts[_key(path)] = counts.get(_key(path), 0) + 1
    paths = [
        folder / source.relative.with_name(source.relative.name + suffix) if counts[_key(path)] > 1 else path
        for source, path in zip(sources, short, strict=True)
    ]
    taken: dict[str, Source] = {}
    for source, path in zip(sources, paths, strict=True):
        other = taken.setdefault(_key(path), source)
        if other is not source:
            raise OptionsError(f"{other.path} and {source.path} would both be written to {path}: give one folder a run")
    return paths


def _key(path: Path) -> str:
    return str(path).casefold()


def _images_below(folder: Path, leave_out: Path | None) -> list[Path]:
    left_out = leave_out.resolve() if leave_out is not None else None
    files: list[Path] = []
    for root, folders, names in os.walk(folder):
        here = Path(root)
        folders[:] = sorted(name for name in folders if (here / name).resolve() != left_out)
        files += [here / name for name in sorted(names) if _is_image(here / name)]
    return files


def _from_glob(pattern: str, leave_out: Path | None) -> list[Source]:
    """Files that match, and the images below folders that match."""
    sources = []
    for match in sorted(glob.glob(pattern, recursive=True)):
        path = Path(match)
        if path.is_dir():
            if "**" not in pattern:  # with it the files below match by themselves
                sources += [Source(f, Path(path.name) / f.relative_to(path)) for f in _images_below(path, leave_out)]
        elif _is_image(path):
            fixed = Path(*_fixed_parts(pattern))
            sources.append(Source(path, path.relative_to(fixed)))
    return sources


def _fixed_parts(pattern: str) -> list[str]:
    """The leading folders of a pattern that hold no wildcard."""
    parts = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return parts


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
