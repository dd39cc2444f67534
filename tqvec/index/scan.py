"""Which kernel answers a search, and what it needs: the part of `Index` that turns queries into ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqvec import _threads
from tqvec.codec.bands import QUERY_LENGTH, integer_levels, integer_queries
from tqvec.codec.quantizer import TurboQuant
from tqvec.codec.stages import batch_tables, stage_tables, staged_query
from tqvec.index.persistence import Rows
from tqvec.index.signs import SignBlocks
from tqvec.kernels.dispatch import available, kernel
from tqvec.kernels.pack.portable import SPREAD
from tqvec.kernels.topk.portable import EMPTY_ID

SPARE_ROWS = 64  # that all arrays of an index keep after the last vector: vector kernels read whole blocks

_GRAIN = 2048  # rows a thread takes at least; a multiple of the staged kernel's 64
_FEW = 8  # queries, up to which each is searched alone, in stages
_ROWS_A_RESULT = 64  # from which on judging rows by a few bits pays

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Task = Callable[[int, int, int], None]


class Scanner:
    """Searches the rows of an index.

    Three kernels give the same full scores, to the last bit: ``search_rows`` unpacks everything, ``search_staged``
    judges most rows by a few bits, one query at a time, and ``search_batch`` by byte products, many queries at a time.
    The last two exist at some SIMD levels only; they may miss a true result with the small probability that
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
        self._stages = stage_tables(codec.d, codec.nbits)
        self._signs = SignBlocks(codec.d)

    def search(self, rows: Rows, ntotal: int, queries: Floats, k: int, threads: int) -> tuple[Floats, Ids]:
        """The `k` best of the first `ntotal` rows for each query.

        Returns
        -------
        scores : (nq, k) float32
            Larger is better; for l2 the squared distance is ``‖query‖² - score``. Empty entries are -inf.
        ids : (nq, k) int64
            Row numbers; of empty entries -1.
        """
        directions, length = self._directions(queries)
        unit = (length / QUERY_LENGTH * self._levels.unit).astype(np.float32)
        bias = -rows["squared_norm"] if self._metric == "l2" else np.zeros(0, np.float32)
        tables = (rows["codes"], rows["scale"], bias, self._bands, self._levels.levels)
        scores = np.full((threads, queries.shape[0], k), -np.inf, np.float32)
        ids = np.full((threads, queries.shape[0], k), EMPTY_ID, np.int64)
        judged = self._codec.d % 8 == 0 and k * _ROWS_A_RESULT <= ntotal
        if judged and queries.shape[0] <= _FEW and available("search_staged"):
            task = self._staged(tables, rows, ntotal, directions, length, unit, scores, ids)
        elif judged and available("search_batch"):
            task = self._batch(tables, directions, length, unit, scores, ids)
        else:
            task = self._all(tables, directions, unit, scores, ids)
        parts = _threads.over_rows(task, ntotal, _GRAIN, threads)
        kernel("topk_finish")(scores[:parts], ids[:parts])
        return scores[0], np.where(ids[0] == EMPTY_ID, -1, ids[0])

    def _all(self, tables: Any, directions: Floats, unit: Floats, scores: Floats, ids: Ids) -> Task:
        integers = self._integers(directions)
        scan = kernel("search_rows")

        def task(part: int, start: int, stop: int) -> None:
            scan(*tables, self._levels.pairs, SPREAD, integers, unit, start, stop, scores[part], ids[part])

        return task

    def _staged(
        self,
        tables: Any,
        rows: Rows,
        ntotal: int,
        directions: Floats,
        length: NDArray[np.float64],
        unit: Floats,
        scores: Floats,
        ids: Ids,
    ) -> Task:
        queries = [staged_query(*query) for query in zip(directions, length.tolist(), unit, strict=True)]
        signs = self._signs.of(rows["codes"], ntotal)
        scan = kernel("search_staged")

        def task(part: int, start: int, stop: int) -> None:
            room = _threads.scratch(stop - start + SPARE_ROWS)
            for q, query in enumerate(queries):
                scan(*tables, SPREAD, signs, query, self._stages, room, start, stop, scores[part, q], ids[part, q])

        return task

    def _batch(
        self, tables: Any, directions: Floats, length: NDArray[np.float64], unit: Floats, scores: Floats, ids: Ids
    ) -> Task:
        batch = batch_tables(self._codec.d, self._codec.nbits, directions, length, unit)
        scan = kernel("search_batch")

        def task(part: int, start: int, stop: int) -> None:
            scan(*tables, SPREAD, batch, start, stop, scores[part], ids[part])

        return task

    def _directions(self, queries: Floats) -> tuple[Floats, NDArray[np.float64]]:
        """Rotated queries of length 1 (or 0), and the factor of all their scores."""
        length = np.sqrt(squared_lengths(queries))
        inverse = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)
        directions = self._codec.rotate((queries * inverse[:, None]).astype(np.float32))
        if self._metric == "cosine":
            length = np.where(length > 0, 1.0, 0.0)
        return directions, length * 2 if self._metric == "l2" else length

    def _integers(self, directions: Floats) -> NDArray[np.int16]:
        """Queries in steps of 1/32767, in padded coordinates."""
        columns = []
        start = 0
        for band in self._codec.bands:
            columns.append(start + np.arange(band.stop - band.start))
            start += -(-(band.stop - band.start) // 8) * 8
        padded = np.zeros((directions.shape[0], start), np.int16)
        padded[:, np.concatenate(columns)] = integer_queries(directions)
        return padded


def squared_lengths(rows: Floats) -> NDArray[np.float64]:
    """Squared Euclidean length of each row, summed in float64."""
    return np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
