"""What of a long run over many images is done, and with which settings: a database beside the results.

An image is done when its results are there as they were written, its file is the one that was read, and everything
that they follow from is as it was. So a run that was broken off goes on where it was, one with other settings makes
again what depends on them, and one with nothing left to do writes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from hatdet.core.errors import OptionsError

__all__ = ["FOLDER", "Manifest", "Record", "changed_names", "state_of"]

FOLDER = ".hatdet"  # in the folder of the results; no image is looked for in it
_TABLES = """
CREATE TABLE IF NOT EXISTS settings (key TEXT PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS done (
    result TEXT PRIMARY KEY, source TEXT NOT NULL, state TEXT NOT NULL, files TEXT NOT NULL, settings TEXT NOT NULL,
    report TEXT NOT NULL
);
"""


class Record(Protocol):
    """What of a run is done; a context manager. The methods are those of `Manifest`.

    Attributes:
        changed: names of settings that are not as they were, and for how many images.
    """

    changed: dict[str, int]

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def done(self, source: Path, result: Path, others: Sequence[Path] = ()) -> Any | None: ...
    def files_of(self, result: Path) -> list[Path]: ...
    def put(
        self,
        source: Path,
        state: str,
        result: Path,
        others: Sequence[Path],
        report: Mapping[str, Any],
        states: Mapping[str, str] | None = None,
    ) -> None: ...


class Manifest:
    """The images that are done in a folder; a context manager. What was put survives whatever ends the run.

    Args:
        folder: of the results; `.hatdet/manifest.sqlite` in it is made when something is put.
        settings: everything that results depend on besides their image, as values that JSON has.

    Raises:
        OptionsError: the folder cannot be written, or holds something that is no such database.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        self.folder, self.file = folder, folder / FOLDER / "manifest.sqlite"
        self._settings = json.dumps(dict(settings), sort_keys=True)
        self._key = hashlib.sha256(self._settings.encode()).hexdigest()
        self.changed: dict[str, int] = {}
        self._database: sqlite3.Connection | None = None
        if self.file.exists():
            self._open()

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._database is not None:
            self._database.close()

    def done(self, source: Path, result: Path, others: Sequence[Path] = ()) -> Any | None:
        """What was reported of an image that is done; None of one that is not.

        Args:
            source: the image.
            result: its result that is always written.
            others: more results that are wanted now; all must be there.
        """
        row = self._row(result)
        if row is None:
            return None
        was_source, state, files, settings, report = row
        if was_source != _text(os.path.abspath(source)) or state != state_of(source):  # noqa: PTH100 (resolves no link)
            return None
        if settings != self._key:
            self._count_changes(settings)
            return None
        there = json.loads(files)
        if any(state_of(self.folder / name) != as_written for name, as_written in there.items()):
            return None
        if not {self._name(path) for path in (result, *others)} <= there.keys():
            return None
        return json.loads(report)

    def files_of(self, result: Path) -> list[Path]:
        """All that was written together with a result when it was put last."""
        row = self._row(result)
        return [] if row is None else [self.folder / name for name in json.loads(row[2])]

    def put(
        self,
        source: Path,
        state: str,
        result: Path,
        others: Sequence[Path] = (),
        report: object = True,
        states: Mapping[str, str] | None = None,
    ) -> None:
        """An image is done: its results are written.

        Args:
            source: the image.
            state: of its file before it was read: `state_of`.
            result, others: as of `done`.
            report: what `done` returns later, anything that JSON has; not None.
            states: of the results, by their paths below the folder, where that is known; they are not looked at then.
        """
        files = {self._name(path): state_of(path) for path in (result, *others)} if states is None else dict(states)
        here = os.path.abspath(source)  # noqa: PTH100
        row = _text(self._name(result)), _text(here), state, json.dumps(files), self._key
        database = self._open()
        try:
            with database:
                database.execute("INSERT OR IGNORE INTO settings VALUES (?, ?)", (self._key, self._settings))
                database.execute("INSERT OR REPLACE INTO done VALUES (?, ?, ?, ?, ?, ?)", (*row, json.dumps(report)))
        except sqlite3.Error as error:
            raise OptionsError(f"{self.file} cannot be written: {error}") from error

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                # Put from the thread that writes pictures, asked by the one that computes: never at the same time.
                self._database = sqlite3.connect(self.file, timeout=60, check_same_thread=False)
                self._database.executescript(_TABLES)
            except OSError as error:
                raise OptionsError(f"{self.file.parent} cannot be written: {error.strerror or error}") from error
            except sqlite3.Error as error:
                raise OptionsError(f"{self.file} cannot be used: {error}; remove it to begin again") from error
        return self._database

    def _row(self, result: Path) -> tuple[str, str, str, str, str] | None:
        if self._database is None:
            return None
        asked = "SELECT source, state, files, settings, report FROM done WHERE result = ?"
        try:
            found = self._database.execute(asked, (_text(self._name(result)),)).fetchone()
        except sqlite3.Error as error:
            raise OptionsError(f"{self.file} cannot be used: {error}; remove it to begin again") from error
        return None if found is None else tuple(found)

    def _count_changes(self, settings: str) -> None:
        assert self._database is not None
        found = self._database.execute("SELECT text FROM settings WHERE key = ?", (settings,)).fetchone()
        for name in changed_names(found[0], self._settings):
            self.changed[name] = self.changed.get(name, 0) + 1

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def changed_names(before: str, now: str) -> list[str]:
    """Which settings are not as they were, both as JSON."""
    was, are = json.loads(before), json.loads(now)
    return [name for name in sorted(was.keys() | are.keys()) if was.get(name) != are.get(name)]


def _text(name: str) -> str:
    """A file's name as SQLite takes it: on Linux it need not be valid Unicode."""
    return json.dumps(name)


def state_of(path: Path) -> str:
    """What a file looks like from outside: its size, and when it was written last; empty where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"
