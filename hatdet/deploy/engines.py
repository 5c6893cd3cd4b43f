"""Running exported files: an upscaler's in the tiles of `HatUpscaler`, a chain's as a `Detector`.

The runtime follows from the file's ending: ONNX Runtime, OpenVINO, TorchScript or TensorRT.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from hatdet.core.device import choose_device
from hatdet.core.errors import DeviceError, InputError, OptionsError, WeightsError
from hatdet.core.types import Detections, Image
from hatdet.deploy.cards import IMAGE, KEY, UPSCALED, Card, ChainCard, UpscalerCard, read_card
from hatdet.sr.upscalers import DEFAULT_OVERLAP, HatUpscaler, Progress

__all__ = ["FORMATS", "ChainEngine", "Engine", "engine_upscaler", "load_engine"]

# What a file's name may end in, by the names of `hatdet export --format`; the first is the default.
FORMATS = {"onnx": (".onnx",), "torchscript": (".torchscript", ".pt"), "openvino": (".xml",), "engine": (".engine",)}

CPU = torch.device("cpu")
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Engine:
    """An exported file, ready to run.

    Attributes:
        path: the file.
        card: what it says about itself.
        run: the graph, from float32 to float32, on `device`.
        device: where `run` takes its input and leaves its output.
    """

    path: Path
    card: Card
    run: Run
    device: torch.device = CPU


class EngineNetwork(nn.Module):
    """A fixed-tile engine as the network of a `HatUpscaler`: a smaller image is filled up to the tile, and cropped.

    Shape: `(b, 3, h, w)` to `(b, 3, scale * h, scale * w)`, h and w at most the tile.
    """

    def __init__(self, engine: Engine, card: UpscalerCard) -> None:
        super().__init__()
        self.engine, self.card = engine, card
        # An upscaler computes where its network's parameters are.
        self.place = nn.Parameter(torch.empty(0, device=engine.device), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        rows, columns = _mirrored(h, self.card.tile, x), _mirrored(w, self.card.tile, x)
        larger = self.engine.run(x[:, :, rows][:, :, :, columns])
        return larger[:, :, : h * self.card.scale, : w * self.card.scale]


def _mirrored(side: int, length: int, like: Tensor) -> Tensor:
    """Indices of `length` rows: those of the image, then back and forth.

    A network with channel attention sees all of the tile: of mirror images it thinks as of the image.
    """
    period = max(2 * (side - 1), 1)
    index = torch.arange(length, device=like.device) % period
    return torch.minimum(index, period - index)


def engine_upscaler(
    engine: Engine, *, overlap: int = DEFAULT_OVERLAP, batch: int | None = None, on_progress: Progress | None = None
) -> HatUpscaler:
    """The upscaler of an engine, for images of any size.

    Every tile is as large as the engine's, where the image is; the other arguments are `HatUpscaler`'s.

    Raises:
        WeightsError: the engine is another one's.
        OptionsError: an overlap or batch that cannot be.
    """
    card = engine.card
    if not isinstance(card, UpscalerCard):
        raise WeightsError(
            f"{engine.path} holds {card.what}, expected an upscaler: use it with `hatdet detect`, without --upscale"
        )
    return HatUpscaler(
        EngineNetwork(engine, card),
        card.scale,
        card.name,
        window=card.tile,  # so that tiles have this size and no smaller one
        tile=card.tile,
        overlap=overlap,
        batch=batch if batch is not None else 1,
        on_progress=on_progress,
    )


@dataclass(frozen=True, eq=False)
class ChainEngine:
    """An exported chain as a `Detector` of images as they were read.

    Raises:
        WeightsError: the engine is not a chain's.
    """

    engine: Engine

    def __post_init__(self) -> None:
        if not isinstance(self.engine.card, ChainCard):
            raise WeightsError(
                f"{self.engine.path} holds {self.engine.card.what}, expected a whole chain: "
                "use it with `hatdet sr`, or `hatdet detect --upscale`"
            )

    @property
    def card(self) -> ChainCard:
        return cast(ChainCard, self.engine.card)

    @property
    def name(self) -> str:
        return self.card.detector

    def __call__(self, image: Image) -> Detections:
        """Find objects.

        Raises:
            InputError: an image that is too large for the detector's canvas.
        """
        card = self.card
        largest = card.canvas // card.scale
        if max(image.height, image.width) > largest:
            raise InputError(
                f"an image of {image.width}x{image.height} is too large for this chain: it takes up to "
                f"{largest}x{largest} (upscaled by {card.scale}, the detector sees {card.canvas})"
            )
        found = self.engine.run(image.pixels[None].to(self.engine.device)).cpu().numpy()
        rows = found[np.argsort(-found[:, 4], kind="stable")]
        boxes = (rows[:, :4] / image.scale).astype(np.float32)
        return Detections(boxes, rows[:, 4].copy(), rows[:, 5].astype(np.int64), dict(enumerate(card.names)))


def load_engine(path: str | Path, *, device: str = "auto", precision: str = "auto") -> Engine:
    """Load a file of `hatdet export`.

    Args:
        path: .onnx (ONNX Runtime), .xml (OpenVINO), .torchscript or .pt (TorchScript), .engine (TensorRT).
        device: `auto`, `cpu`, `cuda`, `cuda:1`. `auto` is CUDA where the runtime can use it.
        precision: `auto` and `fp32` are float32. OpenVINO also takes `bf16`.

    Raises:
        WeightsError: no such file, or not one of `hatdet export`.
        OptionsError: a runtime that is not installed, a precision that it does not have.
        DeviceError: a device that is not there, or that the runtime cannot use.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"engine {path} does not exist")
    suffix = path.suffix.lower()
    name = next((name for name, suffixes in FORMATS.items() if suffix in suffixes), None)
    if name is None:
        known = ", ".join(suffix for suffixes in FORMATS.values() for suffix in suffixes)
        raise WeightsError(f"{path} cannot be an engine: its name must end in one of {known}")
    if precision not in ("auto", "fp32") and not (precision == "bf16" and name == "openvino"):
        raise OptionsError(f"engines compute in fp32 (OpenVINO's in bf16 too): precision {precision} is not for {path}")
    return _LOADERS[name](path, device, precision)


def _onnx(path: Path, device: str, _: str) -> Engine:
    try:
        import onnxruntime
    except ImportError as error:
        raise OptionsError(f"{path} needs ONNX Runtime: pip install 'hatdet[export]'") from error
    cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device not in ("auto", "cpu") and not cuda:
        raise DeviceError(f"device {device!r} is not usable: this ONNX Runtime has no CUDA (onnxruntime-gpu has)")
    providers: list[Any] = ["CPUExecutionProvider"]
    if cuda and device != "cpu":
        index = choose_device(device).index or 0 if device != "auto" else 0
        # Without TF32: its products have 10 bits.
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": index, "use_tf32": "0"}))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_free_dimension_override_by_name("batch", 1)  # as OpenVINO below; a chain has no such dimension
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # ONNX Runtime's have no common class
        raise _unreadable(path, "ONNX Runtime", error) from error
    card = read_card(session.get_modelmeta().custom_metadata_map.get(KEY), path)

    def run(one: Tensor) -> Tensor:
        (found,) = session.run(None, {IMAGE: np.ascontiguousarray(one.numpy())})
        return torch.from_numpy(found)

    return Engine(path, card, _one_by_one(run))


def _openvino(path: Path, device: str, precision: str) -> Engine:
    try:
        import openvino
    except ImportError as error:
        raise OptionsError(f"{path} needs OpenVINO: pip install 'hatdet[openvino]'") from error
    if device not in ("auto", "cpu"):
        raise DeviceError(f"device {device!r} is not usable: engines of OpenVINO run on the CPU")
    core = openvino.Core()
    try:
        model = core.read_model(path)
        text = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
        card = read_card(text, path)
        if isinstance(card, UpscalerCard):
            # On shapes that it knows it is faster by far, and on a CPU a batch is no faster than its tiles.
            model.reshape({IMAGE: [1, 3, card.tile, card.tile]})
        # By itself OpenVINO computes in bf16 where the processor does.
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        request = core.compile_model(model, "CPU", settings).create_infer_request()
    except RuntimeError as error:
        raise _unreadable(path, "OpenVINO", error) from error

    def run(one: Tensor) -> Tensor:
        request.infer({IMAGE: one.contiguous().numpy()})
        return torch.from_numpy(request.get_output_tensor().data.copy())  # the next call writes into the same

    return Engine(path, card, _one_by_one(run))


def _one_by_one(run: Run) -> Run:
    """What runs a batch of one, as what runs any batch."""
    return lambda batch: run(batch) if len(batch) == 1 else torch.cat([run(one[None]) for one in batch])


def _torchscript(path: Path, device: str, _: str) -> Engine:
    on = choose_device(device)
    files = {KEY: ""}
    try:
        with warnings.catch_warnings():
            # PyTorch would rather have its newer exporters used.
            warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
            script = torch.jit.load(path, map_location=on, _extra_files=files)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        raise _unreadable(path, "TorchScript", error) from error
    text: str | bytes = files[KEY]
    card = read_card(text.decode() if isinstance(text, bytes) else text, path)
    return Engine(path, card, script.eval(), on)


def _tensorrt(path: Path, device: str, _: str) -> Engine:
    try:
        import tensorrt
    except ImportError as error:
        raise OptionsError(f"{path} needs TensorRT: pip install tensorrt") from error
    on = choose_device(device)
    if on.type != "cuda":
        raise DeviceError(f"device {device!r} is not usable: engines of TensorRT run on CUDA")
    content = path.read_bytes()
    size = int.from_bytes(content[:4], "little")
    try:
        card = read_card(content[4 : 4 + size].decode(), path)
    except UnicodeDecodeError as error:
        raise _unreadable(path, "TensorRT", error) from error
    plan = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.WARNING)).deserialize_cuda_engine(content[4 + size :])
    if plan is None or not isinstance(card, UpscalerCard):
        raise WeightsError(f"{path} does not fit this TensorRT or this GPU: export it again on this machine")
    context, factor = plan.create_execution_context(), card.scale

    def one(image: Tensor) -> Tensor:
        image = image.contiguous()
        _, channels, h, w = image.shape
        larger = torch.empty(1, channels, factor * h, factor * w, device=on)
        stream = torch.cuda.current_stream(on)
        context.set_tensor_address(IMAGE, image.data_ptr())
        context.set_tensor_address(UPSCALED, larger.data_ptr())
        context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        return larger

    return Engine(path, card, lambda batch: torch.cat([one(image) for image in batch.chunk(len(batch))]), on)


_LOADERS: dict[str, Callable[[Path, str, str], Engine]] = {
    "onnx": _onnx,
    "torchscript": _torchscript,
    "openvino": _openvino,
    "engine": _tensorrt,
}


def _unreadable(path: Path, runtime: str, error: Exception) -> WeightsError:
    return WeightsError(f"{path} cannot be read by {runtime}: {' '.join(str(error).split())[:200]}")
