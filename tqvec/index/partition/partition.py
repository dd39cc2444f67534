"""Partition: what an index knows about its lists, and how many of them a query has to probe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._types import Floats
from tqvec.codec.codes import Codes
from tqvec.codec.turboquant import TurboQuant
from tqvec.index.partition.probing import Probing
from tqvec.index.partition.router import Router
from tqvec.index.probes import Probes
from tqvec.index.rows import Rows

_KEPT = 64  # pairs of k and recall whose limits are kept


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
        if self.nprobe is None:
            limits = partition.limits(k, self.recall)
        else:
            limits = np.full(min(self.nprobe, partition.nlist), np.inf, np.float32)
        return partition.router.probes(queries, limits, threads)
