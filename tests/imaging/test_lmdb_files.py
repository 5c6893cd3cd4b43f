"""LMDBs in BasicSR's layout, read back by BasicSR's own client; and what encoded images are."""

from __future__ import annotations

import contextlib
import io
import sys
from importlib.util import find_spec
from pathlib import Path, PurePath

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatdet.core.errors import InputError, OptionsError
from hatdet.imaging.files import write_image
from hatdet.imaging.lmdb_files import (
    EncodedImage,
    LmdbReader,
    inspect_image,
    is_complete,
    lmdb_key,
    lmdb_keys,
    write_lmdb,
)
from tests.helpers import random_image

needs_lmdb = pytest.mark.skipif(find_spec("lmdb") is None, reason="lmdb is not installed here: basicsr brings it")


@pytest.fixture
def images(tmp_path: Path) -> list[tuple[str, Path]]:
    """Three images of 12x16, 13x16 and 14x16 and their keys, one in a folder."""
    found = []
    for i, key in enumerate(("b", "a", "street/c")):
        path = tmp_path / "GT" / f"{key}.png"
        write_image(random_image(12 + i, 16, seed=i), path)
        found.append((key, path))
    return found


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@needs_lmdb
def test_the_files_come_back_byte_for_byte(images, tmp_path):
    folder = tmp_path / "GT.lmdb"
    write_lmdb(images, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["data.mdb", "lock.mdb", "meta_info.txt"]
    text = (folder / "meta_info.txt").read_text()
    assert text == "a.png (13,16,3) 1\nb.png (12,16,3) 1\nstreet/c.png (14,16,3) 1\n"
    assert lmdb_keys(folder) == ["a", "b", "street/c"]
    with LmdbReader(folder) as reader:
        for key, path in images:
            assert reader.read(key) == path.read_bytes()
        with pytest.raises(InputError, match=r"^d is not in "):
            reader.read("d")
    assert leftovers(tmp_path) == []


@needs_lmdb
@pytest.mark.skipif(find_spec("basicsr") is None, reason="basicsr is not installed here (Python 3.13 and later)")
def test_basicsr_reads_them(images, tmp_path):
    import hatdet.training  # noqa: F401 (makes basicsr importable)

    # isort: split
    from basicsr.data.data_util import paths_from_lmdb
    from basicsr.utils import FileClient, imfrombytes

    folder = tmp_path / "GT.lmdb"
    write_lmdb(images, folder)
    client = FileClient("lmdb", db_paths=[str(folder)], client_keys=["gt"])
    files = dict(images)
    for key in paths_from_lmdb(str(folder)):
        assert np.array_equal(imfrombytes(client.get(key, "gt")), cv2.imread(str(files[key])))


@needs_lmdb
def test_the_map_grows_by_itself(tmp_path):
    path = tmp_path / "noise.png"
    write_image(random_image(100, 100), path)  # 30 kB each, a map of 64 kB
    write_lmdb([(f"{i:02d}", path) for i in range(40)], tmp_path / "x.lmdb", first_map_bytes=2**16)
    with LmdbReader(tmp_path / "x.lmdb") as reader:
        assert all(reader.read(f"{i:02d}") == path.read_bytes() for i in range(40))


@needs_lmdb
def test_many_transactions(images, tmp_path, monkeypatch):
    monkeypatch.setattr("hatdet.imaging.lmdb_files.BATCH_BYTES", 1)
    write_lmdb(images, tmp_path / "x.lmdb", first_map_bytes=2**15)
    assert is_complete(tmp_path / "x.lmdb", ["a", "b", "street/c"])


@needs_lmdb
def test_a_broken_file_leaves_nothing_behind_and_what_was_there(images, tmp_path):
    folder = tmp_path / "GT.lmdb"
    write_lmdb(images[:1], folder)
    images[1][1].write_text("no image")
    with pytest.raises(InputError, match=r"a\.png is not an image"):
        write_lmdb(images, folder)
    assert is_complete(folder, ["b"])
    assert leftovers(tmp_path) == []


@needs_lmdb
def test_one_that_is_there_is_replaced(images, tmp_path):
    folder = tmp_path / "GT.lmdb"
    assert not is_complete(folder, [])
    write_lmdb(images[:1], folder)
    assert is_complete(folder, ["b"])
    assert not is_complete(folder, ["a", "b"])
    write_lmdb(images[1:], folder)
    assert is_complete(folder, ["street/c", "a"])
    assert leftovers(tmp_path) == []


@needs_lmdb
def test_what_cannot_be_written(images, tmp_path):
    with pytest.raises(ValueError, match=r"must be named \*\.lmdb"):
        write_lmdb(images, tmp_path / "GT_lmdb")
    with pytest.raises(OptionsError, match="two images would have the key b"):
        write_lmdb([*images, images[0]], tmp_path / "x.lmdb")
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionsError, match=r"x\.lmdb cannot be written"):
        write_lmdb(images, tmp_path / "file" / "x.lmdb")
    with pytest.raises(InputError, match=r"none\.png cannot be read"):
        write_lmdb([("a", tmp_path / "none.png")], tmp_path / "x.lmdb")
    assert leftovers(tmp_path) == []


@needs_lmdb
def test_what_is_no_lmdb(tmp_path):
    folder = tmp_path / "x.lmdb"
    with pytest.raises(InputError, match=r"it has no meta_info\.txt"):
        lmdb_keys(folder)
    with pytest.raises(InputError, match=r"it has no data\.mdb"):
        LmdbReader(folder)
    folder.mkdir()
    (folder / "data.mdb").write_text("no data base " * 1000)
    (folder / "meta_info.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read as an LMDB"):
        LmdbReader(folder)
    with pytest.raises(InputError, match="is not text"):
        lmdb_keys(folder)


def test_without_the_package(images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(OptionsError, match="pip install lmdb"):
        write_lmdb(images, tmp_path / "x.lmdb")


@pytest.mark.parametrize(
    ("name", "why"),
    [("a.b.png", "first dot"), ("x.1/a.png", "first dot"), ("straße.png", "ASCII"), ("a" * 512 + ".png", "511")],
)
def test_keys_that_basicsr_could_not_find(name, why):
    with pytest.raises(OptionsError, match=why):
        lmdb_key(PurePath(name))


def test_keys():
    assert lmdb_key(PurePath("street/a b.png")) == "street/a b"


def encoded(mode: str, suffix: str = "PNG", size: tuple[int, int] = (8, 6)) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new(mode, size).save(buffer, suffix)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "suffix", "channels", "kind"),
    [
        ("RGB", "PNG", 3, "RGB"),
        ("RGB", "JPEG", 3, "RGB"),
        ("RGB", "WEBP", 3, "RGB"),
        ("RGB", "TIFF", 3, "RGB"),
        ("RGB", "BMP", 3, "RGB"),
        ("P", "PNG", 3, "RGB"),
        ("1", "PNG", 1, "grey"),
        ("L", "PNG", 1, "grey"),
        ("L", "JPEG", 1, "grey"),
        ("I;16", "PNG", 1, "grey"),
        ("LA", "PNG", 2, "grey and alpha"),
        ("RGBA", "PNG", 4, "RGB and alpha"),
        ("RGBA", "WEBP", 4, "RGB and alpha"),
        ("CMYK", "JPEG", 4, "CMYK"),
    ],
)
def test_what_an_encoded_image_is(mode, suffix, channels, kind):
    assert inspect_image(encoded(mode, suffix), "a") == EncodedImage(6, 8, channels, kind)


def test_sixteen_bits_and_a_transparent_palette():
    _, data = cv2.imencode(".png", np.zeros((6, 8, 3), np.uint16))
    assert inspect_image(data.tobytes(), "a").kind == "RGB"
    buffer = io.BytesIO()
    PIL.Image.new("P", (8, 6)).save(buffer, "PNG", transparency=0)
    assert inspect_image(buffer.getvalue(), "a") == EncodedImage(6, 8, 4, "RGB and alpha")


def test_sizes_are_those_of_the_upright_image():
    buffer = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", (8, 6)).save(buffer, "JPEG", exif=exif)
    found = inspect_image(buffer.getvalue(), "a")
    assert (found.height, found.width) == (8, 6)


@pytest.mark.filterwarnings("ignore")  # Pillow remarks on damage before it fails
@given(
    suffix=st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "BMP"]),
    share=st.floats(0, 0.95),
)
def test_a_file_that_was_cut_is_damaged(suffix, share):
    data = photo(suffix)
    with pytest.raises(InputError, match=r"^x (is damaged|is not an image)"):
        inspect_image(data[: int(len(data) * share)], "x")


@pytest.mark.filterwarnings("ignore")
@given(
    suffix=st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "BMP"]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=20),
)
def test_nothing_but_an_input_error_comes_of_damage(suffix, changes):
    data = bytearray(photo(suffix))
    for place, value in changes:
        data[int(place * len(data))] = value
    with contextlib.suppress(InputError):
        assert inspect_image(bytes(data), "x").height > 0


def photo(suffix: str) -> bytes:
    """20x24 pixels of noise in blocks."""
    blocks = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    buffer = io.BytesIO()
    PIL.Image.fromarray(blocks).save(buffer, suffix)
    return buffer.getvalue()
