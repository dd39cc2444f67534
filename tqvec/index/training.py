"""Training: fit a calibration to a sample, judge on vectors held out whether it is worth using, and recode rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._types import Floats
from tqvec.codec import error_byte
from tqvec.codec.bands import Band, parse
from tqvec.codec.calibration import MAX_D, Budget, Calibration, calibrate, distortions, spatial_median
from tqvec.codec.codes import Codes
from tqvec.codec.turboquant import TurboQuant
from tqvec.errors import InputError
from tqvec.exact import squared_norms
from tqvec.index.errors.standard_errors import score_geometry
from tqvec.index.rows import Rows

MIN_ROWS = 200  # below, a quarter held out says nothing
_MOST = 65536  # rows of a sample that are looked at
_LONGEST = 1e18  # value whose square float32 still holds
_HELD_OUT = 2000  # rows at most
_QUERIES = 200  # asked at most
_NEAR = 100  # true neighbours on which errors are compared: far ones don't compete
_NEAREST = 3  # at least, on which the errors of near scores are measured
_ASKED = 1000  # queries at most for that
_PAIRS = 2000  # of queries and their nearest, if they are near enough
_FAR = 100  # a row among so many isn't near
_TOP = 10
_ENOUGH = 0.9  # of the squared error of scores: less is no accident
_ORDER = 0x7261696E  # of the generator that shuffles the sample, beside the codec's seed


class Samples(NamedTuple):
    """Checked vectors to learn from, and queries to judge by, if any."""

    sample: Floats
    queries: Floats | None


class Loss(NamedTuple):
    """What compressing vectors anew from their codes costs, measured on vectors held out; prints as a sentence.

    Attributes
    ----------
    recall : tuple of float
        Recall 10@10: of the codes there were, from these codes, and from the vectors themselves.
    error : tuple of float
        Squared error of decoded vectors as a part of their squared length, of the same three.
    """

    recall: tuple[float, ...]
    error: tuple[float, ...]

    def __str__(self) -> str:
        (before, after, best), (error, worse, least) = self
        return (
            f"recall 10@10 {before:.3f} -> {after:.3f}, squared error {error:.3g} -> {worse:.3g} "
            f"(from the vectors themselves: {best:.3f}, {least:.3g})"
        )


class Training(NamedTuple):
    """What training found and decided; prints as a table.

    Attributes
    ----------
    used : bool
        Whether the index has changed.
    reason : str
        Why, or why not.
    rows : int
        Distinct rows of the sample.
    bands : tuple of Band
        Of the calibration that was fitted, used or not; axes after the last one get no bits.
    shares : tuple of float
        Part of the squared distance to the centre that lies in each band.
    recall : tuple of float
        Recall 10@10 on the vectors held out, without and with the calibration.
    error : float
        Variance of the error of a query's scores near the top, for the median query, as a part of what it was without.
    loss : Loss or None
        What stored vectors lose whose originals were not handed over; None if there are none such.
    """

    used: bool
    reason: str
    rows: int
    bands: tuple[Band, ...] = ()
    shares: tuple[float, ...] = ()
    recall: tuple[float, float] = (float("nan"), float("nan"))
    error: float = float("nan")
    loss: Loss | None = None

    def __str__(self) -> str:
        lines = [f"trained: {'yes' if self.used else 'no'}, {self.reason} ({self.rows:,} distinct rows)"]
        if self.bands:
            lines.append("axes          bits  share of variance")
            for band, share in zip(self.bands, self.shares, strict=True):
                lines.append(f"{band.start:5} … {band.stop:<5} {band.nbits:4} {share:12.1%}")
            lines.append(f"held out: recall 10@10 {self.recall[0]:.3f} -> {self.recall[1]:.3f}, ")
            lines[-1] += f"squared error of scores x {self.error:.2f}"
        if self.loss is not None:
            lines.append(f"stored vectors, from their codes: {self.loss}")
        return "\n".join(lines)


def fit(
    make: Callable[[TurboQuant], Any],
    codec: TurboQuant,
    metric: str,
    samples: Samples,
    threads: int,
    from_codes: bool = False,
) -> tuple[TurboQuant, Training]:
    """A calibrated codec, and whether it is better than the one given.

    Parameters
    ----------
    make : callable
        Makes an empty index of a codec.
    codec : TurboQuant
        What the index has now.
    metric : str
    samples : Samples
    threads : int
    from_codes : bool
        Whether there are vectors whose codes are all that is left of them: what they would lose is measured too.

    Raises
    ------
    InputError
        As `Index.train` says.
    """
    _check(codec.d, metric, samples)
    order = np.random.default_rng([codec.seed, _ORDER])
    rows = _distinct(samples.sample[order.permutation(samples.sample.shape[0])[:_MOST]], metric)
    rows = rows[order.permutation(rows.shape[0])]
    if rows.shape[0] < MIN_ROWS:
        return codec, Training(False, f"a sample needs at least {MIN_ROWS} distinct rows", rows.shape[0])
    held = min(_HELD_OUT, rows.shape[0] // 4)
    if samples.queries is None:
        asked = min(_QUERIES, held // 3)
        queries, base = rows[:asked], rows[asked:held]
    else:
        queries, base = order.permutation(samples.queries)[:_QUERIES], rows[:held]
    candidate = codec.calibrated(_fitted(codec, rows[held:]))
    indexes = [make(codec), make(candidate)]
    for index in indexes:
        index.add(base, threads=threads)
    if from_codes:
        indexes.insert(1, indexes[0]._recoded(candidate, None, threads))
    exact = _exact(base, queries, metric)
    recalls, noises = zip(*(_judged(index, queries, exact, threads) for index in indexes), strict=True)
    error = noises[-1] / noises[0] if noises[0] > 0 else 1.0
    by_chance = np.sqrt(recalls[0] * (1 - recalls[0]) / (_TOP * queries.shape[0]))
    used = bool(error < _ENOUGH and recalls[-1] >= recalls[0] - by_chance)
    loss = Loss(recalls, tuple(_squared_error(index, base) for index in indexes)) if from_codes else None
    final = _fitted(codec, rows)
    if final.bands != candidate.bands:  # what near neighbours' errors are hangs on the bands
        candidate = codec.calibrated(_fitted(codec, rows[held:], final.bands))
    final = final._replace(near=_near_errors(candidate, metric, rows[:held], samples.queries, threads))
    helped = "it helps at equal bytes" + (" what is added from now on" if from_codes else "")
    reason = helped if used else "it would not help: the index stays as it was"
    shares = tuple(final.shares(distortions(codec.d, codec.codebook)).tolist())
    judged = (recalls[0], recalls[-1]), error, loss
    return codec.calibrated(final), Training(used, reason, rows.shape[0], final.bands, shares, *judged)


def recoded(rows: Rows, old: TurboQuant, new: TurboQuant, threads: int) -> Rows:
    """Rows that one codec has compressed, compressed anew by another.

    Their products are estimated without bias, and so those of the new codes are too; the errors of both codecs add up.
    For l2 the stored ‖x − c‖² follows the centre: for a step s from the old one it is ‖x − c‖² − 2⟨x − c, s⟩ + ‖s‖²,
    with the product estimated from the codes.

    Raises
    ------
    InputError
        What a row stands for is beyond float32.
    """
    try:
        vectors = old.decode_unbiased(Codes(rows["codes"], rows["scale"]), threads)
        encoded = new.encode_sums(vectors, threads)
        # Two errors that know nothing of each other, the second of a vector that is longer by 1/cos θ.
        before = np.square(error_byte.read_error_byte(rows["scale"]))
        tangent = np.sqrt(before + np.square(new.tangents(encoded, threads)) * (1 + before))
        scale = error_byte.with_error_byte(new.stored_scale(encoded), tangent)
    except InputError as error:
        raise InputError(f"vectors must be handed over: a stored one is too long to be made anew ({error})") from error
    again: Rows = {"codes": encoded.data, "scale": scale}
    if "squared_norm" in rows:
        step = (new.centre - old.centre).astype(np.float64)
        products = (vectors - old.centre) @ step
        squares = rows["squared_norm"] - 2 * products + step @ step
        again["squared_norm"] = np.clip(squares, 0, np.finfo(np.float32).max).astype(np.float32)
    return again


def _check(d: int, metric: str, samples: Samples) -> None:
    if d > MAX_D:
        raise InputError(f"d must be at most {MAX_D} to train, got {d}")
    if samples.queries is not None and samples.queries.shape[0] == 0:
        raise InputError("queries must have at least one row, or be None")
    check_lengths(metric, samples)


def check_lengths(metric: str, samples: Samples) -> None:
    """Whether products of all rows are within float32.

    Raises
    ------
    InputError
        They are not, for a row that it names.
    """
    if metric == "cosine":
        return
    for name, rows in samples._asdict().items():
        if rows is not None and rows.size and np.abs(rows).max() > _LONGEST:
            row = int(np.argmax(np.abs(rows).max(axis=1) > _LONGEST))
            raise InputError(f"{name} row {row} is too long to train with: it has a value above {_LONGEST:g}")


def _fitted(codec: TurboQuant, rows: Floats, bands: Sequence[Band] | None = None) -> Calibration:
    untrained = parse(codec.nbits, codec.d)[1]
    bits = sum((band.stop - band.start) * band.nbits for band in untrained)
    budget = Budget(bits, codec.codebook, codec.seed)
    return calibrate(rows, spatial_median(rows), budget, bands)


def _distinct(rows: Floats, metric: str) -> Floats:
    """Each row once; for metric "cosine" their directions, without zero rows."""
    if metric == "cosine":
        rows = _directions(rows)
    whole = np.ascontiguousarray(rows).view(np.dtype((np.void, 4 * rows.shape[1])))
    return rows[np.unique(whole.ravel(), return_index=True)[1]]


def _directions(rows: Floats) -> Floats:
    """Rows of length 1; zero rows are left out."""
    length = np.sqrt(squared_norms(rows))
    directions: Floats = (rows[length > 0] / length[length > 0, None]).astype(np.float32)
    return directions


def _exact(base: Floats, queries: Floats, metric: str) -> NDArray[np.float64]:
    """Scores of all rows, larger better, up to what is the same for all rows of a query."""
    x, y = base.astype(np.float64), queries.astype(np.float64)
    if metric == "cosine":
        y = y / np.maximum(np.linalg.norm(y, axis=1, keepdims=True), 1e-300)
    return 2 * y @ x.T - np.sum(x * x, axis=1) if metric == "l2" else y @ x.T


def _judged(index: Any, queries: Floats, exact: NDArray[np.float64], threads: int) -> tuple[float, float]:
    """Recall 10@10 of all results, and the variance of the error of scores near the top, of the median query."""
    scores, ids = index.search(queries, exact.shape[1], threads=threads)
    best = np.argsort(-exact, axis=1, kind="stable")
    wanted = best[:, :_TOP, None] == ids[:, None, :_TOP]
    found = np.empty(exact.shape)
    np.put_along_axis(found, ids, (-scores if index.metric == "l2" else scores).astype(np.float64), axis=1)
    near = best[:, :_NEAR]
    error = np.take_along_axis(found, near, axis=1) - np.take_along_axis(exact, near, axis=1)
    return float(wanted.any(axis=2).mean()), float(np.median(np.var(error, axis=1)))


def _squared_error(index: Any, vectors: Floats) -> float:
    """Of the decoded rows of an index, as a part of the squared length of its vectors."""
    decoded = index.reconstruct(index.ids)
    error = np.square(decoded - vectors, dtype=np.float64).sum()
    return float(error / max(np.square(vectors, dtype=np.float64).sum(), 1e-300))


def _near_errors(codec: TurboQuant, metric: str, held: Floats, queries: Floats | None, threads: int) -> Floats:
    """Mean and standard deviation of the errors of products with the nearest of some rows that were held out, by what
    the codebooks say of them, (2,).

    Without queries each row asks for the nearest others. A sample is sparser than what it is from: only few are near.
    """
    asked = (held if queries is None else queries)[:_ASKED]
    if metric == "cosine":
        asked = _directions(asked)
    exact = _exact(held, asked, metric)
    if queries is None:
        np.fill_diagonal(exact, -np.inf)
    count = int(np.clip(_PAIRS // max(1, asked.shape[0]), _NEAREST, max(_NEAREST, held.shape[0] // _FAR)))
    best = np.argpartition(-exact, count, axis=1)[:, :count]
    if metric == "l2":
        asked = asked - codec.centre
    encoded = codec.encode_sums(held, threads)
    codes = Codes(
        encoded.data, error_byte.with_error_byte(codec.stored_scale(encoded), codec.tangents(encoded, threads))
    )
    scores = np.take_along_axis(codec.inner_product(asked, codes, threads), best, axis=1)
    error = scores - np.einsum("qd,qkd->qk", asked, held[best], dtype=np.float64)
    deviation = score_geometry(codec, "ip", {"scale": codes.scale[best]}, asked, scores).std()
    judged = error[deviation > 0] / deviation[deviation > 0]
    return np.array([judged.mean(), judged.std()] if judged.size else [0, 1], np.float32)
