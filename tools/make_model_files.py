"""Write `options/models/`, the model files that ship: stock files of the installed Ultralytics with an attention row.

python tools/make_model_files.py            # write them
python tools/make_model_files.py --check    # exit status 1 if one on disk differs, is missing or is not in the table
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hatdet.detection.model_files import insert_row, model_text, read_model_file, stock_model_files

MODELS = Path(__file__).resolve().parent.parent / "options" / "models"


@dataclass(frozen=True)
class Insertion:
    """A layer behind SPPF, the last of the backbone that all these models share, at a stride of 32.

    Attributes:
        name: Of the file, with {} for the scale where the stock files have one each.
        stock: The stock file it is made from, likewise.
        title: What the model is called.
        module, args: The row. Its heads divide the width at every scale, 256 to 1280 channels.
        why: What the layer does there.
    """

    name: str
    stock: str
    title: str
    module: str
    args: tuple[Any, ...]
    why: str
    scales: str = ""
    after: int = 9


TABLE = (
    Insertion(
        "yolo11-halo.yaml",
        "yolo11.yaml",
        "YOLO11",
        "HaloAttention",
        ("c2", 2, 1, 32, 4),  # block, halo, channels of a head, heads
        "blocks of 2x2 pixels attend to themselves and a margin of 1",
    ),
    Insertion(
        "yolov8-dat.yaml",
        "yolov8.yaml",
        "YOLOv8",
        "DAttention",
        ("c2", 8, 4, 1, 3),  # heads, groups of points, a point a pixel, kernel of the offsets
        "deformable attention: pixels attend to points that the map chooses",
    ),
    Insertion(
        "yolov5-clo.yaml",
        "yolov5.yaml",
        "YOLOv5",
        "EfficientAttention",
        ("c2", 16, [4, 12], [9], 1),  # heads, local and global ones, kernel, window: stage 4 of CloFormer
        "CloFormer's attention: 4 heads look at 9x9 pixels, 12 at the whole map",
    ),
    Insertion(
        "yolov5-attnconv.yaml",
        "yolov5.yaml",
        "YOLOv5",
        "AttnConv",
        ("c2", 16, 9),  # heads, kernel
        "the local half of CloFormer's attention, over 9x9 pixels",
    ),
    Insertion(
        "yolov10{}-hat.yaml",
        "yolov10{}.yaml",
        "YOLOv10{}",
        "HATBlock",
        ("c2", 8, 8, 1, 8),  # heads, window, one HAB, its channel attention squeezed to an eighth
        "a residual group of HAT in front of the model's own PSA",
        scales="nsmblx",
    ),
)


def all_files() -> Iterator[tuple[str, str]]:
    """Name, below `options/models/`, and text of every file."""
    stock = stock_model_files()
    for entry in TABLE:
        for scale in entry.scales or [""]:
            source = entry.stock.format(scale)
            model = insert_row(read_model_file(stock[source]), entry.after, entry.module, entry.args)
            about = (
                f"{entry.title.format(scale)} with {entry.module} behind layer {entry.after} ({entry.why}).\n"
                f"Made by tools/make_model_files.py from Ultralytics' {source} (AGPL-3.0, "
                "https://ultralytics.com/license)."
            )
            yield entry.name.format(scale), model_text(model, about)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or with `--check` say which differ; the exit status."""
    parser = argparse.ArgumentParser(description="Write the model files that ship.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file differs")
    check = parser.parse_args(arguments).check
    texts = dict(all_files())
    present = {path.name for path in MODELS.glob("*")}
    strays = present - texts.keys()
    differing = [name for name, text in texts.items() if name not in present or (MODELS / name).read_text() != text]
    for name in sorted(strays):
        print(f"options/models/{name} is not in the table", file=sys.stderr)
    for name in differing:
        print(f"options/models/{name} {'differs from the table' if check else 'written'}", file=sys.stderr)
        if not check:
            MODELS.mkdir(parents=True, exist_ok=True)
            (MODELS / name).write_text(texts[name])
    return 1 if strays or (check and differing) else 0


if __name__ == "__main__":
    sys.exit(main())
