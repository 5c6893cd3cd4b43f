"""Names in model files and classes in checkpoints: what registration changes in Ultralytics, and what it does not."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hatdet.detection.attention as attention
from hatdet.detection.attention import registration
from hatdet.detection.attention.layer import AttentionLayer
from hatdet.detection.attention.registration import AttentionModule, known_modules, make_known, register

NAMES = {*attention.__all__, "HAT"}


def python(code: str, **environment: str) -> str:
    """What the code prints in a process of its own."""
    import os

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "YOLO_OFFLINE": "1", **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def tiny_yaml(*row: Any, width: int = 32) -> dict[str, Any]:
    """A model of five layers, with that attention row as the fourth."""
    backbone = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [width, 3, 2]], [-1, 1, "Conv", [width, 3, 2]], list(row)]
    return {"nc": 2, "backbone": backbone, "head": [[[-1], 1, "Detect", ["nc"]]]}


def build(yaml: dict[str, Any]) -> nn.Module:
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    return DetectionModel(yaml, verbose=False).eval()


def test_only_our_names_are_new_and_a_stock_model_is_untouched():
    code = """
import torch
from ultralytics.nn import tasks
def outputs():
    torch.manual_seed(0)
    model = tasks.DetectionModel("yolo11n.yaml", verbose=False).eval()
    return model(torch.ones(1, 3, 64, 64))[0]
before, plain = dict(vars(tasks)), outputs()
import hatdet.detection.attention
after = dict(vars(tasks))
print(sorted(after.keys() - before.keys()))
print(all(after[name] is before[name] for name in before), torch.equal(outputs(), plain))
"""
    assert python(code) == f"{sorted(NAMES)}\nTrue True"


def test_every_layer_is_listed_with_what_a_user_needs():
    known = known_modules()
    assert set(known) == NAMES - {"HAT", "DAttentionBaseline"}
    for name, module in known.items():
        assert module.name == name
        assert issubclass(module.cls, AttentionLayer)
        assert module.signature.startswith("c2")
        assert module.signature.endswith("residual=False")
        assert all((module.summary, module.paper, module.origin, module.constraints))
        assert module.cls.__doc__
        for stride, dim in ((8, 64), (16, 128), (32, 256)):
            layer = module.cls(dim, *module.arguments[stride]).eval()
            with torch.no_grad():
                assert layer(torch.rand(1, dim, 4, 6)).shape == (1, dim, 4, 6)


@pytest.mark.parametrize("dim", [64, 128, 256, 384, 512, 576, 640, 768, 1024, 1280])
def test_a_row_of_the_width_alone_fits_every_width_of_the_families(dim):
    for module in known_modules().values():
        with torch.device("meta"):
            module.cls(dim)


def test_registration_can_be_repeated_and_a_reloaded_file_replaces_itself():
    from ultralytics.nn import tasks

    first = tasks.MSCA
    again = importlib.reload(sys.modules["hatdet.detection.attention.msca"])
    assert tasks.MSCA is again.MSCA is not first
    register(known_modules()["MSCA"])
    make_known(first, "MSCA")
    assert tasks.MSCA is first
    register(AttentionModule(first, "", "", "", ""))
    sys.modules["hatdet.detection.attention.msca"].MSCA = first


def test_a_name_of_ultralytics_is_not_shadowed(monkeypatch):
    from ultralytics.nn import tasks

    class PSA(nn.Module):
        pass

    stock = tasks.PSA
    with pytest.raises(ValueError, match=r"cannot be called PSA in model files: ultralytics has ultralytics\.nn.*PSA"):
        make_known(PSA, "free_name_of_a_test", "PSA")
    assert tasks.PSA is stock
    assert not hasattr(tasks, "free_name_of_a_test")
    monkeypatch.delitem(vars(tasks), "EMA")
    monkeypatch.setattr(tasks, "EMA", nn.Identity, raising=False)
    with pytest.raises(ValueError, match=r"EMA cannot be called EMA"):
        register(known_modules()["EMA"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((1, 1, "HaloAttention", ["c2", 2, 1]), r"row 3 takes HaloAttention from 1: .* must read the row above"),
        ((-1, 1, "HaloAttention", []), "HaloAttention needs its width as first argument: write c2"),
        ((-1, 1, "HaloAttention", [8, 2, 1]), "HaloAttention was built for 8 channels and got 32: .* c2"),
        ((-1, 1, "HATBlock", ["c2", 5]), "num_heads of HATBlock must be a positive divisor of its width 32, got 5"),
        ((-1, 1, "HATBlock", ["c3"]), "the first argument of HATBlock must be its width in channels .* got 'c3'"),
        ((-1, 1, "DAttention", ["c2", 5]), "5"),
        ((-1, 1, "EfficientAttention", ["c2", 5]), "5"),
        ((-1, 1, "HAT", ["c2"]), "HAT is an upscaler and no layer"),
        ((-1, 1, "HAT", []), "HAT is an upscaler and no layer"),
    ],
)
def test_rows_that_cannot_be_right_are_refused_with_a_sentence(row, message):
    with pytest.raises(ValueError, match=message):
        build(tiny_yaml(*row))


def test_the_row_above_may_be_named_by_its_number():
    build(tiny_yaml(2, 1, "EMA", ["c2"]))


def test_repeats_are_so_many_layers():
    model = build(tiny_yaml(-1, 3, "EMA", ["c2"]))
    assert [type(layer).__name__ for layer in model.model[3]] == ["EMA"] * 3


LOADING = """
import sys, torch
from pathlib import Path
{first}
from ultralytics.nn.tasks import load_checkpoint
torch.set_num_threads(1)
assert ("hatdet" in sys.modules) == bool({first!r})
for path in sorted(Path({folder!r}).glob("*.pt")):
    model, _ = load_checkpoint(path)
    x, expected = torch.load(path.with_suffix(".expected"))
    with torch.no_grad():
        print(path.stem, torch.equal(model(x)[0], expected))
"""


@pytest.mark.parametrize(("first", "restricted"), [("", "0"), ("import hatdet.detection.attention", "1")])
def test_checkpoints_load_where_nobody_has_heard_of_hatdet_and_in_restricted_mode(first, restricted, tmp_path):
    """The second once hatdet is imported; both times the model says the same."""
    names, x = sorted(NAMES - {"HAT"}), torch.rand(1, 3, 64, 96)
    for name in names:
        model = build(tiny_yaml(-1, 1, name, ["c2"]))
        torch.save({"model": model, "train_args": {}}, tmp_path / f"{name}.pt")
        with torch.no_grad():
            torch.save((x, model(x)[0]), tmp_path / f"{name}.expected")
    printed = python(LOADING.format(first=first, folder=str(tmp_path)), ULTRALYTICS_SAFE_LOAD=restricted)
    assert sorted(printed.splitlines()) == [f"{name} True" for name in names]


def test_restricted_loading_refuses_the_layer_until_hatdet_is_imported(tmp_path):
    model = build(tiny_yaml(-1, 1, "EMA", ["c2"]))
    torch.save({"model": model}, tmp_path / "best.pt")
    code = f"""
from ultralytics.nn.tasks import load_checkpoint
try:
    load_checkpoint({str(tmp_path / "best.pt")!r})
except Exception as error:
    print(type(error).__name__)
"""
    assert python(code, ULTRALYTICS_SAFE_LOAD="1") == "TypeError"


def test_a_process_that_began_with_ultralytics_keeps_its_environment():
    code = """
import os
import ultralytics
before = dict(os.environ)
import hatdet.detection.attention
print(dict(os.environ) == before)
"""
    assert python(code) == "True"


def test_a_worker_of_a_distributed_training_knows_our_layers(tmp_path):
    """What `ultralytics.utils.dist` does: the class of the trainer is all that a worker is told."""
    from hatdet.detection.trainers import TRAINERS

    for name, trainer in TRAINERS.items():
        (tmp_path / name).write_bytes(pickle.dumps(trainer))
    code = f"""
import pickle, sys
from pathlib import Path
from ultralytics.nn import tasks
for path in Path({str(tmp_path)!r}).iterdir():
    assert pickle.loads(path.read_bytes()).__module__ == "hatdet.detection.trainers"
    tasks.DetectionModel({tiny_yaml(-1, 1, "EMA", ["c2"])!r}, verbose=False)
print("built")
"""
    assert python(code) == "built"


def test_fused_half_and_mixed_models_say_nearly_the_same():
    for name in sorted(NAMES - {"HAT", "DAttentionBaseline"}):
        model = build(tiny_yaml(-1, 1, name, ["c2"]))
        generator = torch.Generator().manual_seed(0)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.1)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
        x = torch.rand(1, 3, 64, 96, generator=generator)
        with torch.no_grad():
            plain = model(x)[0]
            last = model(x.to(memory_format=torch.channels_last))[0]
            fused = pickle.loads(pickle.dumps(model)).fuse(verbose=False)
            assert fused.is_fused()
            for other, limit in ((last, 1e-5), (fused(x)[0], 1e-4)):
                assert float((other - plain).abs().max() / plain.abs().max()) < limit, name
            with torch.autocast("cpu", torch.bfloat16):
                mixed = model(x)[0].float()
            half = fused.half()(x.half())[0].float()
            for other in (mixed, half):
                assert float((other - plain).abs().max() / plain.abs().max()) < 0.05, name


def test_the_folder_of_this_test_is_the_package_under_test():
    assert Path(registration.__file__).is_relative_to(Path(__file__).resolve().parents[3])


@pytest.mark.parametrize("name", sorted(known_modules()))
def test_what_ultralytics_prints_as_gflops_holds_the_layer(name):
    """Of the difference that the row makes, to 1 %: products of attention are counted, whatever computes them."""
    from torch.utils.flop_counter import FlopCounterMode
    from ultralytics.utils.torch_utils import get_flops

    def of_attention(q: Any, k: Any, v: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        (images, heads, queries, width), keys = q, k[-2]
        return 2 * images * heads * queries * keys * (width + v[-1])

    # torch before 2.15 does not count the CPU's fused attention.
    fused = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: of_attention}

    def counted(model: nn.Module) -> float:
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=fused) as counter:
            model.eval()(torch.zeros(1, 3, 256, 256))
        return counter.get_total_flops() / 1e9

    # At a width of YOLO's: what thop counts of norms, and the other does not, is little there.
    plain, with_row = (build(tiny_yaml(-1, 1, *row, width=256)) for row in (("nn.Identity", []), (name, ["c2"])))
    printed = get_flops(with_row, 256) - get_flops(plain, 256)
    # These two have no products of attention, and much of what thop counts and the other does not: averages, norms.
    limit = 0.03 if name in ("CPCA", "EMA") else 0.01
    assert printed == pytest.approx(counted(with_row) - counted(plain), rel=limit)
