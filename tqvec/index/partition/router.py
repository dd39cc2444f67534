"""Router: which list of a partitioned index a vector belongs to, and which lists a query should search first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._config import num_threads
from tqvec._fixed import Fixed, protect
from tqvec._locks import cached_property
from tqvec._types import Flags, Floats, Ids
from tqvec.codec.codes import Codes
from tqvec.codec.turboquant import TurboQuant
from tqvec.errors import InputError
from tqvec.exact import squared_norms
from tqvec.index.blocks import ALL, Block, empty_block
from tqvec.index.metrics import Metric
from tqvec.index.partition.lloyd import lloyd
from tqvec.index.partition.products import NEAR, TINY, Points, Targets, longest, nearest, to_points, to_targets
from tqvec.index.probes import Probes
from tqvec.index.rows import Rows, encode_rows
from tqvec.index.scanner import Scanner
from tqvec.kernels._jit import LANES
from tqvec.kernels.background import ready
from tqvec.kernels.dispatch import kernel, levels
from tqvec.kernels.threads.helpers import check_memory, share

NBITS = 8  # of the codes of centroids
_ROUTING = 1  # version of the rules of `Router.nearest`; grows when a vector would go to another list
_FLAT = 512  # lists, up to which a vector is compared with all
_PROBES = 8  # groups of lists, otherwise
_GROUPING = 8  # rounds of the clustering of lists to groups
_ROWS = 8192  # routed at a time
_MULTIPLIED = 16384  # lists at most that products rank faster than a search
_QUERIES = 256  # ranked by NumPy at a time
_ROUTED = 1024  # queries whose lists a kernel chooses at a time
_NS = 0.02  # to compare a coordinate of a query with a list, by which the number of threads is chosen
_RANKED = 64  # lists of each query of a batch at first; four times as many each time that all of them count

Progress = Callable[[int, int], None]


class Groups(NamedTuple):
    """Lists in groups of near ones.

    Attributes
    ----------
    centres : Targets
        Of all groups.
    lists : Targets
        Centroids in the order of `numbers`.
    numbers : (nlist,) int32
        Numbers of the lists, group by group, ascending in each.
    starts : (n_groups + 1,) int64
        Where each group begins in `numbers`.
    """

    centres: Targets
    lists: Targets
    numbers: NDArray[np.int32]
    starts: Ids


class Workspace:
    """Memory for some vectors of a chunk, which is used again: new memory costs more than to copy them.

    Parameters
    ----------
    n, d : int
        Vectors of a chunk, and their dimension.
    """

    def __init__(self, n: int, d: int):
        self._integers = np.empty((n, d), np.float32)

    def take(self, points: Points, rows: Ids) -> Points:
        """Return some vectors; they are overwritten by the next call."""
        integers = np.take(points.integers, rows, axis=0, out=self._integers[: rows.size], mode="clip")
        return Points(integers, points.factor[rows])


class Router(Fixed):
    """The centroids of lists, as codes.

    Centroids are what these codes decode to, so nothing else is stored. They are coded relative to a centre, their
    mean, which lets eight bits tell more. For "ip" and "cosine" a vector is compared by its direction.

    Parameters
    ----------
    rows : dict of arrays
        ``codes`` and ``scale`` of a `TurboQuant` of eight bits, and for l2 ``squared_norm``, of the decoded centroids
        less the centre, as `Router.of` makes them.
    centre : (d,) float32
    metric : {"ip", "cosine", "l2"}

    Attributes
    ----------
    rows, centre, metric
        The arguments, which can't be changed.
    d, nlist : int
    fingerprint : str
        Hash of all that decides which list a vector goes to.
    """

    _fixed = frozenset({"rows", "centre", "metric", "d", "nlist", "fingerprint", "_codec", "_scanner", "_block"})

    def __init__(self, rows: Rows, centre: Floats, metric: str):
        self.metric: Final = Metric(metric)
        self.centre: Final = protect(np.ascontiguousarray(centre, np.float32))
        self.d: Final = self.centre.shape[0]
        self.nlist: Final = rows["scale"].shape[0]
        if self.nlist < 1:
            raise InputError("a partition needs at least one list")
        self._codec: Final = TurboQuant(self.d, NBITS)
        # Its "cosine" takes queries of length 1 and rows of any.
        self._scanner: Final = Scanner(self._codec, Metric.L2 if self._euclidean else Metric.COSINE)
        self._block: Final[Block] = empty_block(rows, self._scanner.prefixes).extended(rows, 0)
        self.rows: Final = {name: protect(array[: self.nlist]) for name, array in self._block.rows.items()}
        self.fingerprint: Final = self._hash()

    def __repr__(self) -> str:
        return f"Router(nlist={self.nlist}, d={self.d}, metric={self.metric.value!r})"

    @classmethod
    def of(cls, centroids: Floats, metric: str, centre: Floats | None = None, threads: int | None = None) -> Router:
        """Return the router of some centroids.

        Parameters
        ----------
        centroids : (nlist, d) float32
        metric : {"ip", "cosine", "l2"}
        centre : (d,) float32, optional
            Default: the mean of the centroids.
        threads : int, optional
            Default: ``TQVEC_NUM_THREADS``, or all CPUs.

        Raises
        ------
        InputError
            There is no centroid, or one holds NaN or Inf or is too long.
        """
        if centre is None:
            centre = np.add.reduce(centroids, axis=0, dtype=np.float64) / max(1, len(centroids))
        centre = centre.astype(np.float32)
        codec = TurboQuant(centroids.shape[1], NBITS)
        rows = encode_rows(codec, Metric.IP, centroids - centre, threads)
        if Metric(metric) is Metric.L2:
            decoded = codec.decode_unbiased(Codes(rows["codes"], rows["scale"]), threads=threads)
            rows["squared_norm"] = squared_norms(decoded).astype(np.float32)
        return cls(rows, centre, metric)

    @property
    def nbytes(self) -> int:
        """Bytes of the codes, scales, squared lengths and the centre, and of what has been made of them."""
        made = [array for array in vars(self).get("_groups", ()) if isinstance(array, np.ndarray)]
        made += [part.integers for part in vars(self).get("_groups", ()) if isinstance(part, Targets)]
        made += [vars(self)["_tiles"]] if "_tiles" in vars(self) else []
        return sum(array.nbytes for array in [*self.rows.values(), self.centre, *made])

    @property
    def centroids(self) -> Floats:
        """The centroids, decoded, (nlist, d) float32."""
        return self._relative() + self.centre

    def nearest(
        self, vectors: Floats, threads: int | None = None, progress: Progress | None = None
    ) -> NDArray[np.int32]:
        """Return the list of each vector.

        It is decided by integers alone (see `products`), so it depends on the vector and the router, but not on the
        batch, the threads or the instruction set. Of up to 512 lists it is the nearest one. Of more it is the nearest
        one in the eight groups of lists whose centres are nearest: that is the nearest of all for nearly all vectors,
        and one about as near for the others. Of equally near lists it is the first.

        Parameters
        ----------
        vectors : (n, d) float32
            Finite; a zero vector goes to list 0 for "ip" and "cosine".
        threads : int, optional
            Default: ``TQVEC_NUM_THREADS``, or all CPUs. Matrix products take the threads of NumPy's library.
        progress : callable, optional
            Called with the vectors that are done and their number.

        Returns
        -------
        (n,) int32
        """
        self._check(vectors, "vectors")
        n, workers = len(vectors), num_threads(threads)
        lists, reach = np.empty(n, np.int32), self._groups.lists.reach if self._euclidean else 0.0
        for start in range(0, n, _ROWS):
            part = vectors[start : start + _ROWS]
            points = to_points(part - self.centre if self._euclidean else part, reach, workers)
            lists[start : start + _ROWS] = self.nearest_of(points)
            if progress is not None:
                progress(min(n, start + _ROWS), n)
        return lists

    def nearest_of(self, points: Points, probes: int = _PROBES) -> NDArray[np.int32]:
        """Return the list of each vector as `nearest` does.

        Parameters
        ----------
        points : Points
            Vectors; for l2 less the centre.
        probes : int
            Groups of lists that each is compared with.
        """
        groups = self._groups
        n, n_groups = points.factor.size, groups.starts.size - 1
        if n_groups <= probes:
            return groups.numbers[nearest(points, groups.lists)]
        lists = np.empty(n, np.int32)
        workspace = Workspace(min(n, _ROWS), self.d)
        for start in range(0, n, _ROWS):
            part = points.slice(start, start + _ROWS)
            scores = groups.centres.scores(part)
            least = np.partition(scores, n_groups - probes, axis=1)[:, n_groups - probes, None]
            chosen = np.ascontiguousarray((scores >= least).T)
            lists[start : start + _ROWS] = _best_of_groups(part, groups, chosen, workspace)
        return lists

    def rank(self, queries: Floats, m: int, threads: int | None = None) -> tuple[Floats, NDArray[np.int32]]:
        """Return the `m` nearest lists of each query, nearest first.

        Parameters
        ----------
        queries : (nq, d) float32
            Finite.
        m : int
            At most `nlist`.
        threads : int, optional
            Default: ``TQVEC_NUM_THREADS``, or all CPUs.

        Returns
        -------
        scores : (nq, m) float32
            Larger is nearer. Inner products of the directions of queries with centroids, or minus squared distances. A
            number of the query's own is missing, so only differences tell anything.
        lists : (nq, m) int32
            Where lists are many, a search of codes finds them. It may miss one with a small probability, as `Scanner`
            says.
        """
        self._check(queries, "queries")
        shifted = queries - self.centre if self._euclidean else queries
        if self.nlist > _MULTIPLIED:
            scores, lists = self._scanner.search([self._block], [ALL], self.nlist, shifted, m, num_threads(threads))
        else:
            scores, lists = self._rank_by_products(shifted, m, num_threads(threads))
        return scores, lists.astype(np.int32)

    def probes(self, queries: Floats, limits: Floats, threads: int | None = None) -> Probes:
        """Return the nearest lists of each query, as far as their scores are near that of its nearest list.

        Parameters
        ----------
        queries : (nq, d) float32
            Finite.
        limits : (m,) float32
            The largest gap to the score of the nearest list, for the list of each rank. They do not rise with the rank.
        threads : int, optional
            Default: ``TQVEC_NUM_THREADS``, or all CPUs.

        Returns
        -------
        Probes
            At least one list per query, and at most m.
        """
        if self.nlist <= _MULTIPLIED and levels("dot_tiles")[0] != "portable" and ready("search, lists"):
            return self._probes_by_kernel(queries, limits, num_threads(threads))
        most, m = limits.size, min(limits.size, _RANKED)
        parts, counts, pending = [], np.zeros(len(queries), np.int64), np.arange(len(queries))
        while pending.size:  # few queries need many lists, and to rank these takes longer than to search them
            scores, lists = self.rank(queries[pending], m, threads)
            found = np.maximum((scores[:, :1] - scores <= limits[:m]).sum(axis=1), 1)
            done = (found < m) | (m == most)
            counts[pending[done]] = found[done]
            parts.append((pending[done], lists[done][np.arange(m) < found[done, None]]))
            pending, m = pending[~done], min(most, 4 * m)
        return Probes(np.concatenate([[0], np.cumsum(counts)]), _in_order(parts, counts))

    def _probes_by_kernel(self, queries: Floats, limits: Floats, threads: int) -> Probes:
        """Return the same, without any array of all scores."""
        self._check(queries, "queries")
        shifted = queries - self.centre if self._euclidean else np.ascontiguousarray(queries)
        targets, nq = self._groups.lists, len(queries)
        least = max(NEAR * targets.reach, TINY) if self._euclidean else TINY
        plan = self._tiles, targets.bias, (longest(self.d), least, targets.unit), self._groups.numbers
        sharing = share(threads, nq * targets.integers.size * _NS)
        parts, first = [], np.zeros(nq + 1, np.int64)
        for start in range(0, max(1, nq), _ROUTED):
            some, counts = shifted[start : start + _ROUTED], first[1 + start : 1 + start + _ROUTED]
            done, lists = kernel("probe_targets")(*sharing, plan, some, limits, counts)
            check_memory(done)
            parts.append(lists)
        return Probes(first.cumsum(), parts[0] if len(parts) == 1 else np.concatenate(parts))

    def _rank_by_products(self, queries: Floats, m: int, threads: int) -> tuple[Floats, Ids]:
        """Return what `Scanner.search` does, by products of integers; of equal products the first place comes first."""
        targets, numbers = self._groups.lists, self._groups.numbers
        points = to_points(queries, targets.reach if self._euclidean else 0.0, threads)
        scores, places = np.empty((len(queries), m), np.float32), np.empty((len(queries), m), np.int64)
        for start in range(0, len(queries), _QUERIES):
            part = points.slice(start, start + _QUERIES)
            products = targets.scores(part)
            best = np.sort(np.argpartition(products, self.nlist - m, axis=1)[:, self.nlist - m :], axis=1)
            top = np.take_along_axis(products, best, axis=1)
            order = np.argsort(-top, axis=1, kind="stable")
            here = slice(start, start + _QUERIES)
            unit = 2 / part.factor if self._euclidean else np.full(len(top), 1 / longest(self.d), np.float32)
            scores[here] = np.take_along_axis(top, order, axis=1) * (unit[:, None] * np.float32(targets.unit))
            places[here] = np.take_along_axis(best, order, axis=1)
        return scores, numbers[places].astype(np.int64)

    @cached_property
    def _tiles(self) -> NDArray[np.int16]:
        """The centroids in the order of `Groups`, as `dot_tiles` takes them."""
        integers = self._groups.lists.integers
        padded = np.zeros((-(-self.nlist // LANES) * LANES, (self.d + 1) // 2 * 2), np.int16)
        padded[: self.nlist, : self.d] = integers
        pairs = padded.reshape(-1, LANES, padded.shape[1] // 2, 2).transpose(0, 2, 1, 3)
        return np.ascontiguousarray(pairs).reshape(pairs.shape[0], pairs.shape[1], 2 * LANES)

    @property
    def _euclidean(self) -> bool:
        return self.metric is Metric.L2

    def _check(self, vectors: Floats, name: str) -> None:
        if vectors.ndim != 2 or vectors.shape[1] != self.d:
            raise InputError(f"{name} must have shape (n, {self.d}), got {vectors.shape}")

    def _hash(self) -> str:
        header = {"version": _ROUTING, "codec": self._codec.fingerprint, "metric": self.metric.value}
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        for array in (self.rows["codes"], self.rows["scale"], self.centre):
            digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        return digest.hexdigest()[:32]

    def _relative(self) -> Floats:
        """Decoded centroids less the centre."""
        return self._codec.decode_unbiased(Codes(self.rows["codes"], self.rows["scale"]))

    @cached_property
    def _groups(self) -> Groups:
        """The centroids as `nearest` compares them: made when first needed, in memory alone."""
        centroids = self._relative()
        lists = to_targets(centroids, self._euclidean)
        numbers = np.arange(self.nlist, dtype=np.int32)
        if self.nlist <= _FLAT:
            return Groups(lists, lists, numbers, np.array([0, self.nlist]))
        rng = np.random.default_rng(_ROUTING)
        means, labels = lloyd(to_points(centroids, lists.reach), round(np.sqrt(self.nlist)), _GROUPING, False, rng)
        sizes = np.bincount(labels, minlength=len(means))
        order = np.argsort(labels, kind="stable")
        starts = np.cumsum(np.concatenate([[0], sizes[sizes > 0]]))
        centres = to_targets(means[sizes > 0], self._euclidean)
        return Groups(centres, lists.take(order), numbers[order], starts)


def _in_order(parts: list[tuple[Ids, NDArray[np.int32]]], counts: Ids) -> NDArray[np.int32]:
    """Return the lists of all queries, from parts that have those of some queries each."""
    if len(parts) == 1:
        return parts[0][1]
    of = np.concatenate([np.repeat(queries, counts[queries]) for queries, _ in parts])
    lists: NDArray[np.int32] = np.concatenate([lists for _, lists in parts])[np.argsort(of, kind="stable")]
    return lists


def _best_of_groups(points: Points, groups: Groups, chosen: Flags, workspace: Workspace) -> NDArray[np.int32]:
    """Return the nearest list of each vector in the groups that are chosen for it, (n_groups, n) bool."""
    n = points.factor.size
    scores, lists = np.full(n, -np.inf, np.float32), np.full(n, np.iinfo(np.int32).max, np.int32)
    for g in np.flatnonzero(chosen.any(axis=1)).tolist():
        start, stop = groups.starts[g : g + 2].tolist()
        rows = np.flatnonzero(chosen[g])
        part = groups.lists.slice(start, stop).scores(workspace.take(points, rows))
        best = part.argmax(axis=1)
        score, number = part[np.arange(rows.size), best], groups.numbers[start + best]
        better = (score > scores[rows]) | ((score == scores[rows]) & (number < lists[rows]))
        rows = rows[better]
        scores[rows], lists[rows] = score[better], number[better]
    return lists
