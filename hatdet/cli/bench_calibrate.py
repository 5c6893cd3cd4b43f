"""`hatdet bench --calibrate`: what everything takes here, measured anew, as a table."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hatdet.cli.session import Session
    from hatdet.deploy.calibration import Calibration, Part

__all__ = ["calibrate"]


def calibrate(
    session: Session,
    upscalers: list[str] | None,
    scale: int,
    device: str,
    precision: str,
    shown: bool,
) -> dict[str, Any]:
    """Measure everything again, print it, and return it as a report.

    Args:
        session: for messages and results.
        upscalers: None for those whose weights are here.
        scale, device, precision: as on the command line.
        shown: whether the table is printed.

    Raises:
        WeightsError, OptionsError, DeviceError: as `calibrated`.
    """
    from hatdet.deploy.calibration import as_json, calibrated

    found = calibrated(
        scale=scale,
        upscalers=upscalers,
        device=device,
        precision=precision,
        again=True,
        on_measure=lambda name: session.say(f"measuring {name} ..."),
    )
    if shown:
        _print(session, found)
    return {
        "schema": 1,
        "command": shlex.join(["hatdet", *sys.argv[1:]]),
        "scale": scale,
        "machine": dict(found.machine),
        "files": [str(file) for file in found.files],
        "rows": [as_json(part) for part in (*found.upscalers, found.detector)],
    }


def _print(session: Session, found: Calibration) -> None:
    from rich.box import MARKDOWN
    from rich.table import Table

    machine = found.machine
    session.result(
        f"{machine['device']}, {machine['threads']} threads, {machine['precision']}, torch {machine['torch']}; "
        "medians of squares"
    )
    table = Table(box=MARKDOWN, header_style="bold")
    table.add_column("", no_wrap=True)
    for title in ("fixed ms", "ms/MP", "off by"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("measured: side ms", no_wrap=True)
    for part in found.upscalers:
        table.add_row(f"{part.name} x{found.scale}", *_cells(part))
    table.add_row(f"{found.detector.name}, canvas", *_cells(found.detector))
    session.table(table)
    folder = found.files[0].parent
    session.result(f"kept in {folder} ({', '.join(file.name for file in found.files)})")


def _cells(part: Part) -> list[str]:
    line = part.line
    measured = ", ".join(f"{side} {ms:.4g}" for side, ms in part.measured)
    return [f"{line.fixed_ms:.1f}", f"{line.ms_per_mp:.0f}", f"{line.deviation:.0%}".replace("%", " %"), measured]
