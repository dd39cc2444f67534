"""Policies: how a cache stores each token, and for how long."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple, TypeAlias

from tqvec import _validate
from tqvec._present import brief
from tqvec._types import CodebookName
from tqvec.codec.bands import FRACTIONAL, MAX_NBITS, check_pairs
from tqvec.codec.codebooks import trellis
from tqvec.errors import InputError

MAX_LAYERS = 1024  # or heads
_MAX_TOKENS = 2**40
# Names in JSON, of the fields that have another one there: cache files hold them.
_JSON_NAMES = {
    "recent": "hot",
    "recode_after": "old_after",
    "recoded_key_nbits": "old_key_nbits",
    "recoded_value_nbits": "old_value_nbits",
}


class Bands(tuple[tuple[int, int], ...]):
    """Runs of rotated coordinates as (coordinates, width): ``Bands(((32, 3), (96, 2)))`` is the width of one head.

    `TurboQuant` takes plain tuples for bands. In a policy a plain tuple holds the widths of layers or heads.

    Raises
    ------
    InputError
        These are no pairs, or a number is out of its range.
    """

    __slots__ = ()

    def __new__(cls, pairs: Iterable[tuple[int, int]]) -> Bands:
        return super().__new__(cls, check_pairs(_validate.entries(pairs, "bands"), "bands"))


Width: TypeAlias = float | Bands  # of one head; an int is a float to a type checker
Widths: TypeAlias = Width | Sequence[Width | Sequence[Width]]  # of all heads; or by layer; or by layer and head
DtypeName: TypeAlias = Literal["float16", "bfloat16"]


class LayerWidths(NamedTuple):
    """The width of each head of a layer; `recoded_keys` and `recoded_values` are empty where no token is recoded."""

    keys: tuple[Width, ...]
    values: tuple[Width, ...]
    recoded_keys: tuple[Width, ...]
    recoded_values: tuple[Width, ...]


@dataclass(frozen=True, repr=False)
class Policy:
    """The rules by which a `KVCache` stores tokens.

    A token is *recent* first and stored in 16 bits. When `chunk` tokens have left the window of the `recent` newest,
    they are *coded* together. Coded tokens may be *recoded* with fewer bits later, and dropped in the end. The first
    `sinks` tokens stay in 16 bits for ever.

    Parameters
    ----------
    key_nbits, value_nbits : int, float, Bands or sequence
        Bits per coordinate: 1 to 8, 2.5, 3.5 or `Bands`. One width for all heads, or a sequence with an entry per
        layer, which may itself be a sequence with a width per KV head.
    codebook : {"scalar", "trellis"}
        The codebook, as for `TurboQuant`.
    recent : int or None
        Number of newest tokens that are not coded; up to ``chunk - 1`` more wait to be coded. None: no token is coded.
    sinks : int
        Number of first tokens that are never coded. Models attend to them far more than to others.
    chunk : int
        Number of tokens that are coded together.
    mean_tokens : int
        Tokens after the sinks from which each head learns: the mean of their keys, which is subtracted from all keys
        before coding, and, if the cache has a rope, how much each coordinate matters. No token is coded before there
        are so many. 0: nothing is learned.
    value_means : bool
        Whether a mean is subtracted from values too. It helps some layers, and harms those that attend to tokens with
        small values, such as sinks (see the "KV cache" page).
    recode_after : int, optional
        Number of newest coded tokens that stay as they are. Older ones are decoded and coded again with
        `recoded_key_nbits` and `recoded_value_nbits`, so the errors of both codings add up. Default: none is recoded.
    recoded_key_nbits, recoded_value_nbits : like `key_nbits`, optional
        Bits per coordinate of recoded tokens.
    protected : int
        Layers at either end that use `protected_nbits` for all heads, and whose tokens are not recoded.
    protected_nbits : int, float or Bands
        Bits per coordinate in the protected layers.
    max_tokens : int, optional
        Tokens that a layer holds, sinks included. The oldest coded tokens are dropped for new ones. Default: no limit.
    dtype : {"float16", "bfloat16"}
        Type of tokens that are not coded. Tokens are rounded to it before coding too. float16 is finer, and ends at
        65,504.
    seed : int
        Seed of the rotation that all heads of all layers share.

    Raises
    ------
    InputError
        A parameter is out of its range.

    Examples
    --------
    >>> from tqvec.kvcache import Policy
    >>> Policy.from_name("k4v2").value_nbits
    2
    >>> Policy(key_nbits=[8, 4, 4, (4, 3)], value_nbits=3).layers(4, 2)[3].keys
    (4, 3)
    """

    key_nbits: Widths = 3
    value_nbits: Widths = 3
    codebook: CodebookName = "scalar"
    recent: int | None = 128
    sinks: int = 4
    chunk: int = 64
    mean_tokens: int = 64
    value_means: bool = False
    recode_after: int | None = None
    recoded_key_nbits: Widths | None = None
    recoded_value_nbits: Widths | None = None
    protected: int = 0
    protected_nbits: Width = 4
    max_tokens: int | None = None
    dtype: DtypeName = "float16"
    seed: int = 0

    def __repr__(self) -> str:
        named = ("key_nbits", "value_nbits")
        changed = [f.name for f in fields(self) if f.name in named or getattr(self, f.name) != f.default]
        return brief(self, changed)

    def __post_init__(self) -> None:
        _validate.choice(self.codebook, "codebook", ["scalar", "trellis"])
        _validate.choice(self.dtype, "dtype", ["float16", "bfloat16"])
        lows = {
            "sinks": 0,
            "chunk": 1,
            "mean_tokens": 0,
            "protected": 0,
            "recent": 0,
            "recode_after": 1,
            "max_tokens": 1,
        }
        for name, low in lows.items():
            if getattr(self, name) is not None or name not in ("recent", "recode_after", "max_tokens"):
                self._set(name, _validate.integer(getattr(self, name), name, low, _MAX_TOKENS))
        self._set("seed", _validate.integer(self.seed, "seed", 0, 2**64 - 1))
        if not isinstance(self.value_means, bool):
            raise InputError(f"value_means must be True or False, got {self.value_means!r}")
        for name in ("key_nbits", "value_nbits"):
            self._set(name, self._widths(getattr(self, name), name))
        self._set("protected_nbits", self._width(self.protected_nbits, "protected_nbits"))
        self._check_recoding()
        self._check_max_tokens()

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_recoding(self) -> None:
        """Refuse widths of recoded tokens without `recode_after`, and the reverse."""
        for name in ("recoded_key_nbits", "recoded_value_nbits"):
            value = getattr(self, name)
            if (value is None) != (self.recode_after is None):
                names = "recode_after, recoded_key_nbits and recoded_value_nbits"
                raise InputError(f"{names} must be given together, or none of them")
            if value is not None:
                self._set(name, self._widths(value, name))

    def _check_max_tokens(self) -> None:
        """Refuse a limit that leaves no coded token to drop."""
        if self.max_tokens is None:
            return
        if self.recent is None:
            raise InputError(
                "max_tokens needs a number of recent tokens: with recent=None no token is coded, "
                "and only coded tokens are dropped"
            )
        if self.max_tokens < self.min_tokens:
            raise InputError(
                f"max_tokens must be at least {self.min_tokens}, which this policy always keeps, got {self.max_tokens}"
            )

    @property
    def min_tokens(self) -> int:
        """Tokens of a layer that are never dropped: the smallest `max_tokens`."""
        waiting = 0 if self.recent is None else max(self.recent + self.chunk, self.mean_tokens)
        return self.sinks + waiting + (0 if self.recode_after is None else self.recode_after + self.chunk)

    def _width(self, value: object, name: str) -> Width:
        """Return the checked width of one head."""
        if isinstance(value, Bands):
            return value
        if isinstance(value, float) and value in FRACTIONAL:
            widest = int(value) + 1
        else:
            try:
                value = widest = _validate.integer(value, name, 1, MAX_NBITS)
            except InputError:
                raise InputError(f"{name} must be 1 to {MAX_NBITS}, 2.5, 3.5 or Bands, got {value!r}") from None
        if self.codebook == "trellis" and widest > trellis.MAX_NBITS:
            raise InputError(f"{name}: codebook='trellis' has widths up to {trellis.MAX_NBITS}, got {value!r}")
        return value

    def _widths(self, value: object, name: str, depth: int = 2) -> Any:
        """Return a checked width, or a tuple of them by layer, or by layer and head."""
        if depth and isinstance(value, (list, tuple)) and not isinstance(value, Bands):
            if not value:
                raise InputError(f"{name} has no widths")
            return tuple(self._widths(item, f"{name}[{i}]", depth - 1) for i, item in enumerate(value))
        return self._width(value, name)

    def layers(self, n_layers: int, n_kv_heads: int) -> tuple[LayerWidths, ...]:
        """Return the widths of all heads of each layer.

        Raises
        ------
        InputError
            The policy has widths for another number of layers or heads, or a number is out of its range.
        """
        n_layers = _validate.integer(n_layers, "n_layers", 1, MAX_LAYERS)
        n_kv_heads = _validate.integer(n_kv_heads, "n_kv_heads", 1, MAX_LAYERS)
        names = ("key_nbits", "value_nbits", "recoded_key_nbits", "recoded_value_nbits")
        protected = (self.protected_nbits,) * n_kv_heads
        return tuple(
            LayerWidths(protected, protected, (), ())
            if min(layer, n_layers - 1 - layer) < self.protected
            else LayerWidths(*(self._heads(name, layer, n_layers, n_kv_heads) for name in names))
            for layer in range(n_layers)
        )

    def _heads(self, name: str, layer: int, n_layers: int, n_kv_heads: int) -> tuple[Width, ...]:
        """Return the widths of a layer's heads; () where the policy has none of this name."""
        value = getattr(self, name)
        if value is None:
            return ()
        for count, kind in ((n_layers, "layers"), (n_kv_heads, "KV heads")):
            if isinstance(value, Bands) or not isinstance(value, tuple):
                return (value,) * n_kv_heads
            if len(value) != count:
                raise InputError(f"{name} has widths for {len(value)} {kind}, the cache has {count}")
            value = value[layer] if kind == "layers" else value
        return value

    @classmethod
    def from_name(cls, name: str) -> Policy:
        """Return the preset with this name.

        Raises
        ------
        InputError
            `PRESETS` has no such name.
        """
        return PRESETS[_validate.choice(name, "policy", PRESETS)]

    def to_json(self) -> str:
        """Return all parameters as one line of JSON, which `from_json` reads."""
        return json.dumps({_JSON_NAMES.get(k, k): _to_plain(v) for k, v in asdict(self).items()}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Policy:
        """Read the JSON that `to_json` writes; a parameter that is not there has its default.

        Raises
        ------
        InputError
            The text is not such JSON.
        """
        names = {_JSON_NAMES.get(field.name, field.name): field.name for field in fields(cls)}
        values = _validate.json_parameters(text, "policy", cls, names)
        return cls(**{names[name]: _from_plain(value) for name, value in values.items()})


def as_policy(policy: object) -> Policy:
    """Return a policy, or the preset of this name.

    Raises
    ------
    InputError
        It is neither.
    """
    if isinstance(policy, str):
        return Policy.from_name(policy)
    if not isinstance(policy, Policy):
        raise InputError(f"policy must be a Policy or the name of one, got {type(policy).__name__}")
    return policy


def _to_plain(value: object) -> Any:
    """Return a value for JSON, in which bands differ from widths of layers."""
    if isinstance(value, Bands):
        return {"bands": [list(pair) for pair in value]}
    return [_to_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _from_plain(value: object) -> Any:
    """Undo `_to_plain`."""
    if isinstance(value, dict):
        pairs = value.get("bands")
        if value.keys() != {"bands"} or not isinstance(pairs, list):
            raise InputError(f"policy has {str(value)[:80]} in place of bands")
        return Bands(pairs)
    return tuple(_from_plain(item) for item in value) if isinstance(value, list) else value


PRESETS = {
    "exact": Policy(recent=None, sinks=0),
    "turbo4": Policy(4, 4),
    "turbo3": Policy(3, 3),
    "turbo2": Policy(2, 2),
    "k4v2": Policy(4, 2),
    "k4v3": Policy(4, 3),
    "quality": Policy(4, 4, "trellis"),
    "balanced": Policy(3, 3, "trellis"),
    "small": Policy(3, 2, "trellis"),
    "tiny": Policy(2, 2, "trellis"),
    "layer_adaptive": Policy(3, 3, protected=2, protected_nbits=8),
    "temporal_decay": Policy(4, 4, recode_after=1024, recoded_key_nbits=3, recoded_value_nbits=2),
}
"""Policies by name, with bits per value of a coded token at head_dim = 128, scales included:

exact
    16: no token is coded.
turbo4, turbo3, turbo2
    4.125, 3.125, 2.125: one width for keys and values.
k4v3, k4v2
    3.625, 3.125: keys need more bits than values, since they decide which tokens are attended to.
quality, balanced, small, tiny
    4.125, 3.125, 2.625, 2.125: the trellis codebook, whose errors are 0.6 to 0.7 times as large, and which takes longer
    to attend to.
layer_adaptive
    3.125, and 8.125 in two layers at either end.
temporal_decay
    4.125 for the newest 1,024 coded tokens, 2.625 for older ones, whose errors add up.
"""
