"""The thesis's protocol in plain transformers and scikit-learn, compared with clipkit's commands.

Both use the same randomly initialised full-size ViT-B/32 and the same CIFAR-10 files. What is
compared is the pipeline, which does not depend on what the weights have learned.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from factories.clips import cosines, in_memory
from PIL import Image
from scipy.special import softmax
from scipy.stats import entropy
from shell import ok, rows
from sklearn.cluster import KMeans
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.svm import SVC
from transformers import CLIPModel, CLIPProcessor

from clipkit.features import read

pytestmark = pytest.mark.long

N_IMAGES = 120  # per split
TEMPERATURES = (1.0, 0.5, 0.07, 0.05, 0.03, 0.02)
GENERIC32 = Path(__file__).parents[1] / "prompts" / "generic32.txt"
SPLITS = ("train", "test")


@dataclass
class Reference:
    """The embeddings of the thesis's loop, and the labels."""

    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    class_names: list[str]
    generic: np.ndarray
    classes: np.ndarray

    def cosines(self, split, texts):
        return normalize(self.images[split]) @ normalize(texts).T

    def accuracy(self, predicted):
        return float((predicted == self.labels["test"]).mean())


@pytest.fixture(scope="module")
def features(cifar10_root, vit_b32_dir, tmp_path_factory):
    """A folder of clipkit's files on a class-balanced sample."""
    out = tmp_path_factory.mktemp("thesis")
    images = out / "img.h5"
    model = ("--model", vit_b32_dir, "--precision", "fp32")
    classes = ("--classes", images, "--template", "a photo of a {}")
    ok("embed", cifar10_root, "--limit", N_IMAGES, *model, "-o", images)
    ok("textembed", GENERIC32, *model, "-o", out / "generic32.h5")
    ok("textembed", *classes, *model, "-o", out / "classes.h5")
    ok("logits", images, out / "generic32.h5", "-o", out / "logits.h5")
    ok("logits", images, out / "classes.h5", "-o", out / "class-logits.h5")
    return out


@pytest.fixture(scope="module")
def reference(features, cifar10_root, vit_b32_dir):
    """The same images, one by one through the processor, then in batches of 64 in float32."""
    model = in_memory(CLIPModel.from_pretrained(vit_b32_dir))
    processor = CLIPProcessor.from_pretrained(vit_b32_dir)
    ids = {name: split.ids for name, split in read(features / "img.h5").splits.items()}
    class_names = sorted(path.name for path in (cifar10_root / "train").iterdir())

    def as_array(output):
        return getattr(output, "pooler_output", output).numpy()

    def embed_texts(texts):
        with torch.no_grad():
            tokens = processor(text=texts, return_tensors="pt", padding=True)
            return as_array(model.get_text_features(**tokens))

    def embed_images(split):
        pixels = []
        for name in ids[split]:
            image = Image.open(cifar10_root / split / name).convert("RGB")
            pixels.append(processor(images=image, return_tensors="pt")["pixel_values"])
        with torch.no_grad():
            batches = torch.cat(pixels).split(64)
            return np.concatenate([as_array(model.get_image_features(b)) for b in batches])

    def labels(split):
        return np.array([class_names.index(name.split("/")[0]) for name in ids[split]])

    return Reference(
        images={split: embed_images(split) for split in SPLITS},
        labels={split: labels(split) for split in SPLITS},
        class_names=class_names,
        generic=embed_texts(GENERIC32.read_text().splitlines()),
        classes=embed_texts([f"a photo of a {name}" for name in class_names]),
    )


def svm_predictions(train, labels, test):
    return SVC(kernel="linear", C=1.0, random_state=42).fit(train, labels).predict(test)


@pytest.mark.exhaustive
def test_embeddings(features, reference):
    images, prompts = read(features / "img.h5"), read(features / "generic32.h5")
    pairs = [(images.splits[split].features, reference.images[split]) for split in SPLITS]
    for actual, expected in [*pairs, (prompts.features, reference.generic)]:
        assert cosines(actual, expected).min() >= 0.99999
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)
    for split in SPLITS:
        np.testing.assert_array_equal(images.splits[split].labels, reference.labels[split])
    assert images.class_names == reference.class_names


@pytest.mark.exhaustive
def test_chapter_2_baseline(features, reference):
    scaler = StandardScaler().fit(reference.images["train"])
    train, test = (scaler.transform(reference.images[split]) for split in SPLITS)
    predicted = svm_predictions(train, reference.labels["train"], test)
    (row,) = rows(ok("probe", features / "img.h5").stdout)
    assert float(row["acc1"]) == pytest.approx(reference.accuracy(predicted), abs=2e-3)


@pytest.mark.exhaustive
def test_chapter_2_zero_shot(features, reference):
    predicted = reference.cosines("test", reference.classes).argmax(axis=1)
    report = rows(ok("zeroshot", features / "class-logits.h5").stdout)
    (row,) = (row for row in report if row["split"] == "test")
    assert float(row["acc1"]) == pytest.approx(reference.accuracy(predicted), abs=2e-3)


@pytest.mark.exhaustive
def test_chapters_3_and_4_sweep_over_temperature(features, reference):
    train, test = (reference.cosines(split, reference.generic) for split in SPLITS)
    temperatures = ",".join(map(str, TEMPERATURES))
    report = rows(ok("probe", features / "logits.h5", "-t", temperatures).stdout)
    for tau, row in zip(TEMPERATURES, report, strict=True):
        p = softmax(test / tau, axis=1)
        predicted = svm_predictions(train / tau, reference.labels["train"], test / tau)
        assert float(row["mean_entropy"]) == pytest.approx(entropy(p, axis=1).mean(), abs=1e-4)
        assert float(row["mean_confidence"]) == pytest.approx(p.max(axis=1).mean(), abs=1e-4)
        assert float(row["acc1"]) == pytest.approx(reference.accuracy(predicted), abs=2e-3)


@pytest.mark.exhaustive
def test_chapter_5_purity(features, reference):
    cosines_with_prompts = reference.cosines("test", reference.generic)
    inputs = {"img.h5": reference.images["test"], "logits.h5": cosines_with_prompts}
    for file, values in inputs.items():
        clusters = KMeans(n_clusters=10, random_state=42, n_init=10).fit_predict(values)
        largest = [np.bincount(reference.labels["test"][clusters == c]).max() for c in range(10)]
        (row,) = rows(ok("cluster", features / file).stdout)
        assert float(row["purity"]) == pytest.approx(sum(largest) / len(values), abs=2e-3)
