"""From a training run to a file that ships: fp16 safetensors of the averaged weights, with what they are.

    python tools/ship_weights.py experiments/HAT-XS_SRx4 hat-xs-x4 --base hat-xs-x4@eaa9769098a3

Writes pretrained/NAME.safetensors from the run's net_g_latest.pth, and prints its size and sha256 (for
`hatdet/sr/catalogue.py`) and the run's curve (for the card, pretrained/NAME.md).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from hatdet.core.fetch import sha256_of
from hatdet.sr.hat_arch import HAT
from hatdet.sr.weights import read_state_dict

PRETRAINED = Path(__file__).resolve().parent.parent / "pretrained"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("name", help="of the weights, such as hat-xs-x4")
    parser.add_argument("--base", default="nothing", help="what the run began from, such as hat-xs-x4@eaa9769098a3")
    parser.add_argument("-o", "--output", type=Path, default=PRETRAINED, help="folder for the file")
    arguments = parser.parse_args()

    state, described = read_state_dict(arguments.run / "models" / "net_g_latest.pth")
    network = HAT.from_options(json.loads(described["network_g"]))
    own = network.state_dict()
    network.load_state_dict({**{key: own[key] for key in own if key.startswith("relative_position_index")}, **state})
    weights = {
        key: value.to(torch.float16).contiguous()
        for key, value in state.items()
        if key in dict(network.named_parameters())
    }
    options = json.loads((arguments.run / "train_options.json").read_text())
    metadata = {
        "name": arguments.name,
        "network_g": described["network_g"],
        "scale": str(network.upscale),
        "iterations": str(options["train"]["total_iter"]),
        "base": arguments.base,
    }
    file = arguments.output / f"{arguments.name}.safetensors"
    save_file(weights, file, metadata=metadata)
    print(f"{file}: {sum(value.numel() for value in weights.values()):,} parameters, {file.stat().st_size:,} bytes")
    print(f"sha256 {sha256_of(file)}")

    points: dict[int, dict[str, str]] = {}
    curve = arguments.run / "validation.jsonl"
    for line in curve.read_text().splitlines() if curve.is_file() else []:  # a run need not validate
        point = json.loads(line)
        metrics = ("psnr", "ssim", "psnr_y", "map50_95")
        cell = " / ".join(f"{point[metric]:.4f}" for metric in metrics if metric in point)
        points.setdefault(point["iter"], {})[point["dataset"]] = cell
    sets = list(dict.fromkeys(name for point in points.values() for name in point))
    print("iteration" + "".join(f"{name:>20s}" for name in sets))
    for iteration, point in sorted(points.items()):
        print(f"{iteration:9,d}" + "".join(f"{point.get(name, ''):>20s}" for name in sets))


if __name__ == "__main__":
    main()
