"""Settings that all tests share."""

from hypothesis import settings

# Derandomised: the same examples everywhere, so a red run can be repeated.
settings.register_profile("tqvec", derandomize=True, deadline=None, max_examples=50, database=None)
settings.load_profile("tqvec")
