"""Match the rows of several results, or other files, by their ids, and name the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipkit.analysis.results import Caveat, describe_caveat
from clipkit.base import console
from clipkit.base.errors import ClipkitError
from clipkit.base.matrices import Int64
from clipkit.features import matching
from clipkit.features.compatibility import matching_split
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile
from clipkit.features.provenance import provenance


def same_split(
    result: FeatureFile, first: FeatureFile, split: str, same_rows: bool
) -> tuple[FeatureFile, str]:
    """Return a result and its split that may hold the images of a split of the first result.

    If splits of the first file are joined, so are the splits of the other that match them.
    """
    parts = first.joined.get(split, [])
    found = [matching_split(result, first, part, same_rows=same_rows) for part in parts]
    if all(found) and found:
        return choose_split(result, ",".join(map(str, found)))
    chosen = matching_split(result, first, split, same_rows=same_rows)
    if chosen is not None:
        return result, chosen
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
    first, *others = map(matching.Rows.of, results, splits)
    all_places = []
    for other in others:
        places = matching.match(first, other, "image", common=common)
        matching.check_partners(other, first, _inverse(places, len(other.ids)), "image", common)
        all_places.append(places)
    is_in_all = (np.stack(all_places) >= 0).all(axis=0)
    if not is_in_all.any():
        names = ", ".join(result.display_name for result in results)
        raise ClipkitError(f"{names}: expected images that all of them have, got none")
    return [np.flatnonzero(is_in_all), *(places[is_in_all] for places in all_places)]


def _inverse(places: Int64, count: int) -> Int64:
    """Return the row (M,) of each of `count` places; -1 for none."""
    rows = np.full(count, -1)
    rows[places[places >= 0]] = np.flatnonzero(places >= 0)
    return rows


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
