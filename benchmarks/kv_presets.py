"""What does every preset of the KV cache lose on real models, and how much of it is the luck of the rotation?

Perplexity, and KL of the next token's distribution from that of exact attention, teacher-forced on prose
(datasets/prose): every layer reads keys and values as a cache gives them back. A row per model, codec, part and seed of
the rotation; rows are written as they come, and ``--resume`` goes on where a run ended. The parts:

sinks   All but the first 4 tokens are coded.
window  Each query also sees the newest 128 tokens exactly.

Bits per value count all that is stored of coded tokens, and means over the tokens of the text. `_model_weights.py` says
where the models come from, `_kv_rivals.py` has the other libraries' formats.

``--captured FOLDER`` measures attention on captured tensors instead, such as those of datasets/qwen_kv: keys are coded,
values are exact, and no key is kept. The error of a layer is the length of the difference of its outputs, relative to
their length, over the queries of all heads together; the table has the root mean square over layers, and the worst.
"""

from __future__ import annotations

from _common import RESULTS, console, report  # isort: skip - sets threads first

import argparse
import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from _kv_coders import Cached, Coder, Part, Rival
from _kv_rivals import rivals
from _language_model import CapturedTensors, Floats, Model, Run, prose_name
from _model_weights import SOURCES
from rich.table import Table

from tqvec.kvcache import Policy
from tqvec.kvcache.policy import PRESETS

PARTS = {"sinks": Part(0, 4), "window": Part(128, 4)}
FIRST_BUCKET = 512  # tokens; each later bucket is as long as all before

Row = dict[str, Any]


@dataclass
class Captured:
    """Captured tensors of some layers, as a target of coders."""

    layers: list[CapturedTensors]
    rope_thetas: list[float]

    @property
    def n_tokens(self) -> int:
        """Tokens of each layer."""
        return self.layers[0].keys.shape[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Layers, KV heads, dimension of a head."""
        heads, _, d = self.layers[0].keys.shape
        return len(self.layers), heads, d


def codecs() -> Iterator[tuple[str, Coder]]:
    """All presets that code, plain widths, and the formats of others."""
    for name, policy in PRESETS.items():
        if policy.recent is not None:
            yield name, Cached(policy)
    yield from plain_widths((4, 3, 2))
    yield from rivals()


def plain_widths(widths: tuple[float, ...]) -> Iterator[tuple[str, Coder]]:
    """The same width for keys and values, in both codebooks, and without what the cache knows of the embedding."""
    for nbits in widths:
        for codebook in ("trellis", "scalar"):
            name, policy = f"K{nbits}V{nbits} {codebook}", Policy(nbits, nbits, codebook)
            yield name, Cached(policy)
            yield f"{name}, no rope", Cached(policy, rope=False)


def by_seed(coder: Coder, seeds: int) -> Iterator[tuple[int, Coder]]:
    """The coder with each seed of the rotation; a format without one is measured once."""
    if isinstance(coder, Rival):
        yield 0, coder
        return
    for seed in range(seeds):
        yield seed, replace(coder, policy=replace(coder.policy, seed=seed))


def perplexities(model: Model, known: set[tuple], wanted: argparse.Namespace) -> Iterator[Row]:
    """A pass over the text per codec, part and seed that is not `known`."""
    exact = model.run()
    console.print(f"{model.name}, {model.n_tokens} tokens: exact perplexity {math.exp(exact.nll.mean()):.3f}")
    for name, all_seeds in codecs():
        if not any(fnmatch(name, pattern) for pattern in wanted.codecs):
            continue
        for part in wanted.parts:
            for seed, coder in by_seed(all_seeds, wanted.seeds):
                row = {"codec": name, "part": part, "seed": seed, "tokens": model.n_tokens}
                if tuple(row.values()) not in known:
                    run = model.run(coder.make(model, PARTS[part]), PARTS[part].recent)
                    yield row | _bytes(coder, model) | _losses(run, exact)


def _bytes(coder: Coder, model: Model) -> Row:
    bits, (n_layers, heads, d) = coder.bits(model), model.shape
    return {"bits": bits, "bytes_per_token": bits * 2 * n_layers * heads * d / 8}


def _losses(run: Run, exact: Run) -> Row:
    """Return what a pass loses; the error is the standard one of `dnll`, as if tokens were independent."""
    change = (run.nll - exact.nll).astype(np.float64)
    edges = [0, FIRST_BUCKET]
    while edges[-1] < len(change):
        edges.append(2 * edges[-1])
    buckets = [slice(*pair) for pair in pairwise(edges)]
    return {
        "perplexity": math.exp(run.nll.mean(dtype=np.float64)),
        "increase": math.expm1(change.mean()),
        "dnll": float(change.mean()),
        "error": float(change.std()) / math.sqrt(len(change)),
        "kl": float(run.kl.mean(dtype=np.float64)),
        "from": [rows.start for rows in buckets],
        "dnll_by_position": [float(change[rows].mean()) for rows in buckets],
        "kl_by_position": [float(run.kl[rows].mean(dtype=np.float64)) for rows in buckets],
    }


def output_error(x: CapturedTensors, keys: Floats) -> float:
    """Return the error of all outputs of a layer with other keys, relative to their length."""
    true, other = (_outputs(x, k) for k in (x.keys, keys))
    return float(np.linalg.norm(true - other) / np.linalg.norm(true))


def _outputs(x: CapturedTensors, keys: Floats) -> np.ndarray:
    """Causal attention of the newest queries, in float64: (n_kv_heads, group, n_queries, d)."""
    heads, n, d = keys.shape
    queries = x.queries.astype(np.float64).reshape(heads, -1, x.queries.shape[1], d)
    scores = queries @ keys.astype(np.float64).swapaxes(1, 2)[:, None] / math.sqrt(d)
    newest = np.arange(n - x.queries.shape[1], n)
    scores[..., np.arange(n) > newest[:, None]] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ x.values[:, None].astype(np.float64)


def read_captured(folder: Path, theta: float) -> Captured:
    """Read ``keys_f16.npy``, ``values_f16.npy`` and ``queries_f16.npy``: (layers, heads, tokens, d) each."""
    queries, keys, values = (np.load(folder / f"{name}_f16.npy") for name in ("queries", "keys", "values"))
    layers = [
        CapturedTensors(*(x.astype(np.float32) for x in layer)) for layer in zip(queries, keys, values, strict=True)
    ]
    return Captured(layers, [theta] * len(layers))


def attention_errors(captured: Captured, wanted: argparse.Namespace) -> Iterator[Row]:
    """Errors of attention per codec and seed."""
    for name, all_seeds in (*plain_widths((4, 3.5, 3, 2.5, 2)), *rivals()):
        if not any(fnmatch(name, pattern) for pattern in wanted.codecs):
            continue
        for seed, coder in by_seed(all_seeds, wanted.seeds):
            through = coder.make(captured, Part(0, 0))
            errors = [output_error(x, through(i, x.keys, x.values)[0].keys) for i, x in enumerate(captured.layers)]
            rms = math.sqrt(sum(error**2 for error in errors) / len(errors))
            row = {"codec": name, "seed": seed, "bits": coder.bits(captured), "rms": rms, "worst": max(errors)}
            yield row | {"worst_layer": int(np.argmax(errors)), "by_layer": errors}


def show(title: str, rows: list[Row], columns: dict[str, str]) -> None:
    """Print a line per codec: seed 0, and by `columns` the median over seeds, and the worst over the median."""
    table = Table(title=title)
    for column in ("codec", "bits", *columns, *(f"worst / median {name}" for name in columns.values() if name)):
        table.add_column(column, justify="left" if column == "codec" else "right")
    for codec in dict.fromkeys(row["codec"] for row in rows):
        mine = [row for row in rows if row["codec"] == codec]
        texts = [f"{statistics.median(row[column] for row in mine):.4f}" for column in columns]
        spreads = [[row[column] for row in mine] for column, name in columns.items() if name]
        texts += [f"{max(x) / statistics.median(x):.2f} of {len(x)}" if len(x) > 1 else "" for x in spreads]
        table.add_row(codec, f"{mine[0]['bits']:.3f}", *texts)
    console.print(table)


def show_model(name: str, rows: list[Row]) -> None:
    """Print the tables of a model, one per part and length of the text."""
    for part, tokens in sorted({(row["part"], row["tokens"]) for row in rows}):
        mine = [row for row in rows if (row["part"], row["tokens"]) == (part, tokens)]
        columns = {"bytes_per_token": "", "increase": "", "kl": "KL"}
        show(f"{name}, {part}, {tokens} tokens: medians over seeds", mine, columns)
        show_positions(
            f"{name}, {part}: KL of tokens from position …, seed 0", [row for row in mine if row["seed"] == 0]
        )


def show_positions(title: str, rows: list[Row]) -> None:
    """Print the KL of each codec by position, if the text is long enough for that."""
    starts = rows[0]["from"]
    if len(starts) < 3:
        return
    table = Table(title=title)
    for column in ("codec", *map(str, starts)):
        table.add_column(column, justify="left" if column == "codec" else "right")
    for row in rows:
        table.add_row(row["codec"], *(f"{kl:.5f}" for kl in row["kl_by_position"]))
    console.print(table)


def read_rows(name: str) -> list[Row]:
    """Rows that were written before."""
    paths = sorted(RESULTS.glob(f"{name}-*.json"))
    return json.loads(paths[0].read_text())["rows"] if paths else []


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--weights", type=Path, metavar="FOLDER", help="where MODEL.gguf lies, or is made")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--codecs", nargs="+", default=["*"], metavar="PATTERN", help="names, such as 'turbo*'")
    parser.add_argument("--seeds", type=int, default=1, help="rotations, from seed 0")
    parser.add_argument("-n", type=int, default=1024, help="tokens")
    parser.add_argument("--resume", action="store_true", help="keep rows that were written before")
    parser.add_argument("--show", action="store_true", help="only print the rows that were written before")
    parser.add_argument("--captured", type=Path, metavar="FOLDER", help="captured tensors to measure instead")
    parser.add_argument("--theta", type=float, default=1e6, help="base of the captured keys' rotary embedding")
    wanted = parser.parse_args()
    if wanted.captured:
        rows = list(attention_errors(read_captured(wanted.captured, wanted.theta), wanted))
        report("kv_presets-captured", rows)
        show("error of attention on captured tensors: medians over seeds", rows, {"rms": "rms", "worst": "worst"})
        return
    for name in wanted.models:
        rows = read_rows(f"kv_presets-{name}") if wanted.resume or wanted.show else []
        known = {tuple(row[key] for key in ("codec", "part", "seed", "tokens")) for row in rows}
        if not wanted.show:
            model = Model(name, wanted.n, wanted.weights)
            console.print(f"{prose_name()}: {wanted.n} tokens")
            for row in perplexities(model, known, wanted):
                rows.append(row)
                console.print(
                    f"{row['codec']}, {row['part']}, seed {row['seed']}: {row['increase']:+.2%}, KL {row['kl']:.5f}"
                )
                report(f"kv_presets-{name}", rows)
        show_model(name, rows)


if __name__ == "__main__":
    main()
