"""How fast is attention on codes? One decode step over 131,072 tokens, 8 KV heads of 128, beside NumPy and torch.

Two threads by default (TQVEC_BENCH_THREADS), the same for all. Ratios are rival time over tqvec time: above 1 tqvec is
faster. Rivals get what suits them: NumPy's float32 products run in BLAS, its float16 numbers are widened in blocks
that stay in the cache, since it has no product of them; torch's SDPA gets the query heads of a KV head as queries of
it, which spares it a copy of keys and values for each query head. Its keys and values are contiguous.

tqvec's time includes the rotation of the queries and that of the result. Keys and values are Gaussian and so are the
queries: weights are flat, and no row is skipped.
"""

from __future__ import annotations

import os

os.environ.setdefault("TQVEC_BENCH_THREADS", "2")

from _common import THREADS, alternate, console, report  # isort: skip - sets threads first

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

import tqvec
from tqvec import _threads
from tqvec.codec.attention import Part, add_values, attention_tables, code_scores, merge, softmax_in_place

TOKENS, KV_HEADS, D = 131_072, 8, 128
QUERY_HEADS = (8, 32)
CODECS = (("scalar", 3), ("scalar", 4), ("trellis", 3), ("trellis", 4))
BLOCK = 1 << 14  # rows whose scores stay in the second-level cache
WIDENED = 1 << 11  # float16 rows that NumPy widens at a time
REPEATS = 7

Floats = NDArray[np.float32]


def to_bfloat16(x: Floats) -> NDArray[np.uint16]:
    """The upper half of float32, rounded to the nearest even."""
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


class Coded:
    """Keys and values of all KV heads, compressed by one codec."""

    def __init__(self, codec: tqvec.TurboQuant, keys: Floats, values: Floats):
        self.codec, self.tables = codec, attention_tables(codec)
        self.sides = []
        for side in (keys, values):
            coded = [codec.encode(head) for head in side]
            self.sides.append([(codes.data, to_bfloat16(codes.scale)) for codes in coded])

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return sum(part.nbytes for side in self.sides for head in side for part in head)

    def attend(self, queries: Floats, skip_below: float = 0.0) -> Floats:
        """Attention of queries (KV heads, g, d), which are already scaled."""
        rotated = self.codec.transform.rotate(queries.reshape(-1, D)).reshape(queries.shape)
        out = np.empty_like(queries)

        def heads(part: int, start: int, stop: int) -> None:
            for head in range(start, stop):
                out[head] = self._head(head, rotated[head], skip_below)

        _threads.over_rows(heads, KV_HEADS, 1, THREADS)
        return out.reshape(-1, D) @ self.basis

    def _head(self, head: int, queries: Floats, skip_below: float) -> Floats:
        (keys, key_scale), (values, value_scale) = (side[head] for side in self.sides)
        workspace, parts = np.empty(len(queries) * BLOCK, np.float32), []
        for at in range(0, len(keys), BLOCK):
            rows = slice(at, at + BLOCK)
            scores = workspace[: len(queries) * len(keys[rows])].reshape(len(queries), -1)
            code_scores(self.tables, queries, keys[rows], key_scale[rows], scores)
            largest, total = softmax_in_place(scores)
            sums = np.zeros_like(queries)
            skipped = add_values(self.tables, scores, values[rows], value_scale[rows], sums, skip_below)
            parts.append(Part(largest, total, skipped, sums))
        return merge(parts)[0]

    @property
    def basis(self) -> Floats:
        """Matrix that takes rotated rows back."""
        if not hasattr(self, "_basis"):
            self._basis = np.ascontiguousarray(self.codec.transform.rotate(np.eye(D, dtype=np.float32)).T)
        return self._basis


def numpy_float32(queries: Floats, keys: Floats, values: Floats) -> Floats:
    """Softmax attention by BLAS, (KV heads, g, d)."""
    weights = np.matmul(queries, keys.transpose(0, 2, 1))
    weights -= weights.max(axis=2, keepdims=True)
    np.exp(weights, out=weights)
    out: Floats = np.matmul(weights, values)
    out /= weights.sum(axis=2, keepdims=True)
    return out


def numpy_float16(queries: Floats, keys: NDArray[np.float16], values: NDArray[np.float16]) -> Floats:
    """The same with float16 keys and values, widened in blocks."""
    heads, g, _ = queries.shape
    weights, out = np.empty((heads, g, keys.shape[1]), np.float32), np.zeros_like(queries)
    for head in range(heads):
        for at in range(0, keys.shape[1], WIDENED):
            rows = slice(at, at + WIDENED)
            np.matmul(queries[head], keys[head, rows].astype(np.float32).T, out=weights[head, :, rows])
    weights -= weights.max(axis=2, keepdims=True)
    np.exp(weights, out=weights)
    for head in range(heads):
        for at in range(0, keys.shape[1], WIDENED):
            rows = slice(at, at + WIDENED)
            out[head] += weights[head, :, rows] @ values[head, rows].astype(np.float32)
    out /= weights.sum(axis=2, keepdims=True)
    return out


def torch_task(queries: Floats, keys: Any, values: Any) -> Callable[[], object]:
    """SDPA in the type of keys and values; queries are scaled already."""
    q = torch.from_numpy(queries)[None].to(keys.dtype)

    def task() -> object:
        with torch.inference_mode():
            return torch.nn.functional.scaled_dot_product_attention(q, keys, values, scale=1.0)

    return task


def rivals(queries: Floats, keys: Floats, values: Floats, halves: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """Rivals by name."""
    k16, v16 = halves["numpy"]
    tasks: dict[str, Callable[[], object]] = {
        "NumPy float32": lambda: numpy_float32(queries, keys, values),
        "NumPy float16": lambda: numpy_float16(queries, k16, v16),
        "torch float32": torch_task(queries, *halves["float32"]),
        "torch float16": torch_task(queries, *halves["float16"]),
        "torch bfloat16": torch_task(queries, *halves["bfloat16"]),
    }
    return tasks


def compare(tokens: int) -> list[dict[str, Any]]:
    """Time one decode step of every codec and rival."""
    generator = np.random.default_rng(10_001)
    keys, values = generator.standard_normal((2, KV_HEADS, tokens, D), np.float32)
    halves: dict[str, Any] = {"numpy": (keys.astype(np.float16), values.astype(np.float16))}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        halves[str(dtype).removeprefix("torch.")] = [torch.from_numpy(x)[None].to(dtype) for x in (keys, values)]
    coded = {
        f"tqvec {kind} {n}": Coded(tqvec.TurboQuant(D, nbits=n, codebook=kind), keys, values) for kind, n in CODECS
    }
    rows = []
    for heads in QUERY_HEADS:
        queries = generator.standard_normal((KV_HEADS, heads // KV_HEADS, D), np.float32) / np.float32(np.sqrt(D))
        tasks = rivals(queries, keys, values, halves)
        names = list(tasks)
        tasks |= {name: lambda one=one, q=queries: one.attend(q) for name, one in coded.items()}
        seconds = alternate(tasks, REPEATS)
        exact = numpy_float32(queries, keys, values).reshape(-1, D)
        table = Table(title=f"{tokens:,} tokens, {heads} query heads, {THREADS} thread(s): median of {REPEATS}")
        for column in ("", "ms", "error", "MiB", *(f"over {name}" for name in names)):
            table.add_column(column, justify="right" if column else "left")
        for name in names:
            table.add_row(name, f"{seconds[name] * 1e3:.1f}", "", "")
        for name, one in coded.items():
            error = float(np.linalg.norm(one.attend(queries) - exact) / np.linalg.norm(exact))
            ratios = {rival: seconds[rival] / seconds[name] for rival in names}
            cells = [f"{ratio:.2f}" for ratio in ratios.values()]
            table.add_row(name, f"{seconds[name] * 1e3:.1f}", f"{error:.3f}", f"{one.nbytes / 2**20:.0f}", *cells)
            rows.append({"tokens": tokens, "heads": heads, "codec": name, "error": error, "ratios": ratios})
            rows[-1]["seconds"] = {one: seconds[one] for one in (*names, name)}
        console.print(table)
    return rows


def main() -> None:
    """Compare at the number of tokens of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=TOKENS)
    tokens = parser.parse_args().tokens
    torch.set_num_threads(THREADS)
    report("attention", compare(tokens))


if __name__ == "__main__":
    main()
