"""Read the numbers of a results folder, which the Makefile's chapters fill."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipkit import features, metrics
from clipkit.errors import ClipkitError
from clipkit.features import FeatureFile
from clipkit.report.thesis import SEED, Experiment

AGREEMENT = ("purity", "nmi", "ari")  # measured on the clusters of every seed


@dataclass(frozen=True)
class Measurement:
    """A number of a report, with Wilson's 95 % interval or the lowest and highest of the seeds."""

    value: float
    unit: str = "%"  # or "nats" or ""; the value of a % is a fraction (0..1)
    low: float | None = None
    high: float | None = None
    note: str = ""  # what was chosen for the number, such as "τ 0.07"


class ResultsFolder:
    """The files of a results folder, by their names without `.h5`.

    Parameters
    ----------
    path : Path
        A folder with an `img.h5` that `clipkit embed` made. Every other file may be absent.

    Attributes
    ----------
    embedding : dict
        The history's entry about the command that made `img.h5`.
    class_names : list of C str
        Empty if the images have no class names.
    row_counts : dict of str to int
        Images per split.

    Raises
    ------
    ClipkitError
        If there is no such `img.h5`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[str, FeatureFile] = {}
        if not self.has("img"):
            raise ClipkitError(
                f"{path}: expected a results folder with img.h5, got none",
                "make one with: make chapter2",
            )
        with features.open_file(str(path / "img.h5"), kinds=["images"]) as images:
            history = images.history
            self.class_names = images.class_names or []
            self.row_counts = {name: len(split) for name, split in images.splits.items()}
        embed_entries = [entry for entry in history if entry["command"] == "embed"]
        if not embed_entries:
            commands = ", ".join(entry["command"] for entry in history)
            raise ClipkitError(
                f"{path}/img.h5: expected a file that clipkit embed made, got one of {commands}"
            )
        self.embedding = embed_entries[0]

    def has(self, name: str) -> bool:
        """Tell whether the folder holds a file."""
        return (self.path / f"{name}.h5").is_file()

    def read(self, name: str) -> FeatureFile:
        """Read a file, once."""
        if name not in self._files:
            self._files[name] = features.read(str(self.path / f"{name}.h5"))
        return self._files[name]

    def runs(self, name: str) -> list[dict[str, Any]]:
        """Return the runs of a result, or [] without the file."""
        return self.read(name).rows() if self.has(name) else []

    def temperatures(self, name: str) -> list[float]:
        """Return the temperatures of a sweep, from the highest to the lowest."""
        return sorted({run["temperature"] for run in self.runs(name)}, reverse=True)

    def prompt_set_sizes(self) -> list[int]:
        """Return each K for which there is an SVM on the logits of the K generic prompts."""
        return self._numbers("generic", ".logits.svm")

    def measure(self, experiment: Experiment) -> Measurement | None:
        """Return the number of an experiment on the test split, or None without its result.

        An accuracy has Wilson's 95 % interval. The agreement of clusters with classes is that of
        the first seed, with the lowest and the highest of all seeds.
        """
        name, column, temperature = experiment
        if column in AGREEMENT:
            values = self._values_by_seed(f"{name}.cluster-", "", column)
            return Measurement(values[0], "", min(values), max(values)) if values else None
        runs = self.read(name).runs_on("test") if self.has(name) else []
        if temperature is not None:
            runs = [run for run in runs if _temperature(run) == temperature]
        if not runs:
            return None
        run = max(runs, key=lambda run: float(run[column]))  # of equals, the first
        if column.startswith("mean_"):
            return Measurement(run[column], "nats" if column == "mean_entropy" else "%")
        low, high = metrics.wilson(run[column], len(self.read(name).splits["test"]))
        note = f"τ {run['temperature']:g}" if temperature is None else ""
        return Measurement(run[column], "%", low, high, note)

    def measure_random(self, k: int) -> Measurement | None:
        """Return the mean accuracy of an SVM on K random directions, over the seeds."""
        values = self._values_by_seed(f"random{k}-", ".svm", "acc1")
        if not values:
            return None
        return Measurement(float(np.mean(values)), "%", min(values), max(values))

    def measure_random_fewshot(self, k: int) -> Measurement | None:
        """Return the few-shot accuracy on K random directions of the first seed."""
        for seed in self._seeds(f"random{k}-", ".fewshot")[:1]:
            return self.measure(Experiment(f"random{k}-{seed}.fewshot", temperature=None))
        return None

    def _values_by_seed(self, prefix: str, suffix: str, column: str) -> list[float]:
        """Return the value of each seed's result `<prefix><seed><suffix>`."""
        seeds = self._seeds(prefix, suffix)
        return [float(self.runs(f"{prefix}{seed}{suffix}")[0][column]) for seed in seeds]

    def _seeds(self, prefix: str, suffix: str) -> list[int]:
        """Return the seed of each result `<prefix><seed><suffix>`, the thesis's seed first."""
        return sorted(self._numbers(prefix, suffix), key=lambda seed: (seed != SEED, seed))

    def _numbers(self, prefix: str, suffix: str) -> list[int]:
        """Return, in order, each number for which there is a file `<prefix><number><suffix>.h5`."""
        names = [path.stem for path in self.path.glob(f"{prefix}*{suffix}.h5")]
        words = [name.removeprefix(prefix).removesuffix(suffix) for name in names]
        return sorted(int(word) for word in words if word.isdecimal())


def _temperature(run: dict[str, Any]) -> float:
    """Return the temperature of a run; 1 for those on embeddings and of zero-shot."""
    temperature = float(run.get("temperature", math.nan))
    return 1.0 if math.isnan(temperature) else temperature
