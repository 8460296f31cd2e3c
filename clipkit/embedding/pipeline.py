"""The pipeline from a data set to a feature file: encode, store, publish.

An engine encodes shards. A batch never crosses the edge of a shard, so that the embeddings depend
neither on where a run was interrupted nor on which process encoded which shard.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from joblib import cpu_count  # type: ignore[import-untyped]

from clipkit import console, features, models, similarity
from clipkit.embedding.checkpoint import (
    Checkpoint,
    LockedError,
    Part,
    Skipped,
    earlier_threads,
    finished_shards,
    open_checkpoint,
    open_to_publish,
)
from clipkit.embedding.engines import Engine, LocalEngine, ShardImages
from clipkit.errors import ClipkitError, ImageError, UsageError
from clipkit.features import FeatureFile, Float32, Split
from clipkit.files import STREAM, check_feature_output, temporary_folder

if TYPE_CHECKING:
    from clipkit.datasets import Dataset, ImageDataset
    from clipkit.models import Encoder

MOST_WORKERS = 8  # by default
SHOWN_PARTS = 10  # in a message


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
    part: Part | None = None,
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
    part : Part, optional
        Encode only the shards of this part, while other processes encode the others. The part that
        finds all shards finished publishes the file. A part of a run whose file is published does
        nothing.

    Returns
    -------
    skipped : list of dict
        The images that cannot be used: their `split`, `id` and `reason`, as in the file's history.
        If other parts are missing, those of this part.

    Raises
    ------
    UsageError
        If the output exists and `force` is not given, or an interrupted run had other parameters,
        weights or images, or another number of PyTorch's threads on a CPU, or the output of a part
        is a stream.
    ImageError
        If `strict` and an image cannot be used.
    ClipkitError
        If no image of a split can be used, the model gives NaN or Inf, or another process writes
        to the same output.
    WriteError
        If the file system refuses the data. The finished shards stay.
    """
    check_part_output(output, part, force=force)
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
    encode = functools.partial(
        _encode_pending,
        dataset=dataset,
        engine=LocalEngine(encoder, batch_size, num_workers or min(MOST_WORKERS, cpu_count())),
        opening=f"images with {_describe(encoder)} to {_display_output(output)}",
        normalize=normalize,
        strict=strict,
    )
    with _checkpoint_folder(output) as folder:
        run = _Run(dataset, output, entry, manifest, folder, strict, force)
        if part is not None:
            return run.embed_part(part, encode, restart=restart)
        with open_checkpoint(folder, dataset.splits, manifest, restart=restart) as checkpoint:
            encode(checkpoint)
            return run.publish(checkpoint)


def check_part_output(
    output: str, part: Part | None, *, force: bool = False, inputs: Iterable[str | None] = ()
) -> None:
    """Refuse an output as `check_feature_output` does, and a stream as the output of a part.

    A part may find that its file is published: `embed_images` then compares the runs.
    """
    if part is None:
        check_feature_output(output, force=force, inputs=inputs)
        return
    path = Path(output)
    if output == STREAM or (path.exists() and not path.is_file() and not path.is_dir()):
        raise UsageError(f"expected -o FILE with --part, got {_display_output(output)}")
    check_feature_output(output, force=True, inputs=inputs)


@dataclass(frozen=True)
class _Run:
    """What the processes of a run have in common."""

    dataset: Dataset
    output: str
    entry: dict[str, Any]  # of the file's history, without what was skipped
    manifest: dict[str, Any]
    folder: Path  # of the shards
    strict: bool
    force: bool

    def publish(self, checkpoint: Checkpoint) -> list[Skipped]:
        """Write the file from finished shards, and remove those."""
        if checkpoint.is_empty():
            checkpoint.remove()  # so that the corrected command is not taken for another run
        splits = checkpoint.join()
        skipped = checkpoint.skipped()
        entry = {**self.entry, "skipped": skipped} if skipped else self.entry
        class_names = self.dataset.class_names or None
        file = FeatureFile("images", [entry], splits, class_names=class_names)
        features.write(self.output, file, force=self.force)
        checkpoint.remove()
        return skipped

    def embed_part(
        self, part: Part, encode: Callable[[Checkpoint], None], *, restart: bool
    ) -> list[Skipped]:
        """Encode the shards of a part, and publish the file if those of all parts are finished."""
        if not self.force:
            skipped = self._published()
            if skipped is not None:
                console.note(f"nothing to do for {part}: {self.output} is published")
                return skipped
            check_feature_output(self.output)
        try:
            splits, manifest = self.dataset.splits, self.manifest
            with open_checkpoint(
                self.folder, splits, manifest, restart=restart, part=part
            ) as checkpoint:
                self._check_unpublished(checkpoint)
                encode(checkpoint)
            return self._publish_last(part, checkpoint)
        except (ClipkitError, FileNotFoundError):
            # without locks, another part may have published the file and removed the shards
            is_gone = not (self.folder / "manifest.json").exists()
            skipped = self._published() if is_gone or not self.force else None
            if skipped is None:
                raise
            console.note(f"{part} is done; another part published {self.output}")
            return skipped

    def _check_unpublished(self, checkpoint: Checkpoint) -> None:
        """Refuse to go on if the file was published while this part waited for the lock."""
        if not self.force and Path(self.output).exists():
            if not finished_shards(self.folder):
                checkpoint.remove()
            check_feature_output(self.output)

    def _publish_last(self, part: Part, checkpoint: Checkpoint) -> list[Skipped]:
        """Publish the file unless shards are missing.

        The lock of the part is free by now. So the last part to get here sees all shards, and finds
        the lock free.
        """
        numbers = {shard.number for shard in checkpoint.shards}
        missing = numbers - finished_shards(self.folder)
        try:
            if not missing:
                opened = open_to_publish(self.folder, self.dataset.splits, self.manifest)
                with opened as whole:
                    if self.strict:
                        _refuse_skipped(whole.skipped())
                    missing = {shard.number for shard in whole.pending()}  # they are damaged
                    if not missing:
                        skipped = self.publish(whole)
                        console.note(f"{part} is done; it published {self.output}")
                        return skipped
        except LockedError:
            all_shards = f"all {len(numbers):,} shards are finished"
            console.note(f"{part} is done; {all_shards}, and another part publishes {self.output}")
            return checkpoint.skipped()
        finished = f"{len(numbers) - len(missing):,} of {len(numbers):,} shards are finished"
        console.note(f"{part} is done; {finished}{_name_parts(missing, part)}")
        return checkpoint.skipped()

    def _published(self) -> list[Skipped] | None:
        """Return the images that the published file of this run skipped; None without the file."""
        if not Path(self.output).is_file():
            return None
        try:
            with features.open_file(self.output) as file:
                history = file.history
        except ClipkitError:
            return None
        skipped: list[Skipped] = history[0].pop("skipped", []) if history else []
        is_same = features.canonical_json(history) == features.canonical_json([self.entry])
        return skipped if is_same else None


def _name_parts(missing: set[int], part: Part) -> str:
    """Return which parts have shards that are missing."""
    numbers = sorted({shard % part.count + 1 for shard in missing})
    names = [str(number) for number in numbers[:SHOWN_PARTS]]
    if len(numbers) > SHOWN_PARTS:
        names.append("...")
    return f", missing are those of part{'s' if len(numbers) > 1 else ''} {', '.join(names)}"


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


def _encode_pending(
    checkpoint: Checkpoint,
    dataset: Dataset,
    engine: Engine,
    opening: str,
    *,
    normalize: bool,
    strict: bool,
) -> None:
    """Let an engine encode the shards that are not finished, and save each."""
    pending = checkpoint.pending()
    total = sum(len(shard.rows) for shard in checkpoint.own())
    done = total - sum(len(shard.rows) for shard in pending)
    if done:
        console.note(f"resuming at {done:,} of {total:,}")
    if strict:
        _refuse_skipped(checkpoint.skipped())
    opening = f"{total - done:,} {opening}"
    if checkpoint.part is not None:
        opening += f", {checkpoint.part}"
    progress = console.progress(
        f"embedding {dataset.name}", "images", done, opening if pending else None
    )
    with progress as report_progress:

        def report(images: int, skipped: list[Skipped]) -> None:
            nonlocal done
            if strict:
                _refuse_skipped(skipped)
            done += images
            report_progress(done, total)

        shards = [
            ShardImages(shard.split, dataset.splits[shard.split], shard.rows) for shard in pending
        ]
        with contextlib.closing(engine.encode(shards, report)) as results:
            for shard, encoded in zip(pending, results, strict=True):
                embedded = Split()
                if encoded.embeddings is not None:
                    split = dataset.splits[shard.split]
                    embedded = _label_rows(split, encoded.rows, encoded.embeddings, normalize)
                checkpoint.save(shard, embedded, encoded.skipped)


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


def _label_rows(
    split: ImageDataset, rows: list[int], embeddings: Float32, normalize: bool
) -> Split:
    """Return embeddings (n, D) of the given rows with their labels and ids."""
    ids = [split.ids[row] for row in rows]
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        raise ClipkitError(
            f"{ids[bad[0]]}: expected a finite embedding, got NaN or Inf ({len(bad)} such images)",
            "try --precision fp32",
        )
    if normalize:
        embeddings = similarity.normalize(embeddings)
    labels = None if split.labels is None else split.labels[rows]
    return Split(embeddings, labels, ids)


def _refuse_skipped(skipped: list[Skipped]) -> None:
    if skipped:
        image = skipped[0]
        raise ImageError(f"{image['id']}: {image['reason']}", "leave out --strict to skip it")
