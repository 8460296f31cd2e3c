"""Choose images for a page: what a model gets wrong, and what prompts find.

The album is about one result, compared with one control. Each image has one thumbnail. All texts
are printable, but they are not HTML.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipkit.base import console
from clipkit.base.console import escaped
from clipkit.base.errors import ClipkitError
from clipkit.base.files import STREAM
from clipkit.datasets import REGISTRY, Dataset, ImageDataset
from clipkit.datasets.matching import HINT, load_images, match_images, warn_of_other_name
from clipkit.datasets.remote import is_url
from clipkit.features import FeatureFile, Int64, Split, open_file
from clipkit.features.annotations import read_annotations
from clipkit.features.provenance import dataset_entries
from clipkit.plots.panels import Nearest
from clipkit.report.blocks import Page
from clipkit.report.nearest import find_nearest
from clipkit.report.predictions import (
    Bools,
    Floats,
    ImagePredictions,
    Sources,
    choose_control,
    choose_sources,
    distinguish,
    has_predictions,
    read_others,
    read_predictions,
)
from clipkit.report.selection import IMAGES_PER_CLASS, select_rows
from clipkit.report.thumbnails import Thumbnail, thumbnails

LIMIT = 200  # images, unless the caller says otherwise
WITH_ATTRIBUTES = ("shapes",)  # data sets whose attributes are bundled


@dataclass(frozen=True)
class AlbumImage:
    """An image of an album.

    Attributes
    ----------
    id : str
    thumbnail : Thumbnail
    true : str or None
        Its class; None without labels.
    predicted : str
    score : float or None
        How sure the prediction is; None if the files do not say.
    score_text : str
        For people, such as "93 %", or "".
    control : str or None
        What the control predicts; None if it does not have the image.
    values : tuple of int
        The numbers of its values in `Album.attributes`.
    number : int, optional
        Its own number, for references in a page, if another place may show the same picture.
    """

    id: str
    thumbnail: Thumbnail
    true: str | None
    predicted: str
    score: float | None = None
    score_text: str = ""
    control: str | None = None
    values: tuple[int, ...] = ()
    number: int | None = None

    @property
    def outcome(self) -> str:
        """Whether the result and the control are right: "1" or "0" each, such as "10".

        What is not known is left out.
        """
        if self.true is None:
            return ""
        predictions = [self.predicted]
        if self.control is not None:
            predictions.append(self.control)
        return "".join(str(int(predicted == self.true)) for predicted in predictions)

    @property
    def alt(self) -> str:
        """The text in place of the picture."""
        if self.true is None:
            return f"predicted: {self.predicted}"
        return f"true: {self.true}, predicted: {self.predicted}"


class Tile(NamedTuple):
    """An image beside a prompt. `is_first` says whether no earlier place has its picture."""

    image: AlbumImage
    cosine: float
    is_first: bool


class PromptImages(NamedTuple):
    """The images with the highest and with the lowest cosines with a prompt, by falling cosine."""

    prompt: str
    nearest: list[Tile]
    farthest: list[Tile]


class ClassAccuracy(NamedTuple):
    """A class, the number of its images in the split, and how many the result gets right."""

    name: str
    images: int
    right: int


@dataclass(frozen=True)
class Album:
    """Images with their predictions, and the images nearest to prompts.

    Attributes
    ----------
    images : list of AlbumImage
        The most confident errors first, then the right predictions. Without labels, the least
        confident predictions first.
    total : int
        Images of the split from which `images` were chosen.
    name, control_name : str
        The result, and the control or "".
    label : str
        The settings of the result.
    score_name : str
        What the scores are, or "".
    split, dataset : str
    classes : list of ClassAccuracy
        Of all images of the split, the least accurate first; empty without labels.
    attributes : dict of str to dict of int to str
        The values of each attribute that the images have, by their numbers.
    prompts : list of PromptImages
    prompt_count : int
        Number of prompts in the file from which `prompts` are the first.
    missing : str
        Which images the data set lacks, or "".
    examples : list of AlbumImage
        Images of the class that the summary of the page names, with what its main result predicts.
    """

    images: list[AlbumImage]
    total: int
    name: str
    control_name: str
    label: str
    score_name: str
    split: str
    dataset: str
    classes: list[ClassAccuracy]
    attributes: dict[str, dict[int, str]]
    prompts: list[PromptImages]
    prompt_count: int
    missing: str
    examples: Sequence[AlbumImage] = ()

    @property
    def predicted_classes(self) -> list[str]:
        """The classes that are predicted for the images, sorted."""
        return sorted({image.predicted for image in self.images})


def read_album(
    page: Page,
    dataset: Dataset | Sequence[str],
    limit: int = LIMIT,
    *,
    root: str | None = None,
) -> Album | None:
    """Collect an album of the files that a page uses, with examples for its summary.

    See `collect`. The data set may be given by its names, for `matching.load_images`. Without
    predicted classes, warn and return None.
    """
    with contextlib.ExitStack() as stack:
        files = [*page.results.values(), *_open([*page.feature_files.values()], stack)]
        if not any(map(has_predictions, files)):
            _check_exists(files, dataset, root)
            console.warn("left out the album of images: no result has predicted classes")
            return None
        sources = choose_sources(files, page.controls)
        if not isinstance(dataset, Dataset):
            dataset = load_images(sources.main, dataset, root=root)
        album = _collect(sources, dataset, limit)
        warn_of_other_name(sources.main, dataset)
        for fact in page.summary:
            if fact.class_name and fact.source in page.results:
                file = page.results[fact.source]
                return replace(album, examples=find_examples(file, fact.class_name, dataset))
    return album


def _check_exists(
    files: Iterable[FeatureFile], dataset: Dataset | Sequence[str], root: str | None
) -> None:
    """Refuse a data set that does not exist here, without downloading one."""
    if isinstance(dataset, Dataset):
        return
    if dataset[0] in REGISTRY or dataset[0] == STREAM or any(map(is_url, dataset)):
        return
    embedded = [file for file in files if dataset_entries(file)]
    load_images(embedded[0] if embedded else FeatureFile("images"), dataset, root=root)


def _open(paths: Sequence[Path], stack: contextlib.ExitStack) -> list[FeatureFile]:
    """Open files until the stack is closed."""
    files = []
    with console.progress("opening files for the album", "files") as update:
        for path in paths:
            files.append(stack.enter_context(open_file(path)))
            update(len(files), len(paths))
    return files


def find_examples(result: FeatureFile, class_name: str, dataset: Dataset) -> list[AlbumImage]:
    """Return a few images of a class, those first that a result takes for other classes.

    The list is empty if the data set is not that of the result, which is then not the result that
    the album is about.
    """
    try:
        predictions, data = _match(read_predictions(result), dataset)
    except ClipkitError:
        return []
    if predictions.true is None:
        return []
    class_rows = np.flatnonzero(predictions.true == class_name)
    is_right = predictions.predicted[class_rows] == class_name
    rows = class_rows[np.argsort(is_right, kind="stable")][:IMAGES_PER_CLASS]
    return [
        AlbumImage(
            id=escaped(predictions.ids[row]),
            thumbnail=picture,
            true=class_name,
            predicted=str(predictions.predicted[row]),
        )
        for row, picture in zip(rows, thumbnails(data.take(rows)), strict=True)
    ]


def collect(
    results: Sequence[FeatureFile],
    controls: Sequence[FeatureFile],
    dataset: Dataset,
    limit: int = LIMIT,
) -> Album:
    """Choose at most `limit` images of a data set, and those nearest to prompts.

    Parameters
    ----------
    results : sequence of FeatureFile
        See `choose_sources` for the result that the album is about: on its split `test`, else its
        first split, and of several runs the most accurate. Scores come from the logits or
        embeddings that it was made from. Prompts are those of the first logits whose prompts belong
        to no class, else of the first logits. Without logits, they come from the embeddings of
        images and prompts. Other files are not used.
    controls : sequence of FeatureFile
        Files of untrained controls; those among `results` are added. The control is the one whose
        settings differ least from the result's. Without one, it is another of `results`, a probe on
        embeddings if possible.
    dataset : Dataset
        The images. Rows are matched by their ids.
    limit : int
        At most 1,000, so that the thumbnails have at most `thumbnails.MAX_BYTES`.

    Raises
    ------
    ClipkitError
        If no result has predicted classes, or the data set is not that of the result.

    Warns
    -----
    On standard error: if the data set lacks images.
    """
    return _collect(choose_sources(results, controls), dataset, limit)


def _collect(sources: Sources, dataset: Dataset, limit: int) -> Album:
    """Collect an album from chosen files; see `collect`."""
    main = read_predictions(sources.main, sources.split, sources.results)
    total = len(main.ids)
    known, data = _match(main, dataset)
    missing = _describe_missing(main, known, dataset)
    main = known
    control = choose_control(main, sources.results, sources.controls)
    control_of: dict[str, str] = {}
    if control is not None:
        control_of = dict(zip(control.ids, control.predicted.tolist(), strict=True))
    control_is_right = _control_is_right(main, control_of)
    others = read_others(main, sources.results)
    worst = list(dict.fromkeys([main.worst_class, *(other.worst_class for other in others)]))
    rows = select_rows(main.true, main.predicted, main.scores, control_is_right, limit, worst)
    nearest, prompt_count = find_nearest(main, sources.results)
    used = np.unique(np.concatenate([rows, *(prompt.rows.ravel() for prompt in nearest)]))
    attributes, values = _attributes(main, dataset, used)
    pictures = _thumbnails(data.take(used))
    images = {}
    for row, picture, row_values in zip(used.tolist(), pictures, values, strict=True):
        images[row] = AlbumImage(
            id=escaped(main.ids[row]),
            thumbnail=picture,
            true=main.true_class(row),
            predicted=str(main.predicted[row]),
            score=main.score(row),
            score_text=main.score_text(row),
            control=control_of.get(main.ids[row]),
            values=row_values,
            number=row,
        )
    name, control_name = distinguish(main, control)
    return Album(
        images=[images[row] for row in rows.tolist()],
        total=total,
        name=escaped(name),
        control_name=escaped(control_name),
        label=escaped("; ".join(filter(None, [main.label, sources.reason]))),
        score_name=main.score_name,
        split=escaped(main.split),
        dataset=escaped(dataset.name),
        classes=_class_accuracies(main),
        attributes=attributes,
        prompts=_tiles(nearest, images, rows.tolist()),
        prompt_count=prompt_count,
        missing=escaped(missing),
    )


def _match(
    predictions: ImagePredictions, dataset: Dataset
) -> tuple[ImagePredictions, ImageDataset]:
    """Return the predictions whose images a data set has, and these images in the same order."""
    file, split = predictions.file, predictions.split
    known, data = match_images(file, split, dataset, allow_missing=True)
    _check_labels(predictions, known, dataset, data)
    return predictions.take(known), data


def _check_labels(
    predictions: ImagePredictions, rows: Int64, dataset: Dataset, data: ImageDataset
) -> None:
    """Refuse a data set (n) whose images do not have the classes of the result's rows (n).

    Row numbers are the ids of many data sets.
    """
    file = predictions.file
    labels = file.splits[predictions.split].labels
    is_relabelled = any(entry["command"] == "relabel" for entry in file.history)
    if labels is None or data.labels is None or not file.class_names or is_relabelled:
        return
    expected = np.array(file.class_names)[labels[rows]]
    got = np.array(dataset.class_names)[data.labels]
    different = np.flatnonzero(expected != got)
    if len(different):
        first = different[0]
        raise ClipkitError(
            f"{dataset.name}: expected the classes of {file.display_name}, got "
            f"{len(different):,} that differ: {data.ids[first]!r} is {got[first]}, not "
            f"{expected[first]}",
            HINT,
        )


def _describe_missing(main: ImagePredictions, known: ImagePredictions, dataset: Dataset) -> str:
    """Say how many images the data set lacks, and warn of them; "" if it has all."""
    count = len(main.ids) - len(known.ids)
    if not count:
        return ""
    ids = set(known.ids)
    example = next(row_id for row_id in main.ids if row_id not in ids)
    text = f"{dataset.name} lacks {count:,} of {len(main.ids):,} images, for example {example}"
    console.warn(text)
    return text


def _control_is_right(main: ImagePredictions, control_of: Mapping[str, Any]) -> Bools | None:
    """Return whether the control is right about each image (N); None without control or labels."""
    if main.true is None or not control_of:
        return None
    pairs = zip(main.ids, main.true, strict=True)
    return np.array([control_of.get(row_id) == name for row_id, name in pairs])


def _class_accuracies(main: ImagePredictions) -> list[ClassAccuracy]:
    if main.true is None:
        return []
    names, numbers = np.unique(main.true, return_inverse=True)
    counts = np.bincount(numbers)
    right = np.bincount(numbers, weights=main.true == main.predicted).astype(int)
    order = np.argsort(right / counts, kind="stable")
    return [ClassAccuracy(str(names[i]), int(counts[i]), int(right[i])) for i in order]


def _attributes(
    main: ImagePredictions, dataset: Dataset, rows: Int64
) -> tuple[dict[str, dict[int, str]], list[tuple[int, ...]]]:
    """Return the attributes of images with a number for each value, and those of each row (n)."""
    if dataset.name not in WITH_ATTRIBUTES:
        return {}, [()] * len(rows)
    splits = {main.split: Split(ids=[main.ids[row] for row in rows])}
    file = FeatureFile("result", main.file.history, splits)
    file.display_name = main.file.display_name
    try:
        annotated = read_annotations(file, dataset.name).attributes
    except ClipkitError:  # a folder of other images may have the same name
        return {}, [()] * len(rows)
    texts: dict[str, dict[int, str]] = {}
    columns = []
    start = 0
    for attribute in annotated:
        if attribute.is_class:
            continue
        texts[attribute.name] = dict(enumerate(attribute.values, start))
        codes = attribute.codes[main.split]
        columns.append(np.where(codes < 0, -1, codes + start))
        start += len(attribute.values)
    values = np.stack(columns, axis=1).tolist()
    return texts, [tuple(number for number in row_values if number >= 0) for row_values in values]


def _tiles(
    nearest: Sequence[Nearest], images: Mapping[int, AlbumImage], selected: Iterable[int]
) -> list[PromptImages]:
    """Arrange the images of prompts; the pictures of `selected` rows are on the page before."""
    before = set(selected)

    def tiles(rows: Int64, cosines: Floats) -> list[Tile]:
        side = []
        for row, cosine in zip(rows.tolist(), cosines.tolist(), strict=True):
            side.append(Tile(images[row], cosine, row not in before))
            before.add(row)
        return side

    return [
        PromptImages(escaped(prompt), tiles(rows[0], cosines[0]), tiles(rows[1], cosines[1]))
        for prompt, rows, cosines in nearest
    ]


def _thumbnails(data: ImageDataset) -> list[Thumbnail]:
    pictures = []
    with console.progress("reading images for the album", "images") as update:
        for picture in thumbnails(data):
            pictures.append(picture)
            update(len(pictures), len(data))
    return pictures
