"""Polarized self-attention against its definition in loops."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch

from hatdet.detection.attention.polarized import PolarizedSelfAttention
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

MODES = ("parallel", "sequential")
DIM = 24


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def channel_weights(weights: Weights, x: Array, mode: str) -> list[float]:
    pixels = list(np.ndindex(x.shape[1:]))
    query = named_convolve(weights, "conv_q_right", x)[0]
    values = named_convolve(weights, "conv_v_right", x)
    attention = softmax([query[pixel] for pixel in pixels])
    context = np.zeros((len(values), 1, 1))
    for channel in range(len(values)):
        context[channel] = sum(a * values[channel][pixel] for a, pixel in zip(attention, pixels, strict=True))
    if mode == "parallel":
        scores = named_convolve(weights, "conv_up", context)
    else:
        hidden = named_convolve(weights, "conv_up.0", context)
        mean = sum(hidden.flat) / hidden.size
        variance = sum((value - mean) ** 2 for value in hidden.flat) / hidden.size
        hidden = (hidden - mean) / math.sqrt(variance + 1e-5)
        hidden = hidden * weights["conv_up.1.weight"] + weights["conv_up.1.bias"]
        scores = named_convolve(weights, "conv_up.3", np.maximum(hidden, 0))
    return [sigmoid(score) for score in scores[:, 0, 0]]


def pixel_weights(weights: Weights, x: Array, mode: str) -> Array:
    pixels = list(np.ndindex(x.shape[1:]))
    queries = named_convolve(weights, "conv_q_left", x)
    query = [sum(channel.flat) / channel.size for channel in queries]
    values = [[channel[pixel] for pixel in pixels] for channel in named_convolve(weights, "conv_v_left", x)]
    if mode == "sequential":
        values = [softmax(channel) for channel in values]
    scores = [sum(q * channel[n] for q, channel in zip(query, values, strict=True)) for n in range(len(pixels))]
    if mode == "parallel":
        scores = softmax(scores)
    return np.array([sigmoid(score) for score in scores]).reshape(x.shape[1:])


def weighed_channels(weights: Weights, x: Array, mode: str) -> Array:
    return np.stack([w * channel for w, channel in zip(channel_weights(weights, x, mode), x, strict=True)])


def polarized(weights: Weights, x: Array, mode: str) -> Array:
    by_channel = weighed_channels(weights, x, mode)
    if mode == "parallel":
        return by_channel + pixel_weights(weights, x, mode) * x
    return by_channel * pixel_weights(weights, by_channel, mode)


def make(mode: str, residual: bool = False) -> PolarizedSelfAttention:
    return PolarizedSelfAttention(DIM, mode, residual)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check, mode):
    check(partial(make, mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", BRUTE_SIZES)
def test_loops_give_the_same(size, mode):
    check_brute_force(make(mode), partial(polarized, mode=mode), size)


@pytest.mark.parametrize("mode", MODES)
def test_loops_give_something_else_for_other_weights(mode):
    check_control(make(mode), partial(polarized, mode=mode))


def shapes(layer: PolarizedSelfAttention) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}


def test_parameters_are_those_of_the_authors():
    both = {
        "conv_q_right.weight": (1, 32, 1, 1),
        "conv_v_right.weight": (16, 32, 1, 1),
        "conv_q_left.weight": (16, 32, 1, 1),
        "conv_v_left.weight": (16, 32, 1, 1),
    }
    assert shapes(PolarizedSelfAttention(32)) == {**both, "conv_up.weight": (32, 16, 1, 1)}
    assert shapes(PolarizedSelfAttention(32, "sequential")) == {
        **both,
        "conv_up.0.weight": (4, 16, 1, 1),
        "conv_up.0.bias": (4,),
        "conv_up.1.weight": (4, 1, 1),
        "conv_up.1.bias": (4, 1, 1),
        "conv_up.3.weight": (32, 4, 1, 1),
        "conv_up.3.bias": (32,),
    }


def test_starts_as_the_authors_start():
    torch.manual_seed(0)
    layer = PolarizedSelfAttention(256)
    for conv in (layer.conv_v_right, layer.conv_q_left, layer.conv_v_left):
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.03)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "PolarizedSelfAttention needs its width as first argument"),
        ((1,), "a parallel PolarizedSelfAttention needs a width of at least 2, got 1"),
        ((15, "sequential"), "a sequential PolarizedSelfAttention needs a width of at least 16, got 15"),
        ((16, "serial"), "mode of PolarizedSelfAttention must be 'parallel' or 'sequential', got 'serial'"),
        ((16, True), "mode of PolarizedSelfAttention must be 'parallel' or 'sequential', got True"),
        ((16, "parallel", 3), "residual of PolarizedSelfAttention must be True or False, got 3"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        PolarizedSelfAttention(*arguments)


@pytest.mark.parametrize("arguments", [(2,), (3,), (16, "sequential")])
def test_the_least_widths_work(arguments):
    layer = shaken(PolarizedSelfAttention(*arguments)).train()
    layer(features(layer.dim, 3, 4)).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in layer.parameters())


def test_model_files_can_name_it_and_psa_stays_ultralytics_own():
    from ultralytics.nn import tasks

    assert tasks.PolarizedSelfAttention is PolarizedSelfAttention
    assert known_modules()["PolarizedSelfAttention"].cls is PolarizedSelfAttention
    assert tasks.PSA.__module__ == "ultralytics.nn.modules.block"
