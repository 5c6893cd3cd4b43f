"""What a machine takes: how it is measured, with a clock that is told what to say, and the files that keep it."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from hatdet.core.errors import OptionsError, WeightsError
from hatdet.deploy import calibration
from hatdet.deploy.bench import write_random_weights
from hatdet.deploy.calibration import Line, Part, calibrated, fitted_line, median_ms, over_sides, upscalers_here
from hatdet.detection.weights import EMBEDDED
from hatdet.sr.catalogue import default_record
from tests.helpers import TINY

CPU = torch.device("cpu")


class Calls:
    """Calls that take what a list says, and the clock beside them."""

    def __init__(self, seconds: list[float]) -> None:
        self.seconds, self.now, self.done = seconds, 0.0, 0

    def clock(self) -> float:
        return self.now

    def __call__(self) -> None:
        self.now += self.seconds[self.done]
        self.done += 1


@pytest.mark.parametrize(
    ("seconds", "calls", "ms"),
    [
        ([9.0, 1.0, 3.0, 2.0], 4, 2000),  # the first is not counted
        ([0.0, 0.2, 0.05, 0.05, 9.0], 4, 50),
        ([9.0, 0.05, 0.05, 0.05, 0.05, 0.05, 0.2], 7, 50),  # until they take 0.3 s together
        ([9.0, *[0.001] * 4, *[0.003] * 5], 10, 3),  # or are nine
    ],
)
def test_the_median_of_some_calls(seconds, calls, ms):
    machine = Calls(seconds)
    assert median_ms(machine, CPU, machine.clock) == pytest.approx(ms)
    assert machine.done == calls


@pytest.mark.parametrize(
    ("ms", "seconds", "sides"),
    [
        (1000, 3.9, [32]),  # the first is measured whatever it takes
        (1000, 19.9, [32]),  # 4 s, and 4 calls of 4 s each for the next
        (1000, 20.0, [32, 64]),
        (10, 18, [32, 64, 128, 192, 256]),
        (55, 18, [32, 64, 128, 192]),
    ],
)
def test_no_side_is_begun_that_exceeds_the_time(ms, seconds, sides):
    now = [0.0]

    def measure(side: int) -> float:
        found = ms * (side / 32) ** 2
        now[0] += 4 * found / 1e3
        return found

    measured = over_sides(measure, calibration.NETWORK_SIDES, seconds, lambda: now[0])
    assert measured == tuple((side, ms * (side / 32) ** 2) for side in sides)
    assert now[0] <= max(seconds, 4 * ms / 1e3)


def test_times_on_a_line_give_that_line():
    line = fitted_line([(side, 5 + 2000 * side**2 / 1e6) for side in (32, 64, 256)])
    assert (line.fixed_ms, line.ms_per_mp, line.deviation) == pytest.approx((5, 2000, 0), abs=1e-9)
    assert line.ms(512 * 1024) == pytest.approx(5 + 2000 * 0.524288)
    assert line.ms(512 * 1024, calls=3) == pytest.approx(15 + 2000 * 0.524288)


@pytest.mark.parametrize(
    ("measured", "fixed_ms", "ms_per_mp", "deviation"),
    [
        ([(1000, 50)], 0, 50, 0),  # one: in proportion
        ([(1000, 0)], 0, 0, 0),  # a clock that does not see it
        ([(1000, 10), (2000, 10)], 10, 0, 0),
        ([(1000, 30), (2000, 10)], 12, 0, 0.6),  # no slope below 0: (1/30 + 1/10) / (1/900 + 1/100)
        ([(1000, 1), (2000, 8)], 0, 1.2, 0.4),  # nothing fixed below 0: (1 + 1/2) / (1 + 1/4)
    ],
)
def test_nothing_in_a_line_is_negative(measured, fixed_ms, ms_per_mp, deviation):
    line = fitted_line(measured)
    assert (line.fixed_ms, line.ms_per_mp, line.deviation) == pytest.approx((fixed_ms, ms_per_mp, deviation), abs=1e-5)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 2000), st.floats(0.1, 1e4)), min_size=2, max_size=6, unique_by=lambda m: m[0]))
def test_the_line_is_that_of_non_negative_least_squares(measured):
    sides, ms = (np.array(column, np.float64) for column in zip(*measured, strict=True))
    rows = np.stack([1 / ms, sides**2 / 1e6 / ms], 1)
    _, residual = nnls(rows, np.ones(len(ms)))
    line = fitted_line(measured)
    assert np.linalg.norm(rows @ [line.fixed_ms, line.ms_per_mp] - 1) == pytest.approx(residual, rel=1e-6, abs=1e-6)
    assert min(line.fixed_ms, line.ms_per_mp) >= 0


# ------------------------------------------------------------------------------------------ what is kept


def part(name: str, ms: float = 1.0) -> Part:
    return Part(name, Line(ms, 2.0, 0.25), 8, 64, 32, 4, ((32, 1.5), (64, 2.5)))


@pytest.fixture
def measured(monkeypatch) -> list[str]:
    """The names of what was measured, by nothing that takes time."""
    done: list[str] = []

    def upscaler(name, scale, device, precision):
        done.append(name)
        return part(name, len(done))

    def detector(weights, scale, device, trust):
        done.append("detector")
        return Part("yolo", Line(len(done), 3.0), 32, measured=((320, 4.0),))

    monkeypatch.setattr(calibration, "_measured_upscaler", upscaler)
    monkeypatch.setattr(calibration, "_measured_detector", detector)
    monkeypatch.setattr(calibration, "keep_freed_memory", lambda: True)  # not of this process
    return done


def test_measured_once(measured):
    first = calibrated()
    assert measured == ["bicubic", "hat-xs", "detector"]
    assert calibrated() == first
    assert len(measured) == 3
    assert first.upscalers == (part("bicubic", 1), part("hat-xs", 2))
    assert first.upscaler("hat-xs") is first.upscalers[1]
    assert first.detector.name == "yolo"
    assert (first.scale, first.machine["precision"], first.machine["threads"]) == (4, "float32", 1)
    with pytest.raises(ValueError, match="hat-l was not measured: there are bicubic, hat-xs"):
        first.upscaler("hat-l")


def test_what_is_asked_for_again_is_measured_again(measured):
    said = []
    assert calibrated().upscaler("hat-xs").line.fixed_ms == 2
    assert calibrated(again=True, on_measure=said.append).upscaler("hat-xs").line.fixed_ms == 5
    assert calibrated().upscaler("hat-xs").line.fixed_ms == 5
    assert said == ["bicubic", "hat-xs", f"detector {EMBEDDED.name}"]


def test_other_circumstances_are_measured_for_themselves(measured, monkeypatch, tmp_path):
    calibrated()
    del measured[:]
    calibrated(precision="bf16")
    assert measured == ["bicubic", "hat-xs"]  # the detector is in float32 whatever the network is in
    del measured[:]
    calibrated(scale=2)
    assert measured == ["bicubic"]
    del measured[:]
    mine = tmp_path / "mine.safetensors"
    for seed in (0, 1):  # other weights under a name
        write_random_weights({**TINY, "upscale": 4, "depths": [1 + seed], "num_heads": [3]}, mine)
        assert [one.name for one in calibrated(upscalers=[str(mine)]).upscalers] == ["bicubic", str(mine)]
    assert measured == [str(mine)] * 2
    del measured[:]
    for change in (
        (calibration, "device_name", lambda device: "another"),
        (torch, "get_num_threads", lambda: 3),
        (torch, "__version__", "9.9"),
        (calibration, "__version__", "9.9"),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(*change)
            calibrated()
            assert measured == ["bicubic", "hat-xs", "detector"], change
            del measured[:]
    calibrated()
    assert measured == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: "{",
        lambda found: "[]",
        lambda found: json.dumps({**found, "schema": 99}),
        lambda found: json.dumps({**found, "depends_on": {**found["depends_on"], "threads": 99}}),
        lambda found: json.dumps({**found, "ms_per_mp": -1}),
        lambda found: json.dumps({**found, "fixed_ms": "5"}),
        lambda found: json.dumps({**found, "fixed_ms": True}),
        lambda found: json.dumps(found).replace('"ms_per_mp": 2.0', '"ms_per_mp": NaN'),
        lambda found: json.dumps({**found, "batch": 0}),
        lambda found: json.dumps({**found, "overlap": 33}),
        lambda found: json.dumps({**found, "tile": 60}),
        lambda found: json.dumps({**found, "measured": [[32]]}),
        lambda found: json.dumps({key: value for key, value in found.items() if key != "multiple"}),
    ],
)
def test_a_damaged_file_is_measured_again(measured, damage, caplog):
    file = calibrated().files[1]
    found = json.loads(file.read_text())
    assert found["name"] == "hat-xs"
    file.write_text(damage(found))
    del measured[:]
    with caplog.at_level(logging.INFO):
        assert calibrated().upscaler("hat-xs") == part("hat-xs", 1)
    assert measured == ["hat-xs"]
    assert f"{file} is damaged" in caplog.text
    assert json.loads(file.read_text())["fixed_ms"] == 1


def test_where_nothing_can_be_kept_it_is_measured_every_time(measured, cache, caplog):
    (cache.parent / "tuning").write_text("a file where the folder should be")
    calibrated()
    calibrated()
    assert measured == ["bicubic", "hat-xs", "detector"] * 2
    assert "what was measured is not kept" in caplog.text


def test_upscalers_whose_weights_are_here(cache: Path):
    assert upscalers_here(4) == ["bicubic", "hat-xs"]
    assert upscalers_here(2) == ["bicubic"]
    cache.mkdir(parents=True)
    for family in ("real-hat", "hat-l", "hat-s"):
        (cache / default_record(family, 4).file).write_bytes(b"")
    assert upscalers_here(4) == ["bicubic", "hat-xs", "hat-s", "hat-l"]
    assert upscalers_here(3) == ["bicubic"]


def test_what_cannot_be_measured_is_refused(measured):
    with pytest.raises(WeightsError, match="hat-xxl"):
        calibrated(upscalers=["hat-xxl"])
    with pytest.raises(OptionsError, match="fp16 is refused"):
        calibrated(precision="fp16")
    with pytest.raises(OptionsError, match="hat-xs has no weights for scale 3"):
        calibrated(upscalers=["hat-xs"], scale=3)


def test_real_networks_are_measured(tmp_path, monkeypatch):
    """The one measurement of this file that takes time."""
    mine = tmp_path / "tiny.safetensors"
    write_random_weights({**TINY, "depths": [1], "num_heads": [3], "upscale": 2}, mine)
    monkeypatch.setattr(calibration, "keep_freed_memory", lambda: True)
    monkeypatch.setattr(calibration, "QUICK_SECONDS", 0.0)
    for sides in ("NETWORK_SIDES", "BICUBIC_SIDES"):
        monkeypatch.setattr(calibration, sides, (8, 16, 24))
    monkeypatch.setattr(calibration, "CANVAS_SIDES", (64, 96))
    found = calibrated(upscalers=[str(mine)], scale=2)
    bicubic, tiny = found.upscalers
    assert (bicubic.name, bicubic.tile, bicubic.multiple) == ("bicubic", None, 1)
    assert (tiny.name, tiny.tile, tiny.multiple, tiny.overlap, tiny.batch) == (str(mine), 256, 8, 32, 1)
    assert (found.detector.name, found.detector.multiple) == (EMBEDDED.name, 32)
    assert [side for side, _ in tiny.measured] == [side for side, _ in bicubic.measured] == [8, 16, 24]
    assert [side for side, _ in found.detector.measured] == [64, 96]
    for one in (bicubic, tiny, found.detector):
        assert min(ms for _, ms in one.measured) > 0
        assert one.line == fitted_line(one.measured)
    assert calibrated(upscalers=[str(mine)], scale=2) == replace(found)
