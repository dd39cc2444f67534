"""Batches of rotated queries of length 1, with the results of `query_directions_portable`, as kernels take them."""

from tqvec.codec.tables.batch import prefix_space, product_levels, product_space
from tqvec.kernels.dispatch import kernel


def batch_tables(bands, windows, spreads, directions, weight, unit):
    """`BatchTables` of queries."""
    nq, d = directions.shape
    levels, known = product_levels(d, bands, windows, spreads)
    out = product_space(bands, levels, nq)
    kernel("product_queries")(directions, weight, unit, bands, known, 0, nq, out)
    return out


def prefix_tables(bands, stages, directions, weight, unit):
    """`PrefixQueries` of queries."""
    out = prefix_space(bands, stages, len(directions))
    kernel("prefix_queries")(directions, weight, unit, bands, stages, 0, len(directions), out)
    return out
