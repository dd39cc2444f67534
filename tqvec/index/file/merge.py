"""Merging index files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tqvec._mmap import release_pages
from tqvec._output import Output
from tqvec._types import Ids
from tqvec.codec.turboquant import TurboQuant
from tqvec.errors import InputError
from tqvec.index.differences import describe_difference
from tqvec.index.file import io
from tqvec.index.file.header import CHECKSUM_ROWS, KIND, Header
from tqvec.index.rows import Rows


class _File(NamedTuple):
    path: Path
    header: Header
    rows: Rows
    codec: TurboQuant


def merge(paths: Sequence[Path], output: Output | Path) -> Header:
    """Write the vectors of several index files to one, in their order; only a part, and ids, are in memory.

    The first file's vectors keep their ids, and so do those of files with an ids tensor. The others get new numbers,
    behind all of these.

    Parameters
    ----------
    paths : sequence of Path
        At least one file. Every byte of them is verified.
    output : Output or Path
        None of `paths`.

    Returns
    -------
    Header
        The header of the merged file.

    Raises
    ------
    InputError
        The files have different codecs or metrics, or an id in common; or the output is one of them.
    FormatError
        A file is damaged.
    """
    target = output if isinstance(output, Output) else Output(output, KIND, inputs=paths)
    files: list[_File] = []
    for path in paths:
        header, rows, calibration, lists = io.load(path, mmap=True, verify=True)
        if lists:
            raise InputError(f"{path} is partitioned; merge such indexes by Index.load, merge_from and save")
        files.append(_File(path, header, rows, io.codec_of(path, header, calibration)))
        _check_codecs(files[0], files[-1])
    ids, next_id = _merge_ids(files)
    first_id = files[0].header.first_id if ids is None else None
    n = sum(file.header.ntotal for file in files)
    with io.Writer(target, files[0].codec, files[0].header.metric, n, first_id, next_id) as writer:
        for rows in _iter_parts(files, ids):
            writer.write(rows)
    return writer.header


def _check_codecs(one: _File, other: _File) -> None:
    difference = describe_difference((one.codec, one.header.metric), (other.codec, other.header.metric))
    if difference is not None:
        raise InputError(
            f"only vectors of one codec and metric can be merged, but {one.path} and {other.path} differ: "
            f"{difference}; build one of them again, with the settings of the other"
        )


def _merge_ids(files: list[_File]) -> tuple[list[Ids] | None, int]:
    """Return each file's ids in the merged file, None if they are consecutive there; and the next id."""
    n = sum(file.header.ntotal for file in files)
    if not any("ids" in file.rows for file in files):
        first = files[0].header
        return None, max(first.next_id, first.first_id + n)
    kept = [i == 0 or "ids" in file.rows for i, file in enumerate(files)]
    own = [file for file, keeps in zip(files, kept, strict=True) if keeps]
    _check_distinct(own)
    end = max(file.header.next_id for file in own)
    ids = []
    for file, keeps in zip(files, kept, strict=True):
        if keeps:
            ids.append(_ids_of(file))
        else:
            ids.append(np.arange(end, end + file.header.ntotal))
            end += file.header.ntotal
    return ids, end


def _ids_of(file: _File) -> Ids:
    """Return the ids of a file's vectors."""
    first = file.header.first_id
    return file.rows.get("ids", np.arange(first, first + file.header.ntotal))


def _check_distinct(files: list[_File]) -> None:
    ids = np.sort(np.concatenate([_ids_of(file) for file in files]))
    twice = ids[1:][ids[1:] == ids[:-1]]
    if twice.size:
        holders = [str(file.path) for file in files if twice[0] in _ids_of(file)]
        raise InputError(f"id {twice[0]} is in {' and '.join(holders)}")


def _iter_parts(files: list[_File], ids: list[Ids] | None) -> Iterator[Rows]:
    for i, file in enumerate(files):
        rows = file.rows if ids is None else file.rows | {"ids": ids[i]}
        for start in range(0, file.header.ntotal, CHECKSUM_ROWS):
            yield {name: array[start : start + CHECKSUM_ROWS] for name, array in rows.items()}
            release_pages(file.rows["codes"])
