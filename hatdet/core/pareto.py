"""Which of several things no other one beats in two costs at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["pareto_front"]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The points that no other one beats: the indices, by the first cost. Both costs are better when smaller.

    Of equal points all are on the front.
    """
    front: list[int] = []
    best = math.inf
    for index in sorted(range(len(points)), key=lambda index: points[index]):
        if points[index][1] < best or (front and points[index] == points[front[-1]]):
            front.append(index)
            best = points[index][1]
    return front
