"""Arrays of mapped files."""

from __future__ import annotations

import mmap
from typing import Any

from numpy.typing import NDArray


def release_pages(array: NDArray) -> None:
    """Give the memory of a mapped array back to the system; other arrays are left alone.

    Pages that are used again are read again. A process that goes once through a large file would otherwise seem to need
    memory of that size.
    """
    owner: Any = array
    while owner is not None and not isinstance(owner, mmap.mmap):
        owner = getattr(owner, "base", None)
    if owner is not None and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)
