"""Saved: the contents of an index, to and from its file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TypeVar

import numpy as np

from tqvec._output import Output, as_path
from tqvec._safetensors import Seen
from tqvec._types import Ids
from tqvec.errors import InputError
from tqvec.index.blocks import UNSORTED
from tqvec.index.file import io
from tqvec.index.file.header import KIND, Header
from tqvec.index.metrics import Metric
from tqvec.index.partition.stored import StoredLists, stored_lists
from tqvec.index.partitioned import Partitioned
from tqvec.index.rows import Rows
from tqvec.index.store import Blocks, first_id

Self = TypeVar("Self", bound="Saved")
_PART = 16_384  # rows that are copied at a time


class Saved(Partitioned):
    """Contents that can be saved to a file and loaded from it."""

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the index to one safetensors file, which any framework can open; see the "File format" page.

        The file appears under its name when it is complete: a crash leaves the old file or none. A link is followed,
        and a file that is replaced keeps its mode and owner; see the "Files" page.

        Parameters
        ----------
        path : path
            Also a device or FIFO.
        overwrite : bool
            Replace a file that is not an index of tqvec, is read-only, or has changed since this index was loaded from
            it or saved to it.

        Raises
        ------
        InputError
            There is a file that only `overwrite` replaces.
        OSError
            A folder; a path that this process can't write to; a full disk. The old file stays.
        """
        write(self, Output(path, KIND, overwrite=overwrite, seen=self._seen))

    @classmethod
    def load(cls: type[Self], path: str | os.PathLike[str], *, mmap: bool = False, verify: bool = False) -> Self:
        """Read an index that `save` wrote.

        Parameters
        ----------
        path : path
        mmap : bool
            Map the file: codes are read when a search needs them, and processes share them. Vectors can be added to a
            mapped index, and removed; the file stays as it is. It may be replaced meanwhile, but not changed in place.
        verify : bool
            Compare the checksums of the vectors too, not only those of the header, the ids and the calibration. The ids
            of a mapped file with lists are compared with this option alone.

        Raises
        ------
        FormatError
            The file is damaged, truncated, not a tqvec index, or of a newer version. The message says what else it is,
            and what to do with it, if its first bytes tell.
        FileNotFoundError
            There is no such file.
        """
        file, seen = as_path(path), Seen()
        header, rows, calibration, lists = io.load(file, mmap, verify, seen)
        codec, metric = io.codec_of(file, header, calibration), Metric(header.metric)
        index = cls._from_codec(codec, metric)
        index._seen = seen
        starts = UNSORTED
        if lists:
            partition, starts = stored_lists(codec, metric, lists, header.probe_ks, header.probe_weight)
            index._core = index._empty(codec, partition)
        ids = rows.pop("ids", header.first_id)
        index._core.store.load_rows(rows, ids, header.next_id, mmap, starts)
        return index


def write(index: Saved, output: Output) -> Header:
    """Write an index to an output, and return the header of the file."""
    core, blocks, next_id = index._moment()
    first = first_id(blocks, next_id)
    n, lists = sum(block.live for block in blocks), None
    chunks = core.store.iter_chunks(blocks)
    if core.partition is not None:
        order = core.store.arrangement(blocks)
        first, chunks, lists = None, order.chunks(), StoredLists(core.partition, order.starts)
    rows_of = (rows if first is not None else rows | {"ids": ids} for rows, ids in chunks)
    return io.save(output, core.codec, index._metric.value, n, rows_of, first, next_id, lists)


def iter_rows(index: Saved, ids: Ids) -> Iterator[Rows]:
    """Yield codes, scales and, for l2, squared lengths of ids, some at a time.

    The memory is that of one part and of some bytes per id; `Index.reconstruct` keeps a table of all ids of the index.

    Parameters
    ----------
    index : Index
    ids : (n,) int64
        Rising.

    Raises
    ------
    InputError
        An id is not in the index.
    """
    if ids.size == 0:
        return
    snapshot = index._snapshot()
    rows = _find(snapshot.blocks, ids)
    if (rows < 0).any():
        raise InputError(f"id {ids[np.argmax(rows < 0)]} is not in the index")
    for first in range(0, rows.size, _PART):
        yield snapshot.gather(rows[first : first + _PART], snapshot.blocks[0].rows)


def _find(blocks: Blocks, ids: Ids) -> Ids:
    """Return the rows of rising ids, counted through all blocks, removed rows included; -1 where there is none."""
    found, start = np.full(ids.size, -1, np.int64), 0
    for block in blocks:
        rows = block.live_rows()
        own = block.ids_of(rows)
        near = (own >= ids[0]) & (own <= ids[-1])
        rows, own = rows[near], own[near]
        at = np.searchsorted(ids, own)
        wanted = ids[at] == own
        found[at[wanted]] = rows[wanted] + start
        start += block.n
    return found
