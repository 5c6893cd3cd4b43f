"""The training loop and the test run, on BasicSR's data sets, models, metrics and loggers.

BasicSR's own loop cannot resume without a GPU, looks for its checkpoints below the current folder, renames old runs and
begins the order of the data anew: this one replaces it, for any model of BasicSR's registry.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any

import torch
from basicsr.data import build_dataset
from basicsr.models import build_model
from basicsr.utils import AvgTimer, MessageLogger
from torch.utils.data import DataLoader

from hatdet.core.allocator import keep_freed_memory
from hatdet.core.errors import OptionsError
from hatdet.training import plugins
from hatdet.training.checkpoints import prune
from hatdet.training.curve import draw_curve
from hatdet.training.distributed import Team, join
from hatdet.training.draws import Draws, seed_all, training_loader
from hatdet.training.logs import curve_writer, logging_to
from hatdet.training.starts import starting_point
from hatdet.training.validation import OnImage

log = logging.getLogger("basicsr")

# After an iteration: its number, how many there will be, and what was logged (empty where nothing was).
OnStep = Callable[[int, int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Finished:
    """A run that came to its end: its folder, and the last scores of each validation set by metric."""

    folder: Path
    iterations: int
    scores: dict[str, dict[str, float]]


def train(
    options: dict[str, Any],
    *,
    launcher: str = "none",
    auto_resume: bool = False,
    overwrite: bool = False,
    on_step: OnStep | None = None,
    on_image: OnImage | None = None,
    handler: logging.Handler | None = None,
) -> Finished:
    """Train as an option file says (`read_options`), to `train:total_iter`.

    Ctrl-C or SIGTERM ends the iteration, saves a checkpoint and raises `KeyboardInterrupt`; in a team of processes
    the run stops as it is, with its last checkpoint.

    Args:
        launcher: BasicSR's `none`, `pytorch`, `slurm`.
        auto_resume: go on from the newest complete checkpoint, if there is one.
        overwrite: remove what an earlier run of this name left.
        on_step: called after every iteration, by the process that leads.
        on_image: called after every image of a validation with the images done and in all, by the process that leads.
        handler: takes the log lines that would go to stderr.

    Raises:
        OptionsError: the run exists already; options that cannot be.
        WeightsError: weights to start from that do not fit.
        TrainingError: a loss that is not finite.
    """
    plugins.register()
    team = join(launcher, options.get("dist_params", {}), options["num_gpu"])
    try:
        _describe(options, team)
        state = starting_point(options, team, auto_resume, overwrite)
        with logging_to(options, team, "train", handler):
            run = _Run(options, team, state)
            run.model.on_image = on_image
            run.go(on_step)
            return Finished(run.paths["experiments_root"], run.total, run.scores)
    finally:
        team.leave()


def measure(
    options: dict[str, Any],
    *,
    launcher: str = "none",
    on_image: OnImage | None = None,
    handler: logging.Handler | None = None,
) -> dict[str, dict[str, float]]:
    """Validate weights on the data sets of a test option file; return the mean of each metric by data set.

    Upscaled images go to `results/<name>/visualization/<data set>/` where `val:save_img` says so.

    Raises:
        OptionsError: options that cannot be.
        WeightsError: weights that are not there or do not fit.
    """
    plugins.register()
    team = join(launcher, options.get("dist_params", {}), options["num_gpu"])
    try:
        _describe(options, team)
        Path(options["path"]["log"]).mkdir(parents=True, exist_ok=True)
        with logging_to(options, team, "test", handler):
            model = build_model(options)
            model.on_image = on_image
            scores = {}
            for loader in _validation_sets(options):
                found = model.validation(loader, options["name"], None, options["val"]["save_img"])
                if found is not None:
                    scores[loader.dataset.opt["name"]] = dict(found.means)
            return scores
    finally:
        team.leave()


class _Run:
    """Everything that a run works with, and the loop over its iterations."""

    def __init__(self, options: dict[str, Any], team: Team, state: dict[str, Any] | None) -> None:
        self.options, self.team = options, team
        if not options["num_gpu"]:
            keep_freed_memory()
        self.total, self.seed = int(options["train"]["total_iter"]), int(options["manual_seed"])
        self.paths = {key: Path(options["path"][key]) for key in ("experiments_root", "models", "training_states")}
        self.scores: dict[str, dict[str, float]] = {}
        seed_all(self.seed, 0)
        data = options["datasets"]["train"]
        dataset = build_dataset(data)
        self.validation_sets = list(_validation_sets(options))
        batch = int(data["batch_size_per_gpu"])
        self.epoch_length = math.ceil(len(dataset) * data.get("dataset_enlarge_ratio", 1) / (batch * team.size))
        log.info("%d images, batch %d x %d processes", len(dataset), batch, team.size)
        _compare_batch(options, batch * team.size)
        self.model = build_model(options)
        self.done = self.saved = self.validated = 0
        if state is not None:
            self.done = self.saved = self.validated = state["iter"]
            self.model.resume_training(state)
            log.info("Resuming from iteration %d", self.done)
        self.batches = training_loader(
            dataset,
            Draws(len(dataset), self.seed, team.rank, team.size, skip=self.done * batch),
            batch=batch,
            workers=int(data.get("num_worker_per_gpu", 0)),
            pin_memory=bool(data.get("pin_memory")) and options["num_gpu"] > 0,
        )
        self.writer = curve_writer(options) if team.leads else None
        self.message = MessageLogger(options, self.done + 1, self.writer)
        self.message.max_iters = self.total + 1  # or its time left at the last iteration is below zero
        self.data_timer, self.step_timer = AvgTimer(), AvgTimer()

    def go(self, on_step: OnStep | None) -> None:
        """Train to the end."""
        every = {**self.options["logger"], "val_freq": (self.options.get("val") or {}).get("val_freq")}
        if self.done == 0 and self.validation_sets and self.options["val"].get("at_start", True):
            self.validate(0)
        with _stopping() as stop:
            for iteration in range(self.done + 1, self.total + 1):
                self.step(iteration)
                logged = self.tell(iteration) if iteration % every["print_freq"] == 0 else {}
                if iteration % every["save_checkpoint_freq"] == 0:
                    self.save(iteration)
                if every["val_freq"] and iteration % every["val_freq"] == 0:
                    self.validate(iteration)
                if on_step is not None and self.team.leads:
                    on_step(iteration, self.total, logged)
                if stop.is_set():
                    if self.team.size == 1:
                        self.save(iteration)
                        log.info("Stopped after iteration %d: --auto_resume goes on from there", iteration)
                    raise KeyboardInterrupt
        if self.done < self.total:
            self.save(self.total)
            self.validate(self.total)
        self.model.save(epoch=-1, current_iter=-1)
        log.info("End of training: %d iterations, %s", self.total, self.paths["models"] / "net_g_latest.pth")
        if self.writer is not None:
            self.writer.close()

    def step(self, iteration: int) -> None:
        # Whatever is random in an iteration follows from its number, so no generator's state need be saved.
        seed_all(self.seed, 1, self.team.rank, iteration)
        self.data_timer.start()
        self.step_timer.start()
        batch = next(self.batches)
        self.data_timer.record()
        self.model.update_learning_rate(iteration, warmup_iter=self.options["train"].get("warmup_iter", -1))
        self.model.feed_data(batch)
        self.model.optimize_parameters(iteration)
        self.step_timer.record()

    def tell(self, iteration: int) -> dict[str, float]:
        """A line of log, as BasicSR has it; return the losses."""
        logged: dict[str, float] = self.model.get_current_log()
        times = {"time": self.step_timer.get_avg_time(), "data_time": self.data_timer.get_avg_time()}
        epoch, rates = (iteration - 1) // self.epoch_length, self.model.get_current_learning_rate()
        self.message({"epoch": epoch, "iter": iteration, "lrs": rates, **times, **logged})
        return logged

    def save(self, iteration: int) -> None:
        if self.saved == iteration and iteration:
            return
        started = time.perf_counter()
        self.model.save((iteration - 1) // self.epoch_length, iteration)
        self.saved = iteration
        keep = self.options["logger"].get("keep_checkpoints")
        if keep and self.team.leads:
            records = getattr(self.model, "best_metric_results", {}).values()
            best = {record["iter"] for metrics in records for record in metrics.values()}
            prune(self.paths["models"], self.paths["training_states"], keep, best)
        log.info("Saved iteration %d in %.1f s", iteration, time.perf_counter() - started)

    def validate(self, iteration: int) -> None:
        if self.validated == iteration and iteration:
            return
        self.validated = iteration
        for loader in self.validation_sets:
            name = loader.dataset.opt["name"]
            found = self.model.validation(loader, iteration, self.writer, self.options["val"].get("save_img", False))
            if found is None:  # a model of BasicSR's own, which tells its log alone
                continue
            self.scores[name] = dict(found.means)
            if self.team.leads:
                with (self.paths["experiments_root"] / "validation.jsonl").open("a") as file:
                    file.write(json.dumps({"iter": iteration, "dataset": name, **found.means}) + "\n")
                draw_curve(self.paths["experiments_root"], name)


def _describe(options: dict[str, Any], team: Team) -> None:
    """Tell BasicSR's builders who this process is."""
    options.update(team=team, dist=team.size > 1, rank=team.rank, world_size=team.size)
    options["path"].setdefault("param_key_g", "params_ema")
    if team.size == 1 and options["num_gpu"] > 1:
        options["num_gpu"] = 1  # BasicSR would split every batch over the GPUs by threads
    if options["num_gpu"] and not torch.cuda.is_available():
        raise OptionsError(f"num_gpu is {options['num_gpu']}, but PyTorch finds no GPU: num_gpu 0 or auto use the CPU")


def _validation_sets(options: dict[str, Any]) -> Iterator[Any]:
    for phase, dataset_options in options["datasets"].items():
        if phase.split("_")[0] in ("val", "test"):
            yield DataLoader(build_dataset(dataset_options), batch_size=1)


def _compare_batch(options: dict[str, Any], total: int) -> None:
    """The published learning rates belong to a total batch; say so where it is another."""
    reference = options["train"].get("reference_batch")
    if reference and reference != total:
        log.warning(
            "The batch is %d in all; the learning rate of this option file was published for %d: scale one of them, "
            "or set train:accumulate and a larger batch_size_per_gpu",
            total,
            reference,
        )


@contextmanager
def _stopping() -> Iterator[Event]:
    """Let Ctrl-C and SIGTERM end the iteration; a second one ends it at once."""
    stop = Event()

    def ask(number: int, _: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[number])

    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # a shell's `&`, nohup: not meant for this run
                before[number] = signal.signal(number, ask)
    except ValueError:  # not the main thread: who runs us there decides about signals
        pass
    try:
        yield stop
    finally:
        for asked, handler in before.items():
            signal.signal(asked, handler)
