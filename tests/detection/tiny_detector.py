"""A detection model of a few ten thousand random parameters, with the heads that real ones have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

import hatdet.detection.ultralytics_setup  # noqa: F401 (before ultralytics)
from hatdet.detection.weights import save_model


def tiny_model(base: str = "v8/yolov8", names: tuple[str, ...] = ("thing", "other"), seed: int = 0) -> Any:
    """Ultralytics' model file of that name, a quarter as wide as its smallest; it says something else everywhere."""
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils import ROOT

    torch.manual_seed(seed)
    description = yaml.safe_load((ROOT / f"cfg/models/{base}.yaml").read_text())
    description |= {"nc": len(names), "scale": "t", "scales": {"t": [0.33, 0.0625, 128]}}
    model = DetectionModel(description, verbose=False)
    with torch.no_grad():  # as initialised, next to nothing of a picture reaches the head
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Conv2d) and ".dfl." not in name:
                torch.nn.init.kaiming_normal_(module.weight)
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        for head in model.model[-1].cv3:
            head[-1].weight.mul_(0.1)
            head[-1].bias.fill_(-2)
    model.names = dict(enumerate(names))
    return model.eval()


def tiny_detector_file(path: Path, **how: Any) -> Path:
    """The same as a weights file."""
    save_model(tiny_model(**how), path)
    return path
