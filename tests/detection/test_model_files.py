"""Model files as values: reading, writing, a row more and a row less, names; and the files that ship."""

from __future__ import annotations

import re
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import hatdet
import hatdet.detection.attention
from hatdet.core.assets import asset
from hatdet.core.errors import InputError
from hatdet.detection import model_files
from hatdet.detection.attention.inspection import build, width_problems
from hatdet.detection.attention.registration import known_modules
from hatdet.detection.model_files import (
    ModelFile,
    Row,
    find_model_file,
    insert_row,
    model_text,
    read_model_file,
    remove_row,
    scale_letter,
    stock_model_files,
)

CHECKOUT = Path(hatdet.__file__).resolve().parent.parent
SHIPPED = sorted(asset("options", "models").glob("*.yaml"))


def rows(*sources: int | tuple[int, ...]) -> tuple[Row, ...]:
    return tuple(Row(source, 1, f"M{i}", (i,)) for i, source in enumerate(sources))


def model_of(backbone: tuple[Row, ...], head: tuple[Row, ...], **keys: object) -> ModelFile:
    return ModelFile({"nc": 2, **keys}, backbone, head)


def sources_of(model: ModelFile) -> list[int | tuple[int, ...]]:
    return [row.source for row in model.rows]


# ------------------------------------------------------------------------------------------ files


def test_every_stock_file_is_read_as_ultralytics_reads_it_and_survives_being_written(tmp_path):
    stock = stock_model_files()
    assert {"yolo11.yaml", "yolov8.yaml", "yolov5.yaml", "yolov10b.yaml", "rtdetr-l.yaml"} <= stock.keys()
    for name, path in stock.items():
        model = read_model_file(path)
        content = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        assert model.as_dict() == content, name
        assert list(model.as_dict()) == list(content), name
        copy = tmp_path / name
        copy.write_text(model_text(model, "A copy.\n\nOf two lines."))
        assert read_model_file(copy) == model, name
        assert list(read_model_file(copy).scales) == list(content.get("scales") or ()), name  # the first is a default


def test_the_text_of_a_file():
    backbone = (Row(-1, 1, "Conv", (64, 3, 2)), Row(-1, 2, "C3k2", (256, False, 0.25)))
    attention = Row(-1, 1, "Halo", ("c2", None, "rpe", (1, (2, 3)), 1e-05, 0.125))
    head = (
        Row(-1, 1, "nn.Upsample", ("None", 2, "nearest")),
        Row((-1, 1), 1, "Concat", (1,)),
        Row(-1, 2, "C3k2", (8,)),
        Row(-2, 1, "Conv", ()),
        Row((5, 6), 1, "Detect", ("nc",)),
    )
    model = model_of((*backbone, attention), head, scales={"s": (0.5, 0.25, 1024), "n": (0.33, 1.0, 512)}, end2end=True)
    text = """\
# One.
#
# Two.

# Parameters
nc: 2
scales: # a letter in the file's name chooses one, as in yolo11n.yaml
  # [depth, width, max_channels]
  s: [0.50, 0.25, 1024]
  n: [0.33, 1.00, 512]
end2end: True

backbone:
  # [from, repeats, module, args]
  - [-1, 1, Conv, [64, 3, 2]] # 0
  - [-1, 2, C3k2, [256, False, 0.25]] # 1
  - [-1, 1, Halo, [c2, null, "rpe", [1, [2, 3]], 1.0e-05, 0.125]] # 2

head:
  # [from, repeats, module, args]
  - [-1, 1, nn.Upsample, [None, 2, "nearest"]] # 3
  - [[-1, 1], 1, Concat, [1]] # 4
  - [-1, 2, C3k2, [8]] # 5

  - [-2, 1, Conv, []] # 6
  - [[5, 6], 1, Detect, [nc]] # 7
"""
    assert model_text(model, "One.\n\nTwo.") == text
    assert model_text(model) == text[text.index("# Parameters") :]


def test_a_scale_goes_into_what_ultralytics_gets_and_the_file_stays_as_it_is():
    model = model_of(rows(-1), rows(-1), scales={"n": (1, 1, 8), "s": (1, 1, 8)})
    content = model.as_dict("s")
    assert content["scale"] == "s"
    content["backbone"][0][3].append("spoiled")
    content["scales"]["n"][0] = 7
    assert "scale" not in model.as_dict()
    assert model.as_dict()["backbone"] == [[-1, 1, "M0", [0]]]
    assert model.as_dict()["scales"]["n"] == [1, 1, 8]
    with pytest.raises(ValueError, match=r"^there is no scale 'b': expected one of n, s$"):
        model.as_dict("b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"m\.yaml cannot be read: No such file or directory"),
        ("backbone: [\n", r"m\.yaml, line \d: "),
        ("[1, 2]", r"m\.yaml is no model file: expected a backbone and a head"),
        ("nc: 3", r"m\.yaml is no model file: expected a backbone and a head"),
        ("backbone: 3\nhead: []", r"m\.yaml: backbone must be a list of rows, got 3"),
        ("backbone: []\nhead: []", r"m\.yaml: a model file needs rows"),
        (
            "backbone: [[-1, 1, Conv]]\nhead: []",
            r"m\.yaml: a row must be \[from, repeats, module, \[arguments\]\], got",
        ),
        ("backbone: [[-1, 1, Conv, 3]]\nhead: []", r"m\.yaml: a row must be"),
        ("backbone: [[-1, 1, 3, []]]\nhead: []", r"m\.yaml: a row must be"),
        ("backbone: [[-1, n, Conv, []]]\nhead: []", r"m\.yaml: a row must be"),
        ("backbone: [[x, 1, Conv, []]]\nhead: []", r"m\.yaml: a row must be"),
        ("backbone: [[[], 1, Conv, []]]\nhead: []", r"m\.yaml: a row must be"),
        (
            "backbone: [[-1, 1, C, []]]\nhead: [[1, 1, D, []]]",
            r"m\.yaml: row 1, \[1, 1, D, \[\]\], reads 1: expected a",
        ),
        ("backbone: [[-1, 1, C, []]]\nhead: [[[-1, -2], 1, D, []]]", r"row 1, .*, reads -2: expected a layer above it"),
        ("backbone: [[0, 1, C, []]]\nhead: []", r"row 0, .*, reads 0: expected a layer above it"),
    ],
)
def test_what_is_no_model_file_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "m.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_model_file(path)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------ a row more, a row less

# Layer 2 is read by its number, counted back, and from the row below; others are read past it in every way.
GRAPH = model_of(rows(-1, -1, 0, -1), rows((-1, 2, 1), -3, (-1, -4, 3), -2, (0, 5, -1)))


@pytest.mark.parametrize(
    ("after", "sources"),
    [
        (0, [-1, -1, -1, 1, -1, (-1, 3, 2), -3, (-1, -4, 4), -2, (1, 6, -1)]),
        (1, [-1, -1, -1, 0, -1, (-1, 3, 2), -3, (-1, -4, 4), -2, (0, 6, -1)]),
        (2, [-1, -1, 0, -1, -1, (-1, 3, 1), -3, (-1, -4, 4), -2, (0, 6, -1)]),
        (3, [-1, -1, 0, -1, -1, (-1, 2, 1), -4, (-1, -5, 4), -2, (0, 6, -1)]),
        (5, [-1, -1, 0, -1, (-1, 2, 1), -3, -1, (-1, -5, 3), -2, (0, 6, -1)]),
        (6, [-1, -1, 0, -1, (-1, 2, 1), -3, (-1, -4, 3), -1, -3, (0, 5, -1)]),
        (7, [-1, -1, 0, -1, (-1, 2, 1), -3, (-1, -4, 3), -2, -1, (0, 5, -1)]),
    ],
)
def test_what_rows_read_when_one_is_put_in(after, sources):
    new = insert_row(GRAPH, after, "Halo", ["c2", [1, 2]], repeats=3)
    assert sources_of(new) == sources
    assert new.rows[after + 1] == Row(-1, 3, "Halo", ("c2", (1, 2)))
    assert [row.module for row in new.rows if row.module != "Halo"] == [row.module for row in GRAPH.rows]
    assert remove_row(new, after + 1) == GRAPH


def test_a_row_stands_in_the_list_of_the_layer_above_it():
    for after, backbone in ((0, 5), (3, 5), (4, 4), (7, 4)):
        new = insert_row(GRAPH, after, "Halo", [])
        assert (len(new.backbone), len(new.head)) == (backbone, 10 - backbone)


def test_where_no_row_can_stand_or_be_taken_from():
    for after in (-1, 8, 9):
        with pytest.raises(ValueError, match=rf"^a row can stand behind layers 0 to 7 of 9, got {after}$"):
            insert_row(GRAPH, after, "Halo", [])
    for index in (-1, 0, 8, 9):
        with pytest.raises(ValueError, match=rf"^layers 1 to 7 of 9 can be removed, got {index}$"):
            remove_row(GRAPH, index)
    with pytest.raises(ValueError, match=r"^row 2, \[0, 1, M2, \[2\]\], cannot be removed: it does not read the row"):
        remove_row(GRAPH, 2)


def test_a_row_that_names_the_one_above_it_can_be_removed_and_one_that_is_passed_by():
    model = model_of(rows(-1, -1, 1), rows((-1, 1), -3, (-2, -1)))
    assert sources_of(remove_row(model, 2)) == [-1, -1, (-1, 1), -2, (-2, -1)]


@st.composite
def graphs(draw: st.DrawFn) -> ModelFile:
    """Models of 2 to 12 rows, each of which reads one or more of those above it, in either spelling."""
    count = draw(st.integers(2, 12))
    made: list[Row] = [Row(-1, 1, "M0")]
    for i in range(1, count):
        read = st.integers(0, i - 1).flatmap(lambda k, i=i: st.sampled_from([k, k - i]))
        sources = draw(st.lists(read, min_size=1, max_size=3))
        source = sources[0] if len(sources) == 1 and draw(st.booleans()) else tuple(sources)
        made.append(Row(source, draw(st.integers(1, 3)), f"M{i}"))
    split = draw(st.integers(1, count - 1))
    return model_of(tuple(made[:split]), tuple(made[split:]))


def edges(model: ModelFile) -> list[list[int]]:
    """Which layers each row reads, by Ultralytics' rule: below zero it is counted from the row itself."""
    return [
        [s if s >= 0 else i + s for s in (row.source if isinstance(row.source, tuple) else [row.source])]
        for i, row in enumerate(model.rows)
    ]


@given(graphs(), st.data())
def test_with_the_new_layer_contracted_the_graph_is_the_old_one(model, data):
    after = data.draw(st.integers(0, len(model.rows) - 2))
    new = insert_row(model, after, "Halo", ["c2"])
    wires = edges(new)
    assert wires.pop(after + 1) == [after]
    # Nothing else reads the old layer, so the new one takes its number, and the rest moves up by one.
    assert all(after not in wire for wire in wires)
    assert [[n - 1 if n > after else n for n in wire] for wire in wires] == edges(model)
    assert remove_row(new, after + 1) == model
    assert [model.producers(i) for i in range(len(model.rows))] == [tuple(wire) for wire in edges(model)]


TINY = """
nc: 2
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [8, 3, 1]]
  - [-2, 1, Conv, [8, 1, 1]]
  - [[2, -1], 1, Concat, [1]]
head:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, -3], 1, Concat, [1]]
  - [[7, 5], 1, Detect, [nc]]
"""


def test_a_layer_that_changes_nothing_changes_nothing_wherever_it_stands(tmp_path):
    (tmp_path / "m.yaml").write_text(TINY)
    model = read_model_file(tmp_path / "m.yaml")
    x = torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(0))

    def output(model: ModelFile) -> Tensor:
        with torch.no_grad():
            return build(model).eval()(x)[0]

    expected = output(model)
    for after in range(len(model.rows) - 1):
        assert torch.equal(output(insert_row(model, after, "nn.Identity", [])), expected), after
        # All that reads the layer reads the new one: a layer that matters, matters.
        assert not torch.allclose(output(insert_row(model, after, "nn.Sigmoid", [])), expected), after
    wrong = insert_row(model, 2, "nn.Sigmoid", [])
    passed_by = replace(wrong, backbone=(*wrong.backbone[:5], replace(wrong.backbone[5], source=(2, -1))))
    assert not torch.allclose(output(passed_by), output(wrong))


# ------------------------------------------------------------------------------------------ the files that ship


def test_the_files_are_those_of_the_table(capsys):
    main = runpy.run_path(str(CHECKOUT / "tools" / "make_model_files.py"))["main"]
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_the_check_notices_what_differs(tmp_path, capsys):
    tool = runpy.run_path(str(CHECKOUT / "tools" / "make_model_files.py"))
    main = tool["main"]
    shutil.copytree(asset("options", "models"), tmp_path / "models")
    main.__globals__["MODELS"] = tmp_path / "models"
    changed, stray = tmp_path / "models" / "yolo11-halo.yaml", tmp_path / "models" / "mine.yaml"
    text = changed.read_text()
    changed.write_text(text.replace("14", "13"))
    (tmp_path / "models" / "yolov8-dat.yaml").unlink()
    stray.write_text("")
    assert main(["--check"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "options/models/mine.yaml is not in the table",
        "options/models/yolo11-halo.yaml differs from the table",
        "options/models/yolov8-dat.yaml differs from the table",
    ]
    stray.unlink()
    assert main([]) == 0
    assert main(["--check"]) == 0
    assert changed.read_text() == text


MADE_FROM = {
    "yolo11-halo": ("yolo11", "HaloAttention"),
    "yolov8-dat": ("yolov8", "DAttention"),
    "yolov5-clo": ("yolov5", "EfficientAttention"),
    "yolov5-attnconv": ("yolov5", "AttnConv"),
    **{f"yolov10{letter}-hat": (f"yolov10{letter}", "HATBlock") for letter in "nsmblx"},
}


def test_these_files_ship():
    assert {path.name for path in SHIPPED} == {f"{name}.yaml" for name in MADE_FROM}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_without_its_row_a_file_is_the_stock_file(path):
    stock, module = MADE_FROM[path.stem]
    model = read_model_file(path)
    stock_content = yaml.safe_load(stock_model_files()[f"{stock}.yaml"].read_text())
    assert remove_row(model, 10).as_dict() == stock_content
    row = model.rows[10]
    assert (row.source, row.repeats, row.module, row.args[0]) == (-1, 1, module, "c2")
    assert model.rows[9].module == "SPPF"
    assert len(model.backbone) == len(stock_content["backbone"]) + 1
    assert module in known_modules()


# The rows that read more than one layer, as the articles have them or (YOLOv5's 20th) should have.
@pytest.mark.parametrize(
    ("name", "joins", "attention_is_read_by"),
    [
        ("yolo11-halo", {13: (-1, 6), 16: (-1, 4), 19: (-1, 14), 22: (-1, 11), 24: (17, 20, 23)}, [11]),
        ("yolov8-dat", {12: (-1, 6), 15: (-1, 4), 18: (-1, 13), 21: (-1, 10), 23: (16, 19, 22)}, [11, 21]),
        ("yolov5-clo", {13: (-1, 6), 17: (-1, 4), 20: (-1, 15), 23: (-1, 11), 25: (18, 21, 24)}, [11]),
        ("yolov5-attnconv", {13: (-1, 6), 17: (-1, 4), 20: (-1, 15), 23: (-1, 11), 25: (18, 21, 24)}, [11]),
        ("yolov10n-hat", {13: (-1, 6), 16: (-1, 4), 19: (-1, 14), 22: (-1, 11), 24: (17, 20, 23)}, [11]),
    ],
)
def test_how_the_files_are_wired(name, joins, attention_is_read_by):
    model = read_model_file(asset("options", "models", f"{name}.yaml"))
    assert {i: row.source for i, row in enumerate(model.rows) if row.source != -1} == joins
    assert [i for i in range(len(model.rows)) if 10 in model.producers(i)] == attention_is_read_by
    assert [i for i in range(len(model.rows)) if 9 in model.producers(i)] == [10]


EVERY_SCALE = [(path, letter) for path in SHIPPED for letter in read_model_file(path).scales]


@pytest.mark.parametrize(("path", "letter"), EVERY_SCALE, ids=lambda value: getattr(value, "stem", value))
def test_at_every_scale_c2_is_the_width_that_the_row_is_given(path, letter):
    """On the meta device, where a large model costs nothing: Ultralytics' parser makes it, we run it here."""
    from ultralytics.nn.tasks import parse_model

    content = read_model_file(path).as_dict(letter)
    with torch.device("meta"), torch.no_grad():
        layers, _ = parse_model(content, 3, verbose=False)
        outputs: list[Tensor] = []
        x = torch.zeros(1, 3, 64, 96)
        for i, (layer, sources) in enumerate(zip(layers[:-1], edges(read_model_file(path)), strict=False)):
            read = [x if n < 0 else outputs[n] for n in sources]
            outputs.append(layer(read if isinstance(layer.f, list) else read[0]))
            if i == 10:
                assert (layer.dim, outputs[10].shape) == (outputs[9].shape[1], outputs[9].shape)
    assert outputs[10].shape[2:] == (2, 3)
    assert outputs[9].shape[1] == width_of_p5(path, letter)


def width_of_p5(path: Path, letter: str) -> int:
    """1024 channels, at most the scale's, times the scale's width."""
    _, width, most = read_model_file(path).keys["scales"][letter]
    return round(min(1024, most) * width)


@pytest.mark.parametrize("name", ["yolo11-halo", "yolov8-dat", "yolov5-clo", "yolov5-attnconv", "yolov10n-hat"])
def test_the_smallest_builds_whole(name):
    model = read_model_file(asset("options", "models", f"{name}.yaml"))
    network = build(model, "n")
    assert width_problems(model, network) == []
    assert network.stride.tolist() == [8, 16, 32]
    stock = build(remove_row(model, 10), "n")
    added = sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in stock.parameters())
    assert added == sum(p.numel() for p in network.model[10].parameters())
    assert added < 0.7 * sum(p.numel() for p in stock.parameters())


# ------------------------------------------------------------------------------------------ names


def test_a_path_is_that_file_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("yolo11n-halo.yaml", "yolo11-halo.yaml", "yolov8.yaml"):
        assert find_model_file(name) != Path(name)
        Path(name).write_text("mine")
        assert find_model_file(name) == Path(name)
    Path("notes.txt").write_text("mine")
    assert find_model_file("notes.txt") == Path("notes.txt")


def test_names_that_ship_and_ultralytics_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours = asset("options", "models")
    assert find_model_file("yolo11-halo.yaml") == ours / "yolo11-halo.yaml"
    assert find_model_file("yolo11-halo") == ours / "yolo11-halo.yaml"
    for letter in "nsmblx":
        assert find_model_file(f"yolov10{letter}-hat.yaml") == ours / f"yolov10{letter}-hat.yaml"
    assert find_model_file("yolov10-hat.yaml") == ours / "yolov10n-hat.yaml"
    assert find_model_file("yolo11.yaml") == stock_model_files()["yolo11.yaml"]
    assert find_model_file("yolov10b.yaml") == stock_model_files()["yolov10b.yaml"]


def test_a_letter_gives_a_copy_whose_name_ultralytics_reads(tmp_path, monkeypatch, cache):
    from ultralytics.nn.tasks import yaml_model_load

    monkeypatch.chdir(tmp_path)
    for name, original in (("yolo11s-halo.yaml", "yolo11-halo.yaml"), ("yolov8x.yaml", "yolov8.yaml")):
        found = find_model_file(name)
        assert found.name == name
        assert found.parent.parent == cache.parent / "models"
        assert found.read_bytes() == find_model_file(original).read_bytes()
        assert found == find_model_file(name)
        assert yaml_model_load(found)["scale"] == scale_letter(name) == name[6]
    assert not list(tmp_path.iterdir())


def test_a_copy_in_a_folder_of_ones_own_is_written_when_it_differs(tmp_path):
    folder = tmp_path / "copies"
    copy = find_model_file("yolo11s-halo.yaml", folder)
    assert copy == folder / "yolo11s-halo.yaml"
    written = copy.stat()
    assert find_model_file("yolo11s-halo.yaml", folder).stat().st_ino == written.st_ino
    copy.write_text("of an older hatdet")
    find_model_file("yolo11s-halo.yaml", folder)
    assert copy.read_text() == asset("options", "models", "yolo11-halo.yaml").read_text()
    assert [path.name for path in folder.iterdir()] == ["yolo11s-halo.yaml"]


def test_copies_of_files_that_share_a_name_do_not_get_in_each_others_way(tmp_path):
    copies = []
    for folder in ("a", "b"):
        path = tmp_path / folder / "yolo11-mine.yaml"
        path.parent.mkdir()
        path.write_text(asset("options", "models", "yolo11-halo.yaml").read_text() + f"# {folder}\n")
        copies.append(find_model_file(path.with_name("yolo11n-mine.yaml")))
    assert [copy.read_text()[-2] for copy in copies] == ["a", "b"]
    assert {copy.name for copy in copies} == {"yolo11n-mine.yaml"}


@pytest.mark.parametrize("trap", ["v3n", "yolo11x", "yolov5s6"])
def test_folders_that_look_like_a_scale_are_left_alone(tmp_path, monkeypatch, trap):
    from ultralytics.nn.tasks import yaml_model_load

    shutil.copytree(asset("options", "models"), tmp_path / trap / "models")
    monkeypatch.setattr(model_files, "asset", lambda *parts: tmp_path / trap / "models")
    monkeypatch.setenv("HATDET_CACHE", str(tmp_path / trap / "cache"))
    monkeypatch.chdir(tmp_path)
    assert yaml_model_load(find_model_file("yolo11m-halo.yaml"))["scale"] == "m"
    assert yaml_model_load(find_model_file("yolov10x-hat.yaml"))["scale"] == "x"
    assert yaml_model_load(find_model_file("yolo11-halo.yaml"))["scale"] == ""
    assert yaml_model_load(find_model_file(tmp_path / trap / "models" / "yolo11l-halo.yaml"))["scale"] == "l"
    assert scale_letter(tmp_path / trap / "yolo11-halo.yaml") == ""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("yolo11n-hallo.yaml", "did you mean yolo11n-halo.yaml, yolo11-halo.yaml or yolo11x-halo.yaml?"),
        ("yolov5m-attncon", "did you mean yolov5m-attnconv, yolov5-attnconv or yolov5x-attnconv?"),
        ("yolo11q-halo.yaml", "did you mean yolo11-halo.yaml, yolo11x-halo.yaml or yolo11s-halo.yaml?"),
        ("there/yolov8-dot.yaml", "did you mean yolov8-dat.yaml, yolov8x-dat.yaml or yolov8s-dat.yaml?"),
        ("zzz.yaml", "expected a path, or a name such as yolo11n-halo.yaml"),
    ],
)
def test_a_name_that_nothing_has(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"^{re.escape(f'there is no model file {name}: {message}')}$"):
        find_model_file(name)


def test_a_scale_that_a_file_does_not_have(tmp_path):
    (tmp_path / "yolo11-mine.yaml").write_text(TINY + "scales: {s: [1, 1, 8]}\n")
    assert scale_letter(find_model_file(tmp_path / "yolo11s-mine.yaml")) == "s"
    with pytest.raises(InputError, match=r"^yolo11-mine\.yaml has no scale 'n': expected one of s$"):
        find_model_file(tmp_path / "yolo11n-mine.yaml")


@pytest.mark.parametrize(
    ("name", "letter"),
    [
        ("yolo11n-halo.yaml", "n"),
        ("yolov8x.yaml", "x"),
        ("yolo11-halo.yaml", ""),
        ("yolov10b-hat.yaml", ""),
        ("yolov5-clo.yaml", ""),
        ("yoloe-11s.yaml", "s"),
        ("runs/v3n/yolo12m.yml", "m"),
        ("other.yaml", ""),
    ],
)
def test_letters_are_those_that_ultralytics_finds(name, letter):
    from ultralytics.nn.tasks import guess_model_scale

    assert scale_letter(name) == letter == guess_model_scale(name)
