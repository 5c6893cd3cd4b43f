"""Each model file that ships learns eight pictures by heart, as its plain sibling does; its checkpoint is a usual one.

Training, and whatever follows from it, goes the way of a user: the command line, and a process with nothing but
Ultralytics imported.
"""

from __future__ import annotations

import copy
import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hatdet.detection.attention  # noqa: F401 (before ultralytics)
from hatdet.detection.attention.layer import AttentionLayer
from tests.detection.attention.contract import onnx_outputs
from tests.detection.attention.synthetic import SIZE, write_data_set
from tests.helpers import relative_difference

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

WITH_ATTENTION = {
    "yolo11n-halo.yaml": "HaloAttention",
    "yolov8n-dat.yaml": "DAttention",
    "yolov5n-clo.yaml": "EfficientAttention",
    "yolov5n-attnconv.yaml": "AttnConv",
    "yolov10n-hat.yaml": "HATBlock",
}
PLAIN = ("yolo11n.yaml", "yolov8n.yaml", "yolov5n.yaml", "yolov10n.yaml")

# Two pictures a step: the running statistics of 16 layers and more need the steps, not the epochs.
QUICK = {
    "imgsz": 128,
    "batch": 2,
    "nbs": 2,
    "workers": 0,
    "device": "cpu",
    "amp": False,
    "plots": False,
    "verbose": False,
}
STEADY = {"optimizer": "AdamW", "lrf": 0.01, "warmup_epochs": 0, "patience": 0, "close_mosaic": 0}
UNCHANGED = dict.fromkeys(("mosaic", "hsv_h", "hsv_s", "hsv_v", "fliplr", "translate", "scale", "erasing"), 0)
HOW = {**QUICK, **STEADY, **UNCHANGED}

# A process that knows of Ultralytics alone. What it was given stands in a JSON file, what it found goes into another.
FRESH = """
import json, sys
from pathlib import Path
import torch
from ultralytics import YOLO

given = json.loads(Path("given.json").read_text())
found = {"hatdet before": any(name.split(".")[0] == "hatdet" for name in sys.modules)}
checkpoint, data = given["checkpoint"], given["data"]
where = {"data": data, "project": str(Path("runs").absolute())}

predict = dict(imgsz=128, device="cpu", verbose=False)
boxes = [result.boxes.data for result in YOLO(checkpoint).predict(given["pictures"], **predict)]
expected = torch.load("boxes.pt")
found["same boxes"] = [torch.equal(a, b) for a, b in zip(boxes, expected, strict=True)]

shapes = []
model = YOLO(checkpoint)
model.add_callback("on_val_end", lambda v: shapes.extend(v.dataloader.dataset.batch_shapes.tolist()))
quick = dict(imgsz=128, batch=2, workers=0, device="cpu", plots=False, verbose=False)
found["validated"] = model.val(**where, **quick, rect=True).box.map50
found["shapes"] = shapes

class Interrupted(Exception):
    pass

def interrupt(trainer):
    raise Interrupted

def steps(trainer):
    return sorted({int(state["step"]) for state in trainer.optimizer.state.values()})

def attention(model):
    (layer,) = (m for m in model.modules() if type(m).__name__ == given["layer"])
    return torch.cat([p.detach().flatten() for p in layer.parameters()]).float()

model = YOLO(checkpoint)
before = attention(model.model)
model.add_callback("on_model_save", interrupt)
try:
    model.train(**where, **given["how"], lr0=2e-4, epochs=3, name="on")
except Interrupted:
    found["interrupted"] = True
last = model.trainer.last

def note_start(trainer):
    found["resumed"] = [trainer.start_epoch, steps(trainer)]

model = YOLO(last)
model.add_callback("on_train_start", note_start)
found["trained on"] = model.train(resume=True).box.map50
found["in the end"] = [model.trainer.epoch, steps(model.trainer)]
found["folder"] = str(model.trainer.save_dir)
found["attention moved"] = (attention(YOLO(last).model) - before).abs().max().item()
Path("found.json").write_text(json.dumps(found))
"""


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Ultralytics sets the number of threads for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data_set(tmp_path / "data")


def python(folder: Path, *arguments: str, **environment: str) -> None:
    """Run Python in that folder, with the settings of a user who has none yet."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[3]),
            "YOLO_CONFIG_DIR": str(folder),
            "YOLO_OFFLINE": "1",
            "YOLO_AUTOINSTALL": "false",
            "OMP_NUM_THREADS": "1",
            **environment,
        },
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def yolo(folder: Path, mode: str, **arguments: Any) -> None:
    python(folder, "-m", "hatdet", "yolo", mode, *(f"{key}={value}" for key, value in arguments.items()))


def train(name: str, data: Path, epochs: int = 60) -> tuple[Path, float]:
    """The checkpoint of a model trained from scratch, and what Ultralytics' validator says of it, mAP50."""
    folder = data.parents[1]
    only_the_end = {"val": False, "save": False}
    where = {"data": data, "project": folder / "runs", "name": "scratch"}
    yolo(folder, "train", model=name, **where, epochs=epochs, lr0=0.002, pretrained=False, **only_the_end, **HOW)
    run = folder / "runs" / "scratch"
    return run / "weights" / "best.pt", float(results(run)[-1]["metrics/mAP50(B)"])


def results(run: Path) -> list[dict[str, str]]:
    with (run / "results.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def load(checkpoint: Path) -> Any:
    """The network of a checkpoint, as it is exported."""
    from ultralytics import YOLO

    model = YOLO(checkpoint).model.float().eval()
    model.end2end = False  # YOLOv10 is exported with its head of many boxes an object
    return model


def attention_of(model: nn.Module) -> AttentionLayer:
    (layer,) = (module for module in model.modules() if isinstance(module, AttentionLayer))
    return layer


def zeroed(module: nn.Module) -> nn.Module:
    """A copy whose attention does nothing."""
    module = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in attention_of(module).parameters():
            parameter.zero_()
    return module


def pictures(data: Path) -> list[Path]:
    return sorted((data.parent / "images").iterdir())


def pixels(data: Path, h: int, w: int) -> Tensor:
    """The pictures of the data set at that size."""
    read = np.stack([cv2.imread(str(path))[..., ::-1] for path in pictures(data)])
    batch = torch.from_numpy(read).permute(0, 3, 1, 2).float() / 255
    return F.interpolate(batch, (h, w), mode="bilinear", antialias=True)


def off_scale(found: Tensor, expected: Tensor) -> float:
    """The largest difference in units of the largest value: of the boxes or of the classes, whichever is worse."""
    assert found.shape == expected.shape
    pairs = ((found[:, :4], expected[:, :4]), (found[:, 4:], expected[:, 4:]))
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_model_learns_the_pictures(name, data):
    assert train(name, data)[1] > 0.9


def test_what_has_hardly_been_trained_does_not_know_the_pictures(data):
    assert train("yolov5n.yaml", data, epochs=2)[1] < 0.1


@pytest.mark.parametrize("name", WITH_ATTENTION)
def test_a_model_with_attention_learns_the_pictures_and_its_checkpoint_is_a_usual_one(name, data, tmp_path):
    checkpoint, score = train(name, data)
    assert score > 0.9
    assert type(attention_of(load(checkpoint))).__name__ == WITH_ATTENTION[name]
    check_a_process_with_ultralytics_alone(WITH_ATTENTION[name], checkpoint, score, data, tmp_path)
    check_onnx_of_the_detector(checkpoint, data, tmp_path)
    check_onnx_of_the_attention(checkpoint, data)


def check_a_process_with_ultralytics_alone(
    layer: str, checkpoint: Path, score: float, data: Path, folder: Path
) -> None:
    """It predicts the same boxes, validates rectangular batches, trains on, is interrupted, and resumes."""
    from ultralytics import YOLO

    paths = [str(path) for path in pictures(data)]
    detections = YOLO(checkpoint).predict(paths, imgsz=128, device="cpu", verbose=False)
    assert all(len(result.boxes) for result in detections)
    torch.save([result.boxes.data for result in detections], folder / "boxes.pt")
    given = {"checkpoint": str(checkpoint), "data": str(data), "pictures": paths, "layer": layer, "how": HOW}
    (folder / "given.json").write_text(json.dumps(given))
    python(folder, "-c", FRESH, ULTRALYTICS_SAFE_LOAD="0")
    found = json.loads((folder / "found.json").read_text())

    assert not found["hatdet before"]
    assert found["same boxes"] == [True] * len(paths)
    assert found["shapes"]
    assert all(h != w for h, w in found["shapes"])
    assert found["validated"] > 0.8
    assert abs(found["validated"] - score) < 0.1
    # Four steps an epoch: resuming continues the first epoch's optimizer, and ends with the third.
    assert found["interrupted"]
    assert found["resumed"] == [1, [4]]
    assert found["in the end"] == [2, [12]]
    assert [row["epoch"] for row in results(Path(found["folder"]))] == ["1", "2", "3"]
    assert found["trained on"] > 0.8
    assert found["attention moved"] > 1e-5


def check_onnx_of_the_detector(checkpoint: Path, data: Path, folder: Path) -> None:
    import onnxruntime

    yolo(folder, "export", model=checkpoint, format="onnx", dynamic=True, simplify=False, imgsz=64, device="cpu")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = str(checkpoint.with_suffix(".onnx"))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    model = load(checkpoint)
    for size in (SIZE, (160, 96)):
        x = pixels(data, *size)
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            assert off_scale(torch.from_numpy(y), model(x)[0]) < 1e-3
            assert off_scale(torch.from_numpy(y), zeroed(model)(x)[0]) > 1e-2


def check_onnx_of_the_attention(checkpoint: Path, data: Path) -> None:
    """The detector's output says little of one layer: here it is alone, on the maps that pictures give."""
    model = load(checkpoint)
    layer = attention_of(model)
    maps: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0].clone()))
    with torch.no_grad():
        for size in ((64, 64), SIZE, (416, 352)):
            model(pixels(data, *size)[:3])
        hook.remove()
        traced_at, *inputs = maps
        assert [tuple(x.shape[2:]) for x in maps] == [(2, 2), (3, 4), (13, 11)]
        for x, y in zip(inputs, onnx_outputs(layer, traced_at[:2], inputs, dynamic=True), strict=True):
            assert relative_difference(torch.from_numpy(y), layer(x)) < 1e-5
            assert relative_difference(zeroed(layer)(x), torch.from_numpy(y)) > 0.1
