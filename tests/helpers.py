"""Small things that tests share: tiny networks, pictures, assertions of this domain."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hatdet.core.types import Image
from hatdet.sr.hat_arch import HAT

TINY: dict[str, Any] = {
    "embed_dim": 12,
    "depths": [2, 2],
    "num_heads": [3, 3],
    "window_size": 8,
    "compress_ratio": 4,
    "squeeze_factor": 6,
    "mlp_ratio": 2,
    "num_feat": 8,
}


def tiny_hat(seed: int = 0, **changes: Any) -> HAT:
    """A HAT of a few thousand random parameters, large enough that every one of them matters to the output."""
    torch.manual_seed(seed)
    network = HAT(**{**TINY, "upscale": 2, **changes}).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.15)
    return network


def random_image(h: int, w: int, seed: int = 0, bit_depth: int = 8) -> Image:
    levels = 2**bit_depth - 1
    values = np.random.default_rng(seed).integers(0, levels + 1, (3, h, w))
    return Image(torch.from_numpy(values.astype(np.float32) / np.float32(levels)), bit_depth=bit_depth)


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Norm of the difference over the norm of `b`."""
    return float((a - b).norm() / b.norm())


def psnr(a: Tensor, b: Tensor) -> float:
    """Over all channels, for values in [0, 1]."""
    return float(-10 * torch.log10((a.double() - b.double()).square().mean()))


def iou(a: Any, b: Any) -> float:
    """Intersection over union of two xyxy boxes."""
    x1, y1, x2, y2 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    inter = max(0.0, x2 - x1) * max(0.0, y2 - y1)
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return float(inter / (area - inter))


def sample_photo(name: str) -> Path:
    """bus.jpg and zidane.jpg ship inside ultralytics."""
    spec = find_spec("ultralytics")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "assets" / f"{name}.jpg"


class FixedBoxes(nn.Module):
    """A detection model that says the same boxes whatever it sees: rows of x1, y1, x2, y2, confidence, class."""

    def __init__(self, rows: Any, names: dict[int, str] | None = None) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.tensor(rows, dtype=torch.float32).reshape(-1, 6), requires_grad=False)
        self.names = names or {0: "thing", 1: "other"}
        self.stride = torch.tensor([8.0, 16.0, 32.0])
        self.seen: list[Tensor] = []

    def forward(self, batch: Tensor) -> Tensor:
        self.seen.append(batch.clone())
        boxes, confidence, class_id = self.rows[:, :4], self.rows[:, 4], self.rows[:, 5].long()
        centre, extent = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        scores = torch.zeros(len(self.rows), len(self.names))
        scores[torch.arange(len(self.rows)), class_id] = confidence
        return torch.cat([centre, extent, scores], dim=1).T[None]
