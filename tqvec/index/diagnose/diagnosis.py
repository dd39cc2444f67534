"""Diagnosis: the recall of an index before it is deployed, what limits it and what would help.

docs/explanation/diagnose.md has the derivations and what was measured.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tqvec._types import Floats, Ids
from tqvec.codec.bands import MAX_NBITS, mean
from tqvec.codec.calibration import MAX_D
from tqvec.codec.turboquant import TurboQuant
from tqvec.errors import InputError
from tqvec.index.diagnose.causes import Limit, limits
from tqvec.index.diagnose.posterior import Neighbours, asked, stored_rows
from tqvec.index.diagnose.recall import Recall, estimated, measured, shifted, simulated
from tqvec.index.errors.standard_errors import expected_error
from tqvec.index.rows import encode_rows
from tqvec.index.snapshot import Snapshot
from tqvec.index.training import MIN_ROWS, Samples, Training, check_lengths, fit

_QUERIES = 500  # asked at most
_PRODUCTS = 1 << 28  # of queries and vectors: of more vectors fewer are asked
_CHECKED = 65536  # rows of a sample at most that estimates are checked on
_TRAINED = 8192  # rows that training is tried on
_COMPARED = 256  # rows that tell whether a sample is what is stored
_DRAWS = 2  # of true positions for a prediction: only differences count, and those are of the same draws
_KEPT = 0.99  # part of the true results that a shortlist must hold
_OFF = 0.01  # usual error of an estimate, beyond that of the choice of queries,
_ROUGH_OFF = 0.05  # or where it is rough, twice that where queries are known by their codes alone
_HIDDEN = 0.5  # errors hide the neighbours where they are this part of the differences between estimates
_SURE = 0.9  # recall from which they can't be hidden
_ORDER = 0x64696167  # of the generator, beside the codec's seed

Predict = Callable[[float], float]


class Option(NamedTuple):
    """An index of the same vectors.

    Attributes
    ----------
    name : str
    recall : float
        Predicted; of the index as it is, what was found.
    code_size : int
        Bytes a vector.
    """

    name: str
    recall: float
    code_size: int


class Diagnosis(NamedTuple):
    """What a diagnosis found; prints as a table.

    Attributes
    ----------
    recall : float
        Recall k@k.
    interval : (float, float)
        Which should hold the recall for queries like these in 95 of 100 cases.
    k : int
    ntotal : int
        Vectors that it is about.
    queries : int
        That were asked.
    way : str
        How it was found.
    limits : tuple of Limit
        The most costly first.
    options : tuple of Option
        The index as it is, then others by bytes.
    shortlist : int or None
        Results that hold 99 % of the true best `k`, to be ranked anew by exact scores; None: more than were looked at.
    gaps : (queries,) float32
        How far the true k-th row is ahead of the next, in standard errors of a score.
    """

    recall: float
    interval: tuple[float, float]
    k: int
    ntotal: int
    queries: int
    way: str
    limits: tuple[Limit, ...]
    options: tuple[Option, ...]
    shortlist: int | None
    gaps: Floats

    def __str__(self) -> str:
        low, high = self.interval
        lines = [
            f"recall {self.k}@{self.k}: {self.recall:.3f} ({low:.3f} to {high:.3f})",
            self.way,
            "what limits it",
            *(f"  {limit.name}: {limit.text}" for limit in self.limits),
            f"{'what would help':25} recall  bytes",
            *(f"  {option.name:23} {option.recall:6.3f} {option.code_size:6}" for option in self.options),
            f"  {self.rerank}",
        ]
        return "\n".join(lines)

    @property
    def rerank(self) -> str:
        """What ranking results anew by exact scores takes, in words."""
        if self.shortlist is None:
            return f"rerank: {_KEPT:.0%} of the true {self.k} are not among the results that were looked at"
        return f"rerank: the best {self.shortlist:,} hold {_KEPT:.0%} of the true {self.k}"


class Subject(NamedTuple):
    """What is diagnosed.

    Attributes
    ----------
    stored : Snapshot
    make : callable
        Makes an empty index of a codec, all else equal.
    fill : callable
        Makes one that holds some vectors, as a `Snapshot`.
    threads : int
    """

    stored: Snapshot
    make: Callable[[TurboQuant], Any]
    fill: Callable[[TurboQuant, Floats], Snapshot]
    threads: int


def diagnose(subject: Subject, sample: Floats | None, queries: Floats | None, k: int) -> Diagnosis:
    """Recall k@k of an index, what limits it and what would help.

    Parameters
    ----------
    subject : Subject
    sample : (n, d) float32 or None
        Checked.
    queries : (nq, d) float32 or None
        Checked.
    k : int

    Raises
    ------
    InputError
        As `Index.diagnose` says.
    """
    stored = subject.stored
    rng = np.random.default_rng([stored.codec.seed, _ORDER])
    _check(stored, sample, queries)
    if queries is not None:
        queries = queries[_drawn(queries.shape[0], _QUERIES, rng)]
    if sample is not None and stored.ntotal == 0:
        stored, whole = subject.fill(stored.codec, sample), True
    else:
        whole = sample is not None and _holds(stored, sample)
    k = min(k, stored.ntotal - (queries is None))
    if sample is not None and whole:
        found = _measured(stored, sample, queries, k, rng)
        recall, variance, way = found.value, found.variance, f"measured on all {stored.ntotal:,} vectors"
    else:
        found = _estimated(stored, sample, queries, k, rng)
        recall, variance, way = found.value, found.variance, f"estimated from {stored.ntotal:,} codes"
        if sample is not None:
            recall, variance, way = _checked(subject, sample, queries, found, k, rng)
        reason = _rough(stored, found, sample)
        rough = _ROUGH_OFF if found.near.ordered else 2 * _ROUGH_OFF
        variance += (rough if reason else _OFF) ** 2
        way += f", roughly: {reason}" if reason else ""
    training = _training(subject, sample, queries)
    near, seed = found.near._replace(ordered=False), stored.codec.seed
    predict = partial(_predicted, near, k, seed, simulated(near, k, 1.0, seed, _DRAWS).value, recall)
    margin = 1.96 * float(np.sqrt(variance))
    count = found.by_query.size
    return Diagnosis(
        recall,
        (max(0.0, recall - margin), min(1.0, recall + margin)),
        k,
        stored.ntotal,
        count,
        f"{way}; {count:,} " + ("of them as queries" if queries is None else "queries"),
        limits(stored, found, sample, training, predict, k),
        _options(stored, recall, training, predict),
        found.shortlist(_KEPT),
        found.gaps.astype(np.float32),
    )


def _check(stored: Snapshot, sample: Floats | None, queries: Floats | None) -> None:
    for name, rows in (("sample", sample), ("queries", queries)):
        if rows is not None and rows.shape[0] == 0:
            raise InputError(f"{name} must have at least one row, or be None")
    if sample is not None:
        check_lengths(stored.metric, Samples(sample, queries))
    elif stored.ntotal == 0:
        raise InputError("sample must be given, vectors like those to be stored: the index is empty")
    if queries is None and 1 in (stored.ntotal, None if sample is None else sample.shape[0]):
        raise InputError("queries must be given: one vector alone has no neighbours")


def _holds(stored: Snapshot, sample: Floats) -> bool:
    """Whether a sample is what is stored, as far as the codes of some rows tell."""
    if sample.shape[0] != stored.ntotal:
        return False
    rows = np.linspace(0, stored.ntotal - 1, min(_COMPARED, stored.ntotal)).astype(np.int64)
    codes = encode_rows(stored.codec, stored.metric, sample[rows])["codes"]
    return np.array_equal(codes, stored.column(stored.live_rows()[rows], "codes"))


def _drawn(n: int, count: int, rng: np.random.Generator) -> Ids:
    """Some of `n` rows, in order."""
    return np.sort(rng.permutation(n)[:count])


def _measured(stored: Snapshot, vectors: Floats, queries: Floats | None, k: int, rng: np.random.Generator) -> Recall:
    """On an index of these vectors; without queries some of them ask for the others."""
    count = min(_QUERIES, max(100, _PRODUCTS // vectors.shape[0]))
    if queries is not None:
        return measured(stored, vectors, queries[:count], None, k)
    own = _drawn(vectors.shape[0], count, rng)
    return measured(stored, vectors, vectors[own], own, k)


def _estimated(
    stored: Snapshot, sample: Floats | None, queries: Floats | None, k: int, rng: np.random.Generator
) -> Recall:
    """From codes, for the queries given, rows of a sample, or rows that are stored."""
    if queries is None and sample is None:
        rows = stored.live_rows()[_drawn(stored.ntotal, _QUERIES, rng)]
        return estimated(stored, lambda count, m: stored_rows(stored, rows[:count], m), rows.size, k)
    leave_out = queries is None
    if queries is None:
        assert sample is not None
        queries = sample[_drawn(sample.shape[0], _QUERIES, rng)]
    return estimated(stored, lambda count, m: asked(stored, queries[:count], m, leave_out), queries.shape[0], k)


def _rough(stored: Snapshot, found: Recall, sample: Floats | None) -> str:
    """Why an estimate may be far off; empty if it isn't."""
    if found.near.curvature > _HIDDEN and found.value < _SURE:
        return "errors hide the neighbours"
    if stored.codec.calibration is not None and sample is None:
        return "errors of a trained index are known on average"
    return ""


def _checked(
    subject: Subject, sample: Floats, queries: Floats | None, found: Recall, k: int, rng: np.random.Generator
) -> tuple[float, float, str]:
    """An estimate corrected by how far one for an index of the sample is off; its variance, and how it was found."""
    part = sample[_drawn(sample.shape[0], _CHECKED, rng)]
    trial = subject.fill(subject.stored.codec, part)
    k = min(k, trial.ntotal - (queries is None))
    own = _drawn(part.shape[0], _QUERIES, rng) if queries is None else None
    rows = queries if own is None else part[own]
    assert rows is not None
    truth = measured(trial, part, rows, own, k)
    guess = estimated(trial, lambda count, m: asked(trial, rows[:count], m, own is not None), rows.shape[0], k)
    count = guess.by_query.size
    off = truth.by_query[:count] - guess.by_query
    recall = float(np.clip(found.value + off.mean(), 0, 1))
    way = f"estimated from {subject.stored.ntotal:,} codes and corrected by {recall - found.value:+.3f}, "
    return recall, found.variance + float(off.var() / count), way + f"measured on {part.shape[0]:,} rows of the sample"


def _training(subject: Subject, sample: Floats | None, queries: Floats | None) -> Training | None:
    """What training on the sample would do, if it can be tried."""
    codec = subject.stored.codec
    if sample is None or codec.calibration is not None or codec.d > MAX_D or sample.shape[0] < MIN_ROWS:
        return None
    part = sample[_drawn(sample.shape[0], _TRAINED, np.random.default_rng([codec.seed, _ORDER]))]
    return fit(subject.make, codec, subject.stored.metric, Samples(part, queries), subject.threads)[1]


def _predicted(near: Neighbours, k: int, seed: int, base: float, recall: float, factor: float) -> float:
    """Recall if errors were `factor` times what they are, given what is simulated and true for a factor of 1."""
    return shifted(simulated(near, k, factor, seed, _DRAWS).value, base, recall)


def _options(stored: Snapshot, recall: float, training: Training | None, predict: Predict) -> tuple[Option, ...]:
    """The index as it is, with a bit more or fewer, with the other codebook, and trained."""
    codec, more = stored.plain(), stored.metric.extra_bytes
    trained = "" if stored.codec.calibration is None else ", trained"
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
                others.append(Option(_named(nbits, codebook) + trained, predict(factor), other.code_size + more))
    name = _named(codec.nbits, codec.codebook)
    if training is not None and training.used:
        others.append(Option(f"{name}, trained", predict(float(np.sqrt(training.error))), codec.code_size + more))
    now = Option(f"{name}{trained} (now)", recall, stored.codec.code_size + more)
    return (now, *sorted(others, key=lambda option: (option.code_size, option.recall)))


def _named(nbits: object, codebook: str) -> str:
    width = f"{nbits:g} bit{'' if nbits == 1 else 's'}" if isinstance(nbits, (int, float)) else "bands"
    return width + (", trellis" if codebook == "trellis" else "")
