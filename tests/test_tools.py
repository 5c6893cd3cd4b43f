"""The tools that make the numbers of docs/performance.md measure what they say."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

TOOLS = Path(__file__).resolve().parent.parent / "tools"


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_compared_is_the_same(dtype):
    kernels = tool("bench_kernels")
    with torch.no_grad():
        trials = list(kernels.trials(dtype))
        assert len(trials) >= 6
        for trial in trials:
            assert kernels._difference(trial.now(), trial.tried()) <= trial.same, trial.what
            assert kernels._difference(trial.now(), trial.now() * 1.1) > trial.same, trial.what


def test_the_start_ends_with_the_first_line():
    start = tool("bench_start")
    script = "import time; time.sleep(0.3); print('a box', flush=True); time.sleep(2.5); print('another')"
    took = start.seconds_to_first_line([sys.executable, "-c", script], dict(os.environ))
    assert 0.3 <= took < 2.8


@pytest.mark.parametrize("script", ["print('a box'); raise SystemExit(2)", "pass"])
def test_a_start_without_a_box_is_no_start(script):
    with pytest.raises(RuntimeError, match="ended with exit code"):
        tool("bench_start").seconds_to_first_line([sys.executable, "-c", script], dict(os.environ))


IDEAL = {"images": 96_000, "rate": 10.0, "spread": 0.0, "stragglers": 0.0, "slow": 1.0, "mtbf": 1e9, "start": 30.0}
IDEAL |= {"driver": 1e9, "requests": 1e9, "price": 2.0}


@pytest.mark.parametrize(
    ("changes", "workers", "seconds", "limit"),
    [
        ({}, 1, 9600, "workers"),
        ({}, 60, 160, "workers"),
        ({"driver": 200.0}, 60, 480, "the driver"),
        ({"requests": 600.0}, 60, 480, "the object store"),  # three of them an image
        ({"stragglers": 1.0, "slow": 3.0}, 60, 480, "workers"),
    ],
)
def test_a_simulated_run_takes_what_its_slowest_part_takes(changes, workers, seconds, limit):
    simulation = tool("simulate_scale")
    run = simulation.simulate(simulation.Cluster(**{**IDEAL, **changes}), workers)
    assert run.hours * 3600 == pytest.approx(30 + seconds, rel=0.02)
    assert run.limit == limit
    assert run.lost == (0, 0)
    assert run.cost == pytest.approx(2.0 * workers * run.hours)


def test_what_is_lost_in_a_simulated_run_is_done_again():
    simulation = tool("simulate_scale")
    run = simulation.simulate(simulation.Cluster(**{**IDEAL, "mtbf": 0.05}), 60)
    lost, again = run.lost
    assert 30 < lost < 120  # a worker's three minutes of life, and of work
    assert again == 8 * lost
    assert run.hours * 3600 > 190 + again / 600


def test_what_a_bench_of_a_cluster_counts_and_compares(tmp_path):
    bench = tool("bench_ray")
    from hatdet.runs.parts import LocalFolder, Parts

    box = {"xyxy": [10.0, 10.0, 50.0, 60.0], "class_id": 2, "confidence": 0.5}
    moved = [{**box, "xyxy": [10.0, 10.0, 50.0, 60.1]}, {**box, "confidence": 0.5002}, {**box, "class_id": 3}]
    for name, found in (("one", [box]), ("same", [{**box, "confidence": 0.50005}]), ("none", [])):
        (tmp_path / f"{name}.json").write_text(json.dumps({"images": [{"source": "a.png", "detections": found}]}))
    assert bench.differences(tmp_path / "one", tmp_path / "same") == []
    assert len(bench.differences(tmp_path / "one", tmp_path / "none")) == 1
    for other in moved:
        (tmp_path / "moved.json").write_text(json.dumps({"images": [{"source": "a.png", "detections": [other]}]}))
        assert len(bench.differences(tmp_path / "one", tmp_path / "moved")) == 1
    out = tmp_path / "out"
    out.mkdir()
    with Parts(LocalFolder(out), out, {}) as parts:
        for number in range(3):
            (out / f"{number}.png").write_bytes(b"picture")
            parts.put(tmp_path / f"{number}.png", "", out / f"{number}.png")
    assert bench.counted(out, 3) == []
    (out / "2.png").unlink()
    assert bench.counted(out, 3) == ["3 images, 2 pictures, 3 rows"]
    with Parts(LocalFolder(out), out, {}) as parts:
        parts.put(tmp_path / "0.png", "", out / "0.png")
        parts._replaced = False  # as a run that is killed leaves it
    (out / "2.png").write_bytes(b"picture")
    assert bench.counted(out, 3) == ["0.png is there 2 times"]
