"""The data of bench_attention.py: which images train and which are scored, copied to where Ultralytics may write."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

import hatdet.detection.ultralytics_setup  # noqa: F401 (before ultralytics)
from hatdet.core.errors import InputError

DATA = ("coco128", "kit_ais")
PART = 640  # about the width of the parts that wide images are cut into


def frames(data: str, root: Path) -> dict[str, list[Path]]:
    """The images of the splits train and val; the label of one stands in `labels` as it does in `images`."""
    if data == "coco128":
        folders = {split: root / "det/coco128/images" / f"{split}2017" for split in ("train", "val")}
        found = {split: sorted(folder.glob("*.jpg")) for split, folder in folders.items()}
    else:
        images = sorted((root / "det/kit_ais/images").glob("*.png"))
        found = {split: [image for image in images if kit_ais_split(image.stem) == split] for split in ("train", "val")}
    for split, images in found.items():
        if not images:
            raise InputError(f"{root} has no images of {data} for {split}: expected det/{data} there")
    return found


def kit_ais_split(stem: str) -> str:
    """MOS74 to MOS93 and MOS155 to MOS179 are one sequence each."""
    return "train" if int(stem.removeprefix("MOS")) > 100 else "val"


def cut_labels(text: str, edges: Sequence[int]) -> list[str]:
    """YOLO labels for the parts of an image between `edges`, px from 0 to its width. A box goes where its middle is."""
    width = edges[-1]
    parts: list[list[str]] = [[] for _ in edges[1:]]
    for line in text.splitlines():
        kind, x, y, w, h = line.split()
        left, right = ((float(x) + side * float(w) / 2) * width for side in (-1, 1))
        k = next((k for k, edge in enumerate(edges[1:]) if float(x) * width < edge), len(parts) - 1)
        left, right = max(left, edges[k]), min(right, edges[k + 1])
        across = edges[k + 1] - edges[k]
        middle = ((left + right) / 2 - edges[k]) / across
        parts[k].append(f"{kind} {middle:.6f} {y} {(right - left) / across:.6f} {h}\n")
    return ["".join(part) for part in parts]


def prepare(data: str, root: Path, folder: Path, limit: int | None) -> dict[str, Any]:
    """Copy a data set into `folder`; what Ultralytics wants to know of it.

    Copies, since Ultralytics writes caches beside labels and repairs images in place.
    """
    import cv2
    from ultralytics.utils import ROOT

    for split, images in frames(data, root).items():
        target = folder / data
        for kind in ("images", "labels"):
            (target / kind / split).mkdir(parents=True, exist_ok=True)
        for image in images[:limit]:
            source = Path("/labels/".join(image.as_posix().rsplit("/images/", 1))).with_suffix(".txt")
            labels = source.read_text() if source.is_file() else ""
            pixels = cv2.imread(str(image))
            if pixels is None:
                raise InputError(f"{image} cannot be read as an image")
            width = pixels.shape[1]
            count = max(1, round(width / PART))
            if count == 1:
                shutil.copyfile(image, target / "images" / split / image.name)
                (target / "labels" / split / f"{image.stem}.txt").write_text(labels)
                continue
            edges = [width * k // count for k in range(count + 1)]
            for k, part in enumerate(cut_labels(labels, edges)):
                name = f"{image.stem}_{k}"
                cv2.imwrite(str(target / "images" / split / f"{name}.png"), pixels[:, edges[k] : edges[k + 1]])
                (target / "labels" / split / f"{name}.txt").write_text(part)
    names = dict(enumerate(("car", "truck", "bus", "minibus", "cyclist")))
    if data == "coco128":
        names = yaml.safe_load((ROOT / "cfg/datasets/coco128.yaml").read_text())["names"]
    splits = {split: str(folder / data / "images" / split) for split in ("train", "val")}
    return {"path": str(folder / data), **splits, "names": names, "nc": len(names), "channels": 3}
