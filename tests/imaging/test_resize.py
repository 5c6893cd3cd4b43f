"""MATLAB's imresize, against a second implementation written pixel by pixel, and by properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hatdet.core.types import Image
from hatdet.imaging.resize import nearest, reduced, resize_bicubic
from tests.helpers import random_image


def cubic(t: float) -> float:
    """Keys, a = -0.5."""
    t = abs(t)
    if t <= 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t <= 2 else 0.0


def one_line(line: np.ndarray, size: int, scale: float) -> np.ndarray:
    """One row of whole numbers, resized as MATLAB does, sample by sample."""
    n, shrink = len(line), min(scale, 1.0)
    out = []
    for i in range(size):
        centre = (i + 0.5) / scale - 0.5
        reach = math.ceil(2 / shrink) + 1
        positions = range(math.floor(centre) - reach, math.floor(centre) + reach + 1)
        weights = [cubic((centre - p) * shrink) for p in positions]
        mirrored = [p % (2 * n) if p % (2 * n) < n else 2 * n - 1 - p % (2 * n) for p in positions]
        value = sum(w * float(line[p]) for w, p in zip(weights, mirrored, strict=True)) / sum(weights)
        out.append(value)
    return np.floor(np.clip(out, 0, 255) + 0.5)


def whole(pixels: np.ndarray, h: int, w: int, scale: float) -> np.ndarray:
    """`(c, h, w)`: columns first, then rows."""
    tall = np.stack([np.stack([one_line(c[:, x], h, scale) for x in range(c.shape[1])], 1) for c in pixels])
    return np.stack([np.stack([one_line(c[y], w, scale) for y in range(h)]) for c in tall])


@pytest.mark.parametrize("scale", [2, 3, 4, 1 / 2, 1 / 3, 1 / 4, 1.7])
def test_it_is_matlabs_imresize(scale):
    image = random_image(12, 24, seed=3)
    h, w = math.ceil(12 * scale), math.ceil(24 * scale)
    got = resize_bicubic(image, (h, w), scale)
    expected = whole(image.pixels.mul(255).round().numpy(), h, w, scale)
    assert np.abs(got.pixels.mul(255).round().numpy() - expected).max() == 0
    assert got.scale == scale


def test_a_known_line():
    """A step, doubled: worked out by hand from Keys' weights at a quarter and three quarters of a pixel."""
    image = Image(torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(3, 1, 4).contiguous())
    got = resize_bicubic(image, (1, 8), 2).pixels[0, 0].mul(255).round()
    assert got.tolist() == [0, 0, 0, 52, 203, 255, 255, 255]


def test_sixteen_bits_stay_sixteen():
    image = random_image(8, 8, bit_depth=16)
    got = resize_bicubic(image, (16, 16), 2)
    steps = got.pixels.double() * 65535
    assert got.bit_depth == 16
    assert float((steps - steps.round()).abs().max()) < 1e-2
    assert len(torch.unique(got.pixels)) > 256


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1 / 4, 1 / 3, 1 / 2, 2, 3, 4]), st.integers(0, 255))
def test_a_flat_image_stays_flat(h, w, scale, value):
    image = Image(torch.full((3, h, w), value / 255))
    size = (math.ceil(h * scale), math.ceil(w * scale))
    assert torch.equal(resize_bicubic(image, size, scale).pixels, torch.full((3, *size), value / 255))


def test_reducing_crops_right_and_bottom_first():
    image = random_image(11, 14)
    small = reduced(image, 4)
    assert (small.height, small.width, small.scale) == (2, 3, 1)
    assert torch.equal(small.pixels, reduced(Image(image.pixels[:, :8, :12].contiguous()), 4).pixels)
    with pytest.raises(ValueError, match="at least 16x16 pixels, got 14x11"):
        reduced(image, 16)


def test_nearest_repeats_pixels():
    image = random_image(2, 3)
    big = nearest(image, 3)
    assert (big.height, big.width, big.scale) == (6, 9, 3)
    assert torch.equal(big.pixels[:, ::3, ::3], image.pixels)
    assert torch.equal(big.pixels[:, 2::3, 2::3], image.pixels)
