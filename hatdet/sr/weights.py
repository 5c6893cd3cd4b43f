"""From a name or a path to a network with its weights in it."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from hatdet.core.assets import asset
from hatdet.core.errors import OptionsError, WeightsError
from hatdet.core.fetch import Progress, cache_dir, fetch, sha256_of
from hatdet.core.pickles import refused_name
from hatdet.sr.catalogue import CATALOGUE, FAMILIES, WeightsRecord, default_record, named_record
from hatdet.sr.hat_arch import HAT

__all__ = ["WeightsFile", "find_weights", "load_network", "named_weights_scale", "read_state_dict", "record_path"]

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")


@dataclass(frozen=True)
class WeightsFile:
    """A weights file on this machine; `record` is None for one that hatdet's catalogue does not know."""

    name: str
    path: Path
    record: WeightsRecord | None


def record_path(record: WeightsRecord) -> Path | None:
    """Where the file of a record is on this machine, or None if it has yet to be fetched."""
    if record.kind == "embedded":
        return asset("pretrained", record.file)
    path = cache_dir() / record.file
    return path if path.is_file() else None


def find_weights(name: str | Path, scale: int, progress: Progress | None = None) -> WeightsFile:
    """Find the weights that a family's name, a catalogue's name or a path stand for, fetching published ones.

    Raises:
        OptionsError: a scale that these weights do not have.
        WeightsError: an unknown name, a missing file, a failed download, a hash that differs.
    """
    text, path = str(name), Path(name)
    # A file with a weights' ending is what it says, also when the catalogue has a file of that name.
    if path.suffix.lower() in SUFFIXES and path.is_file():
        return WeightsFile(path.stem, path, None)
    record = default_record(text, scale) if text in FAMILIES else named_record(text)
    if record is None:
        if path.is_file():
            return WeightsFile(path.stem, path, None)
        if path.suffix.lower() in SUFFIXES or len(path.parts) > 1:
            raise WeightsError(f"weights {text} do not exist")
        known = ["bicubic", "nearest", *FAMILIES, *(r.name for r in CATALOGUE)]
        raise WeightsError(f"upscaler {text!r} is not known: expected a file, or one of {', '.join(known)}")
    if record.scale != scale:
        raise OptionsError(f"{record.name} upscales by {record.scale}, got --scale {scale}")
    found = record_path(record)
    if found is None:
        found = fetch(record.file, record.urls, record.sha256, progress)
    elif sha256_of(found) != record.sha256:
        raise WeightsError(f"{found} is damaged: its sha256 is not {record.sha256[:12]}...; remove it and try again")
    return WeightsFile(record.name, found, record)


def named_weights_scale(name: str) -> int:
    """The scale of a weights file of the catalogue.

    Raises:
        WeightsError: the catalogue has no file of that name.
    """
    record = named_record(name)
    if record is None:
        raise WeightsError(f"weights {name} do not exist, and no file of `hatdet models` is called so")
    return record.scale


def load_network(weights: WeightsFile, scale: int) -> HAT:
    """The network of a weights file, in eval mode, float32, on the CPU.

    What the network looks like comes from the file's own metadata, else from the catalogue, else from the shapes of
    its tensors (all but `conv_scale`, which is 0.01 in everything published).

    Raises:
        OptionsError: the file is for another scale.
        WeightsError: the file is damaged or not HAT's.
    """
    state, metadata = read_state_dict(weights.path)
    if "network_g" in metadata:
        try:
            options = json.loads(metadata["network_g"])
            described = int(options["upscale"])
        except (ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"{weights.path} describes no network in its metadata (network_g)") from error
        options["upscale"] = described
    elif weights.record is not None:
        options = weights.record.network_g
    else:
        options = _deduced_options(state, weights.path)
    if options["upscale"] != scale:
        raise OptionsError(f"{weights.path} upscales by {options['upscale']}, got --scale {scale}")
    try:
        network = HAT.from_options(options)
        own = network.state_dict()
        # Tables of positions follow from the window; our own files leave them out.
        indices = {key: value for key, value in own.items() if key.startswith("relative_position_index")}
        network.load_state_dict({**indices, **state})
    except (RuntimeError, ValueError, TypeError) as error:
        raise WeightsError(f"{weights.path} does not fit the network it describes: {_first_line(error)}") from error
    return network.eval().requires_grad_(False)


def read_state_dict(path: Path, prefer: str = "params_ema") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read float32 tensors and metadata from safetensors, or from a BasicSR checkpoint without running its code.

    A checkpoint may be bare, hold `params_ema`, `params` or both (`prefer` is taken then), and carry `module.`
    prefixes. Those of `hatdet train` describe their network beside the tensors.

    Raises:
        WeightsError: the file cannot be read as either.
    """
    try:
        if path.suffix.lower() == ".safetensors":
            with safe_open(path, "pt") as file:
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
                metadata = dict(file.metadata() or {})
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch's remarks on odd pickles
                loaded = torch.load(path, map_location="cpu", weights_only=True)
            file = loaded if isinstance(loaded, Mapping) else {}
            metadata = {str(key): value for key, value in file.items() if isinstance(value, str)}
            for key in (prefer, "params_ema", "params", "state_dict"):
                if isinstance(file.get(key), Mapping):
                    file = file[key]
                    break
            state = {str(key): value for key, value in file.items() if not isinstance(value, str)}
    except Exception as error:  # an unpickler that is fed with other bytes raises anything
        wanted = refused_name(path, error) if path.suffix.lower() != ".safetensors" else None
        if wanted is not None:
            raise WeightsError(
                f"{path} asks for {wanted}, which could run code: expected a checkpoint of tensors only, or safetensors"
            ) from error
        raise WeightsError(f"{path} cannot be read as weights: {_first_line(error)}") from error
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} holds no state dict of tensors")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}, metadata


def _deduced_options(state: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """`network_g` from the shapes of the tensors."""
    try:
        groups = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("layers."))
        prefix = "layers.{}.residual_group."
        depths = [
            1 + max(int(key.split(".")[4]) for key in state if key.startswith(prefix.format(i) + "blocks."))
            for i in range(groups)
        ]
        block, overlap = prefix.format(0) + "blocks.0.", prefix.format(0) + "overlap_attn."
        dim, in_chans = state["conv_first.weight"].shape[:2]
        window = (math.isqrt(len(state[block + "attn.relative_position_bias_table"])) + 1) // 2
        key_window = math.isqrt(len(state[overlap + "relative_position_bias_table"])) + 1 - window
        num_feat = state["conv_last.weight"].shape[1]
        factors = [
            math.isqrt(value.shape[0] // num_feat)
            for key, value in state.items()
            if key.startswith("upsample.") and key.endswith(".weight")
        ]
        return {
            **FAMILIES["hat"],
            "in_chans": in_chans,
            "embed_dim": dim,
            "depths": depths,
            "num_heads": [
                state[prefix.format(i) + "overlap_attn.relative_position_bias_table"].shape[1] for i in range(groups)
            ],
            "window_size": window,
            "overlap_ratio": (key_window - window) / window,
            "compress_ratio": dim // state[block + "conv_block.cab.0.weight"].shape[0],
            "squeeze_factor": dim // state[block + "conv_block.cab.3.attention.1.weight"].shape[0],
            "mlp_ratio": state[block + "mlp.fc1.weight"].shape[0] / dim,
            "qkv_bias": block + "attn.qkv.bias" in state,
            "patch_norm": "patch_embed.norm.weight" in state,
            "resi_connection": "1conv" if "conv_after_body.weight" in state else "identity",
            "num_feat": num_feat,
            "upscale": math.prod(factors),
        }
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(f"{path} is not a HAT checkpoint: {_missing(error)}") from error


def _missing(error: Exception) -> str:
    return f"it has no {error.args[0]}" if isinstance(error, KeyError) else "it has no layers.N.residual_group tensors"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # torch's load_state_dict puts the culprits on the second line.
    return (f"{lines[0]} {lines[1]}" if lines[0].endswith(":") and len(lines) > 1 else lines[0])[:300]
