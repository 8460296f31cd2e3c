"""`clipkit zeroshot`: the class whose prompt is nearest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipkit.commands import FeatureInput, Force, Format, ResultOutput, check_format, entry, finish
from clipkit.errors import ClipkitError

if TYPE_CHECKING:
    from clipkit.store import FeatureFile, Split


def zeroshot(
    file: FeatureInput = "-",
    split: Annotated[
        list[str] | None,
        typer.Option("--split", metavar="NAME", help="Only this split; repeatable."),
    ] = None,
    output: ResultOutput = None,
    format: Format = None,
    force: Force = False,
) -> None:
    """Zero-shot accuracy: each image gets the class of its most similar prompt.

    The prompts come from textembed --classes, which also averages templates. Images without labels get predictions,
    kept with -o, and no accuracy.

    Example: clipkit textembed --classes img.h5 | clipkit logits img.h5 - | clipkit zeroshot
    """
    from clipkit import files, store

    check_format(format)
    if output is not None:
        files.check_output(output, force=force)
    with store.opened(file, kinds=["logits"]) as logits:
        names = chosen(logits, split, file)
        result = store.FeatureFile("result", class_names=logits.class_names)
        rows = []
        for name in names:
            row, result.splits[name] = _score(logits, name)
            rows.append(row)
        result.history = [
            *logits.history,
            entry("zeroshot", splits=names, inputs={"logits": logits.digest}),
        ]
    finish(rows, result, output, force, format)


def chosen(file: FeatureFile, splits: list[str] | None, shown: str) -> list[str]:
    """The splits that are asked for, all by default."""
    from clipkit.errors import unknown

    for name in splits or []:
        if name not in file.splits:
            raise unknown(
                f"split of {'standard input' if shown == '-' else shown}", name, file.splits
            )
    return splits or list(file.splits)


def _score(logits: FeatureFile, name: str) -> tuple[dict[str, Any], Split]:
    import numpy as np

    from clipkit import metrics, store

    split, names = logits.splits[name], logits.class_names
    if not names or logits.class_index is None or (logits.class_index < 0).all():
        raise ClipkitError(
            "zero-shot needs prompts that belong to the images' classes; got none",
            "make them with: clipkit textembed --classes",
        )
    missing = sorted(set(range(len(names))) - set(logits.class_index.tolist()))
    if missing:
        raise ClipkitError(
            f"every class must have a prompt; {len(missing)} have none, {names[missing[0]]!r} for one"
        )
    predicted, top5, at = [], 0.0, 0
    for block in store.Rows.of(split.features).blocks():
        per_class, best = metrics.zero_shot(block, logits.class_index, len(names))
        predicted.append(best)
        if split.labels is not None and len(names) >= 5:
            top5 += metrics.topk_accuracy(per_class, split.labels[at : at + len(block)], 5) * len(
                block
            )
        at += len(block)
    best = np.concatenate(predicted)
    row: dict[str, Any] = {"split": name, "acc1": None, "acc5": None, "mean_per_class_recall": None}
    if split.labels is not None:
        row["acc1"] = metrics.accuracy(split.labels, best)
        row["acc5"] = top5 / at if len(names) >= 5 else None
        row["mean_per_class_recall"] = metrics.mean_per_class_recall(split.labels, best)
    return row, store.Split(labels=split.labels, ids=split.ids, predicted=best[None])
