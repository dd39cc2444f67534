"""Operations of the codec: the rotation, packing, `encode`, `decode` and `inner_product`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tqvec
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.pack.portable import SPREAD

DIMS, BATCHES, WIDTHS = (64, 128, 384, 768, 1536, 3072), (1, 10, 100, 1_000), range(1, 9)
CASES = [
    *(("d", d, 4, 1_000) for d in DIMS),
    *(("batch", 768, 4, batch) for batch in BATCHES),
    *(("bits", 768, nbits, 1_000) for nbits in WIDTHS),
]
QUERIES = 10


def cases(*axes: str) -> Any:
    """Parametrise a test by the cases of some axes."""
    chosen = [case for case in CASES if case[0] in axes]
    return pytest.mark.parametrize(("axis", "d", "nbits", "rows"), chosen, ids=str)


def size_of(axis: str, d: int, nbits: int, rows: int) -> int:
    """The size of a case along its axis."""
    return {"d": d, "batch": rows, "bits": nbits}[axis]


@cases("d", "batch", "bits")
def test_encode(measure: Any, vectors: Any, axis: str, d: int, nbits: int, rows: int) -> None:
    tq, x = tqvec.TurboQuant(d, nbits=nbits), vectors(rows, d)
    measure(lambda: tq.encode(x), "encode", axis, size_of(axis, d, nbits, rows), tq.encode(x).nbytes)


@cases("d", "batch")
def test_encode_with_the_trellis(measure: Any, vectors: Any, axis: str, d: int, nbits: int, rows: int) -> None:
    tq, x = tqvec.TurboQuant(d, nbits=nbits, codebook="trellis"), vectors(rows, d)
    measure(lambda: tq.encode(x), "encode, trellis", axis, size_of(axis, d, nbits, rows), tq.encode(x).nbytes)


@cases("d", "batch", "bits")
def test_decode(measure: Any, vectors: Any, axis: str, d: int, nbits: int, rows: int) -> None:
    tq = tqvec.TurboQuant(d, nbits=nbits)
    codes = tq.encode(vectors(rows, d))
    measure(lambda: tq.decode(codes), "decode", axis, size_of(axis, d, nbits, rows), tq.decode(codes).nbytes)


@cases("d", "batch", "bits")
def test_inner_product(measure: Any, vectors: Any, axis: str, d: int, nbits: int, rows: int) -> None:
    tq, x = tqvec.TurboQuant(d, nbits=nbits), vectors(rows, d)
    codes, queries = tq.encode(x), vectors(QUERIES, d)
    size = size_of(axis, d, nbits, rows)
    measure(lambda: tq.inner_product(queries, codes), "inner product", axis, size, 4 * QUERIES * rows)


@cases("d", "batch")
def test_rotation(measure: Any, vectors: Any, axis: str, d: int, nbits: int, rows: int) -> None:
    transform, x = tqvec.TurboQuant(d).transform, vectors(rows, d)
    measure(lambda: transform.rotate(x), "rotation (FWHT)", axis, size_of(axis, d, nbits, rows), x.nbytes)


def packing(d: int, nbits: int, rows: int) -> tuple[Callable[[], None], Callable[[], None], int]:
    """Functions that pack and unpack random codes, and the packed bytes."""
    codes = np.random.default_rng(4).integers(0, 2**nbits, (rows, d), np.uint8)
    bands, data = np.array([(0, d, nbits)], np.int64), np.zeros((rows, nbits * -(-d // 8)), np.uint8)
    pack, unpack = kernel("pack_rows"), kernel("unpack_rows")
    return lambda: pack(codes, bands, 0, rows, data), lambda: unpack(data, bands, SPREAD, 0, rows, codes), data.nbytes


@cases("d", "batch", "bits")
def test_pack(measure: Any, axis: str, d: int, nbits: int, rows: int) -> None:
    pack, _, nbytes = packing(d, nbits, rows)
    measure(pack, "pack", axis, size_of(axis, d, nbits, rows), nbytes)


@cases("d", "batch", "bits")
def test_unpack(measure: Any, axis: str, d: int, nbits: int, rows: int) -> None:
    _, unpack, _ = packing(d, nbits, rows)
    measure(unpack, "unpack", axis, size_of(axis, d, nbits, rows), rows * d)
