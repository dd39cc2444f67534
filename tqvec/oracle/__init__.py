"""The oracle: profiles, golden vectors, and a conformance runner for ports of TurboQuant to other languages.

Plain NumPy on top of ``reference``; it imports neither ``kernels`` nor ``index``.

- ``profiles``: what decides every value of a codec, as data; ``tables``: the numbers that follow; ``describe``: words.
- ``stages``: the steps of a codec, in any type; ``layouts``, ``arithmetic``: parts of them; ``setup``: all of it for
  one dimension.
- ``inputs``: ordinary and adversarial rows; ``golden``: their values as files.
- ``rules``: when a port's output is right; ``statistics``: what exact tables say of the whole; ``mistakes``: why not.
- ``ports``: a module, object or command under test; ``runner``: the loop over stages; ``report``, ``plugin``: verdicts.
"""
