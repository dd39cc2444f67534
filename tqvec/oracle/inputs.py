"""What stages are fed: ordinary rows, and rows that break ports. All from integers, so the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec.oracle.setup import Setup
from tqvec.oracle.tables import near_normal

SEED = 10_501  # no rotation's
ORDINARY = 16
QUERIES = 4
Arrays = dict[str, NDArray]


class Case(NamedTuple):
    """Inputs of one stage, made by the oracle itself.

    Attributes
    ----------
    stage : str
    inputs : tuple of arrays
    rows : tuple of str
        What each row is, for messages; of scores and outputs: each query.
    ordinary : int
        The first rows, whose errors set the tolerance of all.
    """

    stage: str
    inputs: tuple[NDArray, ...]
    rows: tuple[str, ...]
    ordinary: int


def ordinary_rows(d: int, n: int, number: int) -> NDArray[np.float32]:
    """(n, d) nearly normal numbers, row i times 2^(i mod 4 − 1)."""
    return near_normal(SEED, number, (n, d)) * np.ldexp(np.float32(1), np.arange(n) % 4 - 1)[:, None].astype(np.float32)


def adversarial_rows(d: int) -> dict[str, NDArray[np.float32]]:
    """Vectors that ports get wrong, by name."""
    j = np.arange(d)
    noise = near_normal(SEED, 3, (1, d))[0]
    rows = {
        "zero": np.zeros(d),
        "minus zero": np.full(d, -0.0),
        "denormal": (j % 7 - 3) * 2.0**-149,
        "norm beyond float16": np.ldexp(noise, 17) / np.float32(2) ** int(np.log2(d) / 2),
        "one-hot first": j == 0,
        "one-hot last": -1.0 * (j == d - 1),
        "two-sparse": 1.0 * (j == 1) - (j == d // 2),
        "all ones": np.ones(d),
        "all minus ones": -np.ones(d),
        "alternating": 1 - 2.0 * (j % 2),
        "quarter constant": 1.0 * (j < d // 4),
        "geometric": np.ldexp(1.0, -(j % 32)),
    }
    return {name: np.asarray(row, np.float32) for name, row in rows.items()}


def tie_rows(s: Setup) -> dict[str, NDArray[np.float32]]:
    """Rotated values on thresholds, one float32 above and below, and the extremes."""
    t = s.tables["thresholds"]
    huge = np.float32(np.inf)
    values = {
        "on thresholds": t,
        "just below thresholds": np.nextafter(t, -huge),
        "just above thresholds": np.nextafter(t, huge),
        "special values": special_values(),
    }
    return {name: np.resize(row, s.d) for name, row in values.items()}


def special_values() -> NDArray[np.float32]:
    """Zero, minus zero, the smallest denormals, and ±1."""
    return np.array([0.0, -0.0, 2.0**-149, -(2.0**-149), 1.0, -1.0], np.float32)


def code_rows(s: Setup, width: int) -> dict[str, NDArray[np.uint8]]:
    """Codes that show how bits are placed."""
    j = np.arange(s.d)
    top = 2**width - 1
    return {
        "all zero": np.zeros(s.d, np.uint8),
        "all largest": np.full(s.d, top, np.uint8),
        "counting": (j & top).astype(np.uint8),
        "first only": (top * (j == 0)).astype(np.uint8),
        "last only": (top * (j == s.d - 1)).astype(np.uint8),
        "lowest bit": np.full(s.d, 1, np.uint8),
    }


@lru_cache(maxsize=8)
def _values(s: Setup) -> tuple[Arrays, tuple[str, ...]]:
    """Every value of the chain on ordinary and adversarial rows, and the names of the rows."""
    odd = adversarial_rows(s.d)
    x = np.concatenate([ordinary_rows(s.d, ORDINARY, 0), np.array(list(odd.values()))])
    names = (*(f"ordinary {i}" for i in range(ORDINARY)), *odd)
    found: Arrays = {"x": x, "queries": ordinary_rows(s.d, QUERIES, 1)}
    for name, stage in s.stages.items():
        if name in ("attention", "encode"):
            continue  # attention has inputs of its own; the parts of encode are there already
        outputs = s.outputs(name, None, *(found[i] for i in stage.inputs))
        for key, value in zip(stage.outputs, outputs, strict=True):
            found.setdefault(key, value)
    return found, names


def _attention(s: Setup) -> tuple[NDArray, ...]:
    """Queries, keys and values whose scores spread over several units, so that keys matter."""
    keys = near_normal(SEED, 4, (2 * ORDINARY, s.d))
    values = near_normal(SEED, 5, (2 * ORDINARY, s.d))
    queries = near_normal(SEED, 6, (QUERIES, s.d)) * np.float32(2)
    return (queries, *s.outputs("encode", None, keys), *s.outputs("encode", None, values))


def _first_rows(s: Setup, stage: str) -> Iterator[Case]:
    """The main case of a stage, on the values of the chain."""
    values, names = _values(s)
    inputs = tuple(values[i] for i in s.stages[stage].inputs)
    if stage == "score":
        yield Case(stage, inputs, tuple(f"query {i}" for i in range(QUERIES)), QUERIES)
    else:
        yield Case(stage, inputs, names, ORDINARY)


def cases(s: Setup, stage: str) -> Iterator[Case]:
    """All cases of a stage."""
    if stage == "attention":
        yield Case(stage, _attention(s), tuple(f"query {i}" for i in range(QUERIES)), QUERIES)
        return
    yield from _first_rows(s, stage)
    if stage == "quantize" and "thresholds" in s.tables:
        extra = tie_rows(s)
        yield Case(stage, (np.array(list(extra.values())),), tuple(extra), len(extra))
    if stage == "sign":
        yield Case(stage, (special_values()[None],), ("special values",), 1)
    if stage in ("pack", "unpack", "dequantize"):
        yield from _codes_cases(s, stage)


def _codes_cases(s: Setup, stage: str) -> Iterator[Case]:
    signed = s.profile.family == "prod"
    rows = code_rows(s, s.profile.nbits - signed)
    codes = np.array(list(rows.values()))
    inputs: tuple[NDArray, ...] = (codes, codes & 1) if signed and stage != "dequantize" else (codes,)
    if stage == "unpack":
        inputs = s.outputs("pack", None, *inputs)
    yield Case(stage, inputs, tuple(rows), len(rows))
