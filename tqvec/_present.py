"""How results show themselves: a line as `repr`, a table in `print` and in notebooks, plain data for programs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from html import escape
from importlib import import_module
from os import PathLike
from typing import Any, ClassVar, NamedTuple

from tqvec.errors import UnsupportedError

_TEXT = 60  # characters of a text in a repr
_SHOWN = 3  # entries of a tuple in a repr


class Sheet(NamedTuple):
    """The table of a result.

    Attributes
    ----------
    columns : tuple of str
    rows : sequence of tuple
        Numbers and texts, as many as there are columns.
    title : str
    notes : tuple of str
        Sentences below the table.
    """

    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]
    title: str = ""
    notes: tuple[str, ...] = ()

    def to_text(self) -> str:
        """Return lines with aligned columns: texts to the left, numbers to the right."""
        cells = [self.columns, *(tuple(map(format_value, row)) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        left = [all(isinstance(row[i], str) for row in self.rows) for i in range(len(widths))]
        lines = [
            "  ".join(cell.ljust(width) if texts else cell.rjust(width) for cell, width, texts in columns).rstrip()
            for columns in (zip(row, widths, left, strict=True) for row in cells)
        ]
        return "\n".join([*([self.title] if self.title else []), *lines, *self.notes])

    def to_html(self) -> str:
        """Return the table as HTML, without markup from its texts."""
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(format_value(value))}</td>" for value in row) + "</tr>" for row in self.rows
        )
        caption = f"<caption>{escape(self.title)}</caption>" if self.title else ""
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"


class Presented:
    """A result that shows itself: a subclass has `_sheet`, and in `_derived` the properties that `to_dict` adds."""

    __slots__ = ()
    _derived: ClassVar[tuple[str, ...]] = ()

    def _sheet(self) -> Sheet:
        raise NotImplementedError

    def __repr__(self) -> str:
        return brief(self)

    def __str__(self) -> str:
        return self._sheet().to_text()

    def _repr_html_(self) -> str:
        return self._sheet().to_html()

    def to_dict(self) -> dict[str, Any]:
        """Return everything in plain Python types, as JSON takes them; NaN and infinity become None."""
        return {name: to_plain(value) for name, value in _iter_fields(self)} | {
            name: to_plain(getattr(self, name)) for name in self._derived
        }

    def to_pandas(self) -> Any:
        """Return the table as a `pandas.DataFrame`.

        Raises
        ------
        UnsupportedError
            pandas is not installed.
        """
        pandas = import_optional("pandas", "to_pandas", "pandas")
        sheet = self._sheet()
        return pandas.DataFrame.from_records(sheet.rows, columns=sheet.columns)

    def plot(self) -> Any:
        """Draw the result with matplotlib, and return the axes.

        Raises
        ------
        UnsupportedError
            matplotlib is not installed.
        """
        _, axes = pyplot("plot").subplots(layout="constrained")
        sheet = self._sheet()
        numbers = [i for i in range(len(sheet.columns)) if any(isinstance(row[i], (int, float)) for row in sheet.rows)]
        shown = numbers[-1] if numbers else 0
        labels = [" ".join(format_value(row[i]) for i in range(len(row)) if i not in numbers) for row in sheet.rows]
        positions = range(len(sheet.rows))
        axes.barh(positions, [row[shown] or 0 for row in sheet.rows] if numbers else [0 for _ in positions])
        axes.set_yticks(positions, labels)
        axes.invert_yaxis()
        axes.set(xlabel=sheet.columns[shown], title=sheet.title)
        return axes


class ByteCount(Presented, int):
    """A number of bytes, and the parts that it is the sum of, as attributes."""

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({int(self)}: {', '.join(f'{name} {size}' for name, size in self.items().items())})"
        )

    def __str__(self) -> str:
        return repr(self)

    def items(self) -> dict[str, int]:
        """Return the parts by name."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, int]:
        """Return the parts by name, and their sum as ``total``."""
        return self.items() | {"total": int(self)}

    def _sheet(self) -> Sheet:
        return Sheet(("part", "bytes"), list(self.items().items()), f"{int(self):,} bytes")


def brief(value: Any, names: Sequence[str] | None = None) -> str:
    """Return a record's `repr` of a line or two: numbers and short texts in full, the sizes of everything else.

    Parameters
    ----------
    value : named tuple or dataclass
    names : sequence of str, optional
        The fields that are shown. Default: all.
    """
    shown = [name for name, _ in _iter_fields(value)] if names is None else names
    return f"{type(value).__name__}({', '.join(f'{name}={_shorten(getattr(value, name))}' for name in shown)})"


def to_plain(value: Any) -> Any:
    """Return dictionaries, lists, texts and numbers for a value of any of the package's types."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Presented):
        return value.to_dict()
    if hasattr(value, "tolist"):  # an array, or a number of NumPy
        return to_plain(value.tolist())
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): to_plain(each) for key, each in value.items()}
    if hasattr(value, "_fields") or is_dataclass(value):
        return {name: to_plain(each) for name, each in _iter_fields(value)}
    if isinstance(value, (Sequence, set, frozenset)):
        return [to_plain(each) for each in value]
    return str(value)


def format_value(value: object) -> str:
    """Format a cell: whole numbers with commas, others with four digits, nothing for None and NaN."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{int(value):,}"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def import_optional(module: str, use: str, extra: str) -> Any:
    """Import a package that only some uses need.

    Raises
    ------
    UnsupportedError
        It is not installed; the message has the command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise UnsupportedError(f"{use} needs {package}: pip install 'tqvec[{extra}]'") from error


def pyplot(use: str) -> Any:
    """Return `matplotlib.pyplot`; the error is that of `import_optional`."""
    import_optional("matplotlib", use, "plot")
    return import_module("matplotlib.pyplot")


def _iter_fields(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of a named tuple or a dataclass."""
    names = value._fields if hasattr(value, "_fields") else [field.name for field in fields(value)]
    yield from ((name, getattr(value, name)) for name in names)


def _shorten(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return repr(value)
    if isinstance(value, (int, float)):
        return str(int(value)) if isinstance(value, int) else f"{value:.6g}"
    if isinstance(value, (str, PathLike)):
        text = str(value)
        return repr(text if len(text) <= _TEXT else text[: _TEXT - 1] + "…")
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"<{value.dtype} {'×'.join(map(str, value.shape))}>"
    if isinstance(getattr(value, "name", None), str):
        return repr(value.name)
    if type(value) is tuple and len(value) <= _SHOWN and all(isinstance(each, (int, float, str)) for each in value):
        return f"({', '.join(map(_shorten, value))})"
    if isinstance(value, (Sequence, Mapping)) and not hasattr(value, "_fields"):
        return f"<{len(value)} item{'' if len(value) == 1 else 's'}>"
    text = repr(value)
    short = len(text) <= _TEXT and "\n" not in text and " object at 0x" not in text
    return text if short else f"<{type(value).__name__}>"
