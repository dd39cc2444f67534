"""Result: what was measured, as a table, Markdown, JSON and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tqvec._present import Presented, Sheet, format_value, pyplot

_NOTHING: Mapping[Any, float] = {}


class Row(NamedTuple):
    """What was measured of an engine.

    Attributes
    ----------
    name, library : str
    nbits : float
    sublinear : bool
        Whether a search reads a part of the vectors alone.
    settings : str
        Of the engine, as JSON.
    bytes : float
        Of the saved file, per vector.
    train_s, build_s, save_s, load_s : float
        Seconds.
    recall_10_at_10 : float
    recall_1_at : dict of int to float
        Share of queries whose true nearest is among the first k.
    single_ms, batch_ms : dict of int to float
        Milliseconds a query, by numbers of threads.
    failure : str, optional
        Why nothing was measured.
    """

    name: str
    library: str
    nbits: float
    sublinear: bool
    settings: str
    bytes: float = float("nan")
    train_s: float = float("nan")
    build_s: float = float("nan")
    save_s: float = float("nan")
    load_s: float = float("nan")
    recall_10_at_10: float = float("nan")
    recall_1_at: Mapping[int, float] = _NOTHING
    single_ms: Mapping[int, float] = _NOTHING
    batch_ms: Mapping[int, float] = _NOTHING
    failure: str | None = None


class _LeaderboardFields(NamedTuple):
    data: str
    n: int
    d: int
    queries: int
    machine: Mapping[str, Any]
    rows: tuple[Row, ...]


class Leaderboard(Presented, _LeaderboardFields):
    """Engines on one set of vectors.

    Attributes
    ----------
    data : str
        Name of the vectors.
    n, d, queries : int
    machine : dict
        Processor, SIMD level and versions; see `describe_machine`.
    rows : tuple of Row
    """

    __slots__ = ()

    def _sheet(self) -> Sheet:
        rows, failures = [], []
        threads = sorted({count for row in self.rows for count in row.single_ms})
        for row in sorted(self.rows, key=lambda row: (row.bytes, -row.recall_10_at_10)):
            if row.failure is not None:
                failures.append(row.failure)
                continue
            times = [by[count] for count in threads for by in (row.single_ms, row.batch_ms)]
            recalls = row.recall_10_at_10, row.recall_1_at[1]
            rows.append((row.name, round(row.bytes, 1), *recalls, *times, round(row.train_s, 1), round(row.build_s, 1)))
        columns = [f"{what}, {count}" for count in threads for what in ("ms single", "ms batch")]
        notes = [f"{self.data}: {self.n:,} × {self.d}, {self.queries:,} queries; bytes of the file per vector"]
        versions = ", ".join(f"{name} {number}" for name, number in self.machine["packages"].items())
        notes += [f"{self.machine['cpu']}, {self.machine['cores']} cores, SIMD level {self.machine['level']}", versions]
        notes += ["ms a query, by threads; seconds of training and of the rest of the build", *failures]
        head = ("engine", "bytes", "10@10", "1@1", *columns, "train s", "build s")
        return Sheet(head, rows, notes=tuple(notes))

    def to_markdown(self) -> str:
        """Return the table as Markdown."""
        sheet = self._sheet()
        lines = [sheet.columns, ["---"] * len(sheet.columns), *sheet.rows]
        return "\n".join("| " + " | ".join(map(format_value, line)) + " |" for line in lines)

    def plot(self, threads: int | None = None) -> Any:
        """Return a matplotlib figure: recall by bytes, and queries a second by recall.

        Parameters
        ----------
        threads : int, optional
            Default: the smallest number that was timed.
        """
        figure, (left, right) = pyplot("plot").subplots(1, 2, figsize=(12, 5), layout="constrained")
        measured = [row for row in self.rows if row.failure is None and row.library != "exact"]
        count = threads or min((count for row in measured for count in row.single_ms), default=1)
        for library in dict.fromkeys(row.library for row in measured):
            own = [row for row in measured if row.library == library]
            _scatter(left, library, [(row.bytes, row.recall_10_at_10) for row in own if not row.sublinear])
            speeds = [(row.recall_10_at_10, 1e3 / row.batch_ms[count]) for row in own if count in row.batch_ms]
            _scatter(right, library, speeds)
        left.set(xlabel="bytes per vector, of the saved file", ylabel="recall 10@10", title="exhaustive search")
        right.set(xlabel="recall 10@10", ylabel="queries per second, batch", yscale="log")
        right.set_title(f"speed, {count} thread{'s' * (count > 1)}")
        for axis in (left, right):
            axis.grid(alpha=0.3)
            if axis.has_data():
                axis.legend(fontsize=8)
        figure.suptitle(f"{self.data}: {self.n:,} × {self.d}")
        return figure


def _scatter(axis: Any, label: str, points: Sequence[tuple[float, float]]) -> None:
    marker = "o" if label == "tqvec" else "x"
    if points:
        axis.plot(*zip(*points, strict=True), marker, label=label, markersize=6 if label == "tqvec" else 5)
