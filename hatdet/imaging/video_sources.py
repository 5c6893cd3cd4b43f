"""Which videos and streams a command line means, in Ultralytics' words for them."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hatdet.core.errors import OptionsError
from hatdet.imaging.sources import Source, result_paths

__all__ = ["KEPT_SUFFIXES", "VIDEO_SUFFIXES", "VideoSource", "find_videos", "video_paths"]

# Those that Ultralytics takes for videos.
VIDEO_SUFFIXES = frozenset(
    {".asf", ".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".wmv", ".webm"}
)
KEPT_SUFFIXES = frozenset({".m4v", ".mkv", ".mov", ".mp4", ".webm"})  # that results are written as
ANY_SOUND = ".mkv"  # for all else: it holds whatever sound there is
_LIVE = ("rtsp://", "rtmp://", "tcp://")
_STREAMS = ("http://", "https://", *_LIVE)


@dataclass(frozen=True)
class VideoSource:
    """A video file, a stream or a camera.

    Attributes:
        name: as given, without a user's name and password.
        address, format, options: what PyAV opens.
        path: of the file; None for a stream.
        stem: of its results.
        suffix: of its results: the container's own where it can be written.
        live: whether its frames come when they come: who is slow misses some.
    """

    name: str
    address: str
    path: Path | None
    stem: str
    suffix: str = ANY_SOUND
    format: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    live: bool = False

    @property
    def stream(self) -> bool:
        return self.path is None


def find_videos(arguments: Sequence[str]) -> list[VideoSource]:
    """The videos and streams that the arguments name, each once; none if they name images.

    Raises:
        OptionsError: videos and images together, a file that does not exist, a second live stream.
    """
    found: dict[str, VideoSource] = {}
    others = []
    for argument in arguments:
        sources = _videos_of(argument)
        others += [] if sources else [argument]
        for source in sources:
            found.setdefault(source.address, source)
    videos = list(found.values())
    if videos and others:
        raise OptionsError(f"{videos[0].name} is a video and {others[0]} is not: give them in two runs")
    live = [video.name for video in videos if video.live]
    if len(live) > 1:
        raise OptionsError(f"{live[1]} would wait for {live[0]} to end: give one live stream a run")
    return videos


def video_paths(videos: Sequence[VideoSource], folder: Path) -> list[Path]:
    """Where the result of each goes in a folder.

    Raises:
        OptionsError: two from different folders would meet.
    """
    paths: dict[VideoSource, Path] = {}
    for suffix in sorted({video.suffix for video in videos}):
        alike = [video for video in videos if video.suffix == suffix]
        sources = [Source(Path(v.name), Path(v.path.name if v.path else f"{v.stem}.stream")) for v in alike]
        paths |= zip(alike, result_paths(sources, folder, suffix), strict=True)
    return [paths[video] for video in videos]


def _videos_of(argument: str) -> list[VideoSource]:
    path = Path(argument)
    if argument.lower().startswith(_STREAMS):
        return [_stream(argument)]
    if argument.isdecimal() and not path.exists():
        return [_camera(int(argument))]
    if path.suffix.lower() == ".streams":
        raise OptionsError(f"{argument}: lists of streams are not read: give one stream a run")
    if path.suffix.lower() not in VIDEO_SUFFIXES or path.is_dir():
        return []
    if not path.exists():
        matches = [Path(match) for match in sorted(glob.glob(argument, recursive=True))]
        if not matches:
            raise OptionsError(f"{argument} does not exist")
        return [_file(match) for match in matches if match.is_file()]
    return [_file(path)]


def _file(path: Path) -> VideoSource:
    suffix = path.suffix.lower()
    kept = suffix if suffix in KEPT_SUFFIXES else ANY_SOUND
    # By its protocol: a colon in a name is no address. A file that is a list of others does not reach the network.
    address = f"file:{path.absolute()}"
    return VideoSource(str(path), address, path, path.stem, kept, None, (("protocol_whitelist", "file"),))


def _stream(address: str) -> VideoSource:
    name = re.sub(r"(?<=://)[^/@]*@", "", address)
    last = Path(re.split(r"[?#]", name)[0])
    suffix = last.suffix.lower()
    stem = re.sub(r"\W+", "_", name.split("://", 1)[1]).strip("_") or "stream"
    if suffix in VIDEO_SUFFIXES:
        stem = last.stem
    options = (("rtsp_transport", "tcp"),) if name.lower().startswith("rtsp") else ()
    live = name.lower().startswith(_LIVE)
    return VideoSource(name, address, None, stem, suffix if suffix in KEPT_SUFFIXES else ANY_SOUND, None, options, live)


def _camera(number: int) -> VideoSource:
    form = "avfoundation" if sys.platform == "darwin" else "v4l2"
    address = str(number) if form == "avfoundation" else f"/dev/video{number}"
    return VideoSource(f"camera {number}", address, None, f"camera_{number}", ANY_SOUND, form, (), live=True)
