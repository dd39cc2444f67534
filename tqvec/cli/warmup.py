"""``tqvec warmup``: compile ahead of the first use."""

from __future__ import annotations

import time
import warnings

from tqvec.cli._console import Json, progress, show, show_json
from tqvec.errors import CacheWarning, UnsupportedError
from tqvec.index import warmup as index
from tqvec.kernels._jit import cache_dir, unkept
from tqvec.kernels.features import level
from tqvec.kvcache import warmup as kvcache


def warmup(json: Json = False) -> None:
    """Compile all kernels and keep them on disk, so that later processes start without compiling."""
    start = time.perf_counter()
    with warnings.catch_warnings(), progress() as bar:
        warnings.simplefilter("ignore", CacheWarning)  # the end of this command says it
        for name, step in bar.track((index.STEPS | kvcache.STEPS).items(), description="compiling kernels"):
            step()
            bar.console.print(f"{name}: ready", highlight=False)
    seconds = time.perf_counter() - start
    problem = unkept()
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
