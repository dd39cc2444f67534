"""Use a `KVCache` in ``generate`` of transformers, 5.0 to 5.24.

`TurboQuantCache` holds batches and beams, and models with windows and states; see the "transformers" page. It stores
the keys that the model hands over: after rotary embedding. Tokens that arrive together attend to each other exactly;
their stored form is read from the next call on. By default the model's own attention runs on the decoded keys and
values of all tokens in each step. It can also run on the codes, which costs no memory and less time::

    model.set_attn_implementation("tqvec")

Then `KVCache.attend` computes each step of one token per sequence, on the CPU. Longer inputs, such as the prompt, use
transformers' ``sdpa``, or a formula in float32 where scores are capped or have sinks. transformers knows the name once
this package has been imported. A model whose own attention differs, or that changes keys and values after its cache, is
refused.
"""

from tqvec.integrations.transformers.attention import attend_on_codes
from tqvec.integrations.transformers.cache import TurboQuantCache
from tqvec.integrations.transformers.layer import TurboQuantLayer

__all__ = ["TurboQuantCache", "TurboQuantLayer", "attend_on_codes"]
