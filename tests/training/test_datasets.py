"""Data sets of training, against BasicSR's paired one on files that `hatdet prepare` makes; and BasicSR's own."""

from __future__ import annotations

import copy
import os
import random
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

if find_spec("basicsr") is None:
    pytest.skip("basicsr is not installed here (Python 3.13 and later)", allow_module_level=True)

import hatdet.training  # noqa: F401 (makes basicsr importable)

# isort: split
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.realesrgan_dataset import RealESRGANDataset
from basicsr.data.single_image_dataset import SingleImageDataset
from basicsr.utils import FileClient

from hatdet.core.errors import InputError, OptionsError
from hatdet.core.types import Image
from hatdet.imaging.files import read_image, to_array, write_image
from hatdet.imaging.lmdb_files import write_lmdb
from hatdet.imaging.pairs import PairSettings, make_pairs
from hatdet.imaging.resize import reduced
from hatdet.training.datasets import ImageNetPairedDataset, listed_names, reduced_part
from tests.helpers import random_image

SCALE = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Photos of sides that 4 does not divide; the pairs that `prepare` makes of them, as files and as LMDBs."""
    root = tmp_path_factory.mktemp("data")
    for i in range(3):
        photo = root / "hr" / f"{i}.png"
        write_image(random_image(50 + i, 63, seed=i), photo)
        make_pairs(photo, Path(photo.name), root, PairSettings((SCALE,)))
    for folder in ("GTmod4", "LRbicx4"):
        files = [(file.stem, file) for file in (root / folder).iterdir()]
        write_lmdb(files, root / f"{folder}.lmdb")
    (root / "meta_info.txt").write_text("".join(f"{i}.png ({48 + i // 2 * 4},60,3)\n" for i in range(3)))
    return root


def options(data: Path, backend: str = "disk", phase: str = "train", **changes: Any) -> dict[str, Any]:
    end = ".lmdb" if backend == "lmdb" else ""
    chosen = {
        "name": "tiny",
        "dataroot_gt": str(data / f"GTmod4{end}"),
        "dataroot_lq": str(data / f"LRbicx4{end}"),
        "io_backend": {"type": backend},
        "phase": phase,
        "scale": SCALE,
        "gt_size": 16,
        "use_hflip": True,
        "use_rot": True,
    }
    return {**chosen, **changes}


def only_hr(data: Path, *args: Any, **changes: Any) -> dict[str, Any]:
    chosen = options(data, *args, **changes)
    del chosen["dataroot_lq"]
    return chosen


def drawn(dataset: Any, index: int, seed: int) -> dict[str, Any]:
    random.seed(seed)
    return dataset[index]


# ------------------------------------------------------------------------------------------ reduced_part


@given(
    scale=st.sampled_from([2, 3, 4, 8]),
    sides=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    part=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 4),
    seed=st.integers(0, 99),
    depth=st.sampled_from([8, 16]),
    rough=st.booleans(),
)
def test_a_part_equals_that_part_of_the_whole_bit_for_bit(scale, sides, part, seed, depth, rough):
    height, width = sides
    levels = 2**depth - 1
    # Two levels alone give sums that lie on the edge of rounding.
    values = np.random.default_rng(seed).integers(0, 2 if rough else levels + 1, (height * scale, width * scale, 3))
    image = (values * (levels if rough else 1)).astype(np.uint16 if depth == 16 else np.uint8)
    pixels = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1) / levels
    whole = reduced(Image(pixels, bit_depth=depth), scale).pixels.permute(1, 2, 0).numpy()
    top, left = int(part[0] * height), int(part[1] * width)
    h, w = 1 + int(part[2] * (height - top)), 1 + int(part[3] * (width - left))
    assert np.array_equal(reduced_part(image, top, left, (h, w), scale), whole[top : top + h, left : left + w])


@pytest.mark.parametrize("part", [(-1, 0, (2, 2)), (0, 0, (0, 2)), (0, 0, (5, 2)), (2, 0, (3, 2)), (0, 3, (1, 2))])
def test_parts_that_are_not_inside(part):
    with pytest.raises(ValueError, match="are not inside 4x4"):
        reduced_part(np.zeros((16, 16, 3), np.uint8), *part, 4)
    with pytest.raises(ValueError, match="sides must be multiples of 4, got 17x16"):
        reduced_part(np.zeros((16, 17, 3), np.uint8), 0, 0, (1, 1), 4)


# ------------------------------------------------------------------------------------------ ImageNetPairedDataset


@pytest.mark.parametrize("changes", [{}, {"color": "y"}, {"mean": [0.5, 0.4, 0.3], "std": [1, 2, 4]}])
@pytest.mark.parametrize("backend", ["disk", "lmdb"])
@pytest.mark.parametrize("phase", ["train", "val"])
def test_the_same_tensors_as_basicsr_gives_on_prepared_pairs(data, phase, backend, changes):
    ours = ImageNetPairedDataset(only_hr(data, "disk", phase, **changes, dataroot_gt=str(data / "hr")))
    theirs = PairedImageDataset(options(data, backend, phase, **changes))
    order = {Path(pair["gt_path"]).stem: index for index, pair in enumerate(theirs.paths)}
    assert len(ours) == len(theirs) == 3
    for index, path in enumerate(ours.paths):
        for seed in range(12):
            a, b = drawn(ours, index, seed), drawn(theirs, order[Path(path).stem], seed)
            assert a.keys() == b.keys()
            assert a["gt_path"] == a["lq_path"] == path
            for key in ("gt", "lq"):
                assert a[key].dtype == torch.float32
                assert torch.equal(a[key], b[key])


def test_an_lmdb_and_a_folder_give_the_same(data):
    files = ImageNetPairedDataset(only_hr(data))
    keys = ImageNetPairedDataset(only_hr(data, "lmdb"))
    assert keys.paths == ["0", "1", "2"]
    for index in range(3):
        for key in ("gt", "lq"):
            assert torch.equal(drawn(files, index, 1)[key], drawn(keys, index, 1)[key])


def test_every_crop_comes_up_and_repeats_by_the_seed(data):
    dataset = ImageNetPairedDataset(only_hr(data, gt_size=44))
    crops = [drawn(dataset, 0, seed)["gt"] for seed in range(150)]
    assert torch.equal(crops[7], drawn(dataset, 0, 7)["gt"])
    # 48x60: two rows times five columns, eight ways to turn each
    assert len({crop.numpy().tobytes() for crop in crops}) > 60


def test_options_are_not_changed(data):
    for backend in ("disk", "lmdb"):
        given_options = only_hr(data, backend)
        before = copy.deepcopy(given_options)
        ImageNetPairedDataset(given_options)[0]
        assert given_options == before


def test_small_images_are_stretched_until_a_crop_fits(tmp_path):
    write_image(random_image(10, 70), tmp_path / "a.png")
    gt, lq = (
        ImageNetPairedDataset(only_hr(tmp_path, gt_size=32, dataroot_gt=str(tmp_path)))[0][k] for k in ("gt", "lq")
    )
    assert gt.shape == (3, 32, 32)
    assert lq.shape == (3, 8, 8)
    levels = gt * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)


def test_sixteen_bits_are_kept(tmp_path):
    image = random_image(16, 16, bit_depth=16)
    write_image(image, tmp_path / "a.png")
    item = ImageNetPairedDataset(only_hr(tmp_path, "disk", "val", dataroot_gt=str(tmp_path)))[0]
    assert torch.equal(item["gt"], image.pixels)
    assert torch.equal(item["lq"], reduced(image, SCALE).pixels)


def test_folders_are_searched_and_lists_are_obeyed(tmp_path):
    for name in ("n01/a b.JPEG.png", "n01/c.png", "n02/d.png"):
        write_image(random_image(16, 16), tmp_path / "hr" / name)
    dataset = ImageNetPairedDataset(only_hr(tmp_path, dataroot_gt=str(tmp_path / "hr")))
    assert [str(Path(path).relative_to(tmp_path / "hr")) for path in dataset.paths] == [
        "n01/a b.JPEG.png",
        "n01/c.png",
        "n02/d.png",
    ]
    listing = tmp_path / "list.txt"
    listing.write_text("n01/a b.JPEG.png (16,16,3)\n\nn02/d.png\n")
    assert listed_names(listing) == ["n01/a b.JPEG.png", "n02/d.png"]
    dataset = ImageNetPairedDataset(
        only_hr(tmp_path, dataroot_gt=str(tmp_path / "hr"), meta_info_file=str(listing), gt_size=8)
    )
    assert len(dataset) == 2
    assert dataset[0]["lq"].shape == (3, 2, 2)


def test_a_broken_image_is_named(tmp_path, data):
    (tmp_path / "a.png").write_bytes(b"no image")
    (tmp_path / "b.png").write_bytes(b"")
    write_image(random_image(3, 20), tmp_path / "c.png")
    dataset = ImageNetPairedDataset(only_hr(tmp_path, dataroot_gt=str(tmp_path)))
    for index, sentence in (
        (0, r"a\.png is not an image"),
        (1, r"b\.png is not an image"),
        (2, r"c\.png \(20x3\) is too"),
    ):
        with pytest.raises(InputError, match=sentence):
            dataset[index]
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match=r"a\.png cannot be read: No such file"):
        dataset[0]
    keys = ImageNetPairedDataset(only_hr(data, "lmdb"))
    keys.paths.append("none")
    with pytest.raises(InputError, match=r"none is not in .*GTmod4\.lmdb"):
        keys[3]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"gt_size": 18}, "gt_size must be a multiple of scale 4, got 18"),
        ({"gt_size": 0}, "gt_size must be a multiple of scale 4, got 0"),
        ({"gt_size": None}, "needs the option gt_size"),
        ({"use_rot": None}, "needs the option use_rot"),
        ({"scale": 1}, "scale must be at least 2, got 1"),
        ({"dataroot_gt": "/nowhere"}, "/nowhere does not exist"),
        ({"meta_info_file": "/nowhere.txt"}, r"/nowhere\.txt cannot be read"),
        ({"dataroot_gt": "/nowhere", "io_backend": {"type": "lmdb"}}, "tiny: /nowhere cannot be read as an LMDB"),
    ],
)
def test_options_that_cannot_be(data, changes, sentence):
    with pytest.raises(OptionsError, match=sentence):
        ImageNetPairedDataset(only_hr(data, **changes))


# ------------------------------------------------------------------------------------------ BasicSR's own

DEGRADATION: dict[str, Any] = {
    key + number: value
    for number in ("", "2")
    for key, value in {
        "blur_kernel_size": 21,
        "kernel_list": ["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"],
        "kernel_prob": [0.2, 0.2, 0.15, 0.15, 0.15, 0.15],
        "sinc_prob": 0.2,
        "blur_sigma": [0.2, 3],
        "betag_range": [0.5, 4],
        "betap_range": [1, 2],
    }.items()
} | {"final_sinc_prob": 0.5}


def turned(pixels: np.ndarray, flip: bool, upside_down: bool, transposed: bool) -> np.ndarray:
    pixels = pixels[:, ::-1] if flip else pixels
    pixels = pixels[::-1] if upside_down else pixels
    return pixels.transpose(1, 0, 2) if transposed else pixels


@pytest.mark.parametrize("backend", ["disk", "lmdb"])
def test_basicsrs_pairs_are_what_they_should_be(data, backend):
    dataset = PairedImageDataset(options(data, backend))
    for seed in range(24):
        item = drawn(dataset, 0, seed)
        gt, lq = (
            to_array(read_image(data / folder / f"{Path(item['gt_path']).stem}.png"))
            for folder in ("GTmod4", "LRbicx4")
        )
        random.seed(seed)
        top, left = random.randint(0, lq.shape[0] - 4), random.randint(0, lq.shape[1] - 4)
        turns = [random.random() < 0.5 for _ in range(3)]
        for key, pixels, scale in (("gt", gt, SCALE), ("lq", lq, 1)):
            side = 4 * scale
            expected = turned(pixels[top * scale :, left * scale :][:side, :side], *turns)
            assert np.array_equal(to_array(Image(item[key])), expected)


@pytest.mark.parametrize("backend", ["disk", "lmdb"])
def test_basicsrs_degradations_and_single_images(data, backend):
    dataset = RealESRGANDataset(options(data, backend, meta_info=str(data / "meta_info.txt"), **DEGRADATION))
    np.random.seed(0)
    for seed in range(40):
        item = drawn(dataset, seed % 3, seed)
        assert item["gt"].shape == (3, 400, 400)
        for key in ("kernel1", "kernel2", "sinc_kernel"):
            assert item[key].shape == (21, 21)
            assert item[key].dtype == torch.float32
            assert float(item[key].sum()) == pytest.approx(1, abs=1e-3)
    single = SingleImageDataset(options(data, backend))
    names = sorted(Path(single[index]["lq_path"]).stem for index in range(3))
    assert names == ["0", "1", "2"]


def test_data_sets_of_one_lmdb_in_one_process(data):
    """py-lmdb from 2.0 refuses to open it twice; two validation sets often have one GT."""
    first, second = (PairedImageDataset(options(data, "lmdb", phase)) for phase in ("train", "val"))
    third = ImageNetPairedDataset(only_hr(data, "lmdb", "val"))
    assert first[0]["gt"].shape == (3, 16, 16)
    for _ in range(2):
        assert torch.equal(second[0]["gt"], third[0]["gt"])


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_workers_forked_after_the_lmdb_was_read(data):
    """As after a validation on what is trained on."""
    dataset, read = (PairedImageDataset(options(data, "lmdb", "val")) for _ in range(2))
    expected = [read[index]["gt"] for index in range(3)]
    for chosen in (dataset, read):
        loader = torch.utils.data.DataLoader(chosen, num_workers=1, multiprocessing_context="fork")
        assert all(torch.equal(item["gt"][0], gt) for item, gt in zip(loader, expected, strict=True))


def test_an_lmdb_made_again_is_read_again(tmp_path):
    folder = tmp_path / "x.lmdb"
    for seed in (1, 2):
        write_image(random_image(8, 8, seed), tmp_path / "a.png")
        write_lmdb([("a", tmp_path / "a.png")], folder)
        client = FileClient("lmdb", db_paths=str(folder))
        assert client.get("a") == (tmp_path / "a.png").read_bytes()


def test_prepared_folders_in_folders(tmp_path):
    """Of BasicSR's three ways to list pairs only the LMDB finds photos in folders below."""
    write_image(random_image(16, 16), tmp_path / "a.png")
    make_pairs(tmp_path / "a.png", Path("street/a.png"), tmp_path, PairSettings((SCALE,)))
    listing = tmp_path / "list.txt"
    listing.write_text("street/a.png (16,16,3)\n")
    assert len(PairedImageDataset(options(tmp_path))) == 0
    listed = PairedImageDataset(options(tmp_path, meta_info_file=str(listing)))
    assert [os.path.relpath(path, tmp_path) for path in listed.paths[0].values()] == [
        "LRbicx4/a.png",
        "GTmod4/street/a.png",
    ]
    for folder in ("GTmod4", "LRbicx4"):
        write_lmdb([("street/a", tmp_path / folder / "street/a.png")], tmp_path / f"{folder}.lmdb")
    assert PairedImageDataset(options(tmp_path, "lmdb"))[0]["gt_path"] == "street/a"
    assert len(ImageNetPairedDataset(only_hr(tmp_path))) == 1
