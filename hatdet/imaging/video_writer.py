"""Videos written frame by frame, with the sound of those that they are made from, by PyAV (the extra `video`)."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from hatdet.core.errors import InputError, OptionsError
from hatdet.imaging.video import Frame, Video, reason_of

if TYPE_CHECKING:
    import av.container
    from av.audio.stream import AudioStream
    from av.packet import Packet
    from av.video.stream import VideoStream

__all__ = ["VideoWriter"]

log = logging.getLogger(__name__)

# By container: the encoder and its settings. Few frames are looked ahead, so that few are in memory, and none is
# encoded out of its order.
_MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
_X264 = ("libx264", {"crf": "18", "preset": "veryfast", "bf": "0"})
_VP9 = ("libvpx-vp9", {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "6", "lag-in-frames": "0"})
ENCODER_THREADS = 4  # each holds a frame


class VideoWriter:
    """A video file that is written frame by frame, with the sound of the video that it is made from.

    Times are those of the frames given, exact where the container can be (Matroska counts in milliseconds); of frames
    from the middle of a video the first is at 0. The frames' sound is copied as it is, or, where the container has no
    place for its kind, encoded again, with a warning. The caller makes sure that half a file
    is not taken for a whole one.

    Args:
        path: of the file.
        target: for messages, and by its suffix the container: .mp4, .m4v, .mov, .mkv, .webm.
        video: that the frames come from.
        from_start: whether its first frame is among them.

    Raises:
        OptionsError: the place cannot be written.
    """

    def __init__(self, path: Path, target: Path, video: Video, from_start: bool = True) -> None:
        import av

        self._target, self._video = target, video
        muxer = _MUXERS[target.suffix.lower()]
        self._origin = Fraction(0) if from_start else None
        self._stream: VideoStream | None = None
        self._encoded: dict[int, AudioStream] = {}  # what the container does not hold as it is, by the source's index
        self._last: dict[int, int] = {}  # decoding times, by stream: a file has them in order
        self.frames = 0
        with self._writing():
            self._container: av.container.OutputContainer = av.open(f"file:{path}", "w", format=muxer)
            self._container.metadata.update(video.metadata)
            self._encoder, self._settings = _VP9 if muxer == "webm" else _X264
            self._sound = {one.index: self._sound_of(one) for one in video.audio}

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import av

        with contextlib.suppress(av.FFmpegError, OSError):
            self._container.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        import av

        try:
            yield
        except (av.FFmpegError, OSError, ValueError) as error:
            raise OptionsError(f"{self._target} cannot be written: {reason_of(error)}") from error

    def write(self, frame: Frame, picture: NDArray[np.uint8]) -> None:
        """Append a picture, `(h, w, 3)` RGB, at the frame's time, and the frame's sound.

        Pictures of odd sides are continued by a row or a column: video counts its colours by pairs.

        Raises:
            OptionsError: the place cannot be written, or a picture is too large for a video.
        """
        import av
        from av.video.reformatter import ColorRange, Colorspace

        h, w = picture.shape[:2]
        if h % 2 or w % 2:
            picture = np.pad(picture, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge")
        with self._writing():
            stream = self._stream or self._begin(frame, picture.shape[1], picture.shape[0])
            if self._origin is None:
                self._origin = frame.seconds
            self._put_sound(frame.sound)
            made = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            tick = self._video.time_base
            made.pts = round((frame.seconds - self._origin) / tick)
            made.time_base = tick
            made.duration = 0 if frame.duration is None else round(frame.duration / tick)
            self._container.mux(stream.encode(made))
        self.frames += 1

    def _begin(self, first: Frame, width: int, height: int) -> VideoStream:
        from av.codec.context import Flags

        rate = self._video.rate.limit_denominator(1001)
        made = self._container.add_stream(self._encoder, rate=rate, options=dict(self._settings))
        stream = cast("VideoStream", made)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = self._video.time_base
        context = stream.codec_context
        context.flags |= int(Flags.frame_duration)
        context.thread_count = min(ENCODER_THREADS, os.cpu_count() or 1)
        context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1  # BT.709, limited
        shape = self._video.pixel_shape
        if shape:
            lying = round(first.decoded.rotation / 90) % 2
            context.sample_aspect_ratio = 1 / shape if lying else shape
        self._stream = stream
        return stream

    def _sound_of(self, stream: AudioStream) -> AudioStream:
        try:
            copied = self._container.add_stream_from_template(stream)
            copied.metadata.update(stream.metadata)  # its language
            return copied
        except ValueError:  # what this container has no name for, such as WMA outside of a .wmv
            name, rate = ("libopus", 48_000) if self._encoder == "libvpx-vp9" else ("aac", stream.rate)
            source, kind = self._video.source.name, self._target.suffix
            log.warning("%s: %s does not hold its sound (%s): it becomes %s", source, kind, stream.codec.name, name)
            # A file may count its channels without saying where they are.
            layout = {1: "mono", 2: "stereo"}.get(stream.layout.nb_channels, stream.layout.name)
            made = self._container.add_stream(name, rate=rate, layout=layout)
            self._encoded[stream.index] = stream
            return cast("AudioStream", made)

    def _put_sound(self, packets: tuple[Packet[AudioStream], ...]) -> None:
        import av

        for packet in packets:
            index, back = packet.stream_index, round((self._origin or 0) / packet.time_base)
            dts = packet.dts if packet.dts is not None else packet.pts
            if dts is None or dts <= self._last.get(index, -sys.maxsize):
                continue  # the sender began anew
            self._last[index] = dts
            packet.pts = (packet.pts if packet.pts is not None else dts) - back
            packet.dts = dts - back
            if index in self._encoded:
                self._encode_sound(index, packet)
                continue
            packet.stream = self._sound[index]
            try:
                self._container.mux(packet)
            except av.error.InvalidDataError:  # a container may look into what it holds
                self._video.damaged += 1

    def _encode_sound(self, index: int, packet: Packet[AudioStream] | None) -> None:
        """None for what is still held."""
        import av

        with contextlib.suppress(av.error.InvalidDataError, av.error.EOFError):
            for frame in self._encoded[index].codec_context.decode(packet):
                self._container.mux(self._sound[index].encode(frame))
        if packet is None:
            self._container.mux(self._sound[index].encode(None))

    def finish(self) -> None:
        """Write what comes behind the last frame, and the file's end.

        Raises:
            OptionsError: the place cannot be written.
            InputError: there was no frame.
        """
        if self._stream is None:
            why = f": {self._video.broken}" if self._video.broken else ""
            raise InputError(f"{self._video.source.name} gives no frame that is wanted{why}")
        with self._writing():
            self._put_sound(self._video.sound)
            for index in self._encoded:
                self._encode_sound(index, None)
            self._container.mux(self._stream.encode(None))
            self._container.close()
