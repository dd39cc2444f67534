"""Results of a simulation, and their table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tqvec import _validate
from tqvec._present import Presented, Sheet, brief, pyplot
from tqvec._types import Doubles
from tqvec.errors import InputError
from tqvec.kvcache.planning.units import format_bytes, format_columns, format_seconds
from tqvec.kvcache.quality.captured import AttentionLoss


@dataclass(repr=False)
class SimulationReport(Presented):
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
        tokens), "weights" (reading streamed weights).
    moved : dict
        Bytes by tier, but for the first: moved "down" into it, moved "up" from it, "read" from it.
    peak : dict
        Most bytes held, by tier.
    waiting, first_token, token : dict
        Time that a request waits for others, time from then to its first token, and time of each other token: "mean",
        "p50", "p99".
    loss : AttentionLoss
        Error of attention with this policy's codec and the share of tokens that was attended to, on the tensors of the
        simulation. It is the model's only if they are.
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

    _derived = ("hit_rate",)

    @property
    def hit_rate(self) -> float:
        """Share of the context that was in the first tier when it was needed."""
        return self.hits / self.context if self.context else 1.0

    def to_json(self) -> str:
        """Return everything but `steps` as one JSON object."""
        fields = self.to_dict()
        del fields["steps"]
        return json.dumps(fields, allow_nan=False)

    def __repr__(self) -> str:
        return brief(self, ("model", "policy", "eviction", "bytes_per_token", "requests", "tokens", "attended"))

    def __str__(self) -> str:
        return "\n".join([format_reports([self]), *_legend()])

    def _sheet(self) -> Sheet:
        total, moved = max(1, self.context), sum(sum(sizes.values()) for sizes in self.moved.values())
        shares = (self.hits / total, self.loaded / total, self.recomputed / total, self.attended)
        times = (self.first_token.get("mean"), self.token.get("mean"))
        loss = None if self.loss is None else self.loss.mean
        held = next(iter(self.peak.values()), 0)
        return Sheet(
            columns=tuple(COLUMNS),
            rows=[(self.policy, self.bytes_per_token, held, *shares, *times, moved, loss)],
            title=f"{self.model}, {self.requests:,} requests, {self.tokens:,} tokens",
            notes=_legend(),
        )

    def plot(self) -> Any:
        """Draw time per token against its context, and error against bytes; return both axes.

        Raises
        ------
        UnsupportedError
            matplotlib is not installed.
        """
        return plot_reports([self])


def summarise(values: Doubles, counts: Doubles) -> dict[str, float]:
    """Return the mean, median and 99th percentile of values, each of which occurs `counts` times."""
    if not values.size:
        return {}
    order = np.argsort(values)
    shares = np.cumsum(counts[order]) / counts.sum()
    percentiles = {f"p{p}": float(values[order][np.searchsorted(shares, p / 100)]) for p in (50, 99)}
    return {"mean": float(np.average(values, weights=counts)), **percentiles}


COLUMNS = {
    "policy": "name of the policy",
    "bytes per token": "bytes of a further token of a long sequence",
    "memory": "most bytes held in the first tier",
    "in memory": "share of the tokens that requests continued from which was in the first tier",
    "loaded": "share of them that was loaded from other tiers",
    "recomputed": "share of them that had been dropped and was computed again",
    "attended": "share of their context that generated tokens attended to",
    "first token": "mean time from the start of a request to its first token, without waiting for other requests",
    "next token": "mean time of each further token",
    "moved": "bytes moved between tiers, or read from others than the first",
    "error": "mean relative error of attention on the tensors, given or made: by the codec, and by tokens left out",
}
"""The columns of the table of reports, and what they are."""


def format_reports(reports: Sequence[SimulationReport]) -> str:
    """Format reports as a table with a line per report; `COLUMNS` says what its columns are."""
    rows = [list(COLUMNS)]
    for report in _validate.sequence(reports, "reports", SimulationReport):
        ((policy, per_token, held, *shares, first, following, moved, loss),) = report._sheet().rows
        rows.append(
            [
                policy,
                f"{per_token:,.10g}",
                format_bytes(held),
                *(f"{100 * share:.1f} %" for share in shares),
                format_seconds(first or 0.0),
                format_seconds(following or 0.0),
                format_bytes(moved),
                "" if loss is None else f"{loss:.3f}",
            ]
        )
    return "\n".join(format_columns(rows))


def plot_reports(reports: Sequence[SimulationReport]) -> Any:
    """Draw time per token against its context, and error against bytes; return both axes.

    Raises
    ------
    InputError
        There is no report.
    UnsupportedError
        matplotlib is not installed.
    """
    reports = _validate.sequence(reports, "reports", SimulationReport)
    if not reports:
        raise InputError("reports must have at least one")
    figure, axes = pyplot("plot").subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    left, right = axes
    for report in reports:
        context, seconds = zip(*report.steps, strict=True) if report.steps else ((), ())
        left.plot(context, [1000 * value for value in seconds], ".", markersize=4, label=report.policy)
        if report.loss is not None:
            right.plot(report.bytes_per_token / 1024, report.loss.mean, "o", label=report.policy)
    left.set(xlabel="context, tokens", ylabel="ms per generated token", title="the cache's time", ylim=(0, None))
    right.set(
        xlabel="KiB per token",
        ylabel="relative error of attention",
        title="bytes and error on tensors",
        xlim=(0, None),
    )
    for each in axes:
        each.grid(alpha=0.3)
        if each.get_legend_handles_labels()[0]:
            each.legend()
    figure.suptitle(reports[0]._sheet().title, parse_math=False)
    return axes


def format_legend() -> str:
    """Format `COLUMNS`, a line per column but the first."""
    return "\n".join(_legend())


def _legend() -> tuple[str, ...]:
    width = max(map(len, COLUMNS))
    return tuple(f"{name.ljust(width)}  {text}" for name, text in list(COLUMNS.items())[1:])
