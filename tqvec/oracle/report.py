"""Reports: a sentence, JSON for programs, and JUnit for CI. The table for people is in the verb ``verify``."""

from __future__ import annotations

import json
from dataclasses import asdict
from xml.etree import ElementTree

from tqvec.oracle.runner import Report, Result, explain


def summary(result: Result) -> str:
    """One sentence on a result: passed, or the first broken stage and why."""
    broken = result.first_broken
    if broken is None:
        count = sum(verdict.status == "passed" for verdict in result.verdicts)
        return f"all {count} stages that the port has" if count else "the port has no stage of this profile"
    why = "; or ".join(explain(reason) for reason in broken.reasons[:2]) or "no known mistake gives this"
    return f"{broken.stage}: {why}"


def details(report: Report) -> list[str]:
    """What differs at every first broken stage, in numbers."""
    broken = [(result, result.first_broken) for result in report.results]
    return [f"{r.profile}, d={r.d}, {verdict.stage}: {verdict.message}" for r, verdict in broken if verdict is not None]


def to_json(report: Report) -> str:
    """Everything in the report."""
    found = asdict(report)
    found["passed"] = report.passed
    for result, entry in zip(report.results, found["results"], strict=True):
        entry["passed"] = result.passed
        entry["summary"] = summary(result)
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def to_junit(report: Report) -> str:
    """JUnit XML: a test case for each stage; stages that the port lacks are skipped."""
    suite = ElementTree.Element("testsuite", name=f"tqvec verify {report.port}")
    counts = {"tests": 0, "failures": 0, "skipped": 0}
    for result in report.results:
        for verdict in result.verdicts:
            case = ElementTree.SubElement(
                suite, "testcase", classname=f"{result.profile}.d{result.d}", name=verdict.stage
            )
            counts["tests"] += 1
            if verdict.status == "absent":
                counts["skipped"] += 1
                ElementTree.SubElement(case, "skipped")
            elif verdict.status == "failed":
                counts["failures"] += 1
                why = "; ".join(explain(reason) for reason in verdict.reasons)
                failure = ElementTree.SubElement(case, "failure", message=why or verdict.message)
                failure.text = verdict.message
    suite.attrib.update({name: str(count) for name, count in counts.items()})
    return ElementTree.tostring(suite, encoding="unicode") + "\n"
