"""From a good photo the bad one of low resolution, the same one every time: test images of real-world kind.

Blur, resizing, noise and JPEG, once or twice, by the names that BasicSR's option files have for their parameters.
X. Wang, L. Xie, C. Dong, Y. Shan, "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data",
2021, https://arxiv.org/abs/2107.10833, sections 3 and 4. Training degrades batches of equal crops on the accelerator;
here it is one image of any size, with real JPEG, and what is random follows from the image's name.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch.nn import functional as F

from hatdet.core.errors import InputError, OptionsError
from hatdet.core.types import Image
from hatdet.imaging.resize import reduced

__all__ = ["Degradation", "blur_kernel", "degraded", "describe", "sinc_kernel"]

Range = tuple[float, float]
Pixels = NDArray[np.float32]  # (h, w, 3), RGB

KERNELS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
_BLUR = ("blur_kernel_size", "kernel_list", "kernel_prob", "sinc_prob", "blur_sigma", "betag_range", "betap_range")
_RESIZING = ("resize_prob", "resize_range")
_NOISE = ("gaussian_noise_prob", "noise_range", "poisson_scale_range", "gray_noise_prob")
_FIRST = (*_BLUR, *_RESIZING, *_NOISE, "jpeg_range")
_SECOND = (*(f"{key}2" for key in _FIRST), "second_blur_prob", "final_sinc_prob")
_KNOWN = (*_FIRST, *_SECOND, "seed")
_PUBLISHED: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {  # Real-ESRGAN's, of both passes
    "blur_sigma": ((0.2, 3), (0.2, 1.5)),
    "betag_range": ((0.5, 4), (0.5, 4)),
    "betap_range": ((1, 2), (1, 2)),
    "resize_prob": ((0.2, 0.7, 0.1), (0.3, 0.4, 0.3)),
    "resize_range": ((0.15, 1.5), (0.3, 1.2)),
    "noise_range": ((1, 30), (1, 25)),
    "poisson_scale_range": ((0.05, 3), (0.05, 2.5)),
}
_SIZES = (7, 21)  # sides of its kernels
_LARGEST_KERNEL = 99
_LARGEST_JPEG = 65500  # pixels along a side
_GREY = np.array([0.2989, 0.587, 0.114], np.float32)  # of red, green and blue
_EXPECTED = "expected keys such as blur_sigma, noise_range, jpeg_range"


# ------------------------------------------------------------------------------------------ 1. what is done


@dataclass(frozen=True)
class Blur:
    """A low-pass filter in `sinc_share` of the images, else one of `kernels` by their `shares`.

    `sizes` are the smallest and the largest side, odd; sigmas are in pixels; `betag` and `betap` are the exponents of
    the generalized and of the plateau kernels.
    """

    kernels: tuple[str, ...]
    shares: tuple[float, ...]
    sizes: tuple[int, int]
    sinc_share: float
    sigma: Range
    betag: Range
    betap: Range


@dataclass(frozen=True)
class Resizing:
    """By a factor from 1 to the upper bound, from the lower bound to 1, or not at all, with these three shares."""

    shares: tuple[float, ...]
    factors: Range


@dataclass(frozen=True)
class Noise:
    """Gaussian of `sigma` / 255 with this share, else Poisson's times `poisson`; grey in `grey_share`, else colour."""

    gaussian_share: float
    sigma: Range
    poisson: Range
    grey_share: float


@dataclass(frozen=True)
class Pass:
    """The stages of one pass, in their order; None for one that is left out. `jpeg` is a range of qualities."""

    blur: Blur | None = None
    resizing: Resizing | None = None
    noise: Noise | None = None
    jpeg: Range | None = None


@dataclass(frozen=True)
class Degradation:
    """How low-resolution images are made: by the `first` pass alone, or by a `second` one too.

    Keys of a file, each of them optional, are BasicSR's: `blur_kernel_size`, `kernel_list`, `kernel_prob`, `sinc_prob`,
    `blur_sigma`, `betag_range`, `betap_range`; `resize_prob`, `resize_range`; `gaussian_noise_prob`, `noise_range`,
    `poisson_scale_range`, `gray_noise_prob`; `jpeg_range`; the same with a `2` at the end for the second pass,
    `second_blur_prob` and `final_sinc_prob`. And `seed`, which is 0 if left out.

    One key gives its whole stage. What else the stage needs: the ranges and the `resize_prob` that Real-ESRGAN
    published; the kernel `iso` and kernels of side 21, all equally likely; the kind of noise whose range is given, or
    both by halves; a stage that is given always happens; grey noise and sinc filters never do.

    `blur_kernel_size` is an odd number, or two that sides are drawn between. In BasicSR's option files it has no
    effect: there training draws sides from 7 to 21, and so it is here.
    """

    first: Pass = Pass()
    second: Pass | None = None
    second_blur_share: float = 1.0
    final_sinc_share: float = 0.0
    seed: int = 0

    @staticmethod
    def read(path: Path) -> Degradation:
        """From a YAML file of flat keys, or from BasicSR's option file.

        Raises:
            OptionsError: the file cannot be read or is no YAML, or as for `from_options`.
        """
        try:
            loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise OptionsError(f"{path} cannot be read: {error.strerror or error}") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise OptionsError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
        if not isinstance(loaded, dict | None):
            raise OptionsError(f"{path}: {_EXPECTED}, got {_shown(loaded)}")
        return Degradation.from_options(loaded or {}, str(path))

    @staticmethod
    def from_options(mapping: Mapping[str, Any], name: str) -> Degradation:
        """From flat keys; or, where there are `datasets`, from the top and `datasets:train` of BasicSR's options.

        Raises:
            OptionsError: a flat key that is not known, a value that cannot be, or no key at all. One line, which begins
                with `name`.
        """
        if "datasets" in mapping:
            sets = mapping["datasets"]
            training = sets.get("train", {}) if isinstance(sets, Mapping) else sets
            if not isinstance(training, Mapping):
                raise OptionsError(f"{name}: datasets:train must be a section of keys, got {_shown(training)}")
            mapping = {key: value for key, value in {**mapping, **training}.items() if key in _KNOWN}
            mapping |= {key: _SIZES for key in ("blur_kernel_size", "blur_kernel_size2") if key in mapping}
        for key in mapping:
            if key not in _KNOWN:
                near = difflib.get_close_matches(str(key), _KNOWN, n=3)
                hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(_KNOWN)}"
                raise OptionsError(f"{name}: {_shown(key)} is not known: {hint}")
        if not mapping:
            raise OptionsError(f"{name} degrades nothing: {_EXPECTED}")
        first = _Given(mapping, name, 0)
        return Degradation(
            first=first.stages(),
            second=_Given(mapping, name, 1).stages() if first.has(*_SECOND) else None,
            second_blur_share=first.share("second_blur_prob", 1.0),
            final_sinc_share=first.share("final_sinc_prob", 0.0),
            seed=first.seed(),
        )


def describe(degradation: Degradation) -> str:
    """One line for a report, such as `blur sigma 0.5-2, noise 1-10, JPEG 40-90, seed 0 (first order)`."""
    first, second = _said(degradation.first), _said(degradation.second or Pass())
    second += ["sinc"] if degradation.final_sinc_share else []
    said = "; then ".join(", ".join(each) for each in (first, second) if each) or "bicubic"
    return f"{said}, seed {degradation.seed} ({'second' if degradation.second else 'first'} order)"


def _said(stages: Pass) -> list[str]:
    blur, noise, said = stages.blur, stages.noise, list[tuple[str, Range]]()
    if blur:
        said.append(("sinc or blur sigma" if blur.sinc_share else "blur sigma", blur.sigma))
    if stages.resizing:
        said.append(("resizing", stages.resizing.factors))
    if noise and noise.gaussian_share > 0:
        said.append(("noise", noise.sigma))
    if noise and noise.gaussian_share < 1:
        said.append(("Poisson noise", noise.poisson))
    if stages.jpeg:
        said.append(("JPEG", stages.jpeg))
    return [f"{what} {low:g}" + (f"-{high:g}" if high > low else "") for what, (low, high) in said]


# ------------------------------------------------------------------------------------------ 2. reading keys


@dataclass(frozen=True)
class _Given:
    """The keys of a file as one pass, 0 or 1, reads them."""

    values: Mapping[str, Any]
    name: str
    turn: int

    def stages(self) -> Pass:
        end = "2" if self.turn else ""
        blur, resizing, noise = ([key + end for key in keys] for keys in (_BLUR, _RESIZING, _NOISE))
        made: dict[str, Any] = {}
        if self.has(*blur, *(["second_blur_prob"] if end else [])):
            kernels = self._kernels("kernel_list" + end)
            made["blur"] = Blur(
                kernels=kernels,
                shares=self._shares("kernel_prob" + end, [1.0] * len(kernels)),
                sizes=self._sizes("blur_kernel_size" + end),
                sinc_share=self.share("sinc_prob" + end, 0.0),
                sigma=self._bounds("blur_sigma", 0.01),
                betag=self._bounds("betag_range", 0.01),
                betap=self._bounds("betap_range", 0.01),
            )
        if self.has(*resizing):
            shares = self._shares("resize_prob" + end, _PUBLISHED["resize_prob"][self.turn])
            made["resizing"] = Resizing(shares, self._bounds("resize_range", 0.01))
        if self.has(*noise):
            gaussian, poisson = self.has("noise_range" + end), self.has("poisson_scale_range" + end)
            made["noise"] = Noise(
                gaussian_share=self.share("gaussian_noise_prob" + end, 0.5 if gaussian == poisson else float(gaussian)),
                sigma=self._bounds("noise_range", 0),
                poisson=self._bounds("poisson_scale_range", 0),
                grey_share=self.share("gray_noise_prob" + end, 0.0),
            )
        if self.has("jpeg_range" + end):
            made["jpeg"] = self._bounds("jpeg_range", 1, 100)
        return Pass(**made)

    def has(self, *keys: str) -> bool:
        return any(key in self.values for key in keys)

    def share(self, key: str, default: float) -> float:
        found = _numbers([self.values.get(key, default)])
        if not found or not 0 <= found[0] <= 1:
            raise self._wrong(key, "a probability from 0 to 1")
        return found[0]

    def seed(self) -> int:
        value = self.values.get("seed", 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self._wrong("seed", "a whole number from 0")
        return value

    def _bounds(self, name: str, least: float, most: float = math.inf) -> Range:
        key = name + ("2" if self.turn else "")
        found = _numbers(self.values[key] if key in self.values else _PUBLISHED[name][self.turn])
        if len(found) != 2 or not least <= found[0] <= found[1] <= most:
            limits = f"from {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
            raise self._wrong(key, f"two numbers {limits}, the smaller first")
        return found[0], found[1]

    def _shares(self, key: str, default: Sequence[float]) -> tuple[float, ...]:
        found = _numbers(self.values.get(key, default))
        if len(found) != len(default) or not all(0 <= each <= 1 for each in found) or not sum(found):
            raise self._wrong(key, f"a list of {len(default)}, probabilities from 0 to 1, not all of them 0")
        return found

    def _sizes(self, key: str) -> tuple[int, int]:
        value = self.values.get(key, _SIZES[1])
        found = _numbers(value if isinstance(value, list | tuple) else [value, value])
        if len(found) != 2 or not 1 <= found[0] <= found[1] <= _LARGEST_KERNEL or any(side % 2 != 1 for side in found):
            raise self._wrong(key, f"an odd number from 1 to {_LARGEST_KERNEL}, or two, the smaller first")
        return int(found[0]), int(found[1])

    def _kernels(self, key: str) -> tuple[str, ...]:
        value = self.values.get(key, ["iso"])
        if not isinstance(value, list | tuple) or not value or any(each not in KERNELS for each in value):
            raise self._wrong(key, f"a list of some of {', '.join(KERNELS)}")
        return tuple(value)

    def _wrong(self, key: str, expected: str) -> OptionsError:
        return OptionsError(f"{self.name}: {key} must be {expected}, got {_shown(self.values[key])}")


def _numbers(value: Any) -> tuple[float, ...]:
    """A list's numbers, if all are finite, else none; a text counts that YAML 1.1 does not take for one, as 1e1."""
    if not isinstance(value, list | tuple) or any(isinstance(each, bool) for each in value):
        return ()
    try:
        found = tuple(map(float, value))
    except (TypeError, ValueError, OverflowError):
        return ()
    return found if all(map(math.isfinite, found)) else ()


def _shown(value: Any) -> str:
    """A value in a complaint: one line and never long, whatever aliases the file has."""
    return "~" if value is None else reprlib.repr(value)[:60]


# ------------------------------------------------------------------------------------------ 3. kernels


def blur_kernel(
    kind: str, size: int, sigma_x: float, sigma_y: float = 0.0, rotation: float = 0.0, beta: float = 1.0
) -> NDArray[np.float64]:
    """A blur of two dimensions: `(size, size)`, size odd, the sum 1.

    With q the squared distance from the centre in sigmas: Gaussian exp(-q / 2), generalized Gaussian
    exp(-q^beta / 2), plateau 1 / (1 + q^beta); section 3.1 of the paper.

    Args:
        kind: one of `KERNELS`; those that end in `iso` are round and take `sigma_x` alone.
        size: of a side.
        sigma_x, sigma_y: in pixels, along the axes of the ellipse.
        rotation: of the ellipse, in radians.
        beta: of the generalized and plateau kernels.

    Raises:
        ValueError: another kind.
    """
    if kind not in KERNELS:
        raise ValueError(f"kind must be one of {', '.join(KERNELS)}, got {kind!r}")
    if not kind.endswith("aniso"):
        sigma_y, rotation = sigma_x, 0.0
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    along, across = x * np.cos(rotation) + y * np.sin(rotation), y * np.cos(rotation) - x * np.sin(rotation)
    squared = (along / sigma_x) ** 2 + (across / sigma_y) ** 2
    with np.errstate(over="ignore"):  # infinity has the right limit
        if kind.startswith("plateau"):
            values = 1 / (1 + squared**beta)
        else:
            values = np.exp(-(squared**beta if kind.startswith("generalized") else squared) / 2)
    kernel: NDArray[np.float64] = values / values.sum()
    return kernel


def sinc_kernel(size: int, cutoff: float) -> NDArray[np.float64]:
    """The ideal round low-pass, cut to `(size, size)`, size odd, the sum 1; `cutoff` in radians a pixel, up to pi.

    cutoff J1(cutoff r) / (2 pi r), J1 being Bessel's function; section 3.3 of the paper.
    """
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    radius = np.hypot(x, y)
    radius[size // 2, size // 2] = 1  # the centre is a limit
    # Its integral, by the midpoint rule, which is exact for a period: PyTorch's function has six digits only.
    angle = (np.arange(256) + 0.5) * (np.pi / 256)
    bessel = np.cos(angle - cutoff * radius[..., None] * np.sin(angle)).mean(-1)
    values = cutoff * bessel / (2 * np.pi * radius)
    values[size // 2, size // 2] = cutoff**2 / (4 * np.pi)
    kernel: NDArray[np.float64] = values / values.sum()
    return kernel


# ------------------------------------------------------------------------------------------ 4. degrading


def degraded(image: Image, scale: int, degradation: Degradation, key: str) -> Image:
    """The low-resolution image that the degradation makes; what is random in it follows from its seed and `key` alone.

    First order: blur, resizing, MATLAB's bicubic reduction to the size (`resize.reduced`; after a resizing its
    kernel without its rounding), noise, JPEG. With no stages it is that reduction.

    Second order, as in Real-ESRGAN: blur, resizing, noise, JPEG; blur, resizing near the final size (without that
    stage, the reduction above), noise; resizing to the size and the sinc filter, before or after JPEG.

    JPEG has 8 bits a sample: of a 16-bit image, whatever has gone through it has 8 bits left.

    Args:
        image: of high resolution, its sides multiples of `scale`.
        scale: how many times smaller the result is, from 1.
        degradation: what is done.
        key: names the image, such as its path below its folder.

    Returns:
        `scale` 1 and the image's bit depth, rounded to it, on the CPU. For one version of NumPy and OpenCV it is the
        same in every process, whatever was made before.

    Raises:
        ValueError: sides that the scale does not divide.
        InputError: a side longer than JPEG can have.
    """
    if scale < 1 or image.height % scale or image.width % scale:
        raise ValueError(f"sides must be multiples of scale {scale}, got {image.width}x{image.height}")
    digest = hashlib.sha256(f"{degradation.seed}:{key}".encode("utf-8", "surrogatepass")).digest()
    dice = np.random.default_rng(int.from_bytes(digest, "big"))
    size = image.height // scale, image.width // scale
    first, second = degradation.first, degradation.second

    picture: Pixels = image.pixels.permute(1, 2, 0).cpu().contiguous().numpy()
    if first.blur:
        picture = _blurred(picture, first.blur, dice)
    if first.resizing:
        picture = _resized(picture, picture.shape[:2], first.resizing, dice)
    if second is None:
        picture = _small(picture, size, scale, image.bit_depth)
        picture = _compressed(_noisy(picture, first.noise, dice), first.jpeg, dice)
    else:
        picture = _compressed(_noisy(picture, first.noise, dice), first.jpeg, dice)
        if second.blur and dice.random() < degradation.second_blur_share:
            picture = _blurred(picture, second.blur, dice)
        if second.resizing:
            picture = _resized(picture, size, second.resizing, dice)
        else:
            picture = _small(picture, size, scale, image.bit_depth)
        picture = _noisy(picture, second.noise, dice)
        sinc_last = dice.random() < 0.5
        if sinc_last:
            picture = _compressed(picture, second.jpeg, dice)
        picture = _interpolated(picture, size, _mode(dice))
        if dice.random() < degradation.final_sinc_share:
            picture = _filtered(picture, sinc_kernel(_side(_SIZES, dice), dice.uniform(np.pi / 3, np.pi)))
        if not sinc_last:
            picture = _compressed(picture, second.jpeg, dice)
    pixels = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))
    return Image(pixels.clamp(0, 1).mul_(image.levels).round_().div_(image.levels), 1, image.bit_depth)


def _blurred(picture: Pixels, blur: Blur, dice: np.random.Generator) -> Pixels:
    size = _side(blur.sizes, dice)
    if dice.random() < blur.sinc_share:
        lowest = np.pi / 3 if size < 13 else np.pi / 5  # a small kernel cannot cut lower
        return _filtered(picture, sinc_kernel(size, dice.uniform(lowest, np.pi)))
    kind = blur.kernels[_chosen(blur.shares, dice)]
    sigma_x, sigma_y = dice.uniform(*blur.sigma, 2)
    beta = _around_one(blur.betap if kind.startswith("plateau") else blur.betag, dice.random() < 0.5, dice)
    return _filtered(picture, blur_kernel(kind, size, sigma_x, sigma_y, dice.uniform(-np.pi, np.pi), beta))


def _filtered(picture: Pixels, kernel: NDArray[np.float64]) -> Pixels:
    """With borders mirrored at the middle of the last pixel; the image may be smaller than the kernel."""
    filtered: Pixels = cv2.filter2D(picture, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    return filtered


def _resized(picture: Pixels, size_hw: Sequence[int], resizing: Resizing, dice: np.random.Generator) -> Pixels:
    """To `size_hw` times a factor."""
    way = _chosen(resizing.shares, dice)
    factor = 1.0 if way == 2 else _around_one(resizing.factors, way == 0, dice)
    return _interpolated(picture, [max(1, int(side * factor)) for side in size_hw], _mode(dice))


def _interpolated(picture: Pixels, size_hw: Sequence[int], mode: str, antialias: bool = False) -> Pixels:
    if picture.shape[:2] == tuple(size_hw):
        return picture
    channels = torch.from_numpy(picture).permute(2, 0, 1)[None]
    resized = F.interpolate(channels, size=tuple(size_hw), mode=mode, antialias=antialias)[0]
    found: Pixels = resized.permute(1, 2, 0).contiguous().numpy()
    return found


def _small(picture: Pixels, size_hw: tuple[int, int], scale: int, bit_depth: int) -> Pixels:
    """MATLAB's reduction; sides whose factors differ, as they do after a random one, with the same kernel (Keys')."""
    if picture.shape[:2] != (size_hw[0] * scale, size_hw[1] * scale):
        return _interpolated(picture, size_hw, "bicubic", antialias=True)
    pixels = torch.from_numpy(picture).permute(2, 0, 1).clamp(0, 1)
    small: Pixels = reduced(Image(pixels, bit_depth=bit_depth), scale).pixels.permute(1, 2, 0).contiguous().numpy()
    return small


def _noisy(picture: Pixels, noise: Noise | None, dice: np.random.Generator) -> Pixels:
    """With noise, in [0, 1]."""
    if noise is None:
        return picture
    gaussian, grey = dice.random() < noise.gaussian_share, dice.random() < noise.grey_share
    seen = picture @ _GREY[:, None] if grey else picture
    if gaussian:
        strength = dice.uniform(*noise.sigma) / 255
        added = dice.standard_normal(seen.shape, np.float32)
    else:
        strength = dice.uniform(*noise.poisson)
        seen = (seen * 255).round().clip(0, 255) / 255
        # As many photons at full brightness as there are brightnesses, rounded up to a power of 2.
        photons = 2 ** math.ceil(math.log2(len(np.unique(seen))))
        added = (dice.poisson(seen * photons) / photons - seen).astype(np.float32)
    return (picture + np.float32(strength) * added).clip(0, 1)


def _compressed(picture: Pixels, qualities: Range | None, dice: np.random.Generator) -> Pixels:
    if qualities is None:
        return picture
    h, w, _ = picture.shape
    if max(h, w) > _LARGEST_JPEG:
        raise InputError(f"an image degraded by JPEG must have sides of at most {_LARGEST_JPEG} pixels, got {w}x{h}")
    samples = (picture.clip(0, 1) * 255).round().astype(np.uint8)[..., ::-1]  # OpenCV's are BGR
    quality = [cv2.IMWRITE_JPEG_QUALITY, round(dice.uniform(*qualities))]
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(samples), quality)
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    found: Pixels = decoded[..., ::-1].astype(np.float32) / np.float32(255)
    return found


def _chosen(shares: Sequence[float], dice: np.random.Generator) -> int:
    return int(dice.choice(len(shares), p=np.array(shares) / sum(shares)))


def _side(sizes: tuple[int, int], dice: np.random.Generator) -> int:
    return int(dice.choice(np.arange(sizes[0], sizes[1] + 1, 2)))


def _mode(dice: np.random.Generator) -> str:
    return ("area", "bilinear", "bicubic")[dice.integers(3)]


def _around_one(bounds: Range, above: bool, dice: np.random.Generator) -> float:
    """A number between 1 and one of the bounds; within them both, whether or not 1 is."""
    low, high = bounds
    one = min(max(low, 1.0), high)
    return float(dice.uniform(one, high) if above else dice.uniform(low, one))
