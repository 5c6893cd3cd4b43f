"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from hatdet.core.errors import OptionsError

__all__ = ["write_bytes", "write_text", "written_whole"]


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write under a temporary name beside the target, then rename; the folders are made.

    Raises:
        OptionsError: the place cannot be written.
    """
    # Not tempfile's: its files are the owner's alone, a result is as readable as any file the user makes.
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content)
        temporary.replace(path)
    except OSError as error:
        raise OptionsError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_text(path: Path, content: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, content.encode())


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside the target, for a file that is written bit by bit; its folders are made.

    It takes the target's name when the block ends, if there is a file by then, and is removed when the block fails.

    Raises:
        OptionsError: the place cannot be written.
    """
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.part")
    try:
        with _said_of(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with _said_of(path):
            if temporary.exists():
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
                temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def _said_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OptionsError(f"{path} cannot be written: {error.strerror or error}") from error
