"""Writing files for other runtimes, each compared with PyTorch on real pixels before it is there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import hatdet
from hatdet.core.atomic import write_bytes
from hatdet.core.errors import OptionsError
from hatdet.core.fetch import sha256_of
from hatdet.core.types import Detection, Detections, Image
from hatdet.deploy.cards import BOXES, KEY, UPSCALED, ChainCard, UpscalerCard, to_json
from hatdet.deploy.engines import FORMATS, ChainEngine, load_engine
from hatdet.deploy.graphs import ChainGraph, onnx_bytes, torchscript_bytes
from hatdet.detection.chain import Upscaled
from hatdet.detection.yolo import LARGEST_IMGSZ, YoloDetector
from hatdet.imaging.files import read_image
from hatdet.imaging.resize import reduced
from hatdet.imaging.sample_photos import SAMPLE_REDUCTION, sample_photos
from hatdet.sr.hat_arch import HAT, pad_to_multiple
from hatdet.sr.upscalers import HatUpscaler
from hatdet.sr.weights import WeightsFile, load_network

__all__ = ["ChainCheck", "check_format", "export_chain", "export_upscaler"]

# Of full scale. Rounding to 8 bits moves a pixel by up to 2e-3; the runtimes that compute in fp32 differ by some 1e-6.
LARGEST_DIFFERENCE = 1e-4
LEAST_OVERLAP = 0.99  # of a box and the same box of PyTorch's chain
LARGEST_CONFIDENCE_DIFFERENCE = 0.01
LOW_CONFIDENCE = 0.01  # with which a chain is compared that finds nothing in the samples

Contents = Mapping[str, bytes]  # of a file, or of two that belong together, by suffix; in the order of writing


# ------------------------------------------------------------------------------------------ 1. an upscaler


def export_upscaler(weights: WeightsFile, scale: int, form: str, tile: int, path: Path) -> float:
    """Write a super-resolution network for tiles of one size: `(b, 3, tile, tile)` to `(b, 3, scale * tile, ...)`.

    Input and output are float32 RGB, the input in [0, 1], the output not clamped.

    Args:
        weights: of the network, as `find_weights` finds them.
        scale: how many times larger.
        form: a key of `FORMATS`.
        tile: a multiple of the network's window.
        path: of the file, with an ending of the format.

    Returns:
        The largest difference from PyTorch, of full scale, on tiles of two photos.

    Raises:
        OptionsError: a tile, a format or a path that cannot be, a missing package, a result that differs from
            PyTorch's (no file is written).
        WeightsError: weights that cannot be used.
    """
    check_format(form, path)
    network = load_network(weights, scale)
    window = network.window_size
    if tile < window or tile % window:
        near = sorted({max(window, tile - tile % window), tile + -tile % window})
        raise OptionsError(
            f"tile must be a multiple of {window} (the network's window), got {tile}: {' or '.join(map(str, near))}"
        )
    card = UpscalerCard(weights.name, scale, tile, window, sha256_of(weights.path), hatdet.__version__)
    contents = _upscaler_contents(network, form, card)
    with tempfile.TemporaryDirectory() as folder:
        _write(contents, Path(folder, "engine").with_suffix(path.suffix))
        difference = _largest_difference(network, Path(folder, "engine").with_suffix(path.suffix), tile)
    if not difference <= LARGEST_DIFFERENCE:  # NaN is refused too
        raise OptionsError(
            f"what was exported differs from PyTorch by {difference:.1e} of full scale, expected at most "
            f"{LARGEST_DIFFERENCE:.0e}: nothing was written"
        )
    _write(contents, path)
    return difference


def check_format(form: str, path: Path | None = None) -> None:
    """Raise an OptionsError for a format that does not exist, or a file's name that does not fit it."""
    if form not in FORMATS:
        raise OptionsError(f"format must be one of {', '.join(FORMATS)}, got {form!r}")
    if path is not None and path.suffix.lower() not in FORMATS[form]:
        raise OptionsError(f"a file of the format {form} ends in {' or '.join(FORMATS[form])}, got {path}")


def _upscaler_contents(network: HAT, form: str, card: UpscalerCard) -> Contents:
    example = torch.zeros(1, 3, card.tile, card.tile)
    if form == "torchscript":
        return {"": torchscript_bytes(network, example, card)}
    batch, larger = 1 if form == "engine" else "batch", card.scale * card.tile
    takes, gives = (batch, 3, card.tile, card.tile), (batch, 3, larger, larger)
    content = onnx_bytes(network, example, takes, UPSCALED, gives, card)
    if form == "onnx":
        return {"": content}
    return _openvino_contents(content, card) if form == "openvino" else {"": _tensorrt_content(content, card)}


def _openvino_contents(content: bytes, card: UpscalerCard) -> Contents:
    try:
        import openvino
    except ImportError as error:
        raise OptionsError("the format openvino needs OpenVINO: pip install 'hatdet[openvino]'") from error
    model = openvino.Core().read_model(content)
    model.set_rt_info(to_json(card), [KEY])
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder, "engine.xml")
        openvino.save_model(model, xml, compress_to_fp16=False)
        return {".bin": xml.with_suffix(".bin").read_bytes(), "": xml.read_bytes()}


def _tensorrt_content(content: bytes, card: UpscalerCard) -> bytes:
    """The plan, and before it the card with its length: a plan has no place for it."""
    try:
        import tensorrt
    except ImportError as error:
        raise OptionsError("the format engine needs TensorRT and a GPU: pip install tensorrt") from error
    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(content):
        raise OptionsError(f"TensorRT does not take this network: {parser.get_error(0)}")
    config = builder.create_builder_config()
    config.clear_flag(tensorrt.BuilderFlag.TF32)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise OptionsError("TensorRT could not build an engine of this network")
    text = to_json(card).encode()
    return len(text).to_bytes(4, "little") + text + bytes(plan)


def _largest_difference(network: HAT, path: Path, tile: int) -> float:
    engine = load_engine(path)
    tiles = torch.cat([_tile(image, tile) for image in sample_images()])
    with torch.no_grad():
        expected = network(tiles)
        found = engine.run(tiles.to(engine.device)).cpu()
    if found.shape != expected.shape:
        return float("nan")
    return float((found - expected).abs().max())


def _tile(image: Image, tile: int) -> Tensor:
    """The middle of a photo, reduced up to four times if it fills a tile then. Shape: `(1, 3, tile, tile)`."""
    factor = max(1, min(4, min(image.height, image.width) // tile))
    pixels = reduced(image, factor).pixels
    y, x = (max(0, side - tile) // 2 for side in pixels.shape[1:])
    return pad_to_multiple(pixels[None, :, y : y + tile, x : x + tile], tile)


# ------------------------------------------------------------------------------------------ 2. a chain


@dataclass(frozen=True)
class ChainCheck:
    """How a chain was compared: boxes on the samples, and the confidence from which boxes counted."""

    boxes: int
    confidence: float


def export_chain(
    weights: WeightsFile, scale: int, detector: YoloDetector, detector_file: Path, path: Path
) -> ChainCheck:
    """Write an ONNX file that goes from a low-resolution image to boxes: `ChainGraph`.

    Args:
        weights, scale: of the super-resolution network, as of `export_upscaler`.
        detector: on the CPU, with its thresholds.
        detector_file: its weights' file.
        path: of the file, ending in .onnx.

    Raises:
        OptionsError: as of `export_upscaler`; boxes that are not those of PyTorch's chain.
        WeightsError: weights that cannot be used.
    """
    check_format("onnx", path)
    if scale < 2:
        raise OptionsError(f"a chain needs an upscaler that makes images larger, got --scale {scale}")
    if detector.class_ids is not None or detector.imgsz is not None:
        raise ValueError("a chain has all classes of its detector, and the canvas of an upscaled image")
    network = load_network(weights, scale)
    window = network.window_size
    names = [name for _, name in sorted(detector.class_names.items())]
    card = ChainCard(
        upscaler=weights.name,
        upscaler_sha256=sha256_of(weights.path),
        detector=detector.name,
        detector_sha256=sha256_of(detector_file),
        scale=scale,
        window=window,
        stride=detector.stride,
        canvas=LARGEST_IMGSZ,
        confidence=detector.confidence,
        iou=detector.iou,
        max_detections=detector.max_detections,
        names=tuple(names),
        hatdet=hatdet.__version__,
    )
    content = _chain_content(network, detector, card)
    boxes = _compared(content, network, detector, card)
    confidence = detector.confidence
    if not boxes and confidence > LOW_CONFIDENCE:
        # Two empty answers prove nothing.
        confidence = LOW_CONFIDENCE
        eager = replace(detector, confidence=confidence)
        boxes = _compared(_chain_content(network, eager, card), network, eager, card)
    write_bytes(path, content)
    return ChainCheck(boxes, confidence)


def _chain_content(network: HAT, detector: YoloDetector, card: ChainCard) -> bytes:
    graph = ChainGraph(network, detector, card.scale, card.window).eval()
    example = torch.zeros(1, 3, 2 * card.window - 1, 3 * card.window - 2)
    return onnx_bytes(graph, example, (1, 3, "height", "width"), BOXES, ("boxes", 6), card)


def _compared(content: bytes, network: HAT, detector: YoloDetector, card: ChainCard) -> int:
    """The number of boxes in the samples, which are those of PyTorch.

    Raises:
        OptionsError: they are others.
    """
    boxes = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "chain.onnx")
        path.write_bytes(content)
        chain = ChainEngine(load_engine(path, device="cpu"))
        for image in sample_images():
            image = reduced(image, SAMPLE_REDUCTION)
            side = max(image.height, image.width)
            whole = HatUpscaler(network, card.scale, card.upscaler, card.window, tile=side + -side % card.window)
            expected, found = Upscaled(whole, detector)(image), chain(image)
            for ours, others, whose in ((expected, found, "PyTorch's"), (found, expected, "the exported")):
                for one in _unmatched(ours, others, detector.confidence):
                    raise OptionsError(
                        f"what was exported finds other boxes than PyTorch: {one.class_name} {one.confidence:.3f} at "
                        f"{tuple(round(edge, 1) for edge in one.xyxy)} is {whose} alone: nothing was written"
                    )
            boxes += len(expected)
    return boxes


def _unmatched(ours: Detections, others: Detections, confidence: float) -> Iterator[Detection]:
    """Boxes of ours without their like among the others. One at the edge of being dropped may be missing."""
    for one in ours:
        if abs(one.confidence - confidence) < LARGEST_CONFIDENCE_DIFFERENCE:
            continue
        if not any(
            one.class_id == other.class_id
            and abs(one.confidence - other.confidence) <= LARGEST_CONFIDENCE_DIFFERENCE
            and _overlap(one.xyxy, other.xyxy) >= LEAST_OVERLAP
            for other in others
        ):
            yield one


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes."""
    corners = np.array([a, b])
    inside = np.clip(corners[:, 2:].min(0) - corners[:, :2].max(0), 0, None).prod()
    union = (corners[:, 2:] - corners[:, :2]).prod(1).sum() - inside
    return float(inside / union) if union > 0 else 1.0


# ------------------------------------------------------------------------------------------ 3. files and samples


def sample_images() -> list[Image]:
    """The photos that ship inside ultralytics.

    Raises:
        WeightsError: they are not there.
    """
    return [read_image(photo) for photo in sample_photos()]


def _write(contents: Contents, path: Path) -> None:
    """Write under their names what belongs together. The main file is there last, so that it is never there alone."""
    if len(contents) > 1:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OptionsError(f"{path} cannot be written: {error.strerror or error}") from error
    for suffix, content in contents.items():
        write_bytes(path.with_suffix(suffix) if suffix else path, content)
