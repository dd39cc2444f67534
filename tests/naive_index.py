"""A naive index to compare `tqvec.Index` with: a dictionary from ids to float vectors, scored by NumPy.

What a vector stands for after coding comes from `tqvec.reference`; for trained codecs, which that lacks, from
`TurboQuant.decode_unbiased`. Scores are compared within the error of the integer scan, and so are results: an id that
should be there may only be missing if its score is that close to the last one.
"""

from itertools import pairwise

import numpy as np

from tqvec.index.index import Index
from tqvec.kernels.threads import helpers
from tqvec.reference import codebook, quantize, rotation, trellis

EPSILON = 3e-4  # of ‖query‖‖vector‖: the bound of kernels/scan/README.md, 3·10⁻⁵ √d at d = 100, and scales of 16 bits


class NaiveIndex:
    """Vectors by id, in the order in which they were added.

    Attributes
    ----------
    vectors : dict of int to (d,) float64
        Their products with queries are what the index estimates.
    sizes : dict of int to float
        Their lengths before coding, squared.
    next_id : int
        Of the next vector that comes without one.
    """

    def __init__(self, index):
        self.codec, self.metric = index.codec, index.metric
        self.vectors, self.sizes, self.next_id = {}, {}, 0

    def copy(self):
        other = object.__new__(NaiveIndex)
        other.__dict__ = self.__dict__ | {"vectors": dict(self.vectors), "sizes": dict(self.sizes)}
        return other

    @property
    def ids(self):
        return list(self.vectors)

    def add(self, x, ids=None):
        """Add vectors; those with the same ids give way."""
        x = np.atleast_2d(np.asarray(x, np.float32))
        ids = range(self.next_id, self.next_id + len(x)) if ids is None else [int(i) for i in ids]
        self.remove(ids)
        sizes = np.square(x.astype(np.float64) - self.codec.centre).sum(axis=1)
        self.vectors |= zip(ids, self.decoded(x), strict=True)
        self.sizes |= zip(ids, sizes, strict=True)
        self.next_id = max([self.next_id, *(i + 1 for i in ids)])

    def remove(self, ids):
        """Remove vectors, and return how many there were."""
        present = [i for i in dict.fromkeys(int(i) for i in ids) if i in self.vectors]
        for i in present:
            del self.vectors[i], self.sizes[i]
        return len(present)

    def decoded(self, x):
        """Vectors after coding and decoding without bias, (n, d) float64."""
        codec = self.codec
        if self.metric == "cosine":
            x = quantize.directions(x)
        if codec.calibration is not None:
            return codec.decode_unbiased(codec.encode(x)).astype(np.float64)
        bands = [tuple(band) for band in codec.bands]
        if codec.codebook == "trellis":
            coded = quantize.encode_trellis(x, bands, codec.seed)
            levels = [trellis.levels(coded.codes[:, a:b], trellis.frozen(codec.d, nbits)) for a, b, nbits in bands]
        else:
            coded = quantize.encode_bands(x, bands, codec.seed)
            levels = [codebook.frozen(codec.d, nbits)[coded.codes[:, a:b]] for a, b, nbits in bands]
        vectors = rotation.hadamard_inverse(np.concatenate(levels, axis=1), codec.seed)
        return vectors * quantize.scale_unbiased(coded)[:, None]

    def scores(self, queries, ids):
        """Scores (nq, n), larger is better, so less the squared distance; and what they may be off by."""
        centre = self.codec.centre.astype(np.float64)
        queries = np.atleast_2d(np.asarray(queries, np.float64))
        vectors = np.reshape([self.vectors[i] for i in ids], (len(ids), self.codec.d))
        length = np.linalg.norm(queries, axis=1)[:, None]
        if self.metric == "cosine":
            queries = queries / np.where(length > 0, length, 1)
            length = np.ones_like(length)
        reach = np.linalg.norm(vectors - centre, axis=1)
        if self.metric != "l2":
            exact = queries @ vectors.T
            return exact, EPSILON * length * reach + 1e-5 * np.abs(exact)
        queries, vectors = queries - centre, vectors - centre
        sizes = np.square(queries).sum(axis=1)[:, None] + np.array([self.sizes[i] for i in ids])
        length = np.linalg.norm(queries, axis=1)[:, None]
        return 2 * queries @ vectors.T - sizes, 2 * EPSILON * length * reach + 1e-5 * sizes

    def check(self, queries, k, results, keep=None):
        """Assert that a search with `k` found what it should, among the ids of `keep`."""
        scores, ids = results
        assert scores.shape == ids.shape == (np.atleast_2d(queries).shape[0], k)
        assert (scores.dtype, ids.dtype) == (np.float32, np.int64)
        kept = [i for i in self.vectors if keep is None or i in keep]
        n = min(k, len(kept))
        assert np.all(ids[:, n:] == -1)
        assert np.all(scores[:, n:] == (np.inf if self.metric == "l2" else -np.inf))
        exact, error = self.scores(queries, kept)
        for q in range(len(exact) if n else 0):
            self._agree(kept, exact[q], error[q], scores[q, :n], ids[q, :n], limit=scores[q, n - 1])

    def check_range(self, queries, radius, results, keep=None):
        """Assert that a range search found what it should, among the ids of `keep`."""
        lims, scores, ids = results
        radius = np.float64(radius)
        assert (lims.dtype, scores.dtype, ids.dtype) == (np.int64, np.float32, np.int64)
        assert lims.shape == (np.atleast_2d(queries).shape[0] + 1,)
        assert lims[0] == 0
        assert lims[-1] == scores.size == ids.size
        assert np.all(scores < radius if self.metric == "l2" else scores > radius)
        kept = [i for i in self.vectors if keep is None or i in keep]
        exact, error = self.scores(queries, kept)
        for q, (start, stop) in enumerate(pairwise(lims)):
            self._agree(kept, exact[q], error[q], scores[start:stop], ids[start:stop], limit=radius)

    def _agree(self, kept, exact, error, scores, ids, limit):
        """Assert that one query's results are right, in order, and all of `kept` that are better than `limit`."""
        order = {i: at for at, i in enumerate(kept)}
        assert len(set(ids.tolist())) == ids.size, "an id twice"
        at = np.array([order[i] for i in ids.tolist()], np.int64)  # a KeyError: an id that may not be found
        signed, true = scores, exact
        if self.metric == "l2":
            signed, limit, true = -scores, -limit, np.minimum(exact, 0)
        if self.metric == "cosine":
            true = np.clip(exact, -1, 1)
        assert np.all(np.abs(signed - true[at]) <= error[at])
        step = np.diff(signed)
        assert np.all(step <= 0), "not the best first"
        assert np.all((step < 0) | (np.diff(at) > 0) | (np.diff(exact[at]) != 0)), (
            "equal, but not the first added first"
        )
        missing = np.ones(len(kept), bool)
        missing[at] = False
        assert np.all(true[missing] <= limit + error[missing]), "one is missing"


def small_blocks(patch, rows=100):
    """Let blocks be of few rows, so that few vectors make many, and compaction and threads begin early."""
    patch.setattr(Index, "_block_rows", rows)
    patch.setattr(helpers, "_NS_A_THREAD", 100.0)


def contents(index):
    """Ids and stored rows, in order."""
    store = index._core.store
    chunks = list(store.iter_chunks(store.blocks))
    ids = np.concatenate([np.zeros(0, np.int64), *(ids for _, ids in chunks)])
    return ids, {name: np.concatenate([rows[name] for rows, _ in chunks]) for name in (chunks[0][0] if chunks else ())}


def same(one, other):
    """Whether two indexes hold the same rows under the same ids, to the last bit."""
    (ids, rows), (its, its_rows) = contents(one), contents(other)
    return np.array_equal(ids, its) and all(np.array_equal(rows[name], its_rows[name]) for name in rows | its_rows)
