"""Choose images for a page: what a model gets wrong, and what prompts find.

The album is about one result, compared with one control. Each image has one thumbnail. All texts
are printable, but they are not HTML.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from clipkit.analysis.results import caveat_note
from clipkit.base import console
from clipkit.base.console import escaped
from clipkit.base.errors import ClipkitError, ImageError
from clipkit.base.files import STREAM
from clipkit.base.matrices import Int64
from clipkit.datasets import REGISTRY, Dataset, ImageDataset, images
from clipkit.datasets.matching import (
    HINT,
    are_absent,
    load_images,
    match_images,
    thumbnail,
    warn_of_other_name,
)
from clipkit.datasets.remote import is_url
from clipkit.features.annotations import read_annotations
from clipkit.features.model import FeatureFile, Split
from clipkit.plots.images import Nearest
from clipkit.report.blocks import Page
from clipkit.report.predictions import (
    Bools,
    Floats,
    ImagePredictions,
    Sources,
    choose_control,
    choose_sources,
    distinguish,
    has_predictions,
    read_predictions,
)
from clipkit.report.selection import IMAGES_PER_CLASS, find_nearest, select_rows
from clipkit.statistics import claims, metrics

MAX_BYTES = 2_900_000  # of all pictures of a page, as base64
# Longest side in pixels and quality; the first that makes the picture small enough is taken.
STEPS = ((128, 80), (128, 55), (96, 55), (96, 30), (64, 30), (48, 20), (24, 10))
SMALL_PIXELS = 64  # below this side, a browser enlarges pixels without smoothing them
LIMIT = 200  # images, unless the caller says otherwise
WITH_ATTRIBUTES = ("shapes",)  # data sets with bundled attributes


@dataclass(frozen=True)
class Thumbnail:
    """A small picture as a `data:` URI of a WebP, or the problem with the image."""

    uri: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""

    @property
    def is_small(self) -> bool:
        """Whether a page enlarges the picture."""
        return 0 < max(self.width, self.height) < SMALL_PIXELS


@dataclass(frozen=True)
class AlbumImage:
    """An image of an album. Unknown fields are None or ""."""

    id: str
    thumbnail: Thumbnail
    true: str | None
    predicted: str
    score: float | None = None  # how sure the prediction is
    score_text: str = ""  # for people, such as "93 %"
    control: str | None = None  # what the control predicts
    values: tuple[int, ...] = ()  # the numbers of its values in `Album.attributes`
    number: int | None = None  # for references in a page, if another place shows the same picture

    @property
    def outcome(self) -> str:
        """A digit for the result and one for the control: "1" if it is right, else "0".

        Without a control, there is one digit; without labels, there is none.
        """
        if self.true is None:
            return ""
        outcome = str(int(self.predicted == self.true))
        if self.control is not None:
            outcome += str(int(self.control == self.true))
        return outcome

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
    """Images with their predictions, and the images nearest to prompts."""

    images: list[AlbumImage]  # in the order of `select_rows`
    total: int  # images of the split from which `images` were chosen
    name: str  # of the result
    control_name: str
    label: str  # the settings of the result
    score_name: str  # what the scores are
    split: str
    dataset: str
    classes: list[ClassAccuracy]  # the least accurate first; empty without labels
    attributes: dict[str, dict[int, str]]  # the numbered values of each attribute
    prompts: list[PromptImages]
    prompt_count: int  # of the file from which `prompts` are the first
    similarity: str  # what a similarity with a prompt is called
    missing: str  # which images the data set lacks
    examples: Sequence[AlbumImage] = ()  # of the class that the summary of the page names
    independent: float = 1.0  # see results.Predictions

    @property
    def lowest(self) -> str:
        """Name the class with fewer right images than all others; "" if this is not decided."""
        right = [one.right for one in self.classes]
        images = [one.images for one in self.classes]
        names = [one.name for one in self.classes]
        return claims.lowest_class_sentence(right, images, names, self.independent)

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

    The data set may be given by its names, for `matching.load_images`. Without predicted classes,
    or where its images are not on this machine, warn and return None.
    """
    files = [*page.results.values(), *page.feature_files]
    if not any(map(has_predictions, files)):
        _check_exists(files, dataset, root)
        console.warn("left out the album of images: no result has predicted classes")
        return None
    name = dataset.name if isinstance(dataset, Dataset) else Path(dataset[0]).name
    main, worst_class = page.main_result(name)
    sources = choose_sources(files, page.controls, main)
    if not isinstance(dataset, Dataset):
        if are_absent(sources.main, dataset, root):
            console.warn(f"left out the album: the images of {name} are not on this machine")
            return None
        dataset = load_images(sources.main, dataset, root=root)
    album = collect(sources, dataset, limit, worst_class)
    warn_of_other_name(sources.main, dataset)
    return album


def _check_exists(
    files: Iterable[FeatureFile], dataset: Dataset | Sequence[str], root: str | None
) -> None:
    """Refuse a data set that does not exist here, without downloading one."""
    if isinstance(dataset, Dataset):
        return
    if dataset[0] in REGISTRY or dataset[0] == STREAM or any(map(is_url, dataset)):
        return
    embedded = [file for file in files if file.history.datasets]
    file = embedded[0] if embedded else FeatureFile("images")
    if not are_absent(file, dataset, root):
        load_images(file, dataset, root=root)


def _example_rows(main: ImagePredictions, class_name: str) -> Int64:
    """Return a few rows of a class: errors first, the most frequent one before all others."""
    if main.true is None:
        return np.empty(0, np.int64)
    rows = np.flatnonzero(main.true == class_name)
    predicted = main.predicted[rows]
    _, numbers, counts = np.unique(predicted, return_inverse=True, return_counts=True)
    order = np.lexsort((-counts[numbers], predicted == class_name))
    return rows[order[:IMAGES_PER_CLASS]]


def collect(sources: Sources, dataset: Dataset, limit: int = LIMIT, worst_class: str = "") -> Album:
    """Choose at most `limit` images of a data set, and those nearest to prompts, by their ids.

    Images of `worst_class` are among them, and are the examples of the album. Warn if the data set
    lacks images, and refuse a data set that is not the result's.
    """
    main = read_predictions(sources.main, sources=sources.results)
    total = len(main.ids)
    rows, data = match_images(main.file, main.split, dataset, allow_missing=True)
    _check_labels(main, rows, dataset, data)
    known = main.take(rows)
    missing = _describe_missing(main, known, dataset)
    main = known
    control = choose_control(main, sources.results, sources.controls)
    control_of: dict[str, str] = {}
    if control is not None:
        control_of = dict(zip(control.ids, control.predicted.tolist(), strict=True))
    control_is_right = _control_is_right(main, control_of)
    examples = _example_rows(main, worst_class)
    rows = select_rows(main.true, main.predicted, main.scores, control_is_right, limit, examples)
    nearest, prompt_count = find_nearest(main, sources.results)
    used = np.unique(np.concatenate([rows, examples, *(one.rows.ravel() for one in nearest)]))
    attributes, values = _attributes(main, dataset, used)
    pictures = thumbnails(data.take(used))
    album_images = {}
    for row, picture, row_values in zip(used.tolist(), pictures, values, strict=True):
        album_images[row] = AlbumImage(
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
    caveat = caveat_note(main.file, main.split).rstrip(".")
    return Album(
        images=[album_images[row] for row in rows.tolist()],
        total=total,
        name=escaped(name),
        control_name=escaped(control_name),
        label=escaped("; ".join(filter(None, [main.label, caveat]))),
        score_name=main.score_name,
        split=escaped(main.split),
        dataset=escaped(dataset.name),
        classes=_class_accuracies(main),
        attributes=attributes,
        prompts=_tiles(nearest, album_images, rows.tolist()),
        prompt_count=prompt_count,
        similarity=main.file.similarity_name,
        missing=escaped(missing),
        examples=[replace(album_images[row], number=None) for row in examples.tolist()],
        independent=main.independent,
    )


def _check_labels(
    predictions: ImagePredictions, rows: Int64, dataset: Dataset, data: ImageDataset
) -> None:
    """Refuse a data set (n) if its images do not have the classes of the result's rows (n).

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
    """Return how many images the data set lacks, and warn of them; "" if it has all."""
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
    order = metrics.falling_order(-right / counts)
    return [ClassAccuracy(str(names[i]), int(counts[i]), int(right[i])) for i in order]


def _attributes(
    main: ImagePredictions, dataset: Dataset, rows: Int64
) -> tuple[dict[str, dict[int, str]], list[tuple[int, ...]]]:
    """Return attributes with a number for each value, and the numbers of each row (n)."""
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
    """Put the images of prompts in tiles. The page has the pictures of `selected` rows already."""
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


def thumbnails(data: ImageDataset) -> list[Thumbnail]:
    """Return a thumbnail of each image. Together, up to 2,000 have at most MAX_BYTES."""
    budget = MAX_BYTES * 3 // 4 // max(1, len(data))  # base64 writes three bytes as four
    pictures = []
    with console.progress("reading images for the album", "images") as update:
        for row in range(len(data)):
            try:
                picture = encode(data.image(row), budget)
            except ImageError as error:
                picture = Thumbnail(problem=_reason(error))
            pictures.append(picture)
            update(len(pictures), len(data))
    return pictures


def encode(image: Image.Image, budget: int) -> Thumbnail:
    """Encode an image in `budget` bytes, or in as few as possible."""
    for side, quality in STEPS:
        data = thumbnail(image, side, quality)
        if len(data) <= budget:
            break
    text = base64.b64encode(data).decode()
    return Thumbnail(f"data:image/webp;base64,{text}", *Image.open(io.BytesIO(data)).size)


def _reason(error: ImageError) -> str:
    """Return why an image cannot be used, without its path: a page may be sent to others."""
    cause = error.__cause__
    if isinstance(cause, Exception):
        return images.reason(cause)
    return error.message.partition(": ")[2] or error.message
