"""Results in the forms that CLIP_benchmark and the model cards of the Hugging Face Hub have.

CLIP_benchmark writes a JSON object per model, data set and task, and `clip_benchmark build` makes a
table of many. A model card has the same numbers in its `model-index`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from clipkit.analysis import results
from clipkit.base import console
from clipkit.base.errors import UsageError
from clipkit.base.files import atomic_write
from clipkit.features.history import feature_name, provenance
from clipkit.features.model import FeatureFile
from clipkit.models.hub import ALIASES


class Task(NamedTuple):
    """A task by CLIP_benchmark's name and the Hub's."""

    name: str
    hub_type: str


TASKS = {  # of the results of a command
    "zeroshot": Task("zeroshot_classification", "zero-shot-image-classification"),
    "probe": Task("linear_probe", "image-classification"),
    "retrieve": Task("zeroshot_retrieval", "image-text-retrieval"),
    "choose": Task("image_caption_selection", "image-text-matching"),
}
LINEAR = ("svm", "logreg")
ACCURACIES = ("acc1", "acc5", "mean_per_class_recall")


def write(
    output: str, result: FeatureFile, *, split: str | None = None, force: bool = False
) -> None:
    """Write a result as the JSON object of CLIP_benchmark or, as .md, a card with a `model-index`.

    A warning names what the numbers do not say, and what the history does not name.

    Raises
    ------
    UsageError
        If the result is not of a task that both know, or several runs were scored on the split.
        By default, the split is `test` or else the first.
    """
    evaluation = evaluate(result, split)
    for name in ("dataset", "model"):
        if not evaluation[name]:
            message = f"{output}: the history of {result.display_name} names no {name}"
            console.warn(f"{message}: write it in")
    for caveat in results.caveats(result, split):
        console.warn(f"{output}: {results.describe_caveat(caveat)}")
    if any("draw" in dataset for dataset in result.history.datasets):
        console.warn(f"{output}: the images are a part of the data set, chosen with --limit")
    text = json.dumps(evaluation, ensure_ascii=False, indent=2) + "\n"
    if Path(output).suffix.lower() == ".md":
        text = _card(evaluation, TASKS[_command(result)])
    with atomic_write(output, force=force) as temporary:
        temporary.write_text(text, encoding="utf-8")


def evaluate(result: FeatureFile, split: str | None = None) -> dict[str, Any]:
    """Return CLIP_benchmark's object for a result; see `write`."""
    command = _command(result)
    if command in ("zeroshot", "probe"):
        split = results.choose_split(result, split)
        metrics = _accuracies(result, command, split)
    else:
        split = " + ".join(map(str, results.newest_entry(result).list_of("splits")))
        metrics = {}
        for row in result.rows():
            if command == "retrieve":
                metrics[f"{row['split']}_recall@{row['k']}"] = row["recall"]
            else:  # the first category is all, or the only one
                metrics.setdefault(row["split"], row["accuracy"])
    return {
        "dataset": _dataset(result),
        **_model(result),
        "task": TASKS[command].name,
        "metrics": {name: value for name, value in metrics.items() if not _is_missing(value)},
        "language": "en",
        "split": split,
    }


def _command(result: FeatureFile) -> str:
    """Return the command that made a result with a task of `TASKS`."""
    command = str(results.newest_entry(result)["command"])
    if not result.is_result or command not in TASKS:
        raise UsageError(
            f"{result.display_name}: expected a result of {', '.join(TASKS)}, got {result.kind} "
            f"of {command}",
            "make it with their option -o",
        )
    return command


def _accuracies(result: FeatureFile, command: str, split: str) -> dict[str, Any]:
    """Return the accuracies of the only run that was scored on a split."""
    runs = result.runs_on(split)
    if len(runs) != 1:
        raise UsageError(
            f"{result.display_name}: expected one run on {split}, got {len(runs)}",
            "choose one on validation images with --val, or give probe one value of each option",
        )
    (run,) = runs
    measured = {name: run[name] for name in ACCURACIES if name in run}
    if command == "zeroshot":
        return measured
    inputs = "logits" if result.history.last("logits") else "embeddings"
    if run["classifier"] not in LINEAR or inputs == "logits":
        raise UsageError(
            f"{result.display_name}: expected a probe by {' or '.join(LINEAR)} on embeddings, got "
            f"{run['classifier']} on {inputs}"
        )
    metrics = {f"lp_{name}": value for name, value in measured.items()}
    return {**metrics, "fewshot_k": run.get("shots", -1)}


def _dataset(result: FeatureFile) -> str:
    """Return the name of the data set; items, or labels in place of its classes, make another."""
    items = results.newest_entry(result).list_of("items")
    name = " + ".join(map(str, items)) or provenance(result).dataset
    relabeled = result.history.last("relabel")
    if relabeled:
        name += f"/{relabeled.get('column') or 'relabelled'}"
    return name


def _model(result: FeatureFile) -> dict[str, str]:
    """Return a model's architecture and its weights, as CLIP_benchmark names them.

    Other models, which it does not know by two names, are named by their repositories.
    """
    model = result.history.model
    name = str(model.get("name", ""))
    names = {repository: alias for alias, repository in ALIASES.items()}  # the last is open_clip's
    architecture, _, weights = names.get(name, name).partition("/")
    if name not in names:
        architecture, weights = name, ""
    if "untrained" in model:
        weights = f"untrained {model['untrained']}"
    return {
        "model": " ".join(filter(None, [architecture, feature_name(model)])),
        "pretrained": weights,
    }


def _card(evaluation: dict[str, Any], task: Task) -> str:
    """Return a model card that holds nothing but metrics."""
    from huggingface_hub import EvalResult, ModelCardData

    name = f"{evaluation['model']} {evaluation['pretrained']}".strip()
    dataset = evaluation["dataset"]
    entries = []
    for metric, value in evaluation["metrics"].items():
        if metric == "fewshot_k":
            continue
        kind = "recall" if "recall" in metric else "accuracy"
        entries.append(
            EvalResult(
                task_type=task.hub_type,
                task_name=task.name,
                dataset_type=dataset,
                dataset_name=dataset,
                dataset_split=evaluation["split"],
                metric_type=kind,
                metric_name=metric,
                metric_value=value,
            )
        )
    data = ModelCardData(model_name=name, eval_results=entries)
    return f"---\n{data.to_yaml()}\n---\n"


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
