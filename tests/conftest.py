"""Every test is offline, writes nothing outside its own folder, and leaves no thread setting behind."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

torch.set_num_threads(1)  # networks are tiny, and several test processes share the machine

# A busy machine is no failed property; and the same examples everywhere.
hypothesis.settings.register_profile("hatdet", deadline=None, derandomize=True)
hypothesis.settings.load_profile("hatdet")

LOOPBACK = {"127.0.0.1", "::1", "localhost"}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking up any host but this one is an error, as on a machine without a network."""
    real = socket.getaddrinfo

    def lookup(host, *rest, **named):
        if host not in LOOPBACK:
            raise socket.gaierror(f"no network in tests, but {host} was looked up")
        return real(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of weights."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("HATDET_CACHE", str(folder))
    return folder / "weights"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 that is moto's server."""
    from moto.server import ThreadedMotoServer

    served = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    served.start()
    host, port = served.get_host_and_port()
    yield f"http://{host}:{port}"
    served.stop()
