"""Keys less their mean, of all heads, in units that threads share."""

from __future__ import annotations

from tqvec.kernels._jit import jit
from tqvec.kernels.arguments import HeadBasis
from tqvec.kernels.rope.portable import centre_keys_portable
from tqvec.kernels.threads.pool import address_of, run_units, unit_function

_KEYS = 256  # of a unit


@jit
def _centre_unit(plan, call, worker, unit):
    bases, cosines, sines = plan
    keys, out, plain = call
    units = (keys.shape[1] + _KEYS - 1) // _KEYS  # of a head
    head, start = unit // units, unit % units * _KEYS
    stop = min(keys.shape[1], start + _KEYS)
    basis = HeadBasis(bases.order[head], bases.unit[head], bases.mean[head], bases.crossed[head])
    given = keys[head, start:stop], cosines[start:stop], sines[start:stop]
    centre_keys_portable(given[0], basis, given[1], given[2], out[head, start:stop], plain[head, start:stop])


@jit
def centre_heads(pool, threads, bases, turns, keys, out, plain):
    """Subtract turned means from the keys of all heads, as `centre_keys_portable` does of one.

    Parameters
    ----------
    pool, threads : int
        As in `run_units`.
    bases : HeadBasis
        Of all heads: (heads, d) arrays.
    turns : two (n, d) float32
        Cosines and sines of the angle of each coordinate at the tokens' positions.
    keys : (heads, n, d) float32
    out, plain : (heads, n, d) float32 and (heads, n) uint8
        Filled.

    Returns
    -------
    bool
        False if memory ran out.
    """
    plan, call = (bases, turns[0], turns[1]), (keys, out, plain)
    function = unit_function(_centre_unit, plan, call)
    units = keys.shape[0] * ((keys.shape[1] + _KEYS - 1) // _KEYS)
    return run_units(pool, threads, function, address_of(plan), address_of(call), units)
