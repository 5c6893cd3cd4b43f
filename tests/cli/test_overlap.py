"""Reading ahead and writing behind: order, failures, and that it does overlap."""

from __future__ import annotations

import threading

import pytest

from hatdet.cli.overlap import overlapped


def results(items, read=lambda i: i, compute=lambda i, x: x, write=lambda i, x: x):
    found = []
    for item, finish in overlapped(items, read, compute, write):
        try:
            found.append((item, finish()))
        except ValueError as error:
            found.append((item, str(error)))
    return found


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_every_item_comes_once_in_order_with_its_result(count):
    found = results(range(count), lambda i: i + 10, lambda i, x: (i, x * 2), lambda i, x: (*x, i))
    assert found == [(i, (i, 2 * (i + 10), i)) for i in range(count)]


@pytest.mark.parametrize("step", ["read", "compute", "write"])
def test_what_fails_is_that_items_own(step):
    def fails(i, *_):
        if i == 1:
            raise ValueError(f"{step} of {i}")
        return i

    found = results(range(4), **{step: fails})
    assert found == [(0, 0), (1, f"{step} of 1"), (2, 2), (3, 3)]


def test_the_first_result_comes_before_the_second_is_computed():
    computed = []
    found = overlapped(range(3), lambda i: i, lambda i, x: computed.append(i), lambda i, x: i)
    item, finish = next(found)
    assert (item, finish(), computed) == (0, 0, [0])
    assert [(item, finish()) for item, finish in found] == [(1, 1), (2, 2)]


def test_the_next_is_read_and_the_last_is_written_while_one_is_computed():
    """Each step waits for what can only happen beside it; done one after the other this would never end."""
    read, written = {i: threading.Event() for i in range(4)}, {i: threading.Event() for i in range(4)}
    computing = {i: threading.Event() for i in range(4)}

    def do_read(i):
        read[i].set()

    def do_compute(i, _):
        computing[i].set()
        if i < 3:
            assert read[i + 1].wait(10), "the next is not read"

    def do_write(i, _):
        if 0 < i < 3:
            assert computing[i + 1].wait(10), "the next is not computed while this is written"
        written[i].set()

    for i, finish in overlapped(range(4), do_read, do_compute, do_write):
        finish()
        assert written[i].is_set()


def test_no_more_than_one_image_is_read_ahead():
    read, seen = [], []

    def compute(i, _):
        seen.append(max(read) - i)

    results(range(20), read.append, compute)
    assert max(seen) <= 1


def test_nothing_is_computed_after_it_is_told_to_stop():
    computed = []
    running = overlapped(range(9), lambda i: i, lambda i, x: computed.append(i), lambda i, x: i, lambda: 2 in computed)
    assert [(item, finish()) for item, finish in running] == [(0, 0), (1, 1), (2, 2)]
    assert computed == [0, 1, 2]


def test_interruption_ends_it_and_what_was_begun_is_written():
    written = []

    def compute(i, x):
        if i == 2:
            raise KeyboardInterrupt
        return x

    with pytest.raises(KeyboardInterrupt):
        list(overlapped(range(5), lambda i: i, compute, lambda i, x: written.append(i)))
    assert written == [0, 1]
