"""Time hatdet's HAT against spandrel's, with the same weights, in one run, and print the ratio.

    python tools/bench_sr.py                      # HAT-S x4 on 64x64, fp32
    python tools/bench_sr.py --model hat-xs --size 96 128 --runs 20

The two networks take turns, so that a busy moment of the machine hits both; the medians are compared. spandrel
(`pip install "hatdet[test]"`) carries the published code of HAT, less its training parts.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from spandrel.architectures.HAT import HAT as SpandrelHAT
from torch import Tensor

from hatdet.sr.catalogue import FAMILIES
from hatdet.sr.hat_arch import HAT


def seconds(function: Callable[[Tensor], Tensor], x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    function(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="hat-s", choices=sorted(FAMILIES), help="which size of HAT")
    parser.add_argument("--scale", type=int, default=4, choices=[2, 3, 4])
    parser.add_argument("--size", type=int, nargs=2, default=[64, 64], metavar=("H", "W"))
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", message="torch.meshgrid")  # spandrel's

    torch.manual_seed(0)
    options = {**FAMILIES[arguments.model], "upscale": arguments.scale}
    ours = HAT(**options).eval().to(arguments.device)
    theirs = SpandrelHAT(**options).eval().to(arguments.device)
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(1, 3, *arguments.size, device=arguments.device)

    with torch.inference_mode():
        a, b = ours(x), theirs(x)  # also the warm-up
        difference = float((a - b).norm() / b.norm())
        times = [(seconds(ours, x), seconds(theirs, x)) for _ in range(arguments.runs)]
    ours_s, theirs_s = (statistics.median(column) for column in zip(*times, strict=True))
    h, w = arguments.size
    print(f"{arguments.model} x{arguments.scale}, {h}x{w}, fp32, {arguments.device}, {arguments.threads} threads")
    print(f"hatdet   {ours_s:7.3f} s   (median of {arguments.runs}, taking turns)")
    print(f"spandrel {theirs_s:7.3f} s")
    print(f"ratio    {theirs_s / ours_s:7.2f} x   difference {difference:.1e} of the output's norm")


if __name__ == "__main__":
    main()
