"""Settings that all tests share."""

import os

from hypothesis import settings

os.environ["TQVEC_COMPILE"] = "now"  # in the processes that tests start, too

# Derandomised: the same examples everywhere, so a red run can be repeated.
settings.register_profile("tqvec", derandomize=True, deadline=None, max_examples=50, database=None)
settings.load_profile("tqvec")
