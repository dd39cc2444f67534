"""Use a `KVCache` in ``generate`` of transformers, 5.0 to 5.24.

The cache stores the keys that the model hands over: after rotary embedding. Tokens that arrive together attend to each
other exactly; their stored form is read from the next call on. By default the model's own attention runs on the decoded
keys and values of all tokens in each step. It can also run on the codes, which costs no memory and less time::

    model.set_attn_implementation("tqvec")

Then `KVCache.attend` computes each step of a single token, on the CPU. Longer inputs, such as the prompt, still use
transformers' ``sdpa``. transformers knows the name once this package has been imported. A model whose own attention is
more than a softmax over scores, or that changes keys and values after its cache, is refused.
"""

from __future__ import annotations

from tqvec.errors import UnsupportedError

try:
    import transformers
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    if int(transformers.__version__.split(".")[0]) < 5:
        raise ImportError(f"this is transformers {transformers.__version__}")
    from tqvec.integrations.transformers.attention import attend_on_codes, make_mask
    from tqvec.integrations.transformers.cache import TurboQuantCache
    from tqvec.integrations.transformers.layer import ATTENTION, TurboQuantLayer
except ImportError as error:
    raise UnsupportedError(f"needs transformers 5 and torch ({error}): pip install 'tqvec[llm]'") from error

__all__ = ["TurboQuantCache", "TurboQuantLayer", "attend_on_codes"]

AttentionInterface.register(ATTENTION, attend_on_codes)
AttentionMaskInterface.register(ATTENTION, make_mask)
