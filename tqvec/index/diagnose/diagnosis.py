"""Diagnosis: the recall of an index before it is deployed, the causes of lost recall, and alternatives.

See the "Diagnose" page for derivations and measurements.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tqvec._present import Presented, Sheet, pyplot
from tqvec._random import generator
from tqvec._types import Floats, Ids
from tqvec._vectors import RowNames, Vectors
from tqvec.codec.bands import MAX_NBITS, mean
from tqvec.codec.calibration import MAX_D
from tqvec.codec.turboquant import TurboQuant
from tqvec.errors import InputError
from tqvec.index.diagnose.candidates import Candidates, candidates_of_queries, candidates_of_rows
from tqvec.index.diagnose.causes import Cause, Predict, find_causes
from tqvec.index.diagnose.lists import cost_of_lists
from tqvec.index.diagnose.posterior import Posterior
from tqvec.index.diagnose.recall import Recall, estimate_recall, measure_recall, shift_logit, simulate_recall
from tqvec.index.errors.standard_errors import expected_error
from tqvec.index.rows import encode_rows
from tqvec.index.snapshot import Snapshot, snapshot_of_rows
from tqvec.index.training import MIN_ROWS, Samples, check_lengths, fit
from tqvec.index.training_result import Training

_QUERIES = 500  # at most
_PRODUCTS = 1 << 28  # of queries and vectors: the more vectors, the fewer queries
_CHECKED = 65536  # rows of a sample at most that estimates are checked on
_TRAINED = 8192  # rows that training is tried on
_COMPARED = 256  # rows that tell whether a sample is the stored vectors
_DRAWS = 2  # of true positions for a prediction: only differences count, and those are of the same draws
_KEPT = 0.99  # share of the true results that a shortlist must hold
_OFF = 0.01  # usual error of an estimate, beyond that of the choice of queries,
_ROUGH_OFF = 0.05  # or where it is rough, twice that where queries are known by their codes alone
_HIDDEN = 0.5  # errors hide the neighbours where they are this share of the differences between estimates
_SURE = 0.9  # recall from which they can't be hidden


class Alternative(NamedTuple):
    """An index of the same vectors with another codec.

    Attributes
    ----------
    name : str
    recall : float
        Predicted recall k@k; of the present index, its diagnosed recall.
    code_size : int
        Bytes per vector.
    """

    name: str
    recall: float
    code_size: int


class _DiagnosisFields(NamedTuple):
    """The fields of a `Diagnosis`."""

    recall: float
    interval: tuple[float, float]
    k: int
    ntotal: int
    queries: int
    method: str
    causes: tuple[Cause, ...]
    alternatives: tuple[Alternative, ...]
    shortlist: int | None
    gaps: Floats


class Diagnosis(Presented, _DiagnosisFields):
    """The result of `Index.diagnose`; prints as a table; see `to_dict`, `to_pandas` and `plot`.

    Attributes
    ----------
    recall : float
        Recall k@k.
    interval : (float, float)
        Bounds that hold the recall for queries like these in about 95 of 100 cases.
    k : int
    ntotal : int
        Number of diagnosed vectors.
    queries : int
        Number of queries.
    method : str
        How recall was measured or estimated, in words.
    causes : tuple of Cause
        Causes of lost recall, the most costly first, and what lists cost a search that does not scan all of them.
    alternatives : tuple of Alternative
        The present index, then others by bytes per vector.
    shortlist : int or None
        Number of results that hold 99 % of the true best `k`, to be reranked by exact scores. None: more than were
        fetched.
    gaps : (queries,) float32
        How far the true k-th row is ahead of the next, in standard errors of a score.
    """

    __slots__ = ()
    _derived = ("rerank",)

    def __str__(self) -> str:
        lines = [
            self.headline,
            self.method,
            "causes of lost recall",
            *(f"  {cause.name}: {cause.text}" for cause in self.causes),
            f"{'alternatives':25} recall  bytes",
            *(f"  {other.name:23} {other.recall:6.3f} {other.code_size:6}" for other in self.alternatives),
            f"  {self.rerank}",
        ]
        return "\n".join(lines)

    @property
    def rerank(self) -> str:
        """The length of shortlists to rerank by exact scores, in words."""
        if self.shortlist is None:
            return f"rerank: the results that were fetched do not hold {100 * _KEPT:.0f} % of the true {self.k}"
        return f"rerank: the best {self.shortlist:,} hold {100 * _KEPT:.0f} % of the true {self.k}"

    @property
    def headline(self) -> str:
        """The recall with its interval, in words."""
        low, high = self.interval
        return f"recall {self.k}@{self.k}: {self.recall:.3f} ({low:.3f} to {high:.3f})"

    def _sheet(self) -> Sheet:
        causes = (f"{cause.name}: {cause.text}" for cause in self.causes)
        return Sheet(
            columns=("index", "bytes per vector", "recall"),
            rows=[(other.name, other.code_size, other.recall) for other in self.alternatives],
            title=self.headline,
            notes=(self.method, *causes, self.rerank),
        )

    def plot(self) -> Any:
        """Draw recall against bytes per vector, and the share of queries by their gaps; return both axes.

        Raises
        ------
        UnsupportedError
            matplotlib is not installed.
        """
        _, axes = pyplot("plot").subplots(1, 2, figsize=(11, 4.5), layout="constrained")
        left, right = axes
        low, high = self.interval
        now, *others = self.alternatives
        error = [[max(0.0, self.recall - low)], [max(0.0, high - self.recall)]]
        left.errorbar([now.code_size], [now.recall], error, fmt="o", capsize=4)
        left.plot([other.code_size for other in others], [other.recall for other in others], "s")
        for each in self.alternatives:
            left.annotate(each.name, (each.code_size, each.recall), (6, -10), textcoords="offset points", fontsize=8)
        left.set(xlabel="bytes per vector", ylabel=f"recall {self.k}@{self.k}", title=f"{self.ntotal:,} vectors")
        left.margins(0.25, 0.12)
        gaps = np.sort(self.gaps[np.isfinite(self.gaps)])
        right.plot(gaps, np.arange(1, gaps.size + 1) / self.gaps.size)
        right.axvline(1, linestyle=":", color="gray")
        widest = max(2.0, float(np.quantile(gaps, 0.98))) if gaps.size else 2.0
        right.set(xlabel="gap behind the true k-th row, standard errors", ylabel="share of queries with less")
        right.set(xlim=(0, widest), ylim=(0, 1), title="near-ties: left of the line")
        for each in axes:
            each.grid(alpha=0.3)
        return axes


class _Estimate(NamedTuple):
    """A recall, its variance, and the method in words."""

    recall: float
    variance: float
    method: str


def diagnose(snapshot: Snapshot, sample: Vectors | None, queries: Floats | None, k: int) -> Diagnosis:
    """Diagnose recall k@k of an index, the causes of lost recall, and alternatives.

    Parameters
    ----------
    snapshot : Snapshot
        All rows of the index. Recall is that of an exhaustive search; its routing is compared with that.
    sample : Vectors or None
    queries : (nq, d) float32 or None
        Checked.
    k : int

    Raises
    ------
    InputError
        As `Index.diagnose` says.
    """
    _check(snapshot, sample, queries)
    routed, snapshot = snapshot, replace(snapshot, routing=None)
    rng = generator(snapshot.codec.seed, "diagnosis: rows")
    if queries is not None:
        queries = queries[_draw(queries.shape[0], _QUERIES, rng)]
    whole = sample is not None and _holds(snapshot, sample)
    if sample is not None and snapshot.ntotal == 0:
        snapshot, whole = _encode(snapshot, sample), True
    k = min(k, snapshot.ntotal - (queries is None))
    if sample is not None and whole:
        asking, own = _choose_queries(sample, queries, rng)
        recall = measure_recall(snapshot, sample, asking, own, k)
        estimate = _Estimate(recall.value, recall.variance, f"measured on all {snapshot.ntotal:,} vectors")
    else:
        recall = _estimate_from_codes(snapshot, sample, queries, k, rng)
        estimate = _Estimate(recall.value, recall.variance, f"estimated from {snapshot.ntotal:,} codes")
        if sample is not None:
            estimate = _correct(snapshot, estimate, sample, queries, k, rng)
        estimate = _widen(estimate, snapshot, recall, sample)
    training = _try_training(snapshot, sample, queries)
    predict = _predictor(recall.posterior, k, snapshot.codec.seed, estimate.recall)
    lists = cost_of_lists(routed, queries, k) if routed.ntotal else None
    margin, nq = 1.96 * float(np.sqrt(estimate.variance)), recall.by_query.size
    return Diagnosis(
        recall=estimate.recall,
        interval=(max(0.0, estimate.recall - margin), min(1.0, estimate.recall + margin)),
        k=k,
        ntotal=snapshot.ntotal,
        queries=nq,
        method=f"{estimate.method}; {nq:,} " + ("of them as queries" if queries is None else "queries"),
        causes=(*find_causes(snapshot, recall, sample, training, predict, k), *([] if lists is None else [lists])),
        alternatives=_alternatives(snapshot, estimate.recall, training, predict),
        shortlist=recall.shortlist(_KEPT),
        gaps=recall.gaps.astype(np.float32),
    )


def _check(snapshot: Snapshot, sample: Vectors | None, queries: Floats | None) -> None:
    for name, rows in (("sample", sample), ("queries", queries)):
        if rows is not None and len(rows) == 0:
            raise InputError(f"{name} must have at least one row, or be None")
    if sample is not None:
        for part in sample.parts():
            check_lengths(snapshot.metric, part.checked(), part.names)
        if queries is not None:
            check_lengths(snapshot.metric, queries, RowNames("queries"))
    elif snapshot.ntotal == 0:
        raise InputError("sample must be given, vectors like those to be stored: the index is empty")
    if queries is None and 1 in (snapshot.ntotal, None if sample is None else len(sample)):
        raise InputError("queries must be given: one vector alone has no neighbours")


def _holds(snapshot: Snapshot, sample: Vectors) -> bool:
    """Return whether a sample is the stored vectors, as far as the codes of some rows tell."""
    if len(sample) != snapshot.ntotal:
        return False
    rows = np.linspace(0, snapshot.ntotal - 1, min(_COMPARED, snapshot.ntotal)).astype(np.int64)
    codes = encode_rows(snapshot.codec, snapshot.metric, sample.some(rows))["codes"]
    return np.array_equal(codes, snapshot.column(snapshot.live_rows()[rows], "codes"))


def _encode(snapshot: Snapshot, vectors: Vectors) -> Snapshot:
    """Return a snapshot of other vectors, compressed by the same codec."""
    rows = encode_rows(snapshot.codec, snapshot.metric, vectors, snapshot.threads)
    return snapshot_of_rows(snapshot.codec, snapshot.metric, rows, snapshot.threads)


def _draw(n: int, count: int, rng: np.random.Generator) -> Ids:
    """Draw at most `count` of `n` rows, in order."""
    return np.sort(rng.permutation(n)[:count])


def _choose_queries(vectors: Vectors, queries: Floats | None, rng: np.random.Generator) -> tuple[Floats, Ids | None]:
    """Return queries for exact search of these vectors; without any, some vectors, with their numbers."""
    count = min(_QUERIES, max(100, _PRODUCTS // len(vectors)))
    if queries is not None:
        return queries[:count], None
    own = _draw(len(vectors), count, rng)
    return vectors.take(own), own


def _estimate_from_codes(
    snapshot: Snapshot, sample: Vectors | None, queries: Floats | None, k: int, rng: np.random.Generator
) -> Recall:
    """Estimate recall from codes, for the queries, rows of the sample, or stored rows."""
    if queries is not None:
        return _estimate_for(snapshot, queries, False, k)
    if sample is not None:
        return _estimate_for(snapshot, sample.take(_draw(len(sample), _QUERIES, rng)), True, k)
    rows = snapshot.live_rows()[_draw(snapshot.ntotal, _QUERIES, rng)]
    return estimate_recall(snapshot, lambda nq, m: candidates_of_rows(snapshot, rows[:nq], m), rows.size, k)


def _estimate_for(snapshot: Snapshot, queries: Floats, leave_out: bool, k: int) -> Recall:
    """Estimate recall for queries; with `leave_out` these are vectors that may be stored, and don't find themselves."""

    def fetch(nq: int, m: int) -> Candidates:
        return candidates_of_queries(snapshot, queries[:nq], m, leave_out)

    return estimate_recall(snapshot, fetch, queries.shape[0], k)


def _correct(
    snapshot: Snapshot, estimate: _Estimate, sample: Vectors, queries: Floats | None, k: int, rng: np.random.Generator
) -> _Estimate:
    """Correct an estimate by the error of an estimate for an index of the sample, whose recall is measured too."""
    vectors = sample.some(_draw(len(sample), _CHECKED, rng))
    trial = _encode(snapshot, vectors)
    k = min(k, trial.ntotal - (queries is None))
    asking, own = _choose_queries(vectors, queries, rng)
    truth = measure_recall(trial, vectors, asking, own, k)
    guess = _estimate_for(trial, asking, queries is None, k)
    off = truth.by_query[: guess.by_query.size] - guess.by_query
    recall = float(np.clip(estimate.recall + off.mean(), 0, 1))
    return _Estimate(
        recall,
        estimate.variance + float(off.var() / off.size),
        f"{estimate.method} and corrected by {recall - estimate.recall:+.3f}, "
        f"measured on {len(vectors):,} rows of the sample",
    )


def _widen(estimate: _Estimate, snapshot: Snapshot, recall: Recall, sample: Vectors | None) -> _Estimate:
    """Add the usual error of an estimate to its variance, or a larger one where it is rough, and say why."""
    value, variance, method = estimate
    if recall.posterior.curvature > _HIDDEN and recall.value < _SURE:
        reason = "errors hide the neighbours"
    elif snapshot.codec.calibration is not None and sample is None:
        reason = "errors of a trained index are known on average"
    else:
        return _Estimate(value, variance + _OFF**2, method)
    off = _ROUGH_OFF if recall.posterior.ordered else 2 * _ROUGH_OFF
    return _Estimate(value, variance + off**2, f"{method}, roughly: {reason}")


def _try_training(snapshot: Snapshot, sample: Vectors | None, queries: Floats | None) -> Training | None:
    """Train on the sample, if that is possible."""
    codec = snapshot.codec
    if sample is None or codec.calibration is not None or codec.d > MAX_D or len(sample) < MIN_ROWS:
        return None
    rows = sample.some(_draw(len(sample), _TRAINED, generator(codec.seed, "diagnosis: rows")))
    return fit(codec, snapshot.metric, Samples(rows, queries), snapshot.threads)[1]


def _predictor(posterior: Posterior, k: int, seed: int, recall: float) -> Predict:
    """Return a function that predicts recall if errors were multiplied by a factor; `recall` is that of factor 1."""
    unordered = posterior._replace(ordered=False)

    def simulate(factor: float) -> float:
        return simulate_recall(unordered, k, factor, seed, _DRAWS).value

    base = simulate(1.0)
    return lambda factor: shift_logit(simulate(factor), base, recall)


def _alternatives(
    snapshot: Snapshot, recall: float, training: Training | None, predict: Predict
) -> tuple[Alternative, ...]:
    """Return the present index, and others with one bit more or fewer, with the other codebook, and trained."""
    codec, more = snapshot.plain(), snapshot.metric.extra_bytes
    trained = "" if snapshot.codec.calibration is None else ", trained"
    bits = mean(codec.d, codec.bands, [band.nbits for band in codec.bands])
    others = []
    for nbits in sorted({int(np.ceil(bits)) - 1, round(bits), int(bits) + 1} & set(range(1, MAX_NBITS + 1))):
        for codebook in ("scalar", "trellis"):
            try:
                other = TurboQuant(codec.d, nbits, codebook=codebook)
            except InputError:
                continue  # the trellis takes neither all widths nor all dimensions
            if (other.bands, codebook) != (codec.bands, codec.codebook):
                factor = expected_error(other).tangent / max(expected_error(codec).tangent, 1e-30)
                others.append(Alternative(_name(nbits, codebook) + trained, predict(factor), other.code_size + more))
    name = _name(codec.nbits, codec.codebook)
    if training is not None and training.accepted:
        better = predict(float(np.sqrt(training.error_ratio)))
        others.append(Alternative(f"{name}, trained", better, codec.code_size + more))
    now = Alternative(f"{name}{trained} (now)", recall, snapshot.codec.code_size + more)
    return (now, *sorted(others, key=lambda other: (other.code_size, other.recall)))


def _name(nbits: object, codebook: str) -> str:
    width = f"{nbits:g} bit{'' if nbits == 1 else 's'}" if isinstance(nbits, (int, float)) else "bands"
    return width + (", trellis" if codebook == "trellis" else "")
