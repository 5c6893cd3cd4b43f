"""What upscaling and detecting take on this machine: measured once, and kept in files of the user's cache.

    time of a call = fixed_ms + ms_per_mp * megapixels

for each upscaler over the pixels that it is given, and for the detector over those of its canvas. Each has a file of
its own, so that weights which come later are measured without the others.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hatdet import __version__
from hatdet.core.allocator import keep_freed_memory
from hatdet.core.atomic import write_text
from hatdet.core.device import choose_device, choose_precision, device_name, wait_for
from hatdet.core.errors import OptionsError
from hatdet.core.fetch import cache_dir, sha256_of
from hatdet.core.types import Image
from hatdet.deploy.bench import bench_picture
from hatdet.detection.weights import find_detector
from hatdet.detection.yolo import load_detector
from hatdet.sr.catalogue import default_record
from hatdet.sr.upscalers import HatUpscaler, load_upscaler
from hatdet.sr.weights import find_weights, record_path

__all__ = [
    "QUALITY",
    "Calibration",
    "Line",
    "Part",
    "as_json",
    "calibrated",
    "fitted_line",
    "median_ms",
    "over_sides",
    "upscalers_here",
]

log = logging.getLogger(__name__)

# From the least to the best. On Urban100, x4, PSNR-Y, the published numbers are 27.87 dB for HAT-S, 27.97 dB for HAT
# (28.37 dB with the pre-training of the file that `hat` stands for) and 28.60 dB for HAT-L (HAT's README, DRCT's
# README); HAT-XS, a tenth of HAT-S, stands between them and bicubic in `pretrained/hat-xs-x4.md`. Real-HAT is for
# photos that are damaged and invents detail: it has no place in this order.
QUALITY = ("bicubic", "hat-xs", "hat-s", "hat", "hat-l")

SCHEMA = 1
NETWORK_SIDES = (32, 64, 128, 192, 256)  # from a small region to one tile
BICUBIC_SIDES = (32, 64, 128, 256, 512)  # it takes images whole
CANVAS_SIDES = (320, 640, 1280, 1920)
RUNS, MOST_RUNS, QUICK_SECONDS = 3, 9, 0.3  # more of those that are quick
PART_SECONDS = 24.0  # a size that would exceed it is not begun

Clock = Callable[[], float]  # seconds


@dataclass(frozen=True)
class Line:
    """The time of a call: `fixed_ms`, and `ms_per_mp` for each million pixels.

    Attributes:
        deviation: of what was measured, the largest relative deviation from the line.
    """

    fixed_ms: float
    ms_per_mp: float
    deviation: float = 0.0

    def ms(self, pixels: float, calls: float = 1) -> float:
        """Milliseconds for so many pixels in so many calls."""
        return self.fixed_ms * calls + self.ms_per_mp * pixels / 1e6


@dataclass(frozen=True)
class Part:
    """An upscaler or the detector: how long it takes.

    Attributes:
        name: what `load_upscaler` or `load_detector` takes.
        line: the time over pixels: the image's for an upscaler, the canvas's for the detector.
        multiple: sides are padded to it.
        tile, overlap, batch: of an upscaler, in input pixels and in tiles a call; None for one that takes images whole.
        measured: sides of squares, and the median milliseconds of each.
    """

    name: str
    line: Line
    multiple: int = 1
    tile: int | None = None
    overlap: int = 0
    batch: int = 1
    measured: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Calibration:
    """What a machine was found to take.

    Attributes:
        scale: of the upscalers.
        upscalers: `bicubic` among them.
        detector: its times over canvases.
        machine: device, threads, precision and version of torch that they hold for.
        files: where they are kept.
    """

    scale: int
    upscalers: tuple[Part, ...]
    detector: Part
    machine: Mapping[str, Any]
    files: tuple[Path, ...] = ()

    def upscaler(self, name: str) -> Part:
        """The upscaler of that name.

        Raises:
            ValueError: it was not measured.
        """
        for part in self.upscalers:
            if part.name == name:
                return part
        raise ValueError(f"{name} was not measured: there are {', '.join(part.name for part in self.upscalers)}")


# ------------------------------------------------------------------------------------------ 1. measuring


def median_ms(run: Callable[[], object], device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Milliseconds of a call: the median of three, or of nine where they are quick, after one that is not counted."""
    timed: list[float] = []
    while len(timed) <= RUNS or (sum(timed[1:]) < QUICK_SECONDS and len(timed) <= MOST_RUNS):
        began = clock()
        run()
        wait_for(device)
        timed.append(clock() - began)
    return statistics.median(timed[1:]) * 1e3


def over_sides(
    measure: Callable[[int], float], sides: Sequence[int], seconds: float, clock: Clock = time.perf_counter
) -> tuple[tuple[int, float], ...]:
    """Sides of squares and the milliseconds of a call, as far as the time suffices; the first is always measured.

    Args:
        measure: the median for a square of that side.
        sides: in rising order.
        seconds: nothing is begun that would exceed them, going by the side before it.
        clock: what the time is taken from.
    """
    began = clock()
    measured: list[tuple[int, float]] = []
    for side in sides:
        if measured:
            before, ms = measured[-1]
            needed = (RUNS + 1) * ms / 1e3 * (side / before) ** 2
            if clock() - began + needed > seconds:
                break
        measured.append((side, measure(side)))
    return tuple(measured)


def fitted_line(measured: Sequence[tuple[int, float]]) -> Line:
    """The line through the times of squares with the least relative deviations, squared; nothing in it is negative.

    Through a single one it passes in proportion to the pixels.
    """
    megapixels, ms = (
        np.array(column, np.float64) for column in ([side**2 / 1e6 for side, _ in measured], [t for _, t in measured])
    )
    ms = np.maximum(ms, 1e-6)
    x, one = megapixels / ms, 1 / ms  # relative: fixed * one + slope * x is to be 1
    slope = float(x.sum() / (x @ x))
    fixed = 0.0
    if len(measured) > 1:
        both = np.linalg.lstsq(np.stack([one, x], 1), np.ones(len(ms)), rcond=None)[0]
        if both[1] < 0:
            fixed, slope = float(one.sum() / (one @ one)), 0.0
        elif both[0] >= 0:
            fixed, slope = (float(value) for value in both)
    return Line(fixed, slope, float(np.abs(fixed * one + slope * x - 1).max()))


def _measured_upscaler(name: str, scale: int, device: torch.device, precision: str) -> Part:
    upscaler = load_upscaler(name, scale, device=str(device), precision=precision)

    def measure(side: int) -> float:
        picture = bench_picture((side, side))
        return median_ms(lambda: upscaler(picture), device)

    if not isinstance(upscaler, HatUpscaler):
        measured = over_sides(measure, BICUBIC_SIDES, PART_SECONDS)
        return Part(name, fitted_line(measured), measured=measured)
    tile = upscaler.whole_tile()
    sides = [side for side in NETWORK_SIDES if side <= tile] or [tile]
    measured = over_sides(measure, sides, PART_SECONDS)
    return Part(
        name, fitted_line(measured), upscaler.window, tile, min(upscaler.overlap, tile // 2), upscaler.batch, measured
    )


def _measured_detector(weights: str | Path | None, scale: int, device: torch.device, trust: bool) -> Part:
    detector = load_detector(weights, device=str(device), trust=trust)

    def measure(side: int) -> float:
        picture = Image(bench_picture((side, side)).to(device).pixels, scale)  # upscaled, so its size is kept
        return median_ms(lambda: detector(picture), device)

    measured = over_sides(measure, CANVAS_SIDES, PART_SECONDS)
    return Part(detector.name, fitted_line(measured), detector.stride, measured=measured)


# ------------------------------------------------------------------------------------------ 2. what is kept


def upscalers_here(scale: int) -> list[str]:
    """`bicubic` and the families whose weights are on this machine, from the least to the best."""
    here = []
    for name in QUALITY:
        try:
            if name == "bicubic" or record_path(default_record(name, scale)) is not None:
                here.append(name)
        except OptionsError:  # none of that scale exist
            continue
    return here


def calibrated(
    *,
    scale: int = 4,
    upscalers: Sequence[str] | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    trust: bool = False,
    again: bool = False,
    on_measure: Callable[[str], None] = lambda name: None,
) -> Calibration:
    """What was measured on this machine before; what is missing of it is measured now and kept.

    What is kept holds for the device, the number of threads, the versions of torch and hatdet, the precision, the scale
    and the weights. A file that is damaged is replaced; where none can be written it is measured every time.

    Args:
        scale: of the upscalers.
        upscalers: what `load_upscaler` takes; `bicubic` is always among them. None for `upscalers_here`, which fetches
            nothing; a published one that is named is fetched.
        weights, trust: the detector, as `load_detector` takes it.
        device, precision: as `load_upscaler` takes them.
        again: whether to measure all anew.
        on_measure: called with the name of a part before it is measured.

    Raises:
        OptionsError, WeightsError, DeviceError: as `load_upscaler` and `load_detector`.
    """
    on = choose_device(device)
    dtype = str(choose_precision(precision, on)).removeprefix("torch.")
    machine = {
        "hatdet": __version__,
        "torch": str(torch.__version__),
        "device": device_name(on),
        "threads": torch.get_num_threads(),
    }
    files: list[Path] = []

    def part(depends_on: Mapping[str, Any], measure: Callable[[], Part]) -> Part:
        depends_on = {**machine, **depends_on}
        files.append(_file_of(depends_on))
        found = None if again else _read(files[-1], depends_on)
        if found is None:
            on_measure(depends_on["part"])
            if on.type == "cpu":
                keep_freed_memory()  # as `hatdet detect` computes
            found = measure()
            _write(files[-1], found, depends_on)
        return found

    names = upscalers_here(scale) if upscalers is None else list(dict.fromkeys(["bicubic", *upscalers]))
    # Everything is found before anything is measured.
    hashes = [None if name in ("bicubic", "nearest") else sha256_of(find_weights(name, scale).path) for name in names]
    path = find_detector(weights)
    its_hash = sha256_of(path)
    parts = [
        part(
            {"part": name, "sha256": sha256, "scale": scale, "precision": dtype},
            partial(_measured_upscaler, name, scale, on, precision),
        )
        for name, sha256 in zip(names, hashes, strict=True)
    ]
    looked = part(
        {"part": f"detector {path.stem}", "sha256": its_hash}, partial(_measured_detector, weights, scale, on, trust)
    )
    return Calibration(scale, tuple(parts), looked, {**machine, "precision": dtype}, tuple(files))


def _file_of(depends_on: Mapping[str, Any]) -> Path:
    text = json.dumps(dict(depends_on), sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:32]
    return cache_dir().parent / "tuning" / f"calibration-{name}.json"  # beside the fastest tiles


def as_json(part: Part) -> dict[str, Any]:
    """A part as it is kept."""
    return {
        "name": part.name,
        "fixed_ms": part.line.fixed_ms,
        "ms_per_mp": part.line.ms_per_mp,
        "deviation": part.line.deviation,
        "multiple": part.multiple,
        "tile": part.tile,
        "overlap": part.overlap,
        "batch": part.batch,
        "measured": [list(one) for one in part.measured],
    }


def _write(file: Path, part: Part, depends_on: Mapping[str, Any]) -> None:
    try:
        content = {"schema": SCHEMA, **as_json(part), "depends_on": dict(depends_on)}
        write_text(file, json.dumps(content, indent=1) + "\n")
    except OptionsError as error:
        log.warning("what was measured is not kept: %s", error)


def _read(file: Path, depends_on: Mapping[str, Any]) -> Part | None:
    """What is kept for these circumstances; None if nothing is, or nothing that can be."""
    try:
        found = json.loads(file.read_text())
        if found["schema"] != SCHEMA or found["depends_on"] != depends_on:
            raise ValueError("of other circumstances")
        line = Line(*(_number(found[key]) for key in ("fixed_ms", "ms_per_mp", "deviation")))
        tile = None if found["tile"] is None else _count(found["tile"])
        multiple, overlap = _count(found["multiple"]), _count(found["overlap"], 0)
        if tile is not None and (overlap > tile // 2 or tile % multiple):
            raise ValueError("tiles that cannot be")
        measured = tuple((_count(side), _number(ms)) for side, ms in found["measured"])
        part = Part(str(found["name"]), line, multiple, tile, overlap, _count(found["batch"]))
        return replace(part, measured=measured)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError):
        log.info("%s is damaged: it is measured again", file)
        return None


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{value!r} is no number from 0")
    return float(value)


def _count(value: Any, least: int = 1) -> int:
    if type(value) is not int or value < least:
        raise ValueError(f"{value!r} is no whole number from {least}")
    return value
