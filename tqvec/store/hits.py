"""Hits: records as a search or `get` returns them, column by column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

import numpy as np

from tqvec import _validate
from tqvec._present import Presented, Sheet, import_optional, to_plain
from tqvec._types import Floats
from tqvec.errors import InputError

INCLUDABLE = ("documents", "metadatas", "vectors")
_SHOWN = 60  # characters of a document or of metadata in a table
_ROWS = 20


class _HitsFields(NamedTuple):
    ids: list[str]
    scores: Floats | None = None
    documents: list[str | None] | None = None
    metadatas: list[dict[str, Any]] | None = None
    vectors: Floats | None = None


class Hits(Presented, _HitsFields):
    """Records, best first; columns that were not included are None.

    Attributes
    ----------
    ids : list of str
    scores : (n,) float32 or None
        As of `Index.search`. With ``text=``: sums of reciprocal ranks. None where nothing was searched for.
    documents : list of (str or None), or None
    metadatas : list of dict, or None
    vectors : (n, d) float32 or None
        The originals, or the decoded codes if none are kept.
    """

    __slots__ = ()

    def to_records(self) -> list[dict[str, Any]]:
        """Return a dictionary per record, with the keys that `Collection.upsert` reads."""
        columns = {"score": self.scores, "document": self.documents, "metadata": self.metadatas, "vector": self.vectors}
        given = {name: column for name, column in columns.items() if column is not None}
        return [{"id": name, **{key: column[i] for key, column in given.items()}} for i, name in enumerate(self.ids)]

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame: id, score, document, and a column per field of the metadata.

        Raises
        ------
        UnsupportedError
            pandas is not installed.
        """
        return import_optional("pandas", "to_pandas", "pandas").DataFrame(self.to_rows())

    def to_arrow(self) -> Any:
        """Return a PyArrow table: id, score, document, and a column per field of the metadata.

        Raises
        ------
        UnsupportedError
            PyArrow is not installed.
        """
        return import_optional("pyarrow", "to_arrow", "parquet").Table.from_pylist(self.to_rows())

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a dictionary per record, with the fields of the metadata beside id, score and document."""
        rows = []
        for record in self.to_records():
            fields = record.pop("metadata", {})
            plain = {name: to_plain(value) for name, value in record.items()}
            rows.append({**{name: value for name, value in fields.items() if name not in plain}, **plain})
        return rows

    def _sheet(self) -> Sheet:
        columns = {"score": self.scores, "document": self.documents, "metadata": self.metadatas}
        shown = {name: column for name, column in columns.items() if column is not None}
        rows = [(name, *(_shorten(column[i]) for column in shown.values())) for i, name in enumerate(self.ids[:_ROWS])]
        more = len(self.ids) - _ROWS
        return Sheet(("id", *shown), rows, notes=(f"… {more:,} more",) if more > 0 else ())


def _shorten(value: Any) -> Any:
    if value is None or isinstance(value, (float, np.floating)):
        return "" if value is None else float(value)
    text = " ".join(str(value).split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


class SearchResult(Sequence[Hits]):
    """The hits of each query, in the order of the queries."""

    def __init__(self, hits: Sequence[Hits]) -> None:
        self._hits = tuple(hits)

    @overload
    def __getitem__(self, query: int) -> Hits: ...
    @overload
    def __getitem__(self, query: slice) -> Sequence[Hits]: ...
    def __getitem__(self, query: int | slice) -> Hits | Sequence[Hits]:
        return self._hits[query]

    def __len__(self) -> int:
        return len(self._hits)

    def __iter__(self) -> Iterator[Hits]:
        return iter(self._hits)

    def __repr__(self) -> str:
        return f"SearchResult({len(self)} queries, {sum(len(hits.ids) for hits in self)} hits)"

    def __str__(self) -> str:
        return "\n".join(str(hits) if len(self) == 1 else f"query {q}\n{hits}" for q, hits in enumerate(self))

    def _repr_html_(self) -> str:
        return "".join(hits._repr_html_() for hits in self)

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame of the hits of all queries, as `Hits.to_pandas`, with a column ``query``.

        Raises
        ------
        UnsupportedError
            pandas is not installed.
        """
        pandas = import_optional("pandas", "to_pandas", "pandas")
        return pandas.DataFrame([{"query": q, **row} for q, hits in enumerate(self) for row in hits.to_rows()])


def check_include(include: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that are included; ids and scores always are."""
    names = (include,) if isinstance(include, str) else tuple(_validate.entries(include, "include"))
    for name in names:
        if name not in (*INCLUDABLE, "ids", "scores"):
            raise InputError(f"include must have names of {', '.join(INCLUDABLE)}, got {name!r}")
    return names
