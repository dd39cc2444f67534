"""FAISS: take vectors, ids and metric out of a FAISS index. Needs faiss-cpu or faiss-gpu."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

from tqvec._output import as_path
from tqvec._present import import_optional
from tqvec._signatures import describe
from tqvec._types import CodebookName, Floats, Ids
from tqvec.codec.bands import Width
from tqvec.errors import FormatError, InputError, LossWarning, UnsupportedError
from tqvec.index.index import Index

__all__ = ["FaissVectors", "read"]

_PART = 1 << 23  # bytes of float32 that are decoded at a time
_INNER = {  # the attribute that holds the vectors, of types that hold them in another index
    "IndexIDMap": "index",
    "IndexIDMap2": "index",
    "IndexPreTransform": "index",
    **dict.fromkeys(("IndexRefine", "IndexRefineFlat"), "refine_index"),
    **dict.fromkeys(("IndexHNSWFlat", "IndexHNSWSQ", "IndexNSGFlat", "IndexNSGSQ"), "storage"),
}
_STORED = (  # by their very names: subclasses such as IndexIVFFlatDedup keep vectors in another way
    *("IndexFlat", "IndexFlatIP", "IndexFlatL2", "IndexFlat1D", "IndexIVFFlat"),
    *("IndexScalarQuantizer", "IndexIVFScalarQuantizer"),
)


class FaissVectors(NamedTuple):
    """What a FAISS index holds.

    Attributes
    ----------
    vectors : (n, d) float32
    ids : (n,) int64
        In ascending order for IVF, otherwise in the order in which the vectors were added.
    metric : {"ip", "l2"}
    """

    vectors: Floats
    ids: Ids
    metric: Literal["ip", "l2"]

    def to_index(self, nbits: Width = 4, codebook: CodebookName = "scalar") -> Index:
        """Compress the vectors into an index with the same ids and metric.

        For cosine, `train` or `partition`, make the index yourself: ``vectors`` and ``ids`` go to `Index.add`.

        Parameters
        ----------
        nbits : int, float or sequence of (int, int)
            As in `Index`.
        codebook : {"scalar", "trellis"}
            As in `Index`.

        Returns
        -------
        Index

        Raises
        ------
        InputError
            A vector holds NaN or Inf, an id is given twice or is -1, with the row. FAISS accepts these.
        """
        index = Index(self.vectors.shape[1], nbits=nbits, metric=self.metric, codebook=codebook)
        index.add(self.vectors, self.ids)
        return index


class _Layers(NamedTuple):
    """An index without what is around it; transforms and ids from the outside to the inside."""

    storage: Any
    transforms: list[Any]
    ids: list[Ids]


def read(index: str | os.PathLike[str] | Any) -> FaissVectors:
    """Return vectors, ids and metric of a FAISS index.

    It reads Flat, scalar quantizers and IVF of both, also inside HNSW, NSG, IDMap, Refine, and rotations (RR, OPQ, PCA
    of all dimensions). Vectors are copied part by part: the memory is that of FAISS's index and of the result.

    Parameters
    ----------
    index : path or faiss.Index
        A file of ``faiss.write_index``, or an index in memory, which is not changed.

    Returns
    -------
    FaissVectors
        ``tqvec.faiss.read(path).to_index(nbits=4)`` compresses them.

    Raises
    ------
    UnsupportedError
        FAISS is not installed, or the index does not hold the vectors: product quantizers and other codes, transforms
        that lose something, other metrics than inner product and L2, binary vectors.
    FormatError
        The file is damaged, or not one of FAISS.
    InputError
        `index` is neither a path nor a faiss.Index, or vectors were added to an inner index behind its back.
    FileNotFoundError
        There is no such file.

    Warns
    -----
    LossWarning
        The index holds codes of a scalar quantizer: their decoded vectors are returned.
    """
    faiss = import_optional("faiss", "tqvec.faiss.read", "faiss")
    outer = _load(faiss, index)
    metrics: dict[int, Literal["ip", "l2"]] = {faiss.METRIC_INNER_PRODUCT: "ip", faiss.METRIC_L2: "l2"}
    metric = metrics.get(outer.metric_type)
    if metric is None:
        raise UnsupportedError(f"FAISS's metric {outer.metric_type} is not in tqvec, which has inner product and L2")
    layers = _unwrap(faiss, outer, metric)
    storage, numbers = layers.storage, _numbers(faiss, layers.storage)
    if hasattr(storage, "sq") and numbers.size:
        bits = 8 * storage.sq.code_size / storage.d
        loss = f"the FAISS index keeps {bits:.3g} bits per coordinate, so its vectors are not exactly those you added"
        warnings.warn(f"{loss}; compress the original vectors instead if you have them", LossWarning, stacklevel=2)
    order = np.argsort(numbers, kind="stable")
    ids = numbers[order]
    if layers.ids and ids.size and not 0 <= ids[0] <= ids[-1] < storage.ntotal:
        raise _inconsistent(f"{storage.ntotal} vectors have numbers from {ids[0]} to {ids[-1]}")
    for own in reversed(layers.ids):
        ids = own[ids]
    rows = np.empty_like(order)  # of the result, for each vector of the storage
    rows[order] = np.arange(order.size)
    vectors, done = np.empty((order.size, outer.d), np.float32), 0
    for part in _parts(faiss, storage):
        original = part
        for transform in reversed(layers.transforms):
            original = transform.reverse_transform(original)
        vectors[rows[done : done + len(part)]] = original
        done += len(part)
    return FaissVectors(vectors, ids, metric)


def _load(faiss: Any, index: Any) -> Any:
    """Return the index of a path, or `index` itself."""
    if isinstance(index, faiss.Index):
        return index
    if isinstance(index, faiss.IndexBinary):
        raise _unsupported(type(index).__name__, "binary vectors")
    if not isinstance(index, (str, os.PathLike)):
        raise InputError(f"index must be a faiss.Index or the path of its file, got {type(index).__name__}")
    path = as_path(index, "index")
    with path.open("rb") as file:  # raises the system's own error, where FAISS raises a RuntimeError
        first = file.read(96)
    if not first.startswith(b"I"):
        raise FormatError(f"{path} is not a FAISS index, {describe(first) or 'and its first bytes tell nothing'}")
    if first.startswith(b"IB"):
        raise _unsupported(str(path), "binary vectors")
    try:
        return faiss.read_index(str(path))
    except (RuntimeError, MemoryError) as error:
        raise FormatError(f"{path} is damaged, of a newer FAISS, or larger than memory; FAISS says: {error}") from error


def _unwrap(faiss: Any, index: Any, metric: str) -> _Layers:
    """Return the index that holds the vectors, and what is around it."""
    transforms, ids = list[Any](), list[Ids]()
    while True:
        index = faiss.downcast_index(index)
        name = type(index).__name__
        if name in _STORED:
            for transform in transforms if index.ntotal else []:
                _check_reversible(faiss, transform, metric)
            return _Layers(index, transforms, ids)
        if name not in _INNER:
            raise _unsupported(name, "codes that vectors can't be read from")
        inner, d = getattr(index, _INNER[name]), index.d
        if hasattr(index, "id_map"):
            ids.append(faiss.vector_to_array(index.id_map))
        for i in range(index.chain.size() if hasattr(index, "chain") else 0):
            transforms.append(faiss.downcast_VectorTransform(index.chain.at(i)))
            d = transforms[-1].d_out
        if inner is None or inner.d != d or {index.ntotal, *(own.size for own in ids)} != {inner.ntotal}:
            raise _inconsistent(f"{name} doesn't fit the index inside")
        index = inner


def _check_reversible(faiss: Any, transform: Any, metric: str) -> None:
    """Raise UnsupportedError for a transform that loses something, or that changes what the metric compares."""
    name = type(transform).__name__
    reversible = False
    if isinstance(transform, faiss.LinearTransform) and not (metric == "ip" and transform.have_bias):
        matrix = faiss.vector_to_array(transform.A).reshape(transform.d_out, transform.d_in)
        # is_orthonormal alone won't do: it is true of every matrix that was read from a file
        reversible = transform.is_orthonormal and np.allclose(matrix.T @ matrix, np.eye(transform.d_in), atol=1e-3)
    if not reversible:
        raise UnsupportedError(
            f"{name} from {transform.d_in} to {transform.d_out} dimensions can't be undone: compress the original "
            "vectors instead, or read index.index and transform queries in the same way"
        )


def _numbers(faiss: Any, storage: Any) -> Ids:
    """Return the ids of a storage, in the order of `_parts`."""
    if not hasattr(storage, "invlists"):
        return np.arange(storage.ntotal)
    lists, parts = storage.invlists, [np.zeros(0, np.int64)]
    for at, size in _filled(lists):
        pointer = lists.get_ids(at)
        parts.append(faiss.rev_swig_ptr(pointer, size).copy())
        lists.release_ids(at, pointer)
    return np.concatenate(parts)


def _parts(faiss: Any, storage: Any) -> Iterator[Floats]:
    """Decode the vectors of a storage, in its own order."""
    step = max(1, _PART // (4 * storage.d))
    if not hasattr(storage, "invlists"):
        for start in range(0, storage.ntotal, step):
            yield storage.reconstruct_n(start, min(step, storage.ntotal - start))
        return
    lists = storage.invlists
    for at, size in _filled(lists):
        pointer = lists.get_codes(at)
        codes = faiss.rev_swig_ptr(pointer, size * storage.code_size).reshape(size, storage.code_size)
        centroid = storage.quantizer.reconstruct(at) if storage.by_residual else np.float32(0)
        for start in range(0, size, step):
            part = codes[start : start + step]
            yield storage.sq.decode(part) + centroid if hasattr(storage, "sq") else part.view(np.float32)
        lists.release_codes(at, pointer)


def _filled(lists: Any) -> Iterator[tuple[int, int]]:
    """Yield number and size of the inverted lists that are not empty."""
    for at in range(lists.nlist):
        if size := lists.list_size(at):
            yield at, size


def _inconsistent(reason: str) -> InputError:
    return InputError(f"index is inconsistent, as after a change of an inner index alone: {reason}")


def _unsupported(name: str, contents: str) -> UnsupportedError:
    readable = "Flat, scalar quantizers, IVF of both, and HNSW, NSG, IDMap, Refine and rotations around them"
    return UnsupportedError(f"{name} holds {contents}; compress the original vectors instead. Readable are {readable}")
