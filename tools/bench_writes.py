"""What it costs to bring files to the disk before they get their names: one line.

python tools/bench_writes.py --size 20000 --count 300 --folder .
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from hatdet.core.atomic import write_bytes


def milliseconds(folder: Path, content: bytes, count: int) -> float:
    """Of one file, on average, in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        start = time.perf_counter()
        for number in range(count):
            write_bytes(Path(place) / f"{number}.bin", content)
        return (time.perf_counter() - start) / count * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=20_000, help="bytes of a file (default: %(default)s)")
    parser.add_argument("--count", type=int, default=300, help="files (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk in question")
    given = parser.parse_args()
    content = os.urandom(given.size)
    rounds: list[tuple[float, float]] = []
    real = os.fsync
    for _ in range(3):  # in turns, and the best of each: others may use the disk
        brought = milliseconds(given.folder, content, given.count)
        os.fsync = lambda _: None
        rounds.append((brought, milliseconds(given.folder, content, given.count)))
        os.fsync = real
    brought, left = (min(column) for column in zip(*rounds, strict=True))
    print(f"{brought:.2f} ms a file of {given.size:,} bytes, {left:.2f} ms without fsync ({given.count} files)")


if __name__ == "__main__":
    main()
