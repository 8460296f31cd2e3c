"""Small files of every kind that a question takes, made of random numbers, to try a question on.

Images of three classes lie around the embeddings of their class texts. A table has the colour, the
size, the scene and the corners of each image. Captions name the image that they describe.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipkit.analysis.probe import ANALYSIS as PROBE
from clipkit.analysis.zeroshot import ANALYSIS as ZEROSHOT
from clipkit.base.matrices import Floats
from clipkit.features import FeatureFile, History, Split
from clipkit.features.similarity import compute_logits

CLASSES = ("circle", "square", "star")
CORNERS = ("round", "sharp", "sharp")  # of each class
COLOURS = ("red", "blue")
SPLITS = ("train", "test")
ROWS = 30  # of a split
WIDTH = 8
NOISE = 0.8  # around the text of a class, so that some images are closer to another one
MODEL = {"name": "a small model", "digest": "sha256:1", "weights": "sha256:2", "logit_scale": 100.0}
OTHER_MODEL = {**MODEL, "name": "another model", "digest": "sha256:3", "weights": "sha256:4"}


class Image(NamedTuple):
    """An image; its copies differ in their name alone."""

    split: str
    number: int
    copy: int = 0

    @property
    def label(self) -> int:
        """The number of its class."""
        return self.number % len(CLASSES)

    @property
    def scene(self) -> str:
        """What it shares with its copies alone."""
        return f"scene {self.split} {self.number}"

    @property
    def scene_number(self) -> int:
        """The number of its scene."""
        return SPLITS.index(self.split) * ROWS + self.number

    @property
    def name(self) -> str:
        """Its id."""
        return f"{self.split}/{self.number}-{self.copy}.png"

    def features(self, seed: int) -> Floats:
        """Return what a model embeds it as: all models share the noise of an image in part."""
        total: Floats = np.eye(WIDTH)[self.label]
        for part in (0, seed):
            random = np.random.default_rng([part, SPLITS.index(self.split), self.number])
            total += NOISE / 2 * random.standard_normal(WIDTH)
        return total


@dataclass(frozen=True)
class Samples:
    """Files of one small world, each of which is made when it is used.

    Parameters
    ----------
    folder : Path
        For the tables.
    rename : callable
        Changes the names of classes, texts, images, attributes and their values.
    copies : int
        How often each image is there, in the last split or, with `is_clustered`, in all; copies
        have one scene.
    is_shuffled : bool
        Whether the images have another order, and another one in each file.
    is_clustered : bool
        Whether the files of images say which images have one scene.
    is_labelled, is_joined : bool
        Whether images have labels, and whether all are in one split.
    is_partial, is_small : bool
        Whether the table, the captions and the second file of a kind lack an image of each split;
        whether the images lack it, too.
    """

    folder: Path
    rename: Callable[[str], str] = str
    copies: int = 1
    is_shuffled: bool = False
    is_clustered: bool = False
    is_labelled: bool = True
    is_joined: bool = False
    is_partial: bool = False
    is_small: bool = False

    @functools.cached_property
    def images(self) -> FeatureFile:
        """Images of three classes."""
        return self._embed(0, MODEL, self.is_small)

    @functools.cached_property
    def other_images(self) -> FeatureFile:
        """The same images, embedded by another model."""
        return self._embed(1, OTHER_MODEL, self.is_partial)

    @functools.cached_property
    def class_texts(self) -> FeatureFile:
        """A text for each class."""
        names = list(map(self.rename, CLASSES))
        texts = [self.rename(f"a photo of a {name}") for name in CLASSES]
        return self._texts(np.eye(WIDTH)[: len(CLASSES)], texts, names)

    @functools.cached_property
    def attribute_texts(self) -> FeatureFile:
        """A text for each value of an attribute, whose class is `attribute: value`."""
        colour = self.rename("colour")
        names = [f"class: {self.rename(name)}" for name in CLASSES]
        names += [f"{colour}: {self.rename(name)}" for name in COLOURS]
        return self._texts(np.eye(WIDTH)[: len(names)], names, names)

    @functools.cached_property
    def captions(self) -> FeatureFile:
        """A text for each image of the last split."""
        described = self._present(self._images()[SPLITS[-1]], self.is_partial)
        features = [one.features(2) for one in described]
        texts = [self._caption(one) for one in described]
        return self._texts(features, texts, [self.rename(one.name) for one in described])

    @functools.cached_property
    def logits(self) -> FeatureFile:
        """The cosines of the images with the class texts."""
        return self._logits(self.images, self.class_texts)

    @functools.cached_property
    def result(self) -> Any:
        """The classes of the images by their most similar text."""
        return ZEROSHOT.function(self.logits)

    @functools.cached_property
    def other_result(self) -> Any:
        """The classes of the images by the other model."""
        history = History([{"command": "textembed", "model": OTHER_MODEL}])
        texts = replace(self.class_texts, history=history)
        return ZEROSHOT.function(self._logits(self.other_images, texts))

    @functools.cached_property
    def probe(self) -> Any:
        """A probe that was fitted on the logits of one of two splits."""
        logits = replace(self, is_joined=False).logits
        return PROBE.function(logits, keep=True)

    @functools.cached_property
    def table(self) -> str:
        """A table with four attributes of the images, one of which is of their classes."""
        rows = [["id", *map(self.rename, ("colour", "size", "scene", "corners"))]]
        for images in self._images().values():
            for one in self._present(images, self.is_partial):
                colour, size = COLOURS[one.number // 2 % 2], one.number * 7 % 10
                values = (colour, str(size), one.scene, CORNERS[one.label])
                rows.append(list(map(self.rename, (one.name, *values))))
        return self._write("table.csv", rows)

    @functools.cached_property
    def items(self) -> str:
        """A table of items: an image with its caption and with that of the next image."""
        rows = [["item", "image", "text", "correct"]]
        images = [Image(SPLITS[-1], number) for number in range(ROWS)]
        for one, other in zip(images, [*images[1:], images[0]], strict=True):
            name = self.rename(one.name)
            rows.append([name, name, self._caption(one), "1"])
            rows.append([name, name, self._caption(other), "0"])
        return self._write("items.csv", rows)

    def _images(self, seed: int = 0) -> dict[str, list[Image]]:
        """Return the images of each split in their order."""
        splits: dict[str, list[Image]] = {}
        for split in SPLITS:
            images: list[Image] = []
            # a table that names clusters is not read for the rows to fit on
            is_copied = self.is_clustered or split == SPLITS[-1]
            for copy in range(self.copies if is_copied else 1):
                images += [Image(split, number, copy) for number in range(ROWS)]
            if self.is_shuffled:
                np.random.default_rng(seed).shuffle(images)
            splits[split] = images
        return splits

    def _present(self, images: list[Image], is_partial: bool) -> list[Image]:
        """Return the images, or all but one."""
        if not is_partial:
            return images
        return [one for one in images if one.number != ROWS // 2]

    def _embed(self, seed: int, model: Mapping[str, Any], is_partial: bool) -> FeatureFile:
        history = History([{"command": "embed", "model": dict(model)}])
        file = FeatureFile("images", history, display_name="images.h5")
        if self.is_labelled:
            file.class_names = list(map(self.rename, CLASSES))
        splits = self._images(seed)
        if self.is_joined:
            splits = {"both": [one for images in splits.values() for one in images]}
        for name, images in splits.items():
            present = self._present(images, is_partial)
            split = Split(np.array([one.features(seed) for one in present], np.float32))
            split.ids = [self.rename(one.name) for one in present]
            if self.is_labelled:
                split.labels = np.array([one.label for one in present])
            if self.is_clustered:
                split.cluster = np.array([one.scene_number for one in present])
            file.splits[name] = split
        return file

    def _texts(self, features: Any, texts: list[str], names: list[str]) -> FeatureFile:
        """Return texts, of which each is of its own class."""
        return FeatureFile(
            "texts",
            History([{"command": "textembed", "model": dict(MODEL)}]),
            features=np.asarray(features, np.float32),
            texts=texts,
            class_index=np.arange(len(texts)),
            class_names=names,
            display_name="texts.h5",
        )

    def _logits(self, images: FeatureFile, texts: FeatureFile) -> FeatureFile:
        logits = compute_logits(images, texts).in_memory()
        logits.display_name = "logits.h5"
        return logits

    def _caption(self, image: Image) -> str:
        return self.rename(f"caption of {image.name}")

    def _write(self, name: str, rows: list[list[str]]) -> str:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(rows)
        return str(path)
