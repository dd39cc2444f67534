"""The disk cache saves time and does nothing else: whatever is in its folders, functions give the same results."""

import errno
import hashlib
import os
import pickle
import shutil
import subprocess
import sys
import sysconfig
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from numba.core import config

from tqvec.errors import CacheWarning
from tqvec.kernels import _jit

ROOT = Path(__file__).parents[2]
NEEDS_ROOT = pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="root alone can become another user")
OTHER_USER = 54_321  # without an entry in the system's list


def double(x):
    return x + x


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty cache of its own; nothing was warned of."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(_jit, "_unkept", None)
    return tmp_path / "cache" / _jit._key()


def start(value=4):
    """Call `double` as a new process would, and return whether it came from the cache."""
    function = _jit.jit(double)
    assert function(value) == 2 * value
    return sum(function.stats.cache_hits.values()) == 1


def files(folder):
    return sorted(path for path in folder.iterdir() if path.suffix == ".nbc")


def sign(payload):
    return hashlib.sha256(payload).digest() + payload


def test_each_signature_is_kept_once(folder):
    assert [start(), start(), start(2.5), start(2.5), start()] == [False, True, False, True, True]
    assert len(files(folder)) == len(list(folder.iterdir())) == 2
    assert [(each.path, each.kept, each.ignored, each.problem) for each in _jit.folders()] == [(folder, 2, 0, None)]
    assert _jit.folders()[0].nbytes == sum(path.stat().st_size for path in files(folder))
    assert _jit.cache_dir() == str(folder)
    assert _jit.unkept() is None


def make_directory(path):
    path.unlink()
    (path / "inside").mkdir(parents=True)


def make_fifo(path):
    path.unlink()
    os.mkfifo(path)


def make_loop(path):
    path.unlink()
    path.symlink_to(path)


def flip(position):
    def change(path):
        content = bytearray(path.read_bytes())
        content[position] ^= 1
        path.write_bytes(content)

    return change


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "short": lambda path: path.write_bytes(path.read_bytes()[:20]),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "text": lambda path: path.write_text("not a pickle\n" * 100),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "bit in the checksum": flip(3),
    "bit in the pickle": flip(40),
    "bit in the machine code": flip(-2000),
    "right checksum, no pickle": lambda path: path.write_bytes(sign(b"nothing")),
    "right checksum, another object": lambda path: path.write_bytes(sign(pickle.dumps([1, 2, 3]))),
    "right checksum, a class that is gone": lambda path: path.write_bytes(sign(b"cnowhere\nNothing\n.")),
    "unreadable": lambda path: path.chmod(0),
    "missing": lambda path: path.unlink(),
    "fifo": make_fifo,
    "symbolic link to itself": make_loop,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_ignored_and_replaced(folder, damage):
    start()
    (path,) = files(folder)
    DAMAGES[damage](path)
    assert start() is (damage == "unreadable" and os.geteuid() == 0)
    assert start()
    assert path.is_file()


def test_a_folder_in_place_of_a_file(folder):
    start()
    make_directory(files(folder)[0])
    with pytest.warns(CacheWarning):
        assert not start()
    assert [path.suffix for path in folder.iterdir()] == [".nbc"]  # what was written in vain is gone


def test_a_file_of_another_signature_is_not_used(folder):
    start(4)
    (integer,) = files(folder)
    start(2.5)
    (real,) = set(files(folder)) - {integer}
    shutil.copy(real, integer)
    assert not start(4)


class Intruder:
    """Pickled code that leaves a trace when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("how", ["everyone can write it", pytest.param("another user's", marks=NEEDS_ROOT)])
def test_files_that_others_could_have_written_are_not_unpickled(folder, tmp_path, how):
    start()
    (path,) = files(folder)
    path.write_bytes(sign(pickle.dumps(Intruder(tmp_path / "trace"))))
    if how == "another user's":
        os.chown(path, OTHER_USER, OTHER_USER)
    else:
        path.chmod(0o666)
    assert (_jit.folders()[0].kept, _jit.folders()[0].ignored) == (0, 1)
    assert not start()
    assert not (tmp_path / "trace").exists()
    assert start()
    path.write_bytes(sign(pickle.dumps(Intruder(tmp_path / "trace"))))
    assert not start()
    assert (tmp_path / "trace").exists()  # the trace works


def test_new_files_are_not_for_everyone_to_write(folder):
    before = os.umask(0)
    try:
        start()
    finally:
        os.umask(before)
    assert files(folder)[0].stat().st_mode & 0o777 == 0o644


def refuse(path, content):
    return os.strerror(errno.ENOSPC)


def test_nowhere_to_write_is_said_once(folder, monkeypatch, recwarn):
    monkeypatch.setattr(_jit, "_write", refuse)
    assert not start()
    (warning,) = recwarn
    assert warning.category is CacheWarning
    for part in ("NUMBA_CACHE_DIR", "tqvec warmup", str(folder), "No space left on device"):
        assert part in str(warning.message)
    assert not start(2.5)
    assert len(recwarn) == 1
    assert "No space left" in _jit.unkept()


def test_where_warnings_are_errors_it_costs_no_result(monkeypatch, capsys):
    monkeypatch.setattr(_jit, "_write", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not start()
        assert not start(2.5)
    assert capsys.readouterr().err.count("NUMBA_CACHE_DIR") == 1


@pytest.mark.parametrize("place", ["file", "/proc/none"])
def test_folders_that_cannot_be_made(tmp_path, monkeypatch, place):
    (tmp_path / "file").touch()
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / place))
    with pytest.warns(CacheWarning, match="can't be kept"):
        assert not start()
    assert _jit.cache_dir() is None
    assert _jit.folders()[0].problem


def test_a_disk_that_fills_while_a_file_is_written(folder):
    resource = pytest.importorskip("resource")
    folder.mkdir(parents=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.warns(CacheWarning):
            assert not start()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(folder.iterdir()) == []


def test_what_can_be_read_is_read_and_what_is_new_goes_where_it_can(folder, tmp_path, monkeypatch):
    start(4)
    write = _jit._write

    def only_there(path, content):
        return refuse(path, content) if path.parent == folder else write(path, content)

    monkeypatch.setattr(_jit, "_write", only_there)
    monkeypatch.setattr(_jit, "_paths", lambda: [folder, tmp_path / "home"])
    assert start(4)
    assert [start(2.5), start(2.5)] == [False, True]
    flip(40)(files(folder)[0])
    assert [start(4), start(4)] == [False, True]
    assert len(files(tmp_path / "home")) == 2


def no_home():
    raise RuntimeError("Could not determine home directory.")


def test_places(tmp_path, monkeypatch):
    key, package = _jit._key(), Path(_jit.__file__).parent / "__pycache__"
    assert _jit._paths() == [tmp_path / "cache" / key]
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _jit._paths() == [package / key, tmp_path / "tqvec" / key]
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert _jit._paths() == [package / key, tmp_path / ".cache" / "tqvec" / key]
    monkeypatch.setattr(Path, "home", no_home)
    assert _jit._paths() == [package / key]
    monkeypatch.setattr(_jit, "_PACKAGE", tmp_path / "archive.zip" / "kernels")
    assert _jit._paths() == []
    with pytest.warns(CacheWarning, match="no home folder"):
        assert not start()
    assert _jit.cache_dir() is None


def test_the_key_follows_sources_level_and_versions(tmp_path, monkeypatch):
    key = _jit._key.__wrapped__
    keys = [key()]
    monkeypatch.setattr(_jit.numba, "__version__", "0.0")
    keys.append(key())
    monkeypatch.setattr(_jit.features, "level", lambda: "other")
    keys.append(key())
    shutil.copytree(_jit._PACKAGE, tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(_jit, "_PACKAGE", tmp_path / "kernels")
    assert key() == keys[-1]
    (tmp_path / "kernels" / "__pycache__").mkdir()
    (tmp_path / "kernels" / "__pycache__" / "new.py").touch()
    assert key() == keys[-1]
    with (tmp_path / "kernels" / "scan" / "portable.py").open("a") as file:
        file.write("\n")
    keys.append(key())
    (tmp_path / "kernels" / "new.pyc").touch()
    keys.append(key())
    assert len(set(keys)) == 5
    monkeypatch.setattr(_jit, "_FROZEN", True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "kernels" / "new.pyc"))
    keys.append(key())
    (tmp_path / "kernels" / "new.pyc").write_text("x")
    keys.append(key())
    assert len(set(keys)) == 7
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    assert key() is None


# A small kernel, and whether it came from the cache.
USE = """
import numpy as np, tqvec
from tqvec.kernels import _jit
from tqvec.kernels.float16.portable import narrow_bfloat16_portable as narrow
out = np.empty(4, np.uint16)
narrow(np.ones(4, np.float32), out)
assert out.tolist() == [0x3F80] * 4
print(sum(narrow.stats.cache_hits.values()), _jit.unkept())
"""


def python(code, path=ROOT, user=None, executable=sys.executable, **environment):
    """Run `code` with an environment that says nothing of caches and homes, and return its two outputs."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LD_LIBRARY_PATH")}
    paths = os.pathsep.join([str(path), sysconfig.get_path("platlib")])
    result = subprocess.run(
        [executable, "-W", "error", "-c", code],
        env=kept | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"} | environment,
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
        **({} if user is None else {"user": user, "group": user, "extra_groups": ()}),
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip(), result.stderr


def copy_package(folder, without_sources=False):
    """Copy the package so that other users can read it."""
    shutil.copytree(ROOT / "tqvec", folder / "tqvec", ignore=shutil.ignore_patterns("__pycache__"))
    if without_sources:
        subprocess.run([sys.executable, "-m", "compileall", "-q", "-b", str(folder)], check=True)
        for path in folder.rglob("*.py"):
            path.unlink()
    return folder


@pytest.fixture
def public_path():
    """A folder that other users can read, unlike those of pytest."""
    path = Path("/tmp") / f"tqvec-test-{os.getpid()}"
    path.mkdir(mode=0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def public_python():
    """An interpreter of this version that other users can execute."""
    name = "python{}.{}".format(*sys.version_info)
    for executable in (sys.executable, f"/usr/bin/{name}", f"/usr/local/bin/{name}"):
        with suppress(AssertionError, OSError):
            python("import tempfile, cmath, numba", "/none", user=OTHER_USER, executable=executable)
            return executable
    pytest.skip("other users can't execute this interpreter")


@pytest.mark.slow
@NEEDS_ROOT
def test_another_user_reads_what_root_has_kept(public_path, public_python):
    """The service of an image; it can write nowhere, and has neither home nor name."""
    copy_package(public_path)
    assert python(USE, public_path, executable=public_python) == ("0 None", "")
    assert python(USE, public_path, executable=public_python, user=OTHER_USER) == ("1 None", "")
    (kept,) = (public_path / "tqvec" / "kernels" / "__pycache__").rglob("*.nbc")
    kept.write_bytes(b"")
    output, errors = python(USE, public_path, executable=public_python, user=OTHER_USER, HOME="/none")
    assert output.startswith("0 ")
    assert "Permission denied" in output
    assert errors.count("NUMBA_CACHE_DIR") == 1
    place = public_path / "own"
    place.mkdir()
    os.chown(place, OTHER_USER, OTHER_USER)
    assert python(USE, public_path, executable=public_python, user=OTHER_USER, NUMBA_CACHE_DIR=str(place)) == (
        "0 None",
        "",
    )
    assert python(USE, public_path, executable=public_python, user=OTHER_USER, NUMBA_CACHE_DIR=str(place)) == (
        "1 None",
        "",
    )


@pytest.mark.slow
@NEEDS_ROOT
def test_privileges_dropped_after_the_import(public_path, public_python):
    copy_package(public_path)
    drop = f"import os, tqvec; os.setgroups([]); os.setgid({OTHER_USER}); os.setuid({OTHER_USER})\n"
    output, errors = python(drop + USE, public_path, executable=public_python, HOME="/root")
    assert output.startswith("0 ")
    assert errors.count("NUMBA_CACHE_DIR") == 1


@pytest.mark.slow
def test_a_package_without_sources(public_path):
    copy_package(public_path, without_sources=True)
    assert [python(USE, public_path)[0] for _ in range(2)] == ["0 None", "1 None"]
    assert list((public_path / "tqvec" / "kernels" / "__pycache__").rglob("*.nbc"))


@pytest.mark.slow
def test_a_package_in_an_archive(public_path, tmp_path):
    copy_package(public_path)
    archive = tmp_path / "packages.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in public_path.rglob("*"):
            file.write(path, path.relative_to(public_path))
    use = USE + "tqvec.TurboQuant(8).distortion\n"
    assert [python(use, archive, HOME=str(tmp_path))[0] for _ in range(2)] == ["0 None", "1 None"]
    assert list((tmp_path / ".cache" / "tqvec").rglob("*.nbc"))


@pytest.mark.slow
def test_processes_that_fill_a_cache_at_once(tmp_path):
    """Each has signatures of its own, and one that all have."""
    code = """
import sys
from tqvec.kernels import _jit
def double(x): return x + x
function = _jit.jit(double)
for value in (1, (1.5, 1j, True)[int(sys.argv[1])]): assert function(value) == value + value
print(sum(function.stats.cache_hits.values()))
"""
    (tmp_path / "code.py").write_text(code)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}

    def run():
        commands = [[sys.executable, str(tmp_path / "code.py"), str(each)] for each in range(3)]
        processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for command in commands]
        return [int(process.communicate()[0]) for process in processes]

    run()
    assert run() == [2, 2, 2]
    (folder,) = (tmp_path / "cache").iterdir()
    assert len(files(folder)) == len(list(folder.iterdir())) == 4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_functions_stay_numbas_otherwise(dtype):
    function = _jit.jit(double)
    x = np.arange(3, dtype=dtype)
    assert np.array_equal(function(x), x + x)
    assert function.signatures
    assert function.py_func is double
