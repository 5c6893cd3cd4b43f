"""What is done, what is not any more, and what survives."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from hatdet.core.errors import OptionsError
from hatdet.runs.manifest import FOLDER, Manifest, state_of

SETTINGS = {"weights": "abc", "tile": 256}


def test_what_was_put_is_done_in_this_run_and_in_the_next(files):
    folder, source, result = files
    with Manifest(folder, SETTINGS) as manifest:
        assert manifest.done(source, result) is None
        manifest.put(source, state_of(source), result, report={"boxes": [1, 2.5]})
        assert manifest.done(source, result) == {"boxes": [1, 2.5]}
    with Manifest(folder, dict(reversed(SETTINGS.items()))) as manifest:
        assert manifest.done(source, result) == {"boxes": [1, 2.5]}
        assert manifest.changed == {}


@pytest.mark.parametrize("name", ["\udcff.png", "ünï 'cödé.png", "a\nb.png"])
def test_any_file_name_comes_through(tmp_path, name):
    source, result = tmp_path / name, tmp_path / "out" / name
    result.parent.mkdir()
    for path in (source, result):
        path.write_bytes(b"picture")
    with Manifest(tmp_path / "out", SETTINGS) as manifest:
        manifest.put(source, state_of(source), result, report={"source": name})
        assert manifest.done(source, result) == {"source": name}


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda source, result: source.write_bytes(b"another picture"),
        lambda source, result: touch(source),
        lambda source, result: result.unlink(),
        lambda source, result: result.write_bytes(b"somebody else's"),
        lambda source, result: touch(result),
    ],
    ids=["another image", "a newer image", "no result", "another result", "an older result"],
)
def test_what_is_not_as_it_was_is_not_done(files, change):
    folder, source, result = files
    with Manifest(folder, SETTINGS) as manifest:
        manifest.put(source, state_of(source), result)
        assert manifest.done(source, result) is True
        change(source, result)
        assert manifest.done(source, result) is None


def test_another_image_of_the_same_name_is_not_done(files, tmp_path):
    folder, source, result = files
    other = tmp_path / "elsewhere" / "a.png"
    other.parent.mkdir()
    source.rename(other)  # the same size, the same time
    with Manifest(folder, SETTINGS) as manifest:
        manifest.put(other, state_of(other), result)
        other.rename(source)
        assert manifest.done(source, result) is None


def test_other_settings_are_named_and_counted(files):
    folder, source, result = files
    second = result.with_name("b.png")
    second.write_bytes(b"picture")
    with Manifest(folder, SETTINGS) as manifest:
        manifest.put(source, state_of(source), result)
        manifest.put(source, state_of(source), second)
    with Manifest(folder, {"weights": "def", "tile": 256, "overlap": 32}) as manifest:
        assert manifest.done(source, result) is None
        assert manifest.done(source, second) is None
        assert manifest.changed == {"weights": 2, "overlap": 2}
        manifest.put(source, state_of(source), result)
        assert manifest.done(source, result) is True
    with Manifest(folder, SETTINGS) as manifest:  # made with the others meanwhile
        assert (manifest.done(source, result), manifest.done(source, second)) == (None, True)


def test_a_result_more_that_is_wanted_must_be_there_too(files):
    folder, source, result = files
    label = folder / "labels" / "a.txt"
    label.parent.mkdir()
    label.write_text("0 0.5 0.5 1 1\n")
    with Manifest(folder, SETTINGS) as manifest:
        manifest.put(source, state_of(source), result)
        assert manifest.done(source, result, [label]) is None
        manifest.put(source, state_of(source), result, [label])
        assert manifest.done(source, result, [label]) is True
        assert manifest.done(source, result) is True
        label.unlink()
        assert manifest.done(source, result) is None


def test_an_image_that_changes_while_it_is_worked_on_is_not_done(files):
    folder, source, result = files
    with Manifest(folder, SETTINGS) as manifest:
        read = state_of(source)
        source.write_bytes(b"a newer picture")
        manifest.put(source, read, result)
        assert manifest.done(source, result) is None


def test_asking_writes_nothing(tmp_path):
    with Manifest(tmp_path / "out", SETTINGS) as manifest:
        assert manifest.done(tmp_path / "a.png", tmp_path / "out" / "a.png") is None
    assert not (tmp_path / "out").exists()


def test_what_was_put_survives_a_kill(files):
    folder, source, result = files
    script = f"""
import os, signal
from pathlib import Path
from hatdet.runs.manifest import Manifest, state_of
manifest = Manifest(Path({str(folder)!r}), {SETTINGS!r})
source = Path({str(source)!r})
manifest.put(source, state_of(source), Path({str(result)!r}))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    with Manifest(folder, SETTINGS) as manifest:
        assert manifest.done(source, result) is True


def test_something_else_in_its_place_is_one_sentence(files):
    folder, _, _ = files
    (folder / FOLDER).mkdir()
    (folder / FOLDER / "manifest.sqlite").write_bytes(b"no database at all, and longer than its header is")
    with pytest.raises(OptionsError, match=r"manifest\.sqlite cannot be used: file is not a database"):
        Manifest(folder, SETTINGS)


def test_a_folder_that_cannot_be_written_is_one_sentence(files):
    folder, source, result = files
    (folder / FOLDER).write_text("a file in the way")
    with Manifest(folder, SETTINGS) as manifest, pytest.raises(OptionsError, match="cannot be written"):
        manifest.put(source, state_of(source), result)


def test_a_full_disk_is_one_sentence(files, monkeypatch):
    folder, source, result = files

    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def execute(self, *_):
            raise sqlite3.OperationalError("database or disk is full")

    with Manifest(folder, SETTINGS) as manifest:
        monkeypatch.setattr(manifest, "_open", Full)
        with pytest.raises(OptionsError, match="disk is full"):
            manifest.put(source, state_of(source), result)
