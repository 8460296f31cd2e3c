"""Read the numbers of a results folder, which the Makefile's chapters fill."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipkit import features
from clipkit.analysis import metrics, results
from clipkit.analysis.held_out import HELD_OUT
from clipkit.base.errors import ClipkitError
from clipkit.features import FeatureFile, Float32
from clipkit.features.compatibility import origin
from clipkit.features.model import RESULTS
from clipkit.report import claims
from clipkit.report.blocks import Origin
from clipkit.report.claims import Run
from clipkit.report.command_lines import make_origin
from clipkit.report.controls import features_of, settings
from clipkit.report.steps import digests, member
from clipkit.report.thesis import SEED, Experiment

NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")  # of a file's name: K or a seed
# Columns of a cluster result, measured on the clusters of every seed -> their names
AGREEMENT = {
    "purity": "purity",
    "purity_chance": "purity of permuted labels",
    "nmi": "NMI",
    "nmi_chance": "NMI of permuted labels",
    "ami": "AMI",
    "ari": "ARI",
}

# Members of the history's entry of `embed` that a report shows -> their types
EMBEDDING: dict[str, type] = {
    "clipkit": str,
    "model.name": str,
    "model.digest": str,
    "model.precision": str,
    "model.device": str,
    "dataset.name": str,
    "dataset.splits": dict,
}
OPTIONAL: dict[str, type] = {"dataset.draw": dict, "skipped": list}
TYPE_NAMES: dict[type, str] = {str: "a text", dict: "an object", list: "a list"}

# Columns without NaN that the results of a command must have
COLUMNS = {
    "probe": ("classifier", "C", "standardize", "eval_split", "acc1"),
    "zeroshot": ("split",),
    "entropy": ("split", "temperature"),
    "cluster": ("split", "k"),
}
# Columns of the results of other commands, which are no lists of scored runs
TABLES = {
    "attributes": "attribute values rows chance zeroshot names random probe control reach "
    "reach_low reach_high",
    "variance": "attribute share unique null95 control_share control_low control_high",
    "calibrate": "temperature fitted low high nll information ece ece_null ece_null95",
}


@dataclass(frozen=True)
class Measurement:
    """A number of a report, with Wilson's 95 % interval or the lowest and highest of the seeds."""

    value: float
    unit: str = "%"  # or "nats" or ""; the value of a % is a fraction (0..1)
    low: float = math.nan
    high: float = math.nan
    note: str = ""  # what was chosen for the number, such as "τ 0.07" or "C 0.01"


class ResultsFolder:
    """The files of a results folder, by their names without `.h5`.

    What a file holds depends on the folder alone. `left_out`, `used` and `unused` sum up what was
    asked for until then.

    Parameters
    ----------
    path : Path
        A folder with an `img.h5` that `clipkit embed` made. Every other file may be absent.
    trained : ResultsFolder, optional
        The results of which this folder holds an untrained control. Files that were not made as
        those of the same names are left out.

    Attributes
    ----------
    embedding : dict
        The history's entry about the command that made `img.h5`.
    class_names : list of C str
        Empty if the images have no class names.
    origins : dict of str to tuple of str
        What a control shares, per split.
    labels : str
        See `results.labels_suffix`.
    row_counts : dict of str to int
        Images per split.
    chance : float
        Share of the most frequent class in the test split; NaN without labels.
    left_out : dict of str to str
        Files that are damaged or not what their names say, with the reason; see `runs`.

    Raises
    ------
    ClipkitError
        If there is no such `img.h5`, or its history does not say how it was made, or this is no
        control of `trained`: the model is trained or another one, or the images are others.
    """

    def __init__(self, path: Path, trained: ResultsFolder | None = None) -> None:
        self.path = path
        self.trained = trained
        self.left_out: dict[str, str] = {}
        self._files: dict[str, FeatureFile] = {}
        self._runs: dict[str, list[Run]] = {}
        self._tables: list[str] = []  # names that `table` returned
        self._digests: dict[str, str] = {}
        if not self.has("img"):
            raise ClipkitError(
                f"{path}: expected a results folder with img.h5, got none",
                "make one with: make chapter2",
            )
        with features.open_file(str(path / "img.h5"), kinds=["images"]) as images:
            self._check_unchanged("img", images)
            history = images.history
            self.class_names = images.class_names or []
            self.origins = {name: origin(images, name).key for name in images.splits}
            self.labels = results.labels_suffix(images)
            self.row_counts = {name: len(split) for name, split in images.splits.items()}
            self.chance = results.chance(images.splits[results.choose_split(images)].labels)
        embed_entries = [entry for entry in history if entry["command"] == "embed"]
        if not embed_entries:
            commands = ", ".join(entry["command"] for entry in history) or "an unknown command"
            raise ClipkitError(
                f"{path}/img.h5: expected a file that clipkit embed made, got one of {commands}"
            )
        self.embedding = embed_entries[0]
        try:
            _check_embedding(self.embedding)
        except ClipkitError as error:
            raise ClipkitError(f"{path}/img.h5: history, embed: {error.message}") from None
        if trained is not None:
            self._check_is_control(trained)

    def _check_is_control(self, trained: ResultsFolder) -> None:
        """Refuse results that say nothing about those of a trained model."""
        model, trained_model = self.embedding["model"], trained.embedding["model"]
        if "untrained" not in model:
            raise ClipkitError(
                f"{self.path}: expected results of an untrained model, got those of a trained one",
                "embed the images with: clipkit embed --untrained 7",
            )
        if features_of(model) != features_of(trained_model):
            raise ClipkitError(
                f"{self.path}: expected an untrained {trained_model['name']} with the same "
                f"features, got {model['name']}"
            )
        if self.origins != trained.origins:
            raise ClipkitError(
                f"{self.path}: expected a control on the images of {trained.path}, got one on "
                "others",
                "embed the same images, with the same --limit and --max-classes",
            )

    def has(self, name: str) -> bool:
        """Tell whether the folder holds a file."""
        return (self.path / f"{name}.h5").is_file()

    def read(self, name: str) -> FeatureFile:
        """Read a result, once."""
        if name not in self._files:
            with features.open_file(str(self.path / f"{name}.h5"), kinds=["result"]) as file:
                self._check_unchanged(name, file)
                self._files[name] = file.in_memory()
        return self._files[name]

    def prompt_features(self, name: str) -> Float32 | None:
        """Return the embeddings (K, D) of prompts, or None without the file; see `runs`."""
        if name in self.left_out or not self.has(name):
            return None
        try:
            with features.open_file(str(self.path / f"{name}.h5"), kinds=["texts"]) as texts:
                self._check_unchanged(name, texts)
                return np.asarray(texts.features)
        except ClipkitError as error:
            self.leave_out(name, error.message)
            return None

    def _check_unchanged(self, name: str, file: FeatureFile) -> None:
        """Refuse a file that is not the one of this name that was opened before."""
        digest = file.digest
        if self._digests.setdefault(name, digest) != digest:
            message = f"{file.display_name}: it was replaced while the report was made"
            raise ClipkitError(message, "run the command again")

    def leave_out(self, name: str, reason: str) -> None:
        """Note why a file is not shown. The first reason counts."""
        self.left_out.setdefault(name, reason.removeprefix(f"{self.path / name}.h5: "))

    def _digest(self, name: str) -> str | None:
        """Return the digest of a file, or None without the file."""
        if not self.has(name):
            return None
        if name not in self._digests:
            with features.open_file(str(self.path / f"{name}.h5")) as file:
                self._check_unchanged(name, file)
        return self._digests[name]

    def _check_history(self, name: str, result: FeatureFile) -> None:
        """Refuse a result that is not what its name says, or a control's of other settings."""
        fit_split = "train" if len(self.row_counts) > 1 else next(iter(self.row_counts))
        claims.check_history(name, result.history, self._digest, fit_split)
        if self.trained is None or not self.trained.has(name):
            return
        try:
            other = self.trained.read(name)
        except ClipkitError:  # it is left out
            return
        if settings(result) != settings(other):
            trained = self.trained.path.resolve().name
            raise ClipkitError(
                f"expected the settings and prompts of {trained}/{name}.h5, got others"
            )

    def is_shown(self, name: str) -> bool:
        """Tell whether a result is what its name says."""
        is_table = name.rpartition(".")[2] in TABLES
        return bool(self.table(name) if is_table else self.runs(name))

    def unused(self) -> dict[str, str]:
        """Return the results and the damaged files that nothing asked for, with the reasons."""
        known = self._digests.keys() | self._runs.keys() | self.left_out.keys()
        reasons = {}
        for path in sorted(self.path.glob("*.h5")):
            if path.stem in known:
                continue
            try:
                with features.open_file(str(path)) as file:
                    if file.kind in RESULTS:
                        reasons[path.stem] = "its name is not that of a chapter's result"
            except ClipkitError as error:
                reasons[path.stem] = error.message.removeprefix(f"{path}: ")
        return reasons

    def runs(self, name: str) -> list[Run]:
        """Return the test runs of a result that are what its name says, with their numbers.

        The list is empty without the file. If the file cannot be read, or its history, its columns
        or all of its runs contradict the name, the list is empty too, and `left_out` has the
        reason.
        """
        if name not in self._runs and self.has(name):
            try:
                self._runs[name] = self._select_runs(name)
            except ClipkitError as error:
                self._runs[name] = []
                self.leave_out(name, error.message)
        return self._runs.get(name, [])

    def _select_runs(self, name: str) -> list[Run]:
        result = self.read(name)
        self._check_history(name, result)
        command = result.history[-1]["command"]
        columns = COLUMNS[command]
        results.check_columns(result, *columns)
        split = self._scored_split(result)
        results.check_run_count(result)
        runs = result.runs_on(split)
        if not runs and len(self.row_counts) == 1:
            raise ClipkitError("there is no test split to score the chosen C or temperature on")
        if not runs:
            raise ClipkitError(f"expected a run on the split {split}, got none")
        if command != "entropy":
            results.scored_runs(result, split)  # checks that each run has its predictions
        for column in columns:
            if any(isinstance(run[column], float) and math.isnan(run[column]) for run in runs):
                raise ClipkitError(f"expected numbers in the column {column}, got NaN")
        for number, run in enumerate(runs):
            run |= {"number": number, "split": split}
            if math.isnan(run.get("temperature", math.nan)):  # embeddings and zero-shot have none
                run["temperature"] = 1.0
        return claims.select_runs(name, runs, len(self.class_names))

    def table(self, name: str) -> list[Run]:
        """Return the rows of a result of one of TABLES, or [] without the file; see `runs`."""
        if name in self.left_out or not self.has(name):
            return []
        try:
            result = self.read(name)
            self._check_history(name, result)
            command = name.rpartition(".")[2]
            results.columns_of(result, command, TABLES[command])
            self._tables.append(name)
            return result.rows()
        except ClipkitError as error:
            self.leave_out(name, error.message)
            return []

    def layer_results(self) -> list[FeatureFile]:
        """Return the SVMs on the layers of the model, and those on its embeddings; see `runs`."""
        layer_names = sorted(path.stem for path in self.path.glob("img.l*.svm.h5"))
        layer_names.sort(key=lambda name: name.count("."))  # img.l0.svm before img.l0.colour.svm
        embedding_names = [re.sub(r"^img\.l\d+", "img", name) for name in layer_names]
        files = []
        for name in filter(self.has, dict.fromkeys(layer_names + embedding_names)):
            try:
                files.append(self.read(name))
            except ClipkitError as error:
                self.leave_out(name, error.message)
        return files

    def predictions(self, name: str, run: Run) -> results.Predictions:
        """Return the true and the predicted classes of a run that `runs` returned."""
        return results.predictions(self.read(name), run["split"], run["number"])

    def untestable(self, name: str, run: Run) -> str:
        """Say why the accuracy of a run that `runs` returned is not tested; "" if it is."""
        return results.untestable(self.read(name), run["split"])

    def notes(self) -> list[str]:
        """Return the notes on the accuracies of the results that `runs` or `table` returned."""
        shown = [*filter(self.runs, self._runs), *self._tables]
        return results.caveat_notes({name: self.read(name) for name in shown})

    def used(self) -> dict[str, Path]:
        """Return the results that `runs` returned and the files they were made from, by name."""
        with_runs = [name for name, runs in self._runs.items() if runs]
        inputs: set[str] = set()
        for name in with_runs:
            for entry in self.read(name).history:
                inputs.update(digests(entry).values())
        names = [name for name, digest in self._digests.items() if digest in inputs]
        return {name: self.path / f"{name}.h5" for name in sorted({*names, *with_runs})}

    def _scored_split(self, result: FeatureFile) -> str:
        """Return the test split or, if all images are in one split, the one that replaces it."""
        entry = result.history[-1]
        if len(self.row_counts) > 1:
            return "test"
        if entry["command"] != "probe":
            return next(iter(self.row_counts))
        return str(result.runs["eval_split"][0]) if entry.get("val") == HELD_OUT else ""

    def temperatures(self, name: str) -> list[float]:
        """Return the temperatures of a sweep, from the highest to the lowest."""
        return sorted({run["temperature"] for run in self.runs(name)}, reverse=True)

    def prompt_set_sizes(self) -> list[int]:
        """Return each K for which there is an SVM on the logits of the K generic prompts."""
        return [k for k in self._numbers("generic", ".logits.svm") if k]

    def measure(self, experiment: Experiment) -> Measurement | None:
        """Return the number of an experiment on the test split, or None without its result.

        An accuracy has Wilson's 95 % interval. The agreement of clusters with classes is that of
        the first seed, with the lowest and the highest of all seeds.
        """
        name, column, temperature = experiment
        if column in AGREEMENT:
            values = list(self.values_by_seed(f"{name}.cluster-{{}}", column).values())
            if not values:
                return None
            return Measurement(values[0], "", min(values), max(values))
        runs = []
        for run in self.runs(name):
            is_at_temperature = temperature in (None, run["temperature"])
            if is_at_temperature and not math.isnan(run.get(column, math.nan)):
                runs.append(run)
        if not runs:  # fewer than five classes have no acc5
            return None
        run = max(runs, key=lambda run: float(run[column]))  # of equals, the first
        if column == "mean_entropy":
            return Measurement(run[column], "nats")
        if column.startswith("mean_"):
            return Measurement(run[column])
        result = self.read(name)
        low, high = metrics.wilson(run[column], len(result.splits[run["split"]]))
        note = ""
        if temperature is None:
            several_Cs = len(np.unique(result.runs["C"])) > 1
            note = f"C {run['C']:g}" if several_Cs else f"τ {run['temperature']:g}"
        return Measurement(run[column], "%", low, high, note)

    def source(self, experiment: Experiment) -> str:
        """Return the name of the result that `measure` takes a number from, or would take it."""
        if experiment.column not in AGREEMENT:
            return experiment.name
        seeds = self.values_by_seed(f"{experiment.name}.cluster-{{}}", experiment.column)
        return f"{experiment.name}.cluster-{next(iter(seeds), SEED)}"

    def origin(self, name: str, controls: Sequence[ResultsFolder] = ()) -> Origin:
        """Return how a result of the folder was made. Its inputs may be files of the controls."""
        result = self.read(name)  # also what the table shows
        names = {digest: f"{name}.h5" for name, digest in self._digests.items()}
        for control in controls:
            folder = control.path.resolve().name
            for file, digest in control._digests.items():
                names.setdefault(digest, f"../{folder}/{file}.h5")
        return make_origin(result, f"{name}.h5", names.get)

    def values_by_seed(self, pattern: str, column: str) -> dict[int, float]:
        """Return the value of each seed's result, the thesis's seed first.

        If a setting was chosen on a validation split, it is the value of the chosen run.

        Parameters
        ----------
        pattern : str
            Name of the results, with {} for the seed.
        column : str
        """
        values = {}
        seeds = self._numbers(*pattern.split("{}"))
        for seed in sorted(seeds, key=lambda seed: (seed != SEED, seed)):
            for run in self.runs(pattern.format(seed))[:1]:
                value = float(run.get(column, math.nan))
                if not math.isnan(value):
                    values[seed] = value
        return values

    def _numbers(self, prefix: str, suffix: str) -> list[int]:
        """Return, in order, each number for which there is a file `<prefix><number><suffix>.h5`."""
        names = [path.stem for path in self.path.glob(f"{prefix}*{suffix}.h5")]
        words = [name.removeprefix(prefix).removesuffix(suffix) for name in names]
        return sorted(int(word) for word in words if NUMBER.fullmatch(word))


def _check_embedding(entry: dict[str, Any]) -> None:
    """Check what a report reads from the history's entry of `embed`."""
    for path, kind in {**EMBEDDING, **OPTIONAL}.items():
        value = member(entry, path)
        if value is None and path in OPTIONAL:
            continue
        if not isinstance(value, kind):
            raise ClipkitError(f"expected {path}, {TYPE_NAMES[kind]}, got {_type_name(value)}")
    for name, split in entry["dataset"]["splits"].items():
        if not isinstance(split, dict) or not isinstance(split.get("rows"), str):
            raise ClipkitError(f"expected dataset.splits.{name}.rows, a text, got none")


def _type_name(value: Any) -> str:
    return "none" if value is None else TYPE_NAMES.get(type(value), "a number")
