"""BasicSR's loggers for the time of one run: the log file, stderr, Tensorboard, wandb."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from basicsr.utils import init_tb_logger, init_wandb_logger
from basicsr.utils.logger import get_root_logger, initialized_logger

from hatdet.core.atomic import write_text
from hatdet.core.errors import OptionsError
from hatdet.training.distributed import Team

__all__ = ["curve_writer", "logging_to"]


def curve_writer(options: dict[str, Any]) -> Any:
    """Tensorboard's writer, which wandb follows, as the option file asks; none in a debug run.

    Raises:
        OptionsError: what it asks for is not installed.
    """
    if options["name"].startswith("debug"):
        options["logger"]["use_tb_logger"] = False
    wandb = options["logger"].get("wandb") or {}
    options["logger"].setdefault("use_tb_logger", False)
    if not options["logger"]["use_tb_logger"]:
        return None
    for package, key, wanted in (("tensorboard", "use_tb_logger", True), ("wandb", "wandb", wandb.get("project"))):
        if wanted and find_spec(package) is None:
            raise OptionsError(f"logger:{key} needs {package}, which is not installed: pip install {package}")
    if wandb.get("project"):
        init_wandb_logger(options)
    return init_tb_logger(log_dir=str(Path(options["root_path"]) / "tb_logger" / options["name"]))


@contextmanager
def logging_to(options: dict[str, Any], team: Team, verb: str, handler: logging.Handler | None) -> Iterator[None]:
    """BasicSR's logger, writing to the run's log file and to stderr or to `handler`, for the time of a run."""
    stamp = time.strftime("%Y%m%d_%H%M%S")
    file = Path(options["path"]["log"]) / f"{verb}_{options['name']}_{stamp}.log"
    initialized_logger.pop("basicsr", None)
    logger = get_root_logger(log_file=str(file))
    if handler is not None and team.leads:
        for one in [one for one in logger.handlers if type(one) is logging.StreamHandler]:
            logger.removeHandler(one)
        logger.addHandler(handler)
    try:
        if team.leads:
            shown = {key: value for key, value in options.items() if key != "team"}
            write_text(Path(options["path"]["log"]) / f"{verb}_options.json", json.dumps(shown, indent=1) + "\n")
            versions = {name: version(name) for name in ("hatdet", "torch", "basicsr")}
            logger.info("%s, options in %s", versions, f"{verb}_options.json")
        yield
    finally:
        for one in list(logger.handlers):
            logger.removeHandler(one)
            if one is not handler:
                one.close()
        initialized_logger.pop("basicsr", None)
