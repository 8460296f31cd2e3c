"""The feature file: embeddings, logits and results with their provenance.

Every command reads and writes a `FeatureFile`. It is stored in HDF5 (docs/format.md), and
`formats` converts it to and from .npz, .npy, .parquet and .csv. One `validate` holds every rule.
"""

from clipkit.features.hdf5 import open_file, read, read_all, write
from clipkit.features.history import Entry, History, canonical_json, history_entry
from clipkit.features.model import BlockMatrix, FeatureFile, Float32, Floats, Int64, Split, row_ids
from clipkit.features.validation import validate

__all__ = [
    "BlockMatrix",
    "Entry",
    "FeatureFile",
    "Float32",
    "Floats",
    "History",
    "Int64",
    "Split",
    "canonical_json",
    "history_entry",
    "open_file",
    "read",
    "read_all",
    "row_ids",
    "validate",
    "write",
]
