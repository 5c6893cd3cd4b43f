"""The plan that fits into a time: its order by exact tables, its geometry against what upscalers and detectors really
compute, its promises as properties. No clock: what things take is said."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hatdet.core.errors import OptionsError
from hatdet.core.types import Image
from hatdet.deploy.budget import (
    LEAST_SHARE,
    MIN_SHARE,
    Keeping,
    Plan,
    correction,
    parse_budget,
    plan,
    sentence,
    slices,
    spoken,
    upscale_ms,
)
from hatdet.deploy.calibration import Calibration, Line, Part
from hatdet.detection.slicing import slice_starts
from hatdet.detection.yolo import YoloDetector
from hatdet.sr.upscalers import HatUpscaler
from tests.helpers import FixedBoxes
from tests.test_tools import tool

NEVER = 1e12  # ms


FREE = Line(0, 0)


def machine(detector: Line = FREE, scale: int = 4, **upscalers: Line) -> Calibration:
    """Networks with tiles of 256 that overlap by 32, and bicubic, for nothing unless it is said."""
    times = {"bicubic": FREE, **{name.replace("_", "-"): line for name, line in upscalers.items()}}
    parts = [Part(name, line) if name == "bicubic" else Part(name, line, 8, 256, 32) for name, line in times.items()]
    return Calibration(scale, tuple(parts), Part("yolo", detector, 32), {})


# ------------------------------------------------------------------------------------------ 1. the budget's text


@pytest.mark.parametrize(
    ("text", "ms"), [("200ms", 200), ("2s", 2000), ("1.5 s", 1500), (" 0.5ms ", 0.5), ("250 ms", 250), ("007s", 7000)]
)
def test_a_budget_is_a_time(text, ms):
    assert parse_budget(text) == ms


@pytest.mark.parametrize(
    "text", ["", "200", "ms", "0ms", "0.0s", "-1s", "1e3ms", "2 min", "1,5s", "nan s", "1.s", "2  s", "9" * 400 + "s"]
)
def test_anything_else_is_refused(text):
    with pytest.raises(OptionsError, match=r"--budget must be a time for each image, as in 200ms or 1\.5s, got '"):
        parse_budget(text)


# ------------------------------------------------------------------------------------------ 2. what things take


@pytest.mark.parametrize(
    ("size_wh", "expected"),
    [
        ((640, 480), ((640, 480), 1)),
        ((641, 640), ((357, 640), 2)),  # 2 * 357 - 71 >= 641
        ((1280, 960), ((493, 534), 6)),  # 3 * 493 - 2 * 99 = 1281, 2 * 534 - 107 = 961
        ((1, 5000), ((1, 610), 10)),
    ],
)
def test_slices_are_as_small_as_their_number_allows(size_wh, expected):
    assert slices(size_wh, 640) == expected


@given(st.integers(1, 9000), st.integers(2, 700))
def test_slices_cover_the_image(length, most):
    (side, other), count = slices((length, 1), most)
    assert (other, side <= most, side <= length) == (1, True, True)
    if count == 1:
        assert side == length
        return
    overlap = min(round(side * 0.2), side - 1)
    starts = slice_starts(length, side, 0.2)
    assert len(starts) == count
    assert starts[-1] + side == length
    assert all(b - a <= side - overlap + 1 for a, b in itertools.pairwise(starts))
    overlap = min(round(most * 0.2), most - 1)
    assert (count - 1) * most - (count - 2) * overlap < length  # no fewer would do


class Counting(nn.Module):
    """A network that counts: its calls, and the pixels of its tiles as the real one pads them."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.any, self.window, self.calls, self.pixels = nn.Parameter(torch.zeros(1)), window, 0, 0

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        count, _, h, w = tiles.shape
        self.calls += 1
        self.pixels += count * (h + -h % self.window) * (w + -w % self.window)
        return tiles


@settings(max_examples=60)
@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.sampled_from([(8, 64, 32), (16, 64, 16), (16, 128, 32), (8, 96, 0), (8, 32, 16)]),
    st.sampled_from([1, 3]),
)
def test_tiles_are_those_that_the_upscaler_computes(size_wh, tiles, batch):
    window, tile, overlap = tiles
    network = Counting(window)
    upscaler = HatUpscaler(network, 1, "counting", window=window, tile=tile, overlap=overlap, batch=batch)
    upscaler(Image(torch.zeros(3, size_wh[1], size_wh[0])))
    of_pixels = Part("counting", Line(0, 1e6), window, tile, overlap, batch)
    assert upscale_ms(of_pixels, size_wh) == pytest.approx(network.pixels)
    assert upscale_ms(replace(of_pixels, line=Line(1, 0)), size_wh) == network.calls


@pytest.mark.parametrize("imgsz", [None, 320])
@pytest.mark.parametrize("size_wh", [(640, 480), (50, 70), (33, 33), (320, 7)])
def test_canvases_are_those_that_the_detector_sees(size_wh, imgsz):
    """For nothing but the canvas the time is its pixels."""
    network = FixedBoxes([])
    detector = YoloDetector(network, "fixed", imgsz=imgsz)
    width, height = size_wh
    detector(Image(torch.zeros(3, height, width)))
    detector(Image(torch.zeros(3, 2 * height, 2 * width), scale=2))
    plain, upscaled = (one.shape[2] * one.shape[3] for one in network.seen)
    seen = machine(Line(0, 1e6), 2)
    dear = machine(Line(0, 1e6), 2, bicubic=Line(NEVER, 0))
    assert plan(dear, size_wh, NEVER / 2, imgsz=imgsz).expected_ms == pytest.approx(plain)
    if imgsz is None or 2 * max(size_wh) <= imgsz:
        found = plan(seen, size_wh, NEVER, imgsz=imgsz)
        assert (found.upscaler, found.slice_wh, found.expected_ms) == ("bicubic", None, pytest.approx(upscaled))


def test_a_canvas_above_the_limit_is_sliced_and_its_overlaps_cost():
    found = plan(machine(Line(0, 1e6)), (1280, 960), NEVER)
    assert found.slice_wh == (493, 534)
    slice_canvas, whole = 1984 * 2144, 2560 * 1920  # of 4 * 493 and 4 * 534
    assert found.expected_ms == pytest.approx(6 * slice_canvas + whole)
    calls = plan(machine(bicubic=Line(1, 0)), (1280, 960), NEVER)
    assert calls.expected_ms == 6
    network = plan(machine(hat_xs=Line(0, 1e6)), (1280, 960), NEVER)
    assert network.expected_ms == pytest.approx(6 * 493 * 534 * (256 / 224) ** 2)
    asked = plan(machine(Line(0, 1e6)), (1280, 960), NEVER, imgsz=1280)
    assert asked.slice_wh == slices((1280, 960), 320)[0]
    assert asked.expected_ms == pytest.approx(5 * 4 * 1280**2 + 1280 * 960)
    assert plan(machine(), (1280, 960), NEVER).slice_wh is not None
    assert plan(machine(bicubic=Line(NEVER, 0)), (1280, 960), 1).slice_wh is None  # as it is: on one canvas


def test_a_share_costs_a_first_pass_and_bicubic_too():
    """640x480: a canvas of 2560x1920 for 16 ms a MP, a first pass of 640x480, bicubic 100 ms, 0.3072 MP of 1 s each."""
    detector, megapixels = Line(3, 16), 0.3072
    found = plan(machine(detector, bicubic=Line(100, 0), hat_xs=Line(0, 1000)), (640, 480), 320)
    looking = 3 + 16 * 16 * megapixels
    first = 3 + 16 * megapixels
    assert found.share == math.floor(100 * (320 - looking - first - 100) / (1000 * megapixels)) / 100
    assert found.expected_ms == pytest.approx(looking + first + 100 + found.share * 1000 * megapixels)
    # A call of its own for every 64x64 pixels.
    calls = plan(machine(hat_xs=Line(8, 0)), (640, 480), 8 * 75, most_share=0.5)
    assert calls.expected_ms == pytest.approx(8 * 75 * 0.5)
    # A larger first pass.
    larger = plan(machine(detector, bicubic=Line(100, 0), hat_xs=Line(0, 1000)), (640, 480), 320, first_pass=1280)
    assert larger.share < found.share


# ------------------------------------------------------------------------------------------ 3. the choice

# 100x100 pixels: 0.01 MP; a tile of 104x104, so in full a little more. Detection takes 10 ms on any canvas.
QUICK = machine(
    Line(10, 0), bicubic=Line(20, 0), hat_xs=Line(0, 10_000), hat_s=Line(0, 100_000), hat_l=Line(0, 1_000_000)
)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (9, (None, 1, False)),  # nothing fits
        (10, (None, 1, True)),
        (29.9, (None, 1, True)),
        (30, ("bicubic", 1, True)),
        (44, ("bicubic", 1, True)),
        # First pass, detection, bicubic: 40 ms; HAT-XS takes 1 ms for each percent.
        (45, ("hat-xs", 0.05, True)),
        (69.5, ("hat-xs", 0.29, True)),
        (90, ("hat-xs", 0.5, True)),
        (117, ("hat-xs", 0.77, True)),
        (118.1, ("hat-xs", 0.78, True)),
        (118.2, ("hat-xs", 1, True)),  # 10 + 108.16 ms, without a first pass
        # HAT-S takes 10 ms for each percent: from 30 % on.
        (339, ("hat-xs", 1, True)),
        (340, ("hat-s", 0.3, True)),
        (1000, ("hat-s", 0.96, True)),
        (1092, ("hat-s", 1, True)),
        (3039, ("hat-s", 1, True)),
        (3040, ("hat-l", 0.3, True)),
        (1e6, ("hat-l", 1, True)),
    ],
)
def test_the_order(budget, expected):
    found = plan(QUICK, (100, 100), budget)
    assert (found.upscaler, found.share, found.fits) == expected
    assert found.fits == (found.expected_ms <= budget)


def test_on_a_small_share_more_of_the_image_counts_more_than_the_network():
    both = machine(hat_xs=Line(0, 10_000), hat_s=Line(0, 11_000))
    assert (plan(both, (100, 100), 20).upscaler, plan(both, (100, 100), 20).share) == ("hat-xs", 0.2)
    assert (plan(both, (100, 100), 33).upscaler, plan(both, (100, 100), 33).share) == ("hat-s", 0.3)


def test_a_share_can_be_capped_and_regions_left_out():
    found = plan(QUICK, (100, 100), 1e6, most_share=0.4)
    assert (found.upscaler, found.share) == ("hat-l", 0.4)
    found = plan(QUICK, (100, 100), 1e6, most_share=0.04)
    assert found.upscaler == "bicubic"
    for budget, upscaler in ((50, "bicubic"), (1000, "hat-xs"), (1092, "hat-s")):
        found = plan(QUICK, (100, 100), budget, regions=False)
        assert (found.upscaler, found.share) == (upscaler, 1)


def test_where_nothing_fits_the_fastest_is_taken():
    """A small image is enlarged to 640 for the detector where it is not upscaled."""
    seen = machine(Line(0, 1000))
    found = plan(seen, (32, 32), 1)
    assert (found.upscaler, found.fits) == ("bicubic", False)
    assert found.expected_ms == pytest.approx(1000 * 0.128**2)
    found = plan(seen, (640, 640), 1)
    assert (found.upscaler, found.fits) == (None, False)


def test_files_have_the_place_of_their_family_and_others_the_first():
    files = machine(HAT_SRx4=Line(0, 1))
    named = replace(files, upscalers=(files.upscalers[0], replace(files.upscalers[1], name="HAT_SRx4")))
    small = machine(hat_s=Line(0, 1)).upscalers[1]
    large = machine(hat_l=Line(0, 1)).upscalers[1]
    mine = replace(small, name="mine.safetensors")
    for parts, best in (((small,), "HAT_SRx4"), ((large,), "hat-l"), ((large, mine), "mine.safetensors")):
        found = plan(replace(named, upscalers=(*named.upscalers, *parts)), (100, 100), 1e6)
        assert found.upscaler == best


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (((0, 5), 100), {}),
        (((5, 5), 0), {}),
        (((5, 5), math.nan), {}),
        (((5, 5), 100), {"correction": 0}),
        (((5, 5), 100), {"most_share": 0}),
        (((5, 5), 100), {"most_share": 1.1}),
    ],
)
def test_misuse(arguments: Any, named: Any):
    with pytest.raises(ValueError, match="must be positive"):
        plan(QUICK, *arguments, **named)


# ------------------------------------------------------------------------------------------ 4. promises

lines = st.builds(Line, st.floats(0, 500), st.floats(0, 1e6))
tiles = st.sampled_from([(8, 256, 32), (16, 256, 32), (16, 128, 32), (8, 64, 32), (16, 512, 64)])
networks = st.lists(
    st.tuples(st.sampled_from(["hat-xs", "hat-s", "hat", "hat-l"]), lines, tiles, st.sampled_from([1, 4])),
    unique_by=lambda network: network[0],
    max_size=4,
)


@st.composite
def machines(draw) -> Calibration:
    parts = [Part("bicubic", draw(lines))]
    for name, line, (multiple, tile, overlap), batch in draw(networks):
        parts.append(Part(name, line, multiple, tile, overlap, batch))
    return Calibration(draw(st.sampled_from([2, 4])), tuple(parts), Part("yolo", draw(lines), 32), {})


def place(found: Plan) -> tuple[float, ...]:
    """Where a plan is in the order of the docstring, written down once more."""
    names = ["bicubic", "hat-xs", "hat-s", "hat", "hat-l"]
    if not found.fits:
        return (-1, 0, 0)
    if found.upscaler is None:
        return (0, 0, 0)
    quality = names.index(found.upscaler)
    if quality == 0:
        return (1, 0, 0)
    return (3, quality, found.share) if found.share >= MIN_SHARE else (2, found.share, quality)


sizes = st.tuples(st.integers(1, 1500), st.integers(1, 1500))
budgets = st.floats(1, 1e6)
options = st.fixed_dictionaries(
    {"imgsz": st.sampled_from([None, 640, 1280]), "regions": st.booleans(), "most_share": st.sampled_from([1, 0.5])}
)


@settings(max_examples=150)
@given(machines(), sizes, budgets, st.floats(1, 100), options)
def test_a_larger_budget_never_gives_a_worse_plan(calibration, size_wh, budget, more, how):
    less, greater = (plan(calibration, size_wh, ms, **how) for ms in (budget, budget * more))
    assert place(greater) >= place(less)


@settings(max_examples=150)
@given(machines(), sizes, budgets, st.integers(2, 6), options)
def test_a_larger_image_never_gives_a_better_plan(calibration, size_wh, budget, times, how):
    """Of the same shape: a longer one may have a smaller canvas where it is not upscaled."""
    larger = (size_wh[0] * times, size_wh[1] * times)
    assert place(plan(calibration, larger, budget, **how)) <= place(plan(calibration, size_wh, budget, **how))


@settings(max_examples=150)
@given(machines(), sizes, budgets, st.floats(1, 8))
def test_a_slower_machine_is_a_smaller_budget(calibration, size_wh, budget, slower):
    slow, small = plan(calibration, size_wh, budget, correction=slower), plan(calibration, size_wh, budget / slower)
    if math.isclose(slow.expected_ms, budget) or math.isclose(small.expected_ms, budget / slower):
        return  # a rounding apart
    assert place(slow) == place(small)
    assert slow.expected_ms == pytest.approx(small.expected_ms * slower)


@settings(max_examples=100)
@given(machines(), sizes, budgets)
def test_what_is_planned_fits_and_nothing_better_does(calibration, size_wh, budget):
    found = plan(calibration, size_wh, budget)
    assert found.fits == (found.expected_ms <= budget)
    assert found.share == 1 or (found.share >= LEAST_SHARE and found.fits)
    assert found.share * 100 == pytest.approx(round(found.share * 100))
    if found.better is not None:
        assert found.better.expected_ms > budget
        enough = plan(calibration, size_wh, found.better.expected_ms)
        assert place(enough) > place(found)


# ------------------------------------------------------------------------------------------ 5. what is said

CHOSEN = Plan("hat-xs", 0.35, None, 180.2, True, 200, (640, 480))


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (0.25, "0.2 ms"),
        (7, "7 ms"),
        (9.96, "10 ms"),
        (180.2, "180 ms"),
        (999.6, "1 s"),
        (1250, "1.25 s"),
        (61234, "61.2 s"),
    ],
)
def test_times_in_words(ms, words):
    assert spoken(ms) == words


@pytest.mark.parametrize(
    ("budget", "size_wh", "words"),
    [
        (9, (100, 100), "--budget 9 ms cannot be kept to: no upscaling of a 100x100 image, 10 ms expected"),
        (
            10,
            (100, 100),
            "--budget 10 ms: no upscaling of a 100x100 image, 10 ms expected (bicubic on all would take 30 ms)",
        ),
        (
            30,
            (100, 100),
            "--budget 30 ms: bicubic on all of a 100x100 image, 30 ms expected (hat-xs on 5 % would take 45 ms)",
        ),
        (
            90,
            (100, 100),
            "--budget 90 ms: hat-xs on 50 % of a 100x100 image, 90 ms expected (hat-xs on all would take 118 ms)",
        ),
        (1e6, (100, 100), "--budget 1000 s: hat-l on all of a 100x100 image, 10.8 s expected"),
        (
            1500,
            (700, 100),
            "--budget 1.5 s: hat-xs on all of a 700x100 image, in slices of 389x100, 1.05 s expected "
            "(hat-s on 30 % would take 2.42 s)",
        ),
    ],
)
def test_the_plan_in_words(budget, size_wh, words):
    assert sentence(plan(QUICK, size_wh, budget)) == words


def test_what_was_kept_to():
    keeping = Keeping(200)
    assert keeping.line() == ""
    keeping.add(180, CHOSEN)
    assert keeping.line() == "1 of 1 image kept to 200 ms: median 180 ms, worst 180 ms"
    for ms in (200, 260, 1300):
        keeping.add(ms, CHOSEN)
    assert keeping.line() == "2 of 4 images kept to 200 ms: median 230 ms, worst 1.3 s"


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([], 1),
        ([3], 2),  # the first image alone does not decide
        ([3, 1.1], 1.1),
        ([9, 9, 9], 4),
        ([0.1] * 3, 0.5),
        ([0.7, 0.8, 0.9], 0.85),
        ([4.0] * 50 + [1.5] * 15, 1.5),  # what was long ago is forgotten
    ],
)
def test_the_correction_is_a_bounded_median(ratios, expected):
    assert correction(ratios) == pytest.approx(expected)


def test_the_correction_does_not_count_itself():
    keeping = Keeping(200)
    for _ in range(5):  # always twice what the calibration says, whatever was expected meanwhile
        keeping.add(2 * 100, replace(CHOSEN, expected_ms=100 * keeping.correction, correction=keeping.correction))
    assert keeping.correction == 2


@pytest.mark.parametrize(("slower", "kept"), [(1, 20), (0.6, 20), (3, 19), (20, 0)])
def test_a_busy_machine_keeps_to_its_budget_too(slower, kept):
    """A machine that takes `slower` times what it was calibrated to, for 20 images."""
    keeping = Keeping(400)
    done = []
    for _ in range(20):
        found = plan(QUICK, (100, 100), 400, correction=keeping.correction)
        done.append(found)
        keeping.add(found.expected_ms / found.correction * slower, found)
    assert keeping.line().startswith(f"{kept} of 20 images")
    if slower == 0.6:
        assert place(done[-1]) > place(done[0])


# ------------------------------------------------------------------------------------------ 6. the tool


def test_predicted_beside_measured():
    bench = tool("bench_budget")
    asked = []

    def measure(found: Plan) -> float:
        asked.append(found)
        return found.expected_ms * 1.5

    found = list(bench.rows(QUICK, [(100, 100), (2000, 50)], [9, 10, 11, 30, 1e4], measure))
    assert [(row.plan.size_wh, row.plan.upscaler, row.plan.budget_ms) for row in found] == [
        ((100, 100), None, 9),
        ((100, 100), "bicubic", 30),
        ((100, 100), "hat-s", 1e4),
        ((2000, 50), None, 9),  # what is sliced is not run
    ]
    assert [row.plan for row in found] == asked
    assert bench.printed(found).splitlines() == [
        "| image | budget | chosen | predicted | measured | off by |",
        "|---|--:|---|--:|--:|--:|",
        "| 100x100 | 9 ms | no upscaling (does not fit) | 10 ms | 15 ms | +50 % |",
        "| 100x100 | 30 ms | bicubic | 30 ms | 45 ms | +50 % |",
        "| 100x100 | 10 s | hat-s | 1.09 s | 1.64 s | +50 % |",
        "| 2000x50 | 9 ms | no upscaling (does not fit) | 10 ms | 15 ms | +50 % |",
        "",
        "median 50 %, at most 50 %",
    ]
