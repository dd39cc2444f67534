"""Rotary position embeddings: which coordinates of a key turn with the position, and how fast."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tqvec import _validate
from tqvec._arrays import as_array
from tqvec.codec.bands import MAX_D
from tqvec.errors import InputError
from tqvec.kvcache.planning.ropes import read_ropes
from tqvec.kvcache.rope_scaling import MAX_LENGTH, check_scaling, scaled_frequencies

_MAX_POSITION = 2**52  # a float64 holds it


@dataclass(frozen=True, repr=False)
class Rope:
    """The rotary position embedding of a model's keys: pairs of coordinates that turn with the position.

    At position ``p`` the pair ``i`` of every key has turned by ``p * frequencies[i]`` radians. YaRN and LongRoPE
    scale all keys by a constant, too (``attention_factor``). It changes no angle, so it is left out: keys are stored
    as they come, with the factor in them.

    Parameters
    ----------
    theta : float
        Base of the frequencies, as ``rope_theta`` of a model's configuration; above 1.
    dim : int, optional
        Number of coordinates of a head that turn. An odd one counts for the frequencies alone: one more turns, since
        coordinates turn in pairs. Default: all from `start` on.
    scaling : mapping, optional
        As ``rope_scaling`` or ``rope_parameters`` of a configuration, without ``rope_theta``: the `rope_type`, which
        is "default", "linear", "dynamic", "yarn", "longrope", "llama3" or "proportional", and its parameters.
        Parameters that change no angle are dropped. "dynamic" needs ``original_max_position_embeddings``, which is
        ``max_position_embeddings`` of the configuration. Default: frequencies are not scaled.
    interleaved : bool
        Whether the pairs are (0, 1), (2, 3), … Otherwise they are (i, i + dim / 2).
    start : int
        First coordinate that turns.
    reverse : bool
        Whether keys turn by minus the angle, as in NanoChat.

    Raises
    ------
    InputError
        A parameter is out of its range, or is not known for the rope type.

    Examples
    --------
    >>> from tqvec.kvcache import Rope
    >>> Rope(500_000.0).frequencies(4)
    array([1.        , 0.00141421])
    >>> Rope(dim=4).pairs(64).tolist()
    [[0, 2], [1, 3]]
    """

    theta: float = 10000.0
    dim: int | None = None
    scaling: Mapping[str, Any] | None = None
    interleaved: bool = False
    start: int = 0
    reverse: bool = False

    def __post_init__(self) -> None:
        theta = _validate.number(self.theta, "theta")
        if not 1 < theta < math.inf:
            raise InputError(f"theta must be above 1 and finite, got {theta}")
        self._set("theta", theta)
        if self.dim is not None:
            self._set("dim", _validate.integer(self.dim, "dim", 1, MAX_D))
        self._set("start", _validate.integer(self.start, "start", 0, MAX_D))
        for name in ("interleaved", "reverse"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be True or False, got {getattr(self, name)!r}")
        self._set("scaling", check_scaling(self.scaling))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        changed = [f.name for f in fields(self) if f.name == "theta" or getattr(self, f.name) != f.default]
        return f"Rope({', '.join(f'{name}={getattr(self, name)!r}' for name in changed)})"

    @property
    def original_length(self) -> int | None:
        """Tokens of the longest sequence that has the frequencies of short ones; None: all sequences have the same.

        "dynamic" and "longrope" change the frequencies of all tokens when a sequence gets longer than this.
        """
        if self.scaling is None or self.scaling["rope_type"] not in ("dynamic", "longrope"):
            return None
        return int(self.scaling["original_max_position_embeddings"])

    def pairs(self, head_dim: int) -> NDArray[np.int64]:
        """Return the coordinates of a head that turn together, (n_pairs, 2): from the first towards the second.

        Raises
        ------
        InputError
            The head has no such coordinates.
        """
        n = (self._rotated(head_dim) + 1) // 2
        i = np.arange(n)
        pairs = np.stack([2 * i, 2 * i + 1] if self.interleaved else [i, i + n], axis=1)
        return (self.start + pairs[: len(self.frequencies(head_dim))]).astype(np.int64)

    def frequencies(self, head_dim: int, length: int | None = None) -> NDArray[np.float64]:
        """Return the angle of each pair per token, (n_pairs,) in radians; negative if `reverse`.

        Parameters
        ----------
        head_dim : int
        length : int, optional
            Number of tokens of the sequence, for the rope types that change with it ("dynamic" and "longrope").
            Default: at most `original_length`.

        Raises
        ------
        InputError
            As `pairs`, or `length` is out of its range.
        """
        dim = self._rotated(head_dim)
        if length is not None:
            length = _validate.integer(length, "length", 1, MAX_LENGTH)
        result = scaled_frequencies(self.theta, dim, self.scaling, length)
        return -result if self.reverse else result

    def rotate(self, x: ArrayLike, positions: ArrayLike, length: int | None = None) -> NDArray[Any]:
        """Turn keys to positions. Negative positions undo it.

        Parameters
        ----------
        x : (..., n, head_dim) float
        positions : (n,) int
        length : int, optional
            As for `frequencies`.

        Returns
        -------
        (..., n, head_dim) float32
            float64 if `x` is.

        Raises
        ------
        InputError
            Wrong type or shape, or as `frequencies`.
        """
        keys = _validate.numbers(x, "x")
        if keys.ndim < 2:
            raise InputError(f"x must have shape (..., n, head_dim), got {keys.shape}")
        at = _check_positions(positions, keys.shape[-2])
        pairs = self.pairs(keys.shape[-1])
        angles = at[:, None] * self.frequencies(keys.shape[-1], length)
        cosines, sines = np.cos(angles), np.sin(angles)
        out = keys.astype(np.float64)
        first, second = out[..., pairs[:, 0]], out[..., pairs[:, 1]]
        out[..., pairs[:, 0]] = first * cosines - second * sines
        out[..., pairs[:, 1]] = second * cosines + first * sines
        return out if keys.dtype == np.float64 else out.astype(np.float32)

    def _rotated(self, head_dim: int) -> int:
        """Return `dim`, or the number of coordinates that it stands for, of a head that has them all."""
        head_dim = _validate.integer(head_dim, "head_dim", 1, MAX_D)
        dim = head_dim - self.start if self.dim is None else self.dim
        last = self.start + max(dim + dim % 2, 2)
        if last > head_dim:
            raise InputError(f"head_dim must be at least {last} for {self!r}, got {head_dim}")
        return dim

    @classmethod
    def from_config(cls, config: object) -> tuple[Rope | None, ...]:
        """Read the rotary embedding of each layer from a model's configuration.

        For images, models of the Qwen-VL family count positions along three axes; what is read here holds for text.

        Parameters
        ----------
        config : mapping, configuration of transformers, str or Path
            What a config.json holds, an object of transformers with it, or the path of the file or of its folder.

        Returns
        -------
        tuple of Rope or None
            An entry per layer of the part of the model that reads text. None: the keys of the layer don't turn, or
            it has none of its own.

        Raises
        ------
        InputError
            The type of the model or of its embedding is not known, or a number is missing or wrong.
        """
        return tuple(None if values is None else cls(**values) for values in read_ropes(config))

    def to_json(self) -> str:
        """Return all parameters as one line of JSON, which `from_json` reads; equal ropes have equal lines."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["scaling"] = None if self.scaling is None else dict(self.scaling)
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Rope:
        """Read the JSON that `to_json` writes; a parameter that is not there has its default.

        Raises
        ------
        InputError
            The text is not such JSON.
        """
        return cls(**_validate.json_parameters(text, "rope", cls, [field.name for field in fields(cls)]))


def _check_positions(positions: ArrayLike, n: int) -> NDArray[np.float64]:
    array = as_array(positions, "positions")
    if array.shape != (n,) or (n and array.dtype.kind not in "iu"):
        raise InputError(f"positions must be {n} integers, got {array.dtype} of shape {array.shape}")
    if n and (array.min() < -_MAX_POSITION or array.max() > _MAX_POSITION):
        raise InputError(f"positions must be from {-_MAX_POSITION} to {_MAX_POSITION}")
    return array.astype(np.float64)
