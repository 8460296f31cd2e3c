"""The feature file, version 1: embeddings, logits and results in HDF5. docs/format.md is its specification.

A file is written whole or not at all, is never replaced unless asked, and is believed only after its signature, size,
names, types, lengths and SHA-256 digests were found in order. Features are read and written a block of rows at a time.
"""

from clipkit.store.reader import opened, read
from clipkit.store.schema import FeatureFile, History, Rows, Split, dump
from clipkit.store.writer import write, write_into

__all__ = [
    "FeatureFile",
    "History",
    "Rows",
    "Split",
    "dump",
    "opened",
    "read",
    "write",
    "write_into",
]
