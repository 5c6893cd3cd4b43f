"""Measure upscalers on benchmark photos: PSNR-Y and SSIM-Y, MATLAB-bicubic low resolution, crop = scale.

    export HATDET_DATA=/path/to/data          # holds sr/set5/HR, sr/bsds500/val
    python tools/measure_sr.py bicubic hat-xs
    python tools/measure_sr.py hat-xs --tiled # how far tiles of 64 are from the untiled picture, photo by photo
    python tools/measure_sr.py --resize       # our reduction against the published files, made by MATLAB

PSNR and SSIM are `hatdet.evaluation.fidelity`'s, equal to BasicSR's.
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path

import numpy as np

from hatdet.core.types import Image, Upscaler
from hatdet.evaluation.fidelity import Protocol, compare
from hatdet.imaging.files import read_image, to_array
from hatdet.imaging.resize import reduced
from hatdet.sr.upscalers import load_upscaler

SETS = {"Set5": "sr/set5/HR", "BSD100": "sr/bsds500/val"}


def benchmark(names: list[str], data: Path, scale: int) -> None:
    print(f"{f'x{scale}, Y, crop {scale}, MATLAB bicubic, mod {scale}':36s}" + "".join(f"{name:>20s}" for name in SETS))
    for name in names:
        upscale = load_upscaler(name, scale)
        row = []
        for folder in SETS.values():
            results = []
            for path in sorted(path for path in (data / folder).iterdir() if path.suffix in (".png", ".jpg")):
                hr = read_image(path)
                sr = upscale(reduced(hr, scale))
                cropped = Image(hr.pixels[:, : sr.height, : sr.width])
                found = compare(to_array(sr), to_array(cropped), Protocol("Y", scale))
                results.append((found.psnr, found.ssim))
            row.append("{:.2f} / {:.4f}".format(*np.mean(results, axis=0)))
        print(f"{upscale.name:36s}" + "".join(f"{cell:>20s}" for cell in row), flush=True)


def tiled(name: str, data: Path, scale: int) -> None:
    """PSNR of tiles of 64 against the whole picture, over RGB, on 300x500 photos."""
    whole: Upscaler = load_upscaler(name, scale, tile=1024)
    tiles: Upscaler = load_upscaler(name, scale, tile=64, batch=4)
    values = []
    for path in sorted((data / SETS["BSD100"]).iterdir())[::10]:
        photo = read_image(path)
        upright = photo.pixels if photo.width > photo.height else photo.pixels.transpose(1, 2)
        image = Image(upright[:, :300, :500].contiguous())
        a, b = whole(image), tiles(image)
        values.append(float(-10 * (a.pixels - b.pixels).square().mean().log10()))
        print(f"{path.name:16s} {values[-1]:6.2f} dB", flush=True)
    print(f"median {statistics.median(values):.1f} dB, worst {min(values):.1f} dB of {len(values)}")


def resize(data: Path) -> None:
    """Samples that differ between our reductions and those that MATLAB's imresize made of Set5."""
    for scale in (2, 3, 4):
        differing = total = 0
        for path in sorted((data / SETS["Set5"]).glob("*.png")):
            ours = to_array(reduced(read_image(path), scale)).astype(int)
            theirs = to_array(read_image(next((data / f"sr/set5/LR_bicubic/X{scale}").glob(f"{path.stem}*")))).astype(
                int
            )
            differing += int((ours != theirs).sum())
            total += ours.size
        print(f"x{scale}: {differing} of {total:,} samples differ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("upscalers", nargs="*")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--tiled", action="store_true")
    parser.add_argument("--resize", action="store_true")
    arguments = parser.parse_args()
    data = Path(os.environ["HATDET_DATA"])
    if arguments.resize:
        resize(data)
    elif arguments.tiled:
        tiled(arguments.upscalers[0], data, arguments.scale)
    else:
        benchmark(arguments.upscalers, data, arguments.scale)


if __name__ == "__main__":
    main()
