"""BasicSR's perceptual loss, and where the weights of its VGG are looked for."""

from __future__ import annotations

import logging
import warnings
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from basicsr.archs import vgg_arch
from basicsr.losses import build_loss
from torch import nn

from hatdet.core.errors import OptionsError, WeightsError

__all__ = ["perceptual_loss"]

log = logging.getLogger("basicsr")


def perceptual_loss(options: dict[str, Any], root: Path) -> nn.Module:
    """BasicSR's perceptual loss, with the weights of VGG as torchvision has them.

    They are looked for in `experiments/pretrained_models/` below the root and in the folder of `torch.hub`, under
    torchvision's name (`vgg19-dcbb9e9d.pth`); else they are downloaded to the latter.

    Raises:
        OptionsError: options that cannot be.
        WeightsError: the weights cannot be found, or not be read.
    """
    if options["type"] != "PerceptualLoss":
        made: nn.Module = build_loss(options)
        return made
    kind = options.get("vgg_type", "vgg19")
    if kind.removesuffix("_bn") not in vgg_arch.NAMES:
        known = ", ".join(vgg_arch.NAMES)
        raise OptionsError(f"train:perceptual_opt:vgg_type {kind!r} is not known (known: {known}, each with _bn too)")
    path, before = _vgg_weights(kind, root), vgg_arch.VGG_PRETRAIN_PATH
    vgg_arch.VGG_PRETRAIN_PATH = str(path)  # BasicSR's is relative to the current folder, and for VGG19 alone
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # BasicSR says `pretrained`, which torchvision calls otherwise now
            made = build_loss(options)
    except (ValueError, NotImplementedError) as error:
        raise OptionsError(f"train:perceptual_opt: {error}") from error
    except Exception as error:  # an unpickler that is fed with other bytes raises anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} cannot be read as the weights of {kind}: {reason}") from error
    finally:
        vgg_arch.VGG_PRETRAIN_PATH = before
    return made


def _vgg_weights(kind: str, root: Path) -> Path:
    from torchvision.models import get_model_weights

    url: str = next(iter(get_model_weights(kind))).url
    name = url.rpartition("/")[2]
    folders = [root / "experiments" / "pretrained_models", Path(torch.hub.get_dir()) / "checkpoints"]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    target = folders[-1] / name
    log.info("Downloading %s to %s", url, folders[-1])
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sha256 = target.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(url, str(target), hash_prefix=sha256, progress=False)
    except (OSError, HTTPException, RuntimeError) as error:
        reason = getattr(error, "reason", None) or error
        raise WeightsError(
            f"train:perceptual_opt needs {name}, and {url} could not be fetched ({reason}): "
            f"put the file into {folders[0]} or {folders[1]}"
        ) from error
    return target
