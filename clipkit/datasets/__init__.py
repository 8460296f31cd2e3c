"""Load a data set by name or from files: images, labels and ids in a fixed order, per split.

Ids are unique in a split. An image is decoded when it is asked for. To add a data set, add its
record to `registry.py`. To add a form of files, write a function from names to a `Dataset` and add
it to `loading.SOURCES`. `import clipkit.datasets` loads no heavy library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipkit.base.lazy import lazy_names
from clipkit.datasets.registry import REGISTRY

if TYPE_CHECKING:
    from clipkit.datasets.dataset import Dataset, ImageDataset
    from clipkit.datasets.folders import read_folder
    from clipkit.datasets.loading import load
    from clipkit.datasets.manifests import names_images, read_manifest
else:
    __getattr__ = lazy_names(
        __name__,
        {
            f"{__name__}.dataset": "Dataset ImageDataset",
            f"{__name__}.folders": "read_folder",
            f"{__name__}.loading": "load",
            f"{__name__}.manifests": "names_images read_manifest",
        },
    )

__all__ = [
    "REGISTRY",
    "Dataset",
    "ImageDataset",
    "load",
    "names_images",
    "read_folder",
    "read_manifest",
]
