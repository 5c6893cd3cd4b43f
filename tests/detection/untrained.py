"""Models of every task that were never trained, and find much all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hatdet.detection.ultralytics_setup  # noqa: F401 (before ultralytics)
from hatdet.imaging.files import read_image
from tests.helpers import sample_photo

TASK_OF = {"-seg": "segment", "-pose": "pose", "-obb": "obb"}
KIND_OF = {"segment": "SegmentationModel", "pose": "PoseModel", "obb": "OBBModel", "detect": "DetectionModel"}


def task_of(config: str) -> str:
    return next((task for mark, task in TASK_OF.items() if mark in config), "detect")


def street() -> Tensor:
    """A photo of 320x203 pixels, for a canvas of 320, which takes it as it is. `(3, h, w)` in [0, 1]."""
    photo = read_image(sample_photo("bus")).pixels
    small = F.interpolate(photo[None], (203, 320), mode="bilinear", antialias=True, align_corners=False)[0]
    return small.mul(255).round().div(255).clamp(0, 1)


def untrained(config: str, path: Path, seed: int = 0, **changes: Any) -> Path:
    """A checkpoint as Ultralytics saves it. The last layers of its head are drawn anew, wider: confidences spread over
    (0, 1), and angles, masks and keypoints differ from object to object."""
    from ultralytics.nn import tasks

    torch.manual_seed(seed)
    task = task_of(config)
    description = {**tasks.yaml_model_load(config), **changes}
    model = getattr(tasks, KIND_OF[task])(description, verbose=False)
    spread = {"cv3": (0.15, -6.0), "cv4": (0.1, 0.0), "cv4_kpts": (0.1, 0.0)}
    with torch.no_grad():
        for name, layer in model.model[-1].named_modules():
            wide = spread.get(name.split(".")[0].removeprefix("one2one_"))
            if wide is not None and isinstance(layer, nn.Conv2d) and layer.bias is not None:
                layer.weight.normal_(0, wide[0])
                layer.bias.normal_(wide[1], 0.5)
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # what passes through the network keeps its size
    with torch.no_grad():
        model.train()(street()[None, :, :192])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
    torch.save({"model": model, "train_args": {"task": task}}, path)
    return path
