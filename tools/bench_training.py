"""Time a training step of hatdet against spandrel's HAT in BasicSR's own model, in one run, and print the ratio.

    python tools/bench_training.py                                # HAT-S x4, batch 2 of 64x64, fp32
    python tools/bench_training.py --precision bf16 --compile     # ours as options allow; theirs as it is
    python tools/bench_training.py --device cuda --batch 16 --precision bf16 --compile

A step is what an iteration costs after its batch was read: forward, L1, backward, Adam, EMA. Medians are compared.
Training on the CPU tells the allocator to keep freed memory; theirs runs before that, or with it too
(--keep-memory: then the two take turns). On a GPU it also prints images/s and the share of the bf16 matmul rate
of the same run.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

from hatdet.core.allocator import keep_freed_memory
from hatdet.sr.catalogue import FAMILIES
from hatdet.training import plugins


def options(arguments: argparse.Namespace, network: str, **train: Any) -> dict[str, Any]:
    size = {**FAMILIES[arguments.model], "upscale": arguments.scale, "type": network}
    return {
        "num_gpu": int(arguments.device == "cuda"),
        "is_train": True,
        "dist": False,
        "scale": arguments.scale,
        "network_g": size,
        "path": {},
        "train": {
            "ema_decay": 0.999,
            "optim_g": {"type": "Adam", "lr": 1e-4, "betas": [0.9, 0.99]},
            "scheduler": {"type": "MultiStepLR", "milestones": [10**6], "gamma": 0.5},
            "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
            **train,
        },
    }


def seconds(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def matmul_rate(device: str) -> float:
    """Multiply-adds of bf16 matrices of 8192 on a GPU (2048 on a CPU), as operations a second."""
    n = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = [seconds(lambda: torch.mm(a, b)) for _ in range(10)]
    return float(2 * n**3 / min(times))


def operations(arguments: argparse.Namespace) -> float:
    """Of one step: three times those of the forward pass (multiply-adds count twice)."""
    from torch.utils.flop_counter import FlopCounterMode

    from hatdet.sr.hat_arch import HAT

    network = HAT.from_options({**FAMILIES[arguments.model], "upscale": arguments.scale})
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        network.to("meta")(torch.empty(arguments.batch, 3, arguments.size, arguments.size))
    return float(3 * counter.get_total_flops())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="hat-s", choices=sorted(FAMILIES))
    parser.add_argument("--scale", type=int, default=4, choices=[2, 3, 4])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=64, help="side of the low-resolution patches")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="of ours")
    parser.add_argument("--compile", action="store_true", help="ours")
    parser.add_argument("--channels-last", action="store_true", help="ours")
    parser.add_argument("--keep-memory", action="store_true", help="let theirs have our allocator setting too")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="torch.meshgrid")  # spandrel's
    logging.getLogger("basicsr").setLevel(logging.ERROR)
    plugins.register()

    from basicsr.models.sr_model import SRModel
    from basicsr.utils.registry import ARCH_REGISTRY
    from spandrel.architectures.HAT import HAT as SpandrelHAT

    from hatdet.training.hat_model import HATModel

    class PublishedHAT(SpandrelHAT):  # type: ignore[misc]
        """The published code under a name of its own in the registry."""

    ARCH_REGISTRY.register(PublishedHAT)
    ours_train = {
        "precision": arguments.precision,
        "compile": arguments.compile,
        "channels_last": arguments.channels_last,
    }
    torch.manual_seed(0)
    ours = HATModel(options(arguments, "HAT", **ours_train))
    theirs = SRModel(options(arguments, "PublishedHAT"))
    state = theirs.net_g.state_dict()
    own = ours.net_g.state_dict()
    ours.net_g.load_state_dict({key: state[key] for key in own})
    low = torch.rand(arguments.batch, 3, arguments.size, arguments.size)
    high = torch.rand(arguments.batch, 3, *(2 * [arguments.scale * arguments.size]))

    def step(model: Any) -> None:
        model.feed_data({"lq": low, "gt": high})
        model.optimize_parameters(1)

    # The allocator's setting is of the whole process: theirs is timed first, without it, unless it is to have it too.
    turns: list[tuple[float, float]] = []
    if arguments.keep_memory or arguments.device == "cuda":
        keep_freed_memory()
        for _ in range(arguments.runs + 2):
            turns.append((seconds(lambda: step(ours)), seconds(lambda: step(theirs))))
    else:
        without = [seconds(lambda: step(theirs)) for _ in range(arguments.runs + 2)]
        keep_freed_memory()
        turns = [(seconds(lambda: step(ours)), other) for other in without]
    ours_s, theirs_s = (statistics.median(column) for column in zip(*turns[2:], strict=True))
    what = f"{arguments.model} x{arguments.scale}, batch {arguments.batch} of {arguments.size}x{arguments.size}"
    how = arguments.precision + (" compiled" if arguments.compile else "")
    print(f"{what}, {arguments.device}, {torch.get_num_threads()} threads")
    print(f"spandrel's HAT in BasicSR's SRModel, fp32   {theirs_s:8.3f} s a step")
    print(f"hatdet's HATModel, {how:24s} {ours_s:8.3f} s a step   {theirs_s / ours_s:.2f} x")
    if arguments.device == "cuda":
        rate, wanted = matmul_rate("cuda"), operations(arguments)
        reached = wanted / ours_s
        print(f"{arguments.batch / ours_s:.1f} images/s")
        print(f"{reached / 1e12:.0f} TFLOP/s, {reached / rate:.0%} of this machine's bf16 matmul ({rate / 1e12:.0f})")


if __name__ == "__main__":
    main()
