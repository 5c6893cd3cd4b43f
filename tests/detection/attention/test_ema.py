"""EMA against its definition in loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hatdet.detection.attention.ema import EMA
from hatdet.detection.attention.registration import known_modules
from tests.detection.attention.brute_force import (
    BRUTE_SIZES,
    Array,
    Weights,
    check_brute_force,
    check_control,
    named_convolve,
)
from tests.detection.attention.contract import CHECKS, features, shaken

FACTOR = 2


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def channel_weights(x: Array) -> list[float]:
    means = [sum(channel.flat) / channel.size for channel in x]
    total = sum(math.exp(mean) for mean in means)
    return [math.exp(mean) / total for mean in means]


def normalised(channel: Array, weight: float, bias: float) -> Array:
    mean = sum(channel.flat) / channel.size
    variance = sum((value - mean) ** 2 for value in channel.flat) / channel.size
    return (channel - mean) / math.sqrt(variance + 1e-5) * weight + bias


def ema_of_group(weights: Weights, x: Array) -> Array:
    c, h, w = x.shape
    # As the authors write it: the means of rows and of columns one below the other, through one convolution.
    pooled = np.zeros((c, h + w, 1))
    for channel in range(c):
        for i in range(h):
            pooled[channel, i, 0] = sum(x[channel, i, j] for j in range(w)) / w
        for j in range(w):
            pooled[channel, h + j, 0] = sum(x[channel, i, j] for i in range(h)) / h
    pooled = named_convolve(weights, "conv1x1", pooled)
    gated = np.zeros_like(x)
    for channel, i, j in np.ndindex(c, h, w):
        gated[channel, i, j] = x[channel, i, j] * sigmoid(pooled[channel, i, 0]) * sigmoid(pooled[channel, h + j, 0])
    wide = np.stack([normalised(gated[n], weights["gn.weight"][n], weights["gn.bias"][n]) for n in range(c)])
    near = named_convolve(weights, "conv3x3", x)
    of_wide, of_near = channel_weights(wide), channel_weights(near)
    y = np.zeros_like(x)
    for i, j in np.ndindex(h, w):
        score = sum(of_wide[n] * near[n, i, j] + of_near[n] * wide[n, i, j] for n in range(c))
        y[:, i, j] = x[:, i, j] * sigmoid(score)
    return y


def ema(weights: Weights, x: Array) -> Array:
    return np.concatenate([ema_of_group(weights, group) for group in np.split(x, FACTOR)])


def make(residual: bool = False) -> EMA:
    return EMA(16, 4, residual)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check):
    check(make)


@pytest.mark.parametrize("size", BRUTE_SIZES)
def test_loops_give_the_same(size):
    check_brute_force(EMA(6, FACTOR), ema, size)


def test_loops_give_something_else_for_other_weights():
    check_control(EMA(6, FACTOR), ema)


@pytest.mark.parametrize(("arguments", "channels"), [((64,), 8), ((64, 32), 2), ((64, 64), 1), ((64, 1), 64)])
def test_parameters_are_those_of_the_authors(arguments, channels):
    assert {name: tuple(tensor.shape) for name, tensor in EMA(*arguments).state_dict().items()} == {
        "gn.weight": (channels,),
        "gn.bias": (channels,),
        "conv1x1.weight": (channels, channels, 1, 1),
        "conv1x1.bias": (channels,),
        "conv3x3.weight": (channels, channels, 3, 3),
        "conv3x3.bias": (channels,),
    }


def test_a_single_pixel_of_a_single_group():
    layer = shaken(EMA(4, 1)).train()
    x = features(4, 1, 1, batch=1)
    with pytest.raises(ValueError, match="Expected more than 1"):
        layer.gn(x)
    assert torch.isfinite(layer(x)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "EMA needs its width as first argument"),
        ((16, 3), "factor of EMA must be a positive whole number that divides its width 16, got 3"),
        ((16, 32), "factor of EMA must be a positive whole number that divides its width 16, got 32"),
        ((16, 0), "factor of EMA must be a positive whole number that divides its width 16, got 0"),
        ((12,), "factor of EMA must be a positive whole number that divides its width 12, got 8"),
        ((16, 8, 3), "residual of EMA must be True or False, got 3"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        EMA(*arguments)


def test_model_files_can_name_it():
    from ultralytics.nn import tasks

    assert tasks.EMA is EMA
    assert known_modules()["EMA"].cls is EMA
