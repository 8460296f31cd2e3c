"""`clipkit cluster`: do classes appear without labels?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipkit import console
from clipkit.commands import (
    FeatureInput,
    Force,
    Format,
    ResultOutput,
    Seed,
    check_format,
    entry,
    finish,
)
from clipkit.errors import ClipkitError

if TYPE_CHECKING:
    from clipkit.store import FeatureFile


def cluster(
    file: FeatureInput = "-",
    split: Annotated[
        list[str] | None,
        typer.Option(
            "--split", metavar="NAME", help="The split to cluster: test, if there is one."
        ),
    ] = None,
    k: Annotated[
        list[int] | None,
        typer.Option("-k", min=2, help="Clusters; as many as classes by default. Repeatable."),
    ] = None,
    seed: Seed = 42,
    output: ResultOutput = None,
    format: Format = None,
    force: Force = False,
) -> None:
    """K-means on embeddings or logits, and how its clusters agree with the labels: purity, NMI, ARI.

    Example: clipkit cluster img.h5
    """
    import numpy as np

    from clipkit import clusters, files, store
    from clipkit.commands.zeroshot import chosen

    check_format(format)
    if output is not None:
        files.check_output(output, force=force)
    with store.opened(file, kinds=["images", "logits"]) as features:
        names = chosen(features, split or (["test"] if "test" in features.splits else None), file)
        result = store.FeatureFile("result")
        rows: list[dict[str, Any]] = []
        for name in names:
            part = features.splits[name]
            matrix = part.features.read()
            found = []
            for count in k or [_classes(features, name)]:
                with console.progress(f"clustering {name} (k = {count})", "starts") as progress:
                    assigned = clusters.kmeans(matrix, count, seed=seed, progress=progress)
                found.append(assigned)
                row = {"split": name, "k": count, "purity": None, "nmi": None, "ari": None}
                if part.labels is not None:
                    agreement = (clusters.purity, clusters.nmi, clusters.ari)
                    row |= {f.__name__: f(part.labels, assigned) for f in agreement}
                rows.append(row)
            result.splits[name] = store.Split(
                labels=part.labels, ids=part.ids, predicted=np.stack(found)
            )
        if features.class_names and all(row["k"] <= len(features.class_names) for row in rows):
            result.class_names = features.class_names  # no number of a cluster lies beyond them
        made = entry("cluster", splits=names, k=k, seed=seed, inputs={"features": features.digest})
        result.history = [*features.history, made]
    finish(rows, result, output, force, format)


def _classes(features: FeatureFile, split: str) -> int:
    if features.class_names:
        return len(features.class_names)
    labels = features.splits[split].labels
    if labels is None:
        raise ClipkitError(
            f"{split} has no classes to take the number of clusters from", "say how many: -k 10"
        )
    return len(set(labels.tolist()))
