"""Make the files in this folder, of versions 1 to 4 of the format.

    python tests/data/make.py FOLDER

The files stay as they are. The next version of the format gets new files, `v5-*.h5`, and
clipkit will still read these.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from clipkit.features import FeatureFile, Split, write

MODEL = {"name": "tiny", "digest": "sha256:" + "0" * 64, "dim": 4, "logit_scale": 100.0}
IMAGES = {"command": "embed", "clipkit": "0.1.0", "dataset": {"name": "pics"}, "model": MODEL}
PROMPTS = {"command": "textembed", "clipkit": "0.1.0", "model": MODEL}
NAMES, TEXTS = ["cat", "été"], ["a cat", "un été", "something \U0001f408"]


def grid(n: int, width: int) -> np.ndarray:
    """Return (n, width) numbers -1, -7/8, -6/8, ..., which float32 holds exactly."""
    return (np.arange(n * width).reshape(n, width) - 8).astype(np.float32) / 8


def files() -> dict[str, FeatureFile]:
    """Return the content of each file."""
    index = np.array([0, 1, -1])
    images = FeatureFile("images", [IMAGES], class_names=NAMES)
    images.splits = {
        "test": Split(grid(2, 4), np.array([1, 0]), ["été/a%0Ab.png", "cat/0.png"]),
        "train": Split(grid(3, 4), np.array([0, 1, 0]), ["0", "1", "22"]),
    }
    texts = FeatureFile("texts", [PROMPTS], features=grid(3, 4), class_names=NAMES)
    texts.texts, texts.class_index = TEXTS, index
    history = [IMAGES, PROMPTS, {"command": "logits", "temperature": 0.5}]
    logits = FeatureFile("logits", history, class_names=NAMES, temperature=0.5, logit_scale=100.0)
    logits.texts, logits.class_index = TEXTS, index
    logits.splits = {"all": Split(grid(2, 3), None, ["0", "1"])}
    result = FeatureFile("result", [*history, {"command": "probe"}], class_names=NAMES)
    predicted = np.array([[1, 1], [0, 0], [1, 0]])
    result.splits = {"test": Split(None, np.array([1, 0]), ["a", "b"], predicted)}
    result.runs = {
        "split": np.array(["test", "test", "été"]),
        "C": np.array([0.1, 1.0, np.nan]),
        "k": np.array([1, 2, -3]),
    }
    of_items = replace(result, history=[*history, {"command": "choose"}])
    of_items.splits = {"test": replace(result.splits["test"], cluster=np.array([3, 3]))}
    made = [images, texts, logits, result, of_items, probe(), knn()]
    return {f"v{file.version}-{file.kind}": file for file in [*made, *map(dot_products, made[:3])]}


def dot_products(file: FeatureFile) -> FeatureFile:
    """Return a file of cosines as one of a generative model."""
    generative = {"name": "vlm", "similarity": "dot product", "logit_scale": 0.25}
    generative |= {"logit_softcap": 30.0, "question": "cat or été?"}
    history = [
        {**entry, "model": generative} if "model" in entry else entry for entry in file.history
    ]
    scale = 1.0 if file.logit_scale else None
    return replace(file, history=history, logit_scale=scale)


def probe() -> FeatureFile:
    """Return a linear SVM of two classes that reads standardised logits of three prompts."""
    history = [IMAGES, PROMPTS, {"command": "logits"}, {"command": "probe", "classifier": "svm"}]
    probe = FeatureFile("probe", history, class_names=["cat", "unseen", "été"], texts=TEXTS)
    predicted = np.array([[2, 0]])
    probe.splits = {"test": Split(None, np.array([2, 2]), ["a", "b"], predicted)}
    probe.runs = {"eval_split": np.array(["test"]), "acc1": np.array([0.5])}
    probe.fitted = {
        "classifier": ["svm"],
        "input": ["logits"],
        "classes": np.array([0, 2]),
        "balanced": np.array([0]),
        "temperature": np.array([0.07]),
        "mean": np.array([0.25, 0.5, -0.125], np.float32),
        "deviation": np.array([0.5, 0.25, 1], np.float32),
        "centre": np.array([0, 0, 0.5], np.float32),
        "rms": np.array([1.25]),
        "factor": np.array([1.0]),
        "hyperplanes": np.array([[1, -2, 0.5, 0.25]], np.float32),
    }
    return probe


def knn() -> FeatureFile:
    """Return a probe of the two nearest of three rows of two classes."""
    history = [IMAGES, {"command": "probe", "classifier": "knn", "k": 2}]
    knn = FeatureFile("probe", history, class_names=["cat", "unseen", "été"])
    knn.splits = {"test": Split(None, np.array([2, 2]), ["a", "b"], np.array([[2, 0]]))}
    knn.runs = {"eval_split": np.array(["test"]), "acc1": np.array([0.5])}
    knn.fitted = {
        "classifier": ["knn"],
        "input": ["embeddings"],
        "classes": np.array([0, 2]),
        "balanced": np.array([0]),
        "rms": np.array([1.0]),
        "factor": np.array([1.0]),
        "rows": np.array([[1, 0], [0, 1], [0, -1]], np.float32),
        "row_classes": np.array([0, 1, 1]),
        "neighbours": np.array([2]),
    }
    return knn


if __name__ == "__main__":
    for name, file in files().items():
        write(Path(sys.argv[1]) / f"{name}.h5", file)
