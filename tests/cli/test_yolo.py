"""`hatdet yolo`: Ultralytics' grammar with our layers and model files, and errors that are one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from hatdet.detection import yolo_command
from hatdet.detection.yolo_command import run_yolo_command, short_message
from tests.cli.test_cli import error_lines, hatdet
from tests.detection.attention.synthetic import write_data_set

SHORT = ("epochs=1", "imgsz=64", "batch=4", "device=cpu", "workers=0", "plots=False", "val=False", "pretrained=False")


def yolo(folder: Path, *words: object, **environment: str) -> str:
    """The messages of `hatdet yolo`, typed in that folder by somebody with a home of their own."""
    # Ultralytics writes elsewhere when it knows that it is tested.
    inherited = {
        key: value for key, value in os.environ.items() if not key.startswith(("YOLO_", "ULTRALYTICS_", "PYTEST_"))
    }
    home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config"), "HATDET_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "hatdet", "yolo", *map(str, words)],
        cwd=folder,
        env={**inherited, **home, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_training_with_a_model_file_that_ships_from_any_folder(tmp_path):
    """Also from one whose name looks like a model with a scale; then its checkpoint, through the other modes."""
    folder = tmp_path / "v3n"
    data = write_data_set(folder / "data", images=4)
    said = yolo(folder, "train", "model=yolo11n-halo.yaml", f"data={data}", *SHORT, f"project={folder}/runs")
    assert "hatdet.detection.attention.halo.HaloAttention" in said
    assert "YOLO11n-halo summary" in said
    last = folder / "runs/train/weights/last.pt"
    assert last.is_file()
    # Nothing of it is kept under the settings of hatdet's other verbs, and nothing went outside.
    assert (folder / "config" / "Ultralytics" / "settings.json").is_file()

    said = yolo(
        folder,
        "train",
        "model=yolo11n-halo.yaml",
        f"data={data}",
        *SHORT[:-1],
        f"pretrained={last}",
        f"project={folder}/runs",
    )
    assert "transferred 505 of 505 tensors from pretrained weights" in said
    said = yolo(
        folder,
        "train",
        "model=yolo11n.yaml",
        f"data={data}",
        *SHORT[:-1],
        f"pretrained={last}",
        f"project={folder}/runs",
    )
    assert "transferred 499 of 499 tensors from pretrained weights" in said  # past the row that only the source has

    said = yolo(folder, "export", f"model={last}", "format=torchscript", "imgsz=64")
    assert last.with_suffix(".torchscript").is_file()
    said = yolo(
        folder, "predict", f"model={last.with_suffix('.torchscript')}", f"source={folder / 'data/images'}", "imgsz=64"
    )
    assert "4/4" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "model=yolo11n-hallo.yaml"), r"no model file yolo11n-hallo.yaml: did you mean yolo11n-halo.yaml"),
        (
            ("trian", "model=a.pt"),
            "'trian' is not a valid YOLO argument. Similar arguments are i.e. ['train', 'track'].",
        ),
        (("val", "model=missing.pt"), "missing.pt"),
        (("val", "modle=yolo11n.yaml"), "'modle' is not a valid YOLO argument"),
        (("train", "task=nothing", "model=yolo11n-halo.yaml"), "Invalid 'task=nothing'"),
    ],
)
def test_errors_are_one_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = hatdet("yolo", *words)
    assert result.exit_code == 2
    assert len(error_lines(result)) == 1
    assert message in error_lines(result)[0]
    assert "\x1b" not in error_lines(result)[0]
    assert not list(tmp_path.iterdir())


def test_a_broken_row_is_explained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    head = [[[-1], 1, "Detect", ["nc"]]]
    rows = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "HaloAttention", [2, 1]]]
    Path("yolo11-mine.yaml").write_text(yaml.safe_dump({"nc": 2, "backbone": rows, "head": head}))
    result = hatdet("yolo", "train", "model=yolo11-mine.yaml", "data=none.yaml")
    assert result.exit_code == 2
    assert "HaloAttention was built for 2 channels and got 16" in error_lines(result)[0]


def test_messages_lose_colours_and_the_help_text():
    from ultralytics.cfg import CLI_HELP_MSG

    assert short_message(ValueError(f"\x1b[1mwrong\x1b[0m\n  word.\n{CLI_HELP_MSG}")) == "wrong word."
    assert short_message(KeyError()) == "KeyError"


def test_other_words_go_to_ultralytics_as_they_are(monkeypatch):
    import ultralytics
    from ultralytics import cfg

    seen = []
    stock = ultralytics.YOLO
    monkeypatch.setattr(cfg, "entrypoint", lambda: seen.append((cfg.ARGV, ultralytics.YOLO is stock)))
    before = cfg.ARGV
    run_yolo_command(["predict", "model", "=", "yolo11n.pt", "source=a b.png"])
    assert seen == [(["yolo", "predict", "model=yolo11n.pt", "source=a b.png"], False)]
    assert cfg.ARGV is before
    assert ultralytics.YOLO is stock


@pytest.mark.parametrize("task", ["detect", "segment", "pose", "obb"])
def test_every_task_trains_with_a_trainer_of_ours(task, monkeypatch):
    import ultralytics

    with yolo_command._our_trainers():
        table = ultralytics.YOLO("yolo11n.yaml").task_map
    assert table[task]["trainer"].__module__ == "hatdet.detection.trainers"
    assert issubclass(table[task]["trainer"], ultralytics.YOLO("yolo11n.yaml").task_map[task]["trainer"])


def test_help_teaches():
    result = hatdet("yolo", "--help")
    assert result.exit_code == 0
    for words in ("yolo11n-halo.yaml", "pretrained", "hatdet yolo help"):
        assert words in result.stdout


def test_weights_for_the_detector_may_hold_our_layers(tmp_path):
    """`hatdet detect --weights` reads what `hatdet yolo train` wrote, in restricted mode."""
    from ultralytics.nn.tasks import DetectionModel

    from hatdet.detection.model_files import find_model_file
    from hatdet.detection.weights import load_model

    torch.manual_seed(0)
    model = DetectionModel(str(find_model_file("yolo11n-halo.yaml", tmp_path)), nc=2, verbose=False)
    torch.save({"model": model}, tmp_path / "last.pt")
    assert any(type(layer).__name__ == "HaloAttention" for layer in load_model(tmp_path / "last.pt").modules())
