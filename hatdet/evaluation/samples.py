"""Detection data sets as Ultralytics describes them: a YAML file, folders of images, YOLO labels beside them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hatdet.core.errors import InputError, OptionsError
from hatdet.imaging.sources import find_sources

__all__ = ["DetectionData", "Sample", "cropped_labels", "read_detection_data"]

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Sample:
    """One image and the file of its labels, which need not exist: an image without one shows nothing.

    Attributes:
        image: the file.
        relative: below the split's folder.
        label: where its YOLO labels are.
    """

    image: Path
    relative: Path
    label: Path


@dataclass(frozen=True)
class DetectionData:
    """A data set: class names by id, samples by split."""

    names: Mapping[int, str]
    splits: Mapping[str, tuple[Sample, ...]]


def read_detection_data(path: Path) -> DetectionData:
    """Read an Ultralytics data file (`path`, `train`, `val`, `test`, `names`) and list its images.

    A relative `path` is below the file's own folder. A split is a folder, several, or a text file of image paths.

    Raises:
        OptionsError: no such file or folder, no YAML, no class names, no split.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise OptionsError(f"{path} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionsError(f"{path} is not YAML: {' '.join(str(error).split())[:160]}") from error
    if not isinstance(content, dict) or not isinstance(content.get("names"), list | dict):
        raise OptionsError(f"{path} must name the classes (names:) and the folders of the images (train:, val:)")
    names = content["names"]
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    root = path.parent / str(content.get("path") or ".")
    splits = {split: _samples(content[split], root) for split in SPLITS if content.get(split)}
    if not splits:
        raise OptionsError(f"{path} names no images: expected at least one of {', '.join(SPLITS)}")
    return DetectionData({int(key): str(value) for key, value in pairs}, splits)


def cropped_labels(label: Path, size_wh: tuple[int, int], cropped_wh: tuple[int, int]) -> str:
    """YOLO labels of an image's top left part: boxes clipped to it, and dropped when nothing is left of them.

    A label file that does not exist is an image without objects.

    Raises:
        InputError: a line that is not `class cx cy w h` with numbers in [0, 1].
    """
    lines = []
    for number, line in enumerate(label.read_text().splitlines() if label.is_file() else [], 1):
        fields = line.split()
        if not fields:
            continue
        try:
            class_id, (cx, cy, w, h) = int(fields[0]), (float(field) for field in fields[1:])
        except ValueError as error:
            raise InputError(f"{label}:{number} is not 'class cx cy w h': {line[:80]!r}") from error
        if not all(-1e-6 <= value <= 1 + 1e-6 for value in (cx, cy, w, h)):
            raise InputError(f"{label}:{number} has numbers outside [0, 1]: {line[:80]!r}")
        edges = []
        for centre, extent, size, cropped in ((cx, w, size_wh[0], cropped_wh[0]), (cy, h, size_wh[1], cropped_wh[1])):
            low, high = ((centre + sign * extent / 2) * size / cropped for sign in (-1, 1))
            edges.append((min(max(low, 0.0), 1.0), min(max(high, 0.0), 1.0)))
        if all(high > low for low, high in edges):
            numbers = [(low + high) / 2 for low, high in edges] + [high - low for low, high in edges]
            lines.append(" ".join([str(class_id), *(f"{value:.6f}" for value in numbers)]))
    return "".join(line + "\n" for line in lines)


def _samples(split: Any, root: Path) -> tuple[Sample, ...]:
    samples = []
    for entry in split if isinstance(split, list) else [split]:
        path = root / str(entry)
        if path.suffix == ".txt" and path.is_file():
            listed = [line.strip() for line in path.read_text().splitlines() if line.strip()]
            images = [(path.parent / line, Path(Path(line).name)) for line in listed]
        else:
            images = [(source.path, source.relative) for source in find_sources([path])]
        samples += [Sample(image, relative, _label_of(image)) for image, relative in images]
    return tuple(samples)


def _label_of(image: Path) -> Path:
    """Ultralytics' rule: the last folder called `images` becomes `labels`."""
    mark = f"{os.sep}images{os.sep}"
    text = str(image)
    return Path(f"{os.sep}labels{os.sep}".join(text.rsplit(mark, 1))).with_suffix(".txt")
