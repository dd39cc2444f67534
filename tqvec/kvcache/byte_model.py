"""Bytes of a cache, exactly: what it counts, and what it will count with so many tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tqvec.codec.bands import code_bytes, parse
from tqvec.kvcache.policy import LayerWidths, Policy, Width

LEAST_SEGMENT, SEGMENT = 256, 8192  # tokens of a full segment
_SCALE = 2  # bytes of a bfloat16
_HALF = 2  # bytes of a value of a hot token
_MEAN = 4  # bytes of a value of a mean


class Nbytes(int):
    """Bytes of a cache: an int, and what it consists of.

    Attributes
    ----------
    codes, scales : int
        Of coded tokens.
    means : int
        Mean keys, and values if the policy says so, of all heads.
    hot : int
        Tokens in 16 bits, sinks included.
    bookkeeping : int
        Memory that is held but has no token: room for those to come, and of dropped ones until their segment is empty.
    """

    codes: int
    scales: int
    means: int
    hot: int
    bookkeeping: int

    def __new__(cls, codes: int = 0, scales: int = 0, means: int = 0, hot: int = 0, bookkeeping: int = 0) -> Nbytes:
        total = super().__new__(cls, codes + scales + means + hot + bookkeeping)
        total.codes, total.scales, total.means, total.hot, total.bookkeeping = codes, scales, means, hot, bookkeeping
        return total

    def __repr__(self) -> str:
        return f"Nbytes({int(self)}: " + ", ".join(f"{name} {size}" for name, size in self.items().items()) + ")"

    def __reduce__(self) -> tuple[type[Nbytes], tuple[int, ...]]:
        return Nbytes, tuple(self.items().values())

    def items(self) -> dict[str, int]:
        """What it consists of, by name."""
        return {name: getattr(self, name) for name in ("codes", "scales", "means", "hot", "bookkeeping")}

    @classmethod
    def total(cls, parts: Iterable[Nbytes]) -> Nbytes:
        """Of several layers or caches."""
        rows = [tuple(part.items().values()) for part in parts]
        return cls(*map(sum, zip(*rows, strict=True))) if rows else cls()


class Counts(NamedTuple):
    """Tokens of a layer after `n` were appended, however they came.

    Attributes
    ----------
    sinks, hot : int
        In 16 bits.
    coded : int
        That were ever coded.
    aged : int
        Of these, that were coded once more.
    dropped : int
        Of the oldest coded.
    """

    sinks: int
    hot: int
    coded: int
    aged: int
    dropped: int

    @property
    def cold(self) -> int:
        """Tokens in the codes that were made first."""
        return self.coded - max(self.aged, self.dropped)

    @property
    def old(self) -> int:
        """Tokens in the codes that were made of codes."""
        return max(0, self.aged - self.dropped)


def leaving(policy: Policy, waiting: int, with_means: bool) -> int:
    """How many of the tokens that wait behind the sinks are to be coded now; `with_means`: the means are fixed."""
    if policy.hot is None or not (with_means or waiting >= policy.mean_tokens):
        return 0
    return max(0, waiting - policy.hot) // policy.chunk * policy.chunk


def aging(policy: Policy, cold: int) -> int:
    """How many cold tokens are to be coded once more now."""
    return 0 if policy.old_after is None else max(0, cold - policy.old_after) // policy.chunk * policy.chunk


def counts(policy: Policy, n: int, ages: bool) -> Counts:
    """Where `n` tokens are, in a layer whose tokens grow old or not."""
    sinks = min(n, policy.sinks)
    coded = leaving(policy, n - sinks, with_means=False)
    dropped = 0 if policy.max_tokens is None else max(0, n - policy.max_tokens)
    return Counts(sinks, n - sinks - coded, coded, aging(policy, coded) if ages else 0, dropped)


def room(n: int) -> int:
    """Tokens for which memory is held when there are `n`: up to an eighth more, or the next multiple of 8."""
    step = max(8, 1 << max(0, (n - 1).bit_length() - 4))
    return -(-n // step) * step


class SegmentSizes(NamedTuple):
    """Tokens of a full segment of each tier."""

    old: int
    cold: int


def segment_sizes(policy: Policy, ages: bool) -> SegmentSizes:
    """Sizes of segments, in a layer whose tokens grow old or not.

    What is dropped is freed a segment at a time: it is never more than an eighth of what a tier may hold, or 256.
    """
    cold = policy.old_after if ages else policy.max_tokens
    return SegmentSizes(_segment_size(policy.max_tokens), _segment_size(cold))


def _segment_size(most: int | None) -> int:
    """Of a tier that has at most so many tokens."""
    return SEGMENT if most is None else min(SEGMENT, max(LEAST_SEGMENT, 1 << max(0, (most // 8).bit_length() - 1)))


def held(first: int, total: int, size: int) -> int:
    """Tokens for which segments hold memory that got `total` tokens and dropped the `first` of them."""
    if first == total:
        return 0
    last = (total - 1) // size
    return size * (last - first // size) + room(total - size * last)


def row_bytes(widths: Iterable[Width], head_dim: int) -> int:
    """Bytes of the packed codes of a token, of heads with these widths."""
    return sum(code_bytes(parse(tuple(w) if isinstance(w, tuple) else w, head_dim)[1]) for w in widths)


def layer_nbytes(policy: Policy, widths: LayerWidths, head_dim: int, n_tokens: int) -> Nbytes:
    """Bytes of one layer; see `nbytes`."""
    heads = len(widths.keys)
    at = counts(policy, n_tokens, ages=bool(widths.old_keys))
    sizes = segment_sizes(policy, bool(widths.old_keys))
    codes = scales = spare = 0
    tiers = (
        (at.cold, held(max(at.aged, at.dropped), at.coded, sizes.cold), (*widths.keys, *widths.values)),
        (at.old, held(at.dropped, at.aged, sizes.old) if at.aged else 0, (*widths.old_keys, *widths.old_values)),
    )
    for tokens, rooms, of_heads in tiers:
        row, scale = row_bytes(of_heads, head_dim), _SCALE * 2 * heads
        codes += tokens * row
        scales += tokens * scale
        spare += (rooms - tokens) * (row + scale)
    token = 2 * heads * head_dim * _HALF
    spare += (room(at.sinks) - at.sinks + room(at.hot) - at.hot) * token
    means = (1 + policy.value_means) * heads * head_dim * _MEAN if at.coded and policy.mean_tokens else 0
    return Nbytes(codes, scales, means, (at.sinks + at.hot) * token, spare)


def nbytes(policy: Policy, n_layers: int, n_kv_heads: int, head_dim: int, n_tokens: int) -> Nbytes:
    """Bytes of a `KVCache` to which `n_tokens` were appended: `KVCache.nbytes` to the byte, in any sequence of calls.

    Not counted are the codecs (codebooks and rotation; some kilobytes each, shared by all caches of a process), and
    Python's own objects. A cache that was truncated, forked or loaded may hold other spare room.

    Parameters
    ----------
    policy : Policy
    n_layers, n_kv_heads, head_dim, n_tokens : int

    Returns
    -------
    Nbytes
    """
    layers = policy.layers(n_layers, n_kv_heads)
    sizes = {widths: layer_nbytes(policy, widths, head_dim, n_tokens) for widths in set(layers)}
    return Nbytes.total(sizes[widths] for widths in layers)


def bits_per_value(policy: Policy, n_layers: int, n_kv_heads: int, head_dim: int) -> float:
    """Bits of a cold key or value coordinate, scales included; hot tokens, means and spare room are not."""
    if policy.hot is None:
        return 8.0 * _HALF
    layers = policy.layers(n_layers, n_kv_heads)
    size = sum(row_bytes((*w.keys, *w.values), head_dim) + 2 * n_kv_heads * _SCALE for w in layers)
    return 8 * size / (n_layers * 2 * n_kv_heads * head_dim)
