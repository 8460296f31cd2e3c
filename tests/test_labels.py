"""Several labels of an image, and numbers: `attributes --metric`."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from factories import MODEL, fails_with, saved
from shell import fails, ok
from sklearn.metrics import average_precision_score, roc_auc_score

from clipkit import attributes
from clipkit.analysis.score_metrics import METRICS, ap_by_chance
from clipkit.features import FeatureFile, Split

N = 400


def images(shift: float = 1.0, seed: int = 0) -> FeatureFile:
    """Return images of which axis 0 holds a label, axis 1 a number, and axis 2 nothing."""
    generator = np.random.default_rng(seed)
    file = FeatureFile("images", [{"command": "embed", "model": MODEL}])
    for name in ("train", "test"):
        X = generator.normal(size=(N, 6))
        X[:, 0] += shift * label()
        X[:, 1] += number()
        X[:, 3] += 8  # so that cosines follow the axes
        file.splits[name] = Split(X.astype("f4"), ids=[f"{row}.png" for row in range(N)])
    return file


def label() -> np.ndarray:
    return (np.arange(N) % 4 == 0).astype(int)


def number() -> np.ndarray:
    return np.random.default_rng(9).normal(size=N)


def words() -> FeatureFile:
    texts = ["smiling", "age"]
    file = FeatureFile("texts", [{"command": "textembed", "model": MODEL}], texts=texts)
    file.features, file.class_index, file.class_names = np.eye(6)[:2].astype("f4"), [0, 1], texts
    return file


@pytest.fixture
def table(tmp_path):
    """A table as CelebA's: -1 and 1, a column without positives, and a number."""
    lines = ["id,smiling,hat,age"]
    for row, (value, age) in enumerate(zip(label(), number(), strict=True)):
        lines.append(f"{row}.png,{2 * value - 1},-1,{age!r}".replace("np.float64(", "").rstrip(")"))
    path = tmp_path / "list_attr.csv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize(
    ("metric", "reference"), [("auroc", roc_auc_score), ("ap", average_precision_score)]
)
def test_a_label_is_ranked_by_the_cosine_with_its_words_and_by_a_probe(metric, reference, table):
    file = images()
    found, empty = attributes.measure(
        file, words(), table=table, columns=["smiling", "hat"], metric=metric
    ).rows()
    unit = file.splits["test"].features / np.linalg.norm(
        file.splits["test"].features, axis=1, keepdims=True
    )
    assert found["zeroshot"] == pytest.approx(reference(label(), unit[:, 0]))
    assert (found["metric"], found["positives"]) == (metric, N // 4)
    assert found["chance"] == pytest.approx(0.5 if metric == "auroc" else ap_by_chance(label()))
    assert found["zeroshot_low"] < found["zeroshot"] < found["zeroshot_high"]
    assert found["probe"] == pytest.approx(found["zeroshot"], abs=0.06)
    assert found["reach"] == pytest.approx(1, abs=0.25)
    assert (empty["attribute"], empty["positives"]) == ("hat", 0)
    assert np.isnan(empty["probe"])


def test_the_mean_of_the_average_precisions_is_of_the_labels_that_have_one(table, capsys):
    attributes.measure(images(), table=table, columns=["smiling", "hat"], metric="ap")
    assert "(1 labels)" in capsys.readouterr().err


def test_all_orders_have_the_stated_average_precision():
    values = []
    for places in itertools.combinations(range(8), 3):
        values.append(average_precision_score(np.isin(range(8), places), -np.arange(8)))
    assert ap_by_chance(np.arange(8) < 3) == pytest.approx(np.mean(values))


@pytest.mark.parametrize("metric", ["auroc", "ap", "r2", "spearman"])
def test_the_covariance_is_that_of_other_draws_of_rows(metric):
    def draw(generator):
        labels = generator.normal(size=300)
        scores = [0.6 * labels + generator.normal(0, 0.5, 300) for _ in range(2)]
        scores[1] = (scores[0] + scores[1]) / 2
        if metric in ("auroc", "ap"):
            labels = (labels > 0.8).astype(float)
        return labels, scores

    generator = np.random.default_rng(0)
    values, estimates = [], []
    for _ in range(500):
        labels, scores = draw(generator)
        values.append([METRICS[metric].value(labels, score) for score in scores])
        if len(estimates) < 20:
            estimates.append(METRICS[metric].covariance(labels, scores))
    observed = np.cov(np.array(values).T)
    assert np.mean(estimates, axis=0) == pytest.approx(observed, abs=0.25 * observed.max())


def test_a_number_has_the_r2_of_its_share_of_the_signal_and_permuted_ones_have_none(table):
    generator = np.random.default_rng(0)
    file = images()
    for split in file.splits.values():
        split.features = split.features.copy()
        split.features[:, 1] = number() + generator.normal(size=N)  # half of it is signal
    (row,) = attributes.measure(file, words(), table=table, columns=["age"], metric="r2").rows()
    assert row["probe"] == pytest.approx(0.5, abs=0.1)
    assert row["probe_low"] < row["probe"] < row["probe_high"]
    assert row["null95"] < 0.05
    assert row["names"] == pytest.approx(row["probe"], abs=0.1)
    assert np.isnan(row["zeroshot"])
    (row,) = attributes.measure(
        file, words(), table=table, columns=["age"], metric="spearman"
    ).rows()
    assert row["zeroshot"] == pytest.approx(row["probe"], abs=0.1)


def test_a_column_of_lists_is_a_label_for_each_element(tmp_path):
    lines = []
    for row, value in enumerate(label()):
        lines.append({"id": f"{row}.png", "tags": ["face", "smile"] if value else ["face"]})
    lines[7]["tags"] = None
    path = tmp_path / "tags.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = attributes.measure(images(), table=str(path), metric="auroc").rows()
    assert [row["attribute"] for row in found] == ["tags: face", "tags: smile"]
    assert [row["rows"] for row in found] == [N - 1, N - 1]
    assert found[1]["positives"] == N // 4
    path.write_text(path.read_text() + '{"id": "last.png", "tags": "face"}\n')
    with fails_with(f"line {N + 1}: expected a list in tags, got face"):
        attributes.measure(images(), table=str(path), metric="auroc")


def test_other_columns_are_left_out_or_refused_if_they_are_named(table, tmp_path):
    path = saved(tmp_path / "img.h5", images())
    line = ["attributes", path, "--table", table]
    assert "left out the numbers of age" in ok(*line, "--metric", "auroc").stderr
    assert "in age" in fails(*line, "--metric", "ap", "--attribute", "age")
    assert "expected numbers in hat" in fails(*line, "--metric", "r2", "--attribute", "hat")
    assert "expected --table for auroc" in fails(
        "attributes", path, "--metric", "auroc", exit_code=2
    )
    assert "unknown metric" in fails(*line, "--metric", "f1", exit_code=2)
