"""Filters and the numbers that rows begin with, in every search kernel, against a full scan of all rows."""

import os
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import strategies as sts
from batches import batch_tables, prefix_tables

import tqvec
from tqvec.codec.bands import integer_levels
from tqvec.codec.tables.staged import prefix_counts, prefix_planes, stage_tables
from tqvec.index.prefixes import PrefixBlocks
from tqvec.kernels import features
from tqvec.kernels.arguments import Heap, RowRange, Rows
from tqvec.kernels.dispatch import _DRIVERS, available, kernel, levels
from tqvec.kernels.pack.portable import SPREAD
from tqvec.kernels.scan.queries import NORM
from tqvec.kernels.tables import QueryTables, ScanTables
from tqvec.kernels.topk.portable import EMPTY_ID, topk_sort_portable

N = 64 * 23 + 17  # ends in the middle of a word
CUT = 64 * 9  # where a second call goes on
CODECS = {
    "one band": (64, 4, "scalar"),
    "one bit": (96, 1, "scalar"),
    "five bits": (40, 5, "scalar"),
    "bands": (72, [(24, 6), (48, 2)], "scalar"),
    "trellis": (64, 2, "trellis"),
    "bands of a trellis": (64, [(24, 3), (40, 2)], "trellis"),
}
KINDS = {"search_rows": 5, "search_few": 3, "search_prefixes": 7, "search_batch": 37}  # and how many queries they get
PARTS = {kind: part for kind, (_, part) in _DRIVERS.items() if kind in KINDS}  # by which the levels of a kind differ
ALL = np.zeros(0, np.uint64)
WORKSPACE = np.full(1 << 23, 255, np.uint8)


def needs(kind):
    if not available(kind):
        pytest.skip(f"no {kind} at this level")


class Block(NamedTuple):
    """Rows as the kernels take them, with 64 spare ones."""

    codec: tqvec.TurboQuant
    data: np.ndarray
    factor: np.ndarray
    bias: np.ndarray


@cache
def block(name, biased, seed=1):
    d, nbits, codebook = CODECS[name]
    codec = tqvec.TurboQuant(d, nbits=nbits, codebook=codebook, seed=31)
    codes = codec.encode(sts.normal(N, d, seed) * sts.rng(seed).uniform(0.3, 2, (N, 1)).astype(np.float32))
    spare = sts.rng(9).integers(0, 256, (64, codes.data.shape[1]), np.uint8)
    factor = np.concatenate([codes.scale, np.full(64, 1e30, np.float32)])
    bias = -np.square(sts.rng(seed + 50).standard_normal(N + 64)).astype(np.float32) * 30
    return Block(codec, np.concatenate([codes.data, spare]), factor, bias if biased else bias[:0])


def search(kind, rows, queries, allowed, base, heaps, start=0, stop=N):
    """Call a kernel for some rows of a block."""
    codec, block = rows.codec, Rows(*rows[1:], base)
    bands, windows = codec.quantizer.bands, codec.quantizer.windows
    levels = integer_levels(codec.d, codec.quantizer)
    where, best = RowRange(allowed, start, stop), Heap(*heaps, np.full(len(queries), -np.inf, np.float32))
    tables = QueryTables(codec.transform.tables, bands, NORM, levels.unit)
    known = codec.d, codec.bands, windows, codec.band_std
    counts = prefix_counts(*known)
    stages = stage_tables(*known, levels.levels, counts)
    if kind == "search_few":
        prefixes = PrefixBlocks(prefix_planes(codec.bands, windows, counts)).of(rows.data, N)
        workspace = WORKSPACE.view(np.float32)
        few = import_module("tqvec.kernels.staged.query")  # which there is at some levels only
        staged = few.staged_queries(len(queries), stages)
        for q in range(len(queries)):
            few.prepare_query(queries, q, tables, stages, staged)
            heap = Heap(*(each[q] for each in best[:2]), best.least[q:])
            query = few.query_at(staged, q)
            query = query._replace(unit=np.float32(query.unit))  # Numba gives Python a float
            few.search_few(block, prefixes, query, stages, workspace, where, heap)
        return
    nq = len(queries)
    directions, weight, unit = np.empty_like(queries), np.empty(nq), np.empty(nq, np.float32)
    kernel("query_directions")(queries, tables, directions, weight, unit)
    if kind == "search_prefixes":
        prefixes = PrefixBlocks(prefix_planes(codec.bands, windows, counts)).of(rows.data, N)
        batch = prefix_tables(bands, stages, directions, weight, unit)
        kernel(kind)(block, prefixes, stages, batch, where, best, WORKSPACE)
        return
    if kind == "search_batch":
        batch = batch_tables(bands, windows, codec.band_std, directions, weight, unit)
        kernel(kind)(block, stages, batch, where, best, WORKSPACE)
        return
    integers = np.empty((nq, sum(-(-(band.stop - band.start) // 8) * 8 for band in codec.bands)), np.int16)
    kernel("integer_queries")(directions, bands, 8, integers)
    scan = ScanTables(bands, windows, levels.levels, levels.pairs, SPREAD)
    kernel(kind)(block, scan, integers, unit, where, best)


def empty(nq, k):
    return np.full((nq, k), -np.inf, np.float32), np.full((nq, k), EMPTY_ID)


def finished(heaps):
    scores, ids = heaps
    for q in range(len(scores)):
        topk_sort_portable(scores[q], ids[q])
    return scores, ids


def queries_of(rows, count):
    """Some near rows of the block, one that is zero."""
    x = rows.codec.decode(rows.codec.encode(sts.normal(count, rows.codec.d, 1)))
    queries = x + sts.normal(count, rows.codec.d, 77) * np.float32(0.4)
    queries[count // 2] = 0
    return queries


@cache
def every_score(name, biased, kind, seed=1):
    """(nq, N): by the full scan of all rows."""
    rows = block(name, biased, seed)
    queries = queries_of(rows, KINDS[kind])
    heaps = empty(len(queries), N)
    search("search_rows", rows, queries, ALL, 0, heaps)
    scores, ids = finished(heaps)
    dense = np.empty_like(scores)
    np.put_along_axis(dense, ids, scores, axis=1)
    return dense


def masks(n):
    """Filters: (n,) bool."""
    rng = sts.rng(5)
    row = np.arange(n)
    return {
        "all": row >= 0,
        "none": row < 0,
        "one row": row == n // 3,
        "the last row": row == n - 1,
        "one in a hundred": rng.random(n) < 0.01,
        "half": rng.random(n) < 0.5,
        "a range": (row >= 201) & (row < 1130),
        "the last word": (row >= n // 64 * 64) & (rng.random(n) < 0.5),
    }


def words(mask):
    bits = np.zeros(-(-len(mask) // 64) * 64, bool)
    bits[: len(mask)] = mask
    return np.packbits(bits, bitorder="little").view(np.uint64)


def check(actual, dense, mask, k):
    """As many as there are, allowed rows alone, the very scores; one in a thousand may be missing, and one more."""
    scores, ids = actual
    count = min(k, int(mask.sum()))
    assert np.all(scores[:, count:] == -np.inf)
    assert np.all(ids[:, count:] == EMPTY_ID)
    best = np.where(mask, dense, -np.inf)
    truth = np.argsort(-best, axis=1, kind="stable")[:, :count]
    missing = sum(np.sum(~np.isin(*pair)) for pair in zip(truth, ids[:, :count], strict=True))
    assert missing <= (0 if mask.sum() <= k else 1 + truth.size / 1000)
    for q in range(len(ids)):
        assert len(set(ids[q, :count])) == count
        assert np.all(mask[ids[q, :count]])
        np.testing.assert_array_equal(scores[q, :count], dense[q, ids[q, :count]])
        same = np.lexsort((ids[q, :count], -scores[q, :count]))
        np.testing.assert_array_equal(same, np.arange(count))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("name", CODECS)
def test_filters(name, biased, kind):
    needs(kind)
    rows, dense = block(name, biased), every_score(name, biased, kind)
    queries = queries_of(rows, KINDS[kind])
    for mask in masks(N).values():
        for k in (1, 10, 200):
            heaps = empty(len(queries), k)
            search(kind, rows, queries, words(mask), 0, heaps)
            check(finished(heaps), dense, mask, k)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["one band", "bands"])
def test_no_filter_is_a_filter_that_lets_all_in(name, kind):
    needs(kind)
    rows, dense = block(name, True), every_score(name, True, kind)
    queries = queries_of(rows, KINDS[kind])
    actual = []
    for allowed in (ALL, words(np.ones(N, bool))):
        heaps = empty(len(queries), 20)
        search(kind, rows, queries, allowed, 0, heaps)
        actual.append(finished(heaps))
        check(actual[-1], dense, np.ones(N, bool), 20)
    np.testing.assert_array_equal(actual[0], actual[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("biased", [False, True])
def test_blocks_and_parts_share_heaps(biased, kind):
    """Three blocks, each in two calls, one of them not filtered: thresholds carry over, rows get their own numbers."""
    needs(kind)
    names, seeds, bases = ["one band"] * 3, (1, 2, 3), (0, 10**12, 5000)
    filters = [masks(N)[name] for name in ("one in a hundred", "all", "half")]
    queries = queries_of(block("one band", biased), KINDS[kind])
    for k in (1, 30, 3000):
        heaps = empty(len(queries), k)
        for name, seed, base, mask in zip(names, seeds, bases, filters, strict=True):
            rows = block(name, biased, seed)
            allowed = ALL if mask.all() else words(mask)
            search(kind, rows, queries, allowed, base, heaps, 0, CUT)
            search(kind, rows, queries, allowed, base, heaps, CUT, N)
        scores, ids = finished(heaps)
        dense = np.concatenate([every_score("one band", biased, kind, seed) for seed in (1, 3, 2)], axis=1)
        for part, base in enumerate((0, 5000, 10**12)):  # so the blocks lie in the order of their numbers
            here = (ids >= base) & (ids < base + N)
            ids[here] += part * N - base
        check((scores, ids), dense, np.concatenate([filters[0], filters[2], filters[1]]), k)


@pytest.mark.parametrize("kind", KINDS)
def test_calls_may_end_within_a_word(kind):
    """Bits of rows from `stop` on are for another call."""
    needs(kind)
    rows, dense = block("one band", False), every_score("one band", False, kind)
    queries = queries_of(rows, KINDS[kind])
    for stop in (CUT + 1, CUT + 16, CUT + 45):
        heaps = empty(len(queries), 12)
        search(kind, rows, queries, words(np.ones(N, bool)), 0, heaps, CUT, stop)
        mask = (np.arange(N) >= CUT) & (np.arange(N) < stop)
        check(finished(heaps), dense, mask, 12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", ["one in a hundred", "half"])
def test_the_worst_scores_are_found(mask, kind):
    """Near the end of float32, where a made-up lowest score would hide them."""
    needs(kind)
    mask, rows = masks(N)[mask], block("one band", True)
    rows = rows._replace(bias=np.linspace(-3.4e38, -3.3e38, N + 64).astype(np.float32))
    queries = queries_of(rows, KINDS[kind])
    for k in (10, 2000):
        heaps = empty(len(queries), k)
        search(kind, rows, queries, words(mask), 0, heaps)
        dense = np.broadcast_to(rows.bias[:N], (len(queries), N))
        check(finished(heaps), dense, mask, k)


@pytest.mark.slow
@pytest.mark.parametrize("level", [level for level in features.LEVELS if level != "neon"])
def test_lower_levels(level):
    below = features.available_levels()[features.available_levels().index(features.level()) + 1 :]
    if level not in below:
        pytest.skip(f"{level} is not below the level in use")
    kinds = [kind for kind in KINDS if level in levels(PARTS[kind])[1:]]  # this process runs the first of each
    chosen = f"not lower_levels and ({' or '.join(kinds)})"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", chosen, __file__]
    environment = os.environ | {"TQVEC_SIMD_LEVEL": level}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
