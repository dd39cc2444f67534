"""The rotations of profiles: each is a pair of functions ``(codec, dtype, rows)``, forwards and back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqvec.oracle.arithmetic import product
from tqvec.oracle.instance import Instance
from tqvec.reference import rotation


def _factors(codec: Instance, dtype: DTypeLike) -> NDArray:
    """Return the sign over the root of the block's size, for each round and coordinate."""
    sizes = np.repeat(codec.tables["blocks"], codec.tables["blocks"]).astype(np.float64)
    return (codec.tables["signs"] / np.sqrt(sizes)).astype(dtype)


def _hadamard(codec: Instance, dtype: DTypeLike, v: NDArray) -> NDArray:
    w = v.astype(dtype)
    for permutation, factors in zip(codec.tables["permutation"], _factors(codec, dtype), strict=True):
        w = rotation.transform_blocks(w[:, permutation] * factors, codec.tables["blocks"].tolist())
    return w


def _hadamard_inverse(codec: Instance, dtype: DTypeLike, v: NDArray) -> NDArray:
    w = v.astype(dtype)
    for permutation, factors in zip(codec.tables["permutation"][::-1], _factors(codec, dtype)[::-1], strict=True):
        before = np.empty_like(w)
        before[:, permutation] = rotation.transform_blocks(w, codec.tables["blocks"].tolist()) * factors
        w = before
    return w


def _dense(codec: Instance, dtype: DTypeLike, v: NDArray) -> NDArray:
    return product(v, codec.tables["matrix"].T, dtype)


def _dense_inverse(codec: Instance, dtype: DTypeLike, v: NDArray) -> NDArray:
    return product(v, codec.tables["matrix"], dtype)


def _transform_with_signs(codec: Instance, dtype: DTypeLike, v: NDArray, before: NDArray, after: NDArray) -> NDArray:
    size = int(codec.tables["blocks"][0])
    w = rotation.transform_blocks(v.astype(dtype) * before.astype(dtype), codec.tables["blocks"].tolist())
    result: NDArray = w * (after / np.sqrt(size)).astype(dtype)
    return result


def _signed_wht(codec: Instance, dtype: DTypeLike, v: NDArray) -> NDArray:
    return _transform_with_signs(codec, dtype, v, *codec.tables["signs"])


def _signed_wht_inverse(codec: Instance, dtype: DTypeLike, v: NDArray) -> NDArray:
    return _transform_with_signs(codec, dtype, v, *codec.tables["signs"][::-1])


ROTATIONS: dict[str, tuple[Callable[..., NDArray], Callable[..., NDArray]]] = {
    "hadamard": (_hadamard, _hadamard_inverse),
    "dense": (_dense, _dense_inverse),
    "signed_wht": (_signed_wht, _signed_wht_inverse),
}
