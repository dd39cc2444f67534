"""Run in a subprocess by test_attend_levels.py: attention of caches at the level that the process has, as JSON."""

import json

import numpy as np

import tqvec
from tqvec.kvcache import KVCache, Policy
from tqvec.reference import attention as reference

# Few rows, all of them coded, for each layout of codes: the last ones fill no vector, and a wrong score of one is seen.
ALL = {"recent": 0, "sinks": 0, "chunk": 1, "mean_tokens": 0}
CASES = [
    (64, 2300, Policy.from_name("turbo3")),
    *((d, 19, Policy(nbits, nbits, **ALL)) for d, nbits in ((128, 3), (128, 3.5), (96, 5), (64, 8), (100, 4))),
    *((d, 19, Policy(nbits, nbits, "trellis", **ALL)) for d, nbits in ((128, 4), (256, 2.5))),
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
