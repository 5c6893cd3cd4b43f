"""What a Ray cluster costs and brings on this machine, beside the plain command, and what it loses when workers die.

    python tools/bench_ray.py             # 500 small images: the plain command, one worker, two, 10 kills
    python tools/bench_ray.py --side 96 --rounds 1 --kills 0    # of images that are not quite as small
    python tools/bench_ray.py --driver    # how many images a second the process that hands them out can keep up with

Every command has one thread a worker, and the network is HAT-XS. Commands take turns, --rounds times, since a machine
is not always equally fast; numbers are means. Seconds are those of the whole command, start and all; `a second` is
the rate between two sizes of the same work, in which the start is not. Two plain commands at once, with half of the
images each, are what two cores allow. With --kills the workers of a run are killed (SIGKILL) one by one while it
works; afterwards its results are counted, and its boxes compared with the plain command's. Exit code 1 if anything is
missing, twice or different.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from hatdet.deploy.fleet import Outcome

IOU, CONFIDENCE = 0.999, 1e-4
HALVES = "two plain commands"
ACTOR = "MapWorker"  # in the names of Ray Data's workers


def write_images(folder: Path, count: int, side: int = 64) -> None:
    """Parts of the sample photos, reduced four times, of so many pixels each way: cars, people, a bus."""
    from hatdet.core.types import Image
    from hatdet.imaging.files import read_image, write_image
    from hatdet.imaging.resize import reduced
    from hatdet.imaging.sample_photos import sample_photos

    photos = [reduced(read_image(path), 4).pixels for path in sample_photos()]
    random = np.random.default_rng(0)
    for number in range(count):
        photo = photos[number % len(photos)]
        y, x = (int(random.integers(whole - side)) for whole in photo.shape[1:])
        write_image(Image(photo[:, y : y + side, x : x + side].contiguous()), folder / f"{number:04d}.png")


@dataclass(frozen=True)
class Timed:
    """A command that was run.

    Attributes:
        seconds: of all of it.
        killed: workers that were killed meanwhile.
    """

    seconds: float
    killed: int = 0


def started(images: Path, out: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """`hatdet detect --upscale` with one thread for each worker."""
    command = [sys.executable, "-m", "hatdet", "detect", "--upscale", str(images), "-o", str(out), "--quiet"]
    return subprocess.Popen([*command, "--json", f"{out}.json", *arguments], env={**os.environ, "OMP_NUM_THREADS": "1"})


def run(images: Path, out: Path, *arguments: str, kills: int = 0) -> Timed:
    """The command with all images."""
    began = time.perf_counter()
    process = started(images, out, *arguments)
    killed = [0]
    if kills:
        threading.Thread(target=kill_workers, args=(process, out, kills, len(list(images.iterdir())), killed)).start()
    if process.wait():
        raise SystemExit(f"hatdet detect {' '.join(arguments)} ended with exit code {process.returncode}")
    return Timed(time.perf_counter() - began, killed[0])


def run_halves(images: Path, out: Path) -> float:
    """Two plain commands at once, each with half of the images: what two cores allow. Returns seconds."""
    halves = [out / "first", out / "second"]
    for number, image in enumerate(sorted(images.iterdir())):
        (halves[number % 2] / "in").mkdir(parents=True, exist_ok=True)
        shutil.copy(image, halves[number % 2] / "in")
    began = time.perf_counter()
    processes = [started(half / "in", half / "out", "--device", "cpu") for half in halves]
    if [process.wait() for process in processes] != [0, 0]:
        raise SystemExit("one of two commands at once failed")
    return time.perf_counter() - began


def kill_workers(process: subprocess.Popen[bytes], out: Path, kills: int, images: int, killed: list[int]) -> None:
    """Kill one worker after each eleventh of the images, say, while others go on."""
    for number in range(kills):
        while len(list(out.glob("*.png"))) < (number + 1) * images // (kills + 1):
            if process.poll() is not None:
                return
            time.sleep(0.05)
        workers = list(workers_of(process.pid))
        if workers:
            workers[number % len(workers)].kill()
            killed[0] += 1


def workers_of(pid: int) -> Iterator[psutil.Process]:
    """The workers of the cluster that a command started."""
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if ACTOR in " ".join(child.cmdline()):
                yield child
        except psutil.Error:
            continue


def differences(one: Path, other: Path) -> list[str]:
    """What is not the same in two runs' boxes."""
    from hatdet.evaluation.boxes import overlaps

    found = []
    images = [
        {image["source"]: image for image in json.loads(Path(f"{run}.json").read_text())["images"]}
        for run in (one, other)
    ]
    if images[0].keys() != images[1].keys():
        found.append(f"other images: {sorted(images[0].keys() ^ images[1].keys())}")
    for source in images[0].keys() & images[1].keys():
        a, b = (image[source]["detections"] for image in images)
        if [box["class_id"] for box in a] != [box["class_id"] for box in b]:
            found.append(f"{source}: other classes")
        elif a:
            boxes = [np.array([box["xyxy"] for box in side], np.float64) for side in (a, b)]
            same = overlaps(*boxes, np.zeros(len(b), bool)).diagonal()
            apart = max(abs(p["confidence"] - q["confidence"]) for p, q in zip(a, b, strict=True))
            if same.min() < IOU or apart > CONFIDENCE:
                found.append(f"{source}: IoU {same.min():.5f}, confidence {apart:.1e} apart")
    return found


def counted(out: Path, images: int) -> list[str]:
    """What is missing or twice in the results of a run."""
    import pyarrow.parquet as pq

    from hatdet.runs.parts import FOLDER as PARTS

    rows = Counter(pq.read_table(out / PARTS)["result"].to_pylist())
    pictures = {path.name for path in out.glob("*.png")}
    found = [f"{name} is there {times} times" for name, times in rows.items() if times > 1]
    if not len(rows) == len(pictures) == images:
        found.append(f"{images} images, {len(pictures)} pictures, {len(rows)} rows")
    return found


@dataclass(frozen=True)
class Nothing:
    """Work that takes no time."""

    def begin(self, device: str) -> Callable[[Sequence[int]], list[Outcome]]:
        return lambda items: [Outcome({"detections": [{"xyxy": [0, 0, 1, 1]}] * 20})] * len(items)


def driver_rate(items: int) -> float:
    """Images a second that can be handed out and put into the table when workers take no time for them."""
    from hatdet.deploy.cluster import RayCluster
    from hatdet.runs.parts import LocalFolder, Parts

    box = {"xyxy": [0.0, 0.0, 1.0, 1.0], "confidence": 0.5, "class_id": 0, "class_name": "car"}
    cluster = RayCluster("local", workers=2)
    with tempfile.TemporaryDirectory() as name, cluster.joined():
        out = Path(name)
        result = out / "a.png"
        result.write_bytes(b"")
        with Parts(LocalFolder(out), out, {}) as parts:
            started = 0.0
            for number, (_, finish) in enumerate(cluster.over(Nothing(), list(range(items)))):
                if number == items // 10:  # the workers have begun
                    started = time.perf_counter()
                finish()
                parts.put(
                    result, "", out / f"{number}.png", report={"detections": [box] * 20}, states={f"{number}.png": ""}
                )
            return (items - items // 10) / (time.perf_counter() - started)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--side", type=int, default=64, help="pixels")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--driver", action="store_true")
    parser.add_argument("--items", type=int, default=40_000, help="of --driver")
    given = parser.parse_args()
    if given.driver:
        print(
            f"{driver_rate(given.items):.0f} images a second, of 20 boxes each, of {given.items:,} that are handed out"
        )
        return 0
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        few = max(8, given.images // 10)
        for folder, count in (("few", few), ("all", given.images)):
            write_images(work / folder, count, given.side)
        ways = {
            "the plain command": ["--device", "cpu"],
            "Ray, one worker": ["--ray=local", "--ray-workers", "1"],
            "Ray, two workers": ["--ray=local", "--ray-workers", "2"],
        }
        some, whole = ({**dict.fromkeys(ways, 0.0), HALVES: 0.0} for _ in range(2))  # seconds, of all rounds
        print(
            f"{given.images} images of {given.side}x{given.side}, one thread a worker, {given.rounds} rounds",
            flush=True,
        )
        for _ in range(given.rounds):
            for number, (way, arguments) in enumerate(ways.items()):
                for folder, took in (("few", some), ("all", whole)):
                    out = work / f"{folder}{number}"
                    shutil.rmtree(out, ignore_errors=True)
                    took[way] += run(work / folder, out, *arguments).seconds
                wrong += differences(work / "all0", work / f"all{number}")
            for folder, took in (("few", some), ("all", whole)):
                out = work / f"{folder}-halves"
                shutil.rmtree(out, ignore_errors=True)
                took[HALVES] += run_halves(work / folder, out)
        seconds = {way: took / given.rounds for way, took in whole.items()}
        rates = {way: (given.images - few) * given.rounds / (whole[way] - some[way]) for way in whole}
        for way in whole:
            print(f"{way:22s} {seconds[way]:7.1f} s   {rates[way]:6.2f} images a second", flush=True)
        plain, one, two = ways
        print(f"one worker beside the plain command: {100 * (seconds[one] / seconds[plain] - 1):+.1f} % of the time")
        print(
            f"two workers beside one: {seconds[one] / seconds[two]:.2f} x with the start, "
            f"{rates[two] / rates[one]:.2f} x without it; "
            f"two plain commands beside one: {seconds[plain] / seconds[HALVES]:.2f} and "
            f"{rates[HALVES] / rates[plain]:.2f} x"
        )
        if given.kills:
            killed = run(work / "all", work / "killed", *ways[two], kills=given.kills)
            wrong += counted(work / "killed", given.images) + differences(work / "all0", work / "killed")
            if killed.killed != given.kills:
                wrong.append(f"{killed.killed} workers were killed, not {given.kills}")
            print(f"{killed.killed} workers killed: {given.images} images in {killed.seconds:.1f} s", flush=True)
    for line in wrong:
        print(f"WRONG: {line}")
    if not wrong:
        print("no image is missing, none is there twice, and all boxes are those of the plain command")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
