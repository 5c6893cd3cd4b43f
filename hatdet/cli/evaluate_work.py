"""How images are evaluated, in this process or by several workers, each image by one of them."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hatdet.cli.detect_slices import Slicing
from hatdet.cli.evaluate_parts import Machine, load_arms, load_detectors, only_these
from hatdet.cli.session import Session

if TYPE_CHECKING:
    from hatdet.deploy.fleet import Fleet, Outcome
    from hatdet.evaluation.joint import EvaluatedImage, JointEvaluation
    from hatdet.evaluation.low_resolution import LowResolution
    from hatdet.evaluation.samples import Problem, Sample
    from hatdet.evaluation.store import Store, StoredDetections
    from hatdet.evaluation.stored_data import AnyFiles

__all__ = ["Comparing", "Evaluated", "EvaluationWork", "evaluated"]

# COCO's way of measuring: nearly every box, and what the evaluator then takes of them.
CONFIDENCE, NMS_IOU, BOXES_KEPT = 0.001, 0.7, 300


@dataclass(frozen=True)
class Comparing:
    """What is compared, in the words of the command line."""

    arms: Sequence[str]
    weights: Sequence[str | None]
    names: Mapping[int, str]
    how: LowResolution
    imgsz: int | None
    frame: str
    precision: str
    tile: int
    overlap: int
    batch: int | None
    slicing: Slicing
    trust: bool

    def load(self, session: Session, device: str, store: Store) -> tuple[JointEvaluation, dict[int, str], Machine]:
        """The evaluation, its classes, and what was loaded, on a device.

        Raises:
            WeightsError, DeviceError, OptionsError: as `load_arms`, `load_detectors`.
        """
        from hatdet.evaluation.joint import JointEvaluation
        from hatdet.evaluation.perceptual import load_lpips

        machine = Machine(device, self.precision, self.tile, self.overlap, self.batch, self.slicing)
        detectors, classes = load_detectors(
            session, self.weights, self.names, machine, CONFIDENCE, NMS_IOU, BOXES_KEPT, self.trust
        )
        scale = self.how.scale
        evaluation = JointEvaluation(
            load_arms(session, self.arms, scale, machine, store),
            detectors,
            scale,
            store,
            self.imgsz,
            machine.largest_canvas,
            scale if self.frame == "hr" else 1,
            load_lpips(machine.torch_device) if self.how.reference else None,
        )
        return evaluation, classes, machine

    def add(
        self,
        evaluation: JointEvaluation,
        classes: Mapping[int, str],
        sample: Sample,
        part_done: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Problem]:
        """Evaluate one image; returns what is wrong with its labels.

        Raises:
            InputError: as `read_pair`.
        """
        from hatdet.evaluation.low_resolution import read_pair
        from hatdet.evaluation.stored_data import fetched

        with fetched(sample, self.how) as here:
            pair = read_pair(here.sample, self.names, here.how)
        truth = only_these(pair.truth(evaluation.frame_scale), classes)
        evaluation.add(sample.relative.as_posix(), pair.low, pair.reference, truth, part_done)
        return [replace(problem, text=here.said(problem.text)) for problem in pair.labels.problems]


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What a worker says of one image.

    Attributes:
        boxes: under the keys that `image` has.
    """

    image: EvaluatedImage
    problems: Sequence[Problem]
    boxes: Mapping[str, StoredDetections]


@dataclass(frozen=True)
class EvaluationWork:
    """The evaluation as workers do it; pickled to them."""

    comparing: Comparing
    home: str = field(default_factory=os.getcwd)

    def begin(self, device: str) -> Callable[[Sequence[Sample]], Iterator[Outcome]]:
        """Load arms and detectors on that device."""
        from hatdet.deploy.fleet import Outcome
        from hatdet.evaluation.store import Store

        with suppress(OSError):
            os.chdir(self.home)
        folder = tempfile.mkdtemp(prefix="hatdet-")
        store = Store(Path(folder))
        evaluation, classes, _ = self.comparing.load(Session(True, False), device, store)

        def work(samples: Sequence[Sample]) -> Iterator[Outcome]:
            for sample in samples:
                try:
                    problems = self.comparing.add(evaluation, classes, sample)
                    image = evaluation.images.pop()
                    boxes = {key: store.detections(key) for key in image.found_keys.values()}
                    outcome = Outcome(Evaluated(image, problems, {key: box for key, box in boxes.items() if box}))
                except Exception as error:
                    outcome = Outcome(error=error)
                store.clear()
                yield outcome

        weakref.finalize(work, shutil.rmtree, folder, ignore_errors=True)
        return work


def evaluated(
    samples: Sequence[Sample],
    comparing: Comparing,
    evaluation: JointEvaluation,
    classes: Mapping[int, str],
    session: Session,
    fleet: Fleet | None,
    made_by: Mapping[str, Any],
    files: AnyFiles,
    stopping: Callable[[], bool] = lambda: False,
) -> Generator[tuple[Sample, Callable[[], list[Problem]]]]:
    """Go through the samples; each comes with a function that puts it into the evaluation and gives its problems.

    Args:
        fleet: None for this process alone.
        made_by: everything that an image's numbers follow from besides its sample and the arms and detectors.
        files: where the samples are.
    """
    if fleet is None:
        for sample in samples:
            yield sample, lambda sample=sample: comparing.add(evaluation, classes, sample, session.part_done)  # type: ignore[misc]
        return
    store = evaluation.store
    keys = {sample.image: _key(sample, comparing, evaluation, made_by, files) for sample in samples}
    left = []
    for sample in samples:
        row = store.image(keys[sample.image])
        if row is None:
            left.append(sample)
        else:
            yield sample, lambda row=row: _known(evaluation, row)  # type: ignore[misc]
    for sample, finish in fleet.over(EvaluationWork(comparing), left, stopping):

        def put(key: str = keys[sample.image], finish: Callable[[], Evaluated] = finish) -> list[Problem]:
            from dataclasses import asdict

            found = finish()
            for box_key, boxes in found.boxes.items():
                store.put_detections(box_key, boxes)
            problems = [asdict(problem) for problem in found.problems]
            store.put_image(key, {**found.image.as_row(), "problems": problems})
            store.commit()
            evaluation.images.append(found.image)
            return list(found.problems)

        yield sample, put


def _known(evaluation: JointEvaluation, row: Mapping[str, Any]) -> list[Problem]:
    from hatdet.evaluation.joint import EvaluatedImage
    from hatdet.evaluation.samples import Problem

    evaluation.images.append(EvaluatedImage.from_row(row))
    return [Problem(**problem) for problem in row["problems"]]


def _key(
    sample: Sample, comparing: Comparing, evaluation: JointEvaluation, made_by: Mapping[str, Any], files: AnyFiles
) -> str:
    """Of everything that is said of an image: its files, and all that is done with them."""
    from hatdet.evaluation.store import key_of

    low = (comparing.how.folder or {}).get(sample.relative.with_suffix(""))
    read = [sample.image, sample.label, *([low] if low is not None else [])]
    parts = [(str(files.absolute(file)), files.state(file)) for file in read]
    arms = [(arm.name, arm.fingerprint) for arm in evaluation.arms]
    detectors = [(one.name, one.fingerprint, sorted(one.to_data.items())) for one in evaluation.detectors]
    settings = (comparing.how, comparing.imgsz, evaluation.frame_scale, evaluation.perceptual is not None)
    return key_of("image", parts, sample.annotations, arms, detectors, *settings, sorted(made_by.items()))
