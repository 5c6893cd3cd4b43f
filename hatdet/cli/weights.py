"""Loading with the bytes of a download shown as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hatdet.cli.session import Session

if TYPE_CHECKING:
    from hatdet.core.types import Upscaler
    from hatdet.sr.upscalers import TileSize

__all__ = ["download_progress", "engine_with_progress", "upscaler_with_progress"]


@contextmanager
def download_progress(session: Session, name: str) -> Iterator[Callable[[int, int], None]]:
    """A callback for bytes so far and in all, drawn as a bar on a terminal."""
    if not session.live:
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=session.console, transient=True) as progress:
        task = progress.add_task(f"fetching {name}", total=None, visible=False)
        yield lambda done, total: progress.update(task, completed=done, total=total or None, visible=True)


def _prepare_for(device: str) -> None:
    """A run on the CPU keeps the memory that it frees, for the next tile; the result of anything is the same."""
    from hatdet.core.allocator import keep_freed_memory
    from hatdet.core.device import choose_device

    if choose_device(device).type == "cpu":
        keep_freed_memory()


def upscaler_with_progress(
    session: Session,
    name: str,
    scale: int,
    device: str,
    precision: str,
    tile: TileSize,
    overlap: int,
    batch: int | None,
) -> Upscaler:
    """`load_upscaler` with a bar for a download, and for the tiles of a large image."""
    from hatdet.sr.upscalers import load_upscaler

    _prepare_for(device)
    with download_progress(session, name) as on_fetch:
        return load_upscaler(
            name,
            scale,
            device=device,
            precision=precision,
            tile=tile,
            overlap=overlap,
            batch=batch,
            on_progress=session.part_done,
            on_fetch=on_fetch,
        )


def engine_with_progress(
    session: Session, file: Path, device: str, precision: str, overlap: int, batch: int | None
) -> Upscaler:
    """The upscaler of an exported file, with a bar for the tiles of a large image."""
    from hatdet.deploy.engines import engine_upscaler, load_engine

    _prepare_for(device)
    engine = load_engine(file, device=device, precision=precision)
    return engine_upscaler(engine, overlap=overlap, batch=batch, on_progress=session.part_done)
