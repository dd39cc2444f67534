"""The keys or the values of all tokens of a layer, decoded."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from tqvec._types import Floats
from tqvec.kvcache.half_precision import to_float32
from tqvec.kvcache.layer import Layer


def decode_tokens(layer: Layer, name: Literal["keys", "values"], threads: int | None) -> Floats:
    """Return all keys, or all values, as attention sees them, (heads, tokens, head_dim) float32."""
    state = layer.state
    codecs = layer.codecs(state.kinds)
    parts = [to_float32(getattr(state.sinks, name)[:, : state.sinks.n])]
    first = state.first_coded
    for segments, pair in ((state.recoded, codecs.recoded), (state.coded, codecs.coded)):
        side: Any = getattr(pair, name, None)
        for segment in segments:
            codes = getattr(segment, name)
            rows = side.decode(codes, segment.rows, threads)
            if state.learned is not None and name == "keys":
                rows = state.learned.keys.restore(rows, side.plain(codes, segment.rows), first, layer.turning)
            elif state.learned is not None and state.learned.values is not None:
                rows += state.learned.values[:, None]
            parts.append(rows)
            first += segment.n
    parts.append(to_float32(getattr(state.recent, name)[:, : state.recent.n]))
    return np.concatenate(parts, axis=1)
