"""How good a network is on a data set, through the engine that `hatdet sr` uses and by BasicSR's metrics."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.metrics import calculate_metric
from torch import Tensor, nn
from torch.utils.data import Dataset

from hatdet.core.types import Image
from hatdet.imaging.files import to_array, write_image
from hatdet.sr.upscalers import DEFAULT_OVERLAP, DEFAULT_TILE, HatUpscaler
from hatdet.training.distributed import Team

__all__ = ["OnImage", "Scores", "evaluating", "protocol", "upscaler_of", "validate"]

log = logging.getLogger("basicsr")

OnImage = Callable[[int, int], None]


@dataclass(frozen=True)
class Scores:
    """Means of each metric over the images of a data set.

    Attributes:
        means: by the metric's name in the option file; over the images whose value is finite, NaN if none is.
        infinite: how many images had no finite value (identical images have no PSNR), by metric.
        images: how many there were.
        better: `higher` or `lower`, by metric.
        protocols: what was measured, in words, by metric.
    """

    means: dict[str, float]
    infinite: dict[str, int]
    images: int
    better: Mapping[str, str] = field(default_factory=dict)
    protocols: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[nn.Module]:
    """A network in eval mode, afterwards in the mode it was in."""
    was = network.training
    network.eval()
    try:
        yield network
    finally:
        network.train(was)


def upscaler_of(network: nn.Module, scale: int, tile: Mapping[str, Any] | None = None) -> HatUpscaler:
    """The engine around a network that is being trained.

    Args:
        tile: HAT's `tile_size` (what a tile contributes) and `tile_pad` (what it sees around that), in input pixels.
    """
    size, overlap = DEFAULT_TILE, DEFAULT_OVERLAP
    if tile:
        overlap = 2 * int(tile.get("tile_pad", DEFAULT_OVERLAP // 2))
        size = int(tile.get("tile_size", DEFAULT_TILE)) + overlap
    return HatUpscaler(
        network, scale, "net_g", window=int(getattr(network, "window_size", 1)), tile=size, overlap=overlap
    )


def validate(
    upscaler: HatUpscaler,
    dataset: Dataset[Any],
    metrics: Mapping[str, Mapping[str, Any]],
    *,
    team: Team,
    topic: str,
    save_to: Path | None = None,
    suffix: str = "",
    on_image: OnImage | None = None,
) -> Scores:
    """Upscale the low-resolution images of a BasicSR data set and compare them with their references.

    The processes of a team share the images; each gets the scores of all. `topic` is said once in a run.

    Args:
        upscaler: its network is in eval mode.
        dataset: gives `lq` and, for metrics, `gt`: `(3, h, w)` RGB in [0, 1], and `lq_path`.
        metrics: BasicSR's: a name, and its type and arguments.
        save_to: folder for the upscaled images, which are called `<image><suffix>.png`.
        on_image: called after each image of this process with the images done and all of them.
    """
    mine: list[dict[str, float]] = []
    count = len(dataset)  # type: ignore[arg-type]  # BasicSR's data sets have a length
    for index in range(team.rank, count, team.size):
        sample = dataset[index]
        result = upscaler(Image(sample["lq"].float()))
        if save_to is not None:
            write_image(result.to(torch.device("cpu")), save_to / f"{Path(sample['lq_path']).stem}{suffix}.png")
        if metrics and "gt" in sample:
            pictures = {"img": _bgr(result.pixels), "img2": _bgr(sample["gt"])}
            mine.append({name: float(calculate_metric(pictures, dict(how))) for name, how in metrics.items()})
        if on_image is not None:
            on_image(index + 1, count)
    values = [value for part in team.exchange(topic, mine) for value in part]
    means, infinite = {}, {}
    for name in metrics:
        finite = [value[name] for value in values if math.isfinite(value[name])]
        means[name] = math.fsum(finite) / len(finite) if finite else math.nan
        infinite[name] = len(values) - len(finite)
    better = {name: str(how.get("better", "higher")) for name, how in metrics.items()}
    return Scores(
        means, infinite, count, better, {name: protocol(how, upscaler.scale) for name, how in metrics.items()}
    )


def protocol(how: Mapping[str, Any], scale: int) -> str:
    """What a metric of an option file measures, in words: `PSNR-Y, crop 4, MATLAB YCbCr, mod 4`."""
    name = str(how["type"]).removeprefix("calculate_").upper()
    if name not in ("PSNR", "SSIM"):
        return name
    channel = "Y" if how.get("test_y_channel") else "RGB"
    space = ", MATLAB YCbCr" if channel == "Y" else ""
    return f"{name}-{channel}, crop {how['crop_border']}{space}, mod {scale}"


def _bgr(pixels: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """`(3, h, w)` RGB in [0, 1] as BasicSR's metrics want it: `(h, w, 3)` BGR, uint8."""
    array = to_array(Image(pixels.float().clamp(0, 1)))
    return np.ascontiguousarray(array[..., ::-1])
