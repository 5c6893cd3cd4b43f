"""What an option file may say: BasicSR's and HAT's keys, and ours, each with its type.

Keys of ours: the section `detection`; `train:precision`, `channels_last`, `compile`, `grad_clip`, `accumulate`,
`fp32_tail`, `reference_batch`, `skip_not_finite`, `schedule` of any loss; `val:at_start`; `logger:keep_checkpoints`;
`dist_params:timeout`; `path:root`. The rest means what it means in BasicSR 1.4.2 and in HAT's repository.
"""

from __future__ import annotations

import inspect
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, ValidationError

from hatdet.training.signatures import MisfitError, number, shown, unknown, whole

__all__ = ["EvaluationOptions", "TrainingOptions", "structure"]

# ------------------------------------------------------------------------------------------ 1. values


def _rising(values: list[float]) -> list[float]:
    if values[0] > values[1]:
        raise MisfitError("two numbers, the smaller first")
    return values


def _device_count(value: Any) -> int | str:
    try:
        count = "auto" if value == "auto" else whole(value)
    except MisfitError:
        count = -1
    if isinstance(count, int) and count < 0:
        raise MisfitError("auto or a whole number from 0")
    return count


def _folder_name(value: str) -> str:
    if not value.strip(". ") or "/" in value or "\\" in value:
        raise MisfitError("a name that a folder can have")
    return value


Whole = Annotated[int, BeforeValidator(whole)]
Count = Annotated[int, BeforeValidator(whole), Field(ge=0)]
Positive = Annotated[int, BeforeValidator(whole), Field(ge=1)]
Number = Annotated[float, BeforeValidator(number)]
PositiveNumber = Annotated[float, BeforeValidator(number), Field(gt=0)]
Share = Annotated[float, BeforeValidator(number), Field(ge=0, le=1)]
Range = Annotated[list[Number], Field(min_length=2, max_length=2), AfterValidator(_rising)]
Shares = list[Share]
ThreeShares = Annotated[list[Share], Field(min_length=3, max_length=3)]
Call = dict[str, Any]  # `type` names what is called: checked by its signature
Datasets = dict[str, Any]  # each is a section by itself


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)


# ------------------------------------------------------------------------------------------ 2. data


class Backend(_Section):
    type: Literal["disk", "lmdb", "memcached"]
    readonly: StrictBool | None = None
    lock: StrictBool | None = None
    readahead: StrictBool | None = None
    server_list_cfg: str | None = None
    client_cfg: str | None = None
    sys_path: str | None = None


class Dataset(_Section):
    """One data set of any phase."""

    name: str
    type: str
    io_backend: Backend
    dataroot_gt: str | None = None
    dataroot_lq: str | None = None
    meta_info: str | None = None
    meta_info_file: str | None = None
    filename_tmpl: str | None = None
    color: str | None = None
    mean: list[Number] | None = None
    std: list[Number] | None = None
    # What the program says itself; BasicSR's files may say it too.
    phase: str | None = None
    scale: Positive | None = None
    # Training.
    gt_size: Positive | None = None
    use_hflip: StrictBool | None = None
    use_rot: StrictBool | None = None
    use_shuffle: StrictBool | None = None
    num_worker_per_gpu: Count | None = None
    batch_size_per_gpu: Positive | None = None
    dataset_enlarge_ratio: Positive | None = None
    prefetch_mode: Literal["cpu", "cuda"] | None = None
    num_prefetch_queue: Positive | None = None
    pin_memory: StrictBool | None = None
    persistent_workers: StrictBool | None = None
    # The blur kernels of Real-ESRGAN's degradation: first pass, second pass, the sinc filter at the end.
    blur_kernel_size: Positive | None = None
    kernel_list: list[str] | None = None
    kernel_prob: Shares | None = None
    sinc_prob: Share | None = None
    blur_sigma: Range | None = None
    betag_range: Range | None = None
    betap_range: Range | None = None
    blur_kernel_size2: Positive | None = None
    kernel_list2: list[str] | None = None
    kernel_prob2: Shares | None = None
    sinc_prob2: Share | None = None
    blur_sigma2: Range | None = None
    betag_range2: Range | None = None
    betap_range2: Range | None = None
    final_sinc_prob: Share | None = None
    # DetectionPairedDataset.
    data: str | None = None
    images: str | None = None
    split: str | None = None
    skip: Count | None = None
    limit: Positive | None = None
    unlabelled: list[str] | None = None
    labelled_share: Share | None = None
    min_visible: Share | None = None
    resize_range: Range | None = None
    degradation: str | None = None
    degradation_share: Share | None = None


class TrainingSet(Dataset):
    gt_size: Positive
    use_hflip: StrictBool
    use_rot: StrictBool
    num_worker_per_gpu: Count
    batch_size_per_gpu: Positive


# ------------------------------------------------------------------------------------------ 3. sections


class Tile(_Section):
    tile_size: Positive
    tile_pad: Count


class Paths(_Section):
    root: str | None = None
    pretrain_network_g: str | None = None
    param_key_g: str | None = None
    strict_load_g: StrictBool | None = None
    pretrain_network_d: str | None = None
    param_key_d: str | None = None
    strict_load_d: StrictBool | None = None
    resume_state: str | None = None
    ignore_resume_networks: list[str] | str | None = None


class Train(_Section):
    total_iter: Positive
    warmup_iter: Whole | None = None
    ema_decay: Annotated[float, BeforeValidator(number), Field(ge=0, lt=1)] | None = None
    optim_g: Call
    optim_d: Call | None = None
    scheduler: Call
    pixel_opt: Call | None = None
    perceptual_opt: Call | None = None
    ldl_opt: Call | None = None
    gan_opt: Call | None = None
    feature_opt: Call | None = None
    box_opt: Call | None = None
    consistency_opt: Call | None = None
    net_d_iters: Positive | None = None
    net_d_init_iters: Count | None = None
    # Ours.
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    channels_last: StrictBool = False
    compile: StrictBool = False
    grad_clip: PositiveNumber | None = None
    accumulate: Positive = 1
    fp32_tail: StrictBool = True
    reference_batch: Positive | None = None
    skip_not_finite: Count = 0


class Tuning(_Section):
    """How the detectors learn beside the network."""

    lr: PositiveNumber
    momentum: Share = 0.9
    weight_decay: Annotated[float, BeforeValidator(number), Field(ge=0)] = 1e-4
    grad_clip: PositiveNumber = 10.0
    from_iter: Count = 0
    every: Positive = 1


class DetectionSection(_Section):
    """The detectors that judge the upscaled pictures."""

    detectors: Annotated[list[str], Field(min_length=1)]
    witnesses: list[str] | None = None
    moved_share: Share = 0.5
    shift: Count = 31
    rescale: Range = [0.75, 1.25]
    tune: Tuning | None = None


class Val(_Section):
    val_freq: Positive | None = None
    save_img: StrictBool | None = None
    pbar: StrictBool | None = None
    suffix: str | None = None
    metrics: dict[str, Call] | None = None
    at_start: StrictBool = True


class Wandb(_Section):
    project: str | None = None
    resume_id: str | None = None


class Logger(_Section):
    print_freq: Positive
    save_checkpoint_freq: Positive
    use_tb_logger: StrictBool | None = None
    wandb: Wandb | None = None
    keep_checkpoints: Positive | None = None


class Distributed(_Section):
    backend: str | None = None
    port: Positive | None = None
    timeout: PositiveNumber | None = None  # seconds, of collectives


class _Options(_Section):
    """What training and testing share."""

    name: Annotated[str, AfterValidator(_folder_name)]
    model_type: str
    scale: Positive
    num_gpu: Annotated[int | str, BeforeValidator(_device_count)] = "auto"
    manual_seed: Count | None = None
    find_unused_parameters: StrictBool | None = None
    datasets: Datasets
    network_g: Call
    network_d: Call | None = None
    path: Paths | None = None
    tile: Tile | None = None
    detection: DetectionSection | None = None
    dist_params: Distributed | None = None
    # Real-ESRGAN's second-order degradation, after the kernels that the data set makes.
    high_order_degradation: StrictBool | None = None
    gt_usm: StrictBool | None = None
    l1_gt_usm: StrictBool | None = None
    percep_gt_usm: StrictBool | None = None
    gan_gt_usm: StrictBool | None = None
    resize_prob: ThreeShares | None = None
    resize_range: Range | None = None
    gaussian_noise_prob: Share | None = None
    noise_range: Range | None = None
    poisson_scale_range: Range | None = None
    gray_noise_prob: Share | None = None
    jpeg_range: Range | None = None
    second_blur_prob: Share | None = None
    resize_prob2: ThreeShares | None = None
    resize_range2: Range | None = None
    gaussian_noise_prob2: Share | None = None
    noise_range2: Range | None = None
    poisson_scale_range2: Range | None = None
    gray_noise_prob2: Share | None = None
    jpeg_range2: Range | None = None
    gt_size: Positive | None = None
    queue_size: Positive | None = None


class TrainingOptions(_Options):
    train: Train
    val: Val | None = None
    logger: Logger


class EvaluationOptions(_Options):
    val: Val | None = None
    logger: Logger | None = None


# ------------------------------------------------------------------------------------------ 4. complaints


def structure(options: dict[str, Any], model: type[BaseModel]) -> tuple[dict[str, Any], list[str]]:
    """The options with their values as the schema's types and only the keys that were given, and what is wrong.

    Where something is wrong, the options are without the section that it is in.
    """
    checked, complaints = _section(options, model, ())
    datasets = options.get("datasets")
    for phase, dataset in datasets.items() if isinstance(datasets, dict) else ():
        found, wrong = _section(dataset, TrainingSet if phase == "train" else Dataset, ("datasets", phase))
        complaints += wrong
        if checked:
            checked["datasets"][phase] = found
    return checked, complaints


def _section(values: Any, model: type[BaseModel], where: tuple[str, ...]) -> tuple[dict[str, Any], list[str]]:
    try:
        return model.model_validate(values).model_dump(exclude_unset=True), []
    except ValidationError as errors:
        return {}, [_complaint(dict(error), model, where) for error in errors.errors(include_url=False)]


_PLAIN = {
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a section of keys",
    "model_type": "a section of keys",
}


def _complaint(error: dict[str, Any], model: type[BaseModel], where: tuple[str, ...]) -> str:
    """One of pydantic's errors as one line that begins with the key."""
    key = ":".join(map(str, (*where, *error["loc"])))
    kind = error["type"]
    if kind == "extra_forbidden":
        return unknown(key, "", _model_of(model, error["loc"][:-1]).model_fields)
    if kind == "missing":
        return f"{key} is missing"
    expected = _PLAIN.get(kind, "") or str(error.get("ctx", {}).get("error", ""))
    expected = f"must be {expected}" if expected else error["msg"].replace("Input should", "must")
    return f"{key} {expected}, got {shown(error['input'])}"


def _model_of(model: type[BaseModel], location: tuple[str, ...]) -> type[BaseModel]:
    """The model of the section at a place in the options."""
    for key in location:
        kind = model.model_fields[key].annotation
        model = next(each for each in (kind, *get_args(kind)) if inspect.isclass(each) and issubclass(each, BaseModel))
    return model
