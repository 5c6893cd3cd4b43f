"""The fastest tile: the search with a clock that is told what to say, and the file that keeps the choice."""

from __future__ import annotations

import json
import logging
import math

import pytest
import torch

from hatdet.sr import tuning, upscalers
from hatdet.sr.memory import Choice
from hatdet.sr.tuning import circumstances, fastest, remembered, seconds_of, tile_candidates, useful_rate
from hatdet.sr.upscalers import HatUpscaler, load_upscaler
from tests.helpers import tiny_hat

CPU = torch.device("cpu")


class Machine:
    """A network whose calls take what the table says, and the clock beside it."""

    def __init__(self, seconds: dict[Choice, float], runs: int = 0) -> None:
        self.seconds, self.runs, self.now = seconds, runs, 0.0
        self.measured: list[Choice] = []

    def clock(self) -> float:
        return self.now

    def measure(self, choice: Choice) -> float:
        self.measured.append(choice)
        self.now += self.runs * self.seconds[choice]
        return self.seconds[choice]

    def fastest(self, tiles, batches=(1,), fits=lambda choice: True) -> Choice:
        return fastest(self.measure, tiles, batches, 32, fits, self.clock)


def seconds_at(rates: dict[tuple[int, int], float]) -> dict[Choice, float]:
    """Seconds of a call that give these rates, in millions of pixels, with an overlap of 32."""
    return {Choice(t, b): (t - 32) ** 2 * b / (1e6 * rate) for (t, b), rate in rates.items()}


def test_candidates_are_multiples_of_the_window():
    assert tile_candidates(16) == [64, 96, 128, 192, 256, 384, 512]
    assert tile_candidates(24) == [48, 96, 120, 192, 240, 384, 504]
    assert tile_candidates(100) == [100, 200, 300, 500]


@pytest.mark.parametrize(
    ("choice", "overlap", "seconds", "expected"),
    [((64, 1), 32, 2, 512), ((96, 4), 32, 8, 2048), ((64, 1), 50, 1, 1024), ((64, 2), 0, 1, 8192)],
)
def test_only_what_a_tile_adds_counts(choice, overlap, seconds, expected):
    assert useful_rate(Choice(*choice), overlap, seconds) == expected


@pytest.mark.parametrize(
    ("rates", "expected", "measured"),
    [
        ([1, 2, 3, 4, 5, 6, 7], 512, 7),
        ([1, 3, 2, 4, 3, 2, 9], 192, 6),  # one that is slower ends nothing, two in a row do
        ([5, 4, 3, 9, 9, 9, 9], 64, 3),
        ([1, 5, 4, 4.5, 9, 9, 9], 96, 4),  # faster than the one before, slower than the best
        ([5, 5, 5, 9, 9, 9, 9], 64, 3),  # of two that are alike the smaller one
    ],
)
def test_two_tiles_in_a_row_that_are_slower_end_the_search(rates, expected, measured):
    tiles = tile_candidates(16)
    machine = Machine(seconds_at({(t, 1): rate for t, rate in zip(tiles, rates, strict=True)}))
    assert machine.fastest(tiles) == (expected, 1)
    assert machine.measured == [(t, 1) for t in tiles[:measured]]


def test_larger_batches_are_tried_until_two_are_slower():
    rates = {
        (64, 1): 1,
        (64, 2): 5,
        (64, 4): 4,
        (64, 8): 3,
        (64, 16): 9,
        (96, 1): 2,
        (96, 2): 6,
        (96, 4): 5,
        (96, 8): 7,
    }
    machine = Machine(seconds_at({**rates, (96, 16): 6.5}))
    assert machine.fastest([64, 96], tuning.BATCHES) == (96, 8)
    assert (64, 16) not in machine.measured
    assert (96, 16) in machine.measured


def test_what_does_not_fit_is_not_measured():
    machine = Machine(seconds_at({(64, 1): 1, (64, 2): 2, (96, 1): 3}))
    assert machine.fastest([64, 96, 128], [1, 2, 4], lambda choice: choice.tile**2 * choice.batch < 10000) == (96, 1)
    assert machine.measured == [(64, 1), (64, 2), (96, 1)]
    assert Machine({}).fastest([64, 96], [1, 2], lambda choice: False) == (64, 1)


def test_what_ran_out_of_memory_is_not_chosen():
    machine = Machine({Choice(64, 1): 1.0, Choice(96, 1): math.inf, Choice(128, 1): math.inf, Choice(192, 1): 1e-9})
    assert machine.fastest([64, 96, 128, 192]) == (64, 1)


@pytest.mark.parametrize(
    ("seconds", "measured"),
    [
        (31, [64]),  # the first is measured whatever it takes
        (10, [64]),  # twice 10 s, and 96 is 2.25 times as large: 45 s more
        (9, [64, 96]),  # 18 s and 40.5 s
        (0.1, [64, 96, 128, 192, 256]),
    ],
)
def test_the_time_ends_the_search_before_it_is_exceeded(seconds, measured):
    tiles = [64, 96, 128, 192, 256]
    machine = Machine({Choice(t, 1): seconds * (t / 64) ** 2 for t in tiles}, runs=2)
    assert machine.fastest(tiles) == (measured[-1], 1)
    assert machine.measured == [(t, 1) for t in measured]
    assert machine.now <= max(60, 2 * seconds)


def test_a_call_is_timed_by_the_fastest_after_the_first():
    ticks = iter([0, 9, 10, 10.3, 11, 11.2, 12, 12.4])
    shapes = []
    assert seconds_of(lambda x: shapes.append(tuple(x.shape)), CPU, Choice(8, 2), lambda: next(ticks)) == (
        pytest.approx(0.2)
    )
    assert shapes == [(2, 3, 8, 8)] * 4


def test_a_slow_call_is_timed_once_after_the_first():
    ticks = iter([0, 20, 20, 30])
    assert seconds_of(lambda x: None, CPU, Choice(8, 1), lambda: next(ticks)) == 10


def test_running_out_of_memory_is_infinitely_slow_and_other_errors_propagate():
    def fails(message):
        def compute(x):
            raise RuntimeError(message)

        return compute

    assert seconds_of(fails("CUDA out of memory"), CPU, Choice(8, 1)) == math.inf
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        seconds_of(fails("shapes cannot be multiplied"), CPU, Choice(8, 1))


# ------------------------------------------------------------------------------------------ the file


def never() -> Choice:
    pytest.fail("measured again")


DEPENDS_ON = {"device": "cpu Toaster 3000", "overlap": 32, "batch": None}


def kept(cache):
    (file,) = (cache.parent / "tuning").iterdir()
    return file


def test_a_choice_is_found_once(cache):
    assert remembered(DEPENDS_ON, [64, 96], lambda: Choice(96, 4)) == (96, 4)
    assert remembered(DEPENDS_ON, [64, 96], never) == (96, 4)
    assert json.loads(kept(cache).read_text()) == {"tile": 96, "batch": 4, "depends_on": DEPENDS_ON}


def test_other_circumstances_have_a_choice_of_their_own(cache):
    remembered(DEPENDS_ON, [64, 96], lambda: Choice(96, 4))
    assert remembered({**DEPENDS_ON, "overlap": 16}, [64, 96], lambda: Choice(64, 1)) == (64, 1)
    assert remembered(DEPENDS_ON, [64, 96], never) == (96, 4)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"tile": 96}',
        b'{"tile": "96", "batch": 4}',
        b'{"tile": [96], "batch": 4}',
        b'{"tile": 97, "batch": 4, "depends_on": {"device": "cpu Toaster 3000", "overlap": 32, "batch": null}}',
        b'{"tile": 96, "batch": 0, "depends_on": {"device": "cpu Toaster 3000", "overlap": 32, "batch": null}}',
        b'{"tile": 96, "batch": 4, "depends_on": {"device": "another"}}',
    ],
)
def test_a_damaged_file_is_replaced(cache, caplog, content):
    remembered(DEPENDS_ON, [64, 96], lambda: Choice(96, 4))
    kept(cache).write_bytes(content)
    with caplog.at_level(logging.INFO, "hatdet"):
        assert remembered(DEPENDS_ON, [64, 96], lambda: Choice(64, 2)) == (64, 2)
    assert "is damaged: the fastest tile is found again" in caplog.text
    assert remembered(DEPENDS_ON, [64, 96], never) == (64, 2)


def test_a_cache_that_cannot_be_written_is_a_warning(cache, caplog):
    (cache.parent / "tuning").write_text("a file where the folder would be")
    for _ in range(2):
        with caplog.at_level(logging.WARNING, "hatdet"):
            assert remembered(DEPENDS_ON, [64, 96], lambda: Choice(96, 4)) == (96, 4)
    assert "the fastest tile is not kept: " in caplog.text


def test_everything_that_speed_depends_on_is_in_the_circumstances(monkeypatch):
    given = {"name": "a", "scale": 2, "device": CPU, "precision": torch.float32, "overlap": 32, "batch": None}
    network = tiny_hat()
    plain = circumstances(network, **given)
    assert json.loads(json.dumps(plain)) == plain
    others = [
        circumstances(tiny_hat(num_feat=10), **given),
        circumstances(network, **{**given, "name": "b"}),
        circumstances(network, **{**given, "scale": 4}),
        circumstances(network, **{**given, "precision": torch.bfloat16}),
        circumstances(network, **{**given, "overlap": 16}),
        circumstances(network, **{**given, "batch": 1}),
    ]
    for module, name, other in [
        (tuning, "__version__", "9.9"),
        (torch, "__version__", "9.9"),
        (torch, "get_num_threads", lambda: 99),
        (tuning, "device_name", lambda device: "cpu Toaster 3000"),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, other)
            others.append(circumstances(network, **given))
    assert len({json.dumps(one, sort_keys=True) for one in [plain, *others]}) == len(others) + 1
    assert circumstances(tiny_hat(seed=1), **given) == plain  # the values of the weights cost nothing


# ------------------------------------------------------------------------------------------ the whole


@pytest.fixture
def weights(tmp_path):
    torch.save(tiny_hat().state_dict(), tmp_path / "tiny.pth")
    return tmp_path / "tiny.pth"


def test_auto_measures_once_and_says_so(weights, monkeypatch, caplog):
    machine = Machine(
        seconds_at({(t, 1): rate for t, rate in zip(tile_candidates(8), [1, 2, 3, 2, 1, 9, 9], strict=True)})
    )
    monkeypatch.setattr(upscalers, "seconds_of", lambda compute, device, choice: machine.measure(choice))
    monkeypatch.setattr(upscalers, "free_memory", lambda device: 2**40)
    with caplog.at_level(logging.INFO, "hatdet"):
        first = load_upscaler(weights, 2, device="cpu", tile="auto")
    assert isinstance(first, HatUpscaler)
    assert (first.tile, first.batch) == (128, 1)
    assert [record.getMessage() for record in caplog.records] == [
        "finding the fastest tile of tiny on cpu, once ...",
        "tiles of 128, 1 in one call: the fastest for tiny on cpu",
    ]
    caplog.clear()
    with caplog.at_level(logging.INFO, "hatdet"):
        again = load_upscaler(weights, 2, device="cpu", tile="auto")
    assert (again.tile, again.batch) == (128, 1)
    assert [record.getMessage() for record in caplog.records] == [
        "tiles of 128, 1 in one call: the fastest for tiny on cpu"
    ]
    assert len(machine.measured) == 5


def test_auto_with_a_batch_measures_that_batch(weights, monkeypatch):
    machine = Machine(seconds_at({(t, 3): 1 / t for t in tile_candidates(8)}))
    monkeypatch.setattr(upscalers, "seconds_of", lambda compute, device, choice: machine.measure(choice))
    monkeypatch.setattr(upscalers, "free_memory", lambda device: 2**40)
    upscaler = load_upscaler(weights, 2, device="cpu", tile="auto", batch=3)
    assert (upscaler.tile, upscaler.batch) == (64, 3)


def test_auto_really_runs_the_network(weights, monkeypatch):
    """Without a fake: two small tiles, whichever is faster."""
    monkeypatch.setattr(tuning, "TILES", (16, 32))
    upscaler = load_upscaler(weights, 2, device="cpu", tile="auto", overlap=4)
    assert (upscaler.tile, upscaler.batch) in [(16, 1), (32, 1)]


def test_memory_that_measuring_takes_makes_no_tile_smaller(weights, monkeypatch):
    """The CPU's allocator keeps it."""
    available = [2**40]

    def measure(compute, device, choice):
        available[0] = 2**20
        return 1.0

    monkeypatch.setattr(upscalers, "seconds_of", measure)
    monkeypatch.setattr(upscalers, "free_memory", lambda device: available[0])
    assert load_upscaler(weights, 2, device="cpu", tile="auto").tile == 512


def test_a_choice_that_no_longer_fits_is_made_smaller(weights, monkeypatch, caplog):
    monkeypatch.setattr(upscalers, "remembered", lambda depends_on, tiles, find: Choice(512, 1))
    monkeypatch.setattr(upscalers, "free_memory", lambda device: 2**20)
    assert load_upscaler(weights, 2, device="cpu", tile="auto").tile == 64
    assert "going on with 64" in caplog.text
