"""The pytest plugin as an installed one: it costs other projects nothing, and cannot break them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HEAVY = ("numba", "scipy", "numpy", "tqvec", "llvmlite")
TEST = f"""
import sys

def test_modules():
    print("imported:", [name for name in {HEAVY} if name in sys.modules])
"""
PORT = """
PROFILES = ["tqvec_scalar@2"]
DIMS = (20,)

def dequantize(view, codes):
    return view.tables["centroids"][codes]
"""


@pytest.fixture
def project(tmp_path):
    """Another project, in an environment where tqvec is installed: `run` runs its tests."""
    info = tmp_path / "site" / "tqvec-9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tqvec\nVersion: 9\n")
    (entry,) = PROJECT["project"]["entry-points"]["pytest11"].items()
    (info / "entry_points.txt").write_text(f"[pytest11]\n{entry[0]} = {entry[1]}\n")
    (tmp_path / "test_other.py").write_text(TEST)
    (tmp_path / "port.py").write_text(PORT)

    def run(*options, **environment):
        path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
        blocked = [f"-pno:{name}" for name in ("xdist", "benchmark", "hypothesispytest", "cacheprovider")]
        command = [sys.executable, "-m", "pytest", "-qs", *blocked, *options]
        environment = {**os.environ, "PYTHONPATH": path, **environment}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def test_nothing_is_imported_without_the_option(project):
    done = project()
    assert "imported: []" in done.stdout, done.stdout + done.stderr
    assert "--tqvec-port" in project("--help").stdout


def test_a_tqvec_that_cannot_be_imported_breaks_no_other_project(project):
    broken = {"TQVEC_SIMD_LEVEL": "avx1024"}
    assert project(**broken).returncode == 0
    done = project("--tqvec-port=port.py", **broken)
    assert done.returncode == 4
    assert "--tqvec-port needs tqvec, which raised" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("more", [(), ("-p", "tqvec.oracle.plugin")])
def test_the_option_runs_the_stages(project, more):
    done = project("--tqvec-port=port.py", *more)
    assert "2 passed, 11 skipped" in done.stdout, done.stdout + done.stderr


def test_a_port_that_is_not_there_is_a_usage_error(project):
    done = project("--tqvec-port=none.py")
    assert "no such port: none.py" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_the_wheel_has_the_module():
    module = PROJECT["project"]["entry-points"]["pytest11"]["tqvec"]
    assert f"{module}.py" in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert f"{module}.py" in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
