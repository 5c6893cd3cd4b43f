"""No input makes hatdet write outside the folder of its results, nor over an input: each way in."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from hatdet.cli.app import app
from hatdet.imaging.files import write_image
from hatdet.imaging.sources import Source, below
from tests.helpers import random_image

RESULTS = Path("out")


@pytest.fixture(autouse=True)
def tree(tmp_path: Path, monkeypatch) -> Path:
    """work/in/{a,sub/b}.png, work/data/, secret/c.png beside it; the current folder is work/."""
    for name in ("work/in/a.png", "work/in/sub/b.png", "secret/c.png"):
        write_image(random_image(16, 16), tmp_path / name)
    (tmp_path / "work" / "data").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def files(tree: Path) -> dict[str, bytes]:
    """Everything that is there but results; links by where they lead."""
    found = {}
    for path in tree.rglob("*"):
        name = path.relative_to(tree).as_posix()
        if path.is_symlink():
            found[name] = str(path.readlink()).encode()
        elif path.is_file() and not name.startswith("work/out/"):
            found[name] = path.read_bytes()
    return found


def run(command: str) -> int:
    result = CliRunner().invoke(app, command.split())
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code


def link(name: str, to: str) -> None:
    Path(name).symlink_to(to)


WAYS_IN = {
    "a glob with .. behind a wildcard": (lambda: None, "in/*/../../../secret/*.png"),
    "a glob of folders that ends with ..": (lambda: None, "in/*/../../../secret/.."),
    "a name with ..": (lambda: None, "../secret/c.png"),
    "a folder with ..": (lambda: None, "in/../../secret"),
    "an absolute name": (lambda: None, "{tree}/secret/c.png"),
    "an absolute folder": (lambda: None, "{tree}/secret"),
    "a link to a file": (lambda: link("in/l.png", "../../secret/c.png"), "in"),
    "a link to a folder": (lambda: link("in/l", "../../secret"), "in"),
    "a link to a folder under a glob": (lambda: link("in/l", "../../secret"), "in/**/*.png"),
    "a link to the folder above": (lambda: link("in/l", ".."), "in/**/*.png"),
    "a link to itself": (lambda: link("in/l.png", "l.png"), "in"),
    "the current folder": (lambda: None, "."),
    "the folder above": (lambda: None, ".."),
    "names of dots": (lambda: Path("in/a.png").rename("in/...png"), "in"),
}
VERBS = {
    "sr": "sr {} -o out --upscaler nearest --scale 2 --device cpu",
    "detect": "detect {} -o out --device cpu --upscale --upscaler nearest --save-txt --save-sr --json out/boxes.json",
    "prepare": "prepare {} -o out --scale 2",
}


TELLING = ["a glob with .. behind a wildcard", "an absolute name", "a link to a folder under a glob"]


@pytest.mark.parametrize(
    ("verb", "way"), [*(("sr", way) for way in WAYS_IN), *((v, w) for v in ("detect", "prepare") for w in TELLING)]
)
def test_results_stay_in_their_folder(tree, verb, way):
    make, argument = WAYS_IN[way]
    make()
    before = files(tree)
    code = run(VERBS[verb].format(argument.format(tree=tree)))
    assert files(tree) == before
    assert code == (1 if "itself" in way else 0)
    assert list(RESULTS.rglob("*.png"))


LISTED = [
    "../../secret/c.png",
    "{tree}/secret/c.png",
    "../in/a.png",
    "../data/../../secret/c.png",
    "..",
    ".",
    "/",
    "\0",
]


@pytest.mark.parametrize("listed", LISTED)
def test_names_in_a_list_of_images(tree, listed):
    Path("data/val.txt").write_text(f"{listed.format(tree=tree)}\n../in/a.png\n")
    Path("data.yaml").write_text("path: data\nval: val.txt\nnames: [person]\n")
    before = files(tree)
    code = run("prepare --detection data.yaml -o out --scale 2")
    assert files(tree) == before
    assert code == (0 if listed.endswith(".png") else 1)
    assert (RESULTS / "images" / "val" / "a.png").is_file()


@pytest.mark.parametrize("split", ["../secret", "{tree}/secret", "in/*/../../../secret/*.png", "../secret/c.png"])
def test_folders_of_a_data_file(tree, split):
    Path("data.yaml").write_text(f"val: {split.format(tree=tree)!r}\nnames: [person]\n")
    before = files(tree)
    assert run("prepare --detection data.yaml -o out --scale 2") == 0
    assert files(tree) == before
    assert [path.name for path in (RESULTS / "images" / "val").rglob("*.png")] == ["c.png"]


@pytest.mark.parametrize("name", [*LISTED[:2], "..", "sub/../../../secret/c.png"])
def test_names_of_a_coco_file(tree, name):
    images = [{"id": 1, "file_name": name.format(tree=tree)}, {"id": 2, "file_name": "a.png"}]
    coco = {"images": images, "annotations": [], "categories": [{"id": 0, "name": "person"}]}
    Path("coco.json").write_text(json.dumps(coco))
    before = files(tree)
    command = "eval --data coco.json --images in --scale 2 --arms nearest --cache out/cache --save-boxes out/boxes"
    assert run(f"{command} --json out/a.json --html out/a.html --csv out/a.csv --device cpu") in (0, 1)
    assert files(tree) == before
    assert (RESULTS / "a.json").is_file()


@pytest.mark.parametrize(
    ("make", "argument", "output"),
    [
        (lambda: None, "in", "in"),
        (lambda: None, "in", "in/../in"),
        (lambda: link("l", "in"), "in", "l"),
        (lambda: link("l", "in"), "l", "in"),
        (lambda: link("data/a.png", "../in/a.png"), "data", "in"),
        (lambda: link("data/deep", "../in"), "in/*.png", "data/deep"),
    ],
    ids=["itself", "itself by another name", "a link to it", "from a link", "links to files", "a link deep down"],
)
def test_no_result_takes_the_place_of_an_input(tree, make, argument, output):
    make()
    before = files(tree)
    assert run(f"sr {argument} -o {output} --upscaler nearest --scale 2 --device cpu") == 2
    assert files(tree) == before


def test_a_link_where_a_result_goes_is_replaced_and_not_followed(tree):
    RESULTS.mkdir()
    link("out/a.png", "../../secret/c.png")
    secret = (tree / "secret" / "c.png").read_bytes()
    assert run("sr in -o out --upscaler nearest --scale 2 --device cpu") == 0
    assert (tree / "secret" / "c.png").read_bytes() == secret
    assert not (RESULTS / "a.png").is_symlink()


@given(st.lists(st.sampled_from(["..", ".", "a", "b.png", "...", "/", "~"]), max_size=6))
def test_what_is_below_a_folder_stays_there(parts):
    path = below(Path("/".join(parts)))
    assert not path.is_absolute()
    assert Path(os.path.normpath(Path("out") / path)).parts[0] == "out"
    assert Source(Path("x"), path).relative == below(path) == path


@pytest.mark.parametrize("relative", ["../a.png", "/a.png", "a/../../b.png", "a/../b.png"])
def test_a_source_that_leads_out_of_a_folder_cannot_be_made(relative):
    with pytest.raises(ValueError, match="must stay below its folder"):
        Source(Path("a.png"), Path(relative))
