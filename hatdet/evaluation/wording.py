"""Numbers as people read them on the page of an evaluation."""

from __future__ import annotations

import math

from hatdet.evaluation.boxes import SIZES

__all__ = ["NOT_AVAILABLE", "fixed", "number", "p_value", "points", "signed", "size_explanation", "text"]

NOT_AVAILABLE = "n/a"


def points(fraction: float | None) -> str:
    """A fraction in percent points, one decimal."""
    return fixed(None if fraction is None else 100 * fraction, 1)


def signed(fraction: float | None) -> str:
    """A difference in percent points."""
    shown = points(fraction)
    return shown if shown.startswith("−") or shown in ("0.0", NOT_AVAILABLE) else f"+{shown}"


def fixed(value: float | None, digits: int) -> str:
    """So many decimals, a true minus, no negative zero."""
    if value is None or not math.isfinite(value):
        return NOT_AVAILABLE
    shown = f"{value:,.{digits}f}"
    return shown.replace("-", "") if float(shown.replace(",", "")) == 0 else shown.replace("-", "−")


def number(value: float | None) -> str:
    """A count, or milliseconds: decimals only where they say something."""
    return fixed(value, 1 if value is not None and value % 1 and abs(value) < 10 else 0)


def p_value(p: float | None) -> str:
    """Three decimals."""
    return "< 0.001" if p is not None and p < 0.001 else fixed(p, 3)


def text(value: object) -> str:
    """A setting."""
    if value is None:
        return NOT_AVAILABLE
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def size_explanation(name: str) -> str:
    low, high = (math.isqrt(round(bound)) for bound in SIZES[name])
    return f"over {low}×{low} px" if name == "large" else f"up to {high}×{high} px"
