"""Images with boxes as training reads them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hatdet.core.errors import InputError, OptionsError
from hatdet.core.types import Image
from hatdet.evaluation.low_resolution import LowResolution, read_pair
from hatdet.evaluation.samples import read_detection_data
from hatdet.imaging.files import read_image, write_array
from hatdet.imaging.resize import reduced
from hatdet.training.detection_datasets import MOST_BOXES, DetectionPairedDataset, cropped_boxes
from hatdet.training.draws import Draw, SeededDataset
from tests.training.helpers import detection_data, photos


@pytest.fixture
def data(tmp_path):
    return detection_data(tmp_path)


def options(file, **changes):
    made = {
        "name": "boxes",
        "phase": "train",
        "scale": 2,
        "data": str(file),
        "gt_size": 32,
        "use_hflip": True,
        "use_rot": True,
    }
    return {key: value for key, value in {**made, **changes}.items() if value is not None}


def labelled(item):
    return item["boxes"][item["boxes"][:, 0] >= 0]


# ------------------------------------------------------------------------------------------ 1. boxes of a crop


@pytest.mark.parametrize(
    ("box", "left_top", "least", "expected"),
    [
        ((10, 20, 30, 40), (0, 0), 0.3, (10, 20, 30, 40)),
        ((10, 20, 30, 40), (4, 8), 0.3, (6, 12, 26, 32)),
        ((10, 20, 30, 40), (20, 20), 0.3, (0, 0, 10, 20)),  # half of it
        ((10, 20, 30, 40), (20, 20), 0.5, (0, 0, 10, 20)),
        ((10, 20, 30, 40), (20, 20), 0.51, None),
        ((10, 20, 30, 40), (24, 20), 0.3, (0, 0, 6, 20)),  # 30 %
        ((10, 20, 30, 40), (25, 20), 0.3, None),
        ((10, 20, 30, 40), (30, 20), 0.0, None),  # touches it
        ((0, 0, 100, 100), (10, 10), 0.1, (0, 0, 50, 50)),
        ((0, 0, 100, 100), (10, 10), 0.3, None),  # fills the crop, and is a quarter there
    ],
)
def test_boxes_are_clipped_and_dropped_where_too_little_is_seen(box, left_top, least, expected):
    clipped, kept = cropped_boxes(np.array([box], float), left_top, 50, least)
    assert kept.tolist() == [expected is not None]
    assert clipped.tolist() == ([] if expected is None else [list(expected)])


@given(
    st.lists(st.tuples(*[st.floats(0, 200)] * 4), max_size=6),
    st.tuples(st.integers(0, 150), st.integers(0, 150)),
    st.floats(0, 1),
)
@settings(max_examples=60)
def test_what_is_kept_is_inside_and_large_enough(corners, left_top, least):
    rows = [(min(a, c), min(b, d), max(a, c) + 1, max(b, d) + 1) for a, b, c, d in corners]
    xyxy = np.array(rows, float).reshape(-1, 4)
    clipped, kept = cropped_boxes(xyxy, left_top, 64, least)
    assert len(clipped) == kept.sum()
    assert (clipped >= 0).all()
    assert (clipped <= 64).all()
    area = (clipped[:, 2:] - clipped[:, :2]).prod(1)
    whole = (xyxy[kept, 2:] - xyxy[kept, :2]).prod(1)
    assert (area > 0).all()
    assert (area >= least * whole * (1 - 1e-9)).all()


# ------------------------------------------------------------------------------------------ 2. items


def test_an_item_is_a_crop_its_reduction_and_its_boxes(data):
    dataset = DetectionPairedDataset(options(data))
    random.seed(1)
    seen = 0
    for _ in range(20):
        item = dataset[0]
        assert item["gt"].shape == (3, 32, 32)
        assert item["boxes"].shape == (MOST_BOXES, 5)
        assert torch.equal(item["lq"], reduced(Image(item["gt"]), 2).pixels)
        for class_id, x1, y1, x2, y2 in labelled(item).tolist():
            assert class_id in (0, 1)
            inside = item["gt"][:, round(y1) : round(y2), round(x1) : round(x2)]
            assert float(inside.min()) > 0.85  # the labelled square is bright
            seen += 1
    assert seen == 20  # a crop holds the centre of an object


def test_flips_turn_boxes_and_pixels_alike(data, monkeypatch):
    dataset = DetectionPairedDataset(options(data))
    items = []
    for flip in (0.9, 0.1):
        random.seed(3)
        draws = iter([0.5, flip])  # labelled; to flip or not
        monkeypatch.setattr(random, "random", lambda draws=draws: next(draws))
        items.append(dataset[0])
        monkeypatch.undo()
    plain, flipped = items
    assert torch.equal(flipped["gt"], plain["gt"].flip(2))
    (_, x1, y1, x2, y2), (_, u1, v1, u2, v2) = (labelled(item)[0].tolist() for item in items)
    assert (u1, v1, u2, v2) == pytest.approx((32 - x2, y1, 32 - x1, y2))


def test_photos_without_labels_are_marked_and_mixed_in(data, tmp_path):
    folder = photos(tmp_path / "more", 3)
    dataset = DetectionPairedDataset(options(data, unlabelled=[str(folder)], labelled_share=0.25))
    assert len(dataset) == 4 + 3
    random.seed(0)
    items = [dataset[0] for _ in range(200)]
    marked = [bool(item["boxes"][0, 0] == -2) for item in items]
    assert 0.65 < sum(marked) / 200 < 0.85
    assert all(("more" in item["gt_path"]) == mark for item, mark in zip(items, marked, strict=True))
    assert all(len(labelled(item)) == 0 for item, mark in zip(items, marked, strict=True) if mark)


def test_images_are_reduced_by_a_factor_that_is_drawn_and_boxes_with_them(data):
    dataset = DetectionPairedDataset(options(data, resize_range=[0.8, 0.9], use_hflip=False))
    random.seed(2)
    sides = [float(box[3] - box[1]) for box in (labelled(dataset[0])[0] for _ in range(10))]
    assert 0.3 * 10 * 0.8 < max(sides) < 15 * 0.9 + 1e-4
    # An image is not reduced below the crop: 40 pixels of height become 32 at the least.
    small = DetectionPairedDataset(options(data, resize_range=[0.1, 0.2]))
    assert small[0]["gt"].shape == (3, 32, 32)
    assert float(small[0]["gt"][:, -1].std()) > 0  # no grey at the bottom


def test_a_small_image_has_grey_beside_it(data):
    dataset = DetectionPairedDataset(options(data, gt_size=64, use_hflip=False))
    item = dataset[0]
    assert torch.equal(item["gt"][:, 40:], torch.full((3, 24, 64), 114 / 255))
    assert torch.equal(item["gt"][:, :, 56:], torch.full((3, 64, 8), 114 / 255))
    assert len(labelled(item)) == 1


def test_an_item_follows_from_its_draw(data, tmp_path):
    dataset = SeededDataset(DetectionPairedDataset(options(data, unlabelled=[str(photos(tmp_path / "more"))])))
    for item in range(3):
        a, b = dataset[Draw(item, 7)], dataset[Draw(item, 7)]
        assert torch.equal(a["gt"], b["gt"])
        assert torch.equal(a["boxes"], b["boxes"])
    assert any(not torch.equal(dataset[Draw(0, 7)]["gt"], dataset[Draw(0, seed)]["gt"]) for seed in range(8, 12))


def test_degradations_are_the_evaluations_own_in_their_share(data, tmp_path):
    noise = tmp_path / "noise.yml"
    noise.write_text("noise_range: [20, 20]\ngaussian_noise_prob: 1\n")
    dataset = DetectionPairedDataset(options(data, degradation=str(noise), degradation_share=0.5))
    random.seed(5)
    clean = [torch.equal(item["lq"], reduced(Image(item["gt"]), 2).pixels) for item in (dataset[0] for _ in range(40))]
    assert 8 < sum(clean) < 32


# ------------------------------------------------------------------------------------------ 3. validation, options


def test_validation_items_are_the_pairs_of_the_evaluation(data):
    dataset = DetectionPairedDataset(options(data, phase="val", gt_size=None))
    found = read_detection_data(data)
    assert len(dataset) == 4
    for index, sample in enumerate(found.split("val")):
        pair = read_pair(sample, found.names, LowResolution(2))
        item = dataset[index]
        assert torch.equal(item["gt"], pair.reference.pixels)
        assert torch.equal(item["lq"], pair.low.pixels)
        np.testing.assert_array_equal(dataset.truth(index).xyxy, pair.truth(2).xyxy)


def test_a_split_is_cut_in_two(data):
    first = DetectionPairedDataset(options(data, limit=3))
    last = DetectionPairedDataset(options(data, phase="val", split="train", skip=3))
    assert [sample.image.name for sample in first.samples] == ["0.png", "1.png", "2.png"]
    assert [sample.image.name for sample in last.samples] == ["3.png"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, "dataset boxes of type DetectionPairedDataset needs the option data"),
        ({"gt_size": 33}, "gt_size must be a multiple of scale 2, got 33"),
        ({"split": "test"}, "the data set has no split 'test': expected one of train, val"),
        ({"skip": 9}, "has 4 images, all are left out"),
        ({"unlabelled": ["nowhere"]}, "nowhere"),
    ],
)
def test_options_that_cannot_be(data, changes, message):
    with pytest.raises(OptionsError, match=message):
        DetectionPairedDataset(options(data, **changes))


def test_a_damaged_image_is_named(data):
    broken = data.parent / "images" / "train" / "0.png"
    broken.write_bytes(broken.read_bytes()[:60])
    dataset = DetectionPairedDataset(options(data, limit=1))
    with pytest.raises(InputError, match=r"0\.png"):
        dataset[0]


def test_sixteen_bits_stay(tmp_path):
    data = detection_data(tmp_path, 1)
    picture = np.random.default_rng(0).integers(0, 65536, (40, 56, 3)).astype(np.uint16)
    write_array(picture, data.parent / "images" / "train" / "0.png")
    item = DetectionPairedDataset(options(data, gt_size=40, use_hflip=False))[0]
    whole = read_image(data.parent / "images" / "train" / "0.png").pixels
    assert any(torch.equal(item["gt"], whole[:, :40, left : left + 40]) for left in range(17))
