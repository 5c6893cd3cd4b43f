"""The package as its users meet it: its public names, what importing costs, what ships."""

from __future__ import annotations

import json
import math
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import hatdet
from hatdet.core.assets import asset

ROOT = Path(__file__).resolve().parent.parent


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(code: str) -> set[str]:
    """Top names of the modules that are loaded after the code has run."""
    out = python(
        f"{code}\nimport json, sys\nprint('\\n' + json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    )
    return set(json.loads(out.splitlines()[-1]))


def test_public_names_are_sorted_and_all_there():
    assert hatdet.__all__ == sorted(hatdet.__all__)
    for name in hatdet.__all__:
        assert getattr(hatdet, name) is not None
    assert not hasattr(hatdet, "nothing_of_that_name")


def test_importing_hatdet_loads_nothing_heavy():
    loaded = loaded_by("import hatdet, hatdet.cli.app")
    assert not loaded & {"torch", "numpy", "cv2", "PIL", "ultralytics", "basicsr", "skimage"}


def test_inference_loads_neither_basicsr_nor_tensorboard_and_sr_no_ultralytics(tmp_path):
    code = (
        "from hatdet.cli.app import app\n"
        "from hatdet.imaging.files import write_image\n"
        "import torch\n"
        "from hatdet import Image\n"
        f"write_image(Image(torch.rand(3, 8, 8)), __import__('pathlib').Path({str(tmp_path)!r}, 'a.png'))\n"
        "app([{verb!r}, '-q', {folder!r}, '-o', {out!r}, *{more}], standalone_mode=False)"
    )
    where = {"folder": str(tmp_path / "a.png"), "out": str(tmp_path / "out")}
    forbidden = {"basicsr", "tensorboard", "lightning", "wandb"}
    sr = loaded_by(code.format(verb="sr", more=["--upscaler", "hat-xs"], **where))
    assert "torch" in sr
    assert not sr & (forbidden | {"ultralytics"})
    detect = loaded_by(code.format(verb="detect", more=["--upscale"], **where))
    assert "ultralytics" in detect
    assert not detect & forbidden


def test_no_module_outside_training_loads_basicsr():
    """At run time too, whatever way of importing there is."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "hatdet").rglob("*.py"))
        if path.name != "__main__.py" and "training" not in path.parts
    ]
    assert "hatdet.sr.hat_arch" in modules
    loaded = loaded_by("import importlib\nfor name in " + repr(modules) + ": importlib.import_module(name)")
    assert not loaded & {"basicsr", "tensorboard"}


def test_help_is_quick():
    """Under half a second of CPU time, the interpreter's start included; the best of five, as a busy machine adds."""
    best = math.inf
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        out = python(
            "import sys; sys.argv = ['hatdet', '--help']; from hatdet.cli.app import main; main()", COLUMNS="100"
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert "detect" in out
    assert best < 0.5


def test_what_ships_is_found_and_small():
    weights = list(asset("pretrained").glob("*.safetensors"))
    assert sum(path.stat().st_size for path in weights) < 10_000_000
    for path in weights:
        card = path.with_suffix(".md").read_text()
        for word in ("Data", "Licence", "Command", "Metrics"):
            assert f"## {word}" in card, f"{path.stem}.md has no {word}"
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors does not ship"):
        asset("pretrained", "nothing.safetensors")


def test_the_version_is_in_the_changelog():
    assert re.search(rf"^## {re.escape(hatdet.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_readmes_python_runs(tmp_path):
    """The five lines of the README, on a sample of its own."""
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    make = (
        "import torch; from pathlib import Path; from hatdet import Image, write_image\n"
        "write_image(Image(torch.rand(3, 24, 32)), Path('street.png'))\n"
    )
    (tmp_path / "run.py").write_text(make + block.group(1))
    done = subprocess.run(
        [sys.executable, "run.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr


def test_help_without_what_it_does_not_need_is_the_same_help():
    for arguments in (["--help"], ["detect", "--help"], []):
        told = [
            python(
                "import sys\nfrom hatdet.cli import app\n"
                f"sys.argv = ['hatdet', *{arguments!r}]\n{change}\ntry:\n    app.main()\nexcept SystemExit:\n    pass\n"
                "from rich.markdown import Markdown\nassert Markdown is not None",
                COLUMNS="100",
            )
            for change in ("", "app.import_help = lambda: None")
        ]
        assert told[0] == told[1]
        assert "Usage" in told[0]
