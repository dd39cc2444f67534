"""Vectors that a user handed over, read and converted part by part: they may lie in a file larger than memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tqvec._arrays import Pieces, as_array, pieces
from tqvec._mmap import release_pages
from tqvec._types import Floats, Ids
from tqvec._validate import as_float32, check_shape, first_bad_row, floating, numbers, row_error
from tqvec.errors import InputError

_PART = 1 << 23  # bytes of float32 that are made at a time
_SPARSE = 64  # of fewer rows than one in so many each is read by itself, else all between them too


class RowNames(NamedTuple):
    """The names of rows in messages, such as ``x row 3``.

    Attributes
    ----------
    argument : str
    numbers : sequence of int
        Number of each row.
    """

    argument: str = "x"
    numbers: Sequence[int] | Ids = range(2**62)

    def of(self, row: int) -> str:
        """Return the name of a row, counted from the first of these."""
        return f"{self.argument} row {self.numbers[row]}"


def _part_rows(d: int) -> int:
    return max(1, _PART // (4 * d))


class Vectors:
    """Rows of checked type and shape, of which float32 is made when they are read.

    Parameters
    ----------
    x : (n, d) or (d,) array_like
        As `floating` takes it. What `pieces` reads some rows at a time is read so; its first row is checked now.
    d : int
        Expected dimension.
    name : str
        Name of the argument, for messages.
    first : int
        Number of the first row, for messages.

    Raises
    ------
    InputError
        Wrong type or shape.
    """

    def __init__(self, x: ArrayLike, d: int, name: str, first: int = 0) -> None:
        self.d, self._name, self._first = d, name, first
        source = pieces(x)
        self._source = floating(x, d, name) if source is None else source
        self._rows: range | Ids = range(len(self._source) if source is None else source.n)
        if source is not None:
            self._slice(0, min(1, source.n))

    def __len__(self) -> int:
        return len(self._rows)

    def require(self, d: int) -> None:
        """Raise `InputError` unless the rows have `d` numbers: kernels trust it."""
        if self.d != d:
            raise InputError(f"{self._name} must have shape (n, {d}), got rows of {self.d}")

    @property
    def names(self) -> RowNames:
        """Names of the rows."""
        rows, first = self._rows, self._first
        shifted = range(rows.start + first, rows.stop + first) if isinstance(rows, range) else rows + first
        return RowNames(self._name, shifted)

    def named(self, name: str, first: int) -> Vectors:
        """Return these vectors with another name for messages, and another number of the first row."""
        other = self.some(slice(None))
        other._name, other._first = name, first
        return other

    def some(self, rows: slice | Ids) -> Vectors:
        """Return some of these vectors, in ascending order; messages call them as before."""
        part = Vectors.__new__(Vectors)
        part.d, part._name, part._first, part._source = self.d, self._name, self._first, self._source
        part._rows = self._rows[rows] if isinstance(rows, slice) else np.asarray(self._rows)[rows]
        return part

    def parts(self, *, most: int | None = None, whole: bool = False) -> Iterator[Vectors]:
        """Iterate over parts of at most 8 MiB as float32, and at most `most` rows; over an empty one if there are none.

        With `whole` there is one part of any size, if it needs no copy.
        """
        n, step = len(self), _part_rows(self.d)
        step = step if most is None else max(1, min(step, most))
        if n <= step or (whole and self._is_ready()):
            yield self
            return
        for start in range(0, n, step):
            yield self.some(slice(start, start + step))
            self._release()

    def float32(self) -> Floats:
        """Return all rows; NaN and infinity pass."""
        return as_float32(self._read_rows())

    def checked(self) -> Floats:
        """Return all rows; raise `InputError` for the first that holds NaN or infinity."""
        rows = self.float32()
        bad = first_bad_row(rows)
        if bad is not None:
            raise self.bad_row(bad)
        return rows

    def check(self) -> None:
        """Read all rows, part by part, as `checked` does."""
        for part in self.parts():
            part.checked()

    def take(self, rows: Ids) -> Floats:
        """Return some rows, in any order, as `checked` does; no other row of an array is read."""
        out, order = np.empty((rows.size, self.d), np.float32), np.argsort(rows, kind="stable")
        wanted = self.some(rows[order])
        done = 0
        for part in wanted.parts():
            out[order[done : done + len(part)]] = part.checked()
            done += len(part)
        return out

    def bad_row(self, row: int) -> InputError:
        """Return the error for a row that is not finite as float32; it is read anew, to say why."""
        return row_error(self.some(slice(row, row + 1))._read_rows()[0], self.names.of(row))

    def _is_ready(self) -> bool:
        """Return whether float32 is there already, so that no part of it is a copy."""
        rows = self._source
        if not isinstance(rows, np.ndarray) or rows.dtype != np.float32 or not isinstance(self._rows, range):
            return False
        if self._map() is not None:  # the codes of a large file shall be made part by part too
            return False
        return rows.flags.c_contiguous and rows.flags.writeable and rows.flags.aligned

    def _read_rows(self) -> NDArray[Any]:
        """Return all rows in the type that they have."""
        rows, source = self._rows, self._source
        if isinstance(rows, range):
            return self._slice(rows.start, rows.stop)
        if not rows.size:
            return np.empty((0, self.d), np.float32)
        if not isinstance(source, Pieces):
            picked: NDArray[Any] = source[rows]
            return picked
        low, high = int(rows[0]), int(rows[-1]) + 1
        if rows.size * _SPARSE < high - low:  # files are slow to take long lists of rows
            return np.concatenate([self._slice(row, row + 1) for row in rows.tolist()])
        read, step = [], _part_rows(self.d)
        for start in range(low, high, step):
            first, last = np.searchsorted(rows, [start, start + step])
            if first < last:
                read.append(self._slice(start, min(start + step, high))[rows[first:last] - start])
        return np.concatenate(read)

    def _slice(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows that follow each other, in their own type."""
        if not isinstance(self._source, Pieces):
            return self._source[start:stop]
        piece = self._source.read(start, stop)
        if start == stop and as_array(piece, self._name).shape[-1:] == (0,):  # a column without any list
            return np.empty((0, self.d), np.float32)
        rows = numbers(piece, self._name, self._first + start)
        if rows.ndim < 2:
            raise InputError(f"{self._name} must have rows of {self.d} numbers, got a column of single ones")
        if start and rows.shape[1] != self.d:
            where = f"{self._name} row {self._first + start}"
            raise InputError(f"{where} has length {rows.shape[1]}, row {self._first} {self.d}")
        check_shape((len(self._rows), *rows.shape[1:]), self.d, self._name)
        return rows

    def _release(self) -> None:
        """Give pages of a file that is mapped to be read back to the system: they don't count as this process's."""
        owner = self._map()
        if owner is not None and owner.mode == "r":
            release_pages(owner)

    def _map(self) -> np.memmap[Any, Any] | None:
        """Return the mapped file that the vectors lie in."""
        owner: Any = self._source
        while isinstance(owner, np.ndarray) and not isinstance(owner, np.memmap):
            owner = owner.base
        return owner if isinstance(owner, np.memmap) else None


def is_stream(x: object) -> TypeGuard[Iterable[ArrayLike]]:
    """Return whether `x` yields batches and doesn't know how many: a generator, or a reader of record batches."""
    unlike = ("__len__", "__array__", "__dlpack__")
    return isinstance(x, Iterable) and not any(hasattr(type(x), name) for name in unlike)


def iter_stream(batches: Iterable[ArrayLike], d: int, name: str) -> Iterator[Vectors]:
    """Yield the vectors of many batches as parts of 8 MiB of float32, checked; messages count rows through all batches.

    A part is valid until the next one is asked for. Batches are copied into it, so they may share their memory too.

    Parameters
    ----------
    batches : iterable of (n, d) or (d,) array_like
        Of any sizes.
    d : int
    name : str
        Name of the argument, for messages.

    Raises
    ------
    InputError
        A batch has a wrong type or shape; a row holds NaN, infinity or a value that float32 can't hold.
    """
    step = _part_rows(d)
    part, n, done = np.empty((step, d), np.float32), 0, 0
    for number, batch in enumerate(batches):
        for some in Vectors(batch, d, f"{name} batch {number}").named(name, done + n).parts():
            rows = some.checked()
            space = step - n
            part[n : n + len(rows)] = rows[:space]
            n += len(rows)
            if n >= step:
                yield Vectors(part, d, name, done)
                done, n = done + step, n - step
                part[:n] = rows[space:]
    if n:
        yield Vectors(part[:n], d, name, done)
