"""Divide a split of a feature file: what `clipkit split` writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from clipkit.base.errors import UsageError
from clipkit.features.annotations import read_annotations
from clipkit.features.arguments import Features, as_file, checked
from clipkit.features.attribute_tables import Table
from clipkit.features.draws import choose_source, replace_split, split_rows
from clipkit.features.draws import stratified_split as stratified_split
from clipkit.features.matching import choose_splits
from clipkit.features.model import FeatureFile


@checked
def split(  # noqa: PLR0913 (the options of `clipkit split`)
    file: Features,
    fractions: Mapping[str, float],
    *,
    source: str | None = None,
    seed: int = 42,
    column: str | None = None,
    table: Table | None = None,
    by_folder: bool = False,
    common: bool = False,
) -> FeatureFile:
    """Divide a split of a file: what `clipkit split` writes.

    Parameters
    ----------
    file : Features
        Of kind images or logits.
    fractions : dict of str to float
        New splits, each with its fraction of the rows: ``{"test": 0.2, "val": 0.1}``. See
        `split_rows`.
    source : str, optional
        The split to divide, or several as `matching.choose_splits` joins them: by default the only
        one, or else `train`. The others are kept.
    seed : int
        Random seed of the draw.
    column : str, optional
        An attribute of the rows. Rows with the same value are a group and stay together. A row
        without a value is a separate group.
    table : Table, optional
        The file that holds the attribute, or ``shapes``; see `read_annotations`.
        Without an attribute, the clusters of the file are the groups.
    by_folder : bool
        Keep the rows of a folder together: their ids are equal up to the last slash.
    common : bool
        Whether the table may lack rows: each is then a separate group.

    Returns
    -------
    FeatureFile
        Rows keep their ids and their order. Features are selected when they are read.

    Raises
    ------
    UsageError
        If `split_rows` does, or there is no such attribute, or two kinds of groups are given.
    ClipkitError
        If a new split would have no rows, or the table does not fit.
    """
    file = as_file(file, "file", "images logits")
    if source is not None:
        file, (source,) = choose_splits(file, [source])
    source = choose_source(file.splits, source, file.display_name)
    inputs = {"features": file.digest}
    if by_folder and (column or table is not None):
        raise UsageError("expected groups by folder or by an attribute, got both")
    if table is not None and not column:
        raise UsageError("expected --attribute for --table, got none")
    groups = file.splits[source].cluster
    if by_folder:
        folders = [row_id.rpartition("/")[0] for row_id in file.splits[source].ids]
        groups = np.asarray(np.unique(folders, return_inverse=True)[1], np.int64)
    if column:
        divided = replace(file, splits={source: file.splits[source]})
        annotations = read_annotations(divided, table, [column], categories=False, common=common)
        inputs |= annotations.inputs
        groups = annotations.attributes[0].codes[source]
    joined = file.joined.get(source, [])
    splits = {name: rows for name, rows in file.splits.items() if name not in joined}
    rows = split_rows(
        splits,
        fractions,
        source=source,
        seed=seed,
        groups=groups,
        class_names=file.class_names,
        display_name=file.display_name,
    )
    parts = {name: file.splits[source].take_in_blocks(numbers) for name, numbers in rows.items()}
    splits = replace_split(splits, source, parts)
    history = file.extended_history(
        "split",
        source=source,
        fractions=dict(fractions),
        rows={name: len(numbers) for name, numbers in rows.items()},
        groups="folder" if by_folder else column,
        common=common or None,
        seed=seed,
        inputs=inputs,
    )
    return replace(file, splits=splits, history=history, as_read=None)
