"""The engine: exact sizes, seams, memory, broken tiles; and the two controls."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from hatdet.blocks.hat_blocks import head_width
from hatdet.core.errors import DeviceError, OptionsError
from hatdet.core.types import Image, Upscaler
from hatdet.deploy.bench import write_random_weights
from hatdet.imaging.files import read_image
from hatdet.imaging.resize import reduced, resize_bicubic
from hatdet.sr import upscalers
from hatdet.sr.memory import Choice, footprint
from hatdet.sr.upscalers import BicubicUpscaler, HatUpscaler, NearestUpscaler, fitted, load_upscaler
from tests.helpers import TINY, psnr, random_image, sample_photo, tiny_hat


def tiny_upscaler(**changes) -> HatUpscaler:
    network = tiny_hat(upscale=changes.pop("scale", 2))
    given = {"window": 8, "tile": 32, "overlap": 8, **changes}
    return HatUpscaler(network, network.upscale, "tiny", **given)


class Faulty(nn.Module):
    """Calls another network, after doing as it is told at the n-th call."""

    def __init__(self, network: nn.Module, fault) -> None:
        super().__init__()
        self.network, self.fault, self.calls = network, fault, 0
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x):
        self.calls += 1
        self.shapes.append(tuple(x.shape))
        self.fault(self.calls, x)
        return self.network(x)


def test_every_size_from_1x1_to_40x40_comes_out_exact_and_finite():
    network = tiny_hat(upscale=4, depths=[2], num_heads=[3])
    upscaler = HatUpscaler(network, 4, "tiny", window=8, tile=32, overlap=8)
    for h in range(1, 41):
        for w in range(1, 41):
            out = upscaler(random_image(h, w, seed=h * 41 + w))
            assert out.pixels.shape == (3, 4 * h, 4 * w)
            assert bool(out.pixels.isfinite().all())
            assert out.scale == 4


@pytest.mark.parametrize(
    "upscaler", [NearestUpscaler(3), BicubicUpscaler(3), tiny_upscaler(scale=3)], ids=lambda u: u.name
)
@pytest.mark.parametrize("bit_depth", [8, 16])
def test_results_are_clamped_and_rounded_to_the_bit_depth(upscaler, bit_depth):
    image = random_image(9, 11, bit_depth=bit_depth)
    out = upscaler(image)
    assert isinstance(upscaler, Upscaler)
    assert out.bit_depth == bit_depth
    assert out.pixels.shape == (3, 27, 33)
    assert float(out.pixels.min()) >= 0
    assert float(out.pixels.max()) <= 1
    levels = out.pixels.double() * (2**bit_depth - 1)
    assert float((levels - levels.round()).abs().max()) < 1e-2


def test_an_upscaled_image_upscaled_again_knows_its_scale():
    out = BicubicUpscaler(2)(NearestUpscaler(3)(random_image(4, 5)))
    assert (out.scale, out.width, out.height) == (6, 30, 24)
    assert out.source_size_wh == (5, 4)


@pytest.mark.parametrize(("h", "w"), [(1, 100), (100, 1), (33, 32), (50, 70)])
@pytest.mark.parametrize("batch", [1, 3])
def test_tiles_of_any_image_join_to_the_exact_size(h, w, batch):
    image = random_image(h, w)
    out = tiny_upscaler(batch=batch)(image)
    assert out.pixels.shape == (3, 2 * h, 2 * w)
    one_by_one = tiny_upscaler(batch=1)(image)
    assert float((out.pixels - one_by_one.pixels).abs().max()) <= 1 / 255 + 1e-6


def test_tiles_are_equal_so_that_they_can_be_batched():
    faulty = Faulty(tiny_hat(), lambda call, x: None)
    HatUpscaler(faulty, 2, "tiny", window=8, tile=32, overlap=8, batch=4)(random_image(70, 90))
    sizes = {shape[2:] for shape in faulty.shapes}
    assert len(sizes) == 1
    assert faulty.shapes[0][0] == 4


def test_a_local_network_tiled_gives_the_untiled_picture():
    """With a network that sees only near pixels, joining tiles must change nothing at all."""

    class Local(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 12, 3, padding=1)

        def forward(self, x):
            return torch.nn.functional.pixel_shuffle(self.conv(x), 2).sigmoid()

    torch.manual_seed(0)
    network = Local()
    image = random_image(100, 77)
    whole = HatUpscaler(network, 2, "local", window=8, tile=128)(image)
    tiled = HatUpscaler(network, 2, "local", window=8, tile=32, overlap=16)(image)
    assert float((whole.pixels - tiled.pixels).abs().max()) <= 1 / 255 + 1e-6  # a value at .5 may round either way
    assert psnr(tiled.pixels, whole.pixels) > 80


@pytest.mark.slow
def test_a_photo_tiled_agrees_with_the_untiled_one():
    photo = read_image(sample_photo("bus"))
    image = Image(reduced(photo, 2).pixels[:, 100:400, :].contiguous())
    image = resize_bicubic(image, (300, 500), 500 / image.width)
    image = Image(image.pixels)
    tiled = load_upscaler("hat-xs", 4, device="cpu", tile=64, batch=4)(image)
    whole = load_upscaler("hat-xs", 4, device="cpu", tile=512)(image)
    assert psnr(tiled.pixels, whole.pixels) >= 45
    # At the borders of tiles the picture is no rougher than elsewhere.
    step = (tiled.pixels - whole.pixels).diff(dim=2).abs().mean((0, 1))
    borders = [4 * x for x in range(31, 437, 31)]
    assert float(step[borders].mean()) < 1.1 * float(step.mean())


def out_of_memory(at_call: int):
    def fault(call, x):
        if call == at_call:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return fault


@pytest.mark.parametrize("batch", [1, 2])
def test_out_of_memory_once_gives_the_same_picture(batch):
    image = random_image(60, 90)
    expected = tiny_upscaler(batch=batch)(image)
    faulty = Faulty(tiny_hat(), out_of_memory(3))
    got = HatUpscaler(faulty, 2, "tiny", window=8, tile=32, overlap=8, batch=batch)(image)
    assert faulty.calls > 3
    assert float((got.pixels - expected.pixels).abs().max()) <= 1 / 255 + 1e-6


@pytest.mark.parametrize("message", ["CUDA out of memory", "DefaultCPUAllocator: can't allocate memory: you tried"])
def test_out_of_memory_that_stays_halves_the_tile(message, caplog):
    def too_large(call, x):
        if max(x.shape[2:]) > 64:
            raise RuntimeError(message)

    image = random_image(100, 130)
    faulty = Faulty(tiny_hat(), too_large)
    with caplog.at_level(logging.WARNING, "hatdet"):
        got = HatUpscaler(faulty, 2, "tiny", window=8, tile=256, overlap=8)(image)
    assert "with tiles of 130: going on with 64" in caplog.text
    assert psnr(got.pixels, tiny_upscaler(tile=64)(image).pixels) > 80


def test_memory_too_small_for_any_tile_is_an_error_that_names_the_device():
    def always(call, x):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(DeviceError, match="cpu has too little memory for tiny"):
        HatUpscaler(Faulty(tiny_hat(), always), 2, "tiny", window=8, tile=128)(random_image(300, 200))


def test_any_other_error_of_the_network_propagates():
    def broken(call, x):
        if call == 3:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        HatUpscaler(Faulty(tiny_hat(), broken), 2, "tiny", window=8, tile=32, overlap=8)(random_image(60, 90))


def test_a_tile_that_is_not_finite_in_low_precision_is_done_again_in_fp32(caplog):
    class Overflows(nn.Module):
        def __init__(self, network) -> None:
            super().__init__()
            self.network, self.calls = network, 0

        def forward(self, x):
            out = self.network(x)
            if torch.is_autocast_enabled("cpu"):
                self.calls += 1
                if self.calls == 2:
                    out = out * torch.tensor(float("nan"))
            return out

    image = random_image(32, 80)
    with caplog.at_level(logging.WARNING, "hatdet"):
        upscaler = HatUpscaler(Overflows(tiny_hat()), 2, "tiny", window=8, tile=32, overlap=8, precision=torch.bfloat16)
        out = upscaler(image)
    assert "computed again in float32" in caplog.text
    assert psnr(out.pixels, tiny_upscaler()(image).pixels) > 30


def test_progress_is_told_after_each_batch():
    told = []
    tiny_upscaler(on_progress=lambda done, total: told.append((done, total)), batch=2)(random_image(32, 80))
    assert told == [(2, 3), (3, 3)]


def test_the_result_can_be_used_in_training():
    image = tiny_upscaler()(random_image(8, 8))
    layer = nn.Conv2d(3, 1, 1)
    layer(image.pixels[None]).sum().backward()
    assert layer.weight.grad is not None


def test_nearest_repeats_and_bicubic_keeps_a_flat_image():
    image = Image(torch.tensor([[[0.2, 0.8]]] * 3))
    assert NearestUpscaler(2)(image).pixels[0].tolist() == [[pytest.approx(v) for v in (0.2, 0.2, 0.8, 0.8)]] * 2
    flat = Image(torch.full((3, 5, 7), 100 / 255))
    assert torch.equal(BicubicUpscaler(4)(flat).pixels, torch.full((3, 20, 28), 100 / 255))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"tile": 4}, "tile must be at least 8"), ({"overlap": -1}, "overlap must be"), ({"batch": 0}, "batch must be")],
)
def test_numbers_out_of_range_are_refused(changes, sentence):
    with pytest.raises(OptionsError, match=sentence):
        tiny_upscaler(**changes)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"scale": 3}, OptionsError, "hat-xs has no weights for scale 3: it has 4"),
        ({"scale": 0}, OptionsError, "scale must be at least 1"),
        ({"tile": "large"}, OptionsError, "tile must be a whole number or auto, got 'large'"),
        ({"tile": 0}, OptionsError, "tile must be at least 1, got 0"),
        ({"precision": "fp16"}, OptionsError, "fp16 is refused"),
        ({"precision": "int8"}, OptionsError, "precision must be auto, fp32 or bf16, got 'int8'"),
        ({"device": "cuda:7"}, DeviceError, "device 'cuda:7' is not usable here"),
        ({"device": "toaster"}, DeviceError, "device 'toaster' is not usable here"),
    ],
)
def test_loading_refuses_what_cannot_be(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        load_upscaler("hat-xs", **{"device": "cpu", **arguments})


@pytest.mark.parametrize(("kind", "width"), [("cpu", 10), ("cuda", 16)])
def test_heads_are_made_wider_for_cuda_alone(tmp_path, monkeypatch, kind, width):
    """HAT's 30 channels; here 10. The device is patched: nothing is moved to it."""
    file = tmp_path / "ten.safetensors"
    write_random_weights({**TINY, "embed_dim": 20, "num_heads": [2, 2], "squeeze_factor": 10, "upscale": 2}, file)
    expected = load_upscaler(file, 2, device="cpu")(random_image(20, 33)).pixels
    monkeypatch.setattr(upscalers, "choose_device", lambda name: torch.device(kind))
    monkeypatch.setattr(upscalers, "placed", lambda network, device, name: network)
    monkeypatch.setattr(upscalers, "free_memory", lambda device: 2**40)
    upscaler = load_upscaler(file, 2, precision="fp32")
    assert isinstance(upscaler, HatUpscaler)
    assert head_width(upscaler.network.layers[0].residual_group.overlap_attn) == width
    assert (upscaler(random_image(20, 33)).pixels - expected).abs().max() <= 1.01 / 255


def test_the_embedded_upscaler_beats_bicubic_on_a_photo():
    photo = read_image(sample_photo("zidane"))
    small = reduced(photo, 4)
    small = Image(small.pixels[:, :96, :128].contiguous())
    truth = photo.pixels[:, :384, :512]
    learned = psnr(load_upscaler("hat-xs", 4, device="cpu")(small).pixels, truth)
    control = psnr(load_upscaler("bicubic", 4, device="cpu")(small).pixels, truth)
    assert learned > control + 0.5


class Sent(TorchFunctionMode):
    """The shapes of what is moved to a device, or made there."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.to and isinstance(args[1], torch.device):
            self.shapes.add(tuple(args[0].shape))
        if function is torch.zeros and (kwargs or {}).get("device") is not None:
            self.shapes.add(tuple(args))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize(("h", "w"), [(50, 70), (33, 32), (1, 100)])
def test_a_large_image_stays_on_the_host_and_is_the_same_picture(h, w, batch):
    image = random_image(h, w)
    canvas_bytes = 12 * 4 * h * w
    with Sent() as small:
        expected = tiny_upscaler(batch=batch, canvas_budget=canvas_bytes)(image)
    with Sent() as large:
        got = tiny_upscaler(batch=batch, canvas_budget=canvas_bytes - 1)(image)
    assert torch.equal(got.pixels, expected.pixels)
    assert {(3, h, w), (3, 2 * h, 2 * w)} <= small.shapes
    # Tiles, their results, and the weights of each row and column of tiles; nothing of the image's size.
    assert not {(3, h, w), (3, 2 * h, 2 * w)} & large.shapes
    pictures = [shape for shape in large.shapes if len(shape) == 4]
    assert pictures
    assert all(shape[0] <= batch and max(shape[2:]) <= 64 for shape in pictures)
    assert {len(shape) for shape in large.shapes} == {2, 4}


def test_an_image_of_one_tile_is_on_the_device_whatever_its_size():
    image = random_image(30, 30)
    with Sent() as sent:
        out = tiny_upscaler(canvas_budget=1)(image)
    assert torch.equal(out.pixels, tiny_upscaler()(image).pixels)
    assert (3, 30, 30) in sent.shapes


def test_a_large_image_of_which_a_tile_ran_out_of_memory_is_the_same_picture():
    image = random_image(60, 90)
    expected = tiny_upscaler(batch=2)(image)
    faulty = Faulty(tiny_hat(), out_of_memory(3))
    got = HatUpscaler(faulty, 2, "tiny", window=8, tile=32, overlap=8, batch=2, canvas_budget=1)(image)
    assert faulty.calls > 3
    assert float((got.pixels - expected.pixels).abs().max()) <= 1 / 255 + 1e-6


def test_the_canvas_of_half_a_gigabyte_is_the_limit():
    assert tiny_upscaler().canvas_budget == 512 * 2**20


@pytest.fixture
def free(monkeypatch):
    """Sets the free memory of all devices, in calls of the tiny network with one tile of 128."""

    def set_free(calls: float) -> None:
        one = footprint(tiny_hat(), torch.float32).bytes(Choice(128, 1))
        monkeypatch.setattr(upscalers, "free_memory", lambda device: calls * one / 0.8)

    return set_free


@pytest.mark.parametrize(
    ("device", "calls", "asked", "expected", "warning"),
    [
        ("cpu", 100, (128, None), (128, 1), ""),
        ("cpu", 1.01, (128, None), (128, 1), ""),
        ("cpu", 0.9, (128, None), (120, 1), "a tile of 128 needs 0.0 GiB, 0.0 GiB are free on cpu: going on with 120"),
        ("cpu", 0.01, (128, None), (64, 1), "going on with 64"),
        ("cpu", 0.01, (32, None), (32, 1), ""),
        ("cpu", 2.01, (128, 4), (128, 2), "4 tiles of 128 need too much memory of cpu: going on with 2"),
        ("cuda", 100, (128, None), (128, 16), ""),
        ("cuda", 5.01, (128, None), (128, 5), ""),
        ("cuda", 100, (128, 40), (128, 40), ""),
        ("cuda", 0.9, (128, None), (120, 1), "free on cuda: going on with 120"),
        ("mps", 100, (128, None), (128, 1), ""),
    ],
)
def test_the_tile_and_the_batch_fit_into_the_memory(free, caplog, device, calls, asked, expected, warning):
    free(calls)
    with caplog.at_level(logging.WARNING, "hatdet"):
        memory = upscalers.free_memory(torch.device(device))
        assert fitted(tiny_hat(), torch.device(device), torch.float32, *asked, memory) == expected
    assert len(caplog.records) == bool(warning)
    assert warning in caplog.text


def test_an_upscaler_is_loaded_with_what_fits(free, tmp_path, caplog):
    torch.save(tiny_hat().state_dict(), tmp_path / "tiny.pth")
    free(0.9)
    upscaler = load_upscaler(tmp_path / "tiny.pth", 2, device="cpu", tile=128)
    assert isinstance(upscaler, HatUpscaler)
    assert (upscaler.tile, upscaler.batch) == (120, 1)
    free(100)
    upscaler = load_upscaler(tmp_path / "tiny.pth", 2, device="cpu", batch=3)
    assert (upscaler.tile, upscaler.batch) == (256, 3)
