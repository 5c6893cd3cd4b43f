"""The same work on many items by several workers: on the devices of this machine, or (`cluster`) of a Ray cluster.

    items ─▶ batches ─▶ workers, each of which begins once ─▶ outcomes, in the order in which they come

A worker says of every item of a batch what came of it, so one broken item spoils no other.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing.queues import SimpleQueue
from typing import Any, Protocol, TypeVar

from hatdet.core.errors import DeviceError, HatdetError

__all__ = ["Devices", "Fleet", "Outcome", "Work", "batches", "begun"]

Item = TypeVar("Item")
LARGEST_BATCH = 8  # items that are lost with a worker, at most; reading and writing overlap computing within a batch
BATCHES_EACH = 4  # at least so many for each worker, or the last one works alone
AHEAD = 2  # batches that wait for each worker, so that none waits for a batch


@dataclass(frozen=True)
class Outcome:
    """What came of an item: what was done, or what went wrong.

    Attributes:
        fatal: whether the worker could not begin at all, so that there is no sense in a next item.
    """

    done: Any = None
    error: Exception | None = None
    fatal: bool = False

    def result(self) -> Any:
        """What was done.

        Raises:
            Exception: what went wrong.
        """
        if self.error is not None:
            raise self.error
        return self.done


Worker = Callable[[Sequence[Any]], Iterable[Outcome]]


class Work(Protocol):
    """What workers do; it is pickled to them."""

    def begin(self, device: str) -> Worker:
        """Load what is needed. Returns a function that works on a batch, an outcome for each item in their order."""
        ...


class Fleet(Protocol):
    """Several workers."""

    @property
    def size(self) -> int | None:
        """How many workers there are; None where that is not known before they are asked for."""
        ...

    def over(
        self, work: Work, items: Sequence[Item], stopping: Callable[[], bool] = lambda: False
    ) -> Generator[tuple[Item, Callable[[], Any]]]:
        """Go through the items; each comes once, with a function that gives what was done or raises what went wrong.

        Args:
            work: what is done with each.
            items: can be pickled.
            stopping: once it says so no further batch is begun.

        Raises:
            DeviceError: workers are lost, or cannot begin.
        """
        ...


def batches(items: Sequence[Item], workers: int) -> Iterator[list[Item]]:
    """The items in their order, in batches that leave no worker idle at the end."""
    size = max(1, min(LARGEST_BATCH, len(items) // (workers * BATCHES_EACH)))
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch


def begun(work: Work, device: str) -> Worker:
    """A worker that has begun; if it could not, one that says so of every item."""
    try:
        return work.begin(device)
    except HatdetError as error:
        refused = error
        return lambda batch: [Outcome(error=refused, fatal=True) for _ in batch]


@dataclass(frozen=True)
class Devices:
    """A process on each of several devices of this machine: `cuda:0`, `cuda:1`; `cpu` twice shares the cores.

    A process that is lost ends the run: what is done is done, and the rest can be asked for again.
    """

    names: Sequence[str]

    @property
    def size(self) -> int:
        return len(self.names)

    def over(
        self, work: Work, items: Sequence[Item], stopping: Callable[[], bool] = lambda: False
    ) -> Generator[tuple[Item, Callable[[], Any]]]:
        spawning = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        free: SimpleQueue[str] = spawning.SimpleQueue()
        for name in self.names:
            free.put(name)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        left = batches(items, self.size)
        waiting: dict[Future[list[Outcome]], list[Item]] = {}
        pool = ProcessPoolExecutor(self.size, spawning, _begin, (work, free, max(1, cores // self.size)))
        try:
            while True:
                if stopping():
                    waiting = {future: batch for future, batch in waiting.items() if not future.cancel()}
                else:
                    for batch in islice(left, AHEAD * self.size - len(waiting)):
                        waiting[pool.submit(_do, batch)] = batch
                if not waiting:
                    break
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield from _each(waiting.pop(future), future.result())
        except BrokenProcessPool as error:
            raise DeviceError(
                f"a worker on one of {', '.join(self.names)} was lost (killed, or out of memory)"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _each(batch: Sequence[Item], outcomes: Sequence[Outcome]) -> Iterator[tuple[Item, Callable[[], Any]]]:
    for item, outcome in zip(batch, outcomes, strict=True):
        if outcome.fatal and outcome.error is not None:
            raise outcome.error
        yield item, outcome.result


_worker: Worker | None = None  # of this process, in a process of `Devices`


def _begin(work: Work, free: SimpleQueue[str], threads: int) -> None:
    global _worker  # noqa: PLW0603 (a process pool has no other place for what a process is begun with)
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that hands out the work
    torch.set_num_threads(threads)
    _worker = begun(work, free.get())


def _do(batch: Sequence[Any]) -> list[Outcome]:
    assert _worker is not None
    return list(_worker(batch))
