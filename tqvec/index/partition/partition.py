"""Partition: what an index knows about its lists, and how many of them a query has to probe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._types import Floats, Ids
from tqvec.codec.codes import Codes
from tqvec.codec.turboquant import TurboQuant
from tqvec.index.partition.probing import Probing
from tqvec.index.partition.router import Router
from tqvec.index.probes import Probes
from tqvec.index.rows import Rows

_RANKED = 64  # lists of a query at first
_KEPT = 64  # pairs of k and recall whose limits are kept
_NO_LIMITS = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Partition:
    """Lists of the rows of an index: a row belongs to the list whose centroid is nearest to its decoded code.

    So lists follow from codes alone. An index that is partitioned and then filled equals one that was filled before.

    Attributes
    ----------
    codec : TurboQuant
        Of the rows.
    router : Router
    probing : Probing
    """

    codec: TurboQuant
    router: Router
    probing: Probing
    _limits: dict[tuple[int, float], Floats] = field(init=False, repr=False, compare=False, default_factory=dict)

    @property
    def nlist(self) -> int:
        """Number of lists."""
        return self.router.nlist

    @property
    def nbytes(self) -> int:
        """Bytes of the centroids, as codes and as what queries and vectors are compared with, and of the rule."""
        return self.router.nbytes + self.probing.thresholds.nbytes + self.probing.ranked.nbytes

    def lists_of(self, rows: Rows, threads: int | None = None) -> NDArray[np.int32]:
        """Return the list of each row, (n,) int32."""
        vectors = self.codec.decode(Codes(rows["codes"], rows["scale"]), threads=threads)
        return self.router.nearest(vectors, threads)

    def limits(self, k: int, recall: float) -> Floats:
        """Return the largest gap of score to the best list with which a query probes its list of each rank, (m,).

        They depend on nothing else, and so some of them are kept.
        """
        limits = self._limits.get((k, recall))
        if limits is None:
            limits = self.probing.limits(self.probing.most(k, recall), k, recall)
            if len(self._limits) >= _KEPT:
                self._limits.clear()
            self._limits[k, recall] = limits
        return limits


class Routing(NamedTuple):
    """How many lists the queries of a search probe: a number of lists, or as many as hold a share of the results.

    Attributes
    ----------
    partition : Partition
    nprobe : int or None
    recall : float
        For `nprobe` None.
    """

    partition: Partition
    nprobe: int | None
    recall: float

    def probes(self, queries: Floats, k: int, threads: int) -> Probes:
        """Return the lists that queries probe for `k` results; see `Probes`."""
        partition = self.partition
        limits = _NO_LIMITS if self.nprobe is not None else partition.limits(k, self.recall)
        most = min(self.nprobe or limits.size, partition.nlist)
        m = most if self.nprobe is not None else min(most, _RANKED)
        parts, counts, pending = [], np.zeros(len(queries), np.int64), np.arange(len(queries))
        while pending.size:  # few queries need many lists, and to rank these takes longer than to search them
            scores, lists = partition.router.rank(queries[pending], m, threads)
            found = np.full(pending.size, m)
            if self.nprobe is None:
                found = np.maximum((scores[:, :1] - scores <= limits[:m]).sum(axis=1), 1)
            done = (found < m) | (m == most)
            counts[pending[done]] = found[done]
            parts.append((pending[done], lists[done][np.arange(m) < found[done, None]]))
            pending, m = pending[~done], min(most, 4 * m)
        return Probes(np.concatenate([[0], np.cumsum(counts)]), _in_order(parts, counts))


def _in_order(parts: list[tuple[Ids, NDArray[np.int32]]], counts: Ids) -> NDArray[np.int32]:
    """The lists of all queries, from parts that have those of some queries each."""
    if len(parts) == 1:
        return parts[0][1]
    of = np.concatenate([np.repeat(queries, counts[queries]) for queries, _ in parts])
    lists: NDArray[np.int32] = np.concatenate([lists for _, lists in parts])[np.argsort(of, kind="stable")]
    return lists
