"""Does a cache stay right while threads append, attend, evict and fork beside each other? Every answer is checked.

A layer gets all tokens of a long text, in pieces of random size. Meanwhile readers attend, on the cache and on forks of
it; other forks get tokens of their own and are truncated. Every answer of a reader must equal, to the last bit, that of
a cache that was filled alone up to one of the pieces that there may have been; a fork never changes; after every piece
the bytes counted are those of the model. Any violation ends the run with exit status 1.
"""

from __future__ import annotations

from _common import console, report  # isort: skip - sets threads first

import argparse
import sys
import threading
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqvec.kvcache import KVCache, Policy, nbytes

Floats = NDArray[np.float32]

HEADS, D, READERS = 2, 64, 3
POLICIES = {
    "turbo3": Policy.from_name("turbo3"),
    "evicting": Policy(3, 3, max_tokens=6000),
    "recoded, evicting": Policy(4, 4, recode_after=3000, recoded_key_nbits=3, recoded_value_nbits=2, max_tokens=8000),
}


class Stress:
    """A stress run over `n` tokens."""

    def __init__(self, policy: Policy, n: int, step: int):
        rng = np.random.default_rng(10_900)
        self.policy, self.n = policy, n
        self.tokens = rng.standard_normal((2, HEADS, n, D), np.float32)
        self.tokens[0] += 3 * rng.standard_normal((HEADS, 1, D), np.float32)
        self.query = rng.standard_normal((2 * HEADS, 1, D), np.float32)
        steps = rng.integers(1, step + 1, n)
        self.ends = np.minimum(np.cumsum(steps), n)[: int(np.searchsorted(np.cumsum(steps), n)) + 1].tolist()
        self.answers: list[bytes] = [b""]
        self.cache = KVCache(1, HEADS, D, policy)
        self.begun = self.complete = 0
        self.stop, self.wrong = threading.Event(), list[str]()
        self.counts = {"appends": 0, "attentions": 0, "forks": 0, "byte checks": 0}
        self._lock = threading.Lock()

    def append(self, cache: KVCache, number: int) -> None:
        """Append the piece with a number, counted from 1."""
        rows = slice(self.ends[number - 2] if number > 1 else 0, self.ends[number - 1])
        cache.append(0, *self.tokens[:, :, rows], threads=1)

    def answer(self, cache: KVCache) -> bytes:
        """Return the attention of the query, as bytes."""
        return cache.attend(0, self.query, threads=1).tobytes()

    def prepare(self) -> None:
        """Compute the right answer after each piece, with a cache that is filled alone."""
        alone = KVCache(1, HEADS, D, self.policy)
        for number in range(1, len(self.ends) + 1):
            self.append(alone, number)
            self.answers.append(self.answer(alone))

    def write(self) -> None:
        """Append everything, and count bytes after each piece."""
        for number in range(1, len(self.ends) + 1):
            if self.stop.is_set():
                break
            self.begun = number
            self.append(self.cache, number)
            self.complete = number
            size, model = self.cache.nbytes, nbytes(self.policy, 1, HEADS, D, self.ends[number - 1])
            if size.items() != model.items():
                self.fail(f"{size} after {self.ends[number - 1]} tokens, the model says {model}")
            self.count("appends")
            self.count("byte checks")
        self.stop.set()

    def read(self, seed: int) -> None:
        """Attend and fork until the writer is done."""
        rng = np.random.default_rng(10_950 + seed)
        try:
            while not self.stop.is_set():
                first = self.complete
                if first:
                    forked = rng.random() < 0.3
                    cache = self.cache.fork() if forked else self.cache
                    answer = self.answer(cache)
                    last = self.begun
                    if answer not in self.answers[first : last + 1]:
                        self.fail(f"an answer that is none of those after pieces {first} to {last}")
                    self.count("attentions")
                    if forked:
                        self.check_fork(cache, answer, rng)
        except Exception as error:
            self.fail(f"{type(error).__name__}: {error}")

    def check_fork(self, fork: KVCache, answer: bytes, rng: np.random.Generator) -> None:
        """Check that a fork does not change while another fork of it grows and shrinks."""
        size, other = fork.nbytes, fork.fork()
        start = int(rng.integers(0, self.n - 500))
        other.append(0, *self.tokens[:, :, start : start + int(rng.integers(1, 500))], threads=1)
        other.truncate(int(rng.integers(1, other.n_tokens)))
        other.append(0, *self.tokens[:, :, start : start + 5], threads=1)
        self.answer(other)
        if self.answer(fork) != answer or fork.nbytes != size:
            self.fail("a fork changed")
        self.count("forks")

    def fail(self, message: str) -> None:
        """Note a violation and end the run."""
        self.wrong.append(message)
        self.stop.set()

    def count(self, what: str) -> None:
        """Add one to a count."""
        with self._lock:
            self.counts[what] += 1

    def run(self) -> dict[str, Any]:
        """Run writer and readers; return counts, time and violations."""
        self.prepare()
        start, before = time.perf_counter(), sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        threads = [threading.Thread(target=self.read, args=(seed,)) for seed in range(READERS)]
        for thread in threads:
            thread.start()
        try:
            self.write()
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()
            sys.setswitchinterval(before)
        return {**self.counts, "seconds": round(time.perf_counter() - start, 1), "wrong": self.wrong[:5]}


def main() -> None:
    """Run all policies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=131_072)
    parser.add_argument("--step", type=int, default=200, help="largest piece")
    arguments = parser.parse_args()
    rows = []
    for name, policy in POLICIES.items():
        row = {"policy": name, "tokens": arguments.tokens, **Stress(policy, arguments.tokens, arguments.step).run()}
        console.print(row)
        rows.append(row)
    report("kv_stress", rows)
    if any(row["wrong"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
