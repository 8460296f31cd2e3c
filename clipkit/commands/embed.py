"""`clipkit embed`: images -> embeddings. Together with `textembed` the only command that runs a model."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipkit import console
from clipkit.commands._options import (
    DEFAULT_MODEL,
    Device,
    Force,
    Model,
    Output,
    Precision,
    Untrained,
)
from clipkit.errors import UsageError

if TYPE_CHECKING:
    from clipkit.embedding import Work

SKIPPED = 3


def embed(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="cifar10, cifar100, food101, imagenette, tiny-imagenet, fashion-mnist, digits, shapes, or a folder.",
        ),
    ],
    output: Output = "-",
    model: Model = DEFAULT_MODEL,
    untrained: Untrained = None,
    split: Annotated[
        list[str] | None,
        typer.Option("--split", metavar="NAME", help="Only this split; repeatable."),
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(
            "--root", metavar="FOLDER", help="Where the data set lies or is downloaded to."
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, help="A class-balanced draw of N images a split, the same every time."
        ),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(
            "--classes", min=2, help="A draw of N of the data set's classes, the same every time."
        ),
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize/--no-normalize", help="Scale each embedding to length 1.")
    ] = False,
    device: Device = "auto",
    precision: Precision = "auto",
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", min=1, help="Images encoded at once.")
    ] = 64,
    compile: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Compile the model first; by default only where very many images pay for it.",
        ),
    ] = None,
    num_workers: Annotated[
        int | None, typer.Option("--num-workers", min=1, help="Threads that decode and resize.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first image that cannot be used.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start over instead of continuing an interrupted run.")
    ] = False,
    force: Force = False,
) -> int:
    """Embed the images of a data set; an interrupted run continues when the same command is run again.

    Features are the model's projected image embeddings, as it gives them. Images that cannot be used are skipped and
    named, and the exit code is then 3.

    Example: clipkit embed cifar100 -o img.h5
    """
    from clipkit import datasets, features, files, models, similarity
    from clipkit import embedding as room

    files.check_output(output, force=force)
    data = datasets.load(dataset, root=root, splits=split, limit=limit, classes=classes)
    if (
        compile is None
    ):  # of all images, not of those that are left: the same answer when a run is continued
        compile = models.should_compile(device, sum(map(len, data.splits.values())))
    encoder = models.load(
        model,
        tower="image",
        device=device,
        precision=precision,
        untrained=untrained,
        compile_for=batch_size if compile else 0,
        non_blocking=True,
    )
    made = features.history_entry(
        "embed",
        dataset=data.details,
        model=encoder.details,
        normalize=normalize,
        batch_size=batch_size,
    )
    stamps = {name: rows.fingerprint() for name, rows in data.splits.items()}
    manifest = {**made, "image files": stamps, "images a shard": room.SHARD}
    with _work(output, data.splits, manifest, restart) as work:
        files.check_output(output, force=force)  # another process may have finished meanwhile
        if work.damaged:
            console.warn(
                f"shards {', '.join(map(str, work.damaged))} are damaged; their images are embedded again"
            )
        done = sum(len(shard.rows) for shard in work.shards if work.done(shard))
        if done:
            console.note(
                f"resuming at {done:,} of {sum(len(shard.rows) for shard in work.shards):,}"
            )
        with console.progress(f"embedding {data.name}", "images", done) as progress:
            room.run(
                work,
                data.splits,
                encoder,
                batch_size,
                num_workers or room.default_workers(),
                strict,
                progress,
            )
        splits, skipped = room.collect(work, normalize=similarity.normalize if normalize else None)
        if skipped:
            made["skipped"] = skipped
        result = features.FeatureFile(
            "images", [made], splits, class_names=data.class_names or None
        )
        features.write(output, result, force=force)
        work.remove()
    for item in skipped:
        console.warn(f"skipped {item['split']}/{item['id']}: {item['reason']}")
    if skipped:
        console.warn(
            f"{len(skipped)} images skipped, {sum(map(len, splits.values()))} embedded; the file lists them"
        )
    return SKIPPED if skipped else 0


@contextlib.contextmanager
def _work(
    output: str, splits: dict[str, Any], manifest: dict[str, Any], restart: bool
) -> Iterator[Work]:
    """The folder of shards: beside a regular output, where the next run finds it; temporary for a stream."""
    from clipkit import embedding as room

    path = Path(output)
    if output == "-" or (path.exists() and not path.is_file()):
        with (
            tempfile.TemporaryDirectory(prefix="clipkit-") as folder,
            room.working(Path(folder), splits, manifest) as work,
        ):
            yield work
    else:
        target = path.resolve()
        shards = target.with_name(f"{target.name}.partial")
        if shards.exists() and not shards.is_dir():
            raise UsageError(f"{shards} must be a folder of shards; it is a file")
        with room.working(shards, splits, manifest, restart=restart) as work:
            yield work
