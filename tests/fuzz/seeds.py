"""Small valid feature files of every kind: the originals that are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from factories import MODEL, feature_file, random_features

from clipkit.features import FeatureFile, Split, write

NAMES = ["cat", "été"]


def files() -> dict[str, FeatureFile]:
    """Return one file of every kind, one of two chunks, one whose history exceeds 64 KiB."""
    kinds = ("images", "texts", "logits", "result")
    named = {kind: feature_file(kind, datasets={"class_names": NAMES}) for kind in kinds}
    named["texts"].texts = ["a", "ein ü", "犬"]
    named["result"].runs = {
        "split": np.array(["train", "test"]),
        "temperature": np.array([1.0, np.nan]),
        "k": np.array([3, 4]),
    }
    unlabelled = feature_file(datasets={"class_names": None})
    ids = [f"{row:04}.png" for row in range(700)]
    unlabelled.splits = {"all": Split(random_features(700, 8), ids=ids)}
    skipped = [{"id": f"{i}.png", "reason": "the file is empty " * 4} for i in range(1000)]
    history = [{"command": "embed", "model": MODEL, "skipped": skipped}]
    long_history = feature_file(attributes={"history": history})
    return {**named, "unlabelled": unlabelled, "long history": long_history}


def write_all(folder: Path) -> dict[str, bytes]:
    """Write every file of `files` and return its bytes."""
    contents = {}
    for name, file in files().items():
        path = folder / f"{name}.h5"
        write(path, file, force=True)
        contents[name] = path.read_bytes()
    return contents


def same(a: FeatureFile, b: FeatureFile) -> bool:
    """Whether two files in memory hold the same, to the last bit."""
    x, y = a.datasets(), b.datasets()
    if a.attributes() != b.attributes() or x.keys() != y.keys():
        return False
    return all(_equal(np.asarray(x[name]), np.asarray(y[name])) for name in x)


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape or a.dtype.kind != b.dtype.kind:
        return False
    return a.tobytes() == b.astype(a.dtype).tobytes()
