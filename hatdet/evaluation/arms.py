"""The arms of a comparison: the ways in which one low-resolution image comes before a detector.

lr          as it is, at its own size
lr@imgsz    as it is; the detector's letterbox enlarges it to the canvas that the upscaled arms have
lr@640      the same with a canvas of that long side
hr          the reference itself: the ceiling
sliced:none as it is, in overlapping slices
sliced:U    upscaled by U, in overlapping slices
regions:U   upscaled by U only where a first look sees something small or uncertain, bicubic elsewhere
regions:U@S the same for a share of at most S of the pixels
anything else is the name of an upscaler: nearest, bicubic, hat-xs, a weights file
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from hatdet.core.errors import OptionsError
from hatdet.core.types import Image, Upscaler
from hatdet.evaluation.store import Store, key_of, pixels_hash

__all__ = ["INTERPOLATIONS", "SMALLEST_CANVAS", "Arm", "ArmName", "StoredUpscaler", "arm_kind", "check_arms"]

INTERPOLATIONS = ("nearest", "bicubic")  # size without detail: controls of every network
SMALLEST_CANVAS = 32  # a YOLO's stride

Kind = Literal["own size", "letterbox", "sliced", "upscaled", "reference"]


@dataclass(eq=False)
class StoredUpscaler:
    """An upscaler that takes from the store what it made before; itself an `Upscaler`.

    Attributes:
        upscaler: makes what is not there.
        fingerprint: of everything that its pictures depend on besides the image: weights, precision, tiles.
        shares: where `upscaler` puts the share of the pixels of each image that it really upscales; empty where that
            is all of them.
    """

    upscaler: Upscaler
    fingerprint: str
    store: Store
    shares: list[float] = field(default_factory=list)

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
        self.shares.clear()
        made = self.upscaler(image)
        made.pixels[0, 0, 0].item()  # waits for the device
        self.store.put_picture(key, made, (time.perf_counter() - started) * 1e3)
        self.store.put_fidelity(key_of("share", key), {"share": self.shares[0] if self.shares else 1.0})
        return made

    def milliseconds(self, image: Image) -> float | None:
        """How long this image took when its picture was made; None if it was not."""
        return self.store.picture_milliseconds(self._key(image))

    def share(self, image: Image) -> float:
        """Of the pixels of this image that were really upscaled when its picture was made."""
        return (self.store.fidelity(key_of("share", self._key(image))) or {"share": 1.0})["share"]

    def _key(self, image: Image) -> str:
        return key_of("picture", pixels_hash(image), self.scale, self.fingerprint)


@dataclass(frozen=True, eq=False)
class Arm:
    """One way in which an image comes before the detector.

    Attributes:
        name: as the user gave it.
        upscaler: of an upscaled arm.
        imgsz: the canvas of an arm that fixes it, `lr@640`.
        slices: what the slices are like, in words; None of an arm that does not ask for any.
    """

    name: str
    upscaler: StoredUpscaler | None = None
    imgsz: int | None = None
    slices: str | None = None

    @property
    def kind(self) -> Kind:
        return arm_kind(self.name)

    @property
    def is_control(self) -> bool:
        """Whether it is what a network has to beat."""
        return self.kind in ("own size", "letterbox") or ArmName.of(self.name).upscaler in (None, *INTERPOLATIONS)

    @property
    def is_candidate(self) -> bool:
        """Whether it is a network's."""
        return self.kind == "upscaled" and not self.is_control

    @property
    def fingerprint(self) -> str:
        own = self.kind if self.upscaler is None else self.upscaler.fingerprint
        return own if self.slices is None else f"{own} sliced {self.slices}"


@dataclass(frozen=True)
class ArmName:
    """What the name of an upscaled or sliced arm says.

    Attributes:
        upscaler: its name; None for `sliced:none`.
        sliced, regions: whether it is looked at in slices, upscaled in parts.
        max_share: of the pixels of the parts.
    """

    upscaler: str | None
    sliced: bool = False
    regions: bool = False
    max_share: float | None = None

    @classmethod
    def of(cls, name: str) -> ArmName:
        """Raise an OptionsError for `regions:` of something that is no network, and a share that cannot be."""
        way, colon, rest = name.partition(":")
        if way == "sliced" and colon:
            if not rest:
                raise OptionsError(f"arm {name!r}: expected sliced:none, or sliced: and an upscaler's name")
            return cls(None if rest == "none" else rest, sliced=True)
        if way != "regions" or not colon:
            return cls(name)
        upscaler, at, share = rest.rpartition("@") if "@" in rest else (rest, "", "")
        if upscaler in ("", "none", *INTERPOLATIONS):
            raise OptionsError(f"arm {name!r}: expected regions: and a network's name, as in regions:hat-xs@0.3")
        try:
            most = float(share) if at else None
        except ValueError:
            most = 0.0
        if most is not None and not 0 < most <= 1:
            raise OptionsError(f"arm {name!r}: expected a share above 0 and at most 1 behind @, got {share!r}")
        return cls(upscaler, regions=True, max_share=most)


def arm_kind(name: str) -> Kind:
    """What an arm's name stands for."""
    if name == "lr":
        return "own size"
    if name == "hr":
        return "reference"
    if name == "sliced:none":
        return "sliced"
    return "letterbox" if name.startswith("lr@") else "upscaled"


def check_arms(names: Sequence[str], reference: bool) -> list[str]:
    """The names, without the spaces around them.

    Raises:
        OptionsError: none, one twice, an `lr@` of no size, `sliced:` or `regions:` of nothing, `hr` where there is no
            reference.
    """
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise OptionsError(
            "arms must name at least one: lr, lr@imgsz, nearest, bicubic, an upscaler, sliced:..., regions:..., hr"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise OptionsError(f"arms name {', '.join(twice)} twice")
    for name in names:
        if name.startswith("lr@") and not re.fullmatch(r"lr@(imgsz|[1-9]\d{1,4})", name):
            raise OptionsError(f"arm {name!r}: expected lr@imgsz, or a long side in pixels as in lr@640")
        ArmName.of(name)
    if "hr" in names and not reference:
        raise OptionsError("arm hr is the reference, and --no-reference says that there is none")
    return names
