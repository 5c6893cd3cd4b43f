"""`hatdet eval`: does upscaling help on these images, and by how much?"""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hatdet.cli.detect_slices import MergeOption, SliceOption, SliceOverlapOption
from hatdet.cli.fleet import RayCoresOption, RayOption, RayWorkersOption
from hatdet.cli.options import (
    BatchOption,
    DebugOption,
    DeviceOption,
    OverlapOption,
    PrecisionOption,
    QuietOption,
    TileOption,
    TrustOption,
    writable_file,
)

if TYPE_CHECKING:
    from hatdet.cli.session import Session
    from hatdet.core.types import Image
    from hatdet.evaluation.joint import JointEvaluation
    from hatdet.evaluation.low_resolution import LowResolution
    from hatdet.evaluation.results import Results
    from hatdet.evaluation.samples import Sample

__all__ = ["run"]

_DATA = "Data"
_COMPARISON = "Comparison"
_VERDICT = "Verdict"
_FILES = "Results"
DEFAULT_ARMS = "lr,lr@imgsz,nearest,bicubic,hat-xs,hr"
JSON_SCHEMA = 1
SHOWN_PROBLEMS = 20


def run(
    data: Annotated[
        Path,
        typer.Option(
            help="Ultralytics data file (YAML: images and YOLO labels), or COCO annotations (JSON). It, its images "
            "and labels, --images and --lr may be s3://, gs://.",
            metavar="FILE",
            rich_help_panel=_DATA,
        ),
    ],
    split: Annotated[str, typer.Option(help="Which images of the data file.", rich_help_panel=_DATA)] = "val",
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the images of a COCO file.", rich_help_panel=_DATA, show_default="looked for near it"
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Only the first so many images, by name.", min=1, rich_help_panel=_DATA)
    ] = None,
    scale: Annotated[int, typer.Option(help="Of the reduction, and of the upscaling after it.", min=2)] = 4,
    degrade: Annotated[
        Path | None,
        typer.Option(
            help="Reduce by blur, noise and JPEG too: a YAML file with BasicSR's names, seeded.",
            metavar="FILE",
            rich_help_panel=_DATA,
        ),
    ] = None,
    lr: Annotated[
        Path | None,
        typer.Option(
            help="Folder of low-resolution images of the same names: pairs that were photographed.",
            metavar="DIR",
            rich_help_panel=_DATA,
        ),
    ] = None,
    no_reference: Annotated[
        bool,
        typer.Option(
            "--no-reference", help="The images are themselves of low resolution: mAP only.", rich_help_panel=_DATA
        ),
    ] = False,
    arms: Annotated[
        str,
        typer.Option(
            help="What to compare: lr (its own size), lr@imgsz (the detector's letterbox enlarges it), nearest, "
            "bicubic, any upscaler's name or weights file, hr (the ceiling); sliced:hat-xs (looked at in slices), "
            "sliced:none (slices that are not upscaled), regions:hat-xs, regions:hat-xs@0.3 (only parts are upscaled, "
            "at most that share of the pixels).",
            metavar="A,B,...",
            rich_help_panel=_COMPARISON,
        ),
    ] = DEFAULT_ARMS,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="The detector, by name or file; may be repeated to compare several.",
            rich_help_panel=_COMPARISON,
            show_default="the embedded one",
        ),
    ] = None,
    imgsz: Annotated[
        int | None,
        typer.Option(
            help="Long side of the detector's input in all arms but lr.",
            rich_help_panel=_COMPARISON,
            show_default="the upscaled side, at most 2560",
        ),
    ] = None,
    slice_size: SliceOption = None,
    slice_overlap: SliceOverlapOption = 0.2,
    merge: MergeOption = "nms",
    size_frame: Annotated[
        str | None,
        typer.Option(
            help="In whose pixels tiny (< 16²), small (< 32²), medium (< 96²) and large are meant: hr or source (the "
            "low-resolution image).",
            rich_help_panel=_COMPARISON,
            show_default="hr, or source with --no-reference",
        ),
    ] = None,
    resamples: Annotated[int, typer.Option(help="Of the bootstrap.", min=2000, rich_help_panel=_VERDICT)] = 2000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.", min=0, rich_help_panel=_VERDICT)] = 0,
    groups: Annotated[
        str | None,
        typer.Option(
            help="Resample whole sequences: folder, or a regular expression that finds a sequence's name in an image's "
            "path, such as '^seq\\d+'.",
            metavar="folder|REGEX",
            rich_help_panel=_VERDICT,
        ),
    ] = None,
    margin: Annotated[
        float, typer.Option(help="A gain of fewer points of mAP is not worth an upscaler.", rich_help_panel=_VERDICT)
    ] = 1.0,
    json_file: Annotated[
        str | None,
        typer.Option("--json", help="Write all numbers; - is stdout.", metavar="FILE", rich_help_panel=_FILES),
    ] = None,
    html_file: Annotated[
        str | None,
        typer.Option("--html", help="Write the report: one file, no network.", metavar="FILE", rich_help_panel=_FILES),
    ] = None,
    csv_file: Annotated[
        str | None,
        typer.Option("--csv", help="Write the table for a spreadsheet.", metavar="FILE", rich_help_panel=_FILES),
    ] = None,
    save_boxes: Annotated[
        Path | None,
        typer.Option(
            help="Write labels and boxes in COCO's JSON, for other evaluators.", metavar="DIR", rich_help_panel=_FILES
        ),
    ] = None,
    cache: Annotated[
        Path,
        typer.Option(
            help="Keeps upscaled images and boxes: a second run, or one that was stopped, goes on from there.",
            metavar="DIR",
            rich_help_panel=_FILES,
        ),
    ] = Path("results/eval/cache"),
    tile: TileOption = 256,
    overlap: OverlapOption = 32,
    batch: BatchOption = None,
    device: DeviceOption = "auto",
    ray: RayOption = None,
    ray_workers: RayWorkersOption = None,
    ray_cores: RayCoresOption = 1,
    precision: PrecisionOption = "auto",
    trust: TrustOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Does upscaling help on your data, and by how much? Fidelity and detection on the same images, with controls.

    Every image is reduced, shown to the detector in each of the ways that --arms names, and the boxes are compared with
    the labels by COCO's protocol. Differences come with intervals (a paired bootstrap over the images) and a verdict.

    Example: `hatdet eval --data coco128.yaml --html report.html`
    """
    from hatdet.cli.session import Session, guarded

    with guarded(debug), Session(quiet, debug) as session:
        from hatdet.cli.detect_slices import Slicing
        from hatdet.cli.evaluate_work import BOXES_KEPT, CONFIDENCE, NMS_IOU, Comparing, evaluated
        from hatdet.cli.fleet import chosen_fleet, device_of, joined, settings_of
        from hatdet.core.errors import OptionsError
        from hatdet.evaluation.arms import check_arms
        from hatdet.evaluation.boxes import MAX_DETECTIONS
        from hatdet.evaluation.low_resolution import LowResolution, find_low_images
        from hatdet.evaluation.results import describe_data, measure
        from hatdet.evaluation.samples import read_detection_data
        from hatdet.evaluation.store import Store
        from hatdet.evaluation.stored_data import AnyFiles, here_or_stored, saying_urls
        from hatdet.imaging.degradations import Degradation
        from hatdet.runs.storage import with_urls

        files = {option: name for option, name in (("json", json_file), ("html", html_file), ("csv", csv_file)) if name}
        for option, name in files.items():
            if (option, name) != ("json", "-"):
                writable_file(name, f"--{option}")
        if sum(bool(given) for given in (degrade, lr, no_reference)) > 1:
            raise OptionsError(
                "--degrade, --lr and --no-reference exclude one another: each says where LR images come from"
            )
        if size_frame not in (None, "hr", "source"):
            raise OptionsError(f"size-frame must be hr or source, got {size_frame!r}")
        if no_reference and arms == DEFAULT_ARMS:
            arms = DEFAULT_ARMS.removesuffix(",hr")
        names = check_arms(arms.split(","), reference=not no_reference)
        there, called = AnyFiles(), with_urls(str(data))
        with saying_urls():
            found = read_detection_data(here_or_stored(data), images and here_or_stored(images), there)
            samples = list(found.split(split))[:limit]
            low_images = find_low_images(here_or_stored(lr), there) if lr else None
        sequences = _sequences(samples, groups)
        degradation = Degradation.read(degrade) if degrade else None
        how = LowResolution(scale, degradation, low_images, reference=not no_reference)
        frame = size_frame or ("source" if no_reference else "hr")
        slicing = Slicing(slice_size, slice_overlap, merge)
        slicing.check()
        comparing = Comparing(
            names,
            weights or [None],
            found.names,
            how,
            imgsz,
            frame,
            precision,
            tile,
            overlap,
            batch,
            slicing,
            trust,
        )
        fleet = chosen_fleet(device, ray, ray_workers, ray_cores)
        started = time.perf_counter()
        with Store(cache) as store, joined(fleet):
            evaluation, classes, machine = comparing.load(session, device_of(device, fleet), store)
            problems: list[Any] = list(found.problems)
            read: list[Sample] = []
            where = settings_of({"device": str(machine.torch_device)}, fleet, precision)
            try:
                running = evaluated(samples, comparing, evaluation, classes, session, fleet, where, there)
                for sample, finish in session.over(running, "evaluating", len(samples)):
                    with session.one(with_urls(str(sample.image))):
                        problems += finish()
                        read.append(sample)
            except KeyboardInterrupt:
                session.say(f"{len(read)} of {len(samples)} images are in {cache}: the same command goes on from there")
                raise
            if fleet is not None:  # which come as they are done
                order = {sample.relative.as_posix(): number for number, sample in enumerate(samples)}
                evaluation.images.sort(key=lambda image: order[image.name])
                read.sort(key=lambda sample: order[sample.relative.as_posix()])
            if not read:
                raise OptionsError(f"none of the {len(samples)} images of {called} could be evaluated")
            left_out = _say_problems(session, problems)
            results = None
            for _ in session.over([None], "resampling"):
                results = measure(
                    evaluation,
                    classes,
                    resamples=resamples,
                    seed=seed,
                    groups=[sequences[sample.relative] for sample in read] if sequences else None,
                    margin=margin / 100,
                    arm_done=session.part_done,
                )
            assert results is not None
            settings = {
                "data": called,
                "split": split,
                "scale": scale,
                "images": len(read),
                "low_resolution": str(how),
                "arms": names,
                "confidence": CONFIDENCE,
                "nms_iou": NMS_IOU,
                "boxes_kept": BOXES_KEPT,
                "boxes_evaluated": MAX_DETECTIONS,
                "imgsz": imgsz,
                "size_frame": frame,
                "fidelity": [str(protocol) for protocol in evaluation.protocols] if how.reference else [],
                "resamples": resamples,
                "seed": seed,
                "groups": groups,
                "margin": margin / 100,
                "limit": limit,
                **machine.settings(),
                **where,
                "workers": None if fleet is None else fleet.size,
                "weights": machine.hashes,
            }
            truths = [image.truth for image in evaluation.images]
            report = {
                "schema": JSON_SCHEMA,
                "command": shlex.join(["hatdet", *sys.argv[1:]]),
                "settings": settings,
                "data": describe_data(
                    truths,
                    classes,
                    [problem.text for problem in problems],
                    Counter(problem.kind for problem in problems),
                ),
                "rows": results.rows,
                "verdicts": [verdict.as_row() for verdict in results.verdicts],
            }
            if html_file:
                _write_html(session, html_file, report, evaluation, results, read, found.names, how, classes)
            if save_boxes:
                _write_boxes(save_boxes, evaluation, classes)
        _write_tables(session, report, json_file, csv_file)
        if json_file != "-":
            from hatdet.evaluation.text import report_lines

            for line in report_lines(report):
                session.result(line)
        session.failed += left_out
        session.finish(started, ", ".join(name for name in files.values() if name != "-") or cache)


def _sequences(samples: Sequence[Sample], groups: str | None) -> dict[Path, str] | None:
    """The sequence of each image, by its path below the data."""
    from hatdet.core.errors import OptionsError

    if groups is None:
        return None
    if groups == "folder":
        return {sample.relative: sample.relative.parent.as_posix() for sample in samples}
    try:
        pattern = re.compile(groups)
    except re.error as error:
        raise OptionsError(f"groups must be folder or a regular expression, got {groups!r}: {error}") from error
    found = {}
    for sample in samples:
        match = pattern.search(sample.relative.as_posix())
        if match is None:
            raise OptionsError(f"groups {groups!r} finds no name in {sample.relative}")
        found[sample.relative] = match[1] if pattern.groups else match[0]
    return found


def _say_problems(session: Session, problems: Sequence[Any]) -> int:
    """Name what is wrong with labels; returns how many of them are left out of the evaluation."""
    for problem in problems[:SHOWN_PROBLEMS]:
        session.say(f"warning: {problem.text}")
    if len(problems) > SHOWN_PROBLEMS:
        session.say(f"warning: and {len(problems) - SHOWN_PROBLEMS} more problems with labels: all are in the report")
    return sum(problem.left_out for problem in problems)


def _write_html(
    session: Session,
    file: str,
    report: dict[str, Any],
    evaluation: JointEvaluation,
    results: Results,
    samples: Sequence[Sample],
    names: Any,
    how: LowResolution,
    classes: dict[int, str],
) -> None:
    from hatdet.core.atomic import write_text
    from hatdet.evaluation.gallery import make_gallery
    from hatdet.evaluation.low_resolution import read_pair
    from hatdet.evaluation.report import html_report
    from hatdet.evaluation.stored_data import fetched

    def read_low(index: int) -> Image:
        with fetched(samples[index], how) as here:
            return read_pair(here.sample, names, here.how).low

    gallery = []
    if results.primary_changes:
        changed = next(row for row in results.rows if row["changes"])
        by_name = {arm.name: arm for arm in evaluation.arms}
        gallery = make_gallery(
            evaluation,
            results.primary_changes,
            (by_name[changed["changes"]["control"]], by_name[changed["arm"]]),
            read_low,
            classes,
        )
    write_text(Path(file), html_report(report, gallery))
    session.say(f"report in {file}")


def _write_boxes(folder: Path, evaluation: JointEvaluation, classes: dict[int, str]) -> None:
    """COCO's files: the labels once, the boxes of each detector and arm."""
    from hatdet.core.atomic import write_text
    from hatdet.evaluation.average_precision import coco_files

    truths = [image.truth for image in evaluation.images]
    names, sizes = [image.name for image in evaluation.images], [image.size_wh for image in evaluation.images]
    for detector in evaluation.detectors:
        for arm in evaluation.arms:
            labels, boxes = coco_files(truths, evaluation.founds(detector, arm), classes, names, sizes)
            name = re.sub(r"[^\w@.+-]+", "_", f"{detector.name}-{arm.name}")
            write_text(folder / f"{name}.json", json.dumps(boxes))
    write_text(folder / "labels.json", json.dumps(labels))  # the same for every arm


def _write_tables(session: Session, report: dict[str, Any], json_file: str | None, csv_file: str | None) -> None:
    from hatdet.core.atomic import write_text
    from hatdet.evaluation.results import csv_rows

    if csv_file:
        rows = csv_rows(report["rows"])
        text = io.StringIO()
        table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        write_text(Path(csv_file), text.getvalue())
    if json_file:
        content = json.dumps(report, indent=1, allow_nan=False) + "\n"
        if json_file == "-":
            sys.stdout.write(content)
        else:
            write_text(Path(json_file), content)
