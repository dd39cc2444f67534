"""A cache as the documentation describes it: one token after the other, in lists, with float64 attention."""

import copy

import numpy as np

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


class NaiveLayer:
    """One layer: lists of tokens, each a (2, heads, head_dim) float32 array of what attention sees."""

    def __init__(self, policy, n_layers, layer, heads, d):
        self.policy, self.heads, self.d = policy, heads, d
        self.widths = policy.layers(n_layers, heads)[layer]
        self.sinks, self.recoded, self.coded, self.recent = [], [], [], []
        self.means, self.evicted = None, 0

    def copy(self):
        return copy.deepcopy(self)

    @property
    def tokens(self):
        return [*self.sinks, *self.recoded, *self.coded, *self.recent]

    def sides(self):
        """Keys and values, (heads, n, head_dim)."""
        return np.array(self.tokens, np.float32).reshape(-1, 2, self.heads, self.d).transpose(1, 2, 0, 3)

    def append(self, k, v):
        for token in np.stack([k, v]).transpose(2, 0, 1, 3):
            self._add(rounded(token, self.policy.dtype))

    def _add(self, token):
        p = self.policy
        if len(self.sinks) < p.sinks:
            self.sinks.append(token)
            return
        self.recent.append(token)
        coded = self.recoded or self.coded
        if p.recent is not None and (coded or len(self.recent) >= p.mean_tokens):
            while len(self.recent) >= p.recent + p.chunk:
                if self.means is None:
                    first = np.array(self.recent[: p.mean_tokens], np.float64)
                    self.means = first.mean(axis=0).astype(np.float32) if p.mean_tokens else np.zeros_like(token)
                    self.means[1] *= p.value_means
                self.coded += [
                    self._code(token, self.widths.keys, self.widths.values) for token in self.recent[: p.chunk]
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

    def _code(self, token, *widths):
        """Return the token that its codes decode to."""
        out = np.empty_like(token)
        for side, (rule, of_heads) in enumerate(zip(("least_squares", "unbiased"), widths, strict=True)):
            for head, width in enumerate(of_heads):
                nbits = tuple(width) if isinstance(width, tuple) else width
                tq = tqvec.TurboQuant(self.d, nbits, codebook=self.policy.codebook, seed=self.policy.seed)
                sums = encode_sums(tq, token[side, head] - self.means[side, head])
                scale = SCALES[rule](sums.norm, sums.dot, sums.energy).astype(np.float32)
                codes = tqvec.Codes(sums.data, bfloat16(scale).astype(np.float32))
                out[side, head] = tq.decode_unbiased(codes)[0] + self.means[side, head]
        return out

    def truncate(self, n):
        for name in ("sinks", "recoded", "coded", "recent"):
            tokens = getattr(self, name)
            del tokens[n:]
            n -= len(tokens)
        if not (self.recoded or self.coded):
            self.means = None

    def token_counts(self):
        return (len(self.sinks), len(self.recoded), len(self.coded), len(self.recent), self.evicted)


def arrays_of(state):
    """Return all arrays that a state holds, each once."""
    segments = (*state.recoded, *state.coded)
    groups = [group for segment in segments for side in (segment.keys, segment.values) for group in side]
    arrays = [x for run in (state.sinks, state.recent) for x in (run.keys, run.values)]
    arrays += [x for group in groups for x in group]
    if state.learned is not None:
        arrays += [x for x in (*state.learned.keys, state.learned.values) if x is not None]
    return list({id(x): x for x in arrays}.values())
