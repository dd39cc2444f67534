"""Operations timed by pytest-benchmark, with the exponents of their growth: `python -m pytest benchmarks/operations`.

Each test times one operation at one size of one axis, and notes the bytes of its result and of its peak. The summary,
and `exponents` in the file of `--benchmark-json`, have the exponent p of time ~ size^p for each operation and axis. One
thread by default (TQVEC_BENCH_THREADS).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from _common import environment, unit_vectors  # isort: skip - sets threads first

import pytest

from tqvec.eval.growth import fit_exponent
from tqvec.eval.leaderboard.memory import forget_peak, peak, resident

SIZES = (1_000, 10_000, 100_000, 1_000_000)
OPTIONS = {"max_time": 0.2, "min_rounds": 3, "disable_gc": True}
WIDTH = "bits"  # an axis that time follows no power of


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for the largest size."""
    parser.addoption(
        "--largest", type=int, default=SIZES[-1], help="numbers of vectors up to this; 10000000 needs 4 GB"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give tests that take `n` the sizes up to the largest."""
    if "n" in metafunc.fixturenames:
        largest = metafunc.config.getoption("--largest")
        metafunc.parametrize("n", sorted({*(n for n in SIZES if n <= largest), largest}))


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Keep the run short: every operation is repeated for a fifth of a second, or three times."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.benchmark(**OPTIONS))


@pytest.fixture(scope="session")
def vectors() -> Callable[[int, int], Any]:
    """Return a function ``vectors(n, d)`` of unit vectors; a few are kept."""
    return lru_cache(maxsize=2)(lambda n, d: unit_vectors(n, d, seed=4))


@pytest.fixture
def measure(benchmark: Any) -> Callable[..., None]:
    """Return a function that times an operation at a size of an axis, once it is compiled."""

    def run(function: Callable[[], Any], operation: str, axis: str, size: int, nbytes: int) -> None:
        function()
        before = resident()
        forget_peak()
        function()
        benchmark.group = f"{operation} by {axis}"
        benchmark.extra_info.update(
            operation=operation, axis=axis, size=size, nbytes=nbytes, peak_bytes=peak() - before
        )
        benchmark(function)

    return run


def exponents(benchmarks: Sequence[Any]) -> list[dict[str, Any]]:
    """Exponents of the medians, for each operation and axis of at least two sizes."""
    medians: dict[tuple[str, str], dict[int, float]] = {}
    for each in benchmarks:
        facts = each["extra_info"]
        medians.setdefault((facts["operation"], facts["axis"]), {})[facts["size"]] = each["stats"]["median"]
    return [
        {"operation": operation, "axis": axis, "exponent": fit_exponent(times), "seconds": times}
        for (operation, axis), times in medians.items()
        if axis != WIDTH and len(times) > 1
    ]


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """Add exponents, and where the figures come from."""
    output_json |= {"exponents": exponents(output_json["benchmarks"]), "environment": environment()}


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print exponents."""
    session = getattr(config, "_benchmarksession", None)
    done = [] if session is None else [each.as_dict(flat=False) for each in session.benchmarks if each]
    rows = exponents(done)
    if rows:
        terminalreporter.section("growth: p of time ~ size^p")
    for row in rows:
        ends = f"{min(row['seconds']):,} to {max(row['seconds']):,}"
        terminalreporter.write_line(f"{row['operation']:<24} {row['axis']:<8} {ends:<20} {row['exponent']:.2f}")
