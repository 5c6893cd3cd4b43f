"""Layers against their definitions in loops: a convolution by hand, and comparisons that would notice any parameter."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from hatdet.detection.attention.layer import AttentionLayer
from tests.detection.attention.contract import features, shaken

Array = NDArray[np.float64]
Weights = dict[str, Array]
Reference = Callable[[Weights, Array], Array]  # parameters by name, (dim, h, w) -> (dim, h, w)

BRUTE_SIZES = ((1, 1), (7, 5), (12, 23))


def convolve(x: Array, weight: Array, bias: Array | None = None, *, depthwise: bool = False) -> Array:
    """A convolution by its definition, of the same size, with zeros around. `(c, h, w)` to `(c', h, w)`."""
    (c_out, c_in, kh, kw), (_, h, w) = weight.shape, x.shape
    y = np.zeros((c_out, h, w))
    for o in range(c_out):
        for i in range(h):
            for j in range(w):
                total = 0.0 if bias is None else bias[o]
                for c in range(c_in):
                    for a in range(kh):
                        for b in range(kw):
                            row, column = i + a - kh // 2, j + b - kw // 2
                            if 0 <= row < h and 0 <= column < w:
                                total += weight[o, c, a, b] * x[o if depthwise else c, row, column]
                y[o, i, j] = total
    return y


def named_convolve(weights: Weights, name: str, x: Array, *, depthwise: bool = False) -> Array:
    return convolve(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"), depthwise=depthwise)


def mismatch(layer: AttentionLayer, x: torch.Tensor, expected: Array) -> float:
    """The largest difference over the largest value."""
    with torch.no_grad():
        y = layer(x).double().numpy()
    return float(np.abs(y - expected).max() / np.abs(expected).max())


def references(layer: AttentionLayer, reference: Reference, size: tuple[int, int]) -> tuple[torch.Tensor, Array]:
    """An input, and what the reference gives for it with the layer's parameters, which are shaken first."""
    shaken(layer)
    x = features(layer.dim, *size)
    weights = {name: tensor.double().numpy() for name, tensor in layer.state_dict().items()}
    return x, np.stack([reference(weights, sample) for sample in x.double().numpy()])


def check_brute_force(layer: AttentionLayer, reference: Reference, size: tuple[int, int]) -> None:
    assert mismatch(layer, *references(layer, reference, size)) <= 1e-5


def check_control(layer: AttentionLayer, reference: Reference) -> None:
    """The comparison fails as soon as any one parameter of the layer is not the reference's."""
    x, expected = references(layer, reference, (7, 5))
    for name in layer.state_dict():
        other = copy.deepcopy(layer)
        tensor = other.state_dict()[name]
        tensor += 0.5 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
        assert mismatch(other, x, expected) > 1e-4, name
