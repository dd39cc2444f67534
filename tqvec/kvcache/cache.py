"""KVCache: keys and values of a transformer in a few bits each, and attention on them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

from numpy.typing import ArrayLike

from tqvec import _safetensors, _validate
from tqvec._config import num_threads
from tqvec._fixed import Copied
from tqvec._output import Output, as_path
from tqvec._safetensors import Seen
from tqvec._types import Floats
from tqvec.codec.bands import MAX_D
from tqvec.errors import FormatError, InputError
from tqvec.kvcache import checks
from tqvec.kvcache import file as cache_file
from tqvec.kvcache import state as states
from tqvec.kvcache.attention import Task, attend
from tqvec.kvcache.byte_model import Nbytes, TokenCounts
from tqvec.kvcache.codecs import layer_codecs
from tqvec.kvcache.decoding import decode_tokens
from tqvec.kvcache.key_basis import layout
from tqvec.kvcache.layer import Layer
from tqvec.kvcache.policy import MAX_LAYERS, Policy, as_policy
from tqvec.kvcache.rope import Rope
from tqvec.kvcache.score_options import ScoreArguments, score_options

if TYPE_CHECKING:
    from typing_extensions import Unpack

Self = TypeVar("Self", bound="KVCache")


class KVCache(Copied):
    """Keys and values of a transformer's tokens, most of them in codes, and attention on these codes.

    Parameters
    ----------
    n_layers, n_kv_heads, head_dim : int
        The shape of the model's keys and values.
    policy : str or Policy
        How tokens are stored: a policy, or the name of a preset (see `Policy.from_name`).
    rope : Rope, None or sequence of them, optional
        The rotary position embedding of the keys: of all layers, or an entry per layer (see `Rope.from_config`). With
        it keys are coded at a fraction of the error, at any length of the context. None, the default: the keys have
        none, or it is not known.

    Attributes
    ----------
    n_layers, n_kv_heads, head_dim, policy
        The arguments, which can't be changed.
    rope : tuple of Rope or None
        An entry per layer.

    Raises
    ------
    InputError
        An argument is out of its range, or the policy or the rope does not fit the others.

    Notes
    -----
    The first token that is appended has position 0. If a model counts from another number, nothing changes.

    Any number of threads may append, attend and fork at a time. An attention sees the tokens of one moment, and never
    waits. The stored bytes don't depend on how tokens were cut into calls.

    Layers are independent. An error leaves the layer of its call as it was, and those before it longer by a step. To
    take back a whole step, `fork` before it and go on with the fork.

    ``copy.copy`` is `fork`; ``copy.deepcopy`` copies attributes of a subclass deeply too. A pickle holds the tokens
    that are held, as `save` does. After each the caches are independent.

    Examples
    --------
    >>> import numpy as np
    >>> from tqvec.kvcache import KVCache
    >>> rng = np.random.default_rng(1)
    >>> cache = KVCache(n_layers=2, n_kv_heads=2, head_dim=64, policy="turbo3")
    >>> k, v = rng.standard_normal((2, 2, 1000, 64), np.float32)
    >>> cache.append(0, k, v)
    >>> out = cache.attend(0, rng.standard_normal((8, 1, 64), np.float32))
    >>> out.shape
    (8, 1, 64)
    >>> cache.token_counts(0)
    TokenCounts(sinks=4, recoded=0, coded=832, recent=164, evicted=0)
    """

    _fixed = frozenset({"n_layers", "n_kv_heads", "head_dim", "policy", "rope"})
    _inner = _fixed | {"_seen", "_layers"}

    def __init__(
        self,
        n_layers: int,
        n_kv_heads: int,
        head_dim: int,
        policy: str | Policy = "turbo3",
        rope: Rope | Sequence[Rope | None] | None = None,
    ):
        self.n_layers: Final = _validate.integer(n_layers, "n_layers", 1, MAX_LAYERS)
        self.n_kv_heads: Final = _validate.integer(n_kv_heads, "n_kv_heads", 1, MAX_LAYERS)
        self.head_dim: Final = _validate.integer(head_dim, "head_dim", 1, MAX_D)
        self.policy: Final = as_policy(policy)
        self.rope: Final = checks.ropes(rope, self.n_layers, self.head_dim)
        self._seen: Seen = {}
        self._layers = self._make_layers()

    def _make_layers(self) -> tuple[Layer, ...]:
        """Return layers without tokens."""
        empty = states.empty_state(self.n_kv_heads, self.head_dim, self.policy.dtype)
        widths_by_layer = self.policy.layers(self.n_layers, self.n_kv_heads)
        return tuple(
            Layer(
                number,
                self.policy,
                layer_codecs(self.policy, widths, self.head_dim, rope is not None),
                layout(rope, self.head_dim),
                empty,
            )
            for number, (widths, rope) in enumerate(zip(widths_by_layer, self.rope, strict=True))
        )

    def __copy__(self: Self) -> Self:
        return self.fork()

    def __getstate__(self) -> dict[str, Any]:
        states = [layer.state.packed() for layer in self._layers]
        shape = self._shape([state.kinds for state in states])
        return vars(self) | {"_layers": states, "fingerprint": shape.fingerprint}

    def __setstate__(self, state: dict[str, Any]) -> None:
        tokens, fingerprint = state.pop("_layers"), state.pop("fingerprint")
        vars(self).update(state)
        vars(self)["_layers"] = self._make_layers()
        if self._shape([one.kinds for one in tokens]).fingerprint != fingerprint:
            raise FormatError(f"this tqvec makes other codecs than the one that pickled the {type(self).__name__}")
        for layer, one in zip(self._layers, tokens, strict=True):
            layer.state = one

    def __repr__(self) -> str:
        kinds = set(self.rope)
        rope = "" if kinds == {None} else f", rope={next(iter(kinds)) if len(kinds) == 1 else '(…)'}"
        return f"KVCache({self.n_layers}, {self.n_kv_heads}, {self.head_dim}, {self.policy!r}{rope})"

    @property
    def n_tokens(self) -> int:
        """Tokens that every layer holds: the smallest number over layers."""
        return min(layer.state.n for layer in self._layers)

    @property
    def nbytes(self) -> Nbytes:
        """Bytes of all arrays, itemised. Arrays that forks share count for each fork."""
        return Nbytes.total(layer.state.nbytes() for layer in self._layers)

    def token_counts(self, layer: int) -> TokenCounts:
        """Return how many tokens of a layer are stored in which way."""
        return self._layer(layer).state.counts

    def guarded_heads(self, layer: int) -> tuple[int, ...]:
        """Return the heads of a layer whose keys get 8 bits, since the policy's can't hold them.

        It is decided when the first tokens are coded, with a `LossWarning`: coordinates of their keys differ in size by
        so much that a width for all of them would cost 1.5 bits. Known is one cause: keys with a large constant part
        that turns with a rotary embedding, in a cache without its `rope`. They are not in `tqvec.kvcache.nbytes`.
        """
        learned = self._layer(layer).state.learned
        return () if learned is None else learned.keys.guarded_heads

    def append(self, layer: int, k: ArrayLike, v: ArrayLike, *, threads: int | None = None) -> None:
        """Add tokens behind those of a layer.

        Parameters
        ----------
        layer : int
        k, v : (n_kv_heads, n_tokens, head_dim) float16, bfloat16, float32 or float64
            One token, a part of a prompt, or all of it. Keys as attention needs them: after rotary embedding.
        threads : int, optional
            Default: the package's number of threads.

        Raises
        ------
        InputError
            Wrong type or shape; NaN, Inf, or a value that the policy's `dtype` can't hold. The message names layer,
            head and token. No token is added.

        Warns
        -----
        LossWarning
            Keys of a head have outliers, so they get 8 bits; or newer keys no longer fit what was learned from the
            first ones, so their error grows. The message names layer and head.
        """
        number, target = layer, self._layer(layer)
        keys, values = (
            checks.tokens(x, name, target.state.shape, target.policy.dtype, number) for x, name in ((k, "k"), (v, "v"))
        )
        if keys.shape != values.shape:
            raise InputError(f"k and v must have the same number of tokens, got {keys.shape[1]} and {values.shape[1]}")
        target.append(keys, values, threads)

    @overload
    def attend(
        self,
        layer: int,
        q: ArrayLike,
        *,
        scale: float | None = ...,
        skip_below: float = ...,
        threads: int | None = ...,
        return_skipped: Literal[False] = ...,
        **options: Unpack[ScoreArguments],
    ) -> Floats: ...

    @overload
    def attend(
        self,
        layer: int,
        q: ArrayLike,
        *,
        scale: float | None = ...,
        skip_below: float = ...,
        threads: int | None = ...,
        return_skipped: Literal[True],
        **options: Unpack[ScoreArguments],
    ) -> tuple[Floats, Floats]: ...

    def attend(
        self,
        layer: int,
        q: ArrayLike,
        *,
        scale: float | None = None,
        skip_below: float = 0.0,
        threads: int | None = None,
        return_skipped: bool = False,
        **options: Unpack[ScoreArguments],
    ) -> Floats | tuple[Floats, Floats]:
        """Compute causal attention of the newest tokens' queries.

        Parameters
        ----------
        layer : int
        q : (n_heads, n_queries, head_dim) float
            Queries of the newest `n_queries` tokens, in order. `n_heads` is a multiple of `n_kv_heads`: the first
            ``n_heads / n_kv_heads`` heads belong to the first KV head, and so on.
        scale : float, optional
            Factor of the scores. Default: 1/√head_dim.
        skip_below : float
            The value of a coded token may be skipped if its attention weight is below this for every query of the KV
            head. A skipped value counts as the mean value if the policy subtracts one, otherwise as 0.
        threads : int, optional
            At most: fewer are used where there is too little work. The result does not depend on the number.
        return_skipped : bool
            Whether to return the share of each query's attention that was skipped.

        Other Parameters
        ----------------
        window : int, optional
            Each query sees the newest `window` tokens up to its own, evicted ones included, as in sliding-window layers
            (Beltagy et al. 2020). Default: all tokens up to its own.
        softcap : float, optional
            Scaled scores become ``softcap * tanh(score / softcap)`` (Gemma 2: Gemma Team 2024). Default: they stay.
        sinks : (n_heads,) float, optional
            A logit per query head that takes its share of the softmax like the score of a token, and adds no value
            (gpt-oss: OpenAI 2025). Neither `scale` nor `softcap` changes it. Not the policy's sinks, which are tokens.

        Returns
        -------
        out : (n_heads, n_queries, head_dim) float32
        skipped : (n_heads, n_queries) float32
            Only with `return_skipped`.

        Raises
        ------
        InputError
            Wrong type or shape, NaN or Inf, more queries than tokens, or a number out of its range.
        """
        target = self._layer(layer)
        state = target.state
        heads, d = state.shape
        factor = 1 / math.sqrt(d) if scale is None else checks.finite(scale, "scale")
        rows = checks.queries(q, (heads, d), factor, layer)
        checks.newest(rows.shape[1], state.counts, layer)
        task = Task(
            state=state,
            codecs=target.codecs(state.kinds),
            turning=target.turning,
            skip_below=checks.share(skip_below, "skip_below"),
            options=score_options(len(rows), **options),
        )
        out, skipped = attend(task, rows, num_threads(threads))
        return (out, skipped) if return_skipped else out

    def keys(self, layer: int, *, threads: int | None = None) -> Floats:
        """Return the keys that attention sees, (n_kv_heads, tokens, head_dim) float32; coded ones are decoded."""
        return decode_tokens(self._layer(layer), "keys", threads)

    def values(self, layer: int, *, threads: int | None = None) -> Floats:
        """Return the values that attention sees, (n_kv_heads, tokens, head_dim) float32; coded ones are decoded."""
        return decode_tokens(self._layer(layer), "values", threads)

    def truncate(self, n_tokens: int) -> None:
        """Keep only the first `n_tokens` tokens of those that each layer holds, as after a rejected draft.

        Evicted tokens don't count, and don't come back. Coded tokens stay coded. If none of them is left, the means are
        forgotten. Layers may differ in length: all end with `n_tokens`.

        Raises
        ------
        InputError
            A layer holds fewer tokens. Nothing is changed.
        """
        n = _validate.integer(n_tokens, "n_tokens", 0, self.n_tokens)
        for layer in self._layers:
            layer.truncate(n)

    def reset(self) -> None:
        """Forget all tokens and the count of evicted ones: the cache is like a new one of its shape and policy."""
        for layer in self._layers:
            layer.reset()

    def fork(self: Self) -> Self:
        """Return a cache with the same tokens, in shared memory; later changes to either don't show in the other.

        It has the class and the attributes of this one.
        """
        other = self.__class__.__new__(self.__class__)
        layers = tuple(layer.fork() for layer in self._layers)
        vars(other).update(vars(self), _seen=dict(self._seen), _layers=layers)
        return other

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the cache to a safetensors file with checksums; an old file stays until the new one is complete.

        Tokens that other threads append meanwhile may be in the file or not, layer by layer. The "Files" page says how
        files are replaced.

        Parameters
        ----------
        path : path
            Also a device or FIFO.
        overwrite : bool
            Replace a file that is not a cache of tqvec, is read-only, or has changed since this cache was loaded from
            it or saved to it.

        Raises
        ------
        InputError
            There is a file that only `overwrite` replaces.
        OSError
            A folder; a path that this process can't write to; a full disk. The old file stays.
        """
        output = Output(path, cache_file.KIND, overwrite=overwrite, seen=self._seen)
        states = [layer.state for layer in self._layers]
        cache_file.save(output, self._shape([state.kinds for state in states]), states)

    @classmethod
    def load(cls: type[Self], path: str | os.PathLike[str]) -> Self:
        """Read a file that `save` wrote, and verify every byte.

        Called on a subclass, it returns one, without a call of its constructor.

        Raises
        ------
        FileNotFoundError
            No file has this path.
        FormatError
            The file is damaged, truncated, foreign or newer than this version of tqvec.
        """
        path = as_path(path)
        with _safetensors.open_file(path) as file:
            reader, header = cache_file.read_header(path, file)
            try:
                policy = Policy.from_json(header.policy)
                rope = [None if text is None else Rope.from_json(text) for text in header.rope]
                cache = cls.__new__(cls)
                KVCache.__init__(cache, header.n_layers, header.n_kv_heads, header.head_dim, policy, rope)
            except InputError as error:
                raise FormatError(f"{path}: damaged, or this tqvec can't read such a cache: {error}") from error
            loaded = cache_file.load(reader, header, cache._shape(header.kinds))
        for layer, state in zip(cache._layers, loaded, strict=True):
            layer.state = state
        cache._seen[os.path.realpath(path)] = reader.digest
        return cache

    def _shape(self, kinds: Sequence[tuple[int, ...]]) -> cache_file.Shape:
        """Return what decides the tensors of a file, with the ways in which heads of each layer are coded."""
        codecs = tuple(layer.codecs(of_layer) for layer, of_layer in zip(self._layers, kinds, strict=True))
        return cache_file.Shape(
            policy=self.policy, n_kv_heads=self.n_kv_heads, head_dim=self.head_dim, rope=self.rope, codecs=codecs
        )

    def _layer(self, number: int) -> Layer:
        return self._layers[_validate.integer(number, "layer", 0, len(self._layers) - 1)]
