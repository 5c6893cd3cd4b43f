"""Files that the user asked for by name and that have to come over the network, once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from hatdet.core.atomic import write_text
from hatdet.core.errors import WeightsError

__all__ = ["cache_dir", "fetch", "sha256_of"]

Progress = Callable[[int, int], None]  # bytes so far, bytes in all (0 where the server does not say)


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
    beside the file and holds from then on. The file appears under its name only when it is whole.

    Raises:
        WeightsError: no address gave the file, with the reason of each; the cache cannot be written.
    """
    import logging

    import pooch
    import requests

    pooch.get_logger().setLevel(logging.ERROR)
    target = cache_dir() / file
    remembered = target.with_name(f"{file}.sha256")
    if sha256 is None and remembered.is_file():
        sha256 = remembered.read_text().strip()
    if target.is_file() and sha256 in (None, sha256_of(target)):
        return target
    reasons = []
    for url in urls:
        bar = _Bar(progress) if progress is not None else None
        try:
            downloader = pooch.HTTPDownloader(progressbar=bar, timeout=30)
            pooch.retrieve(url, sha256, file, target.parent, downloader=downloader)
            if sha256 is None:
                write_text(remembered, sha256_of(target) + "\n")
            return target
        except requests.HTTPError as error:
            reasons.append(f"{url}: {error.response.status_code} {error.response.reason}")
        except requests.ConnectionError:
            reasons.append(f"{url}: no connection")
        except requests.RequestException as error:
            reasons.append(f"{url}: {type(error).__name__}")
        except ValueError:  # pooch: the hash is another
            reasons.append(f"{url}: not the expected file (sha256 differs)")
        except OSError as error:
            raise WeightsError(f"{target} cannot be written: {error.strerror or error}") from error
    raise WeightsError(
        f"{file} could not be fetched ({'; '.join(reasons)}). Put the file at {target} yourself, or give its path"
    )


class _Bar:
    """pooch's progress-bar protocol over a callback."""

    def __init__(self, progress: Progress) -> None:
        self.total = 0
        self._done = 0
        self._progress = progress

    def update(self, amount: int) -> None:
        self._done += amount
        self._progress(self._done, int(self.total))

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        pass
