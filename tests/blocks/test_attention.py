"""Both ways of computing attention are the same function, gradients included."""

from __future__ import annotations

import pytest
import torch

from hatdet.blocks.attention import attend, lowered
from tests.helpers import relative_difference, tiny_hat


@pytest.mark.parametrize(("queries", "keys", "d"), [(64, 64, 16), (16, 36, 5), (1, 4, 3)])
def test_written_out_as_fused(queries, keys, d):
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, n, d, dtype=torch.float64) for n in (queries, keys, keys))
    bias = torch.randn(1, 2, queries, keys, dtype=torch.float64)
    weight = torch.randn(3, 2, queries, d, dtype=torch.float64)

    def run(train_bias):
        inputs = [x.clone().requires_grad_() for x in (q, k, v)] + [bias.clone().requires_grad_(train_bias)]
        out = attend(*inputs, scale=0.3)
        (out * weight).sum().backward()
        return [out.detach(), *(x.grad for x in inputs[:3])], inputs[3].grad

    (written, grad), (fused, none) = run(True), run(False)
    assert none is None
    for a, b in zip(written, fused, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
    numeric = torch.zeros_like(bias)
    for i in torch.randperm(bias.numel())[:5]:
        step = torch.zeros_like(bias).view(-1)
        step[i] = 1e-6
        step = step.view_as(bias)
        up, down = (((attend(q, k, v, bias + s * step, 0.3)) * weight).sum() for s in (1, -1))
        numeric.view(-1)[i] = (up - down) / 2e-6
        assert float(grad.view(-1)[i]) == pytest.approx(float(numeric.view(-1)[i]), abs=1e-6)


def test_the_tail_is_full_precision_under_autocast_unless_speed_is_worth_more():
    network, x = tiny_hat(), torch.rand(1, 3, 16, 16)
    seen = {}
    network.conv_last.register_forward_hook(lambda module, given, out: seen.update(tail=out.dtype))
    block = network.layers[0].residual_group.blocks[1]
    block.register_forward_hook(lambda module, given, out: seen.update(stream=out.dtype))
    block.attn.qkv.register_forward_hook(lambda module, given, out: seen.update(branch=out.dtype))
    with torch.no_grad():
        expected = network(x)
        differences = []
        for tail in (True, False):
            network.fp32_tail = tail
            with torch.autocast("cpu", torch.bfloat16):
                differences.append(relative_difference(network(x), expected))
            kinds = {
                "stream": torch.float32,
                "branch": torch.bfloat16,
                "tail": torch.float32 if tail else torch.bfloat16,
            }
            assert seen == kinds
    assert 0 < differences[0] < differences[1] < 0.03


def test_what_goes_into_products_is_cast_where_autocast_is_on():
    x = torch.rand(2, 3)
    assert lowered(x) is x
    with torch.autocast("cpu", torch.bfloat16):
        assert lowered(x).dtype == torch.bfloat16
        meta = torch.rand(2, device="meta")
        assert lowered(meta) is meta
