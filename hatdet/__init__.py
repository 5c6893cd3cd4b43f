"""hatdet: find objects in imagery that is too small to see them in.

from hatdet import Upscaled, load_detector, load_upscaler, read_image

chain = Upscaled(load_upscaler("hat-xs", scale=4), load_detector())
for found in chain(read_image("street.png")):
    print(found.class_name, found.confidence, found.xyxy)  # in pixels of street.png
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hatdet.core.errors import DeviceError, HatdetError, InputError, OptionsError, WeightsError
    from hatdet.core.types import Detection, Detections, Detector, Image, Upscaler
    from hatdet.detection.chain import Upscaled, run_chain
    from hatdet.detection.regions import FirstPass, SelectiveUpscaler
    from hatdet.detection.slicing import Sliced
    from hatdet.detection.yolo import load_detector
    from hatdet.imaging.files import read_image, write_image
    from hatdet.sr.upscalers import load_upscaler

__version__ = "0.1.0"

__all__ = [
    "Detection",
    "Detections",
    "Detector",
    "DeviceError",
    "FirstPass",
    "HatdetError",
    "Image",
    "InputError",
    "OptionsError",
    "SelectiveUpscaler",
    "Sliced",
    "Upscaled",
    "Upscaler",
    "WeightsError",
    "__version__",
    "load_detector",
    "load_upscaler",
    "read_image",
    "run_chain",
    "write_image",
]

_HOME = {
    **dict.fromkeys(("DeviceError", "HatdetError", "InputError", "OptionsError", "WeightsError"), "core.errors"),
    **dict.fromkeys(("Detection", "Detections", "Detector", "Image", "Upscaler"), "core.types"),
    **dict.fromkeys(("Upscaled", "run_chain"), "detection.chain"),
    **dict.fromkeys(("read_image", "write_image"), "imaging.files"),
    **dict.fromkeys(("FirstPass", "SelectiveUpscaler"), "detection.regions"),
    "Sliced": "detection.slicing",
    "load_detector": "detection.yolo",
    "load_upscaler": "sr.upscalers",
}


def __getattr__(name: str) -> Any:
    """Names are imported when they are first used: `import hatdet` loads no torch."""
    if name in _HOME:
        return getattr(importlib.import_module(f"hatdet.{_HOME[name]}"), name)
    raise AttributeError(f"module 'hatdet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
