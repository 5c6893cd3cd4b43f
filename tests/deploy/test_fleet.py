"""Work on several devices of one machine: each item once, whatever becomes of the others."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatdet.core.errors import DeviceError, InputError, WeightsError
from hatdet.deploy.fleet import AHEAD, BATCHES_EACH, LARGEST_BATCH, Devices, Outcome, batches


@dataclass(frozen=True)
class Doubling:
    """Work on numbers: three in ten fail, and at `killer` the worker is lost."""

    killer: int | None = None
    refused: bool = False

    def begin(self, device: str) -> Callable[[Sequence[int]], Iterator[Outcome]]:
        if self.refused:
            raise WeightsError("no such weights")

        def work(numbers: Sequence[int]) -> Iterator[Outcome]:
            for number in numbers:
                if number == self.killer:
                    os.kill(os.getpid(), signal.SIGKILL)
                broken = number % 10 < 3
                yield Outcome(error=InputError(f"{number} is broken")) if broken else Outcome((2 * number, device))

        return work


@given(count=st.integers(0, 300), workers=st.integers(1, 20))
def test_batches_have_every_item_once_in_order_and_leave_no_worker_idle(count, workers):
    made = list(batches(range(count), workers))
    assert [item for batch in made for item in batch] == list(range(count))
    assert all(1 <= len(batch) <= LARGEST_BATCH for batch in made)
    assert len(made) >= min(count, workers * BATCHES_EACH)


def test_every_item_comes_once_with_its_result_or_its_error():
    found, broken, devices = {}, [], set()
    for number, finish in Devices(["cpu", "meta"]).over(Doubling(), list(range(40))):
        try:
            found[number], device = finish()
            devices.add(device)
        except InputError as error:
            broken.append(str(error))
    assert found == {number: 2 * number for number in range(40) if number % 10 >= 3}
    assert sorted(broken) == sorted(f"{number} is broken" for number in range(40) if number % 10 < 3)
    assert devices <= {"cpu", "meta"}


def test_what_no_worker_can_begin_with_ends_the_run():
    with pytest.raises(WeightsError, match="no such weights"):
        list(Devices(["cpu"]).over(Doubling(refused=True), [1, 2, 3]))


def test_a_lost_worker_ends_the_run_in_one_line():
    with pytest.raises(DeviceError, match=r"a worker on one of cpu, cpu was lost \(killed, or out of memory\)"):
        list(Devices(["cpu", "cpu"]).over(Doubling(killer=25), list(range(60))))


def test_nothing_is_begun_once_it_is_told_to_stop():
    seen: list[int] = []
    for number, _ in Devices(["cpu"]).over(Doubling(), list(range(400)), lambda: len(seen) > 0):
        seen.append(number)
    assert 0 < len(seen) <= LARGEST_BATCH * (AHEAD + 1)
