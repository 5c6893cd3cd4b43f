"""Real-HAT: the degradation and both models, against BasicSR's; what is saved and resumed; what is refused."""

from __future__ import annotations

import copy
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import hatdet.training  # noqa: F401 (makes basicsr importable)

# isort: split
from basicsr.archs import vgg_arch
from basicsr.data.degradations import circular_lowpass_kernel
from basicsr.data.realesrgan_dataset import RealESRGANDataset
from basicsr.models import build_model
from basicsr.models.realesrgan_model import RealESRGANModel
from basicsr.models.realesrnet_model import RealESRNetModel
from basicsr.utils import DiffJPEG, USMSharp

from hatdet.core.errors import OptionsError, TrainingError, WeightsError
from hatdet.training import perceptual, plugins
from hatdet.training.degradation import PairPool, degrade, jpeg_on
from hatdet.training.draws import seed_all
from hatdet.training.perceptual import perceptual_loss
from hatdet.training.run import train
from tests.training.helpers import photos, tiny_options

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
JPEG = jpeg_on(CPU)
PUBLISHED = {
    "resize_prob": [0.2, 0.7, 0.1],
    "resize_range": [0.15, 1.5],
    "gaussian_noise_prob": 0.5,
    "noise_range": [1, 30],
    "poisson_scale_range": [0.05, 3],
    "gray_noise_prob": 0.4,
    "jpeg_range": [30, 95],
    "second_blur_prob": 0.8,
    "resize_prob2": [0.3, 0.4, 0.3],
    "resize_range2": [0.3, 1.2],
    "gaussian_noise_prob2": 0.5,
    "noise_range2": [1, 25],
    "poisson_scale_range2": [0.05, 2.5],
    "gray_noise_prob2": 0.4,
    "jpeg_range2": [30, 95],
}
KERNELS = {
    "blur_kernel_size": 21,
    "kernel_list": ["iso", "aniso"],
    "kernel_prob": [0.5, 0.5],
    "sinc_prob": 0.1,
    "blur_sigma": [0.2, 3],
    "betag_range": [0.5, 4],
    "betap_range": [1, 2],
}
ADVERSARIAL = {
    "optim_d": {"type": "Adam", "lr": 1e-3, "betas": [0.9, 0.99]},
    "gan_opt": {"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 0.1},
}
VGG = {"type": "PerceptualLoss", "layer_weights": {"conv1_2": 0.1, "conv5_4": 1}, "vgg_type": "vgg19"}
VGG_FILE = "experiments/pretrained_models/vgg19-dcbb9e9d.pth"


def batch(seed: int = 0, count: int = 2, h: int = 96, w: int = 112) -> dict[str, Any]:
    """What RealESRGANDataset gives, smaller than its 400 pixels."""
    draw = np.random.default_rng(seed)
    coarse = torch.from_numpy(draw.random((count, 3, 12, 14), np.float32))
    blurs = torch.from_numpy(draw.random((2, count, 21, 21), np.float32) ** 8)
    blurs /= blurs.sum((-1, -2), keepdim=True)
    sinc = torch.from_numpy(circular_lowpass_kernel(2.0, 13, pad_to=21)).float()
    return {
        "gt": F.interpolate(coarse, (h, w), mode="bicubic").clamp(0, 1),
        "kernel1": blurs[0],
        "kernel2": blurs[1],
        "sinc_kernel": sinc.expand(count, 21, 21).clone(),
        "gt_path": [f"{seed}_{number}.png" for number in range(count)],
    }


def degraded(data: dict[str, Any], seed: int, scale: int = 2, **changes: Any) -> torch.Tensor:
    seed_all(seed)
    kernels = [data[key] for key in ("kernel1", "kernel2", "sinc_kernel")]
    return degrade(data["gt"], *kernels, {**PUBLISHED, **changes}, scale, JPEG)


def real_options(root: Path, total: int = 4, *, gan: bool, name: str = "real", **train: Any) -> dict[str, Any]:
    """A run of a tiny Real-HAT x2."""
    options = tiny_options(root, total, name=name, **(ADVERSARIAL if gan else {}), **train)
    names = sorted(path.name for path in (root / "data" / "GTmod2").iterdir())
    (root / "meta_info.txt").write_text("\n".join(names) + "\n")
    data = options["datasets"]["train"]
    del data["dataroot_lq"]
    data.update(type="RealESRGANDataset", meta_info=str(root / "meta_info.txt"), final_sinc_prob=0.8, gt_size=32)
    data.update(KERNELS, **{f"{key}2": value for key, value in KERNELS.items()})
    options.update(PUBLISHED, model_type="RealHATGANModel" if gan else "RealHATMSEModel", gt_size=32, queue_size=4)
    if gan:
        options.update(l1_gt_usm=True, percep_gt_usm=True, gan_gt_usm=False)
        options["network_d"] = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4}
    else:
        options["gt_usm"] = True
    options["logger"]["save_checkpoint_freq"] = 2
    options["val"]["at_start"] = False
    return options


def built(options: dict[str, Any]) -> Any:
    plugins.register()
    torch.manual_seed(1)
    return build_model({**options, "dist": False, "rank": 0, "world_size": 1})


def weights(folder: Path, file: str) -> dict[str, torch.Tensor]:
    held = torch.load(folder / "models" / file, weights_only=True)
    return {f"{kind}.{key}": value for kind in ("params", "params_ema") for key, value in held.get(kind, {}).items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        torch.testing.assert_close(value, b[key], rtol=0, atol=tolerance, msg=key)


def snapshot(network: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(network.state_dict())


def contiguous_jpeg(image: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """BasicSR's; its filters refuse what it gives, on a PyTorch that keeps the layout when it pads."""
    return DiffJPEG(differentiable=False)(image, quality=quality).contiguous()


@pytest.fixture
def no_cuda(monkeypatch):
    """BasicSR's models say `.cuda()`."""
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self, *rest: self)
    monkeypatch.setattr(nn.Module, "cuda", lambda self, *rest: self)


def small_vgg(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make VGG19 a network of a few channels, and put its weights where a run looks for them first."""
    from torchvision.models import vgg

    class Small(nn.Module):
        def __init__(self, **_: Any) -> None:
            super().__init__()
            widths = [[2] * 2, [2] * 2, [4] * 4, [4] * 4, [4] * 4]
            self.features = vgg.make_layers([width for group in widths for width in (*group, "M")])

    monkeypatch.setattr(vgg, "vgg19", Small)
    torch.manual_seed(0)
    file = root / VGG_FILE
    file.parent.mkdir(parents=True)
    torch.save(Small().state_dict(), file)
    return file


@pytest.fixture
def vgg(tmp_path, monkeypatch):
    return small_vgg(tmp_path, monkeypatch)


# ------------------------------------------------------------------------------------------ 1. degradation


@given(
    sides=st.tuples(st.integers(75, 130), st.integers(75, 130)),
    scale=st.sampled_from([1, 2, 3, 4]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=8)
def test_the_result_has_the_size_and_the_steps_of_an_8_bit_image(sides, scale, seed):
    h, w = (side // scale * scale for side in sides)
    data = batch(seed, 2, h, w)
    before = data["gt"].clone()
    lq = degraded(data, seed, scale)
    assert lq.shape == (2, 3, h // scale, w // scale)
    assert lq.min() >= 0
    assert lq.max() <= 1
    assert torch.equal((lq * 255).round() / 255, lq)
    assert torch.equal(lq, degraded(data, seed, scale))
    assert not torch.equal(lq, degraded(data, seed + 1, scale))
    assert torch.equal(data["gt"], before)


def test_sides_that_the_scale_does_not_divide_are_refused():
    with pytest.raises(ValueError, match="sides must be multiples of scale 3, got 112x96"):
        degraded(batch(), 0, 3)


PULSE = torch.zeros(1, 21, 21).index_put_((torch.tensor(0), torch.tensor(10), torch.tensor(10)), torch.ones(()))
NOTHING = {
    "resize_prob": [0, 0, 1],
    "resize_prob2": [0, 0, 1],
    "gaussian_noise_prob": 1,
    "gaussian_noise_prob2": 1,
    "noise_range": [0, 0],
    "noise_range2": [0, 0],
}


def test_without_blur_noise_and_jpeg_it_is_a_reduction_by_one_of_three_filters():
    gt = batch()["gt"]
    expected = {
        mode: (F.interpolate(gt, (48, 56), mode=mode) * 255).round().clamp(0, 255) / 255
        for mode in ("area", "bilinear", "bicubic")
    }
    met = set()
    for seed in range(12):
        seed_all(seed)
        lq = degrade(gt, PULSE, PULSE, PULSE, {**PUBLISHED, **NOTHING}, 2, lambda image, quality: image)
        met |= {mode for mode, image in expected.items() if (lq - image).abs().max() < 1e-6}
    assert met == {"area", "bilinear", "bicubic"}


def test_jpeg_comes_after_the_first_pass_and_before_or_after_the_last_resize():
    orders = set()
    for seed in range(8):
        seen = []

        def jpeg(image, quality, seen=seen):
            assert quality.shape == (2,)
            assert (quality >= 30).all()
            assert (quality <= 95).all()
            assert image.min() >= 0
            assert image.max() <= 1
            seen.append(image.shape[-2:])
            return image

        changes = {**PUBLISHED, **NOTHING, "resize_prob2": [0, 1, 0], "resize_range2": [0.5, 1]}
        seed_all(seed)
        data = batch()
        assert degrade(*list(data.values())[:4], changes, 2, jpeg).shape == (2, 3, 48, 56)
        assert seen[0] == (96, 112)
        assert seen[1] <= (48, 56)
        orders.add(seen[1] == (48, 56))
    assert orders == {True, False}


def test_jpeg_has_tables_of_its_own():
    """BasicSR's are one for all instances, wherever the last one was moved to."""
    ours = {parameter.data_ptr() for parameter in JPEG.parameters()}
    assert not ours & {parameter.data_ptr() for parameter in DiffJPEG(differentiable=False).parameters()}
    image, quality = batch()["gt"], [50.0, 80.0]
    theirs = DiffJPEG(differentiable=False)(image, quality=torch.tensor(quality))
    assert torch.equal(JPEG(image, quality=torch.tensor(quality)), theirs)


@pytest.mark.parametrize("gan", [False, True])
@pytest.mark.parametrize("usm", [False, True])
def test_batches_are_those_of_basicsr(tmp_path, no_cuda, gan, usm):
    """Degradation, crop, pool and sharpening, from the same random state."""
    options = real_options(tmp_path, gan=gan)
    options["gt_usm"] = usm
    ours = built(options)
    kind = RealESRGANModel if gan else RealESRNetModel
    theirs = kind.__new__(kind)
    theirs.opt, theirs.device, theirs.is_train, theirs.queue_size = options, CPU, True, 4
    theirs.jpeger, theirs.usm_sharpener = contiguous_jpeg, USMSharp()
    for iteration in range(1, 6):
        for model in (ours, theirs):
            seed_all(3, iteration)
            model.feed_data(batch(iteration))
        assert ours.lq.shape == (2, 3, 16, 16)
        assert torch.equal(ours.lq, theirs.lq)
        assert torch.equal(ours.gt, theirs.gt)
        if gan:
            assert torch.equal(ours.sharpen(ours.gt), theirs.gt_usm)
        assert (ours.names is None) == (iteration > 2)
    first = batch(1)["gt"]
    assert torch.equal(ours.of_photo(first)[0], ours.sharpen(first) if gan or usm else first)


# ------------------------------------------------------------------------------------------ 2. the pool


def numbered(first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.arange(first, first + count).float().view(-1, 1, 1, 1)
    return values.expand(count, 3, 2, 2).clone(), -values.expand(count, 3, 4, 4).clone()


def test_every_pair_goes_in_and_pairs_stay_together():
    pool, given, taken = PairPool(6, 2), [], []
    torch.manual_seed(0)
    for first in range(0, 40, 2):
        lq, gt = pool.exchange(*numbered(first, 2))
        given += [first, first + 1]
        assert torch.equal(lq[:, :, :1, :1], -gt[:, :, :1, :1])
        if first < 6:
            assert torch.equal(lq, numbered(first, 2)[0])
        else:
            taken += lq[:, 0, 0, 0].int().tolist()
    held = pool.state()["lq"][:, 0, 0, 0].int().tolist()
    assert sorted(taken + held) == given
    assert taken != sorted(taken)


@pytest.mark.parametrize("before", [0, 2, 3, 7])
def test_a_pool_goes_on_where_it_was(before):
    whole, part = PairPool(6, 2), PairPool(6, 2)
    torch.manual_seed(0)
    for number in range(before):
        whole.exchange(*numbered(2 * number, 2))
    part.load(copy.deepcopy(whole.state()))
    assert part.filled == min(2 * before, 6)
    for number in range(before, before + 6):
        results = []
        for pool in (whole, part):
            torch.manual_seed(number)
            results.append(pool.exchange(*numbered(2 * number, 2)))
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])


def test_a_pool_of_another_size_takes_what_fits():
    pool = PairPool(6, 2)
    for first in (0, 2, 4):
        pool.exchange(*numbered(first, 2))
    for size, count, filled in ((4, 2, 4), (12, 4, 4), (12, 3, 6), (8, 8, 0)):
        other = PairPool(size, count)
        other.load(pool.state())
        assert other.filled == filled


def test_a_pool_is_a_multiple_of_the_batch(tmp_path):
    with pytest.raises(OptionsError, match="queue_size must be a multiple of batch_size_per_gpu 2, got 5"):
        built({**real_options(tmp_path, gan=False), "queue_size": 5})


# ------------------------------------------------------------------------------------------ 3. the steps


@pytest.mark.parametrize("turns", [{}, {"net_d_iters": 2, "net_d_init_iters": 2}])
def test_training_is_that_of_basicsr(tmp_path, no_cuda, vgg, monkeypatch, turns):
    """Generator, its average, discriminator and log, with every loss."""
    losses = {"perceptual_opt": {**VGG, "style_weight": 1}, "ldl_opt": {"type": "L1Loss"}, **turns}
    options = real_options(tmp_path, gan=True, **losses)
    ours = built(options)
    monkeypatch.setattr(vgg_arch, "VGG_PRETRAIN_PATH", str(vgg))
    theirs = RealESRGANModel({**copy.deepcopy(options), "dist": False})
    theirs.jpeger = contiguous_jpeg
    for name in ("net_g", "net_g_ema", "net_d"):
        getattr(theirs, name).load_state_dict(getattr(ours, name).state_dict())
    start = snapshot(ours.net_g)
    for iteration in range(1, 6):
        for model in (ours, theirs):
            seed_all(3, iteration)
            with warnings.catch_warnings():
                if model is theirs:
                    warnings.simplefilter("ignore")  # the generator's rate runs on before it steps
                model.update_learning_rate(iteration)
            model.feed_data(batch(iteration))
            model.optimize_parameters(iteration)
        logged = ours.get_current_log()
        norms = [logged.pop(name) for name in ("grad_norm", "grad_norm_d") if name in logged]
        assert logged == pytest.approx(theirs.log_dict, rel=1e-4, abs=1e-6)
        its_turn = not turns or iteration == 4
        assert len(norms) == (2 if its_turn else 1)
        assert ("l_g_gan" in logged) == its_turn
        if turns and iteration < 4:
            assert_same(snapshot(ours.net_g), start, 0)
        for name in ("net_g", "net_g_ema", "net_d"):
            assert_same(snapshot(getattr(ours, name)), snapshot(getattr(theirs, name)), 1e-5)


def test_the_generators_gradient_does_not_reach_the_discriminator(tmp_path):
    model = built(real_options(tmp_path, gan=True))
    model.feed_data(batch())
    output = model.net_g(model.lq)
    model.generator_losses(output, model.gt, model.gt)["l_g_gan"].backward()
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.net_d.parameters())
    assert all(parameter.grad is not None for parameter in model.net_g.parameters())


def test_both_learn(tmp_path):
    model = built(real_options(tmp_path, gan=True))
    before = snapshot(model.net_g), snapshot(model.net_d)
    model.feed_data(batch())
    model.optimize_parameters(1)
    for network, was in zip((model.net_g, model.net_d), before, strict=True):
        moved = [bool((each - was[name]).abs().max() > 1e-5) for name, each in network.named_parameters()]
        assert sum(moved) > 0.9 * len(moved)  # of an attention's keys the bias changes nothing


@pytest.mark.parametrize("whose", ["generator", "discriminator"])
def test_a_step_that_is_not_finite_is_not_taken_by_either(tmp_path, whose):
    model = built(real_options(tmp_path, gan=True))
    real = model.cri_gan

    def loss(judged, target, is_disc):
        found = real(judged, target, is_disc=is_disc)
        return found * float("nan") if is_disc == (whose == "discriminator") else found

    model.feed_data(batch())
    model.cri_gan = loss
    before = dict(model.net_g.named_parameters()), dict(model.net_d.named_parameters())
    before = copy.deepcopy(before)
    with pytest.raises(TrainingError, match="iteration 7: the loss is nan"):
        model.optimize_parameters(7)
    for network, was in zip((model.net_g, model.net_d), before, strict=True):
        assert_same(dict(network.named_parameters()), was, 0)
    saved = torch.load(tmp_path / "experiments" / "real" / "not_finite_7_rank0.pt", weights_only=True)
    assert torch.equal(saved["lq"], model.lq)
    assert saved["gt_path"] == ["0_0.png", "0_1.png"]


def test_bf16_and_clipping_hold_for_both(tmp_path, monkeypatch):
    options = real_options(tmp_path, gan=True, precision="bf16", grad_clip=1e-9, compile=True)
    options["train"]["optim_g"] = options["train"]["optim_d"] = {"type": "SGD", "lr": 1.0}
    compiled, inside = [], []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or network)
    model = built(options)
    for network in (model.net_g.conv_after_body, model.net_d.conv3):
        network.register_forward_hook(lambda module, given, out: inside.append(out.dtype))
    before = snapshot(model.net_g), dict(copy.deepcopy(model.net_d).named_parameters())
    model.feed_data(batch())
    model.optimize_parameters(1)
    assert set(inside) == {torch.bfloat16}
    assert len(inside) == 4  # one of the generator, three of the discriminator
    assert compiled == [model.net_g]
    for network, was in zip((model.net_g, model.net_d), before, strict=True):
        moved = sum((each - was[name]).double().square().sum() for name, each in network.named_parameters()).sqrt()
        assert moved <= 1.1e-9 + 1e-6
    assert model.log_tensors["grad_norm"] > 1e-6
    assert model.log_tensors["grad_norm_d"] > 1e-6


# ------------------------------------------------------------------------------------------ 4. runs


@pytest.fixture
def small_photos(monkeypatch):
    """BasicSR's data set gives 400 pixels, which takes seconds on a CPU."""
    real = RealESRGANDataset.__getitem__

    def smaller(self, index):
        item = real(self, index)
        return {**item, "gt": item["gt"][:, :96, :112]}

    monkeypatch.setattr(RealESRGANDataset, "__getitem__", smaller)


@pytest.mark.usefixtures("small_photos")
@pytest.mark.parametrize("gan", [False, True])
def test_4_iterations_are_2_and_2_more(tmp_path, gan):
    """The pool is full after 2 and drawn from afterwards."""
    train(real_options(tmp_path, 4, gan=gan, name="whole"))
    train(real_options(tmp_path, 2, gan=gan, name="parts"))
    finished = train(real_options(tmp_path, 4, gan=gan, name="parts"), auto_resume=True)
    whole, parts = (tmp_path / "experiments" / name for name in ("whole", "parts"))
    for label in ("net_g", "net_d")[: 1 + gan]:
        after, before = weights(whole, f"{label}_4.pth"), weights(whole, f"{label}_2.pth")
        assert_same(weights(parts, f"{label}_4.pth"), after, 1e-6)
        assert max((after[key] - before[key]).abs().max() for key in after) > 1e-4
    pools = [torch.load(folder / "training_states" / "4.rank0", weights_only=True)["pool"] for folder in (whole, parts)]
    assert torch.equal(pools[0]["gt"], pools[1]["gt"])
    assert len(pools[0]["lq"]) == 4
    assert finished.scores["held"]["psnr"] > 0


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.mark.usefixtures("small_photos")
@pytest.mark.parametrize("why", ["lost", "other size"])
def test_a_pool_that_cannot_be_taken_up_is_said(tmp_path, why):
    train(real_options(tmp_path, 2, gan=False))
    options = real_options(tmp_path, 3, gan=False)
    if why == "lost":
        (tmp_path / "experiments" / "real" / "training_states" / "2.rank0").unlink()
    else:
        options["gt_size"] = 40
    handler = Lines()
    train(options, auto_resume=True, handler=handler)
    assert any("it is filled anew" in line for line in handler.lines)


@pytest.mark.parametrize("gan", [False, True])
def test_pairs_of_a_data_set_instead(tmp_path, gan):
    options = real_options(tmp_path, 2, gan=gan)
    options["datasets"]["train"] = {**tiny_options(tmp_path)["datasets"]["train"], "gt_size": 32}
    options["high_order_degradation"] = False
    handler = Lines()
    train(options, handler=handler)
    assert not list((tmp_path / "experiments" / "real" / "training_states").glob("*.rank0"))
    assert not any("filled anew" in line for line in handler.lines)


def test_a_scale_that_does_not_divide_400(tmp_path):
    """BasicSR's data set gives 400 pixels: x3 takes 399 of them."""
    options = real_options(tmp_path, 1, gan=False)
    del options["datasets"]["val"], options["val"]
    options.update(scale=3, gt_size=33)
    options["datasets"]["train"]["scale"] = options["network_g"]["upscale"] = 3
    model = built(options)
    model.feed_data(batch(h=97, w=98))
    assert model.lq.shape == (2, 3, 11, 11)
    assert model.gt.shape == (2, 3, 33, 33)


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
TORCHRUN += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]


def test_two_processes_train_as_one_with_twice_the_batch(tmp_path):
    """Generator and discriminator, on pairs: what is degraded is each process's own."""

    def options(name):
        made = real_options(tmp_path, 3, gan=True, name=name, net_d_iters=2)
        made["datasets"]["train"] = {**tiny_options(tmp_path)["datasets"]["train"], "gt_size": 32}
        made["high_order_degradation"] = False
        made["network_g"]["drop_path_rate"] = 0.0
        del made["datasets"]["val"], made["val"]
        return made

    train(options("one"))
    two = options("two")
    two["path"], two["datasets"]["train"]["batch_size_per_gpu"] = {}, 1
    for section, keys in ((two, ("is_train", "root_path")), (two["datasets"]["train"], ("phase", "scale"))):
        for key in keys:
            del section[key]
    (tmp_path / "two.yml").write_text(yaml.safe_dump(two))
    done = subprocess.run(
        [*TORCHRUN, "-m", "hatdet.training", "-opt", str(tmp_path / "two.yml")],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for file in ("net_g_3.pth", "net_d_3.pth"):
        one, two = (weights(tmp_path / "experiments" / name, file) for name in ("one", "two"))
        assert_same(one, two, 2e-5)


# ------------------------------------------------------------------------------------------ 5. what is refused


def test_what_cannot_be_is_said_before_the_first_step(tmp_path):
    options = real_options(tmp_path, gan=True, accumulate=2)
    with pytest.raises(OptionsError, match="train:accumulate must be 1 with RealHATGANModel, got 2"):
        built(options)
    options = {**real_options(tmp_path, gan=True), "gt_size": 24}
    with pytest.raises(OptionsError, match="gt_size must be more than 25 to be sharpened, got 24; l1_gt_usm: false"):
        built(options)
    built({**options, "l1_gt_usm": False, "percep_gt_usm": False})
    options = real_options(tmp_path, gan=True, ldl_opt={"type": "L1Loss"}, ema_decay=0)
    with pytest.raises(OptionsError, match="train:ldl_opt needs train:ema_decay"):
        built(options)


def test_a_data_set_that_does_not_go_with_the_degradation(tmp_path):
    options = real_options(tmp_path, gan=False)
    said = "RealESRGANDataset gives no lq, which RealHATMSEModel needs with high_order_degradation false"
    with pytest.raises(OptionsError, match=said):
        built({**options, "high_order_degradation": False}).feed_data(batch())
    options["datasets"]["train"]["type"] = "PairedImageDataset"
    with pytest.raises(OptionsError, match="of type PairedImageDataset gives no kernel1, kernel2, sinc_kernel, which"):
        built(options).feed_data({key: batch()["gt"] for key in ("gt", "lq")})
    with pytest.raises(OptionsError, match="gt_size must be at most 96, the size of what is read, got 128"):
        built({**real_options(tmp_path, gan=False), "gt_size": 128}).feed_data(batch())


def test_weights_of_vgg_that_are_not_there_are_one_line(tmp_path, monkeypatch):
    asked = []

    def offline(url, *rest, **named):
        asked.append(url)
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    with pytest.raises(WeightsError) as raised:
        train(real_options(tmp_path, gan=True, perceptual_opt=VGG))
    assert str(raised.value) == (
        f"train:perceptual_opt needs vgg19-dcbb9e9d.pth, and {asked[0]} could not be fetched (no route to host): "
        f"put the file into {tmp_path}/experiments/pretrained_models or {tmp_path}/hub/hub/checkpoints"
    )


def test_weights_of_vgg_are_downloaded_once(tmp_path, monkeypatch, vgg):
    there = vgg.read_bytes()
    vgg.unlink()
    asked = []

    def download(url, target, **named):
        asked.append(named)
        Path(target).write_bytes(there)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    before = vgg_arch.VGG_PRETRAIN_PATH
    for _ in range(2):
        loss = perceptual_loss(dict(VGG), tmp_path)
    assert asked == [{"hash_prefix": "dcbb9e9d", "progress": False}]
    assert before == vgg_arch.VGG_PRETRAIN_PATH
    assert loss(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32))[0] > 0


def test_weights_of_vgg_that_are_damaged(tmp_path, vgg):
    vgg.write_bytes(b"half a file")
    with pytest.raises(WeightsError, match=r"vgg19-dcbb9e9d\.pth cannot be read as the weights of vgg19: "):
        perceptual_loss(dict(VGG), tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vgg_type": "vgg20"}, "train:perceptual_opt:vgg_type 'vgg20' is not known"),
        ({"layer_weights": {"conv9_9": 1}}, "train:perceptual_opt: 'conv9_9' is not in list"),
        ({"criterion": "l3"}, "train:perceptual_opt: l3 criterion has not been supported"),
    ],
)
def test_options_of_the_perceptual_loss_that_cannot_be(tmp_path, vgg, change, said):
    with pytest.raises(OptionsError, match=said):
        perceptual_loss({**VGG, **change}, tmp_path)


def test_another_perceptual_loss_needs_no_vgg(tmp_path, monkeypatch):
    monkeypatch.setattr(perceptual, "_vgg_weights", None)
    assert perceptual_loss({"type": "L1Loss"}, tmp_path).loss_weight == 1.0


def test_real_photos_are_read(tmp_path):
    """Pictures of another size than 400 pixels are what BasicSR's data set makes of them."""
    photos(tmp_path / "photos", 1, 420, 300)
    options = real_options(tmp_path, 1, gan=False)
    options["datasets"]["train"].update(dataroot_gt=str(tmp_path / "photos"), batch_size_per_gpu=1)
    (tmp_path / "meta_info.txt").write_text("p0.png\n")
    train(options)
