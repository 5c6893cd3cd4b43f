"""The walls of the house: what each room may import. `CONTRIBUTING.md` draws it; this holds it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hatdet

PACKAGE = Path(__file__).resolve().parent.parent / "hatdet"

# Rooms of hatdet that a room may import, besides itself.
MAY_IMPORT = {
    "core": set(),
    "blocks": set(),
    "imaging": {"core"},
    "sr": {"core", "blocks", "imaging"},
    "detection": {"core", "blocks", "imaging"},
    "evaluation": {"core", "imaging", "runs"},
    "training": {"core", "imaging", "sr", "detection", "evaluation"},
    "runs": {"core", "imaging"},
    "deploy": {"core", "imaging", "blocks", "sr", "detection"},
    "cli": {"core", "imaging", "sr", "detection", "evaluation", "training", "runs", "deploy"},
}
# Packages that may be named in these rooms only.
NAMED_ONLY_IN = {
    "basicsr": {"training"},
    "tensorboard": {"training"},
    "ultralytics": {"detection", "training"},
    "typer": {"cli"},
    "rich": {"cli"},
    "cv2": {"imaging", "training", "cli"},
    "PIL": {"imaging"},
    "tifffile": {"imaging"},
    "rasterio": {"imaging"},
    "einops": {"blocks", "sr", "detection", "training"},
    "requests": {"core"},
    "psutil": {"sr"},
    "pydantic": {"training"},
    "lmdb": {"imaging", "training"},
    "av": {"imaging"},
    "faster_coco_eval": {"evaluation"},
    "jinja2": {"evaluation"},
    "lpips": {"evaluation"},
    "onnx": {"deploy"},
    "onnxruntime": {"deploy"},
    "openvino": {"deploy"},
    "tensorrt": {"deploy"},
    "scipy": {"evaluation"},
    "ray": {"deploy"},
    "pyarrow": {"runs"},
    "fsspec": {"runs"},
    "sahi": {"detection"},
    "supervision": {"detection"},
}


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every module that a file imports, and whether it does so when it is itself imported."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            inside.update(id(child) for child in ast.walk(node))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) not in inside) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            at_import = id(node) not in inside
            found.append((str(node.module), at_import))
            if node.module == "hatdet":  # a public name, or a room
                found += [(f"hatdet.{hatdet._HOME.get(a.name, a.name)}", at_import) for a in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("__import__", "import_module")):
            names = [a.value for a in node.args if isinstance(a, ast.Constant)]
            assert names or path.name == "__init__.py", f"{path}: import of a computed name"
            found += [(str(name), id(node) not in inside) for name in names]
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str | None:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_what_it_may(path: Path):
    here = room(path)
    if here is None:
        return  # hatdet/__init__.py and __main__.py name the public things of all rooms
    assert here in MAY_IMPORT, f"{here} is not on the map: add it here and in CONTRIBUTING.md"
    for module, _ in imports(path):
        top, *rest = module.split(".")
        if path.name == "__main__.py" and module == "hatdet.cli.app":
            continue  # `python -m` a room is the command line by another name
        if top == "hatdet" and rest and rest[0] != "__version__":
            assert rest[0] == here or rest[0] in MAY_IMPORT[here], f"{path}: {here} may not import {module}"
        if top in NAMED_ONLY_IN:
            assert here in NAMED_ONLY_IN[top], f"{path}: {top} is named in {here}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").glob("*.py")), ids=lambda path: path.name)
def test_verbs_import_nothing_heavy_before_they_run(path: Path):
    light = ("__future__", "typer", "rich", "hatdet.cli", "hatdet.core.errors")
    import sys

    for module, at_import in imports(path):
        if at_import and module not in ("hatdet", "hatdet.__version__"):
            standard = module.split(".")[0] in sys.stdlib_module_names
            assert standard or module.startswith(light), f"{path.name} imports {module} at the top"


def test_the_table_itself_would_notice():
    assert ("basicsr.utils", True) in imports_of("from basicsr.utils import x")
    assert ("torch", False) in imports_of("def f():\n    import torch")
    assert ("torch", False) in imports_of("if TYPE_CHECKING:\n    import torch")
    assert ("hatdet.detection.yolo", True) in imports_of("from hatdet import load_detector")
    assert ("hatdet.detection", True) in imports_of("from hatdet import detection")
    assert ("basicsr", True) in imports_of("importlib.import_module('basicsr')")
    assert ("basicsr", False) in imports_of("def f():\n    __import__('basicsr')")


def imports_of(source: str) -> list[tuple[str, bool]]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.py"
        path.write_text(source)
        return imports(path)
