"""Videos and streams, read frame by frame and written frame by frame, by PyAV (the extra `video`).

Frames are upright, RGB, 8 bits. Times are seconds from the beginning of the video, exact. Each frame carries the
packets of sound that came before it, not decoded, and a writer puts them into its file as they are. So
neither the length of a video nor its sound is ever in memory.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hatdet.core.errors import InputError, OptionsError
from hatdet.core.types import Image
from hatdet.imaging.files import MAX_PIXELS

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from hatdet.imaging.video_sources import VideoSource

__all__ = ["EVERY_FRAME", "Frame", "Video", "check_pyav", "newest", "reason_of"]

EVERY_FRAME = range(sys.maxsize)
OPEN_TIMEOUT, READ_TIMEOUT = 20.0, 10.0  # seconds without a byte of a stream
USUAL_RATE = Fraction(25)  # of a video that does not say
JUMP = 1  # seconds back that are no disorder but another clock
# Containers that say how long they are, and are written knowing it: one that ends before is broken off.
_SAY_THEIR_LENGTH = ("mov", "matroska", "avi", "asf")
_SHORT = Fraction(1, 2)
HIGH_DEFINITION = 720  # rows from which untagged colours are taken for BT.709, as players do, below for BT.601


def check_pyav() -> None:
    """Make sure that videos can be read.

    Raises:
        OptionsError: PyAV is not installed.
    """
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise OptionsError('videos need PyAV: pip install "hatdet[video]"') from error


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a video.

    Attributes:
        number: from 0, in the video.
        seconds: from the beginning of the video until the frame is shown.
        duration: for how many seconds it is shown; None where the video does not say.
        sound: packets of sound that came since the last frame.
        read_ms: how long it was waited for, in milliseconds.
    """

    number: int
    seconds: Fraction
    duration: Fraction | None
    decoded: VideoFrame
    sound: tuple[Packet[AudioStream], ...] = ()
    read_ms: float = 0

    def image(self) -> Image:
        """The picture upright, at scale 1."""
        from av.video.reformatter import Colorspace

        unsaid = self.decoded.colorspace == 2
        guessed = Colorspace.ITU709 if self.decoded.height >= HIGH_DEFINITION else Colorspace.ITU601
        array = self.decoded.to_ndarray(format="rgb24", src_colorspace=guessed if unsaid else None)
        array = np.rot90(array, round(self.decoded.rotation / 90))
        # By NumPy: it is read beside a network, whose threads would have to share their processors with PyTorch's.
        values = np.empty((3, *array.shape[:2]), np.float32)
        for channel in range(3):
            np.divide(array[..., channel], np.float32(255), out=values[channel])
        return Image(torch.from_numpy(values))


class Video:
    """A video file or a stream, read once from its beginning; a context manager.

    Attributes:
        count: how many frames there are, where the file says so.
        rate: frames a second, on average.
        broken: after the last frame: in words, what ended the video before its end; None for a whole one.
        damaged: packets that could not be decoded, after the first that could, or be written.
        sound: after the last frame: packets of sound that came behind it.

    Args:
        source: what to read.
        max_pixels: larger frames are refused before one is decoded.

    Raises:
        InputError: it cannot be read, it holds no video, its frames are too large.
    """

    def __init__(self, source: VideoSource, max_pixels: int = MAX_PIXELS) -> None:
        import av

        self.source = source
        timeout = (OPEN_TIMEOUT, READ_TIMEOUT) if source.stream else None
        try:
            self._container = av.open(
                source.address,
                "r",
                format=source.format,
                options=dict(source.options),
                metadata_errors="replace",
                timeout=timeout,
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            raise InputError(f"{source.name} cannot be read as a video: {reason_of(error)}") from error
        try:
            stream = self._container.streams.best("video")
            if stream is None or stream.codec_context is None:
                raise InputError(f"{source.name} holds no video that can be decoded")
            self._stream: VideoStream = stream  # type: ignore[assignment]
            w, h = self._stream.width, self._stream.height
            if w * h > max_pixels:
                raise InputError(f"{source.name} has {w}x{h} pixels: at most {max_pixels:,} are read (--max-pixels)")
        except BaseException:
            self._container.close()
            raise
        self.audio = [one for one in self._container.streams.audio if one.codec_context is not None]
        self.count = self._stream.frames or self._counted()
        self.rate = self._stream.average_rate or self._stream.guessed_rate or USUAL_RATE
        self.time_base = self._stream.time_base or Fraction(1, 90_000)
        self.broken: str | None = None
        self.damaged = 0
        self.sound: tuple[Packet[AudioStream], ...] = ()
        self._waiting: list[Packet[AudioStream]] = []
        start = self._container.start_time
        self._start: Fraction | None = None if start is None else Fraction(start, 1_000_000)
        self._reached = Fraction(0)

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says about itself: when it was taken, where."""
        return self._container.metadata

    @property
    def pixel_shape(self) -> Fraction | None:
        """Width of a pixel by its height, as the frames are stored."""
        return self._stream.sample_aspect_ratio

    def _counted(self) -> int | None:
        length, rate = self._container.duration, self._stream.average_rate
        return None if self.source.stream or not length or not rate else round(length / 1_000_000 * rate)

    def frames(self, wanted: range = EVERY_FRAME) -> Generator[Frame]:
        """The frames of the wanted numbers, in their order. One is decoded when it is asked for.

        A video that breaks off, or changes its size, ends; `broken` says why.
        """
        began, number, now = time.perf_counter(), -1, None
        size: tuple[int, int] | None = None
        for decoded in self._decoded():
            number += 1
            now = self._time(decoded, now)
            if size is None:
                size = decoded.width, decoded.height
            if size != (decoded.width, decoded.height):
                was, is_now = "{}x{}".format(*size), f"{decoded.width}x{decoded.height}"
                self.broken = f"its frames change from {was} to {is_now} pixels after {number} frames"
                break
            if number not in wanted:
                if number < wanted.start:
                    self._waiting = [packet for packet in self._waiting if _seconds(packet) >= now]
                continue
            if number == wanted.start > 0:
                self._waiting = [packet for packet in self._waiting if _seconds(packet) >= now]
            sound, self._waiting = tuple(self._waiting), []
            length = None if not decoded.duration else decoded.duration * (decoded.time_base or self.time_base)
            yield Frame(number, now, length, decoded, sound, (time.perf_counter() - began) * 1e3)
            if number == wanted[-1]:
                self.sound = tuple(self._sound_until(now + (length or 1 / self.rate)))
                return
            began = time.perf_counter()
        self.sound = tuple(self._waiting)

    def _decoded(self) -> Iterator[VideoFrame]:
        """Frames as the decoder gives them; packets of sound are put by in between."""
        import av

        count = 0
        reason: str | None = None
        try:
            for packet in self._packets():
                if packet.stream_index != self._stream.index:
                    self._waiting.append(packet)
                    continue
                try:
                    for frame in self._stream.codec_context.decode(packet):
                        count += 1
                        yield frame
                except av.error.InvalidDataError:
                    self.damaged += count > 0  # a stream that is joined in the middle cannot be decoded at once
        except (av.FFmpegError, OSError) as error:
            reason = reason_of(error)
        reason = reason or self._what_is_missing()
        if reason:  # the last packet of its sound may be half a one
            last = {packet.stream_index: packet for packet in self._waiting}
            self._waiting = [packet for packet in self._waiting if packet is not last[packet.stream_index]]
        with contextlib.suppress(av.FFmpegError, OSError):
            for frame in self._stream.codec_context.decode(None):  # what it still holds
                count += 1
                yield frame
        if reason:
            self.broken = f"it breaks off after {count} frames: {reason}"

    def _packets(self) -> Iterator[Packet[Any]]:
        """Packets of the video, and of its sound with their times from the beginning."""
        for packet in self._container.demux(self._stream, *self.audio):
            shown = packet.pts if packet.pts is not None else packet.dts
            if packet.size == 0 or (shown is None and packet.stream_index != self._stream.index):
                continue
            if shown is not None:
                if self._start is None:
                    self._start = shown * packet.time_base
                self._reached = max(self._reached, (shown + (packet.duration or 0)) * packet.time_base - self._start)
                if packet.stream_index != self._stream.index:
                    back = round(self._start / packet.time_base)
                    packet.pts = None if packet.pts is None else packet.pts - back
                    packet.dts = None if packet.dts is None else packet.dts - back
            yield packet

    def _time(self, frame: VideoFrame, last: Fraction | None) -> Fraction:
        """When the frame is shown, after the last one in any case."""
        start = self._start or Fraction(0)
        # AVI knows in which order frames are decoded only: one follows the other.
        stamp = frame.dts if self._container.format.name == "avi" else frame.pts
        if stamp is None:
            return Fraction(0) if last is None else last + 1 / self.rate
        now = stamp * (frame.time_base or self.time_base) - start
        if last is None or now > last:
            return now
        if last - now < JUMP:
            return last + self.time_base
        self._start = start + now - (last + 1 / self.rate)  # the sender began anew
        return last + 1 / self.rate

    def _sound_until(self, end: Fraction) -> Iterator[Packet[AudioStream]]:
        """Packets of sound that belong to the frames that were wanted, and come behind them in the file."""
        import av

        if not self.source.live:
            with contextlib.suppress(av.FFmpegError, OSError):
                for packet in self._packets():
                    if packet.stream_index != self._stream.index:
                        self._waiting.append(packet)
                    elif self._reached > end + 1:
                        break
        yield from (packet for packet in self._waiting if _seconds(packet) < end)

    def _what_is_missing(self) -> str | None:
        """Of a file that knows its length."""
        if not self._container.format.name.startswith(_SAY_THEIR_LENGTH):
            return None
        read: tuple[VideoStream | AudioStream, ...] = (self._stream, *self.audio)
        ends = [((one.start_time or 0) + (one.duration or 0)) * (one.time_base or 0) for one in read if one.duration]
        if not ends and self._container.duration and len(self._container.streams) == len(read):
            ends = [Fraction(self._container.duration + (self._container.start_time or 0), 1_000_000)]
        missing = max(ends, default=Fraction(0)) - (self._start or 0) - self._reached
        return f"{float(missing):.1f} s are missing" if missing > _SHORT else None


def newest(frames: Generator[Frame]) -> Generator[Frame]:
    """Of frames that come whether or not anybody is ready for them, the newest one each time.

    Who sends them is never kept waiting; the sound of frames that are passed over comes with the next.
    """
    taken = threading.Condition()
    waiting: Frame | None = None
    failure: BaseException | None = None
    ended = closing = False

    def receive() -> None:
        nonlocal waiting, failure, ended
        try:
            for frame in frames:
                with taken:
                    waiting = replace(frame, sound=(*(waiting.sound if waiting else ()), *frame.sound))
                    taken.notify()
                    if closing:
                        break
        except BaseException as error:
            failure = error
        with taken:
            ended = True
            taken.notify()

    def something() -> bool:
        return ended or waiting is not None

    receiver = threading.Thread(target=receive, name="receiver", daemon=True)
    receiver.start()
    try:
        while True:
            with taken:
                taken.wait_for(something)
                frame, waiting = waiting, None
            if frame is not None:
                yield frame
            elif failure is not None:
                raise failure
            else:
                return
    finally:
        closing = True
        receiver.join()  # it reads from what is closed next


def _seconds(packet: Packet[AudioStream]) -> Fraction:
    return (packet.pts if packet.pts is not None else packet.dts or 0) * packet.time_base


def reason_of(error: BaseException) -> str:
    """In a few words, without the address, which may hold a password."""
    import av

    if isinstance(error, av.error.ExitError):
        return f"no data for {READ_TIMEOUT:g} s"
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split())
