"""HAT against the published one (spandrel carries its code) and against what the published options promise."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from spandrel.architectures.HAT import HAT as PublishedHAT

from hatdet.blocks import hat_blocks
from hatdet.blocks.hat_blocks import relative_position_index, shift_mask
from hatdet.sr.catalogue import FAMILIES
from hatdet.sr.hat_arch import HAT, pad_to_multiple
from tests.helpers import TINY, relative_difference, tiny_hat

PARAMETERS = {
    "hat-xs": {4: 672_057},
    "hat-s": {2: 9_473_471, 3: 9_658_111, 4: 9_621_183},
    "hat": {2: 20_624_795, 3: 20_809_435, 4: 20_772_507},
    "hat-l": {2: 40_698_863, 3: 40_883_503, 4: 40_846_575},
}


def published(network: HAT, **changes) -> PublishedHAT:
    """The published network with the same weights, loaded strictly."""
    other = PublishedHAT(**{**TINY, "upscale": 2, **changes}).eval()
    other.load_state_dict(network.state_dict(), strict=True)
    return other


@pytest.mark.parametrize(
    ("family", "scale", "count"), [(f, s, n) for f, by in PARAMETERS.items() for s, n in by.items()]
)
def test_parameter_count_is_the_published_one(family, scale, count):
    with torch.device("meta"):
        network = HAT(**FAMILIES[family], upscale=scale)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize("family", ["hat-s", "hat", "hat-l"])
def test_state_dict_has_the_published_keys_and_shapes(family):
    options = {**FAMILIES[family], "upscale": 4, "depths": [2, 2], "num_heads": [6, 6]}
    ours, theirs = HAT(**options).state_dict(), PublishedHAT(**options).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}
    for key in ("relative_position_index_SA", "relative_position_index_OCA"):
        assert torch.equal(ours[key], theirs[key])


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(16, 16), (8, 8), (8, 24), (24, 8), (40, 16), (37, 51)])
def test_output_equals_the_published_network(scale, size):
    network = tiny_hat(upscale=scale)
    x = torch.rand(2, 3, *size)
    with torch.no_grad():
        ours, theirs = network(x), published(network, upscale=scale)(x)
    assert ours.shape == (2, 3, scale * size[0], scale * size[1])
    assert relative_difference(ours, theirs) < 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        {"resi_connection": "identity"},
        {"patch_norm": False},
        {"qkv_bias": False},
        {"conv_scale": 0.5},
        {"img_range": 255.0},
        {"overlap_ratio": 0.25},
        {"window_size": 4},
        {"in_chans": 1},
        {"ape": True, "img_size": 16},
        {"qk_scale": 0.3},
    ],
    ids=str,
)
def test_options_mean_what_they_mean_in_the_published_network(changes):
    network = tiny_hat(**changes)
    x = torch.rand(1, changes.get("in_chans", 3), 16, 16)
    with torch.no_grad():
        assert relative_difference(network(x), published(network, **changes)(x)) < 1e-5


def test_every_kind_of_tensor_reaches_the_output():
    """The negative control of the parity above: it would notice a tensor that is not used."""
    network = tiny_hat()
    x = torch.rand(1, 3, 16, 16)
    kinds: dict[str, str] = {}
    for name, _ in network.named_parameters():
        kinds.setdefault(".".join(part for part in name.split(".") if not part.isdigit()), name)
    assert len(kinds) > 25
    with torch.no_grad():
        before = network(x)
        for name in kinds.values():
            changed = copy.deepcopy(network)
            changed.get_parameter(name).add_(torch.randn_like(changed.get_parameter(name)))
            assert relative_difference(changed(x), before) > 1e-5, name


def test_gradients_equal_the_published_network():
    network = tiny_hat()
    other = published(network)
    x = torch.rand(1, 3, 16, 24)
    network(x).square().mean().backward()
    other(x).square().mean().backward()
    for (name, ours), (_, theirs) in zip(network.named_parameters(), other.named_parameters(), strict=True):
        # a gate whose ReLU is off has no gradient in either
        assert float((ours.grad - theirs.grad).norm()) <= 1e-4 * float(theirs.grad.norm()) + 1e-9, name


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"window_size": 15}, "window_size must be even"),
        ({"window_size": 10, "overlap_ratio": 0.5}, "even whole number"),
        ({"num_heads": [5, 5]}, "num_heads must divide embed_dim 12, got 5"),
        ({"depths": [2]}, "one entry a group"),
        ({"upscale": 5}, "upscale must be"),
        ({"upsampler": "nearest+conv"}, "upsampler must be 'pixelshuffle'"),
        ({"resi_connection": "3conv"}, "resi_connection must be"),
        ({"compress_ratio": 24}, "compress_ratio must be between"),
        ({"img_size": 8}, "img_size must be larger than window_size 8"),
        ({"drop_path_rate": 1.0}, "drop_path_rate must be in"),
        ({"patch_size": 4}, "patch_size must be 1"),
    ],
    ids=str,
)
def test_a_contradictory_option_is_refused_with_a_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence.replace("(", r"\(")):
        HAT(**{**TINY, **changes})


def test_a_misspelt_option_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="no option 'widow_size': did you mean window_size"):
        HAT.from_options({**TINY, "widow_size": 8})
    with pytest.raises(ValueError, match="type must be HAT, got 'SwinIR'"):
        HAT.from_options({**TINY, "type": "SwinIR"})
    assert HAT.from_options({**TINY, "type": "HAT"}).window_size == 8


def test_relative_positions_by_hand():
    assert relative_position_index(2, 2).tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    # key minus query, moved by window - key window + 1: the published table wraps around its end
    first = relative_position_index(2, 4)[0]
    assert first.tolist() == [-6, -5, -4, -3, -1, 0, 1, 2, 4, 5, 6, 7, 9, 10, 11, 12]


def test_shift_mask_by_hand():
    corner = shift_mask(2, 1, last_row=True, last_column=True)
    assert corner.tolist() == [[0.0 if i == j else -100.0 for j in range(4)] for i in range(4)]
    right = shift_mask(2, 1, last_row=False, last_column=True)
    assert (right == 0).int().tolist() == [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]


@pytest.mark.parametrize(
    ("size", "mode"), [((9, 8), "reflect"), ((1, 8), "edge"), ((8, 4), "edge"), ((5, 5), "reflect")]
)
def test_padding_reflects_where_it_fits_and_repeats_where_not(size, mode):
    x = torch.rand(1, 1, *size)
    padded = pad_to_multiple(x, 8)
    h, w = size
    assert padded.shape[2] % 8 == 0
    assert padded.shape[3] % 8 == 0
    assert torch.equal(padded[:, :, :h, :w], x)
    if h % 8:
        expected = x[:, :, h - 2] if mode == "reflect" else x[:, :, h - 1]
        assert torch.equal(padded[:, :, h, :w], expected)
    if w % 8:
        expected = x[:, :, :, w - 2] if mode == "reflect" else x[:, :, :, w - 1]
        assert torch.equal(padded[:, :, :h, w], expected)


def test_no_padding_where_none_is_needed():
    x = torch.rand(1, 3, 16, 8)
    assert pad_to_multiple(x, 8) is x


def test_biases_are_made_once_for_a_size_and_again_when_the_table_changes(monkeypatch):
    network = tiny_hat()
    made = []
    real = torch.nn.functional.embedding
    monkeypatch.setattr(torch.nn.functional, "embedding", lambda *args: made.append(1) or real(*args))
    hat_blocks._shift_mask_once.cache_clear()
    real_mask = hat_blocks.shift_mask
    monkeypatch.setattr(hat_blocks, "shift_mask", lambda *args, **named: made.append(1) or real_mask(*args, **named))
    x = torch.rand(1, 3, 24, 24)
    with torch.no_grad():
        first = network(x)
        assert made
        made.clear()
        assert torch.equal(network(x), first)
        network(torch.rand(1, 3, 32, 16))  # another size needs no new table either
        assert not made
        network.layers[0].residual_group.blocks[1].attn.relative_position_bias_table.mul_(3)
        changed = network(x)
    assert made
    assert relative_difference(changed, first) > 1e-5
    reloaded = tiny_hat()
    reloaded.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(reloaded(x), changed)


def test_training_after_inference_is_not_disturbed_by_what_inference_kept():
    network = tiny_hat()
    x = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        network(x)
    network.train()
    network(x).sum().backward()
    hat_blocks._shift_mask_once.cache_clear()
    with torch.inference_mode():
        network(x)  # masks that are made here serve training too
    network(x).sum().backward()
    table = network.layers[0].residual_group.blocks[0].attn.relative_position_bias_table
    assert table.grad is not None
    assert float(table.grad.abs().sum()) > 0


def test_gradient_checkpointing_changes_no_number():
    plain, checkpointed = tiny_hat(drop_path_rate=0.0), tiny_hat(drop_path_rate=0.0, use_checkpoint=True)
    x = torch.rand(1, 3, 16, 16)
    for network in (plain, checkpointed):
        network.train()
        network(x).square().mean().backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), checkpointed.named_parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-7), name


def test_drop_path_drops_in_training_only():
    network = tiny_hat(drop_path_rate=0.9)
    x = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(network(x), network(x))
        network.train()
        assert not torch.equal(network(x), network(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_whole_network_runs_in_another_dtype(dtype):
    """The published code makes its masks in float32 and crashes here."""
    network = tiny_hat(num_feat=16)
    x = torch.rand(1, 3, 24, 24)
    with torch.no_grad():
        expected = network(x)
        got = network.to(dtype)(x.to(dtype))
    assert got.dtype == dtype
    assert relative_difference(got.float(), expected) < (0.05 if dtype == torch.bfloat16 else 1e-5)


def test_bf16_autocast_stays_close():
    network = tiny_hat()
    x = torch.rand(1, 3, 24, 24)
    with torch.no_grad():
        expected = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            got = network(x)
    assert relative_difference(got.float(), expected) < 0.05


def test_it_copies_and_pickles_after_use():
    network = tiny_hat()
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        expected = network(x)
        assert torch.equal(copy.deepcopy(network)(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(network))(x), expected)


def test_low_weights_give_autocasts_numbers():
    network = tiny_hat()
    low = network.with_low_weights(torch.bfloat16)
    x = torch.rand(1, 3, 24, 20)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(low(x), network(x))
    assert low.layers[0].residual_group.blocks[0].attn.qkv.weight.dtype == torch.bfloat16
    assert low.conv_first.weight.dtype == low.norm.weight.dtype == torch.float32
    assert network.layers[0].conv.weight.dtype == torch.float32  # the network itself stays as it is


WIDTH_10: dict[str, Any] = {"embed_dim": 20, "num_heads": [2, 2], "compress_ratio": 4, "squeeze_factor": 10}


@pytest.mark.parametrize("size", [(16, 16), (13, 29)])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_wider_heads_change_no_number(size, qkv_bias):
    network = tiny_hat(**WIDTH_10, qkv_bias=qkv_bias)
    x = torch.rand(2, 3, *size)
    wide = network.with_wide_heads()
    with torch.no_grad():
        assert relative_difference(wide(x), network(x)) < 1e-5
        # The control: the padding is there and can be wrong.
        attention = wide.layers[0].residual_group.blocks[1].attn
        assert attention.qkv.out_features == 3 * 2 * 16
        attention.qkv.weight[16 + 10] += 1  # of the second head's queries, a channel that should be zero
        attention.qkv.weight[32 + 16 + 10] += 1  # and of its keys
        assert relative_difference(wide(x), network(x)) > 1e-4


def test_heads_that_are_wide_enough_are_left_alone():
    network = tiny_hat(**{**WIDTH_10, "embed_dim": 16})
    assert network.with_wide_heads() is network


def test_wider_heads_leave_the_network_they_come_from_alone():
    network = tiny_hat(**WIDTH_10)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.with_wide_heads().with_low_weights(torch.bfloat16)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
