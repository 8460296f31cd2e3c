"""Join feature files of one model: their splits, prompts and classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.base.matrices import BlockMatrix, Float32, Int64
from clipkit.base.names import distinct_names
from clipkit.features import compatibility, model_settings
from clipkit.features.arguments import Features, Several, as_files, as_list, checked
from clipkit.features.clusters import fill_clusters, has_clusters, next_cluster
from clipkit.features.history import History
from clipkit.features.matching import choose_splits
from clipkit.features.model import FeatureFile, Split

NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")


class _FileSplit(NamedTuple):
    """A split of the file with a display name."""

    file: str
    split: Split


@checked
def concat(
    files: Several[Features],
    *,
    prefix: bool = False,
    keep_apart: bool = False,
    splits: Several[str] | None = None,
) -> FeatureFile:
    """Join files: what `clipkit concat` writes.

    Parameters
    ----------
    files : Features, or F of them
        All of kind images, texts or logits, of one model and one width. Logits need the same
        prompts and the same temperature.
    prefix : bool
        Put the name of its file before each id.
    keep_apart : bool
        Name each split after its file, instead of joining splits of the same name.
    splits : str or sequence of str, optional
        Use only these splits of each file, all by default. ``a,b`` joins two, and ``all`` joins all
        of them: see `matching.choose_splits`.

    Returns
    -------
    FeatureFile
        Rows come file by file. Features are read when they are used. Different class names are
        united by name: the first file's come first. The history holds the entries of all
        files, and then one with the number of `entries` and the digest of each.

    Raises
    ------
    UsageError
        If there is only one file, without splits to join, or an option does not fit.
    ClipkitError
        If kinds, models, widths, prompts or temperatures differ, or a split would have an id twice
        or labels for a part of its rows.
    """
    parts = as_files(files, "files", "images texts logits")
    splits = as_list(splits, "splits", str)
    if len(parts) < 2 and not splits:
        raise UsageError(
            f"files: expected two or more, got {len(parts)}",
            "join the splits of one file with --split all",
        )
    if splits:
        parts = [_only_splits(file, splits) for file in parts]
    _check_alike(parts)
    names = file_names(parts)
    class_names, numbers = compatibility.unite_classes(parts)
    numbered = _separate_clusters(list(map(_renumber, parts, numbers)))
    if parts[0].kind == "texts":
        if prefix or keep_apart:
            raise UsageError("expected images or logits for --prefix and --keep-apart, got texts")
        joined = _join_texts(numbered)
    else:
        joined = _join_splits(numbered, names, prefix=prefix, keep_apart=keep_apart)
    joined.class_names = class_names
    joined.display_name = ", ".join(file.display_name for file in parts)
    history = History()
    entries, inputs = [], {}
    joined_splits: dict[str, list[str]] = {}
    for number, file in enumerate(parts, 1):
        history += file.history
        entries.append(len(file.history))
        inputs[f"file {number}"] = file.digest
        if not keep_apart:  # else joined splits get other names
            joined_splits |= file.joined
    joined.history = history.extended(
        "concat",
        files=names,
        entries=entries,
        prefix=prefix or None,
        keep_apart=keep_apart or None,
        splits=list(parts[0].splits) if splits else None,
        joined=joined_splits or None,
        inputs=inputs,
    )
    return joined


def _only_splits(file: FeatureFile, splits: Sequence[str]) -> FeatureFile:
    """Return a file with some of its splits, joined as their names say."""
    if file.kind == "texts":
        raise UsageError(f"{file.display_name}: expected images or logits for --split, got texts")
    chosen, names = choose_splits(file, splits)
    for name, parts in chosen.joined.items():
        labelled = [part for part in parts if file.splits[part].labels is not None]
        if labelled and len(labelled) < len(parts):
            raise ClipkitError(
                f"{file.display_name}: {name}: expected labels in all splits or in none, got them "
                f"in {', '.join(labelled)}"
            )
    return replace(chosen, splits={name: chosen.splits[name] for name in names}, as_read=file)


def file_names(files: Sequence[FeatureFile]) -> list[str]:
    """Return a different name for each file: its stem, or its path where stems are equal."""
    paths = [Path(file.display_name) for file in files]
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(files):
        return stems
    return distinct_names([str(path.with_suffix("")) for path in paths])


def _check_alike(files: Sequence[FeatureFile]) -> None:
    """Refuse files that differ in kind, model, width or a setting; note other precisions."""
    first = files[0]
    settings = [one for one in model_settings.SETTINGS if first.kind in one.kinds]
    for file in files[1:]:
        both = f"{first.display_name} and {file.display_name}"
        _check_equal(both, "kind", first.kind, file.kind, "join images, texts and logits apart")
        compatibility.common_logit_scale(first, file)
        if first.kind == "logits":
            compatibility.check_same_prompts(first, file)
        _check_equal(both, "dimension", _width(first), _width(file))
        compatibility.check_settings(first, file, [one for one in settings if not one.joins])
        hint = "make logits of both at one temperature"
        _check_equal(both, "temperature", first.temperature, file.temperature, hint)
    for setting in settings:
        values = {str(setting.value(file.history)) for file in files} - {"None"}
        if setting.joins and len(values) > 1:
            what = f"different {setting.name}s"
            console.note(f"files were computed in {what}: {', '.join(sorted(values))}")


def _check_equal(both: str, what: str, a: object, b: object, hint: str | None = None) -> None:
    if a != b:
        raise ClipkitError(f"{both}: expected one {what}, got {a} and {b}", hint)


def _width(file: FeatureFile) -> int:
    return next(iter(file.matrices().values())).shape[1]


def _renumber(file: FeatureFile, number: Int64 | None) -> FeatureFile:
    """Return a file with the new numbers of its classes in labels and prompts."""
    if number is None or not len(number):
        return file
    splits = dict(file.splits)
    for name, split in file.splits.items():
        if split.labels is not None:
            splits[name] = replace(split, labels=number[split.labels])
    index = file.class_index
    if index is not None:
        index = np.where(index < 0, -1, number[index])
    return replace(file, splits=splits, class_index=index)


def _separate_clusters(files: Sequence[FeatureFile]) -> list[FeatureFile]:
    """Return files whose clusters have different numbers, if a file has clusters."""
    if not any(has_clusters(file.splits) for file in files):
        return list(files)
    separated = []
    first = 0
    for file in files:
        splits = fill_clusters(file.splits, first)
        first = next_cluster(splits)
        separated.append(replace(file, splits=splits))
    return separated


def _join_texts(files: Sequence[FeatureFile]) -> FeatureFile:
    texts: list[str] = []
    features, indices = [], []
    for file in files:
        features.append(file.features)
        texts += file.texts or []
        indices.append(np.asarray(file.class_index))
    joined = FeatureFile("texts", texts=texts, features=BlockMatrix.join(features))
    joined.class_index = np.concatenate(indices)
    _join_other_texts(joined, files)
    return joined


def _join_other_texts(joined: FeatureFile, files: Sequence[FeatureFile]) -> None:
    """Give joined texts the other texts of all files, each of them once."""
    row_of: dict[str, Float32] = {}
    for file in files:
        if file.other_texts is None or file.other_features is None:
            continue
        for text, row in zip(file.other_texts, file.other_features, strict=True):
            row_of.setdefault(text, row)
    if row_of:
        joined.other_texts = list(row_of)
        joined.other_features = np.stack(list(row_of.values()))


def _join_splits(
    files: Sequence[FeatureFile], names: Sequence[str], *, prefix: bool, keep_apart: bool
) -> FeatureFile:
    """Join the splits of images or logits."""
    first = files[0]
    index = first.class_index
    for file in files[1:]:
        if index is not None and not np.array_equal(index, np.asarray(file.class_index)):
            raise ClipkitError(
                f"{first.display_name} and {file.display_name}: expected prompts of the same "
                "classes, got others",
                "join the images, and then make logits",
            )
    parts: dict[str, list[_FileSplit]] = {}
    for file, name in zip(files, names, strict=True):
        for split_name, split in file.splits.items():
            if prefix:
                split = replace(split, ids=[f"{name}/{row_id}" for row_id in split.ids])
            if keep_apart:
                split_name = _name_after(name, split_name, len(file.splits))
                if split_name in parts:
                    raise ClipkitError(
                        f"{file.display_name}: expected files whose names differ, got the split "
                        f"{split_name} twice",
                        "rename a file",
                    )
            parts.setdefault(split_name, []).append(_FileSplit(file.display_name, split))
    splits = {name: _join_rows(name, rows) for name, rows in parts.items()}
    return replace(first, splits=splits, digest_read="", as_read=None)


def _name_after(file: str, split: str, count: int) -> str:
    """Return the name of a split that is kept apart: its file's, with its own if needed.

    >>> _name_after("my photos", "all", 1), _name_after("a", "test", 2)
    ('my-photos', 'a-test')
    """
    name = NOT_IN_NAMES.sub("-", file).strip("-.") or "file"
    return name if count == 1 else f"{name}-{split}"


def _join_rows(name: str, parts: Sequence[_FileSplit]) -> Split:
    """Join splits of several files into one."""
    features, labels, clusters = [], [], []
    first = parts[0]
    file_of: dict[str, str] = {}
    for file, split in parts:
        features.append(split.features)
        if (split.labels is None) != (first.split.labels is None):
            raise ClipkitError(
                f"{first.file} and {file}: {name}: expected labels in both or in neither",
                "keep their splits apart with --keep-apart",
            )
        if split.labels is not None:
            labels.append(split.labels)
        if split.cluster is not None:
            clusters.append(split.cluster)
        for row_id in split.ids:
            if row_id in file_of:
                raise ClipkitError(
                    f"{file_of[row_id]} and {file}: {name}: expected different ids, got "
                    f"{row_id!r} in both",
                    "put the file's name before each id with --prefix",
                )
        file_of |= dict.fromkeys(split.ids, file)
    joined = Split(BlockMatrix.join(features), ids=list(file_of))
    if labels:
        joined.labels = np.concatenate(labels)
    if clusters:
        joined.cluster = np.concatenate(clusters)
    return joined
