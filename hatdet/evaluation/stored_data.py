"""Data sets of which parts are in object stores: `s3://bucket/data.yaml`, or a data file here with a `path` there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from hatdet.core.errors import HatdetError, InputError, OptionsError
from hatdet.evaluation.low_resolution import LowResolution
from hatdet.evaluation.samples import Files, Sample
from hatdet.imaging.sources import Source
from hatdet.runs.inputs import sources_of
from hatdet.runs.manifest import state_of
from hatdet.runs.storage import StoredFolder, is_url, local_path, path_of, url_of, with_urls

__all__ = ["AnyFiles", "Fetched", "fetched", "here_or_stored", "saying_urls"]


def here_or_stored(path: Path) -> Path:
    """A path as an option has it: it stands for a URL, or of a `file://` URL it is what that means."""
    text = str(path)
    return Path(f"/{text.removeprefix('file:/')}") if text.startswith("file:/") else path


@contextmanager
def saying_urls() -> Iterator[None]:
    """What goes wrong is said of URLs rather than of the paths that stand for them."""
    try:
        yield
    except OptionsError as error:
        raise OptionsError(with_urls(str(error))) from error


class AnyFiles(Files):
    """Files of this machine and, by paths that stand for their URLs, of object stores, each folder listed once."""

    def __init__(self) -> None:
        self._listed: dict[str, Mapping[str, str]] = {}  # states by path below, by folder
        self._images: dict[str, str] = {}  # states of images that were found, by URL

    def read(self, path: Path) -> bytes:
        """The content of a file."""
        url = url_of(path)
        if url is None:
            return super().read(path)
        folder, _, name = url.rpartition("/")
        return StoredFolder(folder).read(name)

    def has(self, path: Path) -> bool:
        """Whether there is such a file; in a folder that cannot be listed there is none."""
        if url_of(path) is None:
            return super().has(path)
        try:
            return bool(self.state(path))
        except OptionsError:
            return False

    def is_folder(self, path: Path) -> bool:
        """Whether there is such a folder; object stores have none, only what is in them."""
        return url_of(path) is not None or super().is_folder(path)

    def images(self, path: Path) -> list[Source]:
        """The images of a folder, or the one that is named."""
        url = url_of(path)
        if url is None:
            return super().images(path)
        sources = sources_of([url], [])
        self._images |= {source.name: source.state or "" for source in sources}
        return sources

    def under(self, folder: Path, name: str) -> Path:
        """What a name means that is read in a folder: it may be a URL itself."""
        name = local_path(name)
        path = path_of(name) if is_url(name) else folder / name
        return path if url_of(path) is None else Path(os.path.normpath(path))  # a store knows no ..

    def absolute(self, path: Path) -> Path:
        """The whole path."""
        return path if url_of(path) is not None else super().absolute(path)

    def state(self, path: Path) -> str:
        """What a file looks like from outside; of one that is not there nothing.

        Raises:
            OptionsError: its object store cannot be listed.
        """
        url = url_of(path)
        if url is None:
            return state_of(path)
        if url in self._images:
            return self._images[url]
        folder = url.rpartition("/")[0]
        above = next((one for one in self._listed if f"{folder}/".startswith(f"{one}/")), None)
        if above is None:
            above, self._listed[folder] = folder, StoredFolder(folder).states()
        return self._listed[above].get(url.removeprefix(f"{above}/"), "")


@dataclass(frozen=True)
class Fetched:
    """A sample whose files are on this machine.

    Attributes:
        sample: with paths of this machine.
        how: where its low-resolution image is.
        urls: of what was fetched, by its path here.
    """

    sample: Sample
    how: LowResolution
    urls: Mapping[Path, str]

    def said(self, text: str) -> str:
        """A message, in the words of who knows nothing of files in between."""
        for path, url in self.urls.items():
            text = text.replace(str(path), url)
        return text


@contextmanager
def fetched(sample: Sample, how: LowResolution) -> Iterator[Fetched]:
    """What there is to read of a sample, on this machine for as long as that takes.

    Raises:
        HatdetError: in the words of `Fetched.said`.
    """
    name = sample.relative.with_suffix("")
    low = (how.folder or {}).get(name)
    there = {"image": sample.image, "label": sample.label if sample.annotations is None else None, "low": low}
    urls = {role: url for role, path in there.items() if path is not None and (url := url_of(path)) is not None}
    if not urls:
        yield Fetched(sample, how, {})
        return
    with tempfile.TemporaryDirectory(prefix="hatdet-") as folder:
        paths = {role: Path(folder) / role / PurePosixPath(url).name for role, url in urls.items()}
        found = Fetched(
            replace(sample, image=paths.get("image", sample.image), label=paths.get("label", sample.label)),
            replace(how, folder={name: paths["low"]}) if "low" in paths else how,
            {path: urls[role] for role, path in paths.items()},
        )
        for role, url in urls.items():
            try:
                StoredFolder(url).fetch(paths[role])
            except InputError as error:
                if role != "label" or not isinstance(error.__cause__, FileNotFoundError):
                    raise  # a label file that is not there is a problem that is told of, and no more
        try:
            yield found
        except HatdetError as error:
            raise type(error)(found.said(str(error))) from error
