"""`hatdet prepare` as its users type it."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from hatdet.cli.app import app
from hatdet.evaluation.samples import read_detection_data
from hatdet.imaging.files import read_image, write_image
from hatdet.imaging.lmdb_files import LmdbReader, lmdb_keys
from tests.helpers import random_image


def prepare(*arguments: object) -> Result:
    threads = torch.get_num_threads()
    result = CliRunner().invoke(app, ["prepare", *(str(argument) for argument in arguments)])
    torch.set_num_threads(threads)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def photos(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("a.png", "b.png", "sub/c.png")):
        write_image(random_image(30 + i, 40 + i, seed=i), Path("photos") / name)
    return tmp_path


def names(folder: str) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def test_a_data_set_of_three_scales(photos):
    result = prepare("photos", "-o", "datasets/mine", "--scale", 2, 3, 4)
    assert result.exit_code == 0, result.output
    for scale in (2, 3, 4):
        assert (
            names(f"datasets/mine/GTmod{scale}")
            == names(f"datasets/mine/LRbicx{scale}")
            == ["a.png", "b.png", "sub_c.png"]
        )
        lines = Path(f"datasets/mine/meta_info_mine_x{scale}.txt").read_text().splitlines()
        assert lines[0] == f"a.png ({30 // scale * scale},{40 // scale * scale},3)"
        assert len(lines) == 3
    assert "x4: 3 pairs in datasets/mine/GTmod4 and datasets/mine/LRbicx4" in result.stdout
    assert "3 images in" in result.stderr


def test_sub_images_are_what_the_list_names(photos):
    assert prepare("photos", "-o", "set", "--scale", "2,4", "--sub-images", 16, "--step", 16).exit_code == 0
    listed = [line.split(" ")[0] for line in Path("set/meta_info_set_x4.txt").read_text().splitlines()]
    assert listed == names("set/GTmod4_sub") == names("set/LRbicx4_sub")
    assert read_image("set/LRbicx4_sub/a_s001.png").width == 4


def test_a_second_run_adds_what_is_new(photos):
    prepare("photos", "-o", "set")
    stamp = Path("set/GTmod4/a.png").stat().st_mtime_ns
    write_image(random_image(20, 20), Path("photos/d.png"))
    result = prepare("photos", "-o", "set", "--scale", "2,4")
    assert result.exit_code == 0
    assert Path("set/GTmod4/a.png").stat().st_mtime_ns == stamp
    assert "d.png (20,20,3)" in Path("set/meta_info_set_x4.txt").read_text()
    assert names("set/GTmod2")[-1] == "sub_c.png"


def test_a_data_set_of_other_settings_is_not_touched(photos):
    prepare("photos", "-o", "set")
    before = names("set")
    result = prepare("photos", "-o", "set", "--sub-images", 16, "--step", 8)
    assert result.exit_code == 2
    assert "set was made with no sub-images, now asked for sub-images of 16 every 8 pixels" in result.stderr
    assert names("set") == before
    assert prepare("photos", "-o", "set", "--step", 8).exit_code == 0


def test_broken_photos_are_one_line_each_and_the_rest_is_done(photos):
    Path("photos/broken.png").write_text("no image")
    write_image(random_image(3, 3), Path("photos/tiny.png"))
    result = prepare("photos", "-o", "set")
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 2
    assert "photos/broken.png is not an image" in errors[0]
    assert "photos/tiny.png (3x3) is too small for scale 4" in errors[1]
    assert names("set/LRbicx4") == ["a.png", "b.png", "sub_c.png"]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--scale", "two"], "--scale 'two'"),
        (["--scale", "1"], "scale must be at least 2"),
        (["--sub-images", "30"], "sub-images of 30 every 240 pixels do not divide by scale 4"),
    ],
)
def test_settings_that_cannot_be_are_exit_code_2(photos, more, sentence):
    result = prepare("photos", "-o", "set", *more)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert not Path("set").exists()
    assert prepare("nowhere", "-o", "set").exit_code == 2


needs_lmdb = pytest.mark.skipif(find_spec("lmdb") is None, reason="lmdb is not installed here: basicsr brings it")


@needs_lmdb
@pytest.mark.parametrize(
    ("more", "end", "keys"),
    [
        ([], "", ["a", "b", "sub_c"]),
        (["--sub-images", 28, "--step", 12], "_sub", ["a_s001", "a_s002", "b_s001", "b_s002", "sub_c_s001"]),
    ],
)
def test_lmdbs_hold_what_training_reads(photos, more, end, keys):
    result = prepare("photos", "-o", "set", "--lmdb", *more)
    assert result.exit_code == 0, result.output
    for folder in ("GTmod4", "LRbicx4"):
        lmdb = Path(f"set/{folder}{end}.lmdb")
        assert names(str(lmdb)) == ["data.mdb", "lock.mdb", "meta_info.txt"]
        assert [key for key in lmdb_keys(lmdb) if key in keys] == keys
        with LmdbReader(lmdb) as reader:
            for key in lmdb_keys(lmdb):
                assert reader.read(key) == Path(f"set/{folder}{end}/{key}.png").read_bytes()
        assert f"{len(lmdb_keys(lmdb))} images in {lmdb}" in result.stdout
    listed = [line.split(".")[0] for line in Path("set/meta_info_set_x4.txt").read_text().splitlines()]
    assert lmdb_keys(Path(f"set/GTmod4{end}.lmdb")) == listed


@needs_lmdb
def test_an_lmdb_is_kept_while_it_holds_the_same_images(photos):
    prepare("photos", "-o", "set")
    prepare("photos", "-o", "set", "--lmdb")
    data = Path("set/GTmod4.lmdb/data.mdb")
    stamp = data.stat().st_mtime_ns
    prepare("photos", "-o", "set", "--lmdb")
    assert data.stat().st_mtime_ns == stamp
    write_image(random_image(20, 20), Path("photos/d.png"))
    prepare("photos", "-o", "set", "--lmdb")
    assert lmdb_keys(Path("set/GTmod4.lmdb")) == ["a", "b", "d", "sub_c"]
    assert not [path for path in Path("set").iterdir() if path.name.startswith(".")]


@needs_lmdb
def test_names_that_an_lmdb_cannot_hold_are_said_before_the_work(photos):
    write_image(random_image(20, 20), Path("photos/sub/d.v2.png"))
    result = prepare("photos", "-o", "set", "--lmdb")
    assert result.exit_code == 2
    assert "sub_d.v2.png cannot be put in an LMDB: BasicSR reads keys of an LMDB up to their first dot" in result.stderr
    assert not Path("set").exists()


def test_without_the_lmdb_package(photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    result = prepare("photos", "-o", "set", "--lmdb")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "error: LMDB files need the lmdb package, which is not installed here: pip install lmdb"
    ]
    assert not Path("set").exists()
    assert prepare("photos", "-o", "set").exit_code == 0


@pytest.fixture
def detection(tmp_path: Path, monkeypatch) -> Path:
    """A detection data set of two images of 11x14 and one broken one."""
    monkeypatch.chdir(tmp_path)
    for name in ("train/a", "val/b"):
        write_image(random_image(11, 14), Path("set/images") / f"{name}.png")
    label = Path("set/labels/train/a.txt")
    label.parent.mkdir(parents=True)
    label.write_text("0 0.5 0.5 0.2 0.2\n")
    Path("set.yaml").write_text("{path: set, train: images/train, val: images/val, names: [car]}")
    return tmp_path


@pytest.mark.parametrize(("upscaler", "size"), [("none", (3, 2)), ("nearest", (12, 8)), ("hat-xs", (12, 8))])
def test_a_detection_data_set_reduced_or_upscaled_again(detection, upscaler, size):
    result = prepare("--detection", "set.yaml", "-o", "out", "--scale", 4, "--upscaler", upscaler)
    assert result.exit_code == 0, result.output
    assert names("out") == [
        "data.yaml",
        "images/train/a.png",
        "images/val/b.png",
        "labels/train/a.txt",
        "labels/val/b.txt",
    ]
    image = read_image("out/images/train/a.png")
    assert (image.width, image.height) == size
    # the centre of the box, 7 x 5.5 pixels, in shares of the cropped 12x8
    class_id, cx, cy, *_ = Path("out/labels/train/a.txt").read_text().split()
    assert (class_id, float(cx), float(cy)) == ("0", pytest.approx(7 / 12, abs=1e-5), pytest.approx(5.5 / 8, abs=1e-5))
    assert Path("out/labels/val/b.txt").read_text() == ""
    again = read_detection_data(Path("out/data.yaml"))
    assert again.names == {0: "car"}
    assert sorted(again.splits) == ["train", "val"]


def test_a_detection_data_set_goes_on_and_is_not_mixed(detection):
    assert prepare("--detection", "set.yaml", "-o", "out", "--upscaler", "nearest").exit_code == 0
    stamp = Path("out/images/train/a.png").stat().st_mtime_ns
    Path("out/images/val/b.png").unlink()
    assert prepare("--detection", "set.yaml", "-o", "out", "--upscaler", "nearest").exit_code == 0
    assert Path("out/images/train/a.png").stat().st_mtime_ns == stamp
    assert Path("out/images/val/b.png").is_file()
    result = prepare("--detection", "set.yaml", "-o", "out", "--upscaler", "bicubic")
    assert result.exit_code == 2
    assert "out holds a data set that is not 'reduced by 4, upscaled by bicubic'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--detection", "none.yaml"], "none.yaml cannot be read"),
        (["--detection", "set.yaml", "--scale", "1"], "scale must be at least 2"),
        (["--detection", "set.yaml", "--scale", "2,4"], "one scale"),
        (["--detection", "set.yaml", "set"], "takes its images from the data file"),
        (["--detection", "set.yaml", "--lmdb"], "makes no LMDB"),
        ([], "prepare needs a folder of photos, or --detection"),
    ],
)
def test_what_detection_cannot_be_is_exit_code_2(detection, arguments, sentence):
    result = prepare(*arguments, "-o", "out")
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert not Path("out").exists()


def test_coco_annotations_are_refused_before_anything_is_written(detection):
    coco = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": [{"id": 1, "name": "car"}]}
    write_image(random_image(8, 8), Path("a.png"))
    Path("coco.json").write_text(json.dumps(coco))
    result = prepare("--detection", "coco.json", "-o", "new")
    assert result.exit_code == 2
    assert "coco.json holds COCO annotations: expected an Ultralytics data file" in result.output
    assert not Path("new").exists()


def test_a_bad_label_fails_its_image(detection):
    Path("set/labels/train/a.txt").write_text("0 0.5\n")
    result = prepare("--detection", "set.yaml", "-o", "out")
    assert result.exit_code == 1
    assert "set/labels/train/a.txt:1 is not 'class cx cy w h'" in result.stderr
    assert names("out/images") == ["val/b.png"]


def test_photos_in_folders_have_flat_names_which_must_not_meet(photos):
    write_image(random_image(20, 20), Path("photos/sub_c.png"))
    result = prepare("photos", "-o", "set", "--scale", 2)
    assert result.exit_code == 2
    assert "would both be called sub_c.png: prepare their folders one by one" in result.stderr
    assert not Path("set").exists()


@pytest.mark.skipif(find_spec("basicsr") is None, reason="basicsr is not installed here (Python 3.13 and later)")
def test_basicsr_reads_what_is_made_of_folders(photos):
    from hatdet.training import plugins

    plugins.register()
    assert prepare("photos", "-o", "set", "--scale", 4).exit_code == 0
    common = {"phase": "val", "scale": 4}
    folders = {"dataroot_gt": "set/GTmod4", "dataroot_lq": "set/LRbicx4"}
    for more in ({}, {"meta_info_file": "set/meta_info_set_x4.txt"}):
        pairs = plugins.find("dataset", "PairedImageDataset")(
            {**common, **folders, **more, "io_backend": {"type": "disk"}}
        )
        assert len(pairs) == 3
        assert all(pairs[i]["gt"].shape[1] == 4 * pairs[i]["lq"].shape[1] for i in range(3))
