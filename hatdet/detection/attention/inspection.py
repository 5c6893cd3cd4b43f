"""What can be said of the attention rows of a model file: whether they are right, and what a layer costs.

It knows the layers that are registered: all of `hatdet.detection.attention`, and those that a user has registered.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hatdet.core.errors import InputError, OptionsError
from hatdet.detection.attention.registration import AttentionModule, known_modules
from hatdet.detection.model_files import ModelFile

__all__ = [
    "MAPS",
    "Cost",
    "Finding",
    "attention_module",
    "build",
    "check_model_file",
    "complete_arguments",
    "cost_of",
    "row_problems",
    "stride_at",
    "width_problems",
]

# Channels and side of the maps of YOLO11n at 640 px, by their stride: layers 4, 6 and 9.
MAPS = {8: (128, 80), 16: (128, 40), 32: (256, 20)}
BUILT_AT = 256  # px, the side of the image that Ultralytics runs a model with when it builds it
# Height and width of the images that a file is tried with, in strides of its coarsest map.
SIZES = ((1, 1), (1, 3), (3, 2), (5, 7))
GRADIENT_SIZES = ((3, 5), (13, 20))


# ------------------------------------------------------------------------------------------ 1. the layers


def attention_module(name: str) -> AttentionModule:
    """The registered layer that a row names, by an alias too.

    Raises:
        OptionsError: there is none.
    """
    for module in known_modules().values():
        if name in (module.name, *module.aliases):
            return module
    raise OptionsError(f"there is no attention layer {name}: expected one of {', '.join(sorted(known_modules()))}")


@dataclass(frozen=True)
class Cost:
    """What a layer costs on one map.

    Attributes:
        stride: Of the map in the image.
        shape: The map, channels, height and width.
        arguments: What follows `c2` in the row.
        parameters: Their number.
        gflops: Of one forward pass, 10^9, two for a multiplication with its addition. Convolutions and all matrix
            products, those of attention included; no additions alone, no normalisation, no interpolation.
    """

    stride: int
    shape: tuple[int, int, int]
    arguments: tuple[Any, ...]
    parameters: int
    gflops: float


def cost_of(module: AttentionModule) -> list[Cost]:
    """What the layer costs on the maps of YOLO11n at 640 px, with the arguments that it is recommended with there."""
    costs = []
    for stride, (channels, side) in MAPS.items():
        arguments = tuple(module.arguments[stride])
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            layer = module.cls(channels, *arguments).eval()
            layer(torch.empty(1, channels, side, side))
        parameters = sum(each.numel() for each in layer.parameters())
        costs.append(Cost(stride, (channels, side, side), arguments, parameters, counter.get_total_flops() / 1e9))
    return costs


def complete_arguments(module: AttentionModule, given: Sequence[Any], residual: bool) -> list[Any]:
    """The arguments of a row, from `c2` on: those that are given, the others as the layer has them by default.

    Raises:
        OptionsError: more than the layer takes.
    """
    parameters = [p for p in list(inspect.signature(module.cls.__init__).parameters.values())[1:] if p.name != "dim"]
    optional = [p for p in parameters if p.name != "residual"]
    if len(given) > len(optional):
        raise OptionsError(f"{module.name} takes at most {len(optional)} arguments behind c2, got {list(given)}")
    rest = [p.default for p in optional[len(given) :]]
    # Ultralytics' files spell the missing value None, and read it so.
    return ["c2", *("None" if each is None else each for each in [*given, *rest]), *([True] if residual else [])]


# ------------------------------------------------------------------------------------------ 2. a file, as it stands


def _attention_rows(model: ModelFile) -> dict[int, AttentionModule]:
    names = {name: module for module in known_modules().values() for name in (module.name, *module.aliases)}
    return {i: names[row.module] for i, row in enumerate(model.rows) if row.module in names}


def row_problems(model: ModelFile) -> list[str]:
    """What is wrong with the rows of a file, a line each, without building it."""
    from ultralytics.nn import tasks

    problems = []
    attention = _attention_rows(model)
    for i, row in enumerate(model.rows):
        place = f"row {i}, {row},"
        if not _is_known(row.module, vars(tasks)):
            problems.append(f"{place} names a module that neither Ultralytics nor hatdet has: {row.module}")
        if i in attention and model.producers(i) != (i - 1,):
            problems.append(f"{place} reads {row.source}: an attention row must read the row above it, -1")
        if i in attention and row.args[:1] != ("c2",):
            problems.append(f"{place} does not begin its arguments with c2, the width of the row above it")
    if not attention:
        problems.append("no row names an attention layer")
    return problems


def _is_known(name: str, namespace: Mapping[str, Any]) -> bool:
    if name.startswith("nn."):
        return hasattr(nn, name.removeprefix("nn."))
    if name.startswith("torchvision.ops."):
        import torchvision

        return hasattr(torchvision.ops, name.removeprefix("torchvision.ops."))
    found = namespace.get(name)
    return isinstance(found, type) and issubclass(found, nn.Module)


def build(model: ModelFile, scale: str = "") -> nn.Module:
    """The model of a file at a scale, as Ultralytics builds it, with the weights it begins with; the same each time.

    Raises:
        InputError: it cannot be built, and why in one line.
    """
    from ultralytics.nn.tasks import DetectionModel

    at = f" at scale {scale}" if scale else ""
    try:
        with _seeded():
            content = model.as_dict(scale)
            return cast(nn.Module, DetectionModel(content, ch=int(content.get("channels", 3)), verbose=False))
    except Exception as error:  # whatever a layer raises on arguments that are not for it
        raise InputError(f"the model cannot be built{at}: {_described(error)}") from error


def stride_at(model: ModelFile, layer: int) -> int:
    """The stride of the map that a layer gives, 8, 16 or 32 at YOLO's levels; measured at the file's first scale.

    Raises:
        InputError: the model cannot be built, or the layer gives no map.
    """
    network = build(model, next(iter(model.scales), ""))
    shapes: dict[int, Any] = {}
    with _watched(_layers(network), lambda i, _, __, output: shapes.update({i: getattr(output, "shape", ())})):
        _run(network.eval(), _as_built(network))
    if len(shapes[layer]) != 4:
        raise InputError(f"layer {layer}, {model.rows[layer]}, gives no feature map that a row could read")
    return BUILT_AT // int(shapes[layer][-1])


# ------------------------------------------------------------------------------------------ 3. a file, built


@dataclass(frozen=True)
class Finding:
    """One check of a file: what was looked at, and what is wrong with it, a line each."""

    what: str
    problems: tuple[str, ...] = ()


def check_model_file(model: ModelFile, scales: Iterable[str] | None = None) -> Iterator[Finding]:
    """Check a file: its rows, then at each scale what a model built from it does. Stops at what makes the rest void.

    Args:
        scales: Letters; by default all of the file.
    """
    problems = row_problems(model)
    found = ", ".join(f"{i} {module.name}" for i, module in _attention_rows(model).items())
    yield Finding(f"attention rows: {found}", tuple(problems))
    if problems:
        return
    for scale in scales if scales is not None else model.scales or ("",):
        at = f"scale {scale}: " if scale else ""
        try:
            network = build(model, scale)
        except InputError as error:
            yield Finding(f"{at}builds", (str(error),))
            continue
        parameters = sum(each.numel() for each in network.parameters())
        yield Finding(f"{at}builds, {parameters:,} parameters")
        widths = ", ".join(str(layer.dim) for _, layer in _attention_layers(model, network))
        unit = _coarsest(network)
        sizes = ", ".join(f"{h * unit}x{w * unit}" for h, w in SIZES)
        for what, problems in (
            (f"widths are those of the rows above: {widths}", width_problems(model, network)),
            (f"runs at {sizes}", _size_problems(model, network)),
            ("every attention parameter learns", _gradient_problems(model, network)),
        ):
            yield Finding(at + what, tuple(at + problem for problem in problems))


def width_problems(model: ModelFile, network: nn.Module) -> list[str]:
    """Where a layer was built for another width than that of the map it is given, measured by running the model."""
    layers = _attention_layers(model, network)
    widths: dict[int, int] = {}
    try:
        with _watched(layers, lambda i, _, inputs, __: widths.update({i: inputs[0].shape[1]})):
            _run(network.eval(), _as_built(network))
    except Exception as error:  # a layer can fail in any way, and not every model is run when it is built
        return [f"does not run: {_described(error)}"]
    return [
        f"row {i}, {model.rows[i]}, was built for {layer.dim} channels and is given {widths[i]}"
        for i, layer in layers
        if layer.dim != widths[i]
    ]


def _size_problems(model: ModelFile, network: nn.Module) -> list[str]:
    """Sizes at which the model fails, or an attention row does not keep the shape of its map or the values finite."""
    network.eval()
    rows = _rows(model, network)
    problems: list[str] = []
    place = ""

    def look(i: int, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.shape != inputs[0].shape:
            problems.append(f"{place}: row {i} makes {tuple(output.shape)} of {tuple(inputs[0].shape)}")
        elif not output.isfinite().all():
            problems.append(f"{place}: row {i} gives values that are not finite")

    unit = _coarsest(network)
    for size in SIZES:
        place = f"at {size[0] * unit}x{size[1] * unit}"
        try:
            with _watched(rows, look):
                _run(network, size)
        except Exception as error:  # a layer can fail in any way
            problems.append(f"{place}: {_described(error)}")
    return problems


def _gradient_problems(model: ModelFile, network: nn.Module) -> list[str]:
    """Attention parameters that training would leave as they are: no gradient, of zero, or not finite.

    Some learn nothing on a small map, where a head has one point to look at: those are tried again on a larger one.
    """
    network.train()
    parameters = {
        f"row {i}, {model.rows[i].module}: {name}": each
        for i, layer in _rows(model, network)
        for name, each in layer.named_parameters()
    }
    with _seeded(), torch.no_grad():
        for each in parameters.values():
            # Some begin at zero, and others learn nothing before they have left it.
            each.add_(torch.rand_like(each) * 0.1 - 0.05)
    problems: list[str] = []
    for size in GRADIENT_SIZES:
        network.zero_grad(set_to_none=True)
        try:
            with torch.enable_grad(), _seeded():
                outputs = [each for each in _tensors(_run(network, size)) if each.requires_grad]
                torch.stack([(each * torch.rand_like(each)).sum() for each in outputs]).sum().backward()  # type: ignore[no-untyped-call]
        except Exception as error:  # a layer can fail in any way
            return [f"in training: {_described(error)}"]
        problems = [f"{name} {fault}" for name, each in parameters.items() if (fault := _fault(each.grad))]
        if not problems:
            break
    return problems


def _fault(gradient: Tensor | None) -> str:
    if gradient is None:
        return "has no gradient"
    if not gradient.isfinite().all():
        return "has a gradient that is not finite"
    return "" if gradient.any() else "has a gradient of zero"


# ------------------------------------------------------------------------------------------ 4. running a model


def _layers(network: nn.Module) -> list[tuple[int, nn.Module]]:
    return list(enumerate(cast(Iterable[nn.Module], network.model)))


def _rows(model: ModelFile, network: nn.Module) -> list[tuple[int, nn.Module]]:
    attention = _attention_rows(model)
    return [(i, layer) for i, layer in _layers(network) if i in attention]


def _attention_layers(model: ModelFile, network: nn.Module) -> list[tuple[int, Any]]:
    """The attention layers with the number of their row; a row with repeats has several."""
    modules = _attention_rows(model)
    return [(i, each) for i, row in _rows(model, network) for each in row.modules() if isinstance(each, modules[i].cls)]


def _coarsest(network: nn.Module) -> int:
    return int(cast(Tensor, network.stride).max())


def _as_built(network: nn.Module) -> tuple[int, int]:
    side = BUILT_AT // _coarsest(network)
    return side, side


def _run(network: nn.Module, size: tuple[int, int]) -> Any:
    """The network's output for noise of that many of its coarsest strides, without gradients in evaluation."""
    unit = _coarsest(network)
    with _seeded(), torch.set_grad_enabled(network.training):
        channels = int(cast(Any, network).yaml.get("channels", 3))
        return network(torch.rand(1, channels, size[0] * unit, size[1] * unit))


@contextmanager
def _watched(layers: Iterable[tuple[int, nn.Module]], look: Any) -> Iterator[None]:
    """Call `look(row, layer, inputs, output)` whenever one of the layers runs."""
    handles = [layer.register_forward_hook(lambda *call, i=i: look(i, *call)) for i, layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _seeded() -> Iterator[None]:
    """Random numbers that are the same each time, and nobody else's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _described(error: Exception) -> str:
    """One line; of a ValueError, which a layer raises on purpose, its words alone."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
