"""Bytes of a cache, exactly: of the arrays that it holds, and of those that it will hold with more tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tqvec import _validate
from tqvec._present import ByteCount
from tqvec.codec.bands import MAX_D, code_bytes, parse
from tqvec.kvcache.policy import LayerWidths, Policy, Width

MIN_SEGMENT, SEGMENT = 256, 8192  # tokens of a full segment
_SCALE = 2  # bytes of a bfloat16
_HALF = 2  # bytes of a value of a token that is not coded
_MEAN = 4  # bytes of a value of a mean
_BASIS = 6  # bytes of a coordinate's place and gain, in the order of the codes
_HEAD = 5  # bytes of a head's spread, and of whether it is guarded
_MAX_TOKENS = 2**40


class Nbytes(ByteCount):
    """Bytes of a cache: an int, and the parts that add up to it.

    Attributes
    ----------
    codes, scales : int
        Codes and scales of coded and recoded tokens.
    means : int
        Mean keys of all heads with the order and units of their coordinates, and mean values if the policy subtracts
        them.
    uncoded : int
        Tokens in 16 bits: sinks and recent tokens.
    bookkeeping : int
        Memory that holds no token: capacity for new tokens, and dropped tokens until their segment is freed.
    """

    codes: int
    scales: int
    means: int
    uncoded: int
    bookkeeping: int

    def __new__(cls, codes: int = 0, scales: int = 0, means: int = 0, uncoded: int = 0, bookkeeping: int = 0) -> Nbytes:
        total = super().__new__(cls, codes + scales + means + uncoded + bookkeeping)
        total.codes, total.scales, total.means = codes, scales, means
        total.uncoded, total.bookkeeping = uncoded, bookkeeping
        return total

    def __reduce__(self) -> tuple[type[Nbytes], tuple[int, ...]]:
        return Nbytes, tuple(self.items().values())

    def items(self) -> dict[str, int]:
        """Return the parts by name."""
        return {name: getattr(self, name) for name in ("codes", "scales", "means", "uncoded", "bookkeeping")}

    @classmethod
    def total(cls, parts: Iterable[Nbytes]) -> Nbytes:
        """Add up the bytes of several layers or caches, part by part."""
        rows = [tuple(part.items().values()) for part in parts]
        return cls(*map(sum, zip(*rows, strict=True))) if rows else cls()


class TokenCounts(NamedTuple):
    """Tokens of a layer by how they are stored, in order, and tokens that were dropped.

    Attributes
    ----------
    sinks : int
        First tokens, in 16 bits.
    recoded : int
        Tokens in codes that were made from codes.
    coded : int
        Tokens in codes that were made from 16 bits.
    recent : int
        Newest tokens, in 16 bits.
    evicted : int
        Tokens that were dropped for newer ones.
    """

    sinks: int
    recoded: int
    coded: int
    recent: int
    evicted: int

    @property
    def held(self) -> int:
        """Tokens that the layer still has."""
        return sum(self) - self.evicted


def count_to_code(policy: Policy, waiting: int, with_means: bool) -> int:
    """Return how many of the tokens behind the sinks are to be coded now; `with_means`: the means are fixed."""
    if policy.recent is None or not (with_means or waiting >= policy.mean_tokens):
        return 0
    return max(0, waiting - policy.recent) // policy.chunk * policy.chunk


def count_to_recode(policy: Policy, coded: int) -> int:
    """Return how many of the coded tokens are to be recoded now."""
    if policy.recode_after is None:
        return 0
    return max(0, coded - policy.recode_after) // policy.chunk * policy.chunk


def count_tokens(policy: Policy, n: int, recodes: bool) -> TokenCounts:
    """Return where `n` tokens are, in a layer that recodes tokens or not, however they were appended."""
    sinks = min(n, policy.sinks)
    ever_coded = count_to_code(policy, n - sinks, with_means=False)
    ever_recoded = count_to_recode(policy, ever_coded) if recodes else 0
    evicted = 0 if policy.max_tokens is None else max(0, n - policy.max_tokens)
    recoded, coded = max(0, ever_recoded - evicted), ever_coded - max(ever_recoded, evicted)
    return TokenCounts(sinks=sinks, recoded=recoded, coded=coded, recent=n - sinks - ever_coded, evicted=evicted)


def capacity(n: int) -> int:
    """Return the tokens that memory is held for when there are `n`: up to an eighth more, or a multiple of 8."""
    step = max(8, 1 << max(0, (n - 1).bit_length() - 4))
    return -(-n // step) * step


class SegmentSizes(NamedTuple):
    """Tokens of a full segment of recoded and of coded tokens."""

    recoded: int
    coded: int


def segment_sizes(policy: Policy, recodes: bool) -> SegmentSizes:
    """Return the sizes of segments in a layer that recodes tokens or not.

    Memory is freed one segment at a time. So the dropped tokens that are still held are at most an eighth of the
    tokens that may be coded (or recoded), or 256.
    """
    max_coded = policy.recode_after if recodes else policy.max_tokens
    return SegmentSizes(recoded=_segment_size(policy.max_tokens), coded=_segment_size(max_coded))


def _segment_size(max_tokens: int | None) -> int:
    if max_tokens is None:
        return SEGMENT
    return min(SEGMENT, max(MIN_SEGMENT, 1 << max(0, (max_tokens // 8).bit_length() - 1)))


def segments_capacity(dropped: int, total: int, size: int) -> int:
    """Return the capacity of segments to which `total` tokens were appended and that dropped the first `dropped`."""
    if dropped == total:
        return 0
    last = (total - 1) // size
    return size * (last - dropped // size) + capacity(total - size * last)


def row_bytes(widths: Iterable[Width], head_dim: int) -> int:
    """Return the bytes of the packed codes of a token, over heads with these widths."""
    return sum(code_bytes(parse(tuple(w) if isinstance(w, tuple) else w, head_dim)[1]) for w in widths)


def layer_nbytes(policy: Policy, widths: LayerWidths, head_dim: int, n_tokens: int) -> Nbytes:
    """Return the bytes of one layer; see `nbytes`."""
    heads, recodes = len(widths.keys), bool(widths.recoded_keys)
    at, sizes = count_tokens(policy, n_tokens, recodes), segment_sizes(policy, recodes)
    left = at.evicted + at.recoded  # of all tokens that were ever coded, those that are coded no more
    coded = segments_capacity(left, left + at.coded, sizes.coded)
    recoded = segments_capacity(at.evicted, left, sizes.recoded)
    codes = scales = spare = 0
    for tokens, held, of_heads in (
        (at.coded, coded, (*widths.keys, *widths.values)),
        (at.recoded, recoded, (*widths.recoded_keys, *widths.recoded_values)),
    ):
        row, scale = row_bytes(of_heads, head_dim), _SCALE * 2 * heads
        codes += tokens * row
        scales += tokens * scale
        spare += (held - tokens) * (row + scale)
    token = 2 * heads * head_dim * _HALF
    spare += (capacity(at.sinks) - at.sinks + capacity(at.recent) - at.recent) * token
    has_means = policy.mean_tokens and left + at.coded
    means = heads * (head_dim * ((1 + policy.value_means) * _MEAN + _BASIS) + _HEAD) if has_means else 0
    return Nbytes(codes, scales, means, uncoded=(at.sinks + at.recent) * token, bookkeeping=spare)


def nbytes(policy: Policy, n_layers: int, n_kv_heads: int, head_dim: int, n_tokens: int) -> Nbytes:
    """Return the bytes that a `KVCache` holds after `n_tokens` were appended, in calls of any size.

    The number equals `KVCache.nbytes` to the byte. Not counted are the codecs (codebooks and rotation, some kilobytes,
    shared by all caches of a process) and Python's own objects. A cache that was truncated, forked or loaded may hold
    another amount of spare memory. Keys of guarded heads take more (see `KVCache.guarded_heads`).

    Parameters
    ----------
    policy : Policy
    n_layers, n_kv_heads, head_dim, n_tokens : int

    Returns
    -------
    Nbytes

    Raises
    ------
    InputError
        A number is out of its range, or the policy has widths for another shape.
    """
    head_dim = _validate.integer(head_dim, "head_dim", 1, MAX_D)
    n_tokens = _validate.integer(n_tokens, "n_tokens", 0, _MAX_TOKENS)
    layers = _validate.instance(policy, "policy", Policy).layers(n_layers, n_kv_heads)
    sizes = {widths: layer_nbytes(policy, widths, head_dim, n_tokens) for widths in set(layers)}
    return Nbytes.total(sizes[widths] for widths in layers)


def bits_per_value(policy: Policy, n_layers: int, n_kv_heads: int, head_dim: int) -> float:
    """Return the bits per coordinate of a coded token, scales included; 16 if the policy codes no token.

    Raises
    ------
    InputError
        As `nbytes`.
    """
    head_dim = _validate.integer(head_dim, "head_dim", 1, MAX_D)
    layers = _validate.instance(policy, "policy", Policy).layers(n_layers, n_kv_heads)
    if policy.recent is None:
        return 8.0 * _HALF
    heads = len(layers[0].keys)  # the arguments may be integers of 8 bits
    size = sum(row_bytes((*w.keys, *w.values), head_dim) + 2 * heads * _SCALE for w in layers)
    return 8 * size / (len(layers) * 2 * heads * head_dim)
