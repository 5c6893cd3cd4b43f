"""Each row of what makes docs/reliability.md names a test or a tool that is there."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.test_tools import TOOLS, tool

ROOT = TOOLS.parent


@pytest.fixture(scope="module")
def reliability():
    return tool("reliability")


@pytest.fixture(scope="module")
def rows(reliability):
    return [row for section in reliability.sections() for row in section.rows]


def test_each_row_names_tests_or_a_tool_that_are_there(rows):
    known: dict[str, set[str]] = {}
    for row in rows:
        assert bool(row.tests) != bool(row.command), row
        if row.command:
            assert (ROOT / row.command.split()[0]).is_file(), row
        for test in row.tests:
            file, _, name = test.partition("[")[0].partition("::")
            tree = known.get(file) or {
                node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)
            }
            known[file] = tree
            assert name in tree, test


def test_each_fault_of_the_table_of_tests_has_a_row(rows):
    from tests.faults.test_stages import ROWS

    stages = {row.stage for row in ROWS}
    assert stages == {"read", "decode", "upscale", "detect", "draw", "write", "manifest"}
    for fault in ROWS:
        assert sum(row.cells[:2] == (fault.stage, fault.what) for row in rows) == 1, fault


RESULTS = '<testsuites><testsuite><testcase classname="tests.a" name="test_x[1]"/>{}</testsuite></testsuites>'


@pytest.mark.parametrize(
    ("code", "more", "sentence"),
    [
        (1, "", "pytest ended with exit code 1"),
        (0, '<testcase classname="tests.a" name="test_y"><skipped/></testcase>', "test_y was skipped"),
        (0, "", r"tests/a.py::test_y is not there"),
    ],
)
def test_what_does_not_pass_makes_no_page(reliability, monkeypatch, code, more, sentence):
    def run(command, **_):
        file = next(word.partition("=")[2] for word in command if word.startswith("--junitxml="))
        Path(file).write_text(RESULTS.format(more))
        return SimpleNamespace(returncode=code)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(RuntimeError, match=sentence):
        reliability.passed(["tests/a.py::test_x", "tests/a.py::test_y"])
    if not code and not more:
        assert reliability.passed(["tests/a.py::test_x"]) == {"tests/a.py::test_x": 1}


def test_a_tool_that_fails_makes_no_page(reliability):
    with pytest.raises(RuntimeError, match="ended with exit code 2"):
        reliability.last_line("tools/bench_writes.py --no-such-option")


def test_the_page_has_a_line_for_each_row(reliability, rows):
    """Which `python tools/reliability.py` writes: a row that is new or has other words is not on it until then."""
    lines = (ROOT / "docs" / "reliability.md").read_text().splitlines()
    for row in rows:
        assert any(line.startswith(reliability.cells(row) + " | ") for line in lines), row
