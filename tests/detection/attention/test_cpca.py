"""CPCA against its definition in loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hatdet.detection.attention.cpca import CPCA
from hatdet.detection.attention.registration import known_modules
from tests.detection.attention.brute_force import (
    BRUTE_SIZES,
    Array,
    Weights,
    check_brute_force,
    check_control,
    named_convolve,
)
from tests.detection.attention.contract import CHECKS


def channel_weights(weights: Weights, pooled: list[float]) -> list[float]:
    w1, b1, w2, b2 = (weights[f"ca.{name}"] for name in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"))
    hidden = [max(0.0, b1[n] + sum(w1[n, c, 0, 0] * v for c, v in enumerate(pooled))) for n in range(len(b1))]
    scores = [b2[c] + sum(w2[c, n, 0, 0] * v for n, v in enumerate(hidden)) for c in range(len(b2))]
    return [1 / (1 + math.exp(-score)) for score in scores]


def cpca(weights: Weights, x: Array) -> Array:
    x = named_convolve(weights, "conv", x)
    x = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    from_mean = channel_weights(weights, [sum(channel.flat) / channel.size for channel in x])
    from_maximum = channel_weights(weights, [max(channel.flat) for channel in x])
    x = np.stack([channel * (a + b) for channel, a, b in zip(x, from_mean, from_maximum, strict=True)])
    near = named_convolve(weights, "dconv5_5", x, depthwise=True)
    total = near.copy()
    for side in (7, 11, 21):
        strip = named_convolve(weights, f"dconv1_{side}", near, depthwise=True)
        total += named_convolve(weights, f"dconv{side}_1", strip, depthwise=True)
    return named_convolve(weights, "conv", x * named_convolve(weights, "conv", total))


def make(residual: bool = False) -> CPCA:
    return CPCA(8, residual=residual)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check):
    check(make)


@pytest.mark.parametrize("size", BRUTE_SIZES)
def test_loops_give_the_same(size):
    check_brute_force(CPCA(4, 2), cpca, size)


def test_loops_give_something_else_for_other_weights():
    check_control(CPCA(4, 2), cpca)


def test_parameters_are_those_of_the_authors():
    expected = {
        "ca.fc1.weight": (2, 8, 1, 1),
        "ca.fc1.bias": (2,),
        "ca.fc2.weight": (8, 2, 1, 1),
        "ca.fc2.bias": (8,),
        "dconv5_5.weight": (8, 1, 5, 5),
        "dconv5_5.bias": (8,),
        "dconv1_7.weight": (8, 1, 1, 7),
        "dconv1_7.bias": (8,),
        "dconv7_1.weight": (8, 1, 7, 1),
        "dconv7_1.bias": (8,),
        "dconv1_11.weight": (8, 1, 1, 11),
        "dconv1_11.bias": (8,),
        "dconv11_1.weight": (8, 1, 11, 1),
        "dconv11_1.bias": (8,),
        "dconv1_21.weight": (8, 1, 1, 21),
        "dconv1_21.bias": (8,),
        "dconv21_1.weight": (8, 1, 21, 1),
        "dconv21_1.bias": (8,),
        "conv.weight": (8, 8, 1, 1),
        "conv.bias": (8,),
    }
    assert {name: tuple(tensor.shape) for name, tensor in CPCA(8).state_dict().items()} == expected


def test_hidden_neurons_of_the_channel_attention():
    hidden = {reduce: CPCA(10, reduce).ca.fc1.out_channels for reduce in (1, 4, 10)}
    assert hidden == {1: 10, 4: 2, 10: 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "CPCA needs its width as first argument"),
        ((8, 0), "channel_attention_reduce of CPCA must be a whole number from 1 to its width 8, got 0"),
        ((8, 9), "channel_attention_reduce of CPCA must be a whole number from 1 to its width 8, got 9"),
        ((8, 2.0), "channel_attention_reduce of CPCA must be a whole number from 1 to its width 8, got 2.0"),
        ((8, True), "channel_attention_reduce of CPCA must be a whole number from 1 to its width 8, got True"),
        ((8, 4, 3), "residual of CPCA must be True or False, got 3"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        CPCA(*arguments)


def test_model_files_can_name_it():
    from ultralytics.nn import tasks

    assert tasks.CPCA is CPCA
    assert known_modules()["CPCA"].cls is CPCA
