"""Ultralytics' trainers, whose pretrained weights find their layers past inserted rows.

The workers of a distributed training unpickle the trainer's class by its name in this file, and so come to know our
layers: importing it imports them.
"""

from __future__ import annotations

from typing import Any

import hatdet.detection.attention  # noqa: F401 (before Ultralytics' trainers: it prepares their environment)

# isort: split
from ultralytics.models.yolo.detect import DetectionTrainer as _DetectionTrainer
from ultralytics.models.yolo.obb import OBBTrainer as _OBBTrainer
from ultralytics.models.yolo.pose import PoseTrainer as _PoseTrainer
from ultralytics.models.yolo.segment import SegmentationTrainer as _SegmentationTrainer
from ultralytics.utils import LOGGER, RANK

from hatdet.detection.transfer import transfer_weights

__all__ = ["TRAINERS"]


class _TransfersByStructure:
    """Replaces how a trainer fills a new model from pretrained weights."""

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
        model = super().get_model(cfg=cfg, weights=None, verbose=verbose)  # type: ignore[misc]
        if weights is not None:
            transfer = transfer_weights(model, weights)
            if verbose and RANK in (-1, 0):
                LOGGER.info(str(transfer))
        return model


class DetectionTrainer(_TransfersByStructure, _DetectionTrainer):  # type: ignore[misc]
    """Boxes."""


class SegmentationTrainer(_TransfersByStructure, _SegmentationTrainer):  # type: ignore[misc]
    """Boxes and masks."""


class PoseTrainer(_TransfersByStructure, _PoseTrainer):  # type: ignore[misc]
    """Boxes and keypoints."""


class OBBTrainer(_TransfersByStructure, _OBBTrainer):  # type: ignore[misc]
    """Oriented boxes."""


TRAINERS = {"detect": DetectionTrainer, "segment": SegmentationTrainer, "pose": PoseTrainer, "obb": OBBTrainer}
