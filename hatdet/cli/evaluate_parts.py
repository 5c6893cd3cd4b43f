"""What `hatdet eval` puts together before it starts: arms, detectors, and what they depend on."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hatdet.cli.detect_slices import Slicing
from hatdet.cli.session import Session

if TYPE_CHECKING:
    import torch

    from hatdet.core.types import Image, Upscaler
    from hatdet.detection.chain import ChainResult
    from hatdet.detection.yolo import YoloDetector
    from hatdet.evaluation.arms import Arm, ArmName, StoredUpscaler
    from hatdet.evaluation.boxes import Truth
    from hatdet.evaluation.joint import DetectorUnderTest
    from hatdet.evaluation.store import Store

__all__ = ["Machine", "load_arms", "load_detectors", "only_these"]


@dataclass
class Machine:
    """Where and how networks compute, and what was loaded.

    Attributes:
        slicing: of the arms `sliced:...`; its size may be None, which is auto.
        hashes: of weights, by their names in the report.
        detectors: by their names in the report; the first looks for the regions of `regions:...`.
    """

    device: str
    precision: str
    tile: int
    overlap: int
    batch: int | None
    slicing: Slicing = field(default_factory=lambda: Slicing(None, 0.2, "nms"))
    hashes: dict[str, str] = field(default_factory=dict)
    detectors: dict[str, YoloDetector] = field(default_factory=dict)

    @property
    def torch_device(self) -> torch.device:
        from hatdet.core.device import choose_device

        return choose_device(self.device)

    @property
    def dtype(self) -> str:
        """The precision that it comes down to."""
        from hatdet.core.device import choose_precision

        return str(choose_precision(self.precision, self.torch_device)).removeprefix("torch.")

    @property
    def largest_canvas(self) -> int:
        from hatdet.detection.yolo import LARGEST_IMGSZ

        return LARGEST_IMGSZ

    def settings(self) -> dict[str, Any]:
        """For the report."""
        versions = {name: version(name) for name in ("hatdet", "torch", "ultralytics", "faster-coco-eval")}
        return {
            "device": str(self.torch_device),
            "precision": self.dtype,
            "tile": self.tile,
            "overlap": self.overlap,
            **{name.replace("-", "_"): value for name, value in self.slicing.settings().items()},
            "versions": {**versions, "python": platform.python_version()},
        }


def load_arms(session: Session, names: Sequence[str], scale: int, machine: Machine, store: Store) -> list[Arm]:
    """The arms of those names, their upscalers loaded; after the detectors, if some are upscaled in regions.

    Raises:
        OptionsError, WeightsError, DeviceError: as `load_upscaler`.
    """
    from hatdet.evaluation.arms import Arm, ArmName, arm_kind

    arms, loaded = [], {}
    for name in names:
        kind, said = arm_kind(name), ArmName.of(name)
        slices = " ".join(map(str, machine.slicing.settings().values())) if said.sliced else None
        if kind not in ("upscaled", "sliced"):
            fixed = name.removeprefix("lr@")
            arms.append(Arm(name, imgsz=int(fixed) if fixed.isdigit() else None))
            continue
        if said.upscaler is None:
            arms.append(Arm(name, slices=slices))
            continue
        if said.upscaler not in loaded:
            loaded[said.upscaler] = _load_upscaler(session, said.upscaler, scale, machine, store)
        upscaler = loaded[said.upscaler]
        arms.append(Arm(name, _in_regions(upscaler, said, machine) if said.regions else upscaler, slices=slices))
    return arms


def _load_upscaler(session: Session, name: str, scale: int, machine: Machine, store: Store) -> StoredUpscaler:
    from hatdet import __version__
    from hatdet.cli.weights import upscaler_with_progress
    from hatdet.core.fetch import sha256_of
    from hatdet.evaluation.arms import INTERPOLATIONS, StoredUpscaler
    from hatdet.sr.weights import find_weights

    upscaler = upscaler_with_progress(
        session, name, scale, machine.device, machine.precision, machine.tile, machine.overlap, machine.batch
    )
    if name in INTERPOLATIONS:
        made_by = [name]
    else:
        machine.hashes[name] = sha256_of(find_weights(name, scale).path)
        kind = machine.torch_device.type
        tile = getattr(upscaler, "tile", machine.tile)  # smaller where the memory is
        made_by = [machine.hashes[name], machine.dtype, kind, str(tile), str(machine.overlap)]
    return StoredUpscaler(upscaler, " ".join([__version__, *made_by]), store)


def _in_regions(whole: StoredUpscaler, said: ArmName, machine: Machine) -> StoredUpscaler:
    """The same where the first detector's first look says."""
    from dataclasses import replace

    from hatdet.cli.detect_regions import FIRST_LOOK, in_regions
    from hatdet.detection.yolo import YoloDetector
    from hatdet.evaluation.arms import StoredUpscaler

    name, first = next(iter(machine.detectors.items()))
    shares: list[float] = []
    # As `hatdet detect` looks: what is kept for the evaluation's low threshold would mark everything.
    looks = YoloDetector(first.model, first.name)
    selective = replace(
        in_regions(whole.upscaler, looks, said.max_share), on_share=lambda share, _: shares.append(share)
    )
    how = f"{whole.fingerprint} in regions {said.max_share} by {machine.hashes[name]} {FIRST_LOOK}"
    return StoredUpscaler(selective, how, whole.store, shares)


def load_detectors(
    session: Session,
    weights: Sequence[str | None],
    names: Mapping[int, str],
    machine: Machine,
    confidence: float,
    iou: float,
    boxes: int,
    trust: bool = False,
) -> tuple[list[DetectorUnderTest], dict[int, str]]:
    """The detectors, and the classes of the data that all of them know: those are evaluated.

    Raises:
        WeightsError, DeviceError: as `load_detector`.
        OptionsError: two detectors of one name, one that knows no class of the data.
    """
    from hatdet import __version__
    from hatdet.cli.weights import download_progress
    from hatdet.core.errors import OptionsError
    from hatdet.core.fetch import sha256_of
    from hatdet.detection.weights import find_detector
    from hatdet.detection.yolo import load_detector
    from hatdet.evaluation.joint import DetectorUnderTest
    from hatdet.evaluation.labels import map_classes

    loaded = []
    known = set(names)
    unknown: set[str] = set()
    for given in weights:
        with download_progress(session, str(given)) as on_fetch:
            detector = load_detector(
                given,
                confidence=confidence,
                iou=iou,
                max_detections=boxes,
                device=machine.device,
                tasks=("detect",),
                trust=trust,
                on_fetch=on_fetch,
            )
        stems = [Path(other or "").stem for other in weights]
        name = str(given) if stems.count(Path(given or "").stem) > 1 else detector.name
        if name in machine.hashes:
            raise OptionsError(f"weights name {name} twice")
        machine.hashes[name] = sha256_of(find_detector(given))
        mapped = map_classes(names, detector.class_names)
        known &= set(mapped.to_data.values())
        unknown |= set(mapped.unknown)
        fingerprint = f"{__version__} {machine.hashes[name]} {machine.torch_device.type} {confidence} {iou} {boxes}"
        loaded.append(DetectorUnderTest(name, fingerprint, mapped.to_data, _chain(detector, machine.slicing)))
        machine.detectors[name] = detector
    if unknown:
        session.say(f"classes that a detector does not know are not evaluated: {', '.join(sorted(unknown))}")
    classes = {class_id: name for class_id, name in names.items() if class_id in known}
    if not classes:
        raise OptionsError("no class of the data is known to all detectors")
    kept = [
        DetectorUnderTest(
            one.name,
            one.fingerprint,
            {theirs: ours for theirs, ours in one.to_data.items() if ours in classes},
            one.run,
        )
        for one in loaded
    ]
    return kept, classes


def only_these(truth: Truth, classes: Mapping[int, str]) -> Truth:
    """The objects of the classes that are evaluated."""
    import numpy as np

    from hatdet.evaluation.boxes import Truth

    kept = np.isin(truth.class_id, list(classes))
    return Truth(truth.xyxy[kept], truth.class_id[kept], truth.crowd[kept])


def _chain(detector: YoloDetector, slicing: Slicing) -> Any:
    """What `hatdet detect` runs, with a canvas of its own for each image."""
    from dataclasses import replace

    from hatdet.cli.detect_slices import sliced
    from hatdet.detection.chain import run_chain

    unless_needed, asked_for = replace(slicing, size=None), replace(slicing, size=slicing.size or "auto")

    def run(image: Image, upscaler: Upscaler | None, imgsz: int | None, in_slices: bool) -> ChainResult:
        scale = round(image.scale) if upscaler is None else upscaler.scale  # a reference is as large as an upscaled one
        on_canvas = replace(detector, imgsz=imgsz)
        return run_chain(image, upscaler, sliced(on_canvas, asked_for if in_slices else unless_needed, scale))

    return run
