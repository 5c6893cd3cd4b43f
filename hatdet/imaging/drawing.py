"""Boxes, masks and keypoints on pictures, for people."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from numpy.typing import NDArray

from hatdet.core.types import Detections, Image
from hatdet.imaging.files import Pixels, eight_bits, to_array

__all__ = ["jpeg", "side_by_side", "with_boxes"]

SMALLEST_PANEL = 480  # a panel is enlarged (pixels repeated) until its long side has this many pixels
LARGEST_ENLARGEMENT = 16
GAP = 8
BACKGROUND = (24, 24, 27)
TINT = 90  # of 255: how much of a mask's colour is mixed in
LEAST_SURE_KEYPOINT = 0.25  # as Ultralytics draws them
PERSON = 17  # keypoints of a person in COCO: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles
LIMBS = (
    *((0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10)),
    *((5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16)),
)

Point: TypeAlias = tuple[float, float]
Colour: TypeAlias = tuple[int, int, int]


def with_boxes(
    picture: Pixels, detections: Detections, scale: float = 1, enlarge: int = 1, caption: str = ""
) -> NDArray[np.uint8]:
    """The picture, its pixels repeated `enlarge` times, with what was found and a caption above.

    Boxes have labels; rotated ones are drawn as they are. Masks are tinted, keypoints are dots, and those of people
    (17, as COCO has them) are joined by limbs; keypoints that the detector is not sure of are left out.

    Boxes have the colour of their class; those of tracked objects have one of their own, and their number.

    Args:
        picture: `(h, w, 3)` RGB, 8 or 16 bits.
        detections: in source coordinates.
        scale: pixels of the picture for each pixel of the source.
        enlarge: how often each pixel is repeated, along each side.
        caption: of one line.

    Returns `(h, w, 3)` RGB uint8.
    """
    canvas = PIL.Image.fromarray(eight_bits(picture))
    if enlarge > 1:
        canvas = canvas.resize((canvas.width * enlarge, canvas.height * enlarge), PIL.Image.Resampling.NEAREST)
    draw = PIL.ImageDraw.Draw(canvas)
    long_side = max(canvas.size)
    line = max(1, round(long_side / 400))
    font = _font(max(11, round(long_side / 48)))
    zoom = scale * enlarge
    for detection in reversed(list(detections)):  # the most confident on top
        track = detection.track_id
        colour = _colour(detection.class_id if track is None else track)
        for ring in detection.polygons or ():
            _tint(canvas, _on_picture(ring, zoom), colour)
            _draw_ring(draw, _on_picture(ring, zoom), colour, line)
        x1, y1, x2, y2 = (edge * zoom for edge in detection.xyxy)
        if detection.corners is not None:
            _draw_ring(draw, _on_picture(detection.corners, zoom), colour, line)
        else:
            draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=line)
        _draw_keypoints(draw, detection.keypoints or (), zoom, colour, line)
        named = detection.class_name if track is None else f"{detection.class_name} #{track}"
        text = f"{named} {detection.confidence:.2f}"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        w, h = right - left + 6, bottom - top + 6
        x = min(max(0, x1), max(0, canvas.width - w))
        y = y1 - h if y1 >= h else min(y1, canvas.height - h)
        draw.rectangle((x, y, x + w, y + h), fill=colour)
        draw.text((x + 3 - left, y + 3 - top), text, font=font, fill=_ink(colour))
    return np.asarray(_captioned(canvas, caption) if caption else canvas)


def side_by_side(source: Pixels, seen: Pixels, detections: Detections, name: str) -> NDArray[np.uint8]:
    """The source picture and, beside it at the same size, what the detector saw, both with the boxes.

    A small source is shown with its pixels repeated, so that one sees what there was to see. Both are `(h, w, 3)` RGB,
    the second a whole number of times as large as the first.
    """
    (height, width), (seen_height, seen_width) = source.shape[:2], seen.shape[:2]
    factor = seen_width // width
    enlarge = min(LARGEST_ENLARGEMENT, max(1, -(-SMALLEST_PANEL // max(seen_width, seen_height))))
    left = with_boxes(source, detections, 1, factor * enlarge, f"source {width}x{height}")
    right = with_boxes(seen, detections, factor, enlarge, f"{name} {seen_width}x{seen_height}")
    gap = np.full((left.shape[0], GAP, 3), BACKGROUND, np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def jpeg(image: Image, size_wh: tuple[int, int], quality: int) -> bytes:
    """The image in that size, as a JPEG file. Enlarged it is smooth, as a detector's letterbox makes it."""
    picture = PIL.Image.fromarray(eight_bits(to_array(image)))
    if picture.size != size_wh:
        smaller = size_wh[0] < picture.width
        picture = picture.resize(size_wh, PIL.Image.Resampling.LANCZOS if smaller else PIL.Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def _on_picture(points: Sequence[Point], zoom: float) -> list[Point]:
    """Points of the source (continuous edges) as Pillow has them: a pixel is where its centre is."""
    return [(x * zoom - 0.5, y * zoom - 0.5) for x, y in points]


def _draw_ring(draw: PIL.ImageDraw.ImageDraw, ring: Sequence[Point], colour: Colour, line: int) -> None:
    draw.line([*ring, ring[0], ring[1]], fill=colour, width=line, joint="curve")


def _tint(canvas: PIL.Image.Image, ring: Sequence[Point], colour: Colour) -> None:
    """Mix the colour into the inside of a polygon, in place; no more of the canvas is touched than lies around it."""
    xs, ys = zip(*ring, strict=True)
    left, top = max(0, int(min(xs))), max(0, int(min(ys)))
    right, bottom = min(canvas.width, int(max(xs)) + 2), min(canvas.height, int(max(ys)) + 2)
    if right > left and bottom > top:
        shape = PIL.Image.new("L", (right - left, bottom - top))
        PIL.ImageDraw.Draw(shape).polygon([(x - left, y - top) for x, y in ring], fill=TINT)
        canvas.paste(colour, (left, top, right, bottom), shape)


def _draw_keypoints(
    draw: PIL.ImageDraw.ImageDraw,
    keypoints: Sequence[tuple[float, float, float | None]],
    zoom: float,
    colour: Colour,
    line: int,
) -> None:
    shown = [sure is None or sure >= LEAST_SURE_KEYPOINT for _, _, sure in keypoints]
    points = _on_picture([(x, y) for x, y, _ in keypoints], zoom)
    for start, end in LIMBS if len(points) == PERSON else ():
        if shown[start] and shown[end]:
            draw.line([points[start], points[end]], fill=colour, width=line)
    for (x, y), is_shown in zip(points, shown, strict=True):
        if is_shown:
            radius = 1 + 1.5 * line
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=_ink(colour))


def _captioned(picture: PIL.Image.Image, caption: str) -> PIL.Image.Image:
    size = max(12, round(max(picture.size) / 40))
    whole = PIL.Image.new("RGB", (picture.width, picture.height + 2 * size), BACKGROUND)
    whole.paste(picture, (0, 2 * size))
    PIL.ImageDraw.Draw(whole).text((size // 2, size // 3), caption, font=_font(size), fill=(235, 235, 235))
    return whole


@lru_cache(maxsize=16)
def _font(size: int) -> PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont:
    return PIL.ImageFont.load_default(size=size)


def _colour(class_id: int) -> Colour:
    """Far apart for neighbouring ids: hues by the golden ratio."""
    r, g, b = colorsys.hsv_to_rgb((0.08 + class_id * 0.618034) % 1, 0.85, 1.0)
    return round(r * 255), round(g * 255), round(b * 255)


def _ink(colour: Colour) -> Colour:
    luma = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return (0, 0, 0) if luma > 140 else (255, 255, 255)
