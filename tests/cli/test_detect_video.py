"""`hatdet detect` on videos and streams: what comes out, whole or not at all, in flat memory."""

from __future__ import annotations

import gc
import http.server
import json
import math
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from hatdet.cli.app import app
from hatdet.cli.session import _Counted, _Rate
from hatdet.core.types import Detections, Image
from hatdet.imaging.video import Frame
from hatdet.imaging.video_writer import VideoWriter
from tests.videos import STEADY, VARYING, make_video, picture, read_back, square


class FindsTheSquare:
    """A detector that finds what is bright, whatever the scale."""

    name = "finds-the-square"
    class_names = {0: "square"}  # noqa: RUF012 (as a detector's, never changed)

    def __init__(self, look: Callable[[int], None] = lambda number: None) -> None:
        self.looked, self._look = 0, look

    def __call__(self, image: Image) -> Detections:
        self._look(self.looked)
        self.looked += 1
        ys, xs = np.nonzero(image.pixels.mean(0).numpy() > 0.5)
        boxes = [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]] if len(xs) else []
        xyxy = np.array(boxes, np.float32).reshape(-1, 4) / np.float32(image.scale)
        return Detections(xyxy, np.full(len(xyxy), 0.9, np.float32), np.zeros(len(xyxy), np.int64), self.class_names)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def detector(monkeypatch) -> Callable[..., FindsTheSquare]:
    """Puts the stand-in into the command's place for a detector."""

    def put(*arguments: Callable[[int], None]) -> FindsTheSquare:
        made = FindsTheSquare(*arguments)
        monkeypatch.setattr("hatdet.detection.yolo.load_detector", lambda *_, **__: made)
        return made

    put()
    return put


def detect(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["detect", *(str(argument) for argument in arguments), "--device", "cpu"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def lines_of(path: str) -> tuple[dict, list[dict]]:
    header, *frames = (json.loads(line) for line in Path(path).read_text("ascii").splitlines())
    return header, frames


def errors(result: Result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("error:")]


def results() -> set[str]:
    """All files, half ones too, but what the test made."""
    return {str(path) for path in Path().rglob("*") if path.is_file() and not str(path).startswith("in")}


TWICE = ("--upscale", "--upscaler", "nearest", "--scale", 2)


@pytest.mark.parametrize("times", [STEADY, VARYING], ids=["steady", "varying"])
def test_a_video_comes_back_with_its_frames_its_sound_and_its_times(detector, times):
    make_video("in.mp4", times)
    result = detect(*TWICE, "in.mp4", "-o", "out.mp4", "--track", "bytetrack", "--json", "out.jsonl")
    assert (result.exit_code, errors(result)) == (0, [])
    assert result.stdout == "in.mp4: 60 frames, objects: 1 square -> out.mp4\n"
    before, after = read_back("in.mp4"), read_back("out.mp4")
    assert after.times == before.times == times
    assert after.packets == before.packets
    assert np.array_equal(after.sound, before.sound)
    assert {shown.shape for shown in after.pictures} == {(96, 128, 3)}
    header, frames = lines_of("out.jsonl")
    assert header == {"schema": 1, "upscaler": "nearest", "detector": "finds-the-square", "tracker": "bytetrack"}
    assert [frame["frame"] for frame in frames] == list(range(60))
    assert [frame["seconds"] for frame in frames] == pytest.approx([float(time) for time in times], abs=1e-6)
    for number, frame in enumerate(frames):
        (found,) = frame["detections"]
        assert found["xyxy"] == pytest.approx(square(number), abs=0.5)  # of the source
        assert found["track_id"] == 1
        assert (frame["source"], frame["width"], frame["height"]) == ("in.mp4", 64, 48)
        assert set(frame["timing_ms"]) == {"read", "upscale", "detect"}
    # The square in its place, twice as large, the box and its label around it.
    x1, y1, x2, y2 = (2 * edge for edge in square(31))
    assert after.pictures[31][y1 + 4 : y2 - 4, x1 + 4 : x2 - 4].mean() > 200
    edge = after.pictures[31][y1 + 6 : y2 - 6, x1].astype(int)
    assert np.abs(edge - after.pictures[31][y1 + 6 : y2 - 6, x1 - 6].astype(int)).max() > 60


@pytest.mark.parametrize("track", [(), ("--track", "bytetrack")], ids=["seen", "tracked"])
def test_oriented_boxes_masks_and_keypoints_of_frames_are_written_and_drawn(detector, monkeypatch, track):
    class FindsACross(FindsTheSquare):
        """A diamond in the square, a mask of its left half and a point in its middle."""

        def __call__(self, image: Image) -> Detections:
            found = super().__call__(image)
            x1, y1, x2, y2 = found.xyxy[0].tolist()
            x, y = (x1 + x2) / 2, (y1 + y2) / 2
            return replace(
                found,
                corners=np.array([[[x, y1], [x2, y], [x, y2], [x1, y]]], np.float32),
                polygons=[[np.array([[x1, y1], [x, y1], [x, y2], [x1, y2]], np.float32)]],
                keypoints=np.array([[[x, y]]], np.float32),
            )

    make_video("in.mp4", STEADY[:5])
    monkeypatch.setattr("hatdet.detection.yolo.load_detector", lambda *_, **__: FindsACross())
    result = detect(*TWICE, "in.mp4", "-o", "out.mp4", "--json", "out.jsonl", *track)
    assert (result.exit_code, errors(result)) == (0, [])
    for number, frame in enumerate(lines_of("out.jsonl")[1]):
        (found,) = frame["detections"]
        x1, y1, x2, y2 = square(number)
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        assert found["corners"] == [pytest.approx(corner, abs=1) for corner in ([x, y1], [x2, y], [x, y2], [x1, y])]
        assert len(found["polygons"][0]) == 4
        assert found["keypoints"][0][:2] == pytest.approx([x, y], abs=1)
        assert found["track_id"] == (1 if track else None)
        # The left half of the white square has a colour, the right one has none but for the diamond's edge.
        shown = read_back("out.mp4").pictures[number].astype(int)
        left, right = (
            shown[round(2 * y2) - 6 : round(2 * y2) - 3, round(2 * at) : round(2 * at) + 3] for at in (x1 + 2, x2 - 4)
        )
        assert np.ptp(left.mean((0, 1))) > 40 > np.ptp(right.mean((0, 1)))


def test_no_more_than_a_few_frames_are_alive_at_once(detector):
    """However long the video: one read ahead, one looked at, one written behind."""
    alive: list[tuple[int, int]] = []

    def count(number: int) -> None:
        if number % 5 == 4:
            kinds = [type(thing) for thing in gc.get_objects()]
            alive.append((kinds.count(Frame), kinds.count(Image)))

    detector(count)
    make_video("in.mp4", STEADY)
    assert detect(*TWICE, "in.mp4", "-o", "out.mp4", "--json", "-").exit_code == 0
    assert len(alive) == 12
    assert max(frames for frames, _ in alive) <= 5
    assert max(images for _, images in alive) <= 4


@pytest.mark.slow
def test_the_memory_does_not_grow_with_the_length():
    """That of the whole process, the encoder's and the sound's with it; ten times as many frames."""
    code = (
        "import re, sys, torch\n"
        "from pathlib import Path\n"
        "from hatdet.detection import yolo\n"
        "from tests.cli.test_detect_video import FindsTheSquare, TWICE, detect\n"
        "torch.set_num_threads(1)\n"
        "yolo.load_detector = lambda *_, **__: FindsTheSquare()\n"
        "assert detect(*TWICE, sys.argv[1], '-o', sys.argv[1] + '.out.mp4', '--json', 'boxes.jsonl').exit_code == 0\n"
        # Not ru_maxrss, which begins with the peak of the process that runs the tests.
        "print(re.search('VmHWM: *(.*) kB', Path('/proc/self/status').read_text())[1])\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    peaks = []
    for count in (200, 2000):
        times = [Fraction(n, 25) for n in range(count)]
        make_video(f"in{count}.mp4", times, pictures=[picture(n, (320, 240)) for n in range(60)] * (count // 60 + 1))
        command = [sys.executable, "-c", code, f"in{count}.mp4"]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.1 * peaks[0]


def test_frames_of_a_range_begin_at_zero_and_keep_their_numbers(detector):
    make_video("in.mp4", VARYING)
    assert detect("in.mp4", "-o", "out", "--frames", "10:40:5", "--json", "boxes.jsonl").exit_code == 0
    _, frames = lines_of("boxes.jsonl")
    assert [frame["frame"] for frame in frames] == [10, 15, 20, 25, 30, 35]
    assert [frame["seconds"] for frame in frames] == pytest.approx([float(VARYING[n]) for n in range(10, 40, 5)])
    assert all(box["track_id"] is None for frame in frames for box in frame["detections"])
    assert all(frame["timing_ms"]["upscale"] is None for frame in frames)
    assert read_back("out/in.mp4").times == [VARYING[n] - VARYING[10] for n in range(10, 40, 5)]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("2:5", [2, 3, 4]),
        (":2", [0, 1]),
        ("57:", [57, 58, 59]),
        ("::30", [0, 30]),
        ("50::9", [50, 59]),
        ("58:900:1", [58, 59]),
    ],
)
def test_which_frames_a_range_means(detector, text, numbers):
    make_video("in.mkv", STEADY)
    detect("in.mkv", "-o", "out", "--frames", text, "--json", "boxes.jsonl")
    assert [frame["frame"] for frame in lines_of("boxes.jsonl")[1]] == numbers


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["in.mp4", "--frames", "5"], "--frames must be START:STOP:STEP, such as 10:200:5, 100: or ::10, got '5'"),
        (["in.mp4", "--frames", "9:3"], "--frames must be START:STOP:STEP, such as 10:200:5, 100: or ::10, got '9:3'"),
        (["in.mp4", "--frames", "::0"], "--frames must be START:STOP:STEP, such as 10:200:5, 100: or ::10, got '::0'"),
        (["in.mp4", "--frames", "-5:"], "--frames must be START:STOP:STEP, such as 10:200:5, 100: or ::10, got '-5:'"),
        (["in.mp4", "--track", "best"], "--track must be bytetrack or botsort, got 'best'"),
        (["in.png", "--track", "botsort"], "--track needs a video or a stream"),
        (["in.png", "--frames", "1:2"], "--frames needs a video or a stream"),
        (["in.mp4", "in.png"], "in.mp4 is a video and in.png is not: give them in two runs"),
        (
            ["in.mp4", "--save-txt"],
            "--save-txt is for images: in.mp4 is a video (--json has its boxes, frame by frame)",
        ),
        (["in.mp4", "--save-crop"], "--save-crop is for images: in.mp4 is a video"),
        (["in.mp4", "--coco", "a.json"], "--coco is for images: in.mp4 is a video"),
        (["in.mp4", "--csv", "a.csv"], "--csv is for images: in.mp4 is a video"),
        (["in.mp4", "--geojson", "a.geojson"], "--geojson is for images: in.mp4 is a video"),
        (["in.mp4", "in.mkv", "-o", "out.mp4"], "out.mp4 is one file for 2 videos: give a folder with -o"),
        (["in.mp4", "-o", "o.avi"], "o.avi cannot be written: expected .m4v .mkv .mov .mp4 .webm, or a folder"),
        (["in.mp4", "-o", "."], "in.mp4 is an input and would be overwritten: give another folder with -o"),
        (["in.mp4", "-o", "./in.mp4"], "in.mp4 is an input and would be overwritten: give another folder with -o"),
        (
            ["in.mp4", "--json", "results/detect/in.mp4"],
            "two different results would be written to results/detect/in.mp4",
        ),
        (["in.webm"], "in.webm does not exist"),
    ],
)
def test_what_cannot_be_is_said_before_the_work(detector, arguments, sentence):
    for name in ("in.mp4", "in.mkv", "in.png"):
        Path(name).touch()
    result = detect(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {sentence}")
    assert len(result.stderr.splitlines()) == 1
    assert results() == set()


@pytest.mark.parametrize(
    ("missing", "arguments", "sentence"),
    [
        ("av", ["in.mp4"], 'error: videos need PyAV: pip install "hatdet[video]"\n'),
        ("av", ["rtsp://host/live"], 'error: videos need PyAV: pip install "hatdet[video]"\n'),
        ("lap", ["in.mp4", "--track", "bytetrack"], 'error: --track needs lap: pip install "hatdet[video]"\n'),
    ],
)
def test_without_what_the_extra_brings_one_line_says_so(detector, monkeypatch, missing, arguments, sentence):
    make_video("in.mp4", STEADY[:2])
    monkeypatch.setitem(sys.modules, missing, None)
    if missing == "lap":
        monkeypatch.setattr("hatdet.detection.tracking.find_spec", lambda name: None)
    result = detect(*arguments)
    assert (result.exit_code, result.stderr, results()) == (2, sentence, set())


def test_several_videos_and_a_broken_one_among_them(detector):
    make_video("in1.mp4", STEADY[:5])
    make_video("in2.avi", STEADY[:5])
    Path("in3.mp4").write_bytes(b"no video")
    result = detect("in3.mp4", "in1.mp4", "in2.avi", "-o", "out", "--json", "boxes.jsonl")
    assert result.exit_code == 1
    assert errors(result) == ["error: in3.mp4 cannot be read as a video: Invalid data found when processing input"]
    assert results() == {"out/in1.mp4", "out/in2.mkv", "boxes.jsonl"}
    assert [frame["source"] for frame in lines_of("boxes.jsonl")[1]] == ["in1.mp4"] * 5 + ["in2.avi"] * 5
    assert result.stderr.splitlines()[-1].startswith("10 frames in ")
    stopped = detect("in3.mp4", "in1.mp4", "-o", "again", "--on-error", "stop")
    assert (stopped.exit_code, Path("again").exists()) == (1, False)


def test_a_file_that_is_cut_off_gives_what_is_there_and_exit_code_1(detector):
    whole = make_video("in.mkv", STEADY)
    Path("in_cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    result = detect("in_cut.mkv", "-o", "out.mkv")
    assert result.exit_code == 1
    (line,) = errors(result)
    count = len(read_back("out.mkv").times)
    assert 15 < count < 50
    assert line.startswith(f"error: in_cut.mkv: it breaks off after {count} frames: ")
    assert line.endswith(f"; the {count} frames that could be used are in out.mkv")


def test_what_goes_wrong_while_it_is_written_leaves_no_half_file(detector, monkeypatch):
    real = VideoWriter.write

    def write(self, frame, shown):
        if frame.number == 7:
            raise OSError(28, "No space left on device")
        real(self, frame, shown)

    monkeypatch.setattr(VideoWriter, "write", write)
    make_video("in.mp4", STEADY)
    Path("out.mp4").write_bytes(b"of before")
    result = detect("in.mp4", "-o", "out.mp4")
    assert result.exit_code == 1
    assert errors(result) == ["error: in.mp4: OSError: [Errno 28] No space left on device"]
    assert (Path("out.mp4").read_bytes(), results()) == (b"of before", {"out.mp4"})


def interrupts_at(wanted: int) -> Callable[[int], None]:
    def look(number: int) -> None:
        if number == wanted:
            raise KeyboardInterrupt

    return look


def test_an_interrupted_file_is_not_written_and_its_boxes_are(detector):
    detector(interrupts_at(20))
    make_video("in.mp4", STEADY)
    result = detect("in.mp4", "-o", "out.mp4", "--json", "boxes.jsonl")
    assert result.exit_code == 130
    assert results() == {"boxes.jsonl"}
    assert 15 < len(lines_of("boxes.jsonl")[1]) <= 20


@contextmanager
def served(content: bytes, sent: int | None = None, silent: float = 0) -> Iterator[str]:
    """The address of a server that sends so many bytes of the content, is silent for some seconds, and hangs up."""
    ended = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:sent])
            self.wfile.flush()
            ended.wait(silent)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://someone:secret@127.0.0.1:{server.server_port}/live.ts"
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_stream_over_http_is_read_as_a_file_is(detector):
    content = make_video("in.ts", STEADY).read_bytes()
    with served(content) as address:
        result = detect(address, "-o", "out", "--json", "boxes.jsonl")
    assert (result.exit_code, errors(result)) == (0, [])
    after = read_back("out/live.mkv")
    assert len(after.times) == 60
    assert np.array_equal(after.sound, read_back("in.ts").sound)
    assert "secret" not in result.output + Path("boxes.jsonl").read_text()
    assert lines_of("boxes.jsonl")[1][0]["source"].startswith("http://127.0.0.1:")


def test_a_stream_that_breaks_off_ends_with_what_came_until_then(detector):
    content = make_video("in.ts", STEADY).read_bytes()
    with served(content, len(content) // 2) as address:
        result = detect(*TWICE, address, "-o", "out.mkv", "--json", "boxes.jsonl", "--track", "botsort")
    assert result.exit_code == 1
    (line,) = errors(result)
    after = read_back("out.mkv")
    count = len(after.times)
    assert 15 < count < 45
    assert line.startswith("error: http://127.0.0.1:")
    assert f"it breaks off after {count} frames: " in line
    assert line.endswith(f"the {count} frames that could be used are in out.mkv")
    assert "secret" not in result.output
    assert len(lines_of("boxes.jsonl")[1]) == count
    assert results() == {"out.mkv", "boxes.jsonl"}


def test_a_stream_that_falls_silent_is_given_up(detector, monkeypatch):
    monkeypatch.setattr("hatdet.imaging.video.READ_TIMEOUT", 2)
    content = make_video("in.ts", STEADY).read_bytes()
    with served(content, len(content) // 2, silent=60) as address:
        result = detect(address, "-o", "out.mkv")
    assert result.exit_code == 1
    (line,) = errors(result)
    count = len(read_back("out.mkv").times)
    assert 0 < count < 45
    assert f"it breaks off after {count} frames: no data for 2 s; " in line


def test_an_interrupted_stream_leaves_what_came_until_then(detector):
    detector(interrupts_at(20))
    content = make_video("in.ts", STEADY).read_bytes()
    with served(content) as address:
        result = detect(address, "-o", "out.mkv", "--json", "boxes.jsonl")
    assert result.exit_code == 130
    assert len(read_back("out.mkv").times) == 20
    assert "20 frames, boxes: 20 square -> out.mkv" in result.stderr
    assert len(lines_of("boxes.jsonl")[1]) == 20


def test_a_live_stream_is_not_kept_waiting(detector):
    """All of it can be sent while the first frame is still looked at, though it is more than a network holds."""
    sent = threading.Event()
    detector(lambda number: None if number else sent.wait(60))
    noise = [np.random.default_rng(n).integers(0, 256, (480, 640, 3), np.uint8) for n in range(26)]
    make_video("in.ts", STEADY[:26], pictures=noise, audio=None, options={"qp": "0"})
    content = Path("in.ts").read_bytes()
    assert len(content) > 10_000_000
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)

    def send() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(content)
            sent.set()

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    result = detect(f"tcp://127.0.0.1:{listening.getsockname()[1]}", "-o", "out.mkv", "--json", "boxes.jsonl")
    assert sent.is_set()
    sender.join()
    listening.close()
    assert result.exit_code == 0
    numbers = [frame["frame"] for frame in lines_of("boxes.jsonl")[1]]
    assert numbers == sorted(set(numbers))
    assert numbers[2] > numbers[1] + 5  # one is read ahead
    assert numbers[-1] == 25
    assert len(read_back("out.mkv").times) == len(numbers)


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9/a.mp4", "tcp://127.0.0.1:9", "rtsp://u:p@127.0.0.1:9/live", "98"]
)
def test_a_stream_that_is_not_there_is_one_line(detector, address):
    result = detect(address, "-o", "out")
    assert result.exit_code == 1
    (line,) = errors(result)
    assert "cannot be read as a video: " in line
    assert "u:p" not in line
    assert results() == set()


def test_lines_on_stdout_come_one_by_one_and_nothing_else(detector):
    make_video("in.mp4", STEADY[:6])
    result = detect("in.mp4", "-o", "out.mp4", "--json", "-", "-q")
    header, *frames = (json.loads(line) for line in result.stdout.splitlines())
    assert (header["tracker"], len(frames), result.stderr) == (None, 6, "")


def test_too_many_pixels_are_refused(detector):
    make_video("in.mp4", STEADY[:2])
    result = detect("in.mp4", "-o", "out.mp4", "--max-pixels", 1000)
    assert (result.exit_code, results()) == (1, set())
    assert errors(result) == ["error: in.mp4 has 64x48 pixels: at most 1,000 are read (--max-pixels)"]


def test_the_progress_of_a_stream_has_no_end():
    task = SimpleNamespace(completed=3, elapsed=1.5, total=None)
    assert (str(_Counted().render(task)), str(_Rate("frames").render(task))) == ("3", "2.00 frames/s")
    more = SimpleNamespace(completed=8, elapsed=4.0, total=6)
    assert str(_Rate("frames").render(more)) == "2.00 frames/s, 0:00:00 left"


def test_frames_without_an_object_are_there_too(detector):
    dark = [picture(0) if 2 <= n < 4 else np.zeros((48, 64, 3), np.uint8) for n in range(6)]
    make_video("in.mp4", STEADY[:6], pictures=dark, audio=None)
    result = detect("in.mp4", "-o", "out.mp4", "--json", "boxes.jsonl")
    assert result.stdout == "in.mp4: 6 frames, boxes: 2 square -> out.mp4\n"
    assert [len(frame["detections"]) for frame in lines_of("boxes.jsonl")[1]] == [0, 0, 1, 1, 0, 0]
    assert math.isclose(len(read_back("out.mp4").times), 6)
