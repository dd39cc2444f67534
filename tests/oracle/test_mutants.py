"""A hundred random changes of right ports: the oracle catches each, or it changes no bit of any case.

`python tests/mutants.py` judges all of them.
"""

import importlib.util
import random

import mutants
import pytest

COUNT = 100
ALLOWED = {
    "exponential": "e^x of float32 by decimal arithmetic is correctly rounded, so nearer than NumPy's",
    "_factors": "the factors of the rotation in float64, so nearer",
    "_transform_with_signs": "likewise",
    "total": "float32 terms are added in eight lanes, float64 ones from left to right: other orders, as right",
}
"""Functions any change of which gives a right port, if it changes bits and passes; and why."""


def draw(modules, count):
    every = [(name, site) for name in modules for site in mutants.sites(mutants.source_of(name))]
    return random.Random(16).sample(every, count)


def survivors(chosen):
    judged = [mutants.judge(*each) for each in chosen]
    caught = sum(verdict == "caught" for verdict, _ in judged)
    return caught, [told for verdict, told in judged if verdict == "differs" and told.split(":")[0] not in ALLOWED]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mutants_of_the_oracle_are_caught():
    caught, missed = survivors(draw(mutants.ORDER, COUNT))
    assert missed == []
    assert caught > 0.6 * COUNT  # most of the others are in functions that these profiles don't use


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs PyTorch")
def test_mutants_of_the_port_in_torch_are_caught():
    caught, missed = survivors(draw(["torch_port"], COUNT))
    assert missed == []
    assert caught > 0.6 * COUNT
