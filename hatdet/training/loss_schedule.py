"""When which loss of an option file counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["LossSchedule"]


@dataclass(frozen=True)
class LossSchedule:
    """When a loss counts, and how much of its weight.

    Attributes:
        from_iter: the first iteration in which it counts.
        until_iter: the last one; None to the end.
        ramp_iter: over so many iterations its weight rises linearly from 0.
        every: it is computed in every so manieth iteration, with so many times its weight.
    """

    from_iter: int = 0
    until_iter: int | None = None
    ramp_iter: int = 0
    every: int = 1

    @classmethod
    def of(cls, section: Mapping[str, Any] | None) -> LossSchedule:
        """From `schedule` of a loss in an option file; None counts always."""
        return cls(**(section or {}))

    def share(self, iteration: int) -> float:
        """What the loss's weight is multiplied with; 0: it need not be computed."""
        if iteration < self.from_iter or (self.until_iter is not None and iteration > self.until_iter):
            return 0.0
        if iteration % self.every:
            return 0.0
        risen = min(1.0, (iteration - self.from_iter + 1) / self.ramp_iter) if self.ramp_iter else 1.0
        return risen * self.every
