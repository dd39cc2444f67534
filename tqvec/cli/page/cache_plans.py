"""The plans of a model's KV cache under several policies, and how their bytes grow with the context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tqvec import _validate
from tqvec._present import Sheet
from tqvec.errors import InputError
from tqvec.kvcache import PRESETS
from tqvec.kvcache.planning import FORMATS, Plans, format_bytes, list_models, plan
from tqvec.kvcache.planning.planner import SequenceBytes, group_layers

POLICIES = (*FORMATS, *PRESETS)
_POINTS = 49  # of a curve


class Growth(NamedTuple):
    """Plans, and the bytes of shorter and longer sequences.

    Attributes
    ----------
    plans : Plans
        A plan per policy.
    tokens : list of int
    nbytes : list of list of int
        Per policy, the bytes of sequences of `tokens` tokens.
    """

    plans: Plans
    tokens: list[int]
    nbytes: list[list[int]]

    def summary(self) -> Sheet:
        """Return bytes, and what fits the memory, as a table."""
        first = self.plans[0]
        columns = ["policy", "bytes per further token", f"bytes of {first.context:,} tokens"]
        notes = []
        if first.memory is not None:
            memory = format_bytes(first.memory)
            columns += [f"longest sequence in {memory}", f"sequences of {first.context:,} tokens in {memory}"]
            if any(each.max_tokens is None for each in self.plans):
                notes.append("No longest sequence: any length fits.")
        if first.context > first.model.context:
            notes.append(f"The model's own context ends at {first.model.context:,} tokens.")
        rows = [
            (each.policy, f"{each.bytes_per_token:,.10g}", format_bytes(each.total), each.max_tokens, each.sequences)
            for each in self.plans
        ]
        return Sheet(tuple(columns), [row[: len(columns)] for row in rows], first.model.name, tuple(notes))


def plan_growth(model: str, context: str, memory: str, policies: Sequence[str]) -> Growth:
    """Plan a model's cache.

    Parameters
    ----------
    model : str
        A name of `list_models`; no path, since whoever sees the page types it.
    context : str
        Tokens: ``"131072"`` or ``"128k"``. Empty: the model's own.
    memory : str
        Size with its unit: ``"8GiB"``. Empty: none.
    policies : sequence of str
        Names of `POLICIES`.

    Raises
    ------
    InputError
        A name or a size is not understood, or there is no policy.
    """
    models = list_models()
    shape = models[_validate.choice(model, "model", models)]
    if not policies:
        raise InputError("choose at least one policy")
    names = list(policies)
    plans = plan(shape, context=context.strip() or None, memory=memory.strip() or None, policy=names)
    tokens = sorted({max(1, int(n)) for n in np.linspace(1, 1.5 * plans[0].context, _POINTS)})
    sizes = [SequenceBytes(group_layers(shape, name)) for name in names]
    return Growth(plans, tokens, [[size(n) for n in tokens] for size in sizes])
