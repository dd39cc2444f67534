"""Sharded: the searches of a sharded index, whatever asks its shards."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial as bind
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from tqvec import _validate
from tqvec._present import import_optional
from tqvec._types import Ids
from tqvec.errors import FormatError, InputError, UnavailableError
from tqvec.index.index import Index
from tqvec.index.metrics import Metric
from tqvec.index.partition.partition import Routing
from tqvec.index.partitioned import probe_of
from tqvec.index.searching import search, search_range
from tqvec.index.selectors import Filter, as_selector, integers
from tqvec.shards.folder import Folder
from tqvec.shards.holder import MERGED, Failure, Request
from tqvec.shards.manifest import Manifest, open_manifest, read_manifest
from tqvec.shards.opened import Choice, load_codec
from tqvec.shards.view import ShardView

_NAMED = 8  # shards that a message names

Result = TypeVar("Result")


class MissingShards(Exception):
    """Some shards can't be searched. It has why, by their names."""

    def __init__(self, failures: Mapping[str, Failure]) -> None:
        super().__init__(", ".join(failures))
        self.failures = dict(failures)

    def to_error(self, total: int) -> FormatError | UnavailableError:
        """Return the error that users get, of so many shards in all: it names them, and says why."""
        reasons: dict[str, list[str]] = {}
        for name, failure in sorted(self.failures.items()):
            reasons.setdefault(failure.reason, []).append(name)
        told = []
        for reason, names in reasons.items():
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            told.append(f"{', '.join(names[:_NAMED])}{more}: {reason}")
        is_damage = all(failure.is_damage for failure in self.failures.values())
        return (FormatError if is_damage else UnavailableError)(
            f"{len(self.failures)} of {total} shards can't be searched: {'; '.join(told)}"
        )


class Version(NamedTuple):
    """A sharded index as one manifest has it.

    Attributes
    ----------
    name : str
        Of the manifest's file.
    manifest : Manifest
    empty : Index
        An index without vectors, with the codec and the lists.
    """

    name: str
    manifest: Manifest
    empty: Index


def read_version(folder: Folder, name: str | None = None, cache: Path | None = None) -> Version:
    """Return what a manifest has; by default the newest one.

    Raises
    ------
    FileNotFoundError
        There is no manifest.
    FormatError
        It is damaged or of a newer version, or the file of the codec is.
    """
    manifest = read_manifest(folder) if name is None else open_manifest(folder, name)
    return Version(manifest.name, manifest, load_codec(folder, manifest, cache))


class Sharded(ABC):
    """Searches of a sharded index. A subclass asks the shards, by `_ask`.

    A search returns the ids and scores, to the last bit, that one index of all vectors returns. As there, kernels rule
    rows out by a few bits of their codes, and miss a true result with a small probability: those of a shard have looser
    limits, so they miss no more.

    Parameters
    ----------
    version : Version
    threads : int
        For routing queries.
    """

    _parts = 1  # that are asked

    def __init__(self, version: Version, threads: int) -> None:
        self._version = version
        self._threads = threads
        self._last: Choice | None = None  # which often comes again

    @abstractmethod
    def _ask(self, request: Request, choice: Choice | None, method: str, *arguments: Any) -> Sequence[Any]:
        """Call a method of all holders; MissingShards if some can't answer."""

    @contextmanager
    def _using(self) -> Iterator[Version]:
        """The version of now, which is not closed meanwhile."""
        yield self._version

    @property
    def manifest(self) -> Manifest:
        """The manifest that searches use."""
        return self._version.manifest

    @property
    def d(self) -> int:
        """Dimension."""
        return self.manifest.d

    @property
    def ntotal(self) -> int:
        """Number of vectors."""
        return self.manifest.ntotal

    def __len__(self) -> int:
        return self.ntotal

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return self.manifest.nbytes

    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        filter: Filter | None = None,
        where: Any = None,
        return_error: bool = False,
        confidence: float | None = None,
        nprobe: int | None = None,
        recall: float | None = None,
        partial: bool = False,
    ) -> tuple[Any, ...]:
        """Return the `k` best vectors for each query, as `Index.search` does for one index of all vectors.

        Parameters
        ----------
        queries : (nq, d) or (d,) float16, float32, float64 or bfloat16
        k : int
        filter : optional
            The vectors that may be returned: an array of ids, a ``range`` of ids, or a selector of `tqvec.selectors`
            that has no masks.
        where : pyarrow.compute.Expression, optional
            A condition on the columns of the records, as ``pyarrow.compute.field("year") > 2000``. With `filter`, both
            must be met. Where it is null a vector is not returned.
        return_error, confidence, nprobe, recall
            As of `Index.search`.
        partial : bool
            If shards can't be searched, search the others and name the missing ones: what is returned are the results
            of an index of the other shards alone. By default that is an error.

        Returns
        -------
        scores : (nq, k) float32
        ids : (nq, k) int64
        error : (nq, k) float32
            With `return_error`.
        missing : list of str
            With `partial`: the names of the shards that were not searched, empty if all were.

        Raises
        ------
        InputError
            As of `Index.search`; a mask in `filter`; a `where` that can't be evaluated on the records.
        FormatError
            Files of shards are damaged or not there.
        UnavailableError
            Shards could not be asked in time.
        """
        k = _validate.integer(k, "k", 1, 2**31 - 1)
        rows = _validate.vectors(queries, self.d, "queries")
        results, missing = self._run(
            lambda view: search(view, rows, k, return_error, confidence),
            self._choose(filter, where),
            (nprobe, recall),
            partial,
        )
        return (*results, missing) if partial else results

    def range_search(
        self,
        queries: ArrayLike,
        radius: float,
        *,
        filter: Filter | None = None,
        where: Any = None,
        nprobe: int | None = None,
        recall: float | None = None,
        partial: bool = False,
    ) -> tuple[Any, ...]:
        """Return all vectors with a score above `radius`, or for l2 a squared distance below it.

        Parameters
        ----------
        queries : (nq, d) or (d,) float16, float32, float64 or bfloat16
        radius : float
        filter, where, nprobe, recall, partial
            As of `search`.

        Returns
        -------
        lims : (nq + 1,) int64
            Results of query i are entries ``lims[i]`` to ``lims[i + 1]`` of the other two.
        scores : (lims[-1],) float32
            Best first.
        ids : (lims[-1],) int64
        missing : list of str
            With `partial`, as of `search`.
        """
        rows = _validate.vectors(queries, self.d, "queries")
        results, missing = self._run(
            lambda view: search_range(view, rows, radius), self._choose(filter, where), (nprobe, recall), partial
        )
        return (*results, missing) if partial else results

    def take(self, ids: ArrayLike, columns: Sequence[str] | None = None) -> Any:
        """Return the records of ids, in their order.

        Parameters
        ----------
        ids : (n,) int
        columns : sequence of str, optional
            Default: all.

        Returns
        -------
        pyarrow.Table

        Raises
        ------
        InputError
            An id is not in the index, there are no records, or no column of a name.
        FormatError, UnavailableError
            As of `search`.
        """
        pa = import_optional("pyarrow", "take", "ray")
        wanted = integers(ids, "ids")
        with self._using() as version:
            manifest = version.manifest
            if not manifest.columns:
                raise InputError("this sharded index has no records: it was built without columns")
            names = list(manifest.columns) if columns is None else _validate.sequence(columns, "columns", str)
            if unknown := [name for name in names if name not in manifest.columns]:
                raise InputError(f"columns must be some of {', '.join(manifest.columns)}, got {unknown[0]!r}")
            outside = (wanted < 0) | (wanted >= manifest.ntotal)
            if outside.any():
                at = int(np.argmax(outside))
                raise InputError(f"ids row {at}: {wanted[at]} is not in the index")
            if not manifest.shards:
                return pa.table({name: pa.nulls(0) for name in names})
            asked = wanted if wanted.size else np.zeros(1, np.int64)  # one row tells the types of columns
            needed = _shards_of(manifest, asked)
            request = Request(version.name, frozenset(shard.vectors.name for shard in manifest.shards) - needed)
            try:
                parts = self._ask(request, None, "take", asked, names)
            except MissingShards as error:
                raise error.to_error(len(manifest.shards)) from None
        found = [pair for part in parts if part is not None for pair in part]
        order = np.argsort(np.concatenate([positions for positions, _ in found]))
        table = pa.concat_tables([rows for _, rows in found]).take(pa.array(order))
        return table.slice(0, wanted.size)

    def _choose(self, filter: Filter | None, where: Any) -> Choice | None:
        """The rows that a search may return; the last choice if it is the same."""
        if filter is None and where is None:
            return None
        last = self._last or Choice("")
        selector = None if filter is None else as_selector(filter, last.filter)
        if where is not None:
            expression = import_optional("pyarrow.compute", "where", "ray").Expression
            if not isinstance(where, expression):
                raise InputError(f"where must be a pyarrow.compute.Expression, got a {type(where).__name__}")
        is_last = where is last.where or (where is not None and last.where is not None and where.equals(last.where))
        if last.token and is_last and selector is last.filter:
            return last
        self._last = Choice(secrets.token_hex(8), selector, where)
        return self._last

    def _run(
        self,
        task: Callable[[ShardView], Result],
        choice: Choice | None,
        lists: tuple[int | None, float | None],
        partial: bool,
    ) -> tuple[Result, list[str]]:
        """The result of a task on all shards, or with `partial` on those that can be searched; and names of others."""
        missing: frozenset[str] = frozenset()
        with self._using() as version:
            partition = version.empty._core.partition
            probe = probe_of(partition, *lists)
            while True:
                view = ShardView(
                    codec=version.empty.codec,
                    metric=Metric(version.manifest.metric),
                    threads=self._threads,
                    routing=None if partition is None or probe is None else Routing(partition, *probe),
                    rows=sum(shard.rows for shard in version.manifest.shards if shard.vectors.name not in missing),
                    is_filtered=choice is not None,
                    copies=max(MERGED, self._parts, self._threads),
                    ask=bind(self._ask, Request(version.name, missing), choice),
                )
                try:
                    return task(view), sorted(missing)
                except MissingShards as error:
                    if not partial:
                        raise error.to_error(len(version.manifest.shards)) from None
                    missing |= error.failures.keys()


def _shards_of(manifest: Manifest, ids: Ids) -> set[str]:
    """Names of the shards of some ids."""
    ends = np.cumsum([shard.rows for shard in manifest.shards])
    return {manifest.shards[i].vectors.name for i in np.unique(np.searchsorted(ends, ids, side="right"))}
