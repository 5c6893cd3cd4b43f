"""What a training run reads when: a function of the seed and the iteration, so that a resumed run goes on exactly.

Every item that is read is a *draw*: the number of the item in the data set, and a seed of its own. Crops, flips and
degradations follow from that seed, whatever process or thread makes them, and whatever was made before.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

__all__ = ["Draw", "Draws", "SeededDataset", "seed_all", "training_loader"]


class Draw(NamedTuple):
    """One item to read."""

    item: int
    seed: int


class Draws(Sampler[Draw]):
    """The endless sequence of draws of one process.

    The data set is gone through in a new random order again and again; all processes together draw each item once
    before any is drawn again.

    Args:
        size: how many items the data set has.
        seed: of the run.
        rank, world: this process among all.
        skip: draws of this process that an earlier part of the run has used.
    """

    def __init__(self, size: int, seed: int, rank: int = 0, world: int = 1, skip: int = 0) -> None:
        self.size, self.seed, self.rank, self.world, self.skip = size, seed, rank, world, skip

    def __iter__(self) -> Iterator[Draw]:
        number = self.skip
        order_of, order = -1, torch.empty(0)
        while True:
            position = number * self.world + self.rank
            turn, place = divmod(position, self.size)
            if turn != order_of:
                generator = torch.Generator().manual_seed(_mixed(self.seed, turn))
                order_of, order = turn, torch.randperm(self.size, generator=generator)
            yield Draw(int(order[place]), _mixed(self.seed, 1, position))
            number += 1


class SeededDataset(Dataset[Any]):
    """A BasicSR data set whose items are read by draws; the caller's random state is left alone."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, draw: Draw) -> Any:
        with _own_randomness(draw.seed):
            return self.dataset[draw.item]


def training_loader(
    dataset: Dataset[Any], draws: Draws, *, batch: int, workers: int, pin_memory: bool
) -> Iterator[dict[str, Any]]:
    """Endless batches, read ahead by `workers` processes; 0 reads in this one."""
    loader = DataLoader(
        SeededDataset(dataset),
        batch_size=batch,
        sampler=draws,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
    )
    return iter(loader)


def seed_all(seed: int, *of: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators from the run's seed and what the numbers stand for."""
    value = _mixed(seed, *of)
    random.seed(value)
    np.random.seed(value % 2**32)  # noqa: NPY002 (the generator that BasicSR's degradations use)
    torch.manual_seed(value)


def _mixed(*numbers: int) -> int:
    """A seed of 63 bits; neighbouring numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)  # the CPU's alone: torch.manual_seed would reseed the GPU
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


def _start_worker(_: int) -> None:
    import cv2

    cv2.setNumThreads(0)  # the processes are what runs side by side
