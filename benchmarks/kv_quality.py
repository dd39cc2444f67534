"""What does a language model lose when its keys and values are kept in few bits? Perplexity and KL of SmolLM2-135M.

4,096 tokens of real prose (datasets/prose), teacher-forced in one pass: every layer reads keys and values as a cache
gives them back, keys after rotary embedding, and errors of one layer reach the next. In the part "window" each query
sees the newest 128 tokens exactly, and the first 4 tokens (sinks) are kept by every codec; all others are coded. A
cache with this policy keeps up to 63 tokens more. In "everything" nothing is exact. In "variants" all but the sinks are
coded, to tell choices apart. In all cases weights are the same, so only what the cache does is compared.

Bits a value count codes and scales, and means over the tokens of the text; not what is kept exactly. "min/max" rounds
each vector between its extremes, kept in float16; "prod" is Algorithm 2 of the paper, with two bfloat16 scales.
"ΔNLL ± " is the standard error of the mean difference a token, as if tokens were independent.
"""

from __future__ import annotations

from _common import console, report  # isort: skip - sets threads first
import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from _language_model import Floats, Model, Replace, prose_name
from rich.table import Table

from tqvec import TurboQuant
from tqvec.codec.codes import Codes
from tqvec.kvcache import KVCache, Policy

HOT, SINKS, MEAN = 128, 4, 64
_BF16 = 2  # bytes


class Part(NamedTuple):
    """What of a text is exact."""

    hot: int
    sinks: int


PARTS = {"window": Part(HOT, SINKS), "variants": Part(0, SINKS), "everything": Part(0, 0)}


class Rival:
    """Keys and values coded by a function of (n, d) rows; sinks are kept.

    Parameters
    ----------
    coder : callable
        Rows to rows.
    key_nbits, value_nbits : int
    overhead : int
        Bytes a vector, beside its codes.
    """

    def __init__(self, coder: Callable[[Floats, int], Floats], nbits: tuple[int, int], overhead: int, mean: int = 0):
        self._coder, self._nbits, self._overhead, self._mean = coder, nbits, overhead, mean

    def make(self, model: Model, part: Part) -> Replace:
        """What replaces keys and values."""

        def side(x: Floats, nbits: int) -> Floats:
            coded = x[:, part.sinks :]
            mean = coded[:, : self._mean].mean(axis=1, keepdims=True) if self._mean else np.float32(0)
            rows = self._coder((coded - mean).reshape(-1, x.shape[2]), nbits)
            return np.concatenate([x[:, : part.sinks], rows.reshape(coded.shape) + mean], axis=1)

        return lambda _, keys, values: (side(keys, self._nbits[0]), side(values, self._nbits[1]))

    def bits(self, model: Model, n: int) -> float:
        """A value."""
        d = model.shape[2]
        means = 32 * d / n if self._mean else 0
        return sum(self._nbits) / 2 + (8 * self._overhead + means) / d


@dataclass
class Cached:
    """Keys and values as `KVCache` gives them back."""

    policy: Policy
    _cache: KVCache | None = field(default=None, repr=False)

    def make(self, model: Model, part: Part) -> Replace:
        """What replaces keys and values: all tokens coded but the sinks, since the hot ones are the model's part."""
        cache = KVCache(*model.shape, replace(self.policy, hot=0, chunk=1, sinks=part.sinks))
        self._cache = cache

        def through(layer: int, keys: Floats, values: Floats) -> tuple[Floats, Floats]:
            cache.append(layer, keys, values)
            return cache.keys(layer), cache.values(layer)

        return through

    def bits(self, model: Model, n: int) -> float:
        """A value, of the tokens in the cache of the last run."""
        assert self._cache is not None
        size = self._cache.nbytes
        n_layers, heads, d = model.shape
        return 8 * (size.codes + size.scales + size.means) / (2 * n_layers * heads * d * n)


def minmax(x: Floats, nbits: int) -> Floats:
    """Round each row between its extremes, which are kept in float16."""
    low = x.min(axis=1, keepdims=True).astype(np.float16).astype(np.float32)
    step = ((x.max(axis=1, keepdims=True) - low) / (2**nbits - 1)).astype(np.float16).astype(np.float32)
    step = np.maximum(step, 1e-7)
    return np.clip(np.rint((x - low) / step), 0, 2**nbits - 1) * step + low


def prod(x: Floats, nbits: int) -> Floats:
    """Algorithm 2 of the paper, with both scales rounded to bfloat16."""
    codec = TurboQuant(x.shape[1], nbits, mode="prod")
    codes = codec.encode(x)
    rounded = [torch.from_numpy(s).to(torch.bfloat16).float().numpy() for s in (codes.scale, codes.gamma)]
    return codec.decode(Codes(codes.data, *rounded))


Coder = Rival | Cached


def widths(key_nbits: int, value_nbits: int) -> Iterator[tuple[str, Coder]]:
    """All codecs at one pair of widths."""
    pair = (key_nbits, value_nbits)
    name = f"K{key_nbits}V{value_nbits}"
    yield f"{name} min/max", Rival(minmax, pair, 4)
    yield f"{name} scalar", Cached(Policy(*pair, mean_tokens=0))
    yield f"{name} prod + mean", Rival(prod, pair, 4, MEAN)
    yield f"{name} scalar + mean", Cached(Policy(*pair, mean_tokens=MEAN))
    if max(pair) <= 5:
        yield f"{name} trellis + mean", Cached(Policy(*pair, codebook="trellis", mean_tokens=MEAN))


def rows(part: str) -> Iterator[tuple[str, Coder]]:
    """Names and codecs of a part, the most telling first."""
    if part == "variants":
        yield from variants()
        return
    for pair in ((3, 3), (4, 4), (4, 2), (2, 2)) if part == "window" else ((4, 4), (3, 3)):
        yield from widths(*pair)


def variants() -> Iterator[tuple[str, Coder]]:
    """What else 3 bits a value can be spent on."""
    base = Policy(3, 3, "trellis")
    yield "K3V3 trellis, mean of 64", Cached(base)


def summary(name: str, coder: Coder, model: Model, part: Part, exact: Any) -> dict[str, Any]:
    """One pass over the text, and its row."""
    run = model.run(coder.make(model, part), part.hot)
    change = run.nll - exact.nll
    n = len(change)
    return {
        "codec": name,
        "bits": coder.bits(model, n - part.sinks),
        "perplexity": math.exp(run.nll.mean()),
        "increase": math.exp(change.mean()) - 1,
        "dnll": float(change.mean()),
        "error": float(change.std()) / math.sqrt(n),
        "kl": float(run.kl.mean()),
    }


def show(part: str, rows: list[dict[str, Any]]) -> None:
    """Print a part."""
    table = Table(title=part)
    for column in ("codec", "bits a value", "perplexity", "more", "ΔNLL", "±", "KL"):
        table.add_column(column, justify="left" if column == "codec" else "right")
    for row in rows:
        table.add_row(
            row["codec"],
            f"{row['bits']:.3f}",
            f"{row['perplexity']:.2f}",
            f"{100 * row['increase']:+.2f} %",
            f"{row['dnll']:+.4f}",
            f"{row['error']:.4f}",
            f"{row['kl']:.4f}",
        )
    console.print(table)


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("-n", type=int, default=4096, help="tokens")
    arguments = parser.parse_args()
    model = Model(arguments.n)
    exact = model.run()
    console.print(f"{prose_name()}: {arguments.n} tokens, exact perplexity {math.exp(exact.nll.mean()):.3f}")
    for part in arguments.parts:
        found = []
        for name, coder in rows(part):
            found.append(summary(name, coder, model, PARTS[part], exact))
            console.print(" ".join(f"{k}={v:.4f}" if isinstance(v, float) else str(v) for k, v in found[-1].items()))
        show(part, found)
        report(f"kv_quality-{part}", [{"tokens": arguments.n, "perplexity": math.exp(exact.nll.mean())}, *found])


if __name__ == "__main__":
    main()
