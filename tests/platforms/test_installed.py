"""The wheel, installed in an environment of its own, runs; if asked to, for each Python that this machine has."""

import os
import platform
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from platforms.installed import (
    KEPT,
    ROOT,
    VERSIONS,
    build_wheel,
    find_python,
    install,
    prove,
    python_with_dependencies,
    run,
)

from tqvec.kernels._jit import cache_dir

pytestmark = pytest.mark.slow
OWN = platform.python_version().rpartition(".")[0]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling")
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """A cache with what the tests have compiled so far, which serves equal sources wherever they lie."""
    folder = tmp_path / "kernels"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(folder))
    own = Path(cache_dir() or folder)
    (folder / own.name).mkdir(parents=True)
    for path in own.glob("*"):
        with suppress(OSError):  # a file that another process is about to rename
            shutil.copy2(path, folder / own.name)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("version", VERSIONS)
def test_the_wheel_runs(wheel, tmp_path, version):
    if version != OWN and "TQVEC_ALL_PYTHONS" not in os.environ:
        pytest.skip("TQVEC_ALL_PYTHONS=1 runs the others, and installs the dependencies of each")
    python = find_python(version)
    if python is None:
        pytest.skip(f"Python {version} was not found")
    programs = install(wheel, python_with_dependencies(python, wheel, KEPT), tmp_path / "environment")
    prove(wheel, programs, tmp_path)


def test_files_of_the_checkout_are_noticed(wheel, tmp_path):
    python = find_python(OWN)
    programs = install(wheel, python, tmp_path / "environment")
    for line in ("import tqvec.codec.turboquant", "open(sys.argv[1] + '/README.md')"):
        code = f"import sys; sys.path.insert(0, sys.argv[1]); {line}"
        with pytest.raises(RuntimeError, match="a file of the checkout was opened"):
            run([programs / "python", "-c", code, ROOT], tmp_path)
