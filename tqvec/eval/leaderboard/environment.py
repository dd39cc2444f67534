"""Environment: where figures come from."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tqvec.kernels.features import simd_info

_PACKAGES = ("tqvec", "numpy", "numba", "llvmlite", "faiss-cpu", "turbovec", "rabitqlib", "hnswlib", "usearch")


def describe_machine() -> dict[str, Any]:
    """Return the processor, its number of cores, the SIMD level, and versions of Python and packages."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "level": simd_info()["level"],
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
    }


def cpu_name() -> str:
    """Return the name of the processor as the system knows it; on Linux with family and model."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    found = {line.split(":")[0].strip(): line.split(":")[1].strip() for line in lines if ":" in line}
    return f"{found.get('model name')} (family {found.get('cpu family')}, model {found.get('model')})"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
