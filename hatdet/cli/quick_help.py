"""`--help` without what only other things need."""

from __future__ import annotations

import sys
from types import ModuleType

__all__ = ["import_help"]

# Typer's help imports these at its top, with a Markdown parser and a syntax highlighter behind them. It uses them for
# help in Markdown and for tracebacks, and hatdet has neither. It can go when Typer imports them where it uses them.
UNUSED = {"rich.markdown": "Markdown", "rich.traceback": "Traceback"}


def import_help() -> None:
    """Import Typer's help with nothing in the place of what it does not use; the modules themselves stay importable."""
    left_out = [name for name in UNUSED if name not in sys.modules]
    for name in left_out:
        stand_in = ModuleType(name)
        setattr(stand_in, UNUSED[name], None)
        sys.modules[name] = stand_in
    try:
        import typer.rich_utils  # noqa: F401
    except ImportError:  # another Typer: it imports what it wants when it wants it
        pass
    finally:
        for name in left_out:
            del sys.modules[name]
