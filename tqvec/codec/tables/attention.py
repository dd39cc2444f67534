"""The tables by which the vector kernels of attention read the codes of a row, 64 coordinates at a time.

The README of kernels/attend has the instructions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec.codec.bands import Band
from tqvec.kernels.tables import QuantizerTables

COLUMNS = 8  # of a run
_REGISTER = 64  # bytes
_REGISTERS = 2  # of a row at most
_SLOTS = 8  # bytes of a row that a column may take its bits from
_INDEX_BITS = 8


class Column(NamedTuple):
    """Eight coordinates of one band.

    Attributes
    ----------
    band, coordinate, size : int
        The band, the first coordinate, and the number of coordinates: less than eight at the end of a band.
    fields : list of (tuple of int, int)
        For each bit of the coordinates' indices, the lowest first: one or two bytes of the row, and the first of the
        eight bits in them.
    """

    band: int
    coordinate: int
    size: int
    fields: list[tuple[tuple[int, ...], int]]


class Run(NamedTuple):
    """Up to eight columns, whose indices are computed in one register.

    Attributes
    ----------
    source, fields : (64,) uint8
        As in `AttentionTables`.
    whole : bool
        Whether all fields are whole bytes. Then `source` puts them in order, and `fields` changes nothing.
    coordinates : (64,) int64
        As in `AttentionTables`.
    entries : (2, 256) int64
        Band and index in the band's codebook of each index of the run.
    bits : int
        Bits of an index; the entries repeat after ``2**bits``.
    """

    source: NDArray[np.uint8]
    fields: NDArray[np.uint8]
    whole: bool
    coordinates: NDArray[np.int64]
    entries: NDArray[np.int64]
    bits: int


def runs_of(bands: tuple[Band, ...], quantizer: QuantizerTables, row_bytes: int) -> tuple[list[Run], int]:
    """Return the runs of a row, and the number of registers it fills.

    There are no runs, and 0 registers, if the vector kernels can't read the layout.
    """
    columns = _columns(bands, quantizer.windows)
    groups = [columns[at : at + COLUMNS] for at in range(0, len(columns), COLUMNS)]
    mixed = any(len({column.band for column in group}) > 1 for group in groups)
    registers = -(-(row_bytes + 2 * mixed) // _REGISTER)  # two bytes tell bands apart
    if registers > _REGISTERS:
        return [], 0
    widths = {column.band: len(column.fields) for column in columns}
    runs = [_run(group, widths, registers * _REGISTER) for group in groups]
    complete = [run for run in runs if run is not None]
    return (complete, registers) if groups and len(complete) == len(groups) else ([], 0)


def _columns(bands: tuple[Band, ...], windows: NDArray[np.int64]) -> list[Column]:
    """All columns of a row; none if a band of trellis codes does not have whole bytes."""
    columns = []
    bit = 0
    for b, (start, stop, nbits) in enumerate(bands):
        n = stop - start
        if windows[b] > 0 and (bit | n) % 8:
            return []
        for first in range(0, n, 8):
            if windows[b] > 0:
                fields = _trellis_fields(bit // 8, n // 8, nbits, int(windows[b]), first // 8)
            else:
                fields = [_bits_at(bit + plane * n + first) for plane in reversed(range(nbits))]
            columns.append(Column(b, start + first, min(8, n - first), fields))
        bit += n * nbits
    return columns


def _bits_at(bit: int) -> tuple[tuple[int, ...], int]:
    """The field of eight bits from `bit` of a row on."""
    byte, shift = divmod(bit, 8)
    return ((byte, byte + 1) if shift else (byte,)), shift


def _trellis_fields(byte: int, size: int, nbits: int, windows: int, column: int) -> list[tuple[tuple[int, ...], int]]:
    """Fields of one column of a band: those of the state window, then those of the in-subset bits.

    The band begins at `byte` and has `size` bytes per plane. Bit k of a state window is the path bit k coordinates
    before. The path is tail-biting: the first column follows the last.
    """
    path = byte + (nbits - 1) * size
    both = (path + (column - 1) % size, path + column)
    window = [(both, 8 - k) for k in range(windows)]
    return window + [_bits_at(8 * (byte + plane * size + column)) for plane in reversed(range(nbits - 1))]


def _run(columns: list[Column], widths: dict[int, int], row: int) -> Run | None:
    """One run, of rows that fill `row` bytes of registers; None if it does not fit."""
    bands = sorted({column.band for column in columns}, key=lambda b: (-widths[b], b))
    firsts, total = {}, 0  # of each band's indices: multiples of their number, since the largest come first
    for b in bands:
        firsts[b] = total
        total += 2 ** widths[b]
    bits = (total - 1).bit_length()
    if bits > _INDEX_BITS:
        return None
    source, fields = np.zeros((2, COLUMNS, _SLOTS), np.uint8)
    coordinates = np.full((COLUMNS, 8), -1)
    for m, column in enumerate(columns):
        constants = [((row - 2 + (firsts[column.band] >> i & 1),), 0) for i in range(widths[column.band], bits)]
        slots = _slots([*column.fields, *constants])
        if slots is None:
            return None
        chosen, shifts = slots
        source[m, : len(chosen)] = np.minimum(chosen, row - 1)  # what lies past the row belongs to no coordinate
        fields[m, 7 - np.arange(bits)] = shifts
        coordinates[m, : column.size] = np.arange(column.coordinate, column.coordinate + column.size)
    whole = not (fields % 8).any()
    if whole:
        source = np.take_along_axis(source, fields // 8, axis=1)
        fields[:] = 8 * np.arange(_SLOTS)
    entries = np.zeros((2, 2**bits), np.int64)
    for b in bands:
        entries[0, firsts[b] : firsts[b] + 2 ** widths[b]] = b
        entries[1, firsts[b] : firsts[b] + 2 ** widths[b]] = np.arange(2 ** widths[b])
    repeated = np.tile(entries, 2 ** (_INDEX_BITS - bits))
    return Run(
        source=source.ravel(),
        fields=fields.ravel(),
        whole=whole,
        coordinates=coordinates.ravel(),
        entries=repeated,
        bits=bits,
    )


def _slots(wanted: Sequence[tuple[tuple[int, ...], int]]) -> tuple[list[int], list[int]] | None:
    """Bytes of a row to put side by side, and the first bit there of each wanted field; None if they are too many."""
    chosen: list[int] = []
    at: dict[tuple[int, ...], int] = {}
    for bytes_, _ in wanted:
        if bytes_ not in at:
            at[bytes_] = len(chosen)
            chosen += bytes_
    if len(chosen) > _SLOTS:
        return None
    return chosen, [8 * at[bytes_] + shift for bytes_, shift in wanted]
