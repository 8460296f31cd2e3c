"""Known figures of published CLIP models, from their features (CLIPKIT_REAL_FEATURES)."""

import numpy as np
import pytest

from clipkit.analysis.zeroshot import classification
from clipkit.features import FeatureFile, Split, row_ids, similarity
from clipkit.statistics import softmax

HISTORY = [{"command": "convert", "model": {"name": "published", "logit_scale": 100.0}}]


def compute_logits(images, texts):
    """Return logits of images (N, D) with texts (K, D); image i belongs to text i."""
    names = row_ids(len(texts))
    split = Split(images.astype("f4"), np.arange(len(images)), row_ids(len(images)))
    image_file = FeatureFile("images", HISTORY, {"test": split}, class_names=names)
    text_file = FeatureFile("texts", HISTORY, features=texts.astype("f4"), texts=names)
    text_file.class_names = names
    text_file.class_index = np.arange(len(texts))
    return similarity.compute_logits(image_file, text_file)


def test_openais_example_has_its_published_probabilities(real_features):
    example = np.load(real_features / "diagram-vitb32.npz")
    logits = compute_logits(example["images"], example["texts"])
    (probabilities,) = softmax.softmax(logits.cosines("test"), 0.01)
    assert probabilities == pytest.approx([0.9927937, 0.00421068, 0.00299572], abs=1e-5)


def test_images_are_nearest_to_the_mean_of_their_own_concept(real_features):
    things = np.load(real_features / "things200-vitl14.npz")
    (row,) = classification.evaluate(compute_logits(things["images"], things["centres"])).rows()
    assert (row["acc1"], row["acc5"]) == (0.98, 1.0)
