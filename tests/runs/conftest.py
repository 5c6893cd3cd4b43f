"""What tests of both records of a run share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A folder of results, an image, and its result."""
    source, result = tmp_path / "in" / "a.png", tmp_path / "out" / "deep" / "a.png"
    for path in (source, result):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"picture")
    return tmp_path / "out", source, result
