"""One image from its file to its results in three steps, wherever they are taken: in this process, or by a worker."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from hatdet.deploy.fleet import Outcome
    from hatdet.imaging.sources import Source
    from hatdet.runs.storage import StoredFolder

__all__ = ["Done", "ImageJob", "ImageWork", "Steps"]


@dataclass(frozen=True)
class Done:
    """What there is to remember of an image whose results are written.

    Attributes:
        state: of its file before it was read.
        files: its results, the one that is always written first.
        report: what JSON has.
        text: what people are told.
        states: of the results, by their paths below the output, where they are in an object store.
    """

    state: str
    files: Sequence[Path]
    report: dict[str, Any]
    text: str
    states: Mapping[str, str] | None = None


class ImageJob(Protocol):
    """An image, and where its results go."""

    @property
    def source(self) -> Source: ...

    def moved(self, source: Source, output: Path, to: Path) -> Any:
        """The same with another source, and with results below `to` instead of `output`."""
        ...


class Steps(Protocol):
    """What is done with an image. Reading and writing may be done in other threads than computing."""

    def read(self, job: Any) -> Any: ...
    def compute(self, job: Any, found: Any) -> Any: ...
    def write(self, job: Any, made: Any) -> Done: ...


@dataclass(frozen=True)
class ImageWork:
    """The steps as workers take them, each image in its own time; pickled to them.

    Attributes:
        load: gives the steps on a device.
        output: the path of the results in jobs.
        store: where the results go, if that is an object store; then `output` only stands for it.
        home: where paths begin; a machine that has no such folder knows URLs only.
    """

    load: Callable[[str], Steps]
    output: Path
    store: StoredFolder | None = None
    home: str = field(default_factory=os.getcwd)

    def begin(self, device: str) -> Callable[[Sequence[ImageJob]], Iterator[Outcome]]:
        """The steps on that device, reading and writing beside computing within a batch."""
        from hatdet.cli.overlap import overlapped
        from hatdet.deploy.fleet import Outcome

        with suppress(OSError):
            os.chdir(self.home)
        steps = self.load(device)

        def work(jobs: Sequence[ImageJob]) -> Iterator[Outcome]:
            visits = [_Visit(job, self.output, self.store) for job in jobs]
            with closing(
                overlapped(
                    visits,
                    lambda visit: visit.read(steps),
                    lambda visit, found: steps.compute(visit.job, found),
                    lambda visit, made: visit.write(steps, made),
                    first_at_once=False,
                )
            ) as running:
                for visit, finish in running:
                    try:
                        outcome = Outcome(finish())
                    except Exception as error:
                        outcome = Outcome(error=visit.said(error))
                    finally:
                        visit.leave()
                    yield outcome

        return work


class _Visit:
    """An image that may be in an object store, here for as long as it is worked on."""

    def __init__(self, job: ImageJob, output: Path, store: StoredFolder | None) -> None:
        self._there, self._output, self._store = job, output, store
        self._remote = job.source.url is not None or store is not None
        self.job, self._here = job, Path()

    def read(self, steps: Steps) -> Any:
        """The first step, for which a file of an object store is fetched."""
        from hatdet.runs.storage import StoredFolder

        source = self._there.source
        if self._remote:
            self._here = Path(tempfile.mkdtemp(prefix="hatdet-"))
            if source.url is not None:
                path = self._here / "in" / source.relative.name
                StoredFolder(source.url).fetch(path)
                source = replace(source, path=path)
            to = self._output if self._store is None else self._here / "out"
            self.job = self._there.moved(source, self._output, to)
        return steps.read(self.job)

    def write(self, steps: Steps, made: Any) -> Done:
        """The last step, after which the results go to the object store."""
        done = steps.write(self.job, made)
        if self._there.source.state is not None:
            done = replace(done, state=self._there.source.state)
        if self._store is None:
            return done
        names = [path.relative_to(self._here / "out").as_posix() for path in done.files]
        # The one that is always written comes last: where it is, all are.
        states = {name: self._store.put(self._here / "out" / name, name) for name in reversed(names)}
        return replace(done, files=[self._output / name for name in names], states=states)

    def said(self, error: Exception) -> Exception:
        """The error, in the words of who knows nothing of a file in between."""
        path, url = self.job.source.path, self._there.source.url
        if url is None or str(path) not in str(error):
            return error
        with suppress(TypeError):
            return type(error)(str(error).replace(str(path), url))
        return error

    def leave(self) -> None:
        if self._remote and self._here != Path():
            shutil.rmtree(self._here, ignore_errors=True)
