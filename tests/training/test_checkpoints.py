"""Loading weights as far as they fit, and saving them whole."""

from __future__ import annotations

import pytest
import torch

from hatdet.core.errors import OptionsError, WeightsError
from hatdet.sr.weights import WeightsFile, load_network
from hatdet.training.checkpoints import find_states, load_into, prune, read_state, save_networks, save_state
from tests.helpers import TINY, tiny_hat


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def wrapped(state, kind):
    if kind == "module":
        return {f"module.{key}": value for key, value in state.items()}
    return state if kind == "raw" else {kind: state}


@pytest.mark.parametrize("kind", ["raw", "params", "params_ema", "module"])
def test_every_kind_of_file_is_read(tmp_path, kind):
    torch.save(wrapped(tiny_hat(1).state_dict(), kind), tmp_path / "a.pth")
    network = tiny_hat(2)
    assert load_into(network, tmp_path / "a.pth") == "loaded 128 of 128 tensors"
    assert same(network, tiny_hat(1))


def test_of_two_the_preferred_is_taken(tmp_path):
    torch.save({"params": tiny_hat(1).state_dict(), "params_ema": tiny_hat(2).state_dict()}, tmp_path / "a.pth")
    network = tiny_hat(3)
    load_into(network, tmp_path / "a.pth")
    assert same(network, tiny_hat(2))
    load_into(network, tmp_path / "a.pth", prefer="params")
    assert same(network, tiny_hat(1))


@pytest.mark.parametrize("strict", [True, False])
def test_x4_from_x2_has_exactly_the_second_stage_new(tmp_path, strict):
    """Published recipes say strict, although the network for x4 has one stage more."""
    torch.save({"params": tiny_hat(1).state_dict()}, tmp_path / "x2.pth")
    network = tiny_hat(2, upscale=4)
    assert load_into(network, tmp_path / "x2.pth", strict=strict) == "loaded 128 of 130 tensors, new: upsample.2.*"
    x2 = tiny_hat(1).state_dict()
    assert all(torch.equal(value, x2[key]) for key, value in network.state_dict().items() if key in x2)


def test_x3_from_x2_has_another_stage(tmp_path):
    torch.save(tiny_hat(1).state_dict(), tmp_path / "x2.pth")
    told = load_into(tiny_hat(2, upscale=3), tmp_path / "x2.pth")
    assert told == "loaded 126 of 128 tensors, new: upsample.0.*, not used: upsample.0.*"


def test_another_networks_file_is_refused_and_nothing_is_loaded(tmp_path):
    state = {f"layers.{i}.mlp.weight": torch.zeros(3) for i in range(40)} | {
        "conv_first.weight": torch.zeros(12, 3, 3, 3)
    }
    torch.save(state, tmp_path / "other.pth")
    network = tiny_hat(1)
    with pytest.raises(WeightsError, match="1 of the 126 tensors of its body are there, at least 95% are expected"):
        load_into(network, tmp_path / "other.pth", strict=False)
    assert same(network, tiny_hat(1))


def test_strict_refuses_a_body_that_is_not_whole(tmp_path):
    state = tiny_hat(1).state_dict()
    del state["norm.bias"]
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"strictly \(loaded 127 of 128 tensors, new: norm\.\*\)"):
        load_into(tiny_hat(2), tmp_path / "a.pth")
    assert load_into(tiny_hat(2), tmp_path / "a.pth", strict=False) == "loaded 127 of 128 tensors, new: norm.*"


def test_a_name_of_the_catalogue_is_a_start():
    from hatdet.sr.catalogue import named_record
    from hatdet.sr.hat_arch import HAT

    told = load_into(HAT.from_options(named_record("hat-xs-x4").network_g), "hat-xs-x4")
    assert told == "loaded 214 of 214 tensors"
    with pytest.raises(WeightsError, match="hat-xs-x5 do not exist"):
        load_into(tiny_hat(), "hat-xs-x5")


def test_what_training_saves_describes_itself(tmp_path):
    """`hatdet sr --upscaler net_g_8.pth` needs no option file: what shapes do not tell is in the file."""
    network = tiny_hat(1, conv_scale=0.5)
    options = {"network_g": {"type": "HAT", **TINY, "upscale": 2, "conv_scale": 0.5}}
    save_networks(tmp_path / "net_g_8.pth", {"params": tiny_hat(2), "params_ema": network}, options)
    loaded = load_network(WeightsFile("net_g_8", tmp_path / "net_g_8.pth", None), 2)
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))


def test_states_are_found_newest_first_and_broken_ones_said(tmp_path):
    for iteration in (1000, 900, 5000):
        save_state(tmp_path / f"{iteration}.state", {"iter": iteration, "optimizers": [], "schedulers": []})
    (tmp_path / "latest.state").write_bytes(b"x")
    assert [iteration for iteration, _ in find_states(tmp_path)] == [5000, 1000, 900]
    assert read_state(tmp_path / "900.state")["iter"] == 900
    with pytest.raises(OptionsError, match="cannot be read as a training state"):
        read_state(tmp_path / "latest.state")
    torch.save({"params": {}}, tmp_path / "7.state")
    with pytest.raises(OptionsError, match="it has no iter"):
        read_state(tmp_path / "7.state")


def test_pruning_keeps_the_newest_and_the_best(tmp_path):
    for iteration in range(1, 7):
        (tmp_path / f"{iteration}.state").touch()
        (tmp_path / f"{iteration}.rank1").touch()
        (tmp_path / f"net_g_{iteration}.pth").touch()
    (tmp_path / "net_g_latest.pth").touch()
    prune(tmp_path, tmp_path, 2, [3, 6])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "5.rank1", "5.state", "6.rank1", "6.state", "net_g_3.pth", "net_g_5.pth", "net_g_6.pth", "net_g_latest.pth",
    ]  # fmt: skip
