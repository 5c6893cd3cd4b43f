"""Write the data file of the first 128 images of COCO's val2017, on which this project's numbers are measured.

    python tools/coco128_data.py /path/to/coco -o coco128.yaml
    hatdet eval --data coco128.yaml

The folder is laid out as Ultralytics' own download: images/val2017/*.jpg and labels/val2017/*.txt. Without one it is
det/coco128 below HATDET_DATA. COCO's annotations can be evaluated as they are, too, crowds included:

    hatdet eval --data annotations/instances_val2017.json --images val2017 --limit 128
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import yaml

import hatdet.detection.ultralytics_setup  # noqa: F401 (before ultralytics)
from hatdet.core.atomic import write_text

IMAGES = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("coco", type=Path, nargs="?")
    parser.add_argument("-o", "--output", type=Path, default=Path("coco128.yaml"))
    given = parser.parse_args()
    coco = given.coco or Path(os.environ["HATDET_DATA"]) / "det/coco128"
    images = sorted((coco / "images/val2017").glob("*.jpg"))[:IMAGES]
    if len(images) < IMAGES:
        parser.error(f"{coco / 'images/val2017'} has {len(images)} images: expected {IMAGES} or more")

    from ultralytics.utils import ROOT

    names = yaml.safe_load((ROOT / "cfg/datasets/coco128.yaml").read_text())["names"]
    listed = given.output.with_suffix(".txt")
    write_text(listed, "".join(f"{image.resolve()}\n" for image in images))
    content = {"path": str(coco.resolve()), "val": str(listed.resolve()), "names": names}
    write_text(given.output, yaml.safe_dump(content, sort_keys=False))
    print(f"{given.output}: {len(images)} images of {coco}")


if __name__ == "__main__":
    main()
