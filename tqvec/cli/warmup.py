"""``tqvec warmup``: compile ahead of the first use."""

from __future__ import annotations

import time
from collections.abc import Collection

from tqvec._compile import STEPS, compile_all
from tqvec.cli._console import Json, progress, show, show_json
from tqvec.errors import UnsupportedError
from tqvec.kernels._jit import cache_dir
from tqvec.kernels.features import level


def warmup(json: Json = False) -> None:
    """Compile all kernels and keep them on disk, so that later processes start without compiling."""
    start = time.perf_counter()
    problem = compile_with_progress()
    seconds = time.perf_counter() - start
    if problem is not None:
        raise UnsupportedError(
            f"kernels were compiled but can't be kept: {problem}. Set NUMBA_CACHE_DIR to a folder that this user can "
            "write; `tqvec info` shows the folders"
        )
    folder = cache_dir()
    if folder is None:
        raise UnsupportedError("nothing was compiled, so nothing is kept: NUMBA_DISABLE_JIT is set")
    if json:
        show_json("warmup", {"level": level(), "seconds": seconds, "folder": folder})
    else:
        show(f"kernels for level {level()} ready after {seconds:.1f} s, kept in {folder}")


def compile_with_progress(names: Collection[str] = tuple(STEPS)) -> str | None:
    """Compile the kernels of steps and show how far that is; return why one can't be kept, if that is so."""
    problem = None
    with progress() as bar:
        task = bar.add_task("compiling kernels", total=len(names))
        for name, failure in compile_all(names):
            problem = failure or problem
            bar.console.print(f"{name}: ready", highlight=False)
            bar.advance(task)
    return problem
