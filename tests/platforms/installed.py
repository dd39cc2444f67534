"""The wheel in a clean environment of each Python: built as ``python -m build`` does, installed, and run elsewhere.

    python tests/platforms/installed.py                     # each of Python 3.10 to 3.14 that is found
    python tests/platforms/installed.py 3.12 --wheel dist/tqvec-0.1.0-py3-none-any.whl

Three commands run there: ``tqvec --version``, ``python -m tqvec --version`` and ``tqvec demo``. None of them may open a
file of the checkout: an audit hook of the environment raises an error then.

The wheel's dependencies are those of this environment, if it has the same version of Python. Those of other versions
come from the package index once, and `--root` names the folder that keeps them. It needs Linux or macOS.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
KEPT = Path.home() / ".cache/tqvec-platforms"
SITE = "import sysconfig; print(sysconfig.get_path('purelib'))"
GUARD = '''\
"""Refuse to open files of the checkout."""

import os
import sys


def refuse(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        path = os.path.abspath(arguments[0])
        if path.startswith({checkout!r}) and not path.startswith({packages!r}):
            raise RuntimeError(f"a file of the checkout was opened: {{path}}")


sys.addaudithook(refuse)
'''


def run(command: list[str | Path], folder: Path = ROOT) -> str:
    """Return what a command prints, run without the settings of this environment's Python and of tqvec."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TQVEC_"))}
    environment.setdefault("NUMBA_CACHE_DIR", str(KEPT / "kernels"))
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed in {folder}:\n{done.stdout}{done.stderr}")
    return done.stdout


def build(kind: str, folder: Path, source: Path = ROOT) -> Path:
    """Build an archive, ``"wheel"`` or ``"sdist"``, in a process of its own, as installers do."""
    code = f"import sys; from hatchling.build import build_{kind} as build; print(build(sys.argv[1]))"
    return folder / run([sys.executable, "-c", code, folder], source).split()[-1]


def build_wheel(folder: Path) -> Path:
    """Build the wheel from the source archive, as ``python -m build`` does."""
    with tarfile.open(build("sdist", folder)) as archive:
        archive.extractall(folder, filter="data")
        source = folder / archive.getnames()[0].split("/")[0]
    return build("wheel", folder, source)


def find_python(version: str) -> str | None:
    """Return a Python of that version that runs: this one, one of the search path, or one that pyenv keeps."""
    if platform.python_version().startswith(f"{version}."):
        return sys.executable
    name = f"python{version}"
    paths = [shutil.which(name), *map(str, Path.home().glob(f".pyenv/versions/*/bin/{name}"))]
    for path in filter(None, paths):  # pyenv puts a script on the path for versions that are not switched on, too
        if subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return path
    return None


def python_with_dependencies(python: str, wheel: Path, root: Path) -> str:
    """Return a Python of the same version whose environment has what the wheel requires, and pip."""
    if python == sys.executable:
        return python
    folder = root / Path(python).name
    own = folder / "bin" / "python"
    if not own.exists():
        run([python, "-m", "venv", folder])
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(next(name for name in archive.namelist() if name.endswith("/METADATA"))).decode()
    required = re.findall(r"^Requires-Dist: ([^;\n]+)$", metadata, re.MULTILINE)  # a semicolon: of an extra
    run([own, "-m", "pip", "install", "--quiet", "--no-compile", "--only-binary=:all:", *required])
    return str(own)


def install(wheel: Path, python: str, folder: Path) -> Path:
    """Install the wheel alone in a new environment, which sees the packages of another one; return its programs."""
    run([python, "-m", "venv", "--without-pip", folder])
    programs = folder / "bin"
    run([python, "-m", "pip", "--python", programs / "python", "install", "--no-deps", "--no-index", wheel])
    packages = run([python, "-c", SITE]).strip()
    site = Path(run([programs / "python", "-c", SITE]).strip())
    # A folder that a .pth file names is searched last, and its own .pth files, as of editable installs, do nothing.
    (site / "packages.pth").write_text(f"{packages}\nimport guard_checkout\n", encoding="utf-8")
    guard = GUARD.format(checkout=f"{ROOT}{os.sep}", packages=packages)
    (site / "guard_checkout.py").write_text(guard, encoding="utf-8")
    return programs


def prove(wheel: Path, programs: Path, folder: Path) -> None:
    """Run the commands in a folder; RuntimeError if one fails, or if the version is not that of the wheel."""
    python, command = programs / "python", programs / "tqvec"
    version = wheel.name.split("-")[1]
    for line in ([command, "--version"], [python, "-m", "tqvec", "--version"]):
        printed = run(line, folder)
        if printed != f"tqvec {version}\n":
            raise RuntimeError(f"{' '.join(map(str, line))} printed {printed!r}; the wheel's version is {version}")
    printed = run([command, "demo"], folder)
    if "tqvec 4 bits trellis trained" not in printed:
        raise RuntimeError(f"tqvec demo has no row of 4 bits:\n{printed}")


def main() -> None:
    """Prove the versions of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "versions", nargs="*", help=f"of Python; default: those of {', '.join(VERSIONS)} that are found"
    )
    parser.add_argument("--wheel", type=Path, help="default: it is built")
    parser.add_argument("--root", type=Path, default=KEPT)
    arguments = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = arguments.wheel.absolute() if arguments.wheel else build_wheel(folder)
        for version in arguments.versions or VERSIONS:
            python = find_python(version)
            if python is None:
                failed |= version in arguments.versions
                print(f"Python {version}: not found here", flush=True)
                continue
            place = folder / version
            place.mkdir()
            programs = install(wheel, python_with_dependencies(python, wheel, arguments.root), place / "environment")
            try:
                prove(wheel, programs, place)
            except RuntimeError as error:
                failed = True
                print(f"Python {version}: FAILED: {error}", flush=True)
            else:
                print(f"Python {version}: {wheel.name} is installed and runs", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
