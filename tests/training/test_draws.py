"""What is read when is a function of the seed and the iteration alone."""

from __future__ import annotations

import random
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from hatdet.training.draws import Draws, SeededDataset, seed_all, training_loader


@given(st.integers(1, 20), st.integers(1, 4), st.integers(0, 5))
def test_all_processes_together_draw_each_item_once_before_any_again(size, world, seed):
    streams = [list(islice(Draws(size, seed, rank, world), 3 * size)) for rank in range(world)]
    drawn = [stream[i].item for i in range(3 * size) for stream in streams]
    for turn in range(3):
        assert sorted(drawn[turn * size : (turn + 1) * size]) == list(range(size))


@given(st.integers(1, 20), st.integers(0, 40), st.integers(1, 3))
def test_a_later_start_goes_on_with_the_same_draws(size, skip, world):
    whole = list(islice(Draws(size, 1, world - 1, world), skip + 10))
    assert list(islice(Draws(size, 1, world - 1, world, skip), 10)) == whole[skip:]


def test_each_turn_has_an_order_of_its_own_and_so_has_each_seed():
    first, second = (tuple(d.item for d in islice(Draws(30, 7, skip=skip), 30)) for skip in (0, 30))
    other = tuple(d.item for d in islice(Draws(30, 8), 30))
    assert len({first, second, other}) == 3


class Random(Dataset):
    """Items made of all three generators."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return {"value": torch.tensor([index, random.random(), np.random.rand(), float(torch.rand(()))])}


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_whoever_reads_them(workers):
    def batches(skip, workers):
        loader = training_loader(Random(), Draws(5, 3, skip=skip), batch=2, workers=workers, pin_memory=False)
        return [next(loader)["value"] for _ in range(4)]

    expected = batches(0, 0)
    assert all(torch.equal(a, b) for a, b in zip(batches(0, workers), expected, strict=True))
    assert torch.equal(batches(4, workers)[0], expected[2])
    values = torch.cat(expected)[:, 1:].flatten()
    assert len(values.unique()) == len(values)


def test_reading_leaves_the_callers_generators_alone():
    seed_all(5)
    expected = random.random(), np.random.rand(), float(torch.rand(()))
    seed_all(5)
    SeededDataset(Random())[next(iter(Draws(5, 0)))]
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected
