"""`hatdet bench` as its users type it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from hatdet.blocks import hat_blocks
from hatdet.cli.app import app
from hatdet.core.types import Image
from hatdet.deploy import bench
from hatdet.deploy.bench import WorkerError, write_random_weights
from hatdet.deploy.bench_targets import TARGETS, Outcome
from hatdet.deploy.bench_worker import Configuration, Workbench
from hatdet.imaging.files import read_image, write_image
from tests.helpers import TINY, sample_photo

ROW_KEYS = {
    *("upscaler", "random_weights", "scale", "precision", "backend", "peer", "tile", "batch", "device", "threads"),
    *("seconds", "ms", "ms_per_megapixel", "ratio_spandrel", "ratio_unfused", "gflop", "gflops", "matmul_gflops"),
    *(
        "matmul_share",
        "images_per_s",
        "memory_bytes",
        "difference_db",
        "same_as_fp32",
        "psnr_lost",
        "psnr_y",
        "map50_95",
    ),
    *("front", "error"),
}


def hatdet(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["bench", *(str(argument) for argument in arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch) -> Path:
    """A working folder with tiny weights for x2, and for the PSNR parts of the photos instead of the whole."""
    monkeypatch.chdir(tmp_path)
    whole = bench.sample_pairs

    def parts(scale):
        return [(low[:, :16, :24], high[:, : 16 * scale, : 24 * scale]) for low, high in whole(scale)]

    monkeypatch.setattr(bench, "sample_pairs", parts)
    write_random_weights({**TINY, "depths": [1], "num_heads": [3], "upscale": 2}, tmp_path / "tiny.safetensors")
    return tmp_path


TINY_ARGUMENTS = ("--upscaler", "tiny.safetensors", "--scale", 2, "--size", "16x12", "--runs", 2)


class Here:
    """A worker in this process; what it replaces is undone after each answer."""

    broken: tuple[str, ...] = ()

    def __init__(self, configuration: Configuration) -> None:
        if configuration.backend in self.broken:
            self._bench: Workbench | None = None
            return
        kept = hat_blocks.attend
        self._bench = Workbench(configuration)
        self._attend, hat_blocks.attend = hat_blocks.attend, kept

    def ask(self, method: str, *arguments: object) -> Any:
        if self._bench is None:
            raise WorkerError("it is broken")
        kept, hat_blocks.attend = hat_blocks.attend, self._attend
        try:
            return getattr(self._bench, method)(*arguments)
        finally:
            hat_blocks.attend = kept

    def close(self) -> None:
        pass


@pytest.fixture
def here(monkeypatch):
    """No processes: measured is not how fast they start."""
    monkeypatch.setattr("hatdet.deploy.bench.Worker", Here)
    monkeypatch.setattr("hatdet.deploy.bench_worker.MATMUL_SECONDS", 0.0)
    return monkeypatch


def test_the_whole_way_in_processes(folder):
    """The one run with workers as users have them."""
    result = hatdet(*TINY_ARGUMENTS, "--precision", "fp32", "--json", "r/r.json", "--plot", "r/r.svg")
    assert result.exit_code == 0, result.output
    report = json.loads(Path("r/r.json").read_text())
    assert report["schema"] == 1
    assert [(row["backend"], row["peer"]) for row in report["rows"]] == [
        ("spandrel", True),
        ("unfused", True),
        ("eager", False),
    ]
    for row in report["rows"]:
        assert set(row) == ROW_KEYS
        assert len(row["seconds"]) == 2
        assert min(row["seconds"]) > 0
        assert row["ms_per_megapixel"] == pytest.approx(row["ms"] * 1e6 / (16 * 12))
        assert 0 < row["matmul_share"] < 1
        assert row["gflops"] == pytest.approx(row["gflop"] / row["ms"] * 1e3)
        assert row["memory_bytes"] is not None
        assert (row["error"], row["psnr_y"]) == (None, None)
    spandrel, _, eager = report["rows"]
    assert spandrel["ratio_spandrel"] == 1
    assert eager["images_per_s"] > 0
    assert eager["same_as_fp32"] or eager["difference_db"] > 80
    assert any(row["front"] for row in report["rows"])
    lines = result.stdout.splitlines()
    assert lines[0].startswith("16x12, median of 2, taking turns; tile 256; cpu, ")
    header = next(line for line in lines if line.startswith("| network"))
    assert [cell.strip() for cell in header.split("|")[1:6]] == ["network", "precision", "backend", "ms/MP", "ms"]
    assert sum(line.startswith("| tiny x2") for line in lines) == 3
    assert "PSNR-Y" not in header
    assert "<svg" in Path("r/r.svg").read_text()


@pytest.mark.slow
def test_json_to_stdout_and_nothing_else(here):
    arguments = ("--upscaler", "tiny.safetensors", "--scale", 2, "--size", "64x64", "--runs", 1)
    result = hatdet(*arguments, "--precision", "fp32,bf16", "--tile", "32,64", "--json", "-", "--batch", "2")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [row["tile"] for row in rows] == [32] * 5 + [64] * 5
    assert {row["batch"] for row in rows} == {2}
    bf16 = [row for row in rows if (row["backend"], row["precision"]) == ("eager", "bf16")]
    assert all(30 < row["difference_db"] < 90 for row in bf16)
    # Tiles of 32 compute their overlaps twice.
    assert rows[0]["gflop"] > 1.5 * rows[-1]["gflop"]


def test_what_varies_has_a_column(here):
    result = hatdet(*TINY_ARGUMENTS, "--precision", "fp32", "--tile", "16,32", "--batch", "3")
    assert result.stdout.startswith("16x12, median of 2, taking turns; batch 3; cpu, ")
    lines = [[cell.strip() for cell in line.split("|")] for line in result.stdout.splitlines() if line.startswith("|")]
    assert lines[0][1:5] == ["network", "precision", "backend", "tile"]
    assert [line[4] for line in lines[2:]] == ["16"] * 3 + ["32"] * 3


def test_random_weights_and_a_missing_peer_are_told(here):
    here.setattr("hatdet.deploy.bench_worker.find_spec", lambda name: None)
    result = hatdet("--upscaler", "hat-xs", "--scale", 2, "--size", "8x8", "--runs", 1, "--precision", "fp32")
    assert result.exit_code == 0, result.output
    assert "spandrel is not installed: `pip install spandrel`" in result.stdout
    assert "random weights: hat-xs" in result.stdout
    assert "| spandrel" not in result.stdout


def test_a_busy_machine_is_told(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("hatdet.deploy.bench_targets.check_targets", lambda checks: [])
    for load, told in ((2.0, False), (2.1, True)):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, 0.0, 0.0))
        assert ("busy before the start (load 2.1 on 4 processors)" in hatdet("--targets").stderr) is told


@pytest.fixture
def data(folder) -> Path:
    """Two photos with labels."""
    photo = read_image(sample_photo("bus")).pixels
    for name, top, left in (("a", 400, 20), ("b", 480, 180)):
        write_image(Image(photo[:, top : top + 96, left : left + 128].contiguous()), folder / f"images/val/{name}.png")
        label = folder / f"labels/val/{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.5 0.5 0.9 0.9\n")
    (folder / "data.yaml").write_text(yaml.safe_dump({"path": ".", "val": "images/val", "names": {0: "person"}}))
    return Path("data.yaml")


def test_quality_is_that_of_eval(here, data):
    """Of trained weights only, and of hatdet's own configurations."""
    arguments = ("--scale", 4, "--precision", "fp32", "--runs", 1, "--data", data, "--limit", 1)
    result = hatdet("--upscaler", "hat-xs", "--size", "8x8", *arguments, "--json", "r.json", "--plot", "r.png")
    assert result.exit_code == 0, result.output
    by_backend = {row["backend"]: row for row in json.loads(Path("r.json").read_text())["rows"]}
    eager = by_backend["eager"]
    assert by_backend["unfused"]["psnr_y"] is None
    assert eager["front"]
    assert Path("r.png").read_bytes().startswith(b"\x89PNG")
    assert "PSNR-Y" in result.stdout

    options = ["--data", str(data), "--limit", "1", "--arms", "hat-xs", "--json", "-", "-q", "--precision", "fp32"]
    judged = CliRunner().invoke(app, ["eval", *options])
    (row,) = json.loads(judged.stdout)["rows"]
    assert eager["psnr_y"] == pytest.approx(row["psnr_y"], abs=1e-9)
    assert eager["map50_95"] == row["map50_95"]


def test_random_weights_have_no_quality(here, data):
    result = hatdet("--upscaler", "hat-xs", "--scale", 2, "--size", "8x8", "--runs", 1, "--data", data, "--limit", 1)
    assert result.exit_code == 0, result.output
    assert "PSNR-Y" not in next(line for line in result.stdout.splitlines() if line.startswith("| network"))


def test_a_broken_configuration_is_told_and_the_others_are_measured(here):
    here.setattr(Here, "broken", ("spandrel",))
    result = hatdet(*TINY_ARGUMENTS, "--precision", "fp32")
    assert result.exit_code == 1
    assert re.search(r"\| spandrel .* \| it is broken", result.stdout)
    here.setattr(Here, "broken", ("eager",))
    result = hatdet(*TINY_ARGUMENTS, "--precision", "fp32")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: nothing could be measured: it is broken\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--upscaler", "hat-xxl"], "upscaler 'hat-xxl' is not known"),
        (["--upscaler", "bicubic"], "no network"),
        (["--upscaler", ","], "upscaler must name at least one"),
        (["--precision", "fp16"], "precision fp16 is refused"),
        (["--precision", "fp32,fp32"], "each once"),
        (["--backend", "tpu"], "backend must be one of eager, onnx, openvino, torchscript, engine"),
        (["--tile", "64,0"], "tile must be whole numbers from 1"),
        (["--batch", "x"], "batch must be whole numbers from 1"),
        (["--size", "640"], "size must be a width and a height"),
        (["--size", "0x5"], "size must be at least 1x1"),
        (["--data", "missing.yaml"], "missing.yaml cannot be read"),
        (["--plot", "a.pdf"], ".png or .svg"),
        (["--json", "."], "--json needs a file's name"),
        (["--device", "tpu"], "device 'tpu' is not usable"),
        (["--quick"], "--targets"),
        (["--scale", "5"], "upscale must be"),
    ],
)
def test_refusals_come_before_any_work(here, arguments, words):
    def never(*_: object) -> Any:
        raise AssertionError("nothing is to be started")

    here.setattr("hatdet.deploy.bench.Worker", never)
    result = hatdet(*arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert words in line


def test_targets_are_printed_and_written(monkeypatch):
    asked = []

    def found(checks):
        asked.append(checks)
        yield Outcome(TARGETS[0], 2.6, "a reason")
        yield Outcome(TARGETS[1], None, "another")

    monkeypatch.setattr("hatdet.deploy.bench_targets.check_targets", found)
    result = hatdet("--targets", "--quick", "--runs", 3, "--json", "t.json")
    assert result.exit_code == 0, result.output  # a target that is missed is no failure of the command
    first, second = result.stdout.splitlines()
    assert first == (
        "missed   HAT-S x4, 64x64, CPU, 2 threads: fp32 against spandrel's HAT: 2.6 x, wanted >= 2.8 x "
        "(the must of 2.5 x is met; a reason)"
    )
    assert second.startswith("not run  HAT-S x4")
    assert second.endswith("wanted >= 80 % (another)")
    assert (asked[0].runs, asked[0].quick) == (3, True)
    rows = json.loads(Path("t.json").read_text())["rows"]
    assert [(row["key"], row["state"], row["value"]) for row in rows] == [
        ("cpu_spandrel", "missed", 2.6),
        ("cpu_matmul", "not run", None),
    ]
