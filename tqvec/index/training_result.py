"""The result of training, and what it costs to recode vectors that are stored already."""

from __future__ import annotations

from typing import NamedTuple

from tqvec._present import Presented, Sheet
from tqvec.codec.bands import Band


class Loss(NamedTuple):
    """The cost of recoding vectors from their codes, measured on held-out vectors; prints as a sentence.

    Attributes
    ----------
    recall : (float, float, float)
        Recall 10@10 of the old codes, of codes made from these, and of codes made from the vectors themselves.
    error : (float, float, float)
        Squared error of decoded vectors relative to their squared length, of the same three.
    """

    recall: tuple[float, float, float]
    error: tuple[float, float, float]

    def __str__(self) -> str:
        (before, after, best), (error, worse, least) = self
        return (
            f"recall 10@10 {before:.3f} -> {after:.3f}, squared error {error:.3g} -> {worse:.3g} "
            f"(from the vectors themselves: {best:.3f}, {least:.3g})"
        )


class _TrainingFields(NamedTuple):
    """The fields of a `Training`."""

    accepted: bool
    reason: str
    rows: int
    bands: tuple[Band, ...] = ()
    shares: tuple[float, ...] = ()
    recall: tuple[float, float] = (float("nan"), float("nan"))
    error_ratio: float = float("nan")
    loss: Loss | None = None


class Training(Presented, _TrainingFields):
    """The result of `Index.train`; prints as a table; see `to_dict`, `to_pandas` and `plot`.

    Attributes
    ----------
    accepted : bool
        Whether the index now uses the calibration.
    reason : str
        Why, or why not.
    rows : int
        Distinct rows of the sample.
    bands : tuple of Band
        Bands of the fitted calibration, accepted or not. Axes after the last band get no bits.
    shares : tuple of float
        Share of the squared distance to the centre that lies in each band.
    recall : (float, float)
        Recall 10@10 on held-out vectors, without and with the calibration.
    error_ratio : float
        Variance of the error of a query's scores near the top with the calibration, divided by that without it, for
        the median query.
    loss : Loss or None
        The cost of recoding the stored vectors, if they were not given to `Index.train`; None if nothing is recoded.
    """

    __slots__ = ()

    def __str__(self) -> str:
        lines = [self._headline()]
        if self.bands:
            lines.append("axes          bits  share of variance")
            for band, share in zip(self.bands, self.shares, strict=True):
                lines.append(f"{band.start:5} … {band.stop:<5} {band.nbits:4} {share:12.1%}")
        return "\n".join([*lines, *self._notes()])

    def _headline(self) -> str:
        return f"trained: {'yes' if self.accepted else 'no'}, {self.reason} ({self.rows:,} distinct rows)"

    def _notes(self) -> list[str]:
        notes = []
        if self.bands:
            before, after = self.recall
            ratio = f"squared error of scores x {self.error_ratio:.2f}"
            notes.append(f"held out: recall 10@10 {before:.3f} -> {after:.3f}, {ratio}")
        if self.loss is not None:
            notes.append(f"stored vectors, from their codes: {self.loss}")
        return notes

    def _sheet(self) -> Sheet:
        axes = ((band, share) for band, share in zip(self.bands, self.shares, strict=True))
        return Sheet(
            columns=("axes", "share of variance", "bits"),
            rows=[(f"{band.start} … {band.stop}", share, band.nbits) for band, share in axes],
            title=self._headline(),
            notes=tuple(self._notes()),
        )
