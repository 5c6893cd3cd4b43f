"""`HATModel`: what BasicSR calls a model, that is, a network with its losses, optimizer and validation.

A subclass of BasicSR's `SRModel`, so that its losses, options and logs are BasicSR's. What it does otherwise: bf16,
compilation, gradient clipping and accumulation as options; losses by a schedule; a step that is not finite is not
taken; weights that do not fit are refused; checkpoints are whole and resume exactly; validation runs through the
tiling engine, on every process.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from basicsr.archs import build_network
from basicsr.losses import build_loss
from basicsr.models import lr_scheduler
from basicsr.models.sr_model import SRModel
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from hatdet.core.device import computes_bf16
from hatdet.core.errors import OptionsError, TrainingError
from hatdet.training.checkpoints import load_into, save_networks, save_state
from hatdet.training.distributed import Team
from hatdet.training.loss_schedule import LossSchedule
from hatdet.training.perceptual import perceptual_loss
from hatdet.training.validation import OnImage, Scores, evaluating, upscaler_of, validate

__all__ = ["HATModel"]

log = logging.getLogger("basicsr")

# What BasicSR's schedulers take from the option file.
SCHEDULE = ("milestones", "gamma", "restarts", "restart_weights", "periods", "cumulative_period", "eta_min")


class HATModel(SRModel):  # type: ignore[misc]
    """A super-resolution network and how it is trained; `opt` is an option file as `read_options` gives it.

    `opt["team"]` is the `Team` this process belongs to.
    """

    # ------------------------------------------------------------------------------------------ 1. networks

    def __init__(self, opt: dict[str, Any]) -> None:
        self.team: Team = opt.get("team", Team())
        self.best_metric_results: dict[str, Any] = {}
        self.start_scores: dict[str, dict[str, float]] = {}
        self._validations = 0
        self.skipped = self._not_finite_in_a_row = 0  # steps whose loss or gradient was not finite
        self.on_image: OnImage | None = None  # told of each image of a validation, in the process that leads
        super().__init__(opt)

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """The network on this process's device, in a `DistributedDataParallel` where there are several processes."""
        net = net.to(self.device)
        if self.opt.get("train", {}).get("channels_last") and self.is_train:
            net = net.to(memory_format=torch.channels_last)
        if hasattr(net, "fp32_tail"):
            net.fp32_tail = self.opt.get("train", {}).get("fp32_tail", True)
        if self.team.size > 1 and self.is_train and any(p.requires_grad for p in net.parameters()):
            ids = [torch.cuda.current_device()] if self.device.type == "cuda" else None
            unused = self.opt.get("find_unused_parameters", False)
            return DistributedDataParallel(net, device_ids=ids, find_unused_parameters=unused)
        return net

    def print_network(self, net: nn.Module) -> None:
        """One line: the class and how many parameters it has."""
        bare = self.get_bare_model(net)
        log.info("Network %s: %s parameters", type(bare).__name__, f"{sum(p.numel() for p in bare.parameters()):,d}")

    def load_network(self, net: nn.Module, load_path: str, strict: bool = True, param_key: str = "params") -> None:
        """Load weights as far as they fit; say how far; refuse what does not fit the network's body."""
        told = load_into(self.get_bare_model(net), load_path, prefer=param_key or "params", strict=strict)
        log.info("%s from %s: %s", type(self.get_bare_model(net)).__name__, load_path, told)

    def init_training_settings(self) -> None:
        """As BasicSR's: EMA, losses, optimizers, schedulers."""
        train = self.opt["train"]
        self.net_g.train()
        self.ema_decay = train.get("ema_decay", 0)
        if self.ema_decay > 0:
            self.net_g_ema = build_network(self.opt["network_g"]).to(self.device).eval().requires_grad_(False)
            self.net_g_ema.load_state_dict(self.get_bare_model(self.net_g).state_dict())
            path = self.opt["path"].get("pretrain_network_g")
            if path is not None:
                self.load_network(self.net_g_ema, path, self.opt["path"].get("strict_load_g", True), "params_ema")
        self.init_losses()
        self.setup_optimizers()
        self.setup_schedulers()

    def init_losses(self) -> None:
        """The losses that the option file names."""
        self.schedule_of: dict[str, LossSchedule] = {}
        pixel, perceptual = self.scheduled("pixel_opt"), self.scheduled("perceptual_opt")
        self.cri_pix = build_loss(pixel).to(self.device) if pixel else None
        self.cri_perceptual = None
        if perceptual:
            root = Path(self.opt["root_path"])
            self.cri_perceptual = perceptual_loss(perceptual, root).to(self.device)
        if self.cri_pix is None and self.cri_perceptual is None:
            raise OptionsError("train has neither pixel_opt nor perceptual_opt: there is nothing to learn from")

    def scheduled(self, key: str) -> dict[str, Any] | None:
        """The options of a loss, without its `schedule`, which is remembered; None where there is no such loss."""
        options = self.opt["train"].get(key)
        if not options:
            return None
        options = dict(options)
        self.schedule_of[key] = LossSchedule.of(options.pop("schedule", None))
        return options

    def share(self, key: str, current_iter: int) -> float:
        """How much of a loss's weight counts in an iteration."""
        return self.schedule_of[key].share(current_iter)

    # ------------------------------------------------------------------------------------------ 2. optimization

    def setup_optimizers(self) -> None:
        """The optimizer of the generator, of any type that `torch.optim` has."""
        options = dict(self.opt["train"]["optim_g"])  # BasicSR's takes the type out of the options themselves
        wanted = [parameter for parameter in self.net_g.parameters() if parameter.requires_grad]
        self.optimizer_g = self.get_optimizer(options.pop("type"), wanted, **options)
        self.optimizers.append(self.optimizer_g)

    def get_optimizer(self, optim_type: str, params: Any, lr: float, **kwargs: Any) -> torch.optim.Optimizer:
        """An optimizer of `torch.optim`; Adam and AdamW in one fused kernel."""
        if optim_type in ("Adam", "AdamW"):
            kwargs.setdefault("fused", True)
        optimizer: torch.optim.Optimizer = getattr(torch.optim, optim_type)(params, lr=lr, **kwargs)
        return optimizer

    def setup_schedulers(self) -> None:
        """BasicSR's schedulers, one for each optimizer."""
        options = dict(self.opt["train"]["scheduler"])
        kind = options.pop("type")
        known = {
            "MultiStepLR": lr_scheduler.MultiStepRestartLR,
            "MultiStepRestartLR": lr_scheduler.MultiStepRestartLR,
            "CosineAnnealingRestartLR": lr_scheduler.CosineAnnealingRestartLR,
        }
        if kind not in known:
            raise OptionsError(f"train:scheduler:type {kind!r} is not known: expected one of {', '.join(known)}")
        for optimizer in self.optimizers:
            self.schedulers.append(known[kind](optimizer, **options))

    @cached_property
    def forward_g(self) -> nn.Module:
        """The generator as training runs it: compiled, if the option file says so."""
        if not self.opt["train"].get("compile"):
            return self.net_g  # type: ignore[no-any-return]
        return torch.compile(self.net_g)  # type: ignore[return-value]

    @contextmanager
    def precision(self) -> Iterator[None]:
        """Autocast to bf16 if the option file says so; with `auto` where the device computes in it."""
        asked = self.opt["train"].get("precision", "fp32")
        low = asked == "bf16" or (asked == "auto" and computes_bf16(self.device))
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=low):
            yield

    def feed_data(self, data: dict[str, Any]) -> None:
        """Take a batch: `lq` `(b, 3, h, w)` and `gt` `(b, 3, scale * h, scale * w)` in [0, 1]."""
        self.names = data.get("gt_path", data.get("lq_path"))
        self.lq = data["lq"].to(self.device, non_blocking=True)
        if "gt" in data:
            self.gt = data["gt"].to(self.device, non_blocking=True)

    def losses(self, output: Tensor, part: slice, current_iter: int) -> dict[str, Tensor]:
        """What the option file asks for of a part of the batch: each loss, weighted, under its name in the log."""
        found: dict[str, Tensor] = {}
        gt = self.gt[part]
        if self.cri_pix and (share := self.share("pixel_opt", current_iter)):
            found["l_pix"] = self.cri_pix(output, gt) * share
        if self.cri_perceptual and (share := self.share("perceptual_opt", current_iter)):
            found |= {name: value * share for name, value in self.perceptual_losses(output, gt, "l_").items()}
        return found

    def perceptual_losses(self, output: Tensor, gt: Tensor, prefix: str) -> dict[str, Tensor]:
        """Those of `train:perceptual_opt` that have a weight, by name in the log."""
        if not self.cri_perceptual:
            return {}
        perceptual, style = self.cri_perceptual(output, gt)
        found = {f"{prefix}percep": perceptual, f"{prefix}style": style}
        return {name: value for name, value in found.items() if value is not None}

    def optimize_parameters(self, current_iter: int) -> None:
        """One step on the batch that was fed, computed in `train:accumulate` parts.

        Raises:
            TrainingError: the loss or its gradient is not finite; the batch is saved, the weights are as before.
        """
        self.optimizer_g.zero_grad(set_to_none=True)
        batch = len(self.lq)
        parts = min(self.opt["train"].get("accumulate", 1), batch)
        logged: dict[str, Tensor] = {}
        ends = [round(batch * number / parts) for number in range(parts + 1)]
        for first, last in pairwise(ends):
            share = (last - first) / batch
            with self._gradients_stay(last < batch):
                with self.precision():
                    output = self.forward_g(self.lq[first:last])
                found = self.losses(output.float(), slice(first, last), current_iter)
                if not found:
                    raise OptionsError(f"iteration {current_iter}: by their schedules no loss counts")
                (torch.stack(list(found.values())).sum() * share).backward()
            for name, value in found.items():
                logged[name] = logged.get(name, torch.zeros((), device=self.device)) + value.detach() * share
        self.output = output.detach()
        logged["grad_norm"] = self.step(self.optimizer_g, self.net_g, sum(logged.values()), current_iter)
        if self.ema_decay > 0:
            self.model_ema(self.ema_decay)
        self.log_tensors = logged

    def step(self, optimizer: torch.optim.Optimizer, network: nn.Module, loss: Any, current_iter: int) -> Tensor:
        """Clip the gradient and take the optimizer's step, if loss and gradient are finite; return its norm.

        If they are not, the step is left out and counted, as often in a row as `train:skip_not_finite` says.

        Raises:
            TrainingError: once more.
        """
        limit = self.opt["train"].get("grad_clip") or math.inf
        wanted = [parameter for parameter in network.parameters() if parameter.grad is not None]
        norm = nn.utils.clip_grad_norm_(wanted, limit)
        if self._all_finite(norm + loss):
            optimizer.step()
            self._not_finite_in_a_row = 0
            return norm
        self.skipped += 1
        self._not_finite_in_a_row += 1
        if self._not_finite_in_a_row > self.opt["train"].get("skip_not_finite", 0):
            self._give_up(current_iter, float(loss), float(norm))
        optimizer._opt_called = True  # type: ignore[attr-defined]  # the schedule goes on, and asks for a step before it
        log.warning(
            "iteration %d: the loss is %g and its gradient's norm %g: the step is left out (%d so far)",
            current_iter,
            float(loss),
            float(norm),
            self.skipped,
        )
        return norm

    def _all_finite(self, value: Tensor) -> bool:
        """Whether the value is finite in every process: all of them take a step, or none."""
        finite = torch.isfinite(value.detach()).float()
        if self.team.size > 1:
            torch.distributed.all_reduce(finite, torch.distributed.ReduceOp.MIN)
        return bool(finite)

    def _gradients_stay(self, stay: bool) -> Any:
        """Between the parts of one step the processes need not agree on gradients."""
        if stay and isinstance(self.net_g, DistributedDataParallel):
            return self.net_g.no_sync()
        return torch.enable_grad()

    def _give_up(self, current_iter: int, loss: float, norm: float) -> None:
        path = Path(self.opt["path"]["experiments_root"]) / f"not_finite_{current_iter}_rank{self.team.rank}.pt"
        batch = {"lq": self.lq.cpu(), "gt": self.gt.cpu(), "gt_path": self.names, "iter": current_iter}
        save_state(path, batch)
        raise TrainingError(
            f"iteration {current_iter}: the loss is {loss:g} and its gradient's norm {norm:g}. The step was not taken; "
            f"the batch is in {path}. A smaller learning rate, train:grad_clip or precision fp32 may help"
        )

    def model_ema(self, decay: float = 0.999) -> None:
        """Move the average of the weights towards the weights."""
        with torch.no_grad():
            ours, theirs = list(self.net_g_ema.parameters()), list(self.get_bare_model(self.net_g).parameters())
            get_ema_multi_avg_fn(decay)(ours, theirs, 0)  # type: ignore[no-untyped-call]

    def get_current_log(self) -> dict[str, float]:
        """The losses of the last step, averaged over the processes."""
        names = list(self.log_tensors)
        values = torch.stack([self.log_tensors[name].float() for name in names])
        if self.team.size > 1:
            torch.distributed.all_reduce(values)
            values /= self.team.size
        return dict(zip(names, values.tolist(), strict=True))

    # ------------------------------------------------------------------------------------------ 3. validation

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and shipped: the average of the weights, if there is one."""
        return self.net_g_ema if hasattr(self, "net_g_ema") else self.get_bare_model(self.net_g)  # type: ignore[no-any-return]

    def validation(self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool = False) -> Scores:
        """Validate on one data set, on all processes together; log the means, and how far they are from the start."""
        dataset, options = dataloader.dataset, self.opt["val"]
        name, metrics, scale = dataset.opt["name"], options.get("metrics") or {}, self.opt["scale"]
        topic = self.next_topic()
        folder, suffix = None, ""
        if save_img:
            folder = Path(self.opt["path"]["visualization"]) / name
            suffix = f"_{current_iter}" if self.is_train else f"_{options.get('suffix') or self.opt['name']}"
        with evaluating(self.evaluated) as network, torch.no_grad():
            scores = validate(
                upscaler_of(network, scale, self.opt.get("tile")),
                dataset,
                metrics,
                team=self.team,
                topic=topic,
                save_to=folder,
                suffix=suffix,
                on_image=self.on_image if self.team.leads else None,
            )
        if metrics:
            self.remember_and_tell(name, scores, tb_logger, current_iter)
        return scores

    def next_topic(self) -> str:
        """A name for what the processes tell each other of one validation."""
        self._validations += 1
        return f"validation {self._validations}"

    def remember_and_tell(self, name: str, scores: Scores, tb_logger: Any, current_iter: int | str) -> None:
        """Keep the best of each metric, and log all."""
        self._remember(name, scores, current_iter)
        self._tell(name, scores, tb_logger, current_iter)

    def _remember(self, name: str, scores: Scores, current_iter: int | str) -> None:
        record = self.best_metric_results.setdefault(name, {})
        for metric in scores.means:  # one may be new since the run was begun
            better = scores.better.get(metric, "higher")
            worst = -math.inf if better == "higher" else math.inf
            record.setdefault(metric, {"better": better, "val": worst, "iter": -1})
        if not isinstance(current_iter, int):
            return
        if current_iter == 0:
            self.start_scores[name] = scores.means
        for metric, mean in scores.means.items():
            self._update_best_metric_result(name, metric, mean, current_iter)

    def _tell(self, name: str, scores: Scores, tb_logger: Any, current_iter: int | str) -> None:
        lines = [f"Validation {name} ({scores.images} images)"]
        for metric, mean in scores.means.items():
            line = f"\t # {metric}: {mean:.4f}"
            best = self.best_metric_results[name][metric]
            if self.is_train and best["iter"] >= 0:
                line += f"\tBest: {best['val']:.4f} @ {best['iter']} iter"
            start = self.start_scores.get(name, {}).get(metric)
            if start is not None and current_iter != 0:
                line += f"\t{mean - start:+.4f} since iteration 0"
            line += f"\t({scores.protocols[metric]})" if metric in scores.protocols else ""
            if scores.infinite.get(metric):
                line += f"\t{scores.infinite[metric]} images without a finite value are not in the mean"
            lines.append(line)
            if tb_logger and isinstance(current_iter, int):
                tb_logger.add_scalar(f"metrics/{name}/{metric}", mean, current_iter)
        log.info("\n".join(lines))

    # ------------------------------------------------------------------------------------------ 4. checkpoints

    def save(self, epoch: int, current_iter: int) -> None:
        """Write the networks, then the training state; -1 writes `net_g_latest.pth` alone."""
        self.save_networks(epoch, current_iter)
        self.save_training_state(epoch, current_iter)

    def save_networks(self, epoch: int, current_iter: int) -> None:
        """Write the generator, and the average of its weights."""
        networks = {"params": self.get_bare_model(self.net_g)}
        if hasattr(self, "net_g_ema"):
            networks["params_ema"] = self.net_g_ema
        self.write_network("net_g", current_iter, networks, self.opt["network_g"])

    def write_network(
        self, label: str, current_iter: int, networks: dict[str, nn.Module], options: dict[str, Any]
    ) -> None:
        """Write one network's file, by the process that leads."""
        if self.team.leads:
            number = "latest" if current_iter == -1 else current_iter
            path = Path(self.opt["path"]["models"]) / f"{label}_{number}.pth"
            save_networks(path, networks, {label.replace("net", "network"): options})

    def own_state(self) -> dict[str, Any]:
        """What this process must remember beyond weights and optimizers."""
        return {}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Take up what `own_state` said."""

    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """Write what resuming needs. The leader's file comes last: it says that the checkpoint is complete."""
        if current_iter == -1:
            return
        folder, own = Path(self.opt["path"]["training_states"]), self.own_state()
        if own:
            save_state(folder / f"{current_iter}.rank{self.team.rank}", own)
        self.team.exchange(f"saved {current_iter}", True)
        if self.team.leads:
            state = {
                "epoch": epoch,
                "iter": current_iter,
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
                "best_metric_results": self.best_metric_results,
                "start_scores": self.start_scores,
                "skipped": self.skipped,
            }
            save_state(folder / f"{current_iter}.state", state)

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Take up optimizers, schedulers and scores; the networks were loaded when the model was built."""
        self._resume_schedules(resume_state)
        self.best_metric_results = resume_state.get("best_metric_results", {})
        self.start_scores = resume_state.get("start_scores", {})
        self.skipped = resume_state.get("skipped", 0)
        own = Path(resume_state["folder"]) / f"{resume_state['iter']}.rank{self.team.rank}"
        if own.is_file():
            self.load_own_state(torch.load(own, map_location=self.device, weights_only=True))

    def _resume_schedules(self, resume_state: dict[str, Any]) -> None:
        """Optimizers and schedulers as they were, but for what the option file says otherwise by now.

        BasicSR's resume leaves a changed learning rate or schedule unused without a word.
        """
        saved = zip(resume_state["optimizers"], resume_state["schedulers"], strict=True)
        for optimizer, scheduler, (was_optimizer, was_scheduler) in zip(
            self.optimizers, self.schedulers, saved, strict=True
        ):
            wanted, asked = (
                scheduler.base_lrs,
                {key: scheduler.__dict__[key] for key in SCHEDULE if key in vars(scheduler)},
            )
            optimizer.load_state_dict(was_optimizer)
            optimizer._opt_called = True  # it has stepped in the run before; the schedule asks for that
            changed = [key for key, value in asked.items() if was_scheduler[key] != value]
            scheduler.load_state_dict({**was_scheduler, **asked})
            for key in changed:
                log.warning("train:scheduler:%s is %s now, it was %s", key, asked[key], was_scheduler[key])
            for group, lr in zip(optimizer.param_groups, wanted, strict=True):
                if lr != group["initial_lr"]:
                    log.warning("The learning rate begins at %g now, it was %g", lr, group["initial_lr"])
                    group["lr"] *= lr / group["initial_lr"]
                    group["initial_lr"] = lr
            scheduler.base_lrs = wanted
