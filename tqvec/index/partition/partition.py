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
        partition, nq = self.partition, queries.shape[0]
        ranked = partition.probing.most(k, self.recall) if self.nprobe is None else self.nprobe
        ranked = min(max(ranked, least), partition.nlist)
        scores, lists = partition.rank(queries, ranked, threads)
        counts = np.full(nq, ranked)
        if self.nprobe is None:
            counts = np.clip(partition.probing.counts(scores, k, self.recall), min(least, ranked), ranked)
        chosen = np.arange(ranked) < counts[:, None]
        return Probes(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), lists[chosen])
