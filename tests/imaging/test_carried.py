"""Nothing is lost on the way: what files of every kind hold, and what files of every kind keep of it."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest
import tifffile
import torch

from hatdet.core.errors import InputError, OptionsError
from hatdet.imaging.carried import Carried
from hatdet.imaging.encoding import FORMATS, checked_format, grey_of, samples_of
from hatdet.imaging.files import read_carried, read_image, to_array, write_carried
from hatdet.imaging.resize import resize_bicubic, resize_samples, to_scale
from tests.helpers import psnr, random_image

ORIENTATION, MAKER, EXIF, GPS = 0x0112, 0x010F, 0x8769, 0x8825
TAKEN, EXPOSURE, WIDTH, HEIGHT = 0x9003, 0x829A, 0xA002, 0xA003
SRGB = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
KINDS = {"uint8": 8, "uint16": 16}


def random_samples(h: int, w: int, channels: int, kind: str, seed: int = 0) -> np.ndarray:
    levels = 2 ** KINDS[kind]
    return np.random.default_rng(seed).integers(0, levels, (h, w, channels)).astype(kind)


def smooth(h: int, w: int) -> np.ndarray:
    """`(h, w, 3)` uint8 that files which lose something lose little of."""
    y, x = np.mgrid[:h, :w]
    return np.stack([x * 255 // w, y * 255 // h, (x + y) * 255 // (h + w)], 2).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_png_and_tiff_keep_every_sample(tmp_path: Path, suffix, kind, grey, transparent):
    colours = random_samples(7, 9, 1 if grey else 3, kind)
    rgb = np.broadcast_to(colours, (7, 9, 3))
    alpha = random_samples(7, 9, 1, kind, 1)[..., 0] if transparent else None
    path = tmp_path / f"a.{suffix}"
    write_carried(rgb, Carried(grey, alpha), path, FORMATS[suffix])
    image, carried = read_carried(path)
    assert (image.bit_depth, carried.grey) == (KINDS[kind], grey)
    assert np.array_equal(to_array(image), rgb)
    assert (carried.alpha is None) == (alpha is None)
    assert alpha is None or np.array_equal(carried.alpha, alpha)
    # A second reader sees the same.
    if suffix == "png":
        with PIL.Image.open(path) as opened:
            opened.load()
            assert opened.size == (9, 7)
        data = path.read_bytes()
        assert (data[24], data[25]) == (KINDS[kind], {1: 0, 2: 4, 3: 2, 4: 6}[colours.shape[2] + transparent])
    else:
        expected = colours if alpha is None else np.dstack([colours, alpha])
        assert np.array_equal(tifffile.imread(path).reshape(expected.shape), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_grey_with_alpha_as_png_is_what_pillow_reads(tmp_path: Path, kind):
    samples = random_samples(5, 4, 2, kind)
    path = tmp_path / "a.png"
    write_carried(np.broadcast_to(samples[..., :1], (5, 4, 3)), Carried(True, samples[..., 1]), path, FORMATS["png"])
    with PIL.Image.open(path) as opened:
        opened.load()
        assert opened.mode == ("LA" if kind == "uint8" else "RGBA")  # Pillow has no deeper one
        seen = np.asarray(opened)[..., [0, -1]]
    assert np.array_equal(seen, samples if kind == "uint8" else samples >> 8)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "avif", "jp2", "bmp"])
@pytest.mark.parametrize("grey", [False, True])
def test_other_formats_come_back_like_what_went(tmp_path: Path, suffix, grey):
    rgb = smooth(40, 56)
    if grey:
        rgb = np.repeat(rgb[..., 2:], 3, axis=2)
    write_carried(rgb, Carried(grey), tmp_path / f"a.{suffix}", FORMATS[suffix])
    image, carried = read_carried(tmp_path / f"a.{suffix}")
    assert psnr(image.pixels, torch.from_numpy(rgb.transpose(2, 0, 1) / 255)) > (99 if suffix in ("jp2", "bmp") else 38)
    assert carried.grey == (grey and FORMATS[suffix].grey)
    assert carried.alpha is None


@pytest.mark.parametrize("suffix", ["webp", "avif", "jp2"])
def test_formats_with_transparency_keep_it(tmp_path: Path, suffix):
    alpha = smooth(40, 56)[..., 0]
    write_carried(smooth(40, 56), Carried(alpha=alpha), tmp_path / f"a.{suffix}", FORMATS[suffix])
    kept = read_carried(tmp_path / f"a.{suffix}")[1].alpha
    assert kept is not None
    assert np.abs(kept.astype(int) - alpha).max() <= 8


def test_quality_is_the_formats(tmp_path: Path):
    rgb = to_array(random_image(64, 64))
    for quality in (10, 90):
        write_carried(rgb, Carried(), tmp_path / f"{quality}.jpg", FORMATS["jpg"], quality)
    assert (tmp_path / "10.jpg").stat().st_size * 3 < (tmp_path / "90.jpg").stat().st_size


@pytest.mark.parametrize(
    ("name", "quality", "sentence"),
    [("gif", None, "must be one of png, jpg"), ("png", 90, "--quality goes with .*jpg.*not with png")],
)
def test_formats_that_cannot_be_are_refused(name, quality, sentence):
    with pytest.raises(OptionsError, match=sentence):
        checked_format(name, quality)


def phone_photo(path: Path, orientation: int = 6) -> np.ndarray:
    """A JPEG file as a phone writes it, 40x30 as it lies on disk; returns its samples there."""
    exif = PIL.Image.Exif()
    exif[ORIENTATION], exif[MAKER] = orientation, "Maker"
    exif[EXIF] = {TAKEN: "2020:01:02 03:04:05", EXPOSURE: 0.01, WIDTH: 40, HEIGHT: 30, 0xA005: 1234}
    exif[GPS] = {1: "N", 2: (47.0, 30.0, 15.5)}
    picture = PIL.Image.fromarray(smooth(30, 40))
    picture.save(path, quality=100, exif=exif, icc_profile=SRGB)
    return smooth(30, 40)


@pytest.mark.parametrize("suffix", ["png", "tiff", "jpg", "webp", "avif"])
def test_exif_and_profile_are_kept_and_the_orientation_is_not(tmp_path: Path, suffix):
    phone_photo(tmp_path / "in.jpg")
    image, carried = read_carried(tmp_path / "in.jpg")
    assert (image.width, image.height) == (30, 40)
    larger = resize_bicubic(image, (80, 60), 2)
    write_carried(to_array(larger), carried.enlarged((80, 60), 2), tmp_path / f"a.{suffix}", FORMATS[suffix])
    with PIL.Image.open(tmp_path / f"a.{suffix}") as opened:
        opened.load()
        exif = opened.getexif()
        assert opened.size == (60, 80)
        assert exif.get(ORIENTATION, 1) == 1
        assert exif[MAKER] == "Maker"
        inside = exif.get_ifd(EXIF)
        assert (inside[TAKEN], float(inside[EXPOSURE])) == ("2020:01:02 03:04:05", 0.01)
        assert (inside[WIDTH], inside[HEIGHT]) == (60, 80)
        assert [float(part) for part in exif.get_ifd(GPS)[2]] == [47.0, 30.0, 15.5]
        assert opened.info["icc_profile"] == SRGB


def test_a_tiff_of_a_tiff_keeps_exif_but_not_how_the_pixels_were_stored(tmp_path: Path):
    phone_photo(tmp_path / "in.jpg")
    image, carried = read_carried(tmp_path / "in.jpg")
    write_carried(to_array(image), carried, tmp_path / "a.tiff", FORMATS["tiff"])
    image, carried = read_carried(tmp_path / "a.tiff")
    write_carried(to_array(image), carried, tmp_path / "a.jpg", FORMATS["jpg"])
    with PIL.Image.open(tmp_path / "a.jpg") as opened:
        exif = opened.getexif()
        assert exif[MAKER] == "Maker"
        assert exif.get_ifd(EXIF)[TAKEN] == "2020:01:02 03:04:05"
        assert 0x0111 not in exif  # where the strips were


def turned(upright: np.ndarray, orientation: int) -> np.ndarray:
    """As a camera with that orientation stores it."""
    across = upright.swapaxes(0, 1)
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: across,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, 3),
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_every_depth_is_read_upright_with_its_alpha(tmp_path: Path, suffix, kind, orientation):
    upright = random_samples(6, 10, 4, kind)
    stored = np.ascontiguousarray(turned(upright, orientation))
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"a.{suffix}"
    if suffix == "tiff":
        tags = [(ORIENTATION, 3, 1, orientation, True)]
        tifffile.imwrite(path, stored, photometric="rgb", extrasamples=["unassalpha"], extratags=tags, metadata=None)
    else:  # the writer's own EXIF has no orientation, so one is put there
        alpha = np.ascontiguousarray(stored[..., 3])
        write_carried(stored[..., :3], Carried(alpha=alpha), path, FORMATS["png"])
        data = path.read_bytes()
        content = exif.tobytes().removeprefix(b"Exif\0\0")
        from hatdet.imaging.encoding import _chunk

        path.write_bytes(data[:33] + _chunk(b"eXIf", content) + data[33:])
    image, carried = read_carried(path)
    assert np.array_equal(to_array(image), upright[..., :3])
    assert carried.alpha is not None
    assert np.array_equal(carried.alpha, upright[..., 3])


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("suffix", ["webp", "avif"])
def test_newer_formats_are_read_upright_too(tmp_path: Path, suffix, orientation):
    upright = smooth(24, 48)
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    stored = PIL.Image.fromarray(np.ascontiguousarray(turned(upright, orientation)))
    stored.save(tmp_path / f"a.{suffix}", quality=95, exif=exif)
    image = read_image(tmp_path / f"a.{suffix}")
    assert psnr(image.pixels, torch.from_numpy(upright.transpose(2, 0, 1) / 255)) > 35


def test_palettes_with_transparency_become_colour_with_alpha(tmp_path: Path):
    picture = PIL.Image.fromarray(smooth(8, 6)).convert("P", palette=PIL.Image.Palette.ADAPTIVE, colors=9)
    picture.save(tmp_path / "a.png", transparency=bytes(range(0, 90, 10)))
    image, carried = read_carried(tmp_path / "a.png")
    expected = np.asarray(PIL.Image.open(tmp_path / "a.png").convert("RGBA"))
    assert np.array_equal(to_array(image), expected[..., :3])
    assert carried.alpha is not None
    assert np.array_equal(carried.alpha, expected[..., 3])


def test_one_grey_that_is_transparent_in_16_bits(tmp_path: Path):
    samples = random_samples(4, 4, 1, "uint16")
    path = tmp_path / "a.png"
    write_carried(np.broadcast_to(samples, (4, 4, 3)), Carried(True), path, FORMATS["png"])
    data = path.read_bytes()
    from hatdet.imaging.encoding import _chunk

    path.write_bytes(data[:33] + _chunk(b"tRNS", int(samples[1, 2, 0]).to_bytes(2, "big")) + data[33:])
    carried = read_carried(path)[1]
    assert carried.grey
    assert carried.alpha is not None
    assert np.argwhere(carried.alpha == 0).tolist() == [[1, 2]]


def test_inks_without_a_usable_profile_are_taken_for_ideal_ones(tmp_path: Path):
    inks = PIL.Image.fromarray(random_samples(6, 8, 4, "uint8"), "CMYK")
    inks.save(tmp_path / "a.tif")
    inks.save(tmp_path / "b.tif", icc_profile=b"no profile")
    for name in ("a.tif", "b.tif"):
        image, carried = read_carried(tmp_path / name)
        assert np.array_equal(to_array(image), np.asarray(inks.convert("RGB")))
        assert carried.icc is None  # it would be the inks'


def test_inks_are_converted_by_their_own_profile(tmp_path: Path, monkeypatch):
    inks = PIL.Image.new("CMYK", (3, 2), (10, 20, 30, 40))
    inks.save(tmp_path / "a.jpg", quality=100, icc_profile=SRGB)  # of the wrong colours: there is no other at hand
    asked = []

    def converted(picture, profile, to, outputMode):  # noqa: N803 (Pillow's name)
        asked.append((picture.mode, profile.tobytes(), PIL.ImageCms.getProfileName(to).strip(), outputMode))
        return PIL.Image.new("RGB", picture.size, (1, 2, 3))

    monkeypatch.setattr(PIL.ImageCms, "profileToProfile", converted)
    image, carried = read_carried(tmp_path / "a.jpg")
    assert asked == [("CMYK", SRGB, "sRGB built-in", "RGB")]
    assert to_array(image)[0, 0].tolist() == [1, 2, 3]
    assert carried.icc is None


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_bands_as_gdal_writes_them_are_red_green_and_blue(tmp_path: Path, caplog, compression, planar, tile):
    samples = random_samples(20, 24, 4, "uint16")
    stored = samples if planar == "contig" else samples.transpose(2, 0, 1)
    path = tmp_path / "a.tif"
    more = {"planarconfig": planar, "extrasamples": ["unspecified"] * 3, "compression": compression, "tile": tile}
    tifffile.imwrite(path, stored, photometric="minisblack", metadata=None, **more)
    with caplog.at_level(logging.WARNING):
        image, carried = read_carried(path)
    assert np.array_equal(to_array(image), samples[..., :3])
    assert carried.alpha is None
    assert not carried.grey
    assert "1 channels beyond red, green and blue are left out" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_grey_that_counts_down_is_turned_round(tmp_path: Path, kind):
    samples = random_samples(5, 6, 1, kind)[..., 0]
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="miniswhite", metadata=None)
    expected = np.iinfo(kind).max - samples
    assert np.array_equal(to_array(read_image(tmp_path / "a.tif"))[..., 1], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_colours_that_were_multiplied_by_alpha_are_divided_by_it(tmp_path: Path, kind):
    largest = np.iinfo(kind).max
    samples = np.array([[[largest // 2, 10, 0, largest // 2], [0, 0, 0, 0], [5, 6, 7, largest]]], kind)
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="rgb", extrasamples=["assocalpha"], metadata=None)
    rgb = to_array(read_image(tmp_path / "a.tif"))
    assert rgb[0, 0].tolist() == [largest, round(10 * largest / (largest // 2)), 0]
    assert rgb[0, 1:].tolist() == [[0, 0, 0], [5, 6, 7]]


@pytest.mark.parametrize("kind", ["int16", "float32"])
def test_samples_with_a_sign_or_a_point_are_refused(tmp_path: Path, kind):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 4), kind), metadata=None)
    with pytest.raises(InputError, match=r"a\.tif"):
        read_image(tmp_path / "a.tif")


def test_a_tiff_that_ends_early_is_damaged(tmp_path: Path, capfd):
    path = tmp_path / "a.tif"
    for more in ({}, {"compression": "zlib", "rowsperstrip": 8}):
        tifffile.imwrite(path, random_samples(64, 64, 3, "uint16"), photometric="rgb", metadata=None, **more)
        path.write_bytes(path.read_bytes()[:-4000])
        with pytest.raises(InputError, match=r"a\.tif is"):
            read_image(path)
    assert capfd.readouterr() == ("", "")


def test_alpha_is_resized_as_bicubic_resizes_a_channel():
    image = random_image(7, 9, bit_depth=16)
    samples = to_array(image)[..., 0]
    expected = to_array(resize_bicubic(image, (28, 36), 4))[..., 0]
    assert np.array_equal(resize_samples(samples, (28, 36), 4), expected)
    assert np.array_equal(Carried(alpha=samples).enlarged((28, 36), 4).alpha, expected)


def test_grey_is_the_mean_rounded_half_up():
    rgb = np.array([[[0, 0, 1], [0, 1, 1], [255, 255, 254], [7, 7, 7]]], np.uint8)
    assert grey_of(rgb).tolist() == [[0, 1, 255, 7]]
    assert grey_of(np.full((1, 1, 3), 65535, np.uint16)).tolist() == [[65535]]


@pytest.mark.parametrize(
    ("suffix", "lost"),
    [
        ("png", []),
        ("tiff", []),
        ("jpg", ["8 of 16 bits", "transparency"]),
        ("webp", ["8 of 16 bits"]),
        ("bmp", ["8 of 16 bits", "transparency", "EXIF", "the colour profile"]),
    ],
)
def test_what_a_format_cannot_keep_is_said(suffix, lost):
    exif = PIL.Image.Exif()
    exif[MAKER] = "Maker"
    alpha = np.array([[0, 128, 129, 65535]], np.uint16)
    full = Carried(False, alpha, exif.tobytes(), SRGB)
    samples, kept, said = samples_of(np.full((1, 4, 3), 65535, np.uint16), full, FORMATS[suffix])
    assert said == lost
    assert samples.dtype == (np.uint16 if FORMATS[suffix].deep else np.uint8)
    if suffix == "webp":
        assert samples[0, :, 3].tolist() == [0, 0, 1, 255]
        assert kept.alpha is not None


def test_a_grey_profile_does_not_go_with_colour():
    grey_profile = SRGB[:16] + b"GRAY" + SRGB[20:]
    for suffix, expected in (("png", grey_profile), ("webp", None)):
        kept = samples_of(np.zeros((1, 1, 3), np.uint8), Carried(True, icc=grey_profile), FORMATS[suffix])[1]
        assert kept.icc == expected


def test_damaged_exif_goes_and_the_picture_stays(tmp_path: Path):
    phone_photo(tmp_path / "a.jpg", orientation=1)
    data = bytearray((tmp_path / "a.jpg").read_bytes())
    at = data.index(b"Exif\0\0") + 6
    data[at + 8 : at + 60] = bytes(52)
    (tmp_path / "a.jpg").write_bytes(data)
    image, _ = read_carried(tmp_path / "a.jpg")
    assert image.width == 40


@pytest.mark.parametrize(("scale", "size"), [(3.5, (25, 32)), (2, (14, 18)), (0.5, (4, 5)), (3.3, (24, 30))])
def test_any_scale_is_reached_from_a_whole_one(scale, size):
    image = random_image(7, 9)
    larger = resize_bicubic(image, (28, 36), 4)
    resized = to_scale(larger, scale)
    assert (resized.height, resized.width) == size
    assert resized.scale == scale
    again = resize_bicubic(larger, size, scale / 4)
    assert torch.equal(resized.pixels, again.pixels)


def test_a_png_can_be_read_by_pillow_with_all_it_carries(tmp_path: Path):
    phone_photo(tmp_path / "in.jpg")
    image, carried = read_carried(tmp_path / "in.jpg")
    write_carried(to_array(image), carried, tmp_path / "a.png", FORMATS["png"])
    with PIL.Image.open(io.BytesIO((tmp_path / "a.png").read_bytes())) as opened:
        opened.verify()  # every checksum
