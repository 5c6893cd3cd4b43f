"""What can happen in each stage of a run over images, and that the run ends as promised.

One row a fault: it befalls the third of five images, and then no more. The promise is the same for all: exit code 1,
one line that names the image, the results of the others whole and equal to those of an undisturbed run, nothing of
the third under its name, no temporary file, a manifest that knows the four; and a second run that makes the third alone
and leaves a folder like that of an undisturbed run.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFile
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from hatdet.cli.app import app
from hatdet.detection.yolo import YoloDetector
from hatdet.imaging.files import read_image
from hatdet.runs import manifest
from hatdet.sr.hat_arch import HAT
from tests.helpers import TINY, FixedBoxes, tiny_hat

MARK = (255, 0, 255)  # the first pixel of the third image
NAMES = [f"{number}.png" for number in range(5)]
BAD = "2.png"
RUNS = {
    "sr": "sr in -o out --upscaler tiny.safetensors --scale 2 --device cpu",
    "detect": "detect in -o out --upscale --upscaler tiny.safetensors --scale 2 --device cpu --save-txt --save-sr",
}


def hatdet(command: str) -> Result:
    result = CliRunner().invoke(app, command.split())
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


class Boxes(FixedBoxes):
    """A detector that goes wrong with the image that has the mark, in `how`."""

    def __init__(self, how: Callable[[torch.Tensor], torch.Tensor] | None = None) -> None:
        super().__init__([[4, 4, 20, 18, 0.9, 0]])
        self.how = how

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        rows = super().forward(batch)
        return rows if self.how is None or not self.marked(batch) else self.how(rows)

    @staticmethod
    def marked(batch: torch.Tensor) -> bool:
        return bool(batch.shape[-1] > 64)  # the third image is wider than a stride


def prepare(folder: Path) -> None:
    """Five images and a network in a folder."""
    (folder / "in").mkdir()
    for number, name in enumerate(NAMES):
        width = 40 if name == BAD else 12 + number
        array = np.random.default_rng(number).integers(0, 256, (10, width, 3), np.uint8)
        array[0, 0] = MARK if name == BAD else 0
        PIL.Image.fromarray(array).save(folder / "in" / name)
    options = {**TINY, "upscale": 2}
    save_file(tiny_hat().state_dict(), folder / "tiny.safetensors", metadata={"network_g": json.dumps(options)})


def results(folder: Path) -> dict[str, bytes]:
    """Everything in the folder of results but the manifest."""
    found = [path for path in folder.rglob("*") if path.is_file() and ".hatdet" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """The results of each verb when nothing happens."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hatdet.detection.yolo.load_detector", lambda *_, **__: YoloDetector(Boxes(), "fixed"))
        for verb, command in RUNS.items():
            folder = tmp_path_factory.mktemp(verb)
            prepare(folder)
            patch.chdir(folder)
            assert hatdet(command).exit_code == 0
            found[verb] = results(folder / "out")
    return found


# ------------------------------------------------------------------------- what happens to the third image's file


def source(change: Callable[[Path], None]) -> Callable[[pytest.MonkeyPatch], None]:
    """Something is wrong with the file; taking it back restores the file, its time too."""

    def inject(patch: pytest.MonkeyPatch) -> None:
        path = Path("in", BAD)
        shutil.copy2(path, "kept.png")
        path.unlink()
        change(path)

    return inject


def bomb(path: Path) -> None:
    """A few bytes that claim three billion pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 60_000, 50_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))


def changed_byte(path: Path) -> None:
    data = bytearray(Path("kept.png").read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


# ------------------------------------------------------------------------- what the system says no to


def reading(error: BaseException) -> Callable[[pytest.MonkeyPatch], None]:
    def inject(patch: pytest.MonkeyPatch) -> None:
        real = Path.read_bytes

        def read(self: Path) -> bytes:
            if self.name == BAD and self.parent.name == "in":
                raise error
            return real(self)

        patch.setattr(Path, "read_bytes", read)

    return inject


def decoding(error: BaseException) -> Callable[[pytest.MonkeyPatch], None]:
    def inject(patch: pytest.MonkeyPatch) -> None:
        real = PIL.ImageFile.ImageFile.load

        def load(self: PIL.ImageFile.ImageFile) -> object:
            if self.size[0] == 40:
                raise error
            return real(self)

        patch.setattr(PIL.ImageFile.ImageFile, "load", load)

    return inject


def upscaling(what: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[pytest.MonkeyPatch], None]:
    def inject(patch: pytest.MonkeyPatch) -> None:
        real = HAT.forward

        def forward(self: HAT, x: torch.Tensor) -> torch.Tensor:
            out = real(self, x)
            return what(out) if x[0, :, 0, 0].tolist() == [1, 0, 1] else out

        patch.setattr(HAT, "forward", forward)

    return inject


def detecting(what: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[pytest.MonkeyPatch], None]:
    def inject(patch: pytest.MonkeyPatch) -> None:
        patch.setattr("hatdet.detection.yolo.load_detector", lambda *_, **__: YoloDetector(Boxes(what), "fixed"))

    return inject


def drawing(error: BaseException) -> Callable[[pytest.MonkeyPatch], None]:
    def inject(patch: pytest.MonkeyPatch) -> None:
        real = PIL.ImageDraw.Draw

        def draw(picture: PIL.Image.Image, *rest: object) -> object:
            if picture.getpixel((0, 0)) == MARK:
                raise error
            return real(picture, *rest)

        patch.setattr(PIL.ImageDraw, "Draw", draw)

    return inject


def writing(step: str, error: BaseException) -> Callable[[pytest.MonkeyPatch], None]:
    """The error comes in a step of writing the third image's picture; what else is written of it is written."""

    def inject(patch: pytest.MonkeyPatch) -> None:
        opened, replaced, synced = Path.open, Path.replace, os.fsync

        def is_its(path: Path) -> bool:
            return path.name.startswith(f".{BAD}") and path.parent.name == "out"

        def open_(self: Path, *rest: object, **named: object) -> object:
            if step == "open" and is_its(self):
                raise error
            return opened(self, *rest, **named)  # type: ignore[call-overload]

        def sync(number: int) -> None:
            if step == "sync" and is_its(Path(f"/proc/self/fd/{number}").readlink()):
                raise error
            synced(number)

        def replace(self: Path, target: Path) -> Path:
            if step == "rename" and is_its(self):
                raise error
            return replaced(self, target)

        patch.setattr(Path, "open", open_)
        patch.setattr(os, "fsync", sync)
        patch.setattr(Path, "replace", replace)

    return inject


def putting(error: BaseException) -> Callable[[pytest.MonkeyPatch], None]:
    """SQLite's own errors, from the statement that puts the third image."""

    def inject(patch: pytest.MonkeyPatch) -> None:
        real = manifest.Manifest._open

        class Connection:
            def __init__(self, database: sqlite3.Connection) -> None:
                self.database = database

            def __enter__(self) -> object:
                return self.database.__enter__()

            def __exit__(self, *what: object) -> object:
                return self.database.__exit__(*what)  # type: ignore[arg-type]

            def execute(self, statement: str, values: tuple[str, ...]) -> object:
                if "INTO done" in statement and BAD in values[0]:
                    raise error
                return self.database.execute(statement, values)

        patch.setattr(manifest.Manifest, "_open", lambda self: Connection(real(self)))

    return inject


def raises(error: BaseException) -> Callable[[torch.Tensor], torch.Tensor]:
    def raised(_: torch.Tensor) -> torch.Tensor:
        raise error

    return raised


@dataclass(frozen=True)
class Row:
    """One fault.

    Attributes:
        stage: of the work on an image.
        what: happens, in words for the table of docs/reliability.md.
        inject: makes it happen.
        says: is in the line on stderr.
        verbs: in whose runs.
        leaves: results of the third image that are written before the fault, whole, by verb.
    """

    stage: str
    what: str
    inject: Callable[[pytest.MonkeyPatch], None]
    says: str
    verbs: tuple[str, ...] = ("sr",)
    leaves: tuple[str, ...] = ()


OUT_OF_MEMORY = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
FULL, FAILED, FORBIDDEN = OSError(28, "No space left on device"), OSError(5, "I/O error"), PermissionError(13, "denied")
DETECT, BOTH = ("detect",), ("sr", "detect")
BESIDE = ("labels/2.txt", "sr/2.png")
ROWS = [
    Row("read", "I/O error", reading(FAILED), "cannot be read: I/O error"),
    Row(
        "read", "an I/O error of a real file", source(lambda path: path.symlink_to("/proc/self/mem")), "cannot be read"
    ),
    Row("read", "no permission", reading(FORBIDDEN), "cannot be read: denied"),
    Row("read", "out of memory", reading(MemoryError()), "MemoryError"),
    Row(
        "read", "a link that leads nowhere", source(lambda path: path.symlink_to("nowhere")), "cannot be read: No such"
    ),
    Row("read", "a link to itself", source(lambda path: path.symlink_to(BAD)), "cannot be read"),
    Row("read", "an empty file", source(lambda path: path.write_bytes(b"")), "is not an image: the file is empty"),
    Row(
        "decode",
        "a file cut off",
        source(lambda path: path.write_bytes(Path("kept.png").read_bytes()[:300])),
        "is damaged",
    ),
    Row("decode", "a changed byte", source(changed_byte), "is damaged"),
    Row("decode", "text", source(lambda path: path.write_text("no picture")), "is not an image that can be read"),
    Row("decode", "a decompression bomb", source(bomb), "has 60000x50000 pixels: at most"),
    Row("decode", "out of memory", decoding(MemoryError()), "MemoryError"),
    Row("upscale", "out of memory", upscaling(raises(OUT_OF_MEMORY)), "cpu has too little memory for tiny even with"),
    Row("upscale", "another error of the network", upscaling(raises(RuntimeError("shapes"))), "RuntimeError: shapes"),
    Row("upscale", "NaN", upscaling(lambda out: out * torch.nan), "tiny gives values that are not finite"),
    Row(
        "upscale", "one infinite value", upscaling(lambda out: out.index_fill(3, torch.tensor(0), torch.inf)), "finite"
    ),
    Row("detect", "out of memory", detecting(raises(OUT_OF_MEMORY)), "can't allocate memory", DETECT),
    Row("detect", "NaN", detecting(lambda rows: rows * torch.nan), "fixed gives values that are not finite", DETECT),
    Row("draw", "out of memory", drawing(MemoryError()), "MemoryError", DETECT),
    Row(
        "write",
        "disk full on opening",
        writing("open", FULL),
        "cannot be written: No space left",
        verbs=BOTH,
        leaves=BESIDE,
    ),
    Row(
        "write",
        "disk full on writing",
        writing("sync", FULL),
        "cannot be written: No space left",
        verbs=BOTH,
        leaves=BESIDE,
    ),
    Row(
        "write",
        "I/O error on writing",
        writing("sync", FAILED),
        "cannot be written: I/O error",
        verbs=BOTH,
        leaves=BESIDE,
    ),
    Row("write", "no permission", writing("open", FORBIDDEN), "cannot be written: denied", verbs=BOTH, leaves=BESIDE),
    Row(
        "write",
        "no permission to rename",
        writing("rename", FORBIDDEN),
        "cannot be written: denied",
        verbs=BOTH,
        leaves=BESIDE,
    ),
    Row(
        "manifest",
        "disk full",
        putting(sqlite3.OperationalError("database or disk is full")),
        "disk is full",
        verbs=BOTH,
        leaves=(BAD, *BESIDE),
    ),
    Row(
        "manifest",
        "I/O error",
        putting(sqlite3.OperationalError("disk I/O error")),
        "I/O error",
        verbs=BOTH,
        leaves=(BAD, *BESIDE),
    ),
]


def named(row: Row) -> str:
    return f"{row.stage}: {row.what}"


@pytest.mark.parametrize(
    ("verb", "row"),
    [pytest.param(verb, row, id=f"{verb} {named(row)}") for row in ROWS for verb in row.verbs],
)
def test_a_fault_ends_as_promised(verb, row, tmp_path, monkeypatch, undisturbed):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    monkeypatch.setattr("hatdet.detection.yolo.load_detector", lambda *_, **__: YoloDetector(Boxes(), "fixed"))
    with pytest.MonkeyPatch.context() as patch:
        row.inject(patch)
        run = hatdet(RUNS[verb])
    lines = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert run.exit_code == 1, run.stderr
    assert len(lines) == 1, run.stderr
    assert BAD in lines[0]
    assert row.says in lines[0]
    assert len(run.stdout.splitlines()) == 4
    expected = undisturbed[verb]
    left = {name for name in expected if Path(name).stem == "2"} & set(row.leaves)
    assert results(tmp_path / "out") == {
        name: content for name, content in expected.items() if Path(name).stem != "2" or name in left
    }

    kept = Path("kept.png")
    if kept.exists():
        Path("in", BAD).unlink()
        shutil.move(kept, Path("in", BAD))
    again = hatdet(RUNS[verb])
    assert again.exit_code == 0, again.stderr
    assert len(again.stdout.splitlines()) == 1
    assert again.stdout.startswith(f"in/{BAD}")
    assert results(tmp_path / "out") == expected


@pytest.mark.parametrize("error", [FULL, FORBIDDEN], ids=["disk full", "no permission"])
@pytest.mark.parametrize("verb", RUNS)
def test_a_run_that_can_write_nothing_does_nothing(verb, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    monkeypatch.setattr("hatdet.detection.yolo.load_detector", lambda *_, **__: YoloDetector(Boxes(), "fixed"))

    def refuse(number: int) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        run = hatdet(RUNS[verb])
    assert run.exit_code == 2
    assert [line[:6] for line in run.stderr.splitlines()] == ["error:"]
    assert results(tmp_path / "out") == {}


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:40],
        lambda data: b"rubbish" * 500,
        lambda data: data[:100] + bytes(len(data) - 100),
        lambda data: data.replace(b'"', b"'"),
    ],
    ids=["half of it", "its beginning", "another file", "zeros", "other texts in it"],
)
def test_a_damaged_manifest_is_one_line_or_no_loss(damage, tmp_path, monkeypatch, undisturbed):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    assert hatdet(RUNS["sr"]).exit_code == 0
    file = Path("out/.hatdet/manifest.sqlite")
    file.write_bytes(damage(file.read_bytes()))
    run = hatdet(RUNS["sr"])
    if run.exit_code:
        assert run.exit_code == 2
        assert len(run.stderr.splitlines()) == 1
        assert "remove it to begin again" in run.stderr
        file.unlink()
        assert hatdet(RUNS["sr"]).exit_code == 0
    assert results(tmp_path / "out") == undisturbed["sr"]


# ------------------------------------------------------------------------- kill -9

DIE = """
import os, signal, sys
from pathlib import Path
from hatdet.runs.manifest import Manifest
import hatdet.imaging.files
from hatdet.sr.hat_arch import HAT

point = sys.argv.pop(1)
opened, replaced, synced, read, forward, put = (
    Path.open, Path.replace, os.fsync, Path.read_bytes, HAT.forward, Manifest.put
)
its = lambda path: path.name.startswith(".2.png") and path.parent.name == "out"
def die(): os.kill(os.getpid(), signal.SIGKILL)
def dying_read(self):
    if point == "read" and self.name == "2.png": die()
    return read(self)
def dying_forward(self, x):
    if point == "upscale" and x[0, :, 0, 0].tolist() == [1, 0, 1]: die()
    return forward(self, x)
def dying_sync(number):
    path = Path(f"/proc/self/fd/{number}").readlink()
    if its(path):
        if point == "half written": os.truncate(path, path.stat().st_size // 2); die()
        synced(number)
        if point == "written": die()
    else: synced(number)
def dying_replace(self, target):
    there = replaced(self, target)
    if point == "renamed" and target.name == "2.png": die()
    return there
def dying_put(self, source, *rest, **named):
    if source.name == "2.png":
        if point == "before the manifest": die()
        if point == "in the manifest":
            self._open().execute("INSERT INTO done VALUES ('x', 'x', 'x', 'x', 'x', 'x')")
            die()
        put(self, source, *rest, **named)
        die()
    put(self, source, *rest, **named)
os.fsync, Path.replace, Path.read_bytes, HAT.forward, Manifest.put = (
    dying_sync, dying_replace, dying_read, dying_forward, dying_put
)
from hatdet.cli.app import main
main()
"""
POINTS = {  # and how many images the next run has to make
    "read": (3, 4),
    "upscale": (3, 4),
    "half written": (3, 3),
    "written": (3, 3),
    "renamed": (3, 3),
    "before the manifest": (3, 3),
    "in the manifest": (3, 3),
    "after the manifest": (2, 2),
}
QUICK = ("upscale", "half written", "in the manifest")


@pytest.mark.parametrize(
    "point", [pytest.param(point, marks=[] if point in QUICK else [pytest.mark.slow]) for point in POINTS]
)
def test_a_kill_at_any_point_loses_at_most_the_image_in_work(point, tmp_path, monkeypatch, undisturbed):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    command = [sys.executable, "-c", DIE, point, *RUNS["sr"].split()]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    out = tmp_path / "out"
    there = {path.name for path in out.glob("*.png")}
    assert {"0.png"} <= there <= {"0.png", "1.png", "2.png"}
    for name in there:  # a picture that is there is whole
        assert (out / name).read_bytes() == undisturbed["sr"][name]
        assert read_image(out / name).width
    fewest, most = POINTS[point]
    again = hatdet(RUNS["sr"])
    assert again.exit_code == 0, again.stderr
    assert fewest <= len(again.stdout.splitlines()) <= most
    assert results(out) == undisturbed["sr"]
