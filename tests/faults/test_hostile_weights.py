"""Weights that want to run code, through every verb that takes weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from hatdet.cli.app import app
from hatdet.imaging.files import write_image
from tests.core.test_pickles import Foreign, run_code
from tests.helpers import random_image


def hatdet(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch) -> Path:
    """A working folder with a picture, a data set and weights of two kinds."""
    monkeypatch.chdir(tmp_path)
    write_image(random_image(64, 64), tmp_path / "images" / "a.png")
    (tmp_path / "data.yaml").write_text("val: images\nnames: [person]\n")
    torch.save({"params": run_code(tmp_path / "ran"), "model": run_code(tmp_path / "ran")}, tmp_path / "evil.pt")
    return tmp_path


VERBS = {
    "detect": "detect images --weights evil.pt",
    "eval": "eval --data data.yaml --arms lr --weights evil.pt",
    "export": "export --chain -o chain.onnx --weights evil.pt",
    "detect upscaler": "detect images --upscale --upscaler evil.pt",
    "eval upscaler": "eval --data data.yaml --arms lr,evil.pt",
    "export upscaler": "export -o a.onnx --upscaler evil.pt",
    "sr": "sr images --upscaler evil.pt",
}


@pytest.mark.parametrize("verb", VERBS)
def test_they_are_refused_in_one_line_that_names_what_they_ask_for(folder, verb):
    before = set(folder.rglob("*"))
    refused = hatdet(*VERBS[verb].split())
    assert refused.exit_code == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith("error: evil.pt asks for posix.system, which ")
    assert len(refused.stderr.splitlines()) == 1
    assert not (folder / "ran").exists()
    assert not [path for path in set(folder.rglob("*")) - before if path.suffix in (".png", ".onnx", ".json")]


@pytest.mark.parametrize("verb", ["detect", "eval"])
def test_trusted_weights_may_hold_any_class(folder, verb):
    from ultralytics.nn import tasks

    model = tasks.DetectionModel("yolo11n.yaml", verbose=False)
    model.note, model.names = Foreign(), {0: "person"}
    torch.save({"model": model}, folder / "evil.pt")
    refused = hatdet(*VERBS[verb].split())
    assert refused.exit_code == 2
    assert "evil.pt asks for tests.core.test_pickles.Foreign, which is neither" in refused.stderr
    assert hatdet(*VERBS[verb].split(), "--trust").exit_code == 0


def test_trust_is_for_the_detector_of_a_chain():
    refused = hatdet("export", "--upscaler", "hat-xs", "--trust")
    assert (refused.exit_code, refused.stderr) == (2, "error: --trust needs --chain\n")
