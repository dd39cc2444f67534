"""Matplotlib, which only plots need."""

from __future__ import annotations

from typing import Any

from tqvec.errors import UnsupportedError


def pyplot(option: str = "--plot") -> Any:
    """`matplotlib.pyplot`, drawing into files, as an option asks for.

    Raises
    ------
    UnsupportedError
        It is not installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise UnsupportedError(f"{option} needs matplotlib: pip install 'tqvec[plot]'") from error
    matplotlib.use("agg")
    import matplotlib.pyplot

    return matplotlib.pyplot
