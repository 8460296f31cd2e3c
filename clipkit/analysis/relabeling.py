"""Replace the labels of a feature file: by an attribute, by groups of classes, or shuffled.

Shuffled labels are controls. If labels are permuted over the rows, there is nothing to learn. If
groups are assigned to the classes at random (the control task of Hewitt and Liang, 2019), a probe
can learn them only by separating the classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipkit.analysis.results import NONE, as_result, holds_classes, read_groups
from clipkit.analysis.verdicts import keep_claims
from clipkit.base import console, files, suggestions
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.base.matrices import Int64
from clipkit.features.annotations import TABLE_HINT, Attribute, read_attribute
from clipkit.features.arguments import Features, as_file, checked
from clipkit.features.arrays import missing_labels
from clipkit.features.attribute_tables import Table
from clipkit.features.columns import LABELS, TEXT
from clipkit.features.model import FeatureFile, known_columns
from clipkit.statistics import metrics
from clipkit.statistics.dependence import permute


@checked
def relabel(
    file: Features,
    table: Table | None = None,
    *,
    column: str | None = None,
    groups: str | None = None,
    shuffle: bool = False,
    seed: int = 42,
    common: bool = False,
) -> FeatureFile:
    """Replace the labels of a file and keep its features: what `clipkit relabel` writes.

    Parameters
    ----------
    file : Features
        Of kind images or logits. With `groups`, also a result with predictions.
    table : Table, optional
        A table of attributes, or ``shapes``.
    column : str, optional
        The attribute to use; optional if the table has only one. ``a*b`` combines two.
    groups : str, optional
        A file with lines of class TAB group.
    shuffle : bool
        Permute the labels over the rows of each split or, with `groups`, the groups over the
        classes.
    seed : int
        Random seed of `shuffle`.
    common : bool
        Leave out rows that the table lacks, instead of refusing them.

    Raises
    ------
    UsageError
        If neither or both of `table` and `groups` are given (neither is allowed with `shuffle`). If
        there is no such attribute. If the file is a result and `groups` is not given.
    ClipkitError
        If the table or the groups do not fit the file.
    """
    file = as_file(file, "file", "images logits result")
    if table is None and column is not None:
        raise UsageError("expected --table for --attribute, got none", TABLE_HINT)
    if table is None and groups is None and not shuffle:
        raise UsageError(
            "expected --table, --groups or --shuffle, got none",
            "labels by a table: --table TABLE --attribute NAME",
        )
    if table is not None and groups is not None:
        raise UsageError("expected --table or --groups, got both", "pipe one relabel into another")
    if table is not None and file.is_result:
        raise UsageError(
            f"{file.display_name}: expected images or logits for a table, got a result",
            "show a result by attribute with: clipkit compare --table",
        )
    inputs = {"features": file.digest}
    relabeled, source = file, None
    if table is not None:
        annotations = read_attribute(file, table, column, common=common)
        (attribute,) = annotations.attributes
        relabeled = use_attribute(file, attribute)
        column, source = attribute.name, annotations.source
        inputs |= annotations.inputs
    if groups is not None:
        of_class = read_groups(groups, file.class_names or [])
        inputs["groups"] = groups_digest(of_class)
        relabeled = use_groups(file, of_class, seed if shuffle else None)
    elif shuffle:
        relabeled = shuffle_rows(relabeled, seed)
    history = file.extended_history(
        "relabel",
        attributes=source,
        column=column,
        shuffle=shuffle or None,
        seed=seed if shuffle else None,
        common=common or None,
        inputs=inputs,
    )
    return replace(relabeled, history=history)


def label_by_attribute(
    file: FeatureFile,
    table: Table | None,
    attribute: str | None,
    *,
    common: bool = False,
    needs_prompts: bool = False,
) -> FeatureFile:
    """Relabel images or logits by an attribute of a table; without a table, return them as is.

    With `needs_prompts`, logits are refused of which no prompt is called after a value.
    """
    if table is None and attribute is None:
        return file
    labelled = relabel(file, table, column=attribute, common=common)
    if needs_prompts and (np.asarray(labelled.class_index) < 0).all():
        name, value = labelled.history[-1]["column"], (labelled.class_names or [""])[0]
        words = ("clipkit", "relabel", "img.h5", "--table", table, "--attribute", name)
        make = suggestions.command(*words)
        raise ClipkitError(
            f"{file.display_name}: expected prompts called after the values of {name} "
            f"({value!r} or '{name}: {value}'), got none",
            f"relabel the images: {make} | clipkit logits - words.h5 | clipkit zeroshot",
        )
    return labelled


def groups_digest(of_class: Sequence[str]) -> str:
    """Return the digest of the group of each class, for a history."""
    return files.digest(repr(of_class).encode())


def use_attribute(file: FeatureFile, attribute: Attribute) -> FeatureFile:
    """Return images or logits with the values of an attribute as their classes.

    Rows without a value are left out; each split needs one. The prompts of logits belong to the
    values after which their classes are called: ``red`` or ``colour: red``.
    """
    splits = {}
    left_out = 0
    for name, split in file.splits.items():
        codes = attribute.codes[name]
        rows = np.flatnonzero(codes >= 0)
        if not len(rows):
            raise ClipkitError(
                f"{file.display_name}: {name}: expected rows with a value of {attribute.name}, "
                "got none"
            )
        if len(rows) < len(split):
            left_out += len(split) - len(rows)
            split = split.take_in_blocks(rows)
        splits[name] = replace(split, labels=codes[rows])
    if left_out:
        console.note(f"left out {left_out:,} rows without a value of {attribute.name}")
    class_index = _prompts_of_values(file, attribute)
    return replace(file, splits=splits, class_names=attribute.values, class_index=class_index)


def _prompts_of_values(file: FeatureFile, attribute: Attribute) -> Int64 | None:
    """Return the value (K) that each prompt's class is called after, or -1."""
    if file.class_index is None:
        return None
    value_of: dict[str, int] = {}
    for code, value in enumerate(attribute.values):
        value_of |= {value: code, f"{attribute.name}: {value}": code}
    codes = [value_of.get(name, -1) for name in file.class_names or []]
    return np.array([*codes, -1], np.int64)[file.class_index]  # -1 is the last


def use_groups(file: FeatureFile, groups: Sequence[str], seed: int | None = None) -> FeatureFile:
    """Replace the classes of a file by groups of them, sorted by name.

    Labels, the classes of prompts, and predictions become groups. In a result, the columns that
    depend on labels are computed again; `acc5`, which needs the scores of the classes, is NaN. A
    seed permutes the groups (C) over the classes; the sizes of the groups stay the same.
    """
    if file.is_result and not holds_classes(file):
        raise ClipkitError(
            f"{file.display_name}: expected a result with predicted classes, got none"
        )
    names, group_of_class = np.unique(groups, return_inverse=True)
    if seed is not None:
        is_class = np.array([name != NONE for name in file.class_names or []], bool)
        permuted = np.random.RandomState(seed).permutation(group_of_class[is_class])
        group_of_class[is_class] = permuted
    splits = {}
    for name, split in file.splits.items():
        splits[name] = grouped_split = replace(split)
        if split.labels is not None:
            grouped_split.labels = group_of_class[split.labels]
        if split.predicted is not None:
            grouped_split.predicted = group_of_class[split.predicted]
    class_index = file.class_index
    if class_index is not None:
        class_index = np.where(class_index < 0, -1, group_of_class[class_index])
    grouped = replace(file, splits=splits, class_names=names.tolist(), class_index=class_index)
    if not file.is_result:
        return grouped
    # what a probe fitted are the earlier classes
    scored = replace(as_result(grouped), runs=_scored_again(grouped), claims={})
    keep_claims(scored)
    return scored


def _scored_again(result: FeatureFile) -> dict[str, NDArray[Any]]:
    """Return the runs with what depends on labels computed again from labels and predictions.

    It is NaN if it does not follow from them.
    """
    runs = dict(result.runs)
    known = known_columns(result)
    names = {name for name in known.keys() & runs if known[name].depends_on == LABELS}
    for name in names:
        unknown = "" if known[name].unit is TEXT else np.nan
        runs[name] = np.full(result.run_count, unknown)
    classes = result.class_names or []
    none = classes.index(NONE) if NONE in classes else None
    for split_name, split in result.splits.items():
        if split.labels is None or split.predicted is None:
            continue
        numbers = result.numbers_on(split_name)
        for run, predicted in zip(numbers, split.predicted, strict=True):
            scores = metrics.scores(split.labels, predicted, none, split.cluster)
            for name in names & scores.keys():
                runs[name][run] = scores[name]
    return runs


def shuffle_rows(file: FeatureFile, seed: int) -> FeatureFile:
    """Permute the labels of images or logits over the rows, or clusters, of each split."""
    if file.is_result:
        raise UsageError(
            f"{file.display_name}: expected images or logits to shuffle, got a result",
            "shuffle the groups of its classes: --groups FILE --shuffle",
        )
    rng = np.random.RandomState(seed)
    if not file.is_labelled:
        raise missing_labels(file, "expected labels, got none")
    splits = dict(sorted(file.splits.items()))
    for name, split in splits.items():
        if split.labels is not None:
            order = permute(rng, len(split), split.cluster)
            splits[name] = replace(split, labels=split.labels[order])
    return replace(file, splits=splits)
