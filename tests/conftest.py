"""Settings that all tests share."""

import os

from hypothesis import settings

# Derandomised: the same examples everywhere, so a red run can be repeated.
settings.register_profile("tqvec", derandomize=True, deadline=None, max_examples=50, database=None)
settings.load_profile("tqvec")
os.environ["COLUMNS"] = "300"  # of the command's console: long paths of temporary folders shall not break lines
