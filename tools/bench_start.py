"""Time from starting `hatdet detect --upscale` to its first box, against an earlier state of this repository.

    python tools/bench_start.py 32902d4            # a commit, a branch or a tag
    python tools/bench_start.py 32902d4 --runs 9

Both run on the sample photos in fresh processes that take turns, so that a busy moment of the machine hits both; the
medians are compared. The earlier state is checked out into a temporary folder and needs the same packages as this one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def seconds_to_first_line(command: list[str], environment: dict[str, str]) -> float:
    """From the start of a command to the first line that it prints, which is a result; it is then left to end.

    Raises:
        RuntimeError: it ended without a line, or with an error.
    """
    started = time.perf_counter()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        took = time.perf_counter() - started
        process.stdout.read()
    if process.returncode or not line:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {process.returncode} and said {line!r}")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="what to compare with")
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder, "before")
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(before), arguments.revision], check=True)
        try:
            times = compare({"before": before, "now": ROOT}, Path(folder), arguments.runs)
        finally:
            subprocess.run([*git, "remove", "--force", str(before)], check=True)
    print(f"hatdet detect --upscale, from its start to the first box; median of {arguments.runs}, taking turns")
    for name, seconds in times.items():
        print(f"{name:8} {statistics.median(seconds):.2f} s   ({min(seconds):.2f} to {max(seconds):.2f})")
    ratio = statistics.median(now / earlier for earlier, now in zip(times["before"], times["now"], strict=True))
    print(f"ratio    {ratio:.2f}")


def compare(roots: dict[str, Path], folder: Path, runs: int) -> dict[str, list[float]]:
    """Seconds of each run, by the name of the state; the first run of each is not counted."""
    times: dict[str, list[float]] = {name: [] for name in roots}
    for _ in range(runs + 1):
        for name, root in roots.items():
            command = [
                sys.executable,
                "-m",
                "hatdet",
                "detect",
                "--upscale",
                "-o",
                str(folder / name),
                "--device",
                "cpu",
            ]
            environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1"}
            times[name].append(seconds_to_first_line(command, environment))
    return {name: seconds[1:] for name, seconds in times.items()}


if __name__ == "__main__":
    main()
