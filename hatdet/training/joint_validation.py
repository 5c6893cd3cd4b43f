"""PSNR and mAP of a network on the same images while it is trained: the numbers of `hatdet eval`.

low-resolution image ─▶ arm: net_g │ bicubic │ hr ─▶ detector ─▶ boxes ─▶ COCO's mAP
                           └─▶ PSNR, SSIM against the reference
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hatdet.core.types import Image, Upscaler
from hatdet.detection.chain import ChainResult, run_chain
from hatdet.detection.yolo import LARGEST_IMGSZ, YoloDetector
from hatdet.evaluation.arms import Arm, StoredUpscaler
from hatdet.evaluation.average_precision import coco_summary
from hatdet.evaluation.boxes import Found, Truth
from hatdet.evaluation.fidelity import Fidelity, mean_fidelity
from hatdet.evaluation.joint import DetectorUnderTest, JointEvaluation
from hatdet.evaluation.labels import map_classes
from hatdet.evaluation.low_resolution import read_pair
from hatdet.evaluation.store import Store
from hatdet.sr.upscalers import BicubicUpscaler
from hatdet.training.detection_datasets import DetectionPairedDataset
from hatdet.training.distributed import Team
from hatdet.training.validation import OnImage, Scores

__all__ = ["CONFIDENCE", "JointValidation"]

# COCO's way of measuring, as `hatdet eval` has it.
CONFIDENCE, NMS_IOU, BOXES_KEPT = 0.001, 0.7, 300
NETWORK = "net_g"


@dataclass(eq=False)
class JointValidation:
    """A data set, and the detectors behind which a network is measured on it.

    Attributes:
        dataset: whole images with labels.
        detectors: the first is the one that the network is trained with.
        team: the processes share the images.
    """

    dataset: DetectionPairedDataset
    detectors: Sequence[YoloDetector]
    team: Team

    def __call__(
        self,
        upscaler: Upscaler | None,
        topic: str,
        *,
        controls: bool = False,
        on_image: OnImage | None = None,
    ) -> Scores:
        """Means over the images: `psnr_y`, `ssim_y`, `map50_95` and `ap_small` of each detector.

        Numbers of further detectors have the detector's name behind them: `map50_95 yolov8n`.

        Args:
            upscaler: the network in its engine.
            topic: said once in a run.
            controls: measure what bicubic interpolation gives and the reference, too: `map50_95@bicubic`,
                `map50_95@hr`.
            on_image: called after each image of this process with the images done and all of them.
        """
        scale, data = self.dataset.scale, self.dataset
        classes = self.classes()
        with tempfile.TemporaryDirectory(prefix="hatdet-validation-") as folder, Store(Path(folder)) as store:
            arms = [Arm(NETWORK, StoredUpscaler(upscaler, topic, store))] if upscaler is not None else []
            if controls:
                device = self.detectors[0].device
                bicubic = StoredUpscaler(BicubicUpscaler(scale, device), "bicubic", store)
                arms += [Arm("bicubic", bicubic), Arm("hr")]
            tested = [self._tested(detector, classes) for detector in self.detectors]
            evaluation = JointEvaluation(arms, tested, scale, store, None, LARGEST_IMGSZ, scale)
            for index in range(self.team.rank, len(data), self.team.size):
                pair = read_pair(data.samples[index], data.names, data.how)
                truth = pair.truth(scale)
                known = np.isin(truth.class_id, list(classes))
                truth = Truth(truth.xyxy[known], truth.class_id[known], truth.crowd[known])
                evaluation.add(data.samples[index].relative.as_posix(), pair.low, pair.reference, truth)
                if on_image is not None:
                    on_image(index + 1, len(data))
            mine = _as_json(evaluation)
        parts = self.team.exchange(topic, mine)
        return self._scores(parts, [arm.name for arm in arms], classes)

    def classes(self) -> dict[int, str]:
        """The classes of the data that every detector knows."""
        known = set(self.dataset.names)
        for detector in self.detectors:
            known &= set(map_classes(self.dataset.names, detector.class_names).to_data.values())
        return {class_id: name for class_id, name in self.dataset.names.items() if class_id in known}

    def _tested(self, detector: YoloDetector, classes: Mapping[int, str]) -> DetectorUnderTest:
        mapped = map_classes(self.dataset.names, detector.class_names).to_data
        to_data = {theirs: ours for theirs, ours in mapped.items() if ours in classes}

        def run(image: Image, upscaler: Upscaler | None, imgsz: int | None, _: bool) -> ChainResult:
            return run_chain(image.to(detector.device), upscaler, replace(detector, imgsz=imgsz))

        return DetectorUnderTest(detector.name, detector.name, to_data, run)

    def _scores(self, parts: Sequence[Any], arms: Sequence[str], classes: Mapping[int, str]) -> Scores:
        truths = [_truth(row) for part in parts for row in part["truths"]]
        means: dict[str, float] = {}
        protocols: dict[str, str] = {}
        fidelity = [Fidelity(*row) for part in parts for row in part["fidelity"]]
        if fidelity:
            mean = mean_fidelity(fidelity)
            means |= {"psnr_y": mean.psnr, "ssim_y": mean.ssim}
        for number, detector in enumerate(self.detectors):
            for arm in arms:
                founds = [_found(row) for part in parts for row in part["founds"][detector.name][arm]]
                summary = coco_summary(truths, founds, classes)
                end = ("" if arm == NETWORK else f"@{arm}") + (f" {detector.name}" if number else "")
                for metric, value in (("map50_95", summary.map50_95), ("ap_small", summary.by_size["small"])):
                    means[metric + end] = float("nan") if value is None else value
                    protocols[metric + end] = f"COCO, {detector.name}, confidence {CONFIDENCE:g}"
        return Scores(means, {}, len(truths), {}, protocols)


def _as_json(evaluation: JointEvaluation) -> dict[str, Any]:
    """What one process found, as numbers that JSON can carry."""
    boxes: dict[str, dict[str, Any]] = {
        detector.name: {
            arm.name: [
                [found.xyxy.tolist(), found.confidence.tolist(), found.class_id.tolist()]
                for found in evaluation.founds(detector, arm)
            ]
            for arm in evaluation.arms
        }
        for detector in evaluation.detectors
    }
    truths = [image.truth for image in evaluation.images]
    fidelity = [image.fidelity[NETWORK] for image in evaluation.images if NETWORK in image.fidelity]
    return {
        "truths": [[truth.xyxy.tolist(), truth.class_id.tolist(), truth.crowd.tolist()] for truth in truths],
        "founds": boxes,
        "fidelity": [[numbers["psnr_y"], numbers["ssim_y"]] for numbers in fidelity],
    }


def _truth(row: Any) -> Truth:
    xyxy, class_id, crowd = row
    return Truth(np.array(xyxy, np.float64).reshape(-1, 4), np.array(class_id, np.int64), np.array(crowd, np.bool_))


def _found(row: Any) -> Found:
    xyxy, confidence, class_id = row
    return Found(
        np.array(xyxy, np.float64).reshape(-1, 4), np.array(confidence, np.float64), np.array(class_id, np.int64)
    )
