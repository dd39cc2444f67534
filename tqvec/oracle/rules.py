"""When a port's output is right. docs/oracle.md, "The rules", has the reasons.

- Bytes and unpacked codes: equal.
- Codes: equal, unless every threshold between the two is nearer to the value than ε, which is from rounding alone: 0
  for a float32 port that is fed the value itself.
- Floats: an error of at most twice that of the same computation in the port's type, both against float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqvec.oracle.inputs import Case
from tqvec.oracle.setup import KINDS, Setup

FACTOR = 2.0  # of the yardstick's error
Arrays = tuple[NDArray, ...]


class Fault(NamedTuple):
    """What is wrong with one output.

    Attributes
    ----------
    output : str
    message : str
        How much differs, and the first place where.
    """

    output: str
    message: str


def _unit(dtype: DTypeLike) -> float:
    """Unit roundoff."""
    return float(np.finfo(np.dtype(dtype)).eps) / 2


def allowed(truth: NDArray, yard: NDArray, magnitude: NDArray, dtype: DTypeLike, ordinary: int) -> NDArray:
    """Error that each row (or element, as `magnitude` is shaped) may have.

    Twice the yardstick's own error on it, or, if that is more, twice its largest on ordinary rows in proportion to the
    magnitude; and one rounding of the result. Unlimited where the yardstick overflows.
    """
    error = np.abs(yard.astype(np.float64) - truth)
    if error.ndim > magnitude.ndim:
        error = error.max(axis=1)
    ratio = np.divide(error, magnitude, out=np.zeros_like(error), where=magnitude > 0)[:ordinary]
    common = float(np.max(ratio[np.isfinite(ratio)], initial=0.0))
    limit = FACTOR * np.maximum(error, common * magnitude) + _unit(dtype) * magnitude
    tiny = float(np.finfo(np.dtype(dtype)).smallest_subnormal)
    return np.where(np.isfinite(error), limit + tiny * (magnitude > 0), np.inf)


def _magnitude(s: Setup, case: Case, output: str, truth: NDArray) -> NDArray:
    """What errors are measured against: the largest value of a row; of a score, the product of the lengths."""
    if KINDS[output] == "scalars":
        return np.abs(truth)
    if KINDS[output] == "scores":
        decoded = s("decode", np.float64, *case.inputs[1:])
        return np.linalg.norm(case.inputs[0].astype(np.float64), axis=1)[:, None] * np.linalg.norm(decoded, axis=1)
    return np.abs(truth).max(axis=1)


def _place(wrong: NDArray, case: Case) -> str:
    first = np.argwhere(wrong)[0]
    where = f"{int(wrong.sum())} of {wrong.size} differ, first in row '{case.rows[first[0]]}'"
    return where if len(first) == 1 else f"{where}, column {first[1]}"


def float_fault(output: str, got: NDArray, truth: NDArray, limit: NDArray, case: Case) -> Fault | None:
    """The fault of an array of floats, or None."""
    error = np.abs(got.astype(np.float64) - truth)
    wrong = ~(error <= (limit if limit.ndim == error.ndim else limit[:, None]))
    if not wrong.any():
        return None
    at = tuple(np.argwhere(wrong)[0])
    row = limit[at] if limit.ndim == error.ndim else limit[at[0]]
    return Fault(output, f"{_place(wrong, case)}: {got[at]:.9g}, not {truth[at]:.9g} ± {row:.2g}")


def exact_fault(output: str, got: NDArray, expected: NDArray, case: Case) -> Fault | None:
    """The fault of an array that must be equal, or None."""
    wrong = got != expected
    if not wrong.any():
        return None
    at = tuple(np.argwhere(wrong)[0])
    show = "{:#04x}, not {:#04x}" if KINDS[output] == "bytes" else "{}, not {}"
    return Fault(output, f"{_place(wrong, case)}: {show.format(int(got[at]), int(expected[at]))}")


def code_fault(
    s: Setup, got: NDArray, expected: NDArray, y: NDArray, epsilon: NDArray, dtype: DTypeLike, case: Case
) -> Fault | None:
    """The fault of codes of values `y` (n, d) that may each be off by `epsilon` (n,), or None."""
    if s.profile.codebook == "trellis":
        return _path_fault(s, got, expected, y, epsilon, dtype, case)
    thresholds = s.tables["thresholds"].astype(np.float64)
    if got.max(initial=0) > len(thresholds):
        return Fault("codes", f"a code of {int(got.max())}, but there are {len(thresholds) + 1} levels")
    got, expected = _whole(got), _whole(expected)
    low, high = np.minimum(got, expected), np.maximum(got, expected)
    wrong = np.zeros(got.shape, bool)
    for edge in (low, high - 1):
        t = thresholds[np.clip(edge, 0, len(thresholds) - 1)]
        wrong |= (low < high) & ~(np.abs(y - t) < epsilon[:, None] + _conversion(y, dtype) + _conversion(t, dtype))
    if not wrong.any():
        return None
    at = tuple(np.argwhere(wrong)[0])
    return Fault(
        "codes", f"{_place(wrong, case)}: code {int(got[at])}, not {int(expected[at])}, of the value {y[at]:.9g}"
    )


def _conversion(y: NDArray, dtype: DTypeLike) -> NDArray:
    """Error of float32 values that are converted to `dtype`; zero stays zero."""
    if np.dtype(dtype) != np.float16:
        return np.zeros(y.shape)
    return _unit(dtype) * np.abs(y) + float(np.finfo(np.float16).smallest_subnormal) * (y != 0)


def _path_fault(
    s: Setup, got: NDArray, expected: NDArray, y: NDArray, epsilon: NDArray, dtype: DTypeLike, case: Case
) -> Fault | None:
    """Trellis: a path may cost more than the right one by what rounding explains; of equal values it must be the same.

    A value that is off by δ changes the difference of two paths' costs by at most 2 δ (|e| + |e′|), e their errors.
    """
    if got.max(initial=0) >= 2**s.profile.nbits:
        return Fault("codes", f"a code of {int(got.max())}, but there are {2**s.profile.nbits}")
    errors = [np.abs(y - s("dequantize", np.float64, codes)) for codes in (got, expected)]
    cost, least = ((e * e).sum(axis=1) for e in errors)
    table = s.tables["levels"].astype(np.float64)
    off = epsilon + _conversion(y, dtype).max(axis=1) + _conversion(table, dtype).max()
    slack = 2 * off * sum(e.sum(axis=1) for e in errors) + 2 * s.d * _unit(dtype) * (cost + least)
    differs = (got != expected).any(axis=1)
    exact = (np.ptp(y, axis=1) == 0) & (np.dtype(dtype) != np.float16)
    wrong = differs & ((cost - least > slack) | exact)
    if not wrong.any():
        return None
    row = int(np.argmax(wrong))
    return Fault(
        "codes", f"{_place(wrong, case)}: a squared error of {cost[row]:.9g}, not {least[row]:.9g} + {slack[row]:.2g}"
    )


def shape_fault(output: str, got: NDArray, expected: NDArray) -> Fault | None:
    """The fault of an array of another shape or kind, or None."""
    whole = KINDS[output] in ("bytes", "codes", "signs")
    if got.shape != expected.shape:
        return Fault(output, f"shape {got.shape}, not {expected.shape}")
    if whole and not (np.issubdtype(got.dtype, np.integer) or got.dtype == bool):
        return Fault(output, f"dtype {got.dtype}, not integers")
    return None


def compare(s: Setup, case: Case, got: Arrays, dtype: DTypeLike) -> list[Fault]:
    """What is wrong with the outputs of a stage, computed in `dtype` from the inputs of `case`; empty if nothing is."""
    outputs = s.stages[case.stage].outputs
    if len(got) != len(outputs):
        return [Fault(outputs[0], f"{len(got)} outputs, not {len(outputs)}: {', '.join(outputs)}")]
    with np.errstate(all="ignore"):  # half precision overflows, and so do mistakes
        return [fault for fault in _faults(s, case, got, dtype) if fault is not None]


def _faults(s: Setup, case: Case, got: Arrays, dtype: DTypeLike) -> list[Fault | None]:
    outputs = s.stages[case.stage].outputs
    expected = s.outputs(case.stage, None, *case.inputs)
    faults = [shape_fault(*each) for each in zip(outputs, got, expected, strict=True)]
    if any(faults):
        return faults
    special = {"quantize": _quantize, "sign": _sign, "encode": _encode}.get(case.stage, _each)
    return special(s, case, got, dtype)


def _each(s: Setup, case: Case, got: Arrays, dtype: DTypeLike) -> list[Fault | None]:
    outputs = s.stages[case.stage].outputs
    if KINDS[outputs[0]] in ("bytes", "codes"):
        expected = s.outputs(case.stage, None, *case.inputs)
        return [exact_fault(*each, case) for each in zip(outputs, got, expected, strict=True)]
    yards = s.outputs(case.stage, dtype, *case.inputs)
    truths = s.outputs(case.stage, np.float64, *case.inputs)
    return [_float(s, case, *each, dtype) for each in zip(outputs, got, truths, yards, strict=True)]


def _float(
    s: Setup, case: Case, output: str, got: NDArray, truth: NDArray, yard: NDArray, dtype: DTypeLike
) -> Fault | None:
    truth = truth.astype(np.float64)
    limit = allowed(truth, yard, _magnitude(s, case, output, truth), dtype, case.ordinary)
    if KINDS[output] == "scalars":
        stored = s.type_of(output)
        limit = limit + np.abs(truth) * _unit(stored) + float(np.finfo(stored).smallest_subnormal)
        limit[np.abs(truth) > float(np.finfo(stored).max)] = np.inf
    return float_fault(output, got, truth, limit, case)


def _quantize(s: Setup, case: Case, got: Arrays, dtype: DTypeLike) -> list[Fault | None]:
    (y,) = case.inputs
    expected = s("quantize", None, y)
    return [code_fault(s, got[0], expected, y.astype(np.float64), np.zeros(len(y)), dtype, case)]


def _whole(codes: NDArray) -> NDArray[np.int64]:
    return codes.astype(np.int64)


def _sign(s: Setup, case: Case, got: Arrays, dtype: DTypeLike) -> list[Fault | None]:
    """Equal, but for values that the port's type can't tell from zero."""
    (v,) = case.inputs
    expected = s("sign", None, v)
    doubtful = (v != 0) & (np.abs(v) <= _conversion(v, dtype))
    return [exact_fault("signs", np.where(doubtful, expected, got[0]), expected, case)]


def _encode(s: Setup, case: Case, got: Arrays, dtype: DTypeLike) -> list[Fault | None]:
    """Stage by stage in float64 and in `dtype`, each time with the codes that the port chose before."""
    own = dict(zip(s.stages["encode"].outputs, got, strict=True))
    own["packed"] = np.asarray(own["packed"], np.uint8)
    own |= zip(s.stages["unpack"].outputs, s.outputs("unpack", None, own["packed"]), strict=True)
    again = s("pack", None, *(own[name] for name in s.stages["pack"].inputs))
    padding = exact_fault("packed", own["packed"], again, case)
    if padding:
        return [padding]
    right = dict(zip(s.stages["unpack"].outputs, s.outputs("unpack", None, *_packed(s, case)), strict=True))
    truths = dict(zip(s.stages["encode"].inputs, case.inputs, strict=True))
    yards = dict(truths)
    found: list[Fault | None] = []
    for name in list(s.stages)[: list(s.stages).index("pack")]:
        stage = s.stages[name]
        of = stage.inputs[0]
        truth = s.outputs(name, np.float64, *(truths[i] for i in stage.inputs))
        yard = s.outputs(name, dtype, *(yards[i] for i in stage.inputs))
        for output, t, y in zip(stage.outputs, truth, yard, strict=True):
            truths[output], yards[output] = t, y
            if output not in own:
                continue
            if KINDS[output] == "scalars":
                found.append(_float(s, case, output, own[output], t, y, dtype))
                continue
            truths[output] = yards[output] = own[output]
            epsilon = allowed(truths[of], yards[of], np.abs(truths[of]).max(axis=1), dtype, case.ordinary)
            check = _signs_of if KINDS[output] == "signs" else code_fault
            found.append(check(s, own[output], right.get(output, t), truths[of], epsilon, dtype, case))
    return found


def _packed(s: Setup, case: Case) -> Arrays:
    """The oracle's own bytes."""
    return s.outputs("encode", None, *case.inputs)[:1]


def _signs_of(
    s: Setup, got: NDArray, expected: NDArray, v: NDArray, epsilon: NDArray, dtype: DTypeLike, case: Case
) -> Fault | None:
    """Signs of values, but where those are within their own error of zero; `expected` may follow other codes."""
    right = s("sign", np.float64, v)
    doubtful = (v != 0) & (np.abs(v) <= epsilon[:, None])
    return exact_fault("signs", np.where(doubtful, right, got), right, case)
