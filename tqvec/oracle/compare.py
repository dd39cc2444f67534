"""The rules by which a port's output is right. "Oracle" page has the reasons.

- Bytes and unpacked codes: equal.
- Codes: equal, unless every threshold between the two is nearer to the value than ε. ε comes from rounding alone: it is
  0 for a float32 port, which gets the value itself.
- Floats: an error, against float64, that rounding in the port's type explains: in each element (`tolerance`), and in
  each row, column and output as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqvec._types import Doubles, Flags
from tqvec.oracle.cases import Case
from tqvec.oracle.families.vllm import steps_of_values
from tqvec.oracle.instance import KINDS, Arrays, Instance
from tqvec.oracle.rounding import Rounded, spacing, unit

CONFIDENCE = {np.dtype(np.float32): 16.0, np.dtype(np.float16): 5.0}
"""Standard deviations: in float32 there is room for quotients, roots and exponentials that lose a few units."""
UNITS = (
    4.0  # that all values of a row, a column or an output may be off by together, for instance by a factor's rounding
)
ALONE = 4.0  # times as far off as the third farthest


class Fault(NamedTuple):
    """A wrong output.

    Attributes
    ----------
    output : str
        Name of the value.
    message : str
        How many elements differ, and the first of them.
    """

    output: str
    message: str


def compare(codec: Instance, case: Case, got: Arrays, dtype: DTypeLike) -> list[Fault]:
    """Compare a stage's outputs with the oracle's.

    Parameters
    ----------
    codec : Instance
    case : Case
    got : tuple of arrays
        The port's outputs for the inputs of `case`.
    dtype : numpy dtype
        The type in which the port computes.

    Returns
    -------
    list of Fault
        Empty if the outputs are right.
    """
    stage = codec.stages[case.stage]
    if len(got) != len(stage.outputs):
        return [Fault(stage.outputs[0], f"{len(got)} outputs, not {len(stage.outputs)}: {', '.join(stage.outputs)}")]
    comparison = _Comparison(codec, case, dtype)
    with np.errstate(all="ignore"):  # half precision overflows, and so do mistakes
        expected = codec.outputs(case.stage, None, *case.inputs)
        faults = [comparison.shape(*each) for each in zip(stage.outputs, got, expected, strict=True)]
        if not any(faults):
            faults = RULES[stage.rule](comparison, got, expected)
    return [fault for fault in faults if fault is not None]


def _conversion(y: NDArray, dtype: DTypeLike) -> NDArray:
    """Return the error of float32 values that are converted to `dtype`; zero stays zero."""
    if np.dtype(dtype) != np.float16:
        return np.zeros(y.shape)
    return unit(dtype) * np.abs(y) + float(np.finfo(np.float16).smallest_subnormal) * (y != 0)


def tolerance(exact: NDArray, same_precision: NDArray, variance: NDArray, dtype: DTypeLike) -> NDArray:
    """Return the error that each element may have.

    It is `CONFIDENCE` standard deviations of what rounding in the port's type may lose, the error of the same
    computation in that type, and one rounding of the result. It is unlimited where that computation overflows.
    """
    error = np.abs(same_precision.astype(np.float64) - exact)
    tiny = float(np.finfo(np.dtype(dtype)).smallest_subnormal)
    limit = CONFIDENCE[np.dtype(dtype)] * np.sqrt(variance) + error + unit(dtype) * np.abs(exact)
    return np.where(np.isfinite(limit), limit + tiny * ((exact != 0) | (variance > 0)), np.inf)


class _Comparison(NamedTuple):
    """A case of a codec, and the type in which the port computes; a method compares one output."""

    codec: Instance
    case: Case
    dtype: DTypeLike

    def fault(self, output: str, wrong: Flags, describe: Callable[[tuple[int, ...]], str]) -> Fault | None:
        """Return the fault of the elements (or rows) that are `wrong`; `describe` gets the first one's position."""
        if not wrong.any():
            return None
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        column = f", column {first[1]}" if len(first) > 1 else ""
        where = f"{int(wrong.sum())} of {wrong.size} differ, first in row '{self.case.rows[first[0]]}'{column}"
        return Fault(output, f"{where}: {describe(first)}")

    def shape(self, output: str, got: NDArray, expected: NDArray) -> Fault | None:
        """Refuse another shape or kind of numbers, and integers that are no bytes."""
        if got.shape != expected.shape:
            return Fault(output, f"shape {got.shape}, not {expected.shape}")
        if self.codec.type_of(output) != np.uint8:
            return None
        if not (np.issubdtype(got.dtype, np.integer) or got.dtype == bool):
            return Fault(output, f"dtype {got.dtype}, not integers")
        if got.size and not 0 <= int(got.min()) <= int(got.max()) <= 255:
            return Fault(output, f"values from {got.min()} to {got.max()}, which are no bytes")
        return None

    def exact(self, output: str, got: NDArray, expected: NDArray) -> Fault | None:
        """Compare an array that must be equal."""
        width = "#04x" if KINDS[output] == "bytes" else ""
        return self.fault(output, got != expected, lambda at: f"{got[at]:{width}}, not {expected[at]:{width}}")

    def floats(
        self, output: str, got: NDArray, exact: NDArray, same_precision: NDArray, tracked: Rounded
    ) -> Fault | None:
        """Compare floats, by `tolerance`; scalars of the type in which they are stored may be rounded to it."""
        exact = exact.astype(np.float64)
        limit = tolerance(exact, same_precision, tracked.variance, self.dtype)
        if KINDS[output] == "scalars":
            stored = self.codec.type_of(output)
            is_stored = got.astype(stored) == got
            limit = limit + np.where(is_stored, spacing(exact, stored) / 2, 0.0)
        error = got.astype(np.float64) - exact
        may_overflow = ~np.isfinite(same_precision) | (np.dtype(self.dtype) == np.float16)
        wrong = ~(np.abs(error) <= limit) & ~(np.isinf(limit) & (np.isfinite(got) | may_overflow))
        fault = self.fault(output, wrong, lambda at: f"{got[at]:.9g}, not {exact[at]:.9g} ± {limit[at]:.2g}")
        if fault or KINDS[output] == "scalars":
            return fault
        usable = np.isfinite(limit)
        errors = (np.where(usable, each, 0.0) for each in (error, same_precision.astype(np.float64) - exact))
        return self.together(output, np.where(usable, exact, 0.0), np.where(usable, tracked.variance, 0.0), *errors)

    def together(
        self, output: str, exact: Doubles, variance: Doubles, error: Doubles, of_same: Doubles
    ) -> Fault | None:
        """Refuse rows, columns and outputs that are off by a factor, and in half precision what is off alone."""
        tiny = float(np.finfo(np.float64).tiny)
        spread = np.sqrt(np.maximum(variance + (2 * unit(self.dtype) * exact) ** 2, tiny))
        size, off, off_same = exact / spread, error / spread, of_same / spread
        nearest = min((off, off - off_same), key=lambda each: float(np.median(np.abs(each))))
        for axis, name in ((1, "row"), (0, "column"), (None, "output")):
            information = np.maximum(np.atleast_1d((size * size).sum(axis)), tiny)
            factor = np.atleast_1d((size * nearest).sum(axis)) / information
            limit = CONFIDENCE[np.dtype(self.dtype)] / np.sqrt(information) + UNITS * unit(self.dtype)
            alone = self.alone(np.abs(factor) * np.sqrt(information))
            wrong = (np.abs(factor) > limit) | alone
            if wrong.any():
                at = int(wrong.argmax())
                where = f"row '{self.case.rows[at]}'" if axis == 1 else f"{name} {at}" if axis == 0 else "the output"
                why = "hardly any other is off" if alone[at] else f"more than 1 ± {limit[at]:.2g}"
                return Fault(output, f"{where} is {1 + factor[at]:.6g} times the right one, {why}")
        wrong = self.alone(np.abs(nearest))
        return self.fault(
            output, wrong, lambda at: f"{error[at]:.2g} off {exact[at]:.9g}, and hardly any other value is off"
        )

    def alone(self, off: Doubles) -> Flags:
        """Find what is off far more than all others, in standard deviations; only half precision needs this."""
        others = np.sort(off, axis=None)[-3] if off.size >= 16 else np.inf
        return (off > np.maximum(1.0, ALONE * others)) & (np.dtype(self.dtype) == np.float16)

    def codes(self, got: NDArray, expected: NDArray, y: Doubles, epsilon: NDArray) -> Fault | None:
        """Compare codes of values `y` (n, d) that may be off by `epsilon` (n, d)."""
        if self.codec.profile.codebook == "trellis":
            return self.path(got, expected, y, epsilon)
        thresholds = self.codec.tables["thresholds"].astype(np.float64)
        if got.max(initial=0) > len(thresholds):
            return Fault("codes", f"a code of {int(got.max())}, but there are {len(thresholds) + 1} levels")
        got, expected = got.astype(np.int64), expected.astype(np.int64)
        low, high = np.minimum(got, expected), np.maximum(got, expected)
        wrong = np.zeros(got.shape, bool)
        for edge in (low, high - 1):
            t = thresholds[np.clip(edge, 0, len(thresholds) - 1)]
            off = epsilon + _conversion(y, self.dtype) + _conversion(t, self.dtype)
            wrong |= (low < high) & ~(np.abs(y - t) < off)
        return self.fault(
            "codes", wrong, lambda at: f"code {int(got[at])}, not {int(expected[at])}, of the value {y[at]:.9g}"
        )

    def path(self, got: NDArray, expected: NDArray, y: Doubles, epsilon: NDArray) -> Fault | None:
        """Compare paths of a trellis: one may cost more by as much as rounding explains, but not of equal values.

        A value that is off by δ changes the difference of two paths' costs by at most 2 δ (|e| + |e′|), e their errors.
        """
        codec, dtype = self.codec, self.dtype
        if got.max(initial=0) >= 2**codec.profile.nbits:
            return Fault("codes", f"a code of {int(got.max())}, but there are {2**codec.profile.nbits}")
        errors = [np.abs(y - codec("dequantize", np.float64, codes)) for codes in (got, expected)]
        cost, least = ((e * e).sum(axis=1) for e in errors)
        table = codec.tables["levels"].astype(np.float64)
        off = epsilon + _conversion(y, dtype) + _conversion(table, dtype).max()
        slack = 2 * (off * sum(errors)).sum(axis=1) + 2 * codec.d * unit(dtype) * (cost + least)
        equal_values = (np.ptp(y, axis=1) == 0) & (np.dtype(dtype) != np.float16)
        wrong = (got != expected).any(axis=1) & ((cost - least > slack) | equal_values)
        return self.fault(
            "codes", wrong, lambda at: f"a squared error of {cost[at]:.9g}, not {least[at]:.9g} + {slack[at]:.2g}"
        )

    def steps(self, got: NDArray, values: NDArray) -> Fault | None:
        """Compare codes in equal steps: v in steps may be off by the rounding of four operations and of the values."""
        position = steps_of_values(self.codec, np.float64, values.astype(np.float64))
        step, least = self.codec("value_range", np.float64, values.astype(np.float64))
        off_values, off_least = _conversion(values, self.dtype), _conversion(least, self.dtype)
        rounding = off_values + (off_least + off_values.max(axis=1))[:, None]
        size = np.abs(position) + 2 * np.abs(least / step)[:, None]
        off = rounding / step[:, None] + 4 * unit(np.float32) * size
        top = 2**self.codec.profile.value_bits - 1
        low, high = (np.clip(np.floor(position + sign * off), 0, top) for sign in (-1, 1))
        wrong = ~((got >= low) & (got <= high))
        return self.fault("value_codes", wrong, lambda at: f"code {int(got[at])}, not {int(low[at])}")

    def signs(self, got: NDArray, expected: NDArray, v: NDArray, epsilon: NDArray) -> Fault | None:
        """Compare signs, but not where `v` is within `epsilon` of zero and isn't zero."""
        doubtful = (v != 0) & (np.abs(v) <= epsilon)
        return self.exact("signs", np.where(doubtful, expected, got), expected)

    def choice(self, rule: str, got: NDArray, expected: NDArray, values: NDArray, epsilon: NDArray) -> Fault | None:
        """Compare codes or signs of `values`, of which the port has its own, off by up to `epsilon`."""
        if rule == "steps":
            return self.steps(got, values)
        if rule == "signs":
            return self.signs(got, expected, values, epsilon)
        return self.codes(got, expected, values, epsilon)


Faults = list[Fault | None]


def _compare_exact(comparison: _Comparison, got: Arrays, expected: Arrays) -> Faults:
    outputs = comparison.codec.stages[comparison.case.stage].outputs
    return [comparison.exact(*each) for each in zip(outputs, got, expected, strict=True)]


def _compare_floats(comparison: _Comparison, got: Arrays, expected: Arrays) -> Faults:
    codec, case, dtype = comparison
    exact, same_precision = (codec.outputs(case.stage, kind, *case.inputs) for kind in (np.float64, dtype))
    tracked = codec.track(case.stage, dtype, *case.inputs)
    outputs = codec.stages[case.stage].outputs
    return [comparison.floats(*each) for each in zip(outputs, got, exact, same_precision, tracked, strict=True)]


def _compare_codes(comparison: _Comparison, got: Arrays, expected: Arrays) -> Faults:
    (y,) = comparison.case.inputs
    return [comparison.codes(got[0], expected[0], y.astype(np.float64), np.zeros(y.shape))]


def _compare_steps(comparison: _Comparison, got: Arrays, expected: Arrays) -> Faults:
    return [comparison.steps(got[0], comparison.case.inputs[0])]


def _compare_signs(comparison: _Comparison, got: Arrays, expected: Arrays) -> Faults:
    (v,) = comparison.case.inputs
    return [comparison.signs(got[0], expected[0], v, _conversion(v, comparison.dtype))]


def _compare_encode(comparison: _Comparison, got: Arrays, expected: Arrays) -> Faults:
    """Go through the stages in float64 and in the port's type, both times with the codes that the port chose before."""
    codec, case, dtype = comparison
    packed = np.asarray(got[0], np.uint8)
    port = dict(zip(codec.stages["encode"].outputs, got, strict=True))
    port |= {"packed": packed, **_unpack(codec, packed)}
    padding = comparison.exact("packed", packed, codec("pack", None, *(port[i] for i in codec.stages["pack"].inputs)))
    if padding:
        return [padding]
    unpacked = _unpack(codec, expected[0])
    exact: dict[str, Any] = dict(zip(codec.stages["encode"].inputs, case.inputs, strict=True))
    same_precision: dict[str, Any] = dict(exact)
    tracked: dict[str, Any] = dict(exact)
    faults: Faults = []
    for name in list(codec.stages)[: list(codec.stages).index("pack")]:
        stage = codec.stages[name]
        in_float64 = codec.outputs(name, np.float64, *(exact[i] for i in stage.inputs))
        if stage.rule != "floats":  # a choice, of which the port has its own
            (output,), (source, *_) = stage.outputs, stage.inputs
            epsilon = _epsilon(exact[source], same_precision[source], tracked[source], dtype)
            right = in_float64[0] if stage.rule == "signs" else unpacked[output]  # other codes lead to other signs
            faults.append(comparison.choice(stage.rule, port[output], right, exact[source], epsilon))
            exact[output] = same_precision[output] = tracked[output] = port[output]
            continue
        in_dtype = codec.outputs(name, dtype, *(same_precision[i] for i in stage.inputs))
        in_tracked = codec.track(name, dtype, *(tracked[i] for i in stage.inputs))
        for output, *found in zip(stage.outputs, in_float64, in_dtype, in_tracked, strict=True):
            exact[output], same_precision[output], tracked[output] = found
            if output in port:
                values = exact[output], same_precision[output], tracked[output]
                faults.append(comparison.floats(output, port[output], *values))
    return faults


def _epsilon(exact: NDArray, same_precision: NDArray, tracked: Any, dtype: DTypeLike) -> NDArray:
    """Return how far a port's own values may be off; those that it is given are not off at all."""
    if not isinstance(tracked, Rounded):
        return np.zeros(exact.shape)
    return tolerance(exact, same_precision, tracked.variance, dtype)


def _unpack(codec: Instance, packed: NDArray) -> dict[str, NDArray]:
    return dict(zip(codec.stages["unpack"].outputs, codec.outputs("unpack", None, packed), strict=True))


RULES: dict[str, Callable[[_Comparison, Arrays, Arrays], Faults]] = {
    "exact": _compare_exact,
    "floats": _compare_floats,
    "codes": _compare_codes,
    "steps": _compare_steps,
    "signs": _compare_signs,
    "encode": _compare_encode,
}
"""The comparison of a stage's outputs by `Stage.rule`: ``(comparison, got, expected)``."""
