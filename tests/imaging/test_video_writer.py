"""Videos come back with their frames, their times and their sound."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from hatdet.core.errors import InputError, OptionsError
from hatdet.imaging.files import to_array
from hatdet.imaging.video import EVERY_FRAME, Video
from hatdet.imaging.video_sources import find_videos
from hatdet.imaging.video_writer import VideoWriter
from tests.videos import STEADY, VARYING, make_video, read_back


def rewritten(source: Path, target: Path, wanted: range = EVERY_FRAME) -> Video:
    """The video, read and written by hatdet."""
    with (
        Video(find_videos([str(source)])[0]) as video,
        VideoWriter(target, target, video, wanted.start == 0) as writer,
    ):
        for frame in video.frames(wanted):
            writer.write(frame, to_array(frame.image()))
        writer.finish()
    return video


@pytest.mark.parametrize("times", [STEADY, VARYING], ids=["steady", "varying"])
@pytest.mark.parametrize(
    ("suffix", "codec", "audio"),
    [
        (".mp4", "libx264", "aac"),
        (".mov", "libx264", "pcm_s16le"),
        (".mkv", "libx264", "aac"),
        (".webm", "libvpx-vp9", "libopus"),
    ],
)
def test_sixty_frames_come_back_with_their_times_and_their_sound(tmp_path, times, suffix, codec, audio):
    fast = {"deadline": "realtime", "cpu-used": "8"} if codec != "libx264" else None
    given = make_video(tmp_path / f"in{suffix}", times, codec=codec, audio=audio, options=fast)
    video = rewritten(given, tmp_path / f"out{suffix}")
    before, after = read_back(given), read_back(tmp_path / f"out{suffix}")
    assert video.broken is None
    assert len(after.times) == 60
    assert after.times == before.times
    assert len(before.packets) > 40
    assert b"".join(after.packets) == b"".join(before.packets)
    assert np.array_equal(after.sound, before.sound)
    for here, there in zip(before.pictures, after.pictures, strict=True):
        assert np.abs(here.astype(int) - there.astype(int)).mean() < 4


def test_the_last_frame_stays_as_long_as_it_did(tmp_path):
    times = [Fraction(0), Fraction(1, 10), Fraction(2)]
    given = make_video(tmp_path / "in.mp4", times, audio=None)
    rewritten(given, tmp_path / "out.mp4")
    assert read_back(tmp_path / "out.mp4").length == read_back(given).length == 2 + Fraction(19, 10)


@pytest.mark.parametrize("suffix", [".ts", ".avi"])
def test_other_containers_become_matroska(tmp_path, suffix):
    """Times from the beginning, to the millisecond, however the container counts."""
    given = make_video(tmp_path / f"in{suffix}", options={"bf": "2"})
    rewritten(given, tmp_path / "out.mkv")
    before, after = read_back(given), read_back(tmp_path / "out.mkv")
    assert np.array_equal(after.sound, before.sound)
    apart = [float(time - after.times[0]) for time in after.times]
    assert apart == pytest.approx([float(time) for time in STEADY], abs=0.001)


def test_sound_of_a_transport_stream_fits_into_mp4(tmp_path):
    """AAC has headers of its own there."""
    given = make_video(tmp_path / "in.ts", STEADY[:20])
    rewritten(given, tmp_path / "out.mp4")
    assert np.array_equal(read_back(tmp_path / "out.mp4").sound, read_back(given).sound)


def test_frames_from_the_middle_begin_at_zero_with_their_sound(tmp_path):
    given = make_video(tmp_path / "in.mov", VARYING, audio="pcm_s16le")
    rewritten(given, tmp_path / "out.mov", range(10, 40, 5))
    before, after = read_back(given), read_back(tmp_path / "out.mov")
    kept = [before.times[number] for number in range(10, 40, 5)]
    assert after.times == [time - kept[0] for time in kept]
    begins, ends = (round(time * 48_000) for time in (kept[0], before.times[36]))
    assert before.sound is not None
    # by whole packets, of 20 ms
    sounds = bytes(before.sound.astype(np.int16))
    assert bytes(after.sound.astype(np.int16)) in sounds
    assert abs(after.sound.shape[1] - (ends - begins)) <= 960
    assert abs(sounds.index(bytes(after.sound.astype(np.int16))) / 2 - begins) <= 960


def test_pictures_may_be_larger_and_of_odd_sides(tmp_path):
    """A row or a column more continues them."""
    pixels = [np.full((9, 13, 3), shade, np.uint8) for shade in (40, 90, 160)]
    given = make_video(
        tmp_path / "in.mkv", STEADY[:3], pictures=[np.pad(p, ((0, 1), (0, 1), (0, 0)), "edge") for p in pixels]
    )
    with (
        Video(find_videos([str(given)])[0]) as video,
        VideoWriter(tmp_path / "o.mkv", tmp_path / "o.mkv", video) as writer,
    ):
        for frame, picture in zip(video.frames(), pixels, strict=True):
            writer.write(frame, picture.repeat(3, 0).repeat(3, 1))
        writer.finish()
    after = read_back(tmp_path / "o.mkv")
    assert [picture.shape for picture in after.pictures] == [(28, 40, 3)] * 3
    for picture, shade in zip(after.pictures, (40, 90, 160), strict=True):
        assert np.abs(picture.astype(int) - shade).max() <= 3


def test_colours_are_what_they_were(tmp_path):
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (250, 250, 250), (0, 0, 0)]
    pixels = [np.full((32, 32, 3), colour, np.uint8) for colour in colours]
    given = make_video(tmp_path / "in.mp4", STEADY[:5], pictures=pixels, options={"qp": "0"})
    rewritten(given, tmp_path / "out.mp4")
    for picture, colour in zip(read_back(tmp_path / "out.mp4").pictures, colours, strict=True):
        assert np.abs(picture.astype(int) - colour).max() <= 6


def test_a_turned_video_is_written_upright(tmp_path):
    given = make_video(tmp_path / "in.mp4", STEADY[:3], rotation=90)
    rewritten(given, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as file:
        frames = list(file.decode(video=0))
    assert {(frame.width, frame.height, frame.rotation) for frame in frames} == {(48, 64, 0)}


def test_a_clock_that_is_set_back_does_not_end_the_video(tmp_path):
    """Two transport streams, one behind the other: times and sound begin anew."""
    first = make_video(tmp_path / "a.ts", STEADY[:30], options={"bf": "0"})
    (tmp_path / "in.ts").write_bytes(first.read_bytes() * 2)
    video = rewritten(tmp_path / "in.ts", tmp_path / "out.mkv")
    after = read_back(tmp_path / "out.mkv")
    assert video.broken is None
    assert len(after.times) == 60
    steps = [float(b - a) for a, b in zip(after.times, after.times[1:], strict=False)]
    assert all(0 < step < 0.2 for step in steps)


@pytest.mark.parametrize(
    ("before", "audio", "after", "becomes"),
    [
        ("in.mov", "pcm_alaw", "out.mp4", "aac"),
        ("in.wmv", "wmav2", "out.mkv", "aac"),
        ("in.mp4", "aac", "out.webm", "libopus"),
    ],
)
def test_sound_that_a_container_cannot_hold_is_encoded_again(tmp_path, caplog, before, audio, after, becomes):
    """It is the same tone, at the same time."""
    given = make_video(tmp_path / before, audio=audio, codec="msmpeg4v3" if before == "in.wmv" else "libx264")
    rewritten(given, tmp_path / after)
    assert f"{Path(after).suffix} does not hold its sound ({audio}): it becomes {becomes}" in caplog.text
    here, there = (np.asarray(read_back(path).sound)[0].astype(float) for path in (given, tmp_path / after))
    assert abs(len(here) - len(there)) < 0.1 * 48_000
    middle = slice(24_000, 72_000)
    found = {n: np.corrcoef(here[middle], np.roll(there, n)[middle])[0, 1] for n in range(-2400, 2400, 4)}
    assert max(found.values()) > 0.95
    assert abs(max(found, key=lambda n: found[n])) <= 0.025 * 48_000  # a packet of AAC


def test_what_a_video_says_of_itself_is_kept(tmp_path):
    """Both of its sounds, their languages, and when it was taken."""
    whole = make_video(tmp_path / "whole.mp4", STEADY[:10])
    with av.open(str(whole)) as source, av.open(str(tmp_path / "in.mp4"), "w") as target:
        target.metadata.update({"title": "A street", "creation_time": "2024-05-06T07:08:09.000000Z"})
        picture, sound = source.streams.video[0], source.streams.audio[0]
        streams = [target.add_stream_from_template(stream) for stream in (picture, sound, sound)]
        for stream, language in zip(streams[1:], ("eng", "deu"), strict=True):
            stream.metadata["language"] = language
        for packet in source.demux(picture, sound):
            for stream in [streams[0]] if packet.stream is picture else streams[1:]:
                copy = av.Packet(bytes(packet))
                copy.pts, copy.dts, copy.time_base, copy.duration = (
                    packet.pts,
                    packet.dts,
                    packet.time_base,
                    packet.duration,
                )
                copy.is_keyframe = packet.is_keyframe
                copy.stream = stream
                if packet.size:
                    target.mux(copy)
    rewritten(tmp_path / "in.mp4", tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as file:
        assert (file.metadata["title"], file.metadata["creation_time"][:10]) == ("A street", "2024-05-06")
        assert [stream.language for stream in file.streams.audio] == ["eng", "deu"]


def test_damaged_packets_of_sound_are_left_out_and_counted(tmp_path):
    """A transport stream says of each packet of AAC what it is; Matroska wants to know."""
    content = bytearray(make_video(tmp_path / "whole.ts").read_bytes())
    begins = [at for at in range(188, len(content) - 2) if content[at : at + 2] == b"\xff\xf1"]
    content[begins[20] + 2 : begins[20] + 7] = b"\xff" * 5
    (tmp_path / "in.ts").write_bytes(content)
    video = rewritten(tmp_path / "in.ts", tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as file:
        packets = [bytes(packet) for packet in file.demux(audio=0) if packet.size]
    assert video.damaged >= 1
    whole = [packet[7:] for packet in read_back(tmp_path / "whole.ts").packets]  # without its header
    assert packets[:19] == whole[:19]
    assert packets[-60:] == whole[-60:]
    with av.open(str(tmp_path / "out.mkv")) as file:
        assert len(list(file.decode(video=0))) == 60


def test_places_that_cannot_be_written(tmp_path):
    given = make_video(tmp_path / "in.mp4", STEADY[:5])
    with pytest.raises(OptionsError, match=r"out\.mp4 cannot be written: No such file or directory"):
        rewritten(given, tmp_path / "nowhere" / "out.mp4")
    if shutil.os.path.exists("/dev/full"):
        (tmp_path / "full.mp4").symlink_to("/dev/full")
        with pytest.raises(OptionsError, match=r"full\.mp4 cannot be written: No space left on device"):
            rewritten(given, tmp_path / "full.mp4")


def test_no_frame_is_no_video(tmp_path):
    given = make_video(tmp_path / "in.mp4", STEADY[:5])
    with pytest.raises(InputError, match="gives no frame that is wanted"):
        rewritten(given, tmp_path / "out.mp4", range(10, 20))
