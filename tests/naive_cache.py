"""A cache as the documentation describes it: one token after the other, in lists, with float64 attention."""

import copy
from functools import cache
from typing import NamedTuple

import numpy as np
from naive_keys import learn

import tqvec
from tqvec.codec.scales import SCALES
from tqvec.codec.turboquant import encode_sums


def attention(q, k, v, scale=None, *, window=None, softcap=None, sinks=None, positions=None):
    """Causal grouped-query attention of the newest tokens' queries, float64. `positions` of the tokens, or 0, 1, …"""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    n_heads, nq, d = q.shape
    n = k.shape[1]
    k, v = (np.repeat(x, n_heads // x.shape[0], axis=0) for x in (k, v))
    scores = q @ k.transpose(0, 2, 1) * (d**-0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    positions = np.arange(n) if positions is None else positions
    age = positions[n - nq :, None] - positions[None, :]
    scores[:, (age < 0) | (age >= (np.inf if window is None else window))] = -np.inf
    logits = np.full(n_heads, -np.inf) if sinks is None else np.asarray(sinks, np.float64)
    largest = np.maximum(scores.max(axis=2), logits[:, None])[..., None]
    weights = np.exp(scores - largest)
    return weights @ v / (weights.sum(axis=2, keepdims=True) + np.exp(logits[:, None, None] - largest))


def bfloat16(x):
    """Float64 numbers to the nearest bfloat16, ties to even."""
    x = np.asarray(x, np.float64)
    step = np.where(x == 0, 1.0, 2.0 ** (np.floor(np.log2(np.abs(np.where(x == 0, 1, x)))) - 7))
    return np.rint(x / step) * step


def rounded(x, dtype):
    """Return numbers as tokens in 16 bits hold them, float32."""
    x = np.asarray(x, np.float32)
    return (x.astype(np.float16) if dtype == "float16" else bfloat16(x)).astype(np.float32)


class Token(NamedTuple):
    """A token in 16 bits, or as its codes decode.

    Attributes
    ----------
    position : int
    rows : (2, heads, head_dim) float32
        Key and value; if `plain` is not None, those that were coded.
    plain : (heads,) bool or None
        Whether no mean was subtracted from the key.
    """

    position: int
    rows: np.ndarray
    plain: np.ndarray | None = None


def key_bands(width, d, codebook):
    """Bands of keys whose coordinates come in order: the first half has a bit more, the second a bit less."""
    if isinstance(width, float) and width != int(width):
        width = ((d // 4, int(width) + 1), (d - d // 4, int(width)))
    if isinstance(width, tuple):
        return tuple(width)
    trellis = codebook == "trellis"
    halves = d % 16 == 0 and d >= 32 if trellis else d % 2 == 0
    if halves and 1 < width < (5 if trellis else 8):
        return ((d // 2, width + 1), (d // 2, width - 1))
    return ((d, width),)


@cache
def codec_of(d, width, **options):
    return tqvec.TurboQuant(d, tuple(width) if isinstance(width, tuple) else width, **options)


class NaiveLayer:
    """One layer: lists of tokens."""

    def __init__(self, policy, n_layers, layer, heads, d, rope=None):
        self.policy, self.heads, self.d, self.rope = policy, heads, d, rope
        self.widths = policy.layers(n_layers, heads)[layer]
        self.sinks, self.recoded, self.coded, self.recent = [], [], [], []
        self.bases, self.mean_values, self.evicted = None, np.zeros((heads, d), np.float32), 0

    def copy(self):
        return copy.deepcopy(self)

    @property
    def tokens(self):
        return [*self.sinks, *self.recoded, *self.coded, *self.recent]

    @property
    def next_position(self):
        return len(self.tokens) + self.evicted

    def sides(self):
        """Keys and values, (heads, n, head_dim)."""
        rows = [self._restore(token) for token in self.tokens]
        return np.array(rows, np.float32).reshape(-1, 2, self.heads, self.d).transpose(1, 2, 0, 3)

    def append(self, k, v):
        for rows in np.stack([k, v]).transpose(2, 0, 1, 3):
            self._add(Token(self.next_position, rounded(rows, self.policy.dtype)))

    def _add(self, token):
        p = self.policy
        if len(self.sinks) < p.sinks:
            self.sinks.append(token)
            return
        self.recent.append(token)
        coded = self.recoded or self.coded
        if p.recent is not None and (coded or len(self.recent) >= p.mean_tokens):
            while len(self.recent) >= p.recent + p.chunk:
                if p.mean_tokens and self.bases is None:
                    self._learn(self.recent[: p.mean_tokens])
                self.coded += [
                    self._code(self._centre(token), self.widths.keys, self.widths.values)
                    for token in self.recent[: p.chunk]
                ]
                del self.recent[: p.chunk]
        if self.widths.recoded_keys:
            while len(self.coded) >= p.recode_after + p.chunk:
                widths = (self.widths.recoded_keys, self.widths.recoded_values)
                self.recoded += [self._code(token, *widths) for token in self.coded[: p.chunk]]
                del self.coded[: p.chunk]
        if p.max_tokens is not None and len(self.tokens) > p.max_tokens:
            del (self.recoded or self.coded)[0]
            self.evicted += 1

    def _learn(self, tokens):
        keys, values = np.array([token.rows for token in tokens]).transpose(1, 2, 0, 3)
        positions = [token.position for token in tokens]
        self.bases = []
        for x, width in zip(keys, self.widths.keys, strict=True):
            bands = [(band.stop - band.start, band.nbits) for band in self._ordered_codec(width).bands]
            self.bases.append(learn(x, positions, self.rope, bands))
        if self.policy.value_means:
            self.mean_values = values.mean(axis=1, dtype=np.float64).astype(np.float32)

    def _centre(self, token):
        """Return a token as it is coded."""
        keys, values = token.rows
        plain = np.zeros(self.heads, bool)
        if self.bases is not None:
            pairs = [basis.code(x, self.rope, token.position) for basis, x in zip(self.bases, keys, strict=True)]
            keys, plain = np.array([row for row, _ in pairs]), np.array([flag for _, flag in pairs])
        return Token(token.position, np.stack([keys, values - self.mean_values]), plain)

    def _restore(self, token):
        """Return key and value of a token."""
        keys, values = token.rows
        if token.plain is None:
            return token.rows
        if self.bases is not None:
            keys = [
                basis.restore(row, plain, self.rope, token.position)
                for basis, row, plain in zip(self.bases, keys, token.plain, strict=True)
            ]
        return np.stack([keys, values + self.mean_values])

    def _code(self, token, *widths):
        """Return the token that its codes decode to."""
        rows = np.empty_like(token.rows)
        for side, of_heads in enumerate(widths):
            for head, width in enumerate(of_heads):
                rule = ("least_squares", "unbiased")[side]
                tq = self._key_codec(head, width) if side == 0 else self._codec(width)
                sums = encode_sums(tq, token.rows[side, head])
                scale = SCALES[rule](sums.norm, sums.dot, sums.energy).astype(np.float32)
                rows[side, head] = tq.decode_unbiased(tqvec.Codes(sums.data, bfloat16(scale).astype(np.float32)))[0]
        return token._replace(rows=rows)

    def _codec(self, width, codebook=None, **options):
        return codec_of(self.d, width, codebook=codebook or self.policy.codebook, seed=self.policy.seed, **options)

    def _ordered_codec(self, width):
        """Return the codec of keys whose coordinates come in order, if there is a rope."""
        bands = key_bands(width, self.d, self.policy.codebook)
        if self.rope is None or not self.policy.mean_tokens or len(bands) == 1:
            return self._codec(width)
        return self._codec(bands, rotation="bandwise", scale="least_squares")

    def _key_codec(self, head, width):
        codec = self._ordered_codec(width)
        even = self.bases is not None and self.bases[head].evenly and not self.bases[head].guarded
        if even and isinstance(width, int):  # no width of their own for a part of the coordinates
            codec = self._codec(width)
        if self.bases is not None and self.bases[head].guarded and max(band.nbits for band in codec.bands) < 8:
            return self._codec(8, "scalar")
        return codec

    def truncate(self, n):
        for name in ("sinks", "recoded", "coded", "recent"):
            tokens = getattr(self, name)
            del tokens[n:]
            n -= len(tokens)
        if not (self.recoded or self.coded):
            self.bases, self.mean_values = None, np.zeros((self.heads, self.d), np.float32)

    def token_counts(self):
        return (len(self.sinks), len(self.recoded), len(self.coded), len(self.recent), self.evicted)


def arrays_of(state):
    """Return all arrays that a state holds, each once."""
    segments = (*state.recoded, *state.coded)
    groups = [group for segment in segments for side in (segment.keys, segment.values) for group in side]
    arrays = [x for run in (state.sinks, state.recent) for x in (run.keys, run.values)]
    arrays += [x for group in groups for x in group]
    if state.learned is not None:
        arrays += [*state.learned.keys, state.learned.values]
    return list({id(x): x for x in arrays if x is not None}.values())
