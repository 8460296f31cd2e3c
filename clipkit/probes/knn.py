"""The nearest fitted rows, which vote."""

from __future__ import annotations

import numpy as np

from clipkit.base.matrices import Floats, Int64
from clipkit.probes.models import Neighbours, unit_rows
from clipkit.probes.sweep_context import Solution, SweepContext
from clipkit.statistics.metrics import best_classes

NEIGHBOURS = 20  # as in DINOv2's kNN protocol


def knn(context: SweepContext) -> list[Solution]:
    """Predict by the nearest rows, weighted by exp(cosine / temperature), as DINOv2 does."""
    model = Neighbours(unit_rows(context.X), context.y, context.n_classes, context.k or NEIGHBOURS)
    blocks = list(model.blocks(context.X_eval))
    report_progress = context.workers.progress(len(blocks))

    def vote(block: Floats) -> Int64:
        votes = model.vote(block)
        has_neighbour = votes > 0
        best = best_classes(votes)
        report_progress(1)
        return np.where(np.take_along_axis(has_neighbour, best, axis=1), best, best[:, :1])

    best = np.concatenate(context.workers.map(vote, blocks))
    # neither scale nor C matters
    return [Solution(best, model=context.kept_model(model))] * len(context.settings)
