"""Settings that all tests share."""

import os

from hypothesis import HealthCheck, settings

os.environ["TQVEC_COMPILE"] = "now"  # in the processes that tests start, too

# Derandomised: the same examples everywhere, so a red run can be repeated. An emulated or busy machine may be slow.
settings.register_profile(
    "tqvec",
    derandomize=True,
    deadline=None,
    max_examples=50,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tqvec")
