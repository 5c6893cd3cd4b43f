"""Where low-resolution images come from: crops, pairs and frames, by exact sizes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from hatdet.core.errors import InputError, OptionsError
from hatdet.evaluation.low_resolution import LowResolution, find_low_images, read_pair
from hatdet.evaluation.samples import Sample
from hatdet.imaging.degradations import Degradation
from hatdet.imaging.files import read_image, write_image
from hatdet.imaging.resize import reduced
from tests.helpers import random_image

NAMES = {0: "car"}


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """An image of 43x30 with a box over its right half: x from 21.5 to 43."""
    write_image(random_image(30, 43), tmp_path / "images/deep/a.png")
    label = tmp_path / "labels/deep/a.txt"
    label.parent.mkdir(parents=True)
    label.write_text("0 0.75 0.5 0.5 1\n")
    return Sample(tmp_path / "images/deep/a.png", Path("deep/a.png"), label)


def test_the_reference_is_cropped_and_reduced_and_its_labels_with_it(sample):
    pair = read_pair(sample, NAMES, LowResolution(4))
    assert (pair.low.width, pair.low.height, pair.low.scale) == (10, 7, 1)
    assert pair.reference is not None
    assert (pair.reference.width, pair.reference.height, pair.reference.scale) == (40, 28, 4)
    assert torch.equal(pair.low.pixels, reduced(read_image(sample.image), 4).pixels)
    np.testing.assert_allclose(pair.truth(4).xyxy, [[21.5, 0, 40, 28]])
    np.testing.assert_allclose(pair.truth(1).xyxy, [[21.5 / 4, 0, 10, 7]])


def test_without_a_reference_the_image_is_the_low_one(sample):
    pair = read_pair(sample, NAMES, LowResolution(4, reference=False))
    assert pair.reference is None
    assert (pair.low.width, pair.low.height) == (43, 30)
    np.testing.assert_allclose(pair.truth(1).xyxy, [[21.5, 0, 43, 30]])
    np.testing.assert_allclose(pair.truth(4).xyxy, [[86, 0, 172, 120]])


def test_a_photographed_pair_decides_how_the_reference_is_cropped(sample, tmp_path):
    low = random_image(7, 10, seed=3)
    write_image(low, tmp_path / "low/deep/a.png")
    how = LowResolution(4, folder=find_low_images(tmp_path / "low"))
    pair = read_pair(sample, NAMES, how)
    assert torch.equal(pair.low.pixels, low.pixels)
    assert pair.reference is not None
    assert (pair.reference.width, pair.reference.height) == (40, 28)
    for h, w in ((6, 10), (7, 11), (8, 10)):
        write_image(random_image(h, w), tmp_path / "low/deep/a.png")
        with pytest.raises(InputError, match=f"{w}x{h}.*does not fit.*43x30.*scale 4"):
            read_pair(sample, NAMES, how)
    write_image(random_image(7, 10, bit_depth=16), tmp_path / "low/deep/a.png")
    with pytest.raises(InputError, match="16 bits"):
        read_pair(sample, NAMES, how)
    with pytest.raises(InputError, match="no low-resolution image of its name"):
        read_pair(sample, NAMES, LowResolution(4, folder={}))


def test_low_images_have_one_name_each(tmp_path):
    with pytest.raises(OptionsError, match="is no folder"):
        find_low_images(tmp_path / "nowhere")
    for name in ("a.png", "a.bmp"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(OptionsError, match=r"a\.bmp and .*a\.png are both"):
        find_low_images(tmp_path)


def test_a_degradation_follows_from_the_path_of_the_image(sample):
    how = LowResolution(4, Degradation.from_options({"noise_range": [20, 20]}, "test"))
    first, again = (read_pair(sample, NAMES, how).low for _ in range(2))
    assert torch.equal(first.pixels, again.pixels)
    other = read_pair(Sample(sample.image, Path("b.png"), sample.label), NAMES, how).low
    assert not torch.equal(first.pixels, other.pixels)
    assert (first.width, first.height) == (10, 7)


def test_an_image_smaller_than_the_scale_is_named(sample):
    with pytest.raises(InputError, match=r"a\.png \(43x30\) is too small for scale 31"):
        read_pair(sample, NAMES, LowResolution(31))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (LowResolution(4), "MATLAB bicubic reduction by 4"),
        (LowResolution(4, reference=False), "no reference"),
        (LowResolution(4, folder={}), "a folder of pairs"),
        (LowResolution(3, Degradation.from_options({"noise_range": [1, 9]}, "test")), "noise 1-9.*reduced by 3"),
    ],
)
def test_what_was_done_in_words(how, words):
    assert re.search(words, str(how))
