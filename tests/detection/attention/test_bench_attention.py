"""The comparison of attention layers: what stands beside a layer, which data is scored, and what the report says."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import hatdet
from hatdet.core.errors import InputError, OptionsError
from hatdet.detection.model_files import ModelFile, Row, model_text

TOOLS = Path(hatdet.__file__).resolve().parent.parent / "tools"


@pytest.fixture(scope="module")
def bench():
    """The tool; what it makes known to Ultralytics is taken back."""
    sys.path.insert(0, str(TOOLS))
    try:
        yield importlib.import_module("bench_attention")
    finally:
        sys.path.remove(str(TOOLS))
        vars(sys.modules["ultralytics.nn.tasks"]).pop("PlainBlock", None)


@pytest.fixture(scope="module")
def data(bench):
    return sys.modules["attention_bench_data"]


@pytest.fixture(scope="module")
def reports(bench):
    return sys.modules["attention_bench_report"]


def host() -> ModelFile:
    """Strides 2 to 32 in layers 0 to 4, and a head on the last."""
    convs = tuple(Row(-1, 1, "Conv", (width, 3, 2)) for width in (8, 8, 8, 16, 16))
    return ModelFile({"nc": 5}, convs, (Row((4,), 1, "Detect", ("nc",)),))


# ------------------------------------------------------------------------------------------ what is compared


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("parameters", [1, 100, 200, 250, 1000, 4321])
def test_the_hidden_width_is_the_nearest_there_is(bench, parameters, residual):
    def missed(hidden: int) -> int:
        return abs(bench.parameters_of(bench.PlainBlock(8, hidden, residual)) - parameters)

    hidden = bench.hidden_width(parameters, 8, residual)
    assert missed(hidden) == min(missed(each) for each in range(1, 300))
    assert bench.parameters_of(bench.PlainBlock(8, 5)) == 8 * 5 + 5 + 5 * 8 + 8


def test_a_block_sees_one_pixel_at_a_time(bench):
    block = bench.PlainBlock(4, 3)
    x = torch.rand(1, 4, 3, 3)
    y = x.clone()
    y[..., 1, 1] += 1
    changed = (block(x) != block(y)).any(1)[0]
    assert changed.tolist() == [[False] * 3, [False, True, False], [False] * 3]


def test_each_layer_stands_behind_the_same_row_as_its_block(bench):
    found = bench.variants(host(), "", ["EMA(4)", "AttnConv"], 3, True)
    assert [each.name for each in found] == ["plain", "EMA(4)", "EMA(4) matched", "AttnConv", "AttnConv matched"]
    assert found[0].model == host()
    assert found[1].row == "[-1, 1, EMA, [c2, 4, True]]"
    assert found[3].row.startswith("[-1, 1, AttnConv, [c2, None, 7,")  # what is recommended at a stride of 16
    for layer, block in (found[1:3], found[3:5]):
        counts = []
        for each in (layer, block):
            assert [row.module for row in each.model.rows[:4]] == ["Conv"] * 4
            network = bench.build(each.model).model
            assert network[4].gate is not None
            counts.append(bench.parameters_of(network[4]))
        assert abs(counts[0] - counts[1]) <= (2 * 16 + 1) / 2
    with pytest.raises(OptionsError, match="--modules must be names"):
        bench.variants(host(), "", ["EMA(4"], 3, False)


# ------------------------------------------------------------------------------------------ data


def picture(path: Path, width: int, height: int = 8, white: tuple[int, int] = (0, 0), boxes: str = "") -> None:
    """A black image, white between two columns, with its label."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, slice(*white)] = 255
    label = Path("labels".join(str(path).rsplit("images", 1))).with_suffix(".txt")
    for each in (path, label):
        each.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)
    label.write_text(boxes)


def test_kit_ais_is_split_by_sequence(data, tmp_path):
    numbers = [*range(74, 94), *range(155, 180)]
    for number in numbers:
        picture(tmp_path / f"det/kit_ais/images/MOS{number}.png", 4)
    found = data.frames("kit_ais", tmp_path)
    assert [path.stem for path in found["train"]] == [f"MOS{n}" for n in range(155, 180)]
    assert [path.stem for path in found["val"]] == [f"MOS{n}" for n in range(74, 94)]


def test_coco128_is_split_as_it_comes(data, tmp_path):
    picture(tmp_path / "det/coco128/images/train2017/1.jpg", 4)
    with pytest.raises(InputError, match="no images of coco128 for val"):
        data.frames("coco128", tmp_path)
    picture(tmp_path / "det/coco128/images/val2017/2.jpg", 4)
    found = data.frames("coco128", tmp_path)
    assert {split: [path.stem for path in paths] for split, paths in found.items()} == {"train": ["1"], "val": ["2"]}


@pytest.mark.parametrize(
    ("box", "edges", "expected"),
    [
        ("3 0.5 0.5 0.2 0.4", [0, 100], ["3 0.500000 0.5 0.200000 0.4"]),
        ("3 0.25 0.5 0.2 0.4", [0, 50, 100], ["3 0.500000 0.5 0.400000 0.4", ""]),
        ("3 0.75 0.5 0.2 0.4", [0, 50, 100], ["", "3 0.500000 0.5 0.400000 0.4"]),
        ("3 0.45 0.5 0.2 0.4", [0, 50, 100], ["3 0.850000 0.5 0.300000 0.4", ""]),  # 35 to 55, cut at 50
        ("3 0.50 0.5 0.2 0.4", [0, 50, 100], ["", "3 0.100000 0.5 0.200000 0.4"]),  # 40 to 60, from 50
        ("3 1.0 0.5 0.2 0.4", [0, 50, 100], ["", "3 0.900000 0.5 0.200000 0.4"]),
    ],
)
def test_boxes_go_to_the_part_that_holds_their_middle(data, box, edges, expected):
    assert [part.strip() for part in data.cut_labels(box + "\n", edges)] == expected


def test_wide_frames_are_cut_and_the_source_stays_as_it_is(data, tmp_path):
    root = tmp_path / "images"  # a folder of that name above it does no harm
    picture(root / "det/kit_ais/images/MOS155.png", 1300, white=(700, 800), boxes=f"0 {750 / 1300} 0.5 {100 / 1300} 1")
    picture(root / "det/kit_ais/images/MOS74.png", 700, boxes="0 0.5 0.5 0.1 0.1\n")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    told = data.prepare("kit_ais", root, tmp_path / "work", None)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    work = tmp_path / "work/kit_ais"
    assert sorted(path.name for path in (work / "images/train").iterdir()) == ["MOS155_0.png", "MOS155_1.png"]
    assert (work / "labels/train/MOS155_0.txt").read_text() == ""
    middle, across = (float((work / "labels/train/MOS155_1.txt").read_text().split()[k]) * 650 for k in (1, 3))
    white = np.flatnonzero(cv2.imread(str(work / "images/train/MOS155_1.png"))[0, :, 0])
    assert (middle - across / 2, middle + across / 2) == pytest.approx((white[0], white[-1] + 1), abs=0.01)
    assert (work / "labels/val/MOS74.txt").read_text() == "0 0.5 0.5 0.1 0.1\n"
    assert told["nc"] == 5
    assert Path(told["val"]) == work / "images/val"


# ------------------------------------------------------------------------------------------ costs


def test_memory_is_what_is_alive_at_once(bench):
    image = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        assert bench.peak_bytes(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), image) == 2 * 4 * 64 * 4
        assert bench.peak_bytes(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True)), image) == 4 * 64 * 4
        # The first result is gone when the third is made.
        chain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU())
        assert bench.peak_bytes(chain, image) == 2 * 4 * 64 * 4


# ------------------------------------------------------------------------------------------ what came of it


def test_a_difference_is_paired_by_seed(reports):
    # 0.01, 0.02, 0.03: a standard deviation of 0.01, and 4.302653 of it over the root of three.
    apart = reports.Difference.between({0: 0.31, 1: 0.42, 2: 0.53}, {2: 0.5, 1: 0.4, 0: 0.3})
    assert (apart.mean, apart.half) == pytest.approx((0.02, 0.01 * 4.302653 / math.sqrt(3)), rel=1e-6)
    assert math.isnan(reports.Difference.between({0: 0.3}, {0: 0.2}).half)


@pytest.mark.parametrize(
    ("mean", "half", "expected"),
    [
        (0.02, 0.01, "A is above B by +0.0200 ± 0.0100, more than the spread"),
        (-0.02, 0.01, "A is below B by -0.0200 ± 0.0100, more than the spread"),
        (0.01, 0.01, "A and B differ by +0.0100 ± 0.0100, within the spread: no difference is shown"),
        (0.0, 0.0, "A and B differ by +0.0000 ± 0.0000, within the spread: no difference is shown"),
        (0.5, math.nan, "A differs from B by +0.5000, of one seed: the spread is not known, nothing is shown"),
    ],
)
def test_a_difference_within_the_spread_is_none(reports, mean, half, expected):
    assert reports.Difference(mean, half).sentence("A", "B") == expected


def test_the_report(reports):
    def cost(row: str, parameters: int, latency: float) -> dict:
        return {"row": row, "parameters": parameters, "gflops": 6.5432, "latency": latency, "memory": 26.25}

    table = {"plain": cost("", 2624080, 1.0), "A": cost("[a]", 3000000, 1.234), "A matched": cost("[p]", 3000100, 1.1)}
    scores = {"coco128": {"plain": {0: 0.3, 1: 0.5}, "A": {0: 0.2, 1: 0.4}, "A matched": {0: 0.3, 1: 0.3}}}
    assert reports.report(table, scores, "Limits.") == (
        "| model | parameters | GFLOPs | latency | memory, MB | coco128 mAP50-95 | - plain | - matched | row |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| plain | 2,624,080 | 6.54 | 1.00 | 26.2 | 0.4000 ± 0.1414 |  |  |  |\n"
        "| A | 3,000,000 | 6.54 | 1.23 | 26.2 | 0.3000 ± 0.1414 | -0.1000 ± 0.0000 | +0.0000 ± 1.2706 | `[a]` |\n"
        "| A matched | 3,000,100 | 6.54 | 1.10 | 26.2 | 0.3000 ± 0.0000 | -0.1000 ± 1.2706 |  | `[p]` |\n"
        "\n"
        "- coco128: A is below the plain model by -0.1000 ± 0.0000, more than the spread.\n"
        "- coco128: A and its matched block differ by +0.0000 ± 1.2706, within the spread: no difference is shown.\n"
        "\n"
        "Limits.\n"
    )


def test_a_value_for_all_data_or_one_for_each(bench):
    assert bench.per_data([3], ["a", "b"], "--epochs") == {"a": 3, "b": 3}
    assert bench.per_data([3, 4], ["a", "b"], "--epochs") == {"a": 3, "b": 4}
    with pytest.raises(OptionsError, match="--epochs takes one value"):
        bench.per_data([1, 2, 3], ["a", "b"], "--epochs")


@pytest.mark.parametrize("text", ["0/2", "3/2"])
def test_a_share_is_one_of_so_many(bench, text):
    assert bench.share_of("2/2") == (2, 2)
    with pytest.raises(ValueError, match=text):
        bench.share_of(text)


# ------------------------------------------------------------------------------------------ all of it


def test_two_shares_and_a_report_that_trains_nothing_again(bench, tmp_path, monkeypatch, capsys):
    from ultralytics.nn.tasks import DetectionModel

    for number in (74, 155):
        boxes = "0 0.5 0.5 0.5 0.5\n"
        picture(tmp_path / f"det/kit_ais/images/MOS{number}.png", 64, 64, white=(16, 48), boxes=boxes)
    (tmp_path / "tiny.yaml").write_text(model_text(host()))
    start = DetectionModel(host().as_dict(), verbose=False)
    torch.save({"model": start, "train_args": {"task": "detect"}}, tmp_path / "tiny.pt")
    trained = []
    monkeypatch.setattr(bench._Trainer, "save_model", lambda trainer: bool(trained.append(trainer.model)))
    arguments = ["--host", str(tmp_path / "tiny.yaml"), "--weights", str(tmp_path / "tiny.pt"), "--after", "3"]
    arguments += ["--root", str(tmp_path), "--data", "kit_ais", "--modules", "EMA", "--seeds", "0", "--epochs", "1"]
    arguments += ["--imgsz", "128", "--repeats", "1", "--threads", str(torch.get_num_threads())]
    arguments += ["-o", str(tmp_path / "out")]
    for share, count in (("1/2", 2), ("2/2", 3)):
        assert bench.main([*arguments, "--share", share]) == 0
        assert len(trained) == count
    assert capsys.readouterr().out == ""
    for model in trained:  # the weights have moved, the statistics have not
        assert not torch.equal(model.model[0].conv.weight, start.model[0].conv.weight)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert not module.running_mean.any()
                assert (module.running_var == 1).all()
    assert bench.main([*arguments, "--json", str(tmp_path / "all.json")]) == 0
    assert len(trained) == 3
    printed = capsys.readouterr().out
    rows = [line.split(" | ")[0] for line in printed.splitlines() if line.startswith("| ")]
    assert rows == ["| model", "| ---", "| plain", "| EMA", "| EMA matched"]
    assert "nothing is shown" in printed
    content = json.loads((tmp_path / "all.json").read_text())
    assert content["costs"]["plain"]["latency"] == 1
    assert content["costs"]["EMA"]["gflops"] > content["costs"]["plain"]["gflops"] > 0
    assert [run["images"] for run in content["runs"]] == [[1, 1]] * 3
    assert "new: layer 4 (EMA)" in content["runs"][1]["transfer"]
    with pytest.raises(SystemExit):  # the same folder for other settings
        bench.main([*arguments, "--lr", "0.1"])
    assert "was made with lr" in capsys.readouterr().err
