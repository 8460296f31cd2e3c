"""The pipeline from a data set to a feature file: encode, store, publish.

An engine encodes shards. A batch never crosses the edge of a shard, so that the embeddings depend
neither on where a run was interrupted nor on which process encoded which shard.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipkit import features, models
from clipkit.base import console
from clipkit.base.errors import ClipkitError, ImageError, UsageError
from clipkit.base.files import STREAM, is_stream, temporary_folder
from clipkit.base.matrices import BlockMatrix
from clipkit.base.names import positions
from clipkit.embedding.checkpoint import (
    ALL_COLUMNS,
    MANIFEST_KEY,
    Checkpoint,
    LockedError,
    Part,
    Shard,
    Skipped,
    check_shard_size,
    earlier_threads,
    finished_shards,
    open_part,
    open_to_publish,
    open_whole,
)
from clipkit.embedding.copies import find_clusters
from clipkit.embedding.engines import (
    Encoded,
    Engine,
    LocalEngine,
    ShardImages,
    default_workers,
    load_encoder,
)
from clipkit.features import similarity
from clipkit.features.arguments import FilePath, Several
from clipkit.features.endings import check_feature_output
from clipkit.features.history import DOT_PRODUCT
from clipkit.features.model import FeatureFile, Split
from clipkit.features.model_settings import feature_name
from clipkit.models.options import RunOptions

if TYPE_CHECKING:
    from clipkit.datasets.dataset import Dataset
    from clipkit.models import Encoder

SHOWN_PARTS = 10  # in a message
LAYER = "{layer}"  # in the name of an output


def embed(  # noqa: PLR0913 (the options of `clipkit embed`)
    dataset: Dataset | Several[FilePath],
    output: str,
    *,
    model: str,
    options: RunOptions | None = None,
    engine: str = "local",
    replicas: int | None = None,
    normalize: bool = False,
    strict: bool = False,
    restart: bool = False,
    force: bool = False,
    part: Part | None = None,
    shard_size: int | None = None,
    near: float | None = None,
    no_near: bool = False,
    **settings: Any,
) -> list[Skipped]:
    """Embed the images of a data set with a named model: what `clipkit embed` runs.

    The processes that encode load the model. A run that continues uses as many of PyTorch's threads
    as it began with.

    Parameters
    ----------
    dataset, output, normalize, strict, restart, force, part, shard_size, near, no_near
        As in `embed_images`, and so are the result and the errors.
    model : str
        As in `models.load`.
    options : RunOptions, optional
        How the model runs. In its place, `settings` may give the fields of `RunOptions` by name.
    engine : {"local", "ray"}
        Encode in this process, or on a cluster of Ray.
    replicas : int, optional
        Copies of the model on Ray; by default one per GPU, or one per machine.
    """
    options = options or RunOptions.from_settings(settings)
    if not restart:
        use_earlier_threads(output)  # packing a model may depend on their number
    load = functools.partial(load_encoder, model, options)
    embed_with = functools.partial(
        embed_images,
        dataset,
        output=output,
        normalize=normalize,
        strict=strict,
        restart=restart,
        force=force,
        part=part,
        shard_size=shard_size,
        near=near,
        no_near=no_near,
    )
    if engine == "local":
        return embed_with(load(), batch_size=options.batch_size, num_workers=options.num_workers)
    from clipkit.embedding import ray_engine

    with ray_engine.connect(load, options, replicas) as ray:
        return embed_with(ray)


def embed_images(  # noqa: PLR0913 (the options of `clipkit embed`)
    dataset: Dataset | Several[FilePath],
    encoder: Encoder | Engine,
    output: str,
    *,
    batch_size: int = 64,
    num_workers: int | None = None,
    normalize: bool = False,
    strict: bool = False,
    restart: bool = False,
    force: bool = False,
    part: Part | None = None,
    shard_size: int | None = None,
    near: float | None = None,
    no_near: bool = False,
) -> list[Skipped]:
    """Embed the images of a data set into a feature file, with a model that is loaded.

    Finished shards of the embeddings lie in the folder `OUTPUT.partial` until the file is
    published. The same call continues an interrupted run and gives the same bytes. Several layers
    give a file each.

    Parameters
    ----------
    dataset : Dataset
        Or its name, or files or folders as `datasets.load` takes them.
    encoder : Encoder or Engine
        An image tower, or an engine that has one. An engine has its own `batch_size` and
        `num_workers`.
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
    part : Part, optional
        Encode only the shards of this part, while other processes encode the others. The part that
        finds all shards finished publishes the files. Once the files are
        published, a part does nothing.
    shard_size : int, optional
        Images of a shard, which is what an error or an interrupt keeps: 1,024 by default, which is
        the most, in whole batches. The file is the same for every size.
    near : float, optional
        Write images whose cosine is at least this, of all layers together, as one cluster, also by
        way of other images. Equal images are one cluster in any case.
    no_near : bool
        Do not look for equal images.

    Returns
    -------
    skipped : list of dict
        The images that cannot be used: their `split`, `id` and `reason`, as in the file's history.
        If other parts are missing, the images of this part.

    Raises
    ------
    UsageError
        If an output exists and `force` is not given, several layers would have one output, an
        interrupted run had other parameters, weights or images, or another number of PyTorch's
        threads on a CPU, or the output of a part is a stream.
    ImageError
        If `strict` and an image cannot be used.
    ClipkitError
        If no image of a split can be used, the model gives NaN or Inf, all images are near each
        other, or another process writes to the same output.
    WriteError
        If the file system refuses the data. The finished shards stay.
    """
    from clipkit import datasets

    if not isinstance(dataset, datasets.Dataset):
        dataset = datasets.load(dataset)
    if isinstance(encoder, Engine):
        engine = encoder
    else:
        num_workers = num_workers or default_workers()
        engine = LocalEngine(encoder, batch_size, num_workers)
    if normalize and engine.model.details.get("similarity") == DOT_PRODUCT:
        raise UsageError("expected --ask without --normalize: next-token logits need the lengths")
    outputs = name_layer_outputs(output, engine.model.columns)
    check_outputs(output, outputs.values(), force=force, part=part)
    if near is not None and no_near:
        raise UsageError("expected --near or --no-near, got both")
    shard_size = check_shard_size(shard_size)
    with _checkpoint_folder(output) as folder:
        run = _Run(
            dataset, engine, output, folder, normalize, strict, force, shard_size, near, no_near
        )
        if part is not None:
            return run.embed_part(part, restart=restart)
        return run.embed_whole(restart=restart)


def name_layer_outputs(output: str, layers: Iterable[int]) -> dict[int | None, str]:
    """Return the output of each layer: ``{layer}`` stands for its number.

    Without layers, the only key is None.

    >>> name_layer_outputs("img.l{layer}.h5", [0, 12])
    {0: 'img.l0.h5', 12: 'img.l12.h5'}
    """
    numbers = list(layers)
    if not numbers and LAYER in output:
        raise UsageError(f"expected --layers with {LAYER} in the output, got none")
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
    output: str,
    names: Iterable[str],
    *,
    force: bool = False,
    inputs: Sequence[str] = (),
    part: Part | None = None,
) -> None:
    """Refuse outputs that cannot be published before any work is done.

    A run for several layers that was interrupted has perhaps published some of them, and other
    parts perhaps all. So if its checkpoint is there, or for a part, existing outputs are compared
    later.
    """
    path = Path(output)
    if part is not None and is_stream(output):
        raise UsageError(f"expected -o FILE with --part, got {_display_output(output)}")
    may_continue = part is not None or (LAYER in output and _partial(path).is_dir())
    targets: dict[str, str] = {}
    for name in names:
        if LAYER in output and is_stream(name):
            raise UsageError(f"expected a file for each layer, got {name}, which is a stream")
        other = targets.setdefault(os.path.realpath(name), name)
        if other != name:
            raise UsageError(
                f"expected a file for each layer, got {other} and {name}: one is a link"
            )
        check_feature_output(name, force=force or may_continue, inputs=inputs)


@dataclass(frozen=True)
class _Run:
    """Hold what the processes of a run share, and do the steps from images to files."""

    dataset: Dataset
    engine: Engine
    output: str
    folder: Path  # of the shards
    normalize: bool
    strict: bool
    force: bool
    shard_size: int
    near: float | None
    no_near: bool

    @property
    def outputs(self) -> dict[int | None, str]:
        """The output of each layer; the only key is None without layers."""
        return name_layer_outputs(self.output, self.engine.model.columns)

    @property
    def columns(self) -> Mapping[Any, slice]:
        """The columns of each layer; without layers, None has all columns."""
        layers: Mapping[Any, slice] = self.engine.model.columns
        return layers or {None: ALL_COLUMNS}

    def entry(self, layer: int | None = None) -> dict[str, Any]:
        """Return the entry that made a layer's file, without its list of skipped images."""
        entry = self._entry_of_embeddings(layer)
        if self.near is not None:
            entry["near"] = self.near
        if self.no_near:
            entry["no_near"] = True
        return entry

    def _entry_of_embeddings(self, layer: int | None = None) -> dict[str, Any]:
        """Return what an entry says of the embeddings, and not of their clusters."""
        model = self.engine.model
        return features.history_entry(
            "embed",
            dataset=self.dataset.details,
            model=model.details if layer is None else model.layer_details(layer),
            normalize=self.normalize,
            batch_size=self.engine.batch_size,
        )

    def manifest(self) -> dict[str, Any]:
        """Return all that determines the embeddings, except the images."""
        model = self.engine.model
        # the model's digest covers these files; one by one, they tell what changed
        entry = self._entry_of_embeddings()
        manifest = {**entry, "model files": model.parts, MANIFEST_KEY: self.shard_size}
        if model.details["device"] == "cpu":
            manifest["threads"] = models.num_threads()  # the last bits depend on it in bfloat16
        return manifest

    def embed_whole(self, *, restart: bool) -> list[Skipped]:
        """Encode all shards that are not finished, and publish the files."""
        splits = self.dataset.splits
        with open_whole(self.folder, splits, self.manifest(), restart=restart) as checkpoint:
            if checkpoint.pending():
                published = self._published()
                if published is not None and not self.force:  # killed while it removed the shards
                    checkpoint.remove()
                    return published
                self._check_existing()
            self._encode_pending(checkpoint)
            return self._publish(checkpoint)

    def embed_part(self, part: Part, *, restart: bool) -> list[Skipped]:
        """Encode the shards of a part, and publish the files if all shards are finished."""
        if not self.force:
            skipped = self._published()
            if skipped is not None:
                console.note(f"nothing to do for {part}: {self.output} is published")
                return skipped
            self._check_existing()
        try:
            with open_part(
                self.folder, self.dataset.splits, self.manifest(), part, restart=restart
            ) as checkpoint:
                try:
                    self._check_existing()
                except UsageError:  # another part published while this one waited for the lock
                    if not finished_shards(self.folder):
                        checkpoint.remove()
                    raise
                self._encode_pending(checkpoint)
            return self._publish_last(part, checkpoint)
        except (ClipkitError, FileNotFoundError):
            # without locks, another part may remove the shards at any time
            is_at_work = (self.folder / "manifest.json").exists()
            # with --force, an earlier run may have left files beside the shards
            skipped = None if self.force and is_at_work else self._published()
            if skipped is None:
                raise
            console.note(f"{part} is done; another part published {self.output}")
            return skipped

    def _encode_pending(self, checkpoint: Checkpoint) -> None:
        """Let the engine encode the shards that are not finished, and save each."""
        pending = checkpoint.pending()
        total = sum(len(shard.rows) for shard in checkpoint.own())
        done = total - sum(len(shard.rows) for shard in pending)
        if done:
            console.note(f"resuming at {done:,} of {total:,}")
        self._check_skipped(checkpoint.skipped())
        first_line = None
        if pending:
            count = console.count(total - done, "image")
            output = _display_output(self.output)
            first_line = f"{count} with {_describe(self.engine.model.details)} to {output}"
            if checkpoint.part is not None:
                first_line += f", {checkpoint.part}"
        progress = console.progress(f"embedding {self.dataset.name}", "images", done, first_line)
        with progress as report_progress:

            def report(images: int, skipped: list[Skipped]) -> None:
                nonlocal done
                self._check_skipped(skipped)
                done += images
                report_progress(done, total)

            shards = []
            for shard in pending:
                images = self.dataset.splits[shard.split]
                shards.append(ShardImages(shard.number, shard.split, images, shard.rows))
            turned = 0
            with contextlib.closing(self.engine.encode(shards, report)) as results:
                for encoded in results:
                    turned += encoded.turned
                    shard = checkpoint.shards[encoded.shard]
                    checkpoint.save(shard, self._label_rows(shard, encoded), encoded.skipped)
        if turned:
            console.note(
                f"the EXIF data turn {console.count(turned, 'image')}, which is ignored: the model "
                "sees them as they are stored; hint: mogrify -auto-orient turns the files"
            )
        assert not checkpoint.pending(), "expected the engine to encode every shard"

    def _label_rows(self, shard: Shard, encoded: Encoded) -> Split:
        """Return the embeddings (n, D) of a shard with their labels and ids, scaled if asked."""
        embeddings, rows = encoded.embeddings, encoded.rows
        if embeddings is None:
            return Split()
        split = self.dataset.splits[shard.split]
        ids = [split.ids[row] for row in rows]
        bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
        if len(bad):
            decides = "precision" in self.engine.model.details  # the code of an own encoder does
            raise ClipkitError(
                f"{ids[bad[0]]}: expected a finite embedding, got NaN or Inf "
                f"({console.count(len(bad), 'such image')})",
                "try --precision fp32" if decides else None,
            )
        if self.normalize:
            embeddings = embeddings.copy()  # arrays of other processes cannot be written to
            for columns in self.columns.values():
                embeddings[:, columns] = similarity.normalize(embeddings[:, columns])
        labels = None if split.labels is None else split.labels[rows]
        return Split(embeddings, labels, ids)

    def _check_skipped(self, skipped: list[Skipped]) -> None:
        """Refuse skipped images if the run is strict."""
        if skipped and self.strict:
            image = skipped[0]
            raise ImageError(f"{image['id']}: {image['reason']}", "leave out --strict to skip it")

    def _publish(self, checkpoint: Checkpoint) -> list[Skipped]:
        """Write the files from finished shards, and remove those."""
        if checkpoint.is_empty():
            checkpoint.remove()  # so that the corrected command is not taken for another run
        skipped = checkpoint.skipped()
        class_names = self.dataset.class_names or None
        clusters = find_clusters(
            self._named_clusters(checkpoint.join()), self.near, no_near=self.no_near
        )
        for layer, columns in self.columns.items():
            name = self.outputs[layer]
            entry = self.entry(layer)
            if skipped:
                entry["skipped"] = skipped
            splits = checkpoint.join(columns)
            for split, numbers in clusters.items():
                splits[split].cluster = numbers
            _note_zeros(splits, name)
            file = FeatureFile("images", features.History([entry]), splits, class_names=class_names)
            try:
                features.write(name, file, force=self.force)
            except UsageError:
                if not _is_published(name, file):
                    raise
        checkpoint.remove()
        return skipped

    def _named_clusters(self, splits: dict[str, Split]) -> dict[str, Split]:
        """Return splits with the clusters that the data set names, if any."""
        for name, split in splits.items():
            images = self.dataset.splits[name]
            if images.cluster is not None:
                row_of = positions(images.ids)
                split.cluster = images.cluster[[row_of[row_id] for row_id in split.ids]]
        return splits

    def _publish_last(self, part: Part, checkpoint: Checkpoint) -> list[Skipped]:
        """Publish the file unless shards are missing.

        The lock of the part is free by now. So the last part to get here sees all shards, and finds
        the lock free.
        """
        numbers = {shard.number for shard in checkpoint.shards}
        missing = numbers - finished_shards(self.folder)
        try:
            if not missing:
                with open_to_publish(
                    self.folder, self.dataset.splits, self.manifest()
                ) as all_parts:
                    self._check_skipped(all_parts.skipped())
                    missing = {shard.number for shard in all_parts.pending()}  # they are damaged
                    if not missing:
                        skipped = self._publish(all_parts)
                        console.note(f"{part} is done; it published {self.output}")
                        return skipped
        except LockedError:
            all_shards = f"all {len(numbers):,} shards are finished"
            console.note(f"{part} is done; {all_shards}, and another part publishes {self.output}")
            return checkpoint.skipped()
        finished = f"{len(numbers) - len(missing):,} of {len(numbers):,} shards are finished"
        unfinished = sorted({shard % part.count + 1 for shard in missing})
        names = ", ".join(map(str, unfinished[:SHOWN_PARTS]))
        if len(unfinished) > SHOWN_PARTS:
            names += ", ..."
        console.note(f"{part} is done; {finished}; unfinished parts: {names}")
        return checkpoint.skipped()

    def _check_existing(self) -> None:
        """Refuse existing files, unless this run has published some, but not all."""
        if self.force:
            return
        missing = [name for layer, name in self.outputs.items() if self._skipped_in(layer) is None]
        # if none is missing, the run is finished, and another part needs --force
        for name in missing or self.outputs.values():
            check_feature_output(name)

    def _published(self) -> list[Skipped] | None:
        """Return the images that published files of this run skipped; None if one is missing."""
        skipped = [self._skipped_in(layer) for layer in self.outputs]
        return None if None in skipped else skipped[-1]

    def _skipped_in(self, layer: int | None) -> list[Skipped] | None:
        """Return the images that the published file of a layer skipped; None without the file."""
        name = self.outputs[layer]
        if not Path(name).is_file():
            return None
        try:
            with features.open_file(name) as file:
                history = file.history
        except ClipkitError:
            return None
        skipped: list[Skipped] = []
        if history:
            skipped = history[0].pop("skipped", [])
        if features.canonical_json(history) != features.canonical_json([self.entry(layer)]):
            return None
        return skipped


def _note_zeros(splits: Mapping[str, Split], output: str) -> None:
    """Name images whose embedding is zeros: they have no direction, and so no cosines."""
    ids = []
    for split in splits.values():
        at = 0
        for block in BlockMatrix.from_array(split.features).iter_blocks():
            ids += [split.ids[at + row] for row in np.flatnonzero(~block.any(axis=1))]
            at += len(block)
    if ids:
        images = console.count(len(ids), "image")
        console.warn(
            f"{_display_output(output)}: the embeddings of {images} are zeros, first {ids[0]}: "
            "they have no cosines"
        )


def _is_published(output: str, file: FeatureFile) -> bool:
    """Whether this file is there: an interrupted run or another part has published it."""
    if output == STREAM or not Path(output).is_file():
        return False
    try:
        with features.open_file(output) as published:
            return published.digest == file.digest
    except ClipkitError:  # not a feature file
        return False


def use_earlier_threads(output: str) -> None:
    """Let PyTorch use as many threads as the interrupted run that will be continued, if any."""
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
    if is_stream(output):
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


def _describe(details: dict[str, Any]) -> str:
    """Return the model, the device and the precision of an encoder."""
    name = str(details["name"])
    if "untrained" in details:
        name += f" (untrained, seed {details['untrained']})"
    if feature_name(details):
        name += f" {feature_name(details)}"
    for word, key in (("on", "device"), ("in", "precision")):
        if key in details:
            name += f" {word} {details[key]}"
    return name


def _display_output(output: str) -> str:
    return "standard output" if output == STREAM else output
