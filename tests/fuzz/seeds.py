"""Small valid feature files of every kind: the originals that are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clipkit.features import FeatureFile, Split, write

MODEL = {"name": "tiny", "digest": "sha256:" + "0" * 64, "logit_scale": 100.0}
NAMES = ["cat", "dog", "été"]
IMAGES = {"command": "embed", "model": MODEL}
PROMPTS = {"command": "textembed", "model": MODEL}


def matrix(rng: np.random.Generator, n: int, width: int) -> np.ndarray:
    return rng.standard_normal((n, width)).astype("<f4")


def split(rng: np.random.Generator, n: int, width: int) -> Split:
    return Split(matrix(rng, n, width), np.arange(n) % 3, [f"{i:04d}.png" for i in range(n)])


def files() -> dict[str, FeatureFile]:
    """Return one file of every kind, one of two chunks, one whose history exceeds 64 KiB."""
    rng = np.random.default_rng(0)
    skipped = [{"id": f"{i}.png", "reason": "the file is empty " * 4} for i in range(1000)]
    images = FeatureFile("images", [IMAGES], class_names=NAMES)
    images.splits = {"train": split(rng, 6, 4), "test": split(rng, 3, 4)}
    unlabelled = FeatureFile("images", [IMAGES], {"all": split(rng, 700, 8)})
    unlabelled.splits["all"].labels = None
    long_history = FeatureFile("images", [{**IMAGES, "skipped": skipped}], class_names=NAMES)
    long_history.splits = {"all": split(rng, 2, 4)}
    texts = FeatureFile("texts", [PROMPTS], features=matrix(rng, 3, 4), class_names=NAMES)
    texts.texts, texts.class_index = ["a", "ein ü", "犬"], np.array([0, 1, -1])
    logits = FeatureFile("logits", [IMAGES, PROMPTS, {"command": "logits"}], class_names=NAMES)
    logits.splits = {"test": split(rng, 5, 3)}
    logits.texts, logits.class_index = ["a", "b", "c"], np.array([0, 1, -1])
    logits.temperature, logits.logit_scale = 0.5, 100.0
    result = FeatureFile("result", [IMAGES, {"command": "probe"}], class_names=NAMES)
    predicted = np.array([[0, 1, 2], [2, 1, 0]])
    result.splits = {"test": Split(None, np.arange(3), ["a", "b", "c"], predicted)}
    result.set_rows(
        [
            {"split": "train", "temperature": 1.0, "k": 3},
            {"split": "test", "temperature": None, "k": 4},
        ]
    )
    return {
        "images": images,
        "unlabelled": unlabelled,
        "long history": long_history,
        "texts": texts,
        "logits": logits,
        "result": result,
    }


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
