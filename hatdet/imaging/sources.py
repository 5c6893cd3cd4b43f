"""Which files a command line means, and where the results of each go."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from hatdet.core.errors import OptionsError
from hatdet.imaging.files import IMAGE_SUFFIXES

__all__ = ["Source", "below", "check_results", "find_sources", "pair_by_name", "result_paths"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """One image to work on.

    Attributes:
        path: as given on the command line, joined with what was found below it.
        relative: below the given folder; the bare name for a file that was named itself. Results are written under it,
            so it never leads out of a folder.
        url: where it is, if that is an object store; then `path` only stands for it.
        state: of a file in an object store: what it looked like when it was listed.

    Raises:
        ValueError: it does.
    """

    path: Path
    relative: Path
    url: str | None = None
    state: str | None = None

    @property
    def name(self) -> str:
        """What messages and reports call it."""
        return self.url or str(self.path)

    def __post_init__(self) -> None:
        if below(self.relative) != self.relative:
            raise ValueError(f"a relative path must stay below its folder, got {self.relative}")


def below(path: Path) -> Path:
    """What is left of a path when nothing in it leads out of a folder: no root, no `..`."""
    parts = Path(os.path.normpath(path)).parts
    kept = [part for part in parts if part not in ("..", path.anchor)]
    return Path(*kept)


def find_sources(arguments: Sequence[str | Path], leave_out: Sequence[Path] = ()) -> list[Source]:
    """Expand files, folders (recursively, images only) and globs, in a stable order, each file once.

    A file named by itself is taken whatever its suffix; in folders and globs only images are. What lies below
    one of `leave_out` (the results of earlier runs) is not taken from folders.

    Raises:
        OptionsError: a path that does not exist, a folder or glob without images.
    """
    found: dict[str, Source] = {}
    for argument in arguments:
        if not str(argument):
            raise OptionsError("an input is empty: expected a file, a folder or a glob")
        path = Path(argument)
        try:
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
        except OSError as error:
            raise OptionsError(f"{path} cannot be read: {error.strerror or error}") from error
        if not sources:
            raise OptionsError(nothing)
        for source in sources:
            found.setdefault(_absolute(source.path), source)
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


def check_results(sources: Sequence[Source], results: Iterable[Path]) -> None:
    """Make sure that no result replaces an input, also by way of links, or another result.

    Raises:
        OptionsError: one would.
    """
    real = lru_cache(maxsize=None)(os.path.realpath)  # of folders, of which there are few
    # A file that is written takes the place of a link of its name, so of its path only the folders count.
    inputs = {os.path.realpath(source.path) for source in sources}
    inputs |= {f"{real(source.path.parent)}{os.sep}{source.path.name}" for source in sources}
    taken: set[str] = set()
    for path in results:
        if f"{real(path.parent)}{os.sep}{path.name}" in inputs:
            raise OptionsError(f"{path} is an input and would be overwritten: give another folder with -o")
        if _key(path) in taken:
            raise OptionsError(f"two different results would be written to {path}: give another folder with -o")
        taken.add(_key(path))


def pair_by_name(
    sources: Sequence[Source], references: Sequence[Source]
) -> tuple[list[tuple[Source, Source]], list[Source]]:
    """Pairs with the same relative path, suffixes aside, and the sources that have no reference."""
    known = {reference.relative.with_suffix(""): reference for reference in references}
    names = [(source, source.relative.with_suffix("")) for source in sources]
    pairs = [(source, known[name]) for source, name in names if name in known]
    return pairs, [source for source, name in names if name not in known]


def _absolute(path: Path) -> str:
    """One spelling for each file; links are left alone, so that each has its own result."""
    return os.path.abspath(path)  # noqa: PTH100 (Path.absolute keeps "..")


def _key(path: Path) -> str:
    return str(path).casefold()


def _images_below(folder: Path, leave_out: Sequence[Path]) -> list[Path]:
    left_out = {_absolute(path) for path in leave_out}
    files: list[Path] = []
    for root, folders, names in os.walk(folder, onerror=_not_entered):
        here = Path(root)
        folders[:] = sorted(name for name in folders if _absolute(here / name) not in left_out)
        files += [here / name for name in sorted(names) if _is_image(here / name)]
    return files


def _from_glob(pattern: str, leave_out: Sequence[Path]) -> list[Source]:
    """Files that match, and the images below folders that match."""
    sources = []
    for match in sorted(glob.glob(pattern, recursive=True)):
        path = Path(match)
        if path.is_dir():
            if "**" not in pattern:  # with it the files below match by themselves
                sources += [
                    Source(f, below(Path(path.name) / f.relative_to(path))) for f in _images_below(path, leave_out)
                ]
        elif _is_image(path):
            fixed = Path(*_fixed_parts(pattern))
            sources.append(Source(path, below(path.relative_to(fixed))))  # a pattern may hold `..` after a wildcard
    return sources


def _fixed_parts(pattern: str) -> list[str]:
    """The leading folders of a pattern that hold no wildcard."""
    parts = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return parts


def _not_entered(error: OSError) -> None:
    log.warning("%s is left out: %s", error.filename, error.strerror)


def _is_image(path: Path) -> bool:
    """By its name; pipes and devices are not, broken links are and will fail with a reason."""
    if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
        return False
    return path.is_symlink() or path.is_file()
