"""The loop: what a run does, what it leaves behind, and how it goes on."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hatdet.core.errors import OptionsError, TrainingError, WeightsError
from hatdet.training.hat_model import HATModel
from hatdet.training.run import measure, train
from tests.training.helpers import data_set, option_file, tiny_options

ROOT = Path(__file__).resolve().parent.parent.parent


def saved(folder: Path, iteration: int | str) -> dict[str, torch.Tensor]:
    file = torch.load(folder / "models" / f"net_g_{iteration}.pth", weights_only=True)
    return {f"{kind}.{key}": value for kind in ("params", "params_ema") for key, value in file[kind].items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, b[key], rtol=0, atol=tolerance, msg=key)


def lines(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


pytestmark = pytest.mark.usefixtures("logs_reach_caplog")


# ------------------------------------------------------------------------------------------ 1. going on


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_8_iterations_are_4_and_4_more(tmp_path, workers, monkeypatch):
    """Dropped paths, crops, the order of the data, Adam, EMA and the schedule all go on."""

    def options(name, total):
        made = tiny_options(tmp_path, total, name=name, warmup_iter=3)
        made["datasets"]["train"]["num_worker_per_gpu"] = workers
        return made

    train(options("whole", 8))
    train(options("parts", 4))
    monkeypatch.chdir(tmp_path / "data")  # a run is found wherever it is started from
    train(options("parts", 8), auto_resume=True)
    whole, parts = (tmp_path / "experiments" / name for name in ("whole", "parts"))
    assert_same(saved(parts, 8), saved(whole, 8))
    assert max((saved(whole, 8)[key] - saved(whole, 4)[key]).abs().max() for key in saved(whole, 8)) > 1e-4
    a, b = (torch.load(folder / "training_states" / "8.state", weights_only=True) for folder in (parts, whole))
    for x, y in zip(a["optimizers"][0]["state"].values(), b["optimizers"][0]["state"].values(), strict=True):
        torch.testing.assert_close(x["exp_avg"], y["exp_avg"], rtol=0, atol=1e-6)
    assert a["schedulers"] == b["schedulers"]
    assert sorted(tmp_path.joinpath("experiments").iterdir()) == sorted([whole, parts])  # nothing was renamed away


KILLED = """
import os, signal, sys
from pathlib import Path
from hatdet.core import atomic
from hatdet.training import checkpoints
from hatdet.training.run import train
from tests.training.helpers import tiny_options

moment, root = sys.argv[1], Path(sys.argv[2])
if moment == "saving":  # the networks of iteration 8 are there, its state is not
    real = checkpoints.write_bytes
    def write(path, content):
        if path.name == "8.state":
            os.kill(os.getpid(), signal.SIGKILL)
        real(path, content)
    checkpoints.write_bytes = write
def on_step(iteration, total, logged):
    if moment == "stepping" and iteration == 6:
        os.kill(os.getpid(), signal.SIGKILL)
train(tiny_options(root, 10, name="killed"), on_step=on_step)
"""


@pytest.mark.parametrize("moment", ["stepping", "saving"])
def test_a_killed_run_loses_at_most_one_interval(tmp_path, moment):
    data_set(tmp_path)
    died = subprocess.run(
        [sys.executable, "-c", KILLED, moment, str(tmp_path)], cwd=ROOT, capture_output=True, check=False
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    folder = tmp_path / "experiments" / "killed"
    assert [path.name for path in (folder / "training_states").glob("*.state")] == ["4.state"]
    assert not list(folder.rglob("*.part")) or moment == "saving"
    train(tiny_options(tmp_path, 10, name="killed"), auto_resume=True)
    train(tiny_options(tmp_path, 10, name="whole"))
    assert_same(saved(folder, 10), saved(tmp_path / "experiments" / "whole", 10))


def test_a_state_that_cannot_be_read_is_passed_over(tmp_path):
    train(tiny_options(tmp_path, 8))
    folder = tmp_path / "experiments" / "tiny"
    before = saved(folder, 8)
    (folder / "training_states" / "8.state").write_bytes(b"half a file")
    train(tiny_options(tmp_path, 8), auto_resume=True)
    assert_same(saved(folder, 8), before)


@pytest.fixture
def interruptible():
    """Ctrl-C works, also where the tests themselves run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_stopped_run_saves_first(tmp_path):
    def on_step(iteration, total, logged):
        if iteration == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tiny_options(tmp_path, 8), on_step=on_step)
    folder = tmp_path / "experiments" / "tiny"
    assert [path.name for path in (folder / "training_states").iterdir()] == ["3.state"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interruptible")
def test_a_run_that_is_to_ignore_ctrl_c_does(tmp_path):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    train(tiny_options(tmp_path, 2), on_step=lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert (tmp_path / "experiments" / "tiny" / "models" / "net_g_latest.pth").is_file()


def test_a_run_is_not_begun_again_unasked(tmp_path):
    train(tiny_options(tmp_path, 4))
    folder = tmp_path / "experiments" / "tiny"
    before = saved(folder, 4)
    with pytest.raises(OptionsError, match="holds a run already: --auto_resume goes on with it, --overwrite"):
        train(tiny_options(tmp_path, 2))
    with pytest.raises(OptionsError, match="give one of them"):
        train(tiny_options(tmp_path, 2), auto_resume=True, overwrite=True)
    assert_same(saved(folder, 4), before, 0)
    train(tiny_options(tmp_path, 2), overwrite=True)
    assert [path.name for path in (folder / "training_states").iterdir()] == ["2.state"]
    assert [path.name for path in (tmp_path / "experiments").iterdir()] == ["tiny"]


def test_a_finished_run_that_is_resumed_stays_as_it_is(tmp_path):
    train(tiny_options(tmp_path, 4))
    before = saved(tmp_path / "experiments" / "tiny", "latest")
    train(tiny_options(tmp_path, 4), auto_resume=True)
    assert_same(saved(tmp_path / "experiments" / "tiny", "latest"), before, 0)


def test_a_resumed_run_follows_what_the_option_file_says_now(tmp_path, caplog):
    cosine = {"type": "CosineAnnealingRestartLR", "periods": [8], "restart_weights": [1], "eta_min": 0}
    train(tiny_options(tmp_path, 4, scheduler=cosine))
    assert "now" not in lines(caplog)
    later = tiny_options(tmp_path, 6, scheduler={**cosine, "periods": [20]})
    later["train"]["optim_g"]["lr"] = 2e-3
    train(later, auto_resume=True)
    assert "train:scheduler:periods is [20] now, it was [8]" in lines(caplog)
    assert "The learning rate begins at 0.002 now, it was 0.001" in lines(caplog)
    state = torch.load(tmp_path / "experiments" / "tiny" / "training_states" / "6.state", weights_only=True)
    expected = 2e-3 * 0.5 * (1 + math.cos(math.pi * 5 / 20))
    assert state["optimizers"][0]["param_groups"][0]["lr"] == pytest.approx(expected)


def test_a_metric_and_a_data_set_that_are_new_are_taken_up(tmp_path, caplog):
    first = tiny_options(tmp_path, 2)
    del first["val"]["metrics"]["ssim"]
    train(first)
    later = tiny_options(tmp_path, 4)
    later["datasets"]["val_2"] = {**later["datasets"]["val"], "name": "more"}
    train(later, auto_resume=True)
    assert "# ssim: " in lines(caplog)
    assert "Validation more (4 images)" in lines(caplog)


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    options = tiny_options(tmp_path, 8)
    options["logger"].update(save_checkpoint_freq=2, keep_checkpoints=2)
    del options["val"], options["datasets"]["val"]
    train(options)
    names = sorted(path.name for path in (tmp_path / "experiments" / "tiny" / "training_states").iterdir())
    assert names == ["6.state", "8.state"]


# ------------------------------------------------------------------------------------------ 2. the step


def test_a_step_that_is_not_finite_is_not_taken(tmp_path, monkeypatch):
    real = HATModel.losses

    def losses(self, output, part, current_iter):
        found = real(self, output, part, current_iter)
        return {name: value * float("nan") if self.count == 5 else value for name, value in found.items()}

    def feed(self, data, real_feed=HATModel.feed_data):
        self.count = getattr(self, "count", 0) + 1
        real_feed(self, data)

    monkeypatch.setattr(HATModel, "losses", losses)
    monkeypatch.setattr(HATModel, "feed_data", feed)
    folder = tmp_path / "experiments" / "tiny"
    with pytest.raises(TrainingError, match=r"iteration 5: the loss is .* and its gradient's norm nan"):
        train(tiny_options(tmp_path, 8))
    batch = torch.load(folder / "not_finite_5_rank0.pt", weights_only=True)
    assert batch["lq"].shape == (2, 3, 8, 8)
    assert batch["gt"].shape == (2, 3, 16, 16)
    assert len(batch["gt_path"]) == 2
    assert all(value.isfinite().all() for value in saved(folder, 4).values())


def test_a_batch_in_parts_is_the_same_step(tmp_path):
    for name, parts in (("whole", 1), ("parts", 3)):
        options = tiny_options(tmp_path, 3, name=name, accumulate=parts)
        options["network_g"]["drop_path_rate"] = 0.0
        options["datasets"]["train"]["batch_size_per_gpu"] = 4
        train(options)
    whole, parts = (saved(tmp_path / "experiments" / name, 3) for name in ("whole", "parts"))
    assert_same(whole, parts, 2e-5)  # Adam's first steps are as large for a tiny gradient as for any


def test_clipping_bounds_the_step_and_the_norm_before_it_is_logged(tmp_path, caplog):
    options = tiny_options(tmp_path, 1, grad_clip=1e-9, ema_decay=0)
    options["train"]["optim_g"] = {"type": "SGD", "lr": 1.0}
    start = tiny_options(tmp_path, 0, name="start", ema_decay=0)
    train(options)
    train(start)
    after, before = (
        torch.load(tmp_path / "experiments" / name / "models" / "net_g_latest.pth", weights_only=True)["params"]
        for name in ("tiny", "start")
    )
    moved = sum((after[key] - before[key]).double().square().sum() for key in after).sqrt()
    assert 0 < moved <= 1.1e-9 + 1e-6
    assert "grad_norm: " in lines(caplog)


def test_bf16_channels_last_and_compiled(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or network)
    seen = []
    real = HATModel.losses

    def losses(self, output, part, current_iter):
        seen.append((output.dtype, self.net_g.conv_last.weight.is_contiguous(memory_format=torch.channels_last)))
        return real(self, output, part, current_iter)

    monkeypatch.setattr(HATModel, "losses", losses)
    inside = []
    options = tiny_options(tmp_path, 2, precision="bf16", channels_last=True, compile=True, fp32_tail=False)
    real_step = HATModel.step

    def step(self, *rest):
        hooked = self.net_g.layers[0].residual_group.blocks[0].attn.qkv
        hooked.register_forward_hook(lambda module, given, out: inside.append(out.dtype))
        return real_step(self, *rest)

    monkeypatch.setattr(HATModel, "step", step)
    train(options)
    assert len(compiled) == 1
    assert seen[0] == (torch.float32, True)
    assert inside[0] == torch.bfloat16
    assert all(value.dtype != torch.bfloat16 for value in saved(tmp_path / "experiments" / "tiny", 2).values())


@pytest.mark.slow
def test_a_compiled_step_is_the_same_step(tmp_path):
    for name, compiled in (("eager", False), ("compiled", True)):
        options = tiny_options(tmp_path, 3, name=name, compile=compiled)
        options["network_g"].update(drop_path_rate=0.0, depths=[2], num_heads=[3])
        train(options)
    eager, compiled = (saved(tmp_path / "experiments" / name, 3) for name in ("eager", "compiled"))
    assert_same(eager, compiled, 1e-4)


# ------------------------------------------------------------------------------------------ 3. validation


def test_validation_tells_where_the_run_began_and_how_far_it_is(tmp_path, caplog, monkeypatch):
    modes = []
    real = HATModel.validation

    def validation(self, *rest, **named):
        self.net_g.train()
        scores = real(self, *rest, **named)
        modes.append(self.net_g.training)
        return scores

    monkeypatch.setattr(HATModel, "validation", validation)
    options = tiny_options(tmp_path, 4, ema_decay=0)
    options["val"]["val_freq"] = 2
    images = []
    finished = train(options, on_image=lambda *of: images.append(of))
    assert images == 3 * [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert modes == [True, True, True]
    text = lines(caplog)
    assert text.count("Validation held (4 images)") == 3
    assert "(PSNR-Y, crop 2, MATLAB YCbCr, mod 2)" in text
    assert "since iteration 0" in text
    curve = [json.loads(line) for line in (finished.folder / "validation.jsonl").read_text().splitlines()]
    assert [point["iter"] for point in curve] == [0, 2, 4]
    assert curve[2]["psnr"] > curve[0]["psnr"]
    assert finished.scores["held"]["psnr"] == curve[2]["psnr"]


def test_validation_is_the_engines_and_basicsrs(tmp_path):
    """`hatdet test` gives what `hatdet sr` and `hatdet metrics` give."""
    from hatdet.evaluation.fidelity import Protocol, compare, mean_fidelity
    from hatdet.imaging.files import read_image, to_array
    from hatdet.sr.upscalers import load_upscaler

    train(tiny_options(tmp_path, 2))
    weights = tmp_path / "experiments" / "tiny" / "models" / "net_g_latest.pth"
    options = tiny_options(tmp_path)
    del options["train"], options["datasets"]["train"]
    folder = tmp_path / "results"
    paths = {"pretrain_network_g": weights, "log": folder, "visualization": folder / "visualization"}
    options.update(is_train=False, path={key: str(path) for key, path in paths.items()})
    options["val"]["save_img"] = True
    scores = measure(options)
    upscaler = load_upscaler(weights, 2)
    found = []
    for lq in sorted((tmp_path / "data" / "LRbicx2").iterdir()):
        picture = to_array(upscaler(read_image(lq)))
        written = tmp_path / "results" / "visualization" / "held" / f"{lq.stem}_tiny.png"
        assert (to_array(read_image(written)) == picture).all()
        found.append(compare(picture, to_array(read_image(tmp_path / "data" / "GTmod2" / lq.name)), Protocol("Y", 2)))
    mean = mean_fidelity(found)
    assert scores["held"]["psnr"] == pytest.approx(mean.psnr, abs=1e-6)
    assert scores["held"]["ssim"] == pytest.approx(mean.ssim, abs=1e-6)


def test_an_identical_image_does_not_make_the_mean_infinite(tmp_path, monkeypatch, caplog):
    from hatdet.training import validation

    real, first = validation.calculate_metric, iter([float("inf")])
    monkeypatch.setattr(validation, "calculate_metric", lambda pictures, how: next(first, real(pictures, how)))
    finished = train(tiny_options(tmp_path, 0))
    assert finished.iterations == 0
    assert "1 images without a finite value are not in the mean" in lines(caplog)
    assert "inf" not in lines(caplog).replace("infinite", "")


def test_tiles_of_hats_option_files(tmp_path):
    from hatdet.training.validation import upscaler_of
    from tests.helpers import tiny_hat

    made = upscaler_of(tiny_hat(), 2, {"tile_size": 64, "tile_pad": 16})
    assert (made.tile, made.overlap, made.window) == (96, 32, 8)


# ------------------------------------------------------------------------------------------ 4. starts and teams


def test_a_start_from_weights_that_do_not_fit_is_refused(tmp_path):
    torch.save({"params": {"conv.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    options = tiny_options(tmp_path)
    options["path"]["pretrain_network_g"] = str(tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="does not fit HAT: 0 of the"):
        train(options)


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
TORCHRUN += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]  # any port that is free


def together(arguments: list[str], count: int = 2) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TORCHRUN, f"--nproc_per_node={count}", "-m", "hatdet.training", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batch(tmp_path):
    """The same items in the same order, gradients averaged; then a resume, with the other spelling of the flags."""
    common = {"network_g:drop_path_rate": 0.0, "logger:save_checkpoint_freq": 2}
    two = option_file(tmp_path, 4, name="two")
    changes = [f"{key}={value}" for key, value in common.items()]
    first = ["-opt", str(two), "--force_yml", *changes, "datasets:train:batch_size_per_gpu=1"]
    done = together([*first, "train:total_iter=2"])
    assert done.returncode == 0, done.stderr
    done = together([*first, "--launcher", "pytorch", "--auto_resume", "--local-rank=0"])
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Resuming from iteration 2") == 1
    options = tiny_options(tmp_path, 4, name="one")
    options["network_g"]["drop_path_rate"] = 0.0
    train(options)
    one = saved(tmp_path / "experiments" / "one", 4)
    assert_same(saved(tmp_path / "experiments" / "two", 4), one, 2e-5)


def losses(folder: Path) -> list[float]:
    """Of each iteration, as the log has them: averaged over the processes."""
    (file,) = folder.glob("train_*.log")
    return [float(found) for found in re.findall(r"l_pix: (\S+)", file.read_text())]


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_have_the_loss_curve_of_one_with_their_global_batch(tmp_path, count):
    changes = ["network_g:drop_path_rate=0.0", "logger:save_checkpoint_freq=6"]
    file = option_file(tmp_path, 6, name="many")
    done = together(
        ["-opt", str(file), "--force_yml", *changes, f"datasets:train:batch_size_per_gpu={4 // count}"], count
    )
    assert done.returncode == 0, done.stderr
    options = tiny_options(tmp_path, 6, name="one")
    options["network_g"]["drop_path_rate"] = 0.0
    options["datasets"]["train"]["batch_size_per_gpu"] = 4
    train(options)
    one, many = (tmp_path / "experiments" / name for name in ("one", "many"))
    assert len(losses(one)) == 6
    assert losses(many) == pytest.approx(losses(one), rel=1e-3)  # four digits are logged
    assert_same(saved(many, 6), saved(one, 6), 2e-5)


ELASTIC = """
import os, signal, sys
from hatdet.training import run
real = run._Run.step
def step(self, iteration):
    if iteration == 7 and self.team.rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, iteration)
run._Run.step = step
from hatdet.cli.app import app
app(["train", *sys.argv[1:]])
"""


@pytest.mark.slow
def test_a_team_that_loses_a_process_begins_again_at_its_last_checkpoint(tmp_path):
    (tmp_path / "elastic.py").write_text(ELASTIC)
    file = option_file(tmp_path, 10)
    done = subprocess.run(
        [*TORCHRUN, "--max-restarts=1", str(tmp_path / "elastic.py"), "-opt", str(file), "--auto_resume"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Resuming from iteration 4") == 1
    whole = together(["-opt", str(option_file(tmp_path, 10, name="whole"))])
    assert whole.returncode == 0, whole.stderr
    experiments = tmp_path / "experiments"
    assert_same(saved(experiments / "tiny", 10), saved(experiments / "whole", 10))


SLOW = """
import sys, time
from hatdet.training import validation
real = validation.HatUpscaler.__call__
def slow(self, image):
    time.sleep(4)
    return real(self, image)
validation.HatUpscaler.__call__ = slow
from hatdet.cli.app import app
app(["train", *sys.argv[1:]])
"""


@pytest.mark.slow
def test_a_long_validation_does_not_run_into_the_groups_timeout(tmp_path):
    """Process 0 has two of three images to wait for, 8 seconds; collectives time out after 5."""
    data_set(tmp_path, count=3)
    (tmp_path / "slow_training.py").write_text(SLOW)
    file = option_file(tmp_path, 1)
    done = subprocess.run(
        [*TORCHRUN, str(tmp_path / "slow_training.py"), "-opt", str(file), "--force_yml", "dist_params:timeout=5"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "End of training: 1 iterations" in done.stderr


def test_a_run_that_was_saved_at_its_first_iteration_goes_on_without_a_warning(tmp_path):
    train(tiny_options(tmp_path, 1))
    train(tiny_options(tmp_path, 2), auto_resume=True)  # warnings are errors here
