"""`HATDetectionModel`: an upscaler that learns from what a detector makes of its pictures.

lq ─▶ net_g ─▶ output ─┬─▶ pixel losses against gt
                       ├─▶ reduced again, against lq
                       └─▶ clamped, rounded ─▶ a view ─▶ frozen detector ─┬─▶ features against those of gt
                                                                         └─▶ loss of the labelled boxes
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from basicsr.losses import build_loss
from torch import Tensor

from hatdet.core.errors import OptionsError
from hatdet.detection.differentiable import Boxes, DifferentiableDetector, Seen, load_differentiable
from hatdet.detection.letterbox import Letterbox, rounded
from hatdet.detection.weights import save_model
from hatdet.detection.yolo import YoloDetector, load_detector
from hatdet.evaluation.labels import map_classes
from hatdet.evaluation.samples import read_detection_data
from hatdet.training.detection_datasets import DetectionPairedDataset
from hatdet.training.detector_tuning import DetectorTuner
from hatdet.training.hat_model import HATModel
from hatdet.training.joint_validation import BOXES_KEPT, CONFIDENCE, NMS_IOU, JointValidation
from hatdet.training.validation import Scores, evaluating, upscaler_of

__all__ = ["HATDetectionModel", "random_view"]

log = logging.getLogger("basicsr")


class HATDetectionModel(HATModel):
    """`HATModel` with a frozen detector behind the network: its features and its loss of labelled boxes.

    `detection:detectors` are named as `--weights` names them; where there are several they take turns, and the network
    cannot learn what only one of them falls for. For the same reason a share of the steps shows them the pictures
    moved and rescaled. `detection:witnesses` see nothing but validations. With `detection:tune` the detectors learn,
    too, from detached pictures.

    Losses of `train` besides `HATModel`'s: `feature_opt`, `box_opt`, `consistency_opt`.

    Raises:
        OptionsError: no such loss, or a data set without boxes.
        WeightsError: a detector that cannot be loaded.
    """

    # ------------------------------------------------------------------------------------------ 1. detectors

    def init_losses(self) -> None:
        """Those of `HATModel`, and those that take the detectors."""
        super().init_losses()
        tune = self.opt["detection"].get("tune")
        made = {key: self.scheduled(key) for key in ("feature_opt", "box_opt", "consistency_opt")}
        self.cri_feature, self.cri_box, self.cri_consistency = (
            build_loss(loss).to(self.device) if loss else None for loss in made.values()
        )
        self.tuner = DetectorTuner(self.detectors, tune, self.team) if tune else None
        self._class_of: dict[str, Tensor] = {}

    @cached_property
    def detectors(self) -> Sequence[DifferentiableDetector]:
        """Those that the network is trained with."""
        loaded = [load_differentiable(name).to(self.device) for name in self.opt["detection"]["detectors"]]
        if self.opt.get("train", {}).get("channels_last"):
            loaded = [detector.to(memory_format=torch.channels_last) for detector in loaded]
        for detector in loaded:
            log.info("Detector %s: boxes of its %s head", detector.name, detector.head)
        return loaded

    def classes_for(self, detector: DifferentiableDetector) -> Tensor:
        """The detector's class of each of the data's, -1 where it has none. Shape: `(largest id + 1,)`."""
        if detector.name not in self._class_of:
            names = self.data_names
            table = torch.full((max(names) + 1,), -1, dtype=torch.int64)
            mapped = map_classes(names, detector.class_names)
            for theirs, ours in mapped.to_data.items():
                table[ours] = theirs
            if mapped.unknown:
                log.warning("%s does not know %s: their boxes are left out", detector.name, ", ".join(mapped.unknown))
            self._class_of[detector.name] = table.to(self.device)
        return self._class_of[detector.name]

    @cached_property
    def data_names(self) -> Mapping[int, str]:
        """The classes of the training data by id."""
        data = self.opt["datasets"]["train"]
        if not data.get("data"):
            raise OptionsError(f"datasets:train of type {data['type']} has no boxes: DetectionPairedDataset has")
        images = data.get("images")
        return read_detection_data(Path(data["data"]), Path(images) if images else None).names

    # ------------------------------------------------------------------------------------------ 2. losses

    def feed_data(self, data: dict[str, Any]) -> None:
        """Take a batch: `lq`, `gt`, and `boxes` as `DetectionPairedDataset` gives them."""
        super().feed_data(data)
        self.boxes = data["boxes"].to(self.device, non_blocking=True) if "boxes" in data else None

    def losses(self, output: Tensor, part: slice, current_iter: int) -> dict[str, Tensor]:
        """Those of `HATModel`; `l_feat`, `l_box` and `l_lq` of the options above."""
        found = super().losses(output, part, current_iter)
        if self.cri_consistency and (share := self.share("consistency_opt", current_iter)):
            found["l_lq"] = self.cri_consistency(output, self.lq[part]) * share
        features = self.share("feature_opt", current_iter) if self.cri_feature else 0.0
        boxes = self.share("box_opt", current_iter) if self.cri_box else 0.0
        if not features and not boxes:
            return found
        detector = self.detectors[current_iter % len(self.detectors)]
        view = self.view(output, detector)
        seen = detector.look(self.shown(output), view)
        if features:
            assert self.cri_feature is not None
            with torch.no_grad():
                wanted = detector.look(self.gt[part], view)
            found["l_feat"] = self.cri_feature(seen.features, wanted.features) * features
        if boxes:
            assert self.cri_box is not None
            labelled = self.labelled(part)
            if len(labelled):
                share = boxes * len(labelled) / len(output)
                found["l_box"] = (
                    self.cri_box(detector, _of(seen, labelled), self.targets(part, labelled, detector)) * share
                )
        return found

    def shown(self, output: Tensor) -> Tensor:
        """The network's output as a detector sees it: within [0, 1] and rounded to 8 bits, as it would be saved."""
        return rounded(output.clamp(0, 1), 255)

    def view(self, output: Tensor, detector: DifferentiableDetector) -> Letterbox:
        """How this step's pictures come onto the canvas: as at inference, or moved and rescaled."""
        options, size = self.opt["detection"], (output.shape[2], output.shape[3])
        if random.random() >= options.get("moved_share", 0.5):  # noqa: S311 (not for secrets)
            return detector.view_of(size)
        low, high = options.get("rescale", (0.75, 1.25))
        return random_view(size, detector.stride, options.get("shift", 31), (low, high))

    def labelled(self, part: slice) -> Tensor:
        """Which images of a part of the batch have labels, be it none of an object. Shape: `(n,)`."""
        if self.boxes is None:
            return torch.empty(0, dtype=torch.int64, device=self.device)
        return torch.nonzero(self.boxes[part, 0, 0] > -1.5)[:, 0]

    def targets(self, part: slice, images: Tensor, detector: DifferentiableDetector) -> Boxes:
        """The boxes of these images of a part of the batch, numbered in their order, as the detector's classes."""
        assert self.boxes is not None
        rows = self.boxes[part][images]
        image, row = torch.nonzero(rows[..., 0] >= 0, as_tuple=True)
        boxes = rows[image, row]
        class_id = self.classes_for(detector)[boxes[:, 0].long()]
        known = class_id >= 0
        return Boxes(image[known], class_id[known], boxes[known, 1:])

    def optimize_parameters(self, current_iter: int) -> None:
        """One step of the network; then, where `detection:tune` says so, one of the detector."""
        super().optimize_parameters(current_iter)
        if self.tuner is not None and self.tuner.counts(current_iter):
            detector = self.detectors[current_iter % len(self.detectors)]
            everything = slice(0, len(self.gt))
            images = self.labelled(everything)
            if len(images):
                with torch.no_grad(), self.precision():
                    output = self.get_bare_model(self.net_g)(self.lq[images])
                boxes = self.targets(everything, images, detector)
                self.log_tensors["l_detector"] = self.tuner.step(
                    detector, self.shown(output.float()), self.gt[images], boxes, current_iter
                )

    # ------------------------------------------------------------------------------------------ 3. validation

    def validation(self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool = False) -> Scores:
        """PSNR and mAP of a data set with boxes by `hatdet eval`'s functions; of other data as `HATModel`."""
        dataset = dataloader.dataset
        if not isinstance(dataset, DetectionPairedDataset):
            return super().validation(dataloader, current_iter, tb_logger, save_img)
        joint = JointValidation(dataset, [*self.judges(), *self.witnesses], self.team)
        with evaluating(self.evaluated) as network, torch.no_grad():
            scores = joint(
                upscaler_of(network, self.opt["scale"], self.opt.get("tile")),
                self.next_topic(),
                controls=current_iter == 0 or not self.is_train,
                on_image=self.on_image if self.team.leads else None,
            )
        self.remember_and_tell(dataset.opt["name"], scores, tb_logger, current_iter)
        return scores

    def judges(self) -> Sequence[YoloDetector]:
        """The detectors that the network is trained with, as they are now, to be measured with."""
        return [
            YoloDetector(detector.model, detector.name, CONFIDENCE, NMS_IOU, BOXES_KEPT) for detector in self.detectors
        ]

    @cached_property
    def witnesses(self) -> Sequence[YoloDetector]:
        """Detectors that the network is not trained with."""
        names = self.opt["detection"].get("witnesses") or ()
        how: dict[str, Any] = {
            "confidence": CONFIDENCE,
            "iou": NMS_IOU,
            "max_detections": BOXES_KEPT,
            "tasks": ("detect",),
        }
        return [load_detector(name, device=str(self.device), **how) for name in names]

    # ------------------------------------------------------------------------------------------ 4. checkpoints

    def save_networks(self, epoch: int, current_iter: int) -> None:
        """Write the generator; where detectors are tuned these too, as `detector_<name>_<iteration>.safetensors`."""
        super().save_networks(epoch, current_iter)
        if self.tuner is not None and self.team.leads:
            number = "latest" if current_iter == -1 else current_iter
            for detector in self.detectors:
                path = Path(self.opt["path"]["models"]) / f"detector_{detector.name}_{number}.safetensors"
                save_model(detector.model, path)

    def own_state(self) -> dict[str, Any]:
        """The detectors and their optimizers, where they are tuned."""
        return {} if self.tuner is None else {"tuner": self.tuner.state()}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Take them up."""
        if self.tuner is not None and "tuner" in state:
            self.tuner.load(state["tuner"])


def random_view(size_hw: tuple[int, int], stride: int, most_shift: int, rescale: tuple[float, float]) -> Letterbox:
    """A picture resized by a factor drawn from `rescale`, on a canvas of whole strides, as far from its top left corner
    as is drawn: at most `most_shift` pixels along each side. Draws come from Python's `random`.
    """
    factor = random.uniform(*rescale)  # noqa: S311 (not for secrets)
    h, w = (max(1, round(side * factor)) for side in size_hw)
    top, left = random.randint(0, most_shift), random.randint(0, most_shift)  # noqa: S311
    # One canvas for all draws: on a GPU every new shape costs more than the pixels that it saves.
    canvas_h, canvas_w = (-(-(math.ceil(side * rescale[1]) + most_shift) // stride) * stride for side in size_hw)
    return Letterbox(size_hw, (h, w), top, left, (canvas_h, canvas_w))


def _of(seen: Seen, images: Tensor) -> Seen:
    """What a detector made of some of the images of a batch."""
    return replace(
        seen,
        features=[level[images] for level in seen.features],
        predictions=_picked(seen.predictions, images),
        images=len(images),
    )


def _picked(value: Any, images: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[images]
    if isinstance(value, Mapping):
        return {key: _picked(child, images) for key, child in value.items()}
    return [_picked(child, images) for child in value]
