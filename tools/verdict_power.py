"""Is the verdict of `hatdet eval` calibrated, and what can it resolve?

    python tools/verdict_power.py calibrate                  # an arm against itself, under independent noise
    python tools/verdict_power.py calibrate BOXES ARM.json   # the same with what `hatdet eval --save-boxes BOXES` wrote
    python tools/verdict_power.py power                      # share of differences claimed, by images and difference
    python tools/verdict_power.py power BOXES ARM.json OTHER.json      # two real arms: what more images would resolve

`calibrate`: both arms are the same boxes, each with noise of its own in corners, confidences and which boxes are there
at all. There is no difference, so at 5 % about one trial in twenty may claim one. Without BOXES everything is made up:
scenes of a few objects, a detector that finds most of them, some images harder than others.
`power` on made-up scenes counts how often a difference that is there is claimed; on real boxes it draws sets of images
from those that there are, and prints the standard deviation of the difference and what 80 % power resolves.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hatdet.evaluation.bootstrap import draw_weights, resampled_map
from hatdet.evaluation.boxes import Found, Truth
from hatdet.evaluation.matching import match_classes
from hatdet.evaluation.verdict import DETECTABLE, Contrast, Resampled, compare_arms, difference

RESAMPLES = 2000
MARGIN = 0.01
CLASSES = list(range(6))
Random = np.random.Generator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("calibrate", "power"))
    parser.add_argument("boxes", type=Path, nargs="?")
    parser.add_argument("arms", type=Path, nargs="*")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    wanted = {"calibrate": 1, "power": 2}[given.what]
    if given.boxes is not None and len(given.arms) != wanted:
        parser.error(f"{given.what} with boxes takes {wanted} of the files in {given.boxes}")
    if given.what == "calibrate":
        calibrate(given.trials, given.images, given.seed, given.boxes, given.arms)
    elif given.boxes is None:
        power(given.trials, given.seed)
    else:
        power_of_boxes(given.trials, given.seed, given.boxes, given.arms)


def calibrate(trials: int, images: int, seed: int, boxes: Path | None, arms: Sequence[Path]) -> None:
    claims = 0
    for trial in range(trials):
        random = np.random.default_rng([seed, trial])
        if boxes is None:
            truths, founds = scenes(images, random)
            classes = CLASSES
        else:
            truths, (founds,), classes = read_boxes(boxes, arms)
        found = verdict(truths, noisy(founds, random), noisy(founds, random), classes, trial)
        claims += found.outcome in ("better", "worse")
    print(f"{claims} of {trials} trials claim a difference between an arm and itself ({len(truths)} images)")


def power(trials: int, seed: int) -> None:
    """Missed objects are found by the better arm in a share of cases, and the same noise lies on both."""
    shares = (0.02, 0.05, 0.1, 0.2)
    print(f"share of {trials} trials that claim the better arm; columns: mAP50-95 it is better by, in points")
    gains = []
    for share in shares:
        random = np.random.default_rng([seed, 1])
        truths, founds = scenes(1000, random)
        gains.append(estimate(truths, helped(truths, founds, share, random)) - estimate(truths, founds))
    print(f"{'images':>8}" + "".join(f"{100 * gain:>8.1f}" for gain in gains))
    for images in (32, 64, 128, 256):
        row = []
        for share in shares:
            claims = 0
            for trial in range(trials):
                random = np.random.default_rng([seed, trial, images])
                truths, founds = scenes(images, random)
                better = noisy(helped(truths, founds, share, random), random)
                claims += verdict(truths, better, noisy(founds, random), CLASSES, trial).outcome == "better"
            row.append(claims / trials)
        print(f"{images:>8}" + "".join(f"{share:>8.2f}" for share in row), flush=True)


def power_of_boxes(trials: int, seed: int, boxes: Path, arms: Sequence[Path]) -> None:
    truths, (first, second), classes = read_boxes(boxes, arms)
    print(f"{arms[0].stem} minus {arms[1].stem}, mAP50-95 in points; sets drawn from {len(truths)} images")
    print(f"{'images':>8}{'standard deviation':>20}{'80 % power resolves':>22}")
    for images in (32, 64, 128, 256, 512, 1024):
        deviations = []
        for trial in range(max(1, trials // 50)):
            random = np.random.default_rng([seed, trial, images])
            chosen = random.integers(len(truths), size=images).tolist()
            numbers = [
                resampled([truths[i] for i in chosen], [arm[i] for i in chosen], classes, trial)
                for arm in (first, second)
            ]
            found = difference(*numbers)
            assert found is not None
            deviations.append(found.standard_deviation)
        deviation = float(np.mean(deviations))
        print(f"{images:>8}{100 * deviation:>20.2f}{100 * DETECTABLE * deviation:>22.1f}", flush=True)


def verdict(
    truths: Sequence[Truth], arm: Sequence[Found], control: Sequence[Found], classes: Sequence[int], seed: int
) -> Contrast:
    """The primary verdict of `hatdet eval`."""
    numbers = {"arm": resampled(truths, arm, classes, seed), "control": resampled(truths, control, classes, seed)}
    images = len(truths)
    return compare_arms("primary", "detector", ("arm", "control"), "map50_95", numbers, images, images, MARGIN)


def resampled(truths: Sequence[Truth], founds: Sequence[Found], classes: Sequence[int], seed: int) -> Resampled:
    matches = match_classes(truths, founds, classes)
    weights = draw_weights(len(truths), RESAMPLES, seed)
    ones = np.ones((1, len(truths)), weights.dtype)
    return Resampled(float(resampled_map(matches, ones).map50_95[0]), resampled_map(matches, weights).map50_95)


def estimate(truths: Sequence[Truth], founds: Sequence[Found]) -> float:
    matches = match_classes(truths, founds, CLASSES)
    return float(resampled_map(matches, np.ones((1, len(truths)), np.int64)).map50_95[0])


def scenes(images: int, random: Random) -> tuple[list[Truth], list[Found]]:
    """Made-up images and what a detector finds in them. A few classes are common; some images are hard all over."""
    truths, founds = [], []
    frequency = 1 / np.arange(1, len(CLASSES) + 1)
    for _ in range(images):
        count = random.poisson(6)
        classes = random.choice(CLASSES, count, p=frequency / frequency.sum())
        boxes = some_boxes(count, random)
        truths.append(Truth(boxes, classes, np.zeros(count, np.bool_)))
        hit = random.random(count) < random.beta(4, 2)
        near = shaken(boxes[hit], 0.05, random)
        false = random.poisson(8)
        xyxy = np.concatenate([near, some_boxes(false, random)])
        confidence = np.concatenate([random.beta(5, 2, len(near)), random.beta(1.5, 5, false)])
        ids = np.concatenate([classes[hit], random.choice(CLASSES, false, p=frequency / frequency.sum())])
        founds.append(by_confidence(xyxy, confidence, ids))
    return truths, founds


def helped(truths: Sequence[Truth], founds: Sequence[Found], share: float, random: Random) -> list[Found]:
    """With a share of all objects found once more, well and surely: what was missed is no longer."""
    out = []
    for truth, found in zip(truths, founds, strict=True):
        extra = random.random(len(truth)) < share
        xyxy = np.concatenate([found.xyxy, shaken(truth.xyxy[extra], 0.02, random)])
        confidence = np.concatenate([found.confidence, random.beta(5, 2, int(extra.sum()))])
        out.append(by_confidence(xyxy, confidence, np.concatenate([found.class_id, truth.class_id[extra]])))
    return out


def noisy(founds: Sequence[Found], random: Random) -> list[Found]:
    """Corners moved by 3 % of the sides, confidences moved, one box in twenty lost."""
    out = []
    for found in founds:
        kept = random.random(len(found)) > 0.05
        odds = np.log(np.clip(found.confidence[kept], 1e-6, 1 - 1e-6)) - np.log1p(
            -np.clip(found.confidence[kept], 1e-6, 1 - 1e-6)
        )
        confidence = 1 / (1 + np.exp(-(odds + 0.3 * random.standard_normal(len(odds)))))
        out.append(by_confidence(shaken(found.xyxy[kept], 0.03, random), confidence, found.class_id[kept]))
    return out


def some_boxes(count: int, random: Random) -> np.ndarray:
    sides = np.exp(random.uniform(np.log(12), np.log(200), (count, 2)))
    corner = random.random((count, 2)) * (np.array([640, 480]) - sides)
    return np.concatenate([corner, corner + sides], axis=1)


def shaken(xyxy: np.ndarray, share: float, random: Random) -> np.ndarray:
    sides = np.tile(xyxy[:, 2:] - xyxy[:, :2], 2)
    moved = xyxy + share * sides * random.standard_normal(xyxy.shape)
    return np.concatenate([np.minimum(moved[:, :2], moved[:, 2:]), np.maximum(moved[:, :2], moved[:, 2:])], axis=1)


def by_confidence(xyxy: np.ndarray, confidence: np.ndarray, class_id: np.ndarray) -> Found:
    order = np.argsort(-confidence, kind="stable")
    return Found(xyxy[order], confidence[order], class_id[order].astype(np.int64))


def read_boxes(folder: Path, arms: Sequence[Path]) -> tuple[list[Truth], list[list[Found]], list[int]]:
    """What `hatdet eval --save-boxes` wrote."""
    labels = json.loads((folder / "labels.json").read_text())
    ids = [image["id"] for image in labels["images"]]
    by_image: dict[int, list[dict]] = {image: [] for image in ids}
    for annotation in labels["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    truths = []
    for image in ids:
        of = by_image[image]
        crowd = np.array([bool(one["iscrowd"]) for one in of], np.bool_)
        truths.append(Truth(corners(of), np.array([one["category_id"] for one in of], np.int64), crowd))
    founds = []
    for arm in arms:
        path = arm if arm.is_file() else folder / arm
        by_image = {image: [] for image in ids}
        for box in json.loads(path.read_text()):
            by_image[box["image_id"]].append(box)
        founds.append(
            [
                by_confidence(
                    corners(by_image[image]),
                    np.array([one["score"] for one in by_image[image]], np.float64),
                    np.array([one["category_id"] for one in by_image[image]], np.int64),
                )
                for image in ids
            ]
        )
    return truths, founds, [category["id"] for category in labels["categories"]]


def corners(annotations: Sequence[dict]) -> np.ndarray:
    xywh = np.array([one["bbox"] for one in annotations], np.float64).reshape(-1, 4)
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


if __name__ == "__main__":
    main()
