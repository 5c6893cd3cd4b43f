"""Fidelity and detection on the same images: every image goes through every arm and every detector.

    sample -> low-resolution image, reference, labels -> arm -> detector -> boxes in the pixels of one frame
                                                          └-> PSNR, SSIM, LPIPS against the reference

Pixels are held for one image at a time; boxes lie in the store until an arm's numbers are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from hatdet.core.types import Detections, Image, Upscaler
from hatdet.evaluation.arms import SMALLEST_CANVAS, Arm
from hatdet.evaluation.boxes import Found, Truth
from hatdet.evaluation.fidelity import Protocol as FidelityProtocol
from hatdet.evaluation.fidelity import compare
from hatdet.evaluation.store import Store, StoredDetections, key_of, pixels_hash
from hatdet.imaging.files import to_array

__all__ = ["DetectorUnderTest", "EvaluatedImage", "JointEvaluation", "Outcome", "PerceptualDistance"]


class Outcome(Protocol):
    """What the chain of `hatdet detect` says of one image."""

    @property
    def seen(self) -> Image: ...

    @property
    def detections(self) -> Detections: ...

    @property
    def detect_ms(self) -> float: ...


class PerceptualDistance(Protocol):
    """A distance of two pictures of one size: LPIPS."""

    def __call__(self, image: Image, reference: Image) -> float: ...


@dataclass(frozen=True, eq=False)
class DetectorUnderTest:
    """A detector and how its classes are called in the data.

    Attributes:
        name: in the report.
        fingerprint: of everything that its boxes depend on besides the image and the canvas.
        to_data: its class ids to the data set's; other classes are dropped.
        run: the chain: image, upscaler or None, canvas or None for the chain's own rule, whether in slices.
    """

    name: str
    fingerprint: str
    to_data: Mapping[int, int]
    run: Callable[[Image, Upscaler | None, int | None, bool], Outcome]


@dataclass(frozen=True, eq=False)
class EvaluatedImage:
    """What is known of one image when it has gone through all arms. Times are in milliseconds, by arm."""

    name: str
    size_wh: tuple[int, int]
    truth: Truth
    found_keys: Mapping[tuple[str, str], str]  # by detector and arm, in the store
    fidelity: Mapping[str, Mapping[str, float]]
    upscale_ms: Mapping[str, float]
    upscaled_share: Mapping[str, float]  # of the pixels, by arm

    def as_row(self) -> dict[str, Any]:
        """As JSON has it."""
        truth = {"xyxy": self.truth.xyxy, "class_id": self.truth.class_id, "crowd": self.truth.crowd}
        return {
            "name": self.name,
            "size_wh": self.size_wh,
            "truth": {key: array.tolist() for key, array in truth.items()},
            "found_keys": [[*pair, key] for pair, key in self.found_keys.items()],
            "fidelity": self.fidelity,
            "upscale_ms": self.upscale_ms,
            "upscaled_share": self.upscaled_share,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> EvaluatedImage:
        """From what `as_row` gave."""
        truth = row["truth"]
        return cls(
            row["name"],
            tuple(row["size_wh"]),
            Truth(
                np.array(truth["xyxy"], np.float64).reshape(-1, 4),
                np.array(truth["class_id"], np.int64),
                np.array(truth["crowd"], np.bool_),
            ),
            {(detector, arm): key for detector, arm, key in row["found_keys"]},
            row["fidelity"],
            row["upscale_ms"],
            row["upscaled_share"],
        )


@dataclass(eq=False)
class JointEvaluation:
    """Runs images through arms and detectors, and remembers what came out.

    Attributes:
        arms: their names differ.
        detectors: theirs too.
        scale: of the reduction and of every upscaler.
        store: keeps pictures and boxes.
        imgsz: the canvas of all arms but `lr`; None: every arm has the upscaled image's.
        largest_canvas: no canvas is larger.
        frame_scale: pixels of the frame in which boxes are compared, per pixel of the low-resolution image.
        perceptual: LPIPS, where it is installed.
    """

    arms: Sequence[Arm]
    detectors: Sequence[DetectorUnderTest]
    scale: int
    store: Store
    imgsz: int | None
    largest_canvas: int
    frame_scale: float
    perceptual: PerceptualDistance | None = None
    images: list[EvaluatedImage] = field(default_factory=list)

    @property
    def protocols(self) -> tuple[FidelityProtocol, FidelityProtocol]:
        """By which the pictures are compared: crop is the scale."""
        return FidelityProtocol("Y", self.scale), FidelityProtocol("RGB", self.scale)

    def add(
        self,
        name: str,
        low: Image,
        reference: Image | None,
        truth: Truth,
        part_done: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Evaluate one image; nothing is remembered of one that fails.

        Args:
            name: in the report.
            low: the low-resolution image, `scale` 1.
            reference: `scale` times as large, its `scale` that number; None if there is none.
            truth: the objects, in the frame of the comparison.
            part_done: called with the arms done and the arms in all.
        """
        low_hash = pixels_hash(low)
        reference_hash = pixels_hash(reference) if reference is not None else ""
        keys, fidelity, upscale_ms, shares = {}, {}, {}, {}
        for number, arm in enumerate(self.arms):
            canvas = self._canvas(arm, low)
            shown = low if arm.kind != "reference" else reference
            if shown is None:
                raise ValueError(f"arm {arm.name} needs a reference, and {name} has none")
            seen = None
            for detector in self.detectors:
                key = key_of("found", low_hash, reference_hash if shown is reference else "", arm.fingerprint)
                key = key_of(key, self.scale, canvas, detector.fingerprint)
                if self.store.detections(key) is None:
                    outcome = detector.run(shown, arm.upscaler, canvas, arm.slices is not None)
                    self.store.put_detections(key, StoredDetections(_rows(outcome.detections), outcome.detect_ms))
                    seen = outcome.seen
                keys[detector.name, arm.name] = key
            if arm.upscaler is not None:
                if reference is not None:
                    key = key_of("fidelity", low_hash, reference_hash, arm.fingerprint, self.scale)
                    fidelity[arm.name] = self._fidelity(key, arm.upscaler, low, reference, seen)
                upscale_ms[arm.name] = arm.upscaler.milliseconds(low) or 0.0
                shares[arm.name] = arm.upscaler.share(low)
            part_done(number + 1, len(self.arms))
        self.store.commit()
        size_wh = round(low.width * self.frame_scale), round(low.height * self.frame_scale)
        self.images.append(EvaluatedImage(name, size_wh, truth, keys, fidelity, upscale_ms, shares))

    def founds(self, detector: DetectorUnderTest, arm: Arm) -> list[Found]:
        """The detections of every image, in the frame of the comparison, of classes that are evaluated."""
        known = np.array(sorted(detector.to_data), np.int64)
        renamed = np.array([detector.to_data[int(class_id)] for class_id in known], np.int64)
        founds = []
        for image in self.images:
            boxes = self._stored(image, detector, arm).boxes
            class_id = boxes[:, 5].astype(np.int64)
            kept = np.isin(class_id, known)
            boxes, class_id = boxes[kept], renamed[np.searchsorted(known, class_id[kept])]
            order = np.argsort(-boxes[:, 4], kind="stable")
            xyxy = boxes[order, :4].astype(np.float64) * self.frame_scale
            founds.append(Found(xyxy, boxes[order, 4].astype(np.float64), class_id[order]))
        return founds

    def detect_ms(self, detector: DetectorUnderTest, arm: Arm) -> list[float]:
        """How long the detector took for every image, when it saw it."""
        return [self._stored(image, detector, arm).milliseconds for image in self.images]

    def _stored(self, image: EvaluatedImage, detector: DetectorUnderTest, arm: Arm) -> StoredDetections:
        stored = self.store.detections(image.found_keys[detector.name, arm.name])
        assert stored is not None  # put there by `add`
        return stored

    def _canvas(self, arm: Arm, low: Image) -> int | None:
        """The long side that the detector's letterbox makes; None leaves it to the chain's rule."""
        longest = max(low.width, low.height)
        if arm.kind == "own size":
            return max(longest, SMALLEST_CANVAS)
        if arm.kind == "letterbox":
            if arm.imgsz or self.imgsz:
                return arm.imgsz or self.imgsz
            return max(min(longest * self.scale, self.largest_canvas), SMALLEST_CANVAS)
        return self.imgsz

    def _fidelity(
        self, key: str, upscaler: Upscaler, low: Image, reference: Image, seen: Image | None
    ) -> Mapping[str, float]:
        """Numbers by name; one that cannot be (a picture smaller than SSIM's window) is NaN."""
        stored = self.store.fidelity(key)
        if stored is not None and (self.perceptual is None or "lpips" in stored):
            return stored
        seen = upscaler(low) if seen is None else seen
        picture, wanted = to_array(seen), to_array(reference)
        numbers: dict[str, float] = {}
        for protocol in self.protocols:
            big_enough = min(picture.shape[:2]) > 2 * protocol.crop
            found = compare(picture, wanted, protocol) if big_enough else None
            end = protocol.channel.lower()
            numbers[f"psnr_{end}"] = found.psnr if found else float("nan")
            numbers[f"ssim_{end}"] = found.ssim if found else float("nan")
        if self.perceptual is not None:
            numbers["lpips"] = self.perceptual(seen, reference)
        self.store.put_fidelity(key, numbers)
        return numbers


def _rows(detections: Detections) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    columns = (detections.xyxy, detections.confidence[:, None], detections.class_id[:, None].astype(np.float32))
    return np.concatenate(columns, axis=1).astype(np.float32)
