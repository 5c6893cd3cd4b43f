"""Where the files are that ship with hatdet: `options/` and `pretrained/`, in the wheel or in a checkout."""

from __future__ import annotations

from pathlib import Path

__all__ = ["asset"]

_PACKAGE = Path(__file__).resolve().parent.parent


def asset(*parts: str) -> Path:
    """Path of a file or folder that ships, such as `asset("pretrained", "hat-xs-x4.safetensors")`.

    Raises:
        FileNotFoundError: nothing of that name ships.
    """
    for root in (_PACKAGE / "_assets", _PACKAGE.parent):
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise FileNotFoundError(f"{'/'.join(parts)} does not ship with this installation of hatdet")
