"""`hatdet detect --geojson`: boxes as polygons on the map."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hatdet.cli.session import Session

__all__ = ["GeoJsonOption", "write_geojson"]

GeoJsonOption = Annotated[
    Path | None,
    typer.Option(
        "--geojson",
        help="Write the boxes of georeferenced images to this file, as polygons in longitude and latitude (RFC 7946).",
        metavar="FILE",
        rich_help_panel="Results",
    ),
]


def write_geojson(images: Iterable[Mapping[str, Any]], file: Path, session: Session) -> None:
    """Write a feature for each object of the images, in WGS 84: its box, or the corners of its oriented box.

    An image that is not on the map gets a line and no features.

    Args:
        images: as in the report of `--json`: `source`, and `detections` with `xyxy` in pixels of that file.
        file: the result.
        session: what messages go to.

    Raises:
        OptionsError: the place cannot be written.
    """
    from hatdet.core.atomic import write_text
    from hatdet.core.errors import InputError
    from hatdet.imaging.map_coordinates import map_frame, outline, ring

    features = []
    for image in images:
        frame = map_frame(Path(image["source"]))
        if frame is None:
            session.say(f"warning: {image['source']} is not georeferenced: its boxes are not in {file}")
            continue
        try:
            features += [
                {
                    "type": "Feature",
                    "geometry": {
                        "type": "Polygon",
                        "coordinates": [
                            ring(found["xyxy"], frame.longitude_latitude)
                            if found.get("corners") is None
                            else outline([(x, y) for x, y in found["corners"]], frame.longitude_latitude)
                        ],
                    },
                    "properties": {"source": image["source"], "source_crs": frame.crs, **found},
                }
                for found in image["detections"]
            ]
        except InputError as error:
            session.say(f"warning: {image['source']}: {error}")
    write_text(file, json.dumps({"type": "FeatureCollection", "features": features}, indent=1) + "\n")
    session.say(f"boxes on the map in {file}")
