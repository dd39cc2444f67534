"""Pytest's way into tqvec: it adds ``--tqvec-port``, and imports nothing of tqvec until this option is used.

It lies beside the package, since importing a part of a package imports the package.
"""

from __future__ import annotations

import importlib

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, unless ``-p tqvec.oracle.plugin`` has added them."""
    group = parser.getgroup("tqvec", "conformance of ports")
    if not group.options:
        group.addoption(
            "--tqvec-port", metavar="PORT", help="a Python file or a command: also run `tqvec verify` on it"
        )
        group.addoption(
            "--tqvec-profile", metavar="NAME", action="append", default=[], help="default: what the port names"
        )


def pytest_configure(config: pytest.Config) -> None:
    """Load the plugin if the option is used."""
    if config.getoption("--tqvec-port") and not config.pluginmanager.hasplugin("tqvec.oracle.plugin"):
        try:
            plugin = importlib.import_module("tqvec.oracle.plugin")
        except Exception as error:
            raise pytest.UsageError(
                f"--tqvec-port needs tqvec, which raised {type(error).__name__}: {error}"
            ) from error
        config.pluginmanager.register(plugin, "tqvec.oracle.plugin")
