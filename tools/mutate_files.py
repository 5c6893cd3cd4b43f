"""Damaged files of every format over the readers: no crash, no hang, no error but one line that names the file.

    python tools/mutate_files.py --count 100000
    python tools/mutate_files.py --only 4711 --keep .       # one of them again, and the file itself
    python tools/mutate_files.py mine.tif more/*.jp2        # with files of your own among those that are damaged

Files of every suffix that `hatdet.imaging.files` reads are made in the modes and compressions that Pillow, OpenCV and
tifffile write, and each case damages one of them: bits, bytes, numbers at their limits, pieces cut out, put in,
doubled, exchanged with another file's, the end cut off. Case N is the same everywhere for one set of files. The readers
run in a process of their own, which is watched: where it dies, or computes for longer than `--timeout` (or is silent 12
times as long), the case is counted and kept, and another process goes on behind it.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import selectors
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import psutil

MODES = ("RGB", "L", "RGBA", "LA", "P", "1", "CMYK", "I;16")
TIFF_COMPRESSIONS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
MEMORY = 8 * 2**30  # address space of the reading process, in bytes
START = 120  # seconds until its first file
NUMBERS = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x80\0\0\0",
    b"\0\1",
    b"\xff\xff",
)
OUTCOMES = ("read", "refused", "out of memory")  # anything else is a fault of hatdet


def whole_files() -> dict[str, bytes]:
    """Small files, by a name that ends with their suffix. Every suffix that is read has some.

    Raises:
        RuntimeError: no library here writes files of a suffix that hatdet reads.
    """
    from hatdet.imaging.files import IMAGE_SUFFIXES

    PIL.Image.init()
    array = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    array[8:] = array[8:9]  # something to compress
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    made: dict[str, bytes] = {}
    for suffix in sorted(IMAGE_SUFFIXES):
        form = PIL.Image.EXTENSION.get(suffix, "")
        before = len(made)
        variants = [{"compression": kind} for kind in TIFF_COMPRESSIONS] if form == "TIFF" else [{}]
        variants += [{"progressive": True}] if form == "JPEG" else []
        for mode in MODES if form in PIL.Image.SAVE else ():
            for number, options in enumerate(variants):
                buffer = io.BytesIO()
                try:
                    _in_mode(array, mode).save(buffer, form, exif=exif, **options)
                except (OSError, ValueError, KeyError):  # not in this format
                    continue
                made[f"{mode.replace(';', '')}-{number}{suffix}"] = buffer.getvalue()
        if suffix in (".png", ".tif"):
            done, encoded = cv2.imencode(suffix, array.astype(np.uint16) * 257)
            assert done
            made[f"deep{suffix}"] = encoded.tobytes()
        if len(made) == before:
            raise RuntimeError(f"nothing here writes {suffix} files, which hatdet reads: give some on the command line")
    return made | _from_tifffile(array)


def _in_mode(array: np.ndarray, mode: str) -> PIL.Image.Image:
    if mode == "I;16":
        return PIL.Image.fromarray(array[..., 0].astype(np.uint16) * 257)
    return PIL.Image.fromarray(array).convert(mode)


def _from_tifffile(array: np.ndarray) -> dict[str, bytes]:
    """TIFF files as satellites' images are, tiled, planar, BigTIFF, with a place on the map; where tifffile is."""
    try:
        import tifffile
    except ImportError:
        return {}
    place = [
        (33550, "d", 3, (0.5, 0.5, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, 500000.0, 4600000.0, 0.0), True),
        (34735, "H", 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632), True),
    ]
    deep = np.tile(array.astype(np.uint16) * 257, (2, 2, 1))
    made = {}
    for name, pixels, options in (
        ("tiled", deep, {"tile": (16, 32), "extratags": place}),
        ("big", array, {"tile": (16, 16), "bigtiff": True, "extratags": place}),
        ("planar", np.moveaxis(deep, 2, 0), {"planarconfig": "separate"}),
        ("bands", np.dstack([deep, deep[..., 0]]), {"extratags": place, "photometric": "rgb"}),
        ("grey", deep[..., 0], {"tile": (16, 16), "compression": "zlib"}),
    ):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, pixels, **{"photometric": "rgb" if pixels.ndim == 3 else "minisblack", **options})
        made[f"{name}.tif"] = buffer.getvalue()
    return made


def mutated(data: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """The file with one to four damages; half of them in its first 200 bytes, where the headers are."""
    content = bytearray(data)
    for _ in range(random.integers(1, 5)):
        size = max(1, len(content))
        at = int(random.integers(0, min(size, 200) if random.random() < 0.5 else size))
        length = int(random.integers(1, max(2, size // 4)))
        kind = int(random.integers(0, 9))
        if kind == 0 and content:
            content[at] ^= 1 << int(random.integers(0, 8))
        elif kind == 1:
            content[at : at + length] = random.bytes(min(length, 16))
        elif kind == 2:
            number = NUMBERS[int(random.integers(0, len(NUMBERS)))]
            content[at : at + len(number)] = number
        elif kind == 3:
            del content[at : at + length]
        elif kind == 4:
            content[at:at] = random.bytes(min(length, 64))
        elif kind == 5:
            content[at:at] = content[at : at + length]
        elif kind == 6:
            content[at:] = other[at:]
        elif kind == 7:
            del content[at:]
        else:
            content[at : at + length] = bytes(len(content[at : at + length]))
    return bytes(content)


def case(number: int, seed: int, files: dict[str, bytes]) -> tuple[str, bytes]:
    """The name and the content of one damaged file."""
    random = np.random.default_rng([seed, number])
    suffixes = sorted({Path(name).suffix for name in files})
    suffix = suffixes[int(random.integers(0, len(suffixes)))]  # one as often as another, however many files it has
    names = sorted(name for name in files if name.endswith(suffix))
    name, other = (names[int(random.integers(0, len(names)))] for _ in range(2))
    content = files[name]
    while content == files[name]:  # zeros may have become zeros
        content = mutated(files[name], files[other], random)
    return name, content


def outcome(path: Path, max_pixels: int) -> str:
    """What reading a file came to: one of `OUTCOMES`, or what should not have happened."""
    from hatdet.core.errors import InputError
    from hatdet.imaging.files import read_image

    try:
        image = read_image(path, max_pixels)
    except InputError as error:
        text = str(error)
        return "refused" if path.name in text and "\n" not in text else f"not one line with the name: {text!r}"
    except MemoryError:
        return "out of memory"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    low, high = image.pixels.aminmax()
    if image.width * image.height > max_pixels or not 0 <= low <= high <= 1:  # NaN is neither
        return f"an image that cannot be: {tuple(image.pixels.shape)}, {low} to {high}"
    return "read"


@dataclass
class Report:
    """How it went: how often each outcome, and the cases that were faults."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[int, str, str]] = field(default_factory=list)  # number, file, what happened

    def add(self, number: int, name: str, what: str) -> None:
        kind = what if what in OUTCOMES else what.partition(":")[0]
        self.counts[kind] += 1
        if what not in OUTCOMES:
            self.faults.append((number, name, what))


def run(files: dict[str, bytes], numbers: range, seed: int, max_pixels: int, timeout: float) -> Report:
    """All cases of a range, in processes that are watched."""
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        left = numbers
        while left:
            command = [sys.executable, __file__, "--reader", folder, "--seed", str(seed)]
            command += ["--max-pixels", str(max_pixels), "--from", str(left.start), "--to", str(left.stop)]
            left = range(_watch(command, left.start, timeout, report, files, seed), left.stop)
    return report


def _watch(command: list[str], number: int, timeout: float, report: Report, files: dict[str, bytes], seed: int) -> int:
    """Count what a reading process says, until it is through or has to be given up; the next case."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment()) as process:
        for line in _lines(process, timeout):
            if line is None:
                process.kill()
                report.add(number, case(number, seed, files)[0], f"hang over {timeout:g} s")
                return number + 1
            said, _, what = line.partition(" ")
            report.add(int(said), case(int(said), seed, files)[0] if what not in OUTCOMES else "", what)
            number = int(said) + 1
    if process.returncode:
        report.add(number, case(number, seed, files)[0], f"crash with code {process.returncode}")
        return number + 1
    return number


def _lines(process: subprocess.Popen[bytes], timeout: float) -> Iterator[str | None]:
    """What a process says of its files, line by line; None where one takes it longer than that."""
    assert process.stdout is not None
    rest, began = b"", False
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not _speaks(process, selector, timeout if began else START):
                yield None
                return
            read = os.read(process.stdout.fileno(), 65536)
            if not read:
                return
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                if not began:
                    began = True
                elif line == b"ends":
                    return
                else:
                    yield line.decode()


def _speaks(process: subprocess.Popen[bytes], selector: selectors.BaseSelector, seconds: float) -> bool:
    """Whether there is something to read, or the end, before the process has computed for so many seconds.

    On a busy machine it may hardly get to compute: by the clock it has 12 times as long.
    """
    computed = _computed(process)
    for _ in range(12):
        if selector.select(seconds):
            return True
        if _computed(process) - computed > seconds:
            return False
    return False


def _computed(process: subprocess.Popen[bytes]) -> float:
    try:
        times = psutil.Process(process.pid).cpu_times()
    except psutil.Error:  # it is gone, and the end can be read
        return 0.0
    return float(times.user + times.system)


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))}


def _read_all(folder: Path, numbers: range, seed: int, max_pixels: int) -> None:
    """The reading process: says the number and the outcome of each case."""
    import hatdet.imaging.files  # noqa: F401 (before the clock runs)

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with tempfile.TemporaryDirectory() as place:
        print("begins", flush=True)
        for number in numbers:
            name, content = case(number, seed, files)
            path = Path(place) / name
            path.write_bytes(content)
            print(number, outcome(path, max_pixels), flush=True)
        print("ends", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="more files to damage")
    parser.add_argument("--count", type=int, default=100_000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-pixels", type=int, default=2**24, help="as of hatdet (default here: %(default)s)")
    parser.add_argument("--timeout", type=float, default=5, help="seconds for one file (default: %(default)s)")
    parser.add_argument("--only", type=int, help="this case alone")
    parser.add_argument("--keep", type=Path, default=Path("mutated"), help="folder for files that were faults")
    parser.add_argument("--reader", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--from", type=int, dest="first", help=argparse.SUPPRESS)
    parser.add_argument("--to", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.reader is not None:
        _read_all(given.reader, range(given.first, given.to), given.seed, given.max_pixels)
        return 0
    files = whole_files() | {path.name: path.read_bytes() for path in given.files}
    numbers = range(given.count) if given.only is None else range(given.only, given.only + 1)
    report = run(files, numbers, given.seed, given.max_pixels, given.timeout)
    kept = numbers if given.only is not None else [number for number, _, _ in report.faults]
    for number in kept:
        name, content = case(number, given.seed, files)
        given.keep.mkdir(parents=True, exist_ok=True)
        (given.keep / f"{number}-{name}").write_bytes(content)
    for number, name, what in report.faults:
        print(f"case {number} ({name}): {what}")
    print(summary(files, report, given.timeout))
    return 1 if report.faults else 0


def summary(files: dict[str, bytes], report: Report, timeout: float) -> str:
    """One line: how many, of what, and what came of them."""
    suffixes = Counter(Path(name).suffix for name in files)
    of = ", ".join(f"{count} {suffix}" for suffix, count in sorted(suffixes.items()))
    counts = report.counts
    said = [f"{counts['read']:,} read", f"{counts['refused']:,} refused in one line"]
    said += [f"{counts['out of memory']:,} beyond {MEMORY >> 30} GiB"] if counts["out of memory"] else []
    kinds = {"crashes": "crash", f"hangs over {timeout:g} s": "hang", "tracebacks": "traceback"}
    said += [
        f"{sum(n for kind, n in counts.items() if kind.startswith(start))} {word}" for word, start in kinds.items()
    ]
    others = sum(n for kind, n in counts.items() if kind.startswith(("not one line", "an image that cannot")))
    said += [f"{others} other faults"] if others else []
    return f"{sum(counts.values()):,} mutated files from {len(files)} ({of}): {', '.join(said)}"


if __name__ == "__main__":
    sys.exit(main())
