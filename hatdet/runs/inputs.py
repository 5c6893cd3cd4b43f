"""Which images a run is about, on this machine and in object stores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hatdet.core.errors import OptionsError
from hatdet.imaging.files import IMAGE_SUFFIXES
from hatdet.imaging.sources import Source, below, find_sources
from hatdet.runs.storage import StoredFolder, is_url, local_path, path_of

__all__ = ["sources_of"]


def sources_of(inputs: Sequence[str], leave_out: Sequence[Path], store: StoredFolder | None = None) -> list[Source]:
    """The images that are named: files, folders, globs; and, by URL, files and folders of object stores.

    Args:
        inputs: paths, globs, URLs.
        leave_out: as of `find_sources`.
        store: no image below it is taken either.

    Raises:
        OptionsError: a path that does not exist, a folder without images.
    """
    if not any(map(is_url, map(local_path, inputs))):
        return find_sources([local_path(text) for text in inputs], leave_out)
    found: dict[Path, Source] = {}
    for text in map(local_path, inputs):
        if not is_url(text):
            found |= {source.path: source for source in find_sources([text], leave_out)}
            continue
        files = StoredFolder(text).files()
        if store is not None:
            files = [file for file in files if not file.url.startswith(f"{store.url}/")]
        if not (len(files) == 1 and files[0].url == text):  # one that is named is taken whatever its suffix
            files = [file for file in files if Path(file.relative).suffix.lower() in IMAGE_SUFFIXES]
        if not files:
            raise OptionsError(f"{text} contains no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        for file in files:
            source = Source(path_of(file.url), below(Path(file.relative)), file.url, file.state)
            found.setdefault(source.path, source)
    return list(found.values())
