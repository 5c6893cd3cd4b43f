"""`hatdet bench`: how fast, how large and how good HAT is on this machine, against its peers."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hatdet.cli.options import DebugOption, DeviceOption, QuietOption, ScaleOption, given, writable_file

if TYPE_CHECKING:
    from hatdet.cli.session import Session
    from hatdet.core.types import Image
    from hatdet.deploy.bench import Group, Lane
    from hatdet.evaluation.samples import Sample

__all__ = ["run"]

_WHAT = "Configurations"
_WITH = "Measurement"
_FILES = "Results"
JSON_SCHEMA = 1
PLOT_SUFFIXES = (".png", ".svg")
BUSY = 0.5  # processes that wait for a processor, for each processor


def run(
    context: typer.Context,
    upscaler: Annotated[
        str,
        typer.Option(
            help="Networks: hat-xs, hat-s, hat, hat-l, real-hat, names from `hatdet models`, weights files. Nothing is "
            "fetched: where weights are not here, random ones are as fast.",
            metavar="A,B,...",
            rich_help_panel=_WHAT,
        ),
    ] = "hat-xs,hat-s",
    scale: ScaleOption = 4,
    precision: Annotated[str, typer.Option(help="fp32, bf16.", metavar="A,B", rich_help_panel=_WHAT)] = "fp32,bf16",
    backend: Annotated[
        str,
        typer.Option(
            help="How the network is run: eager, or exported as onnx, openvino, torchscript, engine.",
            metavar="A,B,...",
            rich_help_panel=_WHAT,
        ),
    ] = "eager",
    tile: Annotated[
        str, typer.Option(help="Sides of tiles, in input pixels.", metavar="N,N,...", rich_help_panel=_WHAT)
    ] = "256",
    batch: Annotated[
        str | None,
        typer.Option(
            help="Tiles in one call of the network; by default 4 on CUDA, else 1.",
            metavar="N,N,...",
            rich_help_panel=_WHAT,
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        str,
        typer.Option(
            help="Width and height of the picture that is upscaled, or an image to upscale.",
            metavar="WxH|IMAGE",
            rich_help_panel=_WITH,
        ),
    ] = "64x64",
    runs: Annotated[
        int, typer.Option(help="Rounds, in which all configurations take turns.", min=1, rich_help_panel=_WITH)
    ] = 5,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Measure PSNR-Y and mAP too: an Ultralytics data file (its val split) or COCO annotations.",
            metavar="FILE",
            rich_help_panel=_WITH,
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(help="Only the first so many images of the data, by name.", min=1, rich_help_panel=_WITH)
    ] = 10,
    targets: Annotated[
        bool,
        typer.Option(
            "--targets", help="Check instead what hatdet is to reach; takes --runs and --json.", rich_help_panel=_WITH
        ),
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="With --targets: leave out what takes minutes.", rich_help_panel=_WITH)
    ] = False,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Measure instead, anew, what `hatdet detect --budget` reckons with: the time of each upscaler whose "
            "weights are here, and of the detector, over the pixels. Takes --upscaler, --scale, --precision, --device "
            "and --json.",
            rich_help_panel=_WITH,
        ),
    ] = False,
    json_file: Annotated[
        str | None,
        typer.Option("--json", help="Write all numbers; - is stdout.", metavar="FILE", rich_help_panel=_FILES),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(
            help="Draw time against PSNR-Y, or without --data against memory (.png, .svg).",
            metavar="FILE",
            rich_help_panel=_FILES,
        ),
    ] = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Time HAT here: networks, precisions, backends and tiles, always beside spandrel's HAT and plain attention.

    Each configuration has a process of its own; they take turns, and medians over the rounds are printed. ms/MP is for
    a million input pixels, ms for the picture of --size; x how many times faster than spandrel in fp32, and than plain
    attention in the same precision; images/s for reading, upscaling, detecting and writing; MB the memory of one run
    (on a GPU with the weights); dB to fp32 how far the result is from that of plain fp32.

    --calibrate prints for each upscaler and the detector the line that its times lie on, by which `hatdet detect
    --budget 200ms` chooses: a fixed part of a call, and ms for a million pixels (of the image for an upscaler, of the
    canvas for the detector); off by says how far the worst of the measured sizes is from it. It is measured by itself
    when it is first needed; again it should be when the machine has changed, or was busy then.

    Examples: `hatdet bench` · `hatdet bench --upscaler hat-xs --tile 64,128,256 --size photo.png --plot speed.svg` ·
    `hatdet bench --targets` · `hatdet bench --calibrate`
    """
    from tempfile import TemporaryDirectory

    from hatdet.cli.session import FAILED, Session, guarded

    with guarded(debug), Session(quiet, debug) as session, TemporaryDirectory(prefix="hatdet-bench-") as temporary:
        from hatdet.core.errors import OptionsError

        if json_file not in (None, "-"):
            writable_file(json_file, "--json")
        if plot is not None and writable_file(plot, "--plot").suffix.lower() not in PLOT_SUFFIXES:
            raise OptionsError(f"--plot needs a file ending in {' or '.join(PLOT_SUFFIXES)}, got {plot!r}")
        if quick and not targets:
            raise OptionsError("--quick leaves out targets: it needs --targets")
        folder = Path(temporary)
        if calibrate:
            report = _calibrate(context, session, upscaler, scale, precision, device, json_file != "-")
        elif targets:
            report = _check(session, folder, runs, quick, json_file != "-")
        else:
            chosen = _Choices(
                _listed(upscaler, "upscaler"),
                scale,
                _listed(precision, "precision"),
                _listed(backend, "backend"),
                _numbers(tile, "tile"),
                [None] if batch is None else _numbers(batch, "batch"),
                device,
            )
            report = _measure(session, folder, chosen, size, runs, data, limit)
            if json_file != "-":
                _print_table(session, report)
            if plot is not None:
                _draw(report, Path(plot))
                session.say(f"plot in {plot}")
        if json_file is not None:
            _write_json(session, report, json_file)
        failed = [row for row in report["rows"] if row.get("error")]
        if failed:
            raise typer.Exit(FAILED)


# Of the options that say what is measured and how, those that a calibration takes.
_CALIBRATED = ("calibrate", "upscaler", "scale", "precision", "json_file", "device", "quiet", "debug")


def _calibrate(
    context: typer.Context, session: Session, upscaler: str, scale: int, precision: str, device: str, shown: bool
) -> dict[str, Any]:
    """The report of `--calibrate`; upscalers and precision are bench's own only where they are given."""
    from hatdet.cli.bench_calibrate import calibrate
    from hatdet.core.errors import OptionsError

    others = given(context, {str(parameter.name) for parameter in context.command.params} - {*_CALIBRATED})
    if others:
        raise OptionsError(f"{others[0]} does not go with --calibrate")
    machine = _machine()
    for note in _busy(machine):
        session.say(note)
    names = _listed(upscaler, "upscaler") if given(context, ("upscaler",)) else None
    return calibrate(session, names, scale, device, precision if given(context, ("precision",)) else "auto", shown)


class _Choices:
    """What is to be measured, checked before anything starts."""

    def __init__(
        self,
        upscalers: list[str],
        scale: int,
        precisions: list[str],
        backends: list[str],
        tiles: list[int],
        batches: Sequence[int | None],
        device: str,
    ) -> None:
        from hatdet.core.device import choose_device
        from hatdet.deploy.bench import check_choices

        check_choices(precisions, backends, choose_device(device))
        self.upscalers, self.scale, self.precisions, self.backends = upscalers, scale, precisions, backends
        self.tiles, self.batches, self.device = tiles, batches, device

    def groups(self, folder: Path) -> list[Group]:
        from hatdet.deploy.bench import find_models, groups_of

        return groups_of(
            find_models(self.upscalers, self.scale, folder),
            self.precisions,
            self.backends,
            self.tiles,
            self.batches,
            scale=self.scale,
            device=self.device,
        )


def _listed(text: str, what: str) -> list[str]:
    from hatdet.core.errors import OptionsError

    values = [value.strip() for value in text.split(",") if value.strip()]
    if not values or len(set(values)) < len(values):
        raise OptionsError(f"{what} must name at least one, each once, got {text!r}")
    return values


def _numbers(text: str, what: str) -> list[int]:
    from hatdet.core.errors import OptionsError

    values = _listed(text, what)
    if not all(value.isdigit() and int(value) > 0 for value in values):
        raise OptionsError(f"{what} must be whole numbers from 1, as in 64,128, got {text!r}")
    return [int(value) for value in values]


def _picture(size: str) -> Image:
    """The image of that path, or a part of a photo of that size."""
    from hatdet.core.errors import OptionsError
    from hatdet.core.types import Image
    from hatdet.deploy.bench import bench_picture
    from hatdet.imaging.files import read_image

    if found := re.fullmatch(r"(\d{1,5})x(\d{1,5})", size):
        width, height = int(found[1]), int(found[2])
        if not width or not height:
            raise OptionsError(f"size must be at least 1x1, got {size}")
        return bench_picture((width, height))
    if not Path(size).is_file():
        raise OptionsError(f"size must be a width and a height, as in 640x480, or an image, got {size!r}")
    return Image(read_image(size).pixels)


# ------------------------------------------------------------------------------------------ 1. measuring


def _measure(
    session: Session, folder: Path, chosen: _Choices, size: str, runs: int, data: Path | None, limit: int
) -> dict[str, Any]:
    """The report of all configurations."""
    from hatdet.cli.overlap import overlapped
    from hatdet.core.errors import OptionsError
    from hatdet.deploy.bench import Worker, mark_front, measure_end_to_end, measure_group, rows_of
    from hatdet.imaging.sample_photos import write_samples

    machine = _machine()
    picture = _picture(size)
    quality = None if data is None else _Quality(session, data, limit, chosen, folder)
    sources = write_samples(folder / "sources") if quality is None else quality.sources()
    groups = chosen.groups(folder)
    rows: list[dict[str, Any]] = []
    for group in session.over(groups, "measuring"):
        with group:
            measure_group(group, picture, runs, folder, start=Worker, step_done=session.part_done)
            measure_end_to_end(group, sources, folder / "drawn", overlapped)
            if quality is not None:
                quality.judge(group)
        rows += rows_of(group, (picture.width, picture.height))
    broken = [row for row in rows if row["error"] is not None and not row["peer"]]
    if len(broken) == sum(not row["peer"] for row in rows):
        raise OptionsError(f"nothing could be measured: {broken[0]['error']}")
    against = "psnr_y" if data is not None else "memory_bytes"
    mark_front(rows, against)
    return {
        "schema": JSON_SCHEMA,
        "command": shlex.join(["hatdet", *sys.argv[1:]]),
        "settings": {
            "width": picture.width,
            "height": picture.height,
            "runs": runs,
            "data": None if data is None else str(data),
            "images": len(sources),
            "plotted": against,
        },
        "machine": machine,
        "notes": [*_busy(machine), *_notes(groups, (picture.width, picture.height))],
        "rows": rows,
    }


def _busy(machine: dict[str, Any]) -> list[str]:
    """A warning where others compute too: the threads of a network wait for the slowest of them."""
    load, processors = machine["load"], machine["processors"]
    if load is None or load <= BUSY * processors:
        return []
    return [f"this machine was busy before the start (load {load:.1f} on {processors} processors): mistrust the times"]


def _machine() -> dict[str, Any]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    try:
        load = os.getloadavg()[0]
    except OSError:  # not everywhere
        load = None
    versions: dict[str, str | None] = {}
    for name in ("hatdet", "torch", "spandrel", "onnxruntime", "openvino", "ultralytics"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "platform": platform.platform(),
        "processors": os.cpu_count() or 1,
        "load": load,
        "python": platform.python_version(),
        "versions": versions,
    }


def _notes(groups: Sequence[Group], size_wh: tuple[int, int]) -> list[str]:
    """What a reader of the table has to know."""
    from hatdet.deploy.bench_worker import BACKENDS, PEERS

    notes = [missing for backend in PEERS.values() if (missing := backend.missing()) is not None]
    lanes = [lane for group in groups for lane in group.lanes]
    random = dict.fromkeys(lane.model.name for lane in lanes if lane.model.random)
    if random:
        notes.append(
            f"random weights: {', '.join(random)} (not on this machine; speed does not depend on them, "
            "there is no PSNR, and dB to fp32 says nothing of trained ones)"
        )
    precisions = {lane.configuration.precision for lane in lanes}
    for name in dict.fromkeys(lane.configuration.backend for lane in lanes if not lane.is_peer):
        lacking = sorted(precisions - set(BACKENDS[name].precisions))
        notes += [f"{name} has no {precision}" for precision in lacking]
        tiles = {lane.configuration.tile for lane in lanes}
        if BACKENDS[name].form is not None and max(tiles) > min(size_wh):
            notes.append(
                f"{name} computes whole tiles: a smaller picture is padded, which costs time and changes what the "
                "channel attention averages over (dB to fp32)"
            )
    return notes


class _Quality:
    """PSNR-Y and mAP of trained configurations on the first images of a data set, by the rules of `hatdet eval`."""

    def __init__(self, session: Session, data: Path, limit: int, chosen: _Choices, folder: Path) -> None:
        from hatdet.cli.evaluate_parts import Machine, load_detectors
        from hatdet.cli.evaluate_work import BOXES_KEPT, CONFIDENCE, NMS_IOU
        from hatdet.evaluation.low_resolution import LowResolution
        from hatdet.evaluation.samples import read_detection_data

        found = read_detection_data(data)
        self._samples: Sequence[Sample] = list(found.split("val"))[:limit]
        self._names, self._folder, self._scale = found.names, folder, chosen.scale
        self._how = LowResolution(chosen.scale)
        machine = Machine(chosen.device, "auto", chosen.tiles[0], 0, None)
        self._largest = machine.largest_canvas
        self._detectors, self._classes = load_detectors(
            session, [None], found.names, machine, CONFIDENCE, NMS_IOU, BOXES_KEPT
        )

    def sources(self) -> list[Path]:
        """The low-resolution images, as files."""
        from hatdet.evaluation.low_resolution import read_pair
        from hatdet.imaging.files import write_image

        written = []
        for number, sample in enumerate(self._samples):
            written.append(self._folder / "sources" / f"{number}.png")
            write_image(read_pair(sample, self._names, self._how).low, written[-1])
        return written

    def judge(self, group: Group) -> None:
        from hatdet.deploy.bench import WorkerError

        for lane in group.lanes:
            if lane.worker is None or lane.failed or lane.is_peer or lane.model.random:
                continue
            try:
                self._judge(lane)
            except WorkerError as error:
                lane.failed = str(error)

    def _judge(self, lane: Lane) -> None:
        from hatdet.cli.evaluate_parts import only_these
        from hatdet.evaluation.arms import Arm, StoredUpscaler
        from hatdet.evaluation.average_precision import coco_summary
        from hatdet.evaluation.fidelity import Fidelity, mean_fidelity
        from hatdet.evaluation.joint import JointEvaluation
        from hatdet.evaluation.low_resolution import read_pair
        from hatdet.evaluation.store import Store

        with Store(self._folder / "evaluated") as store:
            arm = Arm(lane.name, StoredUpscaler(_Remote(lane), lane.name, store))
            evaluation = JointEvaluation([arm], self._detectors, self._scale, store, None, self._largest, self._scale)
            for sample in self._samples:
                pair = read_pair(sample, self._names, self._how)
                truth = only_these(pair.truth(self._scale), self._classes)
                evaluation.add(sample.relative.as_posix(), pair.low, pair.reference, truth)
            numbers = [image.fidelity[arm.name] for image in evaluation.images]
            psnr = mean_fidelity(Fidelity(one["psnr_y"], one["ssim_y"]) for one in numbers).psnr
            lane.psnr_y = psnr if math.isfinite(psnr) else None  # NaN: pictures too small
            truths = [image.truth for image in evaluation.images]
            founds = evaluation.founds(self._detectors[0], arm)
            lane.map50_95 = coco_summary(truths, founds, self._classes).map50_95


class _Remote:
    """The upscaler of a worker; itself an `Upscaler`."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    @property
    def name(self) -> str:
        return self._lane.name

    @property
    def scale(self) -> int:
        return self._lane.configuration.scale

    def __call__(self, image: Image) -> Image:
        import torch

        from hatdet.core.types import Image

        assert self._lane.worker is not None
        pixels = self._lane.worker.ask("upscaled", image.pixels.numpy())
        return Image(torch.from_numpy(pixels), image.scale * self.scale, image.bit_depth)


def _check(session: Session, folder: Path, runs: int, quick: bool, shown: bool) -> dict[str, Any]:
    """The report of the targets; each line is printed when it is known."""
    from hatdet.cli.overlap import overlapped
    from hatdet.deploy.bench import Worker
    from hatdet.deploy.bench_targets import Checks, check_targets, has_cuda

    machine = _machine()
    for note in _busy(machine):
        session.say(note)
    checks = Checks(folder, runs, has_cuda(), overlapped, quick, start=Worker)
    rows = []
    for outcome in check_targets(checks):
        row = outcome.as_row()
        rows.append(row)
        if shown:
            value = "" if row["shown"] is None else f"{row['shown']}, "
            session.result(f"{row['state']:8} {row['text']}: {value}wanted {row['bound']} ({row['detail']})")
    return {
        "schema": JSON_SCHEMA,
        "command": shlex.join(["hatdet", *sys.argv[1:]]),
        "machine": machine,
        "rows": rows,
    }


# ------------------------------------------------------------------------------------------ 2. showing


def _print_table(session: Session, report: dict[str, Any]) -> None:
    from rich.box import MARKDOWN
    from rich.table import Table

    from hatdet.deploy.bench import COLUMNS

    rows, settings = report["rows"], report["settings"]
    varied = [key for key in ("tile", "batch") if len({row[key] for row in rows}) > 1]
    columns = [column for column in COLUMNS if any(row[column[1]] is not None for row in rows)]
    table = Table(box=MARKDOWN, header_style="bold")
    for title in ("network", "precision", "backend", *varied):
        table.add_column(title, no_wrap=True)
    for title, *_ in columns:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        cells = [f"{row['upscaler']} x{row['scale']}", row["precision"], row["backend"]]
        cells += ["-" if row[key] is None else str(row[key]) for key in varied]
        cells += [_cell(row, key, factor, digits) for _, key, factor, digits in columns]
        table.add_row(*cells, row["error"] or ("front" if row["front"] else ""))
    fixed = [f"{key} {rows[0][key]}" for key in ("tile", "batch") if key not in varied and rows[0][key] is not None]
    devices = dict.fromkeys(f"{row['device']}, {row['threads']} threads" for row in rows if row["device"])
    session.result(
        f"{settings['width']}x{settings['height']}, median of {settings['runs']}, taking turns; "
        + "; ".join([*fixed, *devices, f"torch {report['machine']['versions']['torch']}"])
    )
    session.table(table)
    for note in report["notes"]:
        session.result(note)


def _cell(row: dict[str, Any], key: str, factor: float, digits: int) -> str:
    if key == "difference_db" and row["same_as_fp32"]:
        return "same"
    return "-" if row[key] is None else f"{row[key] * factor:.{digits}f}"


def _draw(report: dict[str, Any], path: Path) -> None:
    """Time against quality or memory; what no other configuration beats is joined by a line."""
    from matplotlib.figure import Figure

    from hatdet.core.atomic import write_bytes

    against = report["settings"]["plotted"]
    title, factor = {"psnr_y": ("PSNR-Y in dB", 1.0), "memory_bytes": ("memory in MB", 1e-6)}[against]
    rows = [row for row in report["rows"] if row["ms_per_megapixel"] is not None and row[against] is not None]
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="ms for a million input pixels", ylabel=title)
    for row in rows:
        x, y = row["ms_per_megapixel"], row[against] * factor
        axes.plot(x, y, "o", color="C0" if row["front"] else "0.6")
        batch = "" if row["batch"] is None else f" {row['batch']}"
        name = f"{row['upscaler']} {row['precision']} {row['backend']} {row['tile']}{batch}"
        axes.annotate(name, (x, y), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=7)
    front = sorted((row["ms_per_megapixel"], row[against] * factor) for row in rows if row["front"])
    axes.plot([x for x, _ in front], [y for _, y in front], "o-", color="C0", label="no other is better in both")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:,.0f}")
    axes.tick_params(which="both", axis="x", rotation=30)
    axes.margins(0.15)
    axes.legend()
    axes.grid(alpha=0.3)
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:].lower(), dpi=150)
    write_bytes(path, content.getvalue())


def _write_json(session: Session, report: dict[str, Any], file: str) -> None:
    from hatdet.core.atomic import write_text

    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    if file == "-":
        sys.stdout.write(text)
    else:
        write_text(Path(file), text)
        session.say(f"numbers in {file}")
