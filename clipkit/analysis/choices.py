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
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipkit.analysis import metrics, similarity
from clipkit.analysis.controls import (
    Control,
    check_controls,
    control_digests,
    mean_of_controls,
)
from clipkit.analysis.results import Row, make_result
from clipkit.base import console
from clipkit.base.errors import ClipkitError, shorten
from clipkit.features import compatibility, matching
from clipkit.features.history import History, history_entry
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile, Floats, Int64, Split

if TYPE_CHECKING:
    from clipkit.datasets.items import Items

Bools = NDArray[np.bool_]

MEASURES = ("text_acc", "image_acc", "acc")
PERMUTATIONS, SEED = 200, 42
SHOWN = 5  # names in a message
MOSTLY_ORDER = 0.75  # a lower ceiling: most items differ in the order of words alone


def choose(
    images: FeatureFile,
    texts: FeatureFile,
    items: Items,
    split: str | None = None,
    *,
    controls: Sequence[Control] = (),
    common: bool = False,
) -> FeatureFile:
    """Count in how many items the right text and image are chosen: what `clipkit choose` reports.

    `controls` hold the same images and texts, embedded by untrained models. With `common`, an item
    is left out if the split lacks one of its images; otherwise that is an error.

    Returns
    -------
    FeatureFile
        A result with a row for each of MEASURES, its `split`, and each `category`, all items first:
        the number of `items`, the share `accuracy` of right ones with a 95 % interval that counts
        items of one image together (see `metrics.effective_rows`), the mean and the 95 % quantile
        of `shuffle`, and the means of `chance` as `angle` and of `order_blind_ceiling`.
        `accuracy_control` and `shuffled_control` are means of the controls; of several, also with
        their range (`_low`, `_high`). The predictions are texts: the right one or a wrong one.
    """
    images, split = choose_split(images, split)
    controls = check_controls(controls, images, [split], with_texts=True)
    items, rows = _find_images(images, split, items, common)
    vectors = _vectors(images, texts, split, items, rows)
    categories = [item.category for item in items.items]
    sets = np.unique(rows, axis=0, return_inverse=True)[1].ravel()
    right, shuffled = shuffle(*vectors, categories, sets)
    means = {"accuracy": right, "shuffled": shuffled.mean(axis=0)}
    means["angle"] = chance(*vectors, [len(item.texts) for item in items.items])
    means["ceiling"] = order_blind_ceiling(items)
    by_controls: dict[str, list[Any]] = {"accuracy_control": [], "shuffled_control": []}
    for control in controls:
        assert control.texts is not None  # it is checked
        vectors = _vectors(control.images, control.texts, split, items, rows)
        right_of_control, draws = shuffle(*vectors, categories, sets)
        by_controls["accuracy_control"].append(right_of_control)
        by_controls["shuffled_control"].append(draws.mean(axis=0))
    unused = len(images.splits[split]) - len(np.unique(rows))
    if unused:
        console.note(f"{images.display_name}: {console.count(unused, 'image')} in no item")
    inputs = {"images": images.digest, "texts": texts.digest, **control_digests(controls)}
    entry = history_entry(
        "choose",
        splits=[split],
        items=items.source["items"],
        common=common or None,
        **images.describe_joined(),
        inputs=inputs | items.source.get("inputs", {}),
    )
    names = items.texts()
    history = History([*images.history, *texts.history, entry])
    result = make_result(history, [], class_names=names, display_name=images.display_name)
    number_of = {text: number for number, text in enumerate(names)}
    own, other = (np.array([number_of[item.texts[n]] for item in items.items]) for n in (0, 1))
    ids = [item.id for item in items.items]
    for measure, is_right in zip(MEASURES, right, strict=False):
        predicted = np.where(is_right, own, other)[None]
        result.splits[measure] = Split(labels=own, ids=ids, predicted=predicted)
    result.set_rows(_rows(items, rows[:, 0], means, shuffled, by_controls))
    return result


def understood(result: FeatureFile) -> dict[str, dict[str, bool]]:
    """Return which categories are understood, by what decides them: words, or their order.

    The interval of the accuracy must begin above what the texts alone and each control reach; and,
    if the order of words decides most items, above what a model blind to it reaches.
    """
    rows = result.runs_on(result.rows()[-1]["split"])
    categories: dict[str, dict[str, bool]] = {"words": {}, "order of words": {}}
    for row in rows[1:] or rows:
        of_controls = row.get("accuracy_control_high", row.get("accuracy_control", 0))
        limit = max(row["shuffled95"], of_controls)
        decided_by = "words"
        if row["ceiling"] < MOSTLY_ORDER:
            decided_by, limit = "order of words", max(limit, row["ceiling"])
        categories[decided_by][row["category"]] = row["accuracy_low"] > limit
    return categories


def finding(result: FeatureFile) -> str:
    """Count the categories that are understood."""
    parts = []
    for what, categories in understood(result).items():
        if categories:
            parts.append(f"{what} {sum(categories.values())} of {len(categories)}")
    return f"Categories understood: {', '.join(parts)}"


def _find_images(
    images: FeatureFile, split: str, items: Items, common: bool
) -> tuple[Items, Int64]:
    """Return the items whose images are in a split, and the rows (N, I) of these images."""
    rows = matching.Rows.of(images, split)
    is_bundled = items.name == "shapes"
    if is_bundled:
        _check_is_shapes(images, f"{images.display_name}: {split}")
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
    _check_one_kind(items)
    return items, np.array([places[row] for row in kept])


def _check_one_kind(items: Items) -> None:
    """Refuse items of one image beside items of two."""
    if len({len(item.images) for item in items.items}) > 1:
        raise ClipkitError(f"{items.name}: expected items of one image or of two, got both")


def _check_is_shapes(images: FeatureFile, where: str) -> None:
    """Refuse images of which the history names other data sets than `shapes`."""
    datasets = {str(data.get("name")) for data in images.history.datasets}
    if datasets and "shapes" not in datasets:
        raise ClipkitError(f"{where}: expected images of shapes, got those of {min(datasets)}")


def _list(names: Sequence[str]) -> str:
    """List the first few different names."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(repr(shorten(name, 80)) for name in names[:SHOWN]) + more


def _vectors(
    images: FeatureFile, texts: FeatureFile, split: str, items: Items, rows: Int64
) -> tuple[Floats, Floats]:
    """Return the unit vectors of the images (N, I, D) and the texts (N, T, D) of items.

    The last text of an item also stands for those that it lacks.
    """
    compatibility.common_logit_scale(images, texts)
    similarity.refuse_dot_product(images, "to choose by", similarity.ONE_TOKEN_HINT)
    compatibility.check_widths(images, texts)
    row_of = {text: row for row, text in enumerate(texts.texts or [])}
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


def shuffle(
    images: Floats, texts: Floats, categories: Sequence[str], sets: Int64 | None = None
) -> tuple[Bools, Bools]:
    """Return what is right in M measures (M, N), and after S permutations of the images (S, M, N).

    Images are permuted within a category of items. The texts alone decide what is right then. Items
    with the same number in `sets` (N,) have the same images, and get the same other images.
    """
    images, texts = images.astype(np.float64), texts.astype(np.float64)
    random = np.random.RandomState(SEED)
    numbers = np.unique(categories, return_inverse=True)[1]
    first = set_of = np.arange(len(numbers))
    if sets is not None:
        keys = numbers * (sets.max() + 1) + sets
        _, first, set_of = np.unique(keys, return_index=True, return_inverse=True)
        set_of = np.argsort(np.argsort(first))[set_of]  # in the order of their first items
        first = np.sort(first)
    numbers = numbers[first]
    by_category = np.argsort(numbers)
    draws, order = [], np.empty_like(numbers)
    with console.progress("shuffling images", "draws") as report_progress:
        for draw in range(PERMUTATIONS):
            order[by_category] = np.lexsort([random.uniform(size=len(numbers)), numbers])
            draws.append(_is_right(similarity.products(images[first[order][set_of]], texts)))
            report_progress(draw + 1, PERMUTATIONS)
    return _is_right(similarity.products(images, texts)), np.stack(draws)


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
    images: Int64,
    means: Mapping[str, Any],
    shuffled: Bools,
    by_controls: Mapping[str, Sequence[Any]],
) -> list[Row]:
    """Return a row for each measure and category, all items first. `images` (N,) are rows."""
    categories = np.array([item.category for item in items.items])
    names = list(dict.fromkeys(categories.tolist()))
    groups = [(name, np.flatnonzero(categories == name)) for name in names if name]
    if len(names) > 1 or not groups:  # else one category has all items
        groups.insert(0, ("all", np.arange(len(images))))
    rows: list[Row] = []
    for number, measure in enumerate(MEASURES[: shuffled.shape[1]]):
        for name, members in groups:
            row: Row = {"split": measure, "category": name, "items": len(members)}
            for column, values in means.items():
                row[column] = float(values[number, members].mean())
            for column, of_controls in by_controls.items():
                shares = [float(values[number, members].mean()) for values in of_controls]
                row |= mean_of_controls(column, shares)
            right = means["accuracy"][number, members]
            row |= metrics.share("accuracy", right, images[members])
            draws = shuffled[:, number, members].mean(axis=1)
            rows.append(row | {"shuffled95": float(np.quantile(draws, 0.95))})
    return rows
