"""`hatdet export`: a network, or the whole chain, as a file for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hatdet.cli.options import (
    DebugOption,
    QuietOption,
    ScaleOption,
    TrustOption,
    UpscalerOption,
    given,
    writable_file,
)

__all__ = ["run"]

FOLDER = Path("results/export")
_CHAIN = "Chain"


def run(
    context: typer.Context,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="The file.",
            metavar="FILE",
            show_default="results/export/NAME with the ending of the format",
        ),
    ] = None,
    form: Annotated[
        str,
        typer.Option("--format", help="onnx (.onnx), torchscript (.torchscript), openvino (.xml), engine (TensorRT)."),
    ] = "onnx",
    upscaler: UpscalerOption = "hat-xs",
    scale: ScaleOption = 4,
    tile: Annotated[
        int,
        typer.Option(help="Side of the input, in pixels: larger images are cut into such tiles.", min=1),
    ] = 128,
    chain: Annotated[
        bool,
        typer.Option(
            "--chain",
            help="One ONNX file from a low-resolution image to boxes, detector included.",
            rich_help_panel=_CHAIN,
        ),
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            help="The detector: an Ultralytics model's name or file.",
            rich_help_panel=_CHAIN,
            show_default="the embedded yolo11n-upscaled",
        ),
    ] = None,
    conf: Annotated[float, typer.Option(help="Least confidence of a box.", rich_help_panel=_CHAIN)] = 0.25,
    iou: Annotated[
        float, typer.Option(help="Boxes of one class that overlap by more are one object.", rich_help_panel=_CHAIN)
    ] = 0.7,
    max_det: Annotated[int, typer.Option(help="Most boxes of one image.", rich_help_panel=_CHAIN)] = 300,
    trust: TrustOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a super-resolution network for other runtimes; with --chain, upscaler and detector in one file.

    The file is compared with PyTorch on sample photos before it is written. `hatdet sr` and `hatdet detect` run it with
    --engine.

    Examples: `hatdet export --upscaler hat-xs -o hat-xs.onnx` · `hatdet export --chain -o chain.onnx`
    """
    from hatdet.cli.session import Session, guarded

    with guarded(debug), Session(quiet, debug) as session:
        from hatdet.cli.weights import download_progress
        from hatdet.core.errors import OptionsError
        from hatdet.deploy.engines import FORMATS
        from hatdet.deploy.export import check_format, export_chain, export_upscaler
        from hatdet.detection.weights import find_detector
        from hatdet.detection.yolo import load_detector
        from hatdet.sr.weights import find_weights

        if upscaler in ("bicubic", "nearest"):
            raise OptionsError(f"{upscaler} has no network to export: expected a HAT")
        for option in given(context, {"tile"} if chain else {"weights", "conf", "iou", "max_det", "trust"}):
            raise OptionsError(f"{option} {'does not go with' if chain else 'needs'} --chain")
        if chain and form != "onnx":
            raise OptionsError(f"--chain is written as onnx only, got --format {form}")
        target = None if output is None else writable_file(output, "-o")
        check_format(form, target)
        with download_progress(session, upscaler) as on_fetch:
            source = find_weights(upscaler, scale, on_fetch)
        if not chain:
            target = target or FOLDER / f"{source.name}-{tile}{FORMATS[form][0]}"
            difference = export_upscaler(source, scale, form, tile, target)
            session.say(f"compared with PyTorch on tiles of sample photos: differs by {difference:.1e} of full scale")
        else:
            with download_progress(session, str(weights)) as on_fetch:
                file = find_detector(weights, on_fetch)
            detector = load_detector(
                file, confidence=conf, iou=iou, max_detections=max_det, device="cpu", tasks=("detect",), trust=trust
            )
            target = target or FOLDER / f"{source.name}+{detector.name}.onnx"
            check = export_chain(source, scale, detector, file, target)
            if check.boxes:
                session.say(
                    f"compared with PyTorch on sample photos: the same {check.boxes} boxes from {check.confidence:g} on"
                )
            else:
                session.say("warning: this detector finds nothing in the sample photos: no box could be compared")
        session.result(str(target))
