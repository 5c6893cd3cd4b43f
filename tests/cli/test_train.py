"""`hatdet train` and `hatdet test`: what is typed, printed and left behind."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner, Result

from hatdet.cli.app import app

if find_spec("basicsr") is None:
    pytest.skip("basicsr is not installed here (Python 3.13 and later)", allow_module_level=True)

import hatdet.training  # noqa: F401 (after it BasicSR can be imported)
from tests.training.helpers import option_file


def hatdet_(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def option(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return option_file(tmp_path, 4)


def test_basicsrs_command_lines_work_as_they_are(option, tmp_path):
    few = ["--force_yml", "train:total_iter=2", "logger:print_freq=2"]
    done = hatdet_("train", "-opt", option, "--launcher", "none", *few, "--local_rank=0")
    assert done.exit_code == 0, done.stderr
    weights = tmp_path / "experiments" / "tiny" / "models" / "net_g_latest.pth"
    assert done.stdout == f"{weights}\n"
    assert "iter:       2" in done.stderr
    again = hatdet_("train", "-opt", option, *few)
    assert again.exit_code == 2
    assert "holds a run already" in again.stderr
    on = hatdet_("train", "-opt", option, "--auto_resume", "--local-rank", 0)
    assert on.exit_code == 0, on.stderr
    assert "Resuming from iteration 2" in on.stderr
    assert hatdet_("train", "-opt", option, "--overwrite").exit_code == 0
    debugging = hatdet_("train", "-opt", option, "--debug", *few)
    assert debugging.exit_code == 0
    assert (tmp_path / "experiments" / "debug_tiny" / "models" / "net_g_latest.pth").is_file()


def test_what_was_trained_is_tested_and_upscales(option, tmp_path):
    assert hatdet_("train", "-opt", option, "--force_yml", "train:total_iter=1").exit_code == 0
    trained = yaml.safe_load(option.read_text())
    file = tmp_path / "test.yml"
    said = {key: trained[key] for key in ("name", "model_type", "scale", "num_gpu", "network_g")}
    said["datasets"] = {"test_1": trained["datasets"]["val"]}
    said["path"] = {"pretrain_network_g": "experiments/tiny/models/net_g_latest.pth"}
    said["val"] = {"metrics": trained["val"]["metrics"], "save_img": True}
    file.write_text(yaml.safe_dump(said))
    tested = hatdet_("test", "-opt", file)
    assert tested.exit_code == 0, tested.stderr
    assert tested.stdout.startswith("held: psnr ")
    assert "PSNR-Y, crop 2, MATLAB YCbCr, mod 2" in tested.stderr
    assert len(list((tmp_path / "results" / "tiny" / "visualization" / "held").iterdir())) == 4
    weights = said["path"]["pretrain_network_g"]
    upscaled = hatdet_("sr", "--scale", 2, "--upscaler", weights, "data/LRbicx2", "-o", "big")
    assert upscaled.exit_code == 0, upscaled.stderr
    for picture in Path("big").glob("*.png"):
        theirs = tmp_path / "results" / "tiny" / "visualization" / "held" / f"{picture.stem}_tiny.png"
        assert picture.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--force_yml", "train:optim_g:learning_rate=1"], "learning_rate"),
        (["--force_yml", "datasets:train:dataroot_gt=nowhere"], "nowhere"),
        (["train:total_iter=1"], "train:total_iter=1 is no option: expected -opt FILE, and KEY:SUB=VALUE after"),
        (["--launcher", "pytorch"], "expects to be started by torchrun"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(option, tmp_path, arguments, sentence):
    before = sorted(tmp_path.iterdir())
    refused = hatdet_("train", "-opt", option, *arguments)
    assert refused.exit_code == 2
    assert sentence in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_tensorboard_and_what_is_not_installed(option, tmp_path, monkeypatch):
    with_curves = ["--force_yml", "logger:use_tb_logger=true", "train:total_iter=1"]
    assert hatdet_("train", "-opt", option, *with_curves).exit_code == 0
    assert list((tmp_path / "tb_logger" / "tiny").glob("events*"))
    if find_spec("wandb") is None:
        refused = hatdet_("train", "-opt", option, *with_curves, "logger:wandb:project=mine", "name=other")
        assert refused.exit_code == 2
        assert "logger:wandb needs wandb, which is not installed: pip install wandb" in refused.stderr


def test_a_loss_that_is_not_finite_is_one_line(option, monkeypatch):
    from hatdet.training.hat_model import HATModel

    real = HATModel.losses
    nan = torch.tensor(float("nan"))
    monkeypatch.setattr(
        HATModel,
        "losses",
        lambda self, *given: {name: value * nan for name, value in real(self, *given).items()},
    )
    stopped = hatdet_("train", "-opt", option)
    assert stopped.exit_code == 2
    assert stopped.stderr.splitlines()[-1].startswith("error: iteration 1: the loss is nan")
