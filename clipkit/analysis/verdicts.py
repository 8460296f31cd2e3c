"""Keep what may be said of a result in the result, and read it again.

A question's record has `claims`, which makes them from a result's runs. They are stored in its
group `claims` when the question is asked. All readers show these: `--columns`, JSON, the terminal,
pages, pictures, notebooks and `info`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from clipkit.analysis.results import columns_of, newest_entry
from clipkit.base.errors import ClipkitError
from clipkit.base.tables import rounded
from clipkit.base.views import of_command
from clipkit.features.columns import BECAUSE, NEEDS, VERDICT
from clipkit.features.model import CLAIM_FIELDS, FeatureFile
from clipkit.statistics.claims import ABOVE, BELOW, NOT_DECIDED, Claim, Reference

COLUMNS = (VERDICT.name, BECAUSE.name, NEEDS.name)
TYPES = {"S": np.str_, "<i8": np.int64, "<f8": np.float64}


def keep(result: FeatureFile, claims: Sequence[Claim]) -> None:
    """Store claims in a result, in the place of those that it has."""
    rows = list(map(_as_row, claims))
    result.claims = {}
    if rows:
        for name, stored in CLAIM_FIELDS.items():
            result.claims[name] = np.array([row[name] for row in rows], TYPES[stored])


def _as_row(claim: Claim) -> dict[str, Any]:
    """Return the fields that a file holds of a claim."""
    row = {name: getattr(claim, name, None) for name in CLAIM_FIELDS}
    return row | {
        "rows": claim.n,
        "against": claim.against.name,
        "against_value": claim.against.value,
    }


def rows_of(result: FeatureFile) -> list[dict[str, Any]]:
    """Return the claims that a result holds, as one dict per claim."""
    columns = [result.claims[name].tolist() for name in result.claims]
    return [dict(zip(result.claims, row, strict=True)) for row in zip(*columns, strict=True)]


def claims_of(result: FeatureFile) -> list[Claim]:
    """Return the claims that a result holds, or else what its question claims of it.

    Another program's result holds none, and may lack the columns.
    """
    if not result.claims:
        return _made_now(result)
    claims = []
    for row in rows_of(result):
        against = Reference(row.pop("against"), row.pop("against_value"))
        claims.append(Claim(n=row.pop("rows"), against=against, **row))
    return claims


def keep_claims(result: FeatureFile) -> None:
    """Store in a result what its question claims of it, unless it holds claims already."""
    if not result.claims:
        keep(result, _made_now(result))


def _made_now(result: FeatureFile) -> list[Claim]:
    command = str(newest_entry(result)["command"])
    question = of_command(command)
    if question is None:
        return []
    try:
        columns_of(result, command, question.needs)
    except ClipkitError:
        return []
    return list(question.claims(result))


def of_runs(result: FeatureFile) -> list[dict[str, Any]]:
    """Return `verdict`, `because` and `needs` of each run; None for what is not said.

    A verdict that is above, below or not decided also says against what. Of several claims about a
    run, the texts are joined, and the rows that are needed are those that decide all.
    """
    of_run: list[list[Claim]] = [[] for _ in range(result.run_count)]
    for claim in claims_of(result):
        if claim.run >= 0:
            of_run[claim.run].append(claim)
    return list(map(_summary, of_run))


def _summary(claims: Sequence[Claim]) -> dict[str, Any]:
    verdicts, reasons, needed = [], [], []
    for claim in claims:
        verdicts.append(verdict_of(claim))
        reasons.append(claim.because)
        if not math.isnan(claim.needs):
            needed.append(claim.needs)
    texts = ["; ".join(filter(None, dict.fromkeys(found))) for found in (verdicts, reasons)]
    verdict, because = (text or None for text in texts)
    return dict(zip(COLUMNS, [verdict, because, max(needed, default=None)], strict=True))


def verdict_of(claim: Claim) -> str:
    """Return the verdict of a claim, with what it is held against.

    >>> verdict_of(Claim("right", 0.51, 0.47, 0.55, Reference("chance", 0.5), 600))
    'not decided against chance'
    """
    if claim.verdict == NOT_DECIDED:
        return f"{claim.verdict} against {claim.against.name}"
    if claim.verdict in (ABOVE, BELOW):
        return f"{claim.verdict} {claim.against.name}"
    return claim.verdict


def with_claims(rows: Sequence[Mapping[str, Any]], result: FeatureFile) -> Sequence[Any]:
    """Return the runs of a result with a list of their claims, if it holds any."""
    if not result.claims:
        return rows
    with_lists: list[dict[str, Any]] = [{**row, "claims": []} for row in rows]
    for claim in rows_of(result):
        run = claim.pop("run")
        if run >= 0:
            of_run = {name: rounded(value) for name, value in claim.items()}
            with_lists[run]["claims"].append(of_run)
    return with_lists


def add_verdicts(
    rows: Iterable[Mapping[str, Any]], result: FeatureFile
) -> Iterator[dict[str, Any]]:
    """Yield the runs of a result with their verdicts as further columns."""
    for row, verdict in zip(rows, of_runs(result), strict=True):
        yield {**row, **verdict, **row}  # a leaderboard has verdicts of its own
