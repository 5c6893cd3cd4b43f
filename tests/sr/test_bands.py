"""From top to bottom it is the same picture, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hatdet.core.errors import DeviceError, InputError, WeightsError
from hatdet.core.types import Image, Upscaler
from hatdet.imaging.carried import Carried
from hatdet.imaging.encoding import FORMATS, samples_of
from hatdet.imaging.files import read_carried, to_array
from hatdet.imaging.tiff_writing import write_tiff_bands
from hatdet.imaging.windows import Windows, held, open_windows
from hatdet.sr import bands
from hatdet.sr.bands import enlarged_bands, needs_bands
from hatdet.sr.upscalers import BicubicUpscaler, HatUpscaler, NearestUpscaler
from tests.helpers import random_image, tiny_hat


class Local(torch.nn.Module):
    """A network that is quick, sees its neighbourhood, and is different at every pixel of it."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        torch.manual_seed(scale)
        self.convolution = torch.nn.Conv2d(3, 3 * scale**2, 5, padding=2)
        self.scale = scale

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pixel_shuffle(self.convolution(tiles), self.scale) + 0.4


def whole(upscaler: Upscaler, image: Image, carried: Carried) -> np.ndarray:
    """As the upscaler makes it of the whole image, `(h, w, n)`."""
    larger = upscaler(image)
    kept = carried.enlarged((larger.height, larger.width), upscaler.scale)
    samples = samples_of(to_array(larger), kept, FORMATS["tiff"])[0]
    return samples if samples.ndim == 3 else samples[..., None]


def banded(upscaler: Upscaler, source: Windows) -> np.ndarray:
    return np.concatenate([band.copy() for band in enlarged_bands(upscaler, source)])


def carried_of(image: Image, grey: bool, transparent: bool) -> tuple[Image, Carried]:
    samples = to_array(random_image(image.height, image.width, 1, image.bit_depth))
    alpha = np.ascontiguousarray(samples[..., 0]) if transparent else None
    pixels = image.pixels[:1].expand(3, -1, -1).contiguous() if grey else image.pixels
    return replace(image, pixels=pixels), Carried(grey, alpha)


@settings(max_examples=40)
@given(
    st.integers(1, 150),
    st.integers(1, 150),
    st.sampled_from([32, 40, 64]),
    st.integers(0, 40),
    st.integers(1, 4),
    st.sampled_from([2, 3]),
    st.sampled_from([8, 16]),
    st.booleans(),
    st.booleans(),
)
def test_tiles_of_a_network_join_as_in_the_whole(h, w, tile, overlap, batch, scale, depth, grey, transparent):
    upscaler = HatUpscaler(Local(scale).eval(), scale, "local", window=8, tile=tile, overlap=overlap, batch=batch)
    image, carried = carried_of(random_image(h, w, bit_depth=depth), grey, transparent)
    assert np.array_equal(banded(upscaler, held(image, carried)), whole(upscaler, image, carried))


@pytest.mark.parametrize("depth", [8, 16])
def test_hat_itself(depth):
    upscaler = HatUpscaler(tiny_hat(), 2, "tiny", window=8, tile=32, overlap=8)
    image, carried = carried_of(random_image(70, 90, bit_depth=depth), False, True)
    made = [band.copy() for band in enlarged_bands(upscaler, held(image, carried))]
    assert len(made) == 3  # it left as it was finished
    assert np.array_equal(np.concatenate(made), whole(upscaler, image, carried))


@pytest.mark.parametrize("upscaler", [BicubicUpscaler(2), BicubicUpscaler(3), BicubicUpscaler(4), NearestUpscaler(3)])
@pytest.mark.parametrize(("grey", "transparent"), [(False, False), (True, True)])
@pytest.mark.parametrize(("h", "w"), [(1, 1), (150, 401), (331, 7)])
def test_interpolation(upscaler, h, w, grey, transparent, monkeypatch):
    monkeypatch.setattr(bands, "WIDE", 160)
    image, carried = carried_of(random_image(h, w, bit_depth=16), grey, transparent)
    assert np.array_equal(banded(upscaler, held(image, carried)), whole(upscaler, image, carried))


def write_source(path: Path, samples: np.ndarray, **more: object) -> None:
    kind = "rgb" if samples.shape[2] >= 3 else "minisblack"
    extra = ["unassalpha"] if samples.shape[2] in (2, 4) else None
    stored = samples[..., 0] if samples.shape[2] == 1 else samples
    tifffile.imwrite(path, stored, photometric=kind, extrasamples=extra, metadata=None, **more)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"rowsperstrip": 7, "compression": "zlib", "predictor": True},
        {"tile": (32, 48), "compression": "lzw"},
        {"tile": (16, 16), "bigtiff": True, "byteorder": ">"},
    ],
)
@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_from_file_to_file_in_bands_is_the_whole_image(tmp_path: Path, channels, more, kind):
    samples = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (100, 150, channels)).astype(kind)
    write_source(tmp_path / "a.tif", samples, **more)
    upscaler = HatUpscaler(Local(3).eval(), 3, "local", window=8, tile=32, overlap=8)
    source = open_windows(tmp_path / "a.tif")
    assert source is not None
    assert source.channels == channels
    shape = (300, 450, channels)
    made = enlarged_bands(upscaler, source)
    write_tiff_bands(tmp_path / "b.tif", made, shape, source.bit_depth, source.carried, source.has_alpha)
    source.close()
    image, carried = read_carried(tmp_path / "a.tif")
    expected = whole(upscaler, image, carried)
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert file.pages[0].is_tiled
        assert np.array_equal(file.asarray().reshape(shape), expected)
    again, kept = read_carried(tmp_path / "b.tif")
    assert (again.width, again.height, kept.grey) == (450, 300, channels < 3)
    assert (kept.alpha is None) == (channels in (1, 3))


def test_windows_are_parts_of_the_whole(tmp_path: Path):
    samples = np.random.default_rng(0).integers(0, 256, (90, 70, 3)).astype(np.uint8)
    write_source(tmp_path / "a.tif", samples, tile=(32, 32), compression="zlib")
    source = open_windows(tmp_path / "a.tif")
    assert source is not None
    for top, bottom, left, right in ((0, 90, 0, 70), (31, 33, 31, 33), (64, 90, 60, 70), (5, 6, 0, 70)):
        assert np.array_equal(source.read(top, bottom, left, right), samples[top:bottom, left:right])
        assert np.array_equal(to_array(source.image(top, bottom, left, right)), samples[top:bottom, left:right])
    source.close()


def test_what_has_to_be_read_whole_has_no_windows(tmp_path: Path):
    write_source(tmp_path / "turned.tif", np.zeros((4, 4, 3), np.uint8), extratags=[(274, 3, 1, 6, True)])
    (tmp_path / "text.tif").write_text("no picture")
    (tmp_path / "damaged.tif").write_bytes(b"II*\0" + bytes(20))
    for name in ("turned", "text", "damaged"):
        assert open_windows(tmp_path / f"{name}.tif") is None
    write_source(tmp_path / "large.tif", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match="4x4 pixels: at most 15"):
        open_windows(tmp_path / "large.tif", 15)
    with pytest.raises(InputError, match="cannot be read"):
        open_windows(tmp_path / "missing.tif")


def test_a_file_that_ends_early_is_named(tmp_path: Path):
    write_source(tmp_path / "a.tif", np.random.default_rng(0).integers(0, 256, (200, 64, 3)).astype(np.uint8))
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:20_000])
    source = open_windows(tmp_path / "a.tif")
    assert source is not None
    with pytest.raises(InputError, match=r"a\.tif is damaged"):
        banded(BicubicUpscaler(2), source)
    source.close()


class Full(Local):
    """Out of memory at these calls."""

    def __init__(self, at: set[int]) -> None:
        super().__init__(2)
        self.at, self.calls = at, 0

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls in self.at:
            raise RuntimeError("CUDA out of memory")
        return super().forward(tiles)


def test_out_of_memory_at_first_halves_the_tile_and_later_ends_the_picture(caplog):
    image = random_image(300, 300)
    settings = {"window": 8, "tile": 128, "overlap": 8}
    halved = HatUpscaler(Full({1, 2}), 2, "full", **settings)
    expected = replace(halved, network=Local(2), tile=64)(image)
    assert np.array_equal(banded(halved, held(image, Carried())), to_array(expected))
    assert "going on with 64" in caplog.text
    # A call is tried a second time.
    with pytest.raises(DeviceError, match="in the middle of a picture, with tiles of 128: give a smaller --tile"):
        banded(HatUpscaler(Full({8, 9}), 2, "full", **settings), held(image, Carried()))


def test_values_that_are_not_finite_are_an_error():
    network = Local(2)
    with torch.no_grad():
        network.convolution.bias[0] = torch.nan
    upscaler = HatUpscaler(network, 2, "broken", window=8, tile=32, overlap=8)
    with pytest.raises(WeightsError, match="broken gives values that are not finite for an image of 50x40"):
        banded(upscaler, held(random_image(40, 50), Carried()))


def test_a_canvas_over_the_budget_needs_bands():
    upscaler = BicubicUpscaler(4)
    assert not needs_bands(upscaler, 10, 10, 40 * 40 * 12)
    assert needs_bands(upscaler, 10, 10, 40 * 40 * 12 - 1)
    with pytest.raises(ValueError, match="upscaler must be"):
        banded(replace_kind(), held(random_image(4, 4), Carried()))


def replace_kind() -> Upscaler:
    class Other:
        name, scale = "other", 2

        def __call__(self, image: Image) -> Image:
            return image

    return Other()
