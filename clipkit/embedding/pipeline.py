"""The pipeline from a data set to a feature file: decode, preprocess, encode, store, publish.

Threads decode and preprocess batches while earlier ones are encoded. A batch never crosses the edge
of a shard, so that the embeddings do not depend on where a run was interrupted.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from joblib import cpu_count  # type: ignore[import-untyped]
from numpy.typing import NDArray

from clipkit import console, features, similarity
from clipkit.embedding.checkpoint import (
    ALL_COLUMNS,
    Checkpoint,
    Shard,
    Skipped,
    open_checkpoint,
)
from clipkit.errors import ClipkitError, ImageError, UsageError
from clipkit.features import FeatureFile, Split
from clipkit.features.prefetch import prefetch_map
from clipkit.features.provenance import feature_name
from clipkit.files import STREAM, check_feature_output, temporary_folder

if TYPE_CHECKING:
    from clipkit.datasets import Dataset, ImageDataset
    from clipkit.models import Encoder

MOST_WORKERS = 8  # by default
LAYER = "{layer}"  # in the name of an output


def embed_images(  # noqa: PLR0913 (the options of `clipkit embed`)
    dataset: Dataset,
    encoder: Encoder,
    output: str,
    *,
    batch_size: int = 64,
    num_workers: int | None = None,
    normalize: bool = False,
    strict: bool = False,
    restart: bool = False,
    force: bool = False,
) -> list[Skipped]:
    """Embed the images of a data set into a feature file: what `clipkit embed` runs.

    Finished shards of the embeddings lie in the folder `OUTPUT.partial` until the file is
    published. The same call continues an interrupted run and gives the same bytes. Several layers
    give a file each.

    Parameters
    ----------
    encoder : Encoder
        An image tower.
    output : str
        A path, or ``-`` for standard output. An interrupted run into a stream cannot be continued.
        For hidden states, ``{layer}`` stands for the number of the layer, and the path of several
        layers must hold it.
    batch_size : int
        Images that are encoded at once.
    num_workers : int, optional
        Threads that decode and preprocess; by default as many as there are cores, at most 8.
    normalize : bool
        Scale each embedding to length 1.
    strict : bool
        Raise an error at the first image that cannot be used.
    restart : bool
        Start over instead of continuing an interrupted run.
    force : bool
        Replace an existing output.

    Returns
    -------
    skipped : list of dict
        The images that cannot be used: their `split`, `id` and `reason`, as in the file's history.

    Raises
    ------
    UsageError
        If an output exists and `force` is not given, several layers would have one output, or an
        interrupted run had other parameters, weights or images.
    ImageError
        If `strict` and an image cannot be used.
    ClipkitError
        If no image of a split can be used, the model gives NaN or Inf, or another process writes
        to the same output.
    WriteError
        If the file system refuses the data. The finished shards stay.
    """
    outputs = name_layer_outputs(output, encoder.columns)
    check_outputs(output, outputs.values(), force=force)
    entry = features.history_entry(
        "embed",
        dataset=dataset.details,
        model=encoder.details,
        normalize=normalize,
        batch_size=batch_size,
    )
    # the model's digest covers these files; one by one, they tell what changed
    manifest = {**entry, "model files": encoder.parts}
    with (
        _checkpoint_folder(output) as folder,
        open_checkpoint(folder, dataset.splits, manifest, restart=restart) as checkpoint,
    ):
        if checkpoint.pending():
            for name in outputs.values():
                check_feature_output(name, force=force)
        _encode_pending(
            checkpoint,
            dataset,
            encoder,
            output,
            batch_size=batch_size,
            num_workers=num_workers or min(MOST_WORKERS, cpu_count()),
            normalize=normalize,
            strict=strict,
        )
        if checkpoint.is_empty():
            checkpoint.remove()  # so that the corrected command is not taken for another run
        skipped = checkpoint.skipped()
        if skipped:
            entry["skipped"] = skipped
        class_names = dataset.class_names or None
        for layer, name in outputs.items():
            splits = checkpoint.join(_columns(encoder, layer))
            if layer is not None:
                entry["model"] = encoder.layer_details(layer)
            file = FeatureFile("images", [entry], splits, class_names=class_names)
            if force or not _is_published(name, file):
                features.write(name, file, force=force)
        checkpoint.remove()
    return skipped


def name_layer_outputs(output: str, layers: Iterable[int]) -> dict[int | None, str]:
    """Return the output of each layer: ``{layer}`` stands for its number.

    Without layers, the output is that of None.

    Raises
    ------
    UsageError
        If several layers would have one output.

    >>> name_layer_outputs("img.l{layer}.h5", [0, 12])
    {0: 'img.l0.h5', 12: 'img.l12.h5'}
    """
    numbers = list(layers)
    if not numbers:
        return {None: output}
    if len(numbers) > 1 and LAYER not in output:
        raise UsageError(
            f"expected an output with {LAYER} for several layers, got {_display_output(output)}",
            f"name it: -o 'img.l{LAYER}.h5'",
        )
    if LAYER in str(Path(output).parent):
        raise UsageError(f"expected {LAYER} in the name of the file, got the folder of {output}")
    return {number: output.replace(LAYER, str(number)) for number in numbers}


def check_outputs(
    output: str, names: Iterable[str], *, force: bool = False, inputs: Sequence[str] = ()
) -> None:
    """Refuse outputs that cannot be published before any work is done.

    A run for several layers that was interrupted has perhaps published some of them. If its
    checkpoint is there, existing outputs are compared later.
    """
    may_continue = LAYER in output and _partial(Path(output)).is_dir()
    for name in names:
        check_feature_output(name, force=force or may_continue, inputs=inputs)


def _is_published(output: str, file: FeatureFile) -> bool:
    """Whether an interrupted run has published this file, one of several."""
    if output == STREAM or not Path(output).is_file():
        return False
    try:
        with features.open_file(output) as published:
            return published.digest == file.digest
    except ClipkitError:  # not a feature file: writing says that the output exists
        return False


def _columns(encoder: Encoder, layer: int | None) -> slice:
    return ALL_COLUMNS if layer is None else encoder.columns[layer]


@contextlib.contextmanager
def _checkpoint_folder(output: str) -> Iterator[Path]:
    """Yield the folder for shards: `OUTPUT.partial`, or a temporary folder for a stream."""
    path = Path(output)
    if output == STREAM or (path.exists() and not path.is_file()):
        with temporary_folder() as folder:
            yield folder
        return
    folder = _partial(path)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: expected a folder of shards, got a file")
    yield folder


def _partial(output: Path) -> Path:
    target = output.resolve()
    return target.with_name(f"{target.name}.partial")


@dataclass(frozen=True)
class Batch:
    """Images of one shard that were decoded and preprocessed together."""

    rows: list[int]  # of the split: the B images that can be used
    pixels: Any  # Tensor (B, 3, H, W), or None if B is 0
    skipped: list[Skipped]


def _encode_pending(  # noqa: PLR0913 (the options of `clipkit embed`)
    checkpoint: Checkpoint,
    dataset: Dataset,
    encoder: Encoder,
    output: str,
    *,
    batch_size: int,
    num_workers: int,
    normalize: bool,
    strict: bool,
) -> None:
    """Encode and save the shards that are not finished, while threads prepare more batches."""
    pending = checkpoint.pending()
    total = sum(len(shard.rows) for shard in checkpoint.shards)
    done = total - sum(len(shard.rows) for shard in pending)
    if done:
        console.note(f"resuming at {done:,} of {total:,}")
    if strict:
        _refuse_skipped(checkpoint.skipped())
    prepare = functools.partial(_prepare_batch, dataset.splits, encoder)
    tasks = _cut_into_batches(pending, batch_size)
    batches = prefetch_map(prepare, tasks, num_workers, ahead=num_workers + 1)
    console.detail(f"{num_workers} threads decode images, {batch_size} images in a batch")
    opening = None
    if pending:
        opening = f"{total - done:,} images with {_describe(encoder)} to {_display_output(output)}"
    scaled = list(encoder.columns.values()) or [ALL_COLUMNS] if normalize else []
    progress = console.progress(f"embedding {dataset.name}", "images", done, opening)
    with contextlib.closing(batches), progress as report_progress:
        for shard in pending:
            rows: list[int] = []
            skipped: list[Skipped] = []
            embeddings: list[NDArray[np.float32]] = []
            while len(rows) + len(skipped) < len(shard.rows):  # no batch crosses its edge
                batch = next(batches)
                if strict:
                    _refuse_skipped(batch.skipped)
                if batch.rows:
                    embeddings.append(encoder.encode_images(batch.pixels))
                rows += batch.rows
                skipped += batch.skipped
                report_progress(done + len(rows) + len(skipped), total)
            done += len(shard.rows)
            embedded = Split()
            if rows:
                split = dataset.splits[shard.split]
                embedded = _join_rows(split, rows, embeddings, scaled)
            checkpoint.save(shard, embedded, skipped)


def _describe(encoder: Encoder) -> str:
    """Return the model, the device and the precision of an encoder."""
    details = encoder.details
    name = details["name"]
    if "untrained" in details:
        name += f" (untrained, seed {details['untrained']})"
    if feature_name(details):
        name += f" {feature_name(details)}"
    for key, word in (("device", "on"), ("precision", "in")):
        if key in details:
            name += f" {word} {details[key]}"
    return str(name)


def _display_output(output: str) -> str:
    return "standard output" if output == STREAM else output


def _cut_into_batches(shards: list[Shard], batch_size: int) -> Iterator[tuple[Shard, range]]:
    """Yield the rows of each batch; none crosses the edge of a shard."""
    for shard in shards:
        for start in range(0, len(shard.rows), batch_size):
            yield shard, shard.rows[start : start + batch_size]


def _prepare_batch(
    splits: Mapping[str, ImageDataset], encoder: Encoder, task: tuple[Shard, range]
) -> Batch:
    """Decode and preprocess the images of a batch."""
    shard, batch_rows = task
    split = splits[shard.split]
    images: list[Any] = []
    rows: list[int] = []
    skipped: list[Skipped] = []
    for row in batch_rows:
        try:
            images.append(split.image(row))
            rows.append(row)
        except ImageError as error:
            skipped.append({"split": shard.split, "id": split.ids[row], "reason": error.message})
    pixels = encoder.preprocess(images) if images else None
    return Batch(rows, pixels, skipped)


def _join_rows(
    split: ImageDataset,
    rows: list[int],
    embeddings: list[NDArray[np.float32]],
    scaled: Sequence[slice],
) -> Split:
    """Return the embeddings of the given rows with their labels and ids.

    The rows of the columns in `scaled` are scaled to length 1.
    """
    joined = np.concatenate(embeddings)  # (B, D) each -> (N, D); waits for the device
    ids = [split.ids[row] for row in rows]
    bad = np.flatnonzero(~np.isfinite(joined).all(axis=1))
    if len(bad):
        raise ClipkitError(
            f"{ids[bad[0]]}: expected a finite embedding, got NaN or Inf ({len(bad)} such images)",
            "try --precision fp32",
        )
    for columns in scaled:
        joined[:, columns] = similarity.normalize(joined[:, columns])
    labels = None if split.labels is None else split.labels[rows]
    return Split(joined, labels, ids)


def _refuse_skipped(skipped: list[Skipped]) -> None:
    if skipped:
        image = skipped[0]
        raise ImageError(f"{image['id']}: {image['reason']}", "leave out --strict to skip it")
