"""What training for a detector brings, part by part: HAT-XS from one start, by equal numbers of steps, on equal data.

    python tools/detection_ablation.py train DATA.yaml --photos DIR --detector yolo11n.pt --witness yolov8n.pt -o runs
    python tools/detection_ablation.py collect runs -o networks     # the last average of each, fp16 safetensors
    python tools/detection_table.py ...                             # what came of them

DATA.yaml is an Ultralytics data file. Its `train` is trained on, but for the last of its images, which --held says how
many they are and which validations look at; its `val` is not touched. Every arm is one run of
`options/train/train_HAT-XS_SRx4_detection.yml` with the overrides that stand in ARMS; several run side by side.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from hatdet.evaluation.samples import read_detection_data

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = ROOT / "options/train/train_HAT-XS_SRx4_detection.yml"
OFF = "train:{}_opt=~"
PIXEL = [OFF.format(key) for key in ("feature", "box", "consistency")]
ARMS = {
    "pixel": PIXEL,
    "features": [OFF.format("box")],
    "boxes": [OFF.format("feature")],
    "both": [],
    "both-still": ["detection:moved_share=0"],  # the detector sees every picture as at inference
    "both-weak": ["train:feature_opt:loss_weight=0.05", "train:box_opt:loss_weight=0.001"],
    "both-strong": ["train:feature_opt:loss_weight=1.0", "train:box_opt:loss_weight=0.005"],
    "two": [],  # as `both`, with the witness for a second detector
    "two-strong": ["train:feature_opt:loss_weight=1.0", "train:box_opt:loss_weight=0.005"],
}


def overrides(arm: str, given: argparse.Namespace) -> list[str]:
    """What the run of an arm has otherwise than the option file."""
    detectors = [given.detector] + ([given.witness] if arm.startswith("two") else [])
    images = len(read_detection_data(given.data).split("train"))
    data = given.data.resolve()
    photos = ", ".join(str(folder.resolve()) for folder in given.photos)
    held_out = [
        f"datasets:val_1:data={data}",
        "datasets:val_1:split=train",
        f"datasets:val_1:skip={images - given.held}",
        f"val:val_freq={max(1, given.iterations // max(1, given.validations))}",
    ]
    return [
        f"path:root={given.output.resolve()}",
        f"name={arm}",
        f"num_gpu={given.gpus}",
        f"datasets:train:data={data}",
        f"datasets:train:limit={images - given.held}",
        f"datasets:train:unlabelled={f'[{photos}]' if photos else '~'}",
        f"datasets:train:gt_size={given.gt_size}",
        f"datasets:train:batch_size_per_gpu={given.batch}",
        f"datasets:train:num_worker_per_gpu={given.workers}",
        *(held_out if given.validations else ["datasets:val_1=~"]),
        f"detection:detectors=[{', '.join(map(str, detectors))}]",
        f"detection:witnesses=[{given.witness}]" if not arm.startswith("two") else "detection:witnesses=~",
        f"train:total_iter={given.iterations}",
        f"train:scheduler:periods=[{given.iterations}]",
        f"train:optim_g:lr={given.lr}",
        f"train:ema_decay={1 - 25 / given.iterations:.4f}",  # over the last steps, in which the rate is small
        f"train:precision={given.precision}",
        # Pixels and features first, boxes from a fifth on.
        f"train:box_opt:schedule:from_iter={given.iterations // 5}",
        f"train:box_opt:schedule:ramp_iter={max(1, given.iterations // 10)}",
        *ARMS[arm],
    ]


def train(given: argparse.Namespace) -> int:
    given.output.mkdir(parents=True, exist_ok=True)
    given.detector, given.witness = given.detector.resolve(), given.witness.resolve()
    waiting, running, failed = list(given.arms), {}, 0
    environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads)}
    started = time.perf_counter()
    while waiting or running:
        while waiting and len(running) < given.jobs:
            arm = waiting.pop(0)
            command = [sys.executable, "-m", "hatdet", "train", "-opt", str(OPTIONS), "--auto_resume"]
            with (given.output / f"{arm}.log").open("w") as log:
                told = [*command, "--force_yml", *overrides(arm, given)]
                running[arm] = subprocess.Popen(told, cwd=ROOT, stdout=log, stderr=log, env=environment)
        time.sleep(0.5)
        for arm, process in list(running.items()):
            if process.poll() is not None:
                del running[arm]
                failed += process.returncode != 0
                took = time.perf_counter() - started
                print(f"{arm}: exit code {process.returncode} after {took:.0f} s", flush=True)
    return 1 if failed else 0


def collect(given: argparse.Namespace) -> int:
    from safetensors.torch import save_file

    from hatdet.sr.weights import read_state_dict

    given.output.mkdir(parents=True, exist_ok=True)
    for path in sorted(given.runs.glob("experiments/*/models/net_g_latest.pth")):
        arm = path.parent.parent.name
        state, _ = read_state_dict(path, "params_ema")
        half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
        save_file({key: value.contiguous() for key, value in half.items()}, given.output / f"{arm}.safetensors")
        print(given.output / f"{arm}.safetensors")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("train")
    one.add_argument("data", type=Path)
    one.add_argument("--photos", type=Path, nargs="*", default=[], help="folders of photos without labels")
    one.add_argument("--detector", type=Path, required=True)
    one.add_argument("--witness", type=Path, required=True)
    one.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    one.add_argument("--iterations", type=int, default=2500)
    one.add_argument("--validations", type=int, default=5, help="0 for none")
    one.add_argument("--lr", type=float, default=4e-4)
    one.add_argument("--held", type=int, default=24, help="images of train that validations look at")
    one.add_argument("--gt-size", type=int, default=256)
    one.add_argument("--batch", type=int, default=4)
    one.add_argument("--workers", type=int, default=1)
    one.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each run")
    one.add_argument("--jobs", type=int, default=1, help="runs side by side")
    one.add_argument("--gpus", default="auto", help="0 for the CPU")
    one.add_argument("--precision", default="auto")
    one.add_argument("-o", "--output", type=Path, required=True)
    two = verbs.add_parser("collect")
    two.add_argument("runs", type=Path)
    two.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    return {"train": train, "collect": collect}[given.verb](given)


if __name__ == "__main__":
    sys.exit(main())
