"""What `hatdet detect` writes: of one image, and of all of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hatdet.cli.detect_crops import crop_places, write_crops
from hatdet.cli.options import writable_file
from hatdet.cli.session import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hatdet.cli.detect_chain import Chain
    from hatdet.core.types import Detection, Detections
    from hatdet.imaging.files import Pixels
    from hatdet.imaging.sources import Source

__all__ = [
    "JSON_SCHEMA",
    "Found",
    "Job",
    "ReportFiles",
    "detections_report",
    "drawn",
    "image_report",
    "planned",
    "share_report",
    "summary",
    "timing_report",
    "write_reports",
    "write_results",
]

JSON_SCHEMA = 1


@dataclass(frozen=True)
class Job:
    """An image, and where what is wanted of it goes; None for what is not wanted.

    Attributes:
        source: the image.
        picture: of its boxes.
        labels: its boxes as text.
        larger: the upscaled image.
        crops: the folder that each object goes to, by class.
        name: of the picture, below the folder of the results and without a suffix.
    """

    source: Source
    picture: Path
    labels: Path | None
    larger: Path | None
    crops: Path | None
    name: Path

    @property
    def others(self) -> list[Path]:
        """What is written of the image besides its picture and its crops, whose number follows from what is found."""
        return [path for path in (self.labels, self.larger) if path is not None]

    def moved(self, source: Source, output: Path, to: Path) -> Job:
        """The same with another source, and with results below `to` instead of `output`."""

        def there(path: Path | None) -> Path | None:
            return None if path is None else to / path.relative_to(output)

        picture = to / self.picture.relative_to(output)
        return Job(source, picture, there(self.labels), there(self.larger), there(self.crops), self.name)

    def crops_of(self, detections: Detections) -> list[Path]:
        """Where the crop of each object goes; none where no crops are wanted."""
        return [] if self.crops is None else crop_places(detections, self.crops, self.name)


@dataclass(frozen=True, eq=False)
class Found:
    """What there is to write of one image: no tensor of it is kept until then.

    Attributes:
        source: the image, `(h, w, 3)`; of a huge one a small picture.
        seen: what the detector saw; None where that was the image itself.
        detections: in source coordinates.
        milliseconds: of each step; None for one that was not taken.
        shown: pixels of `source` for each of the image's.
        size_wh: of the image, where that is not `source`, and whose crops are written already.
        share: of the pixels that were upscaled by a network; None where nothing was upscaled.
        upscaled_by: the upscaler's name; None where nothing was upscaled.
    """

    source: Pixels
    seen: Pixels | None
    detections: Detections
    milliseconds: Mapping[str, float | None]
    shown: float = 1
    size_wh: tuple[int, int] | None = None
    share: float | None = None
    upscaled_by: str | None = None

    @property
    def width(self) -> int:
        return self.size_wh[0] if self.size_wh is not None else int(self.source.shape[1])

    @property
    def height(self) -> int:
        return self.size_wh[1] if self.size_wh is not None else int(self.source.shape[0])


@dataclass(frozen=True)
class ReportFiles:
    """Files about all images, as they are named on the command line; None for what is not wanted, `json` may be `-`."""

    json: str | None
    coco: str | None
    csv: str | None
    geojson: Path | None = None

    @property
    def wanted(self) -> bool:
        """Whether there is any."""
        return any(file is not None for file in (self.json, self.coco, self.csv, self.geojson))

    def places(self) -> list[Path]:
        """Looked at before the work and not after it.

        Raises:
            OptionsError: one that cannot be written.
        """
        named = (
            ("--json", None if self.json == "-" else self.json),
            *(("--coco", self.coco), ("--csv", self.csv)),
            ("--geojson", None if self.geojson is None else str(self.geojson)),
        )
        return [writable_file(file, option) for option, file in named if file is not None]


def planned(
    sources: Sequence[Source],
    output: Path,
    *,
    labels: bool,
    larger: bool,
    crops: bool,
    reports: Sequence[Path] = (),
) -> list[Job]:
    """Where everything goes.

    Args:
        sources: the images.
        output: folder of the results.
        labels, larger, crops: whether these are wanted.
        reports: files about all images.

    Raises:
        OptionsError: a result would replace an input or another result.
    """
    from hatdet.core.errors import OptionsError
    from hatdet.imaging.sources import check_results, result_paths

    nothing: list[Path | None] = [None] * len(sources)
    pictures = result_paths(sources, output)
    places = zip(
        sources,
        pictures,
        result_paths(sources, output / "labels", ".txt") if labels else nothing,
        result_paths(sources, output / "sr") if larger else nothing,
        strict=True,
    )
    folder = output / "crops" if crops else None
    names = [picture.relative_to(output).with_suffix("") for picture in pictures]
    jobs = [Job(*place, folder, name) for place, name in zip(places, names, strict=True)]
    results = [*(path for job in jobs for path in (job.picture, *job.others)), *reports]
    check_results(sources, results)
    if folder is not None:
        for path in [*(source.path for source in sources), *results]:
            if folder.absolute() in path.absolute().parents:
                raise OptionsError(f"{path} is in the folder of crops, {folder}: give another folder with -o")
    return jobs


def drawn(found: Found, upscaled_by: str | None) -> NDArray[Any]:
    """The picture: the source with its boxes and, beside it, what the detector saw. `(h, w, 3)` RGB uint8."""
    from hatdet.imaging.drawing import side_by_side, with_boxes

    if found.seen is None:
        return with_boxes(found.source, found.detections, found.shown)
    return side_by_side(found.source, found.seen, found.detections, upscaled_by or "")


def write_results(job: Job, found: Found, upscaled_by: str | None) -> None:
    """All files of one image; its picture comes last.

    Raises:
        OptionsError: a place cannot be written.
    """
    from hatdet.imaging.files import write_array

    picture = drawn(found, upscaled_by)
    if job.larger is not None and found.seen is not None:
        write_array(found.seen, job.larger)
    if job.labels is not None:
        _write_labels(found, job.labels)
    if job.crops is not None and found.size_wh is None:
        write_crops(found.source, found.detections, job.crops_of(found.detections))
    write_array(picture, job.picture, drawn=True)


def summary(detections: Detections) -> str:
    """How many of what, for people."""
    counts: dict[str, int] = {}
    for detection in detections:
        counts[detection.class_name] = counts.get(detection.class_name, 0) + 1
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"


def image_report(job: Job, found: Found) -> dict[str, Any]:
    """What the JSON says of one image."""
    crops: list[str | None] = [None] * len(found.detections)
    if job.crops is not None:
        crops = [place.relative_to(job.crops.parent).as_posix() for place in job.crops_of(found.detections)]
    return {
        "source": job.source.name,
        "width": found.width,
        "height": found.height,
        "detections": [
            _detection_report(detection, crop) for detection, crop in zip(found.detections, crops, strict=True)
        ],
        "upscaled_by": found.upscaled_by,
        "upscaled_share": share_report(found.share),
        "timing_ms": timing_report(found.milliseconds),
    }


def detections_report(detections: Detections) -> list[dict[str, Any]]:
    """The objects of a frame, which have no crops, as they stand in JSON."""
    return [_detection_report(detection, None) for detection in detections]


def share_report(share: float | None) -> float | None:
    """Of the pixels that were upscaled, as it stands in JSON."""
    return None if share is None else round(share, 4)


def timing_report(milliseconds: Mapping[str, float | None]) -> dict[str, float | None]:
    """What each step took, as it stands in JSON."""
    return {step: None if took is None else round(took, 3) for step, took in milliseconds.items()}


def _detection_report(detection: Detection, crop: str | None) -> dict[str, Any]:
    polygons, keypoints = detection.polygons, detection.keypoints
    return {
        "xyxy": _rounded(detection.xyxy),
        "confidence": round(detection.confidence, 5),
        "class_id": detection.class_id,
        "class_name": detection.class_name,
        "corners": None if detection.corners is None else [_rounded(corner) for corner in detection.corners],
        "polygons": None if polygons is None else [[_rounded(point) for point in ring] for ring in polygons],
        "keypoints": None
        if keypoints is None
        else [[*_rounded((x, y)), None if sure is None else round(sure, 5)] for x, y, sure in keypoints],
        "crop": crop,
        "track_id": detection.track_id,
    }


def _rounded(numbers: Iterable[float]) -> list[float]:
    return [round(number, 3) for number in numbers]


def write_reports(images: Sequence[Mapping[str, Any]], chain: Chain, files: ReportFiles, session: Session) -> None:
    """The files about all images.

    Args:
        images: an `image_report` for each.
        chain: that they went through.
        files: which files, and where they go.
        session: is told of them.

    Raises:
        OptionsError: a place cannot be written.
    """
    from hatdet import __version__
    from hatdet.cli.detect_tables import coco, csv_text
    from hatdet.cli.geojson import write_geojson
    from hatdet.core.atomic import write_bytes, write_text

    if files.json is not None:
        header = {"schema": JSON_SCHEMA, "upscaler": chain.upscaled_by, "detector": chain.detector.name}
        text = json.dumps({**header, "images": list(images)}, indent=1) + "\n"
        # JSON is in ASCII: a file's name need not fit the terminal's encoding.
        if files.json == "-":
            sys.stdout.write(text)
        else:
            write_text(Path(files.json), text)
            session.say(f"boxes in {files.json}")
    if files.coco is not None:
        write_text(Path(files.coco), json.dumps(coco(images, chain.names, __version__)) + "\n")
        session.say(f"boxes for COCO's tools in {files.coco}")
    if files.csv is not None:
        # The names of files as they are, even where they are no valid Unicode.
        write_bytes(Path(files.csv), csv_text(images).encode("utf-8", "surrogateescape"))
        session.say(f"boxes as a table in {files.csv}")
    if files.geojson is not None:
        write_geojson(images, files.geojson, session)


def _write_labels(found: Found, path: Path) -> None:
    """Ultralytics' formats, as shares of the source image: a class, and

    - centre and size of a box; behind it the keypoints, each with its confidence where there is one,
    - or the corners of a rotated box,
    - or the outline of a mask, in one piece.
    """
    from hatdet.core.atomic import write_text
    from hatdet.detection.tasks import one_ring

    w, h = found.width, found.height
    lines = []
    for detection in found.detections:
        numbers: list[float] = []
        if detection.corners is not None:
            numbers = [share for x, y in detection.corners for share in (x / w, y / h)]
        elif detection.polygons is not None:
            if not detection.polygons:
                continue
            numbers = [share for x, y in one_ring(detection.polygons) for share in (x / w, y / h)]
        else:
            x1, y1, x2, y2 = detection.xyxy
            numbers = [(x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h]
            for x, y, sure in detection.keypoints or ():
                numbers += [x / w, y / h, *([] if sure is None else [sure])]
        lines.append(" ".join([str(detection.class_id), *(f"{number:.6f}" for number in numbers)]) + "\n")
    write_text(path, "".join(lines))
