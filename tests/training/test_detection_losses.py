"""When losses count, and what they are of given maps and pictures."""

from __future__ import annotations

import pytest
import torch

from hatdet.imaging.resize import reduced, reduced_batch
from hatdet.training.detection_losses import DetectorFeatureLoss, ReductionLoss
from hatdet.training.loss_schedule import LossSchedule
from tests.helpers import random_image


@pytest.mark.parametrize(
    ("section", "shares"),
    [
        (None, {1: 1, 1000: 1}),
        ({"from_iter": 10}, {9: 0, 10: 1, 11: 1}),
        ({"until_iter": 10}, {10: 1, 11: 0}),
        ({"from_iter": 10, "ramp_iter": 4}, {9: 0, 10: 0.25, 11: 0.5, 13: 1, 20: 1}),
        ({"every": 3}, {1: 0, 2: 0, 3: 3, 6: 3}),
        ({"from_iter": 4, "ramp_iter": 4, "every": 2}, {4: 0.5, 5: 0, 6: 1.5, 8: 2}),
    ],
)
def test_a_schedule_says_how_much_of_the_weight_counts(section, shares):
    schedule = LossSchedule.of(section)
    assert {iteration: schedule.share(iteration) for iteration in shares} == shares


def test_the_feature_loss_is_relative_to_what_is_wanted():
    wanted = [torch.full((1, 2, 4, 4), 2.0), torch.full((1, 2, 2, 2), -4.0), torch.ones(1, 2, 1, 1)]
    seen = [wanted[0] + 1, wanted[1] - 1, wanted[2] * 3]  # 1/2, 1/4 and 2 of the magnitude
    assert float(DetectorFeatureLoss()(seen, wanted)) == pytest.approx((0.5 + 0.25 + 2) / 3)
    assert float(DetectorFeatureLoss(2.0, [4])(seen, wanted)) == pytest.approx(0.5)
    assert float(DetectorFeatureLoss(1.0, [3, 5], relative=False)(seen, wanted)) == pytest.approx(1.5)
    assert float(DetectorFeatureLoss()(wanted, wanted)) == 0
    with pytest.raises(ValueError, match="levels must be from 3 to 5, got 6"):
        DetectorFeatureLoss(levels=[6])(seen, wanted)


@pytest.mark.parametrize(("factor", "size_hw"), [(2, (16, 24)), (3, (27, 12)), (4, (32, 32))])
def test_the_reduction_of_a_batch_is_matlabs_before_rounding(factor, size_hw):
    """Where it rounds, once after each axis, half a level and what the second pass makes of half a level."""
    image = random_image(*size_hw)
    ours = reduced_batch(image.pixels[None].double(), factor)[0]
    theirs = reduced(image, factor).pixels
    assert ours.shape == theirs.shape
    assert float((ours.clamp(0, 1) - theirs).abs().max()) <= 1.2 / 255
    assert float((ours.clamp(0, 1) - theirs).abs().mean()) < 0.4 / 255


def test_an_image_reduced_to_the_low_resolution_one_has_no_reduction_loss():
    image = random_image(32, 32)
    low = reduced_batch(image.pixels[None], 4)
    assert float(ReductionLoss(3.0)(image.pixels[None], low)) < 1e-6
    brighter = image.pixels[None].clone().requires_grad_(True)
    loss = ReductionLoss(2.0)(brighter + 0.1, low)
    assert float(loss.detach()) == pytest.approx(0.2, rel=1e-4)
    (gradient,) = torch.autograd.grad(loss, brighter)
    assert float(gradient.sum()) == pytest.approx(2.0, rel=1e-4)
