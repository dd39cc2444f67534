"""Run in a subprocess by test_invariance.py: prints hashes of what one process makes of fixed inputs, as JSON.

``python tests/codec/probe.py PART …`` hashes some of `PARTS`. Fewer parts need fewer kernels, which compile for
long.
"""

import hashlib
import json
import sys
from itertools import chain

import numpy as np

import tqvec
from tqvec.codec.calibration import Calibration

SHAPES = ((3, 8, 20), (40, 2, 20), (50, 5, 5), (20, 2.5, 5))
MANY = ((3, "scalar"), (2.5, "scalar"), ([(8, 6), (56, 2)], "scalar"), ([(24, 3), (40, 2)], "trellis"))
TRELLIS_SHAPES = ((17, 4, 18), (33, [(16, 5), (17, 3)], 3))


def fixed_calibration(d):
    """A calibration in bytes that no LAPACK had a part in."""
    matrix = ((np.arange(d * d) * 7919) % 251 - 125).reshape(d, d).astype(np.int8)
    numbers = np.arange(1, d + 1, dtype=np.float32)
    bands = (tqvec.codec.bands.Band(0, 24, 5), tqvec.codec.bands.Band(24, 56, 2))
    return Calibration(numbers / 8, matrix, bands, np.array([2, 1], np.float32), row_steps=numbers / 4096)


def rows_of(n, d):
    return (np.arange(n * d) * 7919 % 509 - 254).reshape(n, d).astype(np.float32) / np.float32(32)


def many_rows():
    """Enough for the staged and the batched search; too many without the JIT."""
    return (np.arange(64 * 4000) * 7919 % 10007 - 5003).reshape(4000, 64).astype(np.float32) / np.float32(512)


def coded(codec, x):
    """Codes, their factors, and what they decode to."""
    codes = codec.encode(x, threads=1)
    return codes.data, codes.gamma if codec.mode == "prod" else codes.scale, codec.decode(codes)


def make_codes():
    for d, nbits, n in SHAPES:
        yield from coded(tqvec.TurboQuant(d, nbits=nbits, seed=21), rows_of(n, d))
        yield from coded(tqvec.TurboQuant(d, nbits=nbits, mode="prod", qjl="hadamard", seed=21), rows_of(n, d))
    for d, nbits, n in TRELLIS_SHAPES:
        yield from coded(tqvec.TurboQuant(d, nbits=nbits, codebook="trellis", seed=21), rows_of(n, d))


def search_few_rows():
    for (d, nbits, n), codebook in chain(((s, "scalar") for s in SHAPES), ((s, "trellis") for s in TRELLIS_SHAPES)):
        x, index = rows_of(n, d), tqvec.Index(d, nbits=nbits, codebook=codebook, seed=21)
        index.add(x)
        yield from index.search(x[::4] + 1, k=n)


def search_many_rows():
    x = many_rows()
    for nbits, codebook in MANY:
        index = tqvec.Index(64, nbits=nbits, metric="cosine", codebook=codebook, seed=22)
        index.add(x)
        for count in (1, 40):
            yield from index.search(x[:count] + x[5:6], k=10, threads=1)


def make_calibrated_codes():
    x, codec = many_rows(), tqvec.TurboQuant(64, nbits=3, seed=22).calibrated(fixed_calibration(64))
    yield from coded(codec, x)
    yield codec.transform.rotate(x[:40])


PARTS = {
    "codes": make_codes,
    "few rows": search_few_rows,
    "many rows": search_many_rows,
    "calibrated codes": make_calibrated_codes,
}


def main():
    hashes = {}
    for part in sys.argv[1:]:
        digest = hashlib.sha256()
        for array in PARTS[part]():
            digest.update(array.tobytes())
        hashes[part] = digest.hexdigest()
    info = tqvec.simd_info()
    print(json.dumps({"level": info["level"], "cpu": info["cpu"], "hashes": hashes}))


if __name__ == "__main__":
    main()
