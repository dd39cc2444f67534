"""Contents: the vectors of an index, and every change of them. One writer at a time; readers take a snapshot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike

from tqvec._config import num_threads
from tqvec._fixed import Copied
from tqvec._locks import ForkLock
from tqvec._safetensors import Seen
from tqvec._types import Batches, Floats, Ids, MetricName
from tqvec._vectors import Vectors, is_stream
from tqvec.codec.bands import Pairs
from tqvec.codec.turboquant import TurboQuant
from tqvec.errors import InputError
from tqvec.index.additions import distinct_ids, iter_additions
from tqvec.index.blocks import may_be_kept
from tqvec.index.differences import describe_difference
from tqvec.index.metrics import Metric
from tqvec.index.nbytes import IndexBytes, count_bytes
from tqvec.index.origin import warn_if_far
from tqvec.index.partition.partition import Partition, Routing
from tqvec.index.rows import empty_rows, encode_rows, join_rows
from tqvec.index.scanner import Scanner
from tqvec.index.selectors import Filter, Moment, Selector, allowed_rows, as_selector, integers
from tqvec.index.snapshot import Snapshot
from tqvec.index.store import FULL_BLOCK_ROWS, Blocks, Store, first_id
from tqvec.index.training import recode

Probe: TypeAlias = tuple[int | None, float]  # the last two fields of a `Routing`

Self = TypeVar("Self", bound="Contents")
_Last: TypeAlias = "tuple[Snapshot, _Core, Probe | None]"  # a snapshot of all rows, and what it was made of


class _Core(NamedTuple):
    """The parts that training and partitioning replace, in one assignment: a search takes them once."""

    codec: TurboQuant
    scanner: Scanner
    store: Store
    partition: Partition | None = None


class Contents(Copied):
    """The vectors of an index, which can be added, replaced, removed and decompressed."""

    _fixed = frozenset({"_metric", "_lock"})
    _inner = frozenset({"_metric", "_lock", "_seen", "_selector", "_is_far", "_last", "_core"})
    _block_rows = FULL_BLOCK_ROWS

    @classmethod
    def _from_codec(cls: type[Self], codec: TurboQuant, metric: Metric) -> Self:
        """An empty index."""
        index = cls.__new__(cls)
        index._start(codec, metric)
        return index

    def _start(self, codec: TurboQuant, metric: Metric, core: _Core | None = None) -> None:
        self._metric = metric
        self._lock = ForkLock()  # held by each change, and while ids are looked up
        self._seen: Seen = {}
        self._selector: Selector | None = None  # of the last filter, which often comes again
        self._is_far = False  # from the origin, as a warning said
        self._last: _Last | None = None  # for the next search, unless the rows change before
        self._core = self._empty(codec) if core is None else core

    def _empty(self, codec: TurboQuant, partition: Partition | None = None) -> _Core:
        scanner = Scanner(codec, self._metric)
        lists = None if partition is None else replace(partition, codec=codec)
        like = empty_rows(codec, self._metric)
        return _Core(codec, scanner, Store(like, scanner.prefixes, self._block_rows, lists), lists)

    def _like(self: Self, codec: TurboQuant) -> Self:
        """An empty index of another codec, all else equal."""
        other = self._from_codec(codec, self._metric)
        other._core = other._empty(codec, self._core.partition)
        return other

    def __copy__(self: Self) -> Self:
        """Return an index of the same vectors; later changes of either don't show in the other."""
        with self._lock:
            core = self._core
            store = core.store.copy()
        other = type(self).__new__(type(self))
        other._start(core.codec, self._metric, core._replace(store=store))
        other._seen = dict(self._seen)
        vars(other).update(self._own_attributes())
        return other

    def __getstate__(self) -> dict[str, Any]:
        core, blocks, next_id = self._moment()
        first = first_id(blocks, next_id)
        parts = [(rows, ids if first is None else None) for rows, ids in core.store.iter_chunks(blocks)]
        return {
            "attributes": self._own_attributes(),
            "seen": dict(self._seen),
            "metric": self._metric.value,
            "codec": core.codec,
            "partition": core.partition,
            "parts": parts,
            "first_id": first,
            "next_id": next_id,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state["attributes"])
        self._start(state["codec"], Metric(state["metric"]))
        self._seen = state["seen"]
        self._core = self._empty(state["codec"], state["partition"])
        store = self._core.store
        store.next_id = state["first_id"] or 0
        for rows, ids in state["parts"]:
            store.append(rows, ids, False)
        store.next_id = state["next_id"]

    def _moment(self) -> tuple[_Core, Blocks, int]:
        """Blocks and next id that belong together, and the core that they are from."""
        with self._lock:
            core = self._core
            core.store.settle()
            return core, core.store.blocks, core.store.next_id

    @property
    def d(self) -> int:
        """Dimension."""
        return self._core.codec.d

    @property
    def nbits(self) -> int | float | Pairs:
        """Bits per coordinate, as given."""
        return self._core.codec.nbits

    @property
    def metric(self) -> MetricName:
        """``"ip"``, ``"cosine"`` or ``"l2"``."""
        return self._metric.value

    @property
    def codec(self) -> TurboQuant:
        """The codec that compresses vectors."""
        return self._core.codec

    def __len__(self) -> int:
        return self.ntotal

    def __contains__(self, one: object) -> bool:
        if not isinstance(one, (int, np.integer)) or not -(2**63) <= int(one) < 2**63:
            return False
        with self._lock:
            return bool(self._core.store.find(np.array([one], np.int64))[0] >= 0)

    @property
    def ntotal(self) -> int:
        """Number of vectors."""
        return sum(block.live for block in self._core.store.blocks)

    @property
    def ids(self) -> Ids:
        """Ids of all vectors, (ntotal,), in the order in which they were added, or by list if partitioned; a copy."""
        own = [block.ids_of(block.live_rows()) for block in self._core.store.blocks]
        return np.concatenate([np.zeros(0, np.int64), *own])

    @property
    def code_size(self) -> int:
        """Bytes per vector: codes, scale and, for l2, the squared length.

        Ids that are not consecutive take 8 more, and 32 to 64 to find them; `nbytes` counts these too.
        """
        return self._core.codec.code_size + self._metric.extra_bytes

    @property
    def nbytes(self) -> IndexBytes:
        """Bytes of memory that the index holds: an int with its parts as attributes.

        The parts are `codes`, `scales`, `ids`, `prefixes`, `lists`, `rotation` and `spare`; ``nbytes.items()`` is a
        dictionary of them. `mapped`, the bytes of a mapped file, is not in the sum. Memory that copies of an index
        share counts in each of them.
        """
        with self._lock:
            return count_bytes(self._core.store, self._core.codec, self._core.partition)

    def add(
        self, x: Batches, ids: ArrayLike | None = None, *, upsert: bool = False, threads: int | None = None
    ) -> None:
        """Compress vectors and append them.

        Nothing is added if any row or id is bad, or if an iterator fails. Searches of other threads see all of the
        vectors or none.

        Parameters
        ----------
        x : (n, d) or (d,) array_like, or iterator of these
            Floats or integers of up to 16 bits; see the "What you can hand over" page. Files, tables and columns are
            read part by part, and an iterator batch by batch; only codes are kept until the end.
        ids : (n,) int, optional
            Distinct, within int64, and not -1, which stands for no result; those of all batches at once. Default:
            consecutive, from 0, or after the largest id that was ever in the index.
        upsert : bool
            Replace vectors with the same ids. Otherwise an id that is in the index is an error.
        threads : int, optional
            Default: ``TQVEC_NUM_THREADS``, or all CPUs.

        Raises
        ------
        InputError
            Wrong type or shape; NaN, Inf or a length beyond float32; an id that is taken or given twice; with the row.
            The index was trained while an iterator was read.

        Warns
        -----
        LossWarning
            Vectors for l2 lie so far from the origin that an index that is not trained can't tell them apart.
        """
        given = x if is_stream(x) else Vectors(cast(ArrayLike, x), self._core.codec.d, "x")
        distinct = distinct_ids(ids)
        while True:
            codec, coded = self._core.codec, []
            for part in iter_additions(given, codec.d, distinct):
                coded.append(encode_rows(codec, self._metric, part, threads))
                if self._metric is Metric.L2 and codec.calibration is None and not self._is_far:
                    self._is_far = warn_if_far(codec, part, stacklevel=2)
            with self._lock:
                if codec is self._core.codec:  # or it was trained in the meantime
                    if coded:
                        self._core.store.append(join_rows(coded), distinct, upsert, threads)
                    return
            if not isinstance(given, Vectors):
                raise InputError("the index was trained while x was read, which is an iterator: add it once more")

    def update(self, *, ids: ArrayLike, x: Batches, threads: int | None = None) -> None:
        """Replace vectors: as ``add(x, ids, upsert=True)``, but every id must be in the index.

        Raises
        ------
        InputError
            As `add`; an id that is not in the index.
        """
        with self._lock:  # an id that is there now shall still be there when it is replaced
            self._lookup(ids, None, threads)
            self.add(x, ids, upsert=True, threads=threads)

    def remove_ids(self, ids: ArrayLike) -> int:
        """Remove vectors; ids that are not in the index are passed over.

        The time does not depend on `ntotal`. Memory is freed when more vectors were removed than are left.

        Parameters
        ----------
        ids : (n,) int

        Returns
        -------
        int
            Number of removed vectors.
        """
        wanted = np.unique(integers(ids, "ids"))
        with self._lock:
            return self._core.store.remove(wanted)

    def reset(self) -> None:
        """Remove all vectors; what `train` and `partition` learned stays."""
        with self._lock:
            self._core, self._last = self._empty(self._core.codec, self._core.partition), None

    def merge_from(self, other: Contents) -> None:
        """Append all vectors of another index of the same codec, as if they had been added to this one.

        If the other's ids are 0, 1, 2, … in order, as they are by default, its vectors get this index's next ids.
        Otherwise, and once a vector of it was removed, they keep their ids, which must be distinct from those here.

        Raises
        ------
        InputError
            The indexes differ in metric or codec, and the message says in what; or they share an id. Nothing is merged
            then.
        """
        if not isinstance(other, Contents):
            raise InputError(f"other must be an Index, got {type(other).__name__}")
        with other._lock:
            theirs = other._core.codec
            blocks, renumber = other._core.store.merge_snapshot()
        with self._lock:
            core = self._core
            difference = describe_difference((core.codec, self._metric.value), (theirs, other._metric.value))
            if difference is not None:
                raise InputError(
                    f"indexes of different codecs can't be merged: {difference}; add the vectors of one to an index "
                    "like the other instead"
                )
            core.store.extend(blocks, renumber)

    def _recoded(self: Self, codec: TurboQuant, vectors: Vectors | None, threads: int) -> Self:
        """An index of the same vectors and ids in another codec; from their codes, if there are no vectors."""
        other, done = self._like(codec), 0
        store = self._core.store
        for rows, ids in store.iter_chunks(store.blocks):
            if vectors is None:
                again = recode(rows, self._core.codec, codec, threads)
            else:
                again = encode_rows(codec, self._metric, vectors.some(slice(done, done + ids.size)), threads)
            other._core.store.append(again, ids, False)
            done += ids.size
        other._core.store.next_id = store.next_id
        return other

    def reconstruct(self, ids: ArrayLike, *, threads: int | None = None) -> Floats:
        """Decompress vectors; for metric cosine their directions.

        Parameters
        ----------
        ids : (n,) int
        threads : int, optional
            Default: ``TQVEC_NUM_THREADS``, or all CPUs.

        Returns
        -------
        (n, d) float32

        Raises
        ------
        InputError
            An id is not in the index.
        """
        snapshot, rows = self._lookup(ids, None, threads)
        return snapshot.decode(rows)

    def _lookup(
        self, ids: ArrayLike, filter: Filter | None, threads: int | None, probe: Probe | None = None
    ) -> tuple[Snapshot, Ids]:
        """Rows of ids that must be there, and the snapshot that they belong to."""
        wanted = integers(ids, "ids")
        with self._lock:
            snapshot = self._snapshot(filter=filter, threads=threads, probe=probe)
            rows = self._core.store.find(wanted)
        if (rows < 0).any():
            at = int(np.argmax(rows < 0))
            raise InputError(f"ids row {at}: {wanted[at]} is not in the index")
        return snapshot, rows

    def _snapshot(
        self, *, filter: Filter | None = None, threads: int | None = None, probe: Probe | None = None
    ) -> Snapshot:
        """The index as it is now; without `probe`, searches of a partitioned one scan all lists.

        The table of ids may change while another thread holds the lock. A filter then does without: no search waits.
        """
        count, last = num_threads(threads), self._last
        if filter is None and last is not None:
            kept, core, given = last
            if core is self._core and kept.blocks is core.store.blocks and (kept.threads, given) == (count, probe):
                return kept
        selector = None if filter is None else as_selector(filter, self._selector)
        if selector is not None:
            self._selector = selector
        locked = selector is not None and self._lock.acquire(blocking=False)
        try:
            core = self._core
            blocks = core.store.blocks
            allowed = allowed_rows(Moment(blocks, core.store.find if locked else None), selector)
        finally:
            if locked:
                self._lock.release()
        snapshot = Snapshot(
            codec=core.codec,
            metric=self._metric,
            scanner=core.scanner,
            blocks=blocks,
            allowed=allowed,
            threads=count,
            routing=None if core.partition is None or probe is None else Routing(core.partition, *probe),
        )
        if filter is None and may_be_kept(blocks):
            self._last = snapshot, core, probe
        return snapshot
