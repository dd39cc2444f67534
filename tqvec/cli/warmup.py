"""``tqvec warmup``: compile ahead of the first use."""

from __future__ import annotations

import time

from tqvec.cli._console import console, progress
from tqvec.index import warmup as index
from tqvec.kernels.features import level
from tqvec.kvcache import warmup as kvcache


def warmup() -> None:
    """Compile all kernels and keep them on disk, so that later processes start without compiling."""
    start = time.perf_counter()
    with progress() as bar:
        for name, step in bar.track((index.STEPS | kvcache.STEPS).items(), description="compiling kernels"):
            step()
            bar.console.print(f"{name}: ready", highlight=False)
    console.print(f"kernels for level {level()} ready after {time.perf_counter() - start:.1f} s", highlight=False)
