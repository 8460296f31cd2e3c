"""Small feature files of every kind, and what they hold: the healthy originals that are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clipkit.features import FeatureFile, Split, write

MODEL = {"name": "tiny", "digest": "sha256:" + "0" * 64, "logit_scale": 100.0}
NAMES = ["cat", "dog", "été"]


def matrix(rng: np.random.Generator, n: int, width: int) -> np.ndarray:
    return rng.standard_normal((n, width)).astype("<f4")


def split(rng: np.random.Generator, n: int, width: int, labelled: bool = True) -> Split:
    return Split(
        matrix(rng, n, width),
        np.arange(n) % 3 if labelled else None,
        [f"{i:04d}.png" for i in range(n)],
    )


def files() -> dict[str, FeatureFile]:
    """One file of every kind, and two whose storage differs: many chunks, a history of more than 64 KiB."""
    rng = np.random.default_rng(0)
    made = [{"command": "embed", "model": MODEL}]
    asked = [{"command": "textembed", "model": MODEL}]
    skipped = [{"id": f"{i}.png", "reason": "the file is empty " * 4} for i in range(1000)]
    splits = {"train": split(rng, 6, 4), "test": split(rng, 3, 4)}
    predicted = Split(None, np.arange(3), ["a", "b", "c"], np.array([[0, 1, 2], [2, 1, 0]]))
    runs = {
        "split": np.array(["train", "test"]),
        "temperature": np.array([1.0, np.nan]),
        "k": np.array([3, 4]),
    }
    index = np.array([0, 1, -1])
    return {
        "images": FeatureFile("images", made, splits, class_names=NAMES),
        "unlabelled": FeatureFile("images", made, {"all": split(rng, 700, 8, labelled=False)}),
        "skipped": FeatureFile("images", [{**made[0], "skipped": skipped}], {"all": split(rng, 2, 4)}, class_names=NAMES),
        "texts": FeatureFile("texts", asked, features=matrix(rng, 3, 4), texts=["a", "ein ü", "犬"], class_index=index, class_names=NAMES),
        "logits": FeatureFile("logits", [*made, *asked, {"command": "logits"}], {"test": split(rng, 5, 3)}, texts=["a", "b", "c"], class_index=index,
                              class_names=NAMES, temperature=0.5, logit_scale=100.0),
        "result": FeatureFile("result", [*made, {"command": "probe"}], {"test": predicted}, class_names=NAMES, runs=runs),
    }  # fmt: skip


def write_all(folder: Path) -> dict[str, bytes]:
    """Every file of `files`, written and read back as bytes."""
    found = {}
    for name, file in files().items():
        path = folder / f"{name}.h5"
        write(path, file, force=True)
        found[name] = path.read_bytes()
    return found


def same(a: FeatureFile, b: FeatureFile) -> bool:
    """Whether two files in memory hold the same, to the last bit."""
    x, y = a.datasets(), b.datasets()
    return (
        a.attributes() == b.attributes()
        and x.keys() == y.keys()
        and all(_equal(x[name], y[name]) for name in x)
    )


def _equal(a: object, b: object) -> bool:
    left, right = np.asarray(a), np.asarray(b)
    return (
        left.shape == right.shape
        and left.dtype.kind == right.dtype.kind
        and left.tobytes() == right.astype(left.dtype).tobytes()
    )
