"""Result: what was measured, as a table, Markdown, JSON and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from tqvec._present import Presented, Sheet, format_value, pyplot
from tqvec.eval.growth import fit_exponent
from tqvec.eval.leaderboard.engines import LIBRARIES

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
    n : int
        Number of vectors.
    search : str
        Options of the searches, as JSON.
    bytes : float
        Of the saved file, per vector.
    train_s, build_s, save_s, load_s : float
        Seconds.
    resident_bytes : float
        What the process of the build holds more after it than before, without the vectors themselves. NaN if the system
        is not Linux.
    peak_bytes : float
        What it held more at most, beside the vectors themselves.
    process_bytes : float
        All that it holds after the build: the interpreter and libraries too.
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
    n: int
    search: str = "{}"
    bytes: float = float("nan")
    train_s: float = float("nan")
    build_s: float = float("nan")
    save_s: float = float("nan")
    load_s: float = float("nan")
    resident_bytes: float = float("nan")
    peak_bytes: float = float("nan")
    process_bytes: float = float("nan")
    recall_10_at_10: float = float("nan")
    recall_1_at: Mapping[int, float] = _NOTHING
    single_ms: Mapping[int, float] = _NOTHING
    batch_ms: Mapping[int, float] = _NOTHING
    failure: str | None = None


class Growth(NamedTuple):
    """How the times of an engine grow with n: exponents of a power law, NaN where there is one size.

    Attributes
    ----------
    name : str
    sizes : tuple of int
    build : float
        Of the seconds of training and of the rest of the build.
    single, batch : float
        Of the milliseconds a query, with the fewest threads.
    """

    name: str
    sizes: tuple[int, ...]
    build: float
    single: float
    batch: float


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
        `n` is the largest number of vectors.
    machine : dict
        Processor, SIMD level and versions; see `describe_machine`.
    rows : tuple of Row
        Of all engines and numbers of vectors.
    """

    __slots__ = ()
    _derived: ClassVar[tuple[str, ...]] = ("growth",)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The numbers of vectors, ascending."""
        return tuple(sorted({row.n for row in self.rows}))

    @property
    def growth(self) -> tuple[Growth, ...]:
        """How times grow, for each engine; empty if there is one number of vectors."""
        if len(self.sizes) < 2:
            return ()
        by_name: dict[str, list[Row]] = {}
        for row in self.rows:
            by_name.setdefault(row.name, []).append(row)
        return tuple(_grow(name, rows) for name, rows in by_name.items())

    def _sheet(self) -> Sheet:
        growth = {each.name: each for each in self.growth}
        threads = sorted({count for row in self.rows for count in row.single_ms})
        has_memory = any(row.resident_bytes == row.resident_bytes for row in self.rows)
        rows = []
        for row in sorted(self._measured(), key=lambda row: (row.n, row.bytes, -row.recall_10_at_10)):
            cells = [row.name, *([row.n] if growth else []), round(row.bytes, 1)]
            if has_memory:
                cells += [round(size / 1e6, 1) for size in (row.resident_bytes, row.peak_bytes, row.process_bytes)]
            cells += [row.recall_10_at_10, row.recall_1_at[1]]
            cells += [by[count] for count in threads for by in (row.single_ms, row.batch_ms)]
            cells += [round(row.train_s, 1), round(row.build_s, 1)]
            if growth:
                cells += growth[row.name][2:] if row.n == self.n else [None] * 3
            rows.append(tuple(cells))
        head = ["engine", *(["n"] if growth else []), "bytes"]
        head += ["MB held", "MB peak", "MB process"] if has_memory else []
        head += ["10@10", "1@1", *(f"{what}, {count}" for count in threads for what in ("ms single", "ms batch"))]
        head += ["train s", "build s", *(["build ~ n^", "single ~ n^", "batch ~ n^"] if growth else [])]
        return Sheet(tuple(head), rows, notes=self._notes(has_memory))

    def _measured(self) -> list[Row]:
        return [row for row in self.rows if row.failure is None]

    def _notes(self, has_memory: bool) -> tuple[str, ...]:
        sizes = ", ".join(f"{n:,}" for n in self.sizes or (self.n,))
        notes = [f"{self.data}: {sizes} × {self.d}, {self.queries:,} queries; bytes of the file per vector"]
        if has_memory:
            notes.append("MB of the building process: held more after the build than before, at most, and in all")
        versions = ", ".join(f"{name} {number}" for name, number in self.machine["packages"].items())
        notes += [f"{self.machine['cpu']}, {self.machine['cores']} cores, SIMD level {self.machine['level']}", versions]
        notes.append("ms a query, by threads; seconds of training and of the rest of the build")
        return (*notes, *dict.fromkeys(row.failure for row in self.rows if row.failure is not None))

    def to_markdown(self) -> str:
        """Return the table as Markdown."""
        sheet = self._sheet()
        lines = [sheet.columns, ["---"] * len(sheet.columns), *sheet.rows]
        return "\n".join("| " + " | ".join(map(format_value, line)) + " |" for line in lines)

    def plot(self, threads: int | None = None) -> Any:
        """Return a matplotlib figure of the largest n: recall by bytes, and queries a second by recall.

        Parameters
        ----------
        threads : int, optional
            Default: the smallest number that was timed.
        """
        figure, (left, right) = pyplot("plot").subplots(1, 2, figsize=(12, 5), layout="constrained")
        measured = [row for row in self._measured() if row.library != "exact" and row.n == self.n]
        count = threads or min((count for row in measured for count in row.single_ms), default=1)
        present = {row.library for row in measured}
        for colour, library in enumerate(LIBRARIES):
            if library not in present:
                continue
            own = [row for row in measured if row.library == library]
            sizes = [(row.bytes, row.recall_10_at_10) for row in own if not row.sublinear]
            speeds = [(row.recall_10_at_10, 1e3 / row.batch_ms[count]) for row in own if count in row.batch_ms]
            for axis, points in ((left, sizes), (right, speeds)):
                _scatter(axis, library, f"C{colour}", points)
        left.set(xlabel="bytes per vector, of the saved file", ylabel="recall 10@10", title="exhaustive search")
        right.set(xlabel="recall 10@10", ylabel="queries per second, batch", yscale="log")
        right.set_title(f"speed, {count} thread{'s' * (count > 1)}")
        for axis in (left, right):
            axis.grid(alpha=0.3)
            if axis.has_data():
                axis.legend(fontsize=8)
        figure.suptitle(f"{self.data}: {self.n:,} × {self.d}")
        return figure


def _grow(name: str, rows: Sequence[Row]) -> Growth:
    """Return the growth of one engine."""

    def fewest(times: Mapping[int, float]) -> float:
        return times[min(times)] if times else float("nan")

    return Growth(
        name=name,
        sizes=tuple(sorted(row.n for row in rows)),
        build=fit_exponent({row.n: row.train_s + row.build_s for row in rows}),
        single=fit_exponent({row.n: fewest(row.single_ms) for row in rows}),
        batch=fit_exponent({row.n: fewest(row.batch_ms) for row in rows}),
    )


def _scatter(axis: Any, label: str, colour: str, points: Sequence[tuple[float, float]]) -> None:
    marker, size = ("o", 6) if label == "tqvec" else ("x", 5)
    if points:
        axis.plot(*zip(*points, strict=True), marker, color=colour, label=label, markersize=size)
