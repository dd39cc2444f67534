"""Partitioned: contents whose rows are grouped by the nearest of some centroids, so that searches read a few groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tqvec import _validate
from tqvec._config import num_threads
from tqvec._random import generator
from tqvec._types import Doubles, Flags, Floats, Ids
from tqvec._vectors import Vectors
from tqvec.errors import InputError
from tqvec.index.blocks import ALL
from tqvec.index.contents import Contents, Probe
from tqvec.index.partition.clustering import cluster
from tqvec.index.partition.partition import Partition
from tqvec.index.partition.probing import TARGETS, Probing, calibrate
from tqvec.index.partition.router import Router
from tqvec.index.rows import encode_rows
from tqvec.index.snapshot import Snapshot
from tqvec.index.store import Blocks, Store

RECALL = 0.95  # of searches that don't ask for another
_ROWS_A_LIST = 40  # of the sample that centroids are learned from
_QUERIES = 500  # that tell how many lists a search has to probe
_MOST_RESULTS = 100  # of each of these
_LEAST_RESULTS = 10  # that stored vectors tell of; their nearest are often copies of them, which queries don't have
_MOST_RANKED = 4096  # lists of each of these


class Partitioned(Contents):
    """Contents that can be partitioned: an exhaustive search then becomes one of some lists."""

    @property
    def nlist(self) -> int | None:
        """Number of lists; None for an index that is not partitioned."""
        partition = self._core.partition
        return None if partition is None else partition.nlist

    @property
    def imbalance(self) -> float | None:
        """Mean size of a vector's own list over the mean size of all lists; None for an index that is not partitioned.

        1 for equal lists; the time of a search grows with it. Where vectors that were added make it twice what it was
        after `partition`, centroids have become those of other data: partition again. Vectors that are not sorted yet
        don't count.
        """
        core = self._core
        if core.partition is None:
            return None
        sizes = _list_sizes(core.store.blocks, core.partition.nlist)
        return float(np.square(sizes).sum() * sizes.size / max(1.0, sizes.sum()) ** 2)

    def partition(
        self,
        nlist: int | None = None,
        sample: ArrayLike | None = None,
        *,
        queries: ArrayLike | None = None,
        threads: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Group the vectors by the nearest of `nlist` centroids, so that a search reads a part of them alone.

        Codes stay as they are, and so do scores: lists decide which vectors a search sees. `ids` changes its order to
        that of the lists. Vectors that are added later go to the list of the nearest centroid.

        Parameters
        ----------
        nlist : int, optional
            Number of lists. Default: ``4 √n``, for the n vectors of the index or, if there are more, of the sample.
        sample : (n, d) float16, float32, float64 or bfloat16, optional
            Vectors like those to be stored, which centroids are learned from. Default: stored vectors.
        queries : (m, d), optional
            Queries like those to come, which tell how many lists a search has to probe for a recall. Default: stored
            vectors, or those of the sample.
        threads : int, optional
            Default: ``TQVEC_NUM_THREADS``, or all CPUs.
        progress : callable, optional
            Called with the steps that are done and their number.

        Raises
        ------
        InputError
            There are neither vectors nor a sample, or fewer than `nlist`; bad vectors; `progress` can't be called.
        """
        d, workers = self._core.codec.d, num_threads(threads)
        given = None if sample is None else Vectors(sample, d, "sample")
        _validate.function(progress, "progress")
        asked = None if queries is None else _validate.vectors(queries, d, "queries")
        if asked is not None and len(asked) == 0:
            raise InputError("queries must have at least one row, or be None")
        with self._lock:
            core = self._core
            n = max(self.ntotal, 0 if given is None else len(given))
            if n == 0:
                raise InputError("an index without vectors needs a sample to be partitioned")
            nlist = _default_nlist(n) if nlist is None else _validate.integer(nlist, "nlist", 1, 2**31 - 1)
            learned = self._sample(given, nlist * _ROWS_A_LIST, workers)
            if len(learned) < nlist:
                raise InputError(f"nlist must be at most the {len(learned)} vectors of the sample, got {nlist}")
            spherical = self._metric.larger_is_better
            centroids = cluster(learned, nlist, spherical=spherical, threads=workers, progress=progress)
            router = Router.of(centroids, self._metric, threads=workers)
            partition = Partition(core.codec, router, _all_lists(nlist))
            store = core.store.partitioned(partition, workers)
            probed = store
            if not self.ntotal:  # the sample stands for the vectors to come
                probed = self._empty(core.codec, partition).store
                probed.append(encode_rows(core.codec, self._metric, learned, workers), None, False, workers)
                probed.rearrange(workers)
            partition = replace(partition, probing=self._calibrate(partition, probed, asked, workers))
            self._core = core._replace(store=store, partition=partition)

    def unpartition(self) -> None:
        """Search all vectors again. Their order stays that of the lists."""
        with self._lock:
            core = self._core
            self._core = core._replace(store=core.store.partitioned(None), partition=None)

    def _sample(self, given: Vectors | None, most: int, threads: int) -> Floats:
        """Vectors to learn centroids from."""
        rng = generator(self._core.codec.seed, "partition: rows")
        if given is not None:
            rows = np.sort(rng.permutation(len(given))[:most])
            return given.some(rows).checked()
        snapshot = self._snapshot(threads=threads)
        live = snapshot.live_rows()
        return snapshot.decode(live[np.sort(rng.permutation(live.size)[:most])])

    def _calibrate(self, partition: Partition, store: Store, queries: Floats | None, threads: int) -> Probing:
        """Find out how many lists hold the results of an exhaustive search."""
        blocks = store.blocks
        snapshot = Snapshot(
            codec=partition.codec,
            metric=self._metric,
            scanner=self._core.scanner,
            blocks=blocks,
            allowed=[ALL] * len(blocks),
            threads=threads,
        )
        rng = generator(partition.codec.seed, "partition: queries")
        k = min(_MOST_RESULTS, snapshot.ntotal - (queries is None))
        if k < 1:
            return partition.probing
        k_min = _LEAST_RESULTS if queries is None else 1
        if queries is None:
            own = np.sort(rng.permutation(snapshot.ntotal)[:_QUERIES])
            queries = snapshot.decode(own)
            rows = snapshot.best(queries, k + 1)[1]
            rows = rows[_without_first(rows == own[:, None])].reshape(own.size, k)
        else:
            queries = queries[np.sort(rng.permutation(len(queries))[:_QUERIES])]
            rows = snapshot.best(queries, k)[1]
        scores, lists = partition.router.rank(queries, min(partition.nlist, _MOST_RANKED), threads)
        sizes = _list_sizes(blocks, partition.nlist).astype(np.int32)
        return calibrate(scores, lists, lists_at(blocks, rows), sizes, k_min)

    def _probe(self, nprobe: int | None, recall: float | None) -> Probe | None:
        """What arguments of a search say of lists; None for an index without any."""
        return probe_of(self._core.partition, nprobe, recall)


def probe_of(partition: Partition | None, nprobe: int | None, recall: float | None) -> Probe | None:
    """Return what arguments of a search say of lists; None for a search of all vectors.

    Raises
    ------
    InputError
        They are out of their range; both are given; `nprobe` without lists.
    """
    if nprobe is not None and recall is not None:
        raise InputError("give nprobe or recall, not both: recall chooses how many lists a query probes")
    if recall is not None and recall != 1.0:
        recall = _validate.fraction(recall, "recall")
    if nprobe is not None:
        nprobe = _validate.integer(nprobe, "nprobe", 1, 2**31 - 1)
    if partition is not None:
        everything = recall == 1.0 or (nprobe is not None and nprobe >= partition.nlist)
        return None if everything else (nprobe, RECALL if recall is None else recall)
    if nprobe is not None:
        raise InputError("nprobe is for a partitioned index: call partition() first")
    return None


def _all_lists(nlist: int) -> Probing:
    """A rule that promises a recall by probing all lists, before anything is calibrated."""
    shape = 1, len(TARGETS)
    return Probing(
        weight=0.0,
        ks=np.ones(1, np.int32),
        targets=np.array(TARGETS, np.float32),
        thresholds=np.full(shape, np.inf, np.float32),
        ranked=np.full(shape, nlist, np.int32),
        nlist=nlist,
    )


def _without_first(own: Flags) -> Flags:
    """Columns to keep of each row: without the one that is its own, or the last."""
    own[~own.any(axis=1), -1] = True
    return ~own


def _list_sizes(blocks: Blocks, nlist: int) -> Doubles:
    """Number of rows of each list, in all blocks that are sorted."""
    sizes = np.zeros(nlist)
    for block in blocks:
        if block.starts.size:
            sizes += np.diff(block.starts)
    return sizes


def lists_at(blocks: Blocks, rows: Ids) -> NDArray[np.int32]:
    """Return the lists of row numbers of any shape, in blocks that are sorted; -1 gives list 0."""
    lists, base = np.zeros(rows.shape, np.int32), 0
    for block in blocks:
        mine = (rows >= base) & (rows < base + block.n)
        lists[mine] = np.searchsorted(block.starts, rows[mine] - base, side="right") - 1
        base += block.n
    return lists


def _default_nlist(n: int) -> int:
    return max(1, min(int(4 * np.sqrt(n)), n // 8))
