"""What the ranks of queries are summed up as: one record for each metric.

To add one, write its record here and name it in `METRICS`. The command line names the columns, so
numpy is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipkit.features.columns import HIGHER, LABELS, LOWER, NUMBER, Column

if TYPE_CHECKING:
    from clipkit.analysis.retrieve.ranks import Chance, Ranks

RELATIVES = "null random_ranks control"


@dataclass(frozen=True)
class RankMetric:
    """A metric of the ranks of a task's queries.

    Parameters
    ----------
    column : Column
        It has an interval and `RELATIVES`, each of which is the metric of other ranks.
    measure : callable Ranks -> (value, low, high)
        Compute it, with the limits of its 95 % interval over another draw of queries.
    by_chance : callable Chance -> float
        Compute it for ranks by chance.
    """

    column: Column
    measure: Callable[[Ranks], tuple[float, float, float]]
    by_chance: Callable[[Chance], float]


def _median_rank(ranks: Ranks) -> tuple[float, float, float]:
    """Return the median rank; its limits are order statistics.

    They are as far from the middle as for the effective number of rows.
    """
    import numpy as np

    from clipkit.statistics import metrics

    median = float(np.median(ranks.ranks))
    rows = metrics.effective_rows(ranks.ranks <= median, ranks.clusters)
    level = min(0.5, metrics.QUANTILE / 2 / np.sqrt(rows))
    low = np.quantile(ranks.ranks, 0.5 - level, method="lower")
    high = np.quantile(ranks.ranks, 0.5 + level, method="higher")
    return median, float(low), float(high)


def _median_by_chance(chance: Chance) -> float:
    import numpy as np

    return float(np.argmax(chance.behind <= 0.5 + 1e-9))


def _mrr(ranks: Ranks) -> tuple[float, float, float]:
    """Return the mean reciprocal rank."""
    import numpy as np

    from clipkit.statistics import metrics

    reciprocal = 1 / ranks.ranks
    mrr = float(reciprocal.mean())
    rows = metrics.effective_rows(reciprocal, ranks.clusters)
    error = float(reciprocal.std()) / np.sqrt(rows)
    if error:  # on the logit scale, where the limits stay within 0..1
        half = metrics.QUANTILE * error / (mrr * (1 - mrr))
        odds = mrr / (1 - mrr)
        low, high = (float(ratio / (1 + ratio)) for ratio in odds * np.exp([-half, half]))
    else:  # equal ranks do not show how far others would be
        low, high = metrics.wilson(mrr, rows)
    # By chance, few queries have rank 1: if none has, only the null tells how far ranks spread
    null = ranks.by_chance
    if abs(mrr - null.mrr) <= metrics.QUANTILE * null.deviation() / np.sqrt(rows):
        low, high = min(low, null.mrr), max(high, null.mrr)
    return mrr, low, high


METRICS: tuple[RankMetric, ...] = (
    RankMetric(
        Column("median_rank", NUMBER, LABELS, better=LOWER, has_interval=True, relatives=RELATIVES),
        _median_rank,
        _median_by_chance,
    ),
    RankMetric(
        Column(
            "mrr",
            NUMBER,
            LABELS,
            title="MRR",
            better=HIGHER,
            decimals=4,
            has_interval=True,
            relatives=RELATIVES,
        ),
        _mrr,
        lambda chance: chance.mrr,
    ),
)
