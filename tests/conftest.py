"""Shared fixtures: real images where they are present, and models made on the spot."""

from __future__ import annotations

import os
import tarfile
import tempfile
from pathlib import Path

import pytest

ARCHIVE = Path(__file__).parents[2] / "shared" / "data" / "cifar10-jpeg.tar.xz"


@pytest.fixture(scope="session")
def cifar10_root() -> Path:
    """A folder with all of CIFAR-10 as JPEG files: train/<class>/NNNN.jpg and test/<class>/NNNN.jpg."""
    if given := os.environ.get("CLIPKIT_CIFAR10"):
        return Path(given)
    if not ARCHIVE.exists():
        pytest.skip("CIFAR-10 as JPEG files is absent: set CLIPKIT_CIFAR10 to a folder with train/ and test/")
    cache = Path(tempfile.gettempdir()) / f"clipkit-tests-{os.getuid()}" / "cifar10"
    if not cache.exists():
        scratch = Path(tempfile.mkdtemp(dir=cache.parent if cache.parent.exists() else None))
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(scratch, filter="data")
        cache.parent.mkdir(parents=True, exist_ok=True)
        os.replace(scratch, cache)
    return cache
