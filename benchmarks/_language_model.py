"""Real language models, with every layer's keys and values replaced by what a cache would give back.

Weights are GGUF files (`_model_weights.py` says of which packages), dequantised to float32; they are the same in all
passes, so only what the cache does is compared. Computes on a GPU where torch finds one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _model_weights import find_weights
from numpy.typing import NDArray
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

Floats = NDArray[np.float32]

PROSE = Path(__file__).parents[1] / "datasets" / "prose"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
_BLOCK = 512  # queries, or rows of logits, at a time


class Stored(NamedTuple):
    """Keys and values as a cache gives them back, for tokens that are no longer recent.

    Attributes
    ----------
    age : int
        Queries see these keys and values of tokens that left the recent ones at least so many tokens ago.
    keys, values : (n_kv_heads, tokens, d)
    """

    age: int
    keys: Floats
    values: Floats


# (layer, keys, values), both (n_kv_heads, tokens, d) -> what is stored of them, by rising age, the first being 0
Replace = Callable[[int, Floats, Floats], Sequence[Stored]]


class CapturedTensors(NamedTuple):
    """What a layer's attention works on: keys and queries after rotary embedding."""

    queries: Floats  # (n_heads, tokens, d)
    keys: Floats  # (n_kv_heads, tokens, d)
    values: Floats


class Run(NamedTuple):
    """Outcome of a pass over the text.

    Attributes
    ----------
    nll : (tokens,) float32
        −log probability of each next token.
    kl : (tokens,) float32
        Of the distribution of each next token, from that of the exact pass; 0 in the exact pass.
    """

    nll: Floats
    kl: Floats


class Model:
    """A model, and a text in tokens.

    Parameters
    ----------
    name : str
        A key of `_model_weights.SOURCES`.
    n_tokens : int
        Tokens of the text to predict. Their exact distributions are kept, in n_tokens × vocabulary × 4 bytes.
    weights : Path, optional
        As for `find_weights`.

    Attributes
    ----------
    shape : tuple of int
        Layers, KV heads, dimension of a head.
    rope_thetas : list of float
        Base of the rotary embedding of each layer.
    scale : float
        Factor of the scores.
    """

    def __init__(self, name: str, n_tokens: int, weights: Path | None = None):
        path = find_weights(name, weights)
        disable_progress_bar()
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        net = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        self._net = net.eval().to(DEVICE)
        self._net.set_attn_implementation("replaced")
        self._ids = tokenizer((PROSE / "northanger_abbey.txt").read_text(encoding="utf-8")).input_ids
        if len(self._ids) <= n_tokens:
            raise SystemExit(f"the text has {len(self._ids)} tokens, too few to predict {n_tokens}")
        config = self._net.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.name, self.n_tokens = name, n_tokens
        self.shape = config.num_hidden_layers, config.num_key_value_heads, head_dim
        self.rope_thetas = _rope_thetas(config)
        self.scale = float(self._net.model.layers[0].self_attn.scaling)
        self._replace: Replace | None = None
        self._recent = 0
        self._captured: list[CapturedTensors] | None = None
        self._exact: list[torch.Tensor] = []

    @torch.no_grad()
    def run(self, replace: Replace | None = None, recent: int = 0) -> Run:
        """Predict the text, teacher-forced.

        Parameters
        ----------
        replace : callable, optional
            Without it the pass is exact, and what later ones are compared with.
        recent : int
            Each query sees so many of the newest keys and values, its own included, as they are.
        """
        self._replace, self._recent = replace, recent
        if replace is None:
            self._exact = []
        hidden = self._hidden(self._ids[: self.n_tokens])
        following = torch.tensor(self._ids[1 : self.n_tokens + 1], device=DEVICE)
        nll, kl = [], []
        for i, (rows, ids) in enumerate(zip(hidden.split(_BLOCK), following.split(_BLOCK), strict=True)):
            logs = torch.log_softmax(self._net.lm_head(rows), dim=-1)
            if replace is None:
                self._exact.append(logs)
            nll.append(-logs.gather(1, ids[:, None])[:, 0])
            kl.append((self._exact[i].exp() * (self._exact[i] - logs)).sum(dim=-1))
        return Run(torch.cat(nll).cpu().numpy(), torch.cat(kl).cpu().numpy())

    @torch.no_grad()
    def capture(self, later: bool = False) -> list[CapturedTensors]:
        """Queries, keys and values of all layers in an exact pass; `later`: of the end of the text, for choices."""
        if later and len(self._ids) <= 2 * self.n_tokens:
            raise SystemExit(f"the text has {len(self._ids)} tokens, too few for {self.n_tokens} others")
        self._replace, self._captured = None, []
        self._hidden(self._ids[-self.n_tokens - 1 : -1] if later else self._ids[: self.n_tokens])
        captured, self._captured = self._captured, None
        return captured

    def _hidden(self, ids: list[int]) -> torch.Tensor:
        """Return the states before the last product, (tokens, hidden)."""
        tokens = torch.tensor(ids, device=DEVICE)[None]
        return self._net.model(input_ids=tokens, use_cache=False, owner=self).last_hidden_state[0]

    def attend(self, layer: int, query: Any, key: Any, value: Any, window: int | None) -> Any:
        """Causal attention, (n_heads, tokens, d), of queries times `scale` to keys and values that are replaced."""
        arrays = [x.cpu().numpy() for x in (query, key, value)]
        if self._captured is not None:
            self._captured.append(CapturedTensors(*(array.copy() for array in arrays)))
        stored = [Stored(0, key, value)]
        if self._replace is not None:
            coded = self._replace(layer, *arrays[1:])
            tensors = [(torch.from_numpy(x.keys).to(DEVICE), torch.from_numpy(x.values).to(DEVICE)) for x in coded]
            exact = stored if self._recent else []
            stored = exact + [Stored(self._recent + x.age, *pair) for x, pair in zip(coded, tensors, strict=True)]
        return _attention(query * self.scale, stored, window)


def _rope_thetas(config: Any) -> list[float]:
    """Return the base of the rotary embedding of each layer, which may depend on the layer's type."""
    parameters = config.rope_parameters
    if "rope_theta" in parameters:
        return [float(parameters["rope_theta"])] * config.num_hidden_layers
    return [float(parameters[kind]["rope_theta"]) for kind in config.layer_types]


def _attention(query: Any, stored: Sequence[Stored], window: int | None) -> Any:
    """Causal attention: each query sees its newest `window` tokens, each as is stored for its age."""
    n_heads, n, d = query.shape
    query = query.reshape(len(stored[0].keys), -1, n, d)
    out = torch.empty_like(query)
    window = n if window is None else min(window, n)
    limits = [*(min(x.age, window) for x in stored[1:]), window]
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        low = max(0, start - window + 1)
        age = torch.arange(start, stop, device=DEVICE)[:, None] - torch.arange(low, stop, device=DEVICE)
        scores = torch.full((*query.shape[:2], stop - start, stop - low), -torch.inf, device=DEVICE)
        parts = []
        for (youngest, keys, values), oldest in zip(stored, limits, strict=True):
            columns = slice(max(low, start - oldest + 1), max(low, stop - youngest))
            here = slice(columns.start - low, columns.stop - low)
            mine = (age[:, here] >= youngest) & (age[:, here] < oldest)
            products = query[:, :, start:stop] @ keys[:, None, columns].transpose(2, 3)
            scores[..., here] = torch.where(mine, products, scores[..., here])
            parts.append((here, mine, values[:, None, columns]))
        weights = torch.softmax(scores, dim=-1)
        out[:, :, start:stop] = sum((weights[..., here] * mine) @ values for here, mine, values in parts)
    return out.reshape(n_heads, n, d)


def _replaced(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> tuple[Any, None]:
    """Attention function of transformers; what is passed to the model as `owner` arrives here."""
    out = kwargs["owner"].attend(module.layer_idx, query[0], key[0], value[0], kwargs.get("sliding_window"))
    return out.transpose(0, 1)[None], None


AttentionInterface.register("replaced", _replaced)  # without a mask of its own none is made


def prose_name() -> str:
    """What the text is."""
    return str(json.loads((PROSE / "manifest.json").read_text(encoding="utf-8"))["what"])
