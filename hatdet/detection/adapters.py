"""Any detector of hatdet, an upscaled one too, for the slicing of SAHI and of supervision: their users' three lines.

Neither package is needed for anything else, so each is imported where it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hatdet.core.errors import OptionsError
from hatdet.core.types import Detection, Detections, Detector, Image
from hatdet.imaging.files import image_of

__all__ = ["sahi_model", "supervision_callback"]


def sahi_model(detector: Detector, confidence_threshold: float = 0.25) -> Any:
    """A `sahi.models.base.DetectionModel`, which `get_prediction` and `get_sliced_prediction` of SAHI take.

    Boxes, confidences, classes and their names are the detector's. Outlines of masks and corners of rotated boxes are
    SAHI's segmentation, of which it takes the box; keypoints are left out, as SAHI has none.

    Args:
        detector: of a slice; it is on its device already.
        confidence_threshold: boxes below it are dropped, also if the detector gives them. Below 0.1, SAHI merges by
            NMS and IoU whatever it was asked for.

    Raises:
        OptionsError: SAHI is not installed.
    """
    try:
        from sahi.models.base import DetectionModel
        from sahi.prediction import ObjectPrediction
        from sahi.utils.compatibility import fix_full_shape_list, fix_shift_amount_list
    except ImportError as error:
        raise OptionsError("sahi_model needs SAHI, which is not installed here: pip install sahi") from error

    class HatdetModel(DetectionModel):  # type: ignore[misc]
        """A detector of hatdet; the methods are SAHI's."""

        def set_device(self, device: str | None = None) -> None:
            """Choose none: SAHI would hide all graphics cards but one, or all, from the whole process."""
            self.device = device

        def set_model(self, model: Detector, **_: Any) -> None:
            self.model = model

        def perform_inference(self, image: NDArray[np.uint8]) -> None:
            self._original_predictions = self.model(_image(image))
            self._original_shapes = [image.shape]
            names = self._original_predictions.class_names
            self.category_mapping = {str(class_id): name for class_id, name in names.items()}

        def _create_object_prediction_list_from_original_predictions(
            self, shift_amount_list: Any = ((0, 0),), full_shape_list: Any = None
        ) -> None:
            shapes = fix_full_shape_list(full_shape_list)
            shift = [int(by) for by in fix_shift_amount_list(shift_amount_list)[0]]
            full_shape = [int(length) for length in (shapes[0] if shapes else self._original_shapes[0][:2])]
            self._object_prediction_list_per_image = [
                [
                    ObjectPrediction(
                        bbox=list(found.xyxy),
                        category_id=found.class_id,
                        category_name=found.class_name,
                        segmentation=_segmentation(found),
                        score=found.confidence,
                        shift_amount=shift,
                        full_shape=full_shape,
                    )
                    for found in self._original_predictions
                    if found.confidence >= self.confidence_threshold
                ]
            ]

    model = HatdetModel(confidence_threshold=confidence_threshold, load_at_init=False)
    model.set_model(detector)
    return model


def supervision_callback(detector: Detector) -> Callable[[Any], Any]:
    """What `supervision.InferenceSlicer(callback=...)` takes: a picture to `supervision.Detections`.

    The picture is an array of `(h, w, 3)` in BGR, as OpenCV reads it, or Pillow's. Boxes, confidences and classes are
    the detector's, the names of classes are `data["class_name"]`, corners of rotated boxes `data["xyxyxyxy"]`; masks
    are drawn from their outlines. Keypoints are left out.

    Raises:
        OptionsError: supervision is not installed.
    """
    try:
        import supervision
    except ImportError as error:
        raise OptionsError(
            "supervision_callback needs supervision, which is not installed here: pip install supervision"
        ) from error

    def callback(picture: Any) -> Any:
        image = _image(picture[..., ::-1] if isinstance(picture, np.ndarray) else np.asarray(picture))
        found = detector(image)
        names = np.array([found.class_names[class_id] for class_id in found.class_id.tolist()], dtype=str)
        return supervision.Detections(
            xyxy=found.xyxy,
            confidence=found.confidence,
            class_id=found.class_id,
            mask=_masks(found, (image.width, image.height), supervision.polygon_to_mask),
            data={"class_name": names, **({} if found.corners is None else {"xyxyxyxy": found.corners})},
        )

    return callback


def _image(rgb: NDArray[Any]) -> Image:
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"a picture must be (h, w, 3) in 8 or 16 bits, got {rgb.shape} of {rgb.dtype}")
    return image_of(rgb)


def _segmentation(found: Detection) -> list[list[float]] | None:
    """The outline of each part: x, y, x, y, ..."""
    outlines = found.polygons if found.corners is None else (found.corners,)
    return [[value for point in ring for value in point] for ring in outlines] if outlines else None


def _masks(found: Detections, size_wh: tuple[int, int], draw: Callable[..., Any]) -> NDArray[np.bool_] | None:
    """Shape: `(n, h, w)`; None where the detector makes no masks."""
    if found.polygons is None:
        return None
    masks = np.zeros((len(found), *size_wh[::-1]), np.bool_)
    for mask, rings in zip(masks, found.polygons, strict=True):
        for ring in rings:
            mask |= draw(ring, size_wh) > 0
    return masks
