"""What a difference and its interval allow one to say: exact cases, Holm by hand."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatdet.evaluation.verdict import (
    Contrast,
    Resampled,
    after_holm,
    compare_arms,
    difference,
    holm,
    planned_pairs,
)

B = 2000


def arm(estimate: float, spread: float = 0.0, seed: int = 0) -> Resampled:
    return Resampled(estimate, estimate + spread * np.random.default_rng(seed).standard_normal(B))


def contrast(gain: float, spread: float, images: int = 128, kind: str = "primary", **changes) -> Contrast:
    base = arm(0.35, 0.03, seed=1)
    shift = gain + spread * np.random.default_rng(2).standard_normal(B)
    numbers = {"bicubic": base, "hat-xs": Resampled(0.35 + gain, base.draws + shift)}
    options = {"units": images, "margin": 0.01, **changes}
    return compare_arms(kind, "yolo", ("hat-xs", "bicubic"), "map50_95", numbers, images, **options)


def test_a_difference_is_of_pairs():
    base = arm(0.3, 0.05)
    found = difference(Resampled(0.32, base.draws + np.linspace(0.01, 0.03, B)), base)
    assert found is not None
    assert found.value == pytest.approx(0.02)
    # The spread of the two arms, 0.05, is common to both and plays no part.
    assert (found.low, found.high) == pytest.approx((0.0105, 0.0295), abs=1e-9)
    assert found.p == 1 / B
    assert found.standard_deviation == pytest.approx(0.02 / math.sqrt(12), rel=1e-3)


def test_two_sided_p_counts_ties_on_both_sides():
    draws = np.concatenate([np.full(30, -1.0), np.zeros(10), np.ones(1960)])
    found = difference(Resampled(1.0, draws), Resampled(0.0, np.zeros(B)))
    assert found is not None
    assert found.p == pytest.approx(2 * 40 / B)


def test_an_arm_against_itself_differs_by_nothing():
    base = arm(0.3, 0.05)
    found = difference(base, base)
    assert found is not None
    assert (found.value, found.low, found.high, found.p, found.standard_deviation) == (0, 0, 0, 1, 0)


def test_resamples_without_a_number_are_left_out_and_arms_must_share_them():
    draws = np.full(B, 0.1)
    draws[:100] = np.nan
    found = difference(Resampled(0.1, draws), Resampled(0.0, np.zeros(B)))
    assert found is not None
    assert found.low == found.high == 0.1
    assert difference(Resampled(math.nan, draws), Resampled(0.0, np.zeros(B))) is None
    with pytest.raises(ValueError, match="share their resamples"):
        difference(arm(0.1), Resampled(0.1, np.zeros(3)))


def test_holm_by_hand():
    # 3 x 0.01, 2 x 0.02, 1 x 0.04; in any order.
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.4]) == pytest.approx([0.8, 0.8])
    assert holm([0.9, 0.001]) == pytest.approx([0.9, 0.002])
    assert holm([]) == []


@given(st.lists(st.floats(0.0005, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_nor_changes_their_order(values):
    adjusted = holm(values)
    assert all(new >= old and new <= 1 for new, old in zip(adjusted, values, strict=True))
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_the_primary_pair_is_the_first_upscaler_against_the_better_strong_control():
    controls = {"lr": 0.9, "lr@imgsz": 0.35, "nearest": 0.1, "bicubic": 0.36}
    pairs = planned_pairs(["hat-xs", "hat"], controls)
    assert pairs[0] == ("hat-xs", "bicubic")
    assert pairs[:4] == [("hat-xs", "bicubic"), ("hat", "bicubic"), ("hat-xs", "lr@imgsz"), ("hat", "lr@imgsz")]
    assert set(pairs[4:]) == {(u, c) for u in ("hat-xs", "hat") for c in ("lr", "nearest")}
    assert planned_pairs(["hat-xs"], {**controls, "lr@imgsz": 0.37})[0] == ("hat-xs", "lr@imgsz")
    # Without either there is no honest control, and so nothing planned.
    assert planned_pairs(["hat-xs"], {"lr": 0.2, "nearest": 0.1}) == []
    assert planned_pairs([], controls) == []


def test_words_of_a_gain():
    found = contrast(0.021, 0.007)
    assert found.outcome == "better"
    assert found.words.startswith("hat-xs beats bicubic by 2.1 mAP50-95 [0.")
    assert found.images_needed is None


def test_words_of_a_loss_name_what_is_enough():
    found = contrast(-0.021, 0.007)
    assert found.outcome == "worse"
    assert found.words.startswith("upscaling by hat-xs hurts here: it loses 2.1 mAP50-95 [0.")
    assert found.words.endswith("to bicubic; bicubic is enough")


def test_a_gain_below_the_margin_is_no_reason_to_upscale():
    found = contrast(0.001, 0.003)
    assert found.outcome == "enough"
    assert found.words.startswith("bicubic is enough: hat-xs against it +0.1 mAP50-95 [-0.")
    assert found.words.endswith("a gain below 1.0")
    assert contrast(0.001, 0.003, margin=0.002).outcome == "not resolved"


def test_what_is_not_resolved_says_how_many_images_would():
    found = contrast(0.01, 0.0145)
    assert found.outcome == "not resolved"
    sd = found.difference.standard_deviation
    assert found.images_needed == math.ceil(128 * (2.8 * sd / 0.01) ** 2)
    assert f"about {found.images_needed:,} would resolve" in found.words
    assert f"these resolve {280 * sd:.1f} and more" in found.words
    assert "equal" not in found.words
    tiny = contrast(1e-6, 0.0145)
    assert tiny.images_needed is None
    assert "no realistic number would resolve" in tiny.words


def test_too_few_images_or_sequences_give_no_verdict():
    found = contrast(0.1, 0.001, images=19)
    assert found.outcome == "none"
    assert found.words == (
        "no verdict on hat-xs and bicubic from 19 images, at least 20 are needed: +10.0 mAP50-95 here"
    )
    assert contrast(0.1, 0.001, images=500, units=19).words.startswith(
        "no verdict on hat-xs and bicubic from 19 groups of images"
    )
    assert contrast(0.1, 0.001, images=20).outcome == "better"


def test_no_number_no_verdict():
    numbers = {"a": Resampled(math.nan, np.full(B, np.nan)), "b": arm(0.1)}
    found = compare_arms("primary", "yolo", ("a", "b"), "map50_95", numbers, 128, 128, 0.01)
    assert (found.outcome, found.difference) == ("none", None)
    assert found.words == "no verdict on a and b: there is no mAP50-95"


def test_exploratory_words_claim_nothing():
    assert contrast(0.021, 0.007, kind="exploratory").words.startswith("hat-xs against bicubic: +2.1 mAP50-95 [")


def test_planned_contrasts_pay_for_their_number():
    one = contrast(0.015, 0.0068, kind="planned")
    assert one.outcome == "better"
    assert 0.01 < one.difference.p < 0.05
    alone = after_holm([one], 128, 128, 0.01)
    assert (alone[0].outcome, alone[0].p_holm) == ("better", one.difference.p)
    ten = after_holm([one, *(contrast(0.0, 0.01, kind="planned") for _ in range(9))], 128, 128, 0.01)
    assert ten[0].outcome == "not resolved"
    assert ten[0].p_holm == pytest.approx(10 * one.difference.p)
    assert "after Holm" in ten[0].words
    assert ten[0].images_needed > 128


@pytest.mark.parametrize("kind", ["planned", "primary"])
def test_pairs_without_a_number_do_not_disturb_holm(kind):
    numbers = {"hat-xs": Resampled(math.nan, np.full(B, np.nan)), "bicubic": arm(0.1)}
    nothing = compare_arms(kind, "yolo", ("hat-xs", "bicubic"), "map50_95", numbers, 128, 128, 0.01)
    one = contrast(0.021, 0.007, kind="planned")
    assert [found.p_holm for found in after_holm([nothing, one], 128, 128, 0.01)] == [None, one.difference.p]


@pytest.mark.slow
def test_an_arm_against_itself_is_rarely_called_different():
    tool = Path(__file__).parents[2] / "tools/verdict_power.py"
    command = [sys.executable, str(tool), "calibrate", "--trials", "200"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    claims = int(said.split()[0])
    assert said.startswith(f"{claims} of 200 trials claim a difference between an arm and itself")
    assert claims <= 16
