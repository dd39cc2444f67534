"""Names of the array types that signatures use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Ids: TypeAlias = NDArray[np.int64]
Bytes: TypeAlias = NDArray[np.uint8]
Words: TypeAlias = NDArray[np.uint64]
Flags: TypeAlias = NDArray[np.bool_]

Batches: TypeAlias = ArrayLike | Iterable[ArrayLike]  # vectors, or an iterator of batches of them

MetricName: TypeAlias = Literal["ip", "cosine", "l2"]
CodebookName: TypeAlias = Literal["scalar", "trellis"]
ScaleName: TypeAlias = Literal["unbiased", "least_squares", "norm"]
