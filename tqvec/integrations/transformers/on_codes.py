"""What a layer of a `TurboQuantCache` hands to attention on codes in place of keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tqvec.errors import InputError
from tqvec.integrations.transformers.model_layers import describe
from tqvec.integrations.transformers.names import torch

ATTENTION = "tqvec"  # name of the attention on codes
REMEDY = 'model.set_attn_implementation("eager") keeps the cache in codes and gives the model decoded keys and values'
_METADATA = {
    getattr(torch.Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad", "layout")
} | {torch.Tensor.size, torch.Tensor.dim}


class OnCodes(torch.Tensor):
    """Keys or values of a layer whose attention runs on codes: a shape without memory.

    A model that computes anything with it before its attention would get another result than its own attention gives.
    Therefore every operation but reading the shape is refused.

    Attributes
    ----------
    layer : TurboQuantLayer
    side : str
        "keys" or "values".
    shown : (batch, tokens) bool, or None
        Tokens that the mask has to show: padding is not among the codes. None: all.
    """

    layer: Any
    side: str
    shown: Any

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _METADATA:
            return super().__torch_function__(function, types, args, kwargs or {})
        found = next(_find_on_codes([*args, *(kwargs or {}).values()]))
        name = getattr(function, "__name__", function)
        raise InputError(
            f"{describe(found.layer.config)} computes {name} on {found.side} between its "
            f'cache and attention "{ATTENTION}", which runs on the codes of what was cached. {REMEDY}'
        )

    def __repr__(self, **_: Any) -> str:
        return f"OnCodes({self.side}, {tuple(self.shape)})"


def _find_on_codes(items: Any) -> Iterator[OnCodes]:
    for item in items:
        if isinstance(item, OnCodes):
            yield item
        elif isinstance(item, (list, tuple)):
            yield from _find_on_codes(item)
