"""Data sets for measurements: the sample that comes with tqvec, and published ones that are downloaded once."""

from tqvec.eval.datasets.catalog import Entry, File, find, iter_entries
from tqvec.eval.datasets.fetching import Fetched, fetch
from tqvec.eval.datasets.loading import Dataset, load

__all__ = ["Dataset", "Entry", "Fetched", "File", "fetch", "find", "iter_entries", "load"]
