"""What every verb does around its work: messages, progress, errors to exit codes.

Results go to stdout, everything else to stderr. Exit codes: 0 all done, 1 some inputs failed, 2 nothing could be done
as asked, 130 interrupted.
"""

from __future__ import annotations

import datetime
import io
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from hatdet.core.errors import DeviceError, HatdetError, InputError, WeightsError

__all__ = ["Session", "guarded"]

Item = TypeVar("Item")
FAILED = 1
REFUSED = 2
INTERRUPTED = 130
WIDE = 240  # columns, at most, of a table


@contextmanager
def guarded(debug: bool) -> Iterator[None]:
    """Turn errors into one line on stderr and the contract's exit code."""
    try:
        yield
    except HatdetError as error:
        _complain(str(error), debug)
        raise typer.Exit(REFUSED) from error
    except KeyboardInterrupt as error:
        print("interrupted", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from error
    except BrokenPipeError as error:  # `hatdet ... | head`: nobody reads the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(FAILED) from error
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        _complain(f"{_described(error)} (this is a fault of hatdet: --debug shows where)", debug)
        raise typer.Exit(REFUSED) from error


def _described(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, HatdetError) else ": ".join(filter(None, (type(error).__name__, text)))


def _complain(message: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)


class Session:
    """The messages and the progress of one run over many inputs; a context manager.

    On a terminal the progress is a live bar with images/s and the time that is left; elsewhere only messages are
    printed.
    """

    def __init__(self, quiet: bool, debug: bool) -> None:
        self._quiet = quiet
        self._debug = debug
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._errors = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._part: Callable[[float], None] = lambda _: None
        self._begun = 0
        self.done = self.failed = 0

    def __enter__(self) -> Session:
        handler = _Handler(self.console)
        logger = logging.getLogger("hatdet")
        logger.handlers[:] = [handler]
        logger.setLevel(logging.INFO)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger("hatdet").handlers.clear()

    @property
    def live(self) -> bool:
        """Whether somebody watches: progress is drawn on a terminal only."""
        return self.console.is_terminal and not self._quiet

    def say(self, message: str) -> None:
        """A message for people, on stderr."""
        self.console.print(Text(message))

    def result(self, line: str) -> None:
        """A result, on stdout."""
        if not self._quiet:
            if self._progress is not None and sys.stdout.isatty():
                self._progress.console.print(Text(line))  # above the bar
            else:
                print(line, flush=True)

    def table(self, table: Table) -> None:
        """A table as a result, as wide as it is: nobody need look at it on a screen."""
        screen = Console(file=io.StringIO(), width=WIDE)
        screen.print(table)
        for line in screen.file.getvalue().splitlines():  # type: ignore[attr-defined]
            self.result(line.rstrip())

    def over(self, items: Iterable[Item], what: str, total: int | None = None, unit: str = "images") -> Iterable[Item]:
        """Go through the items with a progress bar; `part_done` moves it within an item.

        `total` is their number, where they have no length and it is known, `unit` what they are called. Items that are
        worked on before they come say `begin`.
        """
        self._begun = 0
        if not self.live:
            yield from items
            return
        columns = (TextColumn("{task.description}"), BarColumn(), _Counted(), _Rate(unit))
        with Progress(*columns, console=self.console, transient=True) as self._progress:
            task = self._progress.add_task(what, total=len(items) if isinstance(items, Sized) else total)
            progress, furthest = self._progress, 0.0

            def moved(to: float) -> None:
                nonlocal furthest
                furthest = max(furthest, to)
                progress.update(task, completed=furthest)

            self._part = lambda share: moved(self._begun - 1 + share)
            for done, item in enumerate(items):
                self._begun = max(self._begun, done + 1)
                yield item
                moved(done + 1)
        self._progress, self._part = None, lambda _: None

    def begin(self) -> None:
        """Work on the next item begins, before `over` gives it."""
        self._begun += 1

    def part_done(self, done: int, total: int) -> None:
        """So much of the current item is done: tiles, say."""
        self._part(min(done / total, 0.999))

    @contextmanager
    def one(self, name: object) -> Iterator[None]:
        """Work on one input: what goes wrong with it is one line, counted, and the run goes on.

        A place that cannot be written ends the run, unless something could be written before.
        """
        try:
            yield
        except BrokenPipeError:  # not the input's fault: nobody reads the results
            raise
        except (InputError, DeviceError, WeightsError) as error:
            self._failed(name, error)
        except HatdetError as error:
            if not self.done:
                raise
            self._failed(name, error)
        except Exception as error:
            self._failed(name, error)
        else:
            self.done += 1

    def _failed(self, name: object, error: Exception) -> None:
        self.failed += 1
        if self._debug:
            traceback.print_exc()
        message = _described(error)
        message = message if str(name) in message else f"{name}: {message}"
        self._errors.print(Text(f"error: {message}"))

    def finish(self, started: float, where: object, frames: int | None = None) -> None:
        """Say what was done, and leave with exit code 1 if some inputs failed. Of videos, how many frames were."""
        elapsed = time.perf_counter() - started
        unit, count = ("image", self.done) if frames is None else ("frame", frames)
        done = f"1 {unit}" if count == 1 else f"{count} {unit}s"
        failed = f", {self.failed} failed" if self.failed else ""
        self.say(f"{done} in {elapsed:.1f} s ({count / elapsed:.2f} {unit}s/s){failed}: {where}")
        if self.failed:
            raise typer.Exit(FAILED)


class _Counted(ProgressColumn):
    """Whole images done, of all; the bar beside it moves within an image. Of a stream nobody knows how many."""

    def render(self, task: Task) -> Text:
        return Text(f"{int(task.completed)}" if task.total is None else f"{int(task.completed)}/{int(task.total)}")


class _Rate(ProgressColumn):
    """Images a second over the whole run so far, and the time that is left at that rate."""

    def __init__(self, unit: str = "images") -> None:
        super().__init__()
        self._unit = f"{unit}/s"

    def render(self, task: Task) -> Text:
        if not task.completed or not task.elapsed:
            return Text(f"- {self._unit}")
        rate = task.completed / task.elapsed
        if task.total is None:
            return Text(f"{rate:.2f} {self._unit}")
        # What a video says of its length may be less than there is.
        left = datetime.timedelta(seconds=round(max(0, task.total - task.completed) / rate))
        return Text(f"{rate:.2f} {self._unit}, {left} left")


class _Handler(logging.Handler):
    """Warnings and notes of the library, each once."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._seen:
            self._seen.add(message)
            prefix = "warning: " if record.levelno >= logging.WARNING else ""
            self._console.print(Text(prefix + message))
