"""Upscalers: `Image` to an `Image` with exactly `scale` times as many pixels along each side.

`HatUpscaler` runs a network over tiles; `BicubicUpscaler` and `NearestUpscaler` are the controls that every claim
about it needs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn

from hatdet.core.allocator import returned_zeros
from hatdet.core.device import choose_device, choose_precision, is_out_of_memory, placed, release_memory
from hatdet.core.errors import DeviceError, OptionsError, WeightsError
from hatdet.core.types import Image, Upscaler
from hatdet.imaging.resize import nearest, resize_bicubic, round_
from hatdet.sr.hat_arch import HAT
from hatdet.sr.memory import MOST_TILES, SHARE, Choice, fitting, footprint, free_memory
from hatdet.sr.tiling import Axis, Tile, plan_axis, plan_tiles
from hatdet.sr.tuning import BATCHES, circumstances, fastest, remembered, seconds_of, tile_candidates
from hatdet.sr.weights import find_weights, load_network

__all__ = [
    "CANVAS_BUDGET",
    "BicubicUpscaler",
    "HatUpscaler",
    "NearestUpscaler",
    "TileSize",
    "TooLittleMemoryError",
    "canvas_bytes",
    "fitted",
    "load_upscaler",
    "sent",
]

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
DEFAULT_TILE = 256
DEFAULT_OVERLAP = 32
SMALLEST_TILE = 64  # below this a network sees too little around each pixel to be worth running
CANVAS_BUDGET = 512 * 2**20  # bytes

TileSize = int | Literal["auto"]
Progress = Callable[[int, int], None]  # tiles done, tiles in all


@dataclass(frozen=True)
class NearestUpscaler:
    """Every pixel repeated: what "just make it bigger" costs and brings."""

    scale: int = 4
    device: torch.device = CPU
    name: str = "nearest"

    def __call__(self, image: Image) -> Image:
        return nearest(image.to(self.device), self.scale)


@dataclass(frozen=True)
class BicubicUpscaler:
    """MATLAB's bicubic interpolation: the control that a network has to beat."""

    scale: int = 4
    device: torch.device = CPU
    name: str = "bicubic"

    def __call__(self, image: Image) -> Image:
        size_hw = (image.height * self.scale, image.width * self.scale)
        return resize_bicubic(image.to(self.device), size_hw, self.scale)


@dataclass(frozen=True, eq=False)
class HatUpscaler:
    """A super-resolution network over overlapping, blended tiles.

    Attributes:
        network: `(b, 3, h, w)` in [0, 1] to `(b, 3, scale * h, scale * w)`, any h and w from 1, in eval mode, on
            the device that computes.
        window: tile sides are multiples of it.
        precision: `torch.float32`, or `torch.bfloat16` for autocast. A tile that comes out of a low precision with
            a value that is not finite is computed again in float32.
        tile, overlap: in input pixels. The overlap is reduced to half the tile where it is larger than that.
        batch: tiles in one call of the network.
        on_progress: called after each batch with the tiles done and the tiles in all.
        low_network: the same network with the weights of its products in `precision` already; None: autocast casts
            them at every call.
        canvas_budget: in bytes. An image of several tiles whose result (float32) is larger stays where it is, and only
            tiles go to the device; the result is put together on the host. So what the device needs does not grow
            with the image. A smaller one is on the device from beginning to end.

    Out of memory: the tiles of that call are tried again one by one, and when that fails too the image starts again
    with the tile halved, down to 64 pixels. Any other error of the network propagates.

    Raises:
        OptionsError: a tile, overlap or batch that cannot be.
        DeviceError: too little memory for the smallest tile.
        WeightsError: the network gives values that are not finite.
    """

    network: nn.Module
    scale: int
    name: str
    window: int = 16
    precision: torch.dtype = torch.float32
    tile: int = DEFAULT_TILE
    overlap: int = DEFAULT_OVERLAP
    batch: int = 1
    on_progress: Progress | None = field(default=None, compare=False)
    low_network: nn.Module | None = field(default=None, repr=False)
    canvas_budget: int = CANVAS_BUDGET

    def __post_init__(self) -> None:
        if self.tile < self.window:
            raise OptionsError(f"tile must be at least {self.window} (the network's window), got {self.tile}")
        if self.overlap < 0:
            raise OptionsError(f"overlap must be at least 0, got {self.overlap}")
        if self.batch < 1:
            raise OptionsError(f"batch must be at least 1, got {self.batch}")

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def __call__(self, image: Image) -> Image:
        tile = self.whole_tile()
        with torch.no_grad():  # not inference mode: callers may do with the result what they like
            while True:
                try:
                    pixels = self._upscaled(image.pixels, tile)
                    break
                except TooLittleMemoryError as error:
                    # Start from the tile that was really used, or a small image would be tried unchanged.
                    tile = self.smaller_tile(min(tile, max(image.height, image.width)), error)
            if not pixels.sum().isfinite():  # one that is not finite, anywhere, makes the sum so
                raise WeightsError(
                    f"{self.name} gives values that are not finite for an image of {image.width}x{image.height}"
                )
            round_(pixels, image.levels)  # in place: a canvas may be most of the memory
        return Image(pixels, image.scale * self.scale, image.bit_depth)

    def whole_tile(self) -> int:
        """The tile in whole windows."""
        tile = self.tile - self.tile % self.window
        if tile != self.tile:
            log.info("tile rounded to %d, a multiple of the window %d", tile, self.window)
        return tile

    def smaller_tile(self, used: int, error: Exception) -> int:
        """What to go on with when tiles of `used` did not fit, with a warning.

        Raises:
            DeviceError: from `error`; there is nothing smaller.
        """
        smaller = used // 2 - used // 2 % self.window
        if smaller < min(SMALLEST_TILE, self.tile) or smaller < self.window:
            raise DeviceError(
                f"{self.device} has too little memory for {self.name} even with tiles of {used} pixels"
            ) from error
        log.warning("out of memory on %s with tiles of %d: going on with %d", self.device, used, smaller)
        return smaller

    def _upscaled(self, pixels: Tensor, tile: int) -> Tensor:
        """The upscaled image, not yet rounded. Shape: `(3, h, w)` to `(3, scale * h, scale * w)`."""
        _, h, w = pixels.shape
        overlap = min(self.overlap, tile // 2)
        rows, columns = plan_axis(h, tile, overlap, self.window), plan_axis(w, tile, overlap, self.window)
        tiles = plan_tiles(rows, columns)
        if len(tiles) == 1:
            out = self.run(pixels.to(self.device)[None])[0]
            self.report(1, 1)
            return out
        if canvas_bytes(h * self.scale, w * self.scale) <= self.canvas_budget:
            pixels = pixels.to(self.device)
        canvas = self._canvas(h * self.scale, w * self.scale)
        row_weights, column_weights = (axis.weights(self.scale).to(self.device) for axis in (rows, columns))
        before: list[tuple[Tile, Tensor]] = []
        wait: Callable[[], None] = _nothing
        for first in range(0, len(tiles), self.batch):
            chunk = tiles[first : first + self.batch]
            results = self.run(sent(_cut(pixels, chunk, rows, columns), self.device))
            for part, result in zip(chunk, results, strict=True):
                result *= row_weights[part.row][:, None]
                result *= column_weights[part.column][None, :]
            # What comes back is added while the next batch is computed.
            self._add(canvas, before, wait)
            results, wait = _fetched(results, canvas.device)
            before = list(zip(chunk, results, strict=True))
            self.report(first + len(chunk), len(tiles))
        self._add(canvas, before, wait)
        return canvas

    def _add(self, canvas: Tensor, parts: list[tuple[Tile, Tensor]], wait: Callable[[], None]) -> None:
        """Add weighted results to the canvas, when they have come."""
        wait()
        for part, result in parts:
            y, x = part.y * self.scale, part.x * self.scale
            canvas[:, y : y + result.shape[1], x : x + result.shape[2]] += result

    def run(self, tiles: Tensor) -> Tensor:
        """The network on a batch of tiles, in float32. Shape: `(b, 3, h, w)` to `(b, 3, scale * h, scale * w)`.

        Raises:
            TooLittleMemoryError: not even one of them fits.
        """
        try:
            return self.compute(tiles)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler, where the traceback no longer holds the tensors that filled the memory.
        release_memory(tiles.device)
        try:
            return torch.cat([self.compute(one[None]) for one in tiles])
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error)
        release_memory(tiles.device)
        raise TooLittleMemoryError(reason)

    def compute(self, tiles: Tensor) -> Tensor:
        """One call of the network, in float32. Shape: `(b, 3, h, w)` to `(b, 3, scale * h, scale * w)`."""
        low = self.precision != torch.float32
        network = self.low_network if low and self.low_network is not None else self.network
        with torch.autocast(tiles.device.type, dtype=self.precision if low else torch.bfloat16, enabled=low):
            out = cast(Tensor, network(tiles)).float()
        if not low:
            return out
        finite = out.isfinite().flatten(1).all(1).tolist()  # one wait for the device, whatever the batch
        broken = [i for i, whole in enumerate(finite) if not whole]
        if broken:
            log.warning(
                "%d of %d tiles were not finite in %s: computed again in float32", len(broken), len(out), self.precision
            )
            out[broken] = self.network(tiles[broken]).float()
        return out

    def _canvas(self, h: int, w: int) -> Tensor:
        """Zeros for the whole result: on the device, unless they exceed the budget or half of what is free there."""
        device, needed = self.device, canvas_bytes(h, w)
        if needed > self.canvas_budget or (device.type == "cuda" and needed > free_memory(device) // 2):
            return returned_zeros(3, h, w)
        try:
            return returned_zeros(3, h, w, device=device)
        except RuntimeError as error:
            if device.type == "cpu" or not is_out_of_memory(error):
                raise
        return returned_zeros(3, h, w)

    def report(self, done: int, total: int) -> None:
        """So many tiles of an image are done."""
        if self.on_progress is not None:
            self.on_progress(done, total)


class TooLittleMemoryError(Exception):
    """Even one tile did not fit."""


def _cut(pixels: Tensor, tiles: list[Tile], rows: Axis, columns: Axis) -> Tensor:
    return torch.stack([pixels[:, t.y : t.y + rows.size, t.x : t.x + columns.size] for t in tiles])


def canvas_bytes(h: int, w: int) -> int:
    """Of an upscaled image in float32."""
    return 12 * h * w


def sent(tiles: Tensor, device: torch.device) -> Tensor:
    """Tiles on the device that computes; towards CUDA the host goes on while they are copied."""
    if device.type != "cuda" or tiles.device.type != "cpu":
        return tiles.to(device)
    return tiles.pin_memory().to(device, non_blocking=True)


def _nothing() -> None:
    pass


def _fetched(results: Tensor, device: torch.device) -> tuple[Tensor, Callable[[], None]]:
    """Results where the canvas is, and what waits until they have come; from CUDA the host goes on meanwhile."""
    if results.device.type != "cuda" or device.type != "cpu":
        return results.to(device), _nothing
    there = torch.empty(results.shape, pin_memory=True).copy_(results, non_blocking=True)
    come = torch.cuda.Event()  # type: ignore[no-untyped-call]
    come.record(torch.cuda.current_stream(results.device))
    return there, come.synchronize


def load_upscaler(
    name: str | Path = "hat-xs",
    scale: int = 4,
    *,
    device: str = "auto",
    precision: str = "auto",
    tile: TileSize = DEFAULT_TILE,
    overlap: int = DEFAULT_OVERLAP,
    batch: int | None = None,
    on_progress: Progress | None = None,
    on_fetch: Progress | None = None,
) -> Upscaler:
    """Load an upscaler by name.

    Args:
        name: `bicubic`, `nearest`, a family (`hat-xs`, `hat-s`, `hat`, `hat-l`, `real-hat`), a file of the table
            that `hatdet models` prints, or the path of a weights file (.safetensors, .pth).
        scale: how many times larger. A scale that the model does not have is an error.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        precision: `auto`, `fp32` or `bf16`, for the network.
        tile, overlap: in input pixels. The picture depends slightly on the tile, so the default is the same on every
            machine; `auto` is the fastest on this one, measured once for a network. A tile whose call would take more
            than 80 % of the memory that is free now is made smaller, with a warning, but not below 64.
        batch: tiles in one call of the network; the result does not depend on it. By default on CUDA what fits in the
            same memory, at most 16, and 1 elsewhere.
        on_progress: called with the tiles done and the tiles in all of an image.
        on_fetch: called with the bytes so far and in all of a download.

    Raises:
        OptionsError: a scale or precision that cannot be.
        WeightsError: weights that are not there, damaged, or not HAT's.
        DeviceError: a device that is not there.
    """
    if isinstance(tile, str) and tile != "auto":
        raise OptionsError(f"tile must be a whole number or auto, got {tile!r}")
    for what, value, least in (
        ("scale", scale, 1),
        ("tile", 1 if tile == "auto" else tile, 1),
        ("overlap", overlap, 0),
        ("batch", 1 if batch is None else batch, 1),
    ):
        if value < least:
            raise OptionsError(f"{what} must be at least {least}, got {value}")
    on = choose_device(device)
    dtype = choose_precision(precision, on)
    if str(name) == "bicubic":
        return BicubicUpscaler(scale, on)
    if str(name) == "nearest":
        return NearestUpscaler(scale, on)
    source = find_weights(name, scale, on_fetch)
    network = load_network(source, scale)
    if on.type == "cuda":  # whose fused attention wants it; on the CPU it is only more work
        network = network.with_wide_heads()
    network = placed(network, on, source.name)
    upscaler = HatUpscaler(
        network,
        scale,
        source.name,
        window=network.window_size,
        precision=dtype,
        tile=DEFAULT_TILE if tile == "auto" else tile,
        overlap=overlap,
        on_progress=on_progress,
        low_network=None if dtype == torch.float32 else network.with_low_weights(dtype),
    )
    free = free_memory(on)  # asked before anything is measured: the CPU's allocator keeps what that takes
    if tile == "auto":
        tile, batch = _fastest(upscaler, network, batch, free)
    tile, batch = fitted(network, on, dtype, tile, batch, free)
    return replace(upscaler, tile=tile, batch=batch)


def _fastest(upscaler: HatUpscaler, network: HAT, batch: int | None, free: int) -> Choice:
    """The fastest tile and batch here, from the user's cache or measured now."""
    name, on = upscaler.name, upscaler.device
    tiles = tile_candidates(upscaler.window)
    default_batches = BATCHES if on.type == "cuda" else (1,)

    def find() -> Choice:
        log.info("finding the fastest tile of %s on %s, once ...", name, on.type)
        needed, limit = footprint(network, upscaler.precision), SHARE * free
        return fastest(
            lambda choice: seconds_of(upscaler.compute, on, choice),
            tiles,
            default_batches if batch is None else (batch,),
            upscaler.overlap,
            lambda choice: needed.bytes(choice) <= limit,
        )

    depends_on = circumstances(
        network,
        name=name,
        scale=upscaler.scale,
        device=on,
        precision=upscaler.precision,
        overlap=upscaler.overlap,
        batch=batch,
    )
    choice = remembered(depends_on, tiles, find)
    log.info("tiles of %d, %d in one call: the fastest for %s on %s", *choice, name, on.type)
    return choice


def fitted(
    network: HAT, device: torch.device, precision: torch.dtype, tile: int, batch: int | None, free: int
) -> Choice:
    """The tile and the batch that were asked for, or what of them fits into the free memory of a device.

    Args:
        network: its sizes count, wherever it is.
        device, precision: what it is going to compute on and in.
        tile: in input pixels, at least the network's window. One that does not fit is made smaller, with a warning, but
            not below 64.
        batch: tiles in one call; None for the default of `load_upscaler`.
        free: in bytes.
    """
    needed = footprint(network, precision)
    fits = fitting(
        needed,
        SHARE * free,
        Choice(tile, batch if batch is not None else MOST_TILES if device.type == "cuda" else 1),
        window=network.window_size,
        least=SMALLEST_TILE,
    )
    if fits.tile != tile:
        gib = needed.bytes(Choice(tile, 1)) / 2**30, free / 2**30
        log.warning(
            "a tile of %d needs %.1f GiB, %.1f GiB are free on %s: going on with %d", tile, *gib, device, fits.tile
        )
    elif batch is not None and fits.batch != batch:
        log.warning("%d tiles of %d need too much memory of %s: going on with %d", batch, tile, device, fits.batch)
    return fits
