"""Collection: records with string ids, vectors, documents and metadata, in a folder."""

from __future__ import annotations

import asyncio
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tqvec import _validate
from tqvec._output import as_path
from tqvec._types import CodebookName, Floats, MetricName
from tqvec.errors import InputError, LossWarning, TqvecError
from tqvec.store.fetch import fetch, fetch_all
from tqvec.store.hits import Hits, SearchResult, check_include
from tqvec.store.originals import Kept
from tqvec.store.ranking import Options, default_candidates
from tqvec.store.records import read_ids
from tqvec.store.search import Search
from tqvec.store.state import read_rows
from tqvec.store.transfer import write_records
from tqvec.store.where import EVERYTHING, Condition, check_field, compile_where, json_path, scalar_sql
from tqvec.store.written import Written

_PART = 5_000  # records that are exported at once


class Collection(Written):
    """Records with string ids, vectors, documents and metadata, in a folder.

    The folder is created, or opened if it is there. Each call that changes something is one transaction: it is on the
    disk when the call returns, or nothing has changed. Any number of processes read; one writes at a time, and others
    wait for it.

    Parameters
    ----------
    path : path or None
        The folder. None: a temporary one, which is removed when the collection is closed or the process ends.
    d : int, optional
        Dimension of the vectors. It must be given to create a collection.
    metric : {"cosine", "ip", "l2"}, optional
    nbits, codebook, seed : optional
        As of `Index`. Default: 4, "scalar", 0.
    keep : {"float16", "float32", "int8"}, optional
        Also store the vectors themselves in this type, for `rerank`, `train` and `export`. Default: codes alone.
    indexed : list of str, optional
        Fields of the metadata that conditions find fast.
    embed : callable or model, optional
        Makes vectors of texts: a function of a list of str that returns (n, d), or a model with ``encode``.
    refresh : bool
        Each call sees the last commit. If false, all calls see that of the opening, or of the last `refresh()`.
    timeout : float
        Seconds to wait while another process or thread writes.
    threads : int, optional
        Default: ``TQVEC_NUM_THREADS``, or all CPUs.

    Raises
    ------
    InputError
        A setting is wrong, or differs from that of the collection.
    FormatError
        The folder has a damaged collection, or one of a newer version.

    Examples
    --------
    >>> import numpy as np, tqvec, tempfile
    >>> x = np.random.default_rng(1).standard_normal((100, 64)).astype(np.float32)
    >>> folder = tempfile.TemporaryDirectory()
    >>> ids, years = [f"c{i}" for i in range(100)], [{"year": 1990 + i} for i in range(100)]
    >>> with tqvec.Collection(folder.name + "/chunks", d=64) as chunks:
    ...     chunks.upsert(ids=ids, vectors=x, metadatas=years)
    ...     hits = chunks.search(x[3], k=2, where={"year": {"$lt": 2000}})
    100
    >>> hits[0].ids[0], hits[0].metadatas[0]
    ('c3', {'year': 1993})
    >>> folder.cleanup()
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        d: int | None = None,
        *,
        metric: MetricName | None = None,
        nbits: int | float | None = None,
        codebook: CodebookName | None = None,
        seed: int | None = None,
        keep: Kept | None = None,
        indexed: Sequence[str] = (),
        embed: Any = None,
        refresh: bool = True,
        timeout: float = 10.0,
        threads: int | None = None,
    ) -> None:
        given = {"d": d, "metric": metric, "nbits": nbits, "codebook": codebook, "seed": seed, "keep": keep}
        super().__init__(path, {**given, "indexed": indexed}, embed, refresh, timeout, threads)

    def __repr__(self) -> str:
        content = "closed" if self.closed else f"{len(self):,} records"
        return f"Collection({str(self.path)!r}, d={self.settings.d}, {content})"

    def __len__(self) -> int:
        return self.count()

    def __contains__(self, one: object) -> bool:
        return isinstance(one, str) and bool(self.get([one], include=()).ids)

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        where: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Write records to a file of Parquet or JSON lines, which `import_file` and `upsert` read.

        Columns are id, vector, document and metadata (of Parquet, JSON text).

        Parameters
        ----------
        path : path
            Ending in ``.parquet``, ``.jsonl`` or ``.ndjson``. The file appears when it is complete.
        where : dict, optional
            As in `search`.
        overwrite : bool
            Replace a file.
        progress : callable, optional
            Called with the number of records that are done.

        Returns
        -------
        int
            Number of records.

        Warns
        -----
        LossWarning
            No originals are kept, so the vectors are decoded codes.
        """
        _validate.function(progress, "progress")
        if self.settings.keep is None:
            warnings.warn("no originals are kept: the exported vectors are decoded codes", LossWarning, stacklevel=2)
        parts = self.scan(where, batch=_PART, include=("documents", "metadatas", "vectors"))
        return write_records(as_path(path), parts, self.settings.d, overwrite, progress)

    def get(
        self,
        ids: Iterable[str] | str | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        limit: int | None = None,
        include: Sequence[str] = ("documents", "metadatas"),
    ) -> Hits:
        """Return records by id, in this order, or those of a condition; ids that are not there are left out.

        Parameters
        ----------
        ids : list of str, optional
        where : dict, optional
            As in `search`.
        limit : int, optional
            Most records of a condition.
        include : list of str
            ``"documents"``, ``"metadatas"``, ``"vectors"``.

        Returns
        -------
        Hits
            Without scores.
        """
        columns = check_include(include)
        names = None if ids is None else read_ids(ids)
        condition = self._condition(where)
        most = -1 if limit is None else _validate.integer(limit, "limit", 0, 2**62)
        with self._reading() as (connection, state):
            if names is None:
                sql = f"SELECT row FROM records WHERE {condition.sql} ORDER BY row LIMIT ?"
                rows = read_rows(connection, sql, (*condition.parameters, most))
            else:
                sql = f"SELECT id, row FROM records WHERE id IN (SELECT value FROM json_each(?)) AND {condition.sql}"
                known = dict(connection.execute(sql, (json.dumps(names), *condition.parameters)).fetchall())
                rows = np.array(
                    [known[name] for name in names if name in known][: most if most >= 0 else None], np.int64
                )
            return fetch(connection, state, rows, columns)

    def scan(
        self,
        where: Mapping[str, Any] | None = None,
        *,
        batch: int = 1_000,
        include: Sequence[str] = ("documents", "metadatas"),
    ) -> Iterator[Hits]:
        """Yield all records, or those of a condition, some at a time, as of the moment of the first.

        Parameters
        ----------
        where, include : optional
            As in `get`.
        batch : int
            Records at a time.
        """
        columns, batch = check_include(include), _validate.integer(batch, "batch", 1, 2**31 - 1)
        condition = self._condition(where)
        self._require_open()
        return self._scan(condition, batch, columns)

    def _scan(self, condition: Condition, batch: int, columns: Sequence[str]) -> Iterator[Hits]:
        with self._reading() as (connection, state):
            sql, last = f"SELECT row FROM records WHERE row > ? AND {condition.sql} ORDER BY row LIMIT ?", 0
            while (rows := read_rows(connection, sql, (last, *condition.parameters, batch))).size:
                yield fetch(connection, state, rows, columns)
                last = int(rows[-1])

    def count(self, where: Mapping[str, Any] | None = None) -> int:
        """Return the number of records, or of those of a condition, as in `search`."""
        condition = self._condition(where)
        with self._reading() as (connection, state):
            if condition.holds_always:
                return state.ntotal
            sql = f"SELECT count(*) FROM records WHERE {condition.sql}"
            (number,) = connection.execute(sql, condition.parameters).fetchone()
        return int(number)

    def search(
        self,
        queries: ArrayLike | str | Sequence[str] | None = None,
        k: int = 10,
        *,
        text: str | Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
        include: Sequence[str] = ("documents", "metadatas"),
        rerank: bool = False,
        recall: float | None = None,
        group_by: str | None = None,
        diversity: float | None = None,
        candidates: int | None = None,
    ) -> SearchResult:
        """Return the `k` best records for each query.

        Parameters
        ----------
        queries : (nq, d) or (d,), or str or list of str, optional
            Vectors, or texts if the collection has `embed`.
        k : int
            At least 1.
        text : str or list of str, optional
            Also search documents for the words of a text, by BM25, one for each query. Both lists are joined by
            reciprocal ranks: a record's score is the sum of 1 / (60 + rank). Without `queries`, words alone decide, and
            scores are those of BM25.
        where : dict, optional
            Condition on the metadata: ``{"year": {"$gte": 2020}, "kind": "note"}``. Operators are ``$eq $ne $gt $gte
            $lt $lte $in $nin $contains $exists``; ``$and``, ``$or`` and ``$not`` join conditions. ``"$id"`` and
            ``"$document"`` in place of a field stand for the id and the document.
        include : list of str
            ``"documents"``, ``"metadatas"``, ``"vectors"``; ids and scores always are.
        rerank : bool
            Order the best by exact scores with the originals, which `keep` stores.
        recall : float, optional
            Of a partitioned collection, as in `Index.search`. Default: 0.95.
        group_by : str, optional
            Return the best record of each value of a field; records without it are left out.
        diversity : float, optional
            From 0 to 1: how much the records shall differ from each other (maximal marginal relevance).
        candidates : int, optional
            How many of the best `text`, `group_by` and `diversity` order anew; at least `k`. Default: ``4 k``, and at
            least 100.

        Returns
        -------
        SearchResult
            `Hits` for each query; fewer than `k` where there are no more.

        Raises
        ------
        InputError
            Bad queries, an unknown operator, `rerank` without originals, texts without `embed`.
        """
        k = _validate.integer(k, "k", 1, 2**31 - 1)
        columns, vectors = check_include(include), self._queries(queries)
        texts = [text] if isinstance(text, str) else None if text is None else _validate.entries(text, "text")
        nq = _count_queries(vectors, texts)
        if not isinstance(rerank, (bool, np.bool_)):
            raise InputError(f"rerank must be True or False, got a {type(rerank).__name__}")
        if rerank and self.settings.keep is None:
            raise InputError("rerank needs the originals: create the collection with keep='float16'")
        if diversity is not None and (vectors is None or not 0 <= _validate.number(diversity, "diversity") <= 1):
            raise InputError(f"diversity must be from 0 to 1, and needs queries, got {diversity}")
        group = None if group_by is None else self._field(group_by)
        most = None if candidates is None else _validate.integer(candidates, "candidates", k, 2**31 - 1)
        search = Search(
            queries=vectors,
            texts=texts,
            condition=self._condition(where),
            group=group,
            diversity=diversity,
            candidates=default_candidates(k) if most is None else most,
            options=Options(bool(rerank), recall, self._threads),
        )
        hits = self._search_optimistically(search, nq, k, columns)
        if hits is None:
            with self._reading() as (connection, state):
                allowed = self._filters.find(connection, state.generation, search.condition)
                hits = fetch_all(connection, state, search.run(connection, state, allowed, nq, k), columns)
        return SearchResult(hits)

    def _search_optimistically(self, search: Search, nq: int, k: int, columns: Sequence[str]) -> list[Hits] | None:
        """Search the known state without a transaction, which takes longer than all else around the index.

        The statement that reads the records tells whether another commit has replaced the state.

        Returns
        -------
        list of Hits, or None
            None if that is so, if the search failed, or if it needs the catalog in another statement too.
        """
        state, always = self._probable_state(), search.condition.holds_always
        if state is None or search.needs_catalog or "vectors" in columns:
            return None
        allowed = None if always else self._filters.look_up(state.generation, search.condition)
        if allowed is None and not always:
            return None
        try:
            with self._catalog.connected() as connection:
                return fetch_all(connection, state, search.run(connection, state, allowed, nq, k), columns)
        except TqvecError:  # another commit, or records that are gone in it; all else fails in the transaction too
            return None

    async def asearch(self, *args: Any, **named: Any) -> SearchResult:
        """Await `search` in a thread; so do the other methods with an ``a`` before their name."""
        return await asyncio.to_thread(self.search, *args, **named)

    async def aget(self, *args: Any, **named: Any) -> Hits:
        """Await `get`."""
        return await asyncio.to_thread(self.get, *args, **named)

    async def acount(self, *args: Any, **named: Any) -> int:
        """Await `count`."""
        return await asyncio.to_thread(self.count, *args, **named)

    async def aupsert(self, *args: Any, **named: Any) -> int:
        """Await `upsert`."""
        return await asyncio.to_thread(self.upsert, *args, **named)

    async def aupdate(self, *args: Any, **named: Any) -> None:
        """Await `update`."""
        await asyncio.to_thread(self.update, *args, **named)

    async def adelete(self, *args: Any, **named: Any) -> int:
        """Await `delete`."""
        return await asyncio.to_thread(self.delete, *args, **named)

    def _queries(self, queries: ArrayLike | str | Sequence[str] | None) -> Floats | None:
        """Return queries as vectors; None if there are none."""
        if queries is None:
            return None
        if isinstance(queries, str):
            queries = [queries]
        if isinstance(queries, (list, tuple)) and queries and all(isinstance(query, str) for query in queries):
            queries = self._vectors_of_texts(list(queries))
        return _validate.vectors(queries, self.settings.d, "queries")

    def _condition(self, where: Mapping[str, Any] | None) -> Condition:
        """Compile a condition; None holds for all records."""
        return EVERYTHING if where is None else compile_where(where, self.settings.columns)

    def _field(self, name: str) -> Condition:
        """Return the SQL of the value of a field."""
        if not isinstance(name, str):
            raise InputError(f"group_by must be the name of a field, got {name!r}")
        check_field(name, "group_by")
        column = self.settings.columns.get(name)
        path = json_path(name)
        return Condition(scalar_sql("?"), (path, path)) if column is None else Condition(column)


def _count_queries(vectors: Floats | None, texts: list[str] | None) -> int:
    if vectors is None and texts is None:
        raise InputError("hand over queries, text, or both")
    for row, text in enumerate(texts or ()):
        if not isinstance(text, str):
            raise InputError(f"text row {row} must be a str, got {text!r}")
    if vectors is not None and texts is not None and len(vectors) != len(texts):
        raise InputError(f"text must have an entry for each of the {len(vectors)} queries, got {len(texts)}")
    return len(texts or ()) if vectors is None else len(vectors)
