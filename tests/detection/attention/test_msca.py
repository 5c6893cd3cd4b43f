"""MSCA against its definition in loops."""

from __future__ import annotations

import pytest

from hatdet.detection.attention.msca import MSCA
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


def msca(weights: Weights, x: Array) -> Array:
    near = named_convolve(weights, "conv0", x, depthwise=True)
    total = near.copy()
    for branch in ("conv0", "conv1", "conv2"):
        strip = named_convolve(weights, f"{branch}_1", near, depthwise=True)
        total += named_convolve(weights, f"{branch}_2", strip, depthwise=True)
    return x * named_convolve(weights, "conv3", total)


def make(residual: bool = False) -> MSCA:
    return MSCA(6, residual)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check):
    check(make)


@pytest.mark.parametrize("size", BRUTE_SIZES)
def test_loops_give_the_same(size):
    check_brute_force(MSCA(3), msca, size)


def test_loops_give_something_else_for_other_weights():
    check_control(MSCA(3), msca)


def test_parameters_are_those_of_segnext():
    assert {name: tuple(tensor.shape) for name, tensor in MSCA(6).state_dict().items()} == {
        "conv0.weight": (6, 1, 5, 5),
        "conv0.bias": (6,),
        "conv0_1.weight": (6, 1, 1, 7),
        "conv0_1.bias": (6,),
        "conv0_2.weight": (6, 1, 7, 1),
        "conv0_2.bias": (6,),
        "conv1_1.weight": (6, 1, 1, 11),
        "conv1_1.bias": (6,),
        "conv1_2.weight": (6, 1, 11, 1),
        "conv1_2.bias": (6,),
        "conv2_1.weight": (6, 1, 1, 21),
        "conv2_1.bias": (6,),
        "conv2_2.weight": (6, 1, 21, 1),
        "conv2_2.bias": (6,),
        "conv3.weight": (6, 6, 1, 1),
        "conv3.bias": (6,),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "MSCA needs its width as first argument"),
        ((0,), "first argument of MSCA must be its width in channels .* got 0"),
        ((6, 3), "residual of MSCA must be True or False, got 3"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        MSCA(*arguments)


def test_model_files_can_name_it():
    from ultralytics.nn import tasks

    assert tasks.MSCA is MSCA
    assert known_modules()["MSCA"].cls is MSCA
