"""Damaged files of every format over the readers, and that the tool which does it would notice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hatdet.imaging.files import IMAGE_SUFFIXES, MAX_PIXELS
from tests.test_tools import tool

BEGINNING = "import os, signal, sys, time; print('begins'); print('7 read', flush=True);"


@pytest.fixture(scope="module")
def mutate():
    return tool("mutate_files")


@pytest.fixture(scope="module")
def files(mutate) -> dict[str, bytes]:
    found: dict[str, bytes] = mutate.whole_files()
    return found


def test_there_are_whole_files_of_every_suffix_that_is_read(mutate, files, tmp_path):
    assert {Path(name).suffix for name in files} == set(IMAGE_SUFFIXES)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert mutate.outcome(tmp_path / name, MAX_PIXELS) in ("read", "refused"), name
    suffixes = {Path(name).suffix for name in files if mutate.outcome(tmp_path / name, MAX_PIXELS) == "read"}
    assert suffixes == set(IMAGE_SUFFIXES)


def test_a_case_is_the_same_again_and_another_is_not(mutate, files):
    assert mutate.case(5, 0, files) == mutate.case(5, 0, files)
    cases = [mutate.case(number, 0, files) for number in range(300)]
    assert len(set(cases)) > 290
    assert all(content != files[name] for name, content in cases)


def test_some_hundred_damaged_files(mutate, files):
    report = mutate.run(files, range(400), 0, 2**24, 5)
    assert report.faults == []
    assert report.counts.total() == 400
    assert report.counts["read"] > 10
    assert report.counts["refused"] > 100


@pytest.mark.slow
def test_a_hundred_thousand_damaged_files(mutate, files):
    report = mutate.run(files, range(100_000), 1, 2**24, 5)
    assert report.faults == []
    assert report.counts.total() == 100_000


@pytest.mark.parametrize(
    ("script", "what", "following"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crash with code -11", 9),
        ("sys.exit(3)", "crash with code 3", 9),
        ("[None for _ in iter(int, 1)]", "hang over 0.2 s", 9),
        ("print('8 traceback: KeyError: x'); print('ends')", "traceback: KeyError: x", 9),
        ("print('8 an image that cannot be: (3, 1, 1)'); print('9 read')", "an image that cannot be: (3, 1, 1)", 10),
    ],
)
def test_what_goes_wrong_in_the_readers_is_counted_and_passed_over(mutate, files, script, what, following):
    report = mutate.Report()
    command = [sys.executable, "-c", BEGINNING + script]
    assert mutate._watch(command, 7, 0.2, report, files, 0) == following
    assert [(number, kind) for number, _, kind in report.faults] == [(8, what)]
    assert report.counts["read"] == following - 8
    assert " 0 crashes, 0 hangs over 0.2 s, 0 tracebacks" not in mutate.summary(files, report, 0.2) or "other" in (
        mutate.summary(files, report, 0.2)
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("x"), "traceback: KeyError: 'x'"),
        (MemoryError(), "out of memory"),
    ],
)
def test_what_a_reader_may_and_may_not_do(mutate, tmp_path, monkeypatch, error, said):
    def read(*_: object) -> None:
        raise error

    monkeypatch.setattr("hatdet.imaging.files.read_image", read)
    assert mutate.outcome(tmp_path / "a.png", 9) == said
