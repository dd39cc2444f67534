"""The inputs of stages: ordinary rows, and rows that break ports. All from integers, so the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec._types import Bytes, Floats
from tqvec.oracle.instance import Arrays, Instance
from tqvec.oracle.tables import near_normal

SEED = 10_501  # no rotation's
ORDINARY = 16
QUERIES = 4


class Case(NamedTuple):
    """Inputs of a stage, as the oracle computes them.

    Attributes
    ----------
    stage : str
    inputs : tuple of arrays
    rows : tuple of str
        The name of each row, for messages; of scores and outputs: of each query.
    ordinary : int
        The number of first rows whose errors set the tolerance of all.
    """

    stage: str
    inputs: Arrays
    rows: tuple[str, ...]
    ordinary: int


def ordinary_rows(d: int, n: int, number: int) -> Floats:
    """Draw (n, d) nearly normal numbers, row i times 2^(i mod 4 − 1)."""
    return near_normal(SEED, number, (n, d)) * np.ldexp(np.float32(1), np.arange(n) % 4 - 1)[:, None].astype(np.float32)


def adversarial_rows(d: int, half: bool = False) -> dict[str, Floats]:
    """Return vectors that ports get wrong, by name; `half`: the profile keeps lengths as float16, so they must fit."""
    j = np.arange(d)
    noise = near_normal(SEED, 3, (1, d))[0]
    rows = {
        "zero": np.zeros(d),
        "minus zero": np.full(d, -0.0),
        "denormal": (j % 7 - 3) * 2.0**-149,
        "large, float16 can hold it" if half else "norm beyond float16": np.ldexp(noise, 15 if half else 17)
        / np.float32(2) ** ((d.bit_length() - 1) // 2),
        "tiny": np.ldexp(noise, -60),
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


def tie_rows(codec: Instance) -> dict[str, Floats]:
    """Return rotated values on thresholds, one float32 above and below, and the extremes."""
    t = codec.tables["thresholds"]
    huge = np.float32(np.inf)
    values = {
        "on thresholds": t,
        "just below thresholds": np.nextafter(t, -huge),
        "just above thresholds": np.nextafter(t, huge),
        "special values": special_values(),
    }
    return {name: np.resize(row, codec.d) for name, row in values.items()}


def special_values() -> Floats:
    """Return zero, minus zero, the smallest denormals, and ±1."""
    return np.array([0.0, -0.0, 2.0**-149, -(2.0**-149), 1.0, -1.0], np.float32)


def code_rows(d: int, nbits: int) -> dict[str, Bytes]:
    """Return codes that show how bits are placed."""
    j = np.arange(d)
    top = 2**nbits - 1
    return {
        "all zero": np.zeros(d, np.uint8),
        "all largest": np.full(d, top, np.uint8),
        "counting": (j & top).astype(np.uint8),
        "first only": (top * (j == 0)).astype(np.uint8),
        "last only": (top * (j == d - 1)).astype(np.uint8),
        "lowest bit": np.full(d, 1, np.uint8),
    }


@lru_cache(maxsize=8)
def _chain(codec: Instance) -> tuple[dict[str, NDArray], tuple[str, ...]]:
    """Compute every value of the codec on ordinary and adversarial rows; also return the names of the rows."""
    hard = adversarial_rows(codec.d, codec.profile.scale_dtype == "float16")
    x = np.concatenate([ordinary_rows(codec.d, ORDINARY, 0), np.array(list(hard.values()))])
    names = (*(f"ordinary {i}" for i in range(ORDINARY)), *hard)
    values = np.concatenate([ordinary_rows(codec.d, ORDINARY, 7), x[ORDINARY:]])
    chain: dict[str, NDArray] = {"x": x, "values": values, "queries": ordinary_rows(codec.d, QUERIES, 1)}
    for name, stage in codec.stages.items():
        if name in ("attention", "encode"):
            continue  # attention has inputs of its own; the parts of encode are there already
        outputs = codec.outputs(name, None, *(chain[i] for i in stage.inputs))
        for key, value in zip(stage.outputs, outputs, strict=True):
            chain.setdefault(key, value)
    return chain, names


def _attention_inputs(codec: Instance) -> Arrays:
    """Draw queries, keys and values whose scores spread over several units, so that keys matter."""
    keys = near_normal(SEED, 4, (2 * ORDINARY, codec.d))
    values = near_normal(SEED, 5, (2 * ORDINARY, codec.d))
    queries = near_normal(SEED, 6, (QUERIES, codec.d)) * np.float32(2)
    if "values" in codec.stages["encode"].inputs:
        return (queries, *codec.outputs("encode", None, keys, values))
    return (queries, *codec.outputs("encode", None, keys), *codec.outputs("encode", None, values))


def iter_cases(codec: Instance, stage: str) -> Iterator[Case]:
    """Yield the cases of a stage that golden files have, the one of ordinary rows first."""
    queries = tuple(f"query {i}" for i in range(QUERIES))
    if stage == "attention":
        yield Case(stage, _attention_inputs(codec), queries, QUERIES)
        return
    chain, names = _chain(codec)
    inputs = tuple(chain[i] for i in codec.stages[stage].inputs)
    yield Case(stage, inputs, *((queries, QUERIES) if stage == "score" else (names, ORDINARY)))
    if stage == "quantize" and "thresholds" in codec.tables:
        ties = tie_rows(codec)
        yield Case(stage, (np.array(list(ties.values())),), tuple(ties), len(ties))
    if stage == "sign":
        yield Case(stage, (special_values()[None],), ("special values",), 1)
    if stage == "dequantize" or (stage in ("pack", "unpack") and codec.profile.family != "cache"):
        yield _codes_case(codec, stage)


def iter_later_cases(codec: Instance, stage: str, dtype: str) -> Iterator[Case]:
    """Yield the cases that golden files lack, since these never change.

    Scores of hundreds: e^x overflows, unless the largest score of each row is subtracted before. In half precision
    their rounding alone changes the weights.
    """
    if stage == "attention" and dtype == "float32":
        queries, *codes = _attention_inputs(codec)
        yield Case(
            stage, (queries * np.float32(64), *codes), tuple(f"large query {i}" for i in range(QUERIES)), QUERIES
        )


def _codes_case(codec: Instance, stage: str) -> Case:
    signed = codec.profile.family == "prod"
    rows = code_rows(codec.d, codec.profile.nbits - signed)
    codes = np.array(list(rows.values()))
    inputs: Arrays = (codes, codes & 1) if signed and stage != "dequantize" else (codes,)
    if codec.profile.family == "blocks" and stage != "dequantize":
        count = codec.d // codec.profile.block
        scales = np.ldexp(1.0, np.arange(len(codes) * count) % 20 - 9).reshape(-1, count)
        inputs = (codes, scales.astype(np.float16))
    if stage == "unpack":
        inputs = codec.outputs("pack", None, *inputs)
    return Case(stage, inputs, tuple(rows), len(rows))
