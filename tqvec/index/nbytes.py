"""Bytes of memory that an index holds, by what they are for."""

from __future__ import annotations

import mmap
from typing import Any

from numpy.typing import NDArray

from tqvec._present import ByteCount
from tqvec.codec.turboquant import TurboQuant
from tqvec.index.partition.partition import Partition
from tqvec.index.store import Store

_PARTS = ("codes", "scales", "ids", "prefixes", "lists", "rotation", "spare")


class IndexBytes(ByteCount):
    """Bytes of memory of an index: an int, the sum of its parts.

    Attributes
    ----------
    codes, scales : int
        Of the vectors; squared lengths for l2 count as scales.
    ids : int
        Ids that are not consecutive, and the table to find them.
    prefixes : int
        The copy of the first bits of codes that searches for few queries make.
    lists : int
        Centroids of a partitioned index, and where its lists begin.
    rotation : int
        Tables of the codec's rotation: a matrix if it is trained.
    spare : int
        Memory that is held without a vector: space for those to come, and of removed ones.
    mapped : int
        Bytes of a mapped file, which the system reads and drops as needed. They are not in the sum.
    """

    codes: int
    scales: int
    ids: int
    prefixes: int
    lists: int
    rotation: int
    spare: int
    mapped: int

    def __new__(cls, mapped: int = 0, **parts: int) -> IndexBytes:
        total = super().__new__(cls, sum(parts.values()))
        total.mapped = mapped
        for name in _PARTS:
            setattr(total, name, parts.get(name, 0))
        return total

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.mapped, self.items())

    def items(self) -> dict[str, int]:
        """Return the parts of the sum by name."""
        return {name: getattr(self, name) for name in _PARTS}

    def to_dict(self) -> dict[str, int]:
        """Return the parts by name, their sum as ``total``, and `mapped`."""
        return super().to_dict() | {"mapped": self.mapped}


def count_bytes(store: Store, codec: TurboQuant, partition: Partition | None) -> IndexBytes:
    """Count the memory of a store, its partition and the rotation of its codec; each piece once, whoever shares it."""
    blocks = store.blocks
    owners = {id(owner): owner for block in blocks for owner in map(_owner, block.arrays())}.values()
    held = [block for block in blocks if not isinstance(_owner(block.rows["codes"]), mmap.mmap)]
    parts = {"codes": 0, "scales": 0, "ids": 0}
    for block in held:
        sizes = {name: array.itemsize * array[0].size for name, array in block.rows.items()}
        parts["codes"] += block.live * sizes.pop("codes")
        parts["scales"] += block.live * sum(sizes.values())
        parts["ids"] += 0 if isinstance(block.ids, int) else 8 * block.live
    spare = sum(owner.nbytes for owner in owners if not isinstance(owner, mmap.mmap)) - sum(parts.values())
    parts["ids"] += store.table_bytes
    return IndexBytes(
        mapped=sum(len(owner) for owner in owners if isinstance(owner, mmap.mmap)),
        **parts,
        prefixes=sum(block.prefixes.nbytes for block in blocks),
        lists=(0 if partition is None else partition.nbytes) + sum(block.starts.nbytes for block in blocks),
        rotation=sum(table.nbytes for table in codec.transform.tables),
        spare=spare,
    )


def _restore(mapped: int, parts: dict[str, int]) -> IndexBytes:
    return IndexBytes(mapped, **parts)


def _owner(array: NDArray) -> Any:
    """The array or the map of a file that holds the memory of an array."""
    owner: Any = array
    while getattr(owner, "base", None) is not None:
        owner = owner.base
    return owner
