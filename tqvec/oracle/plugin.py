"""The pytest plugin: ``pytest --tqvec-port=port.py`` runs each stage of a port as a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tqvec.oracle.runner import Result, Verdict


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("tqvec", "conformance of ports")
    group.addoption("--tqvec-port", metavar="PORT", help="a Python file or a command: also run `tqvec verify` on it")
    group.addoption("--tqvec-profile", metavar="NAME", action="append", default=[], help="default: what the port names")


class Stage(pytest.Item):
    """One stage of a port, for one profile and dimension."""

    def __init__(self, *, result: Result, verdict: Verdict, **known: Any) -> None:
        super().__init__(**known)
        self.result, self.verdict = result, verdict

    def runtest(self) -> None:
        """Fail as the stage failed; skip if the port lacks it."""
        if self.verdict.status == "absent":
            pytest.skip("the port does not have this stage")
        assert self.verdict.status == "passed"

    def repr_failure(self, excinfo: Any, style: Any = None) -> str:
        """What differs, and the mistake that explains it."""
        from tqvec.oracle.runner import explain

        reasons = [f"this is what a port gives when {explain(reason)}" for reason in self.verdict.reasons]
        return "\n".join([self.verdict.message, *(reasons or ["no known mistake gives this"])])

    def reportinfo(self) -> tuple[Path, int, str]:
        """Name in the summary."""
        return self.path, 0, f"tqvec: {self.name}"


class Report(pytest.Collector):
    """All stages of a port."""

    def collect(self) -> Iterator[Stage]:
        """Judge the port."""
        from tqvec.oracle import ports, runner

        config = self.config
        report = runner.verify(ports.load(config.getoption("--tqvec-port")), config.getoption("--tqvec-profile"))
        for result in report.results:
            for verdict in result.verdicts:
                name = f"{result.profile}-d{result.d}-{verdict.stage}"
                yield Stage.from_parent(self, name=name, result=result, verdict=verdict)


def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Add the stages of the port to what was collected."""
    if session.config.getoption("--tqvec-port"):
        items.extend(Report.from_parent(session, name="tqvec").collect())
