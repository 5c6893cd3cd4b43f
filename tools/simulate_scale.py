"""A run of a million images on a cluster that nobody has here, from rates that were measured on one node.

    python tools/simulate_scale.py                                             # the table of docs/scale.md
    python tools/simulate_scale.py --rate 40 --workers 8 64 512 --price 2.5    # your own rates and prices

An event for each batch and each lost worker: workers take batches of up to 8 images in turn; an image takes a time that
varies by --spread (lognormal) around 1 / --rate; now and then a worker is a straggler (--stragglers of them, --slow
times as slow); one is lost after an exponential time of mean --mtbf hours, its batch is done again, one image after the
other, and another worker is there after --start seconds. The object store answers at most --requests reads and writes
a second, and the process that hands out the batches takes 1 / --driver for an image. Everything else is free.
"""

from __future__ import annotations

import argparse
import heapq
import sys
from dataclasses import dataclass

import numpy as np

BATCH, AHEAD, EACH = 8, 2, 4  # hatdet.deploy.fleet's
REQUESTS = 3  # of an image: it is fetched, its result is put and looked at


@dataclass(frozen=True)
class Cluster:
    """What a run is simulated with.

    Attributes:
        images: how many.
        rate: images a second of one worker.
        spread: standard deviation of the logarithm of an image's time.
        stragglers, slow: share of the workers that are `slow` times as slow.
        mtbf: mean hours until a worker is lost.
        start: seconds until one works.
        driver: images a second that can be handed out.
        requests: a second, of the object store.
        price: of a worker's hour.
    """

    images: int
    rate: float
    spread: float
    stragglers: float
    slow: float
    mtbf: float
    start: float
    driver: float
    requests: float
    price: float


@dataclass(frozen=True)
class Run:
    """What came of it.

    Attributes:
        hours: until the last image.
        busy: share of the workers' time in which they computed what was kept.
        lost: workers, and images that were computed again.
        tail: minutes from when the first worker had nothing left to do.
        limit: what the run waited for: workers, driver or store.
        cost: of all workers until the end.
    """

    hours: float
    busy: float
    lost: tuple[int, int]
    tail: float
    limit: str
    cost: float


def simulate(cluster: Cluster, workers: int, seed: int = 0) -> Run:
    """One run."""
    random = np.random.default_rng(seed)
    batch = max(1, min(BATCH, cluster.images // (workers * EACH)))
    speed = np.where(random.random(workers) < cluster.stragglers, 1 / cluster.slow, 1.0) * cluster.rate
    mean = np.exp(-(cluster.spread**2) / 2)
    lives = cluster.start + random.exponential(cluster.mtbf * 3600, workers)
    left, lost, again, first_idle = cluster.images, 0, 0, None
    driver = store = 0.0  # there is one of each: until when it is busy
    computed = waited_driver = waited_store = 0.0
    # What happens when: a worker takes a batch, or is through with one (of so many images).
    events = [(cluster.start, worker, 0) for worker in range(workers)]
    heapq.heapify(events)
    while events:
        now, worker, through = heapq.heappop(events)
        if through:
            told = max(now, driver) + through / cluster.driver
            waited_driver += max(0.0, driver - now)
            driver = told
            # AHEAD batches wait at each worker, which so waits for the driver only where that is far behind.
            heapq.heappush(events, (max(now, told - AHEAD * through / speed[worker]), worker, 0))
            continue
        if not left:
            first_idle = now if first_idle is None else first_idle
            continue
        count = min(batch, left)
        took = float(random.lognormal(0, cluster.spread, count).sum() * mean) / speed[worker]
        fetched = max(now, store) + count * REQUESTS / cluster.requests
        waited_store += max(0.0, store - now)
        store = fetched
        if fetched + took > lives[worker]:  # lost with its batch, which is done again
            lost, again = lost + 1, again + count
            back = max(now, lives[worker]) + cluster.start
            lives[worker] = back + random.exponential(cluster.mtbf * 3600)
            heapq.heappush(events, (back, worker, 0))
            continue
        left -= count
        computed += took
        heapq.heappush(events, (fetched + took, worker, count))
    total = workers * driver
    waits = {"the object store": waited_store, "the driver": waited_driver}
    limit = max(waits, key=lambda name: waits[name])
    return Run(
        driver / 3600,
        computed / total,
        (lost, again),
        (driver - (first_idle or driver)) / 60,
        limit if waits[limit] > 0.1 * total else "workers",
        total / 3600 * cluster.price,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64, 512, 4096])
    parser.add_argument("--rate", type=float, required=True, help="images a second of one worker: tools/bench_ray.py")
    parser.add_argument("--driver", type=float, required=True, help="images a second: tools/bench_ray.py --driver")
    parser.add_argument("--spread", type=float, default=0.5)
    parser.add_argument("--stragglers", type=float, default=0.02)
    parser.add_argument("--slow", type=float, default=3.0)
    parser.add_argument("--mtbf", type=float, default=24.0)
    parser.add_argument("--start", type=float, default=60.0)
    parser.add_argument("--requests", type=float, default=3500.0)
    parser.add_argument("--price", type=float, default=0.05)
    given = vars(parser.parse_args())
    sizes = given.pop("workers")
    cluster = Cluster(**given)
    print("| workers | hours | images a second | computing | lost: workers, images | tail, min | waits for | cost |")
    print("|--:|--:|--:|--:|--:|--:|---|--:|")
    for workers in sizes:
        run = simulate(cluster, workers)
        print(
            f"| {workers:,} | {run.hours:.2f} | {cluster.images / run.hours / 3600:,.1f} | {100 * run.busy:.0f} % "
            f"| {run.lost[0]:,}, {run.lost[1]:,} | {run.tail:.1f} | {run.limit} | {run.cost:,.0f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
