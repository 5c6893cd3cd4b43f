"""`hatdet yolo`: Ultralytics' own command line with our layers in it."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["CONTEXT", "run"]

CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}


def run(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TASK MODE ARG=VALUE...",
            help="What `yolo` takes: a mode (train, val, predict, export, track, benchmark), then arguments.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Ultralytics' `yolo` command, all of it, with hatdet's attention layers and model files.

    hatdet yolo train model=yolo11n-halo.yaml pretrained=yolo11n.pt data=mine.yaml epochs=50

    hatdet yolo val model=runs/detect/train/weights/best.pt data=mine.yaml

    hatdet yolo export model=best.pt format=onnx dynamic=True

    Model files that ship are found from any folder: yolo11-halo, yolov8-dat, yolov5-clo, yolov5-attnconv and
    yolov10-hat, with a scale letter (yolo11n-halo.yaml). `pretrained=FILE` finds its layers past an inserted row.
    `hatdet yolo help` prints Ultralytics' own help, `hatdet attention` writes and checks model files.

    It uses your own Ultralytics settings, sends nothing, installs nothing, and loads checkpoints of known classes only
    (ULTRALYTICS_SAFE_LOAD=0 lifts that for files you trust). --debug shows where an error came from.
    """
    import os
    from contextlib import suppress

    from hatdet.cli.session import guarded

    words = words or []
    debug = "--debug" in words
    with guarded(debug):
        from platformdirs import user_config_path

        os.environ.setdefault("YOLO_VERBOSE", "true")  # other verbs keep Ultralytics quiet
        if "YOLO_CONFIG_DIR" not in os.environ:  # and have settings of their own
            with suppress(OSError):  # Ultralytics has a place of its own where the home cannot be written
                os.environ["YOLO_CONFIG_DIR"] = str(user_config_path(roaming=True, ensure_exists=True))
        from hatdet.core.errors import HatdetError, OptionsError
        from hatdet.detection.yolo_command import run_yolo_command, short_message

        try:
            run_yolo_command([word for word in words if word != "--debug"])
        except (HatdetError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise OptionsError(short_message(error)) from error
