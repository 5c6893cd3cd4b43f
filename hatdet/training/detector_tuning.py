"""Detectors that learn beside the upscaler: in turns, each from what the other has become.

J. Kim et al., "Beyond Image Super-Resolution for Image Recognition with Task-Driven Perceptual Loss", CVPR 2024
(SR4IR): the detector learns from upscaled pictures, references, and pictures patched together from both (CQMix).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatdet.detection.differentiable import Boxes, DifferentiableDetector
from hatdet.training.distributed import Team

__all__ = ["DetectorTuner", "mixed"]

CELLS = 8  # of a mixed picture, along each side


class DetectorTuner:
    """Takes steps of the detectors; between them they are frozen. Batch norms keep their statistics at all times.

    Args:
        detectors: each gets an optimizer (SGD) of its own.
        options: `detection:tune` of an option file.
        team: the processes average their gradients.
    """

    def __init__(self, detectors: Sequence[DifferentiableDetector], options: Mapping[str, Any], team: Team) -> None:
        self.options, self.team, self.detectors = options, team, {one.name: one for one in detectors}
        self.optimizers = {
            detector.name: torch.optim.SGD(
                [parameter for _, parameter in learning(detector)],
                lr=options["lr"],
                momentum=options.get("momentum", 0.9),
                weight_decay=options.get("weight_decay", 1e-4),
            )
            for detector in detectors
        }

    def counts(self, iteration: int) -> bool:
        """Whether a detector learns in an iteration."""
        first, every = int(self.options.get("from_iter", 0)), int(self.options.get("every", 1))
        return iteration >= first and iteration % every == 0

    def step(
        self, detector: DifferentiableDetector, output: Tensor, gt: Tensor, boxes: Boxes, iteration: int
    ) -> Tensor:
        """One step on upscaled pictures, references and mixtures; a third of each one's loss. Returns their sum.

        A step whose loss or gradient is not finite is not taken.

        Args:
            detector: one of those that were given.
            output: `(b, 3, h, w)`, without a graph.
            gt: the references, of the same shape.
            boxes: the objects in both.
            iteration: of the run.
        """
        optimizer = self.optimizers[detector.name]
        parameters = [parameter for _, parameter in learning(detector)]
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=gt.device)
        try:
            for parameter in parameters:
                parameter.requires_grad_(True)
            for pictures in (output, gt, mixed(output, gt)):
                loss = detector.loss(detector.look(pictures), boxes) / 3
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)
        if self.team.size > 1:
            for parameter in parameters:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                torch.distributed.all_reduce(gradient)
                parameter.grad = gradient.div_(self.team.size)
        wanted = [parameter for parameter in parameters if parameter.grad is not None]
        norm = nn.utils.clip_grad_norm_(wanted, self.options.get("grad_clip", 10.0))
        if bool(torch.isfinite(norm)):
            optimizer.step()
        return total

    def state(self) -> dict[str, Any]:
        """Weights and optimizers, by the detector's name."""
        return {
            name: {"model": detector.model.state_dict(), "optimizer": self.optimizers[name].state_dict()}
            for name, detector in self.detectors.items()
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` said of the detectors that there still are."""
        for name, detector in self.detectors.items():
            if name in state:
                detector.model.load_state_dict(state[name]["model"])
                self.optimizers[name].load_state_dict(state[name]["optimizer"])


def learning(detector: DifferentiableDetector) -> list[tuple[str, nn.Parameter]]:
    """The parameters that learn: all but those of the fixed integral over box distributions."""
    return [(name, parameter) for name, parameter in detector.named_parameters() if ".dfl." not in name]


def mixed(output: Tensor, gt: Tensor) -> Tensor:
    """Pictures of 8x8 cells, each cell of one of the two with even chance (SR4IR, CQMix). Shape: as both."""
    mask = torch.rand(len(output), 1, CELLS, CELLS, device=output.device) < 0.5
    return torch.where(F.interpolate(mask.float(), output.shape[2:], mode="nearest") > 0.5, output, gt)
