"""What of a run on a cluster is done, as Parquet: the results themselves and the manifest in one.

`results.parquet/` below the results has a row for each image: what it is, what was made of it and with which settings,
and its boxes. Each part is written at once, so whatever ends a run, no image stands in it by half, and a second
run goes on from there. A part may be written where only whole objects can be: on S3.
"""

from __future__ import annotations

import io
import json
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from hatdet.core.atomic import write_bytes
from hatdet.core.errors import OptionsError
from hatdet.runs.manifest import changed_names, state_of
from hatdet.runs.storage import StoredFolder

__all__ = ["FOLDER", "LocalFolder", "Parts", "read_parts"]

FOLDER = "results.parquet"  # a folder that readers of Parquet take for one table
ROWS, SECONDS = 1000, 30.0  # after so many images, or so long, a part is written
_BOX = ("x1", "y1", "x2", "y2", "confidence", "class_id", "class_name", "more")


class Folder(Protocol):
    """Where results are."""

    def states(self) -> dict[str, str]: ...
    def read(self, name: str) -> bytes: ...
    def write(self, name: str, content: bytes) -> None: ...
    def remove(self, name: str) -> None: ...


class LocalFolder:
    """A folder of this machine, or one that all machines see."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def states(self) -> dict[str, str]:
        """The state of each file, by its path below."""
        files = (file for file in self.path.rglob("*") if file.is_file()) if self.path.is_dir() else ()
        return {file.relative_to(self.path).as_posix(): state_of(file) for file in files}

    def read(self, name: str) -> bytes:
        """A file below."""
        return (self.path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Write a file below, whole or not at all."""
        write_bytes(self.path / name, content)

    def remove(self, name: str) -> None:
        """Remove a file below, if it is there."""
        (self.path / name).unlink(missing_ok=True)


class Parts:
    """The same as `Manifest`, for runs on a cluster; a context manager.

    Args:
        folder: of the results.
        output: the path that stands for it in the paths of results.
        settings: everything that results depend on besides their image, as values that JSON has.
        stored: of images in object stores, by the paths that stand for them: URL, and state when they were listed.

    Raises:
        OptionsError: the parts cannot be read.
    """

    def __init__(
        self,
        folder: StoredFolder | LocalFolder,
        output: Path,
        settings: Mapping[str, object],
        stored: Mapping[Path, tuple[str, str]] | None = None,
    ) -> None:
        self._folder, self._output, self._stored = folder, output, stored or {}
        self._settings = json.dumps(dict(settings), sort_keys=True)
        self.changed: dict[str, int] = {}
        self._there = {_text(name): state for name, state in folder.states().items()}
        self._before = {row["result"]: row for row in read_parts(folder, self._there)}
        self._replaced = False  # whether an image has a row of before and one of now
        self._rows: list[dict[str, Any]] = []
        self._written_at = time.monotonic()

    def __enter__(self) -> Parts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()
        if self._replaced:
            self._join()

    def done(self, source: Path, result: Path, others: Sequence[Path] = ()) -> Any | None:
        """What was reported of an image that is done; None of one that is not. As of `Manifest`."""
        row = self._before.get(self._name(result))
        if row is None or row["source"] != self._called(source):
            return None
        if row["state"] != (self._stored[source][1] if source in self._stored else state_of(source)):
            return None
        if row["settings"] != self._settings:
            for name in changed_names(row["settings"], self._settings):
                self.changed[name] = self.changed.get(name, 0) + 1
            return None
        files = dict(json.loads(row["files"]))
        if any(self._there.get(name) != state for name, state in files.items()):
            return None
        if not {self._name(path) for path in (result, *others)} <= files.keys():
            return None
        return _report(row)

    def files_of(self, result: Path) -> list[Path]:
        """All that was written together with a result when it was put last."""
        row = self._before.get(self._name(result))
        return [] if row is None else [self._output / name for name in json.loads(row["files"])]

    def put(
        self,
        source: Path,
        state: str,
        result: Path,
        others: Sequence[Path] = (),
        report: Mapping[str, Any] | None = None,
        states: Mapping[str, str] | None = None,
    ) -> None:
        """An image is done: its results are written. As of `Manifest`.

        Args:
            states: of the results, by their names, where that is known; they are not looked at then.
        """
        files = {}
        for path in (result, *others):
            name = path.relative_to(self._output).as_posix()
            files[_text(name)] = state_of(path) if states is None else states[name]
        name = self._name(result)
        said = dict(report or {})
        boxes = said.get("detections")
        if boxes is not None:
            said["detections"] = None  # its place among the others
        row = {
            "source": self._called(source),
            "state": state,
            "result": name,
            "files": json.dumps(files),
            "settings": self._settings,
            "report": json.dumps(said),
            "detections": None if boxes is None else [_box(box) for box in boxes],
        }
        self._replaced |= name in self._before
        self._rows.append(row)
        self._before[name] = row
        if len(self._rows) >= ROWS or time.monotonic() - self._written_at > SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what was put since the last part."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._written_at = time.monotonic()
        if not self._rows:
            return
        content = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(self._rows, _schema()), content, compression="zstd")
        # By the time, so that of two rows of an image the later one counts; runs that write together do not meet.
        name = f"{FOLDER}/{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet"
        self._folder.write(name, content.getvalue())
        self._rows = []

    def _join(self) -> None:
        """One part for all, in which every image has one row: whoever reads the folder sees no image twice."""
        names = [name for name in self._folder.states() if _is_part(name)]
        self._rows = read_parts(self._folder, dict.fromkeys(names, ""))
        self.flush()
        for name in names:
            self._folder.remove(name)

    def _called(self, source: Path) -> str:
        return _text(self._stored[source][0] if source in self._stored else os.path.abspath(source))  # noqa: PTH100

    def _name(self, path: Path) -> str:
        return _text(path.relative_to(self._output).as_posix())


def read_parts(folder: StoredFolder | LocalFolder, there: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """The rows of all parts below the results; of several of one image the last.

    Raises:
        OptionsError: a part cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = folder.states() if there is None else there
    rows = {}
    for name in sorted(name for name in names if _is_part(name)):
        try:
            found = pq.read_table(io.BytesIO(folder.read(name))).cast(_schema()).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise OptionsError(f"{name} is no part of a run: {' '.join(str(error).split())}; remove it") from error
        rows.update({row["result"]: row for row in found})
    return list(rows.values())


def _text(name: str) -> str:
    """A file's name as Parquet takes it: on Linux it need not be valid Unicode."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _is_part(name: str) -> bool:
    return name.startswith(f"{FOLDER}/") and name.endswith(".parquet")


def _schema() -> Any:
    import pyarrow as pa

    box = [pa.field(name, pa.float64()) for name in _BOX[:5]]
    box += [pa.field("class_id", pa.int64()), pa.field("class_name", pa.string()), pa.field("more", pa.string())]
    texts = ("source", "state", "result", "files", "settings", "report")
    return pa.schema([*((name, pa.string()) for name in texts), ("detections", pa.list_(pa.struct(box)))])


def _box(said: Mapping[str, Any]) -> dict[str, Any]:
    """A box of a report as columns; what not every box has (corners, polygons, keypoints, crop) as JSON."""
    more = {key: value for key, value in said.items() if key not in ("xyxy", *_BOX) and value is not None}
    x1, y1, x2, y2 = said["xyxy"]
    return {
        **dict(zip(_BOX, (x1, y1, x2, y2, said["confidence"], said["class_id"], said["class_name"]), strict=False)),
        "more": json.dumps(more) if more else None,
    }


def _report(row: Mapping[str, Any]) -> dict[str, Any]:
    """What `put` was told."""
    said: dict[str, Any] = json.loads(row["report"])
    if row["detections"] is not None:
        optional = dict.fromkeys(("corners", "polygons", "keypoints", "crop", "track_id"))
        said["detections"] = [
            {
                "xyxy": [box[name] for name in _BOX[:4]],
                **{name: box[name] for name in _BOX[4:7]},
                **optional,
                **json.loads(box["more"] or "{}"),
            }
            for box in row["detections"]
        ]
    return said
