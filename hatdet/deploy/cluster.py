"""Workers on a Ray cluster, by Ray Data: actors that stream batches, with back-pressure and retries."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from hatdet.core.errors import DeviceError, OptionsError
from hatdet.deploy.fleet import Outcome, Work, batches, begun

__all__ = ["RETRIES", "RayCluster"]

log = logging.getLogger(__name__)

Item = TypeVar("Item")
RETRIES = 3  # of an image alone, whose worker was lost while it worked on it: the image may be what kills workers
PATIENCE = 10.0  # seconds until a host must answer
MOST_BLOCKS = 10_000  # Ray's scheduler counts each
_ENVIRONMENT = {  # of the processes that we start
    "MALLOC_ARENA_MAX": "1",  # Ray computes in a second thread, whose memory glibc would give back after each image
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # what its C++ parts write to our stderr
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what it prints to our stdout, where results go: we say what is lost
}


@dataclass
class RayCluster:
    """Workers on a Ray cluster: a GPU each, or some cores each where there is none.

    Attributes:
        address: as `ray.init` takes it; None is RAY_ADDRESS, a cluster that runs on this machine, or a new one here.
        workers: how many; None is as many as there is room for when the work begins.
        cores: of each worker, where there is no GPU.
        size, kind: how many workers there are and on what, `cuda` or `cpu`; known while it is `joined`.

    Raises:
        OptionsError: Ray is not installed; the address is that of Ray's client, over which Ray Data does not run.
    """

    address: str | None = None
    workers: int | None = None
    cores: int = 1
    size: int | None = field(default=None, init=False)
    kind: str = field(default="cpu", init=False)

    def __post_init__(self) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)  # read when Ray is imported, and when processes start
        try:
            import ray  # noqa: F401  (ray.data takes seconds, which it has while a cluster starts)

            if find_spec("pyarrow") is None:
                raise ImportError("pyarrow is not installed")
        except ImportError as error:
            raise OptionsError(f"--ray needs Ray: pip install 'hatdet[ray]' ({error})") from error
        address = self.address or os.environ.get("RAY_ADDRESS", "")
        if address.startswith("ray://"):
            raise OptionsError(
                f"Ray Data does not run over {address}: on a machine of the cluster give auto or HOST:PORT"
            )

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Be part of the cluster.

        Raises:
            DeviceError: there is no such cluster, or not enough of it.
        """
        import ray

        ours = not ray.is_initialized()
        if ours:
            _reach(self.address)
            threading.Thread(target=_import, daemon=True).start()  # while other processes start
            try:
                with _without_stderr():  # on which it says that it was told to be quiet
                    ray.init(
                        address=self.address,
                        include_dashboard=False,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                    )
            except Exception as error:  # Ray raises that very class where it did not start
                where = "could be started here" if self.address in (None, "local") else f"is at {self.address}"
                raise DeviceError(f"no Ray cluster {where}: {' '.join(str(error).split())}") from error
        try:
            there = ray.cluster_resources()
            gpus = int(there.get("GPU", 0))
            room = gpus or int(there.get("CPU", 0)) // self.cores
            wanted = self.workers or room
            if not 0 < wanted <= room:
                each = "a GPU" if gpus else f"{self.cores} cores"
                raise DeviceError(f"the Ray cluster has room for {room} workers with {each} each, not for {wanted}")
            self.size, self.kind = wanted, "cuda" if gpus else "cpu"
            yield
        finally:
            if ours:
                ray.shutdown()

    def over(
        self, work: Work, items: Sequence[Item], stopping: Callable[[], bool] = lambda: False
    ) -> Generator[tuple[Item, Callable[[], Any]]]:
        """As of every fleet. A batch that is lost with its worker is done again, one item after the other; an item
        with which `RETRIES` more workers are lost is given up.
        """
        if not items:
            return
        with self.joined():
            assert self.size is not None
            given = list(batches(items, self.size))
            left = set(range(len(given)))
            for number, outcomes, tried in self._streamed(work, given):
                if tried > 1:
                    log.warning("workers were lost (killed, or out of memory): their images were done again")
                if number not in left:  # Ray promises as much, and a result that came twice would be counted twice
                    continue
                left.discard(number)
                for item, outcome in zip(given[number], outcomes, strict=True):
                    if outcome.fatal and outcome.error is not None:
                        raise outcome.error
                    yield item, outcome.result
                if stopping():
                    return
            for number in sorted(left):
                for item in given[number]:
                    yield item, Outcome(error=DeviceError("Ray gave up its batch")).result

    def _streamed(self, work: Work, given: Sequence[Sequence[Any]]) -> Iterator[tuple[int, list[Outcome], int]]:
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = -1  # what is missing in the end is said, image by image
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        rows = [{"number": number, "batch": pickle.dumps(batch)} for number, batch in enumerate(given)]
        computed = ray.data.from_items(rows, override_num_blocks=min(len(rows), MOST_BLOCKS)).map_batches(
            _Actor,
            fn_constructor_args=(work, self.kind, self.cores, ray.remote(num_cpus=0)(_Tries).remote()),
            batch_size=1,
            batch_format="numpy",
            compute=ActorPoolStrategy(size=min(self.size or 1, len(rows)), max_tasks_in_flight_per_actor=2),
            num_cpus=1 if self.kind == "cuda" else self.cores,
            num_gpus=1 if self.kind == "cuda" else 0,
        )
        for row in computed.iter_rows():
            yield int(row["number"]), pickle.loads(row["outcomes"]), int(row["tried"])  # noqa: S301 (our own workers')


def _import() -> None:
    """What takes seconds to import; who needs it says what is wrong with it."""
    with suppress(Exception):
        import ray.data  # noqa: F401
        import torch  # noqa: F401


def _reach(address: str | None) -> None:
    """Raise a DeviceError for an address at which nobody listens, for which Ray waits for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except OSError as error:
        raise DeviceError(f"no Ray cluster is at {address}: {error.strerror or error}") from error


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Nothing is written to stderr, by whatever language: what goes wrong is raised."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class _Tries:
    """What workers began and finished: an actor, since they may not live to say so themselves."""

    def __init__(self) -> None:
        self._begun: Counter[tuple[int, ...]] = Counter()
        self._finished: dict[tuple[int, ...], Any] = {}

    def begin(self, *what: int) -> tuple[int, Any]:
        """Count one more; returns how many that makes, and what was finished before."""
        self._begun[what] += 1
        return self._begun[what], self._finished.get(what)

    def finish(self, outcome: Any, *what: int) -> None:
        """Keep what came of something."""
        self._finished[what] = outcome


class _Actor:
    """A worker, in Ray's words."""

    def __init__(self, work: Work, kind: str, cores: int, tries: Any) -> None:
        import torch

        if kind == "cpu":
            torch.set_num_threads(cores)
        self._tries = tries
        self._worker = begun(work, kind)  # a GPU actor sees one GPU, which is its first

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        import numpy as np
        import ray

        found, tries = [], []
        for number, batch in zip(map(int, rows["number"]), rows["batch"], strict=True):
            items = pickle.loads(batch)  # noqa: S301 (our own)
            tried, _ = ray.get(self._tries.begin.remote(number))
            outcomes = list(self._worker(items)) if tried == 1 else self._again(number, items)
            found.append(pickle.dumps(outcomes))
            tries.append(tried)
        return {"number": rows["number"], "outcomes": np.array(found, dtype=object), "tried": np.array(tries)}

    def _again(self, number: int, items: Sequence[Any]) -> list[Outcome]:
        """A batch with which a worker was lost, one by one: an item that kills workers takes no other with it."""
        import ray

        outcomes = []
        for place, item in enumerate(items):
            tried, outcome = ray.get(self._tries.begin.remote(number, place))
            if outcome is None and tried > RETRIES:
                why = f"given up: {tried - 1} workers were lost (killed, or out of memory) while they worked on it"
                outcome = Outcome(error=DeviceError(why))
            elif outcome is None:
                (outcome,) = self._worker([item])
                ray.get(self._tries.finish.remote(outcome, number, place))
            outcomes.append(outcome)
        return outcomes
