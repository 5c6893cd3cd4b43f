"""What the documentation tells a new user to type works as typed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def commands(page: str, heading: str) -> str:
    """The first shell block below a heading."""
    section = (ROOT / "docs" / page).read_text().split(f"\n## {heading}\n", 1)[1]
    found = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert found
    return found[1]


@pytest.mark.slow
def test_an_attention_layer_from_the_first_command_to_the_chain(tmp_path):
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("YOLO_", "PYTEST_"))}
    done = subprocess.run(
        ["bash", "-e", "-c", commands("attention.md", "Try it")],
        cwd=tmp_path,
        env={
            **inherited,
            "HOME": str(tmp_path / "home"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout + done.stderr
    assert "yolo11-mine.yaml: row 10 is [-1, 1, HaloAttention, [c2, 2, 1, 64, 8]]" in said
    assert "every attention parameter learns" in said
    assert "2 epochs completed" in said
    assert len(list((tmp_path / "eight" / "labels").glob("*.txt"))) == 8
    assert {"bus.png", "zidane.png"} <= {path.name for path in (tmp_path / "results" / "detect").iterdir()}


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_files_that_a_page_names_are_there(page):
    text = (ROOT / "docs" / page).read_text()
    for path in re.findall(r"\b(?:tools|options|hatdet)/[\w/.-]+\w", text):
        if "FILE" not in path and "*" not in path:
            assert list(ROOT.glob(f"{path}*")), f"{page} names {path}"
