"""`hatdet metrics`: how close one folder's pictures are to another's."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from hatdet.cli.options import DebugOption, QuietOption

__all__ = ["run"]

JSON_SCHEMA = 1


def run(
    sr: Annotated[Path, typer.Argument(help="Folder of upscaled images, or one image.", metavar="SR")],
    hr: Annotated[Path, typer.Argument(help="Folder of references of the same names, or one image.", metavar="HR")],
    scale: Annotated[int, typer.Option(help="By what SR was upscaled: references may be up to scale - 1 larger.")] = 4,
    crop: Annotated[int | None, typer.Option(help="Pixels left out at each border.", show_default="the scale")] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", help="Write all values to this file; - is stdout.", metavar="FILE")
    ] = None,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """PSNR and SSIM of upscaled images against their references, on Y and on RGB, with the protocol they follow.

    Pairs have the same path below their folder, whatever their suffix. A reference that the scale does not divide is
    cropped on the right and the bottom, as the low-resolution image was before it was reduced.

    Example: `hatdet metrics results/sr/ HR/ --scale 4`
    """
    from hatdet.cli.session import Session, guarded

    with guarded(debug), Session(quiet, debug) as session:
        from hatdet.core.atomic import write_text
        from hatdet.core.errors import InputError, OptionsError
        from hatdet.evaluation.fidelity import Fidelity, Protocol, compare, mean_fidelity
        from hatdet.imaging.files import read_image, to_array
        from hatdet.imaging.sources import find_sources, pair_by_name

        if scale < 1 or (crop is not None and crop < 0):
            raise OptionsError(f"scale must be at least 1 and crop at least 0, got {scale} and {crop}")
        border = scale if crop is None else crop
        protocols = (Protocol("Y", border), Protocol("RGB", border))
        pairs, alone = pair_by_name(find_sources([sr]), find_sources([hr]))
        if sr.is_file() and hr.is_file():  # two files are a pair whatever their names
            pairs, alone = [(find_sources([sr])[0], find_sources([hr])[0])], []
        if not pairs:
            raise OptionsError(f"no image in {sr} has a reference of its name in {hr}")
        to_stdout = json_file == "-"
        rows: list[dict[str, Any]] = []
        values: dict[str, list[Fidelity]] = {protocol.channel: [] for protocol in protocols}
        started = time.perf_counter()
        if not to_stdout:
            session.result(f"{'PSNR-Y':>8}{'SSIM-Y':>9}{'PSNR-RGB':>10}{'SSIM-RGB':>10}")
        for source in alone:
            with session.one(source.path):
                raise InputError(f"{source.path} has no reference of its name in {hr}")
        for image_source, reference_source in session.over(pairs, "comparing"):
            line = ""
            with session.one(image_source.path):
                image, reference = to_array(read_image(image_source.path)), to_array(read_image(reference_source.path))
                h, w = image.shape[:2]
                spare = (reference.shape[0] - h, reference.shape[1] - w)
                if image.dtype != reference.dtype or not all(0 <= side < scale for side in spare):
                    raise InputError(
                        f"{image_source.path} ({w}x{h}, {image.dtype}) does not fit {reference_source.path} "
                        f"({reference.shape[1]}x{reference.shape[0]}, {reference.dtype}) at scale {scale}"
                    )
                if min(h, w) <= 2 * border:
                    raise InputError(f"{image_source.path} ({w}x{h}) has nothing left after a crop of {border}")
                found = {p.channel: compare(image, reference[:h, :w], p) for p in protocols}
                for channel, value in found.items():
                    values[channel].append(value)
                rows.append({"source": str(image_source.path), **_columns(found["Y"], found["RGB"])})
                line = _line(found["Y"], found["RGB"], str(image_source.relative))
            if line and not to_stdout:
                session.result(line)
        means = {channel: mean_fidelity(found) for channel, found in values.items()}
        summary = _columns(*(Fidelity(mean.psnr, mean.ssim) for mean in means.values()))
        if json_file is not None:
            report = {
                "schema": JSON_SCHEMA,
                "protocol": [str(protocol) for protocol in protocols],
                "images": rows,
                "mean": {**summary, "images": means["Y"].images, "identical": means["Y"].identical},
            }
            text = json.dumps(report, indent=1) + "\n"
            if to_stdout:
                sys.stdout.write(text)
            else:
                write_text(Path(json_file), text)
        if not to_stdout:
            fidelity = [Fidelity(mean.psnr, mean.ssim) for mean in means.values()]
            same = means["RGB"].identical
            note = f", {same} identical and in no mean of PSNR" if same else ""
            session.result(_line(fidelity[0], fidelity[1], f"mean of {means['Y'].images} images{note}"))
            session.result("; ".join(str(protocol) for protocol in protocols) + f"; references cropped mod {scale}")
        session.finish(started, hr)


def _columns(y: Any, rgb: Any) -> dict[str, float | None]:
    """JSON has no infinity and no NaN: null."""
    values = {"psnr_y": y.psnr, "ssim_y": y.ssim, "psnr_rgb": rgb.psnr, "ssim_rgb": rgb.ssim}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _line(y: Any, rgb: Any, what: str) -> str:
    return f"{y.psnr:8.3f}{y.ssim:9.4f}{rgb.psnr:10.3f}{rgb.ssim:10.4f}  {what}"
