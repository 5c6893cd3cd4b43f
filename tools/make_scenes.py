"""Make scenes to measure selective upscaling on: small labelled objects on large pictures in which nothing else is.

    export HATDET_DATA=/path/to/data                # holds det/coco128 and sr/bsds500
    python tools/make_scenes.py OUT                 # 24 scenes of 2560x1920, and OUT/scenes.yaml
    python tools/make_scenes.py OUT --found-by yolov8n.pt --preview first.png
    hatdet eval --data OUT/scenes.yaml
    python tools/make_scenes.py OUT --count 4 --seed 7 --objects 20:30

Objects are cut out of labelled photos with some of what is around them, and pasted as they are: never resized, turned
or mirrored. An object qualifies when its sides have 12 to 160 pixels and it does not touch the border of its photo.
Where its patch would cut another object the patch grows until it holds that too (60 % of a box within it, and it comes
along, with its box clipped to the patch; 2 % or less, and it is not seen); an object for which the patch gets too large
is left out. Six of ten patches that are drawn are for a small object (COCO's word, below 32x32). Patches do not
overlap; each is put where, of a few places, the colours are most like those around its object.

Many labelled objects are such as no detector finds, in the photo or out of it, and measure nothing. `--found-by` leaves
them out: it takes a detector, best another one than is measured.

A background is a photo enlarged 6 times, which leaves it without fine detail; that is added from the photo itself:
what is finer than a fifth of its resolution, in small pieces from about the same place, and grain.

The same seed gives the same scenes, and each scene has a stream of its own: the first 4 of 24 are those of `--count 4`.
What is made holds the pictures of the data sets, whose licences it is under: it is not for passing on.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

import hatdet.detection.ultralytics_setup  # noqa: F401 (before ultralytics)
from hatdet.core.atomic import write_text
from hatdet.core.errors import HatdetError, InputError
from hatdet.core.types import Detections, Image
from hatdet.detection.yolo import YoloDetector, load_detector
from hatdet.evaluation.boxes import SIZES, Truth, areas, overlaps
from hatdet.evaluation.labels import read_labels
from hatdet.evaluation.samples import Sample
from hatdet.imaging.drawing import with_boxes
from hatdet.imaging.files import image_of, read_image, to_array, write_array
from hatdet.imaging.resize import reduced, to_scale

SIZE_WH = (2560, 1920)
SIDES = (12, 160)  # of an object, shortest and longest
MARGIN = 0.4  # what is around an object in its patch, in longest sides of the object
LEAST_MARGIN = 20  # and in pixels, unless the border of the photo is nearer
LARGEST_CORE = 240  # side of what is in a patch with more than one object
NEAREST_BORDER = 6  # pixels between an object and the border of its photo
WITHIN = 0.6  # share of an object's box from which on it is taken along
UNSEEN = 0.02  # share up to which it does not count as cut
SHARES = (0.6, 0.32, 0.08)  # small, medium and large objects among those drawn
GAP = 8  # pixels between patches, and to the border of the scene
PLACES = 8  # of which the most alike is taken
ENLARGED = 6
COARSE = 5  # what this reduction loses of a photo is its fine detail
PIECE = 48  # side of the pieces of detail
JITTER = 12  # pixels of the photo by which a piece comes from elsewhere
SOFT_LIMIT = 16  # of 255: detail stays well below it, so that no outline is scattered about
# Landscapes, buildings and the like of BSDS500 without an object of COCO's, of 481x321: picked by eye among the 72 in
# which YOLO11n is least sure of what it sees, from those that stay without a box above 0.2 also when enlarged.
BACKGROUNDS = (
    *("train/176035", "train/178054", "train/97017", "test/36046", "train/254033", "train/55067", "train/67079"),
    *("train/176039", "train/166081", "test/101027", "train/299091", "train/232038", "train/374020", "test/118072"),
    *("train/216066", "train/35091"),
)

Pixels = NDArray[np.uint8]
Random = np.random.Generator


@dataclass(frozen=True, eq=False)
class Patch:
    """An object with what is around it.

    Attributes:
        source: name of the photo.
        objects: numbers, in the labels of that photo, of the objects whose boxes follow.
        pixels: `(h, w, 3)` RGB, the photo's own.
        core: columns and rows x1, y1, x2, y2 of the patch where a scene gets these very pixels; towards the patch's
            border it gets less and less of them.
        xyxy: `(n, 4)` boxes in pixels of the patch.
        class_id: `(n,)`.
        size: index in small, medium, large of the object that the patch was made for.
    """

    source: str
    objects: tuple[int, ...]
    pixels: Pixels
    core: tuple[int, int, int, int]
    xyxy: NDArray[np.float64]
    class_id: NDArray[np.int64]
    size: int

    @property
    def opacity(self) -> NDArray[np.float64]:
        """How much of a scene's pixel is the patch's. Shape: `(h, w, 1)`."""
        h, w = self.pixels.shape[:2]
        rows, columns = _ramp(h, self.core[1], self.core[3]), _ramp(w, self.core[0], self.core[2])
        return (rows[:, None] * columns)[..., None]


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture, where patches were pasted (`(m, 4)`, whole pixels), the boxes and classes of all objects."""

    pixels: Pixels
    pasted: NDArray[np.int64]
    patches: tuple[Patch, ...]
    xyxy: NDArray[np.float64]
    class_id: NDArray[np.int64]


def patches_of(photo: Pixels, truth: Truth, source: str, wanted: NDArray[np.bool_] | None = None) -> list[Patch]:
    """A patch for each object of a photo that can be cut out of it.

    Args:
        photo: `(h, w, 3)` RGB.
        truth: its labelled objects, in pixels.
        source: its name.
        wanted: `(n,)`, which objects get a patch of their own if they can; None for all.
    """
    found = []
    for number, crowd in enumerate(truth.crowd.tolist()):
        left_out = crowd or (wanted is not None and not wanted[number])
        windows = None if left_out else _windows(truth.xyxy, number, (photo.shape[1], photo.shape[0]))
        if windows is None:
            continue
        outer, core = windows
        seen = _half(outer, core)
        within = _shares_within(truth.xyxy, seen)
        if (truth.crowd & (within > UNSEEN)).any():
            continue
        along = np.flatnonzero(within >= WITHIN)
        left, top, right, bottom = outer.tolist()
        corner = np.tile(outer[:2], 2)
        clipped = np.clip(truth.xyxy[along], np.tile(seen[:2], 2), np.tile(seen[2:], 2)) - corner
        size = int(
            np.searchsorted([SIZES["small"][1], SIZES["medium"][1]], areas(truth.xyxy[number, None])[0], "right")
        )
        x1, y1, x2, y2 = (core - corner).tolist()
        pixels = photo[top:bottom, left:right].copy()
        ids = tuple(along.tolist())
        found.append(Patch(source, ids, pixels, (x1, y1, x2, y2), clipped, truth.class_id[along], size))
    return found


def _windows(
    boxes: NDArray[np.float64], number: int, size_wh: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """The patch of an object and its core, in pixels of the photo: grown until it cuts no object; None if none does."""
    box = boxes[number]
    margin = max(LEAST_MARGIN, MARGIN * (box[2:] - box[:2]).max())
    members = np.arange(len(boxes)) == number
    while True:
        sides = boxes[members, 2:] - boxes[members, :2]
        distances = np.concatenate([box[:2], np.array(size_wh) - box[2:]])  # to the borders: left, top, right, bottom
        if sides.max() > SIDES[1] or distances.min() < NEAREST_BORDER:
            return None
        if (boxes[number, 2:] - boxes[number, :2]).min() < SIDES[0] or (box[2:] - box[:2]).max() > LARGEST_CORE:
            return None
        margins = np.minimum(margin, distances)
        outer, core = _whole_pixels(box, margins), _whole_pixels(box, np.minimum(2, margins / 3))
        within = _shares_within(boxes, _half(outer, core))
        cut = (within > UNSEEN) & (within < WITHIN)
        if not cut.any():
            return outer, core
        members |= cut
        box = np.concatenate([boxes[members, :2].min(0), boxes[members, 2:].max(0)])


def _half(outer: NDArray[np.int64], core: NDArray[np.int64]) -> NDArray[np.float64]:
    """Where more than half of a pixel is the patch's, about."""
    return np.asarray((core + outer) / 2)


def background(photo: Pixels, size_wh: tuple[int, int], random: Random) -> Pixels:
    """A picture of the given size from a smaller one: enlarged, with detail and grain at its own resolution.

    Raises:
        InputError: a photo too small for it.
    """
    w, h = (-(-side // (ENLARGED * COARSE)) * COARSE for side in size_wh)
    if photo.shape[0] < h or photo.shape[1] < w:
        raise InputError(f"a background needs photos of {w}x{h} pixels, got {photo.shape[1]}x{photo.shape[0]}")
    top, left = random.integers(photo.shape[0] - h + 1), random.integers(photo.shape[1] - w + 1)
    part = photo[top : top + h, left : left + w]
    image = image_of(np.ascontiguousarray(part[:, ::-1] if random.random() < 0.5 else part))
    smooth = to_array(to_scale(image, ENLARGED))[: size_wh[1], : size_wh[0]]
    fine = to_array(image).astype(np.float64) - to_array(to_scale(reduced(image, COARSE), COARSE))
    fine /= 1 + np.abs(fine) / SOFT_LIMIT
    grain = random.integers(0, 5, (4, *smooth.shape[:2]), np.uint8).sum(0, dtype=np.int64) - 8  # nearly normal
    values = smooth + _detail(fine, size_wh, random) + grain[..., None]
    return _eight_bits(values)


def _detail(fine: NDArray[np.float64], size_wh: tuple[int, int], random: Random) -> NDArray[np.float64]:
    """Overlapping pieces of the fine detail of a photo, each from about where the enlarged photo has it.

    What is added up is not alike, so the squares of the weights add up to 1: that keeps the variance.
    """
    w, h = size_wh
    step = PIECE // 2
    rise = _smooth((np.arange(PIECE) + 0.5) / step)  # up to the middle
    window = np.minimum(rise, rise[::-1])
    window /= np.sqrt(window**2 + np.roll(window, step) ** 2)
    weight = (window[:, None] * window)[..., None]
    out = np.zeros((h + 2 * PIECE, w + 2 * PIECE, 3))
    last_row, last_column = fine.shape[0] - PIECE, fine.shape[1] - PIECE
    for top in range(step, h + PIECE, step):
        for left in range(step, w + PIECE, step):
            moved_y, moved_x, mirrored = random.integers(-JITTER, JITTER + 1, 3).tolist()
            y = min(max((top - step) // ENLARGED - step + moved_y, 0), last_row)
            x = min(max((left - step) // ENLARGED - step + moved_x, 0), last_column)
            piece = fine[y : y + PIECE, x : x + PIECE]
            out[top : top + PIECE, left : left + PIECE] += weight * (piece[:, ::-1] if mirrored > 0 else piece)
    return out[PIECE : PIECE + h, PIECE : PIECE + w]


def scene(empty: Pixels, patches: Sequence[Patch], count: int, random: Random) -> Scene:
    """A background with `count` patches on it, no object twice.

    Raises:
        InputError: there are not so many patches, or no room for them.
    """
    picture = empty.copy()
    pasted: list[tuple[int, int, int, int]] = []
    chosen = _drawn(patches, count, random)
    for patch in chosen:
        x, y = _place(patch, empty, pasted, random)
        patch_h, patch_w = patch.pixels.shape[:2]
        under = picture[y : y + patch_h, x : x + patch_w]
        under[:] = _eight_bits(under + patch.opacity * (patch.pixels.astype(np.float64) - under))
        pasted.append((x, y, x + patch_w, y + patch_h))
    corners = np.array(pasted, np.int64)
    boxes = [patch.xyxy + np.tile(corner[:2], 2) for patch, corner in zip(chosen, corners, strict=True)]
    classes = np.concatenate([patch.class_id for patch in chosen])
    return Scene(picture, corners, tuple(chosen), np.concatenate(boxes), classes)


def _drawn(patches: Sequence[Patch], count: int, random: Random) -> list[Patch]:
    left = list(patches)
    drawn: list[Patch] = []
    while len(drawn) < count:
        sizes = sorted({patch.size for patch in left})
        if not sizes:
            raise InputError(f"a scene was to have {count} patches without an object twice, there are {len(drawn)}")
        shares = np.array([SHARES[size] for size in sizes])
        size = random.choice(sizes, p=shares / shares.sum())
        of_size = [patch for patch in left if patch.size == size]
        patch = of_size[random.integers(len(of_size))]
        drawn.append(patch)
        taken = set(patch.objects)
        left = [other for other in left if other.source != patch.source or not taken & set(other.objects)]
    return drawn


def _place(patch: Patch, empty: Pixels, pasted: Sequence[tuple[int, int, int, int]], random: Random) -> tuple[int, int]:
    """Column and row of the top left pixel: free of other patches, and of a few such places the most alike."""
    h, w = patch.pixels.shape[:2]
    lowest_y, lowest_x = empty.shape[0] - GAP - h, empty.shape[1] - GAP - w
    around = _rim_colour(patch.pixels)
    best, places = (np.inf, 0, 0), 0
    for _ in range(1000 if min(lowest_x, lowest_y) >= GAP else 0):
        x, y = int(random.integers(GAP, lowest_x + 1)), int(random.integers(GAP, lowest_y + 1))
        if any(
            x < right + GAP and left < x + w + GAP and y < bottom + GAP and top < y + h + GAP
            for left, top, right, bottom in pasted
        ):
            continue
        unlike = float(np.abs(_rim_colour(empty[y : y + h, x : x + w]) - around).sum())
        best, places = min(best, (unlike, x, y)), places + 1
        if places == PLACES:
            break
    if not places:
        size = f"{empty.shape[1]}x{empty.shape[0]}"
        raise InputError(f"a scene of {size} pixels has no room for another {w}x{h} beside {len(pasted)} patches")
    return best[1:]


def _rim_colour(pixels: Pixels) -> NDArray[np.float64]:
    """The mean of the outermost pixels."""
    rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return np.asarray(rim.sum(0, dtype=np.int64) / len(rim))


def _whole_pixels(box: NDArray[np.float64], margins: NDArray[np.float64]) -> NDArray[np.int64]:
    """A box grown to the left, top, right, bottom by at most the margins: whole pixels, all of the box in them."""
    low = np.minimum(np.ceil(box[:2] - margins[:2]), np.floor(box[:2]))
    high = np.maximum(np.floor(box[2:] + margins[2:]), np.ceil(box[2:]))
    return np.concatenate([low, high]).astype(np.int64)


def _shares_within(xyxy: NDArray[np.float64], window: NDArray[np.float64]) -> NDArray[np.float64]:
    """Which share of each box `(n, 4)` is within a window `(4,)`."""
    inner = np.clip(xyxy, np.tile(window[:2], 2), np.tile(window[2:], 2))
    return areas(inner) / areas(xyxy)


def _ramp(length: int, first: int, last: int) -> NDArray[np.float64]:
    """1 for the pixels from `first` to before `last`, from there falling smoothly to 0 beyond either end."""
    at = np.arange(length) + 0.5
    return _smooth(np.minimum(at / max(first, 0.5), (length - at) / max(length - last, 0.5)))


def _smooth(t: NDArray[np.float64]) -> NDArray[np.float64]:
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def _eight_bits(values: NDArray[np.float64]) -> Pixels:
    return np.floor(np.clip(values, 0, 255) + 0.5).astype(np.uint8)


def make(
    out: Path,
    count: int,
    objects: tuple[int, int],
    seed: int,
    data: tuple[Path, str],
    photos: Path,
    weights: str | None = None,
) -> None:
    """Write the scenes as a data set of Ultralytics' layout, and print what they are. The arguments are the options."""
    from ultralytics.utils import ROOT

    names = yaml.safe_load((ROOT / "cfg/datasets/coco128.yaml").read_text())["names"]
    detector = None if weights is None else load_detector(weights, device="cpu")  # the same wherever it is run
    patches = read_patches(*data, names, detector)
    backgrounds = [photos / f"{name}.jpg" for name in BACKGROUNDS]
    made, shares = [], []
    for number in range(count):
        random = np.random.default_rng([seed, number])
        photo = np.asarray(to_array(read_image(backgrounds[(seed + number) % len(backgrounds)])), np.uint8)
        empty = background(photo, SIZE_WH, random)
        one = scene(empty, patches, int(random.integers(objects[0], objects[1] + 1)), random)
        name = f"scene-{number:03}"
        write_array(one.pixels, out / f"images/val/{name}.png")
        write_text(out / f"labels/val/{name}.txt", label_lines(one))
        shares.append((_covered(one.pasted), _covered(one.xyxy)))
        made.append(one)
        print(f"{name}: {len(one.patches)} patches, {len(one.xyxy)} objects, {photo_name(number, seed)}", flush=True)
    write_text(out / "scenes.yaml", yaml.safe_dump({"path": ".", "val": "images/val", "names": names}, sort_keys=False))
    print(summary(patches, made, np.array(shares)))


def read_patches(coco: Path, split: str, names: Mapping[int, str], detector: YoloDetector | None = None) -> list[Patch]:
    """The patches of all photos in `images/SPLIT` with labels in `labels/SPLIT`, in the order of the files' names.

    With a detector only objects that it finds in their photo get a patch.

    Raises:
        InputError: there are none.
    """
    patches = []
    for path in sorted((coco / "images" / split).glob("*.jpg")):
        image = read_image(path)
        size_wh = (image.width, image.height)
        sample = Sample(path, Path(path.name), coco / "labels" / split / f"{path.stem}.txt")
        truth = read_labels(sample, names, size_wh, size_wh).truth
        wanted = None if detector is None else found_by(detector, image, truth)
        patches += patches_of(np.asarray(to_array(image), np.uint8), truth, path.stem, wanted)
    if not patches:
        folders = f"{coco / 'images' / split} and {coco / 'labels' / split}"
        raise InputError(f"{folders}: expected photos (.jpg) with labelled objects that can be cut out, got none")
    return patches


def found_by(detector: YoloDetector, image: Image, truth: Truth) -> NDArray[np.bool_]:
    """Which objects a detection of their class lies on, with an IoU from 0.5. Shape: `(n,)`."""
    found = detector(image)
    same = overlaps(found.xyxy.astype(np.float64), truth.xyxy, truth.crowd) >= 0.5
    return np.asarray((same & (found.class_id[:, None] == truth.class_id)).any(0))


def label_lines(made: Scene) -> str:
    """The boxes as YOLO labels."""
    h, w = made.pixels.shape[:2]
    lines = []
    for class_id, (x1, y1, x2, y2) in zip(made.class_id.tolist(), made.xyxy.tolist(), strict=True):
        numbers = ((x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h)
        lines.append(" ".join([str(class_id), *(f"{number:.6f}" for number in numbers)]) + "\n")
    return "".join(lines)


def summary(patches: Sequence[Patch], made: Sequence[Scene], shares: NDArray[np.float64]) -> str:
    """What a set is, in a few lines. `shares`: of each scene's pixels, in patches and in boxes; `(n, 2)`."""
    area = np.concatenate([areas(one.xyxy) for one in made])
    small, medium = SIZES["small"][1], SIZES["medium"][1]
    sizes = f"{(area < small).sum()} small, {((area >= small) & (area < medium)).sum()} medium"
    used = {(patch.source, patch.objects) for one in made for patch in one.patches}
    classes = len(np.unique(np.concatenate([one.class_id for one in made])))
    lines = [
        f"{len(made)} scenes, {len(area)} objects ({sizes}, {(area >= medium).sum()} large) of {classes} classes",
        f"{sum(len(one.patches) for one in made)} patches pasted, {len(used)} different ones of the {len(patches)}"
        f" that the photos give",
    ]
    for what, of in zip(("patches", "boxes"), 100 * shares.T, strict=True):
        lines.append(f"share of the pixels in {what}: {of.mean():.2f} % (from {of.min():.2f} to {of.max():.2f})")
    return "\n".join(lines)


def preview(out: Path, file: Path) -> None:
    """Draw the first scene with its boxes, at half its size."""
    content = yaml.safe_load((out / "scenes.yaml").read_text())
    image = read_image(out / "images/val/scene-000.png")
    sample = Sample(Path(), Path(), out / "labels/val/scene-000.txt")
    size_wh = (image.width, image.height)
    truth = read_labels(sample, content["names"], size_wh, size_wh).truth
    boxes = Detections(truth.xyxy.astype(np.float32), np.ones(len(truth), np.float32), truth.class_id, content["names"])
    write_array(with_boxes(to_array(reduced(image, 2)), boxes, 0.5), file)


def photo_name(number: int, seed: int) -> str:
    """Which photo is behind a scene."""
    return BACKGROUNDS[(seed + number) % len(BACKGROUNDS)]


def _covered(xyxy: NDArray[np.float64] | NDArray[np.int64]) -> float:
    """The share of a scene's pixels that are in boxes, those in several counted once."""
    covered = np.zeros(SIZE_WH[::-1], np.bool_)
    for x1, y1, x2, y2 in np.rint(xyxy).astype(int).tolist():
        covered[y1:y2, x1:x2] = True
    return float(covered.mean())


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition(":")
    if not (low.isdecimal() and high.isdecimal() and 1 <= int(low) <= int(high)):
        raise argparse.ArgumentTypeError(f"expected LEAST:MOST from 1, such as 6:14, got {text!r}")
    return int(low), int(high)


def _from(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not (text.isdecimal() and int(text) >= least):
            raise argparse.ArgumentTypeError(f"expected a whole number from {least}, got {text!r}")
        return int(text)

    return number


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the data set; new, or empty")
    parser.add_argument("--count", type=_from(1), default=24, help="scenes (24)")
    parser.add_argument("--seed", type=_from(0), default=0, help="another one gives other scenes (0)")
    parser.add_argument("--objects", type=_range, default=(6, 14), metavar="LEAST:MOST", help="patches a scene (6:14)")
    parser.add_argument(
        "--data",
        nargs=2,
        default=("det/coco128", "val2017"),
        metavar=("FOLDER", "SPLIT"),
        help="labelled photos, FOLDER/images/SPLIT and FOLDER/labels/SPLIT, with COCO's classes;"
        " a relative folder is below HATDET_DATA (det/coco128 val2017)",
    )
    parser.add_argument("--photos", default="sr/bsds500", metavar="FOLDER", help="of BSDS500 (sr/bsds500)")
    parser.add_argument(
        "--found-by",
        metavar="WEIGHTS",
        help="make patches only for objects that this detector finds in their own photo, at 640 pixels and confidence"
        " 0.25: take another than the one that is measured. It must know COCO's classes by COCO's numbers",
    )
    parser.add_argument("--preview", type=Path, metavar="FILE", help="draw the first scene with its boxes, as PNG")
    given = parser.parse_args(arguments)
    root = Path(os.environ.get("HATDET_DATA", "."))
    coco, photos = root / given.data[0], root / given.photos
    for folder in (coco / "images" / given.data[1], photos):
        if not folder.is_dir():
            parser.error(f"{folder} is no folder: HATDET_DATA, --data and --photos say where the pictures are")
    if given.out.exists() and (not given.out.is_dir() or any(given.out.iterdir())):
        parser.error(f"{given.out} must be a new or an empty folder: there is something already")
    try:
        make(given.out, given.count, given.objects, given.seed, (coco, given.data[1]), photos, given.found_by)
        if given.preview:
            preview(given.out, given.preview)
    except HatdetError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
