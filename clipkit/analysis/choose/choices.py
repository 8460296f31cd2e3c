"""Choose among texts for an image and among images for a text: are captions understood?

An item is right in `text_acc` if each image is closer to its own text than to the others, in
`image_acc` if each text is closer to its own image, in `acc` if both hold; CLIP_benchmark uses the
same names. Items of one image have `text_acc` alone. A tie is wrong.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipkit.analysis.controls import (
    Controls,
    check_controls,
    control_digests,
    mean_of_controls,
)
from clipkit.analysis.results import Row, make_result
from clipkit.analysis.row_clusters import find_clusters, note_few
from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError, shorten
from clipkit.base.matrices import Floats, Int64
from clipkit.base.names import positions
from clipkit.features import compatibility, matching, similarity
from clipkit.features.arguments import Features, Several, as_file, as_list, checked
from clipkit.features.attribute_tables import Table
from clipkit.features.history import History, history_entry
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile, Split
from clipkit.features.provenance import original_splits
from clipkit.statistics import metrics
from clipkit.statistics.dependence import (
    DRAWS,
    SEED,
    components,
    cycle,
    p_of_controls,
    unless_separate,
)

if TYPE_CHECKING:
    from clipkit.datasets.items import Items

Bools = NDArray[np.bool_]

MEASURES = ("text_acc", "image_acc", "acc")
PAIRINGS = 1 << 24  # of items with other images, in a category
PAIRINGS_AT_ONCE = 1 << 22
SHOWN = 5  # names in a message


@checked
def choose(  # noqa: PLR0913 (the options of `clipkit choose`)
    images: Features,
    texts: Features,
    items: Items | Several[str],
    split: str | None = None,
    *,
    controls: Controls = (),
    common: bool = False,
    table: Table | None = None,
    cluster: str | None = None,
) -> FeatureFile:
    """Count in how many items the right text and image are chosen: what `clipkit choose` reports.

    `controls` hold the same images and texts, embedded by untrained models. With `common`, an item
    is left out if the split lacks one of its images; otherwise that is an error. Items that share
    an image are counted together, and with `cluster` also items of images with the same value of
    this attribute of `table`, or ``class``.

    Returns
    -------
    FeatureFile
        A result with a row for each of MEASURES, its `split`, and each `category`, all items first:
        the number of `items`, the share `accuracy` of right ones with a 95 % interval that counts
        these together (see `metrics.effective_rows`), the mean and the 95 % quantile of `shuffle`,
        and the means of `chance` as `angle` and of `order_blind_ceiling`. `accuracy_control` and
        `shuffled_control` are means of the controls; of several, also with their range (`_low`,
        `_high`). `control_p` is of `dependence.p_of_controls`. `clusters` is the number of items
        that share nothing, where some do. The predictions are texts: the right one or a wrong one.
    """
    images, texts = as_file(images, "images"), as_file(texts, "texts")
    images, split = choose_split(images, split)
    items = _as_items(items, images, split)
    controls = check_controls(controls, images, [split], with_texts=True)
    items, rows = _find_images(images, split, items, common)
    vectors = _vectors(images, texts, split, items, rows)
    categories = [item.category for item in items.items]
    used = np.unique(rows)
    named = find_clusters(images, split, used, table, cluster, common=common)
    clusters = _join_items(rows, used, named.numbers, f"{images.display_name}: {split}")
    shuffled = shuffle(*vectors, categories, rows)
    means = {"accuracy": shuffled.right, "shuffled": shuffled.expected}
    means["angle"] = chance(*vectors, [len(item.texts) for item in items.items])
    means["ceiling"] = order_blind_ceiling(items)
    of_controls = []
    for control in controls:
        assert control.texts is not None  # it is checked
        vectors = _vectors(control.images, control.texts, split, items, rows)
        of_controls.append(shuffle(*vectors, categories, rows))
    unused = len(images.splits[split]) - len(used)
    if unused:
        console.note(f"{images.display_name}: {console.count(unused, 'image')} in no item")
    inputs = {"images": images.digest, "texts": texts.digest, **control_digests(controls)}
    entry = history_entry(
        "choose",
        splits=[split],
        items=items.source["items"],
        common=common or None,
        **images.describe_joined(),
        **named.entry,
        inputs=inputs | named.inputs | items.source.get("inputs", {}),
    )
    names = items.texts()
    history = History([*images.history, *texts.history, entry])
    result = make_result(history, [], class_names=names, display_name=images.display_name)
    number_of = positions(names)
    own, other = (np.array([number_of[item.texts[n]] for item in items.items]) for n in (0, 1))
    rows_of = Split(None, own, [item.id for item in items.items], cluster=unless_separate(clusters))
    for measure, is_right in zip(MEASURES, shuffled.right, strict=False):
        predicted = np.where(is_right, own, other)[None]
        result.splits[measure] = replace(rows_of, predicted=predicted)
    result.set_rows(_rows(items, clusters, means, shuffled.draws, of_controls))
    return result


def _as_items(items: Items | Several[str], images: FeatureFile, split: str) -> Items:
    """Return items, which files hold, or which `shapes` has for a split of its images."""
    from clipkit.datasets.items import Items, read_items

    if isinstance(items, Items):
        return items
    names = as_list(items, "items", str)
    originals = [split]
    if names == ["shapes"]:
        originals = original_splits(images, split)
    if len(originals) > 1:
        raise UsageError(f"expected one split for the items of shapes, got {', '.join(originals)}")
    return read_items(names, originals[0])


def _find_images(
    images: FeatureFile, split: str, items: Items, common: bool
) -> tuple[Items, Int64]:
    """Return the items whose images are in a split, and the rows (N, I) of these images."""
    rows = matching.Rows.of(images, split)
    is_bundled = items.name == "shapes"
    if is_bundled:
        datasets = {str(data.get("name")) for data in images.history.datasets}
        if datasets and "shapes" not in datasets:
            where = f"{images.display_name}: {split}"
            raise ClipkitError(f"{where}: expected images of shapes, got those of {min(datasets)}")
    names = list(dict.fromkeys(itertools.chain.from_iterable(item.images for item in items.items)))
    found = matching.find_ids(names, rows.ids)
    matching.note_rule(matching.Rows(names, "images", items.name), found)
    place_of = dict(zip(names, found.places.tolist(), strict=True))
    places = [[place_of[name] for name in item.images] for item in items.items]
    least = np.array(list(map(min, places)), np.int64)
    is_known = least >= 0
    if not is_bundled or not is_known.any():  # a file of some of `shapes` has some of its items
        missing = [min(item.images, key=place_of.__getitem__) for item in items.items]
        of_items = matching.Rows(missing, "items", items.name)
        matching.check_partners(of_items, rows, least, "image", common)
    kept = np.flatnonzero(is_known).tolist()
    items = items._replace(items=[items.items[row] for row in kept])
    if len({len(item.images) for item in items.items}) > 1:
        raise ClipkitError(f"{items.name}: expected items of one image or of two, got both")
    return items, np.array([places[row] for row in kept])


def _list(names: Sequence[str]) -> str:
    """List the first few different names."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(repr(shorten(name)) for name in names[:SHOWN]) + more


def _vectors(
    images: FeatureFile, texts: FeatureFile, split: str, items: Items, rows: Int64
) -> tuple[Floats, Floats]:
    """Return the unit vectors of the images (N, I, D) and the texts (N, T, D) of items.

    The last text of an item also stands for those that it lacks.
    """
    compatibility.common_logit_scale(images, texts)
    similarity.refuse_dot_product(images, "to choose by", similarity.ONE_TOKEN_HINT)
    compatibility.check_widths(images, texts)
    row_of = positions(texts.texts or [])
    missing = [text for text in items.texts() if text not in row_of]
    if missing:
        raise ClipkitError(
            f"{texts.display_name}: expected all texts of items, lacks {_list(missing)}",
            "make them with: clipkit textembed --items TABLE",
        )
    most = max(len(item.texts) for item in items.items)
    text_rows = []
    for item in items.items:
        padding = item.texts[-1:] * (most - len(item.texts))
        text_rows.append([row_of[text] for text in item.texts + padding])
    of_images = similarity.normalize(images.splits[split].features, images.display_name)
    return of_images[rows], similarity.normalize(texts.features, texts.display_name)[text_rows]


class Shuffled(NamedTuple):
    """What is right in M measures for N items, with their own images and with those of others.

    `expected` is the mean over the images of all other items, NaN for an item without others.
    `draws` are of S draws of others, and NaN for an item that got an image of its own.
    """

    right: Bools  # (M, N)
    expected: Floats  # (M, N)
    draws: Floats  # (S, M, N)


def shuffle(
    images: Floats, texts: Floats, categories: Sequence[str], members: Int64 | None = None
) -> Shuffled:
    """Return what is right for each item with its own images, and with those of other items.

    The texts alone decide what is right with other images. These are of items of the same category
    that have none of the item's images, which `members` (N, I) numbers; by default, they differ.
    """
    images, texts = images.astype(np.float64), texts.astype(np.float64)
    N = len(images)
    if members is None:
        members = np.arange(N * images.shape[1]).reshape(N, -1)
    numbers = np.unique(categories, return_inverse=True)[1]
    right = _is_right(similarity.products(images, texts))
    expected = np.full(right.shape, np.nan)
    draws = np.full((DRAWS, *right.shape), np.nan, np.float32)
    random = np.random.RandomState(SEED)
    with console.progress("shuffling images", "categories") as report_progress:
        for number in range(numbers.max() + 1):
            of_category = np.flatnonzero(numbers == number)
            items = _Items(images[of_category], texts[of_category], members[of_category])
            expected[:, of_category] = items.expected(random)
            draws[:, :, of_category] = items.draws(random)
            report_progress(number + 1, int(numbers.max()) + 1)
    return Shuffled(right, expected, draws)


class _Items:
    """The items of a category: N of them with S different sets of images."""

    def __init__(self, images: Floats, texts: Floats, members: Int64) -> None:
        _, first, set_of = np.unique(members, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(first)  # sets in the order of their first items
        self.images, self.texts, self.members = images[first[order]], texts, members
        self.sets = members[first[order]]  # (S, I)
        self.set_of = np.argsort(order)[set_of.ravel()]  # (N,)

    def expected(self, random: Any) -> Floats:
        """Return the mean (M, N) over all sets of other images, or over a draw of many sets."""
        S, (N, T, D) = len(self.images), self.texts.shape
        most = max(1, PAIRINGS // N)
        sets = np.arange(S) if most >= S else np.sort(random.permutation(S)[:most])
        texts = self.texts.reshape(N * T, D)
        right, count = 0.0, np.zeros(N)
        step = max(1, PAIRINGS_AT_ONCE // (N * T))
        for start in range(0, len(sets), step):
            block = sets[start : start + step]
            images = self.images[block]
            cosines = similarity.products(images.reshape(-1, D), texts)
            cosines = cosines.reshape(*images.shape[:2], N, T).swapaxes(1, 2)  # (B, N, I, T)
            is_other = ~self._shares(self.sets[block, None], self.members)
            is_right = _is_right(cosines.reshape(-1, *cosines.shape[2:]))
            right = right + (is_right.reshape(-1, *is_other.shape) & is_other).sum(axis=1)
            count += is_other.sum(axis=0)
        return np.where(count > 0, right / np.maximum(count, 1), np.nan)

    def draws(self, random: Any) -> Floats:
        """Return what is right with other sets of images, in DRAWS cycles of all sets."""
        if len(self.images) < 2:
            return np.array(np.nan)
        draws = []
        for _ in range(DRAWS):
            received = cycle(random, len(self.images))[self.set_of]
            is_right = _is_right(similarity.products(self.images[received], self.texts))
            is_own = self._shares(self.sets[received], self.members)
            draws.append(np.where(is_own, np.nan, is_right))
        return np.stack(draws)

    @staticmethod
    def _shares(sets: Int64, members: Int64) -> Bools:
        """Return whether sets (..., I) and members (N, I) of items have an image in common."""
        return np.asarray((sets[..., :, None] == members[..., None, :]).any(axis=(-2, -1)))


def _is_right(cosines: Floats) -> Bools:
    """Return whether cosines (N, I, T) are right in each measure (M, N)."""
    own, other = cosines[:, 0, 0], cosines[:, 0, 1:].max(axis=1)
    if cosines.shape[1] == 1:
        return np.stack([own > other])
    second, mixed = cosines[:, 1, 1], cosines[:, 1, 0]
    text, image = (own > other) & (second > mixed), (own > mixed) & (second > other)
    return np.stack([text, image, text & image])


def chance(images: Floats, texts: Floats, counts: Sequence[int]) -> Floats:
    """Return how often random directions are right for each item in each measure (M, N).

    An image (N, 1, D) chooses each of its `counts` texts equally often. With two images, each image
    is closer to the right one of two random texts with the probability angle / 2 pi, and so is each
    text. Both hold with the probability arcsin(sin(a / 2) sin(b / 2)) / pi, the share of the sphere
    inside a pyramid of these two angles. At right angles, these are 1/4, 1/4 and 1/6.
    """
    if images.shape[1] == 1:
        return 1 / np.array([counts])
    lengths = [np.linalg.norm(pair[:, 0] - pair[:, 1], axis=-1) for pair in (images, texts)]
    sines = np.minimum(np.array(lengths) / 2, 1)  # of half the angles
    return np.asarray(np.arcsin(np.vstack([sines, sines[0] * sines[1]])) / np.pi)


def order_blind_ceiling(items: Items) -> Floats:
    """Return how often a model that ignores the order of words can be right (M, N), as `chance`.

    If m texts have the same words, it chooses each of them equally often and is right with the
    probability 1 / m. With two images, it is right about both with the probability 1/4. Two texts
    of the same words are closer to the same image, so `image_acc` and `acc` are 0.
    """
    ceilings = []
    for item in items.items:
        words = [tuple(sorted(re.findall(r"\w+", text.casefold()))) for text in item.texts]
        ceilings.append(1 / Counter(words)[words[0]])
    of_image = np.array(ceilings)
    if len(items.items[0].images) == 1:
        return of_image[None]
    is_other = of_image == 1
    return np.stack([of_image**2, is_other, is_other])


def _rows(
    items: Items,
    clusters: Int64,
    means: Mapping[str, NDArray[Any]],
    draws: Floats,
    controls: Sequence[Shuffled],
) -> list[Row]:
    """Return a row for each measure and category, all items first. `clusters` are (N,)."""
    categories = np.array([item.category for item in items.items])
    names = list(dict.fromkeys(categories.tolist()))
    groups = [(name, np.flatnonzero(categories == name)) for name in names if name]
    if len(names) > 1 or not groups:  # else one category has all items
        groups.insert(0, ("all", np.arange(len(clusters))))
    has_clusters = unless_separate(clusters) is not None
    rows: list[Row] = []
    for number, measure in enumerate(MEASURES[: draws.shape[1]]):
        for name, members in groups:
            row: Row = {"split": measure, "category": name, "items": len(members)}
            if has_clusters:
                row["clusters"] = len(np.unique(clusters[members]))
            for column, values in means.items():
                row[column] = _mean(values[number, members])
            right = means["accuracy"][number, members]
            row |= metrics.share("accuracy", right, clusters[members])
            row |= _control_columns(number, members, right, clusters, controls)
            drawn = np.array([_mean(draw) for draw in draws[:, number, members]])
            rows.append(row | {"shuffled95": float(np.quantile(drawn, 0.95))})
    return rows


def _join_items(rows: Int64, used: Int64, clusters: Int64 | None, where: str) -> Int64:
    """Return the cluster (N,) of items that share an image of `rows` (N, I), or an image's cluster.

    `clusters` (U,) are of the different rows `used` (U,).
    """
    if clusters is None:
        found = components(rows)
        note_few(unless_separate(found), f"{where}: items that share images")
        return found
    return components(clusters[np.searchsorted(used, rows)])


def _control_columns(
    number: int, members: Int64, right: Bools, clusters: Int64, controls: Sequence[Shuffled]
) -> Row:
    """Return what controls reach in a measure on some items, and the test against them."""
    of_controls = [control.right[number, members] for control in controls]
    expected = [_mean(control.expected[number, members]) for control in controls]
    row = mean_of_controls("accuracy_control", list(map(_mean, of_controls)))
    row |= mean_of_controls("shuffled_control", expected)
    return row | p_of_controls(right, of_controls, clusters[members])


def _mean(values: NDArray[Any]) -> float:
    """Return the mean of the items that have a number; NaN if none has."""
    known = values[~np.isnan(values)]
    return float(known.mean(dtype=np.float64)) if len(known) else np.nan
