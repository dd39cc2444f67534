"""Partition: what an index knows about its lists, and how many of them a query has to probe."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._types import Floats
from tqvec.codec.codes import Codes
from tqvec.codec.turboquant import TurboQuant
from tqvec.index.partition.probing import Probing
from tqvec.index.partition.router import Router
from tqvec.index.rows import Rows
from tqvec.index.scanner import Probes

_RANKED = 64  # lists of a query at first


class Partition(NamedTuple):
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

    @property
    def nlist(self) -> int:
        """Number of lists."""
        return self.router.nlist

    @property
    def nbytes(self) -> int:
        """Bytes of centroids and of what searches by them need."""
        return self.router.nbytes + self.probing.thresholds.nbytes + self.probing.ranked.nbytes

    def lists_of(self, rows: Rows, threads: int | None = None) -> NDArray[np.int32]:
        """Return the list of each row, (n,) int32."""
        vectors = self.codec.decode(Codes(rows["codes"], rows["scale"]), threads=threads)
        return self.router.nearest(vectors, threads)

    def rank(self, queries: Floats, m: int, threads: int | None = None) -> tuple[Floats, NDArray[np.int32]]:
        """Return the `m` nearest lists of each query, nearest first, and scores of which larger ones are better."""
        scores, lists = self.router.rank(queries, m, threads)
        return scores if self.router.metric.larger_is_better else -scores, lists


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

    def probes(self, queries: Floats, k: int, threads: int, least: int = 1) -> Probes:
        """Return the lists that queries probe for `k` results, at least so many for each; see `Probes`."""
        partition = self.partition
        most = partition.probing.most(k, self.recall) if self.nprobe is None else self.nprobe
        most = min(max(most, least), partition.nlist)
        m = most if self.nprobe is not None else min(most, max(least, _RANKED))
        chosen = [np.zeros(0, np.int32)] * len(queries)
        pending = np.arange(len(queries))
        while pending.size:  # few queries need many lists, and to rank these takes longer than to search them
            scores, lists = partition.rank(queries[pending], m, threads)
            counts = np.full(pending.size, m)
            if self.nprobe is None:
                counts = np.clip(partition.probing.counts(scores, k, self.recall), min(least, m), m)
            done = (counts < m) | (m == most)
            for q, ranked, count in zip(pending[done], lists[done], counts[done], strict=True):
                chosen[q] = ranked[:count]
            pending, m = pending[~done], min(most, 4 * m)
        first = np.concatenate([[0], np.cumsum([len(lists) for lists in chosen])])
        return Probes(first.astype(np.int64), np.concatenate(chosen) if chosen else np.zeros(0, np.int32))
