"""The arms of a comparison: the ways in which one low-resolution image comes before a detector.

lr          as it is, at its own size
lr@imgsz    as it is; the detector's letterbox enlarges it to the canvas that the upscaled arms have
lr@640      the same with a canvas of that long side
hr          the reference itself: the ceiling
anything else is the name of an upscaler: nearest, bicubic, hat-xs, a weights file
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hatdet.core.errors import OptionsError
from hatdet.core.types import Image, Upscaler
from hatdet.evaluation.store import Store, key_of, pixels_hash

__all__ = ["INTERPOLATIONS", "SMALLEST_CANVAS", "Arm", "StoredUpscaler", "arm_kind", "check_arms"]

INTERPOLATIONS = ("nearest", "bicubic")  # size without detail: controls of every network
SMALLEST_CANVAS = 32  # a YOLO's stride

Kind = Literal["own size", "letterbox", "upscaled", "reference"]


@dataclass(eq=False)
class StoredUpscaler:
    """An upscaler that takes from the store what it made before; itself an `Upscaler`.

    Attributes:
        upscaler: makes what is not there.
        fingerprint: of everything that its pictures depend on besides the image: weights, precision, tiles.
    """

    upscaler: Upscaler
    fingerprint: str
    store: Store

    @property
    def name(self) -> str:
        return self.upscaler.name

    @property
    def scale(self) -> int:
        return self.upscaler.scale

    def __call__(self, image: Image) -> Image:
        key = self._key(image)
        stored = self.store.picture(key) if self.store.picture_milliseconds(key) is not None else None
        if stored is not None:
            return Image(stored.pixels, image.scale * self.scale, image.bit_depth)
        started = time.perf_counter()
        made = self.upscaler(image)
        made.pixels[0, 0, 0].item()  # waits for the device
        self.store.put_picture(key, made, (time.perf_counter() - started) * 1e3)
        return made

    def milliseconds(self, image: Image) -> float | None:
        """How long this image took when its picture was made; None if it was not."""
        return self.store.picture_milliseconds(self._key(image))

    def _key(self, image: Image) -> str:
        return key_of("picture", pixels_hash(image), self.scale, self.fingerprint)


@dataclass(frozen=True, eq=False)
class Arm:
    """One way in which an image comes before the detector.

    Attributes:
        name: as the user gave it.
        upscaler: of an upscaled arm.
        imgsz: the canvas of an arm that fixes it, `lr@640`.
    """

    name: str
    upscaler: StoredUpscaler | None = None
    imgsz: int | None = None

    @property
    def kind(self) -> Kind:
        return arm_kind(self.name)

    @property
    def is_control(self) -> bool:
        """Whether it is what a network has to beat."""
        return self.kind in ("own size", "letterbox") or self.name in INTERPOLATIONS

    @property
    def is_candidate(self) -> bool:
        """Whether it is a network's."""
        return self.kind == "upscaled" and not self.is_control

    @property
    def fingerprint(self) -> str:
        return self.kind if self.upscaler is None else self.upscaler.fingerprint


def arm_kind(name: str) -> Kind:
    """What an arm's name stands for."""
    if name == "lr":
        return "own size"
    if name == "hr":
        return "reference"
    return "letterbox" if name.startswith("lr@") else "upscaled"


def check_arms(names: Sequence[str], reference: bool) -> list[str]:
    """The names, without the spaces around them.

    Raises:
        OptionsError: none, one twice, an `lr@` of no size, `hr` where there is no reference.
    """
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise OptionsError("arms must name at least one: lr, lr@imgsz, nearest, bicubic, an upscaler, hr")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise OptionsError(f"arms name {', '.join(twice)} twice")
    for name in names:
        if name.startswith("lr@") and not re.fullmatch(r"lr@(imgsz|[1-9]\d{1,4})", name):
            raise OptionsError(f"arm {name!r}: expected lr@imgsz, or a long side in pixels as in lr@640")
    if "hr" in names and not reference:
        raise OptionsError("arm hr is the reference, and --no-reference says that there is none")
    return names
