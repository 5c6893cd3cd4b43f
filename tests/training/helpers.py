"""Tiny data, tiny networks, options as `read_options` gives them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hatdet.imaging.files import write_array
from hatdet.imaging.pairs import PairSettings, make_pairs
from tests.helpers import TINY


def photos(folder: Path, count: int = 4, h: int = 40, w: int = 48) -> Path:
    """Smooth pictures with edges."""
    y, x = np.mgrid[0:h, 0:w]
    for i in range(count):
        base = 128 + 60 * np.sin(x / (3 + i)) + 50 * np.sign(np.cos(y / (4 + i)))
        picture = np.stack([base, base[::-1], 255 - base], -1).clip(0, 255).round().astype(np.uint8)
        write_array(picture, folder / f"p{i}.png")
    return folder


def data_set(root: Path, scale: int = 2, count: int = 4) -> Path:
    """Pairs of `photos`, under `root/data`."""
    for photo in sorted(photos(root / "photos", count).iterdir()):
        make_pairs(photo, Path(photo.name), root / "data", PairSettings((scale,)))
    return root / "data"


def tiny_options(root: Path, total: int = 8, *, name: str = "tiny", **train: Any) -> dict[str, Any]:
    """A run of a tiny HAT x2; `train` changes its section of that name."""
    data = root / "data"
    if not data.is_dir():
        data_set(root)
    folder = root / "experiments" / name
    pair = {"dataroot_gt": str(data / "GTmod2"), "dataroot_lq": str(data / "LRbicx2"), "io_backend": {"type": "disk"}}
    return {
        "name": name,
        "model_type": "HATModel",
        "scale": 2,
        "num_gpu": 0,
        "manual_seed": 3,
        "is_train": True,
        "root_path": str(root),
        "datasets": {
            "train": {
                **pair,
                "name": "tiny",
                "type": "PairedImageDataset",
                "phase": "train",
                "scale": 2,
                "gt_size": 16,
                "use_hflip": True,
                "use_rot": True,
                "batch_size_per_gpu": 2,
                "num_worker_per_gpu": 0,
            },
            "val": {**pair, "name": "held", "type": "PairedImageDataset", "phase": "val", "scale": 2},
        },
        "network_g": {"type": "HAT", **TINY, "upscale": 2},
        "path": {
            "experiments_root": str(folder),
            "models": str(folder / "models"),
            "training_states": str(folder / "training_states"),
            "log": str(folder),
            "visualization": str(folder / "visualization"),
        },
        "train": {
            "ema_decay": 0.9,
            "optim_g": {"type": "Adam", "lr": 1e-3, "betas": [0.9, 0.99]},
            "scheduler": {"type": "MultiStepLR", "milestones": [3, 6], "gamma": 0.5},
            "total_iter": total,
            "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
            **train,
        },
        "val": {
            "val_freq": 100,
            "save_img": False,
            "metrics": {
                "psnr": {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": True},
                "ssim": {"type": "calculate_ssim", "crop_border": 2, "test_y_channel": True},
            },
        },
        "logger": {"print_freq": 1, "save_checkpoint_freq": 4, "use_tb_logger": False},
    }


def option_file(root: Path, total: int = 8, *, name: str = "tiny", **train: Any) -> Path:
    """The same run as an option file, with paths relative to it."""
    import yaml

    options = tiny_options(root, total, name=name, **train)
    for key in ("is_train", "root_path"):
        del options[key]
    options["path"] = {}
    for dataset in options["datasets"].values():
        del dataset["phase"], dataset["scale"]
        for key in ("dataroot_gt", "dataroot_lq"):
            dataset[key] = str(Path(dataset[key]).relative_to(root))
    file = root / f"{name}.yml"
    file.write_text(yaml.safe_dump(options, sort_keys=False))
    return file


def detection_data(root: Path, count: int = 4, h: int = 40, w: int = 56) -> Path:
    """A data file of pictures with one labelled bright square each: class 0 left of the middle, 1 right of it."""
    import yaml

    random = np.random.default_rng(7)
    for split in ("train", "val"):
        images, labels = root / "boxes" / "images" / split, root / "boxes" / "labels" / split
        labels.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture = random.integers(0, 120, (h // 4, w // 4, 3)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
            x, y, side = int(random.integers(2, w - 18)), int(random.integers(2, h - 18)), int(random.integers(10, 16))
            picture[y : y + side, x : x + side] = 230
            write_array(picture, images / f"{i}.png")
            numbers = ((x + side / 2) / w, (y + side / 2) / h, side / w, side / h)
            text = " ".join([str(int(x + side / 2 > w / 2)), *(f"{number:.6f}" for number in numbers)])
            (labels / f"{i}.txt").write_text(text + "\n")
    file = root / "boxes" / "data.yaml"
    content = {"path": ".", "train": "images/train", "val": "images/val", "names": {0: "thing", 1: "other"}}
    file.write_text(yaml.safe_dump(content))
    return file


def detection_options(root: Path, total: int = 4, *, name: str = "tiny", **train: Any) -> dict[str, Any]:
    """A run of a tiny HAT x2 behind a tiny detector; `train` changes its section of that name."""
    from tests.detection.tiny_detector import tiny_detector_file

    file = root / "boxes" / "data.yaml"
    if not file.is_file():
        detection_data(root)
    detector = root / "tiny.safetensors"
    if not detector.is_file():
        tiny_detector_file(detector)
    options = tiny_options(root, total, name=name, **train)
    data = {"type": "DetectionPairedDataset", "data": str(file), "io_backend": {"type": "disk"}, "scale": 2}
    loading = options["datasets"]["train"]
    options["datasets"] = {
        "train": {
            **data,
            "name": "boxes",
            "phase": "train",
            "gt_size": 32,
            "use_hflip": True,
            "use_rot": True,
            "unlabelled": [str(root / "photos")],
            "batch_size_per_gpu": loading["batch_size_per_gpu"],
            "num_worker_per_gpu": 0,
        },
        "val": {**data, "name": "held", "phase": "val"},
    }
    options["model_type"] = "HATDetectionModel"
    options["detection"] = {"detectors": [str(detector)], "shift": 7, "rescale": [0.75, 1.25], "moved_share": 0.5}
    for key, loss in (
        ("feature_opt", {"type": "DetectorFeatureLoss", "loss_weight": 0.2}),
        ("box_opt", {"type": "DetectorBoxLoss", "loss_weight": 0.01}),
        ("consistency_opt", {"type": "ReductionLoss", "loss_weight": 0.5}),
    ):
        options["train"].setdefault(key, loss)
    del options["val"]["metrics"]
    return options


def detection_file(root: Path, change: Callable[[dict[str, Any]], None] = lambda options: None) -> Path:
    """The same run as an option file, changed."""
    import yaml

    options = detection_options(root, 1)
    for key in ("is_train", "root_path"):
        del options[key]
    options["path"] = {}
    for dataset in options["datasets"].values():
        del dataset["phase"], dataset["scale"]
    change(options)
    file = root / "detection.yml"
    file.write_text(yaml.safe_dump(options, sort_keys=False))
    return file
