"""The oracle: it verifies ports of TurboQuant to other languages, stage by stage, and says why a stage is wrong.

- `verify` feeds every stage of a port its own input and compares the outputs. A port is a Python file, a module, an
  object or a command.
- `Report` is the verdict: it prints as a table, and becomes JSON and JUnit XML.
- `PROFILES` are the formats by name; a `Profile` holds all choices of a format.
- `golden.export` writes inputs and outputs of all stages as files, for tests without tqvec.

Write a function named after a stage, and verify it. Here the comparison with thresholds is wrong:

>>> import tqvec
>>> class Port:
...     PROFILES = ["tqvec_scalar@2"]
...     def quantize(view, rotated):
...         return (rotated[..., None] >= view.tables["thresholds"]).sum(-1)
>>> report = tqvec.oracle.verify(Port, dims=[64])
>>> report.passed
False
>>> report.results[0].summary
'quantize: a value on a threshold (and so zero) gets the code on the other side'

The oracle is plain NumPy on top of `tqvec.reference`. "Oracle" page has the stages, the rules and the protocol of
commands; `tqvec verify` and the pytest option ``--tqvec-port`` call `verify`.
"""

from tqvec.oracle import golden
from tqvec.oracle.profiles import PROFILES, Profile
from tqvec.oracle.report import Report
from tqvec.oracle.runner import verify

__all__ = ["PROFILES", "Profile", "Report", "golden", "verify"]
