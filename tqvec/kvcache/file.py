"""Cache files. The "File format" page, section 10, specifies them; `tqvec._safetensors` has the container."""

from __future__ import annotations

import hashlib
import re
import reprlib
import zlib
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqvec import _safetensors
from tqvec._output import Kind, Output
from tqvec._safetensors import Reader, Tensor, integer, string
from tqvec.errors import FormatError
from tqvec.kvcache import byte_model
from tqvec.kvcache import state as state_module
from tqvec.kvcache.byte_model import TokenCounts
from tqvec.kvcache.codecs import GroupCodes, KVCodecs, LayerCodecs, SideCodec, SideCodes
from tqvec.kvcache.key_basis import GUARDED, IN_BANDS, KeyBasis
from tqvec.kvcache.policy import Policy
from tqvec.kvcache.rope import Rope
from tqvec.kvcache.state import Learned, Segments, State, Uncoded

VERSION = 2
_FIRST_WITH_ROPE = 2

KIND = Kind("a cache of tqvec", re.compile(rb'\A.{8}\{"__metadata__":\{"tqvec_kvcache":', re.DOTALL))

_KEY = "tqvec_kvcache"  # of the metadata that hold the fields
_SINKS, _RECODED, _CODED, _RECENT = "sinks", "old", "cold", "hot"  # tokens, in the words of the format
_Shapes = dict[str, tuple[str, tuple[int, ...]]]


class Header(NamedTuple):
    """The fields of a cache file; the "File format" page has the meaning of each."""

    version: int
    policy: str
    n_layers: int
    n_kv_heads: int
    head_dim: int
    rope: list[str | None]
    kinds: list[tuple[int, ...]]
    layers: list[TokenCounts]
    fingerprint: str
    crc32: dict[str, str]

    def head(self, tensors: dict[str, Tensor]) -> bytes:
        """Return the bytes that a file begins with, up to its first tensor."""
        values = self._asdict()
        if self.version < _FIRST_WITH_ROPE:
            del values["rope"], values["kinds"]
        fields = _safetensors.with_checksum(values)
        return _safetensors.make_head(tensors, {_KEY: _safetensors.canonical(fields)})


class Shape(NamedTuple):
    """The shape of a cache: its policy, and its layers' embeddings and codecs."""

    policy: Policy
    n_kv_heads: int
    head_dim: int
    rope: tuple[Rope | None, ...]
    codecs: tuple[LayerCodecs, ...]

    @property
    def fingerprint(self) -> str:
        """The hash of all codecs' fingerprints: by layer, coded before recoded tokens, keys before values, by group."""
        digest = hashlib.sha256()
        for codecs in self.codecs:
            for sides in (codecs.coded, codecs.recoded):
                groups = [] if sides is None else [*sides.keys.groups, *sides.values.groups]
                digest.update("".join(group.codec.fingerprint for group in groups).encode())
        return digest.hexdigest()[:32]

    def tensors(self, layers: list[TokenCounts], version: int = VERSION) -> dict[str, Tensor]:
        """Return all tensors of a file of a version, in the order of the file."""
        shapes: _Shapes = {}
        for number, (counts, codecs) in enumerate(zip(layers, self.codecs, strict=True)):
            of_layer = self._layer_shapes(counts, codecs, version)
            shapes |= {f"{number}.{name}": shape for name, shape in of_layer.items()}
        return _safetensors.place_by_type(shapes)

    def _layer_shapes(self, counts: TokenCounts, codecs: LayerCodecs, version: int) -> _Shapes:
        """Return type and shape of each tensor of a layer."""
        half = "F16" if self.policy.dtype == "float16" else "BF16"
        shapes: _Shapes = {}
        if counts.recoded + counts.coded and self.policy.mean_tokens:
            names = ("keys", "values") if self.policy.value_means else ("keys",)
            shapes |= {f"means.{name}": ("F32", (self.n_kv_heads, self.head_dim)) for name in names}
            if version >= _FIRST_WITH_ROPE:
                shapes["basis.order"] = ("U16", (self.n_kv_heads, self.head_dim))
                shapes["basis.gains"] = ("F32", (self.n_kv_heads, self.head_dim))
                shapes["basis.spread"] = ("F32", (self.n_kv_heads,))
                shapes["basis.kinds"] = ("U8", (self.n_kv_heads,))
        for tier, n in ((_SINKS, counts.sinks), (_RECENT, counts.recent)):
            shapes |= {f"{tier}.{name}": (half, (self.n_kv_heads, n, self.head_dim)) for name in ("keys", "values")}
        for tier, n, sides in ((_RECODED, counts.recoded, codecs.recoded), (_CODED, counts.coded, codecs.coded)):
            for name, side in zip(("keys", "values"), sides if sides and n else (), strict=False):
                for i, group in enumerate(side.groups):
                    heads = len(group.heads)
                    shapes[f"{tier}.{name}.{i}.codes"] = ("U8", (heads, n, group.code_bytes))
                    shapes[f"{tier}.{name}.{i}.scales"] = ("BF16", (heads, n))
        return shapes


def _layer_pieces(state: State) -> dict[str, list[NDArray]]:
    """Return the arrays whose bytes, one behind the other, are each tensor of a layer; all are views."""
    pieces: dict[str, list[NDArray]] = {}
    if state.learned is not None:
        basis = state.learned.keys
        pieces["means.keys"] = [basis.means]
        pieces |= {f"basis.{name}": [getattr(basis, name)] for name in basis._fields if name != "means"}
        if state.learned.values is not None:
            pieces["means.values"] = [state.learned.values]
    for tier, tokens in ((_SINKS, state.sinks), (_RECENT, state.recent)):
        pieces[f"{tier}.keys"] = [tokens.keys[:, : tokens.n]]
        pieces[f"{tier}.values"] = [tokens.values[:, : tokens.n]]
    for tier, segments in ((_RECODED, state.recoded), (_CODED, state.coded)):
        rows = [segment.rows for segment in segments]
        pieces |= _coded_pieces(f"{tier}.keys", [segment.keys for segment in segments], rows)
        pieces |= _coded_pieces(f"{tier}.values", [segment.values for segment in segments], rows)
    return pieces


def _coded_pieces(prefix: str, codes: Sequence[SideCodes], rows: Sequence[slice]) -> dict[str, list[NDArray]]:
    """Return the arrays of the keys, or of the values, of a tier; it has some rows of each segment."""
    pieces: dict[str, list[NDArray]] = {}
    for i, group in enumerate(zip(*codes, strict=True)):
        pieces[f"{prefix}.{i}.codes"] = _by_head([coded.codes for coded in group], rows)
        pieces[f"{prefix}.{i}.scales"] = _by_head([coded.scales for coded in group], rows)
    return pieces


def _by_head(arrays: Sequence[NDArray], rows: Sequence[slice]) -> list[NDArray]:
    """Return the rows of all segments for head 0, then those for head 1, and so on."""
    heads = range(arrays[0].shape[0])
    return [array[head, some] for head in heads for array, some in zip(arrays, rows, strict=True)]


def save(output: Output, shape: Shape, states: list[State]) -> None:
    """Write the states of all layers; an old file stays until the new one is complete and on the disk."""
    layers = [state.counts for state in states]
    tensors = shape.tensors(layers)
    header = Header(
        version=VERSION,
        policy=shape.policy.to_json(),
        n_layers=len(states),
        n_kv_heads=shape.n_kv_heads,
        head_dim=shape.head_dim,
        rope=[None if rope is None else rope.to_json() for rope in shape.rope],
        kinds=[state.kinds for state in states],
        layers=layers,
        fingerprint=shape.fingerprint,
        crc32=dict.fromkeys(tensors, "0" * 8),
    )
    pieces = {f"{i}.{name}": arrays for i, state in enumerate(states) for name, arrays in _layer_pieces(state).items()}
    with output.open() as file:
        file.write(header.head(tensors))
        for name in tensors:
            crc = 0
            for piece in pieces[name]:
                data = _safetensors.as_bytes(piece)
                file.write(data)
                crc = zlib.crc32(data, crc)
            header.crc32[name] = f"{crc:08x}"
        file.seek(0)
        file.write(header.head(tensors))


def read_header(path: Path, file: BufferedReader) -> tuple[Reader, Header]:
    """Read the header of an open file, and check all that needs no codecs; `load` takes both on from there.

    Raises
    ------
    FormatError
        The file is damaged, truncated, foreign or newer than this version of tqvec.
    """
    reader = Reader(path, file, _KEY, "cache of tqvec")
    with _safetensors.blame(path):
        return reader, _header(_safetensors.check_fields(path, reader.fields, VERSION))


def _header(fields: dict[str, Any]) -> Header:
    """Return the header of fields; ValueError, TypeError or KeyError for those that no writer makes."""
    for name in ("n_layers", "n_kv_heads", "head_dim"):
        integer(fields, name, 1)
    for name in ("policy", "fingerprint"):
        string(fields, name)
    version, layers = fields["version"], fields["layers"]
    rope = fields["rope"] if version >= _FIRST_WITH_ROPE else [None] * fields["n_layers"]
    if not isinstance(rope, list) or not all(entry is None or isinstance(entry, str) for entry in rope):
        raise ValueError(f"rope is {reprlib.repr(rope)}")
    kinds = fields["kinds"] if version >= _FIRST_WITH_ROPE else [[]] * fields["n_layers"]
    if not isinstance(kinds, list) or len(kinds) != fields["n_layers"]:
        raise ValueError(f"kinds is {reprlib.repr(kinds)}")
    for row in kinds:
        numbers = row if isinstance(row, list) and len(row) in (0, fields["n_kv_heads"]) else [None]
        if not all(type(kind) is int and IN_BANDS <= kind <= GUARDED for kind in numbers):
            raise ValueError(f"kinds has {reprlib.repr(row)}")
    if not isinstance(layers, list) or len(layers) != fields["n_layers"]:
        raise ValueError(f"layers are {reprlib.repr(layers)}")
    for row in layers:
        counts = row if isinstance(row, list) and len(row) == len(TokenCounts._fields) else [None]
        if not all(type(value) is int and 0 <= value < 2**62 for value in counts):
            raise ValueError(f"layers have {reprlib.repr(row)}")
    own = {
        "rope": rope,
        "kinds": [tuple(of_layer) for of_layer in kinds],
        "layers": [TokenCounts(*row) for row in layers],
    }
    return Header(**{name: fields[name] for name in Header._fields if name not in own} | own)


def load(reader: Reader, header: Header, shape: Shape) -> list[State]:
    """Read the states of all layers, and verify every byte of the file.

    Raises
    ------
    FormatError
        The file is damaged, or this tqvec would misread it.
    """
    path = reader.path
    if header.fingerprint != shape.fingerprint:
        raise FormatError(
            f"{path}: its codecs have fingerprint {header.fingerprint}, this tqvec makes {shape.fingerprint}"
        )
    for number, counts in enumerate(header.layers):
        if not _possible(shape, number, counts):
            raise FormatError(f"{path}: damaged: layer {number} can't have the tokens {tuple(counts)}")
    tensors = shape.tensors(header.layers, header.version)
    with _safetensors.blame(path):
        _safetensors.check_checksums(_safetensors.in_lists(header.crc32), dict.fromkeys(tensors, 1))
    reader.verify(tensors, header.head(tensors))
    arrays = {}
    for name, array in reader.read(tensors):
        _safetensors.verify_block(f"{path}: damaged: {name}", tensors[name].kind, array, header.crc32[name])
        arrays[name] = array
    with _safetensors.blame(path):
        layers = zip(header.layers, header.kinds, strict=True)
        return [_state(arrays, shape, number, counts, kinds) for number, (counts, kinds) in enumerate(layers)]


def _possible(shape: Shape, number: int, counts: TokenCounts) -> bool:
    """Return whether a layer can hold these numbers of tokens."""
    policy, coded = shape.policy, counts.recoded + counts.coded
    if counts.sinks > policy.sinks or (coded + counts.recent and counts.sinks < policy.sinks):
        return False
    if (coded and policy.recent is None) or (counts.recoded and shape.codecs[number].recoded is None):
        return False
    if counts.evicted and policy.max_tokens is None:
        return False
    if policy.max_tokens is not None and counts.sinks + coded + counts.recent > policy.max_tokens:
        return False
    recodes = shape.codecs[number].recoded is not None
    return not byte_model.count_to_code(policy, counts.recent, coded > 0) and not (
        recodes and byte_model.count_to_recode(policy, counts.coded)
    )


def _state(arrays: dict[str, NDArray], shape: Shape, number: int, counts: TokenCounts, kinds: tuple[int, ...]) -> State:
    """Take the state of a layer out of the arrays of a file."""

    def pair(tier: str) -> tuple[NDArray, NDArray]:
        return arrays.pop(f"{number}.{tier}.keys"), arrays.pop(f"{number}.{tier}.values")

    owner = object()  # of arrays that no layer owns: they are copied before anything is added

    def uncoded(tier: str) -> Uncoded:
        keys, values = pair(tier)
        return Uncoded(keys[:, :0], values[:, :0], 0).extend((keys, values), owner)

    def coded(tier: str, n: int, sides: KVCodecs | None, size: int) -> Segments:
        if n == 0 or sides is None:
            return ()
        keys = _codes(arrays, f"{number}.{tier}.keys", sides.keys)
        values = _codes(arrays, f"{number}.{tier}.values", sides.values)
        return state_module.extend((), sides, (keys, values), size, owner)

    codecs = shape.codecs[number]
    sizes = byte_model.segment_sizes(shape.policy, codecs.recoded is not None)
    return State(
        sinks=uncoded(_SINKS),
        recoded=coded(_RECODED, counts.recoded, codecs.recoded, sizes.recoded),
        coded=coded(_CODED, counts.coded, codecs.coded, sizes.coded),
        recent=uncoded(_RECENT),
        learned=_learned(arrays, number, kinds),
        evicted=counts.evicted,
    )


def _learned(arrays: dict[str, NDArray], number: int, kinds: tuple[int, ...]) -> Learned | None:
    """Take what a layer learned out of the arrays of a file; version 1 has the means alone."""
    means = arrays.pop(f"{number}.means.keys", None)
    if means is None:
        return None
    heads, d = means.shape
    plain: dict[str, NDArray] = {
        "order": np.tile(np.arange(d, dtype=np.uint16), (heads, 1)),
        "gains": np.ones((heads, d), np.float32),
        "spread": np.full(heads, np.finfo(np.float32).max),
        "kinds": np.zeros(heads, np.uint8),
    }
    basis = KeyBasis(means, **{name: arrays.pop(f"{number}.basis.{name}", array) for name, array in plain.items()})
    if not (np.sort(basis.order) == np.arange(d)).all() or not ((basis.gains > 0) & (basis.gains <= 1)).all():
        raise ValueError(f"the basis of layer {number} is no order of {d} coordinates with gains up to 1")
    if tuple(basis.kinds.tolist()) != (kinds or (IN_BANDS,) * heads):
        raise ValueError(f"layer {number} has kinds {basis.kinds.tolist()}, the header says {kinds}")
    return Learned(basis, arrays.pop(f"{number}.means.values", None))


def _codes(arrays: dict[str, NDArray], prefix: str, side: SideCodec) -> SideCodes:
    """Take the codes of the keys, or of the values, of a tier out of the arrays of a file."""
    names = [f"{prefix}.{i}" for i in range(len(side.groups))]
    return tuple(GroupCodes(arrays.pop(f"{name}.codes"), arrays.pop(f"{name}.scales")) for name in names)
