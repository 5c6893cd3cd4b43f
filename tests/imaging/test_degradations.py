"""Degradations: kernels against BasicSR's, chains by exact and statistical tables, files by what is refused."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hatdet.core.errors import InputError, OptionsError
from hatdet.core.types import Image
from hatdet.imaging import degradations
from hatdet.imaging.degradations import KERNELS, Degradation, blur_kernel, degraded, describe, sinc_kernel
from hatdet.imaging.files import read_image
from hatdet.imaging.resize import reduced
from tests.helpers import psnr, random_image, sample_photo

ROOT = Path(__file__).resolve().parents[2]
REAL_HAT = sorted((ROOT / "options" / "train").glob("*Real*.yml"))
needs_basicsr = pytest.mark.skipif(find_spec("basicsr") is None, reason="BasicSR needs Python 3.11 or 3.12")
FULL = {
    "blur_kernel_size": [7, 21],
    "kernel_list": list(KERNELS),
    "kernel_prob": [0.45, 0.25, 0.12, 0.03, 0.12, 0.03],
    "sinc_prob": 0.1,
    "blur_sigma": [0.2, 3],
    "betag_range": [0.5, 4],
    "betap_range": [1, 2],
    "resize_prob": [0.2, 0.7, 0.1],
    "resize_range": [0.15, 1.5],
    "gaussian_noise_prob": 0.5,
    "noise_range": [1, 30],
    "poisson_scale_range": [0.05, 3],
    "gray_noise_prob": 0.4,
    "jpeg_range": [30, 95],
}
SECOND = {f"{key}2": value for key, value in FULL.items()} | {
    "second_blur_prob": 0.8,
    "blur_sigma2": [0.2, 1.5],
    "resize_prob2": [0.3, 0.4, 0.3],
    "resize_range2": [0.3, 1.2],
    "noise_range2": [1, 25],
    "poisson_scale_range2": [0.05, 2.5],
    "final_sinc_prob": 0.8,
}


def made(**keys: Any) -> Degradation:
    return Degradation.from_options(keys, "test")


def flat(h: int, w: int, value: float = 0.5, bit_depth: int = 8) -> Image:
    levels = 2**bit_depth - 1
    return Image(torch.full((3, h, w), round(value * levels) / levels), bit_depth=bit_depth)


@pytest.fixture(scope="module")
def photo() -> Image:
    whole = read_image(sample_photo("bus"))
    return Image(whole.pixels[:, 300:700, 100:500].contiguous())


# ------------------------------------------------------------------------------------------ kernels


@needs_basicsr
@pytest.mark.parametrize("size", [7, 13, 21])
@pytest.mark.parametrize(("sigma_x", "sigma_y", "rotation", "beta"), [(0.6, 2.5, 0.7, 0.5), (3, 1.1, -2.2, 1.7)])
@pytest.mark.parametrize("kind", KERNELS)
def test_blurs_are_basicsrs(kind, size, sigma_x, sigma_y, rotation, beta):
    import hatdet.training  # noqa: F401 (makes basicsr importable)

    # isort: split
    from basicsr.data import degradations as basicsr

    theirs, shape = {
        "plateau": (basicsr.bivariate_plateau, (beta,)),
        "generalized": (basicsr.bivariate_generalized_Gaussian, (beta,)),
    }.get(kind.split("_")[0], (basicsr.bivariate_Gaussian, ()))
    expected = theirs(size, sigma_x, sigma_y, rotation, *shape, isotropic=not kind.endswith("aniso"))
    assert np.abs(blur_kernel(kind, size, sigma_x, sigma_y, rotation, beta) - expected).max() < 1e-12


@needs_basicsr
@pytest.mark.parametrize("size", [7, 9, 21])
@pytest.mark.parametrize("cutoff", [np.pi / 5, np.pi / 3, 2.0, np.pi])
def test_the_low_pass_is_basicsrs(size, cutoff):
    import hatdet.training  # noqa: F401

    # isort: split
    from basicsr.data.degradations import circular_lowpass_kernel

    with np.errstate(invalid="ignore", divide="ignore"):  # its centre
        expected = circular_lowpass_kernel(cutoff, size)
    assert np.abs(sinc_kernel(size, cutoff) - expected).max() < 1e-12


def test_a_gaussian_has_its_sigma_and_its_direction():
    """Without BasicSR: second moments of a kernel that is long along one axis."""
    y, x = np.mgrid[-20:21, -20:21]
    kernel = blur_kernel("aniso", 41, 4.0, 1.5, 0.0)
    assert [(kernel * x**2).sum() ** 0.5, (kernel * y**2).sum() ** 0.5] == pytest.approx([4.0, 1.5], rel=1e-3)
    assert (blur_kernel("aniso", 41, 4.0, 1.5, np.pi / 4) * x * y).sum() == pytest.approx((16 - 2.25) / 2, rel=1e-2)
    assert np.array_equal(blur_kernel("iso", 41, 2.0, 9.0, 1.0), blur_kernel("iso", 41, 2.0))


@given(
    st.sampled_from(KERNELS),
    st.sampled_from([1, 3, 21]),
    st.floats(0.01, 1e3),
    st.floats(0.01, 1e3),
    st.floats(-4, 4),
    st.floats(0.01, 100),
)
@example("plateau_iso", 21, 0.01, 0.01, 0.0, 100.0)  # 1e6 to the power of 100
def test_every_kernel_is_a_mean(kind, size, sigma_x, sigma_y, rotation, beta):
    kernel = blur_kernel(kind, size, sigma_x, sigma_y, rotation, beta)
    assert kernel.shape == (size, size)
    assert kernel.sum() == pytest.approx(1)
    assert kernel.min() >= 0
    assert kernel.max() == kernel[size // 2, size // 2]
    assert np.allclose(kernel, kernel[::-1, ::-1])


def test_an_unknown_kernel_is_misuse():
    with pytest.raises(ValueError, match=r"kind must be one of iso, .* got 'skew'"):
        blur_kernel("skew", 21, 1.0)


# ------------------------------------------------------------------------------------------ what follows from what


@pytest.mark.parametrize("keys", [FULL, FULL | SECOND], ids=["first", "second"])
def test_an_image_follows_from_seed_and_name_alone(keys):
    degradation, other_seed = made(**keys, seed=5), made(**keys, seed=6)
    image = random_image(48, 40)
    names = ["a", "b", "c", "deep/ü.png", "\udcff"]  # the last one is a name that is no UTF-8
    forward = {name: degraded(image, 4, degradation, name).pixels for name in names}
    np.random.seed(1)
    torch.manual_seed(1)
    backward = {name: degraded(image, 4, degradation, name).pixels for name in reversed(names)}
    assert all(torch.equal(forward[name], backward[name]) for name in names)
    assert not any(torch.equal(forward["a"], forward[name]) for name in names[1:])
    assert not torch.equal(forward["a"], degraded(image, 4, other_seed, "a").pixels)


def test_another_process_makes_the_same_image():
    program = (
        "import json, sys, hashlib; from tests.helpers import random_image;"
        "from hatdet.imaging.degradations import *;"
        "degradation = Degradation.from_options(json.loads(sys.argv[1]), 'it');"
        "pixels = degraded(random_image(48, 40), 4, degradation, 'a').pixels;"
        "assert 'basicsr' not in sys.modules and 'hatdet.training' not in sys.modules;"
        "print(hashlib.sha256(pixels.numpy().tobytes()).hexdigest())"
    )
    command = [sys.executable, "-W", "error", "-c", program, json.dumps(FULL | SECOND)]
    there = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    here = degraded(random_image(48, 40), 4, made(**FULL, **SECOND), "a").pixels
    assert there == hashlib.sha256(here.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("bit_depth", [8, 16])
@pytest.mark.parametrize(
    "keys",
    [
        {"seed": 3},
        {"resize_prob": [0, 0, 1]},
        {"blur_kernel_size": 1},
        {"noise_range": [0, 0]},
        {"poisson_scale_range": [0, 0]},
        {"final_sinc_prob": 0},
        {"resize_prob": [0, 0, 1], "noise_range2": [0, 0], "second_blur_prob": 0},
    ],
    ids=str,
)
def test_stages_that_do_nothing_leave_matlabs_reduction(keys, bit_depth):
    image = random_image(24, 36, bit_depth=bit_depth)
    got, expected = degraded(image, 3, made(**keys), "a"), reduced(image, 3)
    assert torch.equal(got.pixels, expected.pixels)
    assert (got.scale, got.bit_depth) == (1, bit_depth)


@pytest.mark.parametrize(
    "keys",
    [
        *({key: value} for key, value in (FULL | SECOND).items() if "range" in key or "sigma" in key or "sinc" in key),
        *({"kernel_list": [kind], "blur_sigma": [2, 2]} for kind in KERNELS),
        {"sinc_prob": 1},
        {"final_sinc_prob": 1},
        {"second_blur_prob": 1},
        {"gray_noise_prob2": 1},
    ],
    ids=str,
)
def test_every_stage_does_something_by_itself(keys):
    image = random_image(64, 64)
    changed = [
        not torch.equal(degraded(image, 2, made(**keys), k).pixels, reduced(image, 2).pixels) for k in "abcdefgh"
    ]
    assert any(changed)


def test_the_image_itself_is_left_alone():
    for side in (1, 32):
        image = random_image(side, side)
        before = image.pixels.clone()
        degraded(image, 1, made(**FULL, **SECOND), "a")
        degraded(image, 1, made(noise_range=[20, 20]), "a")
        assert torch.equal(image.pixels, before)


# ------------------------------------------------------------------------------------------ stages


@needs_basicsr
@pytest.mark.parametrize("keys", [{"blur_sigma": [2, 2]}, {"sinc_prob": 1, "blur_kernel_size": 21}], ids=str)
def test_a_blur_is_basicsrs_filter(keys):
    """The default is an isotropic Gaussian of side 21; the low-pass's cutoff is drawn, so it is looked up."""
    import hatdet.training  # noqa: F401

    # isort: split
    from basicsr.utils.img_process_util import filter2D

    used = []
    image = random_image(40, 50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            degradations,
            "_filtered",
            lambda p, kernel, real=degradations._filtered: used.append(kernel) or real(p, kernel),
        )
        got = degraded(image, 1, made(**keys), "a")
    (kernel,) = used
    if "blur_sigma" in keys:
        assert np.array_equal(kernel, blur_kernel("iso", 21, 2.0))
    expected = filter2D(image.pixels[None], torch.from_numpy(kernel)[None].float())[0]
    assert float((got.pixels - expected.clamp(0, 1)).abs().max()) <= 0.5 / 255 + 1e-5


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 2, 3, 4]), st.integers(0, 9), st.sampled_from([8, 16]))
def test_any_size_works_and_is_rounded(h, w, scale, seed, bit_depth):
    image = random_image(h * scale, w * scale, bit_depth=bit_depth)
    for keys in (FULL, FULL | SECOND):
        got = degraded(image, scale, made(**keys, seed=seed), "a")
        steps = got.pixels.double() * got.levels
        assert (got.height, got.width, got.scale, got.bit_depth) == (h, w, 1, bit_depth)
        assert float((steps - steps.round()).abs().max()) < 1e-2
        assert 0 <= float(got.pixels.min()) <= float(got.pixels.max()) <= 1


@settings(max_examples=15)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 255), st.integers(0, 100))
def test_a_flat_image_is_neither_lightened_nor_framed(h, w, value, seed):
    """By all that is no noise: blurs of whatever kernel, resizing to whatever size, borders."""
    keys = {
        key: each for key, each in (FULL | SECOND).items() if "noise" not in key and key[:4] not in ("jpeg", "pois")
    }
    image = flat(h * 2, w * 2, value / 255)
    assert torch.equal(degraded(image, 2, made(**keys, seed=seed), "a").pixels, flat(h, w, value / 255).pixels)


@pytest.mark.parametrize(
    "keys", [{"sinc_prob": 1}, {"blur_sigma": [1, 2]}, {"kernel_list": ["plateau_aniso"]}], ids=str
)
def test_a_blur_comes_before_the_reduction_and_is_an_image(keys):
    image = random_image(60, 45)
    image = Image((image.pixels > 0.5).float())  # its low-passes overshoot
    degradation = made(**keys)
    expected = reduced(degraded(image, 1, degradation, "a"), 3)
    assert torch.equal(degraded(image, 3, degradation, "a").pixels, expected.pixels)


def test_what_overshoots_is_clipped(monkeypatch):
    """The last low-pass, of black and white: the result is in range, and JPEG wraps no value around."""
    overshoots = 0

    def seen(picture: np.ndarray, *rest: Any, real: Any = degradations._compressed) -> np.ndarray:
        nonlocal overshoots
        overshoots += picture.max() > 1.1
        compressed = real(picture, *rest)
        assert np.abs(compressed - picture.clip(0, 1)).max() < 0.05
        return compressed

    grey = (random_image(24, 24).pixels[:1] > 0.5).float()  # of colours JPEG would keep a quarter
    image = Image(grey.expand(3, -1, -1).contiguous())
    alone = torch.stack([degraded(image, 1, made(final_sinc_prob=1), str(i)).pixels for i in range(12)])
    assert (float(alone.min()), float(alone.max())) == (0, 1)
    monkeypatch.setattr(degradations, "_compressed", seen)
    for i in range(12):
        degraded(image, 1, made(final_sinc_prob=1, jpeg_range=[100, 100], jpeg_range2=[100, 100]), str(i))
    assert overshoots > 2


def test_noise_is_clipped_before_anything_averages_it():
    """Of white, only the dark half is left: a mean of sigma / sqrt(2 pi) below."""
    keys = {"noise_range": [50, 50], "resize_prob2": [0, 0, 1]}
    got = degraded(flat(400, 400, 1.0), 2, made(**keys), "a").pixels
    assert float(1 - got.mean()) == pytest.approx(50 / 255 / (2 * np.pi) ** 0.5, rel=0.02)


def test_jpeg_rounds():
    image = flat(200, 200, 0.5, 16)
    got = degraded(image, 1, made(noise_range=[5, 5], jpeg_range=[100, 100]), "a").pixels
    assert float((got - image.pixels).mean() * 255) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("bit_depth", [8, 16])
def test_gaussian_noise_has_its_sigma_in_units_of_255(bit_depth):
    image = flat(1200, 1200, bit_depth=bit_depth)
    got = degraded(image, 2, made(noise_range=[10, 10]), "a").pixels * 255
    error = got - image.pixels[0, 0, 0] * 255
    expected = (100 + (1 / 12 if bit_depth == 8 else 0)) ** 0.5  # 8 bits round
    assert float(error.std()) == pytest.approx(expected, rel=0.002)
    assert abs(float(error.mean())) < 0.1
    assert abs(float(torch.corrcoef(error.reshape(3, -1))[0, 1])) < 0.02


@pytest.mark.parametrize("value", [0.1, 0.5])
def test_poisson_noise_has_its_variance(value):
    """A flat image has one brightness, so one photon at white: mean and variance of the count are the brightness."""
    image = flat(600, 600, value, 16)
    strength = 0.02
    got = degraded(image, 1, made(poisson_scale_range=[strength, strength]), "a").pixels.double()
    eight_bits = round(value * 255) / 255
    assert float((got - image.pixels).std()) == pytest.approx(strength * eight_bits**0.5, rel=0.01)
    assert float((got - image.pixels).mean()) == pytest.approx(0, abs=strength / 100)


def test_photons_are_as_many_as_brightnesses_rounded_up():
    """Three brightnesses: four photons, so white has a standard deviation of a half."""
    values = torch.tensor([0.0, 0.4, 0.8]).repeat_interleave(100)[None, None].expand(3, 400, 300).contiguous()
    got = degraded(Image(values, bit_depth=16), 1, made(poisson_scale_range=[0.1, 0.1]), "a").pixels.double()
    for part, value in enumerate((0.0, 0.4, 0.8)):
        spread = float(got[:, :, part * 100 : part * 100 + 100].std())
        assert spread == pytest.approx(0.1 * (value / 4) ** 0.5, rel=0.02)


@pytest.mark.parametrize("kind", ["noise_range", "poisson_scale_range"])
def test_grey_noise_is_equal_over_channels_and_happens_as_often_as_it_should(kind):
    image = flat(16, 16)
    strength = [0.3, 0.3] if "poisson" in kind else [20, 20]

    def grey(probability: float, key: str) -> bool:
        got = degraded(image, 1, made(**{kind: strength, "gray_noise_prob": probability}), key).pixels
        assert not torch.equal(got, image.pixels)
        return bool((got[0] == got[1]).all() and (got[1] == got[2]).all())

    assert all(grey(1, str(i)) for i in range(5))
    assert not any(grey(0, str(i)) for i in range(5))
    assert 25 <= sum(grey(0.3, str(i)) for i in range(150)) <= 65


def test_grey_poisson_noise_follows_the_luma():
    """Pure green is 0.587 bright; the noise on all channels has that variance."""
    pixels = torch.zeros(3, 400, 400)
    pixels[1] = 1
    pixels[0] = pixels[2] = 0.4
    luma = round((0.4 * (0.2989 + 0.114) + 0.587) * 255) / 255
    got = degraded(
        Image(pixels, bit_depth=16), 1, made(poisson_scale_range=[0.05, 0.05], gray_noise_prob=1), "a"
    ).pixels.double()
    assert float(got[0].std()) == pytest.approx(0.05 * luma**0.5, rel=0.02)


def test_jpeg_is_better_the_higher_its_quality(photo):
    values = [
        psnr(degraded(photo, 2, made(jpeg_range=[q, q]), "a").pixels, reduced(photo, 2).pixels)
        for q in (1, 10, 30, 50, 70, 90, 100)
    ]
    assert values == sorted(values)
    assert values[0] < 22
    assert values[-1] > 38


def test_jpeg_is_opencvs_in_the_right_order_of_channels(photo):
    import cv2

    small = reduced(photo, 2).pixels.mul(255).round().byte().permute(1, 2, 0).numpy()
    _, data = cv2.imencode(".jpg", small[..., ::-1].copy(), [cv2.IMWRITE_JPEG_QUALITY, 60])
    expected = torch.from_numpy(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].copy()).permute(2, 0, 1)
    got = degraded(photo, 2, made(jpeg_range=[60, 60]), "a").pixels
    assert torch.equal(got.mul(255).round().byte(), expected)


def test_jpeg_leaves_eight_bits_of_sixteen():
    got = degraded(random_image(32, 32, bit_depth=16), 1, made(jpeg_range=[90, 90]), "a")
    steps = got.pixels.double() * 255
    assert got.bit_depth == 16
    assert float((steps - steps.round()).abs().max()) < 1e-2


def test_sixteen_bits_without_jpeg_stay_sixteen():
    got = degraded(random_image(64, 64, bit_depth=16), 2, made(blur_sigma=[1, 1], noise_range=[1, 1]), "a")
    assert len(torch.unique(got.pixels)) > 1000


def test_what_jpeg_cannot_hold_is_the_users_to_mend():
    with pytest.raises(InputError, match=r"sides of at most 65500 pixels, got 65501x1$"):
        degraded(flat(1, 65501), 1, made(jpeg_range=[90, 90]), "a")


@pytest.mark.parametrize("keys", [{}, {"final_sinc_prob": 0}], ids=["first", "second"])
def test_resizing_loses_what_a_smaller_image_cannot_hold(photo, keys):
    """Half of the reduced size loses detail, double does not; and nothing moves."""
    clean = reduced(photo, 2).pixels
    halved, doubled = (
        degraded(photo, 2, made(resize_prob=shares, resize_range=bounds, **keys), "a").pixels
        for shares, bounds in (([0, 1, 0], [0.25, 0.25]), ([1, 0, 0], [2, 2]))
    )
    assert psnr(halved, clean) < psnr(doubled, clean) - 5
    for shift in ((1, 0), (0, 1), (-1, 0), (0, -1)):
        assert psnr(halved, clean) > psnr(halved, clean.roll(shift, (1, 2)))


@pytest.mark.parametrize("factors", [[1, 1.3], [2, 3]])
def test_the_reduction_after_a_resizing_is_antialiased_too(factors):
    """Of independent pixels it must leave as little as the reduction alone does, not every fourth of them."""
    image = random_image(256, 256)
    alone = float(reduced(image, 4).pixels.std())
    for key in "abcdef":
        got = degraded(image, 4, made(resize_prob=[1, 0, 0], resize_range=factors), key)
        assert 0.5 * alone < float(got.pixels.std()) < 1.3 * alone


def test_the_second_pass_happens_near_the_final_size():
    """Noise of the second pass is one pixel fine; that of the first one is averaged over 4 x 4 of its pixels."""
    image = flat(400, 400, bit_depth=16)
    second = degraded(image, 4, made(noise_range2=[10, 10]), "a").pixels.std() * 255
    first = degraded(image, 4, made(noise_range=[10, 10], final_sinc_prob=0), "a").pixels.std() * 255
    alone = degraded(image, 4, made(noise_range=[10, 10]), "a").pixels.std() * 255
    assert float(second) == pytest.approx(10, rel=0.02)
    assert float(alone) == pytest.approx(10, rel=0.02)
    assert float(first) == pytest.approx(10 * averaging(4), rel=0.03)


def averaging(scale: int) -> float:
    """What MATLAB's bicubic reduction leaves of the deviation of independent pixels, from its weights."""
    t = np.abs((np.arange(4 * scale) + 0.5 - 2 * scale) / scale)
    weights = np.where(t <= 1, 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2)
    weights /= weights.sum()
    return float((weights**2).sum())  # of both axes: the root of the square


def test_stages_follow_one_another_as_published(monkeypatch):
    """The last sinc filter and JPEG in either order for half of the images; each way of resizing for a third."""
    done: list[str] = []
    modes: list[str] = []

    def noted(name: str) -> Any:
        real = getattr(degradations, name)

        def wrapped(*taken: Any, **named: Any) -> Any:
            done.append(name[1:])
            modes.extend(way for way in taken if isinstance(way, str))
            return real(*taken, **named)

        return wrapped

    for name in ("_filtered", "_interpolated", "_noisy", "_compressed"):
        monkeypatch.setattr(degradations, name, noted(name))
    always = {"second_blur_prob": 1, "final_sinc_prob": 1}
    start = ["filtered", "interpolated", "noisy", "compressed", "filtered", "interpolated", "noisy"]
    endings = {("interpolated", "filtered", "compressed"): 0, ("compressed", "interpolated", "filtered"): 0}
    for i in range(100):
        done.clear()
        degraded(flat(16, 16), 2, made(**FULL | SECOND | always), str(i))
        assert done[:7] == start
        endings[tuple(done[7:])] += 1
    assert min(endings.values()) > 30
    assert all(70 <= modes.count(way) <= 130 for way in ("area", "bilinear", "bicubic"))  # of 300


def test_probabilities_are_shares_of_the_images(monkeypatch):
    used: list[int] = []
    real = degradations._filtered
    monkeypatch.setattr(degradations, "_filtered", lambda p, kernel: used.append(len(kernel)) or real(p, kernel))
    for i in range(200):
        degraded(flat(2, 2), 1, made(second_blur_prob=0.3), str(i))
    assert 40 <= len(used) <= 80
    assert set(used) == {21}
    used.clear()
    for i in range(200):
        degraded(flat(2, 2), 1, made(final_sinc_prob=0.7, blur_kernel_size=[3, 5]), str(i))
    small, large = [side for side in used if side < 7], [side for side in used if side >= 7]
    assert len(small) == 200
    assert 75 <= small.count(3) <= 125
    assert 115 <= len(large) <= 165
    assert set(large) == set(range(7, 22, 2))


def test_kernels_are_drawn_by_their_shares(monkeypatch):
    drawn: list[tuple[str, float, float, float, float]] = []

    def seen(kind: str, size: int, *shape: float) -> Any:
        drawn.append((kind, *shape))
        return blur_kernel(kind, size, *shape)

    monkeypatch.setattr(degradations, "blur_kernel", seen)
    keys = {"kernel_list": ["aniso", "plateau_iso"], "kernel_prob": [0.2, 0.6], "blur_sigma": [1, 2]}
    for i in range(300):
        degraded(flat(2, 2), 1, made(**keys, betap_range=[0.25, 3]), str(i))
    assert 50 <= sum(kind == "aniso" for kind, *_ in drawn) <= 100
    _, first, second, rotation, _ = zip(*drawn, strict=True)
    for values, low, high in ((first, 1, 2), (second, 1, 2), (rotation, -np.pi, np.pi)):
        assert low <= min(values) <= max(values) <= high
        assert (min(values), max(values)) == pytest.approx((low, high), abs=0.1)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2
    betas = [beta for kind, *_, beta in drawn if kind == "plateau_iso"]
    assert 0.25 <= min(betas) < 0.4
    assert 2.7 < max(betas) <= 3
    assert 0.4 < np.mean(np.array(betas) < 1) < 0.6  # half on either side of 1, however far the bounds are


def test_low_passes_are_drawn_as_published(monkeypatch):
    drawn: list[tuple[int, float]] = []
    monkeypatch.setattr(
        degradations, "sinc_kernel", lambda size, cutoff: drawn.append((size, cutoff)) or np.ones((1, 1))
    )
    for keys, lowest in (
        ({"sinc_prob": 1, "blur_kernel_size": 11}, np.pi / 3),
        ({"sinc_prob": 1, "blur_kernel_size": 13}, np.pi / 5),
        ({"final_sinc_prob": 1}, np.pi / 3),
    ):
        drawn.clear()
        for i in range(300):
            degraded(flat(2, 2), 1, made(**keys), str(i))
        cutoffs = [cutoff for _, cutoff in drawn]
        assert (min(cutoffs), max(cutoffs)) == pytest.approx((lowest, np.pi), abs=0.04)
        assert lowest <= min(cutoffs) <= max(cutoffs) <= np.pi


@given(st.floats(0.01, 5), st.floats(0, 5), st.booleans(), st.integers(0, 9))
def test_what_is_drawn_around_one_stays_in_its_range(low, width, above, seed):
    got = degradations._around_one((low, low + width), above, np.random.default_rng(seed))
    assert low <= got <= low + width
    if low <= 1 <= low + width:
        assert got >= 1 if above else got <= 1


@needs_basicsr
def test_images_are_as_bad_as_trainings(photo):
    """Draws differ, distances from the clean reduction agree: PSNR over many draws of either.

    Training's are a little worse: its resizing by a factor cuts off a part of a pixel, and so shifts the picture.
    """
    import hatdet.training  # noqa: F401

    # isort: split
    from basicsr.data.degradations import circular_lowpass_kernel, random_mixed_kernels

    from hatdet.training.degradation import degrade, jpeg_on

    gt, jpeg = Image(photo.pixels[:, :128, :128].contiguous()), jpeg_on(torch.device("cpu"))
    clean, options = reduced(gt, 4).pixels, FULL | SECOND
    sides = list(range(7, 22, 2))

    def kernel(end: str) -> torch.Tensor:
        side = random.choice(sides)
        if np.random.uniform() < options[f"sinc_prob{end}"]:
            low = np.pi / 3 if side < 13 else np.pi / 5
            return padded(circular_lowpass_kernel(np.random.uniform(low, np.pi), side))
        sigma, betas = options[f"blur_sigma{end}"], (options[f"betag_range{end}"], options[f"betap_range{end}"])
        names, shares = options[f"kernel_list{end}"], options[f"kernel_prob{end}"]
        return padded(random_mixed_kernels(names, shares, side, sigma, sigma, [-np.pi, np.pi], *betas))

    def last() -> torch.Tensor:
        if np.random.uniform() >= options["final_sinc_prob"]:
            return padded(np.ones((1, 1)))
        return padded(circular_lowpass_kernel(np.random.uniform(np.pi / 3, np.pi), random.choice(sides)))

    def padded(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.pad(array, (21 - len(array)) // 2)).float()[None]

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    theirs, ours = [], []
    with np.errstate(invalid="ignore", divide="ignore"):
        for i in range(100):
            got = degrade(gt.pixels[None], kernel(""), kernel("2"), last(), options, 4, jpeg)[0]
            theirs.append(psnr(got, clean))
            ours.append(psnr(degraded(gt, 4, made(**options), str(i)).pixels, clean))
    assert np.mean(ours) == pytest.approx(np.mean(theirs), abs=0.8)
    assert np.std(ours) == pytest.approx(np.std(theirs), rel=0.25)


@pytest.mark.parametrize(("scale", "h", "w"), [(2, 5, 4), (4, 8, 6), (0, 4, 4)])
def test_sides_that_the_scale_does_not_divide_are_misuse(scale, h, w):
    with pytest.raises(ValueError, match=f"multiples of scale {scale}, got {w}x{h}"):
        degraded(flat(h, w), scale, made(noise_range=[1, 2]), "a")


# ------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("path", REAL_HAT, ids=lambda path: path.stem)
def test_real_hats_option_files_can_be_read(path):
    assert Degradation.read(path) == made(**FULL, **SECOND)


def test_an_option_file_is_its_top_and_its_training_set():
    """The rest is not looked at; sides of kernels are drawn as BasicSR draws them, whatever the file says."""
    training = {"blur_kernel_size": 15, "blur_sigma": [1, 2], "name": "DF2K"}
    options = {
        "noise_range": [1, 2],
        "blur_sigma": [3, 4],
        "jpeg": 7,
        "val": {"jpeg_range": [0, 0]},
        "datasets": {"train": training, "val": {"jpeg_range": [0, 0]}},
    }
    assert Degradation.from_options(options, "it") == made(
        blur_kernel_size=[7, 21], blur_sigma=[1, 2], noise_range=[1, 2]
    )


def test_there_are_option_files_to_read():
    assert len(REAL_HAT) >= 2


def test_a_flat_file_is_read_with_defaults_for_what_it_leaves_out(tmp_path):
    path = tmp_path / "bad.yml"
    path.write_text("\ufeffblur_sigma: [0.5, 2]\nnoise_range: [1, 1e1]\njpeg_range: [40, 90]\nseed: 4\n")
    got = Degradation.read(path)
    assert got.second is None
    assert got.seed == 4
    assert got.first.blur is not None
    assert (got.first.blur.kernels, got.first.blur.sizes, got.first.blur.sinc_share) == (("iso",), (21, 21), 0)
    assert got.first.noise is not None
    assert (got.first.noise.gaussian_share, got.first.noise.sigma, got.first.noise.grey_share) == (1, (1, 10), 0)
    assert (got.first.resizing, got.first.jpeg) == (None, (40, 90))
    assert describe(got) == "blur sigma 0.5-2, noise 1-10, JPEG 40-90, seed 4 (first order)"


@pytest.mark.parametrize(
    ("keys", "share"),
    [
        ({"noise_range": [1, 2]}, 1),
        ({"poisson_scale_range": [1, 2]}, 0),
        ({"noise_range": [1, 2], "poisson_scale_range": [1, 2]}, 0.5),
        ({"gray_noise_prob": 1}, 0.5),
        ({"noise_range": [1, 2], "gaussian_noise_prob": 0.25}, 0.25),
    ],
)
def test_the_kind_of_noise_follows_from_what_is_given(keys, share):
    for end in ("", "2"):
        got = made(**{key + end: value for key, value in keys.items()})
        noise = (got.second if end else got.first).noise
        assert noise.gaussian_share == share


@pytest.mark.parametrize("key", sorted(SECOND))
def test_any_key_of_the_second_pass_makes_it_second_order(key):
    value = ["iso"] * 6 if key == "kernel_list2" else [1] if key == "kernel_prob2" else SECOND[key]
    assert made(**{key: value}).second is not None
    assert made(**{key: value}).first == Degradation().first


def test_left_out_values_are_the_published_ones_of_their_pass():
    rest = {"resize_range", "betag_range", "betap_range", "blur_sigma", "noise_range", "poisson_scale_range"}
    some = {key: value for key, value in (FULL | SECOND).items() if key.rstrip("2") not in rest}
    assert made(**some) == made(**FULL, **SECOND)
    assert made(resize_range=FULL["resize_range"]) == made(resize_prob=FULL["resize_prob"])
    assert made(resize_range2=SECOND["resize_range2"]) == made(resize_prob2=SECOND["resize_prob2"])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"seed": 2}, "bicubic, seed 2 (first order)"),
        ({"noise_range": [5, 5], "seed": 1}, "noise 5, seed 1 (first order)"),
        ({"jpeg_range2": [40, 90]}, "JPEG 40-90, seed 0 (second order)"),
        (
            {"blur_sigma": [0.2, 3], "jpeg_range2": [30, 95], "final_sinc_prob": 0.8},
            "blur sigma 0.2-3; then JPEG 30-95, sinc, seed 0 (second order)",
        ),
        (
            FULL,
            "sinc or blur sigma 0.2-3, resizing 0.15-1.5, noise 1-30, Poisson noise 0.05-3, JPEG 30-95, "
            "seed 0 (first order)",
        ),
        ({"poisson_scale_range": [0.1, 1]}, "Poisson noise 0.1-1, seed 0 (first order)"),
    ],
)
def test_a_degradation_in_a_line(keys, said):
    assert describe(made(**keys)) == said


WRONG = [
    ({"noise_rnage": [1, 2]}, "'noise_rnage' is not known: did you mean noise_range"),
    ({"zoom": 1}, "'zoom' is not known: known are blur_kernel_size, kernel_list,"),
    ({7: 1}, "7 is not known"),
    ({"a\nb": 1}, r"'a\nb' is not known"),
    ({"network_g": {}}, "'network_g' is not known"),
    ({"blur_sigma": [2, 1]}, "blur_sigma must be two numbers from 0.01, the smaller first, got [2, 1]"),
    ({"blur_sigma2": [0, 1]}, "blur_sigma2 must be two numbers from 0.01"),
    ({"blur_sigma": 2}, "blur_sigma must be two numbers from 0.01, the smaller first, got 2"),
    ({"blur_sigma": "12"}, "blur_sigma must be two numbers"),
    ({"blur_sigma": None}, "blur_sigma must be two numbers from 0.01, the smaller first, got ~"),
    ({"blur_sigma": [1, 2, 3]}, "blur_sigma must be two numbers"),
    ({"blur_sigma": [1, [2]]}, "blur_sigma must be two numbers"),
    ({"blur_sigma": [1, float("nan")]}, "blur_sigma must be two numbers"),
    ({"blur_sigma": [1, 10**400]}, "blur_sigma must be two numbers"),
    ({"noise_range": [True, 2]}, "noise_range must be two numbers from 0,"),
    ({"noise_range2": [-1, 2]}, "noise_range2 must be two numbers from 0,"),
    ({"poisson_scale_range": ["a", 2]}, "poisson_scale_range must be two numbers from 0,"),
    ({"betag_range": [0, 2]}, "betag_range must be two numbers from 0.01"),
    ({"betap_range2": [0, 2]}, "betap_range2 must be two numbers from 0.01"),
    ({"resize_range": [0, 2]}, "resize_range must be two numbers from 0.01"),
    ({"jpeg_range": [0, 90]}, "jpeg_range must be two numbers from 1 to 100, the smaller first, got [0, 90]"),
    ({"jpeg_range2": [30, 101]}, "jpeg_range2 must be two numbers from 1 to 100"),
    ({"sinc_prob": 1.5}, "sinc_prob must be a probability from 0 to 1, got 1.5"),
    ({"sinc_prob2": -0.1}, "sinc_prob2 must be a probability"),
    ({"final_sinc_prob": [0.5]}, "final_sinc_prob must be a probability"),
    ({"second_blur_prob": True}, "second_blur_prob must be a probability from 0 to 1, got True"),
    ({"gray_noise_prob": "often"}, "gray_noise_prob must be a probability"),
    ({"gaussian_noise_prob2": 2}, "gaussian_noise_prob2 must be a probability"),
    (
        {"resize_prob": [1, 0]},
        "resize_prob must be a list of 3, probabilities from 0 to 1, not all of them 0, got [1, 0]",
    ),
    ({"resize_prob2": [0, 0, 0]}, "resize_prob2 must be a list of 3"),
    ({"kernel_prob": [0.5, 0.5]}, "kernel_prob must be a list of 1"),
    ({"kernel_list": ["iso", "aniso"], "kernel_prob": [0.5, 2]}, "kernel_prob must be a list of 2"),
    ({"kernel_list": ["isso"]}, "kernel_list must be a list of some of iso, aniso,"),
    ({"kernel_list2": []}, "kernel_list2 must be a list"),
    ({"kernel_list": "iso"}, "kernel_list must be a list"),
    ({"kernel_list": [["iso"]]}, "kernel_list must be a list"),
    (
        {"blur_kernel_size": 20},
        "blur_kernel_size must be an odd number from 1 to 99, or two, the smaller first, got 20",
    ),
    ({"blur_kernel_size2": 0}, "blur_kernel_size2 must be an odd number"),
    ({"blur_kernel_size": 101}, "blur_kernel_size must be an odd number"),
    ({"blur_kernel_size": [21, 7]}, "blur_kernel_size must be an odd number"),
    ({"blur_kernel_size": 7.5}, "blur_kernel_size must be an odd number"),
    ({"seed": -1}, "seed must be a whole number from 0, got -1"),
    ({"seed": 1.5}, "seed must be a whole number"),
    ({"seed": True}, "seed must be a whole number"),
    ({"datasets": [1]}, "datasets:train must be a section of keys, got [1]"),
    ({"datasets": {"train": None}}, "datasets:train must be a section of keys, got ~"),
    ({"datasets": {"train": {"name": "a"}}, "scale": 4}, "degrades nothing: expected keys such as blur_sigma"),
    ({"datasets": {"train": {"blur_sigma": [3, 1]}}}, "blur_sigma must be two numbers"),
    ({}, "degrades nothing: expected keys such as blur_sigma"),
]


@pytest.mark.parametrize(("keys", "said"), WRONG, ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_said_in_a_line(keys, said):
    with pytest.raises(OptionsError) as caught:
        Degradation.from_options(keys, "bad.yml")
    text = str(caught.value)
    assert text.startswith("bad.yml")
    assert said in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "degrades nothing"),
        ("# nothing\n", "degrades nothing"),
        ("- 1\n", "expected keys such as blur_sigma, noise_range, jpeg_range, got [1]"),
        ("blur_sigma: [1,\nb", "cannot be read as YAML: "),
        ("seed: 2026-99-99\n", "cannot be read as YAML: "),
        ("a: !!python/object:os.system 1\n", "cannot be read as YAML: "),
        ("[" * 5000, "cannot be read as YAML: "),
        ("\0", "cannot be read as YAML: "),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_broken_file_is_named_in_a_line(text, said, tmp_path):
    path = tmp_path / "bad.yml"
    path.write_text(text)
    with pytest.raises(OptionsError) as caught:
        Degradation.read(path)
    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path):
    with pytest.raises(OptionsError, match=r"none.yml cannot be read: No such file or directory$"):
        Degradation.read(tmp_path / "none.yml")
    (tmp_path / "bytes.yml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(OptionsError, match=r"bytes.yml cannot be read as YAML: "):
        Degradation.read(tmp_path / "bytes.yml")


def test_a_complaint_stays_short_whatever_aliases_a_file_has(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    path = tmp_path / "bomb.yml"
    path.write_text("\n".join([*lines, "datasets: {train: {blur_sigma: *a11}}"]))
    with pytest.raises(OptionsError, match="blur_sigma must be two numbers") as caught:
        Degradation.read(path)
    assert len(str(caught.value)) < 300


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([*KERNELS, "1e1", "x", "\n"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from([*FULL, *SECOND, "seed", "datasets", "other"]), VALUES, max_size=3))
def test_whatever_a_file_says_is_read_or_refused_in_a_line(keys):
    try:
        said = describe(Degradation.from_options(keys, "bad.yml"))
    except OptionsError as error:
        said = str(error)
    assert len(said.splitlines()) == 1


def test_yamls_own_dump_of_a_degradation_reads_the_same(tmp_path):
    path = tmp_path / "same.yml"
    path.write_text(yaml.safe_dump(FULL | SECOND | {"seed": 9}))
    assert Degradation.read(path) == made(**FULL, **SECOND, seed=9)
