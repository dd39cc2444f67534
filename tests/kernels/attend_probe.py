"""Run in a subprocess by test_attend_levels.py: attention of caches at the level that the process has, as JSON."""

import json

import numpy as np

import tqvec
from tqvec.kvcache import KVCache, Policy
from tqvec.reference import attention as reference

CASES = [
    *((64, 2300, "turbo3"), (128, 400, Policy(3, 3.5)), (96, 400, Policy(5, 5)), (64, 400, Policy(8, 8))),
    *((100, 400, Policy(4, 4)), (128, 400, Policy(4, 4, "trellis")), (256, 400, Policy(2.5, 2.5, "trellis"))),
]


def error(d, n, policy):
    """The largest error of attention over all heads of a cache, part of the largest value; slices end within a run."""
    generator = np.random.default_rng(10_100)
    cache = KVCache(1, 2, d, policy)
    cache.append(0, *(generator.standard_normal((2, n, d)) + 1 for _ in range(2)))
    queries = generator.standard_normal((4, 1, d)).astype(np.float32)
    out, keys, values = cache.attend(0, queries, threads=2), cache.keys(0), cache.values(0)
    heads = [(q / np.sqrt(d), keys[i // 2], values[i // 2]) for i, q in enumerate(queries)]
    exact = [reference.attention(*head, np.array([n])) for head in heads]
    return np.abs(out - np.array(exact)).max() / np.abs(values).max()


def main():
    worst = max(float(error(*case)) for case in CASES)
    print(json.dumps({"level": tqvec.simd_info()["level"], "worst": worst}))


if __name__ == "__main__":
    main()
