"""tqvec: vectors in 1 to 8 bits a coordinate, searched in compressed form.

``float vectors -> rotate -> quantize -> pack -> store -> scan -> (scores, ids)``; the folders are that sentence:

- ``kernels``: Numba code for each step, arrays in, arrays out.
- ``codec``: rotation, codebook, bands, scale: `TurboQuant`.
- ``index``: `Index`, search and files.
- ``kvcache``: `kvcache.KVCache`, keys and values of a transformer in codes, and attention on them.
- ``oracle``: `oracle.verify`, which checks a port to another language stage by stage; profiles and golden vectors.
- ``eval``: recall, baselines, dataset readers.
- ``cli``: the ``tqvec`` command.
- ``reference``: the same mathematics in plain NumPy, to test against.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tqvec import kvcache
from tqvec.codec.codes import Codes
from tqvec.codec.turboquant import TurboQuant
from tqvec.errors import FormatError, InputError, LossWarning, TqvecError, UnsupportedError
from tqvec.index import selectors
from tqvec.index.index import Index
from tqvec.kernels.features import simd_info

if TYPE_CHECKING:
    from tqvec import oracle

__version__ = "0.1.0"

__all__ = [
    "Codes",
    "FormatError",
    "Index",
    "InputError",
    "LossWarning",
    "TqvecError",
    "TurboQuant",
    "UnsupportedError",
    "__version__",
    "kvcache",
    "oracle",
    "selectors",
    "simd_info",
]


def __getattr__(name: str) -> Any:
    """Import `oracle` when it is first used: that takes a tenth of the time of ``import tqvec``."""
    if name != "oracle":
        raise AttributeError(f"module 'tqvec' has no attribute {name!r}")
    return import_module("tqvec.oracle")


def __dir__() -> list[str]:
    """Also list what is not loaded yet."""
    return sorted({*globals(), *__all__})
