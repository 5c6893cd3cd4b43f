"""What a command line means by a video, a stream, a camera, and where results go."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import hatdet.detection.ultralytics_setup  # noqa: F401 (before ultralytics)
from hatdet.core.errors import OptionsError
from hatdet.imaging.video_sources import VIDEO_SUFFIXES, find_videos, video_paths


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "b.AVI", "sub/a.mov", "sub/c.mkv", "picture.png", "x.ts", "list.streams"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    Path("folder.mp4").mkdir()


def test_suffixes_are_those_of_ultralytics():
    from ultralytics.data.utils import VID_FORMATS

    assert {f".{name}" for name in VID_FORMATS} == VIDEO_SUFFIXES


@pytest.mark.parametrize(
    ("argument", "name", "address", "result", "live"),
    [
        ("a.mp4", "a.mp4", None, "a.mp4", False),
        ("b.AVI", "b.AVI", None, "b.mkv", False),
        ("sub/c.mkv", "sub/c.mkv", None, "c.mkv", False),
        ("0", "camera 0", "/dev/video0", "camera_0.mkv", True),
        ("12", "camera 12", "/dev/video12", "camera_12.mkv", True),
        (
            "rtsp://me:secret@cam.local:554/live?x=1",
            "rtsp://cam.local:554/live?x=1",
            "",
            "cam_local_554_live_x_1.mkv",
            True,
        ),
        ("http://host/dir/clip.mp4", "http://host/dir/clip.mp4", "", "clip.mp4", False),
        ("HTTPS://host/clip.avi?token=../../etc", "HTTPS://host/clip.avi?token=../../etc", "", "clip.mkv", False),
        ("http://host/../../etc/passwd", "http://host/../../etc/passwd", "", "host_etc_passwd.mkv", False),
        ("tcp://127.0.0.1:9", "tcp://127.0.0.1:9", "", "127_0_0_1_9.mkv", True),
        ("rtmp://host/app", "rtmp://host/app", "", "host_app.mkv", True),
    ],
)
def test_files_streams_and_cameras(argument, name, address, result, live, monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    (video,) = find_videos([argument])
    assert (video.name, video.live) == (name, live)
    assert video.address == (f"file:{Path(argument).absolute()}" if address is None else address or argument)
    assert video.stream == (address is not None)
    assert video_paths([video], Path("out")) == [Path("out", result)]


@pytest.mark.parametrize("inputs", [[], ["picture.png"], ["sub"], ["folder.mp4"], ["*.png"], ["nothing"], ["rtsp"]])
def test_all_else_is_left_to_those_who_read_images(inputs):
    assert find_videos(inputs) == []


def test_globs_and_each_file_once():
    assert [video.name for video in find_videos(["sub/*.mov", "a.mp4", "./a.mp4"])] == ["sub/a.mov", "a.mp4"]
    assert [video.name for video in find_videos(["**/*.mkv"])] == ["sub/c.mkv"]


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (["a.mp4", "picture.png"], "a.mp4 is a video and picture.png is not: give them in two runs"),
        (["missing.mp4"], "missing.mp4 does not exist"),
        (["*.webm"], "*.webm does not exist"),
        (["rtsp://u:p@a/1", "0"], "camera 0 would wait for rtsp://a/1 to end: give one live stream a run"),
        (["list.streams"], "list.streams: lists of streams are not read: give one stream a run"),
    ],
)
def test_what_cannot_be_is_said(inputs, sentence):
    with pytest.raises(OptionsError, match=f"^{re.escape(sentence)}$"):
        find_videos(inputs)


def test_an_existing_file_of_that_name_is_no_camera():
    Path("0").touch()
    assert find_videos(["0"]) == []


def test_results_that_would_meet_keep_their_suffix_or_are_refused():
    videos = find_videos(["b.AVI", "x.ts"])
    assert video_paths(videos, Path("o")) == [Path("o/b.mkv"), Path("o/x.mkv")]
    Path("b.ts").touch()
    assert video_paths(find_videos(["b.AVI", "b.ts"]), Path("o")) == [Path("o/b.AVI.mkv"), Path("o/b.ts.mkv")]
    Path("sub/a.mp4").touch()
    with pytest.raises(OptionsError, match=r"a\.mp4 and sub/a\.mp4 would both be written to o/a"):
        video_paths(find_videos(["a.mp4", "sub/a.mp4"]), Path("o"))
