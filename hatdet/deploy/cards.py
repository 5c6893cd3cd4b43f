"""What an exported file says about itself: a card, as JSON, in the place that its format has for such things."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from hatdet.core.errors import WeightsError

__all__ = ["BOXES", "IMAGE", "KEY", "UPSCALED", "Card", "ChainCard", "UpscalerCard", "read_card", "to_json"]

KEY = "hatdet"  # of the JSON among a file's metadata
IMAGE, UPSCALED, BOXES = "image", "upscaled", "boxes"  # what goes into a graph and what comes out
SCHEMA = 1


@dataclass(frozen=True)
class UpscalerCard:
    """The card of a super-resolution network at a fixed tile.

    Attributes:
        name: of the weights.
        scale: how many times larger.
        tile: both sides of the input, in pixels.
        window: of the network, which divides the tile.
        sha256: of the weights' file.
        hatdet: the version that wrote the file.
    """

    name: str
    scale: int
    tile: int
    window: int
    sha256: str
    hatdet: str

    kind: ClassVar[str] = "upscaler"
    what: ClassVar[str] = "an upscaler"


@dataclass(frozen=True)
class ChainCard:
    """The card of an upscaler, a detector and what lies between them, in one graph.

    Attributes:
        upscaler, upscaler_sha256: name and file of the super-resolution weights.
        detector, detector_sha256: those of the detector.
        scale, window: of the super-resolution network.
        stride: the upscaled image is padded to multiples of it.
        canvas: the longest side, in upscaled pixels, up to which the detector sees every one of them.
        confidence, iou, max_detections: which boxes come out, as `hatdet detect` has it.
        names: the classes, in the order of their ids from 0.
        hatdet: the version that wrote the file.
    """

    upscaler: str
    upscaler_sha256: str
    detector: str
    detector_sha256: str
    scale: int
    window: int
    stride: int
    canvas: int
    confidence: float
    iou: float
    max_detections: int
    names: tuple[str, ...]
    hatdet: str

    kind: ClassVar[str] = "chain"
    what: ClassVar[str] = "a whole chain"


Card = UpscalerCard | ChainCard


def to_json(card: Card) -> str:
    """The card as the text that a file carries."""
    return json.dumps({"schema": SCHEMA, "kind": card.kind, **asdict(card)})


def read_card(text: str | None, path: Path) -> Card:
    """The card in the file at `path`.

    Raises:
        WeightsError: no card, or one that this version does not understand.
    """
    try:
        content: dict[str, Any] = json.loads(text or "")
        schema, kind = content.pop("schema"), content.pop("kind")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is not a file of `hatdet export`: it does not say what it holds") from error
    if schema != SCHEMA:
        raise WeightsError(
            f"{path} has schema {schema}, expected {SCHEMA}: export it again with this version of hatdet"
        )
    try:
        if kind == ChainCard.kind:
            return ChainCard(**{**content, "names": tuple(content["names"])})
        if kind == UpscalerCard.kind:
            return UpscalerCard(**content)
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{path} has an incomplete description: export it again") from error
    raise WeightsError(f"{path} holds {kind!r}, expected an upscaler or a chain of `hatdet export`")
