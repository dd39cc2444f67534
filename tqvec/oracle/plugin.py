"""The pytest plugin: ``pytest --tqvec-port=port.py`` runs each stage of a port as a test.

`pytest_tqvec`, the module of the entry point, loads it when the option is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_tqvec import pytest_addoption
from tqvec.errors import InputError
from tqvec.oracle.report import Verdict
from tqvec.oracle.runner import verify

__all__ = ["pytest_addoption"]  # for ``-p tqvec.oracle.plugin``


class StageItem(pytest.Item):
    """A stage of a port, for a profile and a dimension."""

    def __init__(self, *, verdict: Verdict, **options: Any) -> None:
        super().__init__(**options)
        self.verdict = verdict

    def runtest(self) -> None:
        """Fail as the stage failed; skip if the port lacks it."""
        if self.verdict.status == "absent":
            pytest.skip("the port does not have this stage")
        assert self.verdict.status == "passed"

    def repr_failure(self, excinfo: Any, style: Any = None) -> str:
        """Return the difference, and the mistakes that explain it."""
        reasons = [f"this is what a port gives when {sentence}" for sentence in self.verdict.explanations]
        return "\n".join([self.verdict.message, *(reasons or ["no known mistake gives this"])])

    def reportinfo(self) -> tuple[Path, int, str]:
        """Return the name in the summary."""
        return self.path, 0, f"tqvec: {self.name}"


class PortCollector(pytest.Collector):
    """The stages of a port."""

    def collect(self) -> Iterator[StageItem]:
        """Verify the port."""
        profiles = self.config.getoption("--tqvec-profile")
        try:
            report = verify(self.config.getoption("--tqvec-port"), profiles=profiles)
        except InputError as error:
            raise pytest.UsageError(str(error)) from error
        for result in report.results:
            for verdict in result.verdicts:
                name = f"{result.profile}-d{result.d}-{verdict.stage}"
                yield StageItem.from_parent(self, name=name, verdict=verdict)


def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Add the stages of the port to the items that were collected."""
    if session.config.getoption("--tqvec-port"):
        items.extend(PortCollector.from_parent(session, name="tqvec").collect())
