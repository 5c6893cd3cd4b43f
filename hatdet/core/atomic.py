"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

from hatdet.core.errors import OptionsError

__all__ = ["new_file", "write_bytes", "write_text"]


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


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary name beside the target, for a file that is too large to be written at once; renamed in the end.

    Raises:
        OptionsError: the place cannot be written.
    """
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise OptionsError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_text(path: Path, content: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, content.encode())
