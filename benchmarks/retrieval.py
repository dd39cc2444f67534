"""Does a coded key still win among a million? The shift of the point where half of the needles are found.

The module `tqvec.kvcache.quality.needle` describes the test; float32 is the control.
"""

from __future__ import annotations

from _common import console, report  # isort: skip - sets threads first

import argparse
from typing import Any

from rich.progress import Progress
from rich.table import Table

from tqvec.kvcache import Policy, Rope
from tqvec.kvcache.quality import Haystack, measure_retrieval
from tqvec.kvcache.quality.needle import RHOS

POLICIES = {
    "8 bits": Policy(8, 8),
    "4 bits": Policy(4, 4),
    "3.5 bits": Policy(3.5, 3.5),
    "3 bits": Policy(3, 3),
    "2 bits": Policy(2, 2),
    "4 bits, trellis": Policy(4, 4, "trellis"),
    "3 bits, trellis": Policy(3, 3, "trellis"),
    "2 bits, trellis": Policy(2, 2, "trellis"),
}
SEED = 40_000


def main() -> None:
    """Run each number of keys and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--shared", type=float, default=0.0, help="length of the part that all keys share")
    parser.add_argument("--theta", type=float, help="keys turn by a rotary embedding with this base")
    arguments = parser.parse_args()
    rope = None if arguments.theta is None else Rope(arguments.theta)
    rows: list[dict[str, Any]] = []
    for n in arguments.keys:
        haystack = Haystack(n, trials=arguments.trials, shared=arguments.shared, rope=rope)
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task(f"{n:,} keys", total=n)
            curves = measure_retrieval(
                haystack,
                {name: POLICIES[name] for name in arguments.policies},
                seed=SEED,
                progress=lambda done, bar=bar, task=task: bar.update(task, completed=done),
            )
        setting = (
            f"{n:,} random keys, {haystack.duplicates} at cosine {haystack.duplicate_cosine}, d={haystack.d}, "
            f"shared part {haystack.shared:g}, {rope or 'no rotary embedding'}"
        )
        table = Table(
            title=f"{setting}: % of {haystack.trials} needles found, by ρ; shift of the 50 % point, 95 % interval"
        )
        for heading in ("keys", *(f"{rho:g}" for rho in RHOS[::2]), "50 % at", "shift"):
            table.add_column(heading, justify="right")
        for curve in curves:
            rows.append(haystack._asdict() | {"rope": repr(rope), "rhos": RHOS} | curve._asdict())
            shares = [f"{100 * share:.0f}" for share in curve.success[::2]]
            shift = f"{curve.shift:+.3f} ({curve.low:+.3f} to {curve.high:+.3f})" if curve is not curves[0] else ""
            table.add_row(curve.name, *shares, f"{curve.half:.3f}", shift)
        console.print(table)
    report("retrieval", rows)


if __name__ == "__main__":
    main()
