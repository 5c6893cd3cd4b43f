"""CloFormer's attention against its definition pixel by pixel, its parameter names, its defaults and its refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hatdet.detection.attention.cloformer import AttnConv, EfficientAttention
from hatdet.detection.attention.registration import known_modules
from tests.detection.attention.contract import CHECKS, features, onnx_outputs, shaken
from tests.helpers import relative_difference

CONFIGS: dict[str, tuple[int, list[int], list[int], int]] = {  # channels of a head, group_split, kernel_sizes, window
    "first stage of CloFormer-S": (2, [3, 1], [3], 8),
    "second": (2, [4, 4], [5], 4),
    "third": (2, [7, 7], [7], 2),
    "fourth": (2, [7, 21], [9], 1),
    "global only": (4, [4], [], 4),
    "no global": (4, [4, 0], [5], 4),
    "two kernels": (4, [1, 2, 1], [3, 7], 7),
    "an empty group": (4, [0, 2, 2], [3, 5], 2),
    "an empty group between": (4, [1, 0, 1], [3, 5], 2),
}
configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def make(d: int, split: list[int], kernels: list[int], window: int, **named: Any) -> EfficientAttention:
    layer = shaken(EfficientAttention(d * sum(split), sum(split), split, kernels, window, **named))
    assert isinstance(layer, EfficientAttention)
    return layer


def off_scale(found: Any, expected: Any) -> float:
    """The largest difference in units of the largest value."""
    found, expected = (np.asarray(a) for a in (found, expected))
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def pixel_by_pixel(
    layer: EfficientAttention, d: int, split: list[int], kernels: list[int], window: int, x: Tensor, whole: bool = False
) -> np.ndarray:
    """The paper's definition, a pixel and a head at a time. `whole`: leave out windows that the border cuts."""
    weight = {name: tensor.double().numpy() for name, tensor in layer.state_dict().items()}
    (image,) = x.double().numpy()
    _, h, w = image.shape
    pixels = [(y, x_) for y in range(h) for x_ in range(w)]
    out = np.empty_like(image)

    def linear(name: str, vector: np.ndarray) -> np.ndarray:
        return weight[f"{name}.weight"][:, :, 0, 0] @ vector + weight.get(f"{name}.bias", 0)

    def local(group: int, side: int, y: int, x_: int) -> np.ndarray:
        mixed = weight[f"convs.{group}.bias"].copy()
        for i in range(side):
            for j in range(side):
                at = y + i - side // 2, x_ + j - side // 2
                if at in mine:
                    mixed += weight[f"convs.{group}.weight"][:, 0, i, j] * linear(f"qkvs.{group}", mine[at])
        q, k, v = np.split(mixed, 3)
        hidden = linear(f"act_blocks.{group}.act_block.0", q * k)
        said = linear(f"act_blocks.{group}.act_block.2", hidden / (1 + np.exp(-hidden)))
        return np.tanh(said / d**0.5) * v

    mine = {(y, x_): image[:, y, x_] for y, x_ in pixels}
    cells = []
    for top in range(0, h, window):
        for left in range(0, w, window):
            cell = [mine[y, x_] for y, x_ in pixels if 0 <= y - top < window and 0 <= x_ - left < window]
            if len(cell) == window**2 or not whole:
                cells.append(np.mean(cell, axis=0))
    if split[-1]:
        keys, values = np.split(np.array([linear("global_kv", cell) for cell in cells]), 2, axis=1)

    for y, x_ in pixels:
        parts = []
        for group, side in enumerate(k for m, k in zip(split[:-1], kernels, strict=True) if m):
            parts.append(local(group, side, y, x_))
        for head in range(split[-1]):
            part = slice(head * d, (head + 1) * d)
            logits = keys[:, part] @ linear("global_q", mine[y, x_])[part] / d**0.5
            e = np.exp(logits - logits.max())
            parts.append(e / e.sum() @ values[:, part])
        out[:, y, x_] = linear("proj", np.concatenate(parts))
    return out[None]


@configs
def test_equals_its_definition_pixel_by_pixel(config):
    layer, other = make(*config).double(), make(*config).double()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(parameter.flip(0))
        for h, w in ((8, 16), (5, 9), (1, 1)):
            x = features(layer.dim, h, w, batch=1).double()
            expected = pixel_by_pixel(layer, *config, x)
            assert off_scale(layer(x), expected) < 1e-10
            assert off_scale(other(x), expected) > 1e-2


@pytest.mark.parametrize(("h", "w", "window"), [(20, 20, 7), (13, 20, 2), (4, 4, 8), (15, 6, 7)])
def test_a_window_at_the_border_averages_the_pixels_that_it_has(h, w, window):
    config = (2, [1, 3], [3], window)
    layer = make(*config)
    x = features(layer.dim, h, w, batch=1)
    with torch.no_grad():
        found = layer(x)
        double = layer.double()
        assert off_scale(found, pixel_by_pixel(double, *config, x)) < 1e-5
        if min(h, w) >= window:  # there are whole windows
            assert off_scale(found, pixel_by_pixel(double, *config, x, whole=True)) > 1e-3


@pytest.mark.parametrize("window", [2, 7, 8])
def test_exported_windows_are_averaged_alike_at_sizes_that_were_never_traced(window):
    layer = make(4, [2], [], window)
    inputs = [features(layer.dim, h, w, batch=1) for h, w in ((20, 20), (13, 20), (4, 4), (15, 8), (1, 3))]
    found = onnx_outputs(layer, features(layer.dim, 14, 16), inputs, dynamic=True)
    with torch.no_grad():
        for x, y in zip(inputs, found, strict=True):
            assert relative_difference(torch.from_numpy(y), layer(x)) < 1e-5


@configs
def test_depends_on_each_of_its_parameters(config):
    layer = make(*config)
    x = features(layer.dim, 9, 11)
    with torch.no_grad():
        before = layer(x)
        for name, parameter in layer.named_parameters():
            kept = parameter.clone()
            parameter.copy_(kept.flip(0))
            assert off_scale(layer(x), before) > 1e-4, name
            parameter.copy_(kept)
        assert torch.equal(layer(x), before)


def test_has_the_published_names_and_shapes():
    """Of heads with 4 channels: two local ones with a kernel of 3, none with 5, one with 7, and one global."""
    convolutions = {
        "qkvs.0": (24, 16, 1, 1),
        "qkvs.1": (12, 16, 1, 1),
        "convs.0": (24, 1, 3, 3),
        "convs.1": (12, 1, 7, 7),
        "act_blocks.0.act_block.0": (8, 8, 1, 1),
        "act_blocks.0.act_block.2": (8, 8, 1, 1),
        "act_blocks.1.act_block.0": (4, 4, 1, 1),
        "act_blocks.1.act_block.2": (4, 4, 1, 1),
        "global_q": (4, 16, 1, 1),
        "global_kv": (8, 16, 1, 1),
        "proj": (16, 16, 1, 1),
    }
    expected = {f"{name}.weight": shape for name, shape in convolutions.items()}
    biases = {f"{name}.bias": shape[:1] for name, shape in convolutions.items()}

    def shapes(**named: Any) -> dict[str, tuple[int, ...]]:
        layer = EfficientAttention(16, 4, [2, 0, 1, 1], [3, 5, 7], **named)
        return {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}

    assert shapes() == expected | biases
    with_bias = {name: shape for name, shape in biases.items() if name.startswith(("convs", "act_blocks"))}
    assert shapes(qkv_bias=False) == expected | with_bias


def test_names_of_global_and_of_local_heads_alone():
    def names(layer: EfficientAttention) -> set[str]:
        return {name.removesuffix(".weight").removesuffix(".bias") for name in layer.state_dict()}

    local = {"qkvs.0", "convs.0", "act_blocks.0.act_block.0", "act_blocks.0.act_block.2", "proj"}
    assert names(EfficientAttention(16, 4, [4], [])) == {"global_q", "global_kv", "proj"}
    assert names(EfficientAttention(16, 4, [4, 0], [5])) == local
    assert names(AttnConv(16, 4)) == local


def test_attn_conv_is_the_local_branch_alone():
    whole, alone = make(4, [4, 0], [7], 2), shaken(AttnConv(16, 4, 7), seed=1)
    x = features(16, 9, 11)
    with torch.no_grad():
        assert off_scale(alone(x), whole(x)) > 1e-2
        alone.load_state_dict(whole.state_dict())
        assert torch.equal(alone(x), whole(x))


@pytest.mark.parametrize("side", [3, 5])
def test_attn_conv_sees_the_pixels_under_its_kernel_and_nothing_else(side):
    layer = shaken(AttnConv(8, 2, side))
    x = features(8, 7, 9, batch=1)
    changed = set()
    with torch.no_grad():
        before = layer(x)[..., 3, 4]
        for y in range(7):
            for x_ in range(9):
                other = x.clone()
                other[..., y, x_] += 1
                if not torch.equal(layer(other)[..., 3, 4], before):
                    changed.add((y, x_))
    reach = side // 2
    assert changed == {(y, x_) for y in range(3 - reach, 4 + reach) for x_ in range(4 - reach, 5 + reach)}


@pytest.mark.parametrize("split", [[4], [4, 0]], ids=["global", "local"])
def test_dropout_acts_in_training_only(split):
    torch.manual_seed(0)
    kernels = [3] * (len(split) - 1)
    plain = make(4, split, kernels, 2)
    x = features(16, 8, 8)
    with torch.no_grad():
        expected = plain(x)
        assert torch.equal(plain.train()(x), expected)
        for dropped in ("attn_drop", "proj_drop"):
            layer = make(4, split, kernels, 2, **{dropped: 0.5})
            assert torch.equal(layer(x), expected)
            assert off_scale(layer.train()(x), expected) > 1e-2


def test_a_bare_width_suits_every_width_of_a_yolo():
    with torch.device("meta"):
        for dim in range(8, 1537, 8):
            layer = EfficientAttention(dim)
            assert layer.num_heads * layer.dim_head == dim
            assert layer.num_heads == 2 * layer.global_heads
            assert layer.dim_head in (4, 8, 16)
            assert AttnConv(dim).num_heads == layer.num_heads
        # The paper's, where it says: CloFormer-XXS, then XS, then S.
        heads = {32: 4, 64: 4, 96: 6, 160: 10, 352: 22, 128: 8, 224: 14, 448: 28}
        assert {dim: EfficientAttention(dim).num_heads for dim in heads} == heads


@pytest.mark.parametrize(
    ("arguments", "sizes"),  # sizes: channels of the local groups, their kernels, global heads
    [
        ((), ([8], [5], 1)),
        ((4,), ([8], [5], 2)),
        ((1,), ([16], [5], 0)),
        ((None, [1, 2, 1]), ([4, 8], [5, 5], 1)),
        ((None, [4]), ([], [], 4)),
        ((8, None, [3, 7]), ([4, 4], [3, 7], 4)),
        ((8, None, [3, 5, 7]), ([4, 2, 2], [3, 5, 7], 4)),
        ((4, None, []), ([], [], 4)),
        ((4, [0, 4], [3]), ([], [], 4)),
    ],
    ids=str,
)
def test_what_is_not_given_follows_from_the_rest(arguments, sizes):
    layer = EfficientAttention(16, *arguments)
    channels = [conv.in_channels // 3 for conv in layer.convs]
    assert (channels, [conv.kernel_size[0] for conv in layer.convs], layer.global_heads) == sizes
    shaken(layer)(features(16, 3, 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": None}, "EfficientAttention needs its width .* c2"),
        ({"dim": 12}, "no default number of heads for a width of 12, which is no multiple of 8: give num_heads"),
        ({"num_heads": 3}, "num_heads of EfficientAttention must be .* divides its width 16, got 3"),
        ({"num_heads": 0}, "num_heads of EfficientAttention must be .* divides its width 16, got 0"),
        ({"group_split": [2, 1]}, "num_heads of EfficientAttention must be .* divides its width 16, got 3"),
        ({"group_split": []}, "num_heads of EfficientAttention must be .* divides its width 16, got 0"),
        ({"num_heads": 4, "group_split": [2, 3]}, r"must add up to its 4 heads, got \[2, 3\] with a sum of 5"),
        ({"num_heads": 4, "group_split": [5, -1]}, r"group_split .* list of whole numbers from 0 up, got \[5, -1\]"),
        ({"group_split": 4}, "group_split of EfficientAttention must be a list of whole numbers from 0 up, got 4"),
        ({"group_split": [2, 2], "kernel_sizes": [3, 5]}, r"a number for each kernel .* got \[2, 2\] .* \[3, 5\]"),
        ({"group_split": [4], "kernel_sizes": [3]}, r"a number for each kernel .* got \[4\] .* \[3\]"),
        ({"kernel_sizes": [4]}, r"kernel_sizes of EfficientAttention must be odd, got \[4\]"),
        ({"kernel_sizes": 5}, "kernel_sizes of EfficientAttention must be a list of whole numbers from 1 up, got 5"),
        ({"kernel_sizes": [0]}, r"kernel_sizes .* list of whole numbers from 1 up, got \[0\]"),
        ({"window_size": 0}, "window_size of EfficientAttention must be a positive whole number, got 0"),
        ({"window_size": 2.0}, "window_size of EfficientAttention must be a positive whole number, got 2.0"),
        ({"attn_drop": 2}, "dropout probability"),
    ],
    ids=str,
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        EfficientAttention(**{"dim": 16, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "AttnConv needs its width .* c2"),
        ((16, 3), "num_heads of AttnConv must be .* divides its width 16, got 3"),
        ((12,), "AttnConv has no default number of heads"),
        ((16, 4, 2), "of AttnConv must be odd"),
    ],
    ids=str,
)
def test_attn_conv_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        AttnConv(*arguments)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    "layer",
    [
        lambda **named: EfficientAttention(16, **named),
        lambda **named: EfficientAttention(8, 2, [1, 0, 1], [3, 5], 7, qkv_bias=False, **named),
        lambda **named: EfficientAttention(8, 2, [2], [], 8, **named),
        lambda **named: AttnConv(8, **named),
    ],
    ids=["default", "window of 7", "global only", "AttnConv"],
)
def test_contract(check, layer):
    check(layer)


def test_are_known_with_arguments_that_build_them():
    attention, conv = (known_modules()[name] for name in ("EfficientAttention", "AttnConv"))
    assert attention.cls is EfficientAttention
    assert attention.signature == (
        "c2, num_heads=None, group_split=None, kernel_sizes=None, window_size=4, "
        "attn_drop=0.0, proj_drop=0.0, qkv_bias=True, residual=False"
    )
    assert conv.cls is AttnConv
    assert conv.signature == (
        "c2, num_heads=None, kernel_size=5, attn_drop=0.0, proj_drop=0.0, qkv_bias=True, residual=False"
    )
    for stride, kernel, window in ((8, 5, 4), (16, 7, 2), (32, 9, 1)):  # the paper's at these strides
        built = EfficientAttention(64, *attention.arguments[stride])
        assert ([c.kernel_size for c in built.convs], built.window_size) == ([(kernel, kernel)], window)
        assert AttnConv(64, *conv.arguments[stride]).convs[0].kernel_size == (kernel, kernel)
