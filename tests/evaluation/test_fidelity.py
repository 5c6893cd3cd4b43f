"""PSNR and SSIM against BasicSR's and scikit-image's."""

from __future__ import annotations

import math
import sys
import types
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from hatdet.evaluation.fidelity import Fidelity, Protocol, compare, mean_fidelity, psnr, ssim


def pair(h: int, w: int, seed: int = 0, noise: float = 12) -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture and a noisy copy, uint8 RGB."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:h, 0:w]
    base = 128 + 90 * np.sin(x / 5 + seed)[..., None] * np.cos(y / 7)[..., None] * np.array([1.0, 0.7, -0.5])
    noisy = base + random.normal(0, noise, base.shape)
    return tuple(np.clip(a, 0, 255).round().astype(np.uint8) for a in (noisy, base))


@pytest.fixture(scope="module")
def basicsr_metrics():
    """BasicSR's own functions, where it is installed; a stand-in for the module that it misses."""
    if find_spec("basicsr") is None:
        pytest.skip("basicsr is not installed here (Python 3.13 and later)")
    name = "torchvision.transforms.functional_tensor"
    if name not in sys.modules:
        module = types.ModuleType(name)
        module.rgb_to_grayscale = None
        sys.modules[name] = module
    from basicsr.metrics import psnr_ssim

    return psnr_ssim


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("channel", ["Y", "RGB"])
@pytest.mark.parametrize("crop", [0, 4])
def test_equal_to_basicsr(basicsr_metrics, seed, channel, crop):
    image, reference = pair(40 + seed, 57, seed, noise=3 + 8 * seed)
    found = compare(image, reference, Protocol(channel, crop))
    bgr = (image[..., ::-1], reference[..., ::-1])
    options = {"crop_border": crop, "test_y_channel": channel == "Y"}
    assert found.psnr == pytest.approx(basicsr_metrics.calculate_psnr(*bgr, **options), abs=1e-6)
    assert found.ssim == pytest.approx(basicsr_metrics.calculate_ssim(*bgr, **options), abs=1e-6)


@settings(max_examples=20)
@given(st.integers(11, 50), st.integers(11, 50), st.integers(0, 1000))
def test_ssim_is_scikit_images(h, w, seed):
    a, b = (array.astype(np.float64) for array in pair(h, w, seed))
    expected = structural_similarity(
        a, b, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert ssim(a, b) == pytest.approx(expected, abs=1e-12)


def test_known_values():
    black, grey = np.zeros((20, 20, 3)), np.full((20, 20, 3), 25.5)
    assert psnr(grey, black) == pytest.approx(20.0)
    assert psnr(black, black) == math.inf
    assert ssim(grey, grey) == pytest.approx(1.0)
    # Y of white is 235 and of black 16: a full-range error of 219.
    white = np.full((20, 20, 3), 255, np.uint8)
    found = compare(white, np.zeros_like(white), Protocol("Y", 0))
    assert found.psnr == pytest.approx(20 * math.log10(255 / 219), abs=1e-4)


def test_sixteen_bits_are_measured_on_the_scale_of_eight():
    image, reference = pair(30, 30)
    deep = compare(image.astype(np.uint16) * 257, reference.astype(np.uint16) * 257, Protocol("RGB", 0))
    assert deep.psnr == pytest.approx(compare(image, reference, Protocol("RGB", 0)).psnr, abs=1e-9)


def test_an_identical_pair_does_not_make_the_mean_infinite():
    mean = mean_fidelity([Fidelity(30.0, 0.8), Fidelity(math.inf, 1.0), Fidelity(40.0, math.nan)])
    assert (mean.psnr, mean.images, mean.identical) == (35.0, 3, 1)
    assert mean.ssim == pytest.approx(0.9)
    assert math.isnan(mean_fidelity([Fidelity(math.inf, 1.0)]).psnr)


def test_the_protocol_in_words():
    assert str(Protocol("Y", 4)) == "PSNR-Y and SSIM-Y, crop 4, MATLAB YCbCr"
    assert str(Protocol("RGB", 0)) == "PSNR-RGB and SSIM-RGB, crop 0"


@pytest.mark.parametrize(
    ("a", "b", "crop", "sentence"),
    [
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8), 0, "must be alike"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint16), 0, "must be alike"),
        (np.zeros((8, 9, 3), np.uint8), np.zeros((8, 9, 3), np.uint8), 4, "nothing is left of 9x8 pixels"),
    ],
)
def test_what_cannot_be_compared_is_refused(a, b, crop, sentence):
    with pytest.raises(ValueError, match=sentence):
        compare(a, b, Protocol("Y", crop))
    with pytest.raises(ValueError, match="crop must be at least 0"):
        Protocol("Y", -1)


def test_too_small_for_ssim_is_nan_and_still_has_a_psnr():
    image, reference = pair(10, 30)
    found = compare(image, reference, Protocol("Y", 0))
    assert math.isnan(found.ssim)
    assert math.isfinite(found.psnr)
