"""HaloAttention against halonet-pytorch, against attention pixel by pixel, and what it sees of a map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from halonet_pytorch import HaloAttention as Published
from torch import Tensor

from hatdet.detection.attention.halo import HaloAttention
from hatdet.detection.attention.registration import known_modules
from tests.detection.attention.contract import CHECKS, SIZES, features, shaken

DIM = 6
CONFIGS = {  # block_size, halo_size, dim_head, heads
    "even": (4, 2, 5, 3),
    "odd block, wide halo": (3, 4, 4, 2),
    "single pixels": (1, 1, 4, 2),
}
configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
PARAMETERS = (
    "rel_pos_emb.rel_height",
    "rel_pos_emb.rel_width",
    "to_q.weight",
    "to_kv.weight",
    "to_out.weight",
    "to_out.bias",
)


def make(*config: int, **named: Any) -> HaloAttention:
    layer = shaken(HaloAttention(DIM, *config, **named))
    assert isinstance(layer, HaloAttention)
    return layer


def off_scale(found: Any, expected: Any) -> float:
    """The largest difference in units of the largest value."""
    found, expected = (np.asarray(a) for a in (found, expected))
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def pixel_by_pixel(layer: HaloAttention, x: Tensor, see_padding: bool = False) -> np.ndarray:
    """The paper's definition: which pixels a pixel sees, what it says to each of them, and their mean so weighted."""
    weight = {name: tensor.double().numpy() for name, tensor in layer.state_dict().items()}
    block, halo, d = layer.block_size, layer.halo_size, layer.dim_head
    zero = block + 2 * halo - 1 + halo  # the row of a table for a key at the place of the query
    (image,) = x.double().numpy()
    _, h, w = image.shape
    out = np.empty_like(image)

    def seen(at: int, length: int) -> list[int]:
        first = at // block * block - halo
        return [i for i in range(first, first + block + 2 * halo) if see_padding or 0 <= i < length]

    for y in range(h):
        for x_ in range(w):
            q = weight["to_q.weight"] @ image[:, y, x_]
            heads = []
            for head in range(layer.heads):
                part = slice(head * d, (head + 1) * d)
                logits, values = [], []
                for ky in seen(y, h):
                    for kx in seen(x_, w):
                        there = 0 <= ky < h and 0 <= kx < w
                        k, v = np.split(weight["to_kv.weight"] @ (image[:, ky, kx] if there else np.zeros(DIM)), 2)
                        row = weight["rel_pos_emb.rel_height"][ky - y + zero]
                        column = weight["rel_pos_emb.rel_width"][kx - x_ + zero]
                        logits.append(q[part] @ (k[part] + row + column) / d**0.5)
                        values.append(v[part])
                e = np.exp(np.array(logits) - max(logits))
                heads.append(e / e.sum() @ np.array(values))
            out[:, y, x_] = weight["to_out.weight"] @ np.concatenate(heads) + weight["to_out.bias"]
    return out[None]


@configs
def test_equals_the_published_code_with_its_weights(config):
    block, halo, dim_head, heads = config
    torch.manual_seed(0)
    published = Published(dim=DIM, block_size=block, halo_size=halo, dim_head=dim_head, heads=heads).eval()
    layer = make(*config)
    with torch.no_grad():
        x = features(DIM, 2 * block, block)
        assert off_scale(layer(x), published(x)) > 1e-2  # other weights are told apart
        layer.load_state_dict(published.state_dict())
        for rows, columns in ((1, 1), (2, 3), (5, 2)):
            x = features(DIM, rows * block, columns * block)
            assert off_scale(layer(x), published(x)) < 1e-5


@configs
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (4, 9), (6, 6)])
def test_equals_attention_pixel_by_pixel_at_any_size(config, size):
    layer = make(*config).double()
    x = features(DIM, *size, batch=1).double()
    with torch.no_grad():
        found = layer(x)
    assert off_scale(found, pixel_by_pixel(layer, x)) < 1e-10
    assert off_scale(found, pixel_by_pixel(layer, x, see_padding=True)) > 1e-3


@configs
def test_depends_on_each_of_its_parameters(config):
    layer = make(*config)
    x = features(DIM, 7, 5)
    assert sorted(layer.state_dict()) == sorted(PARAMETERS)
    with torch.no_grad():
        before = layer(x)
        for name, parameter in layer.named_parameters():
            kept = parameter.clone()
            parameter.copy_(kept.flip(0))
            assert off_scale(layer(x), before) > 1e-3, name
            parameter.copy_(kept)
        assert torch.equal(layer(x), before)


def test_a_block_sees_its_window_and_nothing_else():
    block, halo, h, w = 3, 2, 10, 13
    layer = make(block, halo, 4, 2)
    x = features(DIM, h, w, batch=1)
    rows, columns = slice(3, 6), slice(6, 9)
    window = {(y, x_) for y in range(1, 8) for x_ in range(4, 11)}
    changed = []
    with torch.no_grad():
        before = layer(x)[..., rows, columns]
        for y in range(h):
            for x_ in range(w):
                other = x.clone()
                other[..., y, x_] += 1
                if not torch.equal(layer(other)[..., rows, columns], before):
                    changed.append((y, x_))
    assert set(changed) == window


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1)])
def test_the_weights_of_the_pixels_in_a_window_add_up_to_one_at_the_border_too(size):
    layer = make(4, 2, 5, 3).double()
    x = features(DIM, 1, 1, batch=1).double().expand(1, DIM, *size)
    with torch.no_grad():
        values = layer.to_kv(x[0, :, 0, 0]).chunk(2)[1]
        expected = layer.to_out(values).view(1, DIM, 1, 1).expand_as(x)
        assert off_scale(layer(x), expected) < 1e-12
    assert off_scale(pixel_by_pixel(layer, x, see_padding=True), expected) > 1e-2  # padding would take a share


@pytest.mark.parametrize("size", SIZES)
def test_half_precision_stays_finite_where_the_scores_are_large(size):
    layer = make(8, 3, 8, 2)
    x = features(DIM, *size) * 40
    with torch.no_grad():
        expected, half = layer(x), layer.half()(x.half())
    assert torch.isfinite(half).all()
    assert off_scale(half.float(), expected) < 0.1


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("config", [(4, 2, 5, 3), (8, 3, 4, 1)], ids=str)
def test_contract(check, config):
    check(lambda **named: HaloAttention(DIM, *config, **named))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": None}, r"HaloAttention needs its width .* c2"),
        ({"block_size": 0}, "block_size of HaloAttention must be a positive whole number, got 0"),
        ({"block_size": 2.0}, "block_size of HaloAttention must be a positive whole number, got 2.0"),
        ({"halo_size": 0}, "halo_size of HaloAttention must be a positive whole number, got 0"),
        ({"halo_size": -1}, "halo_size of HaloAttention must be a positive whole number, got -1"),
        ({"dim_head": 0}, "dim_head of HaloAttention must be a positive whole number, got 0"),
        ({"heads": True}, "heads of HaloAttention must be a positive whole number, got True"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        HaloAttention(**{"dim": DIM, **arguments})


def test_is_known_with_arguments_that_build_it():
    module = known_modules()["HaloAttention"]
    assert module.cls is HaloAttention
    assert module.signature == "c2, block_size=8, halo_size=3, dim_head=64, heads=8, residual=False"
    for stride in (8, 16, 32):
        layer = HaloAttention(16, *module.arguments[stride])
        assert (640 // stride) % layer.block_size == 0  # no block is padded at the usual size
