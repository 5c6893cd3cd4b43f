"""Pretrained weights into a model that has a row more: layers are matched by what they are, not by their number.

Ultralytics matches tensors by name, `model.9.cv1...`, so that one inserted row makes everything behind it start anew.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from torch import nn

__all__ = ["Transfer", "match_layers", "transfer_weights"]


@dataclass(frozen=True)
class Transfer:
    """What came of it: how many tensors of how many have come over, and the layers that nothing was found for."""

    transferred: int
    total: int
    new_layers: tuple[tuple[int, str], ...]  # index, class name

    def __str__(self) -> str:
        new = ", ".join(f"{index} ({name})" for index, name in self.new_layers)
        said = f"transferred {self.transferred} of {self.total} tensors from pretrained weights"
        return f"{said}; new: layer {new}" if new else said


def match_layers(target: nn.Sequential, source: nn.Sequential) -> list[int | None]:
    """For each layer of `target` the index of the layer of `source` that it continues, or None.

    The order is kept, as many layers as possible find one of their own class (or a subclass), and of several ways to
    match them the one is taken in which most tensors have the same shape.
    """
    score = [[_likeness(new, old) for old in source] for new in target]
    rows, columns = len(score), len(source)
    best = [[0.0] * (columns + 1) for _ in range(rows + 1)]  # of the layers from i and from j on
    for i in reversed(range(rows)):
        for j in reversed(range(columns)):
            together = score[i][j] + best[i + 1][j + 1] if score[i][j] else 0.0
            best[i][j] = max(together, best[i + 1][j], best[i][j + 1])
    found: list[int | None] = []
    j = 0
    for i in range(rows):
        while j < columns and best[i][j] == best[i][j + 1] and best[i][j] > best[i + 1][j]:
            j += 1  # a layer that only the source has
        matched = j < columns and score[i][j] > 0 and best[i][j] == score[i][j] + best[i + 1][j + 1]
        found.append(j if matched else None)
        j += matched
    return found


def _likeness(new: nn.Module, old: nn.Module) -> float:
    """0 for different kinds of layer, otherwise 1 and up to 1 more for tensors of the same name and shape."""
    if not (isinstance(new, type(old)) or isinstance(old, type(new))):
        return 0.0
    ours, theirs = ({name: tensor.shape for name, tensor in layer.state_dict().items()} for layer in (new, old))
    if not ours:
        return 2.0
    return 1.0 + sum(bool(theirs.get(name) == shape) for name, shape in ours.items()) / len(ours)


def transfer_weights(model: nn.Module, source: Any) -> Transfer:
    """Load the weights of `source` into `model`, layer by layer, past the rows that only one of them has.

    Everything else is Ultralytics' own `load`: class rows by name, a head of another number of classes, a first
    convolution of another number of channels.

    Args:
        model: An Ultralytics model, changed in place.
        source: Another one, or a checkpoint's dictionary with one under "ema" or "model".
    """
    if isinstance(source, dict):
        source = source.get("ema") or source["model"]
    target: Any = model
    matched = match_layers(target.model, source.model)
    renumbered = copy.copy(source)  # its layers are the source's own, at the places they have in the target
    renumbered._modules = dict(source._modules)
    renumbered.model = nn.Sequential(*(nn.Identity() if j is None else source.model[j] for j in matched))
    target.load(renumbered, verbose=False)
    ours, theirs = target.state_dict(), renumbered.state_dict()
    new = tuple((i, type(target.model[i]).__name__) for i, j in enumerate(matched) if j is None)
    return Transfer(sum(key in theirs and theirs[key].shape == ours[key].shape for key in ours), len(ours), new)
