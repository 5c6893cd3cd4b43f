"""Every image goes through every arm once: what each arm is shown, in which frame boxes are, what the store saves."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from hatdet.core.errors import InputError, OptionsError
from hatdet.core.types import Detections, Image
from hatdet.detection.chain import run_chain
from hatdet.evaluation.arms import Arm, StoredUpscaler, check_arms
from hatdet.evaluation.boxes import Truth
from hatdet.evaluation.fidelity import Protocol, compare
from hatdet.evaluation.joint import DetectorUnderTest, JointEvaluation
from hatdet.evaluation.store import Store
from hatdet.imaging.files import to_array
from hatdet.imaging.resize import reduced
from hatdet.sr.upscalers import BicubicUpscaler, NearestUpscaler
from tests.helpers import random_image

NOTHING = Truth(np.empty((0, 4)), np.empty(0, np.int64), np.empty(0, np.bool_))
NAMES = {0: "car", 1: "bus", 2: "kite"}


@dataclass
class Spy:
    """A detector that writes down what it is shown, and finds two things and one of a class nobody asked for."""

    shown: list[tuple[tuple[int, int, float], int | None]] = field(default_factory=list)
    in_slices: list[bool] = field(default_factory=list)

    def run(self, image, upscaler, imgsz, in_slices):
        self.in_slices.append(in_slices)

        def detect(seen: Image) -> Detections:
            self.shown.append(((seen.width, seen.height, seen.scale), imgsz))
            xyxy = np.array([[1, 2, 3, 4], [0, 0, 1.5, 1], [0, 0, 2, 2]], np.float32)
            return Detections(xyxy, np.array([0.9, 0.8, 0.4], np.float32), np.array([1, 2, 0]), NAMES)

        detect.name = "spy"
        return run_chain(image, upscaler, detect)


@dataclass
class Counted:
    """An upscaler that counts its calls."""

    inner: NearestUpscaler | BicubicUpscaler
    calls: int = 0

    @property
    def name(self):
        return self.inner.name

    @property
    def scale(self):
        return self.inner.scale

    def __call__(self, image):
        self.calls += 1
        return self.inner(image)


def evaluation(store, spy, arms="lr,lr@imgsz,lr@96,nearest,bicubic,hr", scale=4, **changes):
    upscalers = {"nearest": Counted(NearestUpscaler(scale)), "bicubic": Counted(BicubicUpscaler(scale))}
    made = [
        Arm(
            name,
            StoredUpscaler(upscalers[name], name, store) if name in upscalers else None,
            96 if name == "lr@96" else None,
        )
        for name in arms.split(",")
    ]
    detector = DetectorUnderTest("spy", "spy 1", {0: 7, 1: 3}, spy.run)
    options = {"imgsz": None, "largest_canvas": 2560, "frame_scale": scale, **changes}
    return JointEvaluation(made, [detector], scale, store, **options), upscalers


@pytest.fixture
def pair():
    """A reference of 64x48 and its reduction to 16x12."""
    whole = random_image(48, 64)
    return reduced(whole, 4), Image(whole.pixels, 4)


def test_what_each_arm_is_shown(tmp_path, pair):
    spy = Spy()
    with Store(tmp_path) as store:
        joint, _ = evaluation(store, spy)
        parts = []
        joint.add("a", *pair, NOTHING, lambda done, total: parts.append((done, total)))
    low, large = (16, 12, 1), (64, 48, 4)
    assert spy.shown == [
        (low, 32),  # at its own size; less than a stride is padded up
        (low, 64),  # the letterbox makes the canvas that the upscaled arms have
        (low, 96),
        (large, None),
        (large, None),
        (large, None),
    ]
    assert parts == [(n, 6) for n in range(1, 7)]


def test_one_canvas_for_all_arms_but_lr(tmp_path, pair):
    spy = Spy()
    with Store(tmp_path) as store:
        evaluation(store, spy, "lr,lr@imgsz,nearest,hr", imgsz=320)[0].add("a", *pair, NOTHING)
        evaluation(store, spy, "lr@imgsz", largest_canvas=48)[0].add("a", *pair, NOTHING)
    assert [imgsz for _, imgsz in spy.shown] == [32, 320, 320, 320, 48]


@pytest.mark.parametrize("frame_scale", [4, 1])
def test_boxes_are_in_one_frame_for_every_arm(tmp_path, pair, frame_scale):
    with Store(tmp_path) as store:
        joint, _ = evaluation(store, Spy(), frame_scale=frame_scale)
        joint.add("a", *pair, NOTHING)
        for arm in joint.arms:
            (found,) = joint.founds(joint.detectors[0], arm)
            # The kite is no class of the data; the others have the data's ids, most confident first.
            assert found.class_id.tolist() == [3, 7]
            np.testing.assert_array_equal(found.xyxy, np.array([[1, 2, 3, 4], [0, 0, 2, 2]]) * frame_scale)
            np.testing.assert_allclose(found.confidence, [0.9, 0.4], atol=1e-7)
        assert joint.images[0].size_wh == (16 * frame_scale, 12 * frame_scale)


def test_fidelity_is_of_the_upscaled_picture(tmp_path, pair):
    low, reference = pair
    with Store(tmp_path) as store:
        joint, _ = evaluation(store, Spy())
        joint.add("a", low, reference, NOTHING)
    image = joint.images[0]
    assert set(image.fidelity) == set(image.upscale_ms) == {"nearest", "bicubic"}
    expected = compare(to_array(BicubicUpscaler(4)(low)), to_array(reference), Protocol("Y", 4))
    assert image.fidelity["bicubic"]["psnr_y"] == expected.psnr
    assert image.fidelity["bicubic"]["ssim_y"] == expected.ssim


def test_pictures_too_small_for_a_number_have_none(tmp_path):
    whole = random_image(8, 8)
    with Store(tmp_path) as store:
        joint, _ = evaluation(store, Spy())
        joint.add("a", reduced(whole, 4), Image(whole.pixels, 4), NOTHING)
    assert np.isnan(joint.images[0].fidelity["nearest"]["psnr_y"])


def test_a_second_run_upscales_nothing_and_detects_nothing(tmp_path, pair):
    spy, numbers = Spy(), []
    for _ in range(2):
        with Store(tmp_path) as store:
            joint, upscalers = evaluation(store, spy)
            joint.add("a", *pair, NOTHING)
            numbers.append(
                (
                    joint.images[0].fidelity,
                    joint.images[0].upscale_ms,
                    joint.detect_ms(joint.detectors[0], joint.arms[3]),
                )
            )
    assert len(spy.shown) == 6
    assert upscalers["bicubic"].calls == 0
    assert numbers[0] == numbers[1]  # the times too are those of the first run


def test_another_detector_finds_the_pictures_made(tmp_path, pair):
    first, second = Spy(), Spy()
    with Store(tmp_path) as store:
        joint, upscalers = evaluation(store, first)
        joint.detectors = [*joint.detectors, DetectorUnderTest("other", "spy 2", {0: 7}, second.run)]
        joint.add("a", *pair, NOTHING)
        assert (upscalers["nearest"].calls, upscalers["bicubic"].calls) == (1, 1)
        assert first.shown == second.shown
        assert len(joint.founds(joint.detectors[1], joint.arms[0])[0]) == 1


def test_other_pixels_settings_or_weights_are_other_results(tmp_path, pair):
    low, reference = pair
    spy = Spy()
    with Store(tmp_path) as store:
        joint, _ = evaluation(store, spy, "bicubic,hr")
        joint.add("a", low, reference, NOTHING)
        assert len(spy.shown) == 2
        joint.add("the same", low, reference, NOTHING)
        assert len(spy.shown) == 2
        joint.add("other reference", low, Image(random_image(48, 64, seed=1).pixels, 4), NOTHING)
        assert len(spy.shown) == 3  # what the upscaled arm saw is the same
        joint.add("other image", reduced(random_image(48, 64, seed=2), 4), reference, NOTHING)
        assert len(spy.shown) == 5
        evaluation(store, spy, "bicubic", imgsz=128)[0].add("a", low, reference, NOTHING)
        assert len(spy.shown) == 6
        joint.arms[0].upscaler.fingerprint = "other weights"
        joint.add("a", low, reference, NOTHING)
        assert len(spy.shown) == 7


def test_without_a_reference_there_is_no_fidelity(tmp_path, pair):
    with Store(tmp_path) as store:
        joint, _ = evaluation(store, Spy(), "lr,bicubic")
        joint.add("a", pair[0], None, NOTHING)
        assert joint.images[0].fidelity == {}
        with pytest.raises(ValueError, match="arm hr needs a reference"):
            evaluation(store, Spy(), "hr")[0].add("a", pair[0], None, NOTHING)


def test_nothing_is_remembered_of_an_image_that_fails(tmp_path, pair):
    class Broken(Spy):
        def run(self, image, upscaler, imgsz, in_slices):
            if image.scale > 1:
                raise InputError("no")
            return super().run(image, upscaler, imgsz, in_slices)

    with Store(tmp_path) as store:
        joint, _ = evaluation(store, Broken())
        with pytest.raises(InputError):
            joint.add("a", *pair, NOTHING)
        assert joint.images == []


def test_lpips_is_kept_with_the_rest_and_made_up_for(tmp_path, pair):
    with Store(tmp_path) as store:
        joint, upscalers = evaluation(store, Spy())
        joint.add("a", *pair, NOTHING)
        assert "lpips" not in joint.images[0].fidelity["bicubic"]
        joint.perceptual = lambda image, reference: float(torch.dist(image.pixels, reference.pixels))
        joint.add("a", *pair, NOTHING)
        assert joint.images[1].fidelity["bicubic"]["lpips"] > 0
        assert upscalers["bicubic"].calls == 1


def test_arms_by_name():
    assert check_arms([" lr", "lr@imgsz ", "lr@640", "hr", "a b.pth", ""], reference=True) == [
        "lr",
        "lr@imgsz",
        "lr@640",
        "hr",
        "a b.pth",
    ]
    for names, words in (
        ([], "at least one"),
        (["lr", "lr"], "lr twice"),
        (["lr@big"], "lr@big.*lr@640"),
        (["lr@0"], "lr@"),
    ):
        with pytest.raises(OptionsError, match=words):
            check_arms(names, reference=True)
    with pytest.raises(OptionsError, match="hr is the reference"):
        check_arms(["lr", "hr"], reference=False)
