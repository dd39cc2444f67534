"""Libraries that some tests need."""

import pytest


def hugging_face_datasets():
    """Return the package; where it is not installed, Python finds the folder of this name in the checkout."""
    datasets = pytest.importorskip("datasets")
    if not hasattr(datasets, "Dataset"):
        pytest.skip("the package datasets is not installed")
    return datasets
