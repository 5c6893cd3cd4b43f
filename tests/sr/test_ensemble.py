"""The self-ensemble, against a mean by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hatdet.core.errors import OptionsError
from hatdet.core.types import Image
from hatdet.sr.ensemble import SelfEnsemble, with_ensemble
from hatdet.sr.upscalers import BicubicUpscaler, HatUpscaler
from tests.helpers import random_image, tiny_hat


def by_hand(network: torch.nn.Module, image: Image) -> np.ndarray:
    """The mean of eight results in float64, by NumPy's turns, rounded once. Shape: `(3, h, w)` of whole numbers."""
    total = 0.0
    for quarters in range(4):
        for mirrored in (False, True):
            seen = np.rot90(image.pixels.numpy(), quarters, (1, 2))
            seen = seen[:, :, ::-1] if mirrored else seen
            with torch.no_grad():
                out = network(torch.from_numpy(seen.copy())[None])[0].double().numpy()
            out = out[:, :, ::-1] if mirrored else out
            total = total + np.rot90(out, -quarters, (1, 2))
    return np.floor(np.clip(total / 8, 0, 1) * image.levels + 0.5)


@pytest.mark.parametrize("bit_depth", [8, 16])
def test_it_is_the_mean_of_the_eight_turns_rounded_once(bit_depth):
    network = tiny_hat()
    image = random_image(11, 14, bit_depth=bit_depth)
    made = with_ensemble(HatUpscaler(network, 2, "tiny", window=8))(image)
    assert (made.height, made.width, made.scale, made.bit_depth) == (22, 28, 2, bit_depth)
    levels = made.pixels.double().numpy() * image.levels
    expected = by_hand(network, image)
    # A mean that lies between two levels may go either way in float32: 16 bits leave it a few steps of rounding.
    assert np.abs(levels - expected).max() <= (1.01 if bit_depth == 8 else 2.01)
    assert (np.abs(levels - expected) > 0.01).mean() < (0.001 if bit_depth == 8 else 0.05)


def test_it_does_not_depend_on_how_the_image_lies():
    upscale = with_ensemble(HatUpscaler(tiny_hat(), 2, "tiny", window=8))
    image = random_image(12, 9)
    turned = replace(image, pixels=image.pixels.transpose(1, 2).flip(2).contiguous())
    alone = HatUpscaler(tiny_hat(), 2, "tiny", window=8)
    difference = (upscale(turned).pixels - upscale(image).pixels.transpose(1, 2).flip(2)).abs()
    without = (alone(turned).pixels - alone(image).pixels.transpose(1, 2).flip(2)).abs()
    assert difference.max() <= 1.01 / 255
    assert difference.mean() * 20 < without.mean()


def test_tiles_are_averaged_before_they_are_blended():
    image = random_image(40, 56)
    alone = HatUpscaler(tiny_hat(), 2, "tiny", window=8, tile=32, overlap=8)
    batched = with_ensemble(replace(alone, batch=3))(image)
    # Batches are other matrix products, whose last bits differ.
    assert (with_ensemble(alone)(image).pixels - batched.pixels).abs().max() <= 1.01 / 255
    assert (batched.pixels - alone(image).pixels).abs().max() > 0.05


def test_each_turn_is_seen_once_and_undone():
    class Marked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[torch.Tensor] = []

        def forward(self, tiles: torch.Tensor) -> torch.Tensor:
            self.seen.append(tiles.clone())
            return tiles.repeat_interleave(2, 2).repeat_interleave(2, 3)

    network = Marked()
    tiles = torch.rand(2, 3, 4, 6)
    out = SelfEnsemble(network)(tiles)
    assert torch.allclose(out, tiles.repeat_interleave(2, 2).repeat_interleave(2, 3), atol=1e-6)
    assert len({tuple(seen.flatten().tolist()) for seen in network.seen}) == 8
    assert sorted(tuple(seen.shape) for seen in network.seen) == [(2, 3, 4, 6)] * 4 + [(2, 3, 6, 4)] * 4


def test_interpolation_has_no_ensemble():
    with pytest.raises(OptionsError, match="bicubic has none"):
        with_ensemble(BicubicUpscaler())
