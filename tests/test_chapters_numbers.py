"""What the Makefile's chapters measure, computed again with numpy and scikit-learn."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories.results import HEADER, numbers, tables
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import binomtest, entropy
from shell import ok
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.cluster import contingency_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.svm import SVC

from clipkit.features import read

TAUS = (1, 0.5, 0.07, 0.05, 0.03, 0.02, 0.01, 0.005)
Splits = dict[str, NDArray[Any]]
Numbers = tuple[float, ...]

pytestmark = pytest.mark.long

PROMPTS = "command=probe prompts=generic32"
IMAGES = "command=probe features=embeddings"
ZEROSHOT = "command=zeroshot prompts='a photo of a {}'"
# Title -> what a table of figures selects by
SELECTED = {
    "SVM": f"{IMAGES} classifier=svm C=1",
    "SVM, C chosen": f"{IMAGES} classifier=svm val=0.1",
    "logistic regression": f"{IMAGES} classifier=logreg",
    "zero-shot": ZEROSHOT,
    "zero-shot, first five": ZEROSHOT,
    "32 prompts, logistic regression": f"{PROMPTS} classifier=logreg tau=1",
    "16 prompts": "command=probe prompts=generic16 classifier=svm C=1 tau=1",
    "415 prompts": "command=probe prompts=generic415 classifier=svm C=1 tau=1",
    **{f"32 prompts, τ {tau}": f"{PROMPTS} classifier=svm C=1 tau={tau}" for tau in TAUS},
    **{f"entropy, τ {tau}": f"command=entropy prompts=generic32 tau={tau}" for tau in TAUS},
    "τ chosen": f"{PROMPTS} classifier=svm val=0.1",
    "τ chosen, logistic regression": f"{PROMPTS} classifier=logreg val=0.1",
    "purity": "command=cluster features=embeddings seed=42",
    "purity, 32 prompts": "command=cluster prompts=generic32 seed=1",
}
COLUMNS = {
    **dict.fromkeys(SELECTED, "acc1"),
    **{f"entropy, τ {tau}": "mean_entropy" for tau in TAUS},
    **{"zero-shot, first five": "acc5", "purity": "purity", "purity, 32 prompts": "purity"},
}


class Reference:
    """The embeddings and prompts of a results folder, and the thesis's protocol written plainly."""

    def __init__(self, folder):
        self.folder = folder
        splits = read(folder / "img.h5").splits
        self.embeddings = {name: split.features for name, split in splits.items()}
        self.labels = {name: np.asarray(split.labels) for name, split in splits.items()}

    def cosines(self, prompts):
        unit = normalize(read(self.folder / f"{prompts}.h5").features)
        return {name: normalize(rows) @ unit.T for name, rows in self.embeddings.items()}

    def chosen(self, name, column):
        """Return the setting that validation chose."""
        runs = read(self.folder / f"{name}.h5").runs
        return runs[column][runs["eval_split"] == "test"].item()

    def accuracy(self, model, features, tau=1):
        model.fit(features["train"] / tau, self.labels["train"])
        return self.interval(model.predict(features["test"] / tau) == self.labels["test"])

    def interval(self, is_right):
        found = binomtest(int(is_right.sum()), len(is_right))
        low, high = found.proportion_ci(method="wilson")
        return (100 * found.statistic, 100 * low, 100 * high)

    def purity(self, features, seed):
        clusters = KMeans(10, random_state=seed, n_init=10).fit_predict(features["test"])
        largest = contingency_matrix(self.labels["test"], clusters).argmax(axis=0)
        return self.interval(largest[clusters] == self.labels["test"])


def logreg():
    """Centre the features, for speed alone: the intercept is free."""
    return make_pipeline(StandardScaler(with_std=False), LogisticRegression(max_iter=10_000))


def svm(C=1):
    return SVC(kernel="linear", C=C)


def chapters_2_and_3(reference):
    scaler = StandardScaler().fit(reference.embeddings["train"])
    images = {name: scaler.transform(x) for name, x in reference.embeddings.items()}
    order = np.argsort(-reference.cosines("classes")["test"], axis=1)
    is_correct = order == reference.labels["test"][:, None]
    generic32 = reference.cosines("generic32")
    return {
        "SVM": reference.accuracy(svm(), images),
        "SVM, C chosen": reference.accuracy(svm(reference.chosen("img.svm-c", "C")), images),
        "logistic regression": reference.accuracy(logreg(), images),
        "zero-shot": reference.interval(is_correct[:, 0]),
        "zero-shot, first five": reference.interval(is_correct[:, :5].any(axis=1)),
        "32 prompts, logistic regression": reference.accuracy(logreg(), generic32),
        "16 prompts": reference.accuracy(svm(), reference.cosines("generic16")),
        "32 prompts, τ 1": reference.accuracy(svm(), generic32),
        "entropy, τ 1": (entropy(softmax(generic32["test"], axis=1), axis=1).mean(),),
    }


def chapters_4_and_5(reference):
    generic32 = reference.cosines("generic32")
    rows = {"415 prompts": reference.accuracy(svm(), reference.cosines("generic415"))}
    for tau in TAUS:
        rows[f"32 prompts, τ {tau}"] = reference.accuracy(svm(), generic32, tau)
        p = softmax(generic32["test"] / tau, axis=1)
        rows[f"entropy, τ {tau}"] = (entropy(p, axis=1).mean(),)
    svm_tau, logreg_tau = (
        reference.chosen(f"generic32.logits.{name}-val", "temperature")
        for name in ("svm", "logreg")
    )
    rows["τ chosen"] = reference.accuracy(svm(), generic32, svm_tau)
    rows["τ chosen, logistic regression"] = reference.accuracy(logreg(), generic32, logreg_tau)
    rows["purity"] = reference.purity(reference.embeddings, 42)
    rows["purity, 32 prompts"] = reference.purity(generic32, 1)
    return rows


@pytest.fixture(scope="module")
def page(thesis_results, tmp_path_factory):
    """Return the rows of a page on all chapters, whose table has no published figures."""
    table = tmp_path_factory.mktemp("figures") / "figures.tsv"
    rows = [f"s\t{title}\t{where}\t{COLUMNS[title]}\t\t\t" for title, where in SELECTED.items()]
    table.write_text(HEADER + "\n".join(rows))
    control = thesis_results.with_name("tiny-clip-untrained7-digits")
    text = ok("report", thesis_results, "--control", control, "--expected", table).stdout
    return tables(re.split(r"\n#{1,3} ", text.partition("### Published figures")[2])[0])


def assert_close(label, cell, expected):
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
    assert page["purity"]["untrained control"] == "not measured"  # not run for the control


@pytest.mark.exhaustive
def test_the_tables_of_the_page_about_the_thesis_are_made_of_results(thesis_results, monkeypatch):
    """Of `digits` only one attribute is known, so that the table of attributes is left out."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "docs")
    import thesis_page

    monkeypatch.setattr(thesis_page, "SEEDS", (42, 1))
    results = thesis_page.Results(thesis_results)
    monkeypatch.setattr(thesis_page, "PROMPTS", (16, 32, 415))
    made = {}
    for table, make in zip(thesis_page.tables(), thesis_page.MAKERS, strict=True):
        if make in (None, thesis_page.attributes):
            continue
        made[make.__name__] = make(results, results)
        columns = len(table.splitlines()[0].strip("|").split("|"))
        has_labels = make is not thesis_page.calibration
        assert {len(row) for row in made[make.__name__]} == {columns - has_labels}
    accuracy = read(thesis_results / "img.svm.h5").runs["acc1"][0]
    assert numbers(made["baseline"][0][0])[0] == round(100 * float(accuracy), 2)
    purity = read(thesis_results / "img.cluster-42.h5").runs["purity"][0]
    assert numbers(made["clusters"][0][0])[0] == round(float(purity), 4)
