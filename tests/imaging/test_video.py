"""Videos are read frame by frame: which, when, upright, and what happens when they break off."""

from __future__ import annotations

import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from hatdet.core.errors import InputError, OptionsError
from hatdet.imaging.files import to_array
from hatdet.imaging.video import EVERY_FRAME, Frame, Video, check_pyav, newest
from hatdet.imaging.video_sources import find_videos
from tests.videos import STEADY, VARYING, make_video, picture, read_back


def opened(path: Path, *arguments: int) -> Video:
    return Video(find_videos([str(path)])[0], *arguments)


def frames_of(path: Path, wanted: range = EVERY_FRAME) -> tuple[Video, list[Frame]]:
    with opened(path) as video:
        return video, list(video.frames(wanted))


@pytest.mark.parametrize("wanted", [EVERY_FRAME, range(10, 50, 7), range(3), range(59, 1000), range(0, 60, 59)])
def test_the_wanted_frames_with_their_numbers_and_times(tmp_path, wanted):
    _, frames = frames_of(make_video(tmp_path / "a.mp4", VARYING), wanted)
    expected = [number for number in range(60) if number in wanted]
    assert [frame.number for frame in frames] == expected
    assert [frame.seconds for frame in frames] == [VARYING[number] for number in expected]
    for frame in frames:
        shown = to_array(frame.image()).astype(int)
        assert np.abs(shown - picture(frame.number)).mean() < 4


def test_nothing_behind_the_last_wanted_frame_is_decoded(tmp_path, monkeypatch):
    made = []
    real = Video._time
    monkeypatch.setattr(Video, "_time", lambda self, frame, last: made.append(frame.pts) or real(self, frame, last))
    frames_of(make_video(tmp_path / "a.mkv"), range(0, 10, 3))
    assert len(made) == 10


def test_all_packets_of_sound_come_once(tmp_path):
    given = make_video(tmp_path / "a.mkv")
    video, frames = frames_of(given)
    packets = [bytes(packet) for frame in frames for packet in frame.sound]
    assert packets + [bytes(packet) for packet in video.sound] == read_back(given).packets
    assert max(len(frame.sound) for frame in frames) < 20


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (-90, 3), (180, 2)])
def test_a_turned_video_is_read_upright(tmp_path, rotation, turns):
    """By as much against the clock as the container says."""
    lying = np.zeros((32, 48, 3), np.uint8)
    lying[:16, :16] = (220, 40, 40)
    given = make_video(tmp_path / "a.mp4", STEADY[:2], pictures=[lying, lying], rotation=rotation)
    _, frames = frames_of(given)
    upright = np.rot90(lying, turns).astype(int)
    shown = to_array(frames[0].image()).astype(int)
    assert shown.shape == upright.shape
    assert np.abs(shown - upright).mean() < 5


def test_large_untagged_videos_are_taken_for_high_definition(tmp_path):
    """Their colours were made by BT.709, those of small ones by BT.601."""
    for name, height, matrix in (("a.mkv", 720, "ITU709"), ("b.mkv", 480, "ITU601")):
        colour = np.full((height, 64, 3), (200, 30, 90), np.uint8)
        with av.open(str(tmp_path / name), "w") as file:
            stream = file.add_stream("libx264", rate=25, options={"qp": "0"})
            stream.height, stream.width, stream.pix_fmt = height, 64, "yuv420p"
            frame = av.VideoFrame.from_ndarray(colour, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=getattr(av.video.reformatter.Colorspace, matrix)
            )
            frame.colorspace, frame.pts = 2, 0
            file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
        _, (only,) = frames_of(tmp_path / name)
        assert np.abs(to_array(only.image()).astype(int) - (200, 30, 90)).max() <= 4, name


@pytest.mark.parametrize(
    ("name", "container"), [("a.mkv", {}), ("a.mp4", {"movflags": "+faststart"}), ("a.mov", {"movflags": "+faststart"})]
)
def test_a_file_that_is_cut_off_gives_what_is_there_and_says_so(tmp_path, name, container):
    whole = make_video(tmp_path / name, container=container)
    assert frames_of(whole)[0].broken is None
    cut = tmp_path / f"cut_{name}"
    cut.write_bytes(whole.read_bytes()[: round(whole.stat().st_size * 0.6)])
    video, frames = frames_of(cut)
    assert 15 < len(frames) < 55
    assert [frame.seconds for frame in frames] == STEADY[: len(frames)]
    assert video.broken is not None
    assert video.broken.startswith(f"it breaks off after {len(frames)} frames: ")


def test_damaged_packets_are_passed_over_and_counted(tmp_path):
    whole = make_video(tmp_path / "a.mkv", audio=None, options={"g": "1", "bf": "0"})
    with av.open(str(whole)) as source, av.open(str(tmp_path / "b.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            sent = packet
            if number in (20, 21):
                sent = av.Packet(b"\xff" * 40)  # longer than it is, by its own word
                sent.pts, sent.dts, sent.time_base = packet.pts, packet.dts, packet.time_base
            sent.stream = stream
            target.mux(sent)
    video, frames = frames_of(tmp_path / "b.mkv")
    assert (video.damaged, video.broken) == (2, None)
    assert [frame.seconds for frame in frames] == STEADY[:20] + STEADY[22:]


def test_a_video_that_changes_its_size_ends_there(tmp_path):
    small = make_video(tmp_path / "a.ts", STEADY[:20], audio=None)
    large = make_video(tmp_path / "b.ts", STEADY[:20], audio=None, pictures=[picture(0, (96, 80))] * 20)
    (tmp_path / "c.ts").write_bytes(small.read_bytes() + large.read_bytes())
    video, frames = frames_of(tmp_path / "c.ts")
    assert len(frames) == 20
    assert video.broken == "its frames change from 64x48 to 96x80 pixels after 20 frames"


def test_what_is_no_video_is_refused_in_one_line(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video at all, but some text\n" * 100)
    with av.open(str(tmp_path / "sound.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=48_000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate, silence.pts = 48_000, 0
        file.mux(stream.encode(silence))
        file.mux(stream.encode(None))
    half = make_video(tmp_path / "half.mp4")
    half.write_bytes(half.read_bytes()[:1000])
    for name in ("empty.mp4", "text.mp4", "half.mp4"):
        with pytest.raises(InputError, match=rf"{name} cannot be read as a video: [^\n]+$"):
            opened(tmp_path / name)
    with pytest.raises(InputError, match=r"sound\.mp4 holds no video"):
        opened(tmp_path / "sound.mp4")


def test_frames_of_too_many_pixels_are_refused_before_they_are_decoded(tmp_path):
    given = make_video(tmp_path / "a.mp4", STEADY[:3])
    with pytest.raises(InputError, match=r"a\.mp4 has 64x48 pixels: at most 3,071 are read \(--max-pixels\)"):
        opened(given, 3071)
    opened(given, 3072).__exit__(None, None, None)


def test_a_list_of_other_files_does_not_reach_the_network(tmp_path):
    """A playlist that calls itself a video."""
    (tmp_path / "a.mp4").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(InputError, match=r"a\.mp4 (cannot be read as a video|holds no video)"):
        opened(tmp_path / "a.mp4")


def test_a_colon_in_a_name_is_no_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_video("file:rtsp:a%03d.mp4", STEADY[:3])
    assert len(frames_of(Path("rtsp:a%03d.mp4"))[1]) == 3


def test_without_pyav_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(OptionsError, match=r'^videos need PyAV: pip install "hatdet\[video\]"$'):
        check_pyav()


def arriving(count: int, every: float) -> Frame:
    for number in range(count):
        time.sleep(every)
        yield Frame(number, Fraction(number), None, None, (number,))


def test_of_a_live_stream_the_newest_frame_is_taken_with_all_of_the_sound():
    all_came = threading.Event()

    def sent():
        yield from arriving(40, 0)
        all_came.set()

    seen = []
    for frame in newest(sent()):
        seen.append(frame)
        assert all_came.wait(60)
    assert [frame.number for frame in seen][1:] == ([39] if seen[0].number < 39 else [])
    assert [packet for frame in seen for packet in frame.sound] == list(range(40))


def test_what_ends_a_live_stream_reaches_who_reads_it():
    def fails():
        yield from arriving(3, 0)
        raise ValueError("gone")

    stream = newest(fails())
    with pytest.raises(ValueError, match="gone"):
        list(stream)


def test_a_live_stream_that_nobody_wants_any_more_is_left():
    before = threading.active_count()
    stream = newest(arriving(10_000, 0.001))
    next(stream)
    stream.close()
    assert threading.active_count() == before
