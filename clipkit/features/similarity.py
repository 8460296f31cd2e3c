"""Similarity of images with prompts: cosines, dot products, the logits file, random directions.

Similarities are dot products if the images' file says so. The prompts are then rows of a language
model's output embedding, and `next_token_logits` makes its logits of the dot products.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipkit.base import console
from clipkit.base.errors import ClipkitError, check_positive
from clipkit.base.matrices import BlockMatrix, Float32, Floats, as_stored
from clipkit.features.arguments import Features, as_file, checked
from clipkit.features.compatibility import (
    align_classes,
    check_widths,
    common_logit_scale,
)
from clipkit.features.history import History, history_entry
from clipkit.features.model import FeatureFile, Split
from clipkit.features.validation import finite_blocks, validate

ONE_TOKEN_HINT = "its prompts are single tokens: use zeroshot, attributes and calibrate"
CACHE_ROWS = 64  # that are normalised at once, small enough for a processor's cache


def normalize(embeddings: ArrayLike, name: str = "embeddings", first_row: int = 0) -> Floats:
    """Scale each row (N, D) to length 1. Lengths are computed in float64, for each row alone.

    A row of zeros has no direction and raises `ClipkitError`, which calls the embeddings `name` and
    counts rows from `first_row`, the number of a block's first row.
    """
    rows = np.asarray(embeddings)
    unit = np.empty(rows.shape, np.result_type(rows, np.float32))
    for start in range(0, len(rows), CACHE_ROWS):
        # squares of float32 overflow from 1e19, and a row must not depend on others of its block
        wide = rows[start : start + CACHE_ROWS].astype(np.float64)
        lengths = np.linalg.norm(wide, axis=-1, keepdims=True)
        if not lengths.all():
            row = first_row + start + int(np.flatnonzero(lengths.ravel() == 0)[0])
            raise ClipkitError(f"{name}: expected rows that are not zero, got zeros in row {row}")
        wide /= lengths
        unit[start : start + CACHE_ROWS] = wide
    return unit


def comparable(
    rows: ArrayLike, file: FeatureFile, name: str = "embeddings", first_row: int = 0
) -> Floats:
    """Scale rows (N, D) so that their products are the similarities of a file.

    They are normalised for cosines, and unchanged for dot products.
    """
    return np.asarray(rows) if file.is_dot_product else normalize(rows, name, first_row)


def products(rows: Floats, directions: Floats) -> Float32:
    """Return the dot products (..., N, K) of rows (..., N, D) with directions (..., K, D).

    They are summed in float64 and rounded once to float32. Sums in float32 would depend on the
    processor and on its number of threads.
    """
    across = np.asarray(directions, np.float64).swapaxes(-1, -2)
    return (np.asarray(rows, np.float64) @ across).astype(np.float32)


def next_token_logits(products: Float32, file: FeatureFile) -> Float32:
    """Apply the model's scale s and cap c to dot products (N, K): c tanh(s x / c), or s x."""
    model = file.history.model
    products = products * np.float32(model.get("logit_scale", 1))
    if "logit_softcap" in model:
        cap = np.float32(model["logit_softcap"])
        products = np.tanh(products / cap) * cap
    return products


def refuse_dot_product(file: FeatureFile, purpose: str, hint: str | None = None) -> None:
    """Refuse a file of dot products where only cosines have a meaning."""
    if file.is_dot_product:
        message = f"{file.display_name}: expected cosines {purpose}, got dot products"
        raise ClipkitError(f"{message} of a generative model", hint)


@checked
def compute_logits(
    images: Features, texts: Features, temperature: float = 1.0, whiten: bool = False
) -> FeatureFile:
    """Compute the logits of images and prompts: what `clipkit logits` writes.

    Parameters
    ----------
    images : Features
        Of kind images: embeddings (N, D) per split.
    texts : Features
        Of kind texts: embeddings (K, D) of the same model.
    temperature : float
        Divides the cosines, or the next-token logits.
    whiten : bool
        Replace the prompts by an orthonormal basis of their span, as a control: see `whitened`.

    Returns
    -------
    FeatureFile
        Of kind logits. Its features (N, K) per split are computed block by block when they are
        read. Labels, ids, class names, texts and class indices are carried along.

    Raises
    ------
    ClipkitError
        If the two come from different models, one does not say which model made it, or the images'
        model has no text tower; if prompts of dot products are to be whitened.
    """
    images, texts = as_file(images, "images"), as_file(texts, "texts")
    scale = common_logit_scale(images, texts)
    logits = _combine(images, whitened(texts) if whiten else texts, temperature)
    logits.logit_scale = 1.0 if images.is_dot_product else scale
    inputs = {"images": images.digest, "texts": texts.digest}
    entry = history_entry("logits", temperature=temperature, whiten=whiten or None, inputs=inputs)
    logits.history = History([*images.history, *texts.history, entry])
    return logits


@checked
def pair(images: Features, texts: Features) -> FeatureFile:
    """Return the logits of images and prompts as they are read from what `clipkit logits` writes.

    Nothing is written. Small logits are computed once and kept. Larger ones are computed whenever
    their blocks are read. Parameters and errors are those of `compute_logits`.
    """
    images, texts = as_file(images, "images"), as_file(texts, "texts")
    logits = compute_logits(images, texts)
    logits.display_name = f"{images.display_name} and {texts.display_name}"
    validate(logits)
    for name, split in logits.splits.items():
        where = f"{logits.display_name}: {name}/features"
        split.features = as_stored(_finite(split.features, where)).read_if_small()
    return logits


def _finite(matrix: BlockMatrix, name: str) -> BlockMatrix:
    """Return the same matrix, of which no block is read that holds NaN or Inf."""
    return BlockMatrix(matrix.shape, lambda: finite_blocks(matrix.iter_blocks(), name))


def whitened(texts: FeatureFile) -> FeatureFile:
    """Replace prompts by their principal directions, an orthonormal basis of their span.

    The cosines with these directions are the prompts' cosines times U / S, where U S V' is the
    singular value decomposition of the normalised embeddings (K, D). They hold the same information
    about an image, without the prompts' spectrum. A direction is left out if its singular value is
    below a millionth of the largest.
    """
    refuse_dot_product(texts, "to whiten", "use random directions as a control: --random K")
    unit = normalize(np.asarray(texts.features, np.float64), texts.display_name)
    _, values, directions = np.linalg.svd(unit, full_matrices=False)
    directions = directions[values > 1e-6 * values[0]]
    return replace(
        texts,
        features=directions,
        texts=[f"principal direction {i}" for i in range(len(directions))],
        class_index=np.full(len(directions), -1),
        class_names=None,
    )


@checked
def compute_random_logits(
    images: Features, count: int, seed: int = 42, temperature: float = 1.0
) -> FeatureFile:
    """Compute logits with `count` random directions in place of prompts, as a control.

    The directions are uniform on the sphere and carry no meaning. See `compute_logits`.
    """
    images = as_file(images, "images")
    width = next(iter(images.splits.values())).features.shape[1]
    texts = FeatureFile(
        "texts",
        features=random_directions(count, width, seed),
        texts=[f"random direction {i}" for i in range(count)],
        class_index=np.full(count, -1),
    )
    logits = _combine(images, texts, temperature)
    logits.logit_scale = common_logit_scale(images, images)
    if images.is_dot_product:
        logits.logit_scale = 1.0
        console.note(
            "random directions have length 1, but the rows of an output embedding do not: compare "
            "probes with --standardize, and no entropies"
        )
    logits.history = images.extended_history(
        "logits", temperature=temperature, inputs={"images": images.digest}, random=count, seed=seed
    )
    return logits


def _combine(images: FeatureFile, texts: FeatureFile, temperature: float) -> FeatureFile:
    check_positive("temperature", temperature)
    check_widths(images, texts)
    directions = np.asarray(comparable(texts.features, images, texts.display_name), np.float32)
    count = len(directions)  # K
    divisor = np.float32(temperature)

    def iter_logits(matrix: BlockMatrix, name: str) -> Iterator[Float32]:
        start = 0
        for block in matrix.iter_blocks():
            rows = comparable(block, images, name, start)
            product = products(rows, directions)  # (B, K)
            if images.is_dot_product:
                product = next_token_logits(product, images)
            start += len(block)
            yield np.divide(product, divisor, out=product)

    splits = {}
    for name, split in images.splits.items():
        matrix = BlockMatrix.from_array(split.features)
        iter_blocks = partial(iter_logits, matrix, f"{images.display_name}: {name}")
        logits = BlockMatrix((len(matrix), count), iter_blocks)
        splits[name] = Split(logits, split.labels, split.ids, cluster=split.cluster)
    return FeatureFile(
        "logits",
        splits=splits,
        texts=texts.texts,
        class_index=align_classes(images, texts),
        class_names=images.class_names or texts.class_names,
        temperature=temperature,
    )


def class_means(values: ArrayLike, labels: ArrayLike, count: int) -> NDArray[np.float64]:
    """Return the mean row of each class (C, K) of `values` (N, K); NaN for a class without rows."""
    rows, labels = np.asarray(values, dtype=np.float64), np.asarray(labels)
    sums = np.zeros((count, rows.shape[1]))
    np.add.at(sums, labels, rows)
    counts = np.bincount(labels, minlength=count).astype(np.float64)
    counts[counts == 0] = np.nan
    return sums / counts[:, None]


def singular_values(embeddings: ArrayLike | BlockMatrix) -> NDArray[np.float64]:
    """Return the singular values (min(K, D)), descending, of normalised embeddings (K, D).

    The matrix turns a direction into its K cosines. The squares add up to K. If there are more rows
    than columns, the squares are the eigenvalues of a sum over blocks of rows, and rounding errors
    are replaced by 0.

    >>> singular_values([[1, 0, 0], [0, 2, 0], [0, 3, 0]]).round(4)
    array([1.4142, 1.    , 0.    ])
    """
    matrix = BlockMatrix.from_array(embeddings)
    rows, width = matrix.shape
    if rows <= width:
        unit = normalize(np.asarray(embeddings, np.float64))
        return np.asarray(np.linalg.svd(unit, compute_uv=False))
    scatter, start = np.zeros((width, width)), 0
    for block in matrix.iter_blocks():
        unit = normalize(np.asarray(block, np.float64), first_row=start)
        scatter += unit.T @ unit
        start += len(block)
    squares = np.linalg.eigvalsh(scatter)[::-1]
    squares[squares < width * np.finfo(np.float64).eps * squares[0]] = 0
    return np.asarray(np.sqrt(squares))


def gaussian_singular_values(count: int, dim: int, seed: int) -> NDArray[np.float64]:
    """Draw the singular values of `count` vectors of an isotropic Gaussian in `dim` dimensions.

    They are those of a triangle of independent numbers (Bartlett 1933), scaled so that their
    squares add up to `count`. They fall although no direction has more variance than another.
    """
    rng = np.random.RandomState(seed)
    smaller, larger = sorted((count, dim))
    root = np.tril(rng.standard_normal((smaller, smaller)), -1)
    np.fill_diagonal(root, np.sqrt(rng.chisquare(larger - np.arange(smaller))))
    values = np.linalg.svd(root, compute_uv=False)
    return np.asarray(values * np.sqrt(count / (values**2).sum()))


def effective_rank(values: ArrayLike) -> float:
    """Return exp of the entropy of the singular values' shares (Roy & Vetterli 2007).

    For embeddings of images, it is called RankMe (Garrido et al. 2023). It is 1 if one value has
    everything, and the number of values if they are equal.

    >>> round(effective_rank([2.0, 2.0, 2.0, 0.0]), 6), effective_rank([5.0, 0.0])
    (3.0, 1.0)
    """
    singular = np.asarray(values, np.float64)
    shares = singular / singular.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def random_directions(count: int, dim: int, seed: int) -> NDArray[np.float64]:
    """Draw directions (count, dim) of length 1, uniform on the sphere: prompts without a meaning.

    >>> random_directions(2, 3, seed=1).round(4)
    array([[ 0.8953, -0.3372, -0.2911],
           [-0.3999,  0.3226, -0.8579]])
    """
    # RandomState gives the same draws in every version of NumPy
    return np.asarray(
        normalize(np.random.RandomState(seed).standard_normal((count, dim))), np.float64
    )


def ensemble(embeddings: ArrayLike, index: ArrayLike, count: int) -> Floats:
    """Average the embeddings (P, D) of each class's prompts: normalise, average, normalise.

    `index` (P,) is the class of each prompt, each of 0..`count`-1 at least once. The result
    (count, D) has rows of length 1. This is the prompt ensembling of Radford et al. 2021, section
    3.1.4.
    """
    rows, index = normalize(embeddings), np.asarray(index)
    sums = np.zeros((count, rows.shape[1]), rows.dtype)
    np.add.at(sums, index, rows)
    return normalize(sums / np.bincount(index, minlength=count)[:, None])
