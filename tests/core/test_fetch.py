"""Downloads over connections that break off: nothing comes twice, nothing that is not whole gets its name."""

from __future__ import annotations

import fcntl
import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from hatdet.core.errors import WeightsError
from hatdet.core.fetch import PIECE, fetch

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """A web server on this machine that breaks connections off.

    Attributes:
        content: of every file.
        lasts: how many bytes each of the next connections lasts; after them each sends all.
        ranges: whether it can begin in the middle.
        tag: its ETag; none if empty.
        asked: what the requests were: the Range header of each, or empty.
        sent: bytes in all.
    """

    content: bytes = CONTENT
    lasts: list[int] = field(default_factory=list)
    ranges: bool = True
    tag: str = '"1"'
    asked: list[str] = field(default_factory=list)
    sent: int = 0
    url: str = ""

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range", "")
        self.asked.append(wanted)
        start, condition = 0, handler.headers.get("If-Range")
        if wanted and self.ranges and condition in (None, self.tag):
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
        size = len(self.content)
        if start >= size:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{size}")
            handler.end_headers()
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if self.tag:
            handler.send_header("ETag", self.tag)
        handler.send_header("Content-Length", str(size - start))
        handler.end_headers()
        body = self.content[start:][: self.lasts.pop(0) if self.lasts else None]
        handler.wfile.write(body)
        self.sent += len(body)


@pytest.fixture
def server() -> Iterator[Server]:
    here = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            here.answer(self)
            self.close_connection = True

        def log_message(self, *arguments):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    here.url = f"http://127.0.0.1:{httpd.server_port}/a.pth"
    yield here
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def names(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()} if cache.is_dir() else set()


@pytest.mark.parametrize("sha256", [SHA256, None], ids=["hash", "no hash"])
def test_a_download_that_breaks_off_goes_on_where_it_was(server, cache, sha256):
    server.lasts = [PIECE, PIECE + 1, PIECE]
    told = []
    path = fetch("a.pth", [server.url], sha256, lambda done, total: told.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert server.asked == ["", f"bytes={PIECE}-", f"bytes={2 * PIECE}-", f"bytes={3 * PIECE}-"]
    assert server.sent == len(CONTENT) + 1
    assert told == sorted(told)
    assert {total for _, total in told} == {len(CONTENT)}
    assert names(cache) == {"a.pth"} | (set() if sha256 else {"a.pth.sha256"})
    server.asked.clear()
    assert fetch("a.pth", [server.url], sha256) == path
    assert not server.asked


@pytest.mark.parametrize("sha256", [SHA256, None], ids=["hash", "no hash"])
def test_what_came_is_kept_for_the_next_run(server, cache, sha256):
    server.lasts = [PIECE, 0]
    with pytest.raises(WeightsError, match="broke off after 65,536 bytes, which are kept") as caught:
        fetch("a.pth", [server.url], sha256)
    assert "\n" not in str(caught.value)
    assert "a.pth" not in names(cache)
    assert fetch("a.pth", [server.url], sha256).read_bytes() == CONTENT
    assert server.asked[-1] == f"bytes={PIECE}-"
    assert server.sent == len(CONTENT)
    assert names(cache) == {"a.pth"} | (set() if sha256 else {"a.pth.sha256"})


def test_an_interrupted_download_goes_on_too(server, cache):
    def interrupt(done: int, total: int) -> None:
        if done >= PIECE:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("a.pth", [server.url], SHA256, interrupt)
    assert names(cache) == {".a.pth.partial", ".a.pth.partial.source"}
    assert fetch("a.pth", [server.url], SHA256).read_bytes() == CONTENT
    assert server.asked == ["", f"bytes={PIECE}-"]


def test_another_address_goes_on_where_the_first_broke_off(server):
    server.lasts = [PIECE, 0]
    assert fetch("a.pth", [server.url, server.url + "?mirror"], SHA256).read_bytes() == CONTENT
    assert server.asked == ["", f"bytes={PIECE}-", f"bytes={PIECE}-"]


def test_without_a_hash_another_address_begins_again(server):
    server.lasts = [PIECE, 0]
    assert fetch("a.pth", [server.url, server.url + "?mirror"], None).read_bytes() == CONTENT
    assert server.asked == ["", f"bytes={PIECE}-", ""]


@pytest.mark.parametrize("tag", ['"2"', 'W/"1"', ""])
def test_without_a_hash_a_file_that_may_be_another_by_now_begins_again(server, tag):
    server.lasts, server.tag = [PIECE, 0], tag.replace("2", "1")
    with pytest.raises(WeightsError):
        fetch("a.pth", [server.url], None)
    server.content, server.tag = CONTENT[::-1], tag
    assert fetch("a.pth", [server.url], None).read_bytes() == CONTENT[::-1]


def test_with_a_hash_bytes_of_another_file_are_noticed_and_fetched_again(server, cache):
    cache.mkdir(parents=True)
    (cache / ".a.pth.partial").write_bytes(b"something else" * 1000)
    assert fetch("a.pth", [server.url], SHA256).read_bytes() == CONTENT
    assert server.asked == ["bytes=14000-", ""]


@pytest.mark.parametrize("rest", [CONTENT, CONTENT + b"more", CONTENT[:-1] + b"?"], ids=["whole", "longer", "other"])
def test_a_partial_file_with_nothing_missing(server, cache, rest):
    cache.mkdir(parents=True)
    (cache / ".a.pth.partial").write_bytes(rest)
    assert fetch("a.pth", [server.url], SHA256).read_bytes() == CONTENT
    assert names(cache) == {"a.pth"}
    assert server.sent == (0 if rest == CONTENT else len(CONTENT))


def test_a_server_that_cannot_begin_in_the_middle(server):
    server.ranges, server.lasts = False, [PIECE, 2 * PIECE]
    assert fetch("a.pth", [server.url], SHA256).read_bytes() == CONTENT
    assert server.asked == ["", f"bytes={PIECE}-", f"bytes={2 * PIECE}-"]


@pytest.mark.parametrize("content", [b"", b"another file", CONTENT[:-1], CONTENT + b"x"])
def test_what_does_not_have_the_hash_gets_no_name(server, cache, content):
    server.content = content
    with pytest.raises(WeightsError, match=r"not the expected file|416|broke off|no connection"):
        fetch("a.pth", [server.url], SHA256)
    assert "a.pth" not in names(cache)


def test_two_that_fetch_the_same_file_fetch_it_once(server, cache):
    """The second waits for the first, which is held up here, and takes what that has fetched."""
    cache.mkdir(parents=True)
    found: list[Path] = []
    with (cache / ".a.pth.partial").open("ab") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second = threading.Thread(target=lambda: found.append(fetch("a.pth", [server.url], SHA256)))
        second.start()
        second.join(0.3)
        assert second.is_alive()
        (cache / ".a.pth.partial").write_bytes(CONTENT)
        (cache / ".a.pth.partial").rename(cache / "a.pth")
    second.join(10)
    assert found == [cache / "a.pth"]
    assert not server.asked
    assert names(cache) == {"a.pth"}


def test_a_full_disk_is_one_sentence_and_the_next_run_goes_on(server, cache, monkeypatch):
    from hatdet.core import fetch as module

    real = module._Partial.append

    def full(self, piece):
        if self.size >= 2 * PIECE:
            raise OSError(28, "No space left on device")
        real(self, piece)

    monkeypatch.setattr(module._Partial, "append", full)
    with pytest.raises(WeightsError, match=r"a\.pth cannot be written: No space left on device"):
        fetch("a.pth", [server.url], SHA256)
    monkeypatch.setattr(module._Partial, "append", real)
    assert fetch("a.pth", [server.url], SHA256).read_bytes() == CONTENT
    assert server.asked == ["", f"bytes={2 * PIECE}-"]
