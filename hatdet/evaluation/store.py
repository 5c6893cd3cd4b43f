"""What an evaluation has already made: upscaled pictures, detections, fidelity; kept between runs by their content.

A key is a hash of the pixels that went in and of all settings that matter, so a changed image, network or option is
never mistaken for an old one, and a run that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hatdet.core.errors import OptionsError
from hatdet.core.types import Image
from hatdet.imaging.files import read_image, to_array, write_image

__all__ = ["Store", "StoredDetections", "key_of", "pixels_hash"]

_TABLES = """
CREATE TABLE IF NOT EXISTS pictures (key TEXT PRIMARY KEY, milliseconds REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS detections (key TEXT PRIMARY KEY, boxes BLOB, milliseconds REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fidelity (key TEXT PRIMARY KEY, numbers TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS images (key TEXT PRIMARY KEY, row TEXT) WITHOUT ROWID;
"""


@dataclass(frozen=True, eq=False)
class StoredDetections:
    """What a detector said of one image.

    Attributes:
        boxes: `(n, 6)` float32: x1, y1, x2, y2 in source pixels, confidence, the detector's class id.
        milliseconds: how long the detector took when it said so.
    """

    boxes: NDArray[np.float32]
    milliseconds: float


def pixels_hash(image: Image) -> str:
    """A hash of what the image shows, as it would be saved; where it was read from does not matter."""
    array = np.ascontiguousarray(to_array(image))
    digest = hashlib.blake2b(array.data, digest_size=16)
    digest.update(f"{array.shape} {array.dtype}".encode())
    return digest.hexdigest()


def key_of(*parts: object) -> str:
    """One key for all parts; they must print alike in every run."""
    return hashlib.blake2b(json.dumps([str(part) for part in parts]).encode(), digest_size=16).hexdigest()


class Store:
    """A folder of pictures and a database of numbers; a context manager. What was committed survives the run.

    Raises:
        OptionsError: the folder cannot be written, or holds something that is no such database.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # A worker may be called from another thread than it began in, never from two at a time.
            self._database = sqlite3.connect(folder / "results.sqlite", timeout=60, check_same_thread=False)
            self._database.executescript(_TABLES)
        except OSError as error:
            raise OptionsError(f"{folder} cannot be written: {error.strerror or error}") from error
        except sqlite3.Error as error:
            raise OptionsError(f"{folder / 'results.sqlite'} cannot be used: {error}") from error

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def detections(self, key: str) -> StoredDetections | None:
        """What was put under the key, or None."""
        row = self._one("SELECT boxes, milliseconds FROM detections WHERE key = ?", key)
        if row is None:
            return None
        return StoredDetections(np.frombuffer(row[0], np.float32).reshape(-1, 6), float(row[1]))

    def put_detections(self, key: str, found: StoredDetections) -> None:
        boxes = np.ascontiguousarray(found.boxes, np.float32).tobytes()
        self._put("INSERT OR REPLACE INTO detections VALUES (?, ?, ?)", key, boxes, found.milliseconds)

    def fidelity(self, key: str) -> dict[str, float] | None:
        """Numbers by their names, or None."""
        row = self._one("SELECT numbers FROM fidelity WHERE key = ?", key)
        return None if row is None else json.loads(row[0])

    def put_fidelity(self, key: str, numbers: Mapping[str, float]) -> None:
        self._put("INSERT OR REPLACE INTO fidelity VALUES (?, ?)", key, json.dumps(numbers))

    def image(self, key: str) -> dict[str, Any] | None:
        """What is known of a whole image, or None."""
        row = self._one("SELECT row FROM images WHERE key = ?", key)
        return None if row is None else json.loads(row[0])

    def put_image(self, key: str, row: Mapping[str, Any]) -> None:
        self._put("INSERT OR REPLACE INTO images VALUES (?, ?)", key, json.dumps(row))

    def clear(self) -> None:
        """Forget everything, pictures too."""
        for table in ("pictures", "detections", "fidelity", "images"):
            self._database.execute(f"DELETE FROM {table}")  # noqa: S608 (our own names)
        self.commit()
        shutil.rmtree(self.folder / "pictures", ignore_errors=True)

    def picture(self, key: str) -> Image | None:
        """The picture of that key, or None."""
        path = self._picture_path(key)
        return read_image(path) if path.is_file() else None

    def picture_milliseconds(self, key: str) -> float | None:
        """How long the picture took to make when it was made, or None."""
        row = self._one("SELECT milliseconds FROM pictures WHERE key = ?", key)
        return None if row is None else float(row[0])

    def put_picture(self, key: str, image: Image, milliseconds: float) -> None:
        self._put("INSERT OR REPLACE INTO pictures VALUES (?, ?)", key, milliseconds)
        write_image(image, self._picture_path(key))

    def commit(self) -> None:
        """Keep what was put since the last time, whatever happens from now on. Once an image: it waits for the disk."""
        try:
            self._database.commit()
        except sqlite3.Error as error:
            raise OptionsError(f"{self.folder / 'results.sqlite'} cannot be written: {error}") from error

    def _picture_path(self, key: str) -> Path:
        return self.folder / "pictures" / key[:2] / f"{key}.png"  # no folder of a million files

    def _one(self, query: str, key: str) -> Any:
        return self._database.execute(query, (key,)).fetchone()

    def _put(self, query: str, *values: object) -> None:
        try:
            self._database.execute(query, values)
        except sqlite3.Error as error:
            raise OptionsError(f"{self.folder / 'results.sqlite'} cannot be written: {error}") from error
