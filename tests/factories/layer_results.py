"""Results of probes on the layers of a model, with a number of correct predictions."""

from __future__ import annotations

from typing import Any

import numpy as np

from clipkit.features import FeatureFile
from factories import result_file

N = 20
LABELS = np.repeat([0, 1], [12, 8])


def result(
    correct: int = 10,
    layer: int | None = None,
    *,
    layers: int = 4,
    name: str = "org/m",
    untrained: int | None = None,
    pool: str = "cls",
    relabel: dict[str, Any] | None = None,
    labels: Any = LABELS,
    dataset: str = "shapes",
    classifier: str = "svm",
    C: float = 1.0,
    runs: int = 1,
    split: str = "test",
    **members: Any,
) -> FeatureFile:
    """Return a result of a probe with a number of correct predictions, of N."""
    model: dict[str, Any] = {"name": name, "weights": f"sha256:{name}{untrained}", **members}
    if layer is not None:
        model |= {"layer": layer, "layers": layers, "pool": pool, "norm": False}
    if untrained is not None:
        model["untrained"] = untrained
    history: list[dict[str, Any]] = [
        {"command": "embed", "model": model, "dataset": {"name": dataset}}
    ]
    if relabel is not None:
        history.append({"command": "relabel", **relabel})
    history.append({"command": "probe", "classifier": classifier, "C": [C], "clipkit": "1"})
    predicted = np.where(np.arange(N) < correct, labels, 1 - np.asarray(labels))
    row = {"classifier": classifier, "C": C, "eval_split": split, "acc1": correct / N}
    file = result_file([row] * runs, labels, [predicted] * runs, history, ["cat", "dog"])
    file.splits = {split: file.splits["test"]}
    file.display_name = f"{'' if untrained is None else 'untrained/'}l{layer}.h5"
    return file
