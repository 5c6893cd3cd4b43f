"""Tile geometry by exact tables and by properties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hatdet.sr.tiling import Axis, Tile, plan_axis, plan_tiles

TABLE = [
    # length, tile, overlap, window -> size, starts
    (1, 64, 16, 8, 1, (0,)),
    (64, 64, 16, 8, 64, (0,)),
    (65, 64, 16, 8, 48, (0, 17)),
    (96, 64, 16, 8, 56, (0, 40)),
    (112, 64, 16, 8, 64, (0, 48)),
    (113, 64, 16, 8, 56, (0, 28, 57)),
    (484, 256, 0, 16, 256, (0, 228)),
    (500, 64, 32, 8, 64, (0, 31, 62, 93, 125, 156, 187, 218, 249, 280, 311, 343, 374, 405, 436)),
]


@pytest.mark.parametrize(("length", "tile", "overlap", "window", "size", "starts"), TABLE)
def test_plan_by_table(length, tile, overlap, window, size, starts):
    axis = plan_axis(length, tile, overlap, window)
    assert (axis.size, axis.starts) == (size, starts)


axes = st.builds(
    lambda length, tiles, overlap, window: (length, tiles * window, min(overlap, tiles * window - 1), window),
    st.integers(1, 700),
    st.integers(1, 12),
    st.integers(0, 48),
    st.sampled_from([4, 8, 16]),
)


@given(axes)
def test_tiles_cover_everything_equally_long_and_overlap_enough(given_axis):
    length, tile, overlap, window = given_axis
    axis = plan_axis(length, tile, overlap, window)
    assert axis.starts[0] == 0
    assert axis.starts[-1] + axis.size == length
    assert axis.size <= tile
    if len(axis.starts) > 1:
        assert axis.size % window == 0
        gaps = [b - a for a, b in zip(axis.starts, axis.starts[1:], strict=False)]
        assert min(gaps) > 0
        assert axis.size - max(gaps) >= overlap


@given(axes, st.sampled_from([1, 2, 3, 4]))
def test_weights_add_up_to_one_everywhere(given_axis, scale):
    axis = plan_axis(*given_axis)
    total = torch.zeros(axis.length * scale)
    for start, weight in zip(axis.starts, axis.weights(scale), strict=True):
        assert float(weight.min()) >= 0
        total[start * scale : start * scale + axis.size * scale] += weight
    assert torch.allclose(total, torch.ones_like(total), atol=1e-5)


def test_the_outer_quarter_of_an_overlap_is_thrown_away():
    weights = Axis(96, 56, (0, 40), 16).weights(1)
    assert weights[1][:4].tolist() == [0, 0, 0, 0]
    assert weights[0][-4:].tolist() == [0, 0, 0, 0]
    assert bool((weights[1][4:12].diff() > 0).all())
    assert float(weights[0][0]) == 1.0  # the border of the image is nobody else's


def test_tiles_row_by_row():
    rows, columns = Axis(96, 56, (0, 40), 16), Axis(10, 10, (0,), 0)
    assert plan_tiles(rows, columns) == [Tile(0, 0, 0, 0), Tile(1, 0, 40, 0)]


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (12, 0), (4, 0), (16, 16), (16, -1)])
def test_a_plan_that_cannot_be_is_refused(tile, overlap):
    with pytest.raises(ValueError, match="must be"):
        plan_axis(100, tile, overlap, 8)
