"""Make the four files beside this one. They are of format version 1 and stay as they are for ever; see docs/format.md.

    python tests/data/make.py FOLDER

The next format version gets files of its own, `v2-*.h5`, and its readers read these ones still.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from clipkit.features import FeatureFile, Split, write

MODEL = {"name": "tiny", "digest": "sha256:" + "0" * 64, "dim": 4, "logit_scale": 100.0}
IMAGES = {"command": "embed", "clipkit": "0.1.0", "dataset": {"name": "pics"}, "model": MODEL}
PROMPTS = {"command": "textembed", "clipkit": "0.1.0", "model": MODEL}
NAMES, TEXTS = ["cat", "été"], ["a cat", "un été", "something \U0001f408"]


def grid(n: int, width: int) -> np.ndarray:
    """(n, width): -1, -7/8, -6/8, ... exact in float32."""
    return (np.arange(n * width).reshape(n, width) - 8).astype(np.float32) / 8


def files() -> dict[str, FeatureFile]:
    """What each file holds."""
    splits = {
        "test": Split(grid(2, 4), np.array([1, 0]), ["été/a%0Ab.png", "cat/0.png"]),
        "train": Split(grid(3, 4), np.array([0, 1, 0]), ["0", "1", "22"]),
    }
    index, history = (
        np.array([0, 1, -1]),
        [IMAGES, PROMPTS, {"command": "logits", "temperature": 0.5}],
    )
    result = Split(None, np.array([1, 0]), ["a", "b"], np.array([[1, 1], [0, 0], [1, 0]]))
    runs = {
        "split": np.array(["test", "test", "été"]),
        "C": np.array([0.1, 1.0, np.nan]),
        "k": np.array([1, 2, -3]),
    }
    logits = {"all": Split(grid(2, 3), None, ["0", "1"])}
    return {
        "images": FeatureFile("images", [IMAGES], splits, class_names=NAMES),
        "texts": FeatureFile("texts", [PROMPTS], {}, grid(3, 4), TEXTS, index, NAMES),
        "logits": FeatureFile("logits", history, logits, None, TEXTS, index, NAMES, {}, 0.5, 100.0),
        "result": FeatureFile(
            "result",
            [*history, {"command": "probe"}],
            {"test": result},
            class_names=NAMES,
            runs=runs,
        ),
    }


if __name__ == "__main__":
    for kind, file in files().items():
        write(Path(sys.argv[1]) / f"v1-{kind}.h5", file)
