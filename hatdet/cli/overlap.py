"""Reading the next image and writing the last one while the current one is computed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["overlapped"]

Item = TypeVar("Item")
Read = TypeVar("Read")
Computed = TypeVar("Computed")
Written = TypeVar("Written")


def overlapped(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    compute: Callable[[Item, Read], Computed],
    write: Callable[[Item, Computed], Written],
    stopping: Callable[[], bool] = lambda: False,
    *,
    first_at_once: bool = True,
) -> Generator[tuple[Item, Callable[[], Written]]]:
    """Go through the items in their order; each comes with a function that gives its result, or raises what went wrong.

    `compute` runs in the calling thread. One image is read ahead and one is written behind, in a thread each, so no
    more than three are in memory. What comes out is one item behind what is computed: its function waits for its
    writing. Only the first comes at once, if somebody may be waiting for it. Once `stopping` says so no further item
    is computed. An interruption ends the computing; what was begun to be written is written.
    """
    with ThreadPoolExecutor(1, "reader") as reader, ThreadPoolExecutor(1, "writer") as writer:
        behind: tuple[Item, Future[Written]] | None = None
        for number, (item, pixels) in enumerate(_read_ahead(items, read, reader)):
            if stopping():
                break
            try:
                result = writer.submit(write, item, compute(item, pixels.result()))
            except Exception as error:
                result = Future()
                result.set_exception(error)
            if behind is not None:
                yield behind[0], behind[1].result
            behind = item, result
            if number == 0 and first_at_once:
                yield item, result.result
                behind = None
        if behind is not None:
            yield behind[0], behind[1].result


def _read_ahead(
    items: Iterable[Item], read: Callable[[Item], Read], reader: ThreadPoolExecutor
) -> Iterator[tuple[Item, Future[Read]]]:
    ahead: tuple[Item, Future[Read]] | None = None
    for item in items:
        here, ahead = ahead, (item, reader.submit(read, item))
        if here is not None:
            yield here
    if ahead is not None:
        yield ahead
