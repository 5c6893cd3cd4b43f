"""The report's pictures: which images, of what size, and that the report stays one file to send."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch

from hatdet.core.types import Image
from hatdet.evaluation import gallery
from hatdet.evaluation.arms import Arm
from hatdet.evaluation.changes import ImageChanges, JudgedBox
from hatdet.evaluation.perceptual import LpipsDistance, load_lpips
from hatdet.imaging.drawing import jpeg
from hatdet.sr.upscalers import BicubicUpscaler
from tests.helpers import random_image


def changed(count: int) -> ImageChanges:
    """So many wrong boxes added."""
    box = JudgedBox((0.0, 0.0, 4.0, 4.0), 0, 0.5, "wrong", "added")
    return ImageChanges((), (box,) * count)


def test_the_images_that_changed_most_come_first_and_of_equals_the_first():
    changes = [changed(n) for n in (0, 3, 1, 3, 0)]
    assert gallery.most_changed(changes) == [1, 3, 2, 0, 4]
    assert gallery.most_changed(changes, 2) == [1, 3]
    assert len(gallery.most_changed([changed(1)] * 100)) == 48


@pytest.fixture
def made(monkeypatch):
    """Two images of 1000x50 in the frame, control lr@imgsz, arm bicubic."""
    upscaler = BicubicUpscaler(4)
    arms = Arm("lr@imgsz"), Arm("bicubic", upscaler)  # type: ignore[arg-type]
    images = [SimpleNamespace(name=f"{n}.png", size_wh=(1000, 50)) for n in range(2)]
    joint = SimpleNamespace(scale=4, images=images)
    reads: list[int] = []

    def read_low(index: int) -> Image:
        reads.append(index)
        return random_image(12, 250, seed=index)

    return lambda: gallery.make_gallery(joint, [changed(1), changed(2)], arms, read_low, {0: "car"}), reads


def test_both_arms_have_one_size_and_fit_the_page(made):
    make, reads = made
    first, second = make()
    assert (first.name, second.name) == ("1.png", "0.png")
    assert (first.before_arm, first.after_arm, first.size_wh) == ("lr@imgsz", "bicubic", (1000, 50))
    assert first.changes.added == 2
    sizes = {PIL.Image.open(io.BytesIO(data)).size for data in (first.before_jpeg, first.after_jpeg)}
    assert sizes == {(960, 46)}
    assert reads == [1, 0]


def test_pictures_shrink_until_the_report_is_small_enough(made, monkeypatch):
    make, _ = made
    large = sum(len(one.before_jpeg) + len(one.after_jpeg) for one in make())
    monkeypatch.setattr(gallery, "LARGEST_BYTES", large // 2)
    small = make()
    assert sum(len(one.before_jpeg) + len(one.after_jpeg) for one in small) <= large // 2
    assert PIL.Image.open(io.BytesIO(small[0].after_jpeg)).size < (960, 46)
    monkeypatch.setattr(gallery, "LARGEST_BYTES", 1)  # the smallest is taken, whatever it is
    assert PIL.Image.open(io.BytesIO(make()[0].after_jpeg)).size == (320, 15)


def test_a_jpeg_shows_the_image():
    image = Image(torch.full((3, 20, 30), 128 / 255))
    shown = np.asarray(PIL.Image.open(io.BytesIO(jpeg(image, (60, 40), 90))))
    assert shown.shape == (40, 60, 3)
    assert abs(shown.astype(int) - 128).max() <= 1
    deep = Image(torch.full((3, 8, 8), 0.5), bit_depth=16)
    assert abs(np.asarray(PIL.Image.open(io.BytesIO(jpeg(deep, (8, 8), 90)))).astype(int) - 127).max() <= 1


def test_lpips_is_given_pictures_from_minus_one_to_one(monkeypatch):
    seen = []

    class Network(torch.nn.Module):
        def forward(self, a, b):
            seen.append((a, b))
            return torch.tensor([[[[0.25]]]])

    image, reference = random_image(4, 5), random_image(4, 5, seed=1)
    assert LpipsDistance(Network(), torch.device("cpu"))(image, reference) == 0.25
    ((a, b),) = seen
    assert a.shape == b.shape == (1, 3, 4, 5)
    torch.testing.assert_close(a[0], image.pixels * 2 - 1)
    torch.testing.assert_close(b[0], reference.pixels * 2 - 1)
    monkeypatch.setattr("hatdet.evaluation.perceptual.find_spec", lambda name: None)
    assert load_lpips(torch.device("cpu")) is None
