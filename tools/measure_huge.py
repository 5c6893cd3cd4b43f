#!/usr/bin/env python
"""How much memory images of any size take: the peak of `hatdet sr` over their side, and a window of one of 30,000².

Prints Markdown tables for docs/reliability.md. Files go to a temporary folder, and take some gigabytes of it.

    tools/measure_huge.py                      # bicubic and a tiny HAT x4 at 2000² and 6000², a window of 30,000²
    tools/measure_huge.py --sides 1000 2000 --upscaler bicubic --no-window
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

SIDE = 256  # of the tiles of a source
SCALE = 4
TINY = {
    "embed_dim": 12,
    "depths": [2],
    "num_heads": [3],
    "window_size": 8,
    "compress_ratio": 4,
    "squeeze_factor": 6,
    "mlp_ratio": 2,
    "num_feat": 8,
    "upscale": SCALE,
}


def write_mosaic(path: Path, side: int, places: dict[tuple[int, int], np.ndarray] | None = None) -> None:
    """A TIFF file of `side` pixels each way, in tiles, which is never in memory: a photo again and again.

    With `places` it is grey, and only these pictures, by their row and column of tiles, are in it.
    """
    from hatdet.imaging.files import read_image, to_array
    from hatdet.imaging.sample_photos import sample_photos

    photo = to_array(read_image(sample_photos()[0]))[300 : 300 + SIDE, 200 : 200 + SIDE]
    across = -(-side // SIDE)
    grey = np.full((SIDE, SIDE, 3), 128, np.uint8)

    def tiles() -> Iterator[np.ndarray]:
        for row in range(across):
            for column in range(across):
                yield photo if places is None else places.get((row, column), grey)

    settings: dict[str, Any] = {"tile": (SIDE, SIDE), "compression": "zlib", "photometric": "rgb", "metadata": None}
    tifffile.imwrite(path, tiles(), shape=(side, side, 3), dtype=np.uint8, maxworkers=1, **settings)


def write_tiny_hat(path: Path) -> None:
    """Weights of a HAT that is quick and knows nothing."""
    import torch

    from hatdet.sr.hat_arch import HAT

    torch.manual_seed(0)
    torch.save(HAT(**TINY).state_dict(), path)


# A process begins with the peak of the one that starts it: a small one in between makes the number the command's own.
BETWEEN = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def peak_of(command: list[str]) -> tuple[float, float]:
    """The largest resident set of a command in MiB, and its seconds; it must succeed."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-S", "-c", BETWEEN, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr}")
    return int(done.stdout) / 1024, time.perf_counter() - started


def peaks_of_sr(folder: Path, upscaler: str, sides: list[int]) -> dict[int, tuple[float, float]]:
    """The peak and the seconds of `hatdet sr` by the side of the image; `tiny` is a HAT without training."""
    peaks = {}
    if upscaler == "tiny":
        write_tiny_hat(folder / "tiny.pth")
        upscaler = str(folder / "tiny.pth")
    for side in sides:
        source, out = folder / f"{side}.tif", folder / "out"
        if not source.exists():
            write_mosaic(source, side)
        command = [sys.executable, "-m", "hatdet", "sr", str(source), "-o", str(out), "--format", "tiff", "--overwrite"]
        peaks[side] = peak_of([*command, "--upscaler", upscaler, "--scale", str(SCALE), "--device", "cpu"])
        with tifffile.TiffFile(out / f"{side}.tiff") as made:
            assert made.pages[0].shape == (side * SCALE, side * SCALE, 3)
        (out / f"{side}.tiff").unlink()
    return peaks


def _peak_kib() -> int:
    """The largest resident set of this process."""
    found = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


@dataclass(frozen=True)
class Region:
    """What came of an image of 30,000².

    Attributes:
        side: of the image, in pixels.
        window: the shape of a part that was read.
        classes: of the objects found in a region of it.
        off_px: how far the box of the bus is from where it is, at most, in pixels of the image.
        grown_mib: by how much the peak memory of this process grew with opening, reading and detecting.
    """

    side: int
    window: tuple[int, ...]
    classes: list[str]
    off_px: float
    grown_mib: float


def window_of_30000(folder: Path) -> Region:
    """A grey image of 30,000² with the photo of a bus, reduced four times, far from its corners: looked at there."""
    from hatdet.detection.chain import Upscaled
    from hatdet.detection.slicing import Sliced
    from hatdet.detection.yolo import load_detector
    from hatdet.imaging.files import read_image, to_array
    from hatdet.imaging.resize import reduced
    from hatdet.imaging.sample_photos import sample_photos
    from hatdet.imaging.windows import open_windows
    from hatdet.sr.upscalers import load_upscaler

    side, bus = 30_000, np.array([22, 229, 807, 733]) / 4  # in the photo's own pixels, by hand
    photo = np.full((2 * SIDE, SIDE, 3), 128, np.uint8)
    small = to_array(reduced(read_image(sample_photos()[0]), 4))
    photo[: small.shape[0], : small.shape[1]] = small
    row, column = 80, 90
    write_mosaic(folder / "30000.tif", side, {(row + i, column): photo[i * SIDE :][:SIDE] for i in range(2)})
    chain = Upscaled(load_upscaler("hat-xs", 4, device="cpu"), load_detector(device="cpu"))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (Linux)
    before = _peak_kib()
    source = open_windows(folder / "30000.tif", max_pixels=side**2)
    assert source is not None
    window = source.read(20_000, 20_640, 10_000, 10_640)
    x, y = column * SIDE, row * SIDE
    region = (x - 40, y - 30, x + 280, y + 310)
    found = list(Sliced(chain, (240, 240)).over(source.image, (side, side), region=region))
    source.close()
    grown = _peak_kib() - before
    boxes = [one.xyxy for one in found if one.class_name == "bus"]
    off = min((float(np.abs(np.array(box) - [x, y, x, y] - bus).max()) for box in boxes), default=float("inf"))
    return Region(side, window.shape, [one.class_name for one in found], off, grown / 1024)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[2000, 6000], help="of the images of sr, in pixels")
    parser.add_argument("--upscaler", nargs="+", default=["bicubic", "tiny"], help="bicubic, nearest, tiny, or others")
    parser.add_argument("--no-window", action="store_true", help="leave out the window of an image of 30,000²")
    parser.add_argument("--work", type=Path, help="folder for the files (default: a temporary one)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        folder = Path(name)
        print(f"| `hatdet sr` x{SCALE} | image | written | peak memory, MiB | against the first | seconds |")
        print("|---|--:|--:|--:|--:|--:|")
        largest = max(arguments.sides)
        said = []
        for upscaler in arguments.upscaler:
            peaks = peaks_of_sr(folder, upscaler, arguments.sides)
            first = peaks[arguments.sides[0]][0]
            for side, (peak, seconds) in peaks.items():
                sizes = f"{side}x{side} | {side * SCALE}x{side * SCALE}"
                label = "a tiny HAT" if upscaler == "tiny" else upscaler
                print(f"| {label} | {sizes} | {peak:.0f} | {peak / first - 1:+.1%} | {seconds:.0f} |", flush=True)
            said.append(f"{peaks[largest][0]:.0f} MiB ({label})")
        if not arguments.no_window:
            found = window_of_30000(folder)
            print()
            print("| image | window read | found in a region of 320x340 (HAT-XS x4, windows of 240) | memory, + MiB |")
            print("|---|---|---|--:|")
            window = "x".join(map(str, found.window[:2]))
            classes = ", ".join(found.classes)
            print(f"| {found.side}x{found.side} TIFF | {window} | {classes} | {found.grown_mib:.0f} |")
            said.append(f"a window and a region of {found.side}x{found.side} {found.grown_mib:.0f} MiB more")
        print(f"\nsr of {largest}x{largest} takes at most {', '.join(said)}")


if __name__ == "__main__":
    main()
