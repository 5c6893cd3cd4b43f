"""The scenes that selective upscaling is measured on: what is pasted, where, and that labels say so."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from hatdet.core.errors import InputError
from hatdet.core.types import Detections
from hatdet.evaluation.boxes import Truth
from hatdet.evaluation.labels import read_labels
from hatdet.evaluation.samples import read_detection_data
from hatdet.imaging.files import image_of, read_image, to_array
from tests.test_tools import tool

SIZE_WH = (600, 480)


@pytest.fixture(scope="module")
def scenes():
    return tool("make_scenes")


def photo(h: int = 120, w: int = 160, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


def truth(*boxes: tuple[float, float, float, float], crowd: tuple[int, ...] = ()) -> Truth:
    rows = np.arange(len(boxes))
    return Truth(np.array(boxes, np.float64).reshape(-1, 4), rows + 3, np.isin(rows, crowd))


@pytest.mark.parametrize(
    ("box", "outer", "core"),
    [
        ((60, 50, 80, 66), (40, 30, 100, 86), (58, 48, 82, 68)),  # 20 pixels at least around it
        ((60.4, 50.6, 80.5, 66.5), (41, 31, 100, 86), (59, 49, 82, 68)),  # whole pixels, no further out
        ((40, 30, 110, 90), (12, 2, 138, 118), (38, 28, 112, 92)),  # 0.4 of the longest side
        ((10, 50, 30, 66), (0, 30, 50, 86), (8, 48, 32, 68)),  # less where the photo ends
        ((7, 50, 30, 66), (0, 30, 50, 86), (5, 48, 32, 68)),
    ],
)
def test_a_patch_is_the_object_and_what_is_around_it(scenes, box, outer, core):
    picture = photo()
    (patch,) = scenes.patches_of(picture, truth(box), "a")
    x1, y1, x2, y2 = outer
    assert np.array_equal(patch.pixels, picture[y1:y2, x1:x2])
    assert patch.core == tuple(np.array(core) - [x1, y1, x1, y1])
    assert np.allclose(patch.xyxy + np.array([x1, y1, x1, y1]), [box])
    assert patch.class_id.tolist() == [3]
    opacity = patch.opacity[..., 0]
    assert (opacity[patch.core[1] : patch.core[3], patch.core[0] : patch.core[2]] == 1).all()
    assert max(opacity[0].max(), opacity[-1].max(), opacity[:, 0].max(), opacity[:, -1].max()) < 0.1


@pytest.mark.parametrize(
    "box",
    [
        (60, 50, 71, 70),  # a side below 12 pixels
        (60, 50, 80, 61.9),
        (5, 50, 30, 66),  # 6 pixels from the border at least
        (60, 50, 80, 115),
    ],
)
def test_objects_that_are_not_cut_out(scenes, box):
    assert scenes.patches_of(photo(), truth(box), "a") == []


def test_objects_longer_than_160_are_not_cut_out(scenes):
    def patches(side):
        return scenes.patches_of(photo(300, 300), truth((60, 60, 60 + side, 90)), "a")

    assert len(patches(160)) == 1
    assert patches(161) == []


def test_what_is_around_an_object_comes_along_or_is_not_seen(scenes):
    main = (60, 50, 80, 66)  # half of a pixel is the patch's up to (49, 39, 91, 77)
    picture = photo()

    def first(*others, crowd=()):
        found = [p for p in scenes.patches_of(picture, truth(main, *others, crowd=crowd), "a") if 0 in p.objects]
        return found[0] if found else None

    assert first((82, 50, 88, 60)).objects == (0, 1)  # too small for a patch of its own
    along = first((85, 50, 94, 60))  # 6 of 9 within, and clipped
    assert np.allclose(along.xyxy[1] + np.array([40, 30, 40, 30]), (85, 50, 91, 60))
    assert first((90.9, 50, 96.9, 60)).objects == (0,)  # a sixtieth
    grown = first((86, 50, 96, 60), (104, 40, 120, 60))  # half of the first; with it half of the second
    assert np.allclose(grown.xyxy[:2] + np.array([40, 20, 40, 20]), [main, (86, 50, 96, 60)])
    assert grown.objects == (0, 1, 2)
    assert grown.pixels.shape == (66, 100, 3)
    assert first((2, 2, 158, 118)) is None  # it would be cut, and touches the border
    assert first((82, 50, 88, 60), crowd=(1,)) is None


def test_a_patch_does_not_grow_beyond_its_limit(scenes):
    row = [(20 + 50 * k, 100, 60 + 50 * k, 140) for k in range(9)]  # each cuts the next one
    assert scenes.patches_of(photo(240, 500), truth(*row), "a") == []
    assert len(scenes.patches_of(photo(240, 500), truth(*row[:4]), "a")) == 4


def test_only_objects_that_are_wanted_get_a_patch(scenes):
    boxes = truth((60, 50, 80, 66), (20, 20, 34, 40), (100, 60, 140, 100))
    found = scenes.patches_of(photo(), boxes, "a", np.array([False, True, False]))
    assert [patch.objects[0] for patch in found] == [1]


def test_an_object_is_found_by_a_box_of_its_class(scenes):
    names = {number: str(number) for number in range(9)}
    rows = np.array([[0, 0, 10, 6], [20, 20, 30, 30], [40, 40, 44, 50]], np.float32)
    boxes = Detections(rows, np.ones(3, np.float32), np.array([3, 3, 5]), names)
    objects = truth((0, 0, 10, 10), (20, 20, 30, 30), (40, 40, 50, 50))  # of the classes 3, 4, 5
    image = image_of(photo())
    assert scenes.found_by(lambda _: boxes, image, objects).tolist() == [True, False, False]


def test_a_background_has_its_own_detail(scenes):
    smooth = np.repeat(np.linspace(40, 200, 160)[None, :, None], 120, 0).repeat(3, 2).astype(np.uint8)
    flat = scenes.background(smooth, SIZE_WH, np.random.default_rng(0)).astype(float)
    assert flat.shape == (480, 600, 3)
    assert 2 < np.diff(flat, axis=0).std() < 6  # grain only
    rough = scenes.background(smooth // 2 + photo() // 4, SIZE_WH, np.random.default_rng(0)).astype(float)
    assert np.diff(rough, axis=0).std() > 8
    # Nothing is repeated at the distance of the pieces.
    residual = rough - cv2.GaussianBlur(rough, (0, 0), 3)
    alike = [np.corrcoef(residual[:-lag].ravel(), residual[lag:].ravel())[0, 1] for lag in (24, 48, 96)]
    assert max(np.abs(alike)) < 0.1


def test_a_photo_too_small_for_a_background_is_refused(scenes):
    with pytest.raises(InputError, match="photos of 100x80 pixels, got 160x70"):
        scenes.background(photo(70, 160), SIZE_WH, np.random.default_rng(0))


def some_patches(scenes):
    boxes = [(60, 50, 80, 66), (20, 20, 34, 40), (100, 60, 140, 100)]
    return [patch for seed in range(4) for patch in scenes.patches_of(photo(seed=seed), truth(*boxes), str(seed))]


def test_a_scene_holds_its_patches_as_they_are(scenes):
    empty = photo(480, 600, 99)
    for seed in range(5):
        made = scenes.scene(empty, some_patches(scenes), 7, np.random.default_rng(seed))
        covered = np.zeros((480, 600), int)
        first = 0
        for (x1, y1, x2, y2), patch in zip(made.pasted.tolist(), made.patches, strict=True):
            assert patch.pixels.shape[:2] == (y2 - y1, x2 - x1)
            left, top, right, bottom = patch.core
            inner = made.pixels[y1 + top : y1 + bottom, x1 + left : x1 + right]
            assert np.array_equal(inner, patch.pixels[top:bottom, left:right])
            boxes = made.xyxy[first : first + len(patch.xyxy)]
            assert np.allclose(boxes - [x1, y1, x1, y1], patch.xyxy)
            # The label is where the object is: the box cut out of the scene is the photo's own.
            source = photo(seed=int(patch.source))
            at = truth((60, 50, 80, 66), (20, 20, 34, 40), (100, 60, 140, 100)).xyxy[list(patch.objects)]
            for box, old in zip(boxes.astype(int).tolist(), at.astype(int).tolist(), strict=True):
                pasted = made.pixels[box[1] : box[3], box[0] : box[2]]
                assert np.array_equal(pasted, source[old[1] : old[3], old[0] : old[2]])
            first += len(patch.xyxy)
            covered[y1:y2, x1:x2] += 1
        assert first == len(made.xyxy) == len(made.class_id)
        assert covered.max() == 1
        assert np.array_equal(made.pixels[covered == 0], empty[covered == 0])
        used = [(patch.source, number) for patch in made.patches for number in patch.objects]
        assert len(used) == len(set(used))


def test_a_patch_goes_where_colours_are_alike(scenes):
    bright = np.full((40, 40, 3), 200, np.uint8)
    patch = scenes.Patch("a", (0,), bright, (10, 10, 30, 30), np.array([[12.0, 12, 28, 28]]), np.array([0]), 0)
    empty = np.zeros((480, 600, 3), np.uint8)
    empty[:, 300:] = 200
    ends = [scenes.scene(empty, [patch], 1, np.random.default_rng(seed)).pasted[0, 2] for seed in range(20)]
    assert np.mean(np.array(ends) > 300) > 0.9


def test_more_patches_than_there_are_or_have_room_are_refused(scenes):
    with pytest.raises(InputError, match="13 patches without an object twice, there are 12"):
        scenes.scene(photo(480, 600), some_patches(scenes), 13, np.random.default_rng(0))
    with pytest.raises(InputError, match="a scene of 120x120 pixels has no room for another"):
        scenes.scene(photo(120, 120), some_patches(scenes), 9, np.random.default_rng(0))


@pytest.fixture
def data(tmp_path: Path, scenes, monkeypatch) -> Path:
    folder = tmp_path / "data"
    for kind, split in (("images", "val2017"), ("labels", "val2017")):
        (folder / "det/coco128" / kind / split).mkdir(parents=True)
    for number in range(6):
        picture = cv2.GaussianBlur(photo(seed=number), (0, 0), 2)
        cv2.imwrite(str(folder / f"det/coco128/images/val2017/{number}.jpg"), picture)
        label = f"{number} 0.4375 0.483333 0.125 0.133333\n2 0.2 0.2 0.1 0.11\n"  # the second is 16x13
        (folder / f"det/coco128/labels/val2017/{number}.txt").write_text(label)
    (folder / "sr/bsds500/train").mkdir(parents=True)
    for name in ("a", "b", "c"):
        cv2.imwrite(str(folder / f"sr/bsds500/train/{name}.jpg"), photo(seed=ord(name)))
    monkeypatch.setenv("HATDET_DATA", str(folder))
    monkeypatch.setattr(scenes, "SIZE_WH", SIZE_WH)
    monkeypatch.setattr(scenes, "BACKGROUNDS", ("train/a", "train/b", "train/c"))
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_tool_writes_a_data_set_that_is_its_seeds(scenes, data, tmp_path, capsys):
    scenes.main([str(tmp_path / "first"), "--count", "2", "--objects", "2:4", "--preview", str(tmp_path / "see.png")])
    said = capsys.readouterr().out
    read = read_detection_data(tmp_path / "first/scenes.yaml")
    samples = read.split("val")
    assert [sample.relative.as_posix() for sample in samples] == ["scene-000.png", "scene-001.png"]
    assert read.names[2] == "car"
    found = [read_labels(sample, read.names, SIZE_WH, SIZE_WH) for sample in samples]
    assert not any(labels.problems for labels in found)
    assert f"2 scenes, {sum(len(labels.truth) for labels in found)} objects" in said
    assert "share of the pixels in patches: " in said
    picture = to_array(read_image(tmp_path / "see.png"))
    assert picture.shape[1] == SIZE_WH[0] // 2

    scenes.main([str(tmp_path / "again"), "--count", "1", "--objects", "2:4"])
    scenes.main([str(tmp_path / "other"), "--count", "1", "--objects", "2:4", "--seed", "1"])
    first, again, other = (files(tmp_path / name) for name in ("first", "again", "other"))
    assert {name: first[name] for name in again} == again
    assert all(other[name] != again[name] for name in again if "scene-" in name)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--objects", "4:2"], "expected LEAST:MOST from 1, such as 6:14, got '4:2'"),
        (["--objects", "6"], "expected LEAST:MOST"),
        (["--count", "0"], "expected a whole number from 1, got '0'"),
        (["--data", "det/none", "val2017"], "det/none/images/val2017 is no folder"),
        (["--photos", "sr/none"], "sr/none is no folder"),
        (["--objects", "13:13"], "13 patches without an object twice, there are 12"),
    ],
)
def test_bad_input_is_one_clear_line(scenes, data, tmp_path, capsys, arguments, said):
    with pytest.raises(SystemExit) as stopped:
        scenes.main([str(tmp_path / "out"), *arguments])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_with_something_in_it_is_left_alone(scenes, data, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit):
        scenes.main([str(tmp_path)])
    assert "must be a new or an empty folder" in capsys.readouterr().err
    assert yaml.safe_load((tmp_path / "mine.txt").read_text()) == "mine"
