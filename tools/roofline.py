"""Where the time of HAT goes, part by part, beside what this machine's matmul and memory rates allow. Prints Markdown.

    python tools/roofline.py                                   # HAT-S x4, one tile of 64x64, fp32
    python tools/roofline.py --precision bf16 --threads 2 --json roofline.json
    python tools/roofline.py --device cuda --upscaler hat --batch 16 --precision bf16

Operations are those of matrix products and convolutions, a multiply-add counting twice. Softmax, norms, activations
and additions have none: what they take shows as time over the floor.

Bytes are the least a part can move: its inputs, outputs and weights once each, tensors as the part is given and
returns them, weights in the precision that it computes in. Of an addition between parts: its operands and its result.

    floor = max(operations / matmul rate of their precision, bytes / memory rate)

The memory rate is that of arrays no cache holds. A part whose tensors stay in a cache may be under its floor; on a
GPU so may convolutions in fp32, which PyTorch lets run in TF32 while matrix products do not.

Times are taken by forward hooks inside the running network, summed over all occurrences of a part; what passes outside
of every other part is "rest", so the parts always add up to the hooked run. The whole is timed without hooks, taking
turns with hooked runs; how far the two are apart is printed. Both are the fastest of all runs, since the rates are
the best of theirs: a busy moment of the machine is no property of the network.

On a GPU times are those between events in its stream, in which it may also have waited for the CPU to launch. That
path has not been run yet.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatdet.blocks.hat_blocks import (
    CAB,
    HAB,
    OCAB,
    RHAG,
    AttentionBlocks,
    ChannelAttention,
    DropPath,
    Mlp,
    WindowAttention,
)
from hatdet.core.allocator import keep_freed_memory
from hatdet.core.atomic import write_text
from hatdet.sr.catalogue import FAMILIES
from hatdet.sr.hat_arch import HAT, PatchEmbed, Upsample

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
SQUARE = {"cpu": 2048, "cuda": 8192}  # side of the largest product that is timed
ARRAY_BYTES = 2**28  # of each array that memory is timed with

# ------------------------------------------------------------------------------------------ 1. parts

FIRST, WINDOW, CHANNELS, OVERLAP, MLP, NORMS, GROUP, TAIL, REST = PARTS = (
    "first convolution",
    "window attention",
    "CAB",
    "OCAB attention, with its two additions",
    "MLP",
    "norms",
    "RHAG convolutions",
    "reconstruction",
    "rest: other additions, padding",
)
BY_TYPE: Mapping[type[nn.Module], str] = {
    WindowAttention: WINDOW,
    OCAB: OVERLAP,
    CAB: CHANNELS,
    Mlp: MLP,
    nn.LayerNorm: NORMS,
    HAB: REST,
    RHAG: REST,
    HAT: REST,
}
_CONVOLUTIONS = {nn.Conv2d, nn.Sequential, nn.LeakyReLU, nn.GELU, nn.PixelShuffle, Upsample}
# What the counts of a part expect inside its modules.
INSIDE: Mapping[str, set[type[nn.Module]]] = {
    FIRST: _CONVOLUTIONS,
    WINDOW: {nn.Linear, nn.Dropout},
    CHANNELS: {*_CONVOLUTIONS, ChannelAttention, nn.AdaptiveAvgPool2d, nn.ReLU, nn.Sigmoid},
    OVERLAP: {nn.Linear},
    MLP: {nn.Linear, nn.Dropout},
    NORMS: set(),
    GROUP: _CONVOLUTIONS,
    TAIL: _CONVOLUTIONS,
    REST: {AttentionBlocks, PatchEmbed, nn.ModuleList, nn.Dropout, DropPath},
}


@dataclass(frozen=True)
class Claim:
    """A module that is hooked: its part, and the modules inside that no other claim takes, itself first."""

    name: str
    part: str
    own: list[nn.Module] = field(default_factory=list)


def claims(network: HAT) -> dict[nn.Module, Claim]:
    """The hooked modules of a network.

    Raises:
        TypeError: a module of a type that no part knows how to count.
    """
    roles: dict[nn.Module, str] = {
        network.conv_first: FIRST,
        network.conv_after_body: GROUP,
        network.conv_before_upsample: TAIL,
        network.upsample: TAIL,
        network.conv_last: TAIL,
        **{each.conv: GROUP for each in network.modules() if isinstance(each, RHAG)},
    }
    found: dict[nn.Module, Claim] = {}

    def visit(module: nn.Module, name: str, around: Claim) -> None:
        part = roles.get(module) or BY_TYPE.get(type(module))
        claim = around if part is None else Claim(name, part)
        if (module in roles or part is None) and type(module) not in INSIDE[claim.part]:
            raise TypeError(f"no part knows {name}, a {type(module).__name__}: it stands in {claim.part!r}")
        if part is not None:
            found[module] = claim
        claim.own.append(module)
        for child_name, child in module.named_children():
            visit(child, f"{name}.{child_name}", claim)

    visit(network, "HAT", Claim("", REST))
    return found


# ------------------------------------------------------------------------------------------ 2. counts


@dataclass
class Cost:
    """Operations by the precision that they are computed in, and bytes."""

    operations: Counter[torch.dtype] = field(default_factory=Counter)
    bytes: int = 0

    def __iadd__(self, other: Cost) -> Cost:
        self.operations.update(other.operations)
        self.bytes += other.bytes
        return self

    @property
    def total(self) -> int:
        return self.operations.total()

    def floor(self, rates: Mapping[torch.dtype, float], bandwidth: float) -> float:
        """Seconds."""
        return max(sum(n / rates[dtype] for dtype, n in self.operations.items()), self.bytes / bandwidth)


@dataclass
class Seen:
    """What a module was given and what it returned, over all of its calls in one forward pass."""

    operations: int = 0
    read: int = 0  # bytes
    written: int = 0
    dtypes: set[torch.dtype] = field(default_factory=set)  # of both, and autocast's if that is on


def operations_of(module: nn.Module, shape: Sequence[int], own: Sequence[nn.Module]) -> int:
    """Operations of one call with an input of that shape, without those of claims inside."""
    match module:
        case WindowAttention() | OCAB():
            # qkv and proj, scores and values
            tokens, c = math.prod(shape[:-1]), shape[-1]
            side = module.overlap_win_size if isinstance(module, OCAB) else module.window_size
            return tokens * (2 * c * 3 * c + 2 * c * c + 2 * side**2 * c + 2 * side**2 * c)
        case Mlp():
            return 2 * math.prod(shape[:-1]) * (module.fc1.weight.numel() + module.fc2.weight.numel())
        case nn.LayerNorm() | HAB() | RHAG() | HAT():
            return 0
    # What is left are convolutions one after another.
    batch, _, h, w = shape
    total = 0
    for each in own:
        match each:
            case nn.Conv2d(kernel_size=(kh, kw)):
                if each.stride != (1, 1) or each.dilation != (1, 1) or each.padding != (kh // 2, kw // 2):
                    raise ValueError(f"a convolution must keep the size of its input, got {each}")
                total += 2 * batch * h * w * each.weight.numel()
            case nn.PixelShuffle(upscale_factor=factor):
                h, w = h * factor, w * factor
            case nn.AdaptiveAvgPool2d():
                h, w = 1, 1
    if not total:
        raise TypeError(f"a part that should hold convolutions has none: {module}")
    return total


def bytes_of(module: nn.Module, seen: Mapping[nn.Module, Seen]) -> int:
    """Least bytes that a claim moves, without its weights and without those of claims inside."""
    mine = seen[module]
    match module:
        case HAT():
            mean = mine.read + seen[module.conv_first].read
            skip = seen[module.conv_after_body].written + seen[module.conv_first].written
            skip += seen[module.conv_before_upsample].read
            return mean + skip + seen[module.conv_last].written + mine.written
        case RHAG():
            return seen[module.conv].written + mine.read + mine.written
        case HAB():  # x + attention + CAB; that + MLP
            first = mine.read + seen[module.attn].written + seen[module.conv_block].written + mine.written
            return first + mine.written + seen[module.mlp].written + mine.written
        case OCAB():  # attention; x + that; that + MLP
            first = seen[module.norm1].written + mine.read + mine.written
            return first + mine.written + seen[module.mlp].written + mine.written
    return mine.read + mine.written


def costs(claimed: Mapping[nn.Module, Claim], forward: Callable[[], object]) -> dict[str, Cost]:
    """The costs of each part in one call of `forward`.

    Raises:
        RuntimeError: a claimed module is never called, so its work is done where no hook sees it.
    """
    seen: dict[nn.Module, Seen] = {}

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        x = _first_tensor(args, kwargs)
        mine = seen.setdefault(module, Seen())
        mine.operations += operations_of(module, x.shape, claimed[module].own)
        mine.read += x.nbytes
        mine.dtypes.add(x.dtype)
        if torch.is_autocast_enabled(x.device.type):
            mine.dtypes.add(torch.get_autocast_dtype(x.device.type))

    def after(module: nn.Module, args: Any, kwargs: Any, result: Tensor) -> None:
        seen[module].written += result.nbytes
        seen[module].dtypes.add(result.dtype)

    with _hooks(claimed, before, after):
        forward()
    for module, claim in claimed.items():
        if module not in seen:
            raise RuntimeError(f"{claim.name} ({claim.part}) was never called: its work cannot be counted or timed")
    table = {part: Cost() for part in PARTS}
    for module, claim in claimed.items():
        mine = seen[module]
        weights = [p for each in claim.own for p in each.parameters(recurse=False)]
        cost = Cost(bytes=bytes_of(module, seen))
        if mine.operations:
            dtype = min(mine.dtypes, key=lambda each: each.itemsize)
            cost.operations[dtype] = mine.operations
            cost.bytes += sum(p.numel() for p in weights) * dtype.itemsize
        else:  # autocast leaves them as they are
            cost.bytes += sum(p.nbytes for p in weights)
        table[claim.part] += cost
    return table


def _first_tensor(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    return next(each for each in (*args, *kwargs.values()) if isinstance(each, Tensor))


@contextmanager
def _hooks(claimed: Mapping[nn.Module, Claim], before: Any, after: Any) -> Iterator[None]:
    handles = []
    for module in claimed:
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# ------------------------------------------------------------------------------------------ 3. times


class Clock:
    """Moments on a device: of the CPU's clock, or events in a GPU's stream."""

    def __init__(self, device: str) -> None:
        self.device = device

    def mark(self) -> Any:
        if self.device == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, start: Any, end: Any) -> float:
        """Between two marks that were waited for."""
        return float(end - start) if self.device == "cpu" else float(start.elapsed_time(end)) / 1000

    def time(self, function: Callable[[], object]) -> float:
        """Seconds of one call."""
        self.wait()
        start = self.mark()
        function()
        end = self.mark()
        self.wait()
        return self.seconds(start, end)


def seconds_by_part(trace: Sequence[tuple[str | None, Any]], seconds: Callable[[Any, Any], float]) -> dict[str, float]:
    """Seconds of each part, without those inside that are of another.

    `trace` holds a mark for each moment at which a module is entered (its part) or left (None).
    """
    total = dict.fromkeys(PARTS, 0.0)
    inside: list[str] = []
    for (part, start), (_, end) in pairwise(trace):
        if part is None:
            inside.pop()
        else:
            inside.append(part)
        total[inside[-1]] += seconds(start, end)
    return total


def hooked_run(claimed: Mapping[nn.Module, Claim], forward: Callable[[], object], clock: Clock) -> dict[str, float]:
    """Seconds of each part in one call of `forward`."""
    trace: list[tuple[str | None, Any]] = []

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        trace.append((claimed[module].part, clock.mark()))

    def after(module: nn.Module, args: Any, kwargs: Any, result: Tensor) -> None:
        trace.append((None, clock.mark()))

    with _hooks(claimed, before, after):
        clock.wait()
        forward()
        clock.wait()
    return seconds_by_part(trace, clock.seconds)


# ------------------------------------------------------------------------------------------ 4. the machine


Product = tuple[int, int, int]  # (m, k) times (k, n)


def products(network: HAT, tokens: int, square: int) -> list[Product]:
    """The sizes of the network's linear layers for so many tokens, and a large square."""
    sizes = {(tokens, each.in_features, each.out_features) for each in network.modules() if isinstance(each, nn.Linear)}
    return [*sorted(sizes), (square, square, square)]


def matmul_rate(sizes: Sequence[Product], dtype: torch.dtype, clock: Clock, repeats: int = 20) -> tuple[float, Product]:
    """The best rate of any of the sizes, in operations a second, and the size."""
    rates = {}
    for m, k, n in sizes:
        x = torch.randn(m, k, device=clock.device).to(dtype)
        weight = torch.randn(n, k, device=clock.device).to(dtype)
        best = _best_of(clock, lambda x=x, weight=weight: F.linear(x, weight), repeats)  # type: ignore[misc]
        rates[m, k, n] = 2 * m * k * n / best
    size = max(rates, key=lambda each: rates[each])
    return rates[size], size


def memory_rate(size: int, clock: Clock, repeats: int = 10) -> tuple[float, str]:
    """Bytes a second, and what reached them: a copy, or the triad a = b + s c. `size`: bytes of an array."""
    a, b, c = (torch.ones(size // 4, device=clock.device) for _ in range(3))
    rates = {
        "copy": 2 * size / _best_of(clock, lambda: a.copy_(b), repeats),
        "triad": 3 * size / _best_of(clock, lambda: torch.add(b, c, alpha=0.5, out=a), repeats),
    }
    name = max(rates, key=lambda each: rates[each])
    return rates[name], name


def _best_of(clock: Clock, function: Callable[[], object], repeats: int) -> float:
    function()
    return min(clock.time(function) for _ in range(repeats))


# ------------------------------------------------------------------------------------------ 5. the report


@dataclass(frozen=True)
class Row:
    part: str
    operations: int
    bytes: int
    seconds: float
    floor: float


def table(rows: Sequence[Row]) -> str:
    """A row a part and their sum, as Markdown."""
    whole = Row(
        "sum",
        sum(row.operations for row in rows),
        sum(row.bytes for row in rows),
        sum(row.seconds for row in rows),
        sum(row.floor for row in rows),
    )
    lines = ["| part | GFLOP | MB | ms | floor, ms | ratio | share |", "| --- |" + " ---: |" * 6]
    for row in (*rows, whole):
        cells = [row.part, f"{row.operations / 1e9:.2f}", f"{row.bytes / 1e6:.1f}"]
        cells += [f"{1e3 * row.seconds:.2f}", f"{1e3 * row.floor:.2f}"]
        cells += [f"{row.seconds / row.floor:.2f}", f"{row.seconds / whole.seconds:.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def summary(rows: Sequence[Row], seconds: float, runs: int, precision: str, rate: float) -> str:
    """What the whole network reaches, timed without hooks."""
    operations, parts = sum(row.operations for row in rows), sum(row.seconds for row in rows)
    reached = operations / seconds
    return (
        f"The whole: {1e3 * seconds:.2f} ms (fastest of {runs}, without hooks), {reached / 1e9:.1f} GFLOP/s, "
        f"{reached / rate:.1%} of the {precision} matmul rate. The sum of the parts is {parts / seconds:.1%} of it."
    )


# ------------------------------------------------------------------------------------------ 6. the command


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upscaler", default="hat-s", choices=sorted(FAMILIES), help="which size of HAT")
    parser.add_argument("--scale", type=int, default=4, choices=[2, 3, 4])
    parser.add_argument("--tile", type=int, default=64, help="side of a tile")
    parser.add_argument("--batch", type=int, default=1, help="tiles in a call of the network")
    parser.add_argument("--precision", default="fp32", choices=sorted(PRECISIONS))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=9, help="of the network with hooks, and of it without")
    parser.add_argument("--json", type=Path, help="write all numbers there")
    arguments = parser.parse_args(given)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU")
    torch.set_num_threads(arguments.threads)
    if arguments.device == "cpu":
        keep_freed_memory()  # as the command line does
    report, numbers = measure(arguments)
    print(report)
    if arguments.json:
        write_text(arguments.json, json.dumps(numbers, indent=1) + "\n")


def measure(arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Measure the machine and the network; the report, and all of its numbers."""
    clock = Clock(arguments.device)
    torch.manual_seed(0)
    network = HAT(**FAMILIES[arguments.upscaler], upscale=arguments.scale).eval().to(arguments.device)
    if arguments.precision != "fp32":
        network = network.with_low_weights(PRECISIONS[arguments.precision])
    x = torch.rand(arguments.batch, 3, arguments.tile, arguments.tile, device=arguments.device)

    def forward() -> Tensor:  # as HatUpscaler runs it
        low = arguments.precision != "fp32"
        with torch.no_grad(), torch.autocast(arguments.device, dtype=torch.bfloat16, enabled=low):
            result: Tensor = network(x).float()
        return result

    claimed = claims(network)
    parts = costs(claimed, forward)  # also the warm-up
    forward()
    whole, hooked = [], []
    for i in range(arguments.runs):
        whole.append(clock.time(forward))
        hooked.append(hooked_run(claimed, forward, clock))
        _say(f"run {i + 1}/{arguments.runs}: {1e3 * whole[-1]:.1f} ms, hooked {1e3 * sum(hooked[-1].values()):.1f} ms")

    tokens = arguments.batch * (arguments.tile + -arguments.tile % network.window_size) ** 2
    sizes = products(network, tokens, SQUARE[arguments.device])
    rates, best = {}, {}
    for name, dtype in PRECISIONS.items():
        rates[dtype], best[name] = matmul_rate(sizes, dtype, clock)
        _say(f"matmul, {name}: {rates[dtype] / 1e9:.1f} GFLOP/s")
    bandwidth, stream = memory_rate(ARRAY_BYTES, clock)
    _say(f"memory: {bandwidth / 1e9:.1f} GB/s")

    seconds, by_part = min(whole), min(hooked, key=lambda run: sum(run.values()))
    rows = [
        Row(part, cost.total, cost.bytes, by_part[part], cost.floor(rates, bandwidth)) for part, cost in parts.items()
    ]
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else f"cpu, {arguments.threads} threads"
    speeds = [
        f"{name} matmul {rates[dtype] / 1e9:.1f} GFLOP/s ({' x '.join(map(str, best[name]))})"
        for name, dtype in PRECISIONS.items()
    ]
    report = "\n".join(
        [
            f"{arguments.upscaler} x{arguments.scale}, batch {arguments.batch} of {arguments.tile}x{arguments.tile}, "
            f"{arguments.precision}, {where}, torch {torch.__version__}",
            "",
            f"The machine: {', '.join(speeds)}, memory {bandwidth / 1e9:.1f} GB/s ({stream}).",
            "",
            table(rows),
            "",
            summary(rows, seconds, arguments.runs, arguments.precision, rates[PRECISIONS[arguments.precision]]),
        ]
    )
    numbers = {
        "arguments": {key: value for key, value in vars(arguments).items() if key != "json"},
        "where": where,
        "torch": torch.__version__,
        "matmul": {name: {"rate": rates[dtype], "size": best[name]} for name, dtype in PRECISIONS.items()},
        "memory": {"rate": bandwidth, "by": stream},
        "parts": [vars(row) for row in rows],
        "whole": {"seconds": seconds, "runs": whole, "hooked": [sum(run.values()) for run in hooked]},
    }
    return report, numbers


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
