"""The fastest tile and batch of this machine: measured once, and kept in a file of the user's cache.

A tile contributes its side less the overlap, so a larger one wastes less; but what is larger than the caches of a
processor is slower a pixel. Where the best lies, only the machine knows.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hatdet import __version__
from hatdet.core.atomic import write_text
from hatdet.core.device import device_name, is_out_of_memory, release_memory, wait_for
from hatdet.core.errors import OptionsError
from hatdet.core.fetch import cache_dir
from hatdet.sr.memory import Choice

__all__ = [
    "BATCHES",
    "Choice",
    "circumstances",
    "fastest",
    "remembered",
    "seconds_of",
    "tile_candidates",
    "useful_rate",
]

log = logging.getLogger(__name__)

TILES = (64, 96, 128, 192, 256, 384, 512)
BATCHES = (1, 2, 4, 8, 16)  # on CUDA; elsewhere one tile fills the processor
BUDGET_SECONDS = 60.0
RUNS, RUN_SECONDS = 3, 1.0  # a call is repeated so often, or for so long
LEAST_RUNS = 2  # with the one that is not counted
PATIENCE = 2  # tiles in a row that are slower than the best

Clock = Callable[[], float]  # seconds


def tile_candidates(window: int) -> list[int]:
    """Sides to try, in rising order: multiples of the network's window."""
    return sorted({max(window, tile - tile % window) for tile in TILES})


def useful_rate(choice: Choice, overlap: int, seconds: float) -> float:
    """Input pixels that a call adds to the picture, a second. The overlap is at most half the tile."""
    side = choice.tile - min(overlap, choice.tile // 2)
    return side * side * choice.batch / seconds


def fastest(
    measure: Callable[[Choice], float],
    tiles: Sequence[int],
    batches: Sequence[int],
    overlap: int,
    fits: Callable[[Choice], bool],
    clock: Clock = time.monotonic,
) -> Choice:
    """The choice with the most useful pixels a second; the smallest one where nothing fits.

    Two tiles in a row that are slower than the best end the search, as do two batches in a row those of a tile. And so
    does the time: nothing is begun that would take more than what is left, going by what was measured before it.

    Args:
        measure: seconds of one call; infinite where the memory does not suffice.
        tiles, batches: in rising order.
        overlap: in input pixels.
        fits: whether a choice can be measured; where one cannot, nothing larger can.
        clock: what the time is taken from.
    """
    best, best_rate = Choice(tiles[0], batches[0]), 0.0
    started = clock()
    pace, slower_tiles = 0.0, 0  # the pace in seconds a pixel
    for tile in tiles:
        tile_rate, slower_batches, improved = 0.0, 0, False
        for choice in (Choice(tile, batch) for batch in batches):
            if not fits(choice) or slower_batches == PATIENCE:
                break
            pixels = tile * tile * choice.batch
            if pace and clock() - started + LEAST_RUNS * pace * pixels > BUDGET_SECONDS:
                return best
            seconds = measure(choice)
            rate = useful_rate(choice, overlap, seconds)
            pace = seconds / pixels if math.isfinite(seconds) else pace
            slower_batches = 0 if rate > tile_rate else slower_batches + 1
            tile_rate = max(tile_rate, rate)
            if rate > best_rate:
                best, best_rate, improved = choice, rate, True
        slower_tiles = 0 if improved else slower_tiles + 1
        if slower_tiles == PATIENCE:
            break
    return best


def seconds_of(
    compute: Callable[[Tensor], object], device: torch.device, choice: Choice, clock: Clock = time.perf_counter
) -> float:
    """Seconds of one call on grey tiles: the fastest of a few, after one that is not counted.

    Infinite where it runs out of memory; any other error propagates.
    """
    try:
        tiles = torch.full((choice.batch, 3, choice.tile, choice.tile), 0.5, device=device)
        timed: list[float] = []
        while len(timed) <= RUNS and sum(timed[1:]) < RUN_SECONDS:
            began = clock()
            with torch.no_grad():
                compute(tiles)
            wait_for(device)
            timed.append(clock() - began)
        return min(timed[1:])
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    release_memory(device)
    return math.inf


def circumstances(
    network: nn.Module,
    *,
    name: str,
    scale: int,
    device: torch.device,
    precision: torch.dtype,
    overlap: int,
    batch: int | None,
) -> dict[str, Any]:
    """Everything that the fastest tile depends on. Other weights may come under a name: their shapes are in it too."""
    shapes = sorted(f"{key} {tuple(value.shape)}" for key, value in network.state_dict().items())
    return {
        "hatdet": __version__,
        "torch": str(torch.__version__),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "network": name,
        "shapes": hashlib.sha256("\n".join(shapes).encode()).hexdigest()[:16],
        "scale": scale,
        "precision": str(precision).removeprefix("torch."),
        "overlap": overlap,
        "batch": batch,
    }


def remembered(depends_on: Mapping[str, Any], tiles: Iterable[int], find: Callable[[], Choice]) -> Choice:
    """The choice that is kept for these circumstances, or a new one, which is kept from then on.

    A file that is damaged, or holds none of the tiles that can be, is replaced; where none can be written the choice
    is found again every time.
    """
    text = json.dumps(dict(depends_on), sort_keys=True)
    file = cache_dir().parent / "tuning" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    choice = _read(file, set(tiles), depends_on)
    if choice is None:
        choice = find()
        try:
            write_text(file, json.dumps({**choice._asdict(), "depends_on": dict(depends_on)}, indent=1) + "\n")
        except OptionsError as error:
            log.warning("the fastest tile is not kept: %s", error)
    return choice


def _read(file: Path, tiles: set[int], depends_on: Mapping[str, Any]) -> Choice | None:
    try:
        found = json.loads(file.read_text())
        choice = Choice(found["tile"], found["batch"])
        whole = type(choice.tile) is type(choice.batch) is int and choice.tile in tiles and choice.batch >= 1
        if whole and found["depends_on"] == depends_on:
            return choice
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError):
        pass
    log.info("%s is damaged: the fastest tile is found again", file)
    return None
