"""Plots, and Matplotlib, which only they need."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqvec import _present
from tqvec._output import Kind, Output
from tqvec.cli._output import plan_output
from tqvec.errors import InputError

SUFFIXES = (".png", ".svg", ".pdf")
_STAMP = "made by tqvec"
_KIND = Kind("a plot of tqvec", re.compile(_STAMP.encode()))


def plan_plot(path: Path, inputs: Iterable[Path], option: str = "--plot") -> Output:
    """Return the output of a plot, checked before any work, as `plan_output` does.

    Raises
    ------
    UnsupportedError
        Matplotlib is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: a plot must be {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    output = plan_output(path, _KIND, inputs)
    pyplot(option)
    return output


def save_plot(figure: Any, output: Output) -> None:
    """Draw a figure into its file."""
    suffix = output.path.suffix
    about = {"Software" if suffix == ".png" else "Creator": _STAMP}
    with output.open() as file:
        figure.savefig(file, format=suffix[1:], dpi=150, metadata=about)


def pyplot(option: str = "--plot") -> Any:
    """Return `matplotlib.pyplot`, drawing into files, as an option asks for.

    Raises
    ------
    UnsupportedError
        It is not installed.
    """
    _present.import_optional("matplotlib", option, "plot").use("agg")
    return _present.pyplot(option)
