"""Compare attention layers in one YOLO: each with the plain model, and with a plain block of as many parameters there.

    export HATDET_DATA=/path/to/data      # holds det/coco128 and det/kit_ais (images, and YOLO labels)
    python tools/bench_attention.py --weights yolo11n.pt -o OUT
    python tools/bench_attention.py --weights yolo11n.pt -o OUT --modules EMA 'HaloAttention(2, 1, 32, 4)' --residual
    python tools/bench_attention.py --weights yolo11n.pt -o OUT --share 1/2 &    # two processes train half of it each
    python tools/bench_attention.py --weights yolo11n.pt -o OUT --share 2/2      # and a last call without it reports

Every model starts from the same weights, transferred past the new layer, and is trained alike by Ultralytics' trainer:
AdamW, a linear fall of the learning rate to a hundredth, no warm-up, no mosaic, float32, batch norm in evaluation mode
(weights whose batch norm is folded into the convolutions would be undone by a batch's statistics). What is scored is
the average of the weights after the last epoch, never the best epoch, by Ultralytics' validator: mAP50-95, conf 0.001.

coco128 trains on the 128 images of train2017 and is scored on those of val2017. KIT AIS is split by sequence, since
frames of one are near-duplicates: MOS155 and up train, MOS74 to MOS93 are scored, which hold cars only. Wide frames
are cut into parts of about 640 pixels.

A finished run is kept in OUT, and a later call with the same settings does not repeat it.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
import yaml
from attention_bench_data import DATA, prepare
from attention_bench_report import MATCHED, PLAIN, limits_of, report
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from hatdet.core.atomic import write_text
from hatdet.core.errors import HatdetError, OptionsError
from hatdet.detection.attention.inspection import attention_module, build, complete_arguments, stride_at
from hatdet.detection.attention.layer import AttentionLayer
from hatdet.detection.attention.registration import make_known
from hatdet.detection.model_files import ModelFile, find_model_file, insert_row, read_model_file, scale_letter
from hatdet.detection.trainers import DetectionTrainer
from hatdet.detection.transfer import transfer_weights

MODULES = ("HaloAttention", "DAttention", "EfficientAttention", "AttnConv", "HATBlock")
SIZE = 640  # side of the image that costs are measured with
RECIPE = {
    "task": "detect",
    "mode": "train",
    "model": "host.yaml",  # not read
    "optimizer": "AdamW",
    "lrf": 0.01,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "warmup_epochs": 0,
    "mosaic": 0.0,
    "close_mosaic": 0,
    "patience": 0,
    "amp": False,
    "deterministic": True,
    "workers": 0,
    "conf": 0.001,
    "val": False,  # but after the last epoch
    "plots": False,
    "save": False,
}


# ------------------------------------------------------------------------------------------ 1. what is compared


class PlainBlock(AttentionLayer):
    """Two 1x1 convolutions with SiLU between: as many parameters as a layer, and no pixel sees another."""

    def __init__(self, dim: int | None = None, hidden: int = 1, residual: bool = False) -> None:
        super().__init__(dim, residual)
        self.expand = nn.Conv2d(self.dim, hidden, 1)
        self.contract = nn.Conv2d(hidden, self.dim, 1)

    def attend(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.contract(F.silu(self.expand(x))))


def hidden_width(parameters: int, dim: int, residual: bool) -> int:
    """The hidden width at which a `PlainBlock` comes nearest to that many parameters."""
    return max(1, round((parameters - dim * (1 + residual)) / (2 * dim + 1)))


@dataclass(frozen=True)
class Variant:
    """A model, and the row that it has more than the host."""

    name: str
    model: ModelFile
    row: str = ""


def variants(host: ModelFile, scale: str, modules: Sequence[str], after: int, residual: bool) -> list[Variant]:
    """The host, and for each module the host with it and with the matched block behind layer `after`."""
    make_known(PlainBlock, "PlainBlock")
    stride = stride_at(host, after)
    found = [Variant(PLAIN, host)]
    for text in modules:
        match = re.fullmatch(r"(\w+)(?:\((.*)\))?", text.strip())
        if match is None:
            raise OptionsError(f"--modules must be names, or names with arguments as in EMA(8), got {text!r}")
        module = attention_module(match[1])
        given = module.arguments.get(stride, ()) if match[2] is None else yaml.safe_load(f"[{match[2]}]")
        model = insert_row(host, after, module.name, complete_arguments(module, given, residual))
        layer = cast(Any, build(model, scale)).model[after + 1]
        hidden = hidden_width(parameters_of(layer), layer.dim, residual)
        block = insert_row(host, after, "PlainBlock", ["c2", hidden, *([True] if residual else [])])
        for name, each in ((text, model), (text + MATCHED, block)):
            found.append(Variant(name, each, str(each.rows[after + 1])))
    return found


def parameters_of(network: nn.Module) -> int:
    return sum(each.numel() for each in network.parameters())


# ------------------------------------------------------------------------------------------ 2. training


class _Trainer(DetectionTrainer):
    """Ultralytics' trainer with a model, weights and data that are at hand; it keeps nothing."""

    def __init__(self, rows: dict[str, Any], weights: dict[str, Any], data: dict[str, Any], overrides: Any) -> None:
        self._rows, self._weights, self._data = rows, weights, data
        super().__init__(overrides=overrides)

    def get_dataset(self) -> dict[str, Any]:
        return dict(self._data)

    def setup_model(self) -> None:
        self.model = self.get_model(copy.deepcopy(self._rows), verbose=False)
        self.transfer = transfer_weights(self.model, self._weights)

    def _model_train(self) -> None:
        super()._model_train()
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    def save_model(self) -> bool:
        return False


def train(
    variant: Variant, scale: str, weights: dict[str, Any], data: dict[str, Any], settings: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Train and score a variant once."""
    start, threads = time.perf_counter(), torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        trainer = _Trainer(
            variant.model.as_dict(scale),
            weights,
            data,
            {
                **RECIPE,
                **{key: settings[key] for key in ("epochs", "imgsz", "batch", "freeze", "device")},
                "nbs": settings["batch"],  # a step a batch
                "lr0": settings["lr"],
                "seed": seed,
                "project": folder,
            },
        )
        trainer.add_callback("on_train_start", lambda _: torch.set_num_threads(threads))
        trainer.train()
    return {
        "map": float(trainer.metrics["metrics/mAP50-95(B)"]),
        "seconds": round(time.perf_counter() - start, 1),
        "transfer": str(trainer.transfer),
        "images": [len(trainer.train_loader.dataset), len(trainer.test_loader.dataset)],
    }


# ------------------------------------------------------------------------------------------ 3. costs


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that are alive at once, of those made while it is on."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._live: Any = WeakIdKeyDictionary()  # a storage and its bytes, until nobody holds it
        self._live.update({each.untyped_storage(): 0 for each in known})
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                storage = each.untyped_storage()
                self._live.setdefault(storage, storage.nbytes())
        self.peak = max(self.peak, sum(self._live.values()))
        return result


def peak_bytes(network: nn.Module, image: Tensor) -> int:
    """Beyond weights and image, during a forward pass. On the CPU tensors only, without what operations use inside."""
    if image.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        network(image)
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)
    with _LiveBytes([image, *network.state_dict().values()]) as live:
        network(image)
    return int(live.peak)


@torch.no_grad()
def costs(found: Sequence[Variant], scale: str, weights: Any, device: str, repeats: int) -> dict[str, dict[str, Any]]:
    """Parameters, GFLOPs, latency and peak memory of each, fused, for one image of 640x640.

    Latencies are interleaved: each round times every variant, and a ratio is one to the plain model of its round.
    """
    network, image = {}, torch.rand(1, 3, SIZE, SIZE).to(torch_device(device))
    table: dict[str, dict[str, Any]] = {}
    for variant in found:
        model: Any = build(variant.model, scale)
        transfer_weights(model, weights)
        table[variant.name] = {"row": variant.row, "parameters": parameters_of(model)}
        network[variant.name] = model.eval().fuse(verbose=False).to(image.device)
        for _ in range(2):  # the second is warm
            network[variant.name](image)
        with FlopCounterMode(display=False) as counter:
            network[variant.name](image)
        table[variant.name]["gflops"] = counter.get_total_flops() / 1e9
        table[variant.name]["memory"] = peak_bytes(network[variant.name], image) / 1e6
    seconds: dict[str, list[float]] = {name: [] for name in network}
    for _ in range(repeats):
        for name, each in network.items():
            start = time.perf_counter()
            each(image)
            if image.device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    for name, times in seconds.items():
        ratios = [mine / plain for mine, plain in zip(times, seconds[PLAIN], strict=True)]
        table[name] |= {"latency": statistics.median(ratios), "ms": 1000 * statistics.median(times)}
    return table


def torch_device(name: str) -> torch.device:
    """A device as Ultralytics names it: cpu, or the number of a GPU."""
    return torch.device(f"cuda:{name}" if name.isdigit() else name)


# ------------------------------------------------------------------------------------------ 4. the command


def per_data(values: Sequence[int], data: Sequence[str], option: str) -> dict[str, int]:
    """One value for all data sets, or one for each."""
    if len(values) not in (1, len(data)):
        raise OptionsError(f"{option} takes one value, or one for each of {', '.join(data)}: got {list(values)}")
    return dict(zip(data, values if len(values) > 1 else list(values) * len(data), strict=True))


def share_of(text: str) -> tuple[int, int]:
    k, n = (int(part) for part in text.split("/"))
    if not 1 <= k <= n:
        raise ValueError(text)
    return k, n


def stored(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """A finished run; an OptionsError if it was made with other settings."""
    if not path.is_file():
        return None
    run = cast(dict[str, Any], json.loads(path.read_text()))
    for key, value in settings.items():
        if run["settings"].get(key) != value:
            raise OptionsError(f"{path} was made with {key} {run['settings'].get(key)}, not {value}: use another -o")
    return run


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="yolo11n", help="a model file")
    parser.add_argument("--weights", type=Path, required=True, help="a checkpoint of the host")
    parser.add_argument("--after", type=int, default=9, help="the layer behind which the rows stand")
    parser.add_argument("--modules", nargs="+", default=MODULES, help="layers; arguments are those of the stride there")
    parser.add_argument("--residual", action="store_true", help="gated layers and blocks, which start as the identity")
    parser.add_argument("--root", type=Path, default=os.environ.get("HATDET_DATA"), help="default: HATDET_DATA")
    parser.add_argument("--data", nargs="+", default=DATA, choices=DATA)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", nargs="+", type=int, default=[10], help="one, or one for each data set")
    parser.add_argument("--imgsz", nargs="+", type=int, default=[640], help="one, or one for each data set")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--freeze", type=int, default=0, help="so many first layers are not trained")
    parser.add_argument("--device", default="cpu", help="cpu, or the number of a GPU")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=20, help="rounds of timing")
    parser.add_argument("--limit", type=int, help="only so many images of each split, to try it out")
    parser.add_argument("--share", type=share_of, help="K/N: train the Kth of N shares of the runs and report nothing")
    parser.add_argument("--json", type=Path, help="write all numbers there")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the finished runs")
    given = parser.parse_args(arguments)
    if given.root is None:
        parser.error("--root or HATDET_DATA must say where the data is")
    torch.set_num_threads(given.threads)
    try:
        compare(given)
    except HatdetError as error:
        parser.error(str(error))
    return 0


def compare(given: argparse.Namespace) -> None:
    """Train what is not there yet; without a share, measure costs and report."""
    from ultralytics.nn.tasks import torch_safe_load

    path = find_model_file(given.host)
    host, scale = read_model_file(path), scale_letter(path)
    epochs, imgsz = (per_data(getattr(given, key), given.data, f"--{key}") for key in ("epochs", "imgsz"))
    weights = torch_safe_load(given.weights, safe_only=True)[0]
    common = {key: getattr(given, key) for key in ("batch", "lr", "freeze", "limit", "device", "after")}
    common |= {"host": path.name, "weights": given.weights.name}
    common |= {"sha256": hashlib.sha256(given.weights.read_bytes()).hexdigest()}
    found = variants(host, scale, given.modules, given.after, given.residual)
    jobs = [(seed, data, variant) for seed in given.seeds for data in given.data for variant in found]
    k, n = given.share or (1, 1)
    runs = []
    scores: dict[str, Any] = {data: {variant.name: {} for variant in found} for data in given.data}
    with tempfile.TemporaryDirectory(prefix="bench-attention-") as folder:
        prepared = {data: prepare(data, given.root, Path(folder), given.limit) for data in given.data}
        for i, (seed, data, variant) in enumerate(jobs):
            if i % n != k - 1:
                continue
            settings = {**common, "data": data, "epochs": epochs[data], "imgsz": imgsz[data], "row": variant.row}
            file = given.output / f"{data}-{re.sub(r'[^A-Za-z0-9]+', '_', variant.name)}-{seed}.json"
            run = stored(file, settings)
            if run is None:
                run = train(variant, scale, weights, prepared[data], settings, seed)
                run |= {"variant": variant.name, "seed": seed, "settings": settings}
                write_text(file, json.dumps(run, indent=1) + "\n")
            about = f"{data}, seed {seed}, {variant.name}: mAP50-95 {run['map']:.4f}, {run['seconds']:.0f} s"
            print(f"[{i + 1}/{len(jobs)}] {about}, {run['transfer']}", file=sys.stderr, flush=True)
            runs.append(run)
            scores[data][variant.name][seed] = run["map"]
    if given.share:
        return
    table = costs(found, scale, weights, given.device, given.repeats)
    print(report(table, scores, limits_of(runs, len(given.seeds))))
    if given.json:
        content = {"threads": given.threads, "repeats": given.repeats, "costs": table, "runs": runs}
        write_text(given.json, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
