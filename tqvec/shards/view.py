"""ShardView: all rows of a sharded index, as one search sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from tqvec._locks import cached_property
from tqvec._present import brief
from tqvec._types import Floats, Ids
from tqvec.index.probes import Probes
from tqvec.index.rows import Rows
from tqvec.index.snapshot import View
from tqvec.shards.hits import Hits, merge, no_hits


class Ask(Protocol):
    """A function that hands a question to all parts of a search, and returns what each answers."""

    def __call__(self, method: str, *arguments: Any) -> Sequence[Any]:
        """Call a method of all holders."""


@dataclass(frozen=True, kw_only=True)
class ShardView(View):
    """The rows of all shards. What is done with their scores is the code of `View`, so results are those of one index.

    Row numbers are those of the hits that this search saw, in the order in which it saw them: more need not be known of
    a row than came with its hit.

    Attributes
    ----------
    codec, metric, threads, routing
        As of `View`.
    rows : int
        Of all shards that are asked.
    is_filtered : bool
    ask : Ask
    copies : int
        Results of a query that are in memory until they are merged.
    """

    rows: int
    is_filtered: bool
    ask: Ask
    copies: int
    _seen: list[Hits] = field(default_factory=list)

    def __repr__(self) -> str:
        return brief(self, ("codec", "metric", "rows", "is_filtered"))

    @property
    def heaps(self) -> int:
        """Number of times that a scan holds the results of a query, before it merges them."""
        return self.copies

    @property
    def n(self) -> int:
        """Number of all rows, those included that a filter leaves out."""
        return self.rows

    @cached_property
    def ntotal(self) -> int:
        """Number of rows that may be returned."""
        return sum(self.ask("count")) if self.is_filtered else self.rows

    def scan(self, shifted: Floats, k: int) -> tuple[Floats, Ids]:
        """Return scores and numbers of the `k` best rows for each query, as `Scanner.search` does."""
        return self._see(self.ask("scan", shifted, k), len(shifted), k)

    def scan_lists(self, shifted: Floats, k: int, probes: Probes) -> tuple[Floats, Ids]:
        """Return the same of the lists that each query probes, as `Scanner.search_lists` does."""
        return self._see(self.ask("scan_lists", shifted, k, probes), len(shifted), k)

    def scalars(self, rows: Ids) -> Rows:
        """Return the numbers that rows keep beside their codes, for row numbers of any shape; -1 gives any."""
        if not self._seen:
            return {name: np.zeros(rows.shape, np.float32) for name in self.metric.scalars}
        return {
            name: np.concatenate([hits.scalars[name].ravel() for hits in self._seen])[rows]
            for name in self.metric.scalars
        }

    def ids_of(self, rows: Ids) -> Ids:
        """Return the ids of row numbers of any shape; -1 stays."""
        ids: Ids = np.concatenate([*(hits.ids.ravel() for hits in self._seen), np.full(1, -1, np.int64)])[rows]
        return ids

    def _see(self, answers: Sequence[Hits | None], nq: int, k: int) -> tuple[Floats, Ids]:
        """Merge hits, and number them."""
        hits = merge([no_hits(self.metric, nq), *(part for part in answers if part is not None)], k)
        first = sum(seen.rows.size for seen in self._seen)
        self._seen.append(hits)
        numbers = np.arange(first, first + hits.rows.size).reshape(hits.rows.shape)
        numbers[hits.rows < 0] = -1
        missing = (0, 0), (0, k - hits.rows.shape[1])
        return (
            np.pad(hits.scores, missing, constant_values=-np.inf),
            np.pad(numbers, missing, constant_values=-1),
        )
