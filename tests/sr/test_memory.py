"""How much memory a call takes: the model by hand, against what is alive in real calls, and what fits."""

from __future__ import annotations

import weakref

import psutil
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hatdet.sr.catalogue import FAMILIES
from hatdet.sr.hat_arch import HAT
from hatdet.sr.memory import Choice, Footprint, body_bytes, fitting, footprint, free_memory, tail_bytes
from tests.helpers import tiny_hat


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        # 5 float32 maps, then 7 and twice the ratio of the windows, 1.5² = 2.25, and twice the middle of the MLP.
        ((12, 24, 8, 12, 4), 4 * 5 * 12 + 4 * (7 * 12 + 54 + 48)),
        ((12, 24, 8, 12, 2), 4 * 5 * 12 + 2 * (7 * 12 + 54 + 48)),
        ((180, 360, 16, 24, 4), 4 * 5 * 180 + 4 * (7 * 180 + 810 + 720)),
        ((180, 360, 16, 24, 2), 4 * 5 * 180 + 2 * (7 * 180 + 810 + 720)),
    ],
)
def test_the_body_by_hand(sizes, expected):
    assert body_bytes(*sizes) == expected


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((48, 64, 4), 12288 + 448), ((48, 64, 2), 3072 + 448), ((180, 64, 3), 6912 + 976), ((12, 8, 1), 96 + 80)],
)
def test_the_tail_by_hand(sizes, expected):
    assert tail_bytes(*sizes) == expected


@pytest.mark.parametrize(
    ("family", "scale", "precision", "fixed", "per_pixel"),
    [
        # Two groups of four blocks of three heads; every second block keeps four masks. The tail is larger.
        ("hat-xs", 4, torch.float32, 4 * 3 * (2 * (1 + 4 + 1 + 4) * 64 * 64 + 2 * 64 * 144), 12736),
        ("hat-xs", 4, torch.bfloat16, 2 * 3 * (2 * (1 + 4 + 1 + 4) * 64 * 64 + 2 * 64 * 144), 12736),
        # Six groups of six blocks of six heads. The body is larger, but in bf16 at x4.
        ("hat", 4, torch.float32, 4 * 6 * (6 * 15 * 256 * 256 + 6 * 256 * 576), 14760),
        ("hat", 2, torch.bfloat16, 2 * 6 * (6 * 15 * 256 * 256 + 6 * 256 * 576), 9180),
        ("hat", 4, torch.bfloat16, 2 * 6 * (6 * 15 * 256 * 256 + 6 * 256 * 576), 13264),
    ],
)
def test_the_footprint_of_published_networks(family, scale, precision, fixed, per_pixel):
    with torch.device("meta"):
        network = HAT(**FAMILIES[family], upscale=scale)
    assert footprint(network, precision) == Footprint(fixed, per_pixel)


class Alive(TorchDispatchMode):
    """The most bytes of tensors made under it that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in self.sizes:
                storage = leaf.untyped_storage()
                self.sizes[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.sizes.pop, storage._cdata, None)
        self.peak = max(self.peak, sum(self.sizes.values()))
        return out


@pytest.mark.parametrize("side", [64, 96])
@pytest.mark.parametrize(
    ("make", "precision"),
    [
        (tiny_hat, torch.float32),
        (lambda: HAT(**FAMILIES["hat-xs"], upscale=4).eval(), torch.float32),
        # Where the groups need more than the reconstruction, and their precision counts.
        (lambda: tiny_hat(embed_dim=48, mlp_ratio=4), torch.float32),
        (lambda: tiny_hat(embed_dim=48, mlp_ratio=4), torch.bfloat16),
    ],
    ids=["tiny", "hat-xs", "wide", "wide-bf16"],
)
def test_the_model_is_near_what_is_alive_in_a_real_call(make, precision, side):
    network = make()
    image = torch.rand(1, 3, side, side)
    low = precision != torch.float32
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=low), Alive() as alive:
        network(image)
    expected = footprint(network, precision).bytes(Choice(side, 1))
    assert alive.peak / 2 < expected < alive.peak * 2


NEEDED = Footprint(1000, 10)


@pytest.mark.parametrize(
    ("limit", "asked", "window", "expected"),
    [
        (1000 + 10 * 256**2, (256, 1), 16, (256, 1)),
        (1000 + 10 * 256**2 - 1, (256, 1), 16, (240, 1)),  # the largest multiple of the window that is smaller
        (1000 + 10 * 256**2 - 1, (256, 1), 8, (248, 1)),
        (1000 + 10 * 100**2, (256, 1), 16, (96, 1)),
        (1000 + 10 * 3 * 256**2, (256, 16), 16, (256, 3)),  # the batch gives way first
        (1000 + 10 * 256**2 - 1, (256, 16), 16, (240, 1)),
        (1e12, (256, 16), 16, (256, 16)),
        (1e12, (100, 2), 16, (100, 2)),  # what fits stays as it was given
        (1000 + 10 * 96**2, (100, 2), 16, (100, 1)),  # 96 are used of it
        (50, (256, 4), 16, (64, 1)),  # nothing fits
        (50, (48, 4), 16, (48, 1)),  # smaller was asked for
        (50, (256, 4), 24, (72, 1)),
    ],
)
def test_what_fits(limit, asked, window, expected):
    assert fitting(NEEDED, limit, Choice(*asked), window=window, least=64) == expected


def test_the_free_memory_of_the_cpu_is_the_machines(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 12345, "total": 99999}))
    assert free_memory(torch.device("cpu")) == 12345


def test_the_free_memory_of_a_gpu_includes_what_torch_keeps(monkeypatch):
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 300)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    assert free_memory(torch.device("cuda")) == 1400
