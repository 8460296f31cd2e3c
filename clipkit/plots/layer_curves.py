"""Collect accuracy by layer from results of `probe` or `attributes` on hidden states of models.

A line holds the results of one model, pooling, set of labels and probe. What differs between lines
is in their labels, and what all share is in the subtitle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipkit.analysis import metrics, results
from clipkit.base.errors import ClipkitError, UsageError, shorten
from clipkit.base.names import differing, is_shared
from clipkit.features.compatibility import origin
from clipkit.features.history import Entry, History, downsample, provenance
from clipkit.features.model import FeatureFile
from clipkit.plots import style
from clipkit.plots.attributes import attribute_recalls
from clipkit.plots.layers import LayerCurve, LayerPoints, Said, layers
from clipkit.plots.picture import Picture, Split
from clipkit.plots.style import Drawn

Facts = dict[str, str]

MAX_CURVES = 49  # with different colours and markers
MAX_DEPTH = 1000
MAX_QUESTION = 80  # characters
POOLS = {
    **{"cls": "CLS token", "mean": "mean of patches"},
    **{"last": "last token", "image": "image tokens"},  # of a generative model
}
UNNAMED = (
    "pool",
    "question",
    "norm",
    "images",
    "labels",
    "classifier",
)  # facts that need no name
# Members of the history's entry of `probe` that do not tell lines apart
NO_OPTIONS = {
    "command", "clipkit", "inputs", "kept", "temperature", "prompts", "features", "fit_split",
    "eval_split", "caveats",
}  # fmt: skip
HINT = "make one with: clipkit embed DATASET --layers 0,2,4 -o 'img.l{layer}.h5'"


class _Score(NamedTuple):
    """The accuracy that one result has on a split, or its recall of an attribute."""

    result: FeatureFile
    facts: Facts  # of its line
    layer: int | None  # None for the model's embedding
    depth: int  # the number of layers
    seed: Any  # of an untrained control; None for a trained model
    value: float
    interval: tuple[float, float]
    chance: float
    said: Said | None = None  # what a generative model's own answers reach


class _Line(NamedTuple):
    facts: Facts
    scores: list[_Score]


def draw_layers(files: Sequence[FeatureFile], split: Split = None) -> Drawn:
    """Draw the accuracy of probes by layer, with untrained controls and the models' embeddings.

    From results of attributes, draw their recall by layer.
    """
    curves, source = layer_curves(files, split)
    ylabel, title = "accuracy (%)", "Accuracy by layer"
    if _holds_attributes(files[0]):
        ylabel, title = "mean recall per value (%)", "Recall by layer"
    figure = layers(curves, ylabel=ylabel, title=title)
    return style.state(figure, _finding(curves), source)


LAYERS = Picture(
    "layers",
    draw_layers,
    "clipkit plot layers img.l*.svm.h5 img.svm.h5 -o layers.png",
    of=("probe",),
    draws_several=True,
)


def _finding(curves: Sequence[LayerCurve]) -> str:
    """State where the only trained curve is highest, and its control there."""
    if len(curves) != 1 or curves[0].trained is None:
        return ""
    trained, control = curves[0].trained, curves[0].control
    best = int(np.argmax(trained.values))
    finding = f"Layer {trained.layers[best]} is the best with {100 * trained.values[best]:.1f} %"
    if control is None or list(control.layers) != list(trained.layers):
        return finding
    return f"{finding}; untrained has {100 * control.values[best]:.1f} %"


def layer_curves(
    files: Sequence[FeatureFile], split: str | None = None
) -> tuple[list[LayerCurve], str]:
    """Collect a curve for each model, pooling, set of labels and probe, and name what all share.

    Results of `probe` have one run on the split, by default `test` or else the first one. Results
    of `attributes` have only the split that was scored. Results of untrained controls belong to
    the curves of their models. Intervals are Wilson's 95 % ones; for the mean of several controls,
    the range. Chance is the accuracy of the most frequent class.

    Raises
    ------
    ClipkitError
        If a result has no layer or several runs, if there are several results of one layer, or if
        results differ in data set, split, images or weights.
    """
    if len(set(map(_holds_attributes, files))) > 1:
        raise UsageError("expected results of probe or of attributes, got both")
    scores = []
    if _holds_attributes(files[0]):
        name = str(results.newest_entry(files[0]).get("eval_split"))
        for file in files:
            scores += _attribute_scores(file, split or name)
    else:
        name = results.choose_split(files[0], split)
        scores = [_score(file, name) for file in files]
    _check_same_data(scores, name)
    _check_same_weights(scores)
    lines = _collect_lines(scores)
    facts = [line.facts for line in lines]
    curves = []
    for line, own in zip(lines, differing(facts), strict=True):
        words = _describe(own) or _describe({"model": line.facts["model"]})
        curves.append(_curve(", ".join(words), line.scores))
    return curves, _source(files, name, facts)


def _collect_lines(scores: Sequence[_Score]) -> list[_Line]:
    """Return lines; the score of an embedding is added to each line that has its facts."""
    lines: dict[tuple[tuple[str, str], ...], _Line] = {}
    for score in scores:
        if score.layer is not None:
            key = tuple(score.facts.items())
            lines.setdefault(key, _Line(score.facts, [])).scores.append(score)
    if len(lines) > MAX_CURVES:
        raise ClipkitError(f"expected at most {MAX_CURVES} curves, got {len(lines):,}")
    for score in scores:
        if score.layer is None:
            own = [line for line in lines.values() if score.facts.items() <= line.facts.items()]
            if not own:
                raise _no_layer(score.result)
            for line in own:
                line.scores.append(score)
    return list(lines.values())


def _holds_attributes(result: FeatureFile) -> bool:
    return "attribute" in result.runs


def _score(result: FeatureFile, split: str) -> _Score:
    """Read the accuracy of a result on a split, and what its history says about it."""
    results.columns_of(result, "probe", "classifier eval_split acc1")
    results.choose_split(result, split)
    rows = result.runs_on(split)
    if len(rows) != 1:
        raise ClipkitError(
            f"{result.display_name}: expected one run on {split}, got {len(rows):,}",
            "probe with one C, or choose it on a validation split with --val 0.1",
        )
    value = float(rows[0]["acc1"])
    if not np.isfinite(value):
        raise ClipkitError(f"{result.display_name}: expected an accuracy, got none")
    labels = results.scored_runs(result, split).labels
    model = result.history.model
    layer, depth = _layer_of(model, result)
    facts = _facts(result, model, str(rows[0]["classifier"]))
    numbers = (value, metrics.wilson(value, len(labels)), results.chance(labels))
    return _Score(result, facts, layer, depth, model.get("untrained"), *numbers)


def _attribute_scores(result: FeatureFile, split: str) -> list[_Score]:
    """Read the recall of each attribute by the probe and, if there is one, by the control's."""
    attribute_recalls(result)  # checks the columns
    scored = str(results.newest_entry(result).get("eval_split"))
    if scored != split:
        raise ClipkitError(f"{result.display_name}: expected recalls on {split}, got {scored}")
    model = result.history.model
    layer, depth = _layer_of(model, result)
    scores = []
    for row in result.rows():
        facts = _facts(result, model, "") | {"labels": row["attribute"]}
        for name, seed in (("probe", model.get("untrained")), ("control", "control")):
            interval = (row[f"{name}_low"], row[f"{name}_high"])
            if np.isfinite([row[name], *interval]).all():
                numbers = (row[name], interval, row["chance"])
                said = _said(result, row) if name == "probe" else None
                scores.append(_Score(result, facts, layer, depth, seed, *numbers, said))
    return scores


def _said(result: FeatureFile, row: Mapping[str, Any]) -> Said | None:
    """Return the recall of a generative model's answers, if words were given for an attribute."""
    said = (row["zeroshot"], row["zeroshot_low"], row["zeroshot_high"])
    return said if result.is_dot_product and np.isfinite(said).all() else None


def _layer_of(model: Entry, result: FeatureFile) -> tuple[int | None, int]:
    """Return layer and depth of a model's entry in a history, where anything may be written."""
    if "name" not in model or "projection" in model:
        raise _no_layer(result)
    if "layer" not in model:
        return None, 0
    layer = model["layer"]
    depth: Any = model.get("layers")
    are_numbers = type(layer) is int and type(depth) is int  # True and 2.0 are no layers
    if not are_numbers or not 0 <= layer <= depth <= MAX_DEPTH or not depth:
        raise ClipkitError(
            f"{result.display_name}: expected a layer of a model, got "
            f"layer {shorten(layer, 20)} of {shorten(depth, 20)}"
        )
    return layer, depth


def _no_layer(result: FeatureFile) -> ClipkitError:
    message = f"{result.display_name}: expected a result of a model's layer, got one without"
    return ClipkitError(message, HINT)


def _facts(result: FeatureFile, model: Entry, classifier: str) -> Facts:
    """Return what tells the lines of results apart. Embeddings of images have no pooling."""
    facts = {"model": str(model.get("name"))}
    size = downsample(result)
    if size is not None:
        facts["images"] = f"images of {size} pixels"
    if "question" in model:
        facts["question"] = f'"{shorten(model["question"], MAX_QUESTION)}"'
    if "layer" in model or "at" in model:
        pool = str(model.get("pool", model.get("at")))
        facts["pool"] = POOLS.get(pool, pool)
    if "layer" in model:
        facts["norm"] = "normed" if model.get("norm") else ""
    facts["labels"] = results.labels_suffix(result).removeprefix("; labels: ") or "classes"
    if classifier:
        facts["classifier"] = classifier
    probe = result.last_entry("probe")
    for name in sorted(probe.keys() - NO_OPTIONS):
        facts.setdefault(name, str(probe[name]).strip("[]"))
    return facts


def _check_same_data(scores: Sequence[_Score], split: str) -> None:
    """Check that results are on one data set, and for the same labels on the same images."""
    expected = provenance(scores[0].result).dataset
    by_labels: dict[str, _Score] = {}
    for score in scores:
        got = provenance(score.result).dataset
        if got != expected:
            raise ClipkitError(
                f"{score.result.display_name}: expected results on {expected or 'no data set'}, "
                f"got one on {got or 'no data set'}",
                "draw one picture per data set",
            )
        other = by_labels.setdefault(score.facts["labels"], score).result
        if _images(score.result, split) != _images(other, split):
            raise ClipkitError(
                f"{score.result.display_name}: expected the {split} images and labels of "
                f"{other.display_name}, got others"
            )


def _images(result: FeatureFile, split: str) -> tuple[Any, ...]:
    """Return what two results on the same images share; `attributes` keeps no images."""
    if split in result.splits:
        rows = result.splits[split]
        labels = None if rows.labels is None else rows.labels.tolist()
        return origin(result, split).key, rows.ids, labels
    return tuple(data.get("splits") for data in result.history.datasets)


def _check_same_weights(scores: Sequence[_Score]) -> None:
    """Check that results that name one model are of the same weights and depth."""
    by_model: dict[tuple[str, str], tuple[_Score, Any]] = {}
    depths: dict[str, int] = {}
    for score in scores:
        model = score.result.history.model
        name = score.facts["model"]
        weights = model.get("weights", model.get("digest"))
        other, expected = by_model.setdefault((name, str(score.seed)), (score, weights))
        depth = score.depth and depths.setdefault(name, score.depth)
        if weights != expected or score.depth != depth:
            raise ClipkitError(
                f"{score.result.display_name}: expected the model of "
                f"{other.result.display_name}, got another one of the same name"
            )


def _source(files: Sequence[FeatureFile], split: str, all_facts: Sequence[Facts]) -> str:
    """Name models without their layers, data set and split, and what all curves share."""
    named = results.sources_label(list(map(_without_layer, files)), [split])
    shared = {}
    for name in UNNAMED:
        if name in all_facts[0] and is_shared(name, all_facts):
            shared[name] = all_facts[0][name]
    if "labels" in shared:
        shared["labels"] = f"labels: {shared['labels']}"
    return ", ".join([named, *_describe(shared)])


def _without_layer(file: FeatureFile) -> FeatureFile:
    """Return the history of a file with no more of its models than names, and without sizes."""
    history = History(file.history)
    for entry in history:
        if "downsample" in entry.dataset:
            entry["dataset"] = {**entry.dataset, "downsample": None}
        if entry.model:
            kept = ("name", "untrained")
            entry["model"] = {name: entry.model[name] for name in kept if name in entry.model}
    return FeatureFile(file.kind, history)


def _describe(facts: Facts) -> list[str]:
    words = []
    for name, text in facts.items():
        if name == "model":
            words.append(Path(text).name)
        elif name in UNNAMED:
            words.append(text)
        else:
            words.append(f"{name} {text}")
    return list(filter(None, words))


def _curve(label: str, scores: Sequence[_Score]) -> LayerCurve:
    trained = [score for score in scores if score.seed is None]
    controls = [score for score in scores if score.seed is not None]
    depth = max(max(score.depth, score.layer or 0) for score in scores)
    return LayerCurve(label, depth, scores[0].chance, _points(trained), _points(controls))


def _points(scores: Sequence[_Score]) -> LayerPoints | None:
    """Return the points of a line, or None without a result; see `layer_curves` for controls."""
    if not scores:
        return None
    by_layer: dict[int | None, dict[str, _Score]] = {}
    for score in scores:
        by_seed = by_layer.setdefault(score.layer, {})
        other = by_seed.setdefault(str(score.seed), score)
        if other is not score:
            place = "the embedding" if score.layer is None else f"layer {score.layer}"
            raise ClipkitError(
                f"{score.result.display_name}: expected one result of {place} for a line, "
                f"got also {other.result.display_name}"
            )
    embedding = said = None
    if None in by_layer:
        own = list(by_layer.pop(None).values())
        embedding, said = _mean(own), own[0].said
    if not by_layer:
        raise _no_layer(scores[0].result)
    layers = sorted(layer for layer in by_layer if layer is not None)
    means = [_mean(list(by_layer[layer].values())) for layer in layers]
    values, low, high = zip(*means, strict=True)
    seeds = len({str(score.seed) for score in scores})
    return LayerPoints(layers, values, low, high, embedding, seeds, said)


def _mean(scores: Sequence[_Score]) -> tuple[float, float, float]:
    if len(scores) == 1:
        return scores[0].value, *scores[0].interval
    values = [score.value for score in scores]
    return float(np.mean(values)), min(values), max(values)
