"""Operations of the K/V cache: `append` of a prompt, and `attend` for one new token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tqvec.kvcache import KVCache

KV_HEADS, HEADS, HEAD_DIM, TOKENS = 2, 8, 128, 1_000
COUNTS, DIMS = (1_000, 10_000, 50_000), (64, 128, 256)
POLICIES = ("turbo2", "turbo3", "turbo4")
CASES = [
    *(("tokens", HEAD_DIM, "turbo3", count) for count in COUNTS),
    *(("head dim", d, "turbo3", TOKENS) for d in DIMS),
    *(("bits", HEAD_DIM, policy, TOKENS) for policy in POLICIES),
]
by_case = pytest.mark.parametrize(("axis", "d", "policy", "tokens"), CASES, ids=str)


def size_of(axis: str, d: int, policy: str, tokens: int) -> int:
    """The size of a case along its axis."""
    return {"tokens": tokens, "head dim": d, "bits": int(policy[-1])}[axis]


def prompt(d: int, tokens: int) -> NDArray[np.float32]:
    """Random keys and values."""
    return np.random.default_rng(4).standard_normal((2, KV_HEADS, tokens, d), np.float32)


def filled(d: int, policy: str, kv: NDArray[np.float32]) -> KVCache:
    """A cache of one layer that holds a prompt."""
    cache = KVCache(n_layers=1, n_kv_heads=KV_HEADS, head_dim=d, policy=policy)
    cache.append(0, *kv)
    return cache


@by_case
def test_append(measure: Any, axis: str, d: int, policy: str, tokens: int) -> None:
    kv = prompt(d, tokens)
    size, nbytes = size_of(axis, d, policy, tokens), int(filled(d, policy, kv).nbytes)
    measure(lambda: filled(d, policy, kv), "cache append", axis, size, nbytes)


@by_case
def test_attend(measure: Any, axis: str, d: int, policy: str, tokens: int) -> None:
    cache = filled(d, policy, prompt(d, tokens))
    query = np.random.default_rng(5).standard_normal((HEADS, 1, d), np.float32)
    size = size_of(axis, d, policy, tokens)
    measure(lambda: cache.attend(0, query), "cache attend", axis, size, int(cache.nbytes))
