"""Several workers for one verb: a process on each of several devices, or the workers of a Ray cluster."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from hatdet.cli.steps import Done, ImageWork, Steps
    from hatdet.deploy.fleet import Fleet
    from hatdet.imaging.sources import Source
    from hatdet.runs.manifest import Record

__all__ = [
    "RayCommand",
    "RayCoresOption",
    "RayOption",
    "RayWorkersOption",
    "Results",
    "chosen_fleet",
    "device_of",
    "devices_of",
    "joined",
    "over",
    "put",
    "record_of",
    "refuse_urls",
    "settings_of",
]

Job = TypeVar("Job")

_CLUSTER = "Cluster"
HERE = "here"  # --ray without an address
_ADDRESS = re.compile(r"auto|local|ray://\S+|(\[[0-9A-Fa-f:]+\]|[\w.-]+):\d+")

RayOption = Annotated[
    str | None,
    typer.Option(
        help="Work on a Ray cluster: auto, local or HOST:PORT; without an address RAY_ADDRESS, the "
        "cluster of this machine, or a new one on it. Inputs and -o may be s3://, gs://. Needs the extra ray.",
        metavar="ADDRESS",
        rich_help_panel=_CLUSTER,
    ),
]
RayWorkersOption = Annotated[
    int | None,
    typer.Option(help="Workers on the cluster.", min=1, rich_help_panel=_CLUSTER, show_default="all it has room for"),
]
RayCoresOption = Annotated[
    int, typer.Option(help="Cores of each worker, where there is no GPU.", min=1, rich_help_panel=_CLUSTER)
]


class RayCommand(typer.core.TyperCommand):
    """A verb that takes `--ray` with and without an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a `--ray` that no address follows the one that stands for none."""
        end = args.index("--") if "--" in args else len(args)
        said = list(args)
        for place, following in enumerate([*args[1:end], ""]):
            if said[place : place + 1] == ["--ray"] and not _ADDRESS.fullmatch(following):
                said[place] = f"--ray={HERE}"
        return super().parse_args(ctx, said)


def devices_of(device: str) -> list[str]:
    """The devices that `--device` names, each as `choose_device` takes it."""
    return [name.strip() for name in device.split(",") if name.strip()] or [device]


def device_of(device: str, fleet: Fleet | None) -> str:
    """Where this process itself computes: of several devices on the first; for a cluster nothing, so on the CPU."""
    from hatdet.deploy.cluster import RayCluster

    return "cpu" if isinstance(fleet, RayCluster) else devices_of(device)[0]


def chosen_fleet(device: str, ray: str | None, workers: int | None, cores: int) -> Fleet | None:
    """The workers that are asked for; None for this process alone.

    Raises:
        OptionsError: options that contradict each other; Ray is not there.
        DeviceError: a device that is not there.
    """
    from hatdet.core.errors import OptionsError
    from hatdet.deploy.cluster import RayCluster
    from hatdet.deploy.fleet import Devices

    names = devices_of(device)
    if ray is None:
        if workers is not None:
            raise OptionsError("--ray-workers goes with --ray")
        if len(names) == 1:
            return None
        from hatdet.core.device import choose_device

        return Devices([str(choose_device(name)) for name in names])
    if device != "auto":
        raise OptionsError(f"--device {device} does not go with --ray, which has a GPU, or cores, for each worker")
    return RayCluster(None if ray == HERE else ray, workers, cores)


def joined(fleet: Fleet | None) -> AbstractContextManager[object]:
    """Be part of a cluster, if it is one. What comes before imports nothing heavy: the start of one takes as long."""
    from hatdet.deploy.cluster import RayCluster

    return fleet.joined() if isinstance(fleet, RayCluster) else nullcontext()


def settings_of(settings: Mapping[str, Any], fleet: Fleet | None, precision: str) -> dict[str, Any]:
    """What results follow from, where it is not this process that computes."""
    from hatdet.deploy.cluster import RayCluster

    if not isinstance(fleet, RayCluster) or "device" not in settings:
        return dict(settings)
    return {**settings, "device": fleet.kind, "precision": precision}


def refuse_urls(inputs: Sequence[str], where: Results, fleet: Fleet | None) -> None:
    """Raise an OptionsError for an object store that only workers of a cluster reach."""
    from hatdet.core.errors import OptionsError
    from hatdet.deploy.cluster import RayCluster
    from hatdet.runs.storage import path_of, url_of

    if isinstance(fleet, RayCluster):
        return
    for text in (*inputs, where.name(where.output)):
        if url_of(path_of(text)) is not None:  # and http:// is a stream
            raise OptionsError(f"{text}: object stores are read and written with --ray")


class Results:
    """Where results go: a folder, or one of an object store.

    Attributes:
        output: as `-o` names it, and as it begins the paths of results in jobs.
        store: the object store that `output` only stands for; None for a folder.

    Raises:
        OptionsError: a URL of this machine.
    """

    def __init__(self, output: Path) -> None:
        from hatdet.core.errors import OptionsError
        from hatdet.runs.storage import StoredFolder, url_of

        if str(output).startswith("file:/"):
            raise OptionsError(f"-o takes a folder of this machine by its path, not as {output}")
        url = url_of(output)
        self.output, self.store = output, None if url is None else StoredFolder(url)

    def name(self, path: Path) -> str:
        """What a result is called."""
        if self.store is None:
            return str(path)
        below = path.relative_to(self.output).as_posix()
        return self.store.url if below == "." else f"{self.store.url}/{below}"

    def remove(self, path: Path) -> None:
        """Remove a result, if it is there."""
        if self.store is None:
            path.unlink(missing_ok=True)
        else:
            self.store.remove(path.relative_to(self.output).as_posix())


def record_of(fleet: Fleet | None, where: Results, settings: Mapping[str, Any], sources: Sequence[Source]) -> Record:
    """What of the run is done: a database beside the results, or for a cluster a table of all results."""
    from hatdet.deploy.cluster import RayCluster
    from hatdet.runs.manifest import Manifest
    from hatdet.runs.parts import LocalFolder, Parts

    if not isinstance(fleet, RayCluster):
        return Manifest(where.output, settings)
    stored = {source.path: (source.url, source.state or "") for source in sources if source.url is not None}
    return Parts(where.store or LocalFolder(where.output), where.output, settings, stored)


def put(record: Record, source: Path, done: Done) -> None:
    """An image is done."""
    result, *others = done.files
    record.put(source, done.state, result, others, done.report, done.states)


def over(
    jobs: Sequence[Job],
    steps: Steps,
    keep: Callable[[Job, Done], str],
    fleet: Fleet | None,
    work: ImageWork,
    stopping: Callable[[], bool],
) -> Generator[tuple[Job, Callable[[], str]]]:
    """Go through the jobs, in this process or with a fleet; each comes with a function that gives the line about it.

    Args:
        jobs: what is left to do.
        steps: as this process takes them.
        keep: is told of each that is done, and says so in a line.
        fleet: None for this process alone.
        work: the steps as workers take them.
        stopping: whether to begin no further image.
    """
    from hatdet.cli.overlap import overlapped

    if fleet is None:
        yield from overlapped(
            jobs, steps.read, steps.compute, lambda job, made: keep(job, steps.write(job, made)), stopping
        )
        return
    with closing(fleet.over(work, jobs, stopping)) as running:
        for job, finish in running:
            yield job, partial(_kept, keep, job, finish)


def _kept(keep: Callable[[Job, Done], str], job: Job, finish: Callable[[], Done]) -> str:
    return keep(job, finish())
