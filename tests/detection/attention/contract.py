"""What every attention layer must do, whatever it computes. A test file parametrises `check_layer` over its layers."""

from __future__ import annotations

import copy
import io
import pickle
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hatdet.detection.attention.layer import AttentionLayer
from tests.helpers import relative_difference

SIZES = ((1, 1), (1, 3), (2, 2), (13, 20), (20, 15), (7, 5))
Make = Callable[..., AttentionLayer]


def shaken(layer: nn.Module, seed: int = 0) -> nn.Module:
    """The layer in eval mode with random parameters and statistics, large enough that each of them matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in layer.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.6 - 0.3)
        for module in layer.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return layer.eval()


def features(dim: int, h: int, w: int, batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, dim, h, w, generator=torch.Generator().manual_seed(seed))


def check_sizes(make: Make) -> None:
    """Any size from 1x1, any batch, values finite, the layer is not the identity and not constant."""
    layer = shaken(make())
    for h, w in SIZES:
        for batch in (1, 3):
            x = features(layer.dim, h, w, batch)
            with torch.no_grad():
                y = layer(x)
            assert y.shape == x.shape
            assert torch.isfinite(y).all()
            assert relative_difference(y, x) > 1e-3
            # Each sample is computed from itself alone.
            with torch.no_grad():
                alone = layer(x[-1:])
            torch.testing.assert_close(y[-1:], alone, rtol=1e-4, atol=1e-5)


def check_gradients(make: Make) -> None:
    """No parameter is dead, and the input gets a gradient."""
    for residual in (False, True):
        layer = shaken(make(residual=residual)).train()
        x = features(layer.dim, 13, 20).requires_grad_()
        (layer(x) * features(layer.dim, 13, 20, seed=1)).sum().backward()
        assert x.grad is not None
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None, f"{name} has no gradient"
            assert torch.isfinite(parameter.grad).all(), f"{name} has a gradient that is not finite"
            assert parameter.grad.abs().max() > 0, f"{name} has a gradient of zero"


def check_residual(make: Make) -> None:
    """With `residual` a new layer is exactly the identity and its gate learns; without, there is no gate."""
    layer = make(residual=True).eval()
    x = features(layer.dim, 7, 5)
    assert torch.equal(layer(x), x)
    layer.train()(x).square().sum().backward()
    assert layer.gate.grad.abs().min() > 0
    plain = make()
    assert "gate" not in plain.state_dict()
    assert set(layer.state_dict()) == {*plain.state_dict(), "gate"}


def check_precisions(make: Make) -> None:
    """Half precision, bf16 autocast and channels-last give the layer's output, as exactly as they can."""
    layer = shaken(make())
    x = features(layer.dim, 13, 20)
    with torch.no_grad():
        expected = layer(x)
        last = layer.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
        torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = layer(x)
        assert relative_difference(mixed.float(), expected) < 0.05
        half = copy.deepcopy(layer).half()(x.half())
        assert half.dtype == torch.float16
        assert relative_difference(half.float(), expected) < 0.02


def check_copies(make: Make) -> None:
    """deepcopy, pickle and a state dict give the same layer; it trains before and after."""
    from ultralytics.nn.tasks import torch_safe_load

    layer = shaken(make())
    x = features(layer.dim, 7, 5)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        expected = layer(x)
        assert torch.equal(copy.deepcopy(layer)(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(layer))(x), expected)
        path = Path(folder) / "layer.pt"
        torch.save({"model": layer}, path)
        again = torch_safe_load(path, safe_only=True)[0]["model"]  # registration has allowed all of its classes
        assert torch.equal(again(x), expected)
        other = make().eval()
        other.load_state_dict(layer.state_dict())
        assert torch.equal(other(x), expected)
    again.train()(features(again.dim, 7, 5)).sum().backward()


def check_traces(make: Make) -> None:
    """TorchScript by tracing, as Ultralytics exports it: the traced layer at its own size."""
    layer = shaken(make())
    x = features(layer.dim, 13, 20)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", message="`torch.jit", category=FutureWarning)  # Ultralytics still traces
        traced = torch.jit.trace(layer, x, check_trace=False)
        torch.testing.assert_close(traced(x), layer(x), rtol=1e-5, atol=1e-5)


def onnx_outputs(layer: nn.Module, traced_at: Tensor, inputs: list[Tensor], dynamic: bool) -> list[np.ndarray]:
    """What ONNX Runtime computes of the layer, exported as Ultralytics 8.4 does (TorchScript's exporter, opset 18)."""
    import onnxruntime

    buffer = io.BytesIO()
    axes = {0: "batch", 2: "height", 3: "width"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations, and the tracer's
        torch.onnx.export(
            layer,
            (traced_at,),
            buffer,
            dynamo=False,
            opset_version=18,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": axes, "y": axes} if dynamic else None,
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])
    return [session.run(None, {"x": x.numpy()})[0] for x in inputs]


def check_onnx(make: Make) -> None:
    """ONNX at the traced size, and with dynamic axes at sizes and batches that were never traced."""
    layer = shaken(make())
    with torch.no_grad():
        for at in ((12, 20), (13, 7)):
            x = features(layer.dim, *at, batch=1)
            (static,) = onnx_outputs(layer, x, [x], dynamic=False)
            assert relative_difference(torch.from_numpy(static), layer(x)) < 1e-5, at
        for at in ((12, 20), (13, 7)):
            traced_at = features(layer.dim, *at, batch=2)
            inputs = [
                features(layer.dim, h, w, b)
                for h, w, b in ((6, 10, 1), (7, 11, 3), (13, 20, 1), (24, 40, 2), (1, 1, 1))
            ]
            found = onnx_outputs(layer, traced_at, inputs, dynamic=True)
            for x, y in zip(inputs, found, strict=True):
                assert relative_difference(torch.from_numpy(y), layer(x)) < 1e-5, (at, tuple(x.shape))


CHECKS = [check_sizes, check_gradients, check_residual, check_precisions, check_copies, check_traces, check_onnx]
