"""Eight small pictures that a detector can learn by heart: coloured shapes on noise, with their labels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

CLASSES = ("square", "disc", "triangle")
COLOURS = ((230, 60, 40), (40, 190, 70), (50, 80, 235))  # RGB
SIZE = (96, 128)  # not square: rectangular batches are wider than high


def write_data_set(folder: Path, images: int = 8, seed: int = 0) -> Path:
    """Write pictures and labels as Ultralytics expects them, the same for training and validation.

    Each picture of `SIZE` has one shape in its left half and another in its right half, of any two classes.

    Returns:
        The data set's `data.yaml`.
    """
    generator = np.random.default_rng(seed)
    h, w = SIZE
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for i in range(images):
        picture = generator.integers(90, 150, (h, w, 3), dtype=np.uint8)
        lines = []
        for half in range(2):
            label = (i + half * (1 + i % 2)) % len(CLASSES)
            radius = int(generator.integers(13, 24))
            x = int(generator.integers(half * w // 2 + radius + 2, (half + 1) * w // 2 - radius - 2))
            y = int(generator.integers(radius + 2, h - radius - 2))
            _draw(picture, label, x, y, radius)
            side = 2 * radius + 1
            lines.append(f"{label} {(x + 0.5) / w:.6f} {(y + 0.5) / h:.6f} {side / w:.6f} {side / h:.6f}")
        cv2.imwrite(str(folder / "images" / f"{i}.png"), picture[..., ::-1])
        (folder / "labels" / f"{i}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(CLASSES))
    data = folder / "data.yaml"
    data.write_text(f"path: {folder}\ntrain: images\nval: images\nnames:\n{names}", encoding="utf-8")
    return data


def _draw(picture: np.ndarray, label: int, x: int, y: int, radius: int) -> None:
    colour = COLOURS[label]
    if CLASSES[label] == "square":
        cv2.rectangle(picture, (x - radius, y - radius), (x + radius, y + radius), colour, cv2.FILLED)
    elif CLASSES[label] == "disc":
        cv2.circle(picture, (x, y), radius, colour, cv2.FILLED)
    else:
        corners = np.array([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)])
        cv2.fillPoly(picture, [corners], colour)
