"""Small valid feature files of every kind: the originals that are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from factories import MODEL, feature_file, random_features
from fuzz.commands import Runner
from PIL import Image

from clipkit.features import FeatureFile, Split, write
from clipkit.features.model import KINDS

NAMES = ["cat", "été"]


def files() -> dict[str, FeatureFile]:
    """Return one file of every kind, one of two chunks, one whose history exceeds 64 KiB."""
    named = {kind: feature_file(kind, datasets={"class_names": NAMES}) for kind in KINDS}
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


CLASSES = ["cat", "dog", "été"]
ROWS = {"train": 63, "test": 12}
RESULTS = """\
embed pictures -o img.h5
textembed --classes img.h5 -o classes.h5
textembed generic32.txt -o generic32.h5
logits img.h5 classes.h5 -o classes.logits.h5
logits img.h5 generic32.h5 -o generic32.logits.h5
zeroshot classes.logits.h5 -o classes.logits.zeroshot.h5
probe img.h5 -o img.svm.h5
probe generic32.logits.h5 -t 1,0.1 -o generic32.logits.sweep.h5
"""  # the files of a results folder; their names are those of the Makefile
FEWSHOT = "--classifier logreg --shots 20 --val 0.1"
MORE_RESULTS = f"""\
probe img.h5 -C 0.01,1 --val 0.1 -o img.svm-c.h5
probe generic32.logits.h5 -o generic32.logits.svm.h5
probe generic32.logits.h5 -t 1,0.1 --val 0.1 -o generic32.logits.svm-val.h5
probe generic32.logits.h5 --shots 20 -t 1,0.5 -C 1,4 -o generic32.logits.c-tau-grid.h5
entropy generic32.logits.h5 -t 1,0.1 -o generic32.logits.entropy.h5
cluster img.h5 -o img.cluster-42.h5
cluster generic32.logits.h5 -k 2 -k 3 -o generic32.logits.cluster-42.h5
textembed generic99.txt -o generic99.h5
logits img.h5 generic99.h5 -o generic99.logits.h5
logits img.h5 generic99.h5 --whiten -o generic99.whitened.h5
logits img.h5 --random 99 -o random99.h5
probe generic99.logits.h5 -o generic99.logits.svm.h5
probe random99.h5 -o random99-42.svm.h5
probe generic99.logits.h5 {FEWSHOT} -o generic99.logits.fewshot-42.h5
probe generic99.whitened.h5 {FEWSHOT} -o generic99.whitened.fewshot-42.h5
probe random99.h5 {FEWSHOT} -o random99-42.fewshot.h5
"""
KEPT = """\
probe img.h5 --keep -o img.kept.h5
probe img.h5 --classifier knn --keep -o img.kept-knn.h5
probe generic32.logits.h5 --classifier mlp --features probs --keep -o generic32.logits.kept.h5
"""


def write_results(runner: Runner, lines: str = RESULTS) -> list[str]:
    """Write a small results folder with a model that costs nothing; return its names."""
    rng = np.random.default_rng(0)
    for split, rows in ROWS.items():
        for row in range(rows):
            label = row % len(CLASSES)
            path = runner.folder / "pictures" / split / CLASSES[label] / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 200, (8, 8, 3), np.uint8)
            pixels[..., label] += 50
            Image.fromarray(pixels).save(path)
    for count in (32, 99):
        prompts = "".join(f"a thing {number}\n" for number in range(count))
        (runner.folder / f"generic{count}.txt").write_text(prompts)
    for line in lines.splitlines():
        ended = runner.run(*line.split(), fake=True)
        assert ended.exit_code == 0, ended.stderr
    return sorted(path.name for path in runner.folder.glob("*.h5"))


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
