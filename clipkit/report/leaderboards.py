"""Results in the forms of CLIP_benchmark and of the Hugging Face Hub's model cards.

CLIP_benchmark writes a JSON object per model, data set and task, and `clip_benchmark build` makes a
table of many. A model card has the same numbers in its `model-index`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from clipkit.analysis import results
from clipkit.base import console
from clipkit.base.errors import UsageError
from clipkit.base.files import atomic_write
from clipkit.base.names import select
from clipkit.features.columns import all_columns
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile
from clipkit.features.model_settings import feature_name
from clipkit.features.provenance import provenance
from clipkit.models.hub import ALIASES
from clipkit.probes import classifiers

# The task of each command's results, as CLIP_benchmark calls it, and as the Hub does.
TASKS = {
    "zeroshot": ("zeroshot_classification", "zero-shot-image-classification"),
    "probe": ("linear_probe", "image-classification"),
    "retrieve": ("zeroshot_retrieval", "image-text-retrieval"),
    "choose": ("image_caption_selection", "image-text-matching"),
}
ACCURACIES = [column.name for column in all_columns() if column.on_leaderboards]


def write(
    output: str, result: FeatureFile, *, split: str | None = None, force: bool = False
) -> None:
    """Write a result as the JSON object of CLIP_benchmark or, as .md, a card with a `model-index`.

    Warnings name what limits the numbers, and what the history does not name.

    Raises
    ------
    UsageError
        If the result is not of a task in `TASKS`, or several runs were scored on the split, by
        default `test` or else the first.
    """
    evaluation = evaluate(result, split)
    notes = list(map(results.describe_caveat, results.caveats(result, split)))
    if any("draw" in dataset for dataset in result.history.datasets):
        notes.append("the images are a part of the data set, chosen with --limit")
    for name in ("dataset", "model"):
        if not evaluation[name]:
            notes.append(f"write the {name} in: the history of {result.display_name} names none")
    for note in notes:
        console.warn(f"{output}: {note}")
    text = json.dumps(evaluation, ensure_ascii=False, indent=2)
    if Path(output).suffix.lower() == ".md":
        text = _card(evaluation)
    with atomic_write(output, force=force) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")


def evaluate(result: FeatureFile, split: str | None = None) -> dict[str, Any]:
    """Return CLIP_benchmark's object for a result; see `write`."""
    entry = results.newest_entry(result)
    if not result.is_result or entry.command not in TASKS:
        expected = f"expected a result of {', '.join(TASKS)}"
        raise UsageError(f"{result.display_name}: {expected}, got {result.kind} of {entry.command}")
    metrics: dict[str, Any] = {}
    if entry.command in ("zeroshot", "probe"):
        _, split = choose_split(result, split)
        metrics = _accuracies(result, entry.command, split)
    elif split is not None:
        raise UsageError(f"--split: expected a result of zeroshot or probe, got {entry.command}")
    else:
        split = " + ".join(map(str, entry.list_of("splits")))
    for row in result.rows():
        if entry.command == "retrieve":
            metrics[f"{row['split']}_recall@{row['k']}"] = row["recall"]
        elif entry.command == "choose":  # the first category is all, or the only one
            metrics.setdefault(row["split"], row["accuracy"])
    return {
        "dataset": _dataset(result),
        **_model(result),
        "task": TASKS[entry.command][0],
        "metrics": {name: value for name, value in metrics.items() if math.isfinite(value)},
        "language": "en",
        "split": split,
    }


def _accuracies(result: FeatureFile, command: str, split: str) -> dict[str, Any]:
    """Return the accuracies of the only run that was scored on a split."""
    runs = result.runs_on(split)
    if len(runs) != 1:
        raise UsageError(
            f"{result.display_name}: expected one run on {split}, got {len(runs)}",
            "choose one on validation images with --val, or give probe one value of each option",
        )
    measured = select(runs[0], ACCURACIES)
    if command == "zeroshot":
        return measured
    got = runs[0]["classifier"] + (" on logits" if result.history.last("logits") else "")
    if got not in classifiers.LINEAR:
        expected = f"expected a probe by {' or '.join(classifiers.LINEAR)} on embeddings"
        raise UsageError(f"{result.display_name}: {expected}, got {got}")
    probed = {f"lp_{name}": value for name, value in measured.items()}
    return {**probed, "fewshot_k": runs[0].get("shots", -1)}


def _dataset(result: FeatureFile) -> str:
    """Return the name of the data set; items, or labels in place of its classes, make another."""
    items = results.newest_entry(result).list_of("items")
    name = " + ".join(map(str, items)) or provenance(result).dataset
    relabeled = result.history.last("relabel")
    return f"{name}/{relabeled.get('column') or 'relabelled'}" if relabeled else name


def _model(result: FeatureFile) -> dict[str, str]:
    """Return a model by the two names of open_clip, or by the name of its repository."""
    model = result.history.model
    name = str(model.get("name", ""))
    names = {repository: alias for alias, repository in ALIASES.items()}  # the last is open_clip's
    weights = ""
    if name in names:
        name, _, weights = names[name].partition("/")
    if "untrained" in model:
        weights = f"untrained {model['untrained']}"
    return {"model": f"{name} {feature_name(model)}".strip(), "pretrained": weights}


def _card(evaluation: dict[str, Any]) -> str:
    """Return a model card that holds nothing but metrics."""
    from huggingface_hub import EvalResult, ModelCardData

    hub_type = dict(TASKS.values())[evaluation["task"]]
    entries = []
    for metric, value in evaluation["metrics"].items():
        if metric == "fewshot_k":
            continue
        entry = EvalResult(
            task_type=hub_type,
            task_name=evaluation["task"],
            dataset_type=evaluation["dataset"],
            dataset_name=evaluation["dataset"],
            dataset_split=evaluation["split"],
            metric_type="recall" if "recall" in metric else "accuracy",
            metric_name=metric,
            metric_value=value,
        )
        entries.append(entry)
    name = f"{evaluation['model']} {evaluation['pretrained']}".strip()
    return f"---\n{ModelCardData(model_name=name, eval_results=entries).to_yaml()}\n---"
