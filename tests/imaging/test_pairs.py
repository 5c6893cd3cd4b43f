"""Training pairs: what is cut where, and that a stopped run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hatdet.core.errors import InputError
from hatdet.core.types import Image
from hatdet.imaging.files import read_image, write_image
from hatdet.imaging.pairs import PairSettings, make_pairs, meta_info, square_starts
from hatdet.imaging.resize import reduced
from tests.helpers import random_image


@pytest.mark.parametrize(
    ("length", "square", "step", "starts"),
    [(480, 480, 240, [0]), (500, 480, 240, [0, 20]), (960, 480, 240, [0, 240, 480]), (24, 12, 8, [0, 8, 12])],
)
def test_squares_by_table(length, square, step, starts):
    assert square_starts(length, square, step) == starts


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
def test_squares_of_a_side_cover_it_when_they_are_dense_enough(length, square, step):
    if square > length:
        return
    starts = square_starts(length, square, step)
    assert starts[0] == 0
    assert starts[-1] + square == length
    assert len(set(starts)) == len(starts)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    write_image(random_image(27, 38), tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_pairs_fit_and_are_matlabs(photo, tmp_path):
    out = tmp_path / "set"
    made = make_pairs(photo, Path("deep/photo.png"), out, PairSettings((2, 3, 4)))
    original = read_image(photo)
    for scale, size in ((2, (26, 38)), (3, (27, 36)), (4, (24, 36))):
        gt = read_image(out / f"GTmod{scale}/deep/photo.png")
        lq = read_image(out / f"LRbicx{scale}/deep/photo.png")
        assert (gt.height, gt.width) == size
        assert (lq.height * scale, lq.width * scale) == size
        assert torch.equal(gt.pixels, original.pixels[:, : size[0], : size[1]])
        assert torch.equal(lq.pixels, reduced(original, scale).pixels)
    assert meta_info(made, 3) == "deep/photo.png (27,36,3)\n"


def test_sub_images_are_squares_of_both_at_the_same_place(photo, tmp_path):
    made = make_pairs(photo, Path("photo.png"), tmp_path / "set", PairSettings((4,), square=12, step=8))
    # 24 high: 0, 8, 12; 36 wide: 0, 8, 16, 24
    assert [m.name for m in made] == [f"photo_s{n:03d}.png" for n in range(1, 13)]
    whole = read_image(tmp_path / "set/GTmod4/photo.png")
    low = read_image(tmp_path / "set/LRbicx4/photo.png")
    seventh = read_image(tmp_path / "set/GTmod4_sub/photo_s007.png")  # second row, third column
    assert torch.equal(seventh.pixels, whole.pixels[:, 8:20, 16:28])
    assert torch.equal(read_image(tmp_path / "set/LRbicx4_sub/photo_s007.png").pixels, low.pixels[:, 2:5, 4:7])


def test_what_is_there_is_not_made_again(photo, tmp_path, monkeypatch):
    settings = PairSettings((4,), square=12, step=12)
    made = make_pairs(photo, Path("photo.png"), tmp_path / "set", settings)
    gone = tmp_path / "set/LRbicx4_sub/photo_s003.png"
    expected = gone.read_bytes()
    gone.unlink()
    written = []
    real = write_image
    monkeypatch.setattr(
        "hatdet.imaging.pairs.write_image", lambda image, path: written.append(path) or real(image, path)
    )
    assert make_pairs(photo, Path("photo.png"), tmp_path / "set", settings) == made
    assert [path.name for path in written] == ["photo_s003.png"] * 2
    assert gone.read_bytes() == expected


def test_photos_that_are_too_small_are_named(tmp_path):
    write_image(Image(torch.zeros(3, 3, 9)), tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png \(9x3\) is too small for scale 4"):
        make_pairs(tmp_path / "a.png", Path("a.png"), tmp_path / "set", PairSettings((4,)))
    with pytest.raises(InputError, match=r"a\.png \(9x3\) is smaller than a sub-image of 12"):
        make_pairs(tmp_path / "a.png", Path("a.png"), tmp_path / "set", PairSettings((3,), square=12, step=12))


@pytest.mark.parametrize(("scales", "square", "step"), [((1,), None, 240), ((4,), 10, 8), ((3,), 12, 8), ((2,), 12, 0)])
def test_settings_that_cannot_be_are_refused(scales, square, step):
    with pytest.raises(ValueError, match=r"must be at least|do not divide"):
        PairSettings(scales, square, step)
