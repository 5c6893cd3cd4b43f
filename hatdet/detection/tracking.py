"""Boxes of consecutive frames to objects with identities, by Ultralytics' trackers; in source coordinates."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

import hatdet.detection.ultralytics_setup  # noqa: F401 (before ultralytics)
from hatdet.core.errors import OptionsError
from hatdet.core.types import Detections, Image

__all__ = ["LOWEST_CONFIDENCE", "TRACKERS", "Tracker", "check_tracker"]

TRACKERS = ("bytetrack", "botsort")
LOWEST_CONFIDENCE = 0.1  # of boxes that go on with a track, but begin none: Ultralytics' `track_low_thresh`


def check_tracker(kind: str) -> None:
    """Make sure that there is such a tracker, and what it needs.

    Raises:
        OptionsError: there is not.
    """
    if kind not in TRACKERS:
        raise OptionsError(f"--track must be {' or '.join(TRACKERS)}, got {kind!r}")
    if find_spec("lap") is None:
        raise OptionsError('--track needs lap: pip install "hatdet[video]"')


class Tracker:
    """Gives the boxes of one frame after the other the identities of the objects in them.

    The boxes stay the detector's own. A box has no identity in the frame in which its object is first seen, unless
    that is the first of all: a tracker waits for a second look. Boxes below `confidence` are there to go on with what
    is tracked already, and are left out of what comes back unless they do.

    Args:
        kind: `bytetrack`, or `botsort`, which also follows the camera's own motion.
        confidence: of boxes that begin a track. The detector's should be `LOWEST_CONFIDENCE`.

    Raises:
        OptionsError: as `check_tracker`.
    """

    def __init__(self, kind: str, confidence: float = 0.25) -> None:
        check_tracker(kind)
        from ultralytics.trackers import BOTSORT, BYTETracker
        from ultralytics.utils import ROOT, YAML, IterableSimpleNamespace

        settings: dict[str, Any] = YAML.load(ROOT / "cfg" / "trackers" / f"{kind}.yaml")
        settings |= {"track_high_thresh": confidence, "new_track_thresh": confidence}
        settings |= {"track_low_thresh": min(confidence, LOWEST_CONFIDENCE), "with_reid": False}
        self.confidence, self._looks = confidence, kind == "botsort"
        self._tracker = (BOTSORT if kind == "botsort" else BYTETracker)(IterableSimpleNamespace(**settings))

    def __call__(self, detections: Detections, image: Image) -> Detections:
        """What is seen of the next frame: `detections` in the pixels of `image`, which is that frame at scale 1."""
        from ultralytics.engine.results import Boxes

        rows = np.column_stack([detections.xyxy, detections.confidence, detections.class_id]).astype(np.float32)
        boxes = Boxes(rows.reshape(-1, 6), (image.height, image.width))
        tracked = self._tracker.update(boxes, _grey(image) if self._looks else None)
        track_id = np.zeros(len(detections), np.int64)
        if len(tracked):
            track_id[tracked[:, 7].astype(np.int64)] = tracked[:, 4].astype(np.int64)
        kept = (track_id > 0) | (detections.confidence >= self.confidence)
        return replace(detections, track_id=track_id).taken(kept)


def _grey(image: Image) -> NDArray[np.uint8]:
    """`(h, w, 1)`: the camera's motion is looked for in the brightness, so no order of channels matters."""
    r, g, b = image.pixels.cpu().numpy()
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    grey: NDArray[np.uint8] = np.rint(luma[..., None] * 255).astype(np.uint8)
    return grey
