"""`hatdet prepare --detection`: a detection data set as it looks after reduction, and after upscaling again."""

from __future__ import annotations

import time
from pathlib import Path

from hatdet.cli.session import Session

__all__ = ["prepare_detection"]


def prepare_detection(session: Session, data_file: Path, output: Path, scale: int, upscaler: str) -> None:
    """Write the reduced (or then upscaled) images with their labels, and a data file for training on them.

    What is there is not made again, so a run that was stopped goes on; one data set holds one scale and upscaler.

    Raises:
        OptionsError: a data file that cannot be used, a folder that holds something else, a scale below 2.
    """
    import yaml

    from hatdet.cli.weights import download_progress
    from hatdet.core.atomic import write_text
    from hatdet.core.errors import InputError, OptionsError
    from hatdet.core.types import Image
    from hatdet.evaluation.samples import cropped_labels, read_detection_data
    from hatdet.imaging.files import read_image, write_image
    from hatdet.imaging.resize import reduced
    from hatdet.sr.upscalers import load_upscaler

    if scale < 2:
        raise OptionsError(f"scale must be at least 2, got {scale}")
    data = read_detection_data(data_file)
    if any(sample.annotations is not None for samples in data.splits.values() for sample in samples):
        raise OptionsError(f"{data_file} holds COCO annotations: expected an Ultralytics data file with YOLO labels")
    made_by = f"reduced by {scale}" + ("" if upscaler == "none" else f", upscaled by {upscaler}")
    target = output / "data.yaml"
    if target.is_file() and made_by not in target.read_text().splitlines()[0]:
        raise OptionsError(f"{output} holds a data set that is not {made_by!r}: give another folder with -o")
    enlarge = None
    if upscaler != "none":
        with download_progress(session, upscaler) as on_fetch:
            enlarge = load_upscaler(upscaler, scale, on_progress=session.part_done, on_fetch=on_fetch)
    content: dict[str, object] = {"path": str(output.resolve())}
    content |= {split: f"images/{split}" for split in data.splits}
    write_text(target, f"# {made_by}\n" + yaml.safe_dump({**content, "names": dict(data.names)}, sort_keys=False))
    jobs = [(split, sample) for split, samples in data.splits.items() for sample in samples]
    started = time.perf_counter()
    for split, sample in session.over(jobs, "preparing"):
        with session.one(sample.image):
            picture = (output / "images" / split / sample.relative).with_suffix(".png")
            label = (output / "labels" / split / sample.relative).with_suffix(".txt")
            if picture.is_file() and label.is_file():
                continue
            image = read_image(sample.image)
            w, h = image.width // scale * scale, image.height // scale * scale
            if not w or not h:
                raise InputError(f"{sample.image} ({image.width}x{image.height}) is too small for scale {scale}")
            text = cropped_labels(sample.label, (image.width, image.height), (w, h))
            small = reduced(Image(image.pixels[:, :h, :w], bit_depth=image.bit_depth), scale)
            write_image(small if enlarge is None else enlarge(small), picture)
            write_text(label, text)
    session.result(f"{made_by}: {target}")
    session.finish(started, output)
