"""Folders of images as one LMDB file, in BasicSR's layout, and what an encoded image is.

    NAME.lmdb/data.mdb        the files' own bytes, by key
    NAME.lmdb/lock.mdb
    NAME.lmdb/meta_info.txt   a line for each image: `key.png (h,w,c) compress_level`

A key is the image's path below its folder without the suffix (`street/a`). BasicSR reads it up to the first dot and
looks it up in ASCII, so no other keys are written.
"""

from __future__ import annotations

import io
import secrets
import shutil
import struct
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import PIL.Image

from hatdet.core.errors import InputError, OptionsError

__all__ = [
    "EncodedImage",
    "LmdbReader",
    "inspect_image",
    "is_complete",
    "lmdb_key",
    "lmdb_keys",
    "require_lmdb",
    "write_lmdb",
]

META_INFO = "meta_info.txt"
# How `imaging.files` and OpenCV compress PNGs; BasicSR notes it and does not read it.
COMPRESS_LEVEL = 1
LONGEST_KEY = 511  # bytes, LMDB's own limit
FIRST_MAP_BYTES = 64 * 2**20
BATCH_BYTES = 64 * 2**20

FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")  # that any OpenCV, which BasicSR reads with, decodes
_KINDS = {
    "1": (1, "grey"),
    "L": (1, "grey"),
    "I": (1, "grey"),
    "F": (1, "grey"),
    "LA": (2, "grey and alpha"),
    "La": (2, "grey and alpha"),
    "P": (3, "RGB"),
    "PA": (4, "RGB and alpha"),
    "RGBA": (4, "RGB and alpha"),
    "RGBa": (4, "RGB and alpha"),
    "CMYK": (4, "CMYK"),
}


@dataclass(frozen=True)
class EncodedImage:
    """What a file holds: pixels (as a reader that turns them upright sees them), channels, and what those are."""

    height: int
    width: int
    channels: int
    kind: str


def inspect_image(data: bytes, name: object) -> EncodedImage:
    """Decode an encoded image fully, strictly and as training will, and say what it is.

    May run in threads: no warning filter is touched, so that Pillow's remarks on odd files are the caller's to silence.

    Raises:
        InputError: it is no image (JPEG, PNG, WebP, TIFF, BMP), or it is damaged; the message starts with `name`.
    """
    _, _, channels, kind = _header(data, name, decode=True)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise InputError(f"{name} is damaged: {' '.join(str(error).split())}") from error
    if pixels is None:
        raise InputError(f"{name} is damaged: OpenCV, which training reads images with, cannot decode it")
    return EncodedImage(pixels.shape[0], pixels.shape[1], channels, kind)


def lmdb_key(relative: PurePath) -> str:
    """The key of an image: its path below the folder, without the suffix.

    Raises:
        OptionsError: BasicSR could not look the key up (a dot, a letter outside ASCII), or LMDB not hold it.
    """
    key = relative.with_suffix("").as_posix()
    for wrong, why in (
        ("." in key, "BasicSR reads keys of an LMDB up to their first dot"),
        (not key.isascii(), "BasicSR looks keys of an LMDB up in ASCII"),
        (len(key) > LONGEST_KEY, f"keys of an LMDB have at most {LONGEST_KEY} bytes"),
    ):
        if wrong:
            raise OptionsError(f"{relative} cannot be put in an LMDB: {why}; rename it, or use the files as they are")
    return key


def lmdb_keys(folder: Path) -> list[str]:
    """The keys that BasicSR finds in the `meta_info.txt` of an LMDB, in its order.

    Raises:
        InputError: it has none, or one that cannot be read.
    """
    path = folder / META_INFO
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        why = f"it has no {META_INFO}" if isinstance(error, FileNotFoundError) else error.strerror or error
        raise InputError(f"{folder} cannot be read as an LMDB of images: {why}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text") from error
    return [line.split(".")[0] for line in text.splitlines() if line.strip()]


def is_complete(folder: Path, keys: Iterable[str]) -> bool:
    """Whether an LMDB of exactly these keys is there. One that is there at all is whole: it was renamed into place."""
    if not (folder / "data.mdb").is_file() or not (folder / META_INFO).is_file():
        return False
    return sorted(lmdb_keys(folder)) == sorted(keys)


def require_lmdb() -> ModuleType:
    """The `lmdb` package.

    Raises:
        OptionsError: it is not installed.
    """
    try:
        import lmdb
    except ImportError as error:
        raise OptionsError("LMDB files need the lmdb package, which is not installed here: pip install lmdb") from error
    return lmdb


def write_lmdb(images: Iterable[tuple[str, Path]], folder: Path, first_map_bytes: int = FIRST_MAP_BYTES) -> None:
    """Put image files under their keys into an LMDB in BasicSR's layout, byte for byte.

    It is there whole or not at all; one that is there is replaced. LMDB wants to know how large it may become: it is
    given `first_map_bytes`, and twice as much whenever that is full.

    Raises:
        InputError: a file that cannot be read, or is no image.
        OptionsError: the place cannot be written, no `lmdb` package, a key that occurs twice.
        ValueError: a folder whose name does not end with `.lmdb`.
    """
    lmdb = require_lmdb()
    if folder.suffix != ".lmdb":
        raise ValueError(f"an LMDB's folder must be named *.lmdb, got {folder}")
    token = secrets.token_hex(4)
    temporary, former = (folder.with_name(f".{folder.name[:40]}.{token}.{end}") for end in ("part", "old"))
    try:
        temporary.mkdir(parents=True)
        # Nothing reads it before it is renamed, so it goes to the disk once, at the end.
        with lmdb.open(str(temporary), map_size=first_map_bytes, sync=False) as environment:
            lines = {}
            for batch in _batches(images):
                for key, _, line in batch:
                    if key in lines:
                        raise OptionsError(f"two images would have the key {key} in {folder}")
                    lines[key] = line
                _put(environment, batch, lmdb.MapFullError)
            environment.sync(True)
        (temporary / META_INFO).write_text("".join(lines[key] for key in sorted(lines)), encoding="utf-8")
        if folder.exists():
            folder.rename(former)
        temporary.rename(folder)
    except (OSError, lmdb.Error) as error:
        raise OptionsError(f"{folder} cannot be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        for left in (temporary, former):
            shutil.rmtree(left, ignore_errors=True)


class LmdbReader:
    """The images of an LMDB by key; a context manager. May be read from threads.

    Raises:
        InputError: the folder holds no LMDB.
        OptionsError: no `lmdb` package.
    """

    def __init__(self, folder: Path) -> None:
        lmdb = require_lmdb()
        self.folder = folder
        if not (folder / "data.mdb").is_file():
            raise InputError(f"{folder} cannot be read as an LMDB of images: it has no data.mdb")
        try:
            self._environment = lmdb.open(str(folder), readonly=True, lock=False, readahead=False)
        except (OSError, lmdb.Error) as error:
            raise InputError(f"{folder} cannot be read as an LMDB of images: {error}") from error

    def read(self, key: str) -> bytes:
        """The encoded image under a key.

        Raises:
            InputError: there is none.
        """
        with self._environment.begin() as transaction:
            data: bytes | None = transaction.get(key.encode())
        if data is None:
            raise InputError(f"{key} is not in {self.folder}")
        return data

    def __enter__(self) -> LmdbReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._environment.close()


def _header(data: bytes, name: object, *, decode: bool = False) -> tuple[int, int, int, str]:
    """Height, width, channels and their kind, as Pillow reads them; with `decode`, of an image that is whole."""
    if not data:
        raise InputError(f"{name} is not an image: the file is empty")
    try:
        PIL.Image.init()  # formats named to open() must have been loaded
        with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            mode = "I" if opened.mode.startswith("I;") else opened.mode
            channels, kind = _KINDS.get(mode, (3, "RGB"))
            if mode == "P" and "transparency" in opened.info:
                channels, kind = _KINDS["PA"]
            width, height = opened.size
            if decode and opened.format == "PNG":
                opened.verify()  # its checksums: what they cover is what the writer wrote
            elif decode:
                opened.load()
    # ImportError: once ultralytics is loaded, Pillow's open looks for a HEIF plug-in before it gives up.
    except (PIL.UnidentifiedImageError, ImportError) as error:
        raise InputError(f"{name} is not an image that can be read (JPEG, PNG, WebP, TIFF, BMP)") from error
    except PIL.Image.DecompressionBombError as error:
        raise InputError(f"{name} has more pixels than are read at once: {error}") from error
    # Decoders raise all of these on damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error) as error:
        raise InputError(f"{name} is damaged: {error}") from error
    return height, width, channels, kind


Entry = tuple[str, bytes, str]


def _batches(images: Iterable[tuple[str, Path]]) -> Iterator[list[Entry]]:
    """Keys, bytes and `meta_info` lines, as many at a time as one transaction takes."""
    batch: list[Entry] = []
    held = 0
    for key, path in images:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
        with _quiet():
            height, width, channels, _ = _header(data, path)
        batch.append((key, data, f"{key}.png ({height},{width},{channels}) {COMPRESS_LEVEL}\n"))
        held += len(data)
        if held >= BATCH_BYTES:
            yield batch
            batch, held = [], 0
    yield batch


def _put(environment: Any, batch: Sequence[Entry], full: type[Exception]) -> None:
    """One transaction, again with twice the map as long as the map is full."""
    while True:
        try:
            with environment.begin(write=True) as transaction:
                for key, data, _ in batch:
                    transaction.put(key.encode(), data)
        except full:
            environment.set_mapsize(2 * environment.info()["map_size"])
        else:
            return


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd but readable files
        yield
