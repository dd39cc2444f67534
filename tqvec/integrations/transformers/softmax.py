"""Attention by its formula, for what ``sdpa`` lacks: a cap on scores, and sinks."""

from __future__ import annotations

from typing import Any

from tqvec.integrations.transformers.names import torch

_SCORES = 1 << 24  # held at a time, unless those of one query per head are more


def softmax_attention(
    query: Any,
    key: Any,
    value: Any,
    mask: Any = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Any = None,
) -> Any:
    """Compute attention in float32, some queries at a time.

    Parameters
    ----------
    query : (batch, n_heads, n, head_dim) tensor
    key, value : (batch, n_kv_heads, tokens, head_dim) tensor
    mask : (batch, n_heads or 1, n, tokens) bool or float tensor, optional
        Which tokens a query sees, or what is added to their scores.
    causal : bool
        Whether the queries, of the newest tokens, don't see those after their own. It is for calls without a mask.
    scale : float, optional
        Factor of the scores. Default: 1/√head_dim.
    softcap : float, optional
        Scaled scores become ``softcap * tanh(score / softcap)``.
    sinks : (n_heads,) tensor, optional
        Logits without a value.

    Returns
    -------
    out : (batch, n, n_heads, head_dim) tensor
        Of the type of `query`.
    """
    batch, n_heads, n, head_dim = query.shape
    n_kv_heads, tokens = key.shape[1:3]
    grouped = query.float().reshape(batch, n_kv_heads, -1, n, head_dim) * (head_dim**-0.5 if scale is None else scale)
    keys, values = key.float().transpose(2, 3), value.float()
    if mask is None and causal:
        mask = torch.ones(1, 1, n, tokens, dtype=torch.bool, device=query.device).tril(tokens - n)
    out = []
    step = max(1, _SCORES // (batch * n_heads * tokens))
    for block in range(0, n, step):
        queries = grouped[..., block : block + step, :].flatten(2, 3)
        scores = (queries @ keys).reshape(batch, n_heads, -1, tokens)
        if softcap is not None:
            scores = softcap * (scores / softcap).tanh()
        if mask is not None:
            scores = _masked(scores, mask[..., block : block + step, :])
        if sinks is not None:
            logits = sinks.to(scores).reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
            scores = torch.cat([scores, logits], dim=-1)
        weights = scores.softmax(-1)[..., :tokens].reshape(*queries.shape[:3], tokens)
        out.append((weights @ values).reshape(batch, n_heads, -1, value.shape[-1]))
    return torch.cat(out, dim=2).transpose(1, 2).contiguous().to(query.dtype)


def _masked(scores: Any, mask: Any) -> Any:
    """Return scores under a mask; those that it hides are still finite, so that padding, which sees nothing, is."""
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores + mask
