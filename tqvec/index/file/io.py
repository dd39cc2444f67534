"""Index files, written part by part, and read or mapped.

The "File format" page specifies it. `tqvec.index.file.header` has the fields, `tqvec._safetensors` the container.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec import _atomic, _safetensors
from tqvec._output import Output
from tqvec._present import brief
from tqvec._safetensors import Seen, crc32
from tqvec.codec.calibration import Calibration
from tqvec.codec.error_byte import clear_error_byte
from tqvec.codec.turboquant import TurboQuant
from tqvec.errors import FormatError, InputError
from tqvec.index.file.header import (
    FIRST_CANONICAL,
    FIRST_WITH_ERROR_BYTES,
    KEY,
    KIND,
    LEARNED,
    Header,
    make_header,
    parse_fields,
)
from tqvec.index.partition.stored import StoredLists, check_lists
from tqvec.index.rows import Rows


class Writer:
    """A writer of an index file, part by part: only one part is in memory.

    As a context manager it closes the file, or on an exception deletes it. The old file stays until the new one is
    complete and on the disk, whatever happens.

    Parameters
    ----------
    output : Output or Path
    codec : TurboQuant
    metric : str
    n : int
        Rows of the whole file.
    first_id : int or None
        Id of the first row; the others follow. None: each part has ``ids``.
    next_id : int, optional
        Greater than all ids. Default: the number after the last row's.
    lists : StoredLists, optional
        Of a partitioned index: the rows come in the order of their lists.
    file : file, optional
        Where to write, in place of a new file beside `output`. It keeps its rows until others are written, and stays as
        it is on an exception.

    Attributes
    ----------
    rows : int
        Rows written so far.
    """

    def __init__(
        self,
        output: Output | Path,
        codec: TurboQuant,
        metric: str,
        n: int,
        first_id: int | None = 0,
        next_id: int | None = None,
        lists: StoredLists | None = None,
        file: BinaryIO | None = None,
    ):
        self.codec, self.rows = codec, 0
        self._output = output if isinstance(output, Output) else Output(output, KIND)
        partition = None if lists is None else lists.partition
        self._header = make_header(codec, metric, n, first_id, next_id, partition)
        self._tensors = self._header.tensors()
        self._start = len(self._header.head())
        self._crc = {name: [0] * len(values) for name, values in self._header.crc32.items()}
        self._file = self._output.create() if file is None else file
        try:
            with self._output.naming():
                self._file.truncate(self._start + self._header.data_bytes)
            whole = {name: getattr(codec.calibration, LEARNED[name]) for name in self._header.learned_names}
            whole |= {} if lists is None else lists.arrays()
            for name, array in whole.items():
                self._put(name, 0, array)
                self._crc[name] = [crc32(array)]
        except BaseException:
            if file is None:
                self.discard()
            raise

    @property
    def header(self) -> Header:
        """The header, with the checksums of the rows written so far."""
        return self._header._replace(crc32={name: [f"{crc:08x}" for crc in crcs] for name, crcs in self._crc.items()})

    def write(self, rows: Rows) -> None:
        """Write the next rows.

        Raises
        ------
        InputError
            The file has other arrays, types or shapes, or these are more than `n` rows in all.
        """
        count = self._check(rows)
        for name in self._header.row_names:
            self._put(name, self.rows, rows[name])
            self._update_checksums(name, rows[name])
        self.rows += count

    def _check(self, rows: Rows) -> int:
        """Return the number of rows; InputError if they don't fit the file."""
        header = self._header
        if rows.keys() != set(header.row_names):
            raise InputError(f"rows must have {', '.join(header.row_names)}, got {', '.join(rows)}")
        count = len(rows["scale"])
        for name, array in rows.items():
            dtype, shape = self._tensors[name].dtype, (count, *self._tensors[name].shape[1:])
            if (array.dtype, array.shape) != (dtype, shape):
                raise InputError(f"{name} must have shape {shape} and type {dtype}, got {array.shape} {array.dtype}")
        if self.rows + count > header.ntotal:
            raise InputError(f"{self._output.path}: {header.ntotal} rows were announced, got {self.rows + count}")
        if "ids" in rows and count and rows["ids"].max() >= header.next_id:
            raise InputError(f"ids must be below next_id, {header.next_id}, got {rows['ids'].max()}")
        return count

    def _put(self, name: str, row: int, array: NDArray) -> None:
        tensor = self._tensors[name]
        with self._output.naming():
            self._file.seek(self._start + tensor.start + row * tensor.row_bytes)
            self._file.write(_safetensors.as_bytes(array))

    def _update_checksums(self, name: str, array: NDArray) -> None:
        """Add the next rows of a tensor to the checksums of their blocks."""
        size, done, crcs = self._header.block_rows, 0, self._crc[name]
        while done < len(array):
            block, within = divmod(self.rows + done, size)
            part = array[done : done + size - within]
            crcs[block] = crc32(part, crcs[block])
            done += len(part)

    def resume(self, rows: int, header: Header) -> None:
        """Go on behind rows that another process has written to `file`.

        Raises
        ------
        FormatError
            The rows, or the fields of this file, differ from those of `header`.
        """
        arrays = _safetensors.map_tensors(self._file, self._tensors, self._start)
        for name in self._header.row_names:
            self._update_checksums(name, arrays[name][:rows])
        if self.header != header or not 0 <= rows <= header.ntotal:
            raise FormatError(f"{self._file.name}: the first {rows} rows are not those that were noted")
        self.rows = rows

    def flush(self) -> None:
        """Write the rows so far to the disk: they survive a loss of power."""
        with self._output.naming():
            _atomic.flush(self._file)

    def close(self) -> None:
        """Write the header, and give the file its name.

        Raises
        ------
        InputError
            There are fewer than `n` rows.
        """
        if self.rows < self._header.ntotal:
            raise InputError(f"{self._output.path}: {self._header.ntotal} rows were announced, {self.rows} written")
        with self._output.naming():
            self._file.seek(0)
            self._file.write(self.header.head())
        self._output.publish(self._file)

    def discard(self) -> None:
        """Delete the file, unless it has its name."""
        _atomic.discard(self._file)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.close()
        finally:
            self.discard()


class Loaded(NamedTuple):
    """What is in an index file.

    Attributes
    ----------
    header : Header
    rows : dict of arrays
        Without spare rows after the last one.
    calibration : Calibration or None
    lists : dict of arrays
        Tensors of the partition; empty without one.
    """

    header: Header
    rows: Rows
    calibration: Calibration | None
    lists: dict[str, NDArray]

    def __repr__(self) -> str:
        return brief(self)


def save(
    output: Output | Path,
    codec: TurboQuant,
    metric: str,
    n: int,
    parts: Iterable[Rows],
    first_id: int | None = 0,
    next_id: int | None = None,
    lists: StoredLists | None = None,
) -> Header:
    """Write the `n` rows of all parts to a file and return its header; the arguments are those of `Writer`."""
    with Writer(output, codec, metric, n, first_id, next_id, lists) as writer:
        for rows in parts:
            writer.write(rows)
    return writer.header


def load(path: Path, mmap: bool = False, verify: bool = False, seen: Seen | None = None) -> Loaded:
    """Read an index file.

    The header, calibration and lists are always verified, and so are ids, but for those of a mapped file with lists: of
    it a search reads some parts alone.

    Parameters
    ----------
    path : Path
    mmap : bool
        Map the rows into memory: the system reads them when they are used. The file may be replaced meanwhile, as
        `save` does, but not changed in place.
    verify : bool
        Read and verify everything.
    seen : dict, optional
        Where the file is to be noted as it is now.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    FormatError
        The file is damaged, truncated, foreign or newer than this version of tqvec.
    """
    with _safetensors.open_file(path) as file:
        reader = _safetensors.Reader(path, file, KEY, "tqvec index")
        header = parse_fields(path, reader.fields)
        tensors = header.tensors()
        reader.verify(tensors, header.head() if header.version >= FIRST_CANONICAL else None)
        arrays = reader.map(tensors) if mmap else dict(reader.read(tensors))
    reads_ids = verify or not (mmap and header.list_names)
    for name, array in arrays.items():
        if verify or (name == "ids" and reads_ids) or name not in header.row_names:
            _verify(path, header, name, array)
    if seen is not None:
        seen[os.path.realpath(path)] = reader.digest
    if "ids" in arrays and reads_ids:
        _check_ids(path, arrays["ids"], header.next_id, distinct=verify)
    rows = {name: arrays[name] for name in header.row_names}
    if header.version < FIRST_WITH_ERROR_BYTES:
        rows["scale"] = clear_error_byte(rows["scale"])
    lists = {name: np.array(arrays[name]) for name in header.list_names}
    check_lists(path, lists, header.ntotal)
    return Loaded(header, rows, _calibration(header, arrays), lists)


def read_calibration(file: BinaryIO, header: Header) -> Calibration | None:
    """Return the calibration of a file that a `Writer` has begun, None if its codec has none.

    Raises
    ------
    FormatError
        It has other checksums than the header says.
    ValueError
        The file is shorter than the header says.
    """
    arrays = _safetensors.map_tensors(file, header.tensors(), len(header.head()))
    for name in header.learned_names:
        _verify(Path(file.name), header, name, arrays[name])
    return _calibration(header, arrays)


def codec_of(path: Path, header: Header, calibration: Calibration | None) -> TurboQuant:
    """Return the codec that made the codes of a file.

    Raises
    ------
    FormatError
        This tqvec would misread them.
    """
    try:
        codec = TurboQuant(header.d, nbits=header.nbits, codebook=header.codebook, seed=header.seed)
        if calibration is not None:
            codec = codec.calibrated(calibration)
    except InputError as error:
        raise FormatError(f"{path}: this tqvec can't read such an index: {error}") from error
    if header.fingerprint != codec.fingerprint:
        raise FormatError(
            f"{path}: its codec has fingerprint {header.fingerprint}, this tqvec makes {codec.fingerprint} "
            "from the same parameters"
        )
    return codec


def _calibration(header: Header, arrays: dict[str, NDArray]) -> Calibration | None:
    learned = {LEARNED[name]: np.array(arrays[name]) for name in header.learned_names}
    return Calibration(bands=header.bands, **learned) if learned else None


def _verify(path: Path, header: Header, name: str, array: NDArray) -> None:
    """Verify the blocks of a tensor."""
    kind = header.tensors()[name].kind
    for rows, checksum in zip(header.blocks(name), header.crc32[name], strict=True):
        numbers = "" if rows == slice(None) else f" of rows {rows.start} to {rows.stop - 1}"
        _safetensors.verify_block(f"{path}: damaged: {name}{numbers}", kind, array[rows], checksum)


def _check_ids(path: Path, ids: NDArray[np.int64], next_id: int, distinct: bool) -> None:
    """Raise FormatError for ids that no writer makes; `distinct` sorts them to find an equal pair."""
    if ids.size and ids.max() >= next_id:
        raise FormatError(f"{path}: damaged: ids up to {ids.max()}, but the next one is {next_id}")
    if distinct and np.unique(ids).size < ids.size:
        raise FormatError(f"{path}: damaged: an id occurs twice")
