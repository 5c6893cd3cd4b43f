"""Folders of an object store, as fsspec reads and writes them: `s3://bucket/folder`, `gs://...`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from hatdet.core.errors import InputError, OptionsError

__all__ = ["StoredFile", "StoredFolder", "is_url", "local_path", "path_of", "url_of", "with_urls"]

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
# What a path makes of a URL: of the slashes one. Only protocols of object stores are taken for one.
_STANDS_FOR_URL = re.compile(r"(?<![\w./:-])([A-Za-z][A-Za-z0-9+.-]+):/(?=[^/\s])")


def is_url(text: str) -> bool:
    """Whether it names a place by its protocol."""
    return bool(_URL.match(text))


def local_path(text: str) -> str:
    """Of a `file://` URL its path, of everything else itself."""
    return text.removeprefix("file://") if text.startswith("file://") else text


def path_of(url: str) -> Path:
    """A path that stands for a URL where only a path will do: it is never opened."""
    return Path(url)


def url_of(path: Path) -> str | None:
    """The URL that a path stands for; None of a path of this machine."""
    match = _STANDS_FOR_URL.match(str(path))
    return with_urls(str(path)) if match and _is_store(match[1]) else None


def with_urls(text: str) -> str:
    """A message about paths, with the URLs that they stand for."""
    return _STANDS_FOR_URL.sub(lambda match: f"{match[0]}/" if _is_store(match[1]) else match[0], text)


def _is_store(protocol: str) -> bool:
    from fsspec import available_protocols

    return protocol in available_protocols() and protocol not in ("file", "local", "http", "https")


@dataclass(frozen=True)
class StoredFile:
    """A file of an object store.

    Attributes:
        url: of it.
        relative: its path below the folder that was asked for.
        state: what it looks like from outside: its size, and its tag or the time when it was written.
    """

    url: str
    relative: str
    state: str


class StoredFolder:
    """A folder of an object store. It can be pickled, and connects where it is used.

    Args:
        url: of it. One file is a folder of one.

    Raises:
        OptionsError: no library for the protocol, no access.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.url}

    @cached_property
    def _place(self) -> tuple[Any, str]:
        try:
            from fsspec.core import url_to_fs

            system, root = url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise OptionsError(f"{self.url} cannot be read: {_line(error)}") from error
        return system, str(root).rstrip("/")

    def files(self) -> list[StoredFile]:
        """All files below, in the order of their names.

        Raises:
            OptionsError: it cannot be read.
        """
        system, root = self._place
        with _said(OptionsError, self.url):
            system.invalidate_cache()
            found = system.find(root, detail=True)
        files = []
        for name, info in sorted(found.items()):
            below = name.removeprefix(root).lstrip("/")
            if below:
                files.append(StoredFile(f"{self.url}/{below}", below, _state(info)))
            else:
                files.append(StoredFile(self.url, PurePosixPath(name).name, _state(info)))
        return files

    def states(self) -> dict[str, str]:
        """The state of each file, by its path below."""
        return {file.relative: file.state for file in self.files()}

    def fetch(self, to: Path) -> None:
        """Copy this one file to a local one.

        Raises:
            InputError: it cannot be read.
        """
        system, name = self._place
        to.parent.mkdir(parents=True, exist_ok=True)
        with _said(InputError, self.url):
            system.get_file(name, str(to))

    def put(self, file: Path, name: str) -> str:
        """Copy a local file to a path below; it is there whole or not at all. Returns its state.

        Raises:
            OptionsError: it cannot be written.
        """
        system, root = self._place
        with _said(OptionsError, f"{self.url}/{name}"):
            system.put_file(str(file), f"{root}/{name}")
            system.invalidate_cache(root)
            return _state(system.info(f"{root}/{name}"))

    def write(self, name: str, content: bytes) -> None:
        """The same with bytes."""
        system, root = self._place
        with _said(OptionsError, f"{self.url}/{name}"):
            system.pipe_file(f"{root}/{name}", content)

    def read(self, name: str) -> bytes:
        """A file below."""
        system, root = self._place
        with _said(OptionsError, f"{self.url}/{name}"):
            content: bytes = system.cat_file(f"{root}/{name}")
        return content

    def remove(self, name: str) -> None:
        """Remove a file below, if it is there."""
        system, root = self._place
        with _said(OptionsError, f"{self.url}/{name}"):
            if system.exists(f"{root}/{name}"):
                system.rm_file(f"{root}/{name}")


def _state(info: Mapping[str, Any]) -> str:
    tags = (info.get(key) for key in ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created"))
    return f"{info['size']} {next((str(tag) for tag in tags if tag), '')}".strip()


@contextmanager
def _said(kind: type[InputError] | type[OptionsError], url: str) -> Iterator[None]:
    """What any of many libraries raises, in one line."""
    try:
        yield
    except (InputError, OptionsError):
        raise
    except FileNotFoundError as error:
        raise kind(f"{url} does not exist") from error
    except Exception as error:
        raise kind(f"{url}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
