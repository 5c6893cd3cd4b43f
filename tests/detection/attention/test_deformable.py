"""Deformable attention against its definition in loops over samples, heads, pixels and points."""

from __future__ import annotations

import itertools
import logging
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from hatdet.detection.attention import deformable
from hatdet.detection.attention.deformable import DAttention, DAttentionBaseline
from hatdet.detection.attention.registration import known_modules
from tests.detection.attention.contract import CHECKS, features, onnx_outputs, shaken
from tests.helpers import relative_difference

Array = np.ndarray
Bias = Callable[[int, float, float], float]

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "rpe": {},
    "rpe, stride 2, as in DAT": {"stride": 2, "ksize": 5, "offset_range_factor": 2, "reference": "dat"},
    "rpe, limited offsets": {"offset_range_factor": 2},
    "log-cpb, stride 4": {"position": "log-cpb", "stride": 4, "ksize": 7},
    "dwc, kernel as large as the stride": {"position": "dwc", "stride": 4, "ksize": 4},
    "none": {"position": "none", "offset_range_factor": 0.5, "reference": "dat"},
}


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check, configuration):
    check(partial(DAttention, 16, 4, 2, **{"table_size": 5, **CONFIGURATIONS[configuration]}))


# ------------------------------------------------------------------------------------------ the definition, in loops


def at(image: Array, y: float, x: float) -> float:
    """The image at a point in [-1, 1], bilinearly; -1 and 1 are the centres of the outermost pixels, zero outside."""
    h, w = image.shape
    row, column = (y + 1) / 2 * (h - 1), (x + 1) / 2 * (w - 1)
    total = 0.0
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < h and 0 <= j < w:
                total += image[i, j] * (1 - abs(row - i)) * (1 - abs(column - j))
    return total


def pointwise(weights: dict[str, Array], name: str, x: Array) -> Array:
    return np.einsum("oc,chw->ohw", weights[f"{name}.weight"][:, :, 0, 0], x) + weights[f"{name}.bias"][:, None, None]


def depthwise(kernel: Array, bias: Array, x: Array, stride: int, padding: int) -> Array:
    """The convolution of each channel; a map smaller than the kernel is extended by zeros to its size."""
    c, h, w = x.shape
    k = kernel.shape[-1]
    hk, wk = ((max(n + 2 * padding, k) - k) // stride + 1 for n in (h, w))
    y = np.zeros((c, hk, wk)) + bias[:, None, None]
    for i, j, a, b in itertools.product(range(hk), range(wk), range(k), range(k)):
        row, column = i * stride - padding + a, j * stride - padding + b
        if 0 <= row < h and 0 <= column < w:
            y[:, i, j] += kernel[:, 0, a, b] * x[:, row, column]
    return y


def group_points(weights: dict[str, Array], layer: DAttention, q: Array) -> list[tuple[float, float]]:
    """Where a group samples, row by row, from the group's part of the queries."""
    s, k, f = layer.stride, layer.ksize, layer.offset_range_factor
    weight, bias = weights["conv_offset.0.weight"], weights["conv_offset.0.bias"]
    z = depthwise(weight, bias, q, s, 0 if k == s else k // 2)
    z = (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5)
    z = z * weights["conv_offset.1.norm.weight"][:, None, None] + weights["conv_offset.1.norm.bias"][:, None, None]
    z = z * 0.5 * (1 + np.vectorize(math.erf)(z / math.sqrt(2)))
    offset = np.einsum("oc,chw->ohw", weights["conv_offset.3.weight"][:, :, 0, 0], z)
    points = []
    for i, j in itertools.product(*map(range, offset.shape[1:])):
        point = []
        for axis, (index, n) in enumerate(zip((i, j), offset.shape[1:], strict=True)):
            steps = n if layer.reference == "dat" else max(n - 1, 1)
            reference = (index + 0.5) / steps * 2 - 1
            if f < 0:
                point.append(min(max(reference + offset[axis, i, j], -1), 1))
            else:
                point.append(reference + math.tanh(offset[axis, i, j]) * f / steps)
        points.append(tuple(point))
    return points


def pixel_coordinate(layer: DAttention, index: int, n: int) -> float:
    if layer.reference == "dat":
        return (index + 0.5) / n * 2 - 1
    return index / (n - 1) * 2 - 1 if n > 1 else 0.0


def score_bias(weights: dict[str, Array], layer: DAttention, head: int, dy: float, dx: float) -> float:
    """What "rpe" and "log-cpb" say of a pixel at that distance from a point."""
    if layer.position == "rpe":
        return at(weights["rpe_table"][head], dy / 2, dx / 2)
    logarithms = np.array([math.copysign(math.log(4 * abs(d) + 1, 8), d) for d in (dy, dx)])
    hidden = np.maximum(weights["rpe_table.0.weight"] @ logarithms + weights["rpe_table.0.bias"], 0)
    return float(weights["rpe_table.2.weight"][head % (layer.n_heads // layer.n_groups)] @ hidden)


def by_definition(layer: DAttention, x: torch.Tensor) -> torch.Tensor:
    weights = {name: tensor.double().numpy() for name, tensor in layer.state_dict().items()}
    return torch.from_numpy(np.stack([sample_by_definition(weights, layer, image.double().numpy()) for image in x]))


def sample_by_definition(weights: dict[str, Array], layer: DAttention, x: Array) -> Array:
    c, h, w = x.shape
    d, per_group = c // layer.n_heads, c // layer.n_groups
    q = pointwise(weights, "proj_q", x)
    points = [group_points(weights, layer, part) for part in q.reshape(-1, per_group, h, w)]
    sampled = np.array([[at(x[n], *point) for point in points[n // per_group]] for n in range(c)])
    k, v = (pointwise(weights, name, sampled[:, None])[:, 0] for name in ("proj_k", "proj_v"))
    out = np.zeros_like(x)
    for head, i, j in itertools.product(range(layer.n_heads), range(h), range(w)):
        own = slice(head * d, (head + 1) * d)
        scores = []
        for n, (y0, x0) in enumerate(points[head * layer.n_groups // layer.n_heads]):
            score = sum(q[own, i, j] * k[own, n]) / math.sqrt(d)
            if layer.position == "fixed":
                score += weights["rpe_table"][head, i * w + j, n]
            elif layer.position in ("rpe", "log-cpb"):
                dy, dx = pixel_coordinate(layer, i, h) - y0, pixel_coordinate(layer, j, w) - x0
                score += score_bias(weights, layer, head, dy, dx)
            scores.append(score)
        shares = [math.exp(score - max(scores)) for score in scores]
        out[own, i, j] = sum(share * v[own, n] for n, share in enumerate(shares)) / sum(shares)
    if layer.position == "dwc":
        out += depthwise(weights["rpe_table.weight"], weights["rpe_table.bias"], q, 1, 1)
    return pointwise(weights, "proj_out", out)


def layer_for(h: int, w: int, position: str = "rpe", **arguments: Any) -> DAttention:
    """Four heads in two groups, with offsets that leave the map; tables of another size than the map if possible."""
    table_size = (h, w) if position == "fixed" else (3, 4)
    layer = shaken(DAttention(8, 4, 2, position=position, table_size=table_size, **arguments))
    with torch.no_grad():
        layer.conv_offset[3].weight.mul_(8)
        layer.proj_q.weight.mul_(4)
    return layer


def error(layer: DAttention, expected: torch.Tensor, x: torch.Tensor) -> float:
    """The largest difference, in parts of the output's scale."""
    with torch.no_grad():
        return float((layer(x) - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("reference", deformable.REFERENCES)
@pytest.mark.parametrize("factor", [-1, 2])
@pytest.mark.parametrize("position", deformable.POSITIONS)
def test_loops_give_the_same(position, factor, reference):
    for h, w in ((4, 4), (3, 5), (7, 2)):
        for stride, ksize in ((1, 3), (2, 5), (4, 4)):
            layer = layer_for(
                h, w, position, stride=stride, ksize=ksize, offset_range_factor=factor, reference=reference
            )
            x = features(8, h, w)
            assert error(layer, by_definition(layer, x), x) < 1e-5


@pytest.mark.parametrize("reference", deformable.REFERENCES)
@pytest.mark.parametrize("factor", [-1, 2])
@pytest.mark.parametrize("position", ["rpe", "log-cpb"])
def test_a_single_row_or_column_has_its_points_in_the_middle(position, factor, reference):
    for h, w in ((1, 1), (1, 20), (5, 1)):
        layer = layer_for(h, w, position, stride=2, ksize=3, offset_range_factor=factor, reference=reference)
        x = features(8, h, w, batch=1)
        with torch.no_grad():
            assert torch.isfinite(layer(x)).all()
            references = layer.sample_points(x)[1]
        assert h > 1 or (references[..., 0] == 0).all()
        assert w > 1 or (references[..., 1] == 0).all()
        assert error(layer, by_definition(layer, x), x) < 1e-5


@pytest.mark.parametrize("position", deformable.POSITIONS)
def test_loops_give_something_else_for_other_weights(position):
    layer, x = layer_for(3, 5, position), features(8, 3, 5)
    expected = by_definition(layer, x)
    weights = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    for name, tensor in weights.items():
        layer.load_state_dict(weights)
        layer.state_dict()[name].copy_(tensor.flip(0) + 0.1)
        if name == "proj_k.bias":  # the same for every point that a pixel attends to
            assert error(layer, expected, x) < 1e-5
        else:
            assert error(layer, expected, x) > 1e-3, name


@pytest.mark.parametrize(
    "change", [{"offset_range_factor": 2.0}, {"reference": "dat"}, {"position": "none"}, {"stride": 2, "ksize": 3}]
)
def test_loops_give_something_else_for_other_arguments(change):
    layer, x = layer_for(3, 5), features(8, 3, 5)
    other = DAttention(8, 4, 2, **{"table_size": (3, 4), **change})
    other.load_state_dict(layer.state_dict(), strict=change.get("position") != "none")
    assert error(other, by_definition(layer, x), x) > 1e-3


# ------------------------------------------------------------------------------------------ points


@pytest.mark.parametrize(
    ("reference", "table"),
    [
        ("datpp", {1: [0], 2: [0, 2], 3: [-0.5, 0.5, 1.5], 5: [-0.75, -0.25, 0.25, 0.75, 1.25]}),
        ("dat", {1: [0], 2: [-0.5, 0.5], 4: [-0.75, -0.25, 0.25, 0.75], 5: [-0.8, -0.4, 0, 0.4, 0.8]}),
    ],
)
def test_reference_points(reference, table):
    layer = DAttention(8, reference=reference)
    for (h, rows), (w, columns) in itertools.product(table.items(), repeat=2):
        found = layer.sample_points(features(8, h, w))[1]
        expected = [[[y, x] for x in columns] for y in rows]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("side", "ends"), [(20, (-0.9473684, 1.0526316)), (10, (-0.8888889, 1.1111111))])
def test_reference_points_of_dat_plus_plus_are_off_centre(side, ends):
    found = DAttention(8).sample_points(features(8, side, side))[1]
    for axis in (0, 1):
        assert found[..., axis].min() == pytest.approx(ends[0], abs=1e-6)
        assert found[..., axis].max() == pytest.approx(ends[1], abs=1e-6)


@pytest.mark.parametrize(("reference", "reach"), [("datpp", (2 / 3, 2 / 5)), ("dat", (2 / 4, 2 / 6))])
def test_offsets_are_limited_by_the_factor_and_the_number_of_points(reference, reach):
    layer = shaken(DAttention(8, 4, 2, 2, 3, 2, reference=reference))
    with torch.no_grad():
        layer.conv_offset[3].weight.mul_(1e4)
        points, references = layer.sample_points(features(8, 7, 12, batch=3))
    assert points.shape == (3, 2, 4, 6, 2)
    assert references.shape == (4, 6, 2)
    offsets = (points - references).abs()
    torch.testing.assert_close(offsets.amax((0, 1, 2, 3)), torch.tensor(reach), rtol=1e-5, atol=0)
    assert points.abs().max() > 1  # beyond the border, where the map is zero


def test_without_a_limit_points_stay_inside_the_map():
    layer = shaken(DAttention(8, 4, 2))
    x = features(8, 7, 12)
    with torch.no_grad():
        layer.conv_offset[3].weight.mul_(1e4)
        points, references = layer.sample_points(x)
        assert points.abs().max() == 1
        assert (points - references).abs().amax((0, 1, 2, 3)).min() > 1.5
        layer.conv_offset[3].weight.zero_()
        assert torch.equal(layer.sample_points(x)[0], references.clamp(-1, 1).expand(2, 2, -1, -1, -1))


def test_points_are_as_exact_in_half_precision():
    layer = DAttention(8, 4, 2, offset_range_factor=0).half()
    points, references = layer.sample_points(features(8, 80, 80).half())
    exact = (2 * torch.arange(80, dtype=torch.float64) + 1) / 79 - 1
    assert (references[:, 0, 0] - exact).abs().max() < 1e-6
    assert torch.equal(points, references.expand_as(points))


# ------------------------------------------------------------------------------------------ the layer in a model


@pytest.mark.parametrize(
    ("position", "table"),
    [
        ("none", {}),
        ("rpe", {"rpe_table": (4, 5, 7)}),
        ("fixed", {"rpe_table": (4, 12, 4)}),
        ("dwc", {"rpe_table.weight": (16, 1, 3, 3), "rpe_table.bias": (16,)}),
        ("log-cpb", {"rpe_table.0.weight": (32, 2), "rpe_table.0.bias": (32,), "rpe_table.2.weight": (2, 32)}),
    ],
)
def test_parameters_are_those_of_the_authors(position, table):
    expected = {
        "conv_offset.0.weight": (8, 1, 5, 5),
        "conv_offset.0.bias": (8,),
        "conv_offset.1.norm.weight": (8,),
        "conv_offset.1.norm.bias": (8,),
        "conv_offset.3.weight": (2, 8, 1, 1),
        **{
            f"proj_{name}.{kind}": (16, 16, 1, 1)[: 4 if kind == "weight" else 1]
            for name in ("q", "k", "v", "out")
            for kind in ("weight", "bias")
        },
        **table,
    }
    layer = DAttention(16, 4, 2, 2, 5, position=position, table_size=[3, 4])
    assert {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()} == expected


@pytest.mark.parametrize(
    ("dim", "heads", "groups"),
    [(8, 1, 1), (48, 1, 1), (64, 2, 1), (96, 3, 1), (128, 4, 2), (256, 8, 4), (512, 16, 8), (576, 18, 9), (288, 9, 3)],
)
def test_heads_and_groups_follow_the_width(dim, heads, groups):
    layer = DAttention(dim)
    assert (layer.n_heads, layer.n_groups) == (heads, groups)


def test_registered_under_both_names():
    from ultralytics.nn import tasks

    assert tasks.DAttention is tasks.DAttentionBaseline is DAttentionBaseline is DAttention
    module = known_modules()["DAttention"]
    for stride, arguments in module.arguments.items():
        layer = DAttention(128, *arguments)
        assert layer.stride == 32 // stride
        assert layer.ksize == {1: 3, 2: 5, 4: 7}[layer.stride]


@pytest.mark.parametrize("position", deformable.POSITIONS)
@pytest.mark.parametrize("reference", deformable.REFERENCES)
def test_rows_hold_plain_words(position, reference):
    from ultralytics.nn.tasks import parse_model

    row = ["c2", "None", 2, 2, 5, -1, position, reference, [20, 12]]
    rows = {"nc": 1, "backbone": [[-1, 1, "Conv", [64, 3, 2]], [-1, 1, "DAttentionBaseline", row]], "head": []}
    layer = parse_model(rows, ch=3, verbose=False)[0][1]
    assert type(layer) is DAttention
    assert (layer.dim, layer.n_heads, layer.n_groups, layer.stride, layer.ksize) == (64, 2, 2, 2, 5)
    assert (layer.position, layer.reference, layer.table_size) == (position, reference, (20, 12))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_heads": 3}, "n_heads of DAttention .* divides its width 16, got 3"),
        ({"n_heads": 4, "n_groups": 3}, "n_groups .* divides its 4 heads, got 3"),
        ({"n_heads": 4, "n_groups": 8}, "n_groups .* divides its 4 heads, got 8"),
        ({"n_groups": True}, "n_groups .* got True"),
        ({"stride": 0}, "stride .* positive whole number, got 0"),
        ({"ksize": 2.5}, "ksize .* positive whole number, got 2.5"),
        ({"offset_range_factor": math.nan}, "offset_range_factor .* finite number, got nan"),
        ({"offset_range_factor": "rpe"}, "offset_range_factor .* finite number, got 'rpe'"),
        ({"position": "sine"}, "position .* one of rpe, log-cpb, dwc, fixed, none, got 'sine'"),
        ({"reference": "v1"}, "reference .* one of datpp, dat, got 'v1'"),
        ({"table_size": 0}, "table_size .* got 0"),
        ({"table_size": [20, 20, 20]}, r"table_size .* got \[20, 20, 20\]"),
        ({"residual": 1}, "residual .* got 1"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        DAttention(16, **arguments)
    assert "\n" not in str(caught.value)


def test_fixed_positions_are_for_one_size():
    layer = shaken(DAttention(16, 4, 2, 2, 3, position="fixed", table_size=[6, 9]))
    x = features(16, 6, 9)
    with torch.no_grad():
        expected = layer(x)
        for h, w in ((9, 6), (6, 10), (7, 9)):
            with pytest.raises(ValueError, match=f"maps of 6x9 and got {h}x{w}: set table_size"):
                layer(features(16, h, w))
        (found,) = onnx_outputs(layer, x, [x], dynamic=False)
    assert relative_difference(torch.from_numpy(found), expected) < 1e-5


# ------------------------------------------------------------------------------------------ memory


@pytest.fixture
def said(caplog, monkeypatch):
    """What the layers have said since: nothing of it before this test."""
    monkeypatch.setattr(deformable, "_said_large", set())
    caplog.set_level(logging.WARNING, logger="hatdet")
    return caplog


def run_without_memory(layer: DAttention, h: int, w: int) -> None:
    layer.to("meta").eval()(torch.empty(1, layer.dim, h, w, device="meta"))


@pytest.mark.parametrize(
    ("arguments", "side", "mebibytes"),
    [
        ((128, 4), 80, 625),  # 6400 pixels, 6400 points, 4 heads
        ((128, 4, None, 2, 5), 80, None),
        ((128, 4, None, 4, 7), 80, None),
        ((128, 4), 64, None),
        ((128, 4, 2, 2, 5, -1, "log-cpb"), 80, 2500),  # 6400 pixels, 1600 points, 32 numbers for each of 2 groups
    ],
)
def test_what_needs_much_memory_says_so(said, arguments, side, mebibytes):
    layer = DAttention(*arguments)
    run_without_memory(layer, side, side)
    if mebibytes is None:
        assert said.messages == []
    else:
        (message,) = said.messages
        assert f"needs {mebibytes} MiB or more for each 80x80 map, as its stride is {layer.stride}" in message
        assert "twice the stride" in message


def test_memory_is_compared_with_the_limit(said, monkeypatch):
    layer, x = DAttention(8, 2, 1, 2, 3), features(8, 6, 5)
    monkeypatch.setattr(deformable, "LARGE_BYTES", 4 * 30 * 9 * 2)  # 30 pixels, 9 points, 2 heads
    layer(x)
    assert said.messages == []
    monkeypatch.setattr(deformable, "LARGE_BYTES", 4 * 30 * 9 * 2 - 1)
    layer(x)
    assert len(said.messages) == 1


def test_memory_is_said_once_and_not_while_tracing(said, monkeypatch):
    monkeypatch.setattr(deformable, "LARGE_BYTES", 0)
    layer, x = DAttention(8).eval(), features(8, 3, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(layer, x, check_trace=False)
    assert said.messages == []
    layer(x)
    layer(x)
    DAttention(8)(features(8, 4, 4))
    assert len(said.messages) == 1
    DAttention(8, stride=2)(x)
    assert len(said.messages) == 2
