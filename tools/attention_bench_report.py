"""The report of bench_attention.py: its table, and what the differences in it allow one to say."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from scipy.stats import t as student

PLAIN = "plain"
MATCHED = " matched"  # behind a layer's name: the block beside it
Scores = Mapping[str, Mapping[str, Mapping[int, float]]]  # data, variant, seed


@dataclass(frozen=True)
class Difference:
    """Of two variants trained with the same seeds: the mean, and half of its 95 % interval (Student's t)."""

    mean: float
    half: float  # not a number for one seed

    @classmethod
    def between(cls, mine: Mapping[int, float], other: Mapping[int, float]) -> Difference:
        each = [mine[seed] - other[seed] for seed in sorted(mine)]
        n = len(each)
        half = float(student.ppf(0.975, n - 1)) * statistics.stdev(each) / math.sqrt(n) if n > 1 else math.nan
        return cls(statistics.mean(each), half)

    def __str__(self) -> str:
        return f"{self.mean:+.4f}" + ("" if math.isnan(self.half) else f" ± {self.half:.4f}")

    def sentence(self, mine: str, other: str) -> str:
        if math.isnan(self.half):
            return f"{mine} differs from {other} by {self}, of one seed: the spread is not known, nothing is shown"
        if abs(self.mean) <= self.half:
            return f"{mine} and {other} differ by {self}, within the spread: no difference is shown"
        return f"{mine} is {'above' if self.mean > 0 else 'below'} {other} by {self}, more than the spread"


def report(table: Mapping[str, Mapping[str, Any]], scores: Scores, limits: str) -> str:
    """The comparison as Markdown."""
    heads = ["model", "parameters", "GFLOPs", "latency", "memory, MB"]
    for data in scores:
        heads += [f"{data} mAP50-95", "- plain", "- matched"]
    lines = [f"| {' | '.join([*heads, 'row'])} |", f"|{' --- |' * (len(heads) + 1)}"]
    said: dict[str, list[str]] = {data: [] for data in scores}
    for name, cost in table.items():
        cells = [name, f"{cost['parameters']:,}", f"{cost['gflops']:.2f}"]
        cells += [f"{cost['latency']:.2f}", f"{cost['memory']:.1f}"]
        for data, of in scores.items():
            values = list(of[name].values())
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.4f}{spread}")
            for other, called in ((PLAIN, "the plain model"), (name + MATCHED, "its matched block")):
                if name == other or other not in of:
                    cells.append("")
                    continue
                difference = Difference.between(of[name], of[other])
                cells.append(str(difference))
                if not name.endswith(MATCHED):
                    said[data].append(f"- {data}: {difference.sentence(name, called)}.")
        lines.append(f"| {' | '.join(cells)} | {cost['row'] and '`' + cost['row'] + '`'} |")
    return "\n".join([*lines, "", *chain(*said.values()), "", limits, ""])


def limits_of(runs: Sequence[Mapping[str, Any]], seeds: int) -> str:
    """What the numbers mean, and what they cannot show."""
    trained = {}
    for run in runs:
        settings = run["settings"]
        steps = settings["epochs"] * math.ceil(run["images"][0] / settings["batch"])
        frozen = f", the first {settings['freeze']} layers frozen" if settings["freeze"] else ""
        trained[settings["data"]] = (
            f"{settings['data']} {run['images'][0]} images, {settings['epochs']} epochs ({steps} steps) at "
            f"{settings['imgsz']} px{frozen}, scored on {run['images'][1]}"
        )
    return (
        "mAP50-95: mean and standard deviation over seeds; differences: mean over seeds with its 95 % interval, of "
        "which one in twenty leaves out zero by chance. Latency: ratio to the plain model of the same round, median; "
        "memory: peak of a forward pass beyond the weights, batch 1 of 640x640, fused.\n\n"
        f"Such a run ({'; '.join(trained.values())}; seeds: {seeds}) shows what a layer costs, and whether the start "
        f"weights {runs[0]['settings']['weights']} survive it and adapt in so few steps; it cannot show what the layer "
        "would bring after a full training, and the spread over so few seeds says nothing of other images."
    )
