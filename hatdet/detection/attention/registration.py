"""Makes a layer known to Ultralytics: by its name in model files, and to its restricted loading of checkpoints.

Ultralytics looks the name of a row up among the globals of `ultralytics.nn.tasks`. A layer's module calls `register`
when it is imported, and a checkpoint names that module: so one that holds our layers loads in a process that never
heard of hatdet, and in the workers of a distributed training.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

if "ultralytics" not in sys.modules:  # in a process that has begun with Ultralytics its environment stays as it is
    import hatdet.detection.ultralytics_setup  # noqa: F401 (before ultralytics)

__all__ = ["AttentionModule", "known_modules", "register"]


@dataclass(frozen=True)
class AttentionModule:
    """What `hatdet attention list` says of a layer.

    `arguments` holds, for the strides 8, 16 and 32 of a feature map, what follows `c2` in a row there.
    """

    cls: type[nn.Module]
    summary: str
    paper: str
    origin: str  # whose parameter names it has, with that code's licence
    constraints: str
    arguments: Mapping[int, Sequence[Any]] = field(default_factory=lambda: {8: (), 16: (), 32: ()})
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.cls.__name__

    @property
    def signature(self) -> str:
        """The arguments of a row in their order, with their defaults."""
        parameters = list(inspect.signature(self.cls.__init__).parameters.values())[1:]
        return ", ".join(
            "c2" if p.name == "dim" else p.name if p.default is p.empty else f"{p.name}={p.default!r}"
            for p in parameters
        )


_KNOWN: dict[str, AttentionModule] = {}


def known_modules() -> dict[str, AttentionModule]:
    """The registered layers by the name that a row gives them, without aliases."""
    return dict(_KNOWN)


def register(module: AttentionModule) -> None:
    """Let model files name the layer, and checkpoints that hold it be loaded in restricted mode. Can be repeated.

    Raises:
        ValueError: Ultralytics already gives that name to something else.
    """
    make_known(module.cls, module.name, *module.aliases)
    _KNOWN[module.name] = module


def make_known(cls: type[nn.Module], *names: str) -> None:
    """Give `cls` those names in model files, and allow the classes of its file in checkpoints.

    Raises:
        ValueError: Ultralytics already gives one of the names to something else.
    """
    from ultralytics.nn import tasks

    for name in names:
        there = getattr(tasks, name, None)
        if there is not None and _identity(there) != _identity(cls):
            raise ValueError(
                f"{_identity(cls)} cannot be called {name} in model files: ultralytics has {_identity(there)} there"
            )
    for name in names:
        setattr(tasks, name, cls)
    torch.serialization.add_safe_globals(_classes_beside(cls))


def _identity(thing: object) -> str:
    return f"{getattr(thing, '__module__', '?')}.{getattr(thing, '__qualname__', thing)}"


def _classes_beside(cls: type) -> list[Any]:
    """The classes of the files that define `cls` and its bases in this package: what a checkpoint of it may hold."""
    files = {base.__module__ for base in cls.__mro__ if base.__module__.split(".")[0] == cls.__module__.split(".")[0]}
    return [
        other
        for file in sorted(files)
        for other in vars(sys.modules[file]).values()
        if isinstance(other, type) and other.__module__ == file
    ]
