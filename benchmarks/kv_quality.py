"""What does a language model lose when its keys and values are kept in few bits? Perplexity and KL of SmolLM2-135M.

4,096 tokens of real prose (datasets/prose), teacher-forced in one pass: every layer reads keys and values as a cache
gives them back, keys after rotary embedding, and errors of one layer reach the next. Weights are the same in all rows,
so only what the cache does is compared. The parts:

window      Each query sees the newest 128 tokens exactly, and every codec keeps the first 4 tokens (sinks); all others
            are coded. A `KVCache` with this policy keeps up to 63 tokens more.
everything  Nothing is exact.
variants    All but the sinks are coded, at 3 bits per value, to tell choices apart. "allocated" are widths per layer
            and head, chosen on the end of the text, of which the 4,096 tokens have nothing.
attention   Metrics of attention on the exact tensors of all layers, for the 64 newest queries; all but the sinks coded.

Bits a value count codes and scales, and means over the tokens of the text; not what is kept exactly. "min/max" rounds
each vector between its extremes, kept in float16; "prod" is Algorithm 2 of the paper, with two bfloat16 scales.
The error is the standard one of the mean difference a token, as if tokens were independent.
"""

from __future__ import annotations

from _common import RESULTS, console, report  # isort: skip - sets threads first

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from _kv_coders import MEAN, Cached, Coder, Part, Rival, Side, minmax, prod, trellis
from _language_model import CapturedTensors, Model, prose_name
from rich.table import Table

from tqvec.kvcache import Policy
from tqvec.kvcache.quality import Fidelity, allocate, measure_fidelity

PARTS = {"window": Part(128, 4), "everything": Part(0, 0), "variants": Part(0, 4), "attention": Part(0, 4)}
QUERIES = 64  # newest ones, for metrics of attention

Rows = list[dict[str, Any]]


def widths(key_nbits: int, value_nbits: int) -> Iterator[tuple[str, Coder]]:
    """All codecs at one pair of widths."""
    pair = (key_nbits, value_nbits)
    name = f"K{key_nbits}V{value_nbits}"
    yield f"{name} trellis", Cached(Policy(*pair, codebook="trellis"))
    yield f"{name} scalar", Cached(Policy(*pair))
    yield f"{name} min/max", Rival(*(Side(minmax, nbits, 4) for nbits in pair))
    yield f"{name} prod", Rival(Side(prod, key_nbits, 4, MEAN), Side(prod, value_nbits, 4))
    yield f"{name} scalar, no mean", Cached(Policy(*pair, mean_tokens=0))


def variants(model: Model) -> Iterator[tuple[str, Coder]]:
    """3 bits per value, with other means and scales, or spread in other ways over keys and values, layers and heads."""
    base = Policy(3, 3, "trellis")
    yield "trellis", Cached(base)
    yield "no mean", Cached(replace(base, mean_tokens=0))
    yield "means of keys and values", Cached(replace(base, value_means=True))
    least_squares, unbiased = trellis("least_squares"), trellis("unbiased")
    yield "mean key before RoPE", Rival(Side(least_squares, 3, 2, MEAN, True), Side(unbiased, 3, 2))
    yield "K3.5V2.5", Cached(replace(base, key_nbits=3.5, value_nbits=2.5))
    yield "K2.5V3.5", Cached(replace(base, key_nbits=2.5, value_nbits=3.5))
    n_layers, heads, d = model.shape
    later = [(x.keys, x.values, x.queries[:, -2 * QUERIES :]) for x in model.capture(later=True)]
    size = 2 * n_layers * heads * (3 * d // 8 + 2)
    coding = replace(base, recent=0, chunk=1)
    yield "allocated", Cached(allocate(later, size, policy=coding, widths=(2, 3, 4, 5)).policy)
    bits = [4 if min(i, n_layers - 1 - i) < 2 else 2.5 if 4 <= i < 12 else 3 for i in range(n_layers)]
    yield "2 layers at either end 4, layers 4 to 11 2.5", Cached(replace(base, key_nbits=bits, value_nbits=bits))
    yield "scales the other way round", Rival(Side(unbiased, 3, 2, MEAN), Side(least_squares, 3, 2))
    yield "mean of 512", Cached(replace(base, mean_tokens=512))


def coders(part: str, model: Model) -> Iterator[tuple[str, Coder]]:
    """Names and codecs of a part."""
    if part == "variants":
        yield from variants(model)
        return
    pairs = {"window": ((3, 3), (4, 4), (4, 2), (2, 2)), "everything": ((4, 4), (3, 3)), "attention": ((3, 3), (4, 4))}
    for pair in pairs[part]:
        yield from widths(*pair)


def perplexities(part: str, model: Model, known: set[str]) -> Iterator[dict[str, Any]]:
    """A pass over the text for each codec that is not `known`."""
    exact = model.run()
    if "exact" not in known:
        yield {"codec": "exact", "bits": 32.0, "perplexity": math.exp(exact.nll.mean())}
    for name, coder in coders(part, model):
        if name in known:
            continue
        run = model.run(coder.make(model, PARTS[part]), PARTS[part].recent)
        change = run.nll - exact.nll
        yield {
            "codec": name,
            "bits": coder.bits(model),
            "perplexity": math.exp(run.nll.mean()),
            "increase": math.exp(change.mean()) - 1,
            "dnll": float(change.mean()),
            "error": float(change.std()) / math.sqrt(len(change)),
            "kl": float(run.kl.mean()),
        }


def fidelities(model: Model, known: set[str]) -> Iterator[dict[str, Any]]:
    """Metrics of attention of codecs that are not `known`: means over layers, but of the last two the worst layer's."""
    layers: list[CapturedTensors] = model.capture()
    for name, coder in coders("attention", model):
        if name in known:
            continue
        through = coder.make(model, PARTS["attention"])
        metrics = np.array(
            [
                measure_fidelity(x.queries[:, -QUERIES:], (x.keys, x.values), through(i, x.keys, x.values)[0][1:])
                for i, x in enumerate(layers)
            ]
        )
        values = np.concatenate([metrics[:, :-2].mean(axis=0), metrics[:, -2:].max(axis=0)])
        yield {"codec": name, "bits": coder.bits(model), **dict(zip(Fidelity._fields, values.tolist(), strict=True))}


def show(part: str, rows: Rows) -> None:
    """Print a part."""
    table = Table(title=part)
    for column in rows[-1]:
        table.add_column(column, justify="left" if column == "codec" else "right")
    for row in rows:
        table.add_row(*_texts(row))
    console.print(table)


def _texts(row: dict[str, Any]) -> list[str]:
    return [f"{value:.4f}" if isinstance(value, float) else value for value in row.values()]


def earlier(part: str, n: int) -> Rows:
    """Rows of a part that lie there, of as many tokens."""
    for path in RESULTS.glob(f"kv_quality-{part}-*.json"):
        first, *rows = json.loads(path.read_text())["rows"]
        if first["tokens"] == n:
            return rows
    return []


def draw(path: str) -> None:
    """KL against bits, from the results that lie there of the parts with and without a window."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.4), sharey=True, layout="constrained")
    for axis, part in zip(axes, ("window", "everything"), strict=True):
        _, exact, *rows = json.loads(next(RESULTS.glob(f"kv_quality-{part}-*.json")).read_text())["rows"]
        named = [(*row["codec"].split(" ", 1), (row["bits"], row["kl"])) for row in rows]
        for number, kind in enumerate(dict.fromkeys(kind for _, kind, _ in named)):
            mine = {pair: point for pair, other, point in named if other == kind}
            mixed = mine.pop("K4V2", None)
            style = "o-" if kind.startswith(("scalar", "trellis")) else "s:"
            look = {"color": f"C{number}", "markersize": 4, "linewidth": 1}
            axis.plot(*zip(*sorted(mine.values()), strict=True), style, label=kind, **look)
            if mixed:
                axis.plot(*mixed, style[0], markerfacecolor="none", label="K4V2" if number == 0 else None, **look)
        recent, sinks = PARTS[part]
        title = f"{recent} newest tokens and {sinks} sinks exact" if recent else "every token coded"
        axis.set(title=title, xlabel="bits per value, scales and means included", yscale="log")
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="KL of the next token's distribution, nats")
    axes[0].legend(fontsize=8)
    figure.suptitle(f"SmolLM2-135M, 4,096 tokens of prose, exact perplexity {exact['perplexity']:.2f}")
    figure.savefig(path, dpi=90)
    console.print(f"written: {path}")


def main() -> None:
    """Run the parts of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--resume", action="store_true", help="keep rows that were written before")
    parser.add_argument("--plot", metavar="FILE", help="only draw what was measured before; needs matplotlib")
    parser.add_argument("-n", type=int, default=4096, help="tokens")
    arguments = parser.parse_args()
    if arguments.plot:
        draw(arguments.plot)
        return
    model = Model("smollm2", arguments.n)
    console.print(f"{prose_name()}: {arguments.n} tokens")
    for part in arguments.parts:
        rows = earlier(part, arguments.n) if arguments.resume else []
        known = {row["codec"] for row in rows}
        for row in fidelities(model, known) if part == "attention" else perplexities(part, model, known):
            rows.append(row)
            console.print(", ".join(_texts(row)))
            report(f"kv_quality-{part}", [{"tokens": arguments.n}, *rows])
        show(part, rows)


if __name__ == "__main__":
    main()
