"""From a name or a path to a YOLO detection model with its weights in it."""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialized
from torch import nn

import hatdet.detection.ultralytics_setup  # noqa: F401 (before ultralytics)
from hatdet.core.assets import asset
from hatdet.core.atomic import write_bytes
from hatdet.core.errors import WeightsError
from hatdet.core.fetch import Progress, fetch, sha256_of
from hatdet.core.pickles import refused_name

__all__ = ["EMBEDDED", "TASKS", "EmbeddedDetector", "find_detector", "load_model", "released_file", "save_model"]

# What Ultralytics calls them, and what models for them find.
TASKS = {"detect": "boxes", "obb": "oriented boxes", "segment": "masks", "pose": "keypoints"}

# The release that the supported Ultralytics versions fetch their own models from.
RELEASED_DETECTOR = re.compile(r"yolo(v\d+|\d+)[a-z]6?u?(-seg|-pose(-p6)?|-obb)?\.pt")  # no -cls; no SAM, no RT-DETR
RELEASE = "https://github.com/ultralytics/assets/releases/download/v8.4.0/"


@dataclass(frozen=True)
class EmbeddedDetector:
    """The detector that ships: name, file under `pretrained/`, sha256 of the whole file, licence, what it is for."""

    name: str
    file: str
    sha256: str
    parameters: int
    licence: str
    note: str

    @property
    def path(self) -> Path:
        return asset("pretrained", self.file)


EMBEDDED = EmbeddedDetector(
    "yolo11n-upscaled",
    "yolo11n-upscaled.safetensors",
    "af58277545abadb0b03a0fa5a46c827388767ff1bbb7f67f6c6038684df3302f",
    2_624_080,
    "AGPL-3.0",
    "the 80 classes of COCO, in upscaled images and in plain ones",
)


def find_detector(name: str | Path | None, progress: Progress | None = None) -> Path:
    """The file that a detector's name or path stands for; None is the embedded one.

    The names of Ultralytics' released models (`yolo11s`, `yolov8n.pt`) are fetched once and then kept.

    Raises:
        WeightsError: no such file or name, a failed download, a damaged embedded file.
    """
    text = EMBEDDED.name if name is None else str(name)
    if text in (EMBEDDED.name, EMBEDDED.file):
        if sha256_of(EMBEDDED.path) != EMBEDDED.sha256:
            raise WeightsError(
                f"{EMBEDDED.path} is damaged: its sha256 is not {EMBEDDED.sha256[:12]}...; reinstall hatdet"
            )
        return EMBEDDED.path
    path = Path(text)
    if path.is_file():
        return path
    file = released_file(text)
    if file is not None:
        return fetch(file, [RELEASE + file], None, progress)
    raise WeightsError(
        f"weights {text} do not exist: expected a .pt or .safetensors file, {EMBEDDED.name}, "
        "or the name of an Ultralytics model such as yolo11s"
    )


def released_file(name: str) -> str | None:
    """The file of a model for one of the `TASKS` that Ultralytics has released under that name, or None."""
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    file = name if name.endswith(".pt") else f"{name}.pt"
    return file if file in GITHUB_ASSETS_NAMES and RELEASED_DETECTOR.fullmatch(file) else None


def load_model(path: Path, tasks: Collection[str] = TASKS, *, fuse: bool = True, trust: bool = False) -> nn.Module:
    """Load a detection model, in eval mode, float32, on the CPU, its parameters without gradients.

    A `.pt` checkpoint is unpickled into known classes only. A `.safetensors` file holds the model's YAML and its class
    names in its metadata (`model_yaml`, `names`), or has a YAML file of its own name beside it.

    Args:
        path: of the file.
        tasks: the `TASKS` that the model may be for; the one that it is for becomes its attribute `task`.
        fuse: batch norms into the convolutions, and away with what only training needs.
        trust: whether a `.pt` checkpoint may have any class and run any code.

    Raises:
        WeightsError: a file that is damaged, not a model, or a model for another task.
    """
    import hatdet.detection.attention  # noqa: F401 (models may hold our layers)

    suffix = path.suffix.lower()
    if suffix not in (".pt", ".safetensors"):
        raise WeightsError(f"{path} must end in .pt or .safetensors to be a detector's weights")
    model = _from_safetensors(path) if suffix == ".safetensors" else _from_checkpoint(path, trust)
    task = getattr(model, "task", None) or _task(model)
    if task not in tasks:
        finds = " or ".join(TASKS[known] for known in tasks)
        raise WeightsError(f"{path} is a model for the task {task!r}: expected a YOLO detection model ({finds})")
    if fuse:
        model = cast(nn.Module, cast(Any, model).fuse(verbose=False))
    cast(Any, model).task = task
    return model.eval().requires_grad_(False)


def save_model(model: nn.Module, path: Path) -> None:
    """Write a detection model as fp16 safetensors that say which network they are; `load_model` reads them.

    Raises:
        OptionsError: the place cannot be written.
    """
    known = cast(Any, model)
    state = {
        key: value.half().cpu().contiguous() for key, value in model.state_dict().items() if value.is_floating_point()
    }
    metadata = {"model_yaml": json.dumps(known.yaml), "names": json.dumps(known.names)}
    write_bytes(path, serialized(state, metadata=metadata))


def _task(model: nn.Module) -> str:
    from ultralytics.nn.tasks import guess_model_task

    return str(guess_model_task(model))


@contextmanager
def _paths_as_they_are() -> Iterator[None]:
    """Ultralytics "repairs" names (yolov5n.pt to yolov5nu.pt, no apostrophes) and then downloads what is not there."""
    from ultralytics.utils import downloads

    real = downloads.attempt_download_asset
    downloads.attempt_download_asset = lambda file, *_, **__: str(file)
    try:
        yield
    finally:
        downloads.attempt_download_asset = real


@contextmanager
def _no_code_in_models() -> Iterator[None]:
    """Ultralytics evaluates the activation that a model file names, unless its restricted mode was on when it came."""
    from ultralytics.nn import tasks

    before = tasks.SAFE_LOAD
    tasks.SAFE_LOAD = before or _restricted()
    try:
        yield
    finally:
        tasks.SAFE_LOAD = before


def _restricted() -> bool:
    """The environment is asked and not Ultralytics, which may have been imported before we could set it."""
    return os.environ.get("ULTRALYTICS_SAFE_LOAD", "1").lower() not in ("", "0", "false")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _from_checkpoint(path: Path, trust: bool) -> nn.Module:
    from ultralytics.nn.tasks import torch_safe_load

    restricted = not trust and _restricted()
    try:
        with _paths_as_they_are(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's remarks on odd pickles
            checkpoint, _ = torch_safe_load(path, safe_only=restricted)
    except Exception as error:  # an unpickler that is fed with other bytes raises anything, trusted code too
        wanted = refused_name(path, error) if restricted else None
        if wanted is not None:
            raise WeightsError(
                f"{path} asks for {wanted}, which is neither Ultralytics' nor torch's and could run code: "
                "refused, unless --trust says that you trust the file"
            ) from error
        if not restricted and not isinstance(error, TypeError | EOFError | OSError | pickle.UnpicklingError):
            raise WeightsError(f"{path} cannot be loaded: {type(error).__name__}: {_one_line(error)}") from error
        raise WeightsError(
            f"{path} is not a checkpoint that can be loaded: it is empty, cut off or of another kind"
        ) from error
    model = (checkpoint.get("ema") or checkpoint.get("model")) if isinstance(checkpoint, Mapping) else None
    if not isinstance(model, nn.Module) or not hasattr(model, "names"):
        raise WeightsError(f"{path} holds no Ultralytics model")
    model = model.float()
    for module in model.modules():
        if isinstance(module, nn.Upsample) and not hasattr(module, "recompute_scale_factor"):
            module.recompute_scale_factor = None  # checkpoints of old torch versions lack it
    return model


def _from_safetensors(path: Path) -> nn.Module:
    from ultralytics.nn import tasks

    kinds = {"obb": tasks.OBBModel, "segment": tasks.SegmentationModel, "pose": tasks.PoseModel}
    try:
        with safe_open(path, "pt") as file:
            state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 (not a dict)
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} cannot be read as safetensors: {error}") from error
    beside = path.with_suffix(".yaml")
    if "model_yaml" not in metadata and not beside.is_file():
        raise WeightsError(f"{path} does not say which model it is: expected model_yaml in its metadata, or {beside}")
    try:
        text = metadata.get("model_yaml") or beside.read_text()
        description = yaml.safe_load(text)  # JSON is YAML
        kind = kinds.get(tasks.guess_model_task(description), tasks.DetectionModel)
        with _no_code_in_models():
            model = kind(description, ch=int(description.get("channels", 3)), verbose=False)
        missing, unexpected = model.load_state_dict(state, strict=False)
        names = json.loads(metadata["names"]) if "names" in metadata else description.get("names")
        if names is not None:
            pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
            model.names = {int(key): str(value) for key, value in pairs}
    except (
        KeyError,
        RuntimeError,
        TypeError,
        ValueError,
        IndexError,
        AttributeError,
        OSError,
        yaml.YAMLError,
    ) as error:
        raise WeightsError(f"{path} does not fit its model file: {_one_line(error)}") from error
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise WeightsError(f"{path} does not fit its model file: missing {missing[:3]}, unexpected {unexpected[:3]}")
    return cast(nn.Module, model)
