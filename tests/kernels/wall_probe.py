"""Run in a subprocess by test_attend_levels.py: how far the kernels of attention err, by level, as JSON.

Codes and scales end where readable memory ends, so a kernel that reads beyond them dies. All levels run in one process,
with the machine code that test_attend.py runs: nothing is compiled for this alone.
"""

import ctypes
import json
import mmap
import sys

import numpy as np

import tqvec
from tqvec.codec.attention import attention_tables
from tqvec.kernels.dispatch import implementation, levels
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


def worst_error(level, codec, n):
    """Largest error of scores and of sums of values with the kernels of a level, part of the largest that there is."""
    d, tables, generator = codec.d, attention_tables(codec), np.random.default_rng(10_000 + n)
    data = before_a_wall(generator.integers(0, 256, (n, codec.code_size - 4)).astype(np.uint8))
    scale = before_a_wall(np.full(n, 0x3E80, np.uint16))  # 1/4
    queries = before_a_wall(generator.standard_normal((3, d)).astype(np.float32))
    scores, out = before_a_wall(np.zeros((3, n), np.float32)), before_a_wall(np.zeros((3, d), np.float32))
    largest, total, skipped = (before_a_wall(np.zeros(3, np.float32)) for _ in range(3))
    implementation("code_scores", level)(tables, queries, data, scale, scores)
    bands = [(band.start, band.stop, band.nbits) for band in codec.bands]
    rows = reference.levels(data, d, bands, codec.codebook) / 4
    exact = queries.astype(np.float64) @ rows.T
    error = np.abs(scores - exact).max() / np.abs(exact).max()
    seen = np.array([n, n // 2, 1])
    weights, _, _ = reference.weights(scores.astype(np.float64), seen)
    implementation("softmax_rows", level)(scores, seen, largest, total)
    implementation("add_values", level)(tables, scores, data, scale, np.float32(0), out, skipped)
    return max(error, np.abs(out - weights @ rows).max() / np.abs(rows).max())


def main():
    worst = {}
    for level in levels("code_scores"):
        codecs = [tqvec.TurboQuant(d, nbits=nbits, codebook=kind, seed=1) for d, nbits, kind in CASES]
        worst[level] = float(max(worst_error(level, codec, n) for codec in codecs for n in (1, 19)))
    print(json.dumps(worst))


if __name__ == "__main__":
    main()
