"""tqvec: vectors in 1 to 8 bits per coordinate, searched in compressed form.

- `Index` stores vectors and searches them; `selectors` filter by id. `Index.train` and `Index.diagnose` return a
  `Training` and a `Diagnosis`.
- `Collection` is a folder of records with string ids, vectors, documents and metadata, which processes share.
- `TurboQuant` is the codec alone: it turns vectors into `Codes` and back, with no training.
- `kvcache.KVCache` keeps keys and values of a transformer in codes, and computes attention on them.
  `kvcache.planning`, `kvcache.simulation` and `kvcache.quality` tell bytes, time and the error on tensors beforehand.
- `oracle.verify` checks a port to another language stage by stage, and says why a stage is wrong.
- `faiss.read` takes the vectors out of a FAISS index.
- `ray.build` and `ray.ShardedIndex` compress and search vectors that one machine can't hold.
- `simd_info` tells which instructions are used, and why.

The command ``tqvec`` does the same from a shell. The module `tqvec.eval` has recall and readers of vector files, and
`tqvec.integrations` has adapters to frameworks.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# First: imported from deep inside other imports, one module of Numba took 0.14 s instead of 0.01 (CPython 3.11).
from tqvec.kernels.features import simd_info  # isort: skip

from tqvec import kvcache
from tqvec.codec.codes import Codes
from tqvec.codec.turboquant import TurboQuant
from tqvec.errors import (
    BusyError,
    FormatError,
    InputError,
    LossWarning,
    TqvecError,
    UnavailableError,
    UnsupportedError,
)
from tqvec.index import selectors
from tqvec.index.diagnose.causes import Cause
from tqvec.index.diagnose.diagnosis import Alternative, Diagnosis
from tqvec.index.index import Index
from tqvec.index.selectors import Filter
from tqvec.index.training_result import Loss, Training

if TYPE_CHECKING:
    from tqvec import oracle
    from tqvec.integrations import faiss
    from tqvec.integrations import ray as ray
    from tqvec.store.collection import Collection

__version__ = "0.1.0"

__all__ = [
    "Alternative",
    "BusyError",
    "Cause",
    "Codes",
    "Collection",
    "Diagnosis",
    "Filter",
    "FormatError",
    "Index",
    "InputError",
    "Loss",
    "LossWarning",
    "TqvecError",
    "Training",
    "TurboQuant",
    "UnavailableError",
    "UnsupportedError",
    "__version__",
    "faiss",
    "kvcache",
    "oracle",
    "selectors",
    "simd_info",
]


def __getattr__(name: str) -> Any:
    """Import the rest when it is first used: it would take a tenth of the time of ``import tqvec``."""
    if name == "oracle":
        return import_module("tqvec.oracle")
    if name == "Collection":
        return import_module("tqvec.store").Collection
    if name in ("faiss", "ray"):
        return import_module(f"tqvec.integrations.{name}")
    raise AttributeError(f"module 'tqvec' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Also list what is not loaded yet."""
    return sorted({*globals(), *__all__, "ray"})  # which `import *` leaves out: without Ray it can't be loaded
