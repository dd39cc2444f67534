"""A cache as the documentation describes it: one token after the other, in lists, with float64 attention."""

import copy

import numpy as np

import tqvec
from tqvec.codec.scales import SCALES
from tqvec.codec.turboquant import encode_sums


def attention(q, k, v, scale=None):
    """Causal grouped-query attention of the newest tokens' queries, float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    n_heads, nq, d = q.shape
    n = k.shape[1]
    k, v = (np.repeat(x, n_heads // x.shape[0], axis=0) for x in (k, v))
    scores = q @ k.transpose(0, 2, 1) * (d**-0.5 if scale is None else scale)
    scores[:, np.arange(n)[None, :] > np.arange(n - nq, n)[:, None]] = -np.inf
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    return weights / weights.sum(axis=2, keepdims=True) @ v


def bfloat16(x):
    """Float64 numbers to the nearest bfloat16, ties to even."""
    x = np.asarray(x, np.float64)
    step = np.where(x == 0, 1.0, 2.0 ** (np.floor(np.log2(np.abs(np.where(x == 0, 1, x)))) - 7))
    return np.rint(x / step) * step


def rounded(x, dtype):
    """As hot tokens are kept, float32."""
    x = np.asarray(x, np.float32)
    return (x.astype(np.float16) if dtype == "float16" else bfloat16(x)).astype(np.float32)


class PlainLayer:
    """One layer: lists of tokens, each a (2, heads, head_dim) float32 array of what attention sees."""

    def __init__(self, policy, n_layers, layer, heads, d):
        self.policy, self.heads, self.d = policy, heads, d
        self.widths = policy.layers(n_layers, heads)[layer]
        self.sinks, self.old, self.cold, self.hot = [], [], [], []
        self.means, self.evicted = None, 0

    def copy(self):
        return copy.deepcopy(self)

    @property
    def tokens(self):
        return [*self.sinks, *self.old, *self.cold, *self.hot]

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
        self.hot.append(token)
        coded = self.old or self.cold
        if p.hot is not None and (coded or len(self.hot) >= p.mean_tokens):
            while len(self.hot) >= p.hot + p.chunk:
                if self.means is None:
                    first = np.array(self.hot[: p.mean_tokens], np.float64)
                    self.means = first.mean(axis=0).astype(np.float32) if p.mean_tokens else np.zeros_like(token)
                    self.means[1] *= p.value_means
                self.cold += [self._coded(one, self.widths.keys, self.widths.values) for one in self.hot[: p.chunk]]
                del self.hot[: p.chunk]
        if self.widths.old_keys:
            while len(self.cold) >= p.old_after + p.chunk:
                widths = (self.widths.old_keys, self.widths.old_values)
                self.old += [self._coded(one, *widths) for one in self.cold[: p.chunk]]
                del self.cold[: p.chunk]
        if p.max_tokens is not None and len(self.tokens) > p.max_tokens:
            del (self.old or self.cold)[0]
            self.evicted += 1

    def _coded(self, token, *widths):
        """What the codes of a token stand for."""
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
        for name in ("sinks", "old", "cold", "hot"):
            tier = getattr(self, name)
            del tier[n:]
            n -= len(tier)
        if not (self.old or self.cold):
            self.means = None

    def tiers(self):
        return (len(self.sinks), len(self.old), len(self.cold), len(self.hot), self.evicted)


def arrays_of(state):
    """All arrays that a state holds, each once."""
    segments = [one for segment in (*state.old, *state.cold) for side in (segment.keys, segment.values) for one in side]
    found = [x for tier in (state.sinks, state.hot) for x in (tier.keys, tier.values)]
    found += [x for one in segments for x in (one.codes, one.scales)]
    found += [mean for mean in state.means or () if mean is not None]
    return list({id(x): x for x in found}.values())
