"""Detection data sets: which images and classes they have, and where the labels are.

As Ultralytics describes them (a YAML file, folders of images, YOLO labels beside them) or COCO (one JSON file).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hatdet.core.errors import InputError, OptionsError
from hatdet.imaging.sources import Source, below, find_sources

__all__ = [
    "LOCAL_FILES",
    "CocoBox",
    "DetectionData",
    "Files",
    "Problem",
    "Sample",
    "cropped_labels",
    "read_detection_data",
]

SPLITS = ("train", "val", "test")
WHOLE = "all"  # the split of a COCO file, whose name a YAML file cannot use


class Files:
    """Where the files of a data set are: on this machine. Paths name them, and need not be paths of this machine."""

    def read(self, path: Path) -> bytes:
        """The content of a file.

        Raises:
            OSError, OptionsError: it cannot be read.
        """
        return path.read_bytes()

    def has(self, path: Path) -> bool:
        """Whether there is such a file."""
        return path.is_file()

    def is_folder(self, path: Path) -> bool:
        """Whether there is such a folder, so far as that can be told before it is looked into."""
        return path.is_dir()

    def images(self, path: Path) -> list[Source]:
        """The images of a folder, or the one that is named. As of `find_sources`."""
        return find_sources([path])

    def under(self, folder: Path, name: str) -> Path:
        """What a name means that is read in a folder."""
        return folder / name

    def absolute(self, path: Path) -> Path:
        """The whole path."""
        return path.absolute()


LOCAL_FILES = Files()


@dataclass(frozen=True)
class Problem:
    """Something in the labels that is not as it should be, and that an evaluation goes on without.

    Attributes:
        kind: one word to count by: `missing`, `unreadable`, `malformed`, `class`, `duplicate`, `outside`, `clipped`,
            `size`, `image`.
        text: one line: the place, what was expected, what came, what was done.
    """

    kind: str
    text: str

    @property
    def left_out(self) -> bool:
        """Whether something that was labelled is not evaluated."""
        return self.kind in ("unreadable", "malformed", "class", "outside", "image")


@dataclass(frozen=True)
class CocoBox:
    """One annotation of a COCO file as it stands there, right or wrong: `read_labels` judges it.

    Attributes:
        annotation: its id.
        category: the id of its category.
        xywh: left, top, width, height in pixels of the whole image.
        crowd: whether it encloses many objects, none of which is to be found.
    """

    annotation: int | str
    category: object
    xywh: tuple[object, ...]
    crowd: bool


@dataclass(frozen=True)
class Sample:
    """One image and where its labels are.

    Attributes:
        image: the file.
        relative: below the split's folder.
        label: its YOLO labels, a file that need not exist: an image without one shows nothing. Of COCO data the file
            that `annotations` come from.
        annotations: of COCO data, instead of a label file.
        stated_wh: the size of the image as COCO data state it.
    """

    image: Path
    relative: Path
    label: Path
    annotations: tuple[CocoBox, ...] | None = None
    stated_wh: tuple[int, int] | None = None


@dataclass(frozen=True)
class DetectionData:
    """A data set: class names by id, samples by split (of COCO data: `all`), labels that belong to no sample."""

    names: Mapping[int, str]
    splits: Mapping[str, tuple[Sample, ...]]
    problems: tuple[Problem, ...] = ()

    def split(self, name: str) -> tuple[Sample, ...]:
        """The samples of a split by name; those of a COCO file whatever split is asked for.

        Raises:
            OptionsError: no such split.
        """
        samples = self.splits.get(WHOLE, self.splits.get(name))
        if samples is None:
            raise OptionsError(f"the data set has no split {name!r}: expected one of {', '.join(self.splits)}")
        return tuple(sorted(samples, key=lambda sample: (sample.relative.as_posix(), str(sample.image))))


def read_detection_data(path: Path, images: Path | None = None, files: Files = LOCAL_FILES) -> DetectionData:
    """Read an Ultralytics data file (`path`, `train`, `val`, `test`, `names`) or COCO's `.json`, and list its images.

    A relative `path` is below the file's own folder. A split is a folder, several, or a text file of image paths.

    Args:
        path: the data file.
        images: the folder of a COCO file's images. By default it is sought where COCO's own layout has it: beside the
            file, or for `annotations/instances_val2017.json` in `images/val2017`, `val2017` or `images`.
        files: where all of them are.

    Raises:
        OptionsError: no such file or folder, neither YAML nor COCO, no class names, no split, ids that stand there
            twice.
    """
    if path.suffix.lower() == ".json":
        return _read_coco(path, images, files)
    if images is not None:
        raise OptionsError(
            f"{path} says itself where its images are: expected a COCO file (.json) with a folder {images}"
        )
    try:
        content = yaml.safe_load(files.read(path).decode())
    except OSError as error:
        raise OptionsError(f"{path} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionsError(f"{path} is not YAML: {' '.join(str(error).split())[:160]}") from error
    if not isinstance(content, dict) or not isinstance(content.get("names"), list | dict):
        raise OptionsError(f"{path} must name the classes (names:) and the folders of the images (train:, val:)")
    names = content["names"]
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    try:
        named = {int(key): str(value) for key, value in pairs}
    except (TypeError, ValueError) as error:
        raise OptionsError(
            f"{path} must name the classes by number (names: {{0: car}}), got {str(names)[:80]}"
        ) from error
    root = files.under(path.parent, str(content.get("path") or "."))
    splits = {split: _samples(content[split], root, files) for split in SPLITS if content.get(split)}
    if not splits:
        raise OptionsError(f"{path} names no images: expected at least one of {', '.join(SPLITS)}")
    return DetectionData(named, splits)


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


def _samples(split: Any, root: Path, files: Files) -> tuple[Sample, ...]:
    samples = []
    for entry in split if isinstance(split, list) else [split]:
        path = files.under(root, str(entry))
        if path.suffix == ".txt" and files.has(path):
            listed = [line.strip() for line in files.read(path).decode().splitlines() if line.strip()]
            images = [(files.under(path.parent, line), below(Path(Path(line).name))) for line in listed]
        else:
            images = [(source.path, source.relative) for source in files.images(path)]
        samples += [Sample(image, relative, _label_of(image, files)) for image, relative in images]
    return tuple(samples)


def _label_of(image: Path, files: Files) -> Path:
    """Ultralytics' rule: the last folder called `images` becomes `labels`. It may be above the current folder."""
    path = image if "images" in image.parts[:-1] else files.absolute(image)
    folders = list(path.parts[:-1])
    if "images" in folders:
        last = len(folders) - 1 - folders[::-1].index("images")
        folders[last] = "labels"
    return Path(*folders, f"{path.stem}.txt")  # also of a line that names no file, which then cannot be read


def _read_coco(path: Path, images: Path | None, files: Files) -> DetectionData:
    try:
        content = json.loads(files.read(path))
    except OSError as error:
        raise OptionsError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise OptionsError(f"{path} is not JSON: {' '.join(str(error).split())[:160]}") from error
    listed, annotated, named = (_entries(path, content, table) for table in ("images", "annotations", "categories"))
    for number, category in named.items():
        if not isinstance(number, int) or not isinstance(category.get("name"), str):
            raise OptionsError(f"{path}: expected categories with a number and a name, got {str(category)[:80]}")
    for number, image in listed.items():
        if not isinstance(image.get("file_name"), str) or not image["file_name"]:
            raise OptionsError(f"{path}: image {number!r} has no file_name")
    if not listed:
        raise OptionsError(f"{path} names no images")
    boxes: dict[int | str, list[CocoBox]] = {number: [] for number in listed}
    problems = []
    for number, annotation in annotated.items():
        image_id, xywh = annotation.get("image_id"), annotation.get("bbox")
        if not isinstance(image_id, int | str) or image_id not in boxes:
            text = f"{path}: annotation {number!r} is of image {image_id!r}, expected one that the file lists: left out"
            problems.append(Problem("image", text))
            continue
        # `ignore` is not looked at: COCO's own tools replace it by `iscrowd`.
        crowd = bool(annotation.get("iscrowd"))
        values = tuple(xywh) if isinstance(xywh, list) else (xywh,)
        boxes[image_id].append(CocoBox(number, annotation.get("category_id"), values, crowd))
    folder = _coco_images(path, images, [image["file_name"] for image in listed.values()], files)
    samples = []
    for number, image in listed.items():
        name = Path(image["file_name"])
        # Results are written under the relative name, so it must not lead out of their folder.
        relative = below(Path(name.name) if name.is_absolute() or ".." in name.parts else name)
        w, h = image.get("width"), image.get("height")
        stated = (w, h) if isinstance(w, int) and isinstance(h, int) else None
        place = files.under(folder, image["file_name"])
        samples.append(Sample(place, relative, path, tuple(boxes[number]), stated))
    names = {int(number): str(category["name"]) for number, category in named.items()}
    return DetectionData(names, {WHOLE: tuple(samples)}, tuple(problems))


def _entries(path: Path, content: Any, table: str) -> dict[int | str, dict[str, Any]]:
    """A table of a COCO file by id."""
    rows = content.get(table) if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise OptionsError(f"{path} is not COCO: expected lists of images, annotations and categories, got no {table}")
    entries: dict[int | str, dict[str, Any]] = {}
    for row in rows:
        number = row.get("id")
        if not isinstance(number, int | str):
            raise OptionsError(f"{path}: expected {table} with an id, got {str(row)[:80]}")
        if number in entries:
            raise OptionsError(f"{path}: expected each id once, got two {table} of id {number!r}")
        entries[number] = row
    return entries


def _coco_images(path: Path, images: Path | None, names: list[str], files: Files) -> Path:
    """The folder of a COCO file's images: the one that was named, or the first usual one that has the first of them."""
    if images is not None:
        if not any(files.has(files.under(images, name)) for name in names):
            raise OptionsError(f"{images} has none of the {len(names)} images of {path}: expected {names[0]}, ...")
        return images
    split = path.stem.rpartition("_")[2]  # of instances_val2017: val2017
    above = Path(os.path.normpath(path.parent / ".."))
    folders = (path.parent, above / "images" / split, above / split, above / "images")
    for folder in folders:
        if files.has(files.under(folder, names[0])):
            return folder
    tried = ", ".join(str(folder) for folder in folders)
    raise OptionsError(f"{names[0]} of {path} is in none of {tried}: name the folder of its images")
