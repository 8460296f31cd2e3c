"""Image-text retrieval: whether an image finds its captions, and a caption its image.

The two tasks have the names of CLIP_benchmark. In `image_retrieval`, the queries are texts and the
candidates are images. In `text_retrieval`, the queries are images and the candidates are texts; a
query is right if at least one of its captions is found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from clipkit.analysis.controls import (
    Control,
    Controls,
    check_controls,
    control_digests,
    mean_of_controls,
)
from clipkit.analysis.nearest import neighbours
from clipkit.analysis.results import Row, make_result
from clipkit.analysis.retrieve import rank_metrics
from clipkit.analysis.retrieve.ranks import Chance, Ranks, chance
from clipkit.analysis.row_clusters import find_clusters
from clipkit.base import console, suggestions
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.base.matrices import Float32, Floats, Int64
from clipkit.features import matching, similarity
from clipkit.features.arguments import Features, Several, as_file, as_list, checked
from clipkit.features.arrays import is_array
from clipkit.features.attribute_tables import Table
from clipkit.features.compatibility import check_widths, common_logit_scale
from clipkit.features.history import History, history_entry
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile, Split
from clipkit.features.provenance import original_splits
from clipkit.statistics import metrics
from clipkit.statistics.dependence import (
    DRAWS,
    SEED,
    p_of,
    p_of_controls,
    rotation,
    signed_sums,
    unless_separate,
)

TASKS = ("image_retrieval", "text_retrieval")
DEFAULT_K = (1, 5, 10)
BLOCK_BYTES = 1 << 26  # of cosines
MAX_WIDE = 1 << 27  # numbers of candidates that are held in float64, 1 GiB
ROWS = 1 << 14  # of texts, whose own cosines are computed at once
NULL_IMAGES, NULL_COSINES = 100, 1 << 23  # that are sorted: of so many images, or of more
ROTATIONS, ROTATED = 10, 1 << 28  # most draws, and the products that they take
FEW_FIRST = 20  # queries of rank 1
TIE = 1e-6  # cosines in float32 that differ by less are equal, whatever the order of the sums
CAPTIONS_HINT = (
    "make them with: clipkit textembed --captions TABLE, or import them with: clipkit convert FILE "
    "texts.h5 --captions TABLE"
)


class Pairs(NamedTuple):
    """N images and K texts, and the image that each text belongs to.

    Every image has a text.
    """

    images: Float32  # (N, D), of length 1
    texts: Float32  # (K, D), of length 1
    image_of: Int64  # (K,)
    ids: list[str]  # N, of the images
    clusters: Int64 | None = None  # (N,), of images that depend on each other


@checked
def retrieve(  # noqa: PLR0913 (the options of `clipkit retrieve`)
    images: Features,
    texts: Features,
    split: str | None = None,
    *,
    k: Several[int] = DEFAULT_K,
    controls: Controls = (),
    same_rows: bool = False,
    common: bool = True,
    gap: bool = False,
    table: Table | None = None,
    cluster: str | None = None,
) -> FeatureFile:
    """Rank texts for images and images for texts: what `clipkit retrieve` reports.

    Parameters
    ----------
    images, texts : Features
        Of one model. The texts' classes are the ids of the images that they belong to, as
        `textembed --captions` writes them; with `same_rows`, text i belongs to image i.
    controls : Control, pair of Features, or several
        The same images and texts, embedded by untrained models.
    k : int or sequence of int
        Numbers of candidates within which a partner counts as found.
    common : bool
        Leave out images without text and texts without image, instead of refusing them.
    gap : bool
        Add the columns of `modality_gap`; `_null`, its mean if images and texts change sides at
        random, with `gap_p`, or, of the hubness, if one side is rotated at random; and
        `_within_one_side`, the mean of two halves of the images and two halves of the texts.
    table : Table, optional
    cluster : str, optional
        A file of attributes of the images, or ``shapes``, and an attribute of it. Images with the
        same value, and their texts, are counted together; `clusters` is the number of values.

    Returns
    -------
    FeatureFile
        A result with a run for each of TASKS, its `split`, and each `k`: the number of `queries`
        and `candidates`, the share `recall` of queries with a partner among the first k, and
        `median_rank` and `mrr`, the median rank of the best partner and its mean reciprocal rank.
        `_low` and `_high` are the limits of 95 % intervals over another draw of queries from these
        candidates, which counts the texts of an image together (see `metrics.effective_rows`).
        `_null` is what this model shows if each image has the texts of any image (see `SetRanks`).
        `_random_ranks` is what random ranks give, if an image has several texts; else `_null` is
        that (see `chance`). `_control` is the mean of the controls; of several, also with their
        range (`_control_low`, `_control_high`), and `control_p` is of `dependence.p_of_controls`.
        A recall at `k` of all candidates says nothing and is NaN. The predictions are numbers of
        images: the query's own image if it is found within k, else that of the best wrong
        candidate.
    """
    images, texts = as_file(images, "images"), as_file(texts, "texts")
    k = _check_k(as_list(k, "k", int))
    images, split = choose_split(images, split)
    check_widths(images, texts)
    common_logit_scale(images, texts)
    similarity.refuse_dot_product(images, "to rank by", similarity.ONE_TOKEN_HINT)
    controls = check_controls(controls, images, [split], with_texts=True)
    pairs = pair(images, texts, split, same_rows=same_rows, common=common)
    if gap and len(pairs.ids) < 4:  # two in each half
        raise ClipkitError(f"--gap: expected at least 4 pairs, got {len(pairs.ids)}")
    inputs = {"images": images.digest, "texts": texts.digest}
    used = np.flatnonzero(np.isin(images.splits[split].ids, pairs.ids))
    clusters = find_clusters(images, split, used, table, cluster, common=common)
    pairs = pairs._replace(clusters=clusters.numbers)
    _warn_of_all_candidates(pairs, k)
    of_controls = [_pair_control(control, pairs, texts, split, same_rows) for control in controls]
    entry = history_entry(
        "retrieve",
        splits=[split],
        k=k,
        same_rows=same_rows or None,
        common=None if common else False,
        **images.describe_joined(),
        gap=gap or None,
        **clusters.entry,
        inputs=inputs | clusters.inputs | control_digests(controls),
    )
    rows, splits = _measure(pairs, of_controls, k, gap)
    history = History([*images.history, *texts.history, entry])
    content = {"class_names": pairs.ids, "display_name": images.display_name}
    return make_result(history, rows, splits=splits, **content)


def _measure(
    pairs: Pairs, controls: Sequence[Pairs], k: Sequence[int], gap: bool
) -> tuple[list[Row], dict[str, Split]]:
    """Return the runs of both tasks, and the images that are found for each query."""
    found = rank(pairs)
    found_by_controls = [rank(of_control) for of_control in controls]
    few = [task for task, ranks in found.items() if (ranks.ranks < 2).sum() < FEW_FIRST]
    if few:
        which = f"{' and '.join(few)}: fewer than {FEW_FIRST} queries have rank 1"
        console.detail(f"{which}: the interval of MRR may be too narrow")
    rows: list[Row] = []
    splits = {}
    for task, ranks in found.items():
        columns = _gap_columns(task, pairs, controls) if gap else {}
        if pairs.clusters is not None:
            columns["clusters"] = int(ranks.clusters.max()) + 1
        by_controls = [by_control[task] for by_control in found_by_controls]
        rows += [row | columns for row in _rows(task, ranks, k, by_controls)]
        splits[task] = Split(
            labels=ranks.labels,
            ids=_query_ids(task, pairs),
            predicted=np.stack([ranks.predicted(n) for n in k]),
            cluster=unless_separate(ranks.clusters),
        )
    return rows, splits


def _check_k(k: Sequence[int]) -> list[int]:
    """Return different numbers of candidates in rising order; refuse none, or less than 1."""
    counts = sorted(set(k))
    if not counts:
        raise UsageError("k: expected at least 1, got none")
    if counts[0] < 1:
        raise UsageError(f"k: expected at least 1, got {counts[0]}")
    return counts


def _warn_of_all_candidates(pairs: Pairs, k: Sequence[int]) -> None:
    """Warn of numbers of candidates that are all, so that the recall is 1 for any model."""
    for name, count in (("images", len(pairs.ids)), ("texts", len(pairs.texts))):
        all_of_them = [f"recall@{n}" for n in k if n >= count]
        if all_of_them:
            console.warn(f"{', '.join(all_of_them)} of {count:,} {name} is 1 for any model")


def first_rows(result: FeatureFile) -> dict[str, Row]:
    """Return the row of the smallest k of each task."""
    rows = {}
    for task in TASKS:
        known = [row for row in result.runs_on(task) if not np.isnan(row["recall"])]
        for row in known[:1]:
            rows[task] = row
    return rows


# ---- Pairs ---------------------------------------------------------------------------------------


def pair(
    images: FeatureFile,
    texts: FeatureFile,
    split: str,
    *,
    same_rows: bool = False,
    common: bool = True,
    quiet: bool = False,
) -> Pairs:
    """Match the texts with the images of a split, by the images' ids or by their order.

    Images and texts without a partner are left out or, unless `common`, refused. With `quiet`,
    they are left out without a note.
    """
    _check_same_data_set(images, texts, split)
    rows = matching.Rows.of(images, split)
    places, rule = matching.find_ids(texts.class_names or [], rows.ids)
    # the last one stands for texts without a class, whose index is -1
    image_of_class = np.array([*places, -1], np.int64)
    found = matching.Found(image_of_class[np.asarray(texts.class_index)], rule)
    are_arrays = is_array(images) and is_array(texts)
    if same_rows or (are_arrays and not texts.class_names):  # only their order says what belongs
        _check_same_rows(texts, images, split, found.places)
        found = matching.Found(np.arange(len(rows.ids)), rule="")
    known = np.flatnonzero(found.places >= 0)
    used, numbers = np.unique(found.places[known], return_inverse=True)
    if not quiet:
        zeroshot = suggestions.command(
            "clipkit", "zeroshot", images.display_name, texts.display_name
        )
        _check_partners(texts, rows, found, common, zeroshot)
    image_rows = np.asarray(images.splits[split].features)[used]
    text_rows = np.asarray(texts.features)[known]
    return Pairs(
        _unit(image_rows, f"{images.display_name}: {split}"),
        _unit(text_rows, texts.display_name),
        numbers,
        [rows.ids[row] for row in used.tolist()],
    )


def _are_of_classes(texts: FeatureFile) -> bool:
    """Whether texts are prompts of classes, and no captions of images."""
    entry = texts.history[-1]
    return entry.get("command") == "textembed" and "classes" in entry


def _check_partners(
    texts: FeatureFile, images: matching.Rows, found: matching.Found, common: bool, zeroshot: str
) -> None:
    """Note or refuse texts without image and images without text; warn of equal texts.

    `zeroshot` is the command that measures prompts of classes.
    """
    if not texts.class_names and (found.places < 0).all():
        message = f"{texts.display_name} does not name the images of its texts"
        raise ClipkitError(message, CAPTIONS_HINT)
    names = [*(texts.class_names or []), "no image"]  # the last is for texts without a class
    image_ids = [names[number] for number in np.asarray(texts.class_index).tolist()]
    rows = matching.Rows(image_ids, "texts", texts.display_name)
    matching.note_rule(rows, found)
    hint = f"these are prompts of classes: {zeroshot}" if _are_of_classes(texts) else ""
    matching.check_partners(rows, images, found.places, "image", common, hint)
    text_of = np.full(len(images.ids), -1)
    has_image = np.flatnonzero(found.places >= 0)
    text_of[found.places[has_image]] = has_image
    matching.check_partners(images, rows, text_of, "text", common)
    _warn_of_equal_texts(texts, found.places)


def _pair_control(
    control: Control, pairs: Pairs, texts: FeatureFile, split: str, same_rows: bool
) -> Pairs:
    """Return the pairs of a control, which must be those of the model."""
    assert control.texts is not None  # it is checked
    found = pair(control.images, control.texts, split, same_rows=same_rows, quiet=True)
    is_same = found.ids == pairs.ids and control.texts.texts == texts.texts
    if not is_same or not np.array_equal(found.image_of, pairs.image_of):
        name = control.texts.display_name
        raise ClipkitError(f"{name}: expected the same images and texts, got others")
    return found


def _check_same_data_set(images: FeatureFile, texts: FeatureFile, split: str) -> None:
    """Refuse captions of another data set or split, whose ids may be row numbers, too."""
    names, others = ({data.get("name") for data in f.history.datasets} for f in (images, texts))
    if names and others and names.isdisjoint(others):
        raise ClipkitError(
            f"{texts.display_name}: expected captions of {', '.join(map(str, names))}, got "
            f"captions of {', '.join(map(str, others))}",
            "embed the captions of these images: clipkit textembed --captions TABLE -o captions.h5",
        )
    captioned = {name for data in texts.history.datasets for name in data.object("splits")}
    originals = dict.fromkeys(original_splits(images, split))
    if captioned and not captioned >= originals.keys():
        raise ClipkitError(
            f"{texts.display_name}: expected captions of {', '.join(originals)}, got captions of "
            f"{', '.join(sorted(captioned))}",
            "choose the split of the images with --split",
        )


def _unit(rows: Floats, name: str) -> Float32:
    return np.asarray(similarity.normalize(rows, name), np.float32)


def _check_same_rows(texts: FeatureFile, images: FeatureFile, split: str, named: Int64) -> None:
    """Refuse texts that name other images than those of the same rows, or another number."""
    n, K = len(images.splits[split]), len(texts.texts or [])
    if ((named >= 0) & (named != np.arange(K))).any():
        raise ClipkitError(
            f"{texts.display_name}: its texts name images in another order than "
            f"{images.display_name}",
            "leave --same-rows out",
        )
    if n != K:
        raise ClipkitError(
            f"{texts.display_name}: expected a text for each of {n:,} images with --same-rows, "
            f"got {K:,}"
        )


def _warn_of_equal_texts(texts: FeatureFile, image_of: Int64) -> None:
    """Warn of texts that stand for several images, which no model can distinguish."""
    pairs = set(zip(texts.texts or [], image_of.tolist(), strict=True))
    counts = Counter(text for text, image in pairs if image >= 0)
    count = sum(number > 1 for number in counts.values())
    if count:
        console.warn(
            f"{texts.display_name}: {console.count(count, 'text')} of several images: equal "
            "cosines share a rank, so that recall at a small k may be below chance"
        )


def _query_ids(task: str, pairs: Pairs) -> list[str]:
    """Return the ids of the queries: image ids, numbered where an image has several texts."""
    if task == "text_retrieval":
        return pairs.ids
    counts = np.bincount(pairs.image_of)
    seen = np.zeros_like(counts)
    ids = []
    for image in pairs.image_of.tolist():
        seen[image] += 1
        name = pairs.ids[image]
        ids.append(f"{name}#{seen[image]}" if counts[image] > 1 else name)
    return ids


# ---- Ranks ---------------------------------------------------------------------------------------


def rank(pairs: Pairs) -> dict[str, Ranks]:
    """Rank the candidates of each query; equal candidates of one cluster are one candidate.

    A copy of an image is found where the image is, and competes with neither.
    """
    if pairs.clusters is None:
        return _rank(pairs)
    first_image = _first_equal(pairs.images, pairs.clusters)
    images, image_of = np.unique(first_image, return_inverse=True)
    first_text = _first_equal(pairs.texts, image_of[pairs.image_of])
    texts, text_of = np.unique(first_text, return_inverse=True)
    distinct = Pairs(
        pairs.images[images], pairs.texts[texts], image_of[pairs.image_of[texts]], [], None
    )
    ranks = _rank(distinct)
    queries = {"image_retrieval": text_of, "text_retrieval": image_of}
    labels = {"image_retrieval": pairs.image_of, "text_retrieval": np.arange(len(pairs.images))}
    found = {}
    for task, of_task in ranks.items():
        own = queries[task]
        found[task] = of_task._replace(
            ranks=of_task.ranks[own],
            others=images[of_task.others[own]],
            labels=labels[task],
            partners=of_task.partners[own],
            clusters=pairs.clusters[labels[task]],
        )
    return found


def _first_equal(rows: Float32, groups: Int64) -> Int64:
    """Return the first row (N,) of the same group that is equal to each row (N, D) to the bit."""
    first: dict[tuple[int, bytes], int] = {}
    keys = zip(groups.tolist(), (row.tobytes() for row in rows), strict=True)
    return np.array([first.setdefault(key, number) for number, key in enumerate(keys)])


def _rank(pairs: Pairs) -> dict[str, Ranks]:
    """Rank the candidates of each query by their cosines, in blocks of images.

    Memory grows with the number of texts and images, and not with their product.
    """
    N, K = len(pairs.images), len(pairs.texts)
    order = np.argsort(pairs.image_of, kind="stable")  # texts of image 0, of image 1, ...
    counts = np.bincount(pairs.image_of, minlength=N)
    starts = np.concatenate([[0], np.cumsum(counts)])
    sets = SetRanks(order, starts) if K > N else None
    own = _own_cosines(pairs)  # (K,)
    best = np.maximum.reduceat(own[order], starts[:-1])  # (N,)
    is_best = own >= best[pairs.image_of] - TIE
    best_texts = np.bincount(pairs.image_of, is_best)  # (N,): several captions may be equal
    wrong_images, wrong_texts = WrongCandidates(K), WrongCandidates(N)
    with console.progress("ranking pairs", "images") as report_progress:
        for first, last, cosines in blocks(pairs.images, pairs.texts):
            if sets is not None:
                sets.add(first, cosines)
            texts = order[starts[first] : starts[last]]
            cosines[pairs.image_of[texts] - first, texts] = -np.inf  # so that others are left
            rows = slice(first, last)
            wrong_texts.add(rows, cosines, best[rows])
            wrong_images.add(slice(K), cosines.T, own, first)
            report_progress(last, N)
    # among t others of the same cosine, the best of g partners has the mean rank 1 + t / (g + 1)
    image_ranks = 1 + wrong_images.ahead + wrong_images.tied / 2
    text_ranks = 1 + wrong_texts.ahead + wrong_texts.tied / (best_texts + 1)
    clusters = np.arange(N) if pairs.clusters is None else pairs.clusters
    ones = np.ones(K, np.int64)
    of_texts = Ranks(
        ranks=image_ranks,
        others=wrong_images.nearest,
        labels=pairs.image_of,
        partners=ones,
        candidates=N,
        clusters=clusters[pairs.image_of],
        by_chance=chance(ones, N),  # each text has all ranks, with one image each
        has_sets=K > N,
    )
    of_images = Ranks(
        ranks=text_ranks,
        others=pairs.image_of[wrong_texts.nearest],
        labels=np.arange(N),
        partners=counts,
        candidates=K,
        clusters=clusters,
        by_chance=chance(counts, K) if sets is None else sets.by_chance(),
        has_sets=K > N,
    )
    return dict(zip(TASKS, (of_texts, of_images), strict=True))


class WrongCandidates:
    """Count, for Q queries, wrong candidates ahead of the best partner, and keep the nearest."""

    def __init__(self, queries: int) -> None:
        self.ahead = np.zeros(queries)
        self.tied = np.zeros(queries)  # with the best partner
        self.nearest = np.zeros(queries, np.int64)
        self.cosine = np.full(queries, -np.inf, np.float32)  # of the nearest

    def add(self, queries: slice, cosines: Float32, best: Float32, first: int = 0) -> None:
        """Compare cosines (B, M) with those of the best partners (B,).

        `first` is the number of the first of these candidates. Partners have the cosine -inf.
        """
        is_ahead = cosines > best[:, None] + TIE
        is_near = cosines >= best[:, None] - TIE
        self.ahead[queries] += is_ahead.sum(axis=1)
        self.tied[queries] += is_near.sum(axis=1) - is_ahead.sum(axis=1)
        highest = cosines.argmax(axis=1)
        values = cosines[np.arange(len(cosines)), highest]
        is_nearer = values > self.cosine[queries]
        self.nearest[queries][is_nearer] = highest[is_nearer] + first
        self.cosine[queries][is_nearer] = values[is_nearer]


class SetRanks:
    """The ranks of the texts of each image among all texts, as if they were those of any image.

    An ignorant model is as near to the texts of other images. They have no random ranks: texts of
    one image are alike, so that the best of five ranks behind the best of five random ones. All
    sets of texts are ranked for each image or, of many, for evenly spaced ones.
    """

    def __init__(self, order: Int64, starts: Int64) -> None:
        self.order, self.starts = order, starts[:-1]
        self.sizes = np.diff(starts)
        most = max(NULL_IMAGES, NULL_COSINES // len(order))
        self.step = -(-len(self.sizes) // most)
        self.counts = np.zeros(len(order) + 2, np.int64)  # of the ranks 0, 1, ..., M + 1
        self.reciprocals = 0.0

    def add(self, first: int, cosines: Float32) -> None:
        """Rank all sets for some images, of which `first` is the first, by cosines (B, K)."""
        for row in range(-first % self.step, len(cosines), self.step):
            values = cosines[row, self.order]
            best = np.maximum.reduceat(values, self.starts)  # (N,)
            is_best = values >= np.repeat(best - TIE, self.sizes)
            of_set = np.add.reduceat(is_best, self.starts, dtype=np.int64)
            values.sort()
            ahead = len(values) - np.searchsorted(values, best + TIE, "right")
            tied = len(values) - np.searchsorted(values, best - TIE, "left") - ahead - of_set
            ranks = 1 + ahead + tied / (of_set + 1)
            self.counts += np.bincount(np.ceil(ranks).astype(np.int64), minlength=len(self.counts))
            self.reciprocals += float((1 / ranks).sum())

    def by_chance(self) -> Chance:
        """Return the distribution of all ranks."""
        total = int(self.counts.sum())
        behind = 1 - np.cumsum(self.counts[:-1]) / total
        return Chance(behind, self.reciprocals / total)


def _own_cosines(pairs: Pairs) -> Float32:
    """Return the cosine (K,) of each text with its image."""
    own = np.empty(len(pairs.texts), np.float32)
    for first in range(0, len(own), ROWS):
        rows = slice(first, first + ROWS)
        images = pairs.images[pairs.image_of[rows]]
        own[rows] = np.einsum("kd,kd->k", images, pairs.texts[rows], dtype=np.float64)
    return own


def blocks(queries: Floats, candidates: Floats) -> Iterator[tuple[int, int, Float32]]:
    """Yield the first and last row of a block of queries, and their cosines (B, M)."""
    rows = max(1, BLOCK_BYTES // (4 * len(candidates)))
    if candidates.size <= MAX_WIDE:
        candidates = candidates.astype(np.float64)  # once, and not for each block
    for first in range(0, len(queries), rows):
        last = min(first + rows, len(queries))
        yield first, last, similarity.products(queries[first:last], candidates)


# ---- Summaries -----------------------------------------------------------------------------------


def _rows(task: str, ranks: Ranks, k: Sequence[int], controls: Sequence[Ranks]) -> list[Row]:
    """Return a run for each k."""
    nulls = {"null": ranks.by_chance}
    if ranks.has_sets:
        nulls["random_ranks"] = chance(ranks.partners, ranks.candidates)
    shared = _metric_columns(ranks, nulls, controls)
    rows = []
    for n in k:
        row: Row = {"split": task, "k": n, "queries": len(ranks.ranks)}
        row["candidates"] = ranks.candidates
        recalls = metrics.share("recall", ranks.ranks <= n, ranks.clusters)
        for name, null in nulls.items():
            recalls |= {f"recall_{name}": null.recalls([n])[0]}
        found = [control.ranks <= n for control in controls]
        recalls |= mean_of_controls("recall_control", [float(one.mean()) for one in found])
        recalls |= p_of_controls(ranks.ranks <= n, found, ranks.clusters)
        if n >= ranks.candidates:  # any model finds all
            recalls = dict.fromkeys(recalls, np.nan)
        rows.append(row | recalls | shared)
    return rows


def _metric_columns(ranks: Ranks, nulls: Mapping[str, Chance], controls: Sequence[Ranks]) -> Row:
    """Return each metric of ranks with its interval, and what nulls and controls give."""
    row: Row = {}
    for metric in rank_metrics.METRICS:
        name = metric.column.name
        row[name], row[f"{name}_low"], row[f"{name}_high"] = metric.measure(ranks)
        for null, of_null in nulls.items():
            row[f"{name}_{null}"] = metric.by_chance(of_null)
        of_controls = [metric.measure(control)[0] for control in controls]
        row |= mean_of_controls(f"{name}_control", of_controls)
    return row


# ---- The modality gap ----------------------------------------------------------------------------


def modality_gap(pairs: Pairs, task: str) -> dict[str, float]:
    """Return how far images and texts lie apart, and the `hubness` of a task's candidates.

    `gap` is the distance of the mean image from the mean text (Liang et al. 2022). `relative_gap`
    is the mean of 1 - cosine of pairs, as a share of its sum with the mean within images and within
    texts (Schrodi et al. 2024).
    """
    means = [rows.mean(axis=0, dtype=np.float64) for rows in (pairs.images, pairs.texts)]
    return {
        "gap": float(np.linalg.norm(means[0] - means[1])),
        "relative_gap": _relative_gap(pairs, *means),
        "hubness": hubness(*_sides(pairs, task)),
    }


def _relative_gap(pairs: Pairs, image: Floats, text: Floats) -> float:
    """Return `relative_gap` if the images and the texts have these means (D,)."""
    sizes = np.array([len(pairs.images), len(pairs.texts)])
    squares = np.square([image, text]).sum(axis=1)
    within = float(np.mean((1 - squares) * sizes / (sizes - 1)))  # without a row and itself
    between = 1 - float(_own_cosines(pairs).mean())
    if between + within < TIE:
        raise ClipkitError("--gap: expected images and texts that differ, got equal ones")
    return between / (between + within)


def _sides(pairs: Pairs, task: str) -> tuple[Float32, Float32]:
    """Return the queries and the candidates of a task."""
    if task == "image_retrieval":
        return pairs.texts, pairs.images
    return pairs.images, pairs.texts


def hubness(queries: Floats, candidates: Floats) -> float:
    """Return the skewness of the number of queries (Q, D) that candidates (M, D) are near.

    A candidate is near a query if it is among its 10 nearest (Radovanovic et al. 2010).
    """
    found = neighbours.find(queries, candidates, min(10, len(candidates)))
    counts = np.bincount(found.rows.ravel(), minlength=len(candidates))
    return float(((counts - counts.mean()) ** 3).mean() / max(counts.std(), 1e-9) ** 3)


def _gap_columns(task: str, pairs: Pairs, controls: Sequence[Pairs]) -> Row:
    """Return the columns of `modality_gap` with their nulls, and those of halves of one side."""
    columns = modality_gap(pairs, task)
    row: Row = columns | _gap_null(pairs, columns["gap"]) | {"hubness_null": _hub_null(pairs, task)}
    for name, value in _within_one_side(pairs, task).items():
        row[f"{name}_within_one_side"] = value
    of_controls = [modality_gap(control, task) for control in controls]
    for name in columns:
        row |= mean_of_controls(f"{name}_control", [gaps[name] for gaps in of_controls])
    return row


def _gap_null(pairs: Pairs, gap: float) -> Row:
    """Return the gaps if each image changes sides with its texts at random, and `gap_p`.

    All rows are measured from the middle between the two means. The difference of the means is then
    a sum of what each image and its texts add, and changing sides changes the sign of that.
    """
    N, K = len(pairs.images), len(pairs.texts)
    image, text = (rows.mean(axis=0, dtype=np.float64) for rows in (pairs.images, pairs.texts))
    middle = (image + text) / 2
    clusters = np.arange(N) if pairs.clusters is None else pairs.clusters
    parts = np.zeros((int(clusters.max()) + 1, len(middle)))
    np.add.at(parts, clusters, (pairs.images - middle) / N)
    np.subtract.at(parts, clusters[pairs.image_of], (pairs.texts - middle) / K)
    differences = signed_sums(parts)
    drawn = np.linalg.norm(differences, axis=1)
    shares = [_relative_gap(pairs, middle + half, middle - half) for half in differences / 2]
    return {
        "gap_null": float(drawn.mean()),
        "gap_p": p_of(drawn, gap, tolerance=TIE),
        "p_min": 1 / (DRAWS + 1),
        "relative_gap_null": float(np.mean(shares)),
    }


def _hub_null(pairs: Pairs, task: str) -> float:
    """Return the mean hubness if one side is rotated at random, which leaves no pairs."""
    queries, candidates = _sides(pairs, task)
    random, D = np.random.RandomState(SEED), queries.shape[1]
    draws = min(ROTATIONS, max(2, ROTATED // (len(queries) * len(candidates))))
    found = []
    for _ in range(draws):
        rotated = queries @ rotation(random, D)
        found.append(hubness(rotated.astype(np.float32), candidates))
    return float(np.mean(found))


def _within_one_side(pairs: Pairs, task: str) -> Row:
    """Return the mean of `modality_gap` over two halves of the images and two of the texts."""
    random = np.random.RandomState(SEED)
    found = []
    for rows in (pairs.images, pairs.texts):
        half = len(rows) // 2
        a, b = rows[random.permutation(len(rows))[: 2 * half]].reshape(2, half, -1)
        found.append(modality_gap(Pairs(a, b, np.arange(half), []), task))
    return {name: (found[0][name] + found[1][name]) / 2 for name in found[0]}
