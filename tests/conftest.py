"""Settings that all tests share."""

from hypothesis import HealthCheck, settings

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
