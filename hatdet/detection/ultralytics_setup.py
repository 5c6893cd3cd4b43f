"""Environment that Ultralytics reads when it is imported: import this module first.

Nothing is sent, nothing is fetched, nothing is installed, no checkpoint runs code of its own, and the user's own
Ultralytics settings stay as they are. What the user has set wins.
"""

from __future__ import annotations

import os
import tempfile

import torch  # before ultralytics, which would otherwise leave it one thread (it sets OMP_NUM_THREADS=1)

__all__: list[str] = []


def _config_dir() -> str:
    """A folder of our own for Ultralytics' settings; in a home that cannot be written, a temporary one."""
    from platformdirs import user_config_path

    folder = user_config_path("hatdet") / "ultralytics"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return tempfile.mkdtemp(prefix="hatdet-ultralytics-")
    return str(folder) if os.access(folder, os.W_OK) else tempfile.mkdtemp(prefix="hatdet-ultralytics-")


def _prepare() -> None:
    for name, value in {
        "OMP_NUM_THREADS": str(torch.get_num_threads()),  # for processes started from this one
        "YOLO_OFFLINE": "1",  # no connection test at import, and with it no analytics
        "YOLO_AUTOINSTALL": "false",  # a missing package is an error, not a pip install
        "ULTRALYTICS_SKIP_REQUIREMENTS_CHECKS": "1",
        "ULTRALYTICS_SAFE_LOAD": "1",  # a .pt file is unpickled into known classes only
        "YOLO_VERBOSE": "false",
    }.items():
        os.environ.setdefault(name, value)
    if "YOLO_CONFIG_DIR" not in os.environ:
        os.environ["YOLO_CONFIG_DIR"] = _config_dir()


_prepare()
