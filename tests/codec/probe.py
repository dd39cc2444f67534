"""Run in a subprocess by test_invariance.py: prints what one process makes of a fixed input, as JSON."""

import hashlib
import json

import numpy as np

import tqvec

SHAPES = ((3, 8, 20), (40, 2, 20), (50, 5, 5))


def main():
    digest = hashlib.sha256()
    found = []
    for d, nbits, n in SHAPES:
        x = (np.arange(n * d) * 7919 % 509 - 254).reshape(n, d).astype(np.float32) / np.float32(32)
        tq = tqvec.TurboQuant(d, nbits=nbits, seed=21)
        codes = tq.encode(x, threads=1)
        digest.update(codes.data.tobytes() + codes.scale.tobytes() + tq.decode(codes).tobytes())
        index = tqvec.Index(d, nbits=nbits, seed=21)
        index.add(x)
        scores, ids = index.search(x[::4] + 1, k=n)
        digest.update(scores.tobytes())
        found.append(ids.tolist())
    info = tqvec.simd_info()
    print(json.dumps({"level": info["level"], "cpu": info["cpu"], "sha256": digest.hexdigest(), "ids": found}))


if __name__ == "__main__":
    main()
