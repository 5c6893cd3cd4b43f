"""Time what was tried for the CPU against what hatdet does, at the sizes of HAT-S in one tile of 64x64.

    python tools/bench_kernels.py            # the parts, in both precisions
    python tools/bench_kernels.py --whole    # and the whole network: compiled, and without the allocator's setting

What is compared takes turns; the medians are printed, and the ratio, above 1 where what was tried is faster.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatdet.blocks.hat_blocks import HAB, OCAB
from hatdet.core.allocator import keep_freed_memory
from hatdet.core.device import computes_bf16
from hatdet.sr.catalogue import FAMILIES
from hatdet.sr.hat_arch import HAT

SIDE, WINDOW, HEADS, WIDTH, CHANNELS, HIDDEN, NARROW = 64, 16, 6, 24, 144, 288, 6
TOKENS, WINDOWS, IN_WINDOW = SIDE * SIDE, (SIDE // WINDOW) ** 2, WINDOW * WINDOW
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
CHUNK = 2  # windows whose scores fit into the second-level cache of two cores

Run = Callable[[], object]


@dataclass(frozen=True)
class Trial:
    """Two ways to the same result, or nearly; `same` says how near they have to be, of full scale."""

    what: str
    now: Callable[[], Tensor]
    tried: Callable[[], Tensor]
    same: float


def trials(dtype: torch.dtype) -> Iterator[Trial]:
    """All parts, in this precision."""
    torch.manual_seed(0)
    same = 1e-5 if dtype == torch.float32 else 2e-2

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape).to(dtype)

    yield from _attention(random, same)
    x = random(TOKENS, CHANNELS)
    order = torch.randperm(TOKENS)
    inverse = order.argsort()
    yield Trial(
        "one gather and one back -> roll, partition, and back",
        lambda: x.index_select(0, order).index_select(0, inverse),
        lambda: _rolled(x),
        same,
    )
    weight, bias = random(HIDDEN, CHANNELS) / 12, random(HIDDEN)
    there = dtype == torch.float32 or computes_bf16(torch.device("cpu"))  # without instructions for it oneDNN has none
    if there and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        fused = torch.ops.mkldnn._linear_pointwise
        yield Trial(
            "linear layer, then GELU -> oneDNN's fused operator",
            lambda: F.gelu(F.linear(x, weight, bias)),
            lambda: fused(x, weight, bias, "gelu", [], "none"),
            same,
        )
    narrow = random(NARROW, CHANNELS, 3, 3) / 30
    taps = narrow.permute(2, 3, 0, 1).reshape(9 * NARROW, CHANNELS).contiguous()
    yield Trial(
        "CAB's first convolution -> a product for all nine taps, added up",
        lambda: F.conv2d(x.view(1, SIDE, SIDE, CHANNELS).permute(0, 3, 1, 2), narrow, padding=1),
        lambda: _by_taps(x, taps),
        same,
    )
    weight_last = narrow.contiguous(memory_format=torch.channels_last)
    yield Trial(
        "weights of convolutions as they are -> channels last",
        lambda: F.conv2d(x.view(1, SIDE, SIDE, CHANNELS).permute(0, 3, 1, 2), narrow, padding=1),
        lambda: F.conv2d(x.view(1, SIDE, SIDE, CHANNELS).permute(0, 3, 1, 2), weight_last, padding=1),
        same,
    )


def _attention(random: Callable[..., Tensor], same: float) -> Iterator[Trial]:
    qkv = random(TOKENS, 3 * CHANNELS).view(WINDOWS, IN_WINDOW, 3, HEADS, WIDTH)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
    bias, scale = random(1, HEADS, IN_WINDOW, IN_WINDOW), WIDTH**-0.5

    def fused() -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)

    def by_hand() -> Tensor:
        return torch.softmax((q * scale) @ k.transpose(-2, -1) + bias, dim=-1) @ v

    def in_chunks() -> Tensor:
        parts = []
        for first in range(0, WINDOWS, CHUNK):
            a, b, c = (t[first : first + CHUNK].flatten(0, 1) for t in (q, k, v))
            scores = torch.baddbmm(bias[0].repeat(CHUNK, 1, 1), a, b.transpose(1, 2), alpha=scale)
            parts.append(torch.bmm(torch.softmax(scores, dim=-1), c).view(CHUNK, HEADS, IN_WINDOW, WIDTH))
        return torch.cat(parts)

    yield Trial("fused attention -> product, softmax, product", fused, by_hand, same)
    yield Trial("fused attention -> the same by hand, two windows at a time", fused, in_chunks, same)
    # HAT's heads, which are loaded as 32 wide.
    thirty = [random(WINDOWS, HEADS, IN_WINDOW, 30) for _ in range(3)]
    padded = [F.pad(t, (0, 2)) for t in thirty]
    yield Trial(
        "attention with heads of 30 -> 32",
        lambda: F.scaled_dot_product_attention(*thirty, attn_mask=bias, scale=30**-0.5),
        lambda: F.scaled_dot_product_attention(*padded, attn_mask=bias, scale=30**-0.5)[..., :30],
        same,
    )


def _rolled(x: Tensor) -> Tensor:
    """What Swin does around the attention of a shifted block."""
    shift = WINDOW // 2
    rolled = torch.roll(x.view(1, SIDE, SIDE, CHANNELS), (-shift, -shift), (1, 2))
    count = SIDE // WINDOW
    windows = rolled.view(1, count, WINDOW, count, WINDOW, CHANNELS).permute(0, 1, 3, 2, 4, 5).contiguous()
    back = windows.permute(0, 1, 3, 2, 4, 5).reshape(1, SIDE, SIDE, CHANNELS)
    return torch.roll(back, (shift, shift), (1, 2)).view(TOKENS, CHANNELS)


def _by_taps(x: Tensor, taps: Tensor) -> Tensor:
    """A 3x3 convolution to few channels. Shape: `(tokens, c)` to `(1, n, h, w)`."""
    found = F.pad(F.linear(x, taps).view(SIDE, SIDE, 9, NARROW), (0, 0, 0, 0, 1, 1, 1, 1))
    total = sum(found[i : i + SIDE, j : j + SIDE, 3 * i + j] for i in range(3) for j in range(3))
    assert isinstance(total, Tensor)
    return total.permute(2, 0, 1)[None]


# ------------------------------------------------------------------------------------------ 1. the whole network


def network_run(dtype: torch.dtype, compiled: bool = False) -> Callable[[], Tensor]:
    """HAT-S x4 on one tile, as `HatUpscaler` runs it."""
    torch.manual_seed(0)
    network = HAT(**FAMILIES["hat-s"], upscale=4).eval().requires_grad_(False)
    low = dtype != torch.float32
    if low:
        network = network.with_low_weights(dtype)
    if compiled:
        torch._dynamo.config.recompile_limit = 64
        for module in network.modules():
            if isinstance(module, HAB):
                module.drop_path = nn.Identity()  # each has a rate of its own, which would be compiled for
            if isinstance(module, HAB | OCAB):
                module.compile(dynamic=False)
    x = torch.rand(1, 3, SIDE, SIDE)

    def run() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            result: Tensor = network(x).float()
        return result

    return run


def seconds_in_own_process(precision: str, runs: int, threads: int, keep: bool) -> float:
    """The whole network, with or without the allocator's setting, which nothing takes back."""
    command = [sys.executable, __file__, "--only-whole", "--precision", precision, "--runs", str(runs)]
    command += ["--threads", str(threads), *(["--keep"] if keep else [])]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


# ------------------------------------------------------------------------------------------ 2. the command


def medians(first: Run, second: Run, runs: int) -> tuple[float, float, float]:
    """Seconds of both, which take turns, and how many times faster the second is."""
    for run in (first, second) * 3:
        run()
    times = [(_seconds(first), _seconds(second)) for _ in range(runs)]
    a, b = (statistics.median(column) for column in zip(*times, strict=True))
    return a, b, statistics.median(one / other for one, other in times)


def _seconds(run: Run) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=sorted(PRECISIONS), action="append")
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--whole", action="store_true", help="the whole network too, which takes minutes")
    parser.add_argument("--only-whole", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    precisions = arguments.precision or list(PRECISIONS)
    if arguments.keep or not arguments.only_whole:
        keep_freed_memory()  # as the command line does
    with torch.no_grad():
        if arguments.only_whole:
            run = network_run(PRECISIONS[precisions[0]])
            print(medians(run, run, arguments.runs)[0])
            return
        print(f"HAT-S x4, one tile of 64x64, cpu, {arguments.threads} threads, torch {torch.__version__}; ms\n")
        print("| what was tried | precision | now | tried | ratio |\n| --- | --- | ---: | ---: | ---: |")
        for name in precisions:
            for trial in trials(PRECISIONS[name]):
                difference = _difference(trial.now(), trial.tried())
                if not difference <= trial.same:
                    raise SystemExit(f"{trial.what}, {name}: the results differ by {difference:.1e} of full scale")
                _print(trial.what, name, *medians(trial.now, trial.tried, arguments.runs))
            if arguments.whole:
                runs = max(3, arguments.runs // 8)
                _print(
                    "whole network -> its blocks by torch.compile",
                    name,
                    *medians(network_run(PRECISIONS[name]), network_run(PRECISIONS[name], compiled=True), runs),
                )
                kept, usual = (seconds_in_own_process(name, runs, arguments.threads, keep) for keep in (True, False))
                _print(
                    "whole network, freed memory is kept -> the allocator's default", name, kept, usual, kept / usual
                )


def _difference(a: Tensor, b: Tensor) -> float:
    a, b = a.float(), b.float()
    return float((a - b).abs().max() / a.abs().max())


def _print(what: str, precision: str, now: float, tried: float, ratio: float) -> None:
    print(f"| {what} | {precision} | {1e3 * now:.3f} | {1e3 * tried:.3f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
