"""Metrics: the rules that follow from the choice of inner product, cosine or squared distance."""

from __future__ import annotations

from enum import Enum

import numpy as np

from tqvec._locks import cached_property
from tqvec.kernels.scan.queries import NORM, TWICE_NORM, UNIT


class Metric(str, Enum):
    """A metric of an index; it equals its name as a string."""

    IP = "ip"
    COSINE = "cosine"
    L2 = "l2"

    @property
    def larger_is_better(self) -> bool:
        """Whether a larger score is better."""
        return self is not Metric.L2

    @property
    def sign(self) -> float:
        """Factor that makes larger scores better: 1, or −1 for distances."""
        return 1.0 if self.larger_is_better else -1.0

    @cached_property
    def worst(self) -> float:
        """Score of an empty entry."""
        return -self.sign * np.inf

    @cached_property
    def bounds(self) -> tuple[float, float] | None:
        """Least and largest score of any vectors, which estimates are clipped to; None for inner products."""
        return {Metric.IP: None, Metric.COSINE: (-1.0, 1.0), Metric.L2: (0.0, np.inf)}[self]

    @property
    def stores_norm(self) -> bool:
        """Whether a row keeps its squared length."""
        return self is Metric.L2

    @property
    def unit_rows(self) -> bool:
        """Whether a row stands for its direction alone."""
        return self is Metric.COSINE

    @property
    def extra_bytes(self) -> int:
        """Bytes per vector beside code and scale."""
        return 4 if self.stores_norm else 0

    @property
    def scalars(self) -> tuple[str, ...]:
        """Names of the numbers that a row keeps beside its code."""
        return ("scale", "squared_norm") if self.stores_norm else ("scale",)

    @property
    def score_scale(self) -> int:
        """Factor of a product of directions in a score, as the kernels name it."""
        return {Metric.IP: NORM, Metric.COSINE: UNIT, Metric.L2: TWICE_NORM}[self]


METRICS = tuple(metric.value for metric in Metric)
