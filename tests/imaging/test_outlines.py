"""Outlines of masks: exact tables, and every pixel on its side."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_fill_holes, label

from hatdet.imaging.outlines import outlines

EVERY_NEIGHBOUR = np.ones((3, 3))


def inside(rings, height: int, width: int) -> np.ndarray:
    """Whether the centre of each pixel is inside one of the polygons: rays to the right, and the edges they cross."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    found = np.zeros((height, width), bool)
    for ring in rings:
        crossed = np.zeros((height, width), int)
        for (x1, y1), (x2, y2) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if y1 != y2:
                crossed += ((y1 <= y) != (y2 <= y)) & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
        found |= crossed % 2 == 1
    return found


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["1"], [[(0, 0), (0, 1), (1, 1), (1, 0)]]),
        (["000", "011"], [[(1, 1), (1, 2), (3, 2), (3, 1)]]),
        (["111", "101", "111"], [[(0, 0), (0, 3), (3, 3), (3, 0)]]),  # a hole is filled
        (["100", "000", "001"], [[(0, 0), (0, 1), (1, 1), (1, 0)], [(2, 2), (2, 3), (3, 3), (3, 2)]]),
        (["10", "11"], [[(0, 0), (0, 2), (2, 2), (2, 1), (1.5, 1), (1, 0.5), (1, 0)]]),  # half a pixel is cut inwards
        (["00", "00"], []),
    ],
)
def test_outlines_are_where_pixels_end(rows, expected):
    mask = np.array([[int(pixel) for pixel in row] for row in rows], np.uint8)
    assert sorted([tuple(point) for point in ring] for ring in outlines(mask)) == expected


@settings(max_examples=20)
@given(arrays(np.uint8, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.integers(0, 1)))
def test_every_pixel_is_on_its_side(mask):
    rings = outlines(mask)
    filled = binary_fill_holes(mask)
    assert (inside(rings, *mask.shape) == filled).all()
    assert len(rings) == label(filled, EVERY_NEIGHBOUR)[1]
