"""What the names of arms say."""

from __future__ import annotations

import re

import pytest

from hatdet.core.errors import OptionsError
from hatdet.evaluation.arms import Arm, ArmName, arm_kind, check_arms


@pytest.mark.parametrize(
    ("name", "kind", "control", "said"),
    [
        ("lr", "own size", True, ArmName("lr")),
        ("lr@640", "letterbox", True, ArmName("lr@640")),
        ("hr", "reference", False, ArmName("hr")),
        ("bicubic", "upscaled", True, ArmName("bicubic")),
        ("hat-xs", "upscaled", False, ArmName("hat-xs")),
        ("sliced:none", "sliced", True, ArmName(None, sliced=True)),
        ("sliced:bicubic", "upscaled", True, ArmName("bicubic", sliced=True)),
        ("sliced:hat-xs", "upscaled", False, ArmName("hat-xs", sliced=True)),
        ("regions:hat-xs", "upscaled", False, ArmName("hat-xs", regions=True)),
        ("regions:hat-xs@0.3", "upscaled", False, ArmName("hat-xs", regions=True, max_share=0.3)),
        ("regions:nets/a.pth@1", "upscaled", False, ArmName("nets/a.pth", regions=True, max_share=1)),
    ],
)
def test_names_by_table(name, kind, control, said):
    assert check_arms([f" {name} "], reference=True) == [name]
    assert ArmName.of(name) == said
    assert arm_kind(name) == kind
    arm = Arm(name)
    assert arm.is_control == control
    assert arm.is_candidate == (kind == "upscaled" and not control)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("sliced:", "arm 'sliced:': expected sliced:none, or sliced: and an upscaler's name"),
        ("regions:", "arm 'regions:': expected regions: and a network's name, as in regions:hat-xs@0.3"),
        ("regions:bicubic", "arm 'regions:bicubic': expected regions: and a network's name"),
        ("regions:hat-xs@0", "arm 'regions:hat-xs@0': expected a share above 0 and at most 1 behind @, got '0'"),
        ("regions:hat-xs@most", "expected a share above 0 and at most 1 behind @, got 'most'"),
        ("regions:hat-xs@nan", "expected a share above 0 and at most 1 behind @, got 'nan'"),
    ],
)
def test_names_that_say_nothing(name, sentence):
    with pytest.raises(OptionsError, match=re.escape(sentence)):
        check_arms(["lr", name], reference=True)


def test_slices_are_another_arm_with_other_results():
    assert (
        Arm("sliced:none", slices="auto 0.2 nms").fingerprint != Arm("sliced:none", slices="64x64 0.2 nms").fingerprint
    )
