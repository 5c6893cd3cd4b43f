"""The progress of a run: whole images counted, the rate over all of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hatdet.cli.session import _Counted, _Rate


@pytest.mark.parametrize(
    ("completed", "elapsed", "counted", "rate"),
    [
        (0, 1.0, "0/6", "- images/s"),
        (0.5, 2.0, "0/6", "0.25 images/s, 0:00:22 left"),
        (3, 1.5, "3/6", "2.00 images/s, 0:00:02 left"),
        (6, 3.0, "6/6", "2.00 images/s, 0:00:00 left"),
    ],
)
def test_rate_and_time_left(completed, elapsed, counted, rate):
    task = SimpleNamespace(completed=completed, elapsed=elapsed, total=6)
    assert str(_Counted().render(task)) == counted
    assert str(_Rate().render(task)) == rate
