"""Kernels of rows that threads share: a unit is a run of rows."""

from __future__ import annotations

import numpy as np

from tqvec.kernels._jit import LANES, jit
from tqvec.kernels.dispatch import kernel
from tqvec.kernels.threads.pool import address_of, run_units, unit_function

encode_rows = kernel("encode_rows")
encode_trellis_rows = kernel("encode_trellis_rows")
encode_prod_rows = kernel("encode_prod_rows")
decode_rows = kernel("decode_rows")
adc_rows = kernel("adc_rows")
pack_tangents = kernel("pack_tangents")

NO_MEMORY = -1
NS_TO_ENCODE = 2.0  # a coordinate, roughly: by it the number of threads is chosen
NS_TO_DECODE = 1.0
_UNITS = 8  # for each thread, so that none is left alone with a large one
_LEAST, _MOST = 4 * LANES, 64 * LANES  # rows of a unit


@jit
def rows_of_unit(n, threads):
    """Return the rows of a unit."""
    if threads == 1:
        return max(1, n)
    return min(_MOST, max(_LEAST, n // (_UNITS * threads) // LANES * LANES))


@jit
def _encode_unit(plan, call, worker, unit):
    rotation, quantizer, grain = plan
    x, out, good = call
    n = x.shape[0]
    stop = min(n, (unit + 1) * grain)
    end = encode_rows(x, rotation, quantizer, unit * grain, stop, out)
    good[unit] = n if end == stop else end


@jit
def _encode_trellis_unit(plan, call, worker, unit):
    rotation, bands, tables, grain = plan
    x, out, good = call
    n = x.shape[0]
    stop = min(n, (unit + 1) * grain)
    end = encode_trellis_rows(x, rotation, bands, tables, unit * grain, stop, out)
    good[unit] = n if end == stop else end


@jit
def _smallest(numbers):
    """Return the smallest of some numbers; their method `min` would take a second to compile."""
    least = numbers[0]
    for number in numbers:
        least = min(least, number)
    return least


@jit
def share_encode_rows(pool, threads, x, rotation, quantizer, out):
    """Encode all rows of `x`, as `encode_rows` does.

    Parameters
    ----------
    pool : int
        Address.
    threads : int
        At most this many work.
    x, rotation, quantizer, out
        As for the kernel.

    Returns
    -------
    int
        The number of rows, or the first row that holds NaN or infinity; `NO_MEMORY` if there was none for workspaces.
    """
    n = x.shape[0]
    plan = (rotation, quantizer, rows_of_unit(n, threads))
    units = (n + plan[2] - 1) // plan[2]
    good = np.full(units + 1, n)
    call = (x, out, good)
    done = run_units(pool, threads, unit_function(_encode_unit, plan, call), address_of(plan), address_of(call), units)
    return _smallest(good) if done else NO_MEMORY


@jit
def share_encode_trellis_rows(pool, threads, x, rotation, bands, tables, out):
    """Encode all rows of `x`, as `encode_trellis_rows` does; otherwise as `share_encode_rows`."""
    n = x.shape[0]
    plan = (rotation, bands, tables, rows_of_unit(n, threads))
    units = (n + plan[3] - 1) // plan[3]
    good = np.full(units + 1, n)
    call = (x, out, good)
    done = run_units(
        pool, threads, unit_function(_encode_trellis_unit, plan, call), address_of(plan), address_of(call), units
    )
    return _smallest(good) if done else NO_MEMORY


@jit
def _encode_prod_unit(plan, call, worker, unit):
    rotation, quantizer, projection, bands, grain = plan
    x, out = call
    stop = min(x.shape[0], (unit + 1) * grain)
    encode_prod_rows(x, rotation, quantizer, projection, bands, unit * grain, stop, out)


@jit
def share_encode_prod_rows(pool, threads, x, tables, out):
    """Encode all rows of `x`, as `encode_prod_rows` does; return whether there was memory for it.

    `tables` are the kernel's arguments after `x`: rotation, quantizer, projection and bands.
    """
    n = x.shape[0]
    rotation, quantizer, projection, bands = tables
    plan = (rotation, quantizer, projection, bands, rows_of_unit(n, threads))
    units = (n + plan[4] - 1) // plan[4]
    call = (x, out)
    return run_units(
        pool, threads, unit_function(_encode_prod_unit, plan, call), address_of(plan), address_of(call), units
    )


@jit
def _decode_unit(plan, call, worker, unit):
    rotation, quantizer, spread, grain = plan
    data, scale, out = call
    stop = min(data.shape[0], (unit + 1) * grain)
    decode_rows(data, scale, rotation, quantizer, spread, unit * grain, stop, out)


@jit
def share_decode_rows(pool, threads, codes, tables, out):
    """Decode all rows, as `decode_rows` does; return whether there was memory for it.

    `codes` are the kernel's data and scale, `tables` its rotation, quantizer and spread.
    """
    rotation, quantizer, spread = tables
    n = codes[0].shape[0]
    plan = (rotation, quantizer, spread, rows_of_unit(n, threads))
    units = (n + plan[3] - 1) // plan[3]
    call = (codes[0], codes[1], out)
    return run_units(pool, threads, unit_function(_decode_unit, plan, call), address_of(plan), address_of(call), units)


@jit
def _adc_unit(plan, call, worker, unit):
    quantizer, spread, grain = plan
    data, scale, queries, out = call
    stop = min(data.shape[0], (unit + 1) * grain)
    adc_rows(data, scale, quantizer, spread, queries, unit * grain, stop, out)


@jit
def share_adc_rows(pool, threads, codes, tables, queries, out):
    """Compute the products of queries and all rows, as `adc_rows` does; return whether there was memory for it.

    `codes` are the kernel's data and scale, `tables` its quantizer and spread.
    """
    quantizer, spread = tables
    n = codes[0].shape[0]
    plan = (quantizer, spread, rows_of_unit(n, threads))
    units = (n + plan[2] - 1) // plan[2]
    call = (codes[0], codes[1], queries, out)
    return run_units(pool, threads, unit_function(_adc_unit, plan, call), address_of(plan), address_of(call), units)


@jit
def _tangents_unit(plan, call, worker, unit):
    (grain,) = plan
    scale, tangent, out = call
    pack_tangents(scale, tangent, unit * grain, min(scale.size, (unit + 1) * grain), out)


@jit
def share_pack_tangents(pool, threads, scale, tangent, out):
    """Put all tangents in scales, as `pack_tangents` does; return whether there was memory for it."""
    plan = (max(1, scale.size // (_UNITS * threads)),)
    units = (scale.size + plan[0] - 1) // plan[0]
    call = (scale, tangent, out)
    return run_units(
        pool, threads, unit_function(_tangents_unit, plan, call), address_of(plan), address_of(call), units
    )
