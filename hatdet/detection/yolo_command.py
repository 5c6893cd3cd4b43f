"""The `yolo` command line of Ultralytics, with our layers known, our model files found, and our trainers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hatdet.detection.attention  # noqa: F401 (before a model is built)
from hatdet.detection.model_files import find_model_file
from hatdet.detection.trainers import TRAINERS

__all__ = ["run_yolo_command", "short_message"]

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def run_yolo_command(words: Sequence[str]) -> None:
    """Do what `yolo WORDS...` does.

    A model file that Ultralytics would not find itself is looked for among those that ship with hatdet.

    Raises:
        ValueError, SyntaxError, FileNotFoundError and others: as `yolo` does.
    """
    from ultralytics import cfg

    with _words([_with_model_file(word) for word in cfg.merge_equals_args(list(words))]), _our_trainers():
        cfg.entrypoint()


def short_message(error: BaseException) -> str:
    """One line of an error of Ultralytics, without colours and without the whole help text behind it."""
    from ultralytics.cfg import CLI_HELP_MSG

    text = _COLOUR.sub("", str(error)).replace(CLI_HELP_MSG, "")
    return " ".join(text.split()) or type(error).__name__


def _with_model_file(word: str) -> str:
    key, equals, value = word.partition("=")
    if equals and key.lstrip("-") == "model" and value.endswith((".yaml", ".yml")):
        return f"{key}={find_model_file(value)}"
    return word


@contextmanager
def _words(words: list[str]) -> Iterator[None]:
    """Ultralytics has read its command line when it was imported."""
    from ultralytics import cfg

    before = cfg.ARGV
    cfg.ARGV = ["yolo", *words]
    try:
        yield
    finally:
        cfg.ARGV = before


@contextmanager
def _our_trainers() -> Iterator[None]:
    """The command line takes the class `YOLO` from the package when it runs, and that class has a table of trainers."""
    import ultralytics

    stock: Any = ultralytics.YOLO

    class YOLO(stock):  # type: ignore[misc]
        @property
        def task_map(self) -> dict[str, dict[str, Any]]:
            table: dict[str, dict[str, Any]] = super().task_map
            return {task: {**row, "trainer": TRAINERS.get(task, row["trainer"])} for task, row in table.items()}

    ultralytics.YOLO = YOLO
    try:
        yield
    finally:
        ultralytics.YOLO = stock
