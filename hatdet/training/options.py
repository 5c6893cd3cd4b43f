"""From an option file to the dictionary that BasicSR's builders take, with everything in it checked."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hatdet.core import assets
from hatdet.core.errors import OptionsError
from hatdet.sr.catalogue import CATALOGUE, named_record
from hatdet.training.checks import check
from hatdet.training.safe_yaml import parse_mapping, parse_value

__all__ = ["read_options"]

_FOLDERS = ("dataroot_gt", "dataroot_lq", "images")
_FILES = ("meta_info", "meta_info_file", "data", "degradation")
_FOLDER_LISTS = ("unlabelled",)
_DETECTORS = ("detectors", "witnesses")
_NETWORKS = ("pretrain_network_g", "pretrain_network_d")


def read_options(
    file: str | Path,
    *,
    train: bool,
    overrides: Sequence[str] = (),
    debug: bool = False,
    check_paths: bool = True,
) -> dict[str, Any]:
    """Read an option file into the dictionary that BasicSR's builders take. Nothing is made on disk.

    The result has the keys that the file gives, their values as the schema's types, and what BasicSR adds: `is_train`,
    `root_path`, `num_gpu` as a number, `manual_seed`, `phase` and `scale` of each data set, and the folders of
    the run below `root_path`. `option_file` is the file's absolute path. `dist`, `rank` and `world_size` are
    the runner's. The seed is 0 if the file gives none, so that a run can be repeated.

    Every relative path is taken from the root, wherever the program is started:

    * the root is the folder that holds `options/`, for a file somewhere in `options/`; else the file's own folder;
    * for a file that ships, given by its bare name, it is the current directory;
    * `path: root: DIR` in the file says otherwise (relative to the file's folder), and so does the override
      `path:root=DIR` (relative to the current directory).

    Args:
        file: a path, or the bare name of a file that ships, such as `train_HAT-XS_SRx4.yml`.
        train: whether it is to train; else it is to test.
        overrides: `section:key=value`, as BasicSR's `--force_yml` takes them; values are YAML lists, numbers or texts.
            A data set that is set to `~` is left out.
        debug: as BasicSR's `--debug`: the name begins with `debug_`, and everything happens every few steps.
        check_paths: whether everything that the file names must be there.

    Raises:
        OptionsError: the file cannot be read, or something in it is wrong: a line for each thing, which begins with
            the file's name and the key.
    """
    path, root = _located(file, train)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionsError(f"{file} cannot be read: {error}") from error
    options = parse_mapping(text, str(file))
    root = _chosen_root(options, path.parent, root)
    for entry in overrides:
        _override(options, entry)
    root = _chosen_root(options, Path.cwd(), root)
    if isinstance(options.get("datasets"), dict):
        options["datasets"] = {phase: data for phase, data in options["datasets"].items() if data is not None}
    complaints = [*_resolve_paths(options, root, check_paths)]
    options, wrong = check(options, train=train)
    if wrong or complaints:
        raise OptionsError("\n".join(f"{file}: {complaint}" for complaint in dict.fromkeys([*wrong, *complaints])))
    return _completed(options, path, root, train=train, debug=debug)


# ------------------------------------------------------------------------------------------ 1. where things are


def _located(file: str | Path, train: bool) -> tuple[Path, Path]:
    """The option file's absolute path, and the folder that its relative paths start from."""
    path = _absolute(Path(file).expanduser())
    if path.is_file():
        shipped = Path(assets.__file__).resolve().parent.parent / "_assets"
        if path.resolve().is_relative_to(shipped):
            return path, Path.cwd()
        holders = [folder.parent for folder in path.parents if folder.name == "options"]
        return path, holders[0] if holders else path.parent
    if Path(file).name != str(file) or path.is_dir():
        raise OptionsError(f"option file {path} is a folder" if path.is_dir() else f"option file {_absent(path)}")
    verb = "train" if train else "test"
    try:
        return assets.asset("options", verb, str(file)), Path.cwd()
    except FileNotFoundError:
        try:
            names = [each.name for each in assets.asset("options", verb).iterdir()]
        except FileNotFoundError:
            names = []
        near = difflib.get_close_matches(str(file), names, n=1)
        hint = f": did you mean {near[0]}?" if near else ""
        raise OptionsError(f"option file {path} is not there, and none of that name ships{hint}") from None


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 (links stay as they are)


def _chosen_root(options: dict[str, Any], base: Path, root: Path) -> Path:
    """Take `path: root` out of the options; what it says, relative to `base`, else the root so far."""
    section = options.get("path")
    chosen = section.pop("root", None) if isinstance(section, dict) else None
    return root if chosen is None else _absolute(base / Path(str(chosen)).expanduser())


def _override(options: dict[str, Any], entry: str) -> None:
    keys, equals, text = entry.partition("=")
    names = [key.strip() for key in keys.split(":")]
    if not equals or not all(names):
        raise OptionsError(f"--force_yml {entry}: expected section:key=value")
    section = options
    for depth, name in enumerate(names[:-1], 1):
        if section.get(name) is None:
            section[name] = {}
        if not isinstance(section[name], dict):
            raise OptionsError(f"--force_yml {entry}: {':'.join(names[:depth])} is {section[name]!r}, not a section")
        section = section[name]
    section[names[-1]] = parse_value(text.strip(), f"--force_yml {entry}")


def _resolve_paths(options: dict[str, Any], root: Path, check_paths: bool) -> Iterator[str]:
    """Make every path in the options absolute; say what is not there."""
    datasets = options.get("datasets")
    places = [(f"datasets:{phase}", data) for phase, data in datasets.items()] if isinstance(datasets, dict) else []
    for where, section in [*places, ("path", options.get("path"))]:
        for key in (*_FOLDERS, *_FILES, *_NETWORKS, "resume_state"):
            value = section.get(key) if isinstance(section, dict) else None
            if not isinstance(value, str):
                continue
            path = _absolute(root / Path(value).expanduser())
            if key in _NETWORKS and not path.suffix and len(Path(value).parts) == 1 and not path.exists():
                if check_paths and named_record(value) is None:
                    yield f"{where}:{key} {value} is no file in {root} and no name of weights{_near_weights(value)}"
                continue
            section[key] = str(path)
            if not check_paths:
                continue
            wanted, there = ("folder", path.is_dir()) if key in _FOLDERS else ("file", path.is_file())
            if path.exists() and not there:
                yield f"{where}:{key} {path} is not a {wanted}"
            elif not there:
                yield f"{where}:{key} {_absent(path)}"
        for key in _FOLDER_LISTS:
            listed = section.get(key) if isinstance(section, dict) else None
            if not isinstance(listed, list):
                continue
            section[key] = folders = [str(_absolute(root / Path(str(each)).expanduser())) for each in listed]
            if check_paths:
                yield from (f"{where}:{key} {_absent(Path(each))}" for each in folders if not Path(each).is_dir())
    yield from _resolve_detectors(options.get("detection"), root, check_paths)


def _resolve_detectors(section: Any, root: Path, check_paths: bool) -> Iterator[str]:
    """Make the paths of detectors absolute; names of released and embedded ones stay as they are."""
    for key in _DETECTORS:
        listed = section.get(key) if isinstance(section, dict) else None
        if not isinstance(listed, list):
            continue
        for number, value in enumerate(listed):
            path = _absolute(root / Path(str(value)).expanduser())
            if path.is_file():
                listed[number] = str(path)
            elif check_paths and len(Path(str(value)).parts) > 1:
                yield f"detection:{key} {_absent(path)}"


def _near_weights(name: str) -> str:
    near = difflib.get_close_matches(name, [record.name for record in CATALOGUE], n=1)
    return f": did you mean {near[0]}?" if near else ""


def _absent(path: Path) -> str:
    """Say that a path is not there, and what stands in its place."""
    missing = path
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    try:
        names = [each.name for each in missing.parent.iterdir()]
    except OSError:
        names = []
    near = difflib.get_close_matches(missing.name, names, n=1)
    return f"{path} is not there" + (f": did you mean {missing.with_name(near[0])}?" if near else "")


# ------------------------------------------------------------------------------------------ 2. what BasicSR adds


def _completed(options: dict[str, Any], file: Path, root: Path, *, train: bool, debug: bool) -> dict[str, Any]:
    """The options and what follows from them."""
    name = options["name"]
    if debug and not name.startswith("debug"):
        name = options["name"] = f"debug_{name}"
    options.update(is_train=train, root_path=str(root), option_file=str(file))
    options["manual_seed"] = options.get("manual_seed") or 0
    if options.get("num_gpu", "auto") == "auto":
        import torch

        options["num_gpu"] = torch.cuda.device_count()
    for phase, data in options["datasets"].items():
        data.update(phase=phase.split("_")[0], scale=options["scale"])
    paths = options["path"] = options.get("path") or {}
    run = root / ("experiments" if train else "results") / name
    paths.update(log=str(run), visualization=str(run / "visualization"))
    if train:
        folders = {key: str(run / key) for key in ("models", "training_states")}
        paths.update(experiments_root=str(run), **folders)
        if "debug" in name:
            options["logger"].update(print_freq=1, save_checkpoint_freq=8)
            if options.get("val"):
                options["val"]["val_freq"] = 8
    else:
        paths["results_root"] = str(run)
        options["val"] = {"save_img": True, **(options.get("val") or {})}
        options["val"].setdefault("suffix", None)
    if options.get("val"):
        options["val"].setdefault("save_img", False)
    return options
