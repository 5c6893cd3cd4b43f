"""Training's tests need BasicSR, which Python 3.13 and later do not have."""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("basicsr") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    import hatdet.training  # noqa: F401 (after it BasicSR can be imported)
