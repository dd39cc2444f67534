"""How a cost grows with a size: the exponent of a power law."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def fit_exponent(costs: Mapping[float, float]) -> float:
    """Return p of the power law cost ∝ sizeᵖ that fits best: the least squared error of the logarithms.

    Parameters
    ----------
    costs : mapping of float to float
        Costs by size, both positive. Others, such as NaN, are left out.

    Returns
    -------
    float
        NaN for less than two sizes.
    """
    points = [(size, cost) for size, cost in costs.items() if size > 0 and cost > 0]
    if len(points) < 2:
        return float("nan")
    sizes, values = np.log(np.array(points)).T
    return float(np.polyfit(sizes, values, 1)[0])
