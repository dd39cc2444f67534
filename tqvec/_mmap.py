"""Arrays in mapped files."""

from __future__ import annotations

import mmap
from typing import Any

from numpy.typing import NDArray


def forget(array: NDArray) -> None:
    """Give the memory of a mapped array back; what is used again is read again. Other arrays are left alone.

    A process that goes once through a large file would otherwise seem to need memory of that size.
    """
    owner: Any = array
    while owner is not None and not isinstance(owner, mmap.mmap):
        owner = getattr(owner, "base", None)
    if owner is not None and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)
