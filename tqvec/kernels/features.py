"""The SIMD levels: which instructions this process may use.

LLVM aborts the process on an intrinsic that its target lacks, so the decision is made before anything is compiled, and
from Numba's own target: `NUMBA_CPU_NAME` and `NUMBA_CPU_FEATURES` may have lowered it below the host.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import lru_cache
from typing import TypedDict

from llvmlite import binding as llvm
from numba.core import config
from numba.core.codegen import get_host_cpu_features

from tqvec.errors import UnsupportedError

# From the fastest to the one that always works. A level needs all its features; no CPU has both AVX2 and NEON.
_VNNI = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512vbmi", "avx512vnni", "gfni"})
LEVELS = {
    "amx": _VNNI | {"amx-tile", "amx-int8"},
    "avx512": _VNNI,
    "avx2": frozenset({"avx2", "fma"}),
    "neon": frozenset({"neon", "dotprod"}),
    "portable": frozenset(),
}

# Features of CPUs by name. Numba keeps the host's feature list beside a lowered name (NUMBA_CPU_NAME), so the list
# alone can't be trusted then. Names that are missing here count as having none of the features.
_AVX2 = LEVELS["avx2"]
_AVX512 = _AVX2 | LEVELS["avx512"]
_NEON = LEVELS["neon"]
_NAMED = {
    **dict.fromkeys(("haswell", "broadwell", "skylake", "alderlake", "raptorlake", "meteorlake"), _AVX2),
    **dict.fromkeys(("x86-64-v3", "znver1", "znver2", "znver3"), _AVX2),
    **dict.fromkeys(("skylake-avx512", "cascadelake", "x86-64-v4"), _AVX2),
    **dict.fromkeys(("icelake-client", "icelake-server", "znver4", "znver5"), _AVX512),
    **dict.fromkeys(("sapphirerapids", "emeraldrapids", "graniterapids"), _AVX2 | LEVELS["amx"]),
    **dict.fromkeys(("apple-m1", "apple-m2", "apple-m3", "apple-m4"), _NEON),
    **dict.fromkeys(("neoverse-n1", "neoverse-n2", "neoverse-v1", "neoverse-v2"), _NEON),
    **dict.fromkeys(("cortex-a76", "cortex-a77", "cortex-a78", "cortex-a710", "cortex-x1", "cortex-x2"), _NEON),
}


def _parse(flags: str) -> tuple[set[str], set[str]]:
    items = [item for item in flags.split(",") if item]
    return {i[1:] for i in items if i[0] == "+"}, {i[1:] for i in items if i[0] == "-"}


@lru_cache(maxsize=1)
def target() -> tuple[str, frozenset[str]]:
    """Return the name and the features of the CPU that Numba compiles for.

    Returns
    -------
    name : str
        LLVM's name of the CPU.
    features : frozenset of str
        LLVM's names of its instruction sets; for a name set by `NUMBA_CPU_NAME`, only those that a level needs.
    """
    flags = config.CPU_FEATURES
    if config.CPU_NAME is None:
        name = llvm.get_host_cpu_name()
        flags = get_host_cpu_features() if flags is None else flags
    else:
        name = str(config.CPU_NAME)
    plus, minus = _parse(flags or "")
    # LLVM adds the list to what the name has. On AArch64 the host's own list may be short, on macOS even empty.
    return name, frozenset((_NAMED.get(name, frozenset()) | plus) - minus)


@lru_cache(maxsize=1)
def available_levels() -> tuple[str, ...]:
    """Return the levels that this process can use, fastest first; the last one is always ``"portable"``."""
    if config.DISABLE_JIT:
        return ("portable",)
    _, have = target()
    usable = tuple(name for name, needs in LEVELS.items() if needs <= have)
    return usable if "amx" not in usable or _amx_permitted() else usable[1:]


def _amx_permitted() -> bool:
    """Ask Linux for the tile registers; it grants them to the process and its future threads."""
    if not sys.platform.startswith("linux"):
        return False
    request, permission, tile_data = 158, 0x1023, 18  # arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA
    return ctypes.CDLL(None, use_errno=True).syscall(request, permission, tile_data) == 0


@lru_cache(maxsize=1)
def level() -> str:
    """Return the level in use: the fastest available one, or the one that ``TQVEC_SIMD_LEVEL`` names.

    Raises
    ------
    UnsupportedError
        ``TQVEC_SIMD_LEVEL`` names an unknown level or one that this process can't use.
    """
    wanted = os.environ.get("TQVEC_SIMD_LEVEL", "").strip().lower()
    if not wanted:
        return available_levels()[0]
    if wanted not in available_levels():
        raise UnsupportedError(
            f"TQVEC_SIMD_LEVEL={wanted!r} can't be used here; available: {', '.join(available_levels())}"
        )
    return wanted


class SimdInfo(TypedDict):
    """The result of `simd_info`."""

    level: str
    available: tuple[str, ...]
    reason: str
    cpu: str
    features: tuple[str, ...]


def simd_info() -> SimdInfo:
    """Return the SIMD level that the kernels use in this process, and why.

    Returns
    -------
    dict
        ``level`` in use, ``available`` levels, the ``reason`` for the choice, and the ``cpu`` that Numba compiles for,
        with those of its ``features`` that a level needs.
    """
    name, have = target()
    if os.environ.get("TQVEC_SIMD_LEVEL", "").strip():
        reason = "forced by TQVEC_SIMD_LEVEL"
    elif config.DISABLE_JIT:
        reason = "NUMBA_DISABLE_JIT is set"
    else:
        reason = "fastest level whose instructions Numba's target has"
    needed = frozenset().union(*LEVELS.values())
    return {
        "level": level(),
        "available": available_levels(),
        "reason": reason,
        "cpu": name,
        "features": tuple(sorted(have & needed)),
    }
