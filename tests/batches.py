"""Batches of queries as the kernels of byte products take them."""

from tqvec.codec.tables.batch import product_levels, product_space
from tqvec.kernels.dispatch import kernel


def batch_tables(bands, windows, spreads, directions, weight, unit):
    """`BatchTables` of rotated queries of length 1, with the results of `query_directions_portable` for them."""
    nq, d = directions.shape
    levels, known = product_levels(d, bands, windows, spreads)
    out = product_space(bands, levels, nq)
    kernel("product_queries")(directions, weight, unit, bands, known, 0, nq, out)
    return out
