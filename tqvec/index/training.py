"""Training: fit a calibration to a sample, judge on held-out vectors whether it helps, and recode stored rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tqvec._random import generator
from tqvec._types import Doubles, Floats
from tqvec._vectors import RowNames, Vectors
from tqvec.codec import error_byte
from tqvec.codec.axes import Axes, find_axes
from tqvec.codec.bands import Band, parse
from tqvec.codec.calibration import MAX_D, Budget, Calibration, calibrate
from tqvec.codec.codes import Codes
from tqvec.codec.turboquant import TurboQuant, encode_sums
from tqvec.errors import InputError
from tqvec.exact import squared_norms
from tqvec.index.errors.standard_errors import score_geometry
from tqvec.index.metrics import Metric
from tqvec.index.rows import Rows, encode_rows
from tqvec.index.snapshot import Snapshot, snapshot_of_rows
from tqvec.index.training_result import Loss, Training

MIN_ROWS = 200  # distinct rows of a sample: the quarter held out of fewer proves nothing
_MAX_ROWS = 65536  # rows of a sample that are used
_COMPARED = 4096  # of these are compared with their neighbours at a time
_MAX_VALUE = 1e18  # whose square still fits float32
_MAX_HELD_OUT = 2000  # rows
_MAX_QUERIES = 200
_NEAR = 100  # true neighbours whose errors are compared: far ones don't compete
_MIN_NEAREST = 3  # neighbours of each query, for the errors of near scores,
_MAX_NEAR_QUERIES = 1000  # of so many queries,
_PAIRS = 2000  # and so many pairs in all, if they are near enough:
_FAR = 100  # at most one row in so many is near
_TOP = 10  # k of recall k@k
_MAX_RATIO = 0.9  # of the squared errors of scores, with and without a calibration: more may be chance


class Samples(NamedTuple):
    """Vectors to learn from and, optionally, checked queries to judge by."""

    sample: Vectors
    queries: Floats | None


class Split(NamedTuple):
    """A shuffled sample in two parts, and queries.

    Attributes
    ----------
    rows : (n, d) float32
        All rows, distinct.
    n_held_out : int
        Number of rows at the start that judge a calibration; it is fitted to the others.
    base : (b, d) float32
        Held-out rows that are searched: all, or those that aren't queries.
    queries : (nq, d) float32
    """

    rows: Floats
    n_held_out: int
    base: Floats
    queries: Floats

    @property
    def held_out(self) -> Floats:
        """Rows to judge by, (n_held_out, d) float32."""
        return self.rows[: self.n_held_out]

    @property
    def training(self) -> Floats:
        """Rows to fit to, (n - n_held_out, d) float32."""
        return self.rows[self.n_held_out :]


class Score(NamedTuple):
    """The accuracy of codes of held-out vectors.

    Attributes
    ----------
    recall : float
        Recall 10@10.
    noise : float
        Variance of the error of a query's scores near the top, for the median query.
    """

    recall: float
    noise: float


def fit(
    codec: TurboQuant, metric: Metric, samples: Samples, threads: int, from_codes: bool = False
) -> tuple[TurboQuant, Training]:
    """Return a calibrated codec, and whether it is better than the present one.

    Parameters
    ----------
    codec : TurboQuant
        The present codec of the index.
    metric : Metric
    samples : Samples
    threads : int
    from_codes : bool
        Whether vectors are stored that will be recoded from their codes. Their loss is then measured too.

    Raises
    ------
    InputError
        As `Index.train` says.
    """
    _check(codec.d, metric, samples.queries)
    rng = generator(codec.seed, "training: order of the sample")
    drawn = rng.permutation(len(samples.sample))[:_MAX_ROWS]
    rows = samples.sample.take(drawn)
    check_lengths(metric, rows, samples.sample.some(drawn).names)
    rows = _distinct(rows, metric)
    n = rows.shape[0]
    if n < MIN_ROWS:
        reason = f"a sample needs at least {MIN_ROWS} distinct rows"
        return codec, Training(accepted=False, reason=reason, rows=n)
    split = split_sample(rows, samples.queries, rng)
    del rows  # they are in `split`, in another order, and take much memory
    axes = find_axes(split.training)
    candidate = codec.calibrated(_calibrate(codec, axes))
    plain_rows, calibrated_rows = (encode_rows(each, metric, split.base, threads) for each in (codec, candidate))
    exact = _exact_scores(split.base, split.queries, metric)
    plain = snapshot_of_rows(codec, metric, plain_rows, threads)
    calibrated = snapshot_of_rows(candidate, metric, calibrated_rows, threads)
    before, after = evaluate(plain, split, exact), evaluate(calibrated, split, exact)
    accepted = decide(before, after, split.queries.shape[0])
    reason = "it helps at equal bytes" if accepted else "it would not help: the index stays as it was"
    loss = None
    if from_codes:
        recoded = snapshot_of_rows(candidate, metric, recode(plain_rows, codec, candidate, threads), threads)
        error_before, error_recoded, error_after = (
            _squared_error(each, split.base) for each in (plain, recoded, calibrated)
        )
        loss = Loss(
            recall=(before.recall, evaluate(recoded, split, exact).recall, after.recall),
            error=(error_before, error_recoded, error_after),
        )
        reason += " what is added from now on" if accepted else ""
    final = refit(codec, candidate, axes, metric, split, samples.queries, threads)
    trained = codec.calibrated(final)
    return trained, Training(
        accepted=accepted,
        reason=reason,
        rows=n,
        bands=final.bands,
        shares=tuple(trained.transform.shares.tolist()),
        recall=(before.recall, after.recall),
        error_ratio=_error_ratio(before, after),
        loss=loss,
    )


def split_sample(rows: Floats, queries: Floats | None, rng: np.random.Generator) -> Split:
    """Shuffle distinct rows and hold out at most a quarter of them; without queries, some of these are the queries."""
    rows = rows[rng.permutation(rows.shape[0])]
    held_out = min(_MAX_HELD_OUT, rows.shape[0] // 4)
    if queries is None:
        asking = min(_MAX_QUERIES, held_out // 3)
        return Split(rows, held_out, base=rows[asking:held_out], queries=rows[:asking])
    return Split(rows, held_out, base=rows[:held_out], queries=rng.permutation(queries)[:_MAX_QUERIES])


def evaluate(snapshot: Snapshot, split: Split, exact: Doubles) -> Score:
    """Compare a snapshot of the base rows with their exact scores, (nq, b), larger is better."""
    scores, ids = snapshot.best(split.queries, exact.shape[1])
    best = np.argsort(-exact, axis=1, kind="stable")
    hits = best[:, :_TOP, None] == ids[:, None, :_TOP]
    estimates = np.empty(exact.shape)
    np.put_along_axis(estimates, ids, snapshot.metric.sign * scores.astype(np.float64), axis=1)
    near = best[:, :_NEAR]
    errors = np.take_along_axis(estimates, near, axis=1) - np.take_along_axis(exact, near, axis=1)
    return Score(recall=float(hits.any(axis=2).mean()), noise=float(np.median(np.var(errors, axis=1))))


def _squared_error(snapshot: Snapshot, vectors: Floats) -> float:
    """Return the squared error of the decoded rows of `vectors`, as a share of their squared length."""
    error = np.square(snapshot.decode(snapshot.live_rows()) - vectors, dtype=np.float64).sum()
    return float(error / max(np.square(vectors, dtype=np.float64).sum(), 1e-300))


def decide(before: Score, after: Score, nq: int) -> bool:
    """Return whether a calibration helps: less noise, and no less recall than chance explains for `nq` queries."""
    by_chance = np.sqrt(before.recall * (1 - before.recall) / (_TOP * nq))
    return bool(_error_ratio(before, after) < _MAX_RATIO and after.recall >= before.recall - by_chance)


def _error_ratio(before: Score, after: Score) -> float:
    return after.noise / before.noise if before.noise > 0 else 1.0


def refit(
    codec: TurboQuant,
    candidate: TurboQuant,
    axes: Axes,
    metric: Metric,
    split: Split,
    queries: Floats | None,
    threads: int,
) -> Calibration:
    """Fit a calibration to all rows of a sample.

    The errors of near scores, which it holds too, are those of the candidate on held-out rows. They depend on the
    bands, so a candidate of other bands is made once more of its `axes`.
    """
    final = _calibrate(codec, find_axes(split.rows))
    if final.bands != candidate.bands:
        candidate = codec.calibrated(_calibrate(codec, axes, final.bands))
    return final._replace(near_error=_measure_near_errors(candidate, metric, split.held_out, queries, threads))


def recode(rows: Rows, old: TurboQuant, new: TurboQuant, threads: int) -> Rows:
    """Compress rows of one codec with another, from their codes.

    Their products are estimated without bias, and so are those of the new codes; the errors of both codecs add up.
    For l2 the stored ‖x − c‖² follows the centre c: for a step s from the old one it is ‖x − c‖² − 2⟨x − c, s⟩ + ‖s‖²,
    with the product estimated from the codes.

    Raises
    ------
    InputError
        A decoded row exceeds float32.
    """
    try:
        vectors = old.decode_unbiased(Codes(rows["codes"], rows["scale"]), threads=threads)
        encoded = encode_sums(new, vectors, threads=threads)
        # Two errors that know nothing of each other, the second of a vector that is longer by 1/cos θ.
        before = np.square(error_byte.read_error_byte(rows["scale"]))
        tangent = np.sqrt(before + np.square(encoded.tan_theta()) * (1 + before))
        scale = error_byte.with_error_byte(encoded.codes().scale, tangent)
    except InputError as error:
        raise InputError(f"vectors must be handed over: a stored one is too long to be made anew ({error})") from error
    again: Rows = {"codes": encoded.data, "scale": scale}
    if "squared_norm" in rows:
        step = (new.centre - old.centre).astype(np.float64)
        products = (vectors - old.centre) @ step
        squares = rows["squared_norm"] - 2 * products + step @ step
        again["squared_norm"] = np.clip(squares, 0, np.finfo(np.float32).max).astype(np.float32)
    return again


def _check(d: int, metric: Metric, queries: Floats | None) -> None:
    if d > MAX_D:
        raise InputError(f"d must be at most {MAX_D} to train, got {d}")
    if queries is not None:
        if queries.shape[0] == 0:
            raise InputError("queries must have at least one row, or be None")
        check_lengths(metric, queries, RowNames("queries"))


def check_lengths(metric: Metric, rows: Floats, names: RowNames) -> None:
    """Check that products of all rows fit float32.

    Raises
    ------
    InputError
        They do not; it names the first row.
    """
    if not metric.unit_rows and rows.size and max(rows.max(), -rows.min()) > _MAX_VALUE:
        too_long = np.flatnonzero(np.abs(rows).max(axis=1) > _MAX_VALUE)
        row = min(too_long.tolist(), key=lambda row: names.numbers[row])
        raise InputError(f"{names.of(row)} is too long to train with: it has a value above {_MAX_VALUE:g}")


def _calibrate(codec: TurboQuant, axes: Axes, bands: Sequence[Band] | None = None) -> Calibration:
    """Make a calibration of as many bits as an uncalibrated codec has."""
    untrained = parse(codec.nbits, codec.d)[1]
    bits = sum((band.stop - band.start) * band.nbits for band in untrained)
    budget = Budget(bits, codec.codebook, codec.seed)
    return calibrate(axes, budget, bands)


def _distinct(rows: Floats, metric: Metric) -> Floats:
    """Return distinct rows; for metric "cosine" their directions, without zero rows."""
    if metric.unit_rows:
        rows = _directions(rows)
    whole = np.ascontiguousarray(rows).view(np.dtype((np.void, 4 * rows.shape[1]))).ravel()
    order = np.argsort(whole, kind="stable")
    new = np.ones(order.size, bool)
    for start in range(1, order.size, _COMPARED):  # `np.unique` would copy all rows
        part = order[start - 1 : start + _COMPARED]
        new[start : start + _COMPARED] = whole[part[1:]] != whole[part[:-1]]
    return rows[order[new]]


def _directions(rows: Floats) -> Floats:
    """Return rows scaled to length 1, without zero rows."""
    length = np.sqrt(squared_norms(rows))
    directions: Floats = (rows[length > 0] / length[length > 0, None]).astype(np.float32)
    return directions


def _exact_scores(base: Floats, queries: Floats, metric: Metric) -> Doubles:
    """Return scores of all base rows, (nq, b), larger is better, less a part that all rows of a query share.

    For metric "cosine" the base rows have length 1.
    """
    x, y = base.astype(np.float64), queries.astype(np.float64)
    if metric.unit_rows:
        y = y / np.maximum(np.linalg.norm(y, axis=1, keepdims=True), 1e-300)
    return 2 * y @ x.T - np.sum(x * x, axis=1) if metric is Metric.L2 else y @ x.T


def _measure_near_errors(
    codec: TurboQuant, metric: Metric, held_out: Floats, queries: Floats | None, threads: int
) -> Floats:
    """Return mean and standard deviation of the errors of near rows' products, in units of the predicted one, (2,).

    Without queries each row asks for its nearest others. A sample is sparser than the data, so only few rows are near.
    """
    asking = (held_out if queries is None else queries)[:_MAX_NEAR_QUERIES]
    if metric.unit_rows:
        asking = _directions(asking)
    exact = _exact_scores(held_out, asking, metric)
    if queries is None:
        np.fill_diagonal(exact, -np.inf)
    most = max(_MIN_NEAREST, held_out.shape[0] // _FAR)
    count = int(np.clip(_PAIRS // max(1, asking.shape[0]), _MIN_NEAREST, most))
    best = np.argpartition(-exact, count, axis=1)[:, :count]
    if metric is Metric.L2:
        asking = asking - codec.centre
    rows = encode_rows(codec, "ip", held_out, threads)  # of distances too only the products are estimates
    decoded = codec.decode_unbiased(Codes(rows["codes"], rows["scale"]), threads=threads)
    estimates = np.einsum("qd,qkd->qk", asking, decoded[best], dtype=np.float64)
    errors = estimates - np.einsum("qd,qkd->qk", asking, held_out[best], dtype=np.float64)
    predicted = score_geometry(codec, "ip", {"scale": rows["scale"][best]}, asking, estimates).std()
    ratios = errors[predicted > 0] / predicted[predicted > 0]
    return np.array([ratios.mean(), ratios.std()] if ratios.size else [0, 1], np.float32)
