"""Attention layers for the rows of YOLO model files. Importing this package makes all of them known to Ultralytics.

Checkpoints name the files in this package: their names, and those of the classes in them, stay as they are.
"""

from __future__ import annotations

from hatdet.detection.attention.cloformer import AttnConv, EfficientAttention
from hatdet.detection.attention.cpca import CPCA
from hatdet.detection.attention.deformable import DAttention, DAttentionBaseline
from hatdet.detection.attention.ema import EMA
from hatdet.detection.attention.halo import HaloAttention
from hatdet.detection.attention.hat import HAB, OCAB, HATBlock
from hatdet.detection.attention.msca import MSCA
from hatdet.detection.attention.polarized import PolarizedSelfAttention

__all__ = [
    "CPCA",
    "EMA",
    "HAB",
    "MSCA",
    "OCAB",
    "AttnConv",
    "DAttention",
    "DAttentionBaseline",
    "EfficientAttention",
    "HATBlock",
    "HaloAttention",
    "PolarizedSelfAttention",
]
