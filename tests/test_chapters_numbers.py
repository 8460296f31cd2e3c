"""What the Makefile's chapters measure, computed again with numpy and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import binomtest, entropy
from shell import ok
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.cluster import contingency_matrix
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.svm import SVC
from test_report import HEADER, Table, numbers, tables

from clipkit.features import read

TAUS = (1, 0.5, 0.07, 0.05, 0.03, 0.02, 0.01, 0.005)
Array = NDArray[Any]
Splits = dict[str, Array]
Numbers = tuple[float, ...]

pytestmark = pytest.mark.long

SVM_32 = "command=probe prompts=generic32 classifier=svm C=1"
IMAGES = "command=probe features=embeddings"
ZEROSHOT = "command=zeroshot prompts='a photo of a {}'"
# Title -> what a table of figures selects by, and the column
SELECTED = {
    "SVM": (f"{IMAGES} classifier=svm C=1", "acc1"),
    "SVM, C chosen": (f"{IMAGES} classifier=svm val=0.1", "acc1"),
    "logistic regression": (f"{IMAGES} classifier=logreg", "acc1"),
    "zero-shot": (ZEROSHOT, "acc1"),
    "zero-shot, first five": (ZEROSHOT, "acc5"),
    "32 prompts, logistic regression": (
        "command=probe prompts=generic32 classifier=logreg tau=1",
        "acc1",
    ),
    "16 prompts": ("command=probe prompts=generic16 classifier=svm C=1 tau=1", "acc1"),
    "415 prompts": ("command=probe prompts=generic415 classifier=svm C=1 tau=1", "acc1"),
    **{f"32 prompts, τ {tau}": (f"{SVM_32} tau={tau}", "acc1") for tau in TAUS},
    **{
        f"entropy, τ {tau}": (f"command=entropy prompts=generic32 tau={tau}", "mean_entropy")
        for tau in TAUS
    },
    "τ chosen": ("command=probe prompts=generic32 classifier=svm val=0.1", "acc1"),
    "τ chosen, logistic regression": (
        "command=probe prompts=generic32 classifier=logreg val=0.1",
        "acc1",
    ),
    "purity": ("command=cluster features=embeddings seed=42", "purity"),
    "purity, 32 prompts": ("command=cluster prompts=generic32 seed=1", "purity"),
}


class Reference:
    """The embeddings and prompts of a results folder, and the thesis's protocol written plainly."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        images = read(str(folder / "img.h5"))
        self.names = images.class_names or []
        self.embeddings: Splits = {name: split.features for name, split in images.splits.items()}
        self.labels: Splits = {name: np.asarray(s.labels) for name, s in images.splits.items()}
        self.train_ids = images.splits["train"].ids

    def prompts(self, name: str) -> Array:
        return np.asarray(read(str(self.folder / f"{name}.h5")).features)

    def cosines(self, prompts: Array) -> Splits:
        unit = normalize(prompts)
        return {name: normalize(rows) @ unit.T for name, rows in self.embeddings.items()}

    def accuracy(self, model: Any, features: Splits) -> float:
        predicted = model.fit(features["train"], self.labels["train"]).predict(features["test"])
        return float((predicted == self.labels["test"]).mean())

    def svm(self, features: Splits, tau: float = 1, C: float = 1) -> float:
        return self.accuracy(SVC(kernel="linear", C=C), scaled(features, tau))

    def accuracy_at_chosen_tau(
        self,
        make_model: Callable[[], Any],
        features: Splits,
        name: str,
    ) -> Numbers:
        """Return the accuracy at the chosen tau; check that the validation rows choose it."""
        result = read(str(self.folder / f"{name}.h5"))
        val_ids = set(result.splits["val"].ids)
        assert len(val_ids) == 10  # one of the six of each class
        is_val = np.array([i in val_ids for i in self.train_ids])
        x, y = features["train"], self.labels["train"]
        (chosen,) = result.runs["temperature"][result.runs["eval_split"] == "test"].tolist()
        correct = {}
        for tau in TAUS:
            model = make_model().fit(x[~is_val] / tau, y[~is_val])
            correct[tau] = (model.predict(x[is_val] / tau) == y[is_val]).sum()
        assert correct[chosen] >= max(correct.values()) - 1  # one row may lie on the margin
        accuracy = self.accuracy(make_model(), scaled(features, chosen))
        return self.interval(accuracy)

    def interval(self, accuracy: float) -> Numbers:
        n = len(self.labels["test"])
        low, high = binomtest(round(accuracy * n), n).proportion_ci(method="wilson")
        return (100 * accuracy, 100 * low, 100 * high)


def scaled(features: Splits, tau: float) -> Splits:
    return {name: rows / tau for name, rows in features.items()}


def logreg() -> Pipeline:
    """Centre the features, for speed alone: the intercept is free."""
    return make_pipeline(StandardScaler(with_std=False), LogisticRegression(max_iter=10_000))


def svm() -> SVC:
    return SVC(kernel="linear")


def chapters_2_and_3(reference: Reference) -> dict[str, Numbers]:
    scaler = StandardScaler().fit(reference.embeddings["train"])
    images = {name: scaler.transform(x) for name, x in reference.embeddings.items()}
    tuned = read(str(reference.folder / "img.svm-c.h5"))
    (chosen,) = tuned.runs["C"][tuned.runs["eval_split"] == "test"].tolist()
    order = np.argsort(-reference.cosines(reference.prompts("classes"))["test"], axis=1)
    is_correct = order == reference.labels["test"][:, None]
    generic32 = reference.cosines(reference.prompts("generic32"))
    accuracies = {
        "SVM": reference.svm(images),
        "SVM, C chosen": reference.svm(images, C=chosen),
        "logistic regression": reference.accuracy(logreg(), images),
        "zero-shot": is_correct[:, 0].mean(),
        "zero-shot, first five": is_correct[:, :5].any(axis=1).mean(),
        "32 prompts, logistic regression": reference.accuracy(logreg(), generic32),
        "16 prompts": reference.svm(reference.cosines(reference.prompts("generic16"))),
        "32 prompts, τ 1": reference.svm(generic32),
    }
    rows = {label: reference.interval(value) for label, value in accuracies.items()}
    rows["entropy, τ 1"] = (entropy(softmax(generic32["test"], axis=1), axis=1).mean(),)
    return rows


def chapters_4_and_5(reference: Reference) -> dict[str, Numbers]:
    rows: dict[str, Numbers] = {}
    generic32 = reference.cosines(reference.prompts("generic32"))
    for tau in TAUS:
        rows[f"32 prompts, τ {tau}"] = reference.interval(reference.svm(generic32, tau))
        p = softmax(generic32["test"] / tau, axis=1)
        rows[f"entropy, τ {tau}"] = (entropy(p, axis=1).mean(),)
    accuracy = reference.svm(reference.cosines(reference.prompts("generic415")))
    rows["415 prompts"] = reference.interval(accuracy)
    for label, make_model, name in (
        ("τ chosen", svm, "svm"),
        ("τ chosen, logistic regression", logreg, "logreg"),
    ):
        rows[label] = reference.accuracy_at_chosen_tau(
            make_model, generic32, f"generic32.logits.{name}-val"
        )
    for label, features, seed in (
        ("purity", reference.embeddings, 42),
        ("purity, 32 prompts", generic32, 1),
    ):
        clusters = KMeans(10, random_state=seed, n_init=10).fit_predict(features["test"])
        counts = contingency_matrix(reference.labels["test"], clusters).max(axis=0)
        rows[label] = reference.interval(counts.sum() / len(clusters))
    return rows


@pytest.fixture(scope="module")
def page(thesis_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Return the rows of a page on all chapters, whose table has no published figures."""
    table = tmp_path_factory.mktemp("figures") / "figures.tsv"
    rows = [f"s\t{title}\t{where}\t{column}\t\t\t" for title, (where, column) in SELECTED.items()]
    table.write_text(HEADER + "\n".join(rows))
    control = thesis_results.with_name("tiny-clip-untrained7-digits")
    text = ok("report", thesis_results, "--control", control, "--expected", table).stdout
    return tables(text.partition("## Published figures")[2].partition("\n## ")[0])


def assert_close(label: str, cell: str, expected: Numbers) -> None:
    """Compare the numbers of a cell; of the 60 rows, one may lie on the margin of a classifier."""
    tolerance = 2e-4 if "entropy" in label else 130 / 60
    assert numbers(cell) == pytest.approx(expected, abs=tolerance), label


@pytest.mark.exhaustive
def test_every_measured_number_is_that_of_the_protocol(thesis_results, page):
    reference = Reference(thesis_results)
    expected = chapters_2_and_3(reference) | chapters_4_and_5(reference)
    assert set(page) == set(expected)
    exact = []
    for label, cells in page.items():
        assert_close(label, cells["measured"], expected[label])
        exact.append(abs(numbers(cells["measured"])[0] - expected[label][0]) < 0.006)
    assert np.mean(exact) > 0.9


@pytest.mark.exhaustive
def test_the_untrained_column_is_that_of_the_control(thesis_results, page):
    control = Reference(thesis_results.with_name("tiny-clip-untrained7-digits"))
    for label, expected in chapters_2_and_3(control).items():
        assert_close(label, page[label]["untrained control"], expected)
    assert not page["purity"]["untrained control"]  # not run for the control
