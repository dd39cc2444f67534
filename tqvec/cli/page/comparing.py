"""One query searched exactly and in compressed form: results, error bars, bytes and times."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock
from typing import NamedTuple

import numpy as np

from tqvec._present import Sheet
from tqvec._types import CodebookName, Floats, Ids
from tqvec.codec.bands import Width
from tqvec.eval.recall import exact_search
from tqvec.eval.sample import Sample
from tqvec.exact import normalize
from tqvec.index.index import Index
from tqvec.kvcache.planning import format_bytes

TRAINED_ON = 4000  # vectors, in the table of the demo too: all 10,000 would gain FAISS 0.001 for three times the time
INTERVAL = 1.96  # standard errors: 95 % of a normal distribution
_REPEATS = 11  # searches that are timed


class Setting(NamedTuple):
    """How the vectors are compressed.

    Attributes
    ----------
    nbits : int or float
        Bits per coordinate.
    codebook : {"scalar", "trellis"}
    trained : bool
        Whether the codec is fitted to the vectors.
    """

    nbits: Width
    codebook: CodebookName
    trained: bool


class Hit(NamedTuple):
    """A result.

    Attributes
    ----------
    text : str
    exact : float
        Cosine, from the vectors themselves.
    score, error : float or None
        Cosine as the codes estimate it, and its standard error; None for results of the exact search.
    common : bool
        Whether the other search has it too.
    """

    text: str
    exact: float
    score: float | None
    error: float | None
    common: bool

    @property
    def within(self) -> bool:
        """Whether the exact cosine lies within the error bar."""
        return self.score is not None and self.error is not None and abs(self.exact - self.score) <= self.half_width

    @property
    def half_width(self) -> float:
        """Half of the length of the error bar; 0 without one."""
        return INTERVAL * (self.error or 0.0)


class Comparison(NamedTuple):
    """The results of one query, exact and compressed.

    Attributes
    ----------
    setting : Setting
    n, d : int
        Number of vectors, and their dimension.
    code_size : int
        Bytes per vector, scale included.
    accepted : bool or None
        Whether the training was accepted; None: there was none.
    build_s : float
        Seconds of building the index, training included.
    exact_ms, compressed_ms : float
        Milliseconds per query, searched alone.
    exact, compressed : tuple of Hit
        The best `k` of each search.
    """

    setting: Setting
    n: int
    d: int
    code_size: int
    accepted: bool | None
    build_s: float
    exact_ms: float
    compressed_ms: float
    exact: tuple[Hit, ...]
    compressed: tuple[Hit, ...]

    @property
    def k(self) -> int:
        """Results per search."""
        return len(self.compressed)

    @property
    def recall(self) -> float:
        """Share of the true best `k` among the compressed results."""
        return sum(hit.common for hit in self.compressed) / self.k

    @property
    def name(self) -> str:
        """The setting in words."""
        nbits, codebook, trained = self.setting
        return f"{nbits} bit{'s' * (nbits != 1)}, {codebook}{', trained' * trained}"

    def summary(self) -> Sheet:
        """Return bytes, times and recall as a table."""
        full, within = 4 * self.d, sum(hit.within for hit in self.compressed)
        notes = [
            f"ms per query: measured now, one query alone, the fastest of {_REPEATS} times.",
            f"Error bars: the estimate ± {INTERVAL} standard errors, which hold 95 % of exact cosines on average.",
        ]
        if self.accepted is not None:
            notes.append(
                f"Trained on {min(TRAINED_ON, self.n):,} of the searched vectors themselves, which favours it."
            )
        if self.accepted is False:
            notes.append("Training would not have helped, so the index is as without it.")
        return Sheet(
            columns=("", "exact, float32", f"compressed, {self.name}"),
            rows=[
                ("bytes per vector", full, self.code_size),
                ("size", "1", f"1/{full / self.code_size:.1f}"),
                (f"bytes of {self.n:,} vectors", format_bytes(self.n * full), format_bytes(self.n * self.code_size)),
                ("ms per query", f"{self.exact_ms:.2f}", f"{self.compressed_ms:.2f}"),
                ("s to build", "", f"{self.build_s:.2f}"),
                (f"recall {self.k}@{self.k} of this query", "1.00", f"{self.recall:.2f}"),
                ("exact cosines within the error bars", "", f"{within} of {self.k}"),
            ],
            notes=tuple(notes),
        )

    def table(self) -> Sheet:
        """Return the results side by side as a table."""
        pairs = zip(self.exact, self.compressed, strict=True)
        return Sheet(
            columns=("", "exact search", "cosine", "compressed search", "estimated cosine", "cosine", "in both"),
            rows=[
                (
                    rank,
                    exact.text,
                    f"{exact.exact:.3f}",
                    hit.text,
                    f"{hit.score:.3f}\u00a0±\u00a0{hit.half_width:.3f}",
                    f"{hit.exact:.3f}",
                    "yes" if hit.common else "no",
                )
                for rank, (exact, hit) in enumerate(pairs, 1)
            ],
        )


class Built(NamedTuple):
    """Compressed vectors and how they were built.

    Attributes
    ----------
    compressed : Index
    accepted : bool or None
        Whether the training was accepted; None: there was none.
    build_s : float
        Seconds, training included.
    """

    compressed: Index
    accepted: bool | None
    build_s: float


class Comparer:
    """The vectors of a sample, and the indexes of them that were asked for, which are kept.

    Parameters
    ----------
    sample : Sample
    threads : int
    """

    def __init__(self, sample: Sample, threads: int):
        self._texts = sample.base_texts
        self._x = normalize(np.asarray(sample.base, np.float32))
        self.n, self.d = self._x.shape
        self._threads = threads
        self._built: dict[Setting, Built] = {}
        self._lock = Lock()

    def compare(self, query: Floats, k: int, setting: Setting) -> Comparison:
        """Search the `k` nearest vectors of a unit vector, exactly and in an index of this setting.

        Parameters
        ----------
        query : (d,) float32
        k : int
        setting : Setting

        Raises
        ------
        InputError
            There is no index of this setting.
        """
        k = min(k, self.n)
        row = query[None]
        index, accepted, build_s = self._find(setting)
        true, best = exact_search(self._x, row, k)
        scores, ids, error = index.search(row, k=k, threads=self._threads, return_error=True)
        exact = self._x[ids[0]] @ query
        return Comparison(
            setting=setting,
            n=self.n,
            d=self.d,
            code_size=index.code_size,
            accepted=accepted,
            build_s=build_s,
            exact_ms=_measure(lambda: exact_search(self._x, row, k)),
            compressed_ms=_measure(lambda: index.search(row, k=k, threads=self._threads)),
            exact=self._hits(best[0], true[0], ids[0]),
            compressed=self._hits(ids[0], exact, best[0], scores[0], error[0]),
        )

    def _hits(
        self, ids: Ids, exact: Floats, others: Ids, scores: Floats | None = None, error: Floats | None = None
    ) -> tuple[Hit, ...]:
        return tuple(
            Hit(
                text=self._texts[number],
                exact=float(exact[i]),
                score=None if scores is None else float(scores[i]),
                error=None if error is None else float(error[i]),
                common=bool(number in others),
            )
            for i, number in enumerate(ids)
        )

    def _find(self, setting: Setting) -> Built:
        """Return the index of a setting, which is built once."""
        with self._lock:
            if setting not in self._built:
                self._built[setting] = self._build(setting)
            return self._built[setting]

    def _build(self, setting: Setting) -> Built:
        index = Index(self.d, nbits=setting.nbits, metric="cosine", codebook=setting.codebook)
        accepted = None
        start = time.perf_counter()
        if setting.trained:
            rows = np.random.default_rng(0).permutation(self.n)[:TRAINED_ON]
            accepted = index.train(self._x[rows], threads=self._threads).accepted
        index.add(self._x, threads=self._threads)
        return Built(index, accepted, time.perf_counter() - start)


def _measure(search: Callable[[], object]) -> float:
    """Return the least milliseconds of a search: other programs only add to them."""
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        search()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)
