"""How fast HAT is here: configurations measured against their peers, taking turns.

    group = one network at one tile and batch: hatdet's own by precision and backend, and its peers:
            spandrel's HAT in fp32 (the published code, the same weights), hatdet's with plain attention

Every configuration is a process of its own, so that memory, allocator and warm-up do not mix. They run one after the
other, one run each, round after round: a busy moment of the machine hits all of them. What is compared is the time of
one round, and reported is the median over the rounds.
"""

from __future__ import annotations

import math
import multiprocessing
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hatdet.core.device import choose_precision
from hatdet.core.errors import HatdetError, OptionsError
from hatdet.core.pareto import pareto_front
from hatdet.core.types import Image
from hatdet.deploy.bench_worker import BACKENDS, PEERS, Configuration, Overlapped, psnr, serve
from hatdet.imaging.files import read_image
from hatdet.imaging.resize import reduced
from hatdet.imaging.sample_photos import sample_photos
from hatdet.sr.catalogue import FAMILIES, default_record, named_record
from hatdet.sr.hat_arch import HAT
from hatdet.sr.weights import SUFFIXES, find_weights, record_path

__all__ = [
    "COLUMNS",
    "LARGEST_LOSS_DB",
    "Group",
    "Lane",
    "Model",
    "Worker",
    "WorkerError",
    "bench_picture",
    "check_choices",
    "find_models",
    "groups_of",
    "mark_front",
    "matmul_share",
    "measure_end_to_end",
    "measure_group",
    "pareto_front",
    "ratio",
    "rows_of",
    "write_random_weights",
]

# What a precision or a backend may cost of the PSNR to the ground truth, on average over the sample photos.
LARGEST_LOSS_DB = 0.01


class WorkerError(Exception):
    """A configuration could not be built, or failed: one line."""


class Asked(Protocol):
    """Who measures: a process, or in tests anything that answers alike."""

    def ask(self, method: str, *arguments: object) -> Any: ...

    def close(self) -> None: ...


class Worker:
    """One configuration in a process of its own, which starts at once and lives until it is closed."""

    def __init__(self, configuration: Configuration) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, configuration), daemon=True)
        self._process.start()
        theirs.close()  # so that its death is the end of the pipe

    def ask(self, method: str, *arguments: object) -> Any:
        """What a method of `Workbench` returns.

        Raises:
            WorkerError: it failed, or the process died.
        """
        try:
            self._connection.send((method, arguments))
            outcome, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(10)
            raise WorkerError(f"its process ended with exit code {self._process.exitcode}") from error
        if outcome == "failed":
            raise WorkerError(answer)
        return answer

    def close(self) -> None:
        self._connection.close()
        self._process.join(5)
        self._process.kill()
        self._process.join()


# ------------------------------------------------------------------------------------------ 1. what to measure


@dataclass(frozen=True)
class Model:
    """A network: its name in the table, what `load_upscaler` takes for it, and whether its weights are random."""

    name: str
    source: str
    random: bool


@dataclass(eq=False)
class Lane:
    """One configuration in its group, and what is known of it so far; what failed says why and takes part no more."""

    model: Model
    configuration: Configuration
    worker: Asked | None = None
    failed: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)  # by round
    matmul: list[float] = field(default_factory=list)  # by round, GFLOP/s
    memory: int | None = None
    difference_db: float | None = None  # to plain attention in fp32; infinite for equal pictures
    psnr_lost: float | None = None  # against it, to the ground truth of the sample photos; of trained weights
    images_per_s: float | None = None
    psnr_y: float | None = None
    map50_95: float | None = None

    @property
    def is_peer(self) -> bool:
        return self.configuration.backend in PEERS

    @property
    def name(self) -> str:
        c = self.configuration
        batch = "" if c.batch is None else f" batch {c.batch}"
        return f"{self.model.name} x{c.scale} {c.precision} {c.backend} tile {c.tile}{batch}"

    def ask(self, method: str, *arguments: object) -> Any:
        """As the worker's, but a failure is the lane's end, and None."""
        if self.failed is not None or self.worker is None:
            return None
        try:
            return self.worker.ask(method, *arguments)
        except WorkerError as error:
            self.failed = str(error)
            return None


@dataclass(eq=False)
class Group(AbstractContextManager["Group"]):
    """One network at one tile and batch: the lanes that take turns, and the work of one run. Closes its workers."""

    lanes: list[Lane]
    flops: int | None = None  # of one run

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for lane in self.lanes:
            if lane.worker is not None:
                lane.worker.close()
                lane.worker = None

    def peer(self, backend: str, precision: str = "fp32") -> Lane | None:
        """The peer of that name, if it takes part."""
        for lane in self.lanes:
            if (lane.configuration.backend, lane.configuration.precision) == (backend, precision):
                return lane
        return None


def check_choices(precisions: Sequence[str], backends: Sequence[str], device: torch.device) -> None:
    """Whether these can be measured here.

    Raises:
        OptionsError: a precision or backend that does not exist, or lacks a package; a precision twice.
    """
    for precision in precisions:
        if precision == "auto":
            raise OptionsError("precision must be fp32 or bf16 for a measurement, got 'auto'")
        choose_precision(precision, device)
    for backend in backends:
        if backend not in BACKENDS:
            raise OptionsError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
        missing = BACKENDS[backend].missing()
        if missing is not None:
            raise OptionsError(f"backend {backend} cannot run: {missing}")
    for what, values in (("precision", precisions), ("backend", backends)):
        if not values or len(set(values)) < len(values):
            raise OptionsError(f"{what} must name at least one, each once, got {','.join(values) or 'none'}")


def find_models(names: Sequence[str], scale: int, folder: Path) -> list[Model]:
    """The networks of these names. One whose weights are not on this machine has random ones, written to the folder.

    Raises:
        OptionsError: a scale that a file does not have, or no network.
        WeightsError: an unknown name, a file that does not exist.
    """
    models = []
    for name in names:
        if name in ("bicubic", "nearest"):
            raise OptionsError(f"{name} is no network: expected one of {', '.join(FAMILIES)}, or a weights file")
        path = Path(name)
        if path.suffix.lower() in SUFFIXES and path.is_file():
            models.append(Model(path.stem, name, random=False))
            continue
        family, found = _catalogued(name, scale)
        if family is None:
            models.append(Model(find_weights(name, scale).name, name, random=False))
        elif found:
            models.append(Model(name, name, random=False))
        else:
            file = folder / f"{family}-x{scale}-random.safetensors"
            write_random_weights({**FAMILIES[family], "upscale": scale}, file)
            models.append(Model(name, str(file), random=True))
    return models


def _catalogued(name: str, scale: int) -> tuple[str | None, bool]:
    """The family that a name is of, and whether its weights are here."""
    if name in FAMILIES:
        try:
            return name, record_path(default_record(name, scale)) is not None
        except OptionsError:  # no weights of that scale exist
            return name, False
    record = named_record(name)
    if record is None:
        return None, False
    if record.scale != scale:
        raise OptionsError(f"{record.name} upscales by {record.scale}, got --scale {scale}")
    return record.family, record_path(record) is not None


def write_random_weights(options: Mapping[str, Any], path: Path) -> None:
    """A network as it is before training, the same one every time, as a weights file.

    Raises:
        OptionsError: a scale that the network cannot have.
    """
    import json

    from safetensors.torch import save_file

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            network = HAT.from_options(options)
        except ValueError as error:
            raise OptionsError(str(error)) from error
    state = {key: value for key, value in network.state_dict().items() if not key.startswith("relative_position_index")}
    save_file(state, path, {"network_g": json.dumps(dict(options))})


def groups_of(
    models: Sequence[Model],
    precisions: Sequence[str],
    backends: Sequence[str],
    tiles: Sequence[int],
    batches: Sequence[int | None],
    *,
    scale: int,
    device: str,
    threads: int | None = None,
) -> list[Group]:
    """All combinations, and in each group the peers: first spandrel if it is there, then plain attention."""
    groups = []
    for model in models:
        for tile in tiles:
            for batch in batches:
                common = Configuration(model.source, scale, tile=tile, batch=batch, device=device, threads=threads)
                wanted = [
                    replace(common, precision=precision, backend=name)
                    for name, backend in PEERS.items()
                    for precision in dict.fromkeys(("fp32", *precisions))
                    if precision in backend.precisions and backend.missing() is None
                ]
                wanted += [
                    replace(common, precision=precision, backend=name)
                    for name in backends
                    for precision in precisions
                    if precision in BACKENDS[name].precisions
                ]
                groups.append(Group([Lane(model, configuration) for configuration in wanted]))
    return groups


def sample_pairs(scale: int) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """The photos that ship inside ultralytics: each reduced, and itself."""
    pairs = []
    for photo in sample_photos():
        pixels = read_image(photo).pixels
        h, w = (side - side % scale for side in pixels.shape[1:])
        reference = pixels[:, :h, :w].contiguous()
        pairs.append((reduced(Image(reference), scale).pixels.numpy(), reference.numpy()))
    return pairs


def bench_picture(size_wh: tuple[int, int]) -> Image:
    """Of a photo that ships inside ultralytics, reduced by 4, a part of that size; repeated where it is too small."""
    pixels = reduced(read_image(sample_photos()[0]), 4).pixels
    (width, height), (_, h, w) = size_wh, pixels.shape
    top, left = max(h - height, 0) // 2, max(w - width, 0) // 2
    repeated = pixels[:, top:, left:].repeat(1, -(-height // (h - top)), -(-width // (w - left)))
    return Image(repeated[:, :height, :width].contiguous())


# ------------------------------------------------------------------------------------------ 2. measuring


def measure_group(
    group: Group,
    picture: Image,
    runs: int,
    folder: Path,
    *,
    start: Callable[[Configuration], Asked] = Worker,
    step_done: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Start the workers of a group, warm them up, and let them take turns for so many rounds.

    Only one process computes at a time. A configuration that fails leaves; the others go on.

    Args:
        group: its lanes are filled in; its workers stay.
        picture: what is upscaled, 8 bits.
        runs: rounds.
        folder: takes exported files.
        start: makes a worker.
        step_done: called with the steps done and the steps in all.
    """
    pixels: NDArray[np.float32] = picture.pixels.numpy()
    done, total = 0, len(group.lanes) * (runs + 1)

    def step() -> None:
        nonlocal done
        done += 1
        step_done(done, total)

    for lane in group.lanes:
        try:
            prepared = _exported(lane.configuration, folder)
        except HatdetError as error:
            lane.failed = str(error)
        else:
            lane.worker = start(prepared)
    for lane in group.lanes:
        lane.about = lane.ask("about") or {}
        lane.memory = lane.ask("warm_up", pixels)
        step()
    for _ in range(runs):
        for lane in group.lanes:
            took = lane.ask("run")
            if took is not None:
                lane.seconds.append(took[0])
                lane.matmul.append(took[1])
            step()
    reference = group.peer("unfused")
    assert reference is not None
    group.flops = reference.ask("flops")
    exact = reference.ask("picture")
    for lane in group.lanes:
        picture_of_lane = lane.ask("picture") if lane is not reference and exact is not None else None
        if picture_of_lane is not None:
            lane.difference_db = psnr(picture_of_lane, exact)
    if not reference.model.random:
        _judge(group.lanes, reference)


def _judge(lanes: Iterable[Lane], reference: Lane) -> None:
    """What each lane loses of the PSNR that plain attention in fp32 has, on the sample photos."""
    pairs = sample_pairs(reference.configuration.scale)
    best = reference.ask("psnr", pairs)
    for lane in lanes:
        own = lane.ask("psnr", pairs) if lane is not reference and best is not None else None
        if own is not None:
            lane.psnr_lost = best - own


def passes(lane: Lane) -> bool:
    """Whether a lane's pictures are as good as those of fp32."""
    return lane.psnr_lost is not None and lane.psnr_lost <= LARGEST_LOSS_DB


def _exported(configuration: Configuration, folder: Path) -> Configuration:
    """What the worker is told: of an exported form the file, written here, since that takes memory of its own."""
    form = {**BACKENDS, **PEERS}[configuration.backend].form
    if form is None:
        return configuration
    from hatdet.deploy.engines import FORMATS
    from hatdet.deploy.export import export_upscaler

    source = find_weights(configuration.upscaler, configuration.scale)
    path = folder / f"{source.name}-{configuration.tile}{FORMATS[form][0]}"
    if not path.exists():  # for another precision of the same form
        export_upscaler(source, configuration.scale, form, configuration.tile, path)
    return replace(configuration, upscaler=str(path))


def measure_end_to_end(group: Group, sources: Sequence[Path], folder: Path, overlapped: Overlapped) -> None:
    """Images a second of read, upscale, detect and write, for hatdet's own configurations. See `Workbench.chain`."""
    for lane in group.lanes:
        if not lane.is_peer:
            seconds = lane.ask("chain", [str(source) for source in sources], str(folder), overlapped)
            lane.images_per_s = None if seconds is None else len(sources) / seconds


# ------------------------------------------------------------------------------------------ 3. what came out


# Of the table: title, key of the row, factor, digits.
COLUMNS = (
    ("ms/MP", "ms_per_megapixel", 1, 0),
    ("ms", "ms", 1, 1),
    ("x spandrel", "ratio_spandrel", 1, 2),
    ("x unfused", "ratio_unfused", 1, 2),
    ("GFLOP/s", "gflops", 1, 0),
    ("% of matmul", "matmul_share", 100, 0),
    ("images/s", "images_per_s", 1, 2),
    ("MB", "memory_bytes", 1e-6, 0),
    ("dB to fp32", "difference_db", 1, 1),
    ("dB lost", "psnr_lost", 1, 4),
    ("PSNR-Y", "psnr_y", 1, 2),
    ("mAP50-95", "map50_95", 100, 1),
)


def rows_of(group: Group, size_wh: tuple[int, int]) -> list[dict[str, Any]]:
    """A row for each configuration: plain values, None for what is not known.

    `ratio_spandrel` is against spandrel in fp32, `ratio_unfused` against plain attention in the same precision: medians
    over the rounds. `difference_db` is None where nothing differs, and `same_as_fp32` says so. `psnr_lost` is to the
    ground truth of the sample photos, against plain attention in fp32.
    """
    spandrel = group.peer("spandrel")
    rows = []
    for lane in group.lanes:
        c = lane.configuration
        measured = lane.failed is None and bool(lane.seconds)
        seconds = statistics.median(lane.seconds) if measured else None
        flops = group.flops if measured else None
        db = lane.difference_db
        rows.append(
            {
                "upscaler": lane.model.name,
                "random_weights": lane.model.random,
                "scale": c.scale,
                "precision": c.precision,
                "backend": c.backend,
                "peer": lane.is_peer,
                "tile": c.tile,
                "batch": c.batch,
                "device": lane.about.get("device"),
                "threads": lane.about.get("threads"),
                "seconds": lane.seconds,
                "ms": None if seconds is None else seconds * 1e3,
                "ms_per_megapixel": None if seconds is None else seconds * 1e9 / math.prod(size_wh),
                "ratio_spandrel": ratio(lane, spandrel),
                "ratio_unfused": ratio(lane, group.peer("unfused", c.precision)),
                "gflop": None if flops is None else flops / 1e9,
                "gflops": None if flops is None or seconds is None else flops / 1e9 / seconds,
                "matmul_gflops": statistics.median(lane.matmul) if measured else None,
                "matmul_share": None if flops is None else matmul_share(lane, flops),
                "images_per_s": lane.images_per_s,
                "memory_bytes": lane.memory,
                "difference_db": db if db is None or math.isfinite(db) else None,
                "same_as_fp32": None if db is None else math.isinf(db),
                "psnr_lost": lane.psnr_lost,
                "psnr_y": lane.psnr_y,
                "map50_95": lane.map50_95,
                "front": False,
                "error": lane.failed,
            }
        )
    return rows


def ratio(lane: Lane, peer: Lane | None) -> float | None:
    """How many times faster than the peer: the median over the rounds. None if one of them did not run them all."""
    if peer is None or lane.failed is not None or peer.failed is not None or not lane.seconds:
        return None
    return statistics.median(theirs / own for theirs, own in zip(peer.seconds, lane.seconds, strict=True))


def matmul_share(lane: Lane, flops: int) -> float:
    """The rate of a run over that of matmuls right after it: the median over the rounds."""
    return statistics.median(
        flops / 1e9 / seconds / rate for seconds, rate in zip(lane.seconds, lane.matmul, strict=True)
    )


def mark_front(rows: Iterable[dict[str, Any]], against: str) -> list[dict[str, Any]]:
    """Set `front` of the rows that no other beats in time and in `against` (`psnr_y`, `memory_bytes`), and return all
    that have both numbers.
    """
    known = [row for row in rows if row["ms_per_megapixel"] is not None and row[against] is not None]
    sign = -1 if against == "psnr_y" else 1
    for index in pareto_front([(row["ms_per_megapixel"], sign * row[against]) for row in known]):
        known[index]["front"] = True
    return known
