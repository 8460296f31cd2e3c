"""`shapes`: a rendered data set of 100 classes, 20 outlines x 5 patterns, that needs no file and no network.

An image shows one object before a background. The class is its outline and its pattern; colour, background, size,
position, rotation, blur, noise and greyscale are drawn independently of it. ``python -m clipkit.shapes FOLDER`` writes
the data set as an image folder.
"""

from __future__ import annotations

from .captions import captions
from .draw import render
from .scene import (
    CLASS_NAMES,
    OUTLINES,
    PATTERNS,
    attributes,
    file_names,
    labels,
    labels_of,
    listing,
)

__all__ = [
    "CLASS_NAMES",
    "DEFAULT_SIZE",
    "DEFAULT_SPLITS",
    "OUTLINES",
    "PATTERNS",
    "attributes",
    "captions",
    "file_names",
    "labels",
    "labels_of",
    "listing",
    "render",
]

DEFAULT_SPLITS = {"train": 20_000, "test": 5_000}
DEFAULT_SIZE = 64
