"""Repairs of model files as articles print them: each mistake alone, all at once, and none where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import hatdet.detection.attention  # noqa: F401 (makes the layers known)
from hatdet.core.assets import asset
from hatdet.detection.article_repairs import Repair, repair
from hatdet.detection.attention.inspection import build, row_problems
from hatdet.detection.model_files import ModelFile, Row, insert_row, read_model_file, stock_model_files

ANCHORS = ((10, 13, 16, 30, 33, 23), (30, 61, 62, 45, 59, 119), (116, 90, 156, 198, 373, 326))
WIRING = "the numbers of layers were not moved with the attention row: in the stock file this reads another layer"
WIDTH = "the width of the row above, c2, was missing"


def stock(name: str) -> ModelFile:
    return read_model_file(stock_model_files()[f"{name}.yaml"])


def with_row(model: ModelFile, i: int, **changes: Any) -> ModelFile:
    rows = list(model.rows)
    rows[i] = replace(rows[i], **changes)
    split = len(model.backbone)
    return replace(model, backbone=tuple(rows[:split]), head=tuple(rows[split:]))


def article(name: str, module: str, args: tuple[Any, ...], after: int = 9) -> ModelFile:
    return insert_row(stock(name), after, module, args)


def yolov5_clo(args: tuple[Any, ...] = ()) -> ModelFile:
    """As printed: the row without arguments, one number that was not moved, anchors."""
    model = with_row(article("yolov5", "EfficientAttention", args), 20, source=(-1, 14))
    model = with_row(model, 25, args=("nc", "anchors"))
    return replace(model, keys={**model.keys, "anchors": ANCHORS})


def test_all_of_an_article_at_once():
    model, repairs = repair(yolov5_clo())
    assert model == article("yolov5", "EfficientAttention", ("c2",))
    assert repairs == [
        Repair(10, "[-1, 1, EfficientAttention, []]", "[-1, 1, EfficientAttention, [c2]]", WIDTH),
        Repair(25, "[[18, 21, 24], 1, Detect, [nc, anchors]]", "[[18, 21, 24], 1, Detect, [nc]]", repairs[1].why),
        Repair(None, "anchors", "", "Detect no longer takes anchors"),
        Repair(20, "[[-1, 14], 1, Concat, [1]]", "[[-1, 15], 1, Concat, [1]]", WIRING),
    ]
    assert [str(each) for each in repairs][1:3] == [
        "row 25: [[18, 21, 24], 1, Detect, [nc, anchors]] -> [[18, 21, 24], 1, Detect, [nc]] "
        "(Detect no longer takes anchors)",
        "anchors -> dropped (Detect no longer takes anchors)",
    ]
    assert row_problems(model) == []
    # The mistake is a silent one: both layers are there, one of them with twice the channels.
    network, printed = build(model, "n"), build(with_row(model, 20, source=(-1, 14)), "n")
    assert [n.model[21].cv1.conv.in_channels for n in (network, printed)] == [128, 192]


@pytest.mark.parametrize(
    ("module", "args", "repaired"),
    [
        ("HaloAttention", (2, 1), ("c2", 2, 1)),
        ("HaloAttention", (), ("c2",)),
        ("HaloAttention", (8, 3, 32, 4), ("c2", 8, 3, 32, 4)),
        ("EfficientAttention", (), ("c2",)),
        ("EfficientAttention", (8, (4, 4), (3,), 1), ("c2", 8, (4, 4), (3,), 1)),
        ("AttnConv", (), ("c2",)),
        ("DAttention", (), ("c2",)),
        ("DAttentionBaseline", (), ("c2",)),
    ],
)
def test_a_missing_width(module, args, repaired):
    model, repairs = repair(article("yolo11", module, args))
    assert model == article("yolo11", module, repaired)
    was, now = (str(Row(-1, 1, module, each)) for each in (args, repaired))
    assert repairs == [Repair(10, was, now, WIDTH)]
    build(model, "n")


PUBLISHED = {
    "q_size": (20, 20),
    "kv_size": (20, 20),
    "n_heads": 8,
    "n_head_channels": 32,
    "n_groups": 4,
    "attn_drop": 0.0,
    "proj_drop": 0.0,
    "stride": 2,
    "offset_range_factor": 2,
    "use_pe": True,
    "dwc_pe": False,
    "no_off": False,
    "fixed_pe": False,
    "ksize": 5,
    "log_cpb": False,
}


@pytest.mark.parametrize(
    ("changes", "args", "note"),
    [
        ({}, ("c2", 8, 4, 2, 5, 2, "rpe", "datpp", (20, 20)), ""),
        ({"n_heads": 4, "n_groups": 2}, ("c2", 4, 2, 2, 5, 2, "rpe", "datpp", (20, 20)), ""),
        ({"stride": 1, "ksize": 3}, ("c2", 8, 4, 1, 3, 2, "rpe", "datpp", (20, 20)), ""),
        ({"offset_range_factor": -1}, ("c2", 8, 4, 2, 5, -1, "rpe", "datpp", (20, 20)), ""),
        ({"q_size": (14, 7)}, ("c2", 8, 4, 2, 5, 2, "rpe", "datpp", (14, 7)), ""),
        ({"log_cpb": True}, ("c2", 8, 4, 2, 5, 2, "log-cpb", "datpp", (20, 20)), ""),
        ({"dwc_pe": True, "log_cpb": True}, ("c2", 8, 4, 2, 5, 2, "dwc", "datpp", (20, 20)), ""),
        ({"use_pe": False}, ("c2", 8, 4, 2, 5, 2, "none", "datpp", (20, 20)), ""),
        ({"no_off": True}, ("c2", 8, 4, 2, 5, 0, "none", "datpp", (20, 20)), "without offsets"),
        ({"proj_drop": 0.1}, ("c2", 8, 4, 2, 5, 2, "rpe", "datpp", (20, 20)), "there is no dropout here"),
        # Of the size that the map has when Ultralytics runs the model at 256 px.
        ({"fixed_pe": True, "q_size": (8, 8)}, ("c2", 8, 4, 2, 5, 2, "fixed", "datpp", (8, 8)), ""),
    ],
)
def test_the_fifteen_arguments_of_the_published_class(changes, args, note):
    model, repairs = repair(article("yolov8", "DAttentionBaseline", tuple({**PUBLISHED, **changes}.values())))
    assert model.rows[10].args == args
    assert [each.row for each in repairs] == [10]
    assert note in repairs[0].why
    assert model == article("yolov8", "DAttentionBaseline", args)
    layer = build(model, "n").model[10]
    expected = {**PUBLISHED, **changes}
    assert (layer.n_heads, layer.n_groups, layer.stride, layer.ksize) == tuple(
        expected[name] for name in ("n_heads", "n_groups", "stride", "ksize")
    )


@pytest.mark.parametrize("second", ["anchors", ANCHORS])
def test_anchors_alone(second):
    healthy = article("yolov5", "AttnConv", ("c2",))
    model, repairs = repair(with_row(healthy, 25, args=("nc", second)))
    assert model == healthy
    assert [each.row for each in repairs] == [25]


def test_keys_beside_the_rows_stay_as_they_are():
    healthy = article("yolov5", "AttnConv", ("c2",))
    kept = {"depth_multiple": 0.33, "width_multiple": 0.5, "anchors": 3, "nc": 6}
    assert repair(replace(healthy, keys=kept)) == (replace(healthy, keys=kept), [])
    model, _ = repair(with_row(replace(healthy, keys=kept), 25, args=("nc", "anchors")))
    assert model.keys == {key: value for key, value in kept.items() if key != "anchors"}


@pytest.mark.parametrize(
    ("name", "after", "wrong"),
    [
        ("yolo11", 9, {19: (-1, 13)}),
        ("yolo11", 8, {22: (-1, 10)}),
        ("yolo11", 10, {24: (16, 19, 22)}),
        ("yolo11", 9, {19: (-1, 13), 22: (-1, 10), 24: (16, 19, 22)}),  # nothing was moved
        ("yolov8", 9, {21: (-1, 9)}),  # past the attention row
        ("yolov10n", 9, {19: (-1, 13)}),
        ("yolo11", 2, {17: (-1, 4), 14: (-1, 6)}),
        ("yolov3", 4, {19: (-1, 8), 26: (-1, 6)}),
        ("yolo11", 9, {19: (-2, 14)}),
    ],
)
def test_numbers_that_were_not_moved(name, after, wrong):
    healthy = article(name, "HaloAttention", ("c2", 2, 1), after)
    printed = healthy
    for i, source in wrong.items():
        assert healthy.rows[i].source != source
        printed = with_row(printed, i, source=source)
    model, repairs = repair(printed)
    assert model == healthy
    assert [(each.row, each.was, each.now, each.why) for each in repairs] == [
        (i, str(printed.rows[i]), str(healthy.rows[i]), WIRING) for i in sorted(wrong)
    ]


def test_two_attention_rows_and_other_layers_than_the_articles():
    healthy = insert_row(article("yolo11", "HaloAttention", ("c2", 2, 1)), 4, "EMA", ("c2",))
    model, repairs = repair(with_row(healthy, 20, source=(-1, 14)))
    assert model == healthy
    assert [each.row for each in repairs] == [20]


def test_the_wiring_of_a_file_that_is_like_no_stock_file_is_its_authors():
    printed = with_row(article("yolo11", "HaloAttention", ("c2", 2, 1)), 19, source=(-1, 13))
    assert len(repair(printed)[1]) == 1  # and so it is the difference below that makes it the author's
    own_widths = with_row(printed, 7, args=(768, 3, 2))
    assert repair(own_widths) == (own_widths, [])
    own_place = with_row(printed, 10, source=6)
    assert repair(own_place) == (own_place, [])
    own_head = with_row(printed, 24, module="MyDetect")
    assert repair(own_head) == (own_head, [])
    own_start = with_row(printed, 0, module="MyStem")
    assert repair(own_start) == (own_start, [])
    without_attention = with_row(stock("yolo11"), 18, source=(-1, 12))
    assert repair(without_attention) == (without_attention, [])


def test_a_number_spelled_otherwise_is_no_mistake():
    spelled = with_row(article("yolo11", "HaloAttention", ("c2", 2, 1)), 19, source=(18, -5))
    assert repair(spelled) == (spelled, [])
    named = with_row(spelled, 10, source=9)
    assert repair(named) == (named, [])


def test_hat_is_explained_and_left():
    printed = article("yolov10n", "HAT", (256,))
    model, repairs = repair(printed)
    assert model == printed
    assert [(each.row, each.was, each.now) for each in repairs] == [(10, "[-1, 1, HAT, [256]]", None)]
    assert str(repairs[0]).startswith("row 10: [-1, 1, HAT, [256]] (HAT is an upscaler and no layer")
    assert "HATBlock" in repairs[0].why
    assert "hatdet detect --upscale" in repairs[0].why
    # What can be repaired beside it, is.
    model, repairs = repair(with_row(printed, 19, source=(-1, 13)))
    assert model == printed
    assert [each.row for each in repairs] == [19, 10]


HEALTHY: list[Path] = [*asset("options", "models").glob("*.yaml"), *stock_model_files().values()]


def test_a_healthy_file_is_left_alone():
    for path in HEALTHY:
        model = read_model_file(path)
        assert repair(model) == (model, []), path.name
    # Attention with all of its arguments, a width in numbers, another place.
    for args in (("c2",), ("c2", 2, 1), (256, 2, 1), ("c2", 2, 1, 32, 4, True)):
        for after in (4, 6, 16):
            model = article("yolo11", "HaloAttention", args, after)
            assert repair(model) == (model, []), (args, after)


@pytest.mark.parametrize("module", ["DAttention", "DAttentionBaseline"])
def test_what_is_repaired_needs_no_more_repair(module):
    for printed in (yolov5_clo(), article("yolov8", module, tuple(PUBLISHED.values()))):
        model, repairs = repair(printed)
        assert repairs
        assert repair(model) == (model, [])
