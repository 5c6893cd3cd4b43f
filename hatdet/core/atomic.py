"""Files that are there whole or not at all, also after the power failed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hatdet.core.errors import OptionsError

__all__ = ["write_bytes", "write_text", "written_whole"]

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.part")
_SWEPT: set[str] = set()  # folders in which this process has looked for what others left
_SWEEPING = threading.Lock()


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write under a temporary name beside the target, bring it to the disk, then rename; the folders are made.

    Whatever ends the process or the machine, there is the old file or the new one under the name, and none is cut off.
    A temporary file of a process that was killed goes when another process writes to that folder.

    Raises:
        OptionsError: the place cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        temporary, file = _begun(path)
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a rename may reach the disk before what it names
            temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OptionsError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def write_text(path: Path, content: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, content.encode())


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside the target, for a file that is written bit by bit; its folders are made.

    There is an empty file already, locked for as long as the block runs. If more is in it when the block ends it is
    brought to the disk and takes the target's name; when the block fails it is removed. As with `write_bytes` there
    is the old file or the whole new one under the name, whatever ends the process.

    Raises:
        OptionsError: the place cannot be written.
    """
    with _said_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        temporary, lock = _begun(path)
    try:
        with lock:
            yield temporary
            with _said_of(path):
                if temporary.exists() and temporary.stat().st_size:
                    with temporary.open("rb+") as file:
                        os.fsync(file.fileno())
                    temporary.replace(path)
                    _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def _said_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OptionsError(f"{path} cannot be written: {error.strerror or error}") from error


def _begun(path: Path) -> tuple[Path, BinaryIO]:
    """A new file beside `path`, locked for as long as it is open: who holds no lock any more was killed."""
    while True:
        # Not tempfile's: its files are the owner's alone, a result is as readable as any file the user makes.
        temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.part")
        file = temporary.open("xb")
        with contextlib.suppress(OSError):  # where a file system has no locks, nothing is swept either
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return temporary, file
        file.close()  # swept by another process before it was locked


def _sweep(folder: Path) -> None:
    """Remove the temporary files that nobody writes any more, the first time in this process."""
    with _SWEEPING:
        key = os.path.abspath(folder)  # noqa: PTH100 (no system call a part)
        if key in _SWEPT:
            return
        _SWEPT.add(key)
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if _TEMPORARY.fullmatch(entry.name)]
        for name in names:
            with contextlib.suppress(OSError), (folder / name).open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (folder / name).unlink()


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk. Some file systems (of networks, say) do not offer that for folders."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
