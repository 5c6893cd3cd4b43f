"""What `hatdet detect` writes: of one image, and of all of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hatdet.cli.session import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hatdet.core.types import Detection, Detections
    from hatdet.imaging.files import Pixels
    from hatdet.imaging.sources import Source

__all__ = ["Found", "Job", "drawn", "image_report", "planned", "summary", "write_json", "write_results"]

JSON_SCHEMA = 1


@dataclass(frozen=True)
class Job:
    """An image, and where what is wanted of it goes; None for what is not wanted.

    Attributes:
        source: the image.
        picture: of its boxes.
        labels: its boxes as text.
        larger: the upscaled image.
    """

    source: Source
    picture: Path
    labels: Path | None
    larger: Path | None

    @property
    def others(self) -> list[Path]:
        """What is written of the image besides its picture."""
        return [path for path in (self.labels, self.larger) if path is not None]


@dataclass(frozen=True, eq=False)
class Found:
    """What there is to write of one image: no tensor of it is kept until then.

    Attributes:
        source: the image, `(h, w, 3)`.
        seen: what the detector saw; None where that was the image itself.
        detections: in source coordinates.
        milliseconds: of each step; None for one that was not taken.
    """

    source: Pixels
    seen: Pixels | None
    detections: Detections
    milliseconds: Mapping[str, float | None]

    @property
    def width(self) -> int:
        return int(self.source.shape[1])

    @property
    def height(self) -> int:
        return int(self.source.shape[0])


def planned(
    sources: Sequence[Source], output: Path, *, labels: bool, larger: bool, reports: Sequence[Path] = ()
) -> list[Job]:
    """Where everything goes.

    Args:
        sources: the images.
        output: folder of the results.
        labels, larger: whether these are wanted.
        reports: files about all images.

    Raises:
        OptionsError: a result would replace an input or another result.
    """
    from hatdet.imaging.sources import check_results, result_paths

    nothing: list[Path | None] = [None] * len(sources)
    places = zip(
        sources,
        result_paths(sources, output),
        result_paths(sources, output / "labels", ".txt") if labels else nothing,
        result_paths(sources, output / "sr") if larger else nothing,
        strict=True,
    )
    jobs = [Job(*place) for place in places]
    check_results(sources, [*(path for job in jobs for path in (job.picture, *job.others)), *reports])
    return jobs


def drawn(found: Found, upscaled_by: str | None) -> NDArray[Any]:
    """The picture: the source with its boxes and, beside it, what the detector saw. `(h, w, 3)` RGB uint8."""
    from hatdet.imaging.drawing import side_by_side, with_boxes

    if found.seen is None:
        return with_boxes(found.source, found.detections)
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
    write_array(picture, job.picture, drawn=True)


def summary(detections: Detections) -> str:
    """How many of what, for people."""
    counts: dict[str, int] = {}
    for detection in detections:
        counts[detection.class_name] = counts.get(detection.class_name, 0) + 1
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"


def image_report(source: Path, found: Found) -> dict[str, Any]:
    """What the JSON says of one image."""
    return {
        "source": str(source),
        "width": found.width,
        "height": found.height,
        "detections": [_detection_report(detection) for detection in found.detections],
        "timing_ms": {step: None if took is None else round(took, 3) for step, took in found.milliseconds.items()},
    }


def _detection_report(detection: Detection) -> dict[str, Any]:
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
    }


def _rounded(numbers: Iterable[float]) -> list[float]:
    return [round(number, 3) for number in numbers]


def write_json(
    images: Sequence[Mapping[str, Any]], upscaler: str | None, detector: str, file: str, session: Session
) -> None:
    """The JSON of all images, to a file or, for `-`, to stdout.

    Raises:
        OptionsError: the place cannot be written.
    """
    from hatdet.core.atomic import write_text

    report = {"schema": JSON_SCHEMA, "upscaler": upscaler, "detector": detector, "images": list(images)}
    text = json.dumps(report, indent=1) + "\n"  # in ASCII: a file's name need not fit the terminal's encoding
    if file == "-":
        sys.stdout.write(text)
    else:
        write_text(Path(file), text)
        session.say(f"boxes in {file}")


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
