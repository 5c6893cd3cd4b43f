"""Write `options/train/` and `options/test/`, the option files that ship, from the table in this file.

    python tools/make_options.py            # write them
    python tools/make_options.py --check    # exit status 1 if one on disk differs, is missing or is not in the table

The numbers of HAT-S, HAT, HAT-L and Real-HAT are published: https://github.com/XPixelGroup/HAT (networks, schedules),
https://github.com/xinntao/Real-ESRGAN (degradation). HAT-XS is this project's own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hatdet.sr.catalogue import FAMILIES

OPTIONS = Path(__file__).resolve().parent.parent / "options"

# ------------------------------------------------------------------------------------------ 1. the table


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        lr: Adam's, with betas 0.9 and 0.99.
        steps: iterations in all.
        halved: iterations at which the learning rate is halved; none for one cosine.
        patch: side of what the network sees, in low-resolution pixels.
        warmup: iterations over which the learning rate rises; -1 for none.
        every: iterations between validations, and between checkpoints.
        sets: what it is validated on.
        train, val, logger: more lines of these sections.
    """

    lr: str
    steps: int
    halved: tuple[int, ...] = ()
    batch: int = 4
    workers: int = 6
    patch: int = 64
    every: int = 5_000
    sets: tuple[str, ...] = ("Set5", "Set14")
    print_every: int = 100
    warmup: int = -1
    train: str = "reference_batch: 32  # 4 on each of 8 GPUs: another batch in all asks for another learning rate"
    val: str = ""
    logger: str = ""


SCRATCH = Recipe("2.0e-4", 500_000, (250_000, 400_000, 450_000, 475_000))
FROM_X2 = Recipe("1.0e-4", 250_000, (125_000, 200_000, 225_000, 240_000))
IMAGENET = Recipe("2.0e-4", 800_000, (300_000, 500_000, 650_000, 700_000, 750_000), every=10_000)
FINE = Recipe("1.0e-5", 250_000, (125_000, 200_000, 225_000, 240_000))
SCRATCH_S = replace(SCRATCH, every=20_000, sets=("Set5", "Set14", "urban100"))
FROM_X2_S = replace(FROM_X2, every=20_000, sets=("Set5", "Set14", "urban100"))
REAL_MSE = Recipe("1.0e-4", 1_000_000, (1_000_000,), workers=5, every=10_000, sets=(), print_every=200, train="")
REAL_GAN = Recipe("1.0e-4", 400_000, (400_000,), workers=5, every=10_000, sets=(), print_every=200, train="")
XS = Recipe(
    lr="4.0e-4",
    steps=20_000,
    batch=8,
    workers=1,
    patch=32,
    every=2_000,
    sets=("Set5", "BSD100"),
    warmup=100,
    train="""\
precision: auto  # bf16 (autocast: weights and optimizer stay in fp32) where the device computes in it, else fp32
fp32_tail: false  # the reconstruction in bf16 too, which is much of so small a network's work
channels_last: true
grad_clip: 1.0""",
    logger="save_checkpoint_freq: 500\nkeep_checkpoints: 3",
)
# Through the detector: what a step costs is the detector's as well, so patches are few and large.
DETECTION_XS = replace(
    XS,
    lr="2.0e-4",
    steps=2_500,
    batch=4,
    workers=1,
    patch=64,
    every=500,
    sets=("detection",),
    train=XS.train + "\nskip_not_finite: 20",
    logger="save_checkpoint_freq: 250\nkeep_checkpoints: 3",
)
DETECTION = replace(
    DETECTION_XS,
    lr="5.0e-5",
    steps=20_000,
    workers=6,
    every=2_000,
    train="precision: auto\ngrad_clip: 1.0\nskip_not_finite: 20",
    logger="keep_checkpoints: 3",
)
TITLES = {"hat-xs": "HAT-XS", "hat-s": "HAT-S", "hat": "HAT", "hat-l": "HAT-L"}
BENCHMARKS = ("Set5", "Set14", "urban100", "BSDS100", "manga109")  # folders as HAT's files name them


def all_files() -> Iterator[tuple[str, str]]:
    """Name, below `options/`, and text of every file."""
    for family, recipe in (("hat-s", SCRATCH_S), ("hat", SCRATCH)):
        title = TITLES[family]
        for scale in (2, 3):
            yield paired(f"train_{title}_SRx{scale}_from_scratch", family, scale, recipe, NOTHING)
    for family, recipe in (("hat-s", FROM_X2_S), ("hat", FROM_X2)):
        title = TITLES[family]
        start = start_from(f"train_{title}_SRx2_from_scratch", f"  # or the published {title}_SRx2")
        start = start.replace("strict_load_g: true", "strict_load_g: false  # x4 has one stage more: it starts anew")
        yield paired(f"train_{title}_SRx4_finetune_from_SRx2", family, 4, recipe, start)
    for family in ("hat", "hat-l"):
        for scale in (2, 3, 4):
            title = f"{TITLES[family]}_SRx{scale}"
            first, second = f"train_{title}_ImageNet_from_scratch", f"train_{title}_finetune_from_ImageNet_pretrain"
            yield imagenet(first, family, scale)
            yield paired(second, family, scale, FINE, start_from(first))
    first, second = "train_Real_HAT_SRx4_mse_model", "train_Real_HAT_GAN_SRx4_finetune_from_mse_model"
    yield real(first, "RealHATMSEModel", REAL_MSE, NOTHING)
    yield real(second, "RealHATGANModel", REAL_GAN, start_from(first))
    for scale in (2, 4):
        yield own(scale)

    for family, weights, recipe in (
        ("hat-xs", "hat-xs-x4", DETECTION_XS),
        ("hat-s", "HAT-S_SRx4", DETECTION),
        ("hat", "HAT_SRx4_ImageNet-pretrain", DETECTION),
    ):
        yield detection(family, weights, recipe)

    for family, end in (("hat-s", ""), ("hat", ""), ("hat", "_ImageNet-pretrain"), ("hat-l", "_ImageNet-pretrain")):
        for scale in (2, 3, 4):
            name = f"{TITLES[family]}_SRx{scale}{end}"
            yield benchmark(name, family, scale, name, BENCHMARKS)
    weights = "HAT_SRx4_ImageNet-pretrain"
    yield benchmark("HAT-XS_SRx4", "hat-xs", 4, "hat-xs-x4", ("Set5",))
    yield benchmark("HAT_tile_example", "hat", 4, weights, ("Set5", "urban100"), tile=256)
    yield folder("HAT_SRx4_ImageNet-LR", weights)
    yield folder("HAT_GAN_Real_SRx4", "Real_HAT_GAN_SRx4", tile=512)


# ------------------------------------------------------------------------------------------ 2. kinds of files


def paired(name: str, family: str, scale: int, recipe: Recipe, start: str) -> tuple[str, str]:
    """Training on DF2K."""
    about = f"{TITLES[family]} x{scale} on DF2K (DIV2K and Flickr2K), as it was published.\n"
    about += f"Data: hatdet prepare DIV2K/ Flickr2K/ -o datasets/DF2K --scale {scale} --sub-images 480"
    train = pairs("DF2K", scale, recipe)
    return training(name, about, general(name, scale), train, network(family, scale), start, scale, recipe)


def own(scale: int) -> tuple[str, str]:
    """HAT-XS on a folder of photos."""
    about = f"HAT-XS x{scale}, the smallest size, on photos of your own and one machine.\n"
    about += f"Data: hatdet prepare PHOTOS/ -o datasets/photos --scale {scale} --sub-images 192 --step 96\n"
    about += "Without Set5 and BSD100 to measure on: --force_yml datasets:val_1=~ datasets:val_2=~"
    start = NOTHING.replace(
        "pretrain_network_g: ~", "pretrain_network_g: hat-xs-x4  # what ships; ~ begins from nothing"
    )
    head, train = general(f"HAT-XS_SRx{scale}", scale), pairs("photos", scale, XS)
    file = f"train_HAT-XS_SRx{scale}"
    return training(file, about, head, train, network("hat-xs", scale), start, scale, XS)


def detection(family: str, weights: str, recipe: Recipe) -> tuple[str, str]:
    """Training for a detector, on images with boxes and photos without."""
    name = f"{TITLES[family]}_SRx4_detection"
    about = (
        f"{TITLES[family]} x4 trained for a detector: its pictures are to show the detector what the originals show.\n"
    )
    about += (
        "Data: datasets/detection.yaml, an Ultralytics data file (or COCO's JSON) with train and val; and photos of\n"
    )
    about += (
        "any kind in datasets/photos, which need no labels. Without those: --force_yml datasets:train:unlabelled=~\n"
    )
    train = f"""\
    name: detection
    type: DetectionPairedDataset
    data: datasets/detection.yaml
    split: train
    unlabelled: [datasets/photos]
    labelled_share: 0.5
    min_visible: 0.3  # of a box that the crop cuts
    resize_range: [0.7, 1.0]  # objects of more sizes
    io_backend:
      type: disk
{loading(4, recipe)}"""
    head = general(name, 4, "HATDetectionModel") + DETECTORS
    start = NOTHING.replace("pretrain_network_g: ~", f"pretrain_network_g: {weights}")
    return training(f"train_{name}", about, head, train, network(family, 4), start, 4, recipe, DETECTION_LOSSES)


def imagenet(name: str, family: str, scale: int) -> tuple[str, str]:
    """Pre-training on ImageNet."""
    about = f"{TITLES[family]} x{scale} on ImageNet, as it was published: the first step of two.\n"
    about += "Data: ImageNet's training images, in folders of any depth; they are reduced as they are read."
    train = f"""\
    name: ImageNet
    type: ImageNetPairedDataset
    dataroot_gt: datasets/imagenet/train
    io_backend:
      type: disk
{loading(scale, IMAGENET)}"""
    head, net = general(name, scale), network(family, scale)
    return training(name, about, head, train, net, NOTHING, scale, IMAGENET)


def real(name: str, model: str, recipe: Recipe, start: str) -> tuple[str, str]:
    """Training for photos with noise, blur and JPEG, by Real-ESRGAN's degradation of good ones."""
    adversarial = model == "RealHATGANModel"
    how = "against a discriminator, the second of two stages" if adversarial else "by pixels, the first of two stages"
    about = f"HAT x4 for photos with noise, blur and JPEG, {how}.\n"
    about += "Data: hatdet prepare DIV2K/ Flickr2K/ OST/ -o datasets/DF2K_OST --scale 4 --sub-images 480"
    sharpened = "l1_gt_usm: true\npercep_gt_usm: true\ngan_gt_usm: false" if adversarial else "gt_usm: true"
    head = f"{general(name, 4, model)}\n# sharpened references\n{sharpened}\n{DEGRADATION}"
    train = f"""\
    name: DF2K+OST
    type: RealESRGANDataset
    dataroot_gt: datasets/DF2K_OST/GTmod4_sub
    meta_info: datasets/DF2K_OST/meta_info_DF2K_OST_x4.txt
    io_backend:
      type: disk
{KERNELS}
{loading(4, recipe).replace("use_rot: true", "use_rot: false")}"""
    net, more = network("hat", 4), ADVERSARIAL if adversarial else ""
    if adversarial:
        net += DISCRIMINATOR
    return training(name, about, head, train, net, start, 4, recipe, more)


def benchmark(
    name: str, family: str, scale: int, weights: str, sets: Sequence[str], tile: int | None = None
) -> tuple[str, str]:
    """PSNR and SSIM on benchmark pairs."""
    about = f"PSNR and SSIM of {weights} on {', '.join(map(title_of, sets))}.\n"
    about += f"Data: hatdet prepare SET/ -o datasets/SET --scale {scale}; without one: --force_yml datasets:test_1=~"
    datasets = "\n".join(pair_of(f"test_{number}", each, scale) for number, each in enumerate(sets, 1))
    measured = f"\n  metrics:\n{metric('psnr', scale)}{metric('ssim', scale)}"
    return testing(name, about, family, scale, weights, datasets, measured, tile)


def folder(name: str, weights: str, tile: int | None = None) -> tuple[str, str]:
    """Images without references."""
    about = f"Upscales a folder of images by {weights} (hatdet sr does so without an option file).\n"
    about += "Data: --force_yml datasets:test_1:dataroot_lq=DIR"
    datasets = """\
  test_1:
    name: custom
    type: SingleImageDataset
    dataroot_lq: input_dir
    io_backend:
      type: disk
"""
    return testing(name, about, "hat", 4, weights, datasets, "", tile)


# ------------------------------------------------------------------------------------------ 3. whole files


def training(
    name: str,
    about: str,
    head: str,
    data: str,
    networks: str,
    start: str,
    scale: int,
    recipe: Recipe,
    more: str = "",
) -> tuple[str, str]:
    sets = "".join("\n" + pair_of(f"val_{number}", each, scale) for number, each in enumerate(recipe.sets, 1))
    metrics = f"  metrics:\n{metric('psnr', scale, best=True)}{metric('ssim', scale, best=True)}"
    if recipe.sets == ("detection",):  # measured as `hatdet eval` measures
        sets, metrics = DETECTION_SET, ""
    schedule = f"type: MultiStepLR\n    milestones: {list(recipe.halved)}\n    gamma: 0.5"
    if not recipe.halved:
        schedule = f"type: CosineAnnealingRestartLR\n    periods: [{recipe.steps}]\n    restart_weights: [1]\n"
        schedule += "    eta_min: 1.0e-6"
    val = f"""
val:
  val_freq: {recipe.every}
  save_img: false
  pbar: false
{indented(recipe.val)}{metrics}"""
    saving = "" if "save_checkpoint_freq" in recipe.logger else f"  save_checkpoint_freq: {recipe.every}\n"
    return (
        f"train/{name}.yml",
        f"""\
{comment("train", name, about)}
{head}
datasets:
  train:
{data}{sets}
{networks}
path:
{start}  resume_state: ~

train:
  ema_decay: 0.999
{adam("optim_g", recipe)}  scheduler:
    {schedule}
  total_iter: {recipe.steps}
  warmup_iter: {recipe.warmup}
{indented(recipe.train)}  pixel_opt:
    type: L1Loss
    loss_weight: 1.0
    reduction: mean
{adam("optim_d", recipe) if more is ADVERSARIAL else ""}{more}{val if recipe.sets else ""}
logger:
  print_freq: {recipe.print_every}
{saving}{indented(recipe.logger)}  use_tb_logger: true
  wandb:
    project: ~
    resume_id: ~

dist_params:
  backend: nccl
  port: 29500
""",
    )


def testing(
    name: str,
    about: str,
    family: str,
    scale: int,
    weights: str,
    datasets: str,
    measured: str,
    tile: int | None,
) -> tuple[str, str]:
    tiles = f"\ntile:  # pixels of the input\n  tile_size: {tile}\n  tile_pad: 32\n" if tile else ""
    return (
        f"test/{name}.yml",
        f"""\
{comment("test", name, about)}
{general(name, scale)}{tiles}
datasets:
{datasets}
{network(family, scale)}
path:
  pretrain_network_g: {weights}  # a name that hatdet models lists, or a file
  param_key_g: params_ema
  strict_load_g: true

val:
  save_img: true
  suffix: ~  # at the end of the images' names; ~ for the name above
{measured.lstrip(chr(10))}""",
    )


def comment(verb: str, name: str, about: str) -> str:
    lines = [
        *about.splitlines(),
        f"Run: hatdet {verb} -opt options/{verb}/{name}.yml",
        "Made by tools/make_options.py.",
    ]
    return "".join(f"# {line}\n" for line in lines)


# ------------------------------------------------------------------------------------------ 4. sections


def general(name: str, scale: int, model: str = "HATModel") -> str:
    return f"name: {name}\nmodel_type: {model}\nscale: {scale}\nnum_gpu: auto  # 0 for the CPU\nmanual_seed: 0\n"


def network(family: str, scale: int) -> str:
    keys = {"type": "HAT", "upscale": scale, **FAMILIES[family]}
    return "network_g:\n" + "".join(f"  {key}: {value}\n" for key, value in keys.items())


def pairs(name: str, scale: int, recipe: Recipe) -> str:
    return f"""\
    name: {name}
    type: PairedImageDataset
    dataroot_gt: datasets/{name}/GTmod{scale}_sub
    dataroot_lq: datasets/{name}/LRbicx{scale}_sub
    meta_info_file: datasets/{name}/meta_info_{name}_x{scale}.txt
    io_backend:
      type: disk
{loading(scale, recipe)}"""


def loading(scale: int, recipe: Recipe) -> str:
    return f"""\
    gt_size: {recipe.patch * scale}
    use_hflip: true
    use_rot: true
    use_shuffle: true
    num_worker_per_gpu: {recipe.workers}
    batch_size_per_gpu: {recipe.batch}
    dataset_enlarge_ratio: 1
    prefetch_mode: ~
"""


def title_of(name: str) -> str:
    return name[0].upper() + name[1:]


def pair_of(phase: str, name: str, scale: int) -> str:
    return f"""\
  {phase}:
    name: {title_of(name)}
    type: PairedImageDataset
    dataroot_gt: datasets/{name}/GTmod{scale}
    dataroot_lq: datasets/{name}/LRbicx{scale}
    io_backend:
      type: disk
"""


def start_from(run: str, note: str = "") -> str:
    weights = f"experiments/{run}/models/net_g_latest.pth"
    return f"  pretrain_network_g: {weights}{note}\n  param_key_g: params_ema\n  strict_load_g: true\n"


def adam(key: str, recipe: Recipe) -> str:
    return f"  {key}:\n    type: Adam\n    lr: {recipe.lr}\n    weight_decay: 0\n    betas: [0.9, 0.99]\n"


def metric(name: str, scale: int, *, best: bool = False) -> str:
    lines = f"    {name}:\n      type: calculate_{name}\n      crop_border: {scale}\n      test_y_channel: true\n"
    return lines + ("      better: higher\n" if best else "")


def indented(lines: str) -> str:
    return "".join(f"  {line}\n" for line in lines.splitlines())


NOTHING = "  pretrain_network_g: ~\n  param_key_g: params_ema\n  strict_load_g: true\n"
DEGRADATION = """
# the first pass
resize_prob: [0.2, 0.7, 0.1]  # up, down, as it is
resize_range: [0.15, 1.5]
gaussian_noise_prob: 0.5  # else Poisson's
noise_range: [1, 30]
poisson_scale_range: [0.05, 3]
gray_noise_prob: 0.4
jpeg_range: [30, 95]

# the second pass
second_blur_prob: 0.8
resize_prob2: [0.3, 0.4, 0.3]
resize_range2: [0.3, 1.2]
gaussian_noise_prob2: 0.5
noise_range2: [1, 25]
poisson_scale_range2: [0.05, 2.5]
gray_noise_prob2: 0.4
jpeg_range2: [30, 95]

gt_size: 256
queue_size: 180  # pairs that batches are drawn from; a multiple of the batch
"""
KERNELS = """\
    blur_kernel_size: 21
    kernel_list: [iso, aniso, generalized_iso, generalized_aniso, plateau_iso, plateau_aniso]
    kernel_prob: [0.45, 0.25, 0.12, 0.03, 0.12, 0.03]
    sinc_prob: 0.1
    blur_sigma: [0.2, 3]
    betag_range: [0.5, 4]
    betap_range: [1, 2]
    blur_kernel_size2: 21
    kernel_list2: [iso, aniso, generalized_iso, generalized_aniso, plateau_iso, plateau_aniso]
    kernel_prob2: [0.45, 0.25, 0.12, 0.03, 0.12, 0.03]
    sinc_prob2: 0.1
    blur_sigma2: [0.2, 1.5]
    betag_range2: [0.5, 4]
    betap_range2: [1, 2]
    final_sinc_prob: 0.8"""
DISCRIMINATOR = """
network_d:
  type: UNetDiscriminatorSN
  num_in_ch: 3
  num_feat: 64
  skip_connection: true
"""
DETECTORS = """
detection:
  detectors: [yolo11n]  # frozen; of several they take turns. Names and files as --weights takes them
  witnesses: [yolov8n]  # measured with at validations, never trained with: a gain that they do not see is none
  moved_share: 0.5  # of the steps in which the detector sees the pictures moved by up to `shift` pixels and rescaled
  shift: 31
  rescale: [0.75, 1.25]
"""
DETECTION_SET = """
  val_1:
    name: detection
    type: DetectionPairedDataset
    data: datasets/detection.yaml
    split: val
    io_backend:
      type: disk
"""
DETECTION_LOSSES = """\
  feature_opt:  # the detector's feature maps of the upscaled image against those of the original
    type: DetectorFeatureLoss
    loss_weight: 0.2
    levels: [3, 4, 5]
  box_opt:  # the detector's loss of the labelled boxes
    type: DetectorBoxLoss
    loss_weight: 0.002
    schedule:
      from_iter: 500
      ramp_iter: 200
  consistency_opt:  # reduced again, it is the low-resolution image
    type: ReductionLoss
    loss_weight: 0.5
"""
ADVERSARIAL = """\
  perceptual_opt:
    type: PerceptualLoss
    layer_weights: {conv1_2: 0.1, conv2_2: 0.1, conv3_4: 1, conv4_4: 1, conv5_4: 1}
    vgg_type: vgg19
    use_input_norm: true
    range_norm: false
    perceptual_weight: 1.0
    style_weight: 0
    criterion: l1
  gan_opt:
    type: GANLoss
    gan_type: vanilla
    real_label_val: 1.0
    fake_label_val: 0.0
    loss_weight: 0.1
  net_d_iters: 1
  net_d_init_iters: 0
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or with `--check` say which differ; the exit status."""
    parser = argparse.ArgumentParser(description="Write the option files that ship.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file differs")
    check = parser.parse_args(arguments).check
    texts = dict(all_files())
    present = {f"{verb}/{path.name}" for verb in ("train", "test") for path in (OPTIONS / verb).glob("*.yml")}
    strays = present - texts.keys()
    differing = [name for name, text in texts.items() if name not in present or (OPTIONS / name).read_text() != text]
    for name in sorted(strays):
        print(f"options/{name} is not in the table", file=sys.stderr)
    for name in differing:
        print(f"options/{name} {'differs from the table' if check else 'written'}", file=sys.stderr)
        if not check:
            (OPTIONS / name).parent.mkdir(parents=True, exist_ok=True)
            (OPTIONS / name).write_text(texts[name])
    return 1 if strays or (check and differing) else 0


if __name__ == "__main__":
    sys.exit(main())
