"""Match the rows of several results, or other files, by their ids, and name the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipkit.analysis.results import Caveat, describe_caveat
from clipkit.base import console
from clipkit.base.errors import ClipkitError
from clipkit.features.compatibility import matching_split
from clipkit.features.model import FeatureFile, Int64
from clipkit.features.provenance import provenance


def same_split(result: FeatureFile, first: FeatureFile, split: str, same_rows: bool) -> str:
    """Return the split of a result that may hold the images of a split of the first result."""
    chosen = matching_split(result, first, split, same_rows=same_rows)
    if chosen is not None:
        return chosen
    got, hint = ", ".join(result.splits), "score the same split of the same data set"
    if _has_equal_row_numbers(result, first, split):
        got, hint = "row numbers of another import", "if rows are the same, add --same-rows"
    expected = f"the {split} images of {first.display_name}"
    raise ClipkitError(f"{result.display_name}: expected {expected}, got {got}", hint)


def _has_equal_row_numbers(result: FeatureFile, first: FeatureFile, split: str) -> bool:
    """Whether --same-rows would find rows of the first result's split in another result."""
    numbered = matching_split(result, first, split, same_rows=True)
    if numbered is None:
        return False
    return not set(result.splits[numbered].ids).isdisjoint(first.splits[split].ids)


def match_ids(results: Sequence[FeatureFile], splits: Sequence[str], common: bool) -> list[Int64]:
    """Return, for each result, the row numbers that put the images in the same order."""
    if len(results) == 1:
        return [np.arange(len(results[0].splits[splits[0]]))]
    indexes = list(map(_rows_by_id, results, splits))
    in_all = set(indexes[0]).intersection(*indexes[1:])
    shared = [row_id for row_id in indexes[0] if row_id in in_all]
    if len(shared) < max(map(len, indexes)):
        if not common or not shared:
            raise _missing_ids(results, splits, shared)
        _note_common(results, splits, len(shared))
    orders = []
    for rows in indexes:
        orders.append(np.array(list(map(rows.get, shared)), np.int64))
    return orders


def _rows_by_id(result: FeatureFile, split: str) -> dict[str, int]:
    """Return the row of each id of a split; the ids must differ."""
    rows = {row_id: row for row, row_id in enumerate(result.splits[split].ids)}
    count = len(result.splits[split])
    if len(rows) < count:
        raise ClipkitError(
            f"{result.display_name}: {split}: expected different ids, got {len(rows):,} in "
            f"{count:,} rows"
        )
    return rows


def _missing_ids(
    results: Sequence[FeatureFile], splits: Sequence[str], shared: Sequence[str]
) -> ClipkitError:
    """Return the error for the first result with ids that another result lacks."""
    in_all = set(shared)
    for result, split in zip(results, splits, strict=True):
        others = [row_id for row_id in result.splits[split].ids if row_id not in in_all]
        if others:
            break
    hint = "compare the images that all have with --common" if shared else None
    return ClipkitError(
        f"{result.display_name}: {split}: expected the same ids in all files, got "
        f"{len(others):,} that another lacks, for example {others[0]!r}",
        hint,
    )


def _note_common(results: Sequence[FeatureFile], splits: Sequence[str], count: int) -> None:
    """Note how many images are compared, and which splits they are in."""
    if len(set(splits)) == 1:
        console.note(f"{count:,} images of {splits[0]} are in all files")
        return
    places = []
    for split, result in zip(splits, results, strict=True):
        places.append(f"in {split} of {result.display_name}")
    console.note(f"{count:,} images are {' and '.join(places)}")


def name_files(results: Sequence[FeatureFile], runs: Sequence[int]) -> list[str]:
    """Name the results after their files, with folders or runs where names would be equal."""
    stems, paths, with_runs = [], [], []
    for result, run in zip(results, runs, strict=True):
        path = Path(result.display_name.encode("utf-8", "replace").decode())
        stems.append(path.stem)
        paths.append(str(path.with_suffix("")))
        with_runs.append(f"{path.stem} run {run}")
    for names in (stems, paths, with_runs):
        if len(set(names)) == len(results):
            return names
    return stems


def describe_pairing(
    results: Sequence[FeatureFile], splits: Sequence[str], *, common: bool, same_rows: bool
) -> dict[str, Any]:
    """Return what a history records of compared results, and of how their rows were matched."""
    sources = list(map(provenance, results))
    prompts = [source.prompts for source in sources]  # "" for a result without prompts
    return {
        "models": [source.model or "no model" for source in sources],
        "prompts": prompts if any(prompts) else None,
        "split": splits[0],
        "splits": list(splits) if len(set(splits)) > 1 else None,
        "common": common or None,  # images that a result lacks may be left out
        "same_rows": same_rows or None,  # row numbers of different imports may be matched
    }


def warn_of_caveats(names: Sequence[str], caveats: Sequence[Sequence[Caveat]]) -> list[Caveat]:
    """Warn of the caveats of all results; return each with the name of its result."""
    named: list[Caveat] = []
    for name, of_result in zip(names, caveats, strict=True):
        for caveat in of_result:
            named.append({**caveat, "result": name})
            console.warn(describe_caveat(named[-1]))
    return named
