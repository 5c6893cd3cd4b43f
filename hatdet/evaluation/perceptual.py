"""LPIPS, where it is installed: a distance of pictures that follows what people see better than PSNR does.

R. Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018; the authors' own
package and its AlexNet variant, v0.1, as the field reports it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import nn

from hatdet.core.types import Image

__all__ = ["LpipsDistance", "load_lpips"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LpipsDistance:
    """LPIPS of whole pictures, 0 for equal ones.

    Attributes:
        network: `(1, 3, h, w)` twice, RGB in [-1, 1], to one number.
        device: where it computes.
    """

    network: nn.Module
    device: torch.device

    def __call__(self, image: Image, reference: Image) -> float:
        with torch.no_grad():
            pictures = [(one.pixels.to(self.device) * 2 - 1)[None] for one in (image, reference)]
            return float(self.network(*pictures))


def load_lpips(device: torch.device) -> LpipsDistance | None:
    """The distance, or None where the package is not installed or AlexNet's weights cannot be had.

    torchvision fetches those weights once, when LPIPS is first used.
    """
    if find_spec("lpips") is None:
        return None
    import lpips

    try:
        network = lpips.LPIPS(net="alex", verbose=False)
    except OSError as error:  # urllib's errors are of this kind
        log.warning("LPIPS is left out: the weights of AlexNet could not be fetched (%s)", error)
        return None
    return LpipsDistance(network.eval().requires_grad_(False).to(device), device)
