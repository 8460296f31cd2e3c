"""The feature file: embeddings, logits and results with their provenance.

Every command reads and writes a `FeatureFile`. It is stored in HDF5 (docs/format.md), and
`formats` converts it to and from .npz, .npy, .parquet and .csv. One `validate` holds every rule.
`import clipkit.features` loads no heavy library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipkit.base.lazy import lazy_names

if TYPE_CHECKING:
    from clipkit.base.matrices import BlockMatrix, Float32, Floats, Int64
    from clipkit.features.arrays import from_array
    from clipkit.features.hdf5 import open_file, read, read_all, write
    from clipkit.features.history import Entry, History, canonical_json, history_entry
    from clipkit.features.model import FeatureFile, Split, row_ids
    from clipkit.features.validation import validate
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "clipkit.base.matrices": "BlockMatrix Float32 Floats Int64",
            f"{__name__}.arrays": "from_array",
            f"{__name__}.hdf5": "open_file read read_all write",
            f"{__name__}.history": "Entry History canonical_json history_entry",
            f"{__name__}.model": "FeatureFile Split row_ids",
            f"{__name__}.validation": "validate",
        },
    )

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
    "from_array",
    "history_entry",
    "open_file",
    "read",
    "read_all",
    "row_ids",
    "validate",
    "write",
]
