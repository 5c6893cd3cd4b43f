"""HAT's blocks as layers: the contract, and spandrel's HAT as the second implementation."""

from __future__ import annotations

import pytest
import torch
from spandrel.architectures.HAT import HAT as PublishedHAT

from hatdet.detection.attention.hat import HAB, HAT, OCAB, HATBlock, _reflected
from tests.detection.attention.contract import CHECKS, features, shaken
from tests.helpers import relative_difference

LAYERS = {
    "group": lambda **more: HATBlock(24, 3, 4, 2, 4, 6, 0.5, **more),
    "group of one": lambda **more: HATBlock(16, 2, 8, 1, 4, 1, **more),
    "hab": lambda **more: HAB(24, 3, 4, 0, 4, 6, 0.5, **more),
    "shifted hab": lambda **more: HAB(24, 3, 4, 2, 4, 6, 0.5, **more),
    "ocab": lambda **more: OCAB(24, 3, 4, **more),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check, make):
    check(make)


def published(depth: int = 2) -> PublishedHAT:
    """A published network of two groups with random weights, each of which matters."""
    torch.manual_seed(0)
    options = {"embed_dim": 24, "depths": [depth, 1], "num_heads": [3, 3], "window_size": 4, "compress_ratio": 4}
    options |= {"squeeze_factor": 6, "conv_scale": 0.5, "mlp_ratio": 2, "upscale": 2, "img_size": 64}
    return shaken(PublishedHAT(**options, upsampler="pixelshuffle", resi_connection="1conv"))


def published_group(network: PublishedHAT, x: torch.Tensor) -> torch.Tensor:
    h, w = x.shape[2:]
    params = {
        "attn_mask": network.calculate_mask((h, w), x.dtype),
        "rpi_sa": network.relative_position_index_SA,
        "rpi_oca": network.relative_position_index_OCA,
    }
    tokens = network.layers[0](x.flatten(2).transpose(1, 2), (h, w), params)
    return tokens.transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize("size", [(8, 8), (12, 20), (16, 4)])
def test_a_group_of_the_published_network_loads_strictly_and_agrees(size):
    network, x = published(), features(24, *size)
    layer = HATBlock(24, 3, 4, 2, 4, 6, 0.5).eval()
    layer.load_state_dict(network.layers[0].state_dict(), strict=True)
    with torch.no_grad():
        expected = published_group(network, x)
        assert relative_difference(layer(x), expected) < 1e-5
        for name, parameter in layer.named_parameters():  # the comparison would notice any of them
            before = parameter.clone()
            parameter.mul_(1.5)
            assert relative_difference(layer(x), expected) > 1e-5, name
            parameter.copy_(before)


@pytest.mark.parametrize("size", [(8, 8), (12, 20), (16, 4)])
@pytest.mark.parametrize(("index", "shift"), [(0, 0), (1, 2)])
def test_a_block_of_the_published_network_loads_strictly_and_agrees(index, shift, size):
    network, x = published(), features(24, *size)
    theirs = network.layers[0].residual_group.blocks[index]
    layer = HAB(24, 3, 4, shift, 4, 6, 0.5).eval()
    layer.load_state_dict(theirs.state_dict(), strict=True)
    tokens, mask = x.flatten(2).transpose(1, 2), network.calculate_mask(size, x.dtype)
    with torch.no_grad():
        expected = theirs(tokens, size, network.relative_position_index_SA, mask).transpose(1, 2).reshape(x.shape)
        assert relative_difference(layer(x), expected) < 1e-5
        layer.shift_size = 2 - shift
        assert relative_difference(layer(x), expected) > 1e-3


@pytest.mark.parametrize("size", [(8, 8), (12, 20), (16, 4)])
def test_the_overlapping_block_of_the_published_network_loads_strictly_and_agrees(size):
    network, x = published(), features(24, *size)
    theirs = network.layers[0].residual_group.overlap_attn
    layer = OCAB(24, 3, 4).eval()
    layer.load_state_dict(theirs.state_dict(), strict=True)
    with torch.no_grad():
        tokens = theirs(x.flatten(2).transpose(1, 2), size, network.relative_position_index_OCA)
        assert relative_difference(layer(x), tokens.transpose(1, 2).reshape(x.shape)) < 1e-5
        layer.relative_position_bias_table.mul_(1.5)
        assert relative_difference(layer(x), tokens.transpose(1, 2).reshape(x.shape)) > 1e-5


@pytest.mark.parametrize(
    ("side", "rows"),
    [(4, [0, 1, 2, 3]), (3, [0, 1, 2, 1]), (2, [0, 1, 0, 1]), (1, [0, 0, 0, 0]), (5, [0, 1, 2, 3, 4, 3, 2, 1])],
)
def test_maps_are_extended_by_reflection(side, rows):
    x = torch.arange(float(side)).view(1, 1, side, 1).expand(1, 1, side, 4)
    assert _reflected(x, 4)[0, 0, :, 0].tolist() == rows
    assert _reflected(x.transpose(2, 3), 4)[0, 0, 0].tolist() == rows


def test_an_odd_map_is_the_crop_of_its_extension():
    layer, x = shaken(LAYERS["group"]()), features(24, 6, 7)
    whole = torch.nn.functional.pad(x, (0, 1, 0, 2), mode="reflect")
    with torch.no_grad():
        torch.testing.assert_close(layer(x), layer(whole)[:, :, :6, :7])


def test_a_row_of_the_upscaler_itself_explains():
    with pytest.raises(ValueError, match=r"HATBlock.*--upscale"):
        HAT(256)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (HATBlock, r"HATBlock needs its width .* write c2"),
        (lambda: HATBlock("c2"), "must be its width in channels .* got 'c2'"),
        (lambda: HATBlock(256, 6), "num_heads of HATBlock must be a positive divisor of its width 256, got 6"),
        (lambda: HAB(256, 8, 7), "window_size of HAB must be an even whole number, got 7"),
        (lambda: OCAB(256, 8, 8, 0.3), "window_size times overlap_ratio of OCAB"),
        (lambda: HATBlock(16), "squeeze_factor of HATBlock must be from 1 to its width 16, got 30"),
        (lambda: HATBlock(64, depth=0), "depth of HATBlock"),
        (lambda: HAB(64, shift_size=8), "shift_size of HAB must be from 0 to below its window 8, got 8"),
        (lambda: OCAB(64, residual=2), "residual of OCAB must be True or False, got 2"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("dim", "heads"), [(256, 8), (512, 16), (576, 18), (40, 1), (16, 1), (72, 2), (100, 2)])
def test_heads_by_default(dim, heads):
    assert OCAB(dim).num_heads == heads
