"""Arrays of mapped files."""

from __future__ import annotations

import mmap
from typing import Any, NamedTuple

from numpy.typing import NDArray


class Mapping(NamedTuple):
    """Where the memory of an array lies in a mapping: behind so many bytes."""

    memory: mmap.mmap
    offset: int

    def read(self, start: int, stop: int) -> None:
        """Let the system begin to read some bytes of the array."""
        first = (self.offset + start) // mmap.PAGESIZE * mmap.PAGESIZE
        self._advise("MADV_WILLNEED", first, self.offset + stop - first)

    def read_nothing_ahead(self) -> None:
        """Let the system read no page of the mapping that isn't asked for."""
        self._advise("MADV_RANDOM")

    def read_ahead(self) -> None:
        """Let the system read ahead, as it does by itself."""
        self._advise("MADV_NORMAL")

    def _advise(self, name: str, *span: int) -> None:
        if hasattr(mmap, name):  # not on Windows
            self.memory.madvise(getattr(mmap, name), *span)


def mapping_of(array: NDArray) -> Mapping | None:
    """Return where an array lies in a mapped file; None if it isn't in one."""
    owner: Any = array
    while owner is not None and not isinstance(owner.base, mmap.mmap):
        owner = owner.base if hasattr(owner.base, "base") else None
    if owner is None:
        return None
    return Mapping(owner.base, array.__array_interface__["data"][0] - owner.__array_interface__["data"][0])


def release_pages(array: NDArray) -> None:
    """Give the memory of a mapped array back to the system; other arrays are left alone.

    Pages that are used again are read again. A process that goes once through a large file would otherwise seem to need
    memory of that size.
    """
    mapping = mapping_of(array)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.memory.madvise(mmap.MADV_DONTNEED)
