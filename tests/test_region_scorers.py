"""The comparison of cheap looks: cells, shares and recalls mean what the table says."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hatdet.core.types import Detections, Image
from hatdet.evaluation.boxes import Truth
from tests.detection.tiny_detector import tiny_detector_file
from tests.test_tools import tool

SCORERS = tool("region_scorers")


def image(h: int, w: int, value: float = 0.5) -> Image:
    return Image(torch.full((3, h, w), value))


def found(*boxes: tuple[float, float, float, float, float, int]) -> Detections:
    rows = np.array(boxes, np.float32).reshape(-1, 6)
    names = {number: str(number) for number in range(10)}
    return Detections(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64), names)


@pytest.mark.parametrize(
    ("box", "cells"),
    [
        ((33, 33, 63, 63), {(1, 1)}),
        ((32, 32, 64, 64), {(1, 1)}),  # edges are between cells
        ((31, 40, 65, 50), {(1, 0), (1, 1), (1, 2)}),
        ((130, 60, 140, 70), {(1, 4), (2, 4)}),  # the last ones are cut off
        ((0, 0, 97, 10), set()),  # longer than three cells
    ],
)
def test_boxes_mark_the_cells_that_they_touch(box, cells):
    scores = SCORERS.of_boxes(found((*box, 0.5, 0)), (140, 70))
    assert scores.shape == (3, 5)
    assert {(int(row), int(column)) for row, column in np.argwhere(scores > 0)} == cells
    assert set(scores[scores > 0].tolist()) <= {0.5}


def test_the_surest_box_counts():
    scores = SCORERS.of_boxes(found((0, 0, 20, 20, 0.4, 0), (10, 10, 40, 20, 0.9, 1), (5, 5, 9, 9, 0.1, 2)), (64, 64))
    assert scores.tolist() == [[pytest.approx(0.9), pytest.approx(0.9)], [0, 0]]


def test_shares_are_of_pixels():
    cells = np.zeros((3, 5), np.bool_)
    cells[0, 0] = cells[2, 4] = True
    assert SCORERS.share_of(cells, (140, 70)) == pytest.approx((32 * 32 + 12 * 6) / (140 * 70))
    assert SCORERS.share_of(np.ones((3, 5), np.bool_), (140, 70)) == 1


def test_marked_from_a_confidence_on():
    scores = np.zeros((6, 8))
    scores[2, 3], scores[5, 7] = 0.05, 0.04
    cells = SCORERS.Marking("a", least=0.05).cells(scores, (256, 192))
    expected = np.zeros((6, 8), np.bool_)
    expected[1:4, 2:5] = True
    assert np.array_equal(cells, expected)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.05, 0.2, 0.4, 1.0]))
@settings(max_examples=20, deadline=None)
def test_marked_up_to_a_share(seed, share):
    scores = np.random.default_rng(seed).random((6, 8))
    cells = SCORERS.Marking("a", share=share).cells(scores, (256, 192))
    assert SCORERS.share_of(cells, (256, 192)) <= share
    more = SCORERS.Marking("a", share=share + 0.2).cells(scores, (256, 192))
    assert not (cells & ~more).any()
    if share >= 0.2:
        assert cells.flat[np.argmax(scores)]


def test_an_object_is_marked_by_its_middle():
    cells = np.zeros((2, 3), np.bool_)
    cells[1, 2] = True
    boxes = np.array([[60, 30, 70, 40], [0, 0, 130, 69], [90, 60, 96, 64], [50, 40, 60, 50]], np.float64)
    assert SCORERS.marked(boxes, cells).tolist() == [True, True, True, False]


def test_brightness_by_cell():
    pixels = torch.full((3, 70, 140), 100 / 255)
    pixels[:, 40, 50] = 200 / 255
    one = Image(pixels)
    assert SCORERS.edges(one).shape == SCORERS.peaks(one).shape == SCORERS.odd_edges(one).shape == (3, 5)
    # Half the difference to either side, along both axes.
    assert SCORERS.edges(one)[1, 1] == pytest.approx(4 * 50 / 32**2)
    assert SCORERS.peaks(one)[1, 1] == pytest.approx(50)
    assert np.count_nonzero(np.round(SCORERS.edges(one), 9)) == 1


def test_what_is_odd_is_not_what_is_rough():
    random = np.random.default_rng(0)
    pixels = np.full((320, 320), 0.5)
    pixels[:, 160:] += random.uniform(-0.3, 0.3, (320, 160))  # rough all over
    pixels[40:50, 40:50] = 0.9
    one = Image(torch.from_numpy(np.round(pixels * 255) / 255).float().expand(3, -1, -1))
    assert SCORERS.edges(one).argmax() % 10 >= 5
    assert np.unravel_index(SCORERS.odd_edges(one).argmax(), (10, 10)) == (1, 1)


def test_boxes_come_before_everything_else():
    boxes = np.array([[0, 0.02, 0], [0.9, 0, 0]])
    others = np.array([[7.0, 0, 3], [0, 9, 0]])
    order = np.argsort(-SCORERS.detector_first(boxes, others), axis=None, kind="stable")
    assert order.tolist()[:4] == [3, 1, 4, 0]


def test_what_the_full_size_finds():
    xyxy = np.array([[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50.0]])
    truth = Truth(xyxy, np.array([1, 2, 3]), np.zeros(3, np.bool_))
    boxes = found(
        (0, 0, 10, 6, 0.3, 1),  # IoU 0.6
        (20, 20, 30, 30, 0.24, 2),  # not sure
        (40, 40, 50, 50, 0.9, 5),  # another class
        (60, 60, 70, 70, 0.9, 1),  # where nothing is
        (49, 49, 60, 60, 0.9, 3),  # touches
    )
    there, elsewhere = SCORERS.found_at_full_size(boxes, truth, {number: number for number in range(10)})
    assert there.tolist() == [True, False, False]
    assert elsewhere == 1


def test_the_table_has_a_row_for_each_marking(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for number in range(2):
        picture = np.full((640, 896, 3), 90, np.uint8)
        picture[300:340, 400:460] = np.random.default_rng(number).integers(0, 256, (40, 60, 3))
        cv2.imwrite(str(tmp_path / f"images/{number}.png"), picture)
        (tmp_path / f"labels/{number}.txt").write_text(f"0 {430 / 896} {320 / 640} {60 / 896} {40 / 640}\n")
    (tmp_path / "data.yaml").write_text("path: .\nval: images\nnames: {0: person}\n")
    weights = tiny_detector_file(tmp_path / "tiny.safetensors", names=("person", "other"))
    SCORERS.main([str(tmp_path / "data.yaml"), "--weights", str(weights), "--sides", "96", "192", "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 images, 2 objects; at full size ")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:]]
    assert len(rows) == 2 * 3 + 3 * 5 + 2 * 5
    assert {len(row) for row in rows} == {7}
    by_name = {(row[0], row[1]): row for row in rows}
    # The only edges there are, in one of 7x5 cells: marked where nine of them are no more than the share.
    assert [by_name["edges", f"up to {share} %"][3] for share in (20, 30)] == ["0.0", "100.0"]
    assert by_name["edges", "up to 30 %"][2] == "25.7"


@pytest.mark.parametrize("arguments", [["--scale", "1"], ["--limit", "0"], ["--sides", "16"]])
def test_numbers_out_of_their_range_are_refused(tmp_path, capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        SCORERS.main([str(tmp_path / "none.yaml"), *arguments])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("expected --scale from 2, --limit from 1, --sides from 32")


def test_a_data_file_that_is_not_there_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        SCORERS.main([str(tmp_path / "none.yaml")])
    assert stopped.value.code == 2
    assert "none.yaml" in capsys.readouterr().err.splitlines()[-1]
