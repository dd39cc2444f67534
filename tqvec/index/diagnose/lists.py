"""What the lists of a partitioned index cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tqvec._random import generator
from tqvec._types import Floats
from tqvec.index.diagnose.causes import Cause
from tqvec.index.snapshot import Snapshot

_QUERIES = 300  # stored rows that ask for the others


def cost_of_lists(snapshot: Snapshot, queries: Floats | None, k: int) -> Cause | None:
    """Compare a search of lists with the exhaustive one; None if the index has no lists.

    Parameters
    ----------
    snapshot : Snapshot
        With the routing of a search.
    queries : (nq, d) float32 or None
        Default: stored rows; each of them finds itself in both searches, which doesn't count.
    k : int
        At most `ntotal`, or less than that without queries.
    """
    routing = snapshot.routing
    if routing is None:
        return None
    own = np.zeros((0, 1), np.int64)
    if queries is None:
        live = snapshot.live_rows()
        rng = generator(snapshot.codec.seed, "diagnosis: lists")
        own = live[np.sort(rng.permutation(live.size)[:_QUERIES])][:, None]
        queries = snapshot.decode(own[:, 0])
    columns = k + (own.size > 0)
    everything = replace(snapshot, routing=None).best(queries, columns)[1]
    found = snapshot.best(queries, columns)[1]
    if own.size:
        everything = np.where(everything == own, -1, everything)
    counts = [np.isin(best[best >= 0], some).mean() for best, some in zip(everything, found, strict=True)]
    kept, probes = float(np.mean(counts)), routing.probes(queries, k, snapshot.threads)
    share = 100 * probes.lists.size / (len(queries) * routing.partition.nlist)
    text = f"A search with recall={routing.recall} finds {kept:.3f} of these results"
    return Cause("lists", 1 - kept, f"{text}, and probes {share:.1f} % of the lists.")
