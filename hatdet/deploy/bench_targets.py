"""What hatdet's speed and memory are to be, and whether they are: `hatdet bench --targets`.

A target is a number that a machine of its kind can check; where there is no such machine it is not run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from hatdet.core.device import choose_device
from hatdet.core.errors import HatdetError
from hatdet.core.types import Image
from hatdet.deploy.bench import (
    LARGEST_LOSS_DB,
    Asked,
    Group,
    Lane,
    Worker,
    WorkerError,
    bench_picture,
    find_models,
    groups_of,
    matmul_share,
    measure_group,
    passes,
    ratio,
    write_random_weights,
)
from hatdet.deploy.bench_worker import BACKENDS, PEERS, Configuration, Overlapped
from hatdet.imaging.files import read_image, write_image
from hatdet.imaging.resize import reduced
from hatdet.imaging.sample_photos import sample_photos
from hatdet.sr.upscalers import DEFAULT_TILE

__all__ = ["TARGETS", "Checks", "Command", "Outcome", "Target", "check_targets", "has_cuda", "run_command"]

SCALE, THREADS, SMALL_WH, FRAME_WH = 4, 2, (64, 64), (640, 480)
CHAIN_IMAGES, CHAIN_WH = 50, (160, 120)  # as `hatdet eval` makes them of COCO's at x4
BUSY_IMAGES = 8
SIDES = (1024, 4096)  # of the pictures whose memory is compared
FLOAT_RGB = 12  # bytes of a pixel of the output canvas
TINY = {
    "embed_dim": 12,
    "depths": [1],
    "num_heads": [2],
    "window_size": 8,
    "compress_ratio": 4,
    "squeeze_factor": 6,
    "mlp_ratio": 1,
    "num_feat": 8,
    "upscale": SCALE,
}


@dataclass(frozen=True)
class Target:
    """One number and its bound.

    Attributes:
        key: in the JSON.
        text: what is measured.
        wanted: the bound.
        at_least: whether it is a lower bound.
        unit: `x`, `%` (of a share) or `ms`.
        must: a weaker bound that may not be missed at all.
    """

    key: str
    text: str
    wanted: float
    at_least: bool = True
    unit: str = "x"
    must: float | None = None

    def holds(self, value: float, bound: float) -> bool:
        return value >= bound if self.at_least else value <= bound

    def shown(self, value: float) -> str:
        return f"{value * 100:.0f} %" if self.unit == "%" else f"{value:.4g} {self.unit}"


@dataclass(frozen=True)
class Outcome:
    """What came of a target: its value, or None and in `detail` why it was not run."""

    target: Target
    value: float | None
    detail: str

    @property
    def state(self) -> str:
        if self.value is None:
            return "not run"
        return "met" if self.target.holds(self.value, self.target.wanted) else "missed"

    def as_row(self) -> dict[str, Any]:
        """For the JSON."""
        target = self.target
        detail = self.detail
        if self.state == "missed" and target.must is not None and self.value is not None:
            kept = "is met" if target.holds(self.value, target.must) else "is missed too"
            detail = f"the must of {target.shown(target.must)} {kept}; {detail}"
        return {
            "key": target.key,
            "text": target.text,
            "bound": f"{'>=' if target.at_least else '<='} {target.shown(target.wanted)}",
            "wanted": target.wanted,
            "at_least": target.at_least,
            "must": target.must,
            "unit": target.unit,
            "value": self.value,
            "shown": None if self.value is None else target.shown(self.value),
            "state": self.state,
            "detail": detail,
        }


@dataclass(frozen=True)
class Command:
    """What a command of hatdet left behind: the exit code, stderr, the most memory that it held, in bytes."""

    code: int
    stderr: str
    peak: int


def run_command(arguments: Sequence[str], threads: int | None = None) -> Command:
    """Run `hatdet` with these arguments in a process of its own and watch its memory (Linux)."""
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, "-m", "hatdet", *arguments]
    peak = 0
    with tempfile.TemporaryFile("w+") as said:  # a pipe that nobody reads would fill
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=said) as process:  # noqa: S603
            while process.poll() is None:
                peak = max(peak, _peak_of(process.pid))
                time.sleep(0.02)
        said.seek(0)
        return Command(process.returncode, said.read(), peak)


def _peak_of(process: int) -> int:
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


@dataclass(frozen=True)
class Checks:
    """What targets are checked with.

    Attributes:
        folder: for files of a while.
        runs: rounds of each measurement.
        cuda: whether there is a GPU.
        overlapped: how `hatdet detect` reads and writes beside the computing.
        quick: leave out what takes minutes.
        start: makes a worker.
        run: runs a command of hatdet, with so many threads.
        step_done: called with the steps done and the steps in all of a measurement.
    """

    folder: Path
    runs: int
    cuda: bool
    overlapped: Overlapped
    quick: bool = False
    start: Callable[[Configuration], Asked] = Worker
    run: Callable[[Sequence[str], int | None], Command] = run_command
    step_done: Callable[[int, int], None] = field(default=lambda done, total: None)

    @contextmanager
    def measured(
        self,
        family: str,
        size_wh: tuple[int, int],
        device: str,
        precisions: Sequence[str],
        backends: Sequence[str] = ("eager",),
        threads: int | None = None,
        tile: int = DEFAULT_TILE,
    ) -> Iterator[Group]:
        """One network, measured against its peers."""
        (group,) = groups_of(
            find_models([family], SCALE, self.folder),
            precisions,
            backends,
            [tile],
            [None],
            scale=SCALE,
            device=device,
            threads=threads,
        )
        with group:
            measure_group(
                group, bench_picture(size_wh), self.runs, self.folder, start=self.start, step_done=self.step_done
            )
            yield group

    @contextmanager
    def worker(self, configuration: Configuration) -> Iterator[Asked]:
        worker = self.start(configuration)
        try:
            yield worker
        finally:
            worker.close()


Found = Mapping[str, tuple[float | None, str]]  # by a target's key: the value, and how it came about


@dataclass(frozen=True)
class _Measurement:
    """Targets that one measurement decides."""

    targets: tuple[Target, ...]
    check: Callable[[Checks], Found]
    needs_cuda: bool = False
    minutes: bool = False


def check_targets(checks: Checks, only: Sequence[str] | None = None) -> Iterator[Outcome]:
    """All targets (or those of these keys), one measurement after the other."""
    for measurement in _MEASUREMENTS:
        wanted = [target for target in measurement.targets if only is None or target.key in only]
        if not wanted:
            continue
        found: Found = {}
        why = "not measured"
        if measurement.needs_cuda and not checks.cuda:
            why = "there is no GPU here"
        elif measurement.minutes and checks.quick:
            why = "takes minutes, and --quick was given"
        else:
            try:
                found = measurement.check(checks)
            except (WorkerError, HatdetError) as error:
                why = str(error)
        for target in wanted:
            yield Outcome(target, *found.get(target.key, (None, why)))


# ------------------------------------------------------------------------------------------ 1. speed on the CPU


def _hat_s(checks: Checks) -> Found:
    with checks.measured("hat-s", SMALL_WH, "cpu", ["fp32", "bf16"], threads=THREADS) as group:
        own = {lane.configuration.precision: lane for lane in group.lanes if lane.configuration.backend == "eager"}
        spandrel = group.peer("spandrel")
        ratios = {precision: ratio(lane, spandrel) for precision, lane in own.items()}
        fp32 = own["fp32"]
        times = ", ".join(_milliseconds(lane) for lane in group.lanes)
        share = None if group.flops is None or fp32.failed else matmul_share(fp32, group.flops)
        gate, judged_on = _gate(checks, own)
    passing = {
        precision: value
        for precision, value in ratios.items()
        if value is not None and (precision == "fp32" or (precision in gate and passes(gate[precision])))
    }
    best = max(passing, key=lambda precision: passing[precision], default=None)
    gated = ", ".join([_lost(lane) for lane in gate.values()] + [f"on {judged_on}"])
    return {
        "cpu_spandrel": (ratios["fp32"], _why(group, spandrel, fp32) or times),
        "cpu_matmul": (share, fp32.failed or f"matmuls run at {median(fp32.matmul):.0f} GFLOP/s"),
        "cpu_precision": (passing[best] if best else None, _why(group, spandrel, fp32) or f"{best}; {gated}"),
    }


def _gate(checks: Checks, own: Mapping[str, Lane]) -> tuple[dict[str, Lane], str]:
    """What each low precision loses, and on which weights: random ones say nothing of a trained network."""
    if not next(iter(own.values())).model.random:
        return _low(own.values()), "the same weights"
    with checks.measured("hat-xs", SMALL_WH, "cpu", ["fp32", "bf16"], threads=THREADS) as group:
        return _low(group.lanes), "hat-xs (there are no weights of hat-s here)"


def _low(lanes: Iterable[Lane]) -> dict[str, Lane]:
    """Those in a low precision that were judged."""
    return {
        lane.configuration.precision: lane
        for lane in lanes
        if not lane.is_peer and lane.configuration.precision != "fp32" and lane.psnr_lost is not None
    }


def _lost(lane: Lane) -> str:
    """What a lane loses of the PSNR to the ground truth."""
    name = f"{lane.configuration.backend} {lane.configuration.precision}"
    if lane.psnr_lost is None:
        return f"{name} was not judged"
    return f"{name} loses {lane.psnr_lost:.4f} dB (allowed {LARGEST_LOSS_DB:g})"


def _backends(checks: Checks) -> Found:
    exported = [name for name, backend in BACKENDS.items() if name != "eager" and backend.missing() is None]
    if not exported:
        return {"backend": (None, "no exported backend is installed")}
    with checks.measured("hat-xs", SMALL_WH, "cpu", ["fp32", "bf16"], ["eager", *exported], tile=SMALL_WH[0]) as group:
        (eager,) = [
            lane
            for lane in group.lanes
            if (lane.configuration.backend, lane.configuration.precision) == ("eager", "fp32")
        ]
        faster = {
            f"{lane.configuration.backend} {lane.configuration.precision}": ratio(lane, eager)
            for lane in group.lanes
            if lane.configuration.backend in exported and passes(lane)
        }
        own = [lane for lane in group.lanes if not lane.is_peer]
        times = ", ".join([*map(_milliseconds, own), *(_lost(lane) for lane in own if not passes(lane))])
    known = {name: value for name, value in faster.items() if value is not None}
    best = max(known, key=lambda name: known[name], default=None)
    return {"backend": (known[best] if best else None, f"{best or 'none passes the gate'}; {times}")}


def _chain(checks: Checks) -> Found:
    sources = _parts(checks.folder / "chain", CHAIN_IMAGES, CHAIN_WH, 4)
    with checks.worker(Configuration("hat-xs", SCALE, device="cpu", threads=THREADS)) as worker:
        worker.ask("warm_up", read_image(sources[0]).pixels.numpy())
        before = float(worker.ask("alone", sources))
        wall = _detect_seconds(checks, sources)
        after = float(worker.ask("alone", sources))
    alone = (before + after) / 2
    return {
        "chain_overhead": (
            wall / alone,
            f"{wall:.1f} s over {alone:.1f} s ({before:.1f} before it, {after:.1f} after it), hat-xs",
        )
    }


def _detect_seconds(checks: Checks, sources: Sequence[str]) -> float:
    """What `hatdet detect --upscale` says that it took, models loaded."""
    folder = checks.folder / "chain"
    done = checks.run(
        ["detect", "--upscale", str(folder), "-o", str(checks.folder / "boxes"), "--device", "cpu"], THREADS
    )
    said = re.search(rf"^{len(sources)} images in ([\d.]+) s", done.stderr, re.MULTILINE)
    if done.code or not said:
        raise WorkerError(f"hatdet detect ended with exit code {done.code}: {done.stderr.strip()[-200:]}")
    return float(said[1])


# ------------------------------------------------------------------------------------------ 2. speed on the GPU


def _hat_on_gpu(checks: Checks) -> Found:
    with checks.measured("hat", FRAME_WH, "cuda", ["bf16"]) as group:
        (own,) = [lane for lane in group.lanes if not lane.is_peer]
        spandrel = group.peer("spandrel")
        detail = f"{own.about.get('device')}; " + ", ".join(_milliseconds(lane) for lane in group.lanes)
        return {
            "gpu_hat_ms": (_median_ms(own), own.failed or detail),
            "gpu_hat_spandrel": (ratio(own, spandrel), _why(group, spandrel, own) or detail),
        }


def _hat_s_on_gpu(checks: Checks) -> Found:
    with checks.measured("hat-s", FRAME_WH, "cuda", ["bf16"]) as group:
        (own,) = [lane for lane in group.lanes if not lane.is_peer]
        return {"gpu_hat_s_ms": (_median_ms(own), own.failed or str(own.about.get("device")))}


def _busy(checks: Checks) -> Found:
    sources = _parts(checks.folder / "frames", BUSY_IMAGES, FRAME_WH, 1)
    (model,) = find_models(["hat"], SCALE, checks.folder)
    out = checks.folder / "busy"
    with checks.worker(Configuration(model.source, SCALE, "bf16", device="cuda")) as worker:
        worker.ask("warm_up", read_image(sources[0]).pixels.numpy())
        share = float(worker.ask("busy", sources, str(out), checks.overlapped))
    return {"gpu_busy": (share, f"read, upscale (hat, bf16), detect, write of {BUSY_IMAGES} pictures 640x480")}


# ------------------------------------------------------------------------------------------ 3. memory


def _device_memory(checks: Checks) -> Found:
    with checks.worker(Configuration("hat-xs", SCALE, "bf16", device="cuda")) as worker:
        small, large = (int(worker.ask("memory", side, side)) for side in SIDES)
    return {"memory_device": (large / small, f"{small / 1e9:.2f} and {large / 1e9:.2f} GB allocated, hat-xs")}


def _host_memory(checks: Checks) -> Found:
    """Of `hatdet sr`, with a network so small that what remains is the picture."""
    weights = checks.folder / "tiny.safetensors"
    write_random_weights(TINY, weights)
    peaks = []
    for side in SIDES:
        picture = checks.folder / f"{side}.png"
        write_image(bench_picture((side, side)), picture)
        out = str(checks.folder / "large")
        done = checks.run(["sr", str(picture), "--upscaler", str(weights), "-o", out], None)
        if done.code or not done.peak:
            raise WorkerError(f"hatdet sr ended with exit code {done.code}: {done.stderr.strip()[-200:]}")
        peaks.append(done.peak)
    growth, canvas = peaks[1] - peaks[0], FLOAT_RGB * (SIDES[1] * SCALE) ** 2
    return {
        "memory_host": (
            growth / canvas,
            f"{growth / 1e9:.2f} GB more than for 1024x1024; the canvas is {canvas / 1e9:.2f} GB of float32",
        )
    }


# ------------------------------------------------------------------------------------------ 4. helpers and the list


def _parts(folder: Path, count: int, size_wh: tuple[int, int], reduction: int) -> list[str]:
    """Parts of the reduced sample photos, as files."""
    width, height = size_wh
    photos = [reduced(read_image(path), reduction).pixels for path in sample_photos()]
    names = []
    for number in range(count):
        pixels = photos[number % len(photos)]
        top = number * 5 % max(pixels.shape[1] - height, 1)
        left = number * 7 % max(pixels.shape[2] - width, 1)
        part = pixels[:, top : top + height, left : left + width].contiguous()
        path = folder / f"{number:02d}.png"
        write_image(Image(part), path)
        names.append(str(path))
    return names


def _median_ms(lane: Lane) -> float | None:
    return None if lane.failed or not lane.seconds else median(lane.seconds) * 1e3


def _milliseconds(lane: Lane) -> str:
    name = f"{lane.configuration.backend} {lane.configuration.precision}"
    value = _median_ms(lane)
    return f"{name} failed" if value is None else f"{name} {value:.0f} ms"


def _why(group: Group, spandrel: Lane | None, own: Lane) -> str | None:
    """Why there is no ratio to spandrel."""
    if spandrel is None:
        return PEERS["spandrel"].missing() or "spandrel takes no part"
    return own.failed or spandrel.failed


_SMALL = f"HAT-S x4, 64x64, CPU, {THREADS} threads"
_MEASUREMENTS = (
    _Measurement(
        (
            Target("cpu_spandrel", f"{_SMALL}: fp32 against spandrel's HAT", 2.8, must=2.5),
            Target("cpu_matmul", f"{_SMALL}: share of the rate of fp32 matmuls", 0.8, unit="%"),
            Target("cpu_precision", f"{_SMALL}: best precision that passes the gate against spandrel's fp32", 4.0),
        ),
        _hat_s,
    ),
    _Measurement(
        (Target("backend", "HAT-XS x4, 64x64, CPU: best exported backend against own eager fp32", 1.3),), _backends
    ),
    _Measurement(
        (
            Target(
                "chain_overhead",
                f"detect --upscale, {CHAIN_IMAGES} images, CPU, {THREADS} threads: "
                "wall time over that of upscaling and detecting alone",
                1.05,
                at_least=False,
            ),
        ),
        _chain,
        minutes=True,
    ),
    _Measurement(
        (
            Target("gpu_hat_ms", "HAT x4, 640x480, bf16, GPU", 120.0, at_least=False, unit="ms"),
            Target("gpu_hat_spandrel", "HAT x4, 640x480, bf16, GPU: against spandrel's HAT in fp32", 6.0),
        ),
        _hat_on_gpu,
        needs_cuda=True,
    ),
    _Measurement(
        (Target("gpu_hat_s_ms", "HAT-S x4, 640x480, bf16, GPU", 80.0, at_least=False, unit="ms"),),
        _hat_s_on_gpu,
        needs_cuda=True,
    ),
    _Measurement(
        (Target("gpu_busy", "whole chain, HAT x4, 640x480: share of the time in which the GPU works", 0.9, unit="%"),),
        _busy,
        needs_cuda=True,
    ),
    _Measurement(
        (Target("memory_device", "peak on the GPU: 4096x4096 at x4 over 1024x1024 at x4", 1.05, at_least=False),),
        _device_memory,
        needs_cuda=True,
    ),
    _Measurement(
        (
            Target(
                "memory_host",
                "memory of `hatdet sr`: growth from 1024x1024 to 4096x4096 at x4, over the output canvas",
                1.5,
                at_least=False,
            ),
        ),
        _host_memory,
        minutes=True,
    ),
)
TARGETS = tuple(target for measurement in _MEASUREMENTS for target in measurement.targets)


def has_cuda() -> bool:
    """Whether a GPU of CUDA's is there."""
    return choose_device("auto").type == "cuda"
