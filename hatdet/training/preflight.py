"""Whether the data that an option file names can be trained on, found out before a run and not hours into it.

The files of each data set are listed and paired as BasicSR will do it, and every image is decoded.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hatdet.core.errors import HatdetError, InputError, OptionsError
from hatdet.imaging.lmdb_files import EncodedImage, LmdbReader, inspect_image, lmdb_keys
from hatdet.imaging.sources import find_sources
from hatdet.training.datasets import listed_names

__all__ = ["CheckedDataSet", "Complaint", "Pair", "check_data", "check_data_sets"]

# The types of data sets that are known here, and the folders that each reads.
FOLDERS = {
    "PairedImageDataset": ("dataroot_gt", "dataroot_lq"),
    "RealESRGANPairedDataset": ("dataroot_gt", "dataroot_lq"),
    "ImageNetPairedDataset": ("dataroot_gt",),
    "RealESRGANDataset": ("dataroot_gt",),
    "SingleImageDataset": ("dataroot_lq",),
}
LABELLED = "DetectionPairedDataset"  # has no folders of its own: its images stand in a data file
# How many pairs are decoded ahead of the one whose result is taken: a bound on the memory of a large data set.
AHEAD = 256

# The names of the images of one item, one for each folder that the data set reads (GT first): below the folder, or
# keys of an LMDB.
Pair = tuple[str, ...]
# A wrapper around what is gone through, such as a progress bar: it yields every item once, in order.
Over = Callable[[Sequence[Pair]], Iterable[Pair]]


@dataclass(frozen=True)
class Complaint:
    """One thing that is wrong with one file.

    Attributes:
        phase: the data set's key in the option file: `train`, `val`, `val_2`.
        name: the data set's name.
        path: the file; in an LMDB `KEY in FOLDER`.
        problem: what is wrong, with what was expected and what came; reads on from the path.
    """

    phase: str
    name: str
    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.phase} {self.name}: {self.path} {self.problem}"


@dataclass(frozen=True)
class CheckedDataSet:
    """One data set: how many pairs it has (images, where it reads one folder only), and what is wrong with them."""

    phase: str
    name: str
    count: int
    paired: bool
    complaints: tuple[Complaint, ...]

    def __str__(self) -> str:
        what = ("pair" if self.paired else "image") + ("" if self.count == 1 else "s")
        return f"{self.phase} {self.name}: {self.count} {what}, {len(self.complaints)} wrong"


def check_data(options: Mapping[str, Any], over: Over | None = None, workers: int | None = None) -> list[Complaint]:
    """Everything that is wrong with the data sets of an option file, in the order of the sets and of their files.

    Found are: images without their other half, in both directions; GT that is not `scale` times LQ (outside training
    it may be up to scale - 1 pixels larger, which BasicSR crops); files that are missing, damaged or no images; grey
    images and those with alpha, which BasicSR turns into RGB without a word; images of pairs that are smaller than
    `gt_size`; empty folders; an LMDB that is not one. Every image is decoded, in threads, once for each time it is
    listed; pairing takes time in proportion to the number of files.

    Args:
        options: as `read_options` gives them; the section `datasets` is read, and nothing is changed.
        over: wraps the pairs of each data set while they are gone through; for a progress bar.
        workers: pairs that are decoded at a time; by default one a core.

    Raises:
        OptionsError: a data set of an unknown type, or without an option that it needs.
    """
    return [complaint for checked in check_data_sets(options, over, workers) for complaint in checked.complaints]


def check_data_sets(
    options: Mapping[str, Any], over: Over | None = None, workers: int | None = None
) -> Iterator[CheckedDataSet]:
    """As `check_data`, a data set at a time; options are looked at before the first image of the first.

    Raises:
        OptionsError: a data set of an unknown type, or without an option that it needs.
    """
    sections = options.get("datasets")
    if not isinstance(sections, Mapping) or not sections:
        raise OptionsError("there is nothing to check: the options name no datasets")
    sets = [
        _LabelledSet(phase, section, options.get("scale"))
        if isinstance(section, Mapping) and section.get("type") == LABELLED
        else _DataSet(phase, section, options.get("scale"))
        for phase, section in sections.items()
    ]
    return (each.checked(over, workers) for each in sets)


class _LabelledSet:
    """Images with boxes, which are no pairs of files.

    Raises:
        OptionsError: an option that is missing or cannot be.
    """

    def __init__(self, phase: str, section: Mapping[str, Any], scale: int | None) -> None:
        self.phase, self.name = phase, str(section.get("name", ""))
        self.section = {"phase": phase.split("_", 1)[0], "scale": scale, **section}

    def checked(self, over: Over | None, workers: int | None) -> CheckedDataSet:
        from hatdet.training.detection_preflight import labelled_problems

        with _quiet():
            count, problems = labelled_problems(self.section, over, workers)
        complaints = tuple(Complaint(self.phase, self.name, path, problem) for path, problem in problems)
        return CheckedDataSet(self.phase, self.name, count, False, complaints)


def _checked(data_set: _DataSet, over: Over | None, workers: int | None) -> CheckedDataSet:
    complaints: list[Complaint] = []

    def complain(path: object, problem: str) -> None:
        complaints.append(Complaint(data_set.phase, data_set.name, str(path), problem))

    with _quiet(), ExitStack() as opened, ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        pairs: list[Pair] = []
        stores: list[_Files | _Lmdb] = []
        try:
            stores = [_open(root, data_set.lmdb, opened) for root in data_set.roots]
            pairs = data_set.pairs(stores, complain)
        except _WholeSetError as error:
            complain(error.path, error.problem)
        try:
            jobs = (pool.submit(data_set.check, stores, pair) for pair in (over(pairs) if over else pairs))
            for found in _in_order(jobs):
                for path, problem in found:
                    complain(path, problem)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return CheckedDataSet(data_set.phase, data_set.name, len(pairs), len(data_set.roots) == 2, tuple(complaints))


def _in_order(jobs: Iterable[Future[Found]]) -> Iterator[Found]:
    """The results, with at most so many jobs started ahead."""
    waiting: deque[Future[Found]] = deque()
    for job in jobs:
        waiting.append(job)
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def _quiet() -> Iterator[None]:
    """Around all threads: warning filters are the process's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd but readable files
        yield


# -------------------------------------------------------------------------------------- one data set

# What is wrong with some files: path, problem.
Found = list[tuple[str, str]]
Complain = Callable[[object, str], None]


class _WholeSetError(Exception):
    """A folder or a list is not what it should be: nothing of the data set can be read."""

    def __init__(self, path: object, problem: str) -> None:
        super().__init__(path, problem)
        self.path, self.problem = path, problem


class _DataSet:
    """One data set of an option file, its options checked.

    Raises:
        OptionsError: a type that is not known, an option that is missing or cannot be.
    """

    def __init__(self, phase: str, section: object, scale: int | None) -> None:
        if not isinstance(section, Mapping):
            raise OptionsError(f"datasets:{phase} must be a mapping of options, got {section!r}")
        self.phase = phase
        self.name = str(section.get("name", ""))
        self.section = section
        self.type = str(self.needed("type"))
        if self.type not in FOLDERS:
            known = ", ".join([*FOLDERS, LABELLED])
            raise OptionsError(f"datasets:{phase} of type {self.type} cannot be checked: expected one of {known}")
        self.roots = [Path(self.needed(key)) for key in FOLDERS[self.type]]
        backend = self.needed("io_backend")
        kind = backend.get("type") if isinstance(backend, Mapping) else backend
        if kind not in ("disk", "lmdb"):
            raise OptionsError(f"datasets:{phase}:io_backend must have type disk or lmdb, got {kind!r}")
        self.lmdb = kind == "lmdb"
        key = "meta_info" if self.type.startswith("RealESRGAN") else "meta_info_file"
        if self.type == "RealESRGANDataset" and not self.lmdb:
            self.needed(key)
        self.listing = None if self.lmdb or section.get(key) is None else Path(section[key])
        self.template = str(section.get("filename_tmpl") or "{}")
        try:
            self.template.format("")
        except (IndexError, KeyError, ValueError) as error:
            raise OptionsError(
                f"datasets:{phase}:filename_tmpl must be such as '{{}}x4', got {self.template!r}"
            ) from error
        self.train = section.get("phase", phase.split("_", 1)[0]) == "train"
        self.scale = (
            0 if self.type == "SingleImageDataset" else int(section.get("scale") or scale or self.needed("scale"))
        )
        self.gt_size = int(self.needed("gt_size")) if self.train and len(self.roots) == 2 else 0
        if self.scale and self.gt_size % self.scale:
            raise OptionsError(f"datasets:{phase}:gt_size must be a multiple of scale {self.scale}, got {self.gt_size}")

    def checked(self, over: Over | None, workers: int | None) -> CheckedDataSet:
        """The data set, gone through."""
        return _checked(self, over, workers)

    def needed(self, key: str) -> Any:
        """An option that the data set cannot do without."""
        if self.section.get(key) is None:
            kind = self.section.get("type", "every data set")
            raise OptionsError(f"datasets:{self.phase}:{key} is missing: {kind} needs it")
        return self.section[key]

    def pairs(self, stores: Sequence[_Files | _Lmdb], complain: Complain) -> list[Pair]:
        """The images as BasicSR will pair them, and a complaint for each that it cannot."""
        if self.listing is not None:
            return self.listed(self.listing, complain)
        if self.type == "ImageNetPairedDataset" and not self.lmdb:
            try:
                return [(source.relative.as_posix(),) for source in find_sources(self.roots)]
            except OptionsError as error:
                raise _WholeSetError(self.roots[0], _without(self.roots[0], error)) from error
        names = [store.names() for store in stores]
        if len(stores) == 1:
            return [(name,) for name in names[0]]
        gt, lq = stores
        known = set(names[1])
        partners = [name if self.lmdb else self.lq_name(name) for name in names[0]]
        for name, partner in zip(names[0], partners, strict=True):
            if partner not in known:
                complain(gt.shown(name), f"has no LQ: expected {lq.shown(partner)}")
        for name in sorted(known.difference(partners)):
            complain(lq.shown(name), f"has no GT in {gt.root}")
        return [pair for pair in zip(names[0], partners, strict=True) if pair[1] in known]

    def listed(self, listing: Path, complain: Complain) -> list[Pair]:
        """The pairs that a `meta_info` file names, read as BasicSR reads it; none is looked for on disk here."""
        try:
            names = listed_names(listing)
            lines = listing.read_text(encoding="utf-8").splitlines()
        except OptionsError as error:
            raise _WholeSetError(listing, _without(listing, error)) from error
        if not names:
            raise _WholeSetError(listing, "lists no images")
        if self.type == "ImageNetPairedDataset":
            return [(name,) for name in names]
        pairs: list[Pair] = []
        for number, line in enumerate(lines, 1):
            first, *rest = line.strip().split(" ")
            if not first:
                complain(f"{listing}:{number}", "is blank: BasicSR would take it for an image")
            elif self.type == "RealESRGANPairedDataset":
                parts = line.strip().split(", ")
                if len(parts) == 2:
                    pairs.append((parts[0], parts[1]))
                else:
                    complain(f"{listing}:{number}", f"must be 'GT, LQ', got {line.strip()!r}")
            elif rest and not rest[0].startswith("("):
                complain(
                    f"{listing}:{number}", f"names an image with a space in its name, which BasicSR reads as {first}"
                )
            else:
                pairs.append((first, self.lq_name(first)) if len(self.roots) == 2 else (first,))
        return pairs

    def lq_name(self, gt_name: str) -> str:
        """As BasicSR names it: the template around the stem, GT's suffix, and no folders."""
        path = Path(gt_name)
        return self.template.format(path.stem) + path.suffix

    def check(self, stores: Sequence[_Files | _Lmdb], pair: Pair) -> Found:
        """Read the images of one pair, and say what is wrong with them."""
        found: Found = []
        images: list[EncodedImage] = []
        for store, name in zip(stores, pair, strict=True):
            shown = store.shown(name)
            try:
                image = inspect_image(store.read(name), shown)
            except InputError as error:
                found.append((shown, _without(shown, error) + self.left_out(pair, shown)))
                continue
            images.append(image)
            if image.kind != "RGB":
                channels = "1 channel" if image.channels == 1 else f"{image.channels} channels"
                found.append((shown, f"has {channels} ({image.kind}): expected 3 (RGB)"))
        if len(images) == len(stores):
            problem = self.sizes(images, stores[-1].shown(pair[-1]))
            if problem:
                found.append((stores[0].shown(pair[0]), problem))
        return found

    def left_out(self, pair: Pair, shown: str) -> str:
        """Why LQ of a list with folders in its names is not found, where this is why; else empty."""
        if self.listing is None or self.type != "PairedImageDataset" or shown != str(self.roots[1] / pair[1]):
            return ""
        there = self.roots[1] / Path(pair[0]).parent / pair[1]
        if Path(shown).exists() or not there.exists():
            return ""
        return f", but {there} is: BasicSR leaves out the folders in a list's names (an LMDB keeps them)"

    def sizes(self, images: Sequence[EncodedImage], lq_shown: str) -> str:
        """What is wrong with the sizes of GT, and of LQ where there is one; empty if nothing is."""
        gt, scale = images[0], self.scale
        size = f"({gt.width}x{gt.height})"
        if len(images) == 1:
            small = min(gt.height, gt.width) < scale
            return f"{size} is too small for scale {scale}" if small else ""
        lq = images[1]
        spare = (gt.height - lq.height * scale, gt.width - lq.width * scale)
        # Outside training this one crops GT to what LQ was made of.
        cropped = self.type == "PairedImageDataset" and not self.train
        if not all(0 <= side < (scale if cropped else 1) for side in spare):
            expected = f"{lq.width * scale}x{lq.height * scale}"
            return f"{size} is not {scale} times {lq_shown} ({lq.width}x{lq.height}): expected {expected}"
        if min(gt.height, gt.width) < self.gt_size:
            return f"{size} is smaller than gt_size {self.gt_size}"
        return ""


# ------------------------------------------------------------------------------- where images are kept


class _Files:
    """A folder, as BasicSR reads it: the files in it that are not hidden, and none below."""

    def __init__(self, root: Path) -> None:
        self.root = root
        if not root.is_dir():
            raise _WholeSetError(root, "is not a folder" if root.exists() else "is not there")

    def names(self) -> list[str]:
        """Names of the files, sorted."""
        try:
            with os.scandir(self.root) as entries:
                found = [(entry.name, entry.is_file()) for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            raise _WholeSetError(self.root, f"cannot be read: {error.strerror or error}") from error
        names = sorted(name for name, is_file in found if is_file)
        if not names:
            below = ", and BasicSR does not look into the folders in it" if found else ""
            raise _WholeSetError(self.root, f"contains no images{below}")
        return names

    def shown(self, name: str) -> str:
        return str(self.root / name)

    def read(self, name: str) -> bytes:
        path = self.root / name
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise InputError(f"{path} is not there") from error
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


class _Lmdb:
    """An LMDB of images."""

    def __init__(self, root: Path, opened: ExitStack) -> None:
        self.root = root
        if root.suffix != ".lmdb":
            raise _WholeSetError(root, "must have a name that ends with .lmdb for io_backend lmdb")
        try:
            self.keys = lmdb_keys(root)
            self.reader = opened.enter_context(LmdbReader(root))
        except InputError as error:
            raise _WholeSetError(root, _without(root, error)) from error

    def names(self) -> list[str]:
        """Keys in the order of `meta_info.txt`."""
        if not self.keys:
            raise _WholeSetError(self.root, "contains no images")
        return self.keys

    def shown(self, name: str) -> str:
        return f"{name} in {self.root}"

    def read(self, name: str) -> bytes:
        try:
            return self.reader.read(name)
        except InputError as error:
            raise InputError(f"{self.shown(name)} is listed in meta_info.txt and not there") from error


def _open(root: Path, lmdb: bool, opened: ExitStack) -> _Files | _Lmdb:
    return _Lmdb(root, opened) if lmdb else _Files(root)


def _without(path: object, error: HatdetError) -> str:
    """The message without the path that it begins with."""
    return str(error).removeprefix(f"{path} ")
