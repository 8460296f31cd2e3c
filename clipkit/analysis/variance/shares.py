"""Measure the variance of embeddings, and of each prompt's cosines, that attributes explain.

The embeddings are normalised for cosines, and not for dot products. X (N, D) are the centred rows,
and T = X'X is their scatter. A regression on the indicators of an attribute's values explains
B = X'PX of it. For the similarities with a direction u, R squared is u'Bu / u'Tu (eta squared). For
the whole embedding, it is tr B / tr T (the R squared of PERMANOVA, Anderson 2001).

An attribute that is a number has a constant and its values as columns, in place of K indicators.

Both are above 0 by chance. Shares are therefore epsilon squared (Kelley 1935), the adjusted R
squared: 1 - (SSE / (N - K)) / (SST / (N - 1)) for K values. For an attribute that is unrelated to
the embeddings, it is 0 on average and may be negative.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipkit.analysis.controls import Controls, check_controls, control_digests
from clipkit.analysis.results import Row, make_result
from clipkit.analysis.row_clusters import own_clusters
from clipkit.analysis.verdicts import keep
from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.base.matrices import BlockMatrix, Floats, Int64
from clipkit.features import compatibility, similarity
from clipkit.features.annotations import Attribute, read_annotations
from clipkit.features.arguments import Features, Several, as_file, as_list, checked
from clipkit.features.attribute_tables import Table
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile
from clipkit.features.provenance import prompts_entry
from clipkit.statistics.claims import ABOVE, LEVEL, NOT_DECIDED, Claim, Reference
from clipkit.statistics.power import variance_rows

Bools = NDArray[np.bool_]

UNRELATED = "unrelated attributes"
NO_UNIQUE = {"unique": np.nan, "unique_rows": 0, "unique_null95": np.nan}
ROWS_PER_PARAMETER = 2  # with fewer complete rows, `unique` is left empty
MAX_VALUES = 5000  # of all attributes: a regression decomposes a matrix of this size


class Explained(NamedTuple):
    """The part B = A'A of T that a regression explains. `rank` counts the constant."""

    root: Floats  # A (P, D)
    rank: int


def _encode(values: Int64 | Floats) -> tuple[NDArray[Any], int]:
    """Return the positions (N,) of codes, or the z-scores of numbers, and K; see `_regressors`."""
    if values.dtype.kind == "f" and np.ptp(values):  # not equal ones: rounding makes a deviation
        return (values - values.mean()) / values.std(), 2
    distinct, positions = np.unique(values, return_inverse=True)
    return positions.astype(np.min_scalar_type(len(distinct))), len(distinct)


def _regressors(values: NDArray[Any], count: int) -> Any:
    """Return the indicators (B, K) of positions; for z-scores, a constant and the scores (B, 2).

    The columns are orthogonal.
    """
    from scipy import sparse

    ones = np.ones(len(values))
    if values.dtype.kind == "f":
        return sparse.csr_array(np.stack([ones, values], axis=1))
    places = np.arange(len(values)), values
    return sparse.csr_array((ones, places), shape=(len(values), count))


class Regressions:
    """Regressions of N of M rows on columns (M,), which are indicators of codes or numbers.

    `regress` computes them.

    A regression of rank K explains the part B of the scatter T. Its adjusted R squared is

        1 - (tr T - tr B) / (N - K) / (tr T / (N - 1))

    for the whole embedding, and the same with u'Tu and u'Bu for the cosines with a direction u.
    """

    def __init__(
        self, used: Bools, columns: Mapping[str, Int64 | Floats], clusters: Int64 | None = None
    ) -> None:
        self.used = used
        self.count = int(used.sum())
        self.clusters: Int64 | None = None  # (N,), from 0
        if clusters is not None:
            self.clusters = np.unique(clusters[used], return_inverse=True)[1]
        self._places: dict[str, slice] = {}
        self._columns: list[tuple[NDArray[Any], int]] = []
        start = 0
        for name, codes in columns.items():
            values, count = _encode(codes[used])
            self._columns.append((values, count))
            self._places[name] = slice(start, start + count)
            start += count
            if start > MAX_VALUES:
                raise ClipkitError(
                    f"attributes: expected at most {MAX_VALUES:,} values in all, got {start:,} or "
                    "more",
                    "choose attributes with --attribute",
                )
        self.total: Any = 0.0  # T (D, D)
        self.of_pairs: Any = 0.0  # (D, D): the sum of x_i x_j' over pairs of rows in one cluster
        self._counts: Any = 0.0  # (P, P)
        self._sums: Any = 0.0  # (P, D)

    def add(self, start: int, centred: Floats) -> None:
        """Add centred rows (B, D), of which the first is row `start` of N."""
        from scipy import sparse

        rows = slice(start, start + len(centred))
        blocks = [_regressors(values[rows], count) for values, count in self._columns]
        regressors = sparse.hstack(blocks, format="csr")  # (B, P)
        self._counts = self._counts + (regressors.T @ regressors).toarray()
        self._sums = self._sums + regressors.T @ centred

    def explained(self, names: Sequence[str]) -> Explained:
        """Return what a regression on some columns explains. Without columns, it is a constant."""
        if not names:
            return Explained(np.zeros((0, len(self.total))), 1)
        places = np.concatenate([np.r_[self._places[name]] for name in names])
        counts = self._counts[np.ix_(places, places)]
        sums = self._sums[places]
        if len(names) == 1:  # the indicators of one attribute are orthogonal
            return Explained(sums / np.sqrt(np.diag(counts))[:, None], len(places))
        values, vectors = np.linalg.eigh(counts)
        # the indicators of several attributes are linearly dependent
        is_positive = values > 1e-9 * values[-1]
        root = vectors[:, is_positive].T @ sums / np.sqrt(values[is_positive])[:, None]
        return Explained(root, int(is_positive.sum()))

    def count_values(self, name: str) -> int:
        """Return how many values of a column occur; 2 for numbers that differ."""
        place = self._places[name]
        return int(place.stop - place.start)

    def rows_for(self, name: str, along: Floats | None = None) -> Any:
        """Return N or, of rows in clusters, how many independent rows are as unsure of a column.

        An unrelated column explains more of rows that depend on each other if its values do, too:
        by the factor 1 + h x N / (P k t), at least 1 (as in Kish 1965 and Moulton 1986). Of the P
        pairs of rows in one cluster, h is the sum of the entries of its projection of rank k, and x
        that of their products; t is the scatter. If each row is there m times, it is m. A column
        that takes no notice of clusters has the factor 1.
        """
        if self.clusters is None:
            return self.count
        sizes = np.bincount(self.clusters)
        pairs = int((sizes * (sizes - 1)).sum())
        columns, count = self._columns[list(self._places).index(name)]
        if not pairs or count < 2:
            return self.count
        regressors = _regressors(columns, count)
        squares = regressors.power(2).sum(axis=0)  # (K,)
        sums = _sum_rows(self.clusters, regressors)  # (G, K)
        of_projection = float((np.square(sums) / squares).sum()) - (sizes**2).sum() / self.count
        together = of_projection - (count - 1)
        scatter = self._scatter(along)
        if along is None:
            products = np.trace(self.of_pairs)
        else:
            products = ((along @ self.of_pairs) * along).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):  # all rows are equal
            ratio = np.nan_to_num(products / scatter)
        factor = 1 + together * self.count / (pairs * (count - 1)) * ratio
        return self.count / np.maximum(factor, 1)

    def share(
        self, smaller: Explained, larger: Explained, along: Floats | None = None, rows: Any = None
    ) -> Any:
        """Return the gain in adjusted R squared from the smaller to the larger regression.

        By default, it is for the whole embedding; with `along` (K, D), for cosines with directions.
        `rows` are those of `rows_for`, by default all.
        """
        rows = self.count if rows is None else rows
        return self._gain(smaller, larger, self._explained_scatter(larger, along), rows, along)

    def null_quantile(
        self,
        smaller: Explained,
        larger: Explained,
        along: Floats | None = None,
        rows: Any = None,
        level: float = 0.95,
    ) -> Any:
        """Return a quantile of `share` for unrelated attributes with as many values.

        Along each principal axis of the residuals, such an attribute explains Beta(k / 2,
        (N - K) / 2). The sum over the axes is nearly Beta, too (as in Satterthwaite 1946).
        """
        from scipy.special import betaincinv

        rows = self.count if rows is None else rows
        total, explained = self._scatter(along), self._explained_scatter(smaller, along)
        a, b = (larger.rank - smaller.rank) / 2, (rows - larger.rank) / 2
        if not a > 0 or np.all(b <= 0):
            return np.full_like(total, np.nan)
        b = np.where(b > 0, b, np.nan)
        spread = 1.0  # of the explained part, relative to one axis
        if along is None:
            residual = self.total - smaller.root.T @ smaller.root
            free = rows - smaller.rank  # parts along several axes are negatively correlated
            with np.errstate(invalid="ignore"):  # all rows are equal
                spread = (residual**2).sum() / np.trace(residual) ** 2
            spread = max(1e-9, (spread - 1 / free) * free / (free - 1))
        scale = ((a + b + 1) / spread - 1) / (a + b)
        by_chance = (total - explained) * betaincinv(scale * a, scale * b, level)
        return self._gain(smaller, larger, explained + by_chance, rows, along)

    def _scatter(self, along: Floats | None) -> Any:
        """Return tr T, or u'Tu (K,) for directions u."""
        if along is None:
            return np.trace(self.total)
        return ((along @ self.total) * along).sum(axis=1)

    def _explained_scatter(self, part: Explained, along: Floats | None) -> Any:
        """Return tr B, or u'Bu (K,) for directions u."""
        if along is None:
            return (part.root**2).sum()
        return ((along @ part.root.T) ** 2).sum(axis=1)

    def _gain(
        self, smaller: Explained, larger: Explained, by_larger: Any, rows: Any, along: Floats | None
    ) -> Any:
        """Return the gain if the larger regression explains `by_larger` of the scatter."""
        total = self._scatter(along)
        # one value, or as many as rows
        if not smaller.rank < larger.rank or np.all(np.asarray(rows) <= larger.rank):
            return np.full_like(total, np.nan)
        by_smaller = self._explained_scatter(smaller, along)
        before = self._adjusted_r2(total, by_smaller, smaller.rank, rows)
        after = self._adjusted_r2(total, by_larger, larger.rank, rows)
        return after - np.maximum(before, 0)

    def _adjusted_r2(self, total: Any, explained: Any, rank: int, rows: Any) -> Any:
        free = np.where(np.asarray(rows) > rank, rows - rank, np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):  # all rows are equal
            return 1 - (total - explained) / free * (rows - 1) / total


def _sum_rows(clusters: Int64, rows: Any) -> Any:
    """Return the sums (G, D) of the rows (N, D) of each cluster."""
    from scipy import sparse

    places = clusters, np.arange(len(clusters))
    shape = (int(clusters.max()) + 1, len(clusters))
    sums = sparse.csr_array((np.ones(len(clusters)), places), shape=shape) @ rows
    return sums.toarray() if sparse.issparse(sums) else sums


def regress(images: FeatureFile, split: str, regressions: Sequence[Regressions]) -> None:
    """Read the embeddings of a split, in blocks, once for all regressions on the same rows."""
    by_rows: dict[bytes, list[Regressions]] = {}
    for one in regressions:
        by_rows.setdefault(one.used.tobytes(), []).append(one)
    done = 0
    with console.progress("measuring variance", "regressions") as report_progress:
        for group in by_rows.values():
            _regress_on_rows(images, split, group)
            done += len(group)
            report_progress(done, len(regressions))


def _regress_on_rows(images: FeatureFile, split: str, regressions: Sequence[Regressions]) -> None:
    used = regressions[0].used
    mean = sum(rows.sum(axis=0) for rows in _iter_rows(images, split, used)) / used.sum()
    total: Any = 0.0
    start = 0
    clusters = regressions[0].clusters
    sums: Any = np.zeros((0 if clusters is None else int(clusters.max()) + 1, len(mean)))
    for rows in _iter_rows(images, split, used):
        rows -= mean
        total = total + rows.T @ rows
        for one in regressions:
            one.add(start, rows)
        if clusters is not None:
            np.add.at(sums, clusters[start : start + len(rows)], rows)
        start += len(rows)
    for one in regressions:
        one.total, one.of_pairs = total, sums.T @ sums - total


def _iter_rows(images: FeatureFile, split: str, used: Bools) -> Iterator[Floats]:
    """Yield the used rows of a split, as `similarity.comparable` returns them, in blocks."""
    start = 0
    for block in BlockMatrix.from_array(images.splits[split].features).iter_blocks():
        stored = np.asarray(block, np.float64)
        rows = similarity.comparable(stored, images, f"{images.display_name}: {split}", start)
        yield rows[used[start : start + len(block)]]
        start += len(block)


class Term:
    """The regressions of an attribute, or of the interaction of two, in one split."""

    def __init__(self, attribute: Attribute, split: str, clusters: Int64 | None) -> None:
        self.attribute, self.name, self.clusters = attribute, attribute.name, clusters
        self.parts = [part.name for part in attribute.parts]
        self.codes: dict[str, Int64 | Floats] = {
            part.name: part.codes[split] for part in [attribute, *attribute.parts]
        }
        self.known = self.codes[self.name] >= 0
        used = self.known
        if not used.any():  # -1 in all rows, which as the only value explains nothing
            used = ~used
            self.codes = dict.fromkeys(self.codes, self.codes[self.name])
        elif attribute.is_number:
            self.codes = {self.name: attribute.numbers()[attribute.codes[split]]}
        self.regressions = Regressions(used, self.codes, clusters)
        self.values = self.regressions.count_values(self.name) if self.known.any() else 0

    @functools.cached_property
    def explained(self) -> tuple[Explained, Explained]:
        """What the parts explain, and what the attribute does."""
        return self.regressions.explained(self.parts), self.regressions.explained([self.name])

    def share(self, along: Floats | None = None) -> Any:
        """Return the share of the whole embedding, or of the cosines with each direction."""
        rows = self.regressions.rows_for(self.name, along)
        return self.regressions.share(*self.explained, along, rows)

    def null_quantile(self, along: Floats | None = None, level: float = 0.95) -> Any:
        """Return a quantile of that share for unrelated attributes, by default that of 95 %."""
        rows = self.regressions.rows_for(self.name, along)
        return self.regressions.null_quantile(*self.explained, along, rows, level)


@checked
def decompose(  # noqa: PLR0913 (the options of `clipkit variance`)
    images: Features,
    texts: Features | None = None,
    *,
    table: Table | None = None,
    columns: Several[str] = (),
    controls: Controls = (),
    numbers: bool = False,
    null: int = 1000,
    split: str | None = None,
    common: bool = False,
    seed: int = 42,
) -> FeatureFile:
    """Measure the share of variance of each attribute: what `clipkit variance` reports.

    Parameters
    ----------
    images : Features
        Of kind images.
    texts : Features, optional
        Of kind texts and of the same model. Shares are then measured for each prompt's cosines.
    table : Table, optional
        A table of attributes, or ``shapes``. Without it, the labels are the only
        attribute, `class`.
    columns : str or sequence of str, optional
        Attributes to use, by default all of the table. ``a*b`` is an interaction: what the
        combinations of two attributes explain beyond both.
    controls : Control or Features, or several
        The same images, embedded by untrained models.
    numbers : bool
        Treat attributes of 3 to 20 numbers, and those of ``shapes``, as numbers, not categories.
    null : int
        Number of random directions, for `random99`.
    split : str, optional
        By default test, else the first.
    common : bool
        Leave out images that the table lacks, instead of refusing them.
    seed : int
        Random seed of the directions.

    Returns
    -------
    FeatureFile
        A result with one run per attribute: `split`, `attribute`, `values` (NaN for numbers),
        `rows`, `share`, `null95` (the 95 % quantile of the shares of unrelated attributes),
        `unique` (the adjusted R squared that the regression on all attributes loses without this
        one, NaN with fewer than two rows per parameter), `unique_rows` and `unique_null95` (its
        complete rows and its null), `control_share`, `control_low`, `control_high` (mean and range
        of the controls). With texts, one run per prompt and attribute: `split`, `prompt`,
        `attribute`, `share`, `random99`
        (the 99 % quantile of the shares of random directions), `null95` (for one prompt),
        `embedding` (the share of the whole embedding), `above` (whether share is above both). NaN
        marks undefined values: of an attribute with one value or none, or with as many as rows.

    Raises
    ------
    UsageError
        If there is no such split or attribute, or controls are given with texts.
    ClipkitError
        If the table does not fit, attributes have more than 5,000 values in all or none, a control
        holds other images or names a trained model, or texts come from another model.
    """
    images, texts = as_file(images, "images"), as_file(texts, "texts")
    columns = as_list(columns, "columns", str)
    if texts is not None and controls:
        raise UsageError("expected TEXTS or --control, got both")
    if null < 1:
        raise UsageError(f"null: expected at least 1 draw, got {null}")
    images, name = choose_split(images, split)
    terms, source, inputs = _read_terms(
        images, name, table, columns, numbers=numbers, common=common
    )
    inputs["images"] = images.digest
    _check_values(terms, name)
    untrained = check_controls(controls, images, [name])
    if texts is None:
        rows = _attribute_rows(terms, images, name)
        shares = [_shares(terms, control.images, name) for control in untrained]
        _add_controls(rows, shares)
        inputs |= control_digests(untrained)
        claims = _claims(terms)
    else:
        rows = _prompt_rows(terms, images, texts, name, null, seed)
        inputs["texts"] = texts.digest
        claims = []
    history = images.extended_history(
        "variance",
        attributes=source,
        column=list(columns) or None,
        numbers=numbers or None,
        split=name,
        common=common or None,
        null=null,
        prompts=None if texts is None else prompts_entry(texts),
        seed=seed,
        inputs=inputs,
    )
    result = make_result(history, rows)
    keep(result, claims)
    return result


def _claims(terms: Sequence[Term]) -> list[Claim]:
    """Hold the share of each attribute against those of unrelated ones, for all (Bonferroni)."""
    level = 1 - LEVEL / 2 / len(terms)
    claims = []
    for run, term in enumerate(terms):
        share, largest = float(term.share()), float(term.null_quantile(level=level))
        if math.isnan(share) or math.isnan(largest):
            continue
        rows = int(term.known.sum())
        others = Reference(UNRELATED, largest)
        claim = Claim(term.name, share, math.nan, math.nan, others, rows, run=run, verdict=ABOVE)
        if share <= largest:
            why = f"some {UNRELATED} explain as much by chance"
            needs = variance_rows(share, largest, rows, LEVEL / len(terms))
            claim = replace(claim, verdict=NOT_DECIDED, because=why, needs=needs)
        claims.append(claim)
    return claims


def _read_terms(
    images: FeatureFile,
    split: str,
    table: Table | None,
    columns: Sequence[str],
    *,
    numbers: bool,
    common: bool,
) -> tuple[list[Term], str, dict[str, str]]:
    """Return the attributes of a split, their source and the digest of their table."""
    which: Any = "all" if numbers else "many"
    annotations = read_annotations(
        images, table, columns, numbers=which, splits=[split], common=common
    )
    attributes = annotations.attributes
    if table is not None and not columns:
        # it would leave nothing unique to the attributes of which the classes consist
        others = [attribute for attribute in attributes if not attribute.is_class]
        attributes = others or attributes
    clusters = own_clusters(images, split)
    terms = [Term(attribute, split, clusters) for attribute in attributes]
    regress(images, split, [term.regressions for term in terms])
    return terms, annotations.source, dict(annotations.inputs)


def _check_values(terms: Sequence[Term], split: str) -> None:
    """Refuse attributes without any value in a split; warn if only some have none."""
    without = [term.name for term in terms if not term.values]
    if len(without) == len(terms):
        raise ClipkitError(f"{split}: expected rows with a value of {without[0]!r}, got none")
    if without:
        console.warn(f"no row of {split} has a value of {', '.join(without)}")


def _attribute_rows(terms: Sequence[Term], images: FeatureFile, split: str) -> list[Row]:
    together = _choose_base(terms)
    unique = _unique_shares(together, images, split)
    others = [term.name for term in terms if term.values and term not in together]
    if others:
        console.detail(
            f"unique: left out {', '.join(others)}: too few images would have all values, or fewer "
            f"than {ROWS_PER_PARAMETER} for each parameter"
        )
    rows = []
    for term in terms:
        values = math.nan if term.attribute.is_number else term.values
        row = {"split": split, "attribute": term.name, "values": values}
        row |= {"rows": int(term.known.sum())}
        row |= {"share": float(term.share()), "null95": float(term.null_quantile())}
        rows.append(row | unique.get(term.name, NO_UNIQUE))
    return rows


def _choose_base(terms: Sequence[Term]) -> list[Term]:
    """Return the terms of the regression on all attributes, those with many rows first.

    A term is left out if, with it, fewer than half of the rows of the first would be complete, or
    fewer than ROWS_PER_PARAMETER for each parameter.
    """
    by_rows = sorted(terms, key=lambda term: (-term.known.sum(), term.values))
    base: list[Term] = []
    complete = by_rows[0].known
    parameters = 1
    for term in by_rows:
        rows = (complete & term.known).sum()
        needed = ROWS_PER_PARAMETER * (parameters + term.values - 1)
        if term.values and rows >= max(by_rows[0].known.sum() / 2, needed):
            base.append(term)
            complete = complete & term.known
            parameters += term.values - 1
    return base


def _unique_shares(terms: Sequence[Term], images: FeatureFile, split: str) -> Row:
    """Return what the regression on all terms loses without each, its rows and its null."""
    if not terms:
        return {}
    complete = np.logical_and.reduce([term.known for term in terms])
    columns = {name: codes for term in terms for name, codes in term.codes.items()}
    regressions = Regressions(complete, columns, terms[0].clusters)
    regress(images, split, [regressions])
    unique = {}
    for term in terms:
        # an interaction contains its parts, so it would explain what they do
        others = [other.name for other in terms if term.name not in (other.name, *other.parts)]
        without = list(dict.fromkeys([*others, *term.parts]))
        smaller = regressions.explained(without)
        larger = regressions.explained([*without, term.name])
        rows = regressions.rows_for(term.name)
        share = regressions.share(smaller, larger, rows=rows)
        null95 = regressions.null_quantile(smaller, larger, rows=rows)
        if regressions.count_values(term.name) > 1 and smaller.rank == larger.rank:
            share = 0.0  # the others determine it
        if regressions.count < ROWS_PER_PARAMETER * larger.rank:
            share = null95 = np.nan
        numbers = (float(share), regressions.count, float(null95))
        unique[term.name] = dict(zip(NO_UNIQUE, numbers, strict=True))
    return unique


def _shares(terms: Sequence[Term], images: FeatureFile, split: str) -> list[float]:
    """Return the share of each attribute in other embeddings of the same images."""
    own_terms = [Term(term.attribute, split, term.clusters) for term in terms]
    regress(images, split, [term.regressions for term in own_terms])
    return [float(term.share()) for term in own_terms]


def _add_controls(rows: list[Row], shares: Sequence[Sequence[float]]) -> None:
    """Add the mean and the range of the controls' shares to the rows."""
    control_shares = zip(*shares, strict=True) if shares else [(np.nan,)] * len(rows)
    for row, values in zip(rows, control_shares, strict=True):
        row["control_share"] = float(np.mean(values))
        row["control_low"] = min(values)
        row["control_high"] = max(values)


def _prompt_rows(
    terms: Sequence[Term], images: FeatureFile, texts: FeatureFile, split: str, null: int, seed: int
) -> list[Row]:
    compatibility.common_logit_scale(images, texts)
    compatibility.check_widths(images, texts)
    stored = np.asarray(texts.features, np.float64)
    prompts = np.asarray(similarity.comparable(stored, texts, texts.display_name))
    width = images.splits[split].features.shape[1]
    random = similarity.random_directions(null, width, seed)
    measured = []
    for term in terms:
        random99 = float(np.quantile(term.share(random), 0.99))
        found = term.share(prompts), term.null_quantile(prompts)
        measured.append((term.name, *found, random99, float(term.share())))
    rows = []
    for number, prompt in enumerate(texts.texts or []):
        for name, shares, null95s, random99, embedding in measured:
            row = {
                "split": split,
                "prompt": prompt,
                "attribute": name,
                "share": float(shares[number]),
                "random99": random99,
                "null95": float(null95s[number]),
                "embedding": embedding,
                "above": bool(shares[number] > max(random99, null95s[number])),
            }
            rows.append(row)
    return rows
