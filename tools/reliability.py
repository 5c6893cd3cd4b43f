"""docs/reliability.md: what was tried to make hatdet lose something, and what came of it.

    python tools/reliability.py                 # all tests and tools that the page names, the slow ones too
    python tools/reliability.py --quick         # without the slow tests, 1,000 damaged files; the page says so
    python tools/reliability.py --only Faults   # a section, printed and not written

Its tables are tools/reliability.toml: a row names a test, or a command whose last line it shows. The page is written
only if all of them pass.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "tools" / "reliability.toml"
PAGE = ROOT / "docs" / "reliability.md"
HEAD = """# What hatdet survives

Made by `python tools/reliability.py{}`, which ran what each row names; the rows are in `tools/reliability.toml`.
Numbers behind a test are its cases, all of which passed.
"""


@dataclass(frozen=True)
class Row:
    """One line of a table: its cells, and what shows that it is true."""

    cells: tuple[str, ...]
    tests: tuple[str, ...] = ()
    command: str | None = None


@dataclass(frozen=True)
class Section:
    title: str
    text: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def sections(quick: bool = False) -> list[Section]:
    """The tables, before anything is run."""
    found = []
    text = TABLES.read_text(encoding="utf-8")
    for section in tomllib.loads(text.replace("--count 100000", "--count 1000") if quick else text)["section"]:
        rows = [_row(row) for row in section.get("row", ())]
        rows += _fault_rows(section["rows_of"]) if "rows_of" in section else []
        found.append(Section(section["title"], section["text"].strip(), tuple(section["columns"]), tuple(rows)))
    return found


def _row(row: dict[str, str | list[str]]) -> Row:
    tests = row.get("test", ())
    command = row.get("command")
    assert command is None or isinstance(command, str)
    return Row(tuple(row["cells"]), (tests,) if isinstance(tests, str) else tuple(tests), command)


def _fault_rows(module: str) -> list[Row]:
    """A row for each row of a table of faults in the tests."""
    sys.path.insert(0, str(ROOT))
    table = importlib.import_module(module)
    test = f"{module.replace('.', '/')}.py::test_a_fault_ends_as_promised"
    return [
        Row(
            (row.stage, row.what, ", ".join(row.verbs)),
            tuple(f"{test}[{verb} {table.named(row)}]" for verb in row.verbs),
        )
        for row in table.ROWS
    ]


def passed(tests: Sequence[str], marks: str = "slow or not slow") -> dict[str, int]:
    """How many cases of each test passed.

    Raises:
        RuntimeError: one failed, was skipped or is not there.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.xml"
        nodes = sorted({test.partition("[")[0] for test in tests})
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n0",
            "-m",
            marks,
            "--timeout=1800",
            f"--junitxml={file}",
        ]
        done = subprocess.run([*command, *nodes], cwd=ROOT, check=False, stdout=sys.stderr)
        if done.returncode:
            raise RuntimeError(f"pytest ended with exit code {done.returncode}: the page stays as it is")
        names = []
        for case in ET.parse(file).iter("testcase"):  # noqa: S314 (pytest's own)
            if list(case):
                raise RuntimeError(f"{case.get('name')} was skipped")
            names.append(f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}")
    counts = {test: sum(name == test or name.startswith(f"{test}[") for name in names) for test in tests}
    for test, count in counts.items():
        if not count:
            raise RuntimeError(f"{test} is not there")
    return counts


def last_line(command: str) -> str:
    """What a tool says in the end.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run(
        [sys.executable, *shlex.split(command)], cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise RuntimeError(f"{command} ended with exit code {done.returncode}: {' '.join(lines[-5:])}")
    return lines[-1]


def cells(row: Row) -> str:
    """The beginning of a row's line."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in row.cells)


def proof(row: Row, counts: dict[str, int], said: dict[str, str]) -> str:
    """The last cell: the tests with their cases, or what the command said."""
    if row.command is not None:
        return f"{said[row.command]} (`{row.command}`)"
    by_name: dict[str, int] = {}
    for test in row.tests:
        name = test.partition("[")[0].removeprefix("tests/")
        by_name[name] = by_name.get(name, 0) + counts[test]
    return ", ".join(f"`{name}` {count}" for name, count in by_name.items())


def page(wanted: Sequence[Section], quick: bool) -> str:
    """The page. Raises RuntimeError if something in it is not so."""
    tests = [test for section in wanted for row in section.rows for test in row.tests]
    commands = [row.command for section in wanted for row in section.rows if row.command is not None]
    with ThreadPoolExecutor(2) as beside:  # the tests are one process, and what is measured is memory, not time
        running = {command: beside.submit(last_line, command) for command in commands}
        try:
            counts = passed(tests, "not slow" if quick else "slow or not slow")
            said = {command: result.result() for command, result in running.items()}
        except RuntimeError:
            beside.shutdown(wait=False, cancel_futures=True)
            raise
    parts = [HEAD.format(" --quick" if quick else "")]
    for section in wanted:
        lines = [f"\n## {section.title}\n", f"{section.text}\n"]
        lines += ["| " + " | ".join([*section.columns, "shown by"]) + " |", "|" + "---|" * (len(section.columns) + 1)]
        lines += [f"{cells(row)} | {proof(row, counts, said)} |" for row in section.rows]
        parts.append("\n".join(lines) + "\n")
    return "".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="sections whose title begins so; printed and not written", metavar="TITLE")
    parser.add_argument("--quick", action="store_true", help="no slow tests, 1,000 damaged files")
    given = parser.parse_args()
    wanted = [section for section in sections(given.quick) if section.title.startswith(given.only or "")]
    try:
        text = page(wanted, given.quick)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if given.only:
        print(text)
    else:
        PAGE.write_text(text, encoding="utf-8")
        print(PAGE.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
