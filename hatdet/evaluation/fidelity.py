"""How close a picture is to its reference: PSNR and SSIM, by the protocol that super-resolution papers use.

Numbers are comparable only under one protocol, so `Protocol` says in words what was measured and every report prints
it. Equal to BasicSR's `calculate_psnr` and `calculate_ssim` to 1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d  # type: ignore[import-untyped]

__all__ = ["Fidelity", "MeanFidelity", "Protocol", "compare", "mean_fidelity", "psnr", "ssim"]

Pixels = NDArray[np.uint8 | np.uint16]
SSIM_TAPS, SSIM_SIGMA = 11, 1.5
# Y of MATLAB's rgb2ycbcr: limited range, 16 to 235.
LUMA_RGB = (65.481, 128.553, 24.966)
LUMA_OFFSET = 16.0


@dataclass(frozen=True)
class Protocol:
    """What is compared.

    Attributes:
        channel: `Y` of MATLAB's YCbCr (limited range, not rounded), or `RGB`.
        crop: pixels left out along each border; by convention the scale.
    """

    channel: Literal["Y", "RGB"] = "Y"
    crop: int = 4

    def __post_init__(self) -> None:
        if self.crop < 0:
            raise ValueError(f"crop must be at least 0, got {self.crop}")

    def __str__(self) -> str:
        space = ", MATLAB YCbCr" if self.channel == "Y" else ""
        return f"PSNR-{self.channel} and SSIM-{self.channel}, crop {self.crop}{space}"


@dataclass(frozen=True)
class Fidelity:
    """PSNR in dB (infinite for identical pictures) and SSIM; NaN where the picture is smaller than SSIM's window."""

    psnr: float
    ssim: float


@dataclass(frozen=True)
class MeanFidelity:
    """Means over images. Identical pairs have no PSNR: they are counted apart and are in no mean of it.

    Attributes:
        psnr: over the pairs that differ; NaN if none does.
        ssim: over the pairs large enough for it; NaN if none is.
        images: how many pairs there were.
        identical: how many of them were equal.
    """

    psnr: float
    ssim: float
    images: int
    identical: int


def compare(image: Pixels, reference: Pixels, protocol: Protocol) -> Fidelity:
    """PSNR and SSIM of `(h, w, 3)` RGB, uint8 or uint16, against a reference of the same size and type.

    Raises:
        ValueError: sizes or types that differ, or nothing left after the crop.
    """
    a, b = _prepared(image, reference, protocol)
    return Fidelity(psnr(a, b), ssim(a, b))


def mean_fidelity(values: Iterable[Fidelity]) -> MeanFidelity:
    """The means of many comparisons, which one identical pair does not make infinite."""
    values = list(values)
    finite = [value.psnr for value in values if math.isfinite(value.psnr)]
    large = [value.ssim for value in values if not math.isnan(value.ssim)]
    identical = sum(math.isinf(value.psnr) for value in values)
    return MeanFidelity(_mean(finite), _mean(large), len(values), identical)


def psnr(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Peak signal-to-noise ratio in dB of values in [0, 255]; infinite for equal arrays."""
    error = float(np.mean((a - b) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Structural similarity of `(h, w, c)` values in [0, 255], averaged over channels (Z. Wang et al., 2004).

    An 11-tap Gaussian of sigma 1.5, only where it fits whole; NaN for pictures smaller than that.
    """
    if min(a.shape[:2]) < SSIM_TAPS:
        return math.nan
    channels = ((np.ascontiguousarray(one[..., c]) for one in (a, b)) for c in range(a.shape[2]))
    return float(np.mean([_ssim_of_channel(*pair) for pair in channels]))


def _ssim_of_channel(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = _blurred(a), _blurred(b)
    # The formula holds the two variances as a sum only: one blur for both.
    means, product = mean_a**2 + mean_b**2, mean_a * mean_b
    variances = _blurred(a * a + b * b) - means
    covariance = _blurred(a * b) - product
    similarity = (2 * product + c1) * (2 * covariance + c2)
    return float(np.mean(similarity / ((means + c1) * (variances + c2))))


def _prepared(image: Pixels, reference: Pixels, protocol: Protocol) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if image.shape != reference.shape or image.dtype != reference.dtype:
        came = f"{image.shape} {image.dtype} and {reference.shape} {reference.dtype}"
        raise ValueError(f"image and reference must be alike, got {came}")
    crop = protocol.crop
    if min(image.shape[:2]) <= 2 * crop:
        raise ValueError(f"nothing is left of {image.shape[1]}x{image.shape[0]} pixels after a crop of {crop}")
    inside = np.s_[crop : image.shape[0] - crop, crop : image.shape[1] - crop]
    a, b = (_channels(pixels[inside], protocol) for pixels in (image, reference))
    return a, b


def _channels(pixels: Pixels, protocol: Protocol) -> NDArray[np.float64]:
    """`(h, w, c)` in [0, 255]. Y in float32 before float64, as BasicSR has it."""
    levels = 255 if pixels.dtype == np.uint8 else 65535
    if protocol.channel == "RGB":
        return pixels.astype(np.float64) * (255 / levels)
    y = (pixels.astype(np.float32) / np.float32(levels)) @ np.array(LUMA_RGB, np.float64) + LUMA_OFFSET
    return ((y / 255).astype(np.float32) * np.float32(255))[..., None].astype(np.float64)


def _blurred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Gaussian's window over one channel `(h, w)`, where it fits whole."""
    position = np.arange(SSIM_TAPS) - SSIM_TAPS // 2
    kernel = np.exp(-(position**2) / (2 * SSIM_SIGMA**2))
    kernel /= kernel.sum()
    half = SSIM_TAPS // 2
    rows = correlate1d(values, kernel, axis=0, mode="constant")[half:-half]
    blurred: NDArray[np.float64] = correlate1d(rows, kernel, axis=1, mode="constant")[:, half:-half]
    return blurred


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan
