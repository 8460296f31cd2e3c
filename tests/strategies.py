"""Hypothesis strategies for feature files."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from clipkit.features import FeatureFile, Split
from clipkit.features.model import RESERVED

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True).filter(
    lambda name: name not in RESERVED
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
PARAMETERS = st.dictionaries(TEXT.filter(lambda key: key != "model"), JSON, max_size=3)
HISTORY = st.lists(PARAMETERS.map(lambda entry: {**entry, "command": "x"}), max_size=3)


@st.composite
def feature_files(draw: st.DrawFn) -> FeatureFile:
    """Draw any valid file of images, texts or logits."""
    file = FeatureFile(draw(st.sampled_from(["images", "texts", "logits"])), draw(HISTORY))
    k, width = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    file.class_names = draw(st.none() | st.lists(TEXT, min_size=1, max_size=3))
    top = len(file.class_names or "abc") - 1

    def integers(n: int, lowest: int) -> Any:
        return draw(arrays.arrays("i8", n, elements=st.integers(lowest, top)))

    def matrix(n: int, width: int) -> Any:
        return draw(arrays.arrays("f4", (n, width), elements=FLOATS))

    def texts(n: int) -> list[str]:
        return draw(st.lists(TEXT, min_size=n, max_size=n))

    if file.kind != "images":
        file.texts = texts(k)
        file.class_index = integers(k, -1)
    if file.kind == "texts":
        file.features = matrix(k, width)
        if draw(st.booleans()):
            others = draw(st.integers(1, 3))
            file.other_features, file.other_texts = matrix(others, width), texts(others)
        return file
    if file.kind == "logits":
        file.temperature = draw(st.floats(1e-3, 1e3))
        file.logit_scale = draw(st.none() | st.floats(1e-3, 1e3))
        width = k
    for name in draw(st.lists(NAMES, min_size=1, max_size=3, unique=True)):
        n = draw(st.integers(1, 6))
        labels = integers(n, 0) if draw(st.booleans()) else None
        file.splits[name] = Split(matrix(n, width), labels, texts(n))
    return file
