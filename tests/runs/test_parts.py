"""The manifest of a run on a cluster, which is its table of results: on a disk, and in an object store."""

from __future__ import annotations

import io
import json
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

from hatdet.core.errors import OptionsError
from hatdet.runs import parts as module
from hatdet.runs.manifest import state_of
from hatdet.runs.parts import FOLDER, LocalFolder, Parts, read_parts
from hatdet.runs.storage import StoredFolder

SETTINGS = {"weights": "abc", "tile": 256}
BOX = {"xyxy": [1.5, 2.0, 30.25, 40.0], "confidence": 0.5, "class_id": 2, "class_name": "car", "corners": None}
BOX |= {"polygons": None, "keypoints": None, "crop": "crops/car/a_1.png", "track_id": None}
REPORT = {"source": "in/a.png", "width": 4, "detections": [BOX], "timing_ms": {"read": 1.0}}


def on_disk(folder: Path, settings: dict[str, object] = SETTINGS) -> Parts:
    return Parts(LocalFolder(folder), folder, settings)


def test_what_was_put_is_done_in_this_run_and_in_the_next(files):
    folder, source, result = files
    with on_disk(folder) as parts:
        assert parts.done(source, result) is None
        parts.put(source, state_of(source), result, report=REPORT)
    with on_disk(folder, dict(reversed(SETTINGS.items()))) as parts:
        assert parts.done(source, result) == REPORT
        assert parts.files_of(result) == [result]
        assert parts.changed == {}
        assert parts.done(source, result, [folder / "labels/a.txt"]) is None  # wanted now, and not there


@pytest.mark.parametrize("what", ["source", "result", "settings"])
def test_what_is_not_as_it_was_is_not_done(files, what):
    folder, source, result = files
    with on_disk(folder) as parts:
        parts.put(source, state_of(source), result, report=REPORT)
    if what != "settings":
        {"source": source, "result": result}[what].write_bytes(b"another picture")
    parts = on_disk(folder, {**SETTINGS, "tile": 128} if what == "settings" else SETTINGS)
    assert parts.done(source, result) is None
    assert parts.changed == ({"tile": 1} if what == "settings" else {})


def test_an_image_that_is_made_again_has_one_row(files):
    folder, source, result = files
    other = folder / "b.png"
    other.write_bytes(b"picture")
    with on_disk(folder) as parts:
        parts.put(source, state_of(source), result, report=REPORT)
        parts.put(other, state_of(other), other, report=REPORT)
    with on_disk(folder, {"tile": 1}) as parts:
        parts.put(source, state_of(source), result, report={**REPORT, "width": 5})
    (file,) = (folder / FOLDER).iterdir()
    rows = pq.read_table(file).to_pylist()
    assert {row["result"]: json.loads(row["report"])["width"] for row in rows} == {"deep/a.png": 5, "b.png": 4}


def test_rows_are_written_while_it_runs_and_a_run_that_is_killed_leaves_them(files, monkeypatch):
    folder, source, _result = files
    monkeypatch.setattr(module, "ROWS", 2)
    parts = on_disk(folder)
    for number in range(5):
        other = folder / f"{number}.png"
        other.write_bytes(b"picture")
        parts.put(source, state_of(source), other, report=REPORT)
    del parts  # and nothing was closed
    again = on_disk(folder)
    assert [again.done(source, folder / f"{number}.png") is not None for number in range(5)] == [True] * 4 + [False]


def test_a_boxs_columns_are_what_tables_are_read_for(files):
    folder, source, result = files
    with on_disk(folder) as parts:
        parts.put(source, state_of(source), result, report=REPORT)
    row = pq.read_table(folder / FOLDER).to_pylist()[0]
    assert row["source"] == str(source)
    (box,) = row["detections"]
    assert (box["x1"], box["y2"], box["confidence"], box["class_name"]) == (1.5, 40.0, 0.5, "car")
    assert json.loads(box["more"]) == {"crop": "crops/car/a_1.png"}


def test_a_result_without_boxes_has_none(files):
    folder, source, result = files
    with on_disk(folder) as parts:
        parts.put(source, state_of(source), result, report={"width": 3})
    assert on_disk(folder).done(source, result) == {"width": 3}


@pytest.mark.parametrize("name", ["\udcff.png", "ünï 'cödé.png", "a\nb.png"])
def test_any_file_name_comes_through(tmp_path, name):
    source, result = tmp_path / name, tmp_path / "out" / name
    result.parent.mkdir()
    for path in (source, result):
        path.write_bytes(b"picture")
    with on_disk(tmp_path / "out") as parts:
        parts.put(source, state_of(source), result, report={"source": name})
    assert on_disk(tmp_path / "out").done(source, result) == {"source": name}


def test_something_else_among_the_parts_is_named(files):
    folder, *_ = files
    (folder / FOLDER).mkdir()
    (folder / FOLDER / "mine.parquet").write_bytes(b"no table")
    with pytest.raises(OptionsError, match=r"results.parquet/mine.parquet is no part of a run: .*; remove it"):
        on_disk(folder)


def test_the_same_in_an_object_store():
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    url, output = "memory://bucket/out", Path("memory:/bucket/out")
    source, result = Path("memory:/bucket/a.png"), output / "a.png"
    folder = StoredFolder(url)
    written = {}
    for name in ("a.png",):
        memory.pipe_file("/bucket/out/a.png", b"picture")
        written[name] = folder.states()[name]
    stored = {source: ("memory://bucket/a.png", "7 tag")}
    with Parts(folder, output, SETTINGS, stored) as parts:
        parts.put(source, "7 tag", result, report=REPORT, states=written)
    assert Parts(folder, output, SETTINGS, stored).done(source, result) == REPORT
    assert [row["source"] for row in read_parts(folder)] == ["memory://bucket/a.png"]
    assert Parts(folder, output, SETTINGS, {source: ("memory://bucket/a.png", "8 tag")}).done(source, result) is None
    memory.rm_file("/bucket/out/a.png")
    assert Parts(folder, output, SETTINGS, stored).done(source, result) is None
    assert io.BytesIO(folder.read(next(iter(folder.states())))).read(4) == b"PAR1"
