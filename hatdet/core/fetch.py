"""Files that the user asked for by name and that have to come over the network, once."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from hatdet.core.atomic import write_text
from hatdet.core.errors import WeightsError

if TYPE_CHECKING:
    import requests

__all__ = ["cache_dir", "fetch", "sha256_of"]

Progress = Callable[[int, int], None]  # bytes so far, bytes in all (0 where the server does not say)

TIMEOUT = 30  # seconds without a byte
PIECE = 2**16  # bytes; of a connection that breaks off whole pieces are kept


def cache_dir() -> Path:
    """Where fetched weights stay: `HATDET_CACHE`, or the user's cache folder."""
    from platformdirs import user_cache_path

    return Path(os.environ.get("HATDET_CACHE") or user_cache_path("hatdet")) / "weights"


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(file: str, urls: Sequence[str], sha256: str | None, progress: Progress | None = None) -> Path:
    """Return the cached file of that name, downloading it if it is not there.

    The addresses are tried in order, and the hash decides. Without a known hash that of the first download is kept
    beside the file and holds from then on. The file appears under its name only when it is whole. What came before a
    connection broke off stays beside it, and the download goes on from there, now or when it is asked for again.

    Raises:
        WeightsError: no address gave the file, with the reason of each; the cache cannot be written.
    """
    target = cache_dir() / file
    remembered = target.with_name(f"{file}.sha256")
    if sha256 is None and remembered.is_file():
        sha256 = remembered.read_text().strip()
    if target.is_file() and sha256 in (None, sha256_of(target)):
        return target
    partial = _Partial(target.with_name(f".{file}.partial"))
    reasons = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.held():
            if target.is_file() and sha256 in (None, sha256_of(target)):  # another process has fetched it meanwhile
                partial.remove()
                return target
            for url in urls:
                reason = _fetched(url, partial, sha256, progress or (lambda done, total: None))
                if reason is None:
                    if sha256 is None:
                        write_text(remembered, sha256_of(partial.path) + "\n")
                    partial.finish(target)
                    return target
                reasons.append(f"{url}: {reason}")
    except OSError as error:
        raise WeightsError(f"{target} cannot be written: {error.strerror or error}") from error
    raise WeightsError(
        f"{file} could not be fetched ({'; '.join(reasons)}). Put the file at {target} yourself, or give its path"
    )


def _fetched(url: str, partial: _Partial, sha256: str | None, progress: Progress) -> str | None:
    """Bring the whole file from one address into `partial`; what went wrong, or None."""
    import requests

    while True:
        before = partial.size
        try:
            resumed = _receive(url, partial, sha256 is not None, progress)
        except requests.HTTPError as error:
            return f"{error.response.status_code} {error.response.reason}"
        except requests.RequestException as error:
            if partial.size > before:  # it broke off: go on from there
                continue
            if partial.size:
                return f"the connection broke off after {partial.size:,} bytes, which are kept"
            return "no connection" if isinstance(error, requests.ConnectionError) else type(error).__name__
        if sha256 in (None, sha256_of(partial.path)):
            return None
        partial.drop()
        if not resumed:
            return "not the expected file (sha256 differs)"
        # What was there was of another file: once more, from the beginning.


def _receive(url: str, partial: _Partial, any_source: bool, progress: Progress) -> bool:
    """Append to `partial` what it lacks of the file at an address; whether it held something of it before.

    Args:
        url: the address.
        partial: what is there already.
        any_source: whether what is there may come from anywhere, since a hash is looked at in the end.
        progress: is told the bytes so far and in all.

    Raises:
        requests.RequestException: no answer, none that helps, or the connection broke off.
    """
    import requests

    headers = {"Accept-Encoding": "identity"}  # bytes of the file itself, so that they can be counted
    if partial.size and (any_source or partial.version.startswith(f"{url} ")):
        headers["Range"] = f"bytes={partial.size}-"
        if not any_source:
            headers["If-Range"] = partial.version.removeprefix(f"{url} ")
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable and "Range" in headers:
            # All of it is there, or it is of another file: the hash will tell.
            if answer.headers.get("Content-Range", "").rpartition("/")[2] == str(partial.size):
                return True
            partial.drop()
            return _receive(url, partial, any_source, progress)
        answer.raise_for_status()
        resumed = answer.headers.get("Content-Range", "").startswith(f"bytes {partial.size}-")
        resumed = resumed and answer.status_code == requests.codes.partial_content
        if not resumed:
            partial.drop()
            partial.note(f"{url} {_version(answer)}" if _version(answer) else "")
        length = answer.headers.get("Content-Length", "")
        total = partial.size + int(length) if length.isdigit() else 0
        for piece in answer.iter_content(PIECE):
            partial.append(piece)
            progress(partial.size, total)
        if partial.size < total:
            raise requests.ConnectionError("the connection broke off")
        return resumed


def _version(answer: requests.Response) -> str:
    """What tells this version of a file from others at its address; empty if nothing does for certain."""
    tag = answer.headers.get("ETag", "")
    return answer.headers.get("Last-Modified", "") if tag.startswith("W/") or not tag else tag


class _Partial:
    """What is there of a file that is fetched, held by one process at a time.

    Beside it stands, in a file of its own, from where it is: an address, and the version of the file there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._source = path.with_name(f"{path.name}.source")
        self._file: BinaryIO | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Open it for appending, once no other process has it."""
        while True:
            with self.path.open("ab") as self._file:
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(self._file, fcntl.LOCK_EX)
                if not self._is_there():  # whoever had it has finished it
                    continue
                self.size = os.fstat(self._file.fileno()).st_size
                try:
                    yield
                finally:
                    if self._is_there() and not self.size:
                        self.remove()  # nothing came
                return

    @property
    def version(self) -> str:
        try:
            return self._source.read_text()
        except OSError:
            return ""

    def note(self, version: str) -> None:
        if version:
            write_text(self._source, version)

    def append(self, piece: bytes) -> None:
        assert self._file is not None
        self._file.write(piece)
        self._file.flush()
        self.size += len(piece)

    def drop(self) -> None:
        """Begin again."""
        assert self._file is not None
        self._file.truncate(0)
        self.size = 0
        self._source.unlink(missing_ok=True)

    def remove(self) -> None:
        for path in (self.path, self._source):
            path.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        """Give it its name."""
        assert self._file is not None
        os.fsync(self._file.fileno())
        self.path.replace(target)
        self._source.unlink(missing_ok=True)

    def _is_there(self) -> bool:
        assert self._file is not None
        return bool(os.fstat(self._file.fileno()).st_nlink) and self.path.exists()
