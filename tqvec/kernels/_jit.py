"""The one decorator behind every kernel, and the disk cache that it reads and writes.

The cache only saves time: a file that is missing, damaged, someone else's or can't be written means that a function is
compiled again. Numba's own cache is not used, for these reasons.

- It stamps a function with the content of its own file alone. So it would miss an edit in another kernel that the
  function inlines, and it does not know which SIMD level a module picked at import. Here, the name of the folder is a
  hash of all kernel sources, the level and the compiler's version. That holds for editable installs too.
- It reads only folders that it can write, fails on damaged files, and mixes up the functions of processes that write
  at once. Here, each compiled signature is one file with a checksum, renamed into place when it is complete.
- It unpickles, so runs, whatever is in the folder. Here, a file must belong to a user whose code runs anyway.

The cache can't keep functions that close over other compiled functions: these are pickled into its key with an
identifier that is new in every process. So kernels refer to each other by global names, never from inside a factory.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import secrets
import stat
import sys
import tempfile
import warnings
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import llvmlite
import numba
from numba.core import caching, config
from numba.core.compiler import CompileResult
from numba.core.compiler_lock import global_compiler_lock
from numba.core.serialize import dumps

from tqvec.errors import CacheWarning
from tqvec.kernels import features
from tqvec.kernels._dispatcher import KernelDispatcher

LANES = 16  # vectors that are processed side by side, one per lane: one AVX-512 or two AVX2 registers of float32

_OPTIONS = {"nopython": True, "nogil": True, "error_model": "numpy", "fastmath": False, "no_cfunc_wrapper": True}
_PACKAGE = Path(__file__).parent
_FROZEN = getattr(sys, "frozen", False)  # an application that holds its own interpreter, as PyInstaller makes
_SUFFIX = ".nbc"  # machine code of one signature, after its checksum
_DIGEST = hashlib.sha256().digest_size

_unkept: str | None = None  # why the last function that could not be kept was not


class Folder(NamedTuple):
    """A folder of compiled kernels.

    Attributes
    ----------
    path : Path
    kept : int
        Number of compiled functions that this process can use.
    nbytes : int
        Their bytes.
    ignored : int
        Number of others: of another user, or not readable.
    problem : str or None
        Why nothing can be written there.
    """

    path: Path
    kept: int
    nbytes: int
    ignored: int
    problem: str | None


def jit(func):
    """Compile `func` without the GIL, without fastmath and without contraction, cached on disk where possible."""
    if config.DISABLE_JIT:
        return func
    dispatcher = KernelDispatcher(func, targetoptions=_OPTIONS)
    dispatcher._cache = _DiskCache(func)
    return dispatcher


def cache_dir() -> str | None:
    """Return the first folder that compiled kernels are read from or can be written to; None if there is none."""
    return next((str(folder.path) for folder in folders() if folder.kept or folder.problem is None), None)


def unkept() -> str | None:
    """Return why a function that this process compiled could not be kept; None if all were."""
    return _unkept


def folders() -> list[Folder]:
    """Return the folders that this process reads kernels from, and writes them to if it can, in this order."""
    return [_describe(path) for path in _paths()]


def _describe(path: Path) -> Folder:
    kept = nbytes = ignored = 0
    with suppress(OSError):  # missing, or not readable
        for name in os.listdir(path):
            if name.endswith(_SUFFIX):
                status = os.stat(path / name)
                usable = _is_trusted(status) and os.access(path / name, os.R_OK)
                kept, nbytes, ignored = kept + usable, nbytes + usable * status.st_size, ignored + (not usable)
    existing = next((parent for parent in (path, *path.parents) if os.path.exists(parent)), Path())
    try:
        tempfile.TemporaryFile(dir=existing).close()  # rights alone don't tell of full or read-only file systems
    except OSError as error:
        return Folder(path, kept, nbytes, ignored, problem=error.strerror)
    return Folder(path, kept, nbytes, ignored, problem=None)


def _paths() -> list[Path]:
    """Return ``NUMBA_CACHE_DIR`` alone, or the package's own folder and the user's."""
    key = _key()
    if key is None or config.DISABLE_JIT:
        return []
    if config.CACHE_DIR:
        return [Path(config.CACHE_DIR) / key]
    paths = []
    if _PACKAGE.is_dir() and not _FROZEN:  # otherwise it is an archive, or unpacked anew at each start
        paths.append(_PACKAGE / "__pycache__" / key)
    user = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(user):
        paths.append(Path(user) / "tqvec" / key)
    else:
        with suppress(RuntimeError):  # no HOME, and a user without an entry in the system's list
            paths.append(Path.home() / ".cache" / "tqvec" / key)
    return paths


@lru_cache(maxsize=1)
def _key() -> str | None:
    """Return a name for what compiled code depends on beside a function's own code; None if that is unknown."""
    versions = (features.level(), numba.__version__, llvmlite.__version__, sys.implementation.cache_tag)
    digest = hashlib.sha256(repr(versions).encode())
    archive = sys.executable if _FROZEN else getattr(__spec__.loader, "archive", None)
    sources = [Path(archive)] if archive else _sources()
    try:
        for path in sources:
            digest.update(path.name.encode() if archive else path.relative_to(_PACKAGE).as_posix().encode())
            digest.update(path.read_bytes())
    except OSError:
        return None
    return f"tqvec-{digest.hexdigest()[:16]}" if sources else None


def _sources() -> list[Path]:
    """Return the files of all kernels, which may be compiled ones in an installation without sources."""
    found = []
    for folder, inner, names in os.walk(_PACKAGE):
        inner[:] = [name for name in inner if name != "__pycache__"]
        found += [Path(folder, name) for name in names if name.endswith((".py", ".pyc"))]
    return sorted(found)


class _DiskCache(caching.FunctionCache):
    """What a dispatcher of Numba asks before it compiles, and tells after."""

    def __init__(self, func) -> None:
        self._py_func = func
        self._cache_path = None  # one of several, see `folders`
        self._name = f"{func.__module__}.{func.__qualname__}".removeprefix("tqvec.kernels.").replace("<locals>.", "")
        _key()  # now: sources may be edited while the program runs

    def load_overload(self, sig, target_context):
        target_context.refresh()
        key = self._index_key(sig, target_context.codegen())
        for folder in _paths():
            payload = _read(folder / self._file_name(key))
            # Its checksum is right, so what can still be wrong is a library that changed without a new version.
            with suppress(Exception):
                if payload is not None:
                    stored, reduced = pickle.loads(payload)
                    if stored == key:
                        return CompileResult._rebuild(target_context, *reduced)
        return None

    def save_overload(self, sig, data) -> None:
        if data.lifted or data.library.has_dynamic_globals:
            return  # addresses of this process
        key = self._index_key(sig, data.codegen)
        payload = dumps((key, data._reduce()))
        name, content = self._file_name(key), hashlib.sha256(payload).digest() + payload
        problems = []
        for folder in _paths():
            problem = _write(folder / name, content)
            if problem is None:
                return
            problems.append(f"{folder}: {problem}")
        _warn("; ".join(problems) or "this user has no home folder, or the sources can't be read")

    def flush(self) -> None:
        """Nothing: each compilation replaces its file."""

    def _file_name(self, key) -> str:
        return f"{self._name}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}{_SUFFIX}"


def _read(path: Path) -> bytes | None:
    """Return what `_write` wrote; None if the file is missing, damaged, or of a user whose code shall not run here."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or not _is_trusted(status):
                return None
            digest, payload = file.read(_DIGEST), file.read()
    except OSError:
        return None
    return payload if hashlib.sha256(payload).digest() == digest else None


def _is_trusted(status: os.stat_result) -> bool:
    """Return whether a file is from this user, the system's, or the owner of this package, and only theirs to write."""
    users = {0, _PACKAGE.stat().st_uid if _PACKAGE.is_dir() else 0}
    if hasattr(os, "geteuid"):  # elsewhere all files seem to belong to user 0
        users.add(os.geteuid())
    return status.st_uid in users and not status.st_mode & stat.S_IWOTH


def _write(path: Path, content: bytes) -> str | None:
    """Write a file whole or not at all, for other users to read; return why that was not possible."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, 0o644)) as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError as error:
        return error.strerror
    finally:
        with suppress(OSError):
            temporary.unlink()  # there if it could not be renamed
    return None


def _warn(problem: str) -> None:
    """Say once in a process that kernels can't be kept, and what to do."""
    global _unkept
    first, _unkept = _unkept is None, problem
    if first:
        message = (
            f"compiled kernels can't be kept, so each start compiles them again ({problem}). Set NUMBA_CACHE_DIR to a "
            "folder that this user can write, or run `tqvec warmup` as one who can, with the same processor"
        )
        try:
            warnings.warn(message, CacheWarning, stacklevel=2)
        except CacheWarning:  # warnings are errors, but this one shall cost no result
            print(message, file=sys.stderr)


if hasattr(os, "register_at_fork"):  # a child would wait for ever for a thread of its parent that compiles
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )
