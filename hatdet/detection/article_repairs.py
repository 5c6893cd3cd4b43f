"""What keeps the model files of articles on attention from working as printed, and its repair.

Four things are known to be wrong in such files:

* An attention row without its width: articles edit Ultralytics to pass it, a row here begins with `c2`.
* `Detect` with anchors, which it no longer takes.
* Numbers of layers that were not moved when the attention row was put in: the file builds, wired to the wrong layer.
* The row `HAT`, which computes nothing. What to write instead is for the author to say: it is explained, not changed.

The wiring is judged by the stock file with the same layers, given the same attention rows: its numbers are known to be
right, where any rule about which layer a skip connection should take would only guess. A file whose other layers are
those of no stock file keeps its wiring.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from hatdet.detection.model_files import ModelFile, Row, insert_row, read_model_file, stock_model_files

__all__ = ["Repair", "repair"]

_ATTENTION = ("HaloAttention", "DAttention", "DAttentionBaseline", "EfficientAttention", "AttnConv")
_LEAST_WIDTH = 16  # no feature map that these articles touch is narrower: a smaller number is a block, or heads


@dataclass(frozen=True)
class Repair:
    """One thing that was wrong with a file.

    Attributes:
        row: The number of the layer; None where it is no row.
        was: What the file had.
        now: What it has now, nothing where it was dropped; None where it is for the author to change.
        why: The reason, and what to do where `now` is None.
    """

    row: int | None
    was: str
    now: str | None
    why: str

    def __str__(self) -> str:
        place = "" if self.row is None else f"row {self.row}: "
        change = "" if self.now is None else f" -> {self.now or 'dropped'}"
        return f"{place}{self.was}{change} ({self.why})"


def repair(model: ModelFile) -> tuple[ModelFile, list[Repair]]:
    """The model with its known mistakes mended, and what they were; a healthy one as it is, with none.

    Nothing else is changed. A repair whose `now` is None was not made.
    """
    repairs: list[Repair] = []
    for step in (_with_widths, _without_anchors, _rewired, _with_explanations):
        model, done = step(model)
        repairs += done
    return model, repairs


# ------------------------------------------------------------------------------------------ 1. arguments


def _with_widths(model: ModelFile) -> tuple[ModelFile, list[Repair]]:
    changes = {}
    for i, row in enumerate(model.rows):
        if row.module in _ATTENTION and (found := _completed(row)):
            changes[i] = found
    return _changed(model, changes)


def _completed(row: Row) -> tuple[Row, str] | None:
    if row.module.startswith("DAttention") and len(row.args) == 15:
        return _from_published_dat(row)
    first = row.args[0] if row.args else 0
    if isinstance(first, bool) or (isinstance(first, int) and first < _LEAST_WIDTH):
        return replace(row, args=("c2", *row.args)), "the width of the row above, c2, was missing"
    return None


def _from_published_dat(row: Row) -> tuple[Row, str] | None:
    """The 15 arguments of the published DAttentionBaseline, as those of the layer here."""
    q_size, _, heads, _, groups, attn_drop, proj_drop, stride, factor = row.args[:9]
    use_pe, dwc_pe, no_off, fixed_pe, ksize, log_cpb = row.args[9:]
    position = "none"
    if use_pe and not no_off:
        position = "dwc" if dwc_pe else "fixed" if fixed_pe else "log-cpb" if log_cpb else "rpe"
    why = "the arguments of the published class: the width is c2, and the channels of a head follow from it"
    if no_off:
        factor = 0
        why += "; instead of averages it reads fixed points, without offsets"
    if attn_drop or proj_drop:
        why += "; there is no dropout here"
    args = ("c2", heads, groups, stride, ksize, factor, position, "datpp", q_size)
    return replace(row, args=args), why


def _without_anchors(model: ModelFile) -> tuple[ModelFile, list[Repair]]:
    last = len(model.rows) - 1
    row = model.rows[last]
    if row.module != "Detect" or len(row.args) != 2 or not (row.args[1] == "anchors" or isinstance(row.args[1], tuple)):
        return model, []
    why = "Detect no longer takes anchors"
    model, repairs = _changed(model, {last: (replace(row, args=row.args[:1]), why)})
    if "anchors" in model.keys:
        repairs.append(Repair(None, "anchors", "", why))
        model = replace(model, keys={key: value for key, value in model.keys.items() if key != "anchors"})
    return model, repairs


# ------------------------------------------------------------------------------------------ 2. wiring


def _rewired(model: ModelFile) -> tuple[ModelFile, list[Repair]]:
    expected = min(_intended(model), key=lambda other: len(_differing(model, other)), default=model)
    why = "the numbers of layers were not moved with the attention row: in the stock file this reads another layer"
    return _changed(
        model, {i: (replace(model.rows[i], source=expected.rows[i].source), why) for i in _differing(model, expected)}
    )


def _intended(model: ModelFile) -> Iterator[ModelFile]:
    """The stock files with the layers of this one, each given the rows that are in no stock file, in their places."""
    known = {row.module for stock in _stock_models() for row in stock.rows}
    added = [i for i, row in enumerate(model.rows) if row.module not in known]
    if any(not 0 < i < len(model.rows) - 1 or model.producers(i) != (i - 1,) for i in added):
        return  # not in series with the row above: nothing says what was meant
    layers = list(_layers(model.rows))
    for stock in _stock_models():
        if added and len(stock.rows) + len(added) == len(layers):
            for i in added:
                row = model.rows[i]
                stock = insert_row(stock, i - 1, row.module, row.args, row.repeats)
            if list(_layers(stock.rows)) == layers:
                yield stock


@cache
def _stock_models() -> tuple[ModelFile, ...]:
    return tuple(map(read_model_file, stock_model_files().values()))


def _layers(rows: Iterable[Row]) -> Iterator[tuple[int, str, tuple[Any, ...]]]:
    return ((row.repeats, row.module, row.args) for row in rows)


def _differing(model: ModelFile, other: ModelFile) -> list[int]:
    return [i for i in range(len(model.rows)) if model.producers(i) != other.producers(i)]


# ------------------------------------------------------------------------------------------ 3. what is not repaired


def _with_explanations(model: ModelFile) -> tuple[ModelFile, list[Repair]]:
    why = (
        "HAT is an upscaler and no layer: in a row it computes nothing. Write HATBlock, as in [-1, 1, HATBlock, [c2]], "
        "for its attention inside the detector, or use `hatdet detect --upscale` for HAT in front of it"
    )
    return model, [Repair(i, str(row), None, why) for i, row in enumerate(model.rows) if row.module == "HAT"]


def _changed(model: ModelFile, changes: dict[int, tuple[Row, str]]) -> tuple[ModelFile, list[Repair]]:
    """The model with other rows in some places, and why."""
    rows = [changes[i][0] if i in changes else row for i, row in enumerate(model.rows)]
    repairs = [Repair(i, str(model.rows[i]), str(row), why) for i, (row, why) in changes.items()]
    split = len(model.backbone)
    return (replace(model, backbone=tuple(rows[:split]), head=tuple(rows[split:])) if changes else model), repairs
