"""Embed images or texts into a feature file in memory, without an output."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipkit import datasets, features, models
from clipkit.base import console
from clipkit.base.errors import UsageError, quote
from clipkit.base.files import STREAM, temporary_folder
from clipkit.datasets import Dataset
from clipkit.datasets import images as image_files
from clipkit.datasets.captions import read_captions
from clipkit.datasets.items import read_items
from clipkit.embedding import pipeline
from clipkit.embedding import textembed as textembedding
from clipkit.embedding.textembed import Texts
from clipkit.features.arguments import FilePath, Several, as_list, checked
from clipkit.features.model import ROW_NUMBERS, FeatureFile, Split, row_ids
from clipkit.models.options import RunOptions
from clipkit.prompts import bundled
from clipkit.prompts.formats import ClassNames

SPLIT = "all"  # as of a folder without splits


@checked
def embed(
    images: Sequence[Any] | str | os.PathLike[str] | Dataset,
    model: str = models.DEFAULT,
    *,
    split: Several[str] | None = None,
    limit: int | None = None,
    **settings: Any,
) -> FeatureFile:
    """Embed images that are given one by one, or those of a folder or another data set.

    If memory cannot hold the embeddings, use `embedding.embed`, which writes a file.

    Parameters
    ----------
    images : sequence of N images, str, path or Dataset
        Each is a Pillow image, an array (H, W) or (H, W, 3) of uint8, or the path of a file. A
        text or path alone is a folder or another data set that `clipkit embed` takes. So is what
        `clipkit.load_dataset` returns.
    model : str
        As in `models.load`.
    split : str or sequence of str, optional
        Of a data set that is given by its name or path: only these splits.
    limit : int, optional
        Of such a data set: at most so many images per split, as `clipkit.load_dataset` draws them.
    **settings
        Fields of `models.RunOptions` by name.

    Returns
    -------
    FeatureFile
        Of kind images: features (N, D), not normalised. Images that are given one by one have the
        split ``all``. Their ids are the paths, if all are given by different paths, else row
        numbers. A data set has its own splits, labels and ids.

    Raises
    ------
    UsageError
        If there is no image, or something that is no image.
    ImageError
        If a file cannot be used.
    """
    options = RunOptions.from_settings(settings)
    if isinstance(images, str | os.PathLike):
        dataset = datasets.load(images, splits=split, limit=limit)
        return _embed_dataset(dataset, os.fspath(images), model, options)
    if split is not None or limit is not None:
        given = "limit" if split is None else "split"
        hint = f"load_dataset takes {given}, too"
        raise UsageError(f"{given}: expected it with the name or path of a data set", hint)
    if isinstance(images, Dataset):
        return _embed_dataset(images, images.name, model, options)
    if isinstance(images, Image.Image) or not isinstance(images, Iterable) or not len(images):
        got = quote(images)
        raise UsageError(f"images: expected a list of at least one image, got {got}")
    decoded = [_as_image(image, number) for number, image in enumerate(images)]
    encoder = models.load(model, tower="image", options=options)
    step = options.batch_size
    blocks = []
    with console.progress("embedding images", "images") as update:
        for start in range(0, len(decoded), step):
            batch = decoded[start : start + step]
            blocks.append(np.asarray(encoder.encode_images(batch)))
            update(start + len(batch), len(decoded))
    ids = [os.fspath(one) for one in images if isinstance(one, str | os.PathLike)]
    is_numbered = len(set(ids)) < len(decoded)
    entry = features.history_entry(
        "embed",
        model=encoder.details,
        batch_size=step,
        ids=ROW_NUMBERS if is_numbered else None,
    )
    rows = Split(np.concatenate(blocks), ids=row_ids(len(decoded)) if is_numbered else ids)
    return FeatureFile("images", features.History([entry]), {SPLIT: rows})


@checked
def textembed(  # noqa: PLR0913 (the options of `clipkit textembed`)
    prompts: Sequence[str] | str | os.PathLike[str] | None = None,
    model: str | None = None,
    *,
    classes: Sequence[str] | str | os.PathLike[str] | FeatureFile | None = None,
    captions: Several[FilePath] | None = None,
    items: Several[FilePath] | None = None,
    split: str | None = None,
    template: Several[str] | None = None,
    column: str | None = None,
    readable: bool = False,
    normalize: bool = False,
    truncate: bool = False,
    **settings: Any,
) -> FeatureFile:
    """Embed texts: prompts, one prompt for each class, captions of images, or texts of items.

    Parameters
    ----------
    prompts : sequence of K str, str or path
        A list holds the prompts. A text or path alone is a file of prompts or a bundled set.
    model : str, optional
        As in `models.load`. By default the model of the feature file that `classes` come from, else
        `models.DEFAULT`.
    classes : sequence of C str, str, path or FeatureFile
        A list holds the names of classes. A text or path alone is a data set or a file; see
        `embedding.read_class_names`.
    captions, items : path or sequence of paths
        See `embedding.read_captions` and `embedding.read_items`.
    split : str, optional
        With captions of a data set.
    template : str or sequence of T str, optional
        With classes: templates such as ``a photo of a {}``, or files or bundled sets of some.
        Several make an ensemble.
    column : str, optional
        Of a table of prompts or classes.
    readable, normalize, truncate : bool
        See `embedding.embed_classes`.
    **settings
        Fields of `models.RunOptions` by name.

    Returns
    -------
    FeatureFile
        Of kind texts: features (K, D).

    Raises
    ------
    UsageError
        If not exactly one of prompts, classes, captions and items is given, or something that does
        not go with it.
    """
    options = RunOptions.from_settings(settings)
    sources = {"prompts": prompts, "classes": classes, "captions": captions, "items": items}
    given = [name for name, value in sources.items() if value is not None]
    if len(given) != 1:
        got = " and ".join(given) or "none"
        raise UsageError(f"expected one of {', '.join(sources)}, got {got}")
    (kind,) = given
    goes_with = {
        "split": (split, ("captions",)),
        "template": (template, ("classes",)),
        "readable": (readable or None, ("classes",)),
        "column": (column, ("prompts", "classes")),
    }
    for name, (value, kinds) in goes_with.items():
        if value is not None and kind not in kinds:
            raise UsageError(f"{name}: expected it with {' or '.join(kinds)}, got {kind}")
    texts = _read_texts(kind, sources[kind], split, column)
    return textembedding.embed_all(
        [texts],
        model or models.DEFAULT,
        options,
        follows_file=model is None,
        templates=as_list(template, "template", str),
        readable=readable,
        normalize=normalize,
        truncate=truncate,
    )[0]


def _read_texts(kind: str, source: Any, split: str | None, column: str | None) -> Texts:
    """Read the texts of a source, which may also be given as a list."""
    if kind == "captions":
        return read_captions(source, split)
    if kind == "items":
        return read_items(as_list(source, "items", str))
    if isinstance(source, FeatureFile):
        return textembedding.classes_of(source, source.display_name)
    if not isinstance(source, str | os.PathLike):
        listed = as_list(source, kind, str)
        return listed if kind == "prompts" else ClassNames(listed)
    if kind == "prompts":
        path = bundled.locate(os.fspath(source))
        if path != STREAM and not os.path.lexists(path):
            got = quote(source)
            raise UsageError(
                f"prompts: expected a list of texts, a file or a bundled set, got {got}",
                f"one prompt is a list, too: [{got}]; clipkit list prompts names the sets",
            )
        return textembedding.read_prompts(os.fspath(source), column)
    return textembedding.read_class_names(os.fspath(source), column=column)


def _embed_dataset(dataset: Dataset, name: str, model: str, options: RunOptions) -> FeatureFile:
    """Embed a data set as `clipkit embed` does, and warn of the images that cannot be used."""
    with temporary_folder() as folder:
        output = Path(folder, "images.h5")
        skipped = pipeline.embed(dataset, str(output), model=model, options=options)
        for image in skipped:
            console.warn(f"skipped {image['split']}/{image['id']}: {image['reason']}")
        file = features.read(output)
    file.display_name = name
    return file


def _as_image(image: Any, number: int) -> Image.Image:
    """Return an image in RGB."""
    if isinstance(image, str | os.PathLike):
        return image_files.read(os.fspath(image))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3):
        image = Image.fromarray(image)
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    got = quote(image)
    raise UsageError(
        f"images: expected a Pillow image, an array of uint8 or a path, got {got} at {number}"
    )
