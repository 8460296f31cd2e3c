"""Controls: the same images and, where needed, the same texts, embedded by untrained models.

A value that a control also reaches does not come from training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from clipkit.analysis.results import Row
from clipkit.base.errors import UsageError
from clipkit.features.arguments import Features, Several, as_file, is_features, refused
from clipkit.features.compatibility import check_control, check_widths, common_logit_scale
from clipkit.features.matching import join_alike
from clipkit.features.model import FeatureFile


class Control(NamedTuple):
    """The files of an untrained model.

    `images` has the rows of the file that it belongs to: embeddings, or logits for `describe`.
    `texts` is for what compares images with texts.
    """

    images: FeatureFile
    texts: FeatureFile | None = None


Controls: TypeAlias = Several[Control | Features | tuple[Features, Features]]


def check_controls(
    controls: Controls,
    images: FeatureFile,
    splits: Sequence[str],
    *,
    with_texts: bool = False,
) -> list[Control]:
    """Refuse controls of other rows or of trained models; return all as `Control`.

    A file alone, or its path, is a control without texts.

    Raises
    ------
    UsageError
        If a control lacks the texts that it needs, or has texts that nothing is done with.
    ClipkitError
        If the rows of `splits` are not those of `images`, a model is trained, or texts are of
        another model than their images.
    """
    checked = []
    listed = [controls] if isinstance(controls, Control) or is_features(controls) else controls
    if not isinstance(listed, Iterable):
        raise refused("controls", "files of untrained models", listed)
    for number, one in enumerate(listed, 1):
        control = _read(one, f"control {number}")
        if with_texts is (control.texts is None):
            expected, got = ("texts", "none") if with_texts else ("no texts", "some")
            raise UsageError(f"control {number}: expected {expected}, got {got}")
        control = control._replace(images=join_alike(control.images, images))
        check_control(control.images, images, splits)
        if control.texts is not None:
            check_widths(control.images, control.texts)
            common_logit_scale(control.images, control.texts)
        checked.append(control)
    return checked


def _read(control: Control | Features | tuple[Features, Features], name: str) -> Control:
    """Return a control whose files may be given by their paths."""
    if not isinstance(control, tuple):
        return Control(as_file(control, name))
    if len(control) != 2:
        raise refused(name, "a file of images and one of texts", control)
    images, texts = control
    return Control(as_file(images, name), as_file(texts, f"{name} texts", "texts"))


def control_digests(controls: Sequence[Control]) -> dict[str, str]:
    """Return the digests of controls by their roles: `control 1`, `control 1 texts`, ..."""
    digests = {}
    for number, control in enumerate(controls, 1):
        digests[f"control {number}"] = control.images.digest
        if control.texts is not None:
            digests[f"control {number} texts"] = control.texts.digest
    return digests


def mean_of_controls(name: str, values: Sequence[float]) -> Row:
    """Return a column with the mean of the controls; of several, also the lowest and the highest.

    >>> mean_of_controls("recall_control", [0.25])
    {'recall_control': 0.25}
    """
    row: Row = {}
    if values:
        row[name] = float(np.mean(values))
    if len(values) > 1:
        row |= {f"{name}_low": float(min(values)), f"{name}_high": float(max(values))}
    return row
