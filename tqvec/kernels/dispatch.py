"""The table of all kernels: operation -> level -> module. `kernel` picks the best one that this process may use."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from tqvec.kernels import features

_KERNELS = {
    "rotate_rows": {"avx512": "fwht.avx512", "portable": "fwht.portable"},
    "unit_rows": {"avx512": "quantize.avx512", "portable": "quantize.portable"},
    "encode_rows": {"avx512": "quantize.avx512", "portable": "quantize.portable"},
    "encode_trellis_rows": {"avx512": "trellis.avx512", "portable": "trellis.portable"},
    "encode_prod_rows": {"portable": "qjl.portable"},
    "pack_tangents": {"portable": "quantize.error_byte"},
    "decode_rows": {"avx512": "quantize.avx512", "portable": "quantize.portable"},
    "pack_rows": {"portable": "pack.portable"},
    "unpack_rows": {"portable": "pack.portable"},
    "narrow_float16": {"portable": "float16.portable"},
    "round_float16": {"portable": "float16.portable"},
    "widen_float16": {"portable": "float16.portable"},
    "narrow_bfloat16": {"portable": "float16.portable"},
    "round_bfloat16": {"portable": "float16.portable"},
    "widen_bfloat16": {"portable": "float16.portable"},
    "ids_insert": {"portable": "ids.portable"},
    "ids_find": {"portable": "ids.portable"},
    "ids_remove": {"portable": "ids.portable"},
    "adc_rows": {"portable": "scan.portable"},
    "dot_tiles": {
        "avx512": "scan.avx512",
        "avx2": "scan.avx2",
        "neon": "scan.neon",
        "portable": "scan.portable",
    },
    "query_directions": {"avx512": "scan.queries_avx512", "portable": "scan.queries"},
    "integer_queries": {"portable": "scan.queries"},
    "unpack_levels": {"avx512": "staged.batch_avx512", "avx2": "staged.batch_avx2"},
    "begin_products": {"amx": "staged.batch_amx", "avx512": "staged.batch_avx512", "avx2": "staged.batch_avx2"},
    "pair_products": {"amx": "staged.batch_amx", "avx512": "staged.batch_avx512", "avx2": "staged.batch_avx2"},
    "end_products": {"amx": "staged.batch_amx", "avx512": "staged.batch_avx512", "avx2": "staged.batch_avx2"},
    "prefix_totals": {"avx512": "staged.one_query_avx512", "avx2": "staged.one_query_avx2"},
    "tile_totals": {"avx512": "staged.batch_prefixes_avx512", "avx2": "staged.batch_prefixes_avx2"},
    "plane_query": {"avx512": "staged.one_query_avx512", "avx2": "staged.one_query_avx2"},
    "plane_dot": {"avx512": "staged.one_query_avx512", "avx2": "staged.one_query_avx2"},
    "add_dots": {"avx512": "staged.one_query_avx512", "avx2": "staged.one_query_avx2"},
    "true_scores": {"portable": "errors.portable"},
    "list_lengths": {"portable": "errors.portable"},
    "turn_tables": {"portable": "rope.portable"},
    "centre_keys": {"portable": "rope.portable"},
    "restore_keys": {"portable": "rope.portable"},
    "add_means": {"avx512": "rope.avx512", "portable": "rope.portable"},
    "code_scores": {"avx512": "attend.scores_avx512", "avx2": "attend.scores_avx2", "portable": "attend.portable"},
    "cap_scores": {"portable": "attend.portable"},
    "softmax_rows": {"avx512": "attend.softmax", "avx2": "attend.softmax", "portable": "attend.portable"},
    "add_values": {"avx512": "attend.values_avx512", "avx2": "attend.values_avx2", "portable": "attend.portable"},
}

# Drivers are written once: they take their parts from `_KERNELS`, and exist at the levels of the part that is named.
_DRIVERS = {
    "share_encode_rows": ("rows", "encode_rows"),
    "share_encode_trellis_rows": ("rows", "encode_trellis_rows"),
    "share_encode_prod_rows": ("rows", "encode_prod_rows"),
    "share_decode_rows": ("rows", "decode_rows"),
    "share_adc_rows": ("rows", "adc_rows"),
    "share_pack_tangents": ("rows", "pack_tangents"),
    "search_rows": ("scan.search", "dot_tiles"),
    "search_full": ("scan.search", "dot_tiles"),
    "probe_targets": ("scan.route", "dot_tiles"),
    "prefix_rows": ("staged.prefix_rows", "prefix_totals"),
    "search_few": ("staged.query", "prefix_totals"),
    "search_staged": ("staged.query", "prefix_totals"),
    "search_lists": ("staged.lists", "prefix_totals"),
    "search_batch": ("staged.batch", "pair_products"),
    "search_products": ("staged.batch", "pair_products"),
    "search_prefixes": ("staged.batch_prefixes", "tile_totals"),
    "search_by_prefixes": ("staged.batch_prefixes", "tile_totals"),
    "survivor_share": ("staged.batch_prefixes", "tile_totals"),
    "prefix_queries": ("staged.prefix_queries", "tile_totals"),
    "product_queries": ("staged.product_queries", "pair_products"),
    "attend_codes": ("attend.units", "code_scores"),
    "merge_parts": ("attend.units", "code_scores"),
    "centre_heads": ("rope.units", "centre_keys"),
}

OPERATIONS = (*_KERNELS, *_DRIVERS)


def module(operation: str, level: str | None = None) -> ModuleType:
    """Import the module of a kernel, which has the constants of its level too.

    Parameters
    ----------
    operation : str
        A kernel, not a driver.
    level : str, optional
        A level that has the kernel; this process may be unable to run it. Default: the fastest one of this process.
    """
    return import_module(f"tqvec.kernels.{_KERNELS[operation][level or levels(operation)[0]]}")


def implementation(operation: str, level: str) -> Any:
    """Return the kernel of `operation` written for `level`, without asking whether this process may run it."""
    return getattr(module(operation, level), f"{operation}_{level}")


@cache
def levels(operation: str) -> tuple[str, ...]:
    """Return the levels, fastest first, that have a kernel of `operation` and that this process may run."""
    allowed = features.available_levels()
    allowed = allowed[allowed.index(features.level()) :]
    return tuple(name for name in allowed if name in _KERNELS[operation])


def available(operation: str) -> bool:
    """Return whether this process can run `operation`: not every kernel has a portable version."""
    _, part = _DRIVERS.get(operation, ("", operation))
    return bool(levels(part))


@cache
def kernel(operation: str) -> Any:
    """Return the driver `operation`, or its fastest kernel at the level in use or below it."""
    if operation in _DRIVERS:
        name, _ = _DRIVERS[operation]
        return getattr(import_module(f"tqvec.kernels.{name}"), operation)
    return implementation(operation, levels(operation)[0])
