"""What comes from disk and what goes there, broken files included."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
import tifffile
import torch

from hatdet.core.atomic import write_bytes
from hatdet.core.errors import InputError, OptionsError
from hatdet.imaging.files import read_image, to_array, write_image
from tests.helpers import random_image


@pytest.mark.parametrize("bit_depth", [8, 16])
def test_png_comes_back_as_it_went(tmp_path: Path, bit_depth):
    image = random_image(7, 9, bit_depth=bit_depth)
    write_image(image, tmp_path / "deep" / "er" / "a.png")
    again = read_image(tmp_path / "deep" / "er" / "a.png")
    assert again.bit_depth == bit_depth
    assert torch.equal(again.pixels, image.pixels)
    assert [path.name for path in (tmp_path / "deep" / "er").iterdir()] == ["a.png"]


def test_channels_are_red_green_blue(tmp_path: Path):
    PIL.Image.new("RGB", (2, 1), (255, 128, 0)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.pixels[:, 0, 0].mul(255).tolist() == [255, 128, 0]
    write_image(image, tmp_path / "b.png")
    with PIL.Image.open(tmp_path / "b.png") as written:
        assert written.getpixel((0, 0)) == (255, 128, 0)
    assert to_array(image)[0, 1].tolist() == [255, 128, 0]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_files_keep_their_bits_and_their_channels(tmp_path: Path, suffix):
    array = np.random.default_rng(0).integers(0, 65536, (5, 6, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), array[..., ::-1])
    image = read_image(tmp_path / f"a{suffix}")
    assert image.bit_depth == 16
    assert np.array_equal(to_array(image), array)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_other_modes_become_rgb(tmp_path: Path, mode):
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    picture.save(path)
    image = read_image(path)
    assert (image.width, image.height, image.bit_depth) == (8, 6, 8)
    assert np.array_equal(to_array(image), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations_are_read_upright(tmp_path: Path, orientation):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = 255  # white in the upper left corner
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, 3),
    }[orientation]
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / "a.jpg", quality=100, exif=exif)
    pixels = to_array(read_image(tmp_path / "a.jpg"))
    assert pixels.shape == (16, 32, 3)
    assert pixels[:6, :6].min() > 200
    assert pixels[10:].max() < 60
    assert pixels[:, 10:].max() < 60


def damaged(tmp_path: Path, kind: str) -> Path:
    """A file of the kind that people have in their folders."""
    good = tmp_path / "good"
    good.mkdir()
    array = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    PIL.Image.fromarray(array).save(good / "a.png")
    PIL.Image.fromarray(array).save(good / "a.jpg")
    cv2.imwrite(str(good / "deep.png"), array.astype(np.uint16) * 256)
    path = tmp_path / ("a.jpg" if "jpeg" in kind else "a.png")
    if kind == "0 bytes":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is not a picture\n" * 20)
    elif kind == "cut png":
        path.write_bytes((good / "a.png").read_bytes()[:3000])
    elif kind == "cut jpeg":
        path.write_bytes((good / "a.jpg").read_bytes()[:1500])
    elif kind == "cut 16-bit png":
        path.write_bytes((good / "deep.png").read_bytes()[:3000])
    elif kind == "header only":
        path.write_bytes((good / "a.png").read_bytes()[:20])
    elif kind == "flipped bytes":
        data = bytearray((good / "a.png").read_bytes())
        data[200:400] = bytes(200)
        path.write_bytes(data)
    return path


KINDS = ["0 bytes", "text", "cut png", "cut jpeg", "cut 16-bit png", "header only", "flipped bytes", "missing"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_one_sentence_with_its_name(tmp_path: Path, kind, capfd):
    path = damaged(tmp_path, kind)
    with pytest.raises(InputError) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # nor do the libraries below say anything of their own


@pytest.mark.parametrize("mode", ["F", "I"])
def test_samples_of_32_bits_are_refused(tmp_path: Path, mode):
    PIL.Image.new(mode, (4, 4), 1).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match="has 32-bit samples: expected 8 or 16 bits"):
        read_image(tmp_path / "a.tif")


def test_palettes_with_transparency_are_read_without_a_word(tmp_path: Path, capfd):
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)).convert("P")
    picture.save(tmp_path / "a.png", transparency=bytes(range(256)))
    assert read_image(tmp_path / "a.png").width == 8
    assert capfd.readouterr() == ("", "")


def test_a_folder_is_not_an_image(tmp_path: Path):
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path)


def test_a_place_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(OptionsError, match="cannot be written"):
        write_image(random_image(2, 2), blocked / "a.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OptionsError, match=r"folder\.png cannot be written"):
        write_image(random_image(2, 2), tmp_path / "folder.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch):
    target = tmp_path / "a.bin"
    write_bytes(target, b"old")

    def full(self, other):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OptionsError, match="No space left"):
        write_bytes(target, b"new")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch):
    """And then its name is: whenever the power fails there is the old file or the new one, whole."""
    happened, real_sync, real_replace = [], os.fsync, Path.replace

    def sync(number):
        path = Path(f"/proc/self/fd/{number}").readlink()
        happened.append(("sync", "folder" if path.is_dir() else path.read_bytes()))
        real_sync(number)

    def rename(self, other):
        happened.append(("rename", other.name))
        return real_replace(self, other)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", rename)
    write_bytes(tmp_path / "deep" / "a.bin", b"new")
    assert happened == [("sync", b"new"), ("rename", "a.bin"), ("sync", "folder")]


def test_a_file_system_that_does_not_bring_folders_to_the_disk_will_do(tmp_path: Path, monkeypatch):
    real = os.open

    def refuse(path, *rest, **named):
        if Path(path) == tmp_path:
            raise OSError(22, "Invalid argument")
        return real(path, *rest, **named)

    monkeypatch.setattr(os, "open", refuse)
    write_bytes(tmp_path / "a.bin", b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"new"


def test_what_a_killed_process_left_goes_and_what_another_writes_stays(tmp_path: Path):
    """In a process of its own: each looks once at a folder."""
    left, alive = tmp_path / ".a.png.0123abcd.part", tmp_path / ".b.png.4567cdef.part"
    others = [tmp_path / name for name in (".hidden", "c.part", ".c.part", ".d.png.0123abcd.partial")]
    for path in (left, alive, *others):
        path.write_bytes(b"half")
    script = "import sys; from pathlib import Path; from hatdet.core.atomic import write_text;"
    script += "write_text(Path(sys.argv[1]), 'new')"
    with alive.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        subprocess.run([sys.executable, "-c", script, tmp_path / "e.txt"], check=True)
    assert set(tmp_path.iterdir()) == {alive, tmp_path / "e.txt", *others}


def png_header(width: int, height: int, bits: int = 8) -> bytes:
    """The beginning of a PNG file of that size, and nothing of its pixels."""
    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_file_that_claims_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, bits):
    path = tmp_path / "bomb.png"
    empty = b"IDAT"
    path.write_bytes(
        png_header(60_000, 50_000, bits) + struct.pack(">I", 0) + empty + struct.pack(">I", zlib.crc32(empty))
    )
    with pytest.raises(
        InputError, match=r"bomb.png has 60000x50000 pixels: at most 178,956,970 are read \(--max-pixels\)"
    ):
        read_image(path)


@pytest.mark.parametrize(("tag", "size"), [(256, "0x8"), (257, "12x0")], ids=["no width", "no height"])
def test_a_tiff_that_claims_no_pixels_is_refused(tmp_path, tag, size):
    """Found by damaging files at random: tifffile reads what is not there without a word."""
    path = tmp_path / "none.tif"
    tifffile.imwrite(path, np.zeros((8, 12, 3), np.uint8))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags[tag].overwrite(0)
    with pytest.raises(InputError, match=f"none.tif is damaged: it says that it has {size} pixels"):
        read_image(path)


def test_the_limit_is_the_callers_and_pillows_own_is_left_alone(tmp_path, monkeypatch):
    write_image(random_image(10, 12), tmp_path / "a.png")
    with pytest.raises(InputError, match="12x10 pixels: at most 119"):
        read_image(tmp_path / "a.png", 119)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)  # it would refuse twice as many
    assert read_image(tmp_path / "a.png", 120).width == 12
    assert PIL.Image.MAX_IMAGE_PIXELS == 10


def test_damaged_avif_is_refused_in_one_line(tmp_path):
    """Its decoder raises RuntimeError, of which running out of memory is one too."""
    whole = tmp_path / "whole.avif"
    picture = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    PIL.Image.fromarray(picture).save(whole)
    data, random = whole.read_bytes(), np.random.default_rng(1)
    broken, refused, by_the_decoder = tmp_path / "broken.avif", 0, 0
    for _ in range(150):
        bytes_ = np.frombuffer(data, np.uint8).copy()
        bytes_[random.integers(len(bytes_), size=6)] = random.integers(256, size=6)
        broken.write_bytes(bytes_.tobytes())
        try:
            read_image(broken)
        except InputError as error:
            refused += 1
            by_the_decoder += isinstance(error.__cause__, RuntimeError)
    assert refused > 10
    assert by_the_decoder > 0
