"""Run in a subprocess by test_invariance.py: prints what one process makes of a fixed input, as JSON."""

import hashlib
import json
import sys

import numpy as np

import tqvec
from tqvec.codec.calibration import Calibration

SHAPES = ((3, 8, 20), (40, 2, 20), (50, 5, 5), (20, 2.5, 5))
LARGE = ((3, "scalar"), (2.5, "scalar"), ([(8, 6), (56, 2)], "scalar"), ([(24, 3), (40, 2)], "trellis"))
TRELLIS_SHAPES = ((17, 4, 18), (33, [(16, 5), (17, 3)], 3))


def fixed_calibration(d):
    """A calibration in bytes that no LAPACK had a part in."""
    matrix = ((np.arange(d * d) * 7919) % 251 - 125).reshape(d, d).astype(np.int8)
    numbers = np.arange(1, d + 1, dtype=np.float32)
    bands = (tqvec.codec.bands.Band(0, 24, 5), tqvec.codec.bands.Band(24, 56, 2))
    return Calibration(numbers / 8, matrix, bands, np.array([2, 1], np.float32), row_steps=numbers / 4096)


def main():
    digest = hashlib.sha256()
    found = []
    for d, nbits, n in SHAPES:
        x = (np.arange(n * d) * 7919 % 509 - 254).reshape(n, d).astype(np.float32) / np.float32(32)
        tq = tqvec.TurboQuant(d, nbits=nbits, seed=21)
        codes = tq.encode(x, threads=1)
        digest.update(codes.data.tobytes() + codes.scale.tobytes() + tq.decode(codes).tobytes())
        two_stages = tqvec.TurboQuant(d, nbits=nbits, mode="prod", qjl="hadamard", seed=21)
        codes = two_stages.encode(x, threads=1)
        digest.update(codes.data.tobytes() + codes.gamma.tobytes() + two_stages.decode(codes).tobytes())
        index = tqvec.Index(d, nbits=nbits, seed=21)
        index.add(x)
        scores, ids = index.search(x[::4] + 1, k=n)
        digest.update(scores.tobytes())
        found.append(ids.tolist())
    for d, nbits, n in TRELLIS_SHAPES:
        x = (np.arange(n * d) * 7919 % 509 - 254).reshape(n, d).astype(np.float32) / np.float32(32)
        index = tqvec.Index(d, nbits=nbits, codebook="trellis", seed=21)
        codes = index.codec.encode(x, threads=1)
        digest.update(codes.data.tobytes() + codes.scale.tobytes() + index.codec.decode(codes).tobytes())
        index.add(x)
        digest.update(index.search(x[::4] + 1, k=n)[0].tobytes())
    if "--large" in sys.argv:  # enough rows for the staged and the batched search; too many without the JIT
        x = (np.arange(64 * 4000) * 7919 % 10007 - 5003).reshape(4000, 64).astype(np.float32) / np.float32(512)
        for nbits, codebook in LARGE:
            index = tqvec.Index(64, nbits=nbits, metric="cosine", codebook=codebook, seed=22)
            index.add(x)
            for count in (1, 40):
                scores, ids = index.search(x[:count] + x[5:6], k=10, threads=1)
                digest.update(scores.tobytes() + ids.tobytes())
    if "--large" in sys.argv:
        calibration = fixed_calibration(64)
        codec = tqvec.TurboQuant(64, nbits=3, seed=22).calibrated(calibration)
        codes = codec.encode(x, threads=1)
        digest.update(codes.data.tobytes() + codes.scale.tobytes() + codec.decode(codes).tobytes())
        digest.update(codec.transform.rotate(x[:40]).tobytes())
    info = tqvec.simd_info()
    print(json.dumps({"level": info["level"], "cpu": info["cpu"], "sha256": digest.hexdigest(), "ids": found}))


if __name__ == "__main__":
    main()
