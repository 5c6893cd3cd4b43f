"""The roofline of HAT: what each part costs, which module belongs to which, and what the report says."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import hatdet
from hatdet.blocks.hat_blocks import CAB, WindowAttention
from hatdet.sr.catalogue import FAMILIES
from hatdet.sr.hat_arch import HAT
from tests.helpers import TINY, tiny_hat

TOOLS = Path(hatdet.__file__).resolve().parent.parent / "tools"
ONE_BLOCK = {"depths": [1], "num_heads": [3]}

# TINY with one block, upscale 2, on 8x8: 64 tokens of 12 channels. Operations, then numbers moved.
BY_HAND = {
    "first convolution": (2 * 64 * 9 * 3 * 12, 64 * 3 + 64 * 12 + (9 * 3 * 12 + 12)),
    "window attention": (
        2 * 64 * 12 * 36 + 2 * 64 * 12 * 12 + 2 * (2 * 64 * 64 * 12),  # qkv, proj, scores and values
        768 + 768 + (12 * 36 + 36) + (12 * 12 + 12) + 15 * 15 * 3,
    ),
    "CAB": (
        2 * 64 * 9 * (12 * 3 + 3 * 12) + 2 * (12 * 2 + 2 * 12),
        768 + 768 + (9 * 12 * 3 + 3) + (9 * 3 * 12 + 12) + (12 * 2 + 2) + (2 * 12 + 12),
    ),
    "OCAB attention, with its two additions": (
        2 * 64 * 12 * 36 + 2 * 64 * 12 * 12 + 2 * (2 * 64 * 144 * 12),
        6 * 768 + (12 * 36 + 36) + (12 * 12 + 12) + 19 * 19 * 3,
    ),
    "MLP": (2 * (2 * 64 * 2 * 12 * 24), 2 * (768 + 768 + (12 * 24 + 24) + (24 * 12 + 12))),
    "norms": (0, 6 * (768 + 768 + 12 + 12)),
    "RHAG convolutions": (2 * (2 * 64 * 9 * 12 * 12), 2 * (768 + 768 + (9 * 12 * 12 + 12))),
    "reconstruction": (
        2 * 64 * 9 * (12 * 8 + 8 * 32) + 2 * 256 * 9 * 8 * 3,
        (768 + 512 + 9 * 12 * 8 + 8) + (512 + 2048 + 9 * 8 * 32 + 32) + (2048 + 768 + 9 * 8 * 3 + 3),
    ),
    # HAB, RHAG, and of the network: the mean, the long skip, the mean again.
    "rest: other additions, padding": (0, 7 * 768 + 3 * 768 + (2 * 192 + 3 * 768 + 2 * 768)),
}


@pytest.fixture(scope="module")
def roofline():
    sys.path.insert(0, str(TOOLS))
    try:
        yield importlib.import_module("roofline")
    finally:
        sys.path.remove(str(TOOLS))


def costs(roofline, network, x, precision="fp32"):
    def forward():
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            network(x)

    return roofline.costs(roofline.claims(network), forward)


# ------------------------------------------------------------------------------------------ counts


def test_counts_are_those_by_hand(roofline):
    found = costs(roofline, tiny_hat(**ONE_BLOCK), torch.rand(1, 3, 8, 8))
    assert {part: (cost.total, cost.bytes / 4) for part, cost in found.items()} == BY_HAND


def test_tokens_scale_tensors_and_not_weights(roofline):
    network = tiny_hat(**ONE_BLOCK)
    one, four = (costs(roofline, network, torch.rand(batch, 3, 8, 8)) for batch in (1, 4))
    for part, cost in one.items():
        assert four[part].total == 4 * cost.total
    assert four["MLP"].bytes - one["MLP"].bytes == 3 * 4 * (768 + 768) * 2


# What a second counter says of modules by their names: it sums all that happens inside.
NAMES = {
    "first convolution": r"HAT\.conv_first",
    "window attention": r".*\.attn",
    "CAB": r".*\.conv_block",
    "OCAB attention, with its two additions": r".*\.overlap_attn",
    "MLP": r".*\.mlp",
    "RHAG convolutions": r"HAT\.conv_after_body|HAT\.layers\.\d+\.conv",
    "reconstruction": r"HAT\.(conv_before_upsample|upsample|conv_last)",
}


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({**TINY, "upscale": 2}, (2, 3, 16, 24)),
        ({**TINY, "upscale": 4}, (1, 3, 13, 5)),  # padded to 16x8
        ({**TINY, "upscale": 3, "overlap_ratio": 0.25, "mlp_ratio": 4}, (1, 3, 8, 16)),
        ({**FAMILIES["hat"], "upscale": 4, "depths": [2], "num_heads": [6]}, (1, 3, 16, 16)),
    ],
)
def test_operations_are_those_of_the_flop_counter(roofline, options, shape):
    network, x = HAT(**options).eval(), torch.rand(shape)
    with FlopCounterMode(display=False) as counter:  # with gradients: attention as plain products
        network(x)
    counted = {name: sum(by.values()) for name, by in counter.get_flop_counts().items()}
    expected = {part: sum(n for name, n in counted.items() if re.fullmatch(p, name)) for part, p in NAMES.items()}
    overlap_mlps = sum(n for name, n in counted.items() if re.fullmatch(r".*\.overlap_attn\.mlp", name))
    assert overlap_mlps > 0
    expected["OCAB attention, with its two additions"] -= overlap_mlps

    found = costs(roofline, network, x)
    assert {part: cost.total for part, cost in found.items() if cost.total} == expected
    assert sum(cost.total for cost in found.values()) == counter.get_total_flops()


def test_bf16_counts_what_is_computed_in_it(roofline):
    network, x = tiny_hat(**ONE_BLOCK), torch.rand(1, 3, 8, 8)
    given = []
    network.layers[0].residual_group.blocks[0].attn.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    full, low = costs(roofline, network, x), costs(roofline, network, x, "bf16")
    in_full = {"first convolution", "reconstruction"}  # the network leaves them so
    for part, cost in low.items():
        precision = torch.float32 if part in in_full else torch.bfloat16
        assert cost.operations == (Counter({precision: full[part].total}) if full[part].total else Counter())
    assert {part for part in low if low[part].bytes == full[part].bytes} >= in_full
    weights = BY_HAND["window attention"][1] - 2 * 768
    assert low["window attention"].bytes == given[-1].nbytes + 2 * 768 + 2 * weights


def test_floor_is_the_larger_of_two(roofline):
    rates = {torch.float32: 10.0, torch.bfloat16: 100.0}
    cost = roofline.Cost(Counter({torch.float32: 20, torch.bfloat16: 300}), 70)
    assert cost.floor(rates, 35.0) == 2 + 3  # operations
    assert cost.floor(rates, 7.0) == 10  # bytes


# ------------------------------------------------------------------------------------------ which module is whose


def test_every_parameter_is_of_one_part(roofline):
    network = tiny_hat()
    owned = [id(p) for c in roofline.claims(network).values() for m in c.own for p in m.parameters(recurse=False)]
    assert sorted(owned) == sorted(id(p) for p in network.parameters())


class OtherAttention(WindowAttention):
    pass


def inside_cab(network):
    next(m for m in network.modules() if isinstance(m, CAB)).cab.append(nn.Tanh())


def other_attention(network):
    network.layers[0].residual_group.blocks[0].attn = OtherAttention(12, 8, 3)


def other_tail(network):
    network.conv_last = nn.Linear(8, 3)


def inside_block(network):
    network.layers[1].residual_group.blocks[1].more = nn.Conv2d(12, 12, 1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (inside_cab, "HAT.layers.0.residual_group.blocks.0.conv_block.cab.4, a Tanh: it stands in 'CAB'"),
        (other_attention, "HAT.layers.0.residual_group.blocks.0.attn, a OtherAttention"),
        (other_tail, "HAT.conv_last, a Linear: it stands in 'reconstruction'"),
        (inside_block, "HAT.layers.1.residual_group.blocks.1.more, a Conv2d"),
    ],
)
def test_a_module_that_no_part_knows_is_an_error(roofline, change, named):
    network = tiny_hat()
    roofline.claims(network)
    change(network)
    with pytest.raises(TypeError, match=re.escape(f"no part knows {named}")):
        roofline.claims(network)


def test_a_module_that_is_never_called_is_an_error(roofline):
    network = tiny_hat()
    network.conv_first.register_forward_hook(lambda *_: setattr(network, "conv_last", nn.Conv2d(8, 3, 1)))
    with pytest.raises(RuntimeError, match=r"HAT\.conv_last \(reconstruction\) was never called"):
        costs(roofline, network, torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("part", "module", "complaint"),
    [
        ("conv_last", nn.Conv2d(8, 3, 3), "must keep the size of its input"),
        ("conv_last", nn.Conv2d(8, 3, 3, padding=1, stride=2), "must keep the size of its input"),
        ("upsample", nn.LeakyReLU(), "should hold convolutions has none"),
    ],
)
def test_what_cannot_be_counted_is_an_error(roofline, part, module, complaint):
    network = tiny_hat()
    setattr(network, part, module)
    with pytest.raises((TypeError, ValueError), match=complaint):
        costs(roofline, network, torch.rand(1, 3, 8, 8))


# ------------------------------------------------------------------------------------------ times and rates


def test_time_inside_goes_to_the_inner_part(roofline):
    rest, overlap, norms, mlp = roofline.REST, roofline.OVERLAP, roofline.NORMS, roofline.MLP
    trace = [(rest, 0), (norms, 1), (None, 3), (overlap, 7), (norms, 8), (None, 16), (mlp, 32), (None, 64)]
    trace += [(None, 128), (None, 256)]
    seconds = roofline.seconds_by_part(trace, lambda start, end: float(end - start))
    expected = {rest: 1 + 4 + 128, norms: 2 + 8, overlap: 1 + 16 + 64, mlp: 32}
    assert {part: n for part, n in seconds.items() if n} == expected
    assert sum(seconds.values()) == 256


def test_hooks_are_taken_back_and_change_nothing(roofline):
    network, x = tiny_hat(), torch.rand(1, 3, 8, 8)
    claimed, clock = roofline.claims(network), roofline.Clock("cpu")
    with torch.no_grad():
        before, results = network(x), []
        seconds = roofline.hooked_run(claimed, lambda: results.append(network(x)), clock)
    assert torch.equal(results[0], before)
    assert all(seconds[part] > 0 for part in roofline.PARTS)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


class Told:
    """A clock whose times are known: those of the warm-ups are not asked for."""

    device = "cpu"

    def __init__(self, *seconds):
        self.seconds, self.calls = list(seconds), 0

    def time(self, function):
        function()
        return self.seconds.pop(0)


def test_matmul_rate_is_the_best_time_of_the_best_size(roofline):
    clock = Told(3.0, 1.0, 4.0, 2.0)
    assert roofline.matmul_rate([(2, 3, 5), (4, 4, 4)], torch.bfloat16, clock, repeats=2) == (64.0, (4, 4, 4))
    clock = Told(3.0, 1.0, 4.0, 4.0)
    assert roofline.matmul_rate([(2, 3, 5), (4, 4, 4)], torch.float32, clock, repeats=2) == (60.0, (2, 3, 5))


def test_memory_rate_counts_all_arrays(roofline):
    assert roofline.memory_rate(1000, Told(2.0, 1.0, 4.0, 2.0), repeats=2) == (2000.0, "copy")
    assert roofline.memory_rate(1000, Told(2.0, 2.0, 4.0, 1.0), repeats=2) == (3000.0, "triad")


def test_products_are_those_of_the_linear_layers(roofline):
    sizes = [(64, 12, 12), (64, 12, 24), (64, 12, 36), (64, 24, 12), (100, 100, 100)]
    assert roofline.products(tiny_hat(), 64, 100) == sizes


# ------------------------------------------------------------------------------------------ the report


def test_table(roofline):
    rows = [
        roofline.Row("MLP", 3_000_000_000, 2_500_000, 0.030, 0.010),
        roofline.Row("norms", 0, 20_000_000, 0.010, 0.0025),
    ]
    assert roofline.table(rows) == (
        "| part | GFLOP | MB | ms | floor, ms | ratio | share |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| MLP | 3.00 | 2.5 | 30.00 | 10.00 | 3.00 | 75.0% |\n"
        "| norms | 0.00 | 20.0 | 10.00 | 2.50 | 4.00 | 25.0% |\n"
        "| sum | 3.00 | 22.5 | 40.00 | 12.50 | 3.20 | 100.0% |"
    )
    assert roofline.summary(rows, 0.032, 9, "bf16", 1e12) == (
        "The whole: 32.00 ms (fastest of 9, without hooks), 93.8 GFLOP/s, 9.4% of the bf16 matmul rate. "
        "The sum of the parts is 125.0% of it."
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_command_prints_what_it_writes(roofline, monkeypatch, capsys, tmp_path, precision):
    monkeypatch.setattr(roofline, "SQUARE", {"cpu": 64})
    monkeypatch.setattr(roofline, "ARRAY_BYTES", 4096)
    kept = []
    monkeypatch.setattr(roofline, "keep_freed_memory", lambda: kept.append(True))  # it would be so for all tests
    file = tmp_path / "numbers.json"
    roofline.main(["--upscaler", "hat-xs", "--tile", "8", "--runs", "3", "--precision", precision, "--json", str(file)])
    assert kept == [True]
    said = capsys.readouterr()
    numbers = json.loads(file.read_text())
    rows = [roofline.Row(**row) for row in numbers["parts"]]
    assert [row.part for row in rows] == list(roofline.PARTS)
    assert roofline.table(rows) in said.out
    rate = numbers["matmul"][precision]["rate"]
    assert roofline.summary(rows, numbers["whole"]["seconds"], 3, precision, rate) in said.out
    assert said.out.startswith(
        f"hat-xs x4, batch 1 of 8x8, {precision}, cpu, {torch.get_num_threads()} threads, torch "
    )
    assert sum(row.seconds for row in rows) == pytest.approx(min(numbers["whole"]["hooked"]))
    assert numbers["whole"]["seconds"] == min(numbers["whole"]["runs"])
    mlp = rows[roofline.PARTS.index("MLP")]
    assert mlp.floor == pytest.approx(max(mlp.operations / rate, mlp.bytes / numbers["memory"]["rate"]))
    assert "run 3/3" in said.err
    assert "run 3/3" not in said.out
