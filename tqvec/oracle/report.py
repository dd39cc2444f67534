"""Reports on ports: a table for people, JSON for programs, and JUnit for CI."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from tqvec._present import Presented, Sheet
from tqvec.oracle.mistakes import MISTAKES

_SIGNS = {"passed": "✓", "failed": "✗", "absent": "·"}
_LEGEND = "✓ passed  ✗ failed  · not in the port; in order of the data"


@dataclass(frozen=True)
class Verdict:
    """The verdict on a stage.

    Attributes
    ----------
    stage : str
    status : str
        "passed", "failed" or "absent".
    identical : bool
        All outputs have the oracle's own bits, which is more than a port needs.
    message : str
        How it failed.
    reasons : tuple of str
        Names of the known mistakes that reproduce the port's outputs, the likeliest first.
    """

    stage: str
    status: str
    identical: bool = False
    message: str = ""
    reasons: tuple[str, ...] = ()

    @property
    def explanations(self) -> list[str]:
        """The reasons, a sentence for each."""
        return [MISTAKES[reason].says if reason in MISTAKES else reason for reason in self.reasons]


@dataclass(frozen=True)
class Result:
    """The verdicts on all stages, for a profile and a dimension.

    Attributes
    ----------
    profile : str
    d : int
    verdicts : tuple of Verdict
        In the order of the data: from `normalize` to `attention`.
    """

    profile: str
    d: int
    verdicts: tuple[Verdict, ...]

    @property
    def first_broken(self) -> Verdict | None:
        """The first stage that failed, in the order of the data."""
        return next((v for v in self.verdicts if v.status == "failed"), None)

    @property
    def passed(self) -> bool:
        """Whether the port has at least one stage, and none failed."""
        return self.first_broken is None and any(v.status == "passed" for v in self.verdicts)

    @property
    def summary(self) -> str:
        """A sentence: how many stages passed, or the first broken stage and why."""
        broken = self.first_broken
        if broken is None:
            count = sum(verdict.status == "passed" for verdict in self.verdicts)
            return f"all {count} stages that the port has" if count else "the port has no stage of this profile"
        return f"{broken.stage}: {'; or '.join(broken.explanations[:2]) or 'no known mistake gives this'}"


@dataclass(frozen=True, repr=False)
class Report(Presented):
    """The results of a port, over profiles and dimensions; it prints as a table.

    Attributes
    ----------
    port : str
        Name of the port.
    dtype : str
        Type in which it computes: "float32" or "float16".
    results : tuple of Result
        A result for each profile and dimension.
    """

    port: str
    dtype: str
    results: tuple[Result, ...]

    _derived = ("passed",)

    @property
    def passed(self) -> bool:
        """Whether there are results, and all passed."""
        return bool(self.results) and all(result.passed for result in self.results)

    def __str__(self) -> str:
        """Return the table: a sign for each stage, the first broken one and its reason; then what differs."""
        rows = [("profile", "d", "stages", "verdict")]
        for result in self.results:
            stages = "".join(_SIGNS[verdict.status] for verdict in result.verdicts)
            verdict = f"passed, {result.summary}" if result.passed else f"failed at {result.summary}"
            rows.append((result.profile, str(result.d), stages, verdict))
        a, b, c = (max(len(row[i]) for row in rows) for i in range(3))
        table = [f"{profile:{a}}  {d:>{b}}  {stages:{c}}  {verdict}" for profile, d, stages, verdict in rows]
        return "\n".join([f"{self.port}, {self.dtype}", *table, _LEGEND, *self.differences()])

    def differences(self) -> list[str]:
        """Return a line for each first broken stage: what differs, in numbers."""
        broken = [(result, result.first_broken) for result in self.results]
        return [f"{r.profile}, d={r.d}, {v.stage}: {v.message}" for r, v in broken if v is not None]

    def to_dict(self) -> dict[str, Any]:
        """Return everything in the report in plain Python types."""
        report = super().to_dict()
        for result, entry in zip(self.results, report["results"], strict=True):
            entry["passed"] = result.passed
            entry["summary"] = result.summary
        return report

    def to_json(self) -> str:
        """Return everything in the report as JSON."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def _sheet(self) -> Sheet:
        rows = []
        for result in self.results:
            statuses = Counter(verdict.status for verdict in result.verdicts)
            counts = (statuses["failed"], statuses["absent"], statuses["passed"])
            rows.append((result.profile, result.d, result.passed, result.summary, *counts))
        return Sheet(
            columns=("profile", "d", "right", "verdict", "stages failed", "absent", "passed"),
            rows=rows,
            title=f"{self.port}, {self.dtype}",
            notes=tuple(self.differences()),
        )

    def to_junit(self) -> str:
        """Return JUnit XML: a test case for each stage; stages that the port lacks are skipped."""
        suite = ElementTree.Element("testsuite", name=f"tqvec verify {self.port}")
        counts = {"tests": 0, "failures": 0, "skipped": 0}
        for result in self.results:
            group = f"{result.profile}.d{result.d}"
            for verdict in result.verdicts:
                case = ElementTree.SubElement(suite, "testcase", classname=group, name=verdict.stage)
                counts["tests"] += 1
                if verdict.status == "absent":
                    counts["skipped"] += 1
                    ElementTree.SubElement(case, "skipped")
                elif verdict.status == "failed":
                    counts["failures"] += 1
                    why = "; ".join(verdict.explanations)
                    failure = ElementTree.SubElement(case, "failure", message=why or verdict.message)
                    failure.text = verdict.message
        suite.attrib.update({name: str(count) for name, count in counts.items()})
        return ElementTree.tostring(suite, encoding="unicode") + "\n"
