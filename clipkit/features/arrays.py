"""Make feature files of arrays that a notebook or another library holds in memory."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipkit.base.csv_rows import is_no_value
from clipkit.base.errors import ClipkitError, UsageError, quote
from clipkit.base.matrices import BlockMatrix, Float32, Int64, as_float32
from clipkit.base.names import locate
from clipkit.features.history import History, history_entry
from clipkit.features.model import ROW_NUMBERS, FeatureFile, Split, row_ids, sha256_of
from clipkit.features.validation import finite_blocks, validate

ARRAY = "array"  # what a history calls the source of features, and a model that is not named
HINT = (
    "say what the rows are: "
    "clipkit.from_array(features, labels=..., ids=..., class_names=..., model=...)"
)
SPLIT = "all"  # as of a folder without splits
MOST_COSINE = 1.001  # of float16, which rounds

Kind = Literal["images", "texts", "logits"]


@runtime_checkable
class Matrix(Protocol):
    """An array (N, D), such as a NumPy array or a torch tensor."""

    @property
    def shape(self) -> Any:
        """Numbers of rows and of columns."""

    def __array__(self) -> Any:
        """Return an array of NumPy."""


def from_array(  # noqa: PLR0913 (what a split or the texts of a file hold)
    features: Matrix,
    kind: Kind = "images",
    *,
    labels: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    split: str = SPLIT,
    model: str = ARRAY,
    name: str = "features",
) -> FeatureFile:
    """Make a feature file of an array.

    Parameters
    ----------
    features : (N, D) NumPy array or torch tensor
        Embeddings or, of logits, the cosines of N images with D prompts.
    kind : {"images", "texts", "logits"}
    labels : (N,) sequence of int or str, optional
        The class of each row, as its number or its name. To retrieve images, the id of the image
        that each text belongs to.
    ids : sequence of N str, optional
        Of images and logits; by default, row numbers.
    texts : sequence of str, optional
        The prompts: N of texts, D of logits. By default, their numbers.
    class_names : sequence of C str, optional
        By default, the sorted names among `labels`. If as many as logits have prompts are given,
        they name the class of each prompt.
    split : str
        The name of the rows.
    model : str
        The model that made the features. Features of different models are not combined.
    name : str
        What messages call the file.

    Raises
    ------
    UsageError
        If the array is no matrix of numbers, or an argument does not go with the kind.
    ClipkitError
        If it holds NaN or Inf, or the number of labels, ids or texts does not fit.
    """
    if kind not in ("images", "texts", "logits"):
        raise UsageError(f"kind: expected images, texts or logits, got {kind!r}")
    if kind == "texts" and ids is not None:
        raise UsageError("ids: expected none for texts", "give the image of each text as labels")
    if kind == "images" and texts is not None:
        raise UsageError("texts: expected none for images", "for texts: from_array(..., 'texts')")
    if not isinstance(split, str):
        raise UsageError(f"split: expected a text, got {split!r}")
    matrix = as_matrix(features, name)
    numbers, names = _number(labels, class_names)
    entry = history_entry(
        "convert",
        source=ARRAY,
        ids=ROW_NUMBERS if kind != "texts" and ids is None else None,
        model={"name": model},
        inputs={"features": f"sha256:{sha256_of([matrix])}"},
    )
    file = FeatureFile(kind, History([entry]), class_names=names, display_name=name)
    if kind == "texts":
        file.features = matrix
        _set_texts(file, len(matrix), texts, numbers)
    else:
        row_names = row_ids(len(matrix)) if ids is None else list(map(str, ids))
        file.splits[split] = Split(matrix, numbers, row_names)
    if kind == "logits":
        largest = float(np.abs(matrix).max())
        if largest > MOST_COSINE:
            raise UsageError(
                f"{name}: expected cosines between -1 and 1, got {largest:.4g}",
                "divide logits by the scale that they were multiplied by",
            )
        file.temperature = 1.0
        is_class_each = class_names is not None and len(class_names) == matrix.shape[1]
        classes = np.arange(matrix.shape[1]) if is_class_each else None
        _set_texts(file, matrix.shape[1], texts, classes)
    validate(file)
    return file


def as_matrix(features: Matrix, name: str) -> Float32:
    """Return an array (N, D) of finite numbers as float32; refuse another."""
    detach = getattr(features, "detach", None)  # of a tensor, which may be on a GPU
    try:
        array = np.asarray(features if detach is None else detach().cpu().float())
    except ValueError as error:  # rows of several lengths
        raise UsageError(f"{name}: expected an array of numbers (N, D), got {error}") from None
    if array.dtype.kind not in "fiu" or array.ndim != 2 or 0 in array.shape:
        got = f"{array.dtype} of the shape {array.shape}"
        raise UsageError(f"{name}: expected an array of numbers (N, D), got {got}")
    matrix = as_float32(array)
    for _ in finite_blocks(BlockMatrix.from_array(matrix).iter_blocks(), name):
        pass
    return matrix


def is_array(file: FeatureFile) -> bool:
    """Whether a file was made of an array."""
    return bool(file.history) and file.history[0].get("source") == ARRAY


def hint_of(hint: str | None, *files: FeatureFile) -> str | None:
    """Return the hint of an error, or how to say more of an array if one of the files is one."""
    return HINT if any(map(is_array, files)) else hint


def missing_labels(file: FeatureFile, message: str, hint: str | None = None) -> ClipkitError:
    """Return the error that a file lacks labels."""
    return ClipkitError(f"{file.display_name}: {message}", hint_of(hint, file))


def _plain_labels(labels: NDArray[Any]) -> NDArray[Any]:
    """Return labels (N,) of Python objects as whole numbers, if all are; refuse unknown ones."""
    values = labels.tolist()
    for row, value in enumerate(values):
        if is_no_value(str(value)) and not isinstance(value, str):
            raise UsageError(
                f"labels: expected a label for every row, got {value} for row {row}",
                "leave out rows without a label",
            )
    is_whole = all(isinstance(one, Integral) and not isinstance(one, bool) for one in values)
    return np.array(values, np.int64) if is_whole and values else labels


def _number(
    labels: ArrayLike | None, class_names: Sequence[str] | None
) -> tuple[Int64 | None, list[str] | None]:
    """Return the number (N,) of each label, and the names of the classes, if there are any."""
    names = None if class_names is None else list(class_names)
    if labels is None:
        return None, names
    array: NDArray[Any] = np.asarray(labels)
    if array.dtype.kind == "O":
        array = _plain_labels(array)
    if array.ndim != 1 or array.dtype.kind not in "iuUO":
        raise UsageError(f"labels: expected a list of whole numbers or names, got {quote(labels)}")
    if array.dtype.kind in "iu":
        return array.astype(np.int64), names
    texts = list(map(str, array.tolist()))
    if names is None:
        names = sorted(set(texts))
    numbers = np.array(locate(texts, names), np.int64)
    if (numbers < 0).any():
        unknown = texts[int(np.argmin(numbers))]
        raise UsageError(f"labels: expected names among class_names, got {unknown!r}")
    return numbers, names


def _set_texts(
    file: FeatureFile, count: int, texts: Sequence[str] | None, classes: Int64 | None
) -> None:
    """Set the texts and their classes; by default, row numbers and no class."""
    file.texts = row_ids(count) if texts is None else list(texts)
    file.class_index = np.full(count, -1) if classes is None else classes
