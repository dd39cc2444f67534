"""Checks of the arrays and numbers that users give to a cache."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tqvec import _validate
from tqvec._types import Floats
from tqvec.errors import InputError
from tqvec.kvcache import half_precision
from tqvec.kvcache.byte_model import TokenCounts
from tqvec.kvcache.half_precision import Halves
from tqvec.kvcache.rope import Rope

_PART = 1024  # tokens checked at a time
_FLOAT16_ENDS = 1e5


def _check(rows: NDArray, name: str, largest: float, where: str) -> None:
    """Refuse numbers above `largest`, NaN and infinity, and name the head and the row: `where` is a format of both."""
    for start in range(0, rows.shape[1], _PART):
        part = rows[:, start : start + _PART]
        numbers = half_precision.to_float32(part) if rows.dtype.itemsize == 2 else part
        if numbers.size == 0 or (numbers.min() >= -largest and numbers.max() <= largest):  # NaN is neither
            continue
        head, row, _ = np.argwhere(~(np.abs(numbers) <= largest))[0]
        vector = rows[:, start + row][head] if rows.dtype == np.float16 else numbers[head, row]  # to_float32 loses NaN
        finite = np.isfinite(vector).all()
        fault = f"a value above {largest:g}" if finite else "NaN or Inf"
        hint = "; a policy with dtype='bfloat16' takes it" if finite and largest < _FLOAT16_ENDS else ""
        raise InputError(f"{name} {where.format(head=head, row=start + row)} holds {fault}{hint}")


def _float32(array: NDArray) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(array, np.float32)


def tokens(x: ArrayLike, name: str, shape: tuple[int, int], dtype: str, layer: int) -> Floats | Halves:
    """Check new keys or values; return them as float32, or in 16 bits if they already are of this type.

    Parameters
    ----------
    x : (heads, n, head_dim) float
    name : str
        Name of the argument, for messages.
    shape : (heads, head_dim)
    dtype : str
        "float16" or "bfloat16".
    layer : int
        Number of the layer, for messages.

    Raises
    ------
    InputError
        Wrong type or shape, NaN, Inf, or a number that the type can't hold.
    """
    array = _validate.numbers(x, name)
    heads, d = shape
    if array.ndim != 3 or (array.shape[0], array.shape[2]) != shape:
        raise InputError(f"{name} must have shape ({heads}, n_tokens, {d}), got {array.shape}")
    rows = array.view(half_precision.type_of(dtype)) if array.dtype.name == dtype else _float32(array)
    _check(rows, name, half_precision.LARGEST[dtype], f"of layer {layer}, head {{head}}, token {{row}}")
    return rows


def queries(x: ArrayLike, shape: tuple[int, int], factor: float, layer: int) -> Floats:
    """Check queries and return them times a factor, (n_heads, n, head_dim) float32.

    Parameters
    ----------
    x : (n_heads, n, head_dim) float
    shape : (n_kv_heads, head_dim)
    factor : float
    layer : int
        Number of the layer, for messages.

    Raises
    ------
    InputError
        Wrong type or shape, NaN, Inf, or a number so large that scores would overflow.
    """
    array = _validate.numbers(x, "q")
    heads, d = shape
    if array.ndim != 3 or array.shape[0] % heads or array.shape[0] == 0 or array.shape[2] != d:
        raise InputError(f"q must have shape (multiple of {heads}, n_queries, {d}), got {array.shape}")
    largest = half_precision.LARGEST["bfloat16"] / max(1.0, abs(factor))
    rows = _float32(array)
    _check(rows, "q", largest, f"of layer {layer}, head {{head}}, query {{row}}")
    return rows * np.float32(factor)


def newest(n_queries: int, counts: TokenCounts, layer: int) -> None:
    """Raise InputError if a layer does not hold a token for each query, without a gap up to the newest."""
    if counts.held == 0:
        raise InputError(f"layer {layer} holds no tokens to attend to: append(layer, k, v) adds some")
    most = counts.held - (counts.sinks if counts.evicted and counts.held > counts.sinks else 0)
    if not 1 <= n_queries <= most:
        raise InputError(f"q must have 1 to {most} queries, the newest tokens of layer {layer}, got {n_queries}")


def ropes(value: object, n_layers: int, head_dim: int) -> tuple[Rope | None, ...]:
    """Return an entry per layer of a rope, None, or a sequence of them; raise InputError for anything else."""
    entries = [value] * n_layers if value is None or isinstance(value, Rope) else _validate.entries(value, "rope")
    if len(entries) != n_layers:
        raise InputError(f"rope must have an entry for each of {n_layers} layers, got {len(entries)}")
    for layer, entry in enumerate(entries):
        if entry is not None and not isinstance(entry, Rope):
            raise InputError(f"rope of layer {layer} must be a Rope or None, got {type(entry).__name__}")
        if entry is not None:
            entry.pairs(head_dim)  # raises if the head has too few coordinates
    return tuple(entries)


def finite(value: object, name: str) -> float:
    """Return a number that is neither NaN nor infinite, or raise InputError."""
    number = _validate.number(value, name)
    if not np.isfinite(number):
        raise InputError(f"{name} must be finite, got {number}")
    return number


def share(value: object, name: str) -> float:
    """Return a number of at least 0 and below 1, or raise InputError."""
    number = _validate.number(value, name)
    if not 0 <= number < 1:
        raise InputError(f"{name} must be at least 0 and below 1, got {number}")
    return number
