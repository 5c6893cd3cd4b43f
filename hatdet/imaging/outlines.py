"""Masks to polygons."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["outlines"]


def outlines(mask: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
    """The outline of each part of a mask along the edges of its pixels, holes filled.

    Pixels that touch at a corner are of one part. Where an outline turns inwards it takes a short cut of half a pixel:
    the centres of the pixels inside it are those of the mask, exactly.

    Args:
        mask: `(h, w)`, 0 or 1.

    Returns polygons `(k, 2)`, x and y in pixels with continuous edges (the first pixel is from 0 to 1), not closed.
    """
    # OpenCV's outlines run through the middle of pixels. So it is given a grid of twice as many points, those at the
    # edges of pixels included: point p is at p / 2, and a pixel is 3 x 3 of them.
    doubled = np.pad(mask.repeat(2, axis=0).repeat(2, axis=1), ((0, 1), (0, 1)))
    points = cv2.dilate(doubled, np.ones((2, 2), np.uint8), anchor=(1, 1))
    contours, _ = cv2.findContours(points, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [contour.reshape(-1, 2) / 2 for contour in contours]
