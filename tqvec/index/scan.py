"""Which kernel answers a search, and what it needs: the part of `Index` that turns queries into ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqvec import _threads
from tqvec.codec.bands import integer_levels
from tqvec.codec.products import batch_tables
from tqvec.codec.quantizer import TurboQuant
from tqvec.codec.stages import leading_planes, prefix_counts, stage_tables
from tqvec.index.persistence import Rows
from tqvec.index.prefixes import PrefixBlocks
from tqvec.kernels.dispatch import available, kernel
from tqvec.kernels.pack.portable import SPREAD
from tqvec.kernels.scan.queries import BY_LENGTH, BY_NOTHING, BY_TWICE_THE_LENGTH
from tqvec.kernels.tables import StageTables
from tqvec.kernels.topk.portable import EMPTY_ID

SPARE_ROWS = 64  # that all arrays of an index keep after the last vector: vector kernels read whole blocks

_GRAIN = 2048  # rows a thread takes at least; a multiple of the staged kernel's 64
_FEW = 8  # queries, up to which each is searched alone, in stages
_ROWS_A_RESULT = 64  # from which on judging rows by a few bits pays
_FORMS = {"ip": BY_LENGTH, "cosine": BY_NOTHING, "l2": BY_TWICE_THE_LENGTH}
_NO_BIAS = np.zeros(0, np.float32)

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Task = Callable[[int, int, int], None]


class Scanner:
    """Searches the rows of an index.

    Three kernels give the same full scores, to the last bit: ``search_rows`` unpacks everything, ``search_few`` judges
    most rows by a few bits, one query at a time, and ``search_batch`` by byte products, many queries at a time. The
    last two exist at some SIMD levels only; they may miss a true result with the small probability that
    kernels/staged/README.md derives.

    Parameters
    ----------
    codec : TurboQuant
    metric : str
        "ip", "cosine" or "l2".
    """

    def __init__(self, codec: TurboQuant, metric: str):
        self._codec = codec
        self._metric = metric
        self._bands = codec.quantizer.bands
        self._levels = integer_levels(codec.d, codec.quantizer)
        self._windows = codec.quantizer.windows
        self._stages: StageTables | None = None
        if all((band.stop - band.start) % 8 == 0 for band in codec.bands):  # the stages read whole bytes
            known = codec.d, codec.bands, self._windows, codec.spreads
            counts = prefix_counts(*known)
            self._stages = stage_tables(*known, self._levels.levels, counts)
            self._prefixes = PrefixBlocks(leading_planes(codec.bands, self._windows, counts))

    def search(self, rows: Rows, ntotal: int, queries: Floats, k: int, threads: int) -> tuple[Floats, Ids]:
        """The `k` best of the first `ntotal` rows for each query.

        Returns
        -------
        scores : (nq, k) float32
            Larger is better; for l2 the squared distance is ``‖query‖² - score``. Empty entries are -inf.
        ids : (nq, k) int64
            Row numbers; of empty entries -1.
        """
        bias = -rows["squared_norm"] if self._metric == "l2" else _NO_BIAS
        tables = (rows["codes"], rows["scale"], bias)
        scores = np.full((threads, queries.shape[0], k), -np.inf, np.float32)
        ids = np.full((threads, queries.shape[0], k), EMPTY_ID, np.int64)
        judged = self._stages is not None and k * _ROWS_A_RESULT <= ntotal
        if judged and queries.shape[0] <= _FEW and available("search_few"):
            task = self._few(tables, ntotal, queries, scores, ids)
        elif judged and available("search_batch"):
            task = self._batch(tables, queries, scores, ids)
        else:
            task = self._all(tables, queries, scores, ids)
        parts = _threads.over_rows(task, ntotal, _GRAIN, threads)
        kernel("topk_finish")(scores[:parts], ids[:parts])
        ids[0][ids[0] == EMPTY_ID] = -1
        return scores[0], ids[0]

    def _all(self, tables: Any, queries: Floats, scores: Floats, ids: Ids) -> Task:
        directions, _, unit = self._directions(queries)
        padded = sum(-(-(band.stop - band.start) // 8) * 8 for band in self._codec.bands)
        integers = np.empty((queries.shape[0], padded), np.int16)
        kernel("integer_queries")(directions, self._bands, 8, integers)
        scan = kernel("search_rows")
        codec = (self._bands, self._levels.levels, self._levels.pairs, self._windows, SPREAD)

        def task(part: int, start: int, stop: int) -> None:
            scan(*tables, *codec, integers, unit, start, stop, scores[part], ids[part])

        return task

    def _few(self, tables: Any, ntotal: int, queries: Floats, scores: Floats, ids: Ids) -> Task:
        prefixes = self._prefixes.of(tables[0], ntotal)
        scan = kernel("search_few")

        def task(part: int, start: int, stop: int) -> None:
            room = _threads.scratch((stop - start) * 5 // 4 + 2 * SPARE_ROWS)
            scan(
                *tables, self._bands, prefixes, queries, self._codec.rotation_tables, _FORMS[self._metric],
                self._levels.unit, self._stages, room, start, stop, scores[part], ids[part],
            )  # fmt: skip

        return task

    def _batch(self, tables: Any, queries: Floats, scores: Floats, ids: Ids) -> Task:
        batch = batch_tables(self._bands, self._windows, self._codec.spreads, *self._directions(queries))
        scan = kernel("search_batch")

        def task(part: int, start: int, stop: int) -> None:
            scan(*tables, self._stages, batch, start, stop, scores[part], ids[part])

        return task

    def _directions(self, queries: Floats) -> tuple[Floats, NDArray[np.float64], Floats]:
        """Rotated queries of length 1, the factors of their scores, and the units of their integer products."""
        nq = queries.shape[0]
        out = np.empty_like(queries), np.empty(nq), np.empty(nq, np.float32)
        prepare = kernel("query_directions")
        prepare(queries, self._codec.rotation_tables, _FORMS[self._metric], self._levels.unit, *out)
        return out


def squared_lengths(rows: Floats) -> NDArray[np.float64]:
    """Squared Euclidean length of each row, summed in float64."""
    return np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
