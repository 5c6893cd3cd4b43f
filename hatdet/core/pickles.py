"""What a checkpoint wanted that was refused: PyTorch's restricted loading says it in a paragraph, and not always."""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["refused_name"]

_IN_MESSAGES = re.compile(r"GLOBAL (\w[\w.]*)|but got <class '([\w.]+)'>|(unsafe getattr\([^)]*\))")
_HARMLESS = ("torch.", "collections.", "numpy.", "ultralytics.")  # a checkpoint may ask for them
_LARGEST_PICKLE = 64 * 2**20  # its tensors are beside it
_PICKLES = 8  # in a file of before PyTorch 1.6: a number, a version, a machine, the content


def refused_name(path: Path, error: BaseException) -> str | None:
    """The class or function, `module.name`, for which restricted loading refused a file; None if it was not that.

    Nothing of the file is run.

    Args:
        path: the file.
        error: what its loading raised.
    """
    cause: BaseException | None = error
    while cause is not None:
        found = _IN_MESSAGES.search(str(cause))
        if found:
            name = next(group for group in found.groups() if group)
            return name if "." in name else f"builtins.{name}"  # as PyTorch spells it
        cause = cause.__cause__
    try:
        names = list(_names(path))
    except Exception:  # no pickle, or a damaged one: then it was refused for that
        return None
    return next((name for name in names if not name.startswith(_HARMLESS)), None)


def _names(path: Path) -> Iterator[str]:
    """Everything that the pickles of a file look up."""
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                for name in archive.namelist():
                    if name.endswith(".pkl"):
                        with archive.open(name) as member:
                            yield from _looked_up(io.BytesIO(member.read(_LARGEST_PICKLE)))
        else:
            file.seek(0)
            content = io.BytesIO(file.read(_LARGEST_PICKLE))
            for _ in range(_PICKLES):
                yield from _looked_up(content)


def _looked_up(pickle: BinaryIO | io.BytesIO) -> Iterator[str]:
    """What one pickle looks up. The names for a lookup on the stack are the last two texts that were put there."""
    texts: list[str] = []
    memo: dict[int, str] = {}
    memoized = 0
    try:
        for opcode, argument, _ in pickletools.genops(pickle):
            if opcode.name in ("GLOBAL", "INST"):
                yield re.sub(r"^__builtin__\.", "builtins.", str(argument).replace(" ", "."))  # Python 2's name
            elif opcode.name == "STACK_GLOBAL":
                yield ".".join(texts[-2:])
            elif opcode.name == "MEMOIZE" or "PUT" in opcode.name:
                if texts:
                    memo[memoized if opcode.name == "MEMOIZE" else int(argument or 0)] = texts[-1]
                memoized += 1
            elif "GET" in opcode.name and isinstance(argument, int):
                texts.append(memo.get(argument, "?"))
            elif isinstance(argument, str):
                texts.append(argument)
    except ValueError:  # the end of the file
        return
