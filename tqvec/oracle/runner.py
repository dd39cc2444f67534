"""The conformance runner: each stage of a port is fed the oracle's own input, so the first wrong one is named."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tqvec.errors import InputError
from tqvec.oracle import inputs, profiles, rules, statistics
from tqvec.oracle.mistakes import MISTAKES
from tqvec.oracle.ports import Port
from tqvec.oracle.setup import KINDS, Setup, setup

DIMS = (64, 80, 100, 128)


@dataclass(frozen=True)
class Verdict:
    """What is known of one stage.

    Attributes
    ----------
    stage : str
    status : str
        "passed", "failed" or "absent".
    identical : bool
        All outputs have the oracle's own bits, which is more than is asked for.
    message : str
        How it failed.
    reasons : tuple of str
        Names of the known mistakes that reproduce what the port gives, the likeliest first.
    """

    stage: str
    status: str
    identical: bool = False
    message: str = ""
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """All stages for one profile and dimension."""

    profile: str
    d: int
    verdicts: tuple[Verdict, ...]

    @property
    def first_broken(self) -> Verdict | None:
        """The first stage that failed, in the order of the data."""
        return next((v for v in self.verdicts if v.status == "failed"), None)

    @property
    def passed(self) -> bool:
        """Whether at least one stage was there, and none failed."""
        return self.first_broken is None and any(v.status == "passed" for v in self.verdicts)


@dataclass(frozen=True)
class Report:
    """Results of a port, over profiles and dimensions."""

    port: str
    dtype: str
    results: list[Result] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether there are results, and all passed."""
        return bool(self.results) and all(result.passed for result in self.results)


def explain(reason: str) -> str:
    """What a reason's name means, in a sentence."""
    return MISTAKES[reason].says if reason in MISTAKES else reason


def _factor(got: NDArray, truth: NDArray, d: int) -> str | None:
    """A constant that the right values were multiplied with, if that is all that is wrong."""
    known = {"√d": math.sqrt(d), "1/√d": 1 / math.sqrt(d), "d": d, "1/d": 1 / d, "−1": -1.0, "2": 2.0, "1/2": 0.5}
    known |= {"√2": math.sqrt(2), "1/√2": math.sqrt(0.5), "√(π/2)": math.sqrt(math.pi / 2), "2/π": 2 / math.pi}
    if not np.isfinite(got).all() or not got.any():
        return None
    a = float((got * truth).sum() / (truth * truth).sum())
    if np.abs(got - a * truth).max() > 1e-4 * np.abs(got).max():
        return None
    name = next((label for label, value in known.items() if abs(a / value - 1) < 1e-4), f"{a:.6g}")
    return f"constant factor: values are {name} times the right ones"


def reasons(s: Setup, case: inputs.Case, got: tuple[NDArray, ...], dtype: str) -> tuple[str, ...]:
    """Mistakes that give what the port gives; failing these, a few things that need no name."""
    first = [m for m in MISTAKES.values() if case.stage in m.stages]
    rest = [m for m in MISTAKES.values() if case.stage not in m.stages]
    found = []
    for mistake in (*first, *rest):
        wrong = mistake.change(s)
        if wrong is not None and not rules.compare(wrong, case, got, dtype):
            found.append(mistake.name)
    if found:
        return tuple(found)
    for part in got:
        for given in case.inputs:
            if part.shape == given.shape and np.array_equal(part, given):
                return ("identity: the input itself comes back",)
    truth = s.outputs(case.stage, np.float64, *case.inputs)
    if (
        len(got) == 1
        and got[0].shape == truth[0].shape
        and KINDS[s.stages[case.stage].outputs[0]] in ("rows", "scores")
    ):
        constant = _factor(got[0].astype(np.float64), truth[0], s.d)
        return (constant,) if constant else ()
    return ()


def judge(port: Port, s: Setup, stage: str) -> Verdict:
    """Verdict on one stage."""
    if stage not in port.stages:
        return Verdict(stage, "absent")
    identical = True
    for case in inputs.cases(s, stage):
        try:
            got = port(s, stage, case.inputs)
        except Exception as error:  # a port may fail in any way
            return Verdict(stage, "failed", False, f"raised {type(error).__name__}: {error}")
        faults = rules.compare(s, case, got, port.dtype)
        if faults:
            message = "; ".join(f"{fault.output}: {fault.message}" for fault in faults)
            return Verdict(stage, "failed", False, message, reasons(s, case, got, port.dtype))
        expected = s.outputs(stage, None, *case.inputs)
        identical &= all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))
    return Verdict(stage, "passed", identical)


def run(port: Port, s: Setup, whole: bool = True) -> Result:
    """Verdicts on all stages; where none failed, on the statistics too, unless `whole` is False."""
    verdicts = [judge(port, s, stage) for stage in s.stages]
    whole = whole and {"encode", "decode"} <= port.stages.keys() and s.d <= statistics.LARGEST_D
    if whole and not any(verdict.status == "failed" for verdict in verdicts):
        message = statistics.fault(port, s)
        verdicts.append(Verdict("statistics", "failed" if message else "passed", False, message))
    return Result(s.profile.name, s.d, tuple(verdicts))


def verify(port: Port, names: Iterable[str] = (), dims: Iterable[int] = (), whole: bool = True) -> Report:
    """Judge a port.

    Parameters
    ----------
    port : Port
    names : iterable of str
        Profiles or families; default: those the port names.
    dims : iterable of int
        Default: those the port names, else `DIMS`; those that a profile isn't defined for are left out.
    whole : bool
        Also compare mean errors of many vectors with the exact tables, up to d = 256.

    Raises
    ------
    InputError
        No profile is named, there is none of that name, or none is left to judge.
    """
    wanted = tuple(names) or port.profiles
    if not wanted:
        raise InputError("profile must be given, since the port has no PROFILES")
    chosen = [profile for name in wanted for profile in profiles.find(name)]
    sizes = tuple(dims) or port.dims or DIMS
    report = Report(port.name, port.dtype)
    for profile in chosen:
        report.results.extend(run(port, setup(profile, d), whole) for d in sizes if profile.takes(d))
    if not report.results:
        raise InputError(f"d must suit the profiles, got {', '.join(map(str, sizes))}")
    return report
