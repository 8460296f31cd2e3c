"""Read the numbers of a results folder, which the Makefile's chapters fill."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clipkit import features, metrics
from clipkit.errors import ClipkitError
from clipkit.features import FeatureFile
from clipkit.report.thesis import SEED


@dataclass(frozen=True)
class Measurement:
    """A number of a report, with Wilson's 95 % interval or the lowest and highest of the seeds."""

    value: float
    unit: str = "%"  # or "nats" or ""; the value of a % is a fraction (0..1)
    low: float | None = None
    high: float | None = None
    note: str = ""  # what was chosen for the number, such as "τ 0.07"


class Results:
    """The files of a results folder, by their names without `.h5`.

    Parameters
    ----------
    folder : Path
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

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, FeatureFile] = {}
        if not (folder / "img.h5").is_file():
            raise ClipkitError(
                f"{folder}: expected a results folder with img.h5, got none",
                "make one with: make chapter2",
            )
        with features.open_file(str(folder / "img.h5"), kinds=["images"]) as images:
            history = images.history
            self.class_names = images.class_names or []
            self.row_counts = {name: len(split) for name, split in images.splits.items()}
        embed_entries = [entry for entry in history if entry["command"] == "embed"]
        if not embed_entries:
            commands = ", ".join(entry["command"] for entry in history)
            raise ClipkitError(
                f"{folder}/img.h5: expected a file that clipkit embed made, got one of {commands}"
            )
        self.embedding = embed_entries[0]

    def has(self, name: str) -> bool:
        """Tell whether the folder holds a file."""
        return (self.folder / f"{name}.h5").is_file()

    def read(self, name: str) -> FeatureFile:
        """Read a file, once."""
        if name not in self._files:
            self._files[name] = features.read(str(self.folder / f"{name}.h5"))
        return self._files[name]

    def runs(self, name: str) -> list[dict[str, Any]]:
        """Return the runs of a result, or [] without the file."""
        return self.read(name).rows() if self.has(name) else []

    def test_runs(self, name: str, temperature: float | None = None) -> list[dict[str, Any]]:
        """Return the runs that were scored on the test split, at one temperature if it is given."""
        runs = self.read(name).runs_on("test") if self.has(name) else []
        if temperature is None:
            return runs
        return [run for run in runs if run["temperature"] == temperature]

    def temperatures(self, name: str) -> list[float]:
        """Return the temperatures of a sweep, from the highest to the lowest."""
        return sorted({run["temperature"] for run in self.runs(name)}, reverse=True)

    def prompt_set_sizes(self) -> list[int]:
        """Return each K for which there is an SVM on the logits of the K generic prompts."""
        return self._numbers("generic", ".logits.svm")

    def accuracy(
        self, name: str, column: str = "acc1", temperature: float | None = None
    ) -> Measurement | None:
        """Return the accuracy on the test split with Wilson's 95 % interval."""
        runs = self.test_runs(name, temperature)
        return self._accuracy(name, runs[0], column) if runs else None

    def best_accuracy(self, name: str) -> Measurement | None:
        """Return the highest accuracy on the test split, and its temperature.

        It is optimistic for a sweep, unless the temperature was chosen on a validation split and
        the test split was scored at that one only.
        """
        runs = self.test_runs(name)
        if not runs:
            return None
        best_run = max(runs, key=lambda run: float(run["acc1"]))
        accuracy = self._accuracy(name, best_run, "acc1")
        return replace(accuracy, note=f"τ {best_run['temperature']:g}")

    def _accuracy(self, name: str, run: dict[str, Any], column: str) -> Measurement:
        value = float(run[column])
        low, high = metrics.wilson(value, len(self.read(name).splits["test"]))
        return Measurement(value, "%", low, high)

    def mean(self, name: str, column: str, temperature: float = 1) -> Measurement | None:
        """Return the mean entropy or confidence of the test images."""
        unit = "nats" if column == "mean_entropy" else "%"
        runs = self.test_runs(name, temperature)
        return Measurement(float(runs[0][column]), unit) if runs else None

    def random_accuracy(self, k: int) -> Measurement | None:
        """Return the mean accuracy of an SVM on K random directions, over the seeds."""
        values = self._seed_values(f"random{k}-", ".svm", "acc1")
        if not values:
            return None
        return Measurement(float(np.mean(values)), "%", min(values), max(values))

    def random_fewshot_accuracy(self, k: int) -> Measurement | None:
        """Return the few-shot accuracy on K random directions of the first seed."""
        seeds = self._seeds(f"random{k}-", ".fewshot")
        return self.best_accuracy(f"random{k}-{seeds[0]}.fewshot") if seeds else None

    def cluster_agreement(self, name: str, metric: str) -> Measurement | None:
        """Return how well the first seed's clusters agree with the classes."""
        values = self._seed_values(f"{name}.cluster-", "", metric)
        if not values:
            return None
        return Measurement(values[0], "", min(values), max(values))

    def _seed_values(self, prefix: str, suffix: str, column: str) -> list[float]:
        """Return the value of each seed's result."""
        values = []
        for seed in self._seeds(prefix, suffix):
            values += [float(row[column]) for row in self.runs(f"{prefix}{seed}{suffix}")]
        return values

    def _seeds(self, prefix: str, suffix: str) -> list[int]:
        """Return the seed of each result `<prefix><seed><suffix>`, the thesis's seed first."""
        return sorted(self._numbers(prefix, suffix), key=lambda seed: (seed != SEED, seed))

    def _numbers(self, prefix: str, suffix: str) -> list[int]:
        """Return, in order, each number for which there is a file `<prefix><number><suffix>.h5`."""
        names = [path.stem for path in self.folder.glob(f"{prefix}*{suffix}.h5")]
        words = [name.removeprefix(prefix).removesuffix(suffix) for name in names]
        return sorted(int(word) for word in words if word.isdecimal())
