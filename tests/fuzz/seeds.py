"""A small results folder, whose files are changed, and the comparison of two files."""

from __future__ import annotations

import numpy as np
from fuzz.commands import Runner
from PIL import Image

from clipkit.features import FeatureFile

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
MORE_RESULTS = """\
probe generic32.logits.h5 --shots 20 -t 1,0.5 -C 1,4 -o generic32.logits.c-tau-grid.h5
entropy generic32.logits.h5 -t 1,0.1 -o generic32.logits.entropy.h5
cluster img.h5 -o img.cluster-42.h5
logits img.h5 --random 32 -o random32.h5
probe random32.h5 -o random32-42.svm.h5
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
    prompts = "".join(f"a thing {number}\n" for number in range(32))
    (runner.folder / "generic32.txt").write_text(prompts)
    for line in lines.splitlines():
        ended = runner.run(*line.split())
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
