"""Real-HAT: HAT for photos with noise, blur and JPEG, by pixels and then against a discriminator.

Both models degrade good photos on the device (`degradation`), as Real-ESRGAN's do (X. Wang et al. 2021,
https://arxiv.org/abs/2107.10833); everything else is `HATModel`'s.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from basicsr.archs import build_network
from basicsr.data.transforms import paired_random_crop
from basicsr.losses import build_loss
from basicsr.losses.loss_util import get_refined_artifact_map
from basicsr.utils import USMSharp
from torch import Tensor

from hatdet.core.errors import OptionsError
from hatdet.training.degradation import PairPool, degrade, jpeg_on
from hatdet.training.hat_model import HATModel

__all__ = ["RealHATGANModel", "RealHATMSEModel"]

log = logging.getLogger("basicsr")

# ------------------------------------------------------------------------------------------ 1. by pixels


class RealHATMSEModel(HATModel):
    """`HATModel` on pairs that are made of good photos in every iteration.

    With `gt_usm` the photos are sharpened first. `high_order_degradation: false` trains on a data set's own pairs,
    which are taken as they are. Validation is always on pairs.

    Resuming goes on with the pool of pairs, which each process saves beside the training state.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        self.pool: PairPool | None = None
        super().__init__(opt)

    def init_training_settings(self) -> None:
        """As `HATModel`'s, and what degrading takes."""
        super().init_training_settings()
        self.sharpen = USMSharp().to(self.device)
        if self.opt.get("high_order_degradation", True):
            batch = int(self.opt["datasets"]["train"]["batch_size_per_gpu"])
            self.pool = PairPool(int(self.opt.get("queue_size", 180)), batch)
            self.jpeg = jpeg_on(self.device)

    @torch.no_grad()
    def feed_data(self, data: dict[str, Any]) -> None:
        """Take a batch: `gt` `(b, 3, h, w)` in [0, 1] with its kernels, of which `lq` and `gt` of `gt_size` are made.

        Without the degradation, as `HATModel`'s.

        Raises:
            OptionsError: the data set of the option file does not give what is needed, or too small.
        """
        missing = [key for key in self._needed() if key not in data]
        if missing:
            degrading = "true" if self.pool else "false"
            raise OptionsError(
                f"datasets:train of type {self.opt['datasets']['train']['type']} gives no {', '.join(missing)}, which "
                f"{type(self).__name__} needs with high_order_degradation {degrading}: RealESRGANDataset goes with "
                "true, a data set of pairs with false"
            )
        if self.pool is None:
            super().feed_data(data)
            return
        scale, size = int(self.opt["scale"]), int(self.opt["gt_size"])
        gt, blur, blur_again, sinc = (data[key].to(self.device, non_blocking=True) for key in self._needed())
        height, width = (side // scale * scale for side in gt.shape[-2:])
        if size > min(height, width):
            raise OptionsError(f"gt_size must be at most {min(height, width)}, the size of what is read, got {size}")
        degraded, reference = self.of_photo(gt[..., :height, :width])
        lq = degrade(degraded, blur, blur_again, sinc, self.opt, scale, self.jpeg)
        reference, lq = paired_random_crop(reference, lq, size, scale)
        # Where the pairs of the pool come from is not kept.
        self.names = data.get("gt_path") if self.pool.filled < self.pool.size else None
        lq, self.gt = self.pool.exchange(lq, reference)
        self.lq = lq.contiguous()

    def of_photo(self, photo: Tensor) -> tuple[Tensor, Tensor]:
        """What is degraded, and what is the reference."""
        wanted = self.sharpen(photo) if self.opt.get("gt_usm") else photo
        return wanted, wanted

    def _needed(self) -> tuple[str, ...]:
        if not self.is_train:
            return ("lq",)
        return ("gt", "kernel1", "kernel2", "sinc_kernel") if self.pool else ("lq", "gt")

    def own_state(self) -> dict[str, Any]:
        """The pool."""
        return {"pool": self.pool.state()} if self.pool else {}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Take up the pool, if its images have the size that is asked for."""
        held = state.get("pool")
        if self.pool and held and held["gt"].shape[-1] == int(self.opt["gt_size"]):
            self.pool.load(held)

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """As `HATModel`'s; say if the pool could not be taken up."""
        super().resume_training(resume_state)
        if self.pool and not self.pool.filled:
            log.warning("No pool of pairs that fits was saved with this checkpoint: it is filled anew")


# ------------------------------------------------------------------------------------------ 2. with a discriminator


class RealHATGANModel(RealHATMSEModel):
    """`RealHATMSEModel` with a discriminator: losses by pixels, by VGG's features and adversarial.

    Photos are sharpened before they are degraded. What each loss compares with is sharpened too, unless `l1_gt_usm`,
    `percep_gt_usm` or `gan_gt_usm` is false. The generator learns in every `net_d_iters`-th iteration after
    `net_d_init_iters`, the discriminator always. Options of `train` hold for both; `compile` for the generator.

    Raises:
        OptionsError: `train:accumulate`, or an image size that cannot be sharpened.
    """

    def init_training_settings(self) -> None:
        """As `RealHATMSEModel`'s, and the discriminator."""
        train, paths = self.opt["train"], self.opt["path"]
        if train.get("accumulate", 1) != 1:
            raise OptionsError(f"train:accumulate must be 1 with {type(self).__name__}, got {train['accumulate']}")
        self.net_d = self.model_to_device(build_network(self.opt["network_d"]))
        self.print_network(self.net_d)
        path = paths.get("pretrain_network_d")
        if path is not None:
            self.load_network(self.net_d, path, paths.get("strict_load_d", True), paths.get("param_key_d") or "params")
        self.net_d.train()
        self.net_d_iters, self.net_d_init_iters = train.get("net_d_iters", 1), train.get("net_d_init_iters", 0)
        super().init_training_settings()
        size = int(self.opt["gt_size"] if self.pool else self.opt["datasets"]["train"]["gt_size"])
        if self._sharpened() and size <= self.sharpen.radius // 2:
            raise OptionsError(
                f"gt_size must be more than {self.sharpen.radius // 2} to be sharpened, got {size}; "
                f"{', '.join(f'{key}: false' for key in self._sharpened())} sharpens nothing"
            )

    def init_losses(self) -> None:
        """As `HATModel`'s, and the adversarial one; `ldl_opt` too."""
        super().init_losses()
        train = self.opt["train"]
        self.cri_gan = build_loss(train["gan_opt"]).to(self.device)
        self.cri_ldl = build_loss(train["ldl_opt"]).to(self.device) if train.get("ldl_opt") else None
        if self.cri_ldl and self.ema_decay <= 0:
            raise OptionsError("train:ldl_opt needs train:ema_decay: it compares with the average of the weights")

    def setup_optimizers(self) -> None:
        """The generator's and the discriminator's."""
        super().setup_optimizers()
        options = dict(self.opt["train"]["optim_d"])
        self.optimizer_d = self.get_optimizer(options.pop("type"), self.net_d.parameters(), **options)
        self.optimizers.append(self.optimizer_d)

    def of_photo(self, photo: Tensor) -> tuple[Tensor, Tensor]:
        """Degraded is the sharpened photo, whatever the losses compare with."""
        return self.sharpen(photo), photo

    def _sharpened(self) -> list[str]:
        """The options that ask for sharpened references."""
        return [key for key in ("l1_gt_usm", "percep_gt_usm", "gan_gt_usm") if self.opt.get(key) is not False]

    def optimize_parameters(self, current_iter: int) -> None:
        """One step of the generator, if it is its turn, and one of the discriminator, on the batch that was fed.

        Both gradients are computed before either step is taken, at the weights that the iteration began with.

        Raises:
            TrainingError: a loss, of either, or a gradient is not finite: the batch is saved, and neither step is
                taken (the generator's is, if nothing but the discriminator's gradient is wrong).
        """
        asked = self._sharpened()
        with torch.no_grad():
            sharp = self.sharpen(self.gt) if asked else self.gt
        l1_gt, percep_gt, gan_gt = (
            sharp if key in asked else self.gt for key in ("l1_gt_usm", "percep_gt_usm", "gan_gt_usm")
        )
        self.optimizer_g.zero_grad(set_to_none=True)
        self.optimizer_d.zero_grad(set_to_none=True)
        its_turn = current_iter % self.net_d_iters == 0 and current_iter > self.net_d_init_iters
        with self.precision(), torch.set_grad_enabled(its_turn):
            output = self.forward_g(self.lq)
        output = output.float()
        found: dict[str, Tensor] = {}
        if its_turn:
            found = self.generator_losses(output, l1_gt, percep_gt)
            torch.stack(list(found.values())).sum().backward()  # type: ignore[no-untyped-call]
        self.output = output.detach()
        logged = {name: value.detach() for name, value in found.items()}
        logged.update(self.discriminator_losses(gan_gt))

        losses = torch.stack([value for name, value in logged.items() if name.startswith("l_")]).sum()
        if its_turn:
            logged["grad_norm"] = self.step(self.optimizer_g, self.net_g, losses, current_iter)
        logged["grad_norm_d"] = self.step(self.optimizer_d, self.net_d, losses, current_iter)
        if self.ema_decay > 0:
            self.model_ema(self.ema_decay)
        self.log_tensors = logged

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """As BasicSR's; the generator's rate runs on while `net_d_init_iters` lets it wait."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            super().update_learning_rate(current_iter, warmup_iter)

    def generator_losses(self, output: Tensor, l1_gt: Tensor, percep_gt: Tensor) -> dict[str, Tensor]:
        """What the generator is to make small, by name in the log; of the discriminator nothing is learned here."""
        found: dict[str, Tensor] = {}
        if self.cri_pix:
            found["l_g_pix"] = self.cri_pix(output, l1_gt)
        if self.cri_ldl:
            with torch.no_grad(), self.precision():
                average = self.net_g_ema(self.lq)
            where = get_refined_artifact_map(self.gt, output, average.float(), 7)
            found["l_g_ldl"] = self.cri_ldl(where * output, where * self.gt)
        found.update(self.perceptual_losses(output, percep_gt, "l_g_"))
        # Not in its DistributedDataParallel, which would wait for gradients of parameters that get none.
        judge = self.get_bare_model(self.net_d).requires_grad_(False)
        with self.precision():
            judged = judge(output)
        found["l_g_gan"] = self.cri_gan(judged.float(), True, is_disc=False)
        judge.requires_grad_(True)
        return found

    def discriminator_losses(self, gan_gt: Tensor) -> dict[str, Tensor]:
        """Add the discriminator's gradient on real images and on `self.output`; return what goes to the log."""
        logged = {}
        for name, pictures in (("real", gan_gt), ("fake", self.output)):
            with self.precision():
                judged = self.net_d(pictures)
            judged = judged.float()
            loss = self.cri_gan(judged, name == "real", is_disc=True)
            loss.backward()
            logged[f"l_d_{name}"], logged[f"out_d_{name}"] = loss.detach(), judged.detach().mean()
        return logged

    def save_networks(self, epoch: int, current_iter: int) -> None:
        """Write generator and discriminator."""
        super().save_networks(epoch, current_iter)
        self.write_network("net_d", current_iter, {"params": self.get_bare_model(self.net_d)}, self.opt["network_d"])
