"""Run in a subprocess by test_attend_levels.py: attention on codes at the level that the process has, as JSON.

Codes and scales end where readable memory ends, so a kernel that reads beyond them dies.
"""

import ctypes
import json
import mmap
import sys

import numpy as np

import tqvec
from tqvec.codec.attention import add_values, attention_tables, code_scores, softmax_in_place
from tqvec.kvcache import KVCache
from tqvec.reference import attention as reference

CASES = ((128, 3, "scalar"), (128, 3.5, "scalar"), (96, 5, "scalar"), (64, 8, "scalar"), (100, 4, "scalar"))
CASES += ((128, 4, "trellis"), (256, 2.5, "trellis"))


def before_a_wall(array):
    """A copy of an array whose last byte is the last one of its page; the next page can't be read."""
    page = mmap.PAGESIZE
    size = -(-array.nbytes // page) * page
    memory = mmap.mmap(-1, size + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(start + size), page, 0):
        raise OSError("no memory could be protected")
    copy = np.frombuffer(memory, array.dtype, array.size, size - array.nbytes).reshape(array.shape)
    copy[:] = array
    return copy


def attend_to_a_cache():
    """The largest error of attention over all heads of a cache, part of the largest value; slices end within a run."""
    generator = np.random.default_rng(10_100)
    cache = KVCache(1, 2, 64, "turbo3")
    cache.append(0, *(generator.standard_normal((2, 2300, 64)) + 1 for _ in range(2)))
    queries = generator.standard_normal((4, 1, 64)).astype(np.float32)
    out, keys, values = cache.attend(0, queries, threads=2), cache.keys(0), cache.values(0)
    exact = [reference.attention(q / 8, keys[i // 2], values[i // 2], np.array([2300])) for i, q in enumerate(queries)]
    return np.abs(out - np.array(exact)).max() / np.abs(values).max()


def main():
    worst = []
    for d, nbits, kind in CASES:
        codec = tqvec.TurboQuant(d, nbits=nbits, codebook=kind, seed=1)
        tables = attention_tables(codec)
        for n in (1, 19):
            generator = np.random.default_rng(10_000 + n)
            data = before_a_wall(generator.integers(0, 256, (n, codec.code_size - 4)).astype(np.uint8))
            scale = before_a_wall(np.full(n, 0x3E80, np.uint16))  # 1/4
            queries = before_a_wall(generator.standard_normal((3, d)).astype(np.float32))
            scores, out = before_a_wall(np.zeros((3, n), np.float32)), before_a_wall(np.zeros((3, d), np.float32))
            code_scores(tables, queries, data, scale, scores)
            bands = [(band.start, band.stop, band.nbits) for band in codec.bands]
            rows = reference.levels(data, d, bands, kind) / 4
            exact = queries.astype(np.float64) @ rows.T
            worst.append(np.abs(scores - exact).max() / np.abs(exact).max())
            seen = np.array([n, n // 2, 1])
            weights, _, _ = reference.weights(scores.astype(np.float64), seen)
            softmax_in_place(scores, seen)
            add_values(tables, scores, data, scale, out)
            worst.append(np.abs(out - weights @ rows).max() / np.abs(rows).max())
    worst.append(attend_to_a_cache())
    print(json.dumps({"level": tqvec.simd_info()["level"], "worst": float(max(worst))}))


if __name__ == "__main__":
    main()
