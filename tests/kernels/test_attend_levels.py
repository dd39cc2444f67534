"""Attention on codes in processes of their own: caches at lower levels, and nothing readable behind the codes."""

from pathlib import Path

import pytest
from processes import has_settings, read_script, settings_of

from tqvec.kernels.dispatch import levels

LEVELS = levels("code_scores")
BOUNDS = {"portable": 1e-5}  # of errors, part of the largest number; of levels with vectors the other
VECTORS = 2e-2


def needs_no_settings():
    if has_settings():
        pytest.skip("this process runs with settings of its own")


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS[1:])  # tests/kvcache runs the first
def test_caches_at_lower_levels(level):
    needs_no_settings()
    result = read_script(Path(__file__).with_name("attend_probe.py"), **settings_of(level))
    assert result["level"] == level
    assert result["worst"] < BOUNDS.get(level, VECTORS)


@pytest.mark.slow
def test_nothing_is_read_behind_the_codes():
    needs_no_settings()
    worst = read_script(Path(__file__).with_name("wall_probe.py"))
    assert list(worst) == list(LEVELS)
    for level in LEVELS:
        assert worst[level] < BOUNDS.get(level, VECTORS)
