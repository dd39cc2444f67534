"""The one decorator behind every kernel, and the disk cache it writes to.

Numba's own cache stamps a function with the content of its own file alone. So it would miss an edit in another kernel
that the function inlines, and it does not know which SIMD level a module picked at import. Instead, the name of the
cache directory is a hash of all kernel sources and the level. That holds for editable installs too.

The cache can't keep functions that close over other compiled functions: these are pickled into its key with an
identifier that is new in every process. So kernels refer to each other by global names, never from inside a factory.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from functools import lru_cache
from pathlib import Path

import numba
from numba.core import config

from tqvec.kernels import features

LANES = 16  # vectors that are processed side by side, one per lane: one AVX-512 or two AVX2 registers of float32

_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": False}


@lru_cache(maxsize=1)
def cache_dir() -> str | None:
    """Return the directory of the compiled kernels; None if no directory can be written."""
    package = Path(__file__).parent
    digest = hashlib.sha256(features.level().encode())
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode())
        digest.update(path.read_bytes())
    key = f"tqvec-{digest.hexdigest()[:16]}"
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    for base in (config.CACHE_DIR or None, package / "__pycache__", Path(user) / "tqvec"):
        if base is not None and _writable(Path(base) / key):
            return str(Path(base) / key)
    return None


def _writable(path: Path) -> bool:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return True
    except OSError:
        return False


def jit(func):
    """Compile `func` without the GIL, without fastmath and without contraction, cached on disk where possible."""
    if config.DISABLE_JIT:
        return func
    directory = cache_dir()
    if directory is None:
        return numba.njit(func, **_OPTIONS)
    saved = config.CACHE_DIR
    config.CACHE_DIR = directory  # read while the dispatcher is made; other people's functions keep theirs
    try:
        return numba.njit(func, cache=True, **_OPTIONS)
    finally:
        config.CACHE_DIR = saved
