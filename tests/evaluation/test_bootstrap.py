"""Resampled average precision against the evaluation of images that were copied in earnest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hatdet.evaluation import bootstrap
from hatdet.evaluation.bootstrap import draw_weights, resampled_map
from hatdet.evaluation.boxes import SIZES
from hatdet.evaluation.matching import average_precision, match_classes
from tests.evaluation.test_matching import CLASSES, coarse_data, found, random_data, reference, truth

BOX = (0, 0, 40, 40)


def estimate(matches) -> tuple[float, float]:
    """mAP50-95 and mAP50 over the classes that have objects."""
    precisions = [average_precision(each) for each in matches.values() if each.objects.any()]
    if not precisions:
        return np.nan, np.nan
    return float(np.mean(precisions)), float(np.mean([each[0] for each in precisions]))


def copied(values: list, weights: np.ndarray) -> list:
    return [value for value, weight in zip(values, weights, strict=True) for _ in range(weight)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ties", [True, False])
def test_weights_of_one_give_the_estimate(size, ties):
    truths, founds = random_data(2, images=20, ties=ties)
    matches = match_classes(truths, founds, list(CLASSES), size)
    resampled = resampled_map(matches, np.ones((3, 20), np.int32))
    expected = [[value] * 3 for value in estimate(matches)]
    assert [resampled.map50_95, resampled.map50] == [pytest.approx(value, abs=1e-12) for value in expected]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", SIZES)
def test_equal_to_copied_images(seed, size):
    # Without ties: copies of equally sure detections of one image have no order.
    truths, founds = random_data(seed, images=15, ties=False)
    weights = draw_weights(15, 8, seed)
    resampled = resampled_map(match_classes(truths, founds, list(CLASSES), size), weights)
    for row, *values in zip(weights, resampled.map50_95, resampled.map50, strict=True):
        matches = match_classes(copied(truths, row), copied(founds, row), list(CLASSES), size)
        assert values == pytest.approx(estimate(matches), abs=1e-12)


def test_equal_to_pycocotools_on_copied_images():
    truths, founds = random_data(9, images=15, ties=False)
    weights = draw_weights(15, 3, seed=1)
    resampled = resampled_map(match_classes(truths, founds, list(CLASSES)), weights)
    for row, *values in zip(weights, resampled.map50_95, resampled.map50, strict=True):
        precision = reference(copied(truths, row), copied(founds, row)).eval["precision"][..., 0, -1]
        present = precision[:, :, precision[0, 0] > -1]
        assert values == pytest.approx([present.mean(), present[0].mean()], abs=1e-12)


@settings(max_examples=100)
@given(coarse_data(), st.lists(st.integers(0, 3), min_size=3, max_size=3), st.sampled_from(list(SIZES)))
def test_equal_to_copied_images_on_thresholds_and_bounds(data, weights, size):
    truths, founds = data
    founds = [found(*rows_of_unequal_confidence(each)) for each in founds]
    weights = np.array(weights[: len(truths)], np.int32)
    matches = match_classes(truths, founds, [0, 1], size)
    resampled = resampled_map(matches, weights[None])
    expected = (np.nan, np.nan)
    if weights.any():
        expected = estimate(match_classes(copied(truths, weights), copied(founds, weights), [0, 1], size))
    assert [resampled.map50_95[0], resampled.map50[0]] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def rows_of_unequal_confidence(boxes):
    steps = boxes.confidence - np.arange(len(boxes)) / 1000
    return np.column_stack([boxes.xyxy, boxes.class_id, steps]).tolist()


def test_all_images_twice_change_nothing():
    truths, founds = random_data(4)
    matches = match_classes(truths, founds, list(CLASSES))
    weights = draw_weights(len(truths), 20, seed=0)
    once, twice = resampled_map(matches, weights), resampled_map(matches, 2 * weights)
    assert twice.map50_95 == pytest.approx(once.map50_95, abs=1e-12)
    assert twice.map50 == pytest.approx(once.map50, abs=1e-12)


def test_by_hand():
    # Right in the first image, wrong in the second, right in the third, in this order.
    far = (200, 200, 240, 240)
    truths = [truth((*BOX, 0)), truth(), truth((*BOX, 0))]
    founds = [found((*BOX, 0, 0.9)), found((*far, 0, 0.8)), found((*BOX, 0, 0.7), (*far, 0, 0.1))]
    weights = np.array([[1, 1, 1], [0, 3, 1], [2, 1, 0], [0, 1, 0], [1, 0, 2], [3, 1, 1]], np.int32)
    resampled = resampled_map(match_classes(truths, founds, [0]), weights)
    expected = [(51 + 50 * 2 / 3) / 101, 1 / 4, 1, np.nan, 1, (76 + 25 * 4 / 5) / 101]
    assert resampled.map50_95 == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert resampled.map50 == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_detections_after_a_true_one_of_another_threshold_count():
    # A loose box, then a wrong one, then a tight one: at 0.5 the first is right, at 0.95 only the last, of three.
    loose, tight = (0, 0, 40, 21), BOX
    data = [truth((*BOX, 0))], [found((*loose, 0, 0.9), (200, 200, 240, 240, 0, 0.8), (*tight, 0, 0.7))]
    resampled = resampled_map(match_classes(*data, [0]), np.array([[1], [5]], np.int32))
    assert resampled.map50 == pytest.approx([1, 1])
    assert resampled.map50_95 == pytest.approx([(1 + 9 / 3) / 10] * 2)


def test_a_class_counts_where_it_has_an_object():
    truths = [truth((*BOX, 0)), truth((*BOX, 1)), truth((*BOX, 2))]
    founds = [found((*BOX, 0, 0.9)), found(), found((*BOX, 2, 0.9), (200, 200, 240, 240, 2, 0.95))]
    matches = match_classes(truths, founds, list(CLASSES))
    weights = np.array([[3, 0, 0], [1, 1, 1], [0, 3, 0], [0, 1, 2]], np.int32)
    assert resampled_map(matches, weights).map50 == pytest.approx([1, 0.5, 0, 0.25])
    assert resampled_map(matches, weights, [0, 2]).map50 == pytest.approx([1, 0.75, np.nan, 0.5], nan_ok=True)
    assert np.isnan(resampled_map(matches, weights, [9]).map50).all()
    assert np.isnan(resampled_map({}, weights).map50_95).all()


def test_no_difference_is_none_to_the_last_bit():
    # Of two arms that find the same in another order, precision is the same at every recall, added up in other parts.
    truths = [truth((*BOX, 0)) for _ in range(8)]
    wrong = (200, 200, 240, 240, 0, 0.95)
    arms = [[found((*BOX, 0, 0.5 + sign * n / 20), *[wrong] * (n % 3)) for n in range(8)] for sign in (1, -1)]
    weights = draw_weights(8, 300, seed=0)
    rising, falling = (resampled_map(match_classes(truths, arm, [0]), weights) for arm in arms)
    assert np.array_equal(rising.map50_95, falling.map50_95)
    assert np.array_equal(rising.map50, falling.map50)


@pytest.mark.parametrize("block", [1, 50, 3000])
def test_equal_in_blocks_of_any_size(block, monkeypatch):
    truths, founds = random_data(6)
    matches = match_classes(truths, founds, list(CLASSES), "medium")
    weights = draw_weights(len(truths), 40, seed=3)
    whole = resampled_map(matches, weights)
    monkeypatch.setattr(bootstrap, "BLOCK", block)
    parts = resampled_map(matches, weights)
    assert np.array_equal(whole.map50_95, parts.map50_95, equal_nan=True)
    assert np.array_equal(whole.map50, parts.map50, equal_nan=True)


def test_a_resample_draws_as_many_images_as_there_are_and_each_as_often():
    weights = draw_weights(50, 4000, seed=7)
    assert weights.shape == (4000, 50)
    assert weights.dtype == np.int32
    assert (weights.sum(axis=1) == 50).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(50), abs=0.08)  # five standard deviations
    assert weights.var() == pytest.approx(1 - 1 / 50, abs=0.03)
    assert len(np.unique(weights, axis=0)) == 4000


def test_the_same_seed_draws_the_same():
    weights = draw_weights(9, 5, seed=1)
    assert np.array_equal(weights, draw_weights(9, 5, seed=1))
    assert not np.array_equal(weights, draw_weights(9, 5, seed=2))
    assert np.array_equal(weights[:3], draw_weights(9, 3, seed=1))
    assert np.array_equal(weights, draw_weights(9, 5, seed=1, groups=list("abcdefghi")))


def test_groups_are_drawn_whole():
    groups = ["b", "a", "b", None, "b", "a"]
    weights = draw_weights(6, 200, seed=0, groups=groups)
    assert (weights[:, [0, 0, 1]] == weights[:, [2, 4, 5]]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert len(np.unique(weights, axis=0)) == 10  # all the ways to draw three of three


@pytest.mark.parametrize(
    ("images", "resamples", "groups", "sentence"),
    [
        (0, 5, None, "there must be images and resamples, got 0 and 5"),
        (5, 0, None, "got 5 and 0"),
        (3, 5, ["a", "b"], "every image needs a group, got 2 for 3 images"),
    ],
)
def test_what_cannot_be_drawn_is_refused(images, resamples, groups, sentence):
    with pytest.raises(ValueError, match=sentence):
        draw_weights(images, resamples, 0, groups)
