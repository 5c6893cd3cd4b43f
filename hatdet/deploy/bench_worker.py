"""One configuration of `hatdet bench` in a process of its own: built once, then measured whenever it is told to.

What is measured is the product: `load_upscaler` for hatdet's own network, and for the peers another network, or another
attention, inside the same `HatUpscaler`. The parent sends `(method, arguments)` and waits for what comes back, so only
one process computes at a time.
"""

from __future__ import annotations

import math
import os
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hatdet.core.allocator import keep_freed_memory
from hatdet.core.device import choose_device, choose_precision, wait_for
from hatdet.core.errors import HatdetError
from hatdet.core.types import Image, Upscaler
from hatdet.sr.hat_arch import pad_to_multiple
from hatdet.sr.memory import free_memory
from hatdet.sr.upscalers import HatUpscaler, fitted, load_upscaler
from hatdet.sr.weights import find_weights, load_network

__all__ = [
    "BACKENDS",
    "PEERS",
    "Backend",
    "Configuration",
    "Overlapped",
    "Workbench",
    "covered",
    "matmul_rate",
    "psnr",
    "serve",
]

MATMUL_SECONDS = 0.2
MATMUL_SIDE = {"cpu": 1024, "mps": 2048, "cuda": 8192}  # large enough for the full rate, small enough to repeat


# Items, read, compute, write: gives each item with a function that waits for it. Sent to the worker by its name.
Overlapped = Callable[..., Iterable[tuple[Any, Callable[[], Any]]]]


@dataclass(frozen=True)
class Configuration:
    """What one process measures.

    Attributes:
        upscaler: a name or file for `load_upscaler`; of an exported form the file that was exported.
        scale: the factor.
        precision: `fp32` or `bf16`.
        backend: a key of `BACKENDS`.
        tile: in input pixels.
        batch: tiles in one call of the network; None for the device's default.
        device: as `choose_device` takes it.
        threads: of the CPU; None leaves them to the environment.
    """

    upscaler: str
    scale: int = 4
    precision: str = "fp32"
    backend: str = "eager"
    tile: int = 256
    batch: int | None = None
    device: str = "auto"
    threads: int | None = None


@dataclass(frozen=True)
class Backend:
    """One way in which a network is run.

    Attributes:
        build: makes the upscaler, in the worker.
        precisions: those that it has.
        missing: says how to get what it needs; None where that is there.
        form: that the network is exported to beforehand, in another process than the measured one; None if it is not.
    """

    build: Callable[[Configuration], Upscaler]
    precisions: tuple[str, ...] = ("fp32", "bf16")
    missing: Callable[[], str | None] = lambda: None
    form: str | None = None


def _needs(package: str, command: str) -> Callable[[], str | None]:
    return lambda: None if find_spec(package) else f"{package} is not installed: {command}"


# ------------------------------------------------------------------------------------------ 1. what is measured


def _eager(configuration: Configuration) -> Upscaler:
    """What `hatdet sr` runs."""
    return load_upscaler(
        configuration.upscaler,
        configuration.scale,
        device=configuration.device,
        precision=configuration.precision,
        tile=configuration.tile,
        batch=configuration.batch,
    )


def plain_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float, dropout: float = 0.0) -> Tensor:
    """`softmax(scale * q kᵀ + bias) v`, one step after the other, each with its result in memory."""
    scores = (q * scale) @ k.transpose(-2, -1)
    scores = scores + bias
    return torch.softmax(scores, dim=-1) @ v


def _unfused(configuration: Configuration) -> Upscaler:
    """The own network with plain attention, from now on and in the whole process."""
    from hatdet.blocks import hat_blocks

    hat_blocks.attend = plain_attention  # type: ignore[attr-defined]
    return _eager(configuration)


class _Spandrel(nn.Module):
    """spandrel's HAT with the weights of ours; any size, padded and cropped as ours."""

    def __init__(self, network: nn.Module, scale: int, window: int) -> None:
        super().__init__()
        self.network, self.scale, self.window = network, scale, window

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        out = cast(Tensor, self.network(pad_to_multiple(x, self.window)))
        return out[:, :, : h * self.scale, : w * self.scale]


def _spandrel(configuration: Configuration) -> Upscaler:
    from spandrel.architectures.HAT import HATArch  # type: ignore[import-untyped]

    warnings.filterwarnings("ignore", message="torch.meshgrid")  # spandrel's
    source = find_weights(configuration.upscaler, configuration.scale)
    own = load_network(source, configuration.scale)
    network = HATArch().load(own.state_dict()).model.eval().requires_grad_(False)
    on = choose_device(configuration.device)
    # Those of the own network.
    tile, batch = fitted(own, on, torch.float32, configuration.tile, configuration.batch, free_memory(on))
    return HatUpscaler(
        _Spandrel(network, configuration.scale, own.window_size).to(on),
        configuration.scale,
        source.name,
        window=own.window_size,
        tile=tile,
        batch=batch,
    )


def _engine(configuration: Configuration) -> Upscaler:
    """What `hatdet sr --engine` runs."""
    from hatdet.deploy.engines import engine_upscaler, load_engine

    engine = load_engine(configuration.upscaler, device=configuration.device, precision=configuration.precision)
    return engine_upscaler(engine, batch=configuration.batch)


def _exported(form: str, package: str, extra: str, precisions: tuple[str, ...] = ("fp32",)) -> Backend:
    return Backend(_engine, precisions, _needs(package, f"`pip install {extra}` adds it"), form)


BACKENDS: dict[str, Backend] = {
    "eager": Backend(_eager),
    "onnx": _exported("onnx", "onnxruntime", "'hatdet[export]'"),
    "openvino": _exported("openvino", "openvino", "'hatdet[openvino]'", ("fp32", "bf16")),
    "torchscript": _exported("torchscript", "torch", "torch"),
    "engine": _exported("engine", "tensorrt", "tensorrt"),
}
# What every run is compared with.
PEERS: dict[str, Backend] = {
    "spandrel": Backend(
        _spandrel, ("fp32",), _needs("spandrel", "`pip install spandrel` adds the published code of HAT")
    ),
    "unfused": Backend(_unfused),
}


# ------------------------------------------------------------------------------------------ 2. how it is measured


class Workbench:
    """An upscaler and what can be measured of it. Pictures come and go as arrays `(3, h, w)`, float32 in [0, 1]."""

    def __init__(self, configuration: Configuration) -> None:
        if configuration.threads is not None:
            torch.set_num_threads(configuration.threads)
        self.device = choose_device(configuration.device)
        self.precision = choose_precision(configuration.precision, self.device)
        self.upscaler = {**BACKENDS, **PEERS}[configuration.backend].build(configuration)
        self._image: Image | None = None
        self._detector: Any = None

    def about(self) -> dict[str, Any]:
        """What this process computes with."""
        on = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        return {"device": on, "threads": torch.get_num_threads()}

    def warm_up(self, pixels: NDArray[np.float32]) -> int | None:
        """Take the picture that `run` will upscale, and upscale it; return the memory that it took.

        In bytes: all that was allocated on a GPU, weights included; on the CPU by how much the process grew over the
        loaded model; None where neither can be known.
        """
        self._image = _image(pixels)
        memory = self._memory_of(lambda: self.upscaler(self._given()))
        self.upscaler(self._given())  # TorchScript optimises in its second run
        return memory

    def run(self) -> tuple[float, float]:
        """Upscale the picture once. Return the seconds, and what a matmul in this precision reaches now, in GFLOP/s."""
        image = self._given()
        started = time.perf_counter()
        self.upscaler(image)
        wait_for(self.device)
        return time.perf_counter() - started, matmul_rate(self.precision, self.device)

    def flops(self) -> int:
        """Of the matmuls and convolutions of one run, tiles and all; of an upscaler with plain attention."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self.upscaler(self._given())
        return int(counter.get_total_flops())

    def picture(self) -> NDArray[np.float32]:
        """The upscaled picture, in 16 bits: rounded more finely than what precisions differ by."""
        return self._upscaled(Image(self._given().pixels, bit_depth=16))

    def upscaled(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Any 8-bit picture, upscaled."""
        return self._upscaled(_image(pixels))

    def psnr(self, pairs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> float:
        """Of 8-bit pictures, upscaled, to what they were reduced from: the mean, in dB, over RGB."""
        return statistics.fmean(psnr(self.upscaled(low), reference) for low, reference in pairs)

    def memory(self, height: int, width: int) -> int | None:
        """As `warm_up`, of a grey picture of that size."""
        image = Image(torch.full((3, height, width), 0.5))
        return self._memory_of(lambda: self.upscaler(image))

    def chain(self, sources: Sequence[str], folder: str, overlapped: Overlapped) -> float:
        """`hatdet detect --upscale` from the first file read to the last picture written, in seconds.

        Args:
            sources: image files.
            folder: takes the pictures.
            overlapped: how the command reads and writes beside the computing.
        """
        from hatdet.core.types import Detections
        from hatdet.detection.chain import run_chain
        from hatdet.imaging.drawing import side_by_side
        from hatdet.imaging.files import Pixels, read_image, to_array, write_array

        detector = self._warm_detector()

        def compute(_: str, image: Image) -> tuple[Pixels, Pixels, Detections]:
            result = run_chain(image, self.upscaler, detector)
            return to_array(image), to_array(result.seen), result.detections

        def write(source: str, found: tuple[Pixels, Pixels, Detections]) -> None:
            write_array(side_by_side(*found, self.upscaler.name), Path(folder, Path(source).name), drawn=True)

        started = time.perf_counter()
        for _, written in overlapped(sources, read_image, compute, write):
            written()
        return time.perf_counter() - started

    def alone(self, sources: Sequence[str]) -> float:
        """Upscaling and detecting of these files and nothing else, in seconds."""
        from hatdet.detection.chain import run_chain
        from hatdet.imaging.files import read_image

        detector = self._warm_detector()
        results = [run_chain(read_image(source), self.upscaler, detector) for source in sources]
        return sum((result.upscale_ms or 0.0) + result.detect_ms for result in results) / 1e3

    def busy(self, sources: Sequence[str], folder: str, overlapped: Overlapped) -> float:
        """The share of `chain`'s time in which the GPU computes or copies."""
        from torch.profiler import ProfilerActivity, profile

        self.chain(sources[:1], folder, overlapped)
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            seconds = self.chain(sources, folder, overlapped)
        events = [event for event in profiled.events() or () if event.device_type.name == "CUDA"]
        return covered((event.time_range.start, event.time_range.end) for event in events) / 1e6 / seconds

    def _given(self) -> Image:
        assert self._image is not None, "warm_up comes first"
        return self._image

    def _upscaled(self, image: Image) -> NDArray[np.float32]:
        return cast("NDArray[np.float32]", self.upscaler(image).pixels.cpu().numpy())

    def _warm_detector(self) -> Any:
        """Loaded when first wanted, and run once on a picture as large as those it will see."""
        if self._detector is None:
            from hatdet.detection.yolo import load_detector

            self._detector = load_detector(device=str(self.device))
            self._detector(self.upscaler(self._given()))
        return self._detector

    def _memory_of(self, work: Callable[[], object]) -> int | None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            work()
            return int(torch.cuda.max_memory_allocated(self.device))
        before = _resident()
        work()
        wait_for(self.device)
        after = _resident()
        return None if before is None or after is None or self.device.type != "cpu" else max(after[1] - before[0], 0)


def matmul_rate(precision: torch.dtype, device: torch.device) -> float:
    """The rate of products of large square matrices, in GFLOP/s: the median over a fifth of a second."""
    side = MATMUL_SIDE[device.type]
    a, b = (torch.rand(side, side, dtype=precision, device=device) for _ in range(2))
    seconds: list[float] = []
    while len(seconds) < 4 or sum(seconds) < MATMUL_SECONDS:
        started = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / statistics.median(seconds[1:]) / 1e9  # the first chose its kernel


def psnr(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Of pictures in [0, 1], in dB; infinite where they are equal."""
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return math.inf if error == 0 else -10 * math.log10(error)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of what at least one of the spans covers."""
    total, reached = 0.0, -float("inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _image(pixels: NDArray[np.float32]) -> Image:
    return Image(torch.from_numpy(pixels))


def _resident() -> tuple[int, int] | None:
    """Bytes of this process in memory: now, and at most since the last call. Linux only."""
    try:
        status = Path("/proc/self/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        now, peak = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    except (OSError, KeyError):
        return None
    return now, peak


# ------------------------------------------------------------------------------------------ 3. the process


def _settle_memory(device: str) -> None:
    """Where the CPU computes, keep what is freed."""
    if device == "cpu" or (device == "auto" and choose_device(device).type == "cpu"):
        keep_freed_memory()


def serve(connection: Connection, configuration: Configuration) -> None:
    """Answer the parent's commands until it says no more: `("done", result)` or `("failed", one line)`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends this
    os.dup2(sys.stderr.fileno(), 1)  # what libraries print is no result
    if configuration.backend != "spandrel":  # as `hatdet sr` does; spandrel's users have what the system gives them
        _settle_memory(configuration.device)
    workbench: Workbench | None = None
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        try:
            if workbench is None:
                workbench = Workbench(configuration)
            answer = "done", getattr(workbench, method)(*arguments)
        except HatdetError as error:
            answer = "failed", str(error)
        except Exception as error:
            answer = "failed", " ".join(f"{type(error).__name__}: {error}".split())[:300]
        try:
            connection.send(answer)
        except OSError:  # interrupted meanwhile: nobody listens
            return
