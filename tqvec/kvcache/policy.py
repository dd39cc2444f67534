"""Policies: what a cache keeps of each token, and for how long."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from tqvec import _validate
from tqvec.codec.bands import FRACTIONAL, MAX_NBITS
from tqvec.codec.bands import Width as Width  # of one head
from tqvec.codec.codebooks import trellis
from tqvec.errors import InputError

_MOST = 2**40  # tokens


class Bands(tuple):
    """Widths of runs of rotated coordinates, ``Bands(((32, 3), (96, 2)))``: one width of one head.

    `TurboQuant` takes plain tuples for them; in a policy those are widths of layers.
    """

    __slots__ = ()


Widths = Any  # a Width for all; or one a layer; or, for each layer, one a head


class LayerWidths(NamedTuple):
    """Widths of a layer's heads, one each; `old_keys` and `old_values` are empty where tokens never grow old."""

    keys: tuple[Width, ...]
    values: tuple[Width, ...]
    old_keys: tuple[Width, ...]
    old_values: tuple[Width, ...]


@dataclass(frozen=True)
class Policy:
    """What a `KVCache` keeps of each token.

    Tokens are *hot* first: kept in 16 bits. When `chunk` of them have left the window of the newest `hot`, these are
    coded together and are *cold*. The first `sinks` tokens stay hot for ever.

    Parameters
    ----------
    key_nbits, value_nbits : int, float, Bands or sequence
        Bits a coordinate, 1 to 8, 2.5 or 3.5, or `Bands`: for all heads of all layers. Or a sequence with an entry for
        each layer, which may again be a sequence with a width for each KV head.
    codebook : {"scalar", "trellis"}
        As for `TurboQuant`.
    hot : int or None
        Newest tokens that are never coded; up to ``chunk - 1`` more wait to be coded. None: no token is ever coded.
    sinks : int
        First tokens that are never coded: models attend to them out of all proportion.
    chunk : int
        Tokens that are coded together.
    mean_tokens : int
        Each head's mean key is taken from this many tokens, the first after the sinks, kept once, and subtracted before
        coding. Until there are so many no token is coded. 0: nothing is subtracted.
    value_means : bool
        Whether the same is done with values. It helps some layers, but costs those much that attend to tokens whose
        values are small, as to sinks (docs/explanation/kv-cache.md).
    old_after : int, optional
        Newest cold tokens that stay as they are: older ones are coded once more, with `old_key_nbits` and
        `old_value_nbits`, from what their codes stand for, so the errors of both codings add up. Default: never.
    old_key_nbits, old_value_nbits : like `key_nbits`, optional
    protected : int
        So many layers at either end are coded with `protected_nbits` in place of the other widths, and never grow old.
    protected_nbits : int, float or Bands
    max_tokens : int, optional
        Tokens of a layer, sinks included; the oldest coded ones are dropped for newer ones. Default: no limit.
    dtype : {"float16", "bfloat16"}
        Of hot tokens. What is coded is first rounded to it. float16 is finer, but ends at 65,504.
    seed : int
        Of the rotation, which all heads of all layers share.

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
    codebook: str = "scalar"
    hot: int | None = 128
    sinks: int = 4
    chunk: int = 64
    mean_tokens: int = 64
    value_means: bool = False
    old_after: int | None = None
    old_key_nbits: Widths = None
    old_value_nbits: Widths = None
    protected: int = 0
    protected_nbits: Width = 4
    max_tokens: int | None = None
    dtype: str = "float16"
    seed: int = 0

    def __post_init__(self) -> None:
        _validate.choice(self.codebook, "codebook", ["scalar", "trellis"])
        _validate.choice(self.dtype, "dtype", ["float16", "bfloat16"])
        ranges = {"sinks": (0, _MOST), "chunk": (1, _MOST), "mean_tokens": (0, _MOST), "protected": (0, _MOST)}
        for name, (low, high) in (ranges | {"seed": (0, 2**64 - 1)}).items():
            self._set(name, _validate.integer(getattr(self, name), name, low, high))
        if not isinstance(self.value_means, bool):
            raise InputError(f"value_means must be True or False, got {self.value_means!r}")
        for name, least in (("hot", 0), ("old_after", 1), ("max_tokens", 1)):
            if getattr(self, name) is not None:
                self._set(name, _validate.integer(getattr(self, name), name, least, _MOST))
        for name in ("key_nbits", "value_nbits"):
            self._set(name, self._widths(getattr(self, name), name))
        self._set("protected_nbits", self._width(self.protected_nbits, "protected_nbits"))
        self._check_old()
        self._check_max_tokens()

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_old(self) -> None:
        """Widths of old tokens belong to `old_after`."""
        for name in ("old_key_nbits", "old_value_nbits"):
            value = getattr(self, name)
            if (value is None) != (self.old_after is None):
                raise InputError("old_after, old_key_nbits and old_value_nbits must be given together, or none of them")
            if value is not None:
                self._set(name, self._widths(value, name))

    def _check_max_tokens(self) -> None:
        """Tokens are only dropped that are coded, and of the oldest tier."""
        if self.max_tokens is None:
            return
        if self.hot is None:
            raise InputError("max_tokens needs a hot window: hot=None never codes a token, and only coded are dropped")
        if self.max_tokens < self.least_tokens:
            least = self.least_tokens
            raise InputError(f"max_tokens must be at least {least}, what this policy keeps, got {self.max_tokens}")

    @property
    def least_tokens(self) -> int:
        """Tokens of a layer that are kept whatever `max_tokens` is, which can't be less."""
        waiting = 0 if self.hot is None else max(self.hot + self.chunk, self.mean_tokens)
        return self.sinks + waiting + (0 if self.old_after is None else self.old_after + self.chunk)

    def _width(self, value: object, name: str) -> Width:
        """One width of one head."""
        if isinstance(value, Bands):
            return Bands(tuple(pair) if isinstance(pair, list) else pair for pair in value)
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

    def _widths(self, value: object, name: str) -> Widths:
        """One width, one a layer, or one a layer and head."""

        def entry(given: object, where: str, nested: Callable[[object, str], Widths]) -> Widths:
            if isinstance(given, (list, tuple)) and not isinstance(given, Bands):
                if not given:
                    raise InputError(f"{where} has no widths")
                return tuple(nested(one, f"{where}[{i}]") for i, one in enumerate(given))
            return self._width(given, where)

        return entry(value, name, lambda layer, where: entry(layer, where, self._width))

    def layers(self, n_layers: int, n_kv_heads: int) -> tuple[LayerWidths, ...]:
        """Widths of all heads of each layer.

        Raises
        ------
        InputError
            The policy has widths for another number of layers or heads.
        """
        names = ("key_nbits", "value_nbits", "old_key_nbits", "old_value_nbits")
        found = []
        for layer in range(n_layers):
            if min(layer, n_layers - 1 - layer) < self.protected:
                same = (self.protected_nbits,) * n_kv_heads
                found.append(LayerWidths(same, same, (), ()))
            else:
                found.append(LayerWidths(*(self._heads(name, layer, n_layers, n_kv_heads) for name in names)))
        return tuple(found)

    def _heads(self, name: str, layer: int, n_layers: int, n_kv_heads: int) -> tuple[Width, ...]:
        """Widths of the heads of a layer; () for what the policy does not have."""
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
        """A preset of `PRESETS`.

        Raises
        ------
        InputError
            There is none of this name.
        """
        return PRESETS[_validate.choice(name, "policy", PRESETS)]

    def to_json(self) -> str:
        """All parameters, in one line that `from_json` reads."""
        return json.dumps({name: _plain(value) for name, value in asdict(self).items()}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Policy:
        """The policy that `to_json` wrote.

        Raises
        ------
        InputError
            It is no such text.
        """
        try:
            found = json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"policy is no JSON: {error}") from None
        names = {field.name for field in fields(cls)}
        if not isinstance(found, dict) or not found.keys() <= names:
            raise InputError(f"policy must have the parameters of Policy, got {str(found)[:80]}")
        return cls(**{name: _structured(value) for name, value in found.items()})


def _plain(value: object) -> Any:
    """For JSON: bands can be told from widths of layers."""
    if isinstance(value, Bands):
        return {"bands": [list(pair) for pair in value]}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def _structured(value: object) -> Any:
    """What `_plain` was made of."""
    if isinstance(value, dict):
        pairs = value.get("bands")
        if value.keys() != {"bands"} or not isinstance(pairs, list):
            raise InputError(f"policy has {str(value)[:80]} in place of bands")
        return Bands(tuple(pair) if isinstance(pair, list) else pair for pair in pairs)
    return tuple(_structured(one) for one in value) if isinstance(value, list) else value


PRESETS = {
    "exact": Policy(hot=None, sinks=0),
    "turbo4": Policy(4, 4),
    "turbo3": Policy(3, 3),
    "turbo2": Policy(2, 2),
    "k4v2": Policy(4, 2),
    "k4v3": Policy(4, 3),
    "quality": Policy(4, 4, "trellis", protected=2, protected_nbits=5),
    "small": Policy(3, 2, "trellis", protected=2, protected_nbits=4),
}
"""Policies by name. Bits a value of a cold token at head_dim = 128, its share of the 16-bit scale included:

exact
    16: nothing is coded. To compare with.
turbo4, turbo3, turbo2
    4.125, 3.125, 2.125: one width for keys and values.
k4v3, k4v2
    3.625, 3.125: keys decide which tokens are attended to, so they get more.
quality
    4.125, and 5.125 in two layers at either end; trellis codebook.
small
    2.625, and 4.125 in two layers at either end; trellis codebook.
"""
