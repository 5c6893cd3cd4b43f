"""Everything that can be known to be wrong with options before anything starts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

from hatdet.training.loss_schedule import LossSchedule
from hatdet.training.schema import EvaluationOptions, TrainingOptions, structure
from hatdet.training.signatures import KINDS, check_call, unknown

__all__ = ["check"]

# Sections that describe a call, and the kind of thing they call.
_CALLS: Mapping[tuple[str, ...], str] = {
    ("network_g",): "network",
    ("network_d",): "network",
    ("train", "optim_g"): "optimizer",
    ("train", "optim_d"): "optimizer",
    ("train", "scheduler"): "scheduler",
    ("train", "pixel_opt"): "loss",
    ("train", "perceptual_opt"): "loss",
    ("train", "ldl_opt"): "loss",
    ("train", "gan_opt"): "loss",
    ("train", "feature_opt"): "loss",
    ("train", "box_opt"): "loss",
    ("train", "consistency_opt"): "loss",
}
# What BasicSR's data sets and models look up without asking whether it is there.
_KERNELS = ("kernel_list", "kernel_prob", "sinc_prob", "blur_sigma", "betag_range", "betap_range", "blur_kernel_size")
_NEEDED_BY_DATASET: Mapping[str, tuple[str, ...]] = {
    "PairedImageDataset": ("dataroot_gt", "dataroot_lq"),
    "SingleImageDataset": ("dataroot_lq",),
    "ImageNetPairedDataset": ("dataroot_gt",),
    "DetectionPairedDataset": ("data",),
    "RealESRGANPairedDataset": ("dataroot_gt", "dataroot_lq"),
    "RealESRGANDataset": ("dataroot_gt", "meta_info", "final_sinc_prob", *_KERNELS, *(key + "2" for key in _KERNELS)),
}
_DEGRADATION = (
    *("gt_size", "resize_prob", "resize_range", "gaussian_noise_prob", "noise_range", "poisson_scale_range"),
    *("gray_noise_prob", "jpeg_range", "second_blur_prob", "resize_prob2", "resize_range2", "gaussian_noise_prob2"),
    *("noise_range2", "poisson_scale_range2", "gray_noise_prob2", "jpeg_range2"),
)
_REAL_MSE = ("gt_usm",)
_REAL_GAN = ("l1_gt_usm", "percep_gt_usm", "gan_gt_usm")
_NEEDED_BY_MODEL: Mapping[str, tuple[str, ...]] = {
    "RealESRNetModel": _REAL_MSE,
    "RealHATMSEModel": _REAL_MSE,
    "RealESRGANModel": _REAL_GAN,
    "RealHATGANModel": _REAL_GAN,
    "HATDetectionModel": ("detection",),
}
_WITH_DISCRIMINATOR = ("SRGANModel", "ESRGANModel", "RealESRGANModel", "RealHATGANModel")


def check(options: dict[str, Any], *, train: bool) -> tuple[dict[str, Any], list[str]]:
    """The options with every value as its type, and what is wrong with them, one line for each thing.

    Contradictions between values are looked for once every value by itself is right.
    """
    checked, complaints = structure(options, TrainingOptions if train else EvaluationOptions)
    complaints += _phases(options, train)
    for path, kind in _calls(options):
        *sections, key = path
        call, wrong = check_call(_at(options, path), KINDS[kind], ":".join(path))
        complaints += wrong
        if checked:
            _at(checked, sections)[key] = call
    for where, kind, name in _names(options):
        known = KINDS[kind].names()
        if isinstance(name, str) and name not in known:
            complaints.append(unknown(where, "", known, name))
    checked = {key: value for key, value in checked.items() if value is not None}
    if not complaints:
        complaints += chain(_missing(checked, train), _contradictions(checked, train))
    return checked, complaints


def _at(options: Any, path: Any) -> Any:
    """What stands at a path of keys; None where nothing does."""
    for key in path:
        options = options.get(key) if isinstance(options, dict) else None
    return options


def _calls(options: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    for path, kind in _CALLS.items():
        if _at(options, path) is not None:
            yield path, kind
    metrics = _at(options, ("val", "metrics"))
    if isinstance(metrics, dict):
        for name in metrics:
            yield ("val", "metrics", name), "metric"


def _phases(options: dict[str, Any], train: bool) -> Iterator[str]:
    names = _at(options, ("datasets",))
    expected = "train, val, val_1, ..." if train else "test, test_1, ..., val, val_1, ..."
    pattern = r"train|val(_.+)?" if train else r"(test|val)(_.+)?"
    if not isinstance(names, dict):
        return
    if train and "train" not in names:
        yield "datasets:train is missing"
    for name in names:
        if not re.fullmatch(pattern, name):
            yield f"datasets:{name} is not a phase of {'training' if train else 'testing'} (known: {expected})"


def _names(options: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    yield "model_type", "model", options.get("model_type")
    datasets = options.get("datasets")
    for phase in datasets if isinstance(datasets, dict) else ():
        yield f"datasets:{phase}:type", "dataset", _at(datasets, (phase, "type"))


def _missing(options: dict[str, Any], train: bool) -> Iterator[str]:
    """Keys that BasicSR looks up without asking whether they are there."""
    for phase, dataset in options["datasets"].items():
        for key in _NEEDED_BY_DATASET.get(dataset["type"], ()):
            listed = key == "meta_info" and dataset["io_backend"]["type"] == "lmdb"  # it has a list of its own
            if dataset.get(key) is None and not listed:
                yield f"datasets:{phase}:{key} is missing: {dataset['type']} needs it"
    if not train:
        return
    model = options["model_type"]
    needed = list(_NEEDED_BY_MODEL.get(model, ()))
    if model.startswith("Real") and needed and options.get("high_order_degradation") is not False:
        needed += _DEGRADATION
    if model in _WITH_DISCRIMINATOR:
        needed.append("network_d")
        for key in ("optim_d", "gan_opt"):
            if options["train"].get(key) is None:
                yield f"train:{key} is missing: {model} needs it"
    for key in needed:
        if options.get(key) is None:
            yield f"{key} is missing: {model} needs it"
    if options.get("val") is not None and options["val"].get("val_freq") is None:
        yield "val:val_freq is missing"
    if options["train"].get("pixel_opt") is None and options["train"].get("perceptual_opt") is None:
        yield "train:pixel_opt is missing, and so is train:perceptual_opt: one loss at least is needed"


def _contradictions(options: dict[str, Any], train: bool) -> Iterator[str]:
    """Values that are right by themselves and wrong together."""
    scale = options["scale"]
    network = options["network_g"]
    if network.get("upscale", scale) != scale:
        yield f"network_g:upscale is {network['upscale']}, but scale is {scale}"
    if network["type"] == "HAT":
        yield from _hat(network)
    for phase, dataset in options["datasets"].items():
        for end in ("", "2"):
            kernels, shares = dataset.get(f"kernel_list{end}"), dataset.get(f"kernel_prob{end}")
            if kernels and shares and len(kernels) != len(shares):
                wrong = f"{len(shares)} numbers for {len(kernels)} kernels"
                yield f"datasets:{phase}:kernel_prob{end} has {wrong}"
    if train:
        yield from _contradictions_of_training(options)


def _contradictions_of_training(options: dict[str, Any]) -> Iterator[str]:
    data, train, logger, scale = options["datasets"]["train"], options["train"], options["logger"], options["scale"]
    for where, size in (("datasets:train:gt_size", data["gt_size"]), ("gt_size", options.get("gt_size", scale))):
        if size % scale:
            yield f"{where} must be a multiple of scale {scale}, got {size}"
    if data.get("prefetch_mode") == "cuda" and not data.get("pin_memory"):
        yield "datasets:train:pin_memory must be true with prefetch_mode cuda"
    if options.get("queue_size", data["batch_size_per_gpu"]) % data["batch_size_per_gpu"]:
        yield f"queue_size must be a multiple of batch_size_per_gpu {data['batch_size_per_gpu']}"
    if (logger.get("wandb") or {}).get("project") is not None and not logger.get("use_tb_logger"):
        yield "logger:use_tb_logger must be true with logger:wandb:project"
    yield from _losses(options)
    schedule, steps = train["scheduler"], train["total_iter"]
    lists = {"CosineAnnealingRestartLR": "periods", "MultiStepLR": "restarts", "MultiStepRestartLR": "restarts"}
    starts = lists[schedule["type"]]
    if len(schedule.get(starts, [0])) != len(schedule.get("restart_weights", [1])):
        yield f"train:scheduler:restart_weights must be as many as {starts}"
    if starts == "periods" and sum(schedule["periods"]) < steps:
        yield f"train:scheduler:periods end at {sum(schedule['periods'])}, before train:total_iter {steps}"


def _losses(options: dict[str, Any]) -> Iterator[str]:
    """Losses that are there for nothing, and when they count."""
    train, model = options["train"], options["model_type"]
    for key in ("feature_opt", "box_opt", "consistency_opt"):
        if train.get(key) is not None and model != "HATDetectionModel":
            yield f"train:{key} needs model_type HATDetectionModel, got {model}"
    if train.get("box_opt") is not None and options["datasets"]["train"]["type"] != "DetectionPairedDataset":
        yield f"train:box_opt needs boxes, which datasets:train of type {options['datasets']['train']['type']} has not"
    section = options.get("detection") or {}
    names = [Path(each).stem for key in ("detectors", "witnesses") for each in section.get(key) or ()]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"detection names {name} twice among its detectors and witnesses"
    known = [each.name for each in fields(LossSchedule)]
    for key, section in train.items():
        if not isinstance(section, dict) or not isinstance(section.get("schedule"), dict):
            continue
        if model not in ("HATModel", "HATDetectionModel"):
            yield f"train:{key}:schedule is not for model_type {model}: expected HATModel or HATDetectionModel"
        for name, value in section["schedule"].items():
            if name not in known:
                yield unknown(f"train:{key}:schedule:{name}", "", known)
            elif value < (name == "every"):
                yield f"train:{key}:schedule:{name} must be at least {int(name == 'every')}, got {value}"


def _hat(network: Mapping[str, Any]) -> Iterator[str]:
    import torch

    from hatdet.sr.hat_arch import HAT

    try:
        with torch.device("meta"):  # shapes without memory
            HAT.from_options(network)
    except (ValueError, RuntimeError) as error:
        yield f"network_g: {str(error).splitlines()[0]}"
