"""All objects of a run in other people's formats: COCO's JSON and CSV. Made of what `--json` says of the images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["coco", "csv_text"]

Report = Mapping[str, Any]
Ring = Sequence[Sequence[float]]

SURE_KEYPOINT = 0.5  # from here on COCO's flag is 2 (visible), below it is 1 (labelled, not visible)
COLUMNS = ("source", "width", "height", "class_id", "class_name", "confidence", "x1", "y1", "x2", "y2")
NESTED = ("corners", "polygons", "keypoints")


def coco(images: Sequence[Report], names: Mapping[int, str], version: str) -> dict[str, Any]:
    """A data set in COCO's format whose annotations are predictions: each has a `score`.

    Categories have the detector's class ids. Images are numbered from 1, unless the names of all are numbers of their
    own (`000000000139.jpg`), as COCO's are. Rotated boxes are a `segmentation` of four corners; their `bbox` encloses
    them.

    Args:
        images: as in the JSON.
        names: of the detector's classes.
        version: hatdet's.
    """
    ids = _image_ids([Path(image["source"]).stem for image in images])
    annotations: list[dict[str, Any]] = []
    keypoints = 0
    for image_id, image in zip(ids, images, strict=True):
        for found in image["detections"]:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **_annotation(found)})
            keypoints = max(keypoints, len(found["keypoints"] or ()))
    more = {"keypoints": [str(number) for number in range(keypoints)], "skeleton": []} if keypoints else {}
    return {
        "info": {"description": "predictions", "version": f"hatdet {version}"},
        "licenses": [],
        "images": [
            {"id": image_id, "file_name": image["source"], "width": image["width"], "height": image["height"]}
            for image_id, image in zip(ids, images, strict=True)
        ],
        "annotations": annotations,
        "categories": [{"id": id_, "name": name, "supercategory": "", **more} for id_, name in sorted(names.items())],
    }


def csv_text(images: Sequence[Report]) -> str:
    """A line for each object, under a line of names. Corners, polygons and keypoints are JSON in a cell, or nothing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *NESTED, "crop"])
    for image in images:
        for found in image["detections"]:
            nested = ["" if found[name] is None else json.dumps(found[name]) for name in NESTED]
            about = [image["source"], image["width"], image["height"], found["class_id"], found["class_name"]]
            writer.writerow([*about, found["confidence"], *found["xyxy"], *nested, found["crop"] or ""])
    return text.getvalue()


def _image_ids(stems: Sequence[str]) -> list[int]:
    own = [int(stem) for stem in stems if stem.isascii() and stem.isdigit()]
    return own if len(own) == len(stems) == len(set(own)) else list(range(1, len(stems) + 1))


def _annotation(found: Report) -> dict[str, Any]:
    x1, y1, x2, y2 = found["xyxy"]
    rings: list[Ring] = [found["corners"]] if found["corners"] is not None else list(found["polygons"] or ())
    area = sum(_area(ring) for ring in rings) if rings else (x2 - x1) * (y2 - y1)
    annotation = {
        "category_id": found["class_id"],
        "bbox": [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)],
        "area": round(area, 3),
        "score": found["confidence"],
        "iscrowd": 0,
    }
    if found["corners"] is not None or found["polygons"] is not None:
        annotation["segmentation"] = [[number for point in ring for number in point] for ring in rings]
    if found["keypoints"] is not None:
        flags = [2 if sure is None or sure >= SURE_KEYPOINT else 1 for _, _, sure in found["keypoints"]]
        points = zip(found["keypoints"], flags, strict=True)
        annotation["keypoints"] = [number for (x, y, _), flag in points for number in (x, y, flag)]
        annotation["num_keypoints"] = len(flags)
    return annotation


def _area(ring: Ring) -> float:
    """By the shoelace formula."""
    following = [*ring[1:], ring[0]]
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(ring, following, strict=True))) / 2
