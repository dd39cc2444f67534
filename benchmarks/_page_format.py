"""Numbers and tables as the pages write them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Facts = dict[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return Markdown with the first column to the left and the others to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def number(value: float, digits: int = 3) -> str:
    """Return a number with so many digits that count, and commas between thousands."""
    if value == 0 or not np.isfinite(value):
        return "" if np.isnan(value) else f"{value:g}"
    decimals = max(0, digits - 1 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{decimals}f}" if decimals < 6 else f"{value:.{digits - 1}e}"


def times(value: float) -> str:
    """Return a ratio."""
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def percent(value: float) -> str:
    """Return a share as a signed percentage."""
    return f"{100 * value:+.{1 if abs(value) < 0.1 else 0}f} %".replace("-", "−")
