"""One table: operation -> level -> where its kernel lives. `kernel` picks the best one that this process may use."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from tqvec.kernels import features

_TABLE = {
    "rotate_rows": {"portable": "fwht.portable"},
    "unit_rows": {"portable": "quantize.portable"},
    "encode_rows": {"avx512": "quantize.avx512", "portable": "quantize.portable"},
    "encode_trellis_rows": {"avx512": "trellis.avx512", "portable": "trellis.portable"},
    "encode_prod_rows": {"portable": "qjl.portable"},
    "decode_rows": {"portable": "quantize.portable"},
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
    "query_directions": {"portable": "scan.queries"},
    "integer_queries": {"portable": "scan.queries"},
    "search_batch": {"avx2": "staged.batch"},
    "product_steps": {"avx512": "staged.vnni", "avx2": "staged.madd"},
    "unpack_levels": {"avx512": "staged.vnni", "avx2": "staged.madd"},
    "begin_products": {"amx": "staged.amx", "avx512": "staged.vnni", "avx2": "staged.madd"},
    "pair_products": {"amx": "staged.amx", "avx512": "staged.vnni", "avx2": "staged.madd"},
    "end_products": {"amx": "staged.amx", "avx512": "staged.vnni", "avx2": "staged.madd"},
    "search_few": {"avx2": "staged.few"},
    "prefix_axes": {"avx512": "staged.avx512", "avx2": "staged.avx2"},
    "prefix_totals": {"avx512": "staged.avx512", "avx2": "staged.avx2"},
    "plane_query": {"avx512": "staged.avx512", "avx2": "staged.avx2"},
    "plane_dot": {"avx512": "staged.avx512", "avx2": "staged.avx2"},
    "add_dots": {"avx512": "staged.avx512", "avx2": "staged.avx2"},
    "topk_finish": {"portable": "topk.portable"},
    "search_rows": {"portable": "scan.search"},
    "code_scores": {"avx512": "attend.scores_avx512", "portable": "attend.portable"},
    "softmax_rows": {"avx512": "attend.softmax_avx512", "portable": "attend.portable"},
    "add_values": {"avx512": "attend.values_avx512", "portable": "attend.portable"},
}


def implementation(operation: str, level: str):
    """The kernel of `operation` written for `level`, without asking whether this process may run it."""
    module = import_module(f"tqvec.kernels.{_TABLE[operation][level]}")
    return getattr(module, f"{operation}_{level}")


@cache
def levels(operation: str) -> tuple[str, ...]:
    """Levels, fastest first, that `operation` has a kernel for and this process may run."""
    allowed = features.available_levels()
    allowed = allowed[allowed.index(features.level()) :]
    return tuple(name for name in allowed if name in _TABLE[operation])


def available(operation: str) -> bool:
    """Whether this process has a kernel of `operation`: there is not a portable one of each."""
    return bool(levels(operation))


@cache
def kernel(operation: str):
    """The fastest kernel of `operation` at the level in use or below it."""
    return implementation(operation, levels(operation)[0])
