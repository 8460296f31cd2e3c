"""Similarity of images with prompts: cosines, the logits file, random directions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipkit.base import console
from clipkit.base.errors import ClipkitError, check_positive
from clipkit.features import BlockMatrix, FeatureFile, Float32, Int64, Split, history_entry
from clipkit.features.provenance import IMAGES_ALONE_HINT, feature_name, has_text_tower

Float = NDArray[np.floating[Any]]

CACHE_ROWS = 64  # that are normalised at once, small enough for a processor's cache

# What decides the direction of a prompt besides its text, by the command that records it.
PROMPT_SETTINGS = {
    "textembed": ("templates", "readable"),
    "logits": ("whiten", "random", "seed"),
}


def normalize(embeddings: ArrayLike, name: str = "embeddings", first_row: int = 0) -> Float:
    """Scale each row (N, D) to length 1. Lengths are computed in float64, for each row alone.

    Parameters
    ----------
    embeddings : (N, D)
    name : str
        What an error calls the embeddings.
    first_row : int
        Number of the first row, of a block.

    Raises
    ------
    ClipkitError
        If a row is zero, since it has no direction.
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


def compute_logits(
    images: FeatureFile, texts: FeatureFile, temperature: float = 1.0, whiten: bool = False
) -> FeatureFile:
    """Compute the logits of images and prompts: what `clipkit logits` writes.

    Parameters
    ----------
    images : FeatureFile
        Of kind images: embeddings (N, D) per split.
    texts : FeatureFile
        Of kind texts: embeddings (K, D) of the same model.
    temperature : float
        Divides the cosines.
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
        model has no text tower.
    """
    scale = common_logit_scale(images, texts)
    logits = _combine(images, whitened(texts) if whiten else texts, temperature)
    logits.logit_scale = scale
    note_earlier_files(images, texts)
    inputs = {"images": images.digest, "texts": texts.digest}
    entry = history_entry("logits", temperature=temperature, whiten=whiten or None, inputs=inputs)
    logits.history = [*images.history, *texts.history, entry]
    return logits


def _check_has_text_tower(images: FeatureFile) -> None:
    """Refuse embeddings of a model that has learned no scale of cosines with texts."""
    if not has_text_tower(images):
        model = images.model() or {}
        raise ClipkitError(
            f"{images.display_name}: expected images of a model with a text tower, got those of "
            f"{model.get('name')}, which is for images alone",
            IMAGES_ALONE_HINT,
        )


def _check_has_embeddings(file: FeatureFile) -> None:
    """Refuse what is not in the space that images and texts share."""
    model = file.model() or {}
    if feature_name(model):
        raise ClipkitError(
            f"{file.display_name}: expected embeddings in the space of images and texts, got "
            f"{_describe_model(model)}",
            "embed again without the options --layer, --norm and --projection",
        )


def whitened(texts: FeatureFile) -> FeatureFile:
    """Replace prompts by their principal directions, an orthonormal basis of their span.

    The cosines with these directions are the prompts' cosines times U / S, where U S V' is the
    singular value decomposition of the normalised embeddings (K, D). They hold the same information
    about an image, without the prompts' spectrum. A direction is left out if its singular value is
    below a millionth of the largest.
    """
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


def compute_random_logits(
    images: FeatureFile, count: int, seed: int = 42, temperature: float = 1.0
) -> FeatureFile:
    """Compute logits with `count` random directions in place of prompts, as a control.

    The directions are uniform on the sphere and carry no meaning. See `compute_logits`.
    """
    width = next(iter(images.splits.values())).features.shape[1]
    texts = FeatureFile(
        "texts",
        features=random_directions(count, width, seed),
        texts=[f"random direction {i}" for i in range(count)],
        class_index=np.full(count, -1),
    )
    logits = _combine(images, texts, temperature)
    logits.logit_scale = common_logit_scale(images, images)
    logits.history = images.extended_history(
        "logits",
        temperature=temperature,
        inputs={"images": images.digest},
        random=count,
        seed=seed,
    )
    return logits


def _combine(images: FeatureFile, texts: FeatureFile, temperature: float) -> FeatureFile:
    check_positive("temperature", temperature)
    check_widths(images, texts)
    directions = normalize(texts.features, texts.display_name).astype(np.float32)  # (K, D)
    count = len(directions)
    divisor = np.float32(temperature)

    def iter_logits(matrix: BlockMatrix, name: str) -> Iterator[Float32]:
        start = 0
        for block in matrix.iter_blocks():
            product = np.asarray(normalize(block, name, start) @ directions.T, np.float32)  # (B, K)
            start += len(block)
            yield np.divide(product, divisor, out=product)

    splits = {}
    for name, split in images.splits.items():
        matrix = BlockMatrix.from_array(split.features)
        iter_blocks = partial(iter_logits, matrix, f"{images.display_name}: {name}")
        logits = BlockMatrix((len(matrix), count), iter_blocks)
        splits[name] = Split(logits, split.labels, split.ids)
    return FeatureFile(
        "logits",
        splits=splits,
        texts=texts.texts,
        class_index=_align_classes(images, texts),
        class_names=images.class_names or texts.class_names,
        temperature=temperature,
    )


def check_widths(images: FeatureFile, texts: FeatureFile) -> None:
    """Refuse images and texts of different widths.

    Raises
    ------
    ClipkitError
        Naming both files and widths.
    """
    width = texts.features.shape[1]
    for split in images.splits.values():
        if split.features.shape[1] != width:
            raise ClipkitError(
                f"{images.display_name} and {texts.display_name}: "
                f"expected one dimension, got {split.features.shape[1]} and {width}"
            )


def common_logit_scale(images: FeatureFile, texts: FeatureFile) -> float | None:
    """Check that two files come from one model; return the scale that it learned, if known.

    Models are compared as `is_same_model` does. Both files must hold the same features of it:
    embeddings, or one layer's hidden states. With texts, images must have embeddings.

    Raises
    ------
    ClipkitError
        If they differ, or a file does not say which model made it.
    """
    a, b = _named_model(images), _named_model(texts)
    if images.kind != texts.kind == "texts":
        _check_has_embeddings(images)
        _check_has_embeddings(texts)
    problem = ""
    if not is_same_model(a, b):
        _check_has_text_tower(images)
        problem = "come from different models"
    elif feature_name(a) != feature_name(b):
        problem = "hold different features of one model"
    if problem:
        raise ClipkitError(
            f"{images.display_name} and {texts.display_name} {problem} "
            f"({_describe_model(a)}, {_describe_model(b)})",
            "embed one of them again",
        )
    scale = a.get("logit_scale", b.get("logit_scale"))
    return None if scale is None else float(scale)


def _named_model(file: FeatureFile) -> dict[str, Any]:
    """Return what a history records of a file's model."""
    model = file.model()
    if model is None:
        raise ClipkitError(
            f"{file.display_name}: expected the name of its model in the history, got none",
            "add it with: clipkit convert --model NAME",
        )
    return model


def is_same_model(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Tell whether two entries of histories about a model describe one model.

    Models are compared by their digests. The digest of an earlier clipkit covers only the weights,
    so weights are compared if one of the two is such a digest. If one has none, names are compared.

    >>> a = {"name": "m", "digest": "sha256:1", "weights": "sha256:2"}
    >>> is_same_model(a, {"name": "m", "digest": "sha256:2"}), is_same_model(a, {"name": "n"})
    (True, False)
    """
    if a.get("untrained") != b.get("untrained"):
        return False
    if not (a.get("digest") and b.get("digest")):
        return bool(a.get("name") == b.get("name"))
    if "weights" in a and "weights" in b:
        return bool(a["digest"] == b["digest"])
    return bool(a.get("weights", a["digest"]) == b.get("weights", b["digest"]))


def check_same_prompts(first: FeatureFile, other: FeatureFile) -> None:
    """Check that the columns of two files of logits are those of the same prompts.

    Equal texts may stand for different directions: templates and descriptions make other ensembles
    of one class, and all whitened or random directions have the same names.

    Raises
    ------
    ClipkitError
        Naming both files and what differs.
    """
    both = f"{first.display_name} and {other.display_name}"
    hint = "make logits of both with the same prompts in the same order"
    texts, others = first.texts or [], other.texts or []
    if len(texts) != len(others):
        raise ClipkitError(f"{both}: expected {len(texts)} prompts, got {len(others)}", hint)
    for number, (a, b) in enumerate(zip(texts, others, strict=True), 1):
        if a != b:
            message = f"prompt {number}: expected {a[:60]!r}, got {b[:60]!r}"
            raise ClipkitError(f"{both} have different prompts: {message}", hint)
    for command, names in PROMPT_SETTINGS.items():
        check_same_settings(first, other, command, names)
    if first.last_entry("logits").get("whiten") and _differ(first, other, "logits", "texts"):
        raise ClipkitError(f"{both} have the directions of different prompts", hint)
    are_described = _is_described(first) and _is_described(other)
    if are_described and _differ(first, other, "textembed", "classes"):
        raise ClipkitError(f"{both} have prompts of different files of classes", hint)


def _is_described(file: FeatureFile) -> bool:
    """Whether a file of classes, which may describe them, gave the prompts."""
    return bool(file.last_entry("textembed").get("classes") == "file")


def _differ(first: FeatureFile, other: FeatureFile, command: str, name: str) -> bool:
    """Whether a command had another input, as the histories have it."""
    return bool(_input(first, command, name) != _input(other, command, name))


def check_same_settings(
    first: FeatureFile, other: FeatureFile, command: str, names: Sequence[str]
) -> None:
    """Check that a command was run with the same settings, if both files record it."""
    a, b = first.last_entry(command), other.last_entry(command)
    if not a or not b:
        return
    for name in names:
        if a.get(name) != b.get(name):
            values = f"{str(a.get(name))[:60]}, got {str(b.get(name))[:60]}"
            raise ClipkitError(
                f"{first.display_name} and {other.display_name}: expected {name} of {command} to "
                f"be {values}",
                f"run clipkit {command} again with the same settings",
            )


def _input(file: FeatureFile, command: str, name: str) -> Any:
    """Return the digest of an input of a command, as the history has it."""
    inputs = file.last_entry(command).get("inputs")
    return inputs.get(name) if isinstance(inputs, dict) else None


def note_earlier_files(*files: FeatureFile) -> None:
    """Note the first file whose model is known by its weights alone."""
    for file in files:
        model = file.model() or {}
        if model.get("digest") and "weights" not in model:
            console.note(
                f"{file.display_name} is from an earlier clipkit and records only the weights of "
                "its model: another configuration or tokenizer would go unnoticed"
            )
            return


def _describe_model(model: dict[str, Any]) -> str:
    name = str(model["name"])
    if model.get("untrained") is not None:
        name += f" untrained {model['untrained']}"
    if feature_name(model):
        name += f" {feature_name(model)}"
    if model.get("digest"):
        name += f" {str(model['digest'])[:15]}"
    return name


def _align_classes(images: FeatureFile, texts: FeatureFile) -> Int64 | None:
    """Return the prompts' class indices in the images' numbering; -1 if they name other classes."""
    if not texts.class_names or not images.class_names:
        return texts.class_index
    if texts.class_names == images.class_names:
        return texts.class_index
    names = f"{texts.display_name} and {images.display_name}"
    counts, image_counts = Counter(texts.class_names), Counter(images.class_names)
    if counts == image_counts:
        repeated, count = counts.most_common(1)[0]
        if count > 1:
            raise ClipkitError(
                f"{names} have the same classes in another order, but {count} of them are called "
                f"{repeated!r}",
                "embed the classes of the images: clipkit textembed --classes img.h5",
            )
        number_of = {name: number for number, name in enumerate(images.class_names)}
        number = np.array([number_of[name] for name in texts.class_names])
        index = np.asarray(texts.class_index)
        return np.where(index < 0, -1, number[index])
    example = next(iter((counts - image_counts) or (image_counts - counts)))
    console.warn(
        f"{names} name different classes "
        f"(for example {example!r}): the prompts serve as features, not for zeroshot"
    )
    return np.full(len(texts.texts or []), -1)


def class_means(values: ArrayLike, labels: ArrayLike, count: int) -> NDArray[np.float64]:
    """Return the mean row of each class (C, K) of `values` (N, K); NaN for a class without rows."""
    rows, labels = np.asarray(values, dtype=np.float64), np.asarray(labels)
    sums = np.zeros((count, rows.shape[1]))
    np.add.at(sums, labels, rows)
    counts = np.bincount(labels, minlength=count).astype(np.float64)
    counts[counts == 0] = np.nan
    return sums / counts[:, None]


def singular_values(embeddings: ArrayLike) -> NDArray[np.float64]:
    """Return the singular values (min(K, D)), descending, of normalised embeddings (K, D).

    The matrix turns an image's direction into its K cosines. The squares add up to K.

    >>> singular_values([[1, 0, 0], [0, 2, 0], [0, 3, 0]]).round(4)
    array([1.4142, 1.    , 0.    ])
    """
    return np.asarray(
        np.linalg.svd(normalize(np.asarray(embeddings, np.float64)), compute_uv=False)
    )


def effective_rank(values: ArrayLike) -> float:
    """Return exp of the entropy of the singular values' shares (Roy & Vetterli 2007).

    It lies between 1, where one value has all, and their number, where all are equal.

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
