"""What a training run leaves on disk, and how it is taken up again.

    models/net_g_1000.pth          `params` and `params_ema`, as BasicSR names them, and the network's description
    training_states/1000.state     optimizers, schedulers, iteration; written last, so what it needs is there

Files appear whole or not at all: a run that is killed while it saves has the checkpoint before.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hatdet import __version__
from hatdet.core.atomic import write_bytes
from hatdet.core.errors import OptionsError, WeightsError
from hatdet.core.pickles import refused_name
from hatdet.sr.weights import find_weights, named_weights_scale, read_state_dict

__all__ = ["find_states", "load_into", "prune", "read_state", "save_networks", "save_state"]

log = logging.getLogger("basicsr")

# Of a super-resolution network, what depends on the scale: new where weights of another scale are the start.
RECONSTRUCTION = "upsample."
# Tables that follow from the network's options.
DERIVED = "relative_position_index"
LEAST_BODY = 0.95


def load_into(network: nn.Module, source: str | Path, *, prefer: str = "params_ema", strict: bool = True) -> str:
    """Load weights into a network as far as they fit, and say how far.

    Args:
        network: of any architecture, on any device.
        source: a file (bare, `params`, `params_ema`, `module.` prefixes, safetensors) or a name of `hatdet models`.
        prefer: which weights of a file that holds several.
        strict: everything must be there but the reconstruction (`upsample.*`), which another scale has otherwise.

    Returns:
        "loaded N of M tensors, new: upsample.2.*"

    Raises:
        WeightsError: the file is missing or damaged, not strictly complete, or less than 95 % of the network's body
            (all but the reconstruction) is in it.
    """
    path = Path(source)
    if not path.is_file():
        path = find_weights(source, named_weights_scale(str(source))).path
    state, _ = read_state_dict(path, prefer)
    own = {key: value for key, value in network.state_dict().items() if not key.startswith(DERIVED)}
    fitting = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    new = [key for key in own if key not in fitting]
    unused = [key for key in state if key not in fitting and not key.startswith(DERIVED)]
    body = [key for key in own if not key.startswith(RECONSTRUCTION)]
    covered = sum(key in fitting for key in body)
    told = f"loaded {len(fitting)} of {len(own)} tensors"
    if new:
        told += f", new: {_grouped(new)}"
    if unused:
        told += f", not used: {_grouped(unused)}"
    name = type(network).__name__
    if covered < LEAST_BODY * len(body):
        raise WeightsError(
            f"{path} does not fit {name}: {covered} of the {len(body)} tensors of its body are there, "
            f"at least {LEAST_BODY:.0%} are expected ({told})"
        )
    if strict and covered < len(body):
        raise WeightsError(f"{path} does not fit {name} strictly ({told}): strict_load false takes what fits")
    with torch.no_grad():
        network.load_state_dict(fitting, strict=False)
    return told


def save_networks(path: Path, networks: Mapping[str, nn.Module], options: Mapping[str, Mapping[str, Any]]) -> None:
    """Write state dicts under their keys (`params`, `params_ema`).

    `options` are those that describe the network, under their key in the option file (`network_g`).
    """
    content: dict[str, Any] = {
        key: {name: value.detach().cpu() for name, value in network.state_dict().items()}
        for key, network in networks.items()
    }
    for label, described in options.items():
        content[label] = json.dumps({key: value for key, value in described.items() if key != "type"})
    content["hatdet"] = __version__
    _save(path, content)


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a training state."""
    _save(path, dict(state))


def read_state(path: Path) -> dict[str, Any]:
    """Read a training state, without running code from it, onto the CPU; its `folder` is where it was found.

    Raises:
        OptionsError: it is not one.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler that is fed with other bytes raises anything
        wanted = refused_name(path, error)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        reason = f"it asks for {wanted}, which could run code" if wanted else reason
        raise OptionsError(f"{path} cannot be read as a training state: {reason}") from error
    if not isinstance(state, dict) or not {"iter", "optimizers", "schedulers"} <= set(state):
        raise OptionsError(f"{path} is not a training state: it has no iter, optimizers and schedulers")
    state["folder"] = str(path.parent)
    return state


def find_states(folder: Path) -> list[tuple[int, Path]]:
    """The training states of a folder, newest first, with their iterations."""
    found = [(int(path.stem), path) for path in folder.glob("*.state") if path.stem.isdigit()]
    return sorted(found, reverse=True)


def prune(models: Path, states: Path, keep: int, besides: Iterable[int]) -> None:
    """Remove all but the newest `keep` checkpoints; networks of the iterations `besides` stay."""
    found = find_states(states)
    for iteration, path in found[keep:]:
        path.unlink(missing_ok=True)
        for extra in states.glob(f"{iteration}.rank*"):
            extra.unlink(missing_ok=True)
    kept = {str(iteration) for iteration in (*(iteration for iteration, _ in found[:keep]), *besides)}
    for network in (*models.glob("net_*_*.pth"), *models.glob("detector_*_*.safetensors")):
        iteration_text = network.stem.rpartition("_")[2]
        if iteration_text.isdigit() and iteration_text not in kept:
            network.unlink(missing_ok=True)


def _save(path: Path, content: Any) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def _grouped(names: list[str], most: int = 6) -> str:
    """`upsample.2.weight, upsample.2.bias` as `upsample.2.*`; the first few."""
    groups = list(dict.fromkeys(f"{name.rpartition('.')[0]}.*" if "." in name else name for name in names))
    more = f" and {len(groups) - most} more" if len(groups) > most else ""
    return ", ".join(groups[:most]) + more
