"""How long merging takes, beside torchvision's and SAHI's: a Markdown table. On one core; needs SAHI.

python tools/bench_merging.py --rounds 3

Boxes of 8 to 60 pixels of three classes. `scattered`: anywhere in a mosaic, 100,000 of them in 20,000 x 20,000 pixels.
`repeated`: the same, but each object was found four times, up to some pixels off. `crowd`: all on one spot.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sahi.postprocess.combine as sahi
import torch
from numpy.typing import NDArray
from sahi.prediction import ObjectPrediction
from torchvision.ops import batched_nms

from hatdet.detection.merging import merge_boxes

Boxes = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]

SAHIS = {"nms": sahi.NMSPostprocess, "greedy-nmm": sahi.GreedyNMMPostprocess, "nmm": sahi.NMMPostprocess}
CROWD = 10_000  # with more, SAHI would take minutes
FOUND = 4  # times, each object of `repeated`


def scene(layout: str, n: int) -> Boxes:
    rng = np.random.default_rng(n)
    objects = n // FOUND if layout == "repeated" else n
    side = 20.0 if layout == "crowd" else 20_000 * (objects / 100_000) ** 0.5
    corner, extent = rng.uniform(0, side, (objects, 2)), rng.uniform(8, 60, (objects, 2))
    xyxy = np.concatenate([corner, corner + extent], 1)
    class_id = rng.integers(0, 3, objects)
    if layout == "repeated":
        xyxy, class_id = xyxy.repeat(FOUND, 0) + rng.uniform(-2, 2, (n, 4)), class_id.repeat(FOUND)
    confidence = (rng.permutation(n) + 1) / n
    return np.maximum(xyxy, 0).astype(np.float32), confidence.astype(np.float32), class_id


def best(run: Callable[[], int], rounds: int) -> tuple[float, int]:
    """Milliseconds of the processor, the least of several rounds (others may use the machine); and what is left."""
    took = []
    for _ in range(rounds):
        start = time.process_time()
        left = run()
        took.append((time.process_time() - start) * 1e3)
    return min(took), left


def peak_megabytes(run: Callable[[], int]) -> float:
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def row(layout: str, n: int, merge: Any, overlap: Any, rounds: int) -> str:
    boxes = scene(layout, n)
    tensors = [torch.from_numpy(values) for values in boxes]
    predictions = [
        ObjectPrediction(box, class_id, str(class_id), score=confidence)
        for box, confidence, class_id in zip(*(values.tolist() for values in boxes), strict=True)
    ]

    def ours() -> int:
        return len(merge_boxes(*boxes, merge=merge, overlap=overlap).keeper)

    def sahis() -> int:
        return len(SAHIS[merge](0.5, overlap.upper(), class_agnostic=False)(list(predictions)))  # it changes the list

    def torchvisions() -> int:
        return len(batched_nms(*tensors, 0.5))

    (took, left), (sahi_took, sahi_left) = best(ours, rounds), best(sahis, rounds)
    told = "-" if (merge, overlap) != ("nms", "iou") else f"{best(torchvisions, rounds)[0]:,.0f}"
    return (
        f"| {layout} | {n:,} | {merge} | {overlap} | {took:,.0f} | {sahi_took:,.0f} | {told} "
        f"| {left:,} | {sahi_left:,} | {peak_megabytes(ours):.0f} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many (default: %(default)s)")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="boxes (default: %(default)s)"
    )
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(
        "| boxes lie | boxes | merge | overlap | hatdet, ms | SAHI, ms | torchvision, ms | left | SAHI's | peak, MB |"
    )
    print("|---|---:|---|---|---:|---:|---:|---:|---:|---:|")
    for layout in ("scattered", "repeated", "crowd"):
        for n in given.sizes:
            if layout != "crowd" or n <= CROWD:
                for merge, overlap in (("nms", "iou"), ("greedy-nmm", "ios"), ("nmm", "iou")):
                    print(row(layout, n, merge, overlap, given.rounds), flush=True)


if __name__ == "__main__":
    main()
