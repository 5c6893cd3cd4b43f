"""`hatdet bench --calibrate` as its users type it; nothing is really measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hatdet.cli.app import app
from hatdet.deploy import calibration
from hatdet.deploy.calibration import Line, Part, calibrated


def hatdet(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["bench", "--calibrate", *(str(argument) for argument in arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture(autouse=True)
def measured(monkeypatch, tmp_path) -> list[tuple[object, ...]]:
    done: list[tuple[object, ...]] = []

    def upscaler(name, scale, device, precision):
        done.append((name, scale, device.type, precision))
        tile = None if name == "bicubic" else 256
        return Part(name, Line(len(done), 2000.4, 0.126), 8, tile, 32, 1, ((32, 1.23456), (64, 1234.56)))

    def detector(weights, scale, device, trust):
        done.append((weights, scale, device.type))
        return Part("yolo", Line(12.34, 100), 32, measured=((320, 4),))

    monkeypatch.setattr(calibration, "_measured_upscaler", upscaler)
    monkeypatch.setattr(calibration, "_measured_detector", detector)
    monkeypatch.setattr(calibration, "keep_freed_memory", lambda: True)
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.chdir(tmp_path)
    return done


def test_the_table_and_what_is_kept(measured, cache):
    result = hatdet("--device", "cpu")
    assert result.exit_code == 0, result.output
    assert measured == [("bicubic", 4, "cpu", "auto"), ("hat-xs", 4, "cpu", "auto"), (None, 4, "cpu")]
    lines = result.stdout.splitlines()
    assert lines[0].startswith("cpu ")
    assert ", 1 threads, float32, torch " in lines[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert rows[0] == ["", "fixed ms", "ms/MP", "off by", "measured: side ms"]
    assert rows[2:] == [
        ["bicubic x4", "1.0", "2000", "13 %", "32 1.235, 64 1235"],
        ["hat-xs x4", "2.0", "2000", "13 %", "32 1.235, 64 1235"],
        ["yolo, canvas", "12.3", "100", "0 %", "320 4"],
    ]
    files = sorted((cache.parent / "tuning").iterdir())
    assert lines[-1].startswith(f"kept in {cache.parent / 'tuning'} (")
    assert all(file.name in lines[-1] for file in files)
    assert len(files) == 3
    assert "measuring detector" in result.stderr

    found = calibrated()  # as `detect --budget` does, later
    assert (len(measured), found.upscaler("hat-xs").line.fixed_ms) == (3, 2)
    hatdet()  # again: anew
    assert (len(measured), calibrated().upscaler("hat-xs").line.fixed_ms) == (6, 5)


def test_what_is_measured_can_be_said(measured):
    result = hatdet("--upscaler", "hat-xs,nearest", "--precision", "bf16", "--json", "c/c.json")
    assert result.exit_code == 0, result.output
    assert [one[0] for one in measured] == ["bicubic", "hat-xs", "nearest", None]
    assert measured[1][3] == "bf16"
    report = json.loads(Path("c/c.json").read_text())
    assert (report["schema"], report["scale"], report["machine"]["precision"]) == (1, 4, "bfloat16")
    assert [row["name"] for row in report["rows"]] == ["bicubic", "hat-xs", "nearest", "yolo"]
    assert report["rows"][1] == {
        "name": "hat-xs",
        "fixed_ms": 2.0,
        "ms_per_mp": 2000.4,
        "deviation": 0.126,
        "multiple": 8,
        "tile": 256,
        "overlap": 32,
        "batch": 1,
        "measured": [[32, 1.23456], [64, 1234.56]],
    }
    assert len(report["files"]) == 4


def test_json_to_stdout_and_nothing_else(measured):
    assert len(json.loads(hatdet("--json", "-").stdout)["rows"]) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backend", "onnx"], "--backend does not go with --calibrate"),
        (["--targets"], "--targets does not go with --calibrate"),
        (["--plot", "a.svg"], "--plot does not go with --calibrate"),
        (["--size", "32x32"], "--size does not go with --calibrate"),
        (["--upscaler", ","], "upscaler must name at least one"),
        (["--upscaler", "hat-xxl"], "upscaler 'hat-xxl' is not known"),
        (["--precision", "fp32,bf16"], "precision must be auto, fp32 or bf16, got 'fp32,bf16'"),
        (["--device", "tpu"], "device 'tpu' is not usable"),
        (["--json", "."], "--json needs a file's name"),
    ],
)
def test_refusals_come_before_any_work(measured, arguments, words):
    result = hatdet(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert words in line
    assert measured == []


def test_a_busy_machine_is_told(monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (900.0, 0.0, 0.0))
    assert "mistrust the times" in hatdet().stderr
