"""tools/pareto.py: what its table says of what was found and how long it took."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hatdet.evaluation.boxes import Found, Truth
from hatdet.imaging.files import read_image, write_image
from tests.helpers import sample_photo
from tests.test_tools import tool


@pytest.fixture(scope="module")
def pareto():
    return tool("pareto")


def test_a_row_says_how_good_how_dear_and_whether_another_is_both(pareto):
    box = np.array([[10.0, 10, 30, 30]])
    truths = [Truth(box, np.array([0]), np.array([False]))] * 3
    right, wrong = Found(box, np.array([0.9]), np.array([0])), Found(box + 50, np.array([0.9]), np.array([0]))
    nothing = Found(np.empty((0, 4)), np.empty(0), np.empty(0, np.int64))
    results = {
        "lr@640": pareto.Measured([nothing] * 3, [1.0] * 3, []),
        "bicubic": pareto.Measured([right, wrong, right], [2.0] * 3, [1.0] * 3),
        "sahi": pareto.Measured([right, wrong, right], [3.0] * 3, []),
        "regions:hat-xs": pareto.Measured([right] * 3, [4.0, 6.0, 5.0], [0.1, 0.3, 0.2]),
        "hat-xs": pareto.Measured([right] * 3, [10.0] * 3, [1.0] * 3),
        "hr": pareto.Measured([right] * 3, [0.5] * 3, []),
    }
    rows = {row["arm"]: row for row in pareto.rows_of(results, truths, {0: "car"}, "hat-xs")}
    assert {arm for arm, row in rows.items() if row["front"]} == {"lr@640", "bicubic", "regions:hat-xs"}
    regions = rows["regions:hat-xs"]
    assert (regions["seconds"], regions["share"], regions["of_time"]) == (5.0, pytest.approx(0.2), 0.5)
    assert regions["map50_95"] == pytest.approx(1)
    assert regions["difference_all"] == [0, 0, 0]
    assert rows["hat-xs"]["difference_all"] is None
    assert rows["bicubic"]["difference_all"][0] < 0
    lines = pareto.printed(list(rows.values()), "hat-xs").splitlines()
    assert [line.split("|")[1].strip(" `") for line in lines[2:]] == [*results]  # by time, the reference last
    assert "| `regions:hat-xs` | 20 % | 5.00 | 50 % | 100.0 | 100.0 | +0.0 [+0.0, +0.0] |" in lines[5]


def test_arms_are_those_of_the_evaluation_on_the_images_of_a_data_file(pareto, tmp_path: Path, capsys):
    """The embedded detector, one small photo; without SAHI, which takes no safetensors."""
    photo = read_image(sample_photo("bus"))
    write_image(photo, tmp_path / "images/val/bus.png")
    (tmp_path / "labels/val").mkdir(parents=True)
    (tmp_path / "labels/val/bus.txt").write_text("5 0.511 0.457 0.967 0.486\n")
    (tmp_path / "data.yaml").write_text("path: .\nval: images/val\nnames: {5: bus}\n")
    arms = ["lr@640", "sliced:none", "bicubic", "regions:hat-xs@0.1", "hr"]
    wanted = [
        str(tmp_path / "data.yaml"),
        "--scale",
        "4",
        "--slice",
        "120x160",
        "--against",
        "bicubic",
        "--arms",
        *arms,
    ]
    assert pareto.main(wanted) == 0
    head, _, _, _, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("1 images, 1 objects, x4")
    cells = {row.split("|")[1].strip(" `"): [cell.strip() for cell in row.split("|")] for row in rows}
    assert set(cells) == set(arms)
    assert float(cells["hr"][5]) > 50
    assert 0 < int(cells["regions:hat-xs@0.1"][2].removesuffix(" %")) <= 10
    assert cells["bicubic"][4] == "100 %"


def test_an_arm_that_is_none_is_one_line(pareto, tmp_path, capsys):
    assert pareto.main([str(tmp_path / "data.yaml"), "--arms", "regions:bicubic"]) == 2
    assert "expected regions: and a network's name" in capsys.readouterr().err
