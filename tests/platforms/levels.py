"""The kernel tests on processors that this machine's is not: emulated by QEMU, or with the compiler's target lowered.

    python tests/platforms/levels.py                      # all platforms
    python tests/platforms/levels.py aarch64 --tests tests/golden/test_golden.py

Every platform first says which SIMD level it finds, then runs the tests: the golden bytes of all codebooks, and kernels
against the references. It needs x86-64 Linux with Debian's qemu-user and, for aarch64, debootstrap (as root) and pip;
`--root` names the folder that the aarch64 system and compiled kernels are kept in.

LLVM takes hours under emulation. So on emulated x86-64 this machine compiles the kernels first, for the processor that
is emulated, and runs the tests with them; the emulated processor then loads what was compiled, and stops at any
instruction that it lacks. AArch64 code is compiled under emulation.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
TESTS = [
    "tests/golden/test_golden.py",
    *(f"tests/kernels/test_{name}.py" for name in ("pack", "float16", "ids", "topk", "queries", "scan")),
    *(f"tests/kernels/test_{name}.py" for name in ("encode", "encode_levels", "trellis_levels", "staged")),
]
ARM_TESTS = TESTS[:-2]  # the others are of kernels that NEON has not, and compiling takes longest there
PINNED = ("numpy", "numba", "llvmlite", "scipy")  # as here
OTHERS = ("safetensors", "rich", "typer", "click", "shellingham", "typing_extensions", "markdown_it_py", "mdurl")
FOR_TESTS = ("pytest", "pluggy", "iniconfig", "packaging", "pygments", "hypothesis", "sortedcontainers", "attrs")
MIRROR, SUITE, PYTHON = "http://deb.debian.org/debian", "bookworm", "3.11"
TAGS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
FIND = "import tqvec; info = tqvec.simd_info(); print(info['level'], info['cpu'])"


class Platform(NamedTuple):
    """A processor that tests run on.

    Attributes
    ----------
    level : str
        The SIMD level that must be found there.
    target : str
        LLVM's name of the processor that kernels are compiled for; empty: this machine's.
    emulator : tuple of str
        Command that runs a program on it; empty: this machine does.
    """

    level: str
    target: str = ""
    emulator: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, str]:
        """Environment that lowers the compiler's target."""
        return {"NUMBA_CPU_NAME": self.target, "NUMBA_CPU_FEATURES": ""} if self.target else {}


PLATFORMS = {
    "x86-64-v2": Platform("portable", "nehalem", ("qemu-x86_64", "-cpu", "Nehalem")),
    "x86-64-v3": Platform("avx2", "haswell", ("qemu-x86_64", "-cpu", "Haswell")),
    "x86-64-v4": Platform("avx2", "skylake-avx512"),
    "x86-64-v4 with VBMI and VNNI": Platform("avx512"),
    "aarch64": Platform("neon", "neoverse-n1", ("qemu-aarch64", "-cpu", "max")),
}


class Run(NamedTuple):
    """What became of the tests."""

    outcome: str
    passed: int
    seconds: float


def build_arm(folder: Path) -> Path:
    """Return the folder of an AArch64 system with Python and the packages of this one; make it if it is not there."""
    system = folder / "aarch64"
    site = system / "site"
    if site.is_dir():
        return system
    bootstrap = ["debootstrap", "--foreign", "--variant=minbase", "--arch=arm64", "--include=python3", SUITE]
    subprocess.run([*bootstrap, str(system), MIRROR], check=True, stdout=subprocess.DEVNULL)
    for package in (system / "var/cache/apt/archives").glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(package), str(system)], check=True)
    with tempfile.TemporaryDirectory() as wheels:
        tags = [f"--platform={tag}_aarch64" for tag in TAGS]
        pinned = [f"{name}=={version(name)}" for name in PINNED]
        download = ["pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", f"--python-version={PYTHON}"]
        command = [sys.executable, "-m", *download, *tags, "--dest", wheels, *pinned, *OTHERS, *FOR_TESTS]
        subprocess.run(command, check=True)
        for wheel in Path(wheels).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
    return system


def environment(one: Platform, name: str, folder: Path, lowered: bool) -> dict[str, str]:
    """The environment of a run on a platform, with the compiler's target lowered or as it is found."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("NUMBA_", "TQVEC_"))}
    cache = folder / f"kernels-{name.replace(' ', '-')}"
    clean |= {"PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(cache), "TQVEC_NUM_THREADS": "1"}
    return clean | (one.settings if lowered else {})


def python_of(one: Platform, name: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    """The command that runs Python on a platform, and what it adds to the environment."""
    if name != "aarch64":
        return [*one.emulator, sys.executable], {}
    system = build_arm(folder)
    path = os.pathsep.join([str(ROOT), str(system / "site")])
    return [*one.emulator, "-L", str(system), str(system / f"usr/bin/python{PYTHON}")], {"PYTHONPATH": path}


def run_tests(python: list[str], tests: list[str], environ: dict[str, str], minutes: float) -> Run:
    """Run tests, at most so many minutes, and count those that passed."""
    start = time.monotonic()
    command = [*python, "-m", "pytest", "-vv", "-m", "not slow", *tests]
    with tempfile.TemporaryFile("w+") as output:
        try:
            done = subprocess.run(
                command,
                env=environ,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=60 * minutes,
                check=False,
            )
            outcome = "passed" if done.returncode == 0 else f"FAILED ({done.returncode})"
        except subprocess.TimeoutExpired:
            outcome = "stopped"
        seconds = time.monotonic() - start
        output.seek(0)
        text = output.read()
    if outcome.startswith("FAILED"):
        print(text, file=sys.stderr)
    return Run(outcome, text.count(" PASSED"), seconds)


def prove(name: str, arguments: argparse.Namespace) -> bool:
    """Find the level of a platform, run the tests there, print a line of each, and return whether all is well."""
    one, folder = PLATFORMS[name], arguments.root
    python, more = python_of(one, name, folder)
    found = subprocess.run(
        [*python, "-c", FIND],
        env=environment(one, name, folder, lowered=name == "aarch64" or not one.emulator) | more,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    ).stdout.split()
    print(f"{name}: level {found[0]}, processor {found[1]}", flush=True)
    if found[0] != one.level and not (one.level == "avx512" and found[0] == "amx"):
        print(f"{name}: level {one.level} was expected")
        return False
    tests = arguments.tests or (ARM_TESTS if name == "aarch64" else TESTS)
    lowered = environment(one, name, folder, lowered=True) | more
    if one.emulator and name != "aarch64":
        _report(f"{name}, compiled here", run_tests([sys.executable], tests, lowered, arguments.minutes))
    run = run_tests(python, tests, lowered, arguments.minutes)
    _report(name, run)
    return run.outcome == "passed" or (run.outcome == "stopped" and run.passed > 0)


def _report(what: str, run: Run) -> None:
    print(f"{what}: {run.outcome}, {run.passed} tests in {run.seconds / 60:.1f} minutes", flush=True)


def main() -> None:
    """Prove the platforms of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("platforms", nargs="*", help=f"some of {', '.join(PLATFORMS)}; default: all")
    parser.add_argument("--tests", nargs="+", help="files of tests; default: those that end in 20 minutes")
    parser.add_argument("--minutes", type=float, default=20, help="after which tests of a platform are stopped")
    parser.add_argument("--root", type=Path, default=Path.home() / ".cache/tqvec-platforms")
    arguments = parser.parse_args()
    if platform.machine() != "x86_64":
        parser.error("this needs an x86-64 machine")
    unknown = set(arguments.platforms) - set(PLATFORMS)
    if unknown:
        parser.error(f"unknown platform: {', '.join(sorted(unknown))}")
    proven = [prove(name, arguments) for name in arguments.platforms or PLATFORMS]
    sys.exit(not all(proven))


if __name__ == "__main__":
    main()
