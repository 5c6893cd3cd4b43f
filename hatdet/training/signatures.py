"""Sections of an option file that describe a call: `type` names a class or function, the other keys its arguments."""

from __future__ import annotations

import difflib
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Union

__all__ = ["KINDS", "Kind", "MisfitError", "check_call", "number", "shown", "unknown", "whole"]

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_MANY = 20


class MisfitError(ValueError):
    """A value is not what it must be; the text says what that is."""


# ------------------------------------------------------------------------------------------ 1. words for complaints


def shown(value: Any) -> str:
    """A value as a complaint shows it: never more than a few words."""
    text = "~" if value is None else repr(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def nearest(word: str, names: Sequence[str]) -> str:
    """The name that was probably meant: spelt alike, abbreviated (`lr`), or a part of it; empty if there is none."""
    initials = "".join(part[:1] for part in word.lower().split("_"))
    near = difflib.get_close_matches(word, names, n=1)
    near += [name for name in names if name == initials]
    near += [name for name in names if word.lower() in name.lower() or name.lower() in word.lower()]
    return near[0] if near else ""


def unknown(key: str, owner: str, known: Iterable[str], what: str = "") -> str:
    """Say that a key (or the value `what` of a key) is not known, with the nearest spelling and what is known."""
    names = list(known)
    near = nearest(what or key.rpartition(":")[2], names)
    said = f"{key} {what!r} is not known" if what else f"{key} is not known{owner and f' to {owner}'}"
    hint = f": did you mean {near}?" if near else ""
    listed = "" if near and len(names) > _MANY else f" (known: {', '.join(names)})"
    return said + hint + listed


# ------------------------------------------------------------------------------------------ 2. values and their types


def number(value: Any) -> int | float:
    """A finite number; a text such as `1e-4`, which YAML 1.1 does not take for one, counts."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        read = float(value)
        value = int(read) if read.is_integer() else read
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise MisfitError("a number")
    return value


def whole(value: Any) -> int:
    """A whole number; 5e3 and 5000.0 count."""
    try:
        found = number(value)
    except MisfitError:
        raise MisfitError("a whole number") from None
    if found != int(found):
        raise MisfitError("a whole number")
    return int(found)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise MisfitError("true or false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise MisfitError("text")
    return value


def _nothing(value: Any) -> None:
    if value is not None:
        raise MisfitError("~")


def _anything(value: Any) -> Any:
    """A value whose type nothing tells: texts that are numbers become numbers, so that `1e-4` is never passed on."""
    if isinstance(value, dict):
        return {key: _anything(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_anything(child) for child in value]
    try:
        return number(value)
    except MisfitError:
        return value


_SIMPLE: dict[Any, Callable[[Any], Any]] = {
    bool: _flag,
    int: whole,
    float: lambda value: float(number(value)),
    str: _text,
    type(None): _nothing,
    None: _nothing,
    number: number,
}


def fitted(value: Any, wanted: Any) -> Any:
    """The value as the type `wanted`, as far as YAML can express that type. Lists stand for tuples too.

    Raises:
        MisfitError: it is something else.
    """
    if wanted in _SIMPLE:
        return _SIMPLE[wanted](value)
    origin, arguments = typing.get_origin(wanted) or wanted, typing.get_args(wanted)
    if origin in (Union, types.UnionType):
        return _fitted_to_one(value, arguments)
    if origin is Literal:
        if value not in arguments:
            raise MisfitError(" or ".join(map(repr, arguments)))
        return value
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise MisfitError("a section of keys")
        return {key: fitted(child, arguments[1] if arguments else Any) for key, child in value.items()}
    if inspect.isclass(origin) and issubclass(origin, Iterable):
        return _fitted_list(value, origin, arguments)
    return _anything(value)


def _fitted_to_one(value: Any, choices: Sequence[Any]) -> Any:
    """The first of a union's types that fits; what YAML cannot write (tensors, modules) is none of them."""
    expected = []
    for choice in choices:
        if choice not in _SIMPLE and typing.get_origin(choice) is None and choice not in (list, tuple, dict):
            continue
        try:
            return fitted(value, choice)
        except MisfitError as misfit:
            expected.append(str(misfit))
    if not expected:
        return _anything(value)
    raise MisfitError(" or ".join(dict.fromkeys(expected)))


def _fitted_list(value: Any, origin: type, arguments: tuple[Any, ...]) -> list[Any]:
    if not isinstance(value, list):
        raise MisfitError("a list")
    if issubclass(origin, tuple) and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise MisfitError(f"a list of {len(arguments)}")
        wanted = arguments
    else:
        wanted = (arguments[0] if arguments else Any,) * len(value)
    try:
        return [fitted(child, each) for child, each in zip(value, wanted, strict=True)]
    except MisfitError as misfit:
        raise MisfitError(f"a list, each {misfit}") from None


def _wanted(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> Any:
    """The type of a parameter, from its annotation or else from its default."""
    if parameter.name in hints:
        return hints[parameter.name]
    default = parameter.default
    if isinstance(default, bool | float | str):
        return type(default)
    if isinstance(default, int):  # such as `res_scale=1`, which 0.1 is given to
        return number
    if isinstance(default, list | tuple):
        numeric = all(isinstance(each, int | float) and not isinstance(each, bool) for each in default)
        return list[number] if numeric else list  # type: ignore[valid-type]
    return Any


# ------------------------------------------------------------------------------------------ 3. what `type` names


@dataclass(frozen=True)
class Kind:
    """One kind of call.

    Attributes:
        names: what `type` may be.
        find: from a name to the class or function.
        filled: parameters that the program fills in, so a file must not.
        types: of parameters whose signature tells nothing.
        more: keys that a section may have besides the parameters, and their types.
        needed: keys that must be there although the signature has a default.
    """

    names: Callable[[], list[str]]
    find: Callable[[str], Any]
    filled: tuple[str, ...] = ()
    types: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    needed: tuple[str, ...] = ()


def _registered(kind: str) -> tuple[Callable[[], list[str]], Callable[[str], Any]]:
    def names() -> list[str]:
        from hatdet.training import plugins

        plugins.register()
        return plugins.known_names(kind)

    def find(name: str) -> Any:
        from hatdet.training import plugins

        return plugins.find(kind, name)

    return names, find


def _optimizers() -> list[str]:
    import torch

    known = vars(torch.optim).items()
    base = torch.optim.Optimizer
    return sorted(name for name, each in known if inspect.isclass(each) and issubclass(each, base) and each is not base)


def _optimizer(name: str) -> Any:
    import torch

    return getattr(torch.optim, name)


def _scheduler(name: str) -> Any:
    from basicsr.models import lr_scheduler

    # BasicSR runs its own class under torch's name too.
    return getattr(lr_scheduler, "MultiStepRestartLR" if name == "MultiStepLR" else name)


def _schedulers() -> list[str]:
    return ["CosineAnnealingRestartLR", "MultiStepLR", "MultiStepRestartLR"]


KINDS: Mapping[str, Kind] = {
    "model": Kind(*_registered("model")),
    "dataset": Kind(*_registered("dataset")),
    "network": Kind(*_registered("arch"), types={"num_in_ch": int, "num_out_ch": int, "num_feat": int}),
    "loss": Kind(
        *_registered("loss"),
        types={"layer_weights": dict[str, float], "gan_type": str},
        more={"schedule": dict[str, int]},
    ),
    "metric": Kind(
        *_registered("metric"),
        filled=("img", "img2"),
        types={"crop_border": int},
        more={"better": Literal["higher", "lower"]},
    ),
    "optimizer": Kind(_optimizers, _optimizer, filled=("params",), needed=("lr",)),
    "scheduler": Kind(
        _schedulers,
        _scheduler,
        filled=("optimizer", "last_epoch"),
        types={"milestones": list[int], "periods": list[int]},
    ),
}


def check_call(section: Any, kind: Kind, where: str) -> tuple[dict[str, Any], list[str]]:
    """The section with its values as the types of the call's parameters, and what is wrong with it, a line each.

    A `**kwargs` of the call takes nothing: in BasicSR it swallows misspelt keys.
    """
    if not isinstance(section, dict):
        return {}, [f"{where} must be a section of keys, got {shown(section)}"]
    name = section.get("type")
    if not isinstance(name, str):
        missing = f"{where}:type is missing" if name is None else f"{where}:type must be text, got {shown(name)}"
        return section, [missing]
    names = kind.names()
    if name not in names:
        return section, [unknown(f"{where}:type", "", names, name)]
    call = kind.find(name)
    parameters = {
        parameter.name: parameter
        for parameter in inspect.signature(call).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and parameter.name not in kind.filled
    }
    try:
        hints = typing.get_type_hints(call.__init__ if inspect.isclass(call) else call)
    except (NameError, TypeError):  # an annotation that means something only to its author
        hints = {}
    hints = {**kind.types, **hints}
    wanted = {each.name: _wanted(each, hints) for each in parameters.values()} | dict(kind.more)
    result, complaints = {"type": name}, []
    for key, value in section.items():
        if key == "type":
            continue
        if key not in wanted:
            complaints.append(unknown(f"{where}:{key}", name, wanted))
            continue
        try:
            result[key] = fitted(value, wanted[key])
        except MisfitError as misfit:
            complaints.append(f"{where}:{key} must be {misfit}, got {shown(value)}")
    needed = [each.name for each in parameters.values() if each.default is each.empty or each.name in kind.needed]
    complaints += [f"{where}:{key} is missing: {name} needs it" for key in needed if key not in section]
    return result, complaints
