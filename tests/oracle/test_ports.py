"""Real ports, the subprocess protocol, the pytest plugin and the verbs."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from command import run

from tqvec import oracle
from tqvec.errors import InputError
from tqvec.oracle import ports, runner
from tqvec.oracle.families.registry import instantiate
from tqvec.oracle.profiles import PROFILES

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
FLIPPED = """
PROFILES = ["tqvec_scalar@2"]
DIMS = (20,)

def quantize(view, y):
    return (y[..., None] >= view.tables["thresholds"]).sum(-1)

def dequantize(view, codes):
    return view.tables["centroids"][codes]
"""


@pytest.fixture(scope="module")
def c_port(tmp_path_factory):
    if COMPILER is None:
        pytest.skip("no C compiler")
    built = tmp_path_factory.mktemp("c") / "c_port"
    source = ROOT / "examples" / "c_port" / "tqvec_scalar.c"
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-O2", "-ffp-contract=off"]
    subprocess.run([COMPILER, *flags, "-o", str(built), str(source), "-lm"], check=True)
    return str(built)


@pytest.mark.slow
@pytest.mark.parametrize(("nbits", "d"), [(1, 64), (2, 100), (3, 80), (4, 1536)])
def test_the_port_in_c(c_port, nbits, d):
    report = oracle.verify(c_port, profiles=[f"tqvec_scalar@{nbits}"], dims=[d], quick=d != 100)
    assert report.passed, report
    (result,) = report.results
    assert all(verdict.status == "passed" for verdict in result.verdicts)
    assert all(v.identical for v in result.verdicts if v.stage in ("normalize", "rotate", "quantize", "pack", "unpack"))


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs PyTorch")
def test_the_port_in_torch():
    report = oracle.verify(ROOT / "examples" / "torch_port.py", profiles=["tqvec_scalar@3"], dims=[64, 100])
    assert report.passed, report


def test_a_command_that_is_no_port(tmp_path):
    with pytest.raises(InputError, match="describe' must print"):
        ports.load(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="describe' must print"):
        ports.load(f"{sys.executable} -c pass")
    with pytest.raises(InputError, match="no such port"):
        ports.load(str(tmp_path / "none.py"))


def test_a_command_that_crashes_fails_its_stage(tmp_path):
    script = tmp_path / "crash"
    script.write_text(
        textwrap.dedent("""
            import sys
            if sys.argv[1] == "describe":
                print('{"stages": ["rotate"]}')
            else:
                sys.exit("out of luck")
        """)
    )
    port = ports.load(f"{sys.executable} {script}")
    verdict = runner.verify_stages(port, instantiate(PROFILES["tqvec_scalar@2"], 20)).first_broken
    assert "exit status 1: out of luck" in verdict.message


class Device:
    """An array of another library: DLPack, but no NumPy."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Copied:
    """An array that must be copied to the host first, like cupy's."""

    def __init__(self, array):
        self.array = array

    def get(self):
        return self.array


@pytest.mark.parametrize("kind", [Device, Copied])
def test_arrays_of_other_libraries(kind):
    s = instantiate(PROFILES["tqvec_scalar@2"], 20)

    def dequantize(view, codes):
        return kind(view.tables["centroids"].array[codes.array])

    port = ports.Port("other", {"dequantize": dequantize}, asarray=kind)
    assert runner.verify_stages(port, s).passed


@pytest.fixture
def flipped(tmp_path):
    path = tmp_path / "port.py"
    path.write_text(FLIPPED)
    return path


def test_verify(flipped, tmp_path):
    told = run("verify", flipped, "--json", tmp_path / "r.json", "--junit", tmp_path / "r.xml")
    assert told.exit_code == 1
    assert "failed at quantize: a value on a threshold (and so zero) gets the code on the other side" in told.output
    found = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert found["passed"] is False
    assert [v["stage"] for v in found["results"][0]["verdicts"] if v["status"] == "failed"] == ["quantize"]
    suite = ElementTree.fromstring((tmp_path / "r.xml").read_text(encoding="utf-8"))
    assert suite.attrib["failures"] == "1"
    assert suite.find("testcase/failure").attrib["message"].startswith("a value on a threshold")
    flipped.write_text(FLIPPED.replace(">=", ">"))
    assert run("verify", flipped).exit_code == 0
    assert "all 1 stages" in run("verify", flipped, "--profile", "paper_mse@2", "-d", 20).output.replace(
        "2 stages", "1 stages"
    )


def test_oracle_verbs(tmp_path):
    listed = run("oracle", "profiles").output
    assert all(name in listed for name in PROFILES)
    shown = run("oracle", "show", "paper_prod@3", "-d", 20).output
    assert "second stage [confirmed]" in shown
    assert "qjl_factor" in shown
    told = run("oracle", "export", "--profile", "tqvec_scalar@2", "-d", 20, "-o", tmp_path / "golden").output
    assert "1 files and manifest.json" in told
    assert (tmp_path / "golden" / "tqvec_scalar-2-d20.safetensors").exists()


def test_the_pytest_plugin(flipped, tmp_path):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tqvec.oracle.plugin", f"--tqvec-port={flipped}"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "1 failed, 1 passed, 10 skipped" in done.stdout, done.stdout + done.stderr
    assert "this is what a port gives when a value on a threshold" in done.stdout


def test_inputs_of_a_port_are_its_own():
    """A port that writes into its input spoils nothing."""
    s = instantiate(PROFILES["tqvec_scalar@2"], 20)

    def spoil(view, x):
        unit = s("normalize", None, x)
        x[:] = np.nan
        return unit

    for _ in range(2):
        assert runner.verify_stages(ports.Port("spoiler", {"normalize": spoil}), s).passed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profiles": 3}, "profiles must be a list of str, got 3"),
        ({"profiles": [None]}, r"profiles\[0\] must be of type str"),
        ({"profiles": ["tqvec_scalar@2"], "dims": 64}, "dims must be a list of int, got 64"),
        ({"profiles": ["tqvec_scalar@2"], "dims": ["64"]}, r"dims\[0\] must be of type int, got '64'"),
    ],
)
def test_lists_of_verify_are_checked(options, message):
    with pytest.raises(InputError, match=message):
        oracle.verify(SimpleNamespace(encode=len), **options)
