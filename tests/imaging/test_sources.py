"""Which files a command line means and where their results go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hatdet.core.errors import OptionsError
from hatdet.imaging.sources import Source, check_results, find_sources, result_paths


@pytest.fixture
def tree(tmp_path: Path, monkeypatch) -> Path:
    """in/a.png, in/b.JPG, in/notes.txt, in/.hidden.png, in/sub/c.webp, in/sub/deep/d.tif, empty/"""
    for name in ("a.png", "b.JPG", "notes.txt", ".hidden.png", "sub/c.webp", "sub/deep/d.tif"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*arguments, **named) -> list[tuple[str, str]]:
    return [(str(s.path), str(s.relative)) for s in find_sources(arguments, **named)]


def test_a_folder_means_the_images_below_it(tree):
    assert found("in") == [
        ("in/a.png", "a.png"),
        ("in/b.JPG", "b.JPG"),
        ("in/sub/c.webp", "sub/c.webp"),
        ("in/sub/deep/d.tif", "sub/deep/d.tif"),
    ]


def test_a_named_file_is_taken_whatever_its_suffix(tree):
    assert found("in/notes.txt", "in/sub/c.webp") == [("in/notes.txt", "notes.txt"), ("in/sub/c.webp", "c.webp")]


def test_globs(tree):
    assert found("in/*") == [
        ("in/a.png", "a.png"),
        ("in/b.JPG", "b.JPG"),
        ("in/sub/c.webp", "sub/c.webp"),
        ("in/sub/deep/d.tif", "sub/deep/d.tif"),
    ]
    assert found("in/**/*.tif") == [("in/sub/deep/d.tif", "sub/deep/d.tif")]
    assert found(str(tree / "in" / "*.png")) == [(str(tree / "in/a.png"), "a.png")]


def test_each_file_once(tree):
    assert found("in/a.png", "in", "in/../in/a.png")[0] == ("in/a.png", "a.png")
    assert len(found("in/a.png", "in", "in/../in/a.png")) == 4


def test_the_results_of_an_earlier_run_are_not_input(tree):
    assert [name for _, name in found("in", leave_out=[Path("in/sub")])] == ["a.png", "b.JPG"]


def test_a_file_whose_name_looks_like_a_glob(tree):
    (tree / "in" / "x[1].png").touch()
    assert found("in/x[1].png") == [("in/x[1].png", "x[1].png")]


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [("nowhere", "nowhere does not exist"), ("empty", "empty contains no images"), ("in/*.gif", "matches no images")],
)
def test_nothing_to_do_is_an_error(tree, argument, sentence):
    with pytest.raises(OptionsError, match=sentence.replace("*", r"\*")):
        find_sources([argument])


def paths(*relative: str) -> list[str]:
    sources = [Source(Path("in") / name, Path(name)) for name in relative]
    return [str(path) for path in result_paths(sources, Path("out"))]


def test_results_keep_the_tree():
    assert paths("a.jpg", "sub/b.tif") == ["out/a.png", "out/sub/b.png"]


def test_where_two_results_would_meet_both_keep_their_suffix():
    assert paths("a.png", "a.jpg", "b.jpg") == ["out/a.png.png", "out/a.jpg.png", "out/b.png"]
    assert paths("A.png", "a.jpg") == ["out/A.png.png", "out/a.jpg.png"]


def test_results_that_would_still_meet_are_refused():
    sources = [Source(Path("day/1.png"), Path("1.png")), Source(Path("night/1.png"), Path("1.png"))]
    with pytest.raises(OptionsError, match=r"day/1\.png and night/1\.png would both be written"):
        result_paths(sources, Path("out"))


def test_a_result_never_replaces_an_input_or_another_result():
    sources = [Source(Path("in/a.png"), Path("a.png"))]
    check_results(sources, [Path("out/a.png"), Path("out/sr/a.png")])
    with pytest.raises(OptionsError, match=r"in/\.\./in/a\.png is an input and would be overwritten"):
        check_results(sources, [Path("in/../in/a.png")])
    with pytest.raises(OptionsError, match=r"two different results would be written to out/a\.png"):
        check_results(sources, [Path("out/a.png"), Path("out/a.png")])


def test_links_pipes_and_names_that_cannot_be(tree):
    (tree / "in" / "loop.png").symlink_to("loop.png")
    (tree / "in" / "same.png").symlink_to("a.png")
    os.mkfifo(tree / "in" / "pipe.png")
    names = [name for _, name in found("in")]
    assert "loop.png" in names  # it will fail with a reason
    assert "same.png" in names
    assert "pipe.png" not in names
    with pytest.raises(OptionsError, match="File name too long"):
        find_sources(["x" * 300])
    with pytest.raises(OptionsError, match="an input is empty"):
        find_sources([""])
