"""What is wrong with training data is found before the run, by name; and `hatdet check-data` as its users type it."""

from __future__ import annotations

import copy
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner, Result

if find_spec("basicsr") is None:
    pytest.skip("basicsr is not installed here (Python 3.13 and later)", allow_module_level=True)

from hatdet.cli.app import app
from hatdet.core.errors import OptionsError
from hatdet.imaging.files import write_image
from hatdet.imaging.lmdb_files import write_lmdb
from hatdet.training.preflight import check_data, check_data_sets
from tests.helpers import random_image

SCALE = 4


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """`GT` and `LQ` with five good pairs, `0.png` to `4.png`, of 32x24 and 8x6."""
    for i in range(5):
        write_pair(tmp_path, f"{i}.png")
    return tmp_path


def write_pair(root: Path, name: str, height: int = 24, width: int = 32, lq_name: str | None = None) -> None:
    write_image(random_image(height, width), root / "GT" / name)
    write_image(random_image(height // SCALE, width // SCALE), root / "LQ" / (lq_name or name))


def section(root: Path, **changes: Any) -> dict[str, Any]:
    chosen = {
        "name": "tiny",
        "type": "PairedImageDataset",
        "dataroot_gt": str(root / "GT"),
        "dataroot_lq": str(root / "LQ"),
        "io_backend": {"type": "disk"},
        "gt_size": 16,
        "phase": "train",
        "scale": SCALE,
    }
    return {**chosen, **changes}


def complaints(root: Path, phase: str = "train", **changes: Any) -> list[str]:
    """What is said about one data set, with the folder's name left out."""
    changes = {"phase": phase.split("_", 1)[0], **changes}
    return [str(c).replace(f"{root}/", "") for c in check_data({"datasets": {phase: section(root, **changes)}})]


def spoil(root: Path) -> list[str]:
    """One missing, one of a wrong size, one grey, one corrupt; the lines that this should give."""
    (root / "LQ/0.png").unlink()
    write_image(random_image(6, 7), root / "LQ/1.png")
    PIL.Image.new("L", (32, 24)).save(root / "GT/2.png")
    (root / "GT/3.png").write_bytes((root / "GT/3.png").read_bytes()[:-100])
    return [
        "train tiny: GT/0.png has no LQ: expected LQ/0.png",
        "train tiny: GT/1.png (32x24) is not 4 times LQ/1.png (7x6): expected 28x24",
        "train tiny: GT/2.png has 1 channel (grey): expected 3 (RGB)",
        "train tiny: GT/3.png is damaged",
    ]


def test_good_pairs_are_no_complaint(pairs):
    for phase in ("train", "val", "val_2"):
        assert complaints(pairs, phase) == []


def test_four_faults_are_four_named_lines(pairs):
    expected = spoil(pairs)
    found = complaints(pairs)
    assert found[:3] == expected[:3]
    assert found[3].startswith(expected[3])
    assert len(found) == 4


def test_pairs_are_missed_in_both_directions(pairs):
    (pairs / "GT/4.png").unlink()
    (pairs / "LQ/1.png").rename(pairs / "LQ/1.jpg")
    assert complaints(pairs) == [
        "train tiny: GT/1.png has no LQ: expected LQ/1.png",
        "train tiny: LQ/1.jpg has no GT in GT",
        "train tiny: LQ/4.png has no GT in GT",
    ]


def test_names_follow_the_template(tmp_path):
    write_pair(tmp_path, "a.png", lq_name="ax4.png")
    write_pair(tmp_path, "b.png", lq_name="bx4.png")
    write_pair(tmp_path, "c.png", lq_name="cx2.png")
    assert complaints(tmp_path, filename_tmpl="{}x4") == [
        "train tiny: GT/c.png has no LQ: expected LQ/cx4.png",
        "train tiny: LQ/cx2.png has no GT in GT",
    ]


def test_lists_name_what_is_read(pairs):
    listing = pairs / "list.txt"
    listing.write_text("1.png (24,32,3)\nstreet/2.png (24,32,3)\n9.png (24,32,3)\n")
    found = complaints(pairs, meta_info_file=str(listing))
    assert found == [
        "train tiny: GT/street/2.png is not there",  # and LQ, as BasicSR does, without the folder
        "train tiny: GT/9.png is not there",
        "train tiny: LQ/9.png is not there",
    ]
    write_pair(pairs, "street/8.png")
    listing.write_text("street/8.png (24,32,3)\n")
    assert complaints(pairs, meta_info_file=str(listing)) == [
        "train tiny: LQ/8.png is not there, but LQ/street/8.png is: BasicSR leaves out the folders in a list's names "
        "(an LMDB keeps them)"
    ]
    listing.write_text("1.png (24,32,3)\n\nb c.png (24,32,3)\n")
    assert complaints(pairs, meta_info_file=str(listing)) == [
        "train tiny: list.txt:2 is blank: BasicSR would take it for an image",
        "train tiny: list.txt:3 names an image with a space in its name, which BasicSR reads as b",
    ]
    listing.write_text("")
    assert complaints(pairs, meta_info_file=str(listing)) == ["train tiny: list.txt lists no images"]
    listing.unlink()
    assert "list.txt cannot be read" in complaints(pairs, meta_info_file=str(listing))[0]


def test_lists_of_two_names(pairs):
    listing = pairs / "list.txt"
    listing.write_text("1.png, 2.png\n1.png 2.png\n")
    assert complaints(pairs, type="RealESRGANPairedDataset", meta_info=str(listing)) == [
        "train tiny: list.txt:2 must be 'GT, LQ', got '1.png 2.png'"
    ]


def test_small_images_are_said_in_training_only(tmp_path):
    write_pair(tmp_path, "a.png", 12, 32)
    assert complaints(tmp_path) == ["train tiny: GT/a.png (32x12) is smaller than gt_size 16"]
    assert complaints(tmp_path, "val") == []


def test_gt_that_is_cropped_in_validation(tmp_path):
    write_image(random_image(27, 32), tmp_path / "GT/a.png")
    write_image(random_image(6, 8), tmp_path / "LQ/a.png")
    sentence = "GT/a.png (32x27) is not 4 times LQ/a.png (8x6): expected 32x24"
    assert complaints(tmp_path, "val") == []
    assert complaints(tmp_path) == [f"train tiny: {sentence}"]
    assert complaints(tmp_path, "val", type="RealESRGANPairedDataset") == [f"val tiny: {sentence}"]
    write_image(random_image(28, 32), tmp_path / "GT/a.png")
    assert complaints(tmp_path, "val") == [f"val tiny: {sentence.replace('32x27', '32x28')}"]


def test_channels_are_named(pairs):
    PIL.Image.new("RGBA", (32, 24)).save(pairs / "GT/0.png")
    PIL.Image.new("LA", (8, 6)).save(pairs / "LQ/0.png")
    PIL.Image.new("P", (32, 24)).save(pairs / "GT/1.png")
    _, sixteen = cv2.imencode(".png", np.zeros((24, 32, 3), np.uint16))
    (pairs / "GT/2.png").write_bytes(sixteen.tobytes())
    assert complaints(pairs) == [
        "train tiny: GT/0.png has 4 channels (RGB and alpha): expected 3 (RGB)",
        "train tiny: LQ/0.png has 2 channels (grey and alpha): expected 3 (RGB)",
    ]


def test_folders_that_cannot_be_read(tmp_path):
    assert complaints(tmp_path) == ["train tiny: GT is not there"]
    (tmp_path / "GT").mkdir()
    (tmp_path / "LQ").write_text("")
    assert complaints(tmp_path) == ["train tiny: LQ is not a folder"]
    (tmp_path / "LQ").unlink()
    (tmp_path / "LQ").mkdir()
    (tmp_path / "GT/.hidden.png").write_text("")
    assert complaints(tmp_path) == ["train tiny: GT contains no images"]
    (tmp_path / "GT/street").mkdir()
    assert complaints(tmp_path) == [
        "train tiny: GT contains no images, and BasicSR does not look into the folders in it"
    ]


def test_files_that_are_no_images(pairs):
    for folder in ("GT", "LQ"):
        (pairs / folder / "Thumbs.db").write_text("no image")
    (pairs / "GT/0.png").write_bytes(b"")
    found = complaints(pairs)
    assert found[0] == "train tiny: GT/0.png is not an image: the file is empty"
    assert found[1].startswith("train tiny: GT/Thumbs.db is not an image that can be read")
    assert len(found) == 3


@pytest.mark.parametrize("kind", ["ImageNetPairedDataset", "RealESRGANDataset", "SingleImageDataset"])
def test_data_sets_of_one_folder(tmp_path, kind):
    for name in ("a.png", "b.png"):
        write_image(random_image(8, 8), tmp_path / "x" / name)
    PIL.Image.new("L", (8, 8)).save(tmp_path / "x/c.png")
    listing = tmp_path / "list.txt"
    listing.write_text("a.png (8,8,3)\nc.png (8,8,1)\n")
    roots = {"dataroot_gt": str(tmp_path / "x"), "dataroot_lq": str(tmp_path / "x")}
    key = "meta_info" if kind == "RealESRGANDataset" else "meta_info_file"
    expected = ["train tiny: x/c.png has 1 channel (grey): expected 3 (RGB)"]
    assert complaints(tmp_path, type=kind, gt_size=256, **roots, **{key: str(listing)}) == expected
    if kind != "RealESRGANDataset":
        assert complaints(tmp_path, type=kind, gt_size=256, **roots) == expected
    (checked,) = check_data_sets({"datasets": {"train": section(tmp_path, type=kind, **roots, **{key: str(listing)})}})
    assert str(checked) == "train tiny: 2 images, 1 wrong"


def test_imagenet_is_searched_and_too_small_is_below_the_scale(tmp_path):
    write_image(random_image(8, 8), tmp_path / "GT/n01/a.png")
    write_image(random_image(3, 8), tmp_path / "GT/n02/a b.png")
    kind = {"type": "ImageNetPairedDataset", "gt_size": 256}
    assert complaints(tmp_path, **kind) == ["train tiny: GT/n02/a b.png (8x3) is too small for scale 4"]
    (tmp_path / "list.txt").write_text("n02/a b.png (3,8,3)\n")
    assert len(complaints(tmp_path, **kind, meta_info_file=str(tmp_path / "list.txt"))) == 1
    assert complaints(tmp_path, **kind, dataroot_gt=str(tmp_path / "none")) == ["train tiny: none is not there"]


def as_lmdb(root: Path) -> dict[str, Any]:
    """The same pairs as LMDBs, and the options that read them."""
    for folder in ("GT", "LQ"):
        files = sorted((root / folder).iterdir())
        write_lmdb([(file.stem, file) for file in files], root / f"{folder}.lmdb")
    roots = {f"dataroot_{folder.lower()}": str(root / f"{folder}.lmdb") for folder in ("GT", "LQ")}
    return {"io_backend": {"type": "lmdb"}, **roots}


def test_lmdbs(pairs):
    chosen = as_lmdb(pairs)
    assert complaints(pairs, **chosen) == []
    (pairs / "GT/0.png").unlink()
    write_image(random_image(6, 7), pairs / "LQ/1.png")
    (pairs / "LQ/2.png").unlink()
    chosen = as_lmdb(pairs)
    listing = pairs / "LQ.lmdb/meta_info.txt"
    listing.write_text(listing.read_text() + "2.png (6,8,3) 1\n")
    assert complaints(pairs, **chosen) == [
        "train tiny: 0 in LQ.lmdb has no GT in GT.lmdb",
        "train tiny: 1 in GT.lmdb (32x24) is not 4 times 1 in LQ.lmdb (7x6): expected 28x24",
        "train tiny: 2 in LQ.lmdb is listed in meta_info.txt and not there",
    ]


def test_what_is_no_lmdb(pairs):
    chosen = as_lmdb(pairs)
    (pairs / "LQ.lmdb/meta_info.txt").write_text("")
    assert complaints(pairs, **chosen) == ["train tiny: LQ.lmdb contains no images"]
    (pairs / "LQ.lmdb/meta_info.txt").unlink()
    assert complaints(pairs, **chosen) == [
        "train tiny: LQ.lmdb cannot be read as an LMDB of images: it has no meta_info.txt"
    ]
    (pairs / "GT.lmdb/data.mdb").unlink()
    assert complaints(pairs, **chosen) == [
        "train tiny: GT.lmdb cannot be read as an LMDB of images: it has no data.mdb"
    ]
    assert complaints(pairs, io_backend={"type": "lmdb"}) == [
        "train tiny: GT must have a name that ends with .lmdb for io_backend lmdb"
    ]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"type": "REDSDataset"}, "of type REDSDataset cannot be checked: expected one of PairedImageDataset, "),
        ({"type": None}, "datasets:train:type is missing"),
        ({"dataroot_lq": None}, "datasets:train:dataroot_lq is missing: PairedImageDataset needs it"),
        ({"io_backend": {"type": "memcached"}}, "io_backend must have type disk or lmdb, got 'memcached'"),
        ({"filename_tmpl": "{name}x4"}, r"filename_tmpl must be such as '\{\}x4', got '\{name\}x4'"),
        ({"gt_size": 18}, "gt_size must be a multiple of scale 4, got 18"),
        ({"scale": None}, "datasets:train:scale is missing"),
        ({"type": "RealESRGANDataset"}, "datasets:train:meta_info is missing"),
    ],
)
def test_options_that_cannot_be(tmp_path, changes, sentence):
    with pytest.raises(OptionsError, match=sentence):
        check_data({"datasets": {"train": section(tmp_path, **changes)}})


def test_nothing_to_check():
    for options in ({}, {"datasets": None}, {"datasets": {}}):
        with pytest.raises(OptionsError, match="name no datasets"):
            check_data(options)
    with pytest.raises(OptionsError, match=r"datasets:train must be a mapping"):
        check_data({"datasets": {"train": "GT"}})


def test_progress_goes_over_every_pair_and_options_stay(pairs):
    options = {"scale": SCALE, "datasets": {"train": section(pairs, scale=None), "val": section(pairs, phase="val")}}
    before = copy.deepcopy(options)
    seen: list[Any] = []

    def over(items):
        for item in items:
            seen.append(item)
            yield item

    assert [checked.count for checked in check_data_sets(options, over, workers=1)] == [5, 5]
    assert seen == [(f"{i}.png", f"{i}.png") for i in range(5)] * 2
    assert options == before


def test_more_pairs_than_are_decoded_ahead(tmp_path, monkeypatch):
    monkeypatch.setattr("hatdet.training.preflight.AHEAD", 3)
    for i in range(20):
        write_pair(tmp_path, f"{i:02d}.png", 12 if i % 3 else 24)
    small = [line.split("/")[1][:6] for line in complaints(tmp_path)]
    assert small == [f"{i:02d}.png" for i in range(20) if i % 3]


# ------------------------------------------------------------------------------------------ the command


def check(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["check-data", *(str(argument) for argument in arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def option_file(pairs: Path, monkeypatch) -> Path:
    """Options of a training on the pairs; JSON is YAML."""
    loading = {"num_worker_per_gpu": 0, "batch_size_per_gpu": 1, "use_hflip": True, "use_rot": True}
    roots = {"dataroot_gt": "GT", "dataroot_lq": "LQ", "phase": None, "scale": None}
    validation = {key: value for key, value in section(pairs, **roots).items() if key != "gt_size"}
    options = {
        "name": "tiny",
        "model_type": "SRModel",
        "scale": SCALE,
        "num_gpu": 0,
        "datasets": {"train": section(pairs, **roots, **loading), "val": validation},
        "network_g": {"type": "SRVGGNetCompact", "upscale": SCALE},
        "train": {
            "total_iter": 1,
            "optim_g": {"type": "Adam", "lr": 0.1},
            "scheduler": {"type": "MultiStepLR", "milestones": [1]},
            "pixel_opt": {"type": "L1Loss"},
        },
        "logger": {"print_freq": 1, "save_checkpoint_freq": 1},
    }
    path = pairs / "tiny.yml"
    path.write_text(json.dumps(options))
    monkeypatch.chdir(pairs)
    return path


def test_the_command_on_good_data(option_file):
    result = check("-opt", option_file)
    assert result.stdout == "train tiny: 5 pairs, 0 wrong\nval tiny: 5 pairs, 0 wrong\n"
    assert result.stderr == ""
    assert result.exit_code == 0


def test_the_command_on_four_faults(option_file, pairs):
    expected = spoil(pairs)
    result = check("-opt", option_file, "--force_yml", "datasets:val=~")
    assert result.exit_code == 1
    assert result.stdout == "train tiny: 4 pairs, 4 wrong\n"
    lines = result.stderr.replace(f"{pairs}/", "").splitlines()
    assert len(lines) == 4
    assert all(line.startswith(f"error: {start}") for line, start in zip(lines, expected, strict=True))


def test_the_command_names_ten_or_all(option_file, pairs):
    for i in range(12):
        write_image(random_image(24, 32), pairs / f"GT/more{i}.png")
    result = check("-opt", option_file)
    assert result.exit_code == 1
    assert result.stderr.count("error: train tiny: ") == result.stderr.count("error: val tiny: ") == 10
    assert "... and 2 more in this data set: --all names them" in result.stderr
    assert check("-opt", option_file, "--all", "-q").stderr.count("error: train tiny: ") == 12


def test_the_command_takes_several_changes(option_file):
    result = check("-opt", option_file, "--force_yml", "datasets:train:gt_size=28", "datasets:train:name=other")
    assert "train other: 5 pairs, 5 wrong" in result.stdout
    result = check("--force_yml", "datasets:train:gt_size=28", "-opt", option_file, "--force_yml", "datasets:val=~")
    assert result.stdout == "train tiny: 5 pairs, 5 wrong\n"


def test_the_command_on_a_test_file(option_file, pairs):
    options = json.loads(option_file.read_text())
    for key in ("train", "logger"):
        del options[key]
    options["datasets"] = {"test_1": options["datasets"]["val"]}
    path = pairs / "evaluation.yml"
    path.write_text(json.dumps(options))
    assert check("-opt", path).stdout == "test_1 tiny: 5 pairs, 0 wrong\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-opt", "none.yml"], "none.yml"),
        (["-opt", "tiny.yml", "--force_yml", "scale=two"], "tiny.yml: scale"),
        (["-opt", "tiny.yml", "a=b"], "a=b is no option"),
        (["-opt", "tiny.yml", "--force_yml", "a:b"], "--force_yml a:b"),
        (["-opt", "tiny.yml", "--force_yml", "datasets:train:gt_size=18"], "18"),
        ([], "-opt"),
    ],
)
def test_the_command_on_options_that_cannot_be(option_file, arguments, sentence):
    result = check(*arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stdout == ""
