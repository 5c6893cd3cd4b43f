"""Small videos that tests make, and what PyAV says of them, without hatdet in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

STEADY = [Fraction(n, 25) for n in range(60)]
VARYING = [Fraction(n + n * n // 7 % 3, 25) / 2 + Fraction(n, 25) for n in range(60)]
SIZE = (64, 48)
SQUARE = 12  # side of the white square that moves over the dark ground


def square(number: int) -> tuple[int, int, int, int]:
    """Where the square of a frame is, as xyxy: about a pixel to the right in each frame, every second one down too."""
    x, y = 2 + number * 4 // 5 % 48, 4 + number // 2 % 30
    return x, y, x + SQUARE, y + SQUARE


def picture(number: int, size_wh: tuple[int, int] = SIZE) -> np.ndarray:
    """`(h, w, 3)` RGB uint8."""
    pixels = np.full((size_wh[1], size_wh[0], 3), 20, np.uint8)
    x1, y1, x2, y2 = square(number)
    pixels[y1:y2, x1:x2] = 235
    return pixels


def sound(seconds: Fraction) -> np.ndarray:
    """A tone that rises, so that one can tell where one is in it, `(n,)` int16 at 48 kHz."""
    n = round(seconds * 48_000)
    at = np.arange(n) / 48_000
    return (np.sin(2 * np.pi * (300 * at + 400 * at**2)) * 8000).astype(np.int16)


def make_video(
    path: Path | str,
    times: Sequence[Fraction] = STEADY,
    *,
    codec: str = "libx264",
    audio: str | None = "aac",
    pictures: Sequence[np.ndarray] | None = None,
    rotation: float = 0,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
) -> Path:
    """A video with a frame at each of the times, and sound of the same length."""
    pictures = [picture(number) for number in range(len(times))] if pictures is None else pictures
    last = times[-1] - times[-2] if len(times) > 1 else Fraction(1, 25)
    # AVI has one length for all frames
    tick = last if Path(path).suffix == ".avi" else Fraction(1, 90_000)
    with av.open(str(path), "w", options=container or {}) as file:
        settings = {"crf": "4", "preset": "ultrafast"} if codec == "libx264" else {}
        stream = file.add_stream(codec, rate=round(1 / last), options=settings | (options or {}))
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = tick
        stream.codec_context.flags |= int(av.codec.context.Flags.frame_duration)
        if rotation:
            stream.set_display_rotation(rotation)
        heard = None if audio is None else file.add_stream(audio, rate=48_000, layout="mono")
        if audio == "wmav2" and heard is not None:
            heard.bit_rate = 128_000
        samples = sound(times[-1] + last)
        kind = "s16" if audio is None or audio.startswith("pcm") or audio == "libopus" else "fltp"
        sent = 0

        def send(until: Fraction) -> None:
            nonlocal sent
            while heard is not None and sent < min(len(samples), until * 48_000):
                part = samples[sent : sent + 960][None]
                values = part if kind == "s16" else part.astype(np.float32) / 32768
                frame = av.AudioFrame.from_ndarray(values, format=kind, layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 48_000, sent, Fraction(1, 48_000)
                file.mux(heard.encode(frame))
                sent += part.shape[1]

        for number, (time, pixels) in enumerate(zip(times, pictures, strict=False)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            after = times[number + 1] if number + 1 < len(times) else time + last
            frame.pts, frame.time_base, frame.duration = round(time / tick), tick, round((after - time) / tick)
            file.mux(stream.encode(frame))
            send(after)
        file.mux(stream.encode(None))
        if heard is not None:
            file.mux(heard.encode(None))
    return Path(path)


@dataclass
class ReadBack:
    """What is in a video file.

    Attributes:
        times: of its frames, in seconds.
        pictures: `(h, w, 3)` each.
        sound: samples in their order; None without sound.
        packets: the bytes of the sound, as they are in the file.
        length: of the video stream or else of the file, in seconds.
    """

    times: list[Fraction]
    pictures: list[np.ndarray]
    sound: np.ndarray | None
    packets: list[bytes]
    codec: str
    length: Fraction


def read_back(path: Path | str) -> ReadBack:
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        frames = [(frame.pts * frame.time_base, frame.to_ndarray(format="rgb24")) for frame in file.decode(video=0)]
        in_file = Fraction(file.duration or 0, 1_000_000)
        length = stream.duration * stream.time_base if stream.duration else in_file
        codec = stream.codec.canonical_name
    heard, packets = None, []
    with av.open(str(path)) as file:
        if file.streams.audio:
            heard = np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], axis=1)
    with av.open(str(path)) as file:
        if file.streams.audio:
            packets = [bytes(packet) for packet in file.demux(audio=0) if packet.size]
    return ReadBack([time for time, _ in frames], [p for _, p in frames], heard, packets, codec, length)
