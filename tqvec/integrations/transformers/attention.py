"""Attention "tqvec" of transformers: on codes where a step has one token, otherwise by ``sdpa`` or its formula.

All are a softmax over scaled scores, with a cap on scores and sinks where a model names them as options. A model may
have more: a bias, or a cap that no option shows. Before the first use in a module, its own attention and the formula
are therefore computed on the same few vectors and compared.
"""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

from tqvec.errors import InputError
from tqvec.integrations.transformers.names import (
    MODEL_MAPPING,
    AttentionInterface,
    AttentionMaskInterface,
    sdpa_attention_forward,
    sdpa_mask,
    torch,
)
from tqvec.integrations.transformers.on_codes import ATTENTION, REMEDY, OnCodes
from tqvec.integrations.transformers.softmax import softmax_attention

_REFUSED = ("position_bias", "output_attentions")
_MAGNITUDES = (1.0, 8.0, 64.0)  # of the compared scores: sinks change small ones most, caps large ones
_KEYS = 9  # compared
_LARGEST_ERROR = 1e-3

# module -> the options that it was compared with, and the difference if there was one
_compared: WeakKeyDictionary[Any, dict[frozenset[str], str]] = WeakKeyDictionary()


def attend_on_codes(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **options: Any
) -> tuple[Any, None]:
    """Compute attention for transformers: on codes if `key` is of a `TurboQuantLayer`, otherwise on decoded keys.

    Decoded keys go through ``sdpa``, or, with a cap on scores (`softcap`) or sinks (`s_aux`), through the formula.

    Raises
    ------
    InputError
        The step needs a mask or an option that attention on codes lacks; the model's own attention gives another
        result; or the model changed keys or values after its cache.
    """
    on_codes = isinstance(key, OnCodes) or isinstance(value, OnCodes)
    given = frozenset(name for name, option in options.items() if option is not None and option is not False)
    refused = given.intersection(_REFUSED)
    if refused:
        raise _refusal(module, f"does not have {', '.join(sorted(refused))}")
    differences = _compared.setdefault(module, {})
    if given not in differences:
        differences[given] = _compare(module, (query, key, value), scaling, options)
    if differences[given]:
        raise _refusal(module, differences[given])
    if attention_mask is not None:  # some models make it too wide, and their own attention cuts it
        attention_mask = attention_mask[..., : key.shape[-2]]
    special = _read_special(options)
    if not on_codes and not special:
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
        return out, None
    if options.get("dropout"):
        raise _refusal(module, "has dropout only where sdpa computes it; model.eval() switches it off")
    if not on_codes:
        is_causal = options.get("is_causal")
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        return softmax_attention(query, key, value, attention_mask, causal=causal, scale=scaling, **special), None
    if [getattr(x, "side", None) for x in (key, value)] != ["keys", "values"] or key.layer is not value.layer:
        raise _refusal(module, "got other keys or values than the cache returned")
    newest = _count_newest(attention_mask, key)
    if newest is None:
        raise _refusal(module, "has no mask on codes but that of padding and of a window")
    return key.layer.attend(query, newest, scale=scaling, **special), None


def _read_special(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that ``sdpa`` lacks, by the names of `KVCache.attend`."""
    special = {"softcap": options.get("softcap"), "sinks": options.get("s_aux")}
    return {name: option for name, option in special.items() if option is not None}


def _count_newest(mask: Any, key: OnCodes) -> list[int] | None:
    """Return how many of its newest tokens a mask shows of each sequence, or None if it shows others than the newest.

    Parameters
    ----------
    mask : (batch, heads, 1, tokens) bool or float, or None
        Float masks have 0 where tokens are shown.
    key : OnCodes
    """
    batch, tokens = key.shape[0], key.shape[2]
    real = torch.ones(batch, tokens, dtype=torch.bool) if key.shown is None else key.shown
    if mask is None:
        return [tokens] * batch if bool(real.all()) else None
    shown = (mask if mask.dtype == torch.bool else mask == 0).to("cpu").expand(batch, -1, -1, -1)[:, :, 0]
    first = shown[:, 0].int().argmax(dim=1, keepdim=True)
    expected = real & (torch.arange(tokens) >= first)
    return expected.sum(dim=1).tolist() if bool((shown == expected[:, None]).all()) else None


def make_mask(*args: Any, config: Any = None, **options: Any) -> Any:
    """Make the mask that ``sdpa`` takes, or none where it needs none.

    Raises
    ------
    InputError
        The model computes attention itself, whatever the name of its attention is. It would take the mask for its own.
    """
    config_class: type = type(config)
    if not _calls_attention(config_class):
        raise InputError(
            f'model type {config.model_type!r} computes attention itself and can\'t have attention "{ATTENTION}". '
            'Load the model with attn_implementation="eager": the cache stays in codes, the model gets decoded values'
        )
    return sdpa_mask(*args, config=config, **options)


@lru_cache(maxsize=256)
def _calls_attention(config_class: Any) -> bool:
    """Return whether the models of a config call the attention that it names, by transformers' own judgement."""
    models = MODEL_MAPPING.get(config_class, ())
    models = models if isinstance(models, (list, tuple)) else (models,)
    return all(model._can_set_attn_implementation() for model in models)


def _compare(module: Any, tensors: tuple[Any, Any, Any], scaling: float | None, options: dict[str, Any]) -> str:
    """Return how the module's own attention differs from `softmax_attention`, or nothing.

    Both run on a few random vectors of the heads and dimensions of the module's query, keys and values.
    """
    own = _find_own_attention(module)
    if own is None:
        return "can't be compared with the model's own attention, which it does not declare"
    random = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn((len(_MAGNITUDES), x.shape[1], n, x.shape[3]), generator=random).to(tensors[0].device)
        for x, n in zip(tensors, (1, _KEYS, _KEYS), strict=True)
    )
    unit = (scaling or query.shape[3] ** -0.5) * query.shape[3] ** 0.5  # of scores
    query *= torch.tensor(_MAGNITUDES, device=query.device).reshape(-1, 1, 1, 1) / unit
    others = {name: option for name, option in options.items() if name != "dropout"}
    try:
        with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
            expected = softmax_attention(query, key, value, scale=scaling, **_read_special(options))
            nothing = torch.zeros(1, 1, 1, _KEYS, device=query.device)  # is hidden; some need a mask
            found = own(module, query, key, value, nothing, scaling=scaling, dropout=0.0, **others)[0]
    except Exception as error:  # whatever another model's code may raise
        return f"can't be compared with the model's own attention ({type(error).__name__}: {error})"
    difference = float((found - expected).norm() / expected.norm())
    same = difference < _LARGEST_ERROR
    return "" if same else f"gives another result than the model's own attention, by {difference:.0%}"


def _find_own_attention(module: Any) -> Any:
    """Return the function that the module calls where the implementation is "eager", or None."""
    forward = inspect.unwrap(type(module).forward)
    code = getattr(forward, "__code__", None)
    names = [name for name in code.co_names if name.endswith("eager_attention_forward")] if code else []
    return forward.__globals__.get(names[0]) if names else None


def _refusal(module: Any, fault: str) -> InputError:
    model_type = getattr(getattr(module, "config", None), "model_type", None)
    of_type = "" if model_type is None else f" of model type {model_type!r}"
    return InputError(f'attention "{ATTENTION}" {fault} ({type(module).__name__}{of_type}). {REMEDY}')


AttentionInterface.register(ATTENTION, attend_on_codes)
AttentionMaskInterface.register(ATTENTION, make_mask)
