"""Results of a simulation, and their table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from tqvec._types import Doubles
from tqvec.kvcache.planning.units import format_bytes, format_columns, format_seconds
from tqvec.kvcache.quality.captured import AttentionLoss


@dataclass
class SimulationReport:
    """The results of a simulation. Times are in seconds, sizes in bytes.

    Attributes
    ----------
    model, policy, eviction : str
    bytes_per_token : float
        Bytes of a further token of a long sequence, as in `Plan`.
    requests, tokens : int
        Requests served, and tokens of their prompts and answers.
    context, hits : int
        Tokens that requests continued from, and the part of them that was in the first tier.
    loaded, recomputed : int
        The part that was in other tiers, and the part that had been dropped and was computed again.
    attended : float
        Share of their context that generated tokens attended to.
    seconds : dict
        Time by cause: "prompt" (coding, attention and the model's own time), "decode" (attention of generated tokens,
        and coding them), "moving", "reading" (from other tiers, for generated tokens), "again" (computing dropped
        tokens).
    moved : dict
        Bytes by tier, but for the first: moved "down" into it, moved "up" from it, "read" from it.
    peak : dict
        Most bytes held, by tier.
    waiting, first_token, token : dict
        Time that a request waits for others, time from then to its first token, and time of each other token: "mean",
        "p50", "p99".
    loss : AttentionLoss
        Error of attention with this policy's codec and the share of tokens that was attended to.
    steps : list of (int, float)
        Context and mean time of a generated token, for runs of up to a block of tokens.
    """

    model: str
    policy: str
    eviction: str
    bytes_per_token: float
    requests: int = 0
    tokens: int = 0
    context: int = 0
    hits: int = 0
    loaded: int = 0
    recomputed: int = 0
    attended: float = 1.0
    seconds: dict[str, float] = field(default_factory=dict)
    moved: dict[str, dict[str, int]] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, float] = field(default_factory=dict)
    first_token: dict[str, float] = field(default_factory=dict)
    token: dict[str, float] = field(default_factory=dict)
    loss: AttentionLoss | None = None
    steps: list[tuple[int, float]] = field(default_factory=list)

    @property
    def hit_rate(self) -> float:
        """Share of the context that was in the first tier when it was needed."""
        return self.hits / self.context if self.context else 1.0

    def to_json(self) -> str:
        """Return everything but `steps` as one JSON object."""
        fields = asdict(self) | {"hit_rate": self.hit_rate, "loss": None if self.loss is None else self.loss._asdict()}
        del fields["steps"]
        return json.dumps(fields)


def summarise(values: Doubles, counts: Doubles) -> dict[str, float]:
    """Return the mean, median and 99th percentile of values, each of which occurs `counts` times."""
    if not values.size:
        return {}
    order = np.argsort(values)
    shares = np.cumsum(counts[order]) / counts.sum()
    percentiles = {f"p{p}": float(values[order][np.searchsorted(shares, p / 100)]) for p in (50, 99)}
    return {"mean": float(np.average(values, weights=counts)), **percentiles}


_HEADINGS = ("policy", "bytes per token", "memory", "in memory", "loaded", "recomputed", "attended")
_MEASURES = ("first token", "next token", "moved", "error")


def format_reports(reports: Sequence[SimulationReport]) -> str:
    """Format reports as a table with a line per report."""
    rows = [[*_HEADINGS, *_MEASURES]]
    for report in reports:
        moved = sum(sum(sizes.values()) for sizes in report.moved.values())
        total = max(1, report.context)
        rows.append(
            [
                report.policy,
                f"{report.bytes_per_token:,.10g}",
                format_bytes(next(iter(report.peak.values()))),
                *(f"{100 * n / total:.1f} %" for n in (report.hits, report.loaded, report.recomputed)),
                f"{100 * report.attended:.1f} %",
                format_seconds(report.first_token.get("mean", 0.0)),
                format_seconds(report.token.get("mean", 0.0)),
                format_bytes(moved),
                "" if report.loss is None else f"{report.loss.mean:.3f}",
            ]
        )
    return "\n".join(format_columns(rows))
