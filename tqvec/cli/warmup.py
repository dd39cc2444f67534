"""``tqvec warmup``: compile ahead of the first use."""

from __future__ import annotations

import time

from tqvec.cli._console import Json, progress, show, show_json
from tqvec.index import warmup as index
from tqvec.kernels.features import level
from tqvec.kvcache import warmup as kvcache


def warmup(json: Json = False) -> None:
    """Compile all kernels and keep them on disk, so that later processes start without compiling."""
    start = time.perf_counter()
    with progress() as bar:
        for name, step in bar.track((index.STEPS | kvcache.STEPS).items(), description="compiling kernels"):
            step()
            bar.console.print(f"{name}: ready", highlight=False)
    seconds = time.perf_counter() - start
    if json:
        show_json("warmup", {"level": level(), "seconds": seconds})
    else:
        show(f"kernels for level {level()} ready after {seconds:.1f} s")
