"""Files that are written bit by bit are there whole or not at all."""

from __future__ import annotations

import pytest

from hatdet.core.atomic import written_whole
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
