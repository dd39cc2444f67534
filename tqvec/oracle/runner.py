"""The conformance runner. Each stage of a port is fed the oracle's own input, so the first wrong stage has a name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tqvec.errors import InputError
from tqvec.oracle import profiles as catalogue
from tqvec.oracle import statistics
from tqvec.oracle.cases import Case, iter_cases, iter_later_cases
from tqvec.oracle.compare import compare
from tqvec.oracle.families.registry import instantiate
from tqvec.oracle.instance import KINDS, Arrays, Instance
from tqvec.oracle.mistakes import MISTAKES
from tqvec.oracle.ports import Port, PortError, load
from tqvec.oracle.report import Report, Result, Verdict

DIMS = (64, 80, 100, 128)

Entry = TypeVar("Entry")


def _constant_factor(got: NDArray, exact: NDArray, d: int) -> str | None:
    """Return a sentence if the right values times a constant are all that is wrong."""
    known = {"√d": math.sqrt(d), "1/√d": 1 / math.sqrt(d), "d": d, "1/d": 1 / d, "−1": -1.0, "2": 2.0, "1/2": 0.5}
    known |= {"√2": math.sqrt(2), "1/√2": math.sqrt(0.5), "√(π/2)": math.sqrt(math.pi / 2), "2/π": 2 / math.pi}
    if not np.isfinite(got).all() or not got.any():
        return None
    a = float((got * exact).sum() / (exact * exact).sum())
    if abs(a - 1) < 1e-4 or np.abs(got - a * exact).max() > 1e-4 * np.abs(got).max():
        return None
    name = next((label for label, value in known.items() if abs(a / value - 1) < 1e-4), f"{a:.6g}")
    return f"constant factor: values are {name} times the right ones"


def find_reasons(codec: Instance, case: Case, got: Arrays, dtype: str) -> tuple[str, ...]:
    """Find the mistakes that reproduce a port's outputs, those of this stage first.

    Without one, an identity and a constant factor are reasons in words of their own.
    """
    likeliest_first = sorted(MISTAKES.values(), key=lambda mistake: case.stage not in mistake.stages)
    reasons = tuple(
        mistake.name
        for mistake in likeliest_first
        if mistake.applies(codec) and not compare(mistake.change(codec), case, got, dtype)
    )
    if reasons:
        return reasons
    if any(np.array_equal(output, value) for output in got for value in case.inputs):
        return ("identity: the input itself comes back",)
    exact = codec.outputs(case.stage, np.float64, *case.inputs)
    kind = KINDS[codec.stages[case.stage].outputs[0]]
    if len(got) == 1 and got[0].shape == exact[0].shape and kind in ("rows", "scores"):
        constant = _constant_factor(got[0].astype(np.float64), exact[0], codec.d)
        return (constant,) if constant else ()
    return ()


def verify_stage(port: Port, codec: Instance, stage: str) -> Verdict:
    """Compare a stage of a port with the oracle on all cases."""
    if stage not in port.stages:
        return Verdict(stage, "absent")
    identical = True
    for case in (*iter_cases(codec, stage), *iter_later_cases(codec, stage, port.dtype)):
        try:
            got = port(codec, stage, case.inputs)
        except PortError as error:
            return Verdict(stage, "failed", message=str(error))
        faults = compare(codec, case, got, port.dtype)
        if faults:
            message = "; ".join(f"{fault.output}: {fault.message}" for fault in faults)
            reasons = find_reasons(codec, case, got, port.dtype)
            return Verdict(stage, "failed", message=message, reasons=reasons)
        expected = codec.outputs(stage, None, *case.inputs)
        identical &= all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))
    return Verdict(stage, "passed", identical)


def verify_stages(port: Port, codec: Instance, quick: bool = False) -> Result:
    """Verify all stages of a port; where none failed and unless `quick`, the statistics too."""
    verdicts = [verify_stage(port, codec, stage) for stage in codec.stages]
    vectors_only = codec.stages["encode"].inputs == ("x",)
    has_codec = vectors_only and {"encode", "decode"} <= port.stages.keys()
    if has_codec and not quick and codec.d <= statistics.LARGEST_D and all(v.status != "failed" for v in verdicts):
        message = statistics.find_fault(port, codec)
        verdicts.append(Verdict("statistics", "failed" if message else "passed", message=message))
    return Result(codec.profile.name, codec.d, tuple(verdicts))


def _listed(values: object, name: str, kind: type[Entry]) -> tuple[Entry, ...]:
    """Return the entries of an argument, which must be of this kind."""
    try:
        entries: tuple[Any, ...] = tuple(values)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(f"{name} must be a list of {kind.__name__}, got {values!r}") from None
    for i, entry in enumerate(entries):
        if not isinstance(entry, kind) or isinstance(entry, bool):
            raise InputError(f"{name}[{i}] must be of type {kind.__name__}, got {entry!r}")
    return entries


def verify(port: object, *, profiles: Iterable[str] = (), dims: Iterable[int] = (), quick: bool = False) -> Report:
    """Verify a port, stage by stage.

    Parameters
    ----------
    port : str, path, module or object
        The path of a Python file (it ends in ``.py``), a command, or anything with functions named after stages: a
        module, a class, a namespace.
    profiles : iterable of str
        Names of profiles (``"tqvec_scalar@2"``) or of families (``"tqvec_scalar"``). Default: the port's ``PROFILES``.
    dims : iterable of int
        Dimensions. Default: the port's ``DIMS``, or 64, 80, 100 and 128. Those that a profile is not defined for are
        left out.
    quick : bool
        Leave out the statistics: the mean error of 2¹⁸ coordinates, up to d = 256.

    Returns
    -------
    Report
        The verdict on each stage, and the known mistakes that explain a failure.

    Raises
    ------
    InputError
        The port can't be loaded or has no stage; no profile is named; a name is unknown; or no dimension suits.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> import tqvec
    >>> port = SimpleNamespace(dequantize=lambda view, codes: view.tables["centroids"][codes])
    >>> tqvec.oracle.verify(port, profiles=["tqvec_scalar@2"], dims=[64]).passed
    True
    """
    port = load(port)
    names = _listed(profiles, "profiles", str) or port.profiles
    if not names:
        raise InputError("profile must be given, since the port has no PROFILES")
    chosen = [profile for name in names for profile in catalogue.find(name)]
    sizes = _listed(dims, "dims", int) or port.dims or DIMS
    results = tuple(
        verify_stages(port, instantiate(profile, d), quick) for profile in chosen for d in sizes if profile.takes(d)
    )
    if not results:
        raise InputError(f"d must suit the profiles, got {', '.join(map(str, sizes))}")
    return Report(port.name, port.dtype, results)
