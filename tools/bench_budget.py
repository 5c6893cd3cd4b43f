"""Is the prediction of `hatdet detect --budget` true? Predicted and measured milliseconds side by side, as Markdown.

    python tools/bench_budget.py --sizes 64x48 160x120 320x240 --budgets 1s 10s

For each size and budget the plan is made from this machine's calibration (measured now if it never was; `hatdet bench
--calibrate` measures it again), and what it chose is run: upscaled, or not, and looked at by the embedded detector. The
calibration is not corrected from image to image, as a run of many images is. Networks on a share of the image are left
out: only plans that compute the whole image, or none of it, are made here.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hatdet.core.device import choose_device
from hatdet.core.errors import OptionsError
from hatdet.core.types import Detector, Upscaler
from hatdet.deploy.bench import bench_picture
from hatdet.deploy.budget import Plan, parse_budget, plan, spoken
from hatdet.deploy.calibration import Calibration, calibrated, median_ms
from hatdet.detection.chain import Upscaled
from hatdet.detection.yolo import load_detector
from hatdet.sr.upscalers import load_upscaler


@dataclass(frozen=True)
class Row:
    """A plan, and what it took."""

    plan: Plan
    measured_ms: float

    @property
    def off(self) -> float:
        """By how much more it took than was predicted, relative."""
        return self.measured_ms / self.plan.expected_ms - 1


def rows(
    calibration: Calibration,
    sizes_wh: Sequence[tuple[int, int]],
    budgets_ms: Sequence[float],
    measure: Callable[[Plan], float],
) -> Iterator[Row]:
    """One for each size and each plan that some budget leads to, for the least of these budgets.

    A plan in slices is not run: its time is not that of one chain.
    """
    for size_wh in sizes_wh:
        known: set[str | None] = set()
        for budget_ms in sorted(budgets_ms):
            found = plan(calibration, size_wh, budget_ms, regions=False)
            if found.upscaler not in known and found.slice_wh is None:
                known.add(found.upscaler)
                yield Row(found, measure(found))


class Machine:
    """Runs plans; networks are loaded when they are first needed."""

    def __init__(self, scale: int, device: str, precision: str) -> None:
        self.scale, self.device, self.precision = scale, device, precision
        self.detector = load_detector(device=device)
        self.upscalers: dict[str, Upscaler] = {}

    def measure(self, plan: Plan) -> float:
        """The median of some runs, in milliseconds."""
        detector: Detector = self.detector
        if plan.upscaler is not None:
            if plan.upscaler not in self.upscalers:
                self.upscalers[plan.upscaler] = load_upscaler(
                    plan.upscaler, self.scale, device=self.device, precision=self.precision
                )
            detector = Upscaled(self.upscalers[plan.upscaler], self.detector)
        picture = bench_picture(plan.size_wh)
        return median_ms(lambda: detector(picture), choose_device(self.device))


def printed(found: Sequence[Row]) -> str:
    """The table, and how far off the predictions are in the middle and at most."""
    lines = ["| image | budget | chosen | predicted | measured | off by |", "|---|--:|---|--:|--:|--:|"]
    for row in found:
        width, height = row.plan.size_wh
        chosen = row.plan.upscaler or "no upscaling"
        chosen += "" if row.plan.fits else " (does not fit)"
        lines.append(
            f"| {width}x{height} | {spoken(row.plan.budget_ms)} | {chosen} | {spoken(row.plan.expected_ms)} | "
            f"{spoken(row.measured_ms)} | {100 * row.off:+.0f} % |"
        )
    off = sorted(abs(row.off) for row in found)
    if off:
        lines += ["", f"median {100 * off[(len(off) - 1) // 2]:.0f} %, at most {100 * off[-1]:.0f} %"]
    return "\n".join(lines)


def size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected WxH, got {text!r}")
    return int(found[1]), int(found[2])


def budget(text: str) -> float:
    try:
        return parse_budget(text)
    except OptionsError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=size, nargs="+", default=[(64, 48), (160, 120), (320, 240)], metavar="WxH")
    parser.add_argument("--budgets", type=budget, nargs="+", default=[1e2, 1e3, 1e4, 1e5], metavar="TIME")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--again", action="store_true", help="calibrate anew before")
    given = parser.parse_args()
    calibration = calibrated(scale=given.scale, device=given.device, precision=given.precision, again=given.again)
    machine = Machine(given.scale, given.device, given.precision)
    print(printed(list(rows(calibration, given.sizes, given.budgets, machine.measure))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
