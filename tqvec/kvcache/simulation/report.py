"""What a simulation found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from tqvec.kvcache.planning.units import show_bytes, show_seconds
from tqvec.kvcache.quality.captured import Loss


@dataclass
class Report:
    """What came of a simulation. Times are seconds, sizes are bytes.

    Attributes
    ----------
    model, policy, eviction : str
    bytes_per_token : float
        In the long run (`Plan`).
    requests, tokens : int
        Served, and tokens of prompts and answers.
    context, found : int
        Tokens that requests went on from, and those of them that were in the first tier.
    loaded, recomputed : int
        Those that were in other tiers, and those that were nowhere and computed again.
    attended : float
        Share of their context that generated tokens attended to.
    seconds : dict
        By cause: "prompt" (coding, attention and the model's own time), "decode" (attention of generated tokens and
        coding them), "moving", "reading" (from other tiers, for generated tokens), "again" (computing what was lost).
    moved : dict
        Bytes that went down into each tier but the first, up from it, and were read from it.
    peak : dict
        Most bytes in each tier.
    waiting, first_token, token : dict
        Seconds that a request waits for others, then until its first token, and for each other: "mean", "p50", "p99".
    loss : Loss
        Of attention: with this policy's codec, and the share of tokens that was attended to.
    steps : list of (int, float)
        Context and mean seconds of a generated token, a block of them at a time.
    """

    model: str
    policy: str
    eviction: str
    bytes_per_token: float
    requests: int = 0
    tokens: int = 0
    context: int = 0
    found: int = 0
    loaded: int = 0
    recomputed: int = 0
    attended: float = 1.0
    seconds: dict[str, float] = field(default_factory=dict)
    moved: dict[str, dict[str, int]] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, float] = field(default_factory=dict)
    first_token: dict[str, float] = field(default_factory=dict)
    token: dict[str, float] = field(default_factory=dict)
    loss: Loss | None = None
    steps: list[tuple[int, float]] = field(default_factory=list)

    @property
    def hit_rate(self) -> float:
        """Share of context that was in the first tier when it was needed."""
        return self.found / self.context if self.context else 1.0

    def to_json(self) -> str:
        """All of it but `steps`, as one JSON object."""
        found = asdict(self) | {"hit_rate": self.hit_rate, "loss": None if self.loss is None else self.loss._asdict()}
        del found["steps"]
        return json.dumps(found)


def summary(values: NDArray[np.float64], counts: NDArray[np.float64]) -> dict[str, float]:
    """Mean, median and 99th percentile of values that occur so many times each."""
    if not values.size:
        return {}
    order = np.argsort(values)
    shares = np.cumsum(counts[order]) / counts.sum()
    found = {f"p{p}": float(values[order][np.searchsorted(shares, p / 100)]) for p in (50, 99)}
    return {"mean": float(np.average(values, weights=counts)), **found}


_HEADINGS = ("policy", "bytes a token", "memory", "found", "loaded", "again", "attended")
_MEASURES = ("first token", "each token", "moved", "error")


def show(reports: Sequence[Report]) -> str:
    """A table with a line for each report."""
    rows = [[*_HEADINGS, *_MEASURES]]
    for report in reports:
        moved = sum(sum(sizes.values()) for sizes in report.moved.values())
        total = max(1, report.context)
        rows.append(
            [
                report.policy,
                f"{report.bytes_per_token:,.10g}",
                show_bytes(next(iter(report.peak.values()))),
                *(f"{100 * n / total:.1f} %" for n in (report.found, report.loaded, report.recomputed)),
                f"{100 * report.attended:.1f} %",
                show_seconds(report.first_token.get("mean", 0.0)),
                show_seconds(report.token.get("mean", 0.0)),
                show_bytes(moved),
                "" if report.loss is None else f"{report.loss.mean:.3f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows)
