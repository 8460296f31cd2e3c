"""`shapes`: a rendered data set of 100 classes, 20 outlines x 5 patterns, without files or network.

An image shows one object before a background. Its class is its outline and pattern. Colour,
background, size, position, rotation, blur, noise and greyscale are independent of the class.
``python -m clipkit.shapes FOLDER`` writes the data set as an image folder.
"""

from __future__ import annotations

from clipkit.shapes.draw import render
from clipkit.shapes.scene import CLASS_NAMES, labels

__all__ = ["CLASS_NAMES", "DEFAULT_SIZE", "DEFAULT_SPLITS", "labels", "render"]

DEFAULT_SPLITS = {"train": 20_000, "test": 5_000}
DEFAULT_SIZE = 64
