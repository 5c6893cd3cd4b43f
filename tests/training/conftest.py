"""Training's tests need BasicSR, which Python 3.13 and later do not have."""

from __future__ import annotations

import logging
from importlib.util import find_spec

import pytest

if find_spec("basicsr") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    import hatdet.training  # noqa: F401 (after it BasicSR can be imported)


@pytest.fixture
def logs_reach_caplog(caplog, monkeypatch):
    """BasicSR's logger tells its own handlers alone."""
    from hatdet.training import logs

    real = logs.get_root_logger

    def with_caplog(*rest, **named):
        logger = real(*rest, **named)
        logger.addHandler(caplog.handler)
        return logger

    monkeypatch.setattr(logs, "get_root_logger", with_caplog)
    caplog.set_level(logging.INFO)
