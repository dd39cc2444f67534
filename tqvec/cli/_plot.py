"""Matplotlib, which only plots need."""

from __future__ import annotations

from typing import Any

from tqvec import _present


def pyplot(option: str = "--plot") -> Any:
    """Return `matplotlib.pyplot`, drawing into files, as an option asks for.

    Raises
    ------
    UnsupportedError
        It is not installed.
    """
    _present.import_optional("matplotlib", option, "plot").use("agg")
    return _present.pyplot(option)
