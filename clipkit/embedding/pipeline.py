"""The pipeline from a data set to a feature file: decode, preprocess, encode, store, publish.

Threads decode and preprocess batches while earlier ones are encoded. A batch never crosses the edge
of a shard, so that the embeddings do not depend on where a run was interrupted.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from joblib import cpu_count  # type: ignore[import-untyped]
from numpy.typing import NDArray

from clipkit import console, features, models, similarity
from clipkit.embedding.checkpoint import (
    Checkpoint,
    Shard,
    Skipped,
    earlier_threads,
    open_checkpoint,
)
from clipkit.errors import ClipkitError, ImageError, UsageError
from clipkit.features import FeatureFile, Split
from clipkit.features.prefetch import prefetch_map
from clipkit.files import STREAM, check_feature_output, temporary_folder

if TYPE_CHECKING:
    from clipkit.datasets import Dataset, ImageDataset
    from clipkit.models import Encoder

MOST_WORKERS = 8  # by default


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
    published. The same call continues an interrupted run and gives the same bytes.

    Parameters
    ----------
    encoder : Encoder
        An image tower.
    output : str
        A path, or ``-`` for standard output. An interrupted run into a stream cannot be continued.
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
        If the output exists and `force` is not given, or an interrupted run had other parameters,
        weights or images, or another number of PyTorch's threads on a CPU.
    ImageError
        If `strict` and an image cannot be used.
    ClipkitError
        If no image of a split can be used, the model gives NaN or Inf, or another process writes
        to the same output.
    WriteError
        If the file system refuses the data. The finished shards stay.
    """
    check_feature_output(output, force=force)
    entry = features.history_entry(
        "embed",
        dataset=dataset.details,
        model=encoder.details,
        normalize=normalize,
        batch_size=batch_size,
    )
    # the model's digest covers these files; one by one, they tell what changed
    manifest = {**entry, "model files": encoder.parts}
    if encoder.details["device"] == "cpu":
        manifest["threads"] = models.num_threads()  # the last bits depend on it in bfloat16
    with (
        _checkpoint_folder(output) as folder,
        open_checkpoint(folder, dataset.splits, manifest, restart=restart) as checkpoint,
    ):
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
        splits = checkpoint.join()
        skipped = checkpoint.skipped()
        if skipped:
            entry["skipped"] = skipped
        class_names = dataset.class_names or None
        file = FeatureFile("images", [entry], splits, class_names=class_names)
        features.write(output, file, force=force)
        checkpoint.remove()
    return skipped


def use_earlier_threads(output: str) -> None:
    """Let PyTorch use as many threads as the interrupted run that will be continued, if any.

    This comes before the model is loaded: packing and compiling it may depend on the number.
    """
    with _checkpoint_folder(output) as folder:
        number = earlier_threads(folder)
    if number is not None and number != models.num_threads():
        current = models.num_threads()
        console.note(f"computing with {number} threads in place of {current}, as the run began")
        models.set_num_threads(number)


@contextlib.contextmanager
def _checkpoint_folder(output: str) -> Iterator[Path]:
    """Yield the folder for shards: `OUTPUT.partial`, or a temporary folder for a stream."""
    path = Path(output)
    if output == STREAM or (path.exists() and not path.is_file()):
        with temporary_folder() as folder:
            yield folder
        return
    target = path.resolve()
    folder = target.with_name(f"{target.name}.partial")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: expected a folder of shards, got a file")
    yield folder


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
                embedded = _join_rows(dataset.splits[shard.split], rows, embeddings, normalize)
            checkpoint.save(shard, embedded, skipped)


def _describe(encoder: Encoder) -> str:
    """Return the model, the device and the precision of an encoder."""
    details = encoder.details
    name = details["name"]
    if "untrained" in details:
        name += f" (untrained, seed {details['untrained']})"
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
    split: ImageDataset, rows: list[int], embeddings: list[NDArray[np.float32]], normalize: bool
) -> Split:
    """Return the embeddings of the given rows with their labels and ids."""
    joined = np.concatenate(embeddings)  # (B, D) each -> (N, D); waits for the device
    ids = [split.ids[row] for row in rows]
    bad = np.flatnonzero(~np.isfinite(joined).all(axis=1))
    if len(bad):
        raise ClipkitError(
            f"{ids[bad[0]]}: expected a finite embedding, got NaN or Inf ({len(bad)} such images)",
            "try --precision fp32",
        )
    if normalize:
        joined = similarity.normalize(joined)
    labels = None if split.labels is None else split.labels[rows]
    return Split(joined, labels, ids)


def _refuse_skipped(skipped: list[Skipped]) -> None:
    if skipped:
        image = skipped[0]
        raise ImageError(f"{image['id']}: {image['reason']}", "leave out --strict to skip it")
