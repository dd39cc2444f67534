"""Index files: one safetensors file, a versioned header in its metadata. docs/format.md is the specification.

The safetensors library writes only what is in memory as a whole, and tells no offsets, without which nothing can be
mapped; so files are written and read here. `tqvec.index.file.header` knows every byte but those of the tensors.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tqvec import _atomic
from tqvec._mmap import forget
from tqvec.codec.calibration import Calibration
from tqvec.codec.error_byte import clear_error_byte
from tqvec.codec.turboquant import TurboQuant
from tqvec.errors import FormatError, InputError
from tqvec.index.file.header import FIRST_WITH_TANGENTS, LEARNED, Header, new_header, parse_head
from tqvec.index.rows import Rows

_LONGEST_HEAD = 1 << 20  # bytes, and a 16th of the file: more is no header, and costs memory to parse


class Writer:
    """Writes a file part by part, in memory of one part.

    As a context manager it closes the file, or on an exception deletes it: the old file stays until the new one is
    complete and on the disk, whatever happens.

    Parameters
    ----------
    path : Path
    codec : TurboQuant
    metric : str
    n : int
        Rows that will be written.
    first_id : int or None
        Id of the first row; the others follow. None: each part has ``ids``.
    next_id : int, optional
        Greater than all ids. Default: the number after the last row's.
    file : file, optional
        To write to in place of a new one beside `path`; it keeps its rows until others are written, and is left as it
        is on an exception.

    Attributes
    ----------
    rows : int
        Written so far.
    """

    def __init__(
        self,
        path: Path,
        codec: TurboQuant,
        metric: str,
        n: int,
        first_id: int | None = 0,
        next_id: int | None = None,
        file: BinaryIO | None = None,
    ):
        self.codec, self.rows = codec, 0
        self._path = path
        self._header = new_header(codec, metric, n, first_id, next_id)
        self._tensors = self._header.tensors()
        self._start = len(self._header.head())
        self._crc = {name: [0] * len(values) for name, values in self._header.crc32.items()}
        self._file = _atomic.create(path) if file is None else file
        try:
            self._file.truncate(self._start + self._header.data_bytes)
            for name in self._header.learned_names:
                self._put(name, 0, getattr(codec.calibration, LEARNED[name]))
                self._crc[name] = [_crc(getattr(codec.calibration, LEARNED[name]))]
        except BaseException:
            if file is None:
                self.discard()
            raise

    @property
    def header(self) -> Header:
        """With the checksums of what was written so far."""
        return self._header._replace(crc32={name: [f"{crc:08x}" for crc in crcs] for name, crcs in self._crc.items()})

    def write(self, rows: Rows) -> None:
        """Put the next rows at their places.

        Raises
        ------
        InputError
            Other arrays, types or shapes than the file has, or more rows than were announced.
        """
        count = self._checked(rows)
        for name in self._header.row_names:
            self._put(name, self.rows, rows[name])
            self._sum(name, rows[name])
        self.rows += count

    def _checked(self, rows: Rows) -> int:
        """How many rows there are."""
        header = self._header
        if rows.keys() != set(header.row_names):
            raise InputError(f"rows must have {', '.join(header.row_names)}, got {', '.join(rows)}")
        count = len(rows["scale"])
        for name, array in rows.items():
            dtype, shape = self._tensors[name].dtype, (count, *self._tensors[name].shape[1:])
            if (array.dtype, array.shape) != (dtype, shape):
                raise InputError(f"{name} must have shape {shape} and type {dtype}, got {array.shape} {array.dtype}")
        if self.rows + count > header.ntotal:
            raise InputError(f"{self._path}: {header.ntotal} rows were announced, got {self.rows + count}")
        if "ids" in rows and count and rows["ids"].max() >= header.next_id:
            raise InputError(f"ids must be below next_id, {header.next_id}, got {rows['ids'].max()}")
        return count

    def _put(self, name: str, row: int, array: NDArray) -> None:
        tensor = self._tensors[name]
        self._file.seek(self._start + tensor.start + row * tensor.row_bytes)
        self._file.write(_bytes(array))

    def _sum(self, name: str, array: NDArray) -> None:
        """Take the next rows into the checksums of their blocks."""
        size, done, crcs = self._header.block_rows, 0, self._crc[name]
        while done < len(array):
            block, within = divmod(self.rows + done, size)
            part = array[done : done + size - within]
            crcs[block] = _crc(part, crcs[block])
            done += len(part)

    def resume(self, rows: int, header: Header) -> None:
        """Go on behind rows that another process has written to `file`.

        Raises
        ------
        FormatError
            They, or what the file is to be, are not what that header tells.
        """
        arrays = _mapped(self._file, self._header, self._start)
        for name in self._header.row_names:
            self._sum(name, arrays[name][:rows])
        if self.header != header or not 0 <= rows <= header.ntotal:
            raise FormatError(f"{self._file.name}: the first {rows} rows are not those that were noted")
        self.rows = rows

    def flush(self) -> None:
        """What was written so far survives a loss of power."""
        _atomic.flush(self._file)

    def close(self) -> None:
        """Write the header, and give the file its name.

        Raises
        ------
        InputError
            There are fewer rows than were announced.
        """
        if self.rows < self._header.ntotal:
            raise InputError(f"{self._path}: {self._header.ntotal} rows were announced, {self.rows} written")
        self._file.seek(0)
        self._file.write(self.header.head())
        _atomic.publish(self._file, self._path)

    def discard(self) -> None:
        """Delete what was written, unless it has its name."""
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


def save(
    path: Path,
    codec: TurboQuant,
    metric: str,
    n: int,
    parts: Iterable[Rows],
    first_id: int | None = 0,
    next_id: int | None = None,
) -> None:
    """Write the `n` rows of all parts to a file; arguments as for `Writer`."""
    with Writer(path, codec, metric, n, first_id, next_id) as writer:
        for rows in parts:
            writer.write(rows)


def load(path: Path, mmap: bool = False, verify: bool = False) -> tuple[Header, Rows, Calibration | None]:
    """Read a file.

    The header, ids and calibration are always verified.

    Parameters
    ----------
    path : Path
    mmap : bool
        Map the rows into memory: arrays of which nothing is read before it is used. The file may be replaced
        meanwhile, as `save` does, but not changed in place.
    verify : bool
        Read and verify everything.

    Returns
    -------
    header : Header
    rows : dict of arrays
        Without spare rows after the last one.
    calibration : Calibration or None

    Raises
    ------
    FileNotFoundError
        There is no such file.
    FormatError
        It is damaged, truncated, foreign or newer than this version of tqvec.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    with path.open("rb") as file:
        header, start = _read_header(path, file)
        arrays = _mapped(file, header, start) if mmap else _read(path, file, header)
    for name, array in arrays.items():
        if verify or name == "ids" or name in header.learned_names:
            _verify(path, header, name, array)
    if "ids" in arrays:
        _check_ids(path, arrays["ids"], header.next_id, distinct=verify)
    rows = {name: arrays[name] for name in header.row_names}
    if header.version < FIRST_WITH_TANGENTS:
        rows["scale"] = clear_error_byte(rows["scale"])
    return header, rows, _calibration(header, arrays)


def calibration_in(file: BinaryIO, header: Header) -> Calibration | None:
    """The calibration in a file that a `Writer` has begun.

    Raises
    ------
    FormatError
        It is not the one that the header tells.
    ValueError
        The file is shorter than the header tells.
    """
    arrays = _mapped(file, header, len(header.head()))
    for name in header.learned_names:
        _verify(Path(file.name), header, name, arrays[name])
    return _calibration(header, arrays)


def codec_of(path: Path, header: Header, calibration: Calibration | None) -> TurboQuant:
    """The codec that made the codes of a file.

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


def _read_header(path: Path, file: BinaryIO) -> tuple[Header, int]:
    """Header, and where the tensors begin; the file has the size that both tell."""
    size = os.fstat(file.fileno()).st_size
    first = file.read(8)
    length = int.from_bytes(first, "little")
    if not length <= min(size - 8, _LONGEST_HEAD + size // 16):
        raise FormatError(
            f"{path}: not a safetensors file, or damaged or truncated: a header of {length} bytes in {size}"
        )
    header = parse_head(path, first + file.read(length))
    told = 8 + length + header.data_bytes
    if size != told:
        raise FormatError(f"{path}: damaged or truncated: it has {size} bytes, its header tells {told}")
    return header, 8 + length


def _mapped(file: BinaryIO, header: Header, start: int) -> dict[str, NDArray]:
    """All tensors as views of the file, which has the size that the header tells."""
    # Copy on write, since Numba would compile anew for arrays that it may not write to; none is ever written to.
    data = np.memmap(file, np.uint8, "c", shape=(start + header.data_bytes,))
    return {
        name: np.ndarray(tensor.shape, tensor.dtype, buffer=data, offset=start + tensor.start)
        for name, tensor in header.tensors().items()
    }


def _read(path: Path, file: BufferedReader, header: Header) -> dict[str, NDArray]:
    """All tensors, of a file that stands at the first one."""
    arrays = {}
    for name, tensor in header.tensors().items():
        arrays[name] = np.empty(tensor.shape, tensor.dtype)
        if file.readinto(_bytes(arrays[name])) != arrays[name].nbytes:
            raise FormatError(f"{path}: became shorter while it was read")
    return arrays


def _calibration(header: Header, arrays: dict[str, NDArray]) -> Calibration | None:
    learned = {LEARNED[name]: np.array(arrays[name]) for name in header.learned_names}
    return Calibration(bands=header.bands, **learned) if learned else None


def _verify(path: Path, header: Header, name: str, array: NDArray) -> None:
    """Compare the checksums of a tensor's blocks, and refuse numbers that no writer makes."""
    for block, told in zip(header.blocks(name), header.crc32[name], strict=True):
        part = array[block]
        where = f"{path}: damaged: {name}" + (
            "" if block == slice(None) else f" of rows {block.start} to {block.stop - 1}"
        )
        if f"{_crc(part):08x}" != told:
            raise FormatError(f"{where} has checksum {_crc(part):08x}, the header says {told}")
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            raise FormatError(f"{where} holds NaN or Inf")
        forget(part)


def _check_ids(path: Path, ids: NDArray[np.int64], next_id: int, distinct: bool) -> None:
    """Refuse ids that no writer makes; to find an equal pair they are sorted."""
    if ids.size and ids.max() >= next_id:
        raise FormatError(f"{path}: damaged: ids up to {ids.max()}, but the next one is {next_id}")
    if distinct and np.unique(ids).size < ids.size:
        raise FormatError(f"{path}: damaged: an id occurs twice")


def _bytes(array: NDArray) -> memoryview:
    """Its memory, as bytes; a copy if it isn't contiguous."""
    flat: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return memoryview(flat)


def _crc(array: NDArray, crc: int = 0) -> int:
    return zlib.crc32(_bytes(array), crc)
