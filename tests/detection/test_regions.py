"""Upscaling of parts of an image: which rectangles, which pixels, and how much of it all."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hatdet.core.errors import OptionsError
from hatdet.core.types import Detections, Image
from hatdet.detection.regions import CELL, MARGIN, FirstPass, SelectiveUpscaler, enclosing, share_of
from hatdet.imaging.resize import resize_bicubic
from tests.helpers import random_image


@dataclass
class Inverts:
    """An upscaler whose pixels are easily told from interpolation: the inverse of bicubic's, or of a constant."""

    scale: int = 2
    name: str = "inverts"
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def __call__(self, image: Image) -> Image:
        self.sizes.append((image.width, image.height))
        larger = image.pixels.repeat_interleave(self.scale, 1).repeat_interleave(self.scale, 2)
        return Image(1 - larger, image.scale * self.scale, image.bit_depth)


def selective(marked: list[tuple[int, int]], max_share: float | None = None, value: float = 0.5) -> SelectiveUpscaler:
    """Cells (column, row), the first of them with the highest score."""

    def score(image: Image) -> np.ndarray:
        cells = np.zeros((-(-image.height // CELL), -(-image.width // CELL)), np.float32)
        for n, (x, y) in enumerate(marked):
            cells[y, x] = value - n / 1000
        return cells

    return SelectiveUpscaler(Inverts(), score, max_share)


def flat(w: int, h: int) -> Image:
    return Image(torch.full((3, h, w), 51 / 255))


def test_a_marked_cell_is_the_networks_and_the_rest_interpolation():
    done = selective([(2, 1)]).regions(flat(100, 80))
    assert done.rectangles.tolist() == [[32 - MARGIN, 16 - MARGIN, 48 + MARGIN, 32 + MARGIN]]
    assert done.share == 32 * 32 / 8000
    pixels = done.picture.pixels
    assert (done.picture.width, done.picture.height, done.picture.scale) == (200, 160, 2)
    assert (pixels[:, 32:64, 64:96] == 204 / 255).all()  # the inverse
    outside = torch.ones(160, 200, dtype=torch.bool)
    outside[16:80, 48:112] = False
    assert (pixels[:, outside] == 51 / 255).all()
    # Across the margin, from the left: no step is larger than a share of it.
    across = pixels[0, 48, 40:72]
    assert (across.diff() >= 0).all()
    assert across.diff().max() <= 1.01 * (204 - 51) / 255 / (2 * MARGIN) + 1 / 255


def test_an_edge_of_the_image_is_not_blended():
    pixels = selective([(0, 0)]).regions(flat(100, 80)).picture.pixels
    assert (pixels[:, :32, :32] == 204 / 255).all()


def test_nothing_marked_is_interpolation_and_no_share():
    image = random_image(50, 70)
    done = selective([]).regions(image)
    assert torch.equal(done.picture.pixels, resize_bicubic(image, (100, 140), 2).pixels)
    assert (done.share, len(done.rectangles)) == (0, 0)


def test_everything_marked_is_the_upscaler_itself():
    image = random_image(64, 48)
    everything = selective([(x, y) for x in range(3) for y in range(4)])
    done = everything.regions(image)
    assert torch.equal(done.picture.pixels, 1 - image.pixels.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert done.share == 1
    assert everything.upscaler.sizes == [(48, 64)]


def test_sixteen_bits_stay():
    image = Image(torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0)).mul(65535).round() / 65535, 1, 16)
    done = selective([(1, 1)]).regions(image)
    assert done.picture.bit_depth == 16
    assert torch.equal(done.picture.pixels, (done.picture.pixels * 65535).round() / 65535)


cells = st.integers(1, 70).flatmap(
    lambda w: st.integers(1, 40).flatmap(
        lambda h: st.tuples(
            st.just((h, w)), st.lists(st.tuples(st.integers(0, h - 1), st.integers(0, w - 1)), max_size=40)
        )
    )
)


@settings(max_examples=60, deadline=None)
@given(cells, st.integers(1, CELL), st.integers(1, CELL))
def test_rectangles_hold_all_marked_cells_and_cost_no_more_than_each_alone(drawn, last_h, last_w):
    shape, numbers = drawn
    marked = np.zeros(shape, np.bool_)
    for at in numbers:
        marked[at] = True
    h, w = (shape[0] - 1) * CELL + last_h, (shape[1] - 1) * CELL + last_w
    found = enclosing(marked, (h, w))
    covered = np.zeros((h, w), np.bool_)
    for left, top, right, bottom in found:
        assert 0 <= left < right <= w
        assert 0 <= top < bottom <= h
        covered[top:bottom, left:right] = True
    assert covered[marked.repeat(CELL, 0).repeat(CELL, 1)[:h, :w]].all()
    alone = marked.sum() * (CELL + 2 * MARGIN) ** 2 / (h * w)
    assert share_of(found, (h, w)) <= alone + len(found) * 16 * 16 / (h * w) + 1e-9


def test_cells_side_by_side_are_one_rectangle_and_far_ones_are_two():
    marked = np.zeros((20, 20), np.bool_)
    marked[2:4, 3:7] = True
    marked[15, 15] = True
    assert sorted(enclosing(marked, (320, 320)).tolist()) == [[40, 24, 120, 72], [232, 232, 264, 264]]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 19), st.integers(0, 14)), min_size=1, unique=True, max_size=60),
    st.floats(0.01, 1),
)
def test_the_share_is_kept_and_the_best_cells_come_first(marked, most):
    done = selective(marked, most).regions(flat(320, 240))
    assert done.share <= most
    free = selective(marked).regions(flat(320, 240))
    if free.share <= most:
        assert done.rectangles.tolist() == free.rectangles.tolist()
    elif len(done.rectangles):
        x, y = marked[0]
        assert (done.picture.pixels[:, y * 32 + 15, x * 32 + 15] == 204 / 255).all()


def test_a_share_that_cannot_be():
    for share in (0, -1, 1.5):
        with pytest.raises(OptionsError, match=re.escape(f"max-share must be above 0 and at most 1, got {share}")):
            selective([], share)


def test_a_score_of_another_size():
    upscaler = SelectiveUpscaler(Inverts(), lambda image: np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match=re.escape("the score of 50x20 pixels must be (2, 4), got (2, 2)")):
        upscaler(flat(50, 20))


def test_a_first_pass_marks_what_is_small_or_unsure():
    rows = np.array(
        [
            [0, 0, 100, 100, 0.9],  # large and sure: no
            [120, 8, 130, 20, 0.9],  # small
            [20, 120, 90, 159, 0.3],  # large and unsure
            [150, 100, 150, 100, 0.2],  # no size at all
        ],
        np.float32,
    )

    class Sees:
        name = "sees"

        def __call__(self, image: Image) -> Detections:
            return Detections(rows[:, :4], rows[:, 4], np.zeros(4, np.int64), {0: "thing"})

    score = FirstPass(Sees())(flat(165, 160))
    assert score.shape == (10, 11)
    expected = np.zeros((10, 11), np.float32)
    expected[0:2, 7:9] = 0.9
    expected[7:10, 1:6] = 0.3
    expected[6, 9] = 0.2
    assert np.array_equal(score, expected)
    assert (FirstPass(Sees(), grown=1)(flat(165, 160))[5:8, 8:11] > 0).all()
