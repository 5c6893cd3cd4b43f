"""What hatdet adds to BasicSR's registries: one explicit list."""

from __future__ import annotations

from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY

from hatdet.core.errors import OptionsError

__all__ = ["find", "known_names", "register"]

REGISTRIES = {
    "arch": ARCH_REGISTRY,
    "model": MODEL_REGISTRY,
    "dataset": DATASET_REGISTRY,
    "loss": LOSS_REGISTRY,
    "metric": METRIC_REGISTRY,
}


def register() -> None:
    """Fill BasicSR's registries with its own things and with ours. A second call changes nothing.

    Raises:
        OptionsError: a name of ours is taken by another class.
    """
    # BasicSR registers what its packages hold when they are imported.
    import basicsr.archs
    import basicsr.data
    import basicsr.losses
    import basicsr.metrics
    import basicsr.models  # noqa: F401

    from hatdet.sr.hat_arch import HAT
    from hatdet.training.datasets import ImageNetPairedDataset
    from hatdet.training.detection_datasets import DetectionPairedDataset
    from hatdet.training.detection_losses import DetectorBoxLoss, DetectorFeatureLoss, ReductionLoss
    from hatdet.training.hat_detection_model import HATDetectionModel
    from hatdet.training.hat_model import HATModel
    from hatdet.training.real_hat_models import RealHATGANModel, RealHATMSEModel

    for registry in REGISTRIES.values():
        # What BasicSR registers as `X_basicsr` answers to `X` too, but not without a line on stdout.
        for name, held in list(registry):
            if name.endswith("_basicsr") and name.removesuffix("_basicsr") not in registry:
                registry.register(held)
    for registry, thing in (
        (ARCH_REGISTRY, HAT),
        (DATASET_REGISTRY, ImageNetPairedDataset),
        (DATASET_REGISTRY, DetectionPairedDataset),
        (LOSS_REGISTRY, DetectorFeatureLoss),
        (LOSS_REGISTRY, DetectorBoxLoss),
        (LOSS_REGISTRY, ReductionLoss),
        (MODEL_REGISTRY, HATModel),
        (MODEL_REGISTRY, HATDetectionModel),
        (MODEL_REGISTRY, RealHATMSEModel),
        (MODEL_REGISTRY, RealHATGANModel),
    ):
        name = thing.__name__
        held = dict(iter(registry)).get(name)
        if held is None:
            registry.register(thing)
        elif held is not thing:
            raise OptionsError(f"the name {name} is taken in BasicSR's registry by {held.__module__}.{held.__name__}")


def known_names(kind: str) -> list[str]:
    """The names of a registry (`arch`, `model`, `dataset`, `loss`, `metric`) as an option file gives them, sorted."""
    return sorted({name.removesuffix("_basicsr") for name, _ in REGISTRIES[kind]})


def find(kind: str, name: str) -> Any:
    """What is registered under a name.

    Raises:
        OptionsError: nothing is; the message lists the names that are known.
    """
    held = dict(iter(REGISTRIES[kind]))
    if name not in held:
        raise OptionsError(f"{kind} {name!r} is not registered: expected one of {', '.join(known_names(kind))}")
    return held[name]
