"""Make the embedded detector: YOLO11n fine-tuned on images as they look after reduction and upscaling.

    export HATDET_DATA=/path/to/data                     # holds det/coco128 (images and YOLO labels)
    python tools/finetune_detector.py prepare WORK       # originals, and both upscalings of their x4 reductions
    python tools/finetune_detector.py train WORK START.pt options/detector/yolo11n_upscaled_1.yml
    python tools/finetune_detector.py train WORK START.pt options/detector/kit_ais.yml --data kit_ais.yaml
    python tools/finetune_detector.py distil WORK START.pt options/detector/yolo11n_upscaled_2.yml
    python tools/finetune_detector.py prepare WORK --networks mine.safetensors       # and upscalings by other networks
    python tools/finetune_detector.py distil WORK START.pt options/detector/yolo11n_one_arm.yml --arm mine
    python tools/finetune_detector.py evaluate WORK START.pt WORK/runs/*/weights/*.pt OUT.safetensors
    python tools/finetune_detector.py blend START.pt TUNED.pt 0.7 OUT.pt      # a step of 0.7 from START to TUNED
    python tools/finetune_detector.py export OUT.pt pretrained/yolo11n-upscaled.safetensors

`train` learns from the labels, by Ultralytics' trainer, of WORK's images or of those of any data file. `distil` learns
from START itself: on an upscaled crop the network is to see what START sees on the original crop, in its feature maps
and in its boxes and classes; no labels are used.
The validation images are evaluated by the Ultralytics validator at 640 pixels. Training never sees them.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

import hatdet.detection.ultralytics_setup  # noqa: F401 (before ultralytics: no telemetry, no download)
from hatdet.core.types import Image
from hatdet.detection.weights import load_model, save_model
from hatdet.evaluation.samples import cropped_labels
from hatdet.imaging.files import read_image, write_image
from hatdet.imaging.resize import reduced
from hatdet.sr.upscalers import load_upscaler

ARMS = ("original", "hat-xs", "bicubic")
SCALE = 4


def prepare(work: Path, data: Path, networks: list[Path]) -> None:
    """Write the three arms of both splits, with labels, and a data file for each arm and for training on all.

    Each of the networks is an arm more, by the name of its file; training on all is without them.
    """
    from rich.progress import track
    from ultralytics.utils import ROOT

    upscalers = {arm: load_upscaler(arm, SCALE) for arm in ARMS[1:]}
    upscalers |= {network.stem: load_upscaler(str(network), SCALE) for network in networks}
    arms = ("original", *upscalers)
    names = yaml.safe_load((ROOT / "cfg/datasets/coco128.yaml").read_text())["names"]
    for split in ("train", "val"):
        folder = data / "det/coco128/images" / f"{split}2017"
        for path in track(sorted(folder.glob("*.jpg")), f"{split}"):
            whole = read_image(path)
            h, w = (side // SCALE * SCALE for side in (whole.height, whole.width))
            image = Image(whole.pixels[:, :h, :w].contiguous())
            label = data / "det/coco128/labels" / folder.name / f"{path.stem}.txt"
            low = reduced(image, SCALE)
            for arm in arms:
                target = work / arm / "images" / split / f"{path.stem}.png"
                if target.is_file():
                    continue
                labels = work / arm / "labels" / split / f"{path.stem}.txt"
                labels.parent.mkdir(parents=True, exist_ok=True)
                labels.write_text(cropped_labels(label, (whole.width, whole.height), (w, h)))
                target.parent.mkdir(parents=True, exist_ok=True)
                write_image(image if arm == "original" else upscalers[arm](low), target)
    root = work.resolve()
    for arm in arms:
        content = {"path": str(root), "train": f"{arm}/images/train", "val": f"{arm}/images/val", "names": names}
        (work / f"{arm}.yaml").write_text(yaml.safe_dump(content))
    content = {
        "path": str(root),
        "train": [f"{arm}/images/train" for arm in ARMS],
        "val": "hat-xs/images/val",
        "names": names,
    }
    (work / "all.yaml").write_text(yaml.safe_dump(content))


def keep_batch_norm_fixed(trainer: Any) -> None:
    """Batch norm in evaluation mode: START's statistics are folded into its weights, a batch's would undo them."""
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()


def use_all_cores(trainer: Any) -> None:
    """Ultralytics leaves one core idle, which on two is half the machine; channels-last is faster on the CPU."""
    torch.set_num_threads(_threads())
    trainer.model.to(memory_format=torch.channels_last)


def _threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))


def train(work: Path, start: Path, recipe: Path, data: Path | None = None) -> None:
    from ultralytics import YOLO

    model = YOLO(start)
    model.add_callback("on_train_start", use_all_cores)
    model.add_callback("on_train_batch_start", keep_batch_norm_fixed)
    arguments = yaml.safe_load(recipe.read_text())
    data = data or work / "all.yaml"
    model.train(data=str(data), project=str((work / "runs").resolve()), name=recipe.stem, **arguments)


def distil(work: Path, start: Path, recipe: Path, arm: str | None = None) -> None:
    """START is teacher, on originals; its copy is student, on the recipe's arms. Batch norm stays fixed, as in `train`.

    Args:
        arm: takes what the shares of the recipe's arms leave of one.
    """
    options = yaml.safe_load(recipe.read_text())
    run = work / "runs" / (recipe.stem if arm is None else f"{recipe.stem}_{arm}")
    if arm is not None:
        options["arms"][arm] = 1 - sum(options["arms"].values())
    torch.manual_seed(options["seed"])
    random = np.random.default_rng(options["seed"])
    teacher = _model(start).requires_grad_(False).eval().to(memory_format=torch.channels_last)
    student = _model(start).requires_grad_(True).eval().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(student.parameters(), lr=options["lr"], weight_decay=options["weight_decay"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options["lr"], total_steps=options["iterations"], pct_start=0.05, cycle_momentum=False
    )
    average = torch.optim.swa_utils.AveragedModel(
        student, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
    )
    files = sorted((work / "original/images/train").glob("*.png"))
    arms = list(options["arms"])
    share = np.array([options["arms"][arm] for arm in arms], float)
    images = {
        (arm, file.name): read_image(work / arm / "images/train" / file.name).pixels
        for arm in {"original", *arms}
        for file in files
    }
    started, shown = time.perf_counter(), dict.fromkeys(("features", "classes", "boxes"), 0.0)
    for iteration in range(options["iterations"]):
        clean, seen = [], []
        for _ in range(options["batch"]):
            name = files[random.integers(len(files))].name
            arm = arms[random.choice(len(arms), p=share / share.sum())]
            pair = _paired_crop(images["original", name], images[arm, name], options["crop"], random)
            clean.append(pair[0])
            seen.append(pair[1])
        with torch.no_grad():
            wanted = teacher(torch.stack(clean).contiguous(memory_format=torch.channels_last))[1]
        got = student(torch.stack(seen).contiguous(memory_format=torch.channels_last))[1]
        # Each level relative to its own size; boxes and classes where the teacher sees something.
        features = sum(
            (a - b).abs().mean() / b.abs().mean() for a, b in zip(got["feats"], wanted["feats"], strict=True)
        )
        target = wanted["scores"].sigmoid()
        certain = target.amax(1, keepdim=True)
        classes = torch.nn.functional.binary_cross_entropy_with_logits(got["scores"], target, reduction="none")
        classes = (classes - torch.special.entr(target) - torch.special.entr(1 - target)).sum() / certain.sum()
        distance = torch.nn.functional.smooth_l1_loss(got["boxes"], wanted["boxes"], reduction="none")
        boxes = (distance * certain).sum() / certain.sum() / distance.shape[1]
        parts = {"features": features, "classes": classes, "boxes": boxes}
        loss = sum(options["loss"][key] * value for key, value in parts.items())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(student)
        for key, value in parts.items():
            shown[key] += float(value.detach()) / options["log"]
        if (iteration + 1) % options["log"] == 0:
            values = " ".join(f"{key} {value:.4f}" for key, value in shown.items())
            print(f"{iteration + 1:5d} {time.perf_counter() - started:6.0f} s  {values}", flush=True)
            shown = dict.fromkeys(shown, 0.0)
            out = run / "weights" / f"iteration{iteration + 1:05d}.pt"
            out.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"model": copy.deepcopy(average.module).half(), "train_args": {"task": "detect"}}, out)


def _paired_crop(a: Tensor, b: Tensor, size: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """The same square of two pictures of one size, flipped alike, grey where they end."""
    h, w = a.shape[1:]
    y, x = (int(random.integers(max(side - size, 0) + 1)) for side in (h, w))
    flip = random.random() < 0.5
    crops = []
    for picture in (a, b):
        crop = picture[:, y : y + size, x : x + size]
        crop = torch.nn.functional.pad(crop, (0, size - crop.shape[2], 0, size - crop.shape[1]), value=114 / 255)
        crops.append(crop.flip(2) if flip else crop)
    return crops[0], crops[1]


def _model(path: Path) -> Any:
    checkpoint = _checkpoint(path)
    return (checkpoint.get("ema") or checkpoint["model"]).float()


def evaluate(work: Path, weights: list[Path]) -> None:
    from ultralytics import YOLO

    print(f"{'mAP50-95, 128 images of val2017':50s}" + "".join(f"{arm:>10s}" for arm in ARMS))
    for path in weights:
        row = []
        torch.set_num_threads(_threads())
        for arm in ARMS:
            result = YOLO(_as_checkpoint(path, work)).val(
                data=str(work / f"{arm}.yaml"),
                imgsz=640,
                batch=16,
                workers=0,
                plots=False,
                verbose=False,
                project=str(work / "val"),
                exist_ok=True,
            )
            row.append(float(result.box.map))
        print(f"{'/'.join(path.parts[-3:])[-50:]:50s}" + "".join(f"{value:10.4f}" for value in row), flush=True)


def _as_checkpoint(path: Path, work: Path) -> Path:
    """The validator takes checkpoints only; a safetensors file, such as the one that ships, is wrapped in one."""
    if path.suffix != ".safetensors":
        return path
    wrapped = work / f"{path.stem}.pt"
    torch.save({"model": load_model(path), "train_args": {"task": "detect"}}, wrapped)
    return wrapped


def _checkpoint(path: Path) -> dict[str, Any]:
    from ultralytics.nn.tasks import torch_safe_load

    return torch_safe_load(path, safe_only=True)[0]


def blend(start: Path, tuned: Path, share: float, out: Path) -> None:
    """Weights a share of the way from START to TUNED: what is learned without all that is forgotten."""
    model, new = _model(start), _model(tuned).state_dict()
    state = model.state_dict()
    for key, value in state.items():
        if value.is_floating_point():
            value.lerp_(new[key], share)
    torch.save({"model": model.half(), "train_args": {"task": "detect"}}, out)


def export(path: Path, out: Path) -> None:
    """fp16 safetensors that say in their metadata which network they are."""
    save_model(_model(path), out)
    print(f"{out}: {out.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, arguments in {
        "prepare": ["work"],
        "train": ["work", "start", "recipe"],
        "distil": ["work", "start", "recipe"],
        "evaluate": ["work"],
        "blend": ["start", "tuned", "share", "out"],
        "export": ["weights", "out"],
    }.items():
        sub = verbs.add_parser(verb)
        for argument in arguments:
            sub.add_argument(argument, type=float if argument == "share" else Path)
        if verb == "train":
            sub.add_argument("--data", type=Path, help="other images than those of WORK")
        if verb == "prepare":
            sub.add_argument("--networks", type=Path, nargs="*", default=[], help="weights files of more upscalers")
        if verb == "distil":
            sub.add_argument("--arm", help="beside those of the recipe, with what their shares leave")
        if verb == "evaluate":
            sub.add_argument("weights", type=Path, nargs="+")
    given = vars(parser.parse_args())
    verb = given.pop("verb")
    if verb == "prepare":
        given["data"] = Path(os.environ["HATDET_DATA"])
    if verb == "export":
        given["path"] = given.pop("weights")
    {"prepare": prepare, "train": train, "distil": distil, "evaluate": evaluate, "blend": blend, "export": export}[
        verb
    ](**given)


if __name__ == "__main__":
    main()
