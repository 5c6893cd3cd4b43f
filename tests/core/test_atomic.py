"""Files that are written bit by bit are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hatdet.core import atomic
from hatdet.core.atomic import write_bytes, written_whole
from hatdet.core.errors import OptionsError


def test_a_file_has_its_name_when_it_is_whole(tmp_path):
    target = tmp_path / "new" / "a.bin"
    with written_whole(target) as path, path.open("wb") as file:
        file.write(b"one")
        assert not target.exists()
        file.write(b"two")
    assert target.read_bytes() == b"onetwo"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, BrokenPipeError])
def test_what_fails_leaves_what_was_there(tmp_path, error):
    target = tmp_path / "a.bin"
    target.write_bytes(b"before")
    with pytest.raises(error), written_whole(target) as path:  # noqa: PT012
        path.write_bytes(b"half")
        raise error
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]


def test_nothing_written_is_no_file(tmp_path):
    with written_whole(tmp_path / "a.bin"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OptionsError, match=r"file/a\.bin cannot be written: "),
        written_whole(tmp_path / "file" / "a.bin"),
    ):
        pass
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(OptionsError, match="folder cannot be written: "), written_whole(tmp_path / "folder") as path:
        path.write_bytes(b"whole")
    assert not list(tmp_path.glob(".*"))


def test_another_process_does_not_sweep_what_is_in_work(tmp_path, monkeypatch):
    """It is locked, though whoever writes it opens it by its name."""
    with written_whole(tmp_path / "a.bin") as path:
        path.write_bytes(b"half")
        monkeypatch.setattr(atomic, "_SWEPT", set())  # as a process that has not looked yet
        write_bytes(tmp_path / "b.bin", b"other")
        assert path.read_bytes() == b"half"
    left = tmp_path / ".c.bin.0123abcd.part"
    left.write_bytes(b"of a killed run")
    monkeypatch.setattr(atomic, "_SWEPT", set())
    with written_whole(tmp_path / "a.bin"):
        pass
    assert not left.exists()
    assert (tmp_path / "a.bin").read_bytes() == b"half"


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError(13, "denied")])
def test_a_disk_that_says_no_leaves_what_was_there(tmp_path, monkeypatch, step, error):
    target = tmp_path / "a.bin"
    target.write_bytes(b"before")

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), refuse)
    with pytest.raises(OptionsError, match=f"cannot be written: {error.strerror}"), written_whole(target) as path:
        path.write_bytes(b"new")
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]
