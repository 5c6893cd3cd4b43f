"""Every option file that ships runs: two steps of training, or a test, with a tiny network on tiny pictures."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hatdet.imaging.pairs import PairSettings, make_pairs
from hatdet.sr.weights import WeightsFile, load_network
from hatdet.training.options import read_options
from hatdet.training.run import measure, train
from tests.detection.tiny_detector import tiny_detector_file
from tests.helpers import TINY, tiny_hat
from tests.training.helpers import detection_data, photos
from tests.training.test_real_hat_models import small_vgg

OPTIONS = Path(__file__).resolve().parents[2] / "options"
TRAINING = sorted((OPTIONS / "train").glob("*.yml"))
TESTING = sorted((OPTIONS / "test").glob("*.yml"))
SCALES = (2, 3, 4)
SMALLER = [f"network_g:{key}={value}" for key, value in TINY.items()]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `many` to train on and `one` to measure on, each with the low and the high resolution of all scales."""
    root = tmp_path_factory.mktemp("pictures")
    for name, count in (("many", 3), ("one", 1)):
        for photo in sorted(photos(root / "photos" / name, count).iterdir()):
            make_pairs(photo, Path(photo.name), root / name, PairSettings(SCALES))
    return root


def lay_out(file: Path, root: Path, pictures: Path) -> dict[str, Any]:
    """Put what an option file names at the places that it names; return what it says."""
    said: dict[str, Any] = yaml.safe_load(file.read_text())
    scale = said["scale"]
    for phase, data in said["datasets"].items():
        source = pictures / ("many" if phase == "train" else "one")
        folders = {"dataroot_gt": source / f"GTmod{scale}", "dataroot_lq": source / f"LRbicx{scale}"}
        for key, folder in folders.items():
            if key in data:
                place = root / data[key]
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(folder, target_is_directory=True)
        for key in ("meta_info", "meta_info_file"):
            if key in data:
                names = sorted(path.name for path in folders["dataroot_gt"].iterdir())
                (root / data[key]).write_text("".join(f"{name}\n" for name in names))
    if "detection" in said:
        labelled = detection_data(root, 2)
        labelled.rename(labelled.parent / "detection.yaml")
        (labelled.parent).rename(root / "datasets")
        photos(root / "datasets" / "photos", 2)
        for name in ("detectors", "witnesses"):
            tiny_detector_file(root / f"{name}.safetensors")
    start = said["path"]["pretrain_network_g"]
    if start is not None:  # weights that ship, or an earlier run's
        place = root / start if start.endswith(".pth") else root / "tiny.pth"
        place.parent.mkdir(parents=True, exist_ok=True)
        network = tiny_hat(upscale=int(re.findall(r"x(\d)", start)[0])).state_dict()
        torch.save({"params": network, "params_ema": network}, place)
    return said


@pytest.mark.parametrize("file", TRAINING, ids=lambda path: path.stem)
def test_two_steps(file: Path, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch):
    said = lay_out(file, tmp_path, pictures)
    real, for_detector = said["model_type"].startswith("Real"), "detection" in said
    patch = 32 if real else 8 * said["scale"]
    changes = [f"path:root={tmp_path}", "num_gpu=0", *SMALLER, "train:total_iter=2", "logger:print_freq=1"]
    changes += [f"datasets:train:{each}" for each in (f"gt_size={patch}", "batch_size_per_gpu=2")]
    changes += ["datasets:train:num_worker_per_gpu=0", "train:compile=false"]
    changes += [f"datasets:{phase}=~" for phase in list(said["datasets"])[2:]]
    if "val" in said:
        changes += ["val:val_freq=2"]
    if (tmp_path / "tiny.pth").exists():
        changes += [f"path:pretrain_network_g={tmp_path / 'tiny.pth'}"]
    if real:
        changes += [f"gt_size={patch}", "queue_size=2"]
    if "network_d" in said:
        changes += ["network_d:num_feat=4"]
        small_vgg(tmp_path, monkeypatch)
    if for_detector:
        changes += [f"detection:{key}=[{tmp_path / key}.safetensors]" for key in ("detectors", "witnesses")]
        changes += ["train:box_opt:schedule:from_iter=1", "datasets:train:labelled_share=1"]
    seen: list[Mapping[str, float]] = []
    options = read_options(file, train=True, overrides=changes)
    finished = train(options, on_step=lambda iteration, total, logged: seen.append(logged))
    assert finished.folder == tmp_path / "experiments" / said["name"]
    assert set(finished.scores) == {data["name"] for data in list(said["datasets"].values())[1:2]}
    assert all(math.isfinite(value) for means in finished.scores.values() for value in means.values())
    assert len(seen) == 2
    assert all(math.isfinite(value) for logged in seen for value in logged.values())
    losses = {"l_g_pix", "l_g_percep", "l_g_gan", "l_d_real", "l_d_fake"} if "network_d" in said else {"l_pix"}
    losses |= {"l_feat", "l_box", "l_lq"} if for_detector else set()
    assert {name for name in seen[1] if name.startswith("l_")} == losses
    models = finished.folder / "models"
    networks = {"net_g", "net_d"} if "network_d" in said else {"net_g"}
    assert {path.name for path in models.iterdir()} == {f"{name}_{at}.pth" for name in networks for at in (2, "latest")}
    network = load_network(WeightsFile("trained", models / "net_g_latest.pth", None), said["scale"])
    assert network.upscale == said["scale"]


@pytest.mark.parametrize("file", TESTING, ids=lambda path: path.stem)
def test_a_test(file: Path, tmp_path: Path, pictures: Path):
    said = lay_out(file, tmp_path, pictures)
    changes = [f"path:root={tmp_path}", "num_gpu=0", *SMALLER, f"path:pretrain_network_g={tmp_path / 'tiny.pth'}"]
    scores = measure(read_options(file, train=False, overrides=changes))
    names = {data["name"] for data in said["datasets"].values()}
    assert set(scores) == names
    metrics = said["val"].get("metrics") or {}
    for means in scores.values():
        assert set(means) == set(metrics)
        assert all(math.isfinite(value) for value in means.values())
    folder = tmp_path / "results" / said["name"] / "visualization"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")} == {
        f"{name}/p0_{said['name']}.png" for name in names
    }
