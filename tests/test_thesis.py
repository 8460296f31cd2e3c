"""The thesis's protocol, written plainly with transformers and scikit-learn, against clipkit's commands.

On the same full-size, randomly initialised ViT-B/32 and the same CIFAR-10 files: what is compared is the pipeline,
which does not depend on what the weights have learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shell import ok, rows
from sklearn.cluster import KMeans
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from transformers import CLIPModel, CLIPProcessor

from clipkit.features import read

DRAWN = 120  # images a split
TAUS = (1.0, 0.5, 0.07, 0.05, 0.03, 0.02)
GENERIC32 = Path(__file__).parents[1] / "prompts" / "generic32.txt"


@dataclass
class Reference:
    """What the thesis's loop gives: raw embeddings, labels, class names, and the two embedders."""

    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    names: list[str]
    generic: np.ndarray
    classes: np.ndarray

    def cosines(self, split: str, texts: np.ndarray) -> np.ndarray:
        x = self.images[split] / np.linalg.norm(self.images[split], axis=1, keepdims=True)
        return x @ (texts / np.linalg.norm(texts, axis=1, keepdims=True)).T


@pytest.fixture(scope="module")
def features(
    cifar10_root: Path, vit_b32_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """clipkit's files on the rows of a class-balanced draw."""
    out = tmp_path_factory.mktemp("thesis")
    model = ("--model", vit_b32_dir, "--precision", "fp32")
    ok("embed", cifar10_root, "--limit", DRAWN, *model, "-o", out / "img.h5")
    ok("textembed", GENERIC32, *model, "-o", out / "generic32.h5")
    ok(
        "textembed",
        "--classes",
        out / "img.h5",
        "--template",
        "a photo of a {}",
        *model,
        "-o",
        out / "classes.h5",
    )
    ok("logits", out / "img.h5", out / "generic32.h5", "-o", out / "logits.h5")
    ok("logits", out / "img.h5", out / "classes.h5", "-o", out / "class-logits.h5")
    return out


@pytest.fixture(scope="module")
def reference(features: Path, cifar10_root: Path, vit_b32_dir: Path) -> Reference:
    """The same rows through a loop of the thesis's kind: image by image through the processor, batches of 64, fp32."""
    model, processor = (
        CLIPModel.from_pretrained(vit_b32_dir).eval(),
        CLIPProcessor.from_pretrained(vit_b32_dir),
    )
    drawn = read(features / "img.h5")
    names = sorted(path.name for path in (cifar10_root / "train").iterdir())

    def embed_texts(texts: list[str]) -> np.ndarray:
        with torch.no_grad():
            return tensor(
                model.get_text_features(**processor(text=texts, return_tensors="pt", padding=True))
            )

    def embed_images(split: str) -> np.ndarray:
        files = [cifar10_root / split / name for name in drawn.splits[split].ids]
        pixels = [
            processor(images=Image.open(file).convert("RGB"), return_tensors="pt")["pixel_values"]
            for file in files
        ]
        with torch.no_grad():
            return np.concatenate(
                [
                    tensor(model.get_image_features(pixel_values=b))
                    for b in torch.cat(pixels).split(64)
                ]
            )

    def tensor(output: object) -> np.ndarray:
        return getattr(output, "pooler_output", output).numpy()

    return Reference(
        images={split: embed_images(split) for split in ("train", "test")},
        labels={
            split: np.array([names.index(i.split("/")[0]) for i in drawn.splits[split].ids])
            for split in ("train", "test")
        },
        names=names,
        generic=embed_texts(GENERIC32.read_text().splitlines()),
        classes=embed_texts([f"a photo of a {name}" for name in names]),
    )


def svm(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    return SVC(kernel="linear", C=1.0, random_state=42).fit(train, labels).predict(test)


def test_embeddings(features: Path, reference: Reference) -> None:
    ours, prompts = read(features / "img.h5"), read(features / "generic32.h5")
    pairs = [(ours.splits[s].features, reference.images[s]) for s in ("train", "test")] + [
        (prompts.features, reference.generic)
    ]
    for a, b in pairs:
        cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosine.min() >= 0.99999
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    for split in ("train", "test"):
        np.testing.assert_array_equal(ours.splits[split].labels, reference.labels[split])
    assert ours.class_names == reference.names


def test_chapter_2_baseline(features: Path, reference: Reference) -> None:
    scaler = StandardScaler().fit(reference.images["train"])
    predicted = svm(
        scaler.transform(reference.images["train"]),
        reference.labels["train"],
        scaler.transform(reference.images["test"]),
    )
    (row,) = rows(ok("probe", features / "img.h5").stdout)
    assert float(row["acc1"]) == pytest.approx(
        (predicted == reference.labels["test"]).mean(), abs=2e-3
    )


def test_chapter_2_zero_shot(features: Path, reference: Reference) -> None:
    predicted = reference.cosines("test", reference.classes).argmax(axis=1)
    found = {row["split"]: row for row in rows(ok("zeroshot", features / "class-logits.h5").stdout)}
    assert float(found["test"]["acc1"]) == pytest.approx(
        (predicted == reference.labels["test"]).mean(), abs=2e-3
    )


def test_chapters_3_and_4_sweep_over_temperature(features: Path, reference: Reference) -> None:
    train, test = (
        reference.cosines("train", reference.generic),
        reference.cosines("test", reference.generic),
    )
    found = rows(ok("probe", features / "logits.h5", "-t", ",".join(map(str, TAUS))).stdout)
    assert len(found) == len(TAUS)
    for tau, row in zip(TAUS, found, strict=True):
        z = torch.from_numpy(test / tau)
        p = torch.softmax(z, dim=1)
        predicted = svm(train / tau, reference.labels["train"], test / tau)
        assert float(row["mean_entropy"]) == pytest.approx(
            float(-(p * p.log()).sum(dim=1).mean()), abs=1e-4
        )
        assert float(row["mean_confidence"]) == pytest.approx(
            float(p.max(dim=1).values.mean()), abs=1e-4
        )
        assert float(row["acc1"]) == pytest.approx(
            (predicted == reference.labels["test"]).mean(), abs=2e-3
        )


def test_chapter_5_purity(features: Path, reference: Reference) -> None:
    for file, values in (
        ("img.h5", reference.images["test"]),
        ("logits.h5", reference.cosines("test", reference.generic)),
    ):
        clusters = KMeans(n_clusters=10, random_state=42, n_init=10).fit_predict(values)
        largest = [np.bincount(reference.labels["test"][clusters == c]).max() for c in range(10)]
        (row,) = rows(ok("cluster", features / file).stdout)
        assert float(row["purity"]) == pytest.approx(sum(largest) / len(values), abs=2e-3)
