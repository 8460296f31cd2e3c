"""Accuracy by layer, from results of `probe` or `attributes` on hidden states of models.

A line holds the results of one model, pooling, set of labels and probe; results of the model at
random initialisation are its control. What differs between lines is in their labels, and what all
share is in the source.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipkit.analysis import results
from clipkit.base.errors import ClipkitError, UsageError, shorten
from clipkit.base.names import differing, is_shared, omit, select
from clipkit.features import model_settings
from clipkit.features.compatibility import origin
from clipkit.features.history import MAX_LAYERS, History
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile
from clipkit.features.provenance import provenance

Facts = dict[str, str]

# Members of the history's entry of `probe` that do not distinguish lines
NO_OPTIONS = {
    "command", "clipkit", "inputs", "kept", "temperature", "prompts", "features", "fit_split",
    "eval_split", "caveats",
}  # fmt: skip
HINT = "make one with: clipkit embed DATASET --layers 0,2,4 -o 'img.l{layer}.h5'"


class Measured(NamedTuple):
    """A fraction with the ends of its interval."""

    value: float
    low: float
    high: float


class LayerPoints(NamedTuple):
    """Fractions (S,) by layer, rising from 0, the input of the first, with their intervals.

    `embedding` is the value of the model's embedding, with its interval. If the values are means of
    several controls, `seeds` is their number, and the intervals are ranges. `said` is what the
    answers of a generative model reach.
    """

    layers: Sequence[int]
    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    embedding: tuple[float, float, float] | None = None
    seeds: int = 1
    said: tuple[float, float, float] | None = None


class LayerCurve(NamedTuple):
    """The accuracies of a model of `depth` layers, or of its control, or of both."""

    label: str
    depth: int
    chance: float
    trained: LayerPoints | None = None
    control: LayerPoints | None = None


class _Point(NamedTuple):
    """The accuracy that one result has on a split, or its recall of an attribute."""

    result: FeatureFile
    facts: Facts  # of its line
    layer: int | None  # None for the model's embedding
    depth: int  # the number of layers
    seed: Any  # of an untrained control; None for a trained model
    measured: Measured
    chance: float
    said: Measured | None = None  # what a generative model's own answers reach

    @property
    def name(self) -> str:
        """The name of the result's file."""
        return self.result.display_name


@dataclass
class _Line:
    """The points of a model and of its controls."""

    facts: Facts
    trained: list[_Point] = field(default_factory=list)
    controls: list[_Point] = field(default_factory=list)

    def add(self, point: _Point) -> None:
        """Add a point; there is one of each layer, and of each control's."""
        side = self.trained if point.seed is None else self.controls
        for other in side:
            if (other.layer, str(other.seed)) == (point.layer, str(point.seed)):
                place = "the embedding" if point.layer is None else f"layer {point.layer}"
                raise ClipkitError(
                    f"{point.name}: expected one result of {place} for a line, "
                    f"got also {other.name}"
                )
        side.append(point)

    def curve(self, label: str) -> LayerCurve:
        """Return the curve of the line."""
        points = [*self.trained, *self.controls]
        depth = max(max(point.depth, point.layer or 0) for point in points)
        trained, control = _layer_points(self.trained), _layer_points(self.controls)
        # Of unequal classes, each layer has its own; the highest is the hardest to pass
        chance = max(point.chance for point in points)
        return LayerCurve(label, depth, chance, trained, control)


def layer_curves(
    files: Sequence[FeatureFile], split: str | None = None
) -> tuple[list[LayerCurve], str]:
    """Collect a curve for each model, pooling, set of labels and probe, and name what all share.

    Results of `probe` have one run on the split, by default `test` or else the first one. Results
    of `attributes` have only the split that was scored. Results of untrained controls belong to
    the curves of their models. Intervals are Wilson's 95 % ones; for the mean of several controls,
    the range. Of unequal classes, all are mean recalls; see `results.main_numbers`.

    Raises
    ------
    ClipkitError
        If a result has no layer or several runs, if there are several results of one layer, or if
        results differ in data set, split, images or weights.
    """
    split, points = _read_points(files, split)
    _check_same_data(points, split)
    _check_same_weights(points)
    lines = _collect_lines(points)
    curves = [line.curve(label) for line, label in zip(lines, _labels(lines), strict=True)]
    return curves, _source(files, split, lines)


def holds_attributes(result: FeatureFile) -> bool:
    """Whether a result has recalls of attributes, not accuracies."""
    return "attribute" in result.runs


# -- reading --


def _read_points(files: Sequence[FeatureFile], split: str | None) -> tuple[str, list[_Point]]:
    """Return the split that was scored, and the points of all results."""
    if len(set(map(holds_attributes, files))) > 1:
        raise UsageError("expected results of probe or of attributes, got both")
    if not holds_attributes(files[0]):
        _, split = choose_split(files[0], split)
        return split, [_read_accuracy(file, split) for file in files]
    split = split or _scored_split(files[0])
    points = []
    for file in files:
        points += _read_recalls(file, split)
    return split, points


def _scored_split(result: FeatureFile) -> str:
    return str(results.newest_entry(result).get("eval_split"))


def _read_accuracy(result: FeatureFile, split: str) -> _Point:
    """Read the accuracy of a result on a split, and what its history says about it."""
    results.columns_of(result, "probe", "classifier eval_split acc1")
    choose_split(result, split)
    rows = result.runs_on(split)
    if len(rows) != 1:
        raise ClipkitError(
            f"{result.display_name}: expected one run on {split}, got {len(rows):,}",
            "probe with one C, or choose it on a validation split with --val 0.1",
        )
    accuracy = float(rows[0]["acc1"])
    if not math.isfinite(accuracy):
        raise ClipkitError(f"{result.display_name}: expected an accuracy, got none")
    _, (number,) = results.main_numbers(result, split)
    layer, depth = _layer_of(result)
    facts = _facts(result) | {"classifier": str(rows[0]["classifier"])} | _probe_facts(result)
    measured = Measured(number.value, number.low, number.high)
    seed = result.history.model.get("untrained")
    return _Point(result, facts, layer, depth, seed, measured, number.chance)


def _read_recalls(result: FeatureFile, split: str) -> list[_Point]:
    """Read the recall of each attribute by the probe and, if there is one, by the control's."""
    results.attribute_recalls(result)  # checks the columns
    scored = _scored_split(result)
    if scored != split:
        raise ClipkitError(f"{result.display_name}: expected recalls on {split}, got {scored}")
    layer, depth = _layer_of(result)
    seed = result.history.model.get("untrained")
    points = []
    for row in result.rows():
        facts = _facts(result) | {"labels": row["attribute"]} | _probe_facts(result)
        where = (result, facts, layer, depth)
        probe, control = _measured(row, "probe"), _measured(row, "control")
        if probe is not None:
            said = _measured(row, "zeroshot") if result.is_dot_product else None
            points.append(_Point(*where, seed, probe, row["chance"], said))
        if control is not None:
            points.append(_Point(*where, "control", control, row["chance"]))
    return points


def _measured(row: Mapping[str, Any], name: str) -> Measured | None:
    """Return a number of a row with its interval, or None if there is none."""
    measured = Measured(row[name], row[f"{name}_low"], row[f"{name}_high"])
    return measured if np.isfinite(measured).all() else None


def _layer_of(result: FeatureFile) -> tuple[int | None, int]:
    """Return layer and depth of a result's model. A history may hold anything."""
    model = result.history.model
    if "name" not in model or "projection" in model:
        raise _no_layer(result)
    if "layer" not in model:
        return None, 0
    layer = model["layer"]
    depth: Any = model.get("layers")
    are_numbers = type(layer) is int and type(depth) is int  # True and 2.0 are no layers
    if not are_numbers or not 0 <= layer <= depth <= MAX_LAYERS or not depth:
        raise ClipkitError(
            f"{result.display_name}: expected a layer of a model, got "
            f"layer {shorten(layer)} of {shorten(depth)}"
        )
    return layer, depth


def _no_layer(result: FeatureFile) -> ClipkitError:
    message = f"{result.display_name}: expected a result of a model's layer, got one without"
    return ClipkitError(message, HINT)


def _facts(result: FeatureFile) -> Facts:
    """Return what distinguishes the features and the labels of lines."""
    model = result.history.model
    facts = {"model": str(model.get("name")), **model_settings.labels_of(result.history)}
    facts["labels"] = results.labels_suffix(result).removeprefix("; labels: ") or "classes"
    return facts


def _probe_facts(result: FeatureFile) -> Facts:
    """Return the settings of a probe, but for those that other facts say."""
    probe = result.last_entry("probe")
    names = sorted(probe.keys() - NO_OPTIONS - {"classifier", *_facts(result)})
    return {name: str(probe[name]).strip("[]") for name in names}


# -- which results belong together --


def _check_same_data(points: Sequence[_Point], split: str) -> None:
    """Check that results are on one data set, and for the same labels on the same images."""
    expected = provenance(points[0].result).dataset
    by_labels: dict[str, _Point] = {}
    for point in points:
        got = provenance(point.result).dataset
        if got != expected:
            raise ClipkitError(
                f"{point.name}: expected results on {expected or 'no data set'}, "
                f"got one on {got or 'no data set'}",
                "draw one picture per data set",
            )
        first = by_labels.setdefault(point.facts["labels"], point)
        if _images(point.result, split) != _images(first.result, split):
            raise ClipkitError(
                f"{point.name}: expected the {split} images and labels of {first.name}, got others"
            )


def _images(result: FeatureFile, split: str) -> tuple[Any, ...]:
    """Return what two results on the same images share; `attributes` keeps no images."""
    if split in result.splits:
        rows = result.splits[split]
        labels = None if rows.labels is None else rows.labels.tolist()
        return origin(result, split).key, rows.ids, labels
    return tuple(data.get("splits") for data in result.history.datasets)


def _check_same_weights(points: Sequence[_Point]) -> None:
    """Check that results that name one model are of the same weights and depth."""
    by_model: dict[tuple[str, str], _Point] = {}
    depths: dict[str, int] = {}
    for point in points:
        model = point.facts["model"]
        first = by_model.setdefault((model, str(point.seed)), point)
        is_same = _weights(point.result) == _weights(first.result)
        if point.layer is not None:
            is_same = is_same and point.depth == depths.setdefault(model, point.depth)
        if not is_same:
            raise ClipkitError(
                f"{point.name}: expected the model of {first.name}, got another one of the same "
                "name"
            )


def _weights(result: FeatureFile) -> Any:
    model = result.history.model
    return model.get("weights", model.get("digest"))


def _collect_lines(points: Sequence[_Point]) -> list[_Line]:
    """Return lines; the point of an embedding is added to each line that has its facts."""
    lines: dict[tuple[tuple[str, str], ...], _Line] = {}
    embeddings = []
    for point in points:
        if point.layer is None:
            embeddings.append(point)
        else:
            lines.setdefault(tuple(point.facts.items()), _Line(point.facts)).add(point)
    for point in embeddings:
        own = [line for line in lines.values() if point.facts.items() <= line.facts.items()]
        if not own:
            raise _no_layer(point.result)
        for line in own:
            line.add(point)
    return list(lines.values())


def _layer_points(points: Sequence[_Point]) -> LayerPoints | None:
    """Return the points of a model, or the means of its controls; None if there are none."""
    if not points:
        return None
    by_layer: dict[int | None, list[_Point]] = {}
    for point in points:
        by_layer.setdefault(point.layer, []).append(point)
    embeddings = by_layer.pop(None, [])
    if not by_layer:
        raise _no_layer(points[0].result)
    layers = sorted(layer for layer in by_layer if layer is not None)
    values, low, high = zip(*(_mean(by_layer[layer]) for layer in layers), strict=True)
    embedding = said = None
    if embeddings:
        embedding, said = _mean(embeddings), embeddings[0].said
    seeds = len({str(point.seed) for point in points})
    return LayerPoints(layers, values, low, high, embedding, seeds, said)


def _mean(points: Sequence[_Point]) -> Measured:
    """Return what was measured; of several controls, the mean and the range."""
    if len(points) == 1:
        return points[0].measured
    values = [point.measured.value for point in points]
    return Measured(float(np.mean(values)), min(values), max(values))


# -- names --


def _labels(lines: Sequence[_Line]) -> Iterable[str]:
    """Yield the label of each line: what differs, or else its model."""
    for line, own in zip(lines, differing([line.facts for line in lines]), strict=True):
        words = _describe(own) or _describe({"model": line.facts["model"]})
        yield ", ".join(words)


def _source(files: Sequence[FeatureFile], split: str, lines: Sequence[_Line]) -> str:
    """Name models without their layers, data set and split, and what all curves share."""
    named = results.sources_label(list(map(_without_layer, files)), [split])
    all_facts = [line.facts for line in lines]
    shared = {}
    for name in _unnamed():
        if name in all_facts[0] and is_shared(name, all_facts):
            shared[name] = all_facts[0][name]
    if "labels" in shared:
        shared["labels"] = f"labels: {shared['labels']}"
    return ", ".join([named, *_describe(shared)])


def _without_layer(file: FeatureFile) -> FeatureFile:
    """Return the history of a file with no more of its models than names, and without sizes."""
    sizes = [setting.key for setting in model_settings.SETTINGS if setting.is_of_images]
    history = History(file.history)
    for entry in history:
        if entry.dataset:
            entry["dataset"] = omit(entry.dataset, sizes)
        if entry.model:
            entry["model"] = select(entry.model, ("name", "untrained"))
    return FeatureFile(file.kind, history)


def _unnamed() -> list[str]:
    """Return the facts that need no name."""
    return [*(setting.name for setting in model_settings.SETTINGS), "labels", "classifier"]


def _describe(facts: Facts) -> list[str]:
    words, unnamed = [], _unnamed()
    for name, text in facts.items():
        if name == "model":
            words.append(Path(text).name)
        elif name in unnamed:
            words.append(text)
        else:
            words.append(f"{name} {text}")
    return list(filter(None, words))
