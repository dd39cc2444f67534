"""The kernels of encoding, decoding and search in plain NumPy: they serve while the compiled ones are not there yet.

Results are equal to the last bit. For codes, every sum and every butterfly is that of the kernels, in the same order:
tiles (d, lanes) hold a vector per lane, and all operations run along a row. Scores of a search are sums of integers
below 2^31, which float64 products give exactly in any order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tqvec.kernels.arguments import EncodedRows
from tqvec.kernels.fwht.weights import TILE_STEPS, VECTOR_STEPS
from tqvec.kernels.quantize.error_byte import INFINITE, LEAST, MIDDLES, NORMAL, STEPS
from tqvec.kernels.scan.queries import QUERY_LENGTH, TWICE_NORM, UNIT
from tqvec.kernels.tables import QuantizerTables, QueryTables, RotationTables
from tqvec.kernels.topk.portable import EMPTY_ID

LANES = 256  # of a tile, which then fits the second-level cache
_PRODUCTS = 1 << 20  # of a search at a time


class ScoredRows(NamedTuple):
    """Rows of a search: packed codes (n, code bytes), scales and biases (n,) float32, and numbers (n,) int64."""

    codes: np.ndarray
    scale: np.ndarray
    bias: np.ndarray | None
    ids: np.ndarray


def _tree_sum(terms: np.ndarray) -> np.ndarray:
    """Sum terms (d, lanes) over eight partial sums, as `tqvec.kernels.quantize.portable.tree_sum`."""
    d, lanes = terms.shape
    s = np.zeros((8, lanes))
    for j in range(0, d - d % 8, 8):
        s += terms[j : j + 8]
    s[: d % 8] += terms[d - d % 8 :]
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))


def _unit_tile(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows as a tile of vectors of length 1, and their lengths."""
    tile = rows.T.astype(np.float64, order="C")
    length = np.sqrt(_tree_sum(tile * tile))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        tile *= np.where(length > 0, 1.0 / length, 0.0)
        return tile.astype(np.float32), length


def unit_rows(x: np.ndarray, out: np.ndarray) -> None:
    """Normalise rows of `x` (n, d) float32 as for encoding."""
    for i in range(0, x.shape[0], LANES):
        out[i : i + LANES] = _unit_tile(x[i : i + LANES])[0].T


def _transform(tile: np.ndarray, blocks: np.ndarray) -> None:
    """Transform each block of rows of a tile by Walsh-Hadamard, in place."""
    lanes = tile.shape[1]
    for start, size in blocks.tolist():
        block = tile[start : start + size]
        step = 1
        while step < size:
            pairs = block.reshape(size // (2 * step), 2, step, lanes)
            difference = pairs[:, 0] - pairs[:, 1]
            pairs[:, 0] += pairs[:, 1]
            pairs[:, 1] = difference
            step *= 2


def _multiply(matrix: np.ndarray, tile: np.ndarray) -> np.ndarray:
    """Compute ``matrix @ tile``, each sum in the order of the coordinates."""
    out = np.zeros((matrix.shape[0], tile.shape[1]), np.float32)
    for column, row in zip(np.ascontiguousarray(matrix.T), tile, strict=True):
        out += column[:, None] * row
    return out


def _weigh(tile: np.ndarray, rotation: RotationTables, steps: float) -> np.ndarray:
    """Multiply by a matrix of bytes; vectors are rounded to steps up to their largest coordinate: sums are exact."""
    d = tile.shape[0]
    weights, scale = rotation.weights[:d, :d].astype(np.float64), rotation.weight_steps[:d, None]
    top = np.abs(tile).max(axis=0)
    if steps == TILE_STEPS:  # as `weigh_tile_portable`: all in float32
        factor = np.divide(TILE_STEPS, top, out=np.zeros_like(top), where=top > 0)
        sums = (weights @ np.rint(tile * factor).astype(np.float64)).astype(np.float32)
        return (sums * (top / TILE_STEPS)) * scale
    exact = top.astype(np.float64)  # as `weigh_vector_portable`
    factor = np.divide(steps, exact, out=np.zeros_like(exact), where=exact > 0)
    sums = weights @ np.rint(tile.astype(np.float64) * factor)
    return (sums * ((exact / steps) * scale.astype(np.float64))).astype(np.float32)


def _rotate_tile(tile: np.ndarray, rotation: RotationTables, steps: float) -> np.ndarray:
    """Rotate a tile; a matrix of bytes takes coordinates in so many steps."""
    for perm, mult in zip(rotation.perm, rotation.mult, strict=True):
        tile = tile[perm]
        tile *= mult[:, None]
        _transform(tile, rotation.blocks)
    if rotation.weights.size:
        return _weigh(tile, rotation, steps)
    return _multiply(rotation.matrix, tile) if rotation.matrix.size else tile


def _unrotate_tile(tile: np.ndarray, rotation: RotationTables) -> np.ndarray:
    if rotation.weights.size:
        d = tile.shape[0]
        columns = np.ascontiguousarray(rotation.weights[:d, :d].T.astype(np.float32))
        tile = _multiply(columns, tile * rotation.weight_steps[:d, None])
    if rotation.matrix.size:
        tile = _multiply(rotation.columns, tile)
    for perm, mult in zip(rotation.perm[::-1], rotation.mult[::-1], strict=True):
        _transform(tile, rotation.blocks)
        tile *= mult[:, None]
        before = np.empty_like(tile)
        before[perm] = tile
        tile = before
    return tile


def rotate_rows(x: np.ndarray, rotation: RotationTables, out: np.ndarray) -> None:
    """Rotate rows of `x` (n, d) float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        for i in range(0, x.shape[0], LANES):
            out[i : i + LANES] = _rotate_tile(np.ascontiguousarray(x[i : i + LANES].T), rotation, VECTOR_STEPS).T


def encode_rows(x: np.ndarray, rotation: RotationTables, quantizer: QuantizerTables, out: EncodedRows) -> int:
    """Encode rows of `x` (n, d) float32 by a scalar codebook; return n, or the first row that holds NaN or infinity."""
    for i in range(0, x.shape[0], LANES):
        rows = slice(i, i + LANES)
        tile, out.norm[rows] = _unit_tile(x[rows])
        good = np.isfinite(out.norm[rows])
        if not good.all():
            return i + int(np.argmin(good))
        tile = _rotate_tile(tile, rotation, TILE_STEPS)
        codes, levels = _quantize(tile, quantizer)
        out.dot[rows] = _tree_sum(tile * levels)
        out.energy[rows] = _tree_sum(levels * levels)
        planes = [
            codes[first:last] >> np.uint8(plane) & np.uint8(1)
            for first, last, width in quantizer.bands.tolist()
            for plane in reversed(range(width))
        ]
        out.data[rows] = np.packbits(np.concatenate(planes), axis=0, bitorder="little").T
    return x.shape[0]


def _quantize(tile: np.ndarray, quantizer: QuantizerTables) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes of a tile, uint8, and their levels, float64; both are 0 in coordinates of no band."""
    codes, levels = np.zeros(tile.shape, np.uint8), np.zeros(tile.shape)
    for band, (first, last, _) in enumerate(quantizer.bands.tolist()):
        values, (scale, offset), grid = tile[first:last], quantizer.grid_affine[band], quantizer.grid[band]
        cells = np.clip(values * scale + offset, np.float32(0), np.float32(grid.size - 1)).astype(np.int32)
        below = grid[cells]
        codes[first:last] = below + (values > quantizer.thresholds[band][below])
        levels[first:last] = quantizer.centroids[band][codes[first:last]]
    return codes, levels


def _indices(data: np.ndarray, bands: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Unpack rows of codes to indices of levels, (coordinates, n) uint8 (kernels/trellis/windows.py)."""
    bits = np.unpackbits(np.ascontiguousarray(data.T), axis=0, bitorder="little")
    indices = np.zeros((bands[-1, 1], data.shape[0]), np.uint8)
    at = 0
    for (first, last, width), window in zip(bands.tolist(), windows.tolist(), strict=True):
        part = indices[first:last]
        for _ in range(width):
            part <<= np.uint8(1)
            part |= bits[at : at + last - first]
            at += last - first
        if window > 0:
            path = part & np.uint8(1)
            part ^= path
            part <<= np.uint8(window - 1)
            for back in range(window):
                part |= np.roll(path, back, axis=0) << np.uint8(back)
    return indices


def _levels(data: np.ndarray, quantizer: QuantizerTables, levels: np.ndarray, d: int) -> np.ndarray:
    """Return the levels of rows as a tile (d, n) of the type of `levels` (n_bands, 256)."""
    indices = _indices(data, quantizer.bands, quantizer.windows)
    tile = np.zeros((d, data.shape[0]), levels.dtype)
    for band, (first, last, _) in enumerate(quantizer.bands.tolist()):
        tile[first:last] = levels[band][indices[first:last]]
    return tile


def decode_rows(
    data: np.ndarray, scale: np.ndarray, rotation: RotationTables, quantizer: QuantizerTables, out: np.ndarray
) -> None:
    """Decode rows into `out` (n, d) float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        for i in range(0, out.shape[0], LANES):
            tile = _levels(data[i : i + LANES], quantizer, quantizer.centroids, out.shape[1])
            out[i : i + LANES] = (_unrotate_tile(tile, rotation) * scale[i : i + LANES]).T


def adc_rows(
    data: np.ndarray, scale: np.ndarray, quantizer: QuantizerTables, queries: np.ndarray, out: np.ndarray
) -> None:
    """Compute float scores (nq, n) of rotated queries against rows, as `tqvec.kernels.scan.portable` does."""
    with np.errstate(over="ignore", invalid="ignore"):
        for i in range(0, data.shape[0], LANES):
            tile = _levels(data[i : i + LANES], quantizer, quantizer.centroids, queries.shape[1])
            total = np.zeros((queries.shape[0], tile.shape[1]), np.float32)
            for column, row in zip(np.ascontiguousarray(queries.T), tile, strict=True):
                total += column[:, None] * row
            out[:, i : i + LANES] = total * scale[i : i + LANES]


def pack_tangents(scale: np.ndarray, tangent: np.ndarray, out: np.ndarray) -> None:
    """Put tangents (n,) float64 in the low bytes of scales (n,) float32."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = tangent / LEAST
        mantissa, exponent = np.frexp(ratio)
        code = 1 + STEPS * (exponent.astype(np.int64) - 1) + np.searchsorted(MIDDLES, mantissa, side="right")
        code = np.where(ratio >= 2.0 ** (255 / STEPS), 255, np.where(ratio > 1.0, np.minimum(code, 255), 1))
    code[np.isnan(ratio)] = 0
    bits = scale.view(np.int32).astype(np.int64)
    size = bits & 0x7FFFFFFF
    coded = (size - code + 128 & ~255) + code
    coded = np.where(coded >= INFINITE, coded - 256, coded)
    out.view(np.int32)[:] = np.where(size >= NORMAL, coded, size) | bits & -0x80000000


class Search:
    """The best `k` rows for some queries, as the scan of all rows finds them.

    Parameters
    ----------
    queries : (nq, d) float32
    tables : QueryTables
    quantizer : QuantizerTables
    levels : (n_bands, 256) uint32
        Integer levels, as in `ScanTables`.
    k : int
    """

    def __init__(
        self, queries: np.ndarray, tables: QueryTables, quantizer: QuantizerTables, levels: np.ndarray, k: int
    ):
        nq = queries.shape[0]
        exact = queries.astype(np.float64)
        length = np.sqrt(np.cumsum(exact * exact, axis=1)[:, -1])
        inverse = np.divide(1.0, length, out=np.zeros(nq), where=length > 0)
        directions = np.empty_like(queries)
        rotate_rows((exact * inverse[:, None]).astype(np.float32), tables.rotation, directions)
        weight = (length > 0) * 1.0 if tables.score_scale == UNIT else length
        weight = 2.0 * length if tables.score_scale == TWICE_NORM else weight
        self._unit = (weight / QUERY_LENGTH * tables.level_unit).astype(np.float32)[:, None]
        self._integers = np.rint(directions * np.float32(QUERY_LENGTH)).astype(np.float64)
        self._quantizer, self._levels = quantizer, levels.astype(np.uint16).view(np.int16)
        self.scores = np.full((nq, k), -np.inf, np.float32)
        self.ids = np.full((nq, k), EMPTY_ID, np.int64)

    def offer(self, rows: ScoredRows) -> None:
        """Offer rows, whose numbers are larger than those offered before."""
        nq, d = self._integers.shape
        step = max(64, min(4096, _PRODUCTS // max(nq, d)))
        for i in range(0, rows.ids.size, step):
            part = slice(i, i + step)
            tile = _levels(rows.codes[part], self._quantizer, self._levels, d).astype(np.float64)
            with np.errstate(over="ignore", invalid="ignore"):
                scores = (self._integers @ tile).astype(np.float32) * self._unit * rows.scale[part]
                if rows.bias is not None:
                    scores += rows.bias[part]
            self._keep(scores, rows.ids[part])

    def _keep(self, scores: np.ndarray, ids: np.ndarray) -> None:
        """Keep the best of those before and new ones; of equal scores the smaller id is better."""
        chosen = (scores >= self.scores[:, -1:]).any(axis=0)  # NaN never is
        k, new = self.scores.shape[1], scores[:, chosen]
        missing = np.isnan(new)
        all_ids = np.hstack([self.ids, np.where(missing, EMPTY_ID, ids[chosen])])
        all_scores = np.hstack([self.scores, np.where(missing, np.float32(-np.inf), new)])
        order = np.lexsort((all_ids, -all_scores), axis=1)[:, :k]
        self.scores = np.take_along_axis(all_scores, order, axis=1)
        self.ids = np.take_along_axis(all_ids, order, axis=1)
