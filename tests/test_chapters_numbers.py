"""Every number of a report, computed again with numpy and scikit-learn from the embeddings."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import binomtest, entropy
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    f1_score,
    normalized_mutual_info_score,
)
from sklearn.metrics.cluster import contingency_matrix
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.svm import SVC
from test_report import Table, numbers, tables

from clipkit.features import read

TAUS = (1, 0.5, 0.07, 0.05, 0.03, 0.02, 0.01, 0.005)
FEWSHOT_TAUS = (1, 0.3, 0.1, 0.03, 0.01)
SEEDS = (42, 1)
SETS = (16, 32, 415)
Array = NDArray[Any]
Splits = dict[str, Array]
Numbers = tuple[float, ...]

pytestmark = pytest.mark.long


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

    def random_cosines(self, k: int, seed: int) -> Splits:
        width = self.embeddings["train"].shape[1]
        return self.cosines(np.random.RandomState(seed).standard_normal((k, width)))

    def whitened(self, prompts: Array) -> Splits:
        """Undo the spectrum: cosines times U / S, where U S V' are the unit rows of prompts."""
        U, S, _ = np.linalg.svd(normalize(prompts), full_matrices=False)
        kept = S / S[0] > 1e-6
        return {name: x @ (U[:, kept] / S[kept]) for name, x in self.cosines(prompts).items()}

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
        taus: Sequence[float] = TAUS,
    ) -> Numbers:
        """Return test accuracy, its interval and tau; check that the validation rows choose tau."""
        result = read(str(self.folder / f"{name}.h5"))
        val_ids = set(result.splits["val"].ids)
        assert len(val_ids) == 10  # one of the six of each class
        is_val = np.array([i in val_ids for i in self.train_ids])
        x, y = features["train"], self.labels["train"]
        (chosen,) = result.runs["temperature"][result.runs["eval_split"] == "test"].tolist()
        correct = {}
        for tau in taus:
            model = make_model().fit(x[~is_val] / tau, y[~is_val])
            correct[tau] = (model.predict(x[is_val] / tau) == y[is_val]).sum()
        assert correct[chosen] >= max(correct.values()) - 1  # one row may lie on the margin
        accuracy = self.accuracy(make_model(), scaled(features, chosen))
        return (*self.interval(accuracy), chosen)

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


def entropy_of_set(reference: Reference, chapter: str, k: int) -> dict[str, Numbers]:
    cosines = reference.cosines(reference.prompts(f"generic{k}"))["test"]
    label = f"{chapter} mean entropy, {k} prompts (nats; at most ln {k} = {np.log(k):.4f})"
    return {label: (entropy(softmax(cosines, axis=1), axis=1).mean(),)}


def chapters_2_and_3(reference: Reference) -> dict[str, Numbers]:
    scaler = StandardScaler().fit(reference.embeddings["train"])
    images = {name: scaler.transform(x) for name, x in reference.embeddings.items()}
    tuned = read(str(reference.folder / "img.svm-c.h5"))
    (chosen,) = tuned.runs["C"][tuned.runs["eval_split"] == "test"].tolist()
    order = np.argsort(-reference.cosines(reference.prompts("classes"))["test"], axis=1)
    is_correct = order == reference.labels["test"][:, None]
    generic16, generic32 = (
        reference.cosines(reference.prompts(name)) for name in ("generic16", "generic32")
    )
    accuracies = {
        "2.2 baseline: SVM on standardised image embeddings (%)": reference.svm(images),
        "2.2 logistic regression on the same (%)": reference.accuracy(logreg(), images),
        '2.3 zero-shot, "a photo of a {class}" (%)': is_correct[:, 0].mean(),
        "2.3 zero-shot, class among the first five (%)": is_correct[:, :5].any(axis=1).mean(),
        "3.1 SVM on the cosines of 32 generic prompts (%)": reference.svm(generic32),
        "3.1 logistic regression on the same (%)": reference.accuracy(logreg(), generic32),
        "3.1 SVM, 16 targeted prompts (%)": reference.svm(generic16),
    }
    intervals = {label: reference.interval(value) for label, value in accuracies.items()}
    label = "2.2 the same, C chosen on a validation split (%)"
    intervals[label] = (*reference.interval(reference.svm(images, C=chosen)), chosen)
    return intervals | entropy_of_set(reference, "3.2", 32) | entropy_of_set(reference, "3.2", 16)


def chapter_4(reference: Reference) -> dict[str, Numbers]:
    rows: dict[str, Numbers] = {}
    generic32 = reference.cosines(reference.prompts("generic32"))
    accuracies = {tau: reference.svm(generic32, tau) for tau in TAUS}
    for tau, accuracy in accuracies.items():
        p = softmax(generic32["test"] / tau, axis=1)
        rows[f"4.1 SVM at τ {tau} (%)"] = reference.interval(accuracy)
        rows[f"4.1 mean entropy at τ {tau} (nats)"] = (entropy(p, axis=1).mean(),)
        rows[f"4.1 mean confidence at τ {tau} (%)"] = (100 * p.max(axis=1).mean(),)
    best = max(TAUS, key=lambda tau: accuracies[tau])
    label = "4.1 the best of these by test accuracy (%; the thesis's way, optimistic)"
    rows[label] = (*reference.interval(accuracies[best]), best)
    name = "generic32.logits.{}-val"
    chosen = reference.accuracy_at_chosen_tau(svm, generic32, name.format("svm"))
    rows["4.1 τ chosen on a validation split (%)"] = rows["4.2 SVM (%)"] = chosen
    rows["4.2 logistic regression (%)"] = reference.accuracy_at_chosen_tau(
        logreg, generic32, name.format("logreg")
    )
    mlp = read(str(reference.folder / "generic32.logits.mlp-val.h5"))
    predicted = np.asarray(mlp.splits["test"].predicted)[0]
    interval = reference.interval((predicted == reference.labels["test"]).mean())
    (tau,) = mlp.runs["temperature"][mlp.runs["eval_split"] == "test"]
    rows["4.2 MLP, 256 hidden units (%)"] = (*interval, tau)
    for k in SETS[1:]:
        accuracy = reference.svm(reference.cosines(reference.prompts(f"generic{k}")))
        rows[f"4.3 SVM, {k} prompts, τ 1 (%)"] = reference.interval(accuracy)
        rows |= entropy_of_set(reference, "4.3", k)
    return rows


def purity(labels: Array, clusters: Array) -> float:
    return float(contingency_matrix(labels, clusters).max(axis=0).sum() / len(labels))


def chapter_5(reference: Reference) -> dict[str, Numbers]:
    sources = {"image embeddings": reference.embeddings["test"]}
    for k in (32, 415):
        sources[f"{k} prompts"] = reference.cosines(reference.prompts(f"generic{k}"))["test"]
    metrics = {
        "purity": purity,
        "NMI": normalized_mutual_info_score,
        "AMI": adjusted_mutual_info_score,
        "ARI": adjusted_rand_score,
    }
    rows = {}
    for source, features in sources.items():
        clusters = [KMeans(10, random_state=s, n_init=10).fit_predict(features) for s in SEEDS]
        for name, metric in metrics.items():
            values = [metric(reference.labels["test"], assigned) for assigned in clusters]
            rows[f"5 {name}, {source}"] = (values[0], min(values), max(values))
    return rows


def mean_over_permutations(metric: Callable[[Array, Array], float], labels: Array, k: int) -> float:
    """Return the mean agreement of labels in random order with k clusters of equal size."""
    rng = np.random.default_rng(0)
    clusters = np.arange(len(labels)) % k
    return float(np.mean([metric(rng.permutation(labels), clusters) for _ in range(200)]))


@pytest.fixture(scope="module")
def page(thesis_results: Path) -> Table:
    return tables((thesis_results / "report.md").read_text())


@pytest.fixture(scope="module")
def reference(thesis_results: Path) -> Reference:
    return Reference(thesis_results)


def assert_close(label: str, cell: str, expected: Numbers) -> None:
    """Compare the numbers of a cell; of the 60 rows, one may lie on the margin of a classifier."""
    tolerance = 130 / 60 if "(%" in label else 2e-4
    assert numbers(cell) == pytest.approx(expected, abs=tolerance), label


def test_every_comparison(reference, page):
    expected = chapters_2_and_3(reference) | chapter_4(reference) | chapter_5(reference)
    compared = {label: cells["here"] for label, cells in page.items() if "here" in cells}
    for label in [label for label in compared if "permuted labels" in label]:
        metric = purity if "purity" in label else normalized_mutual_info_score
        by_chance = mean_over_permutations(metric, reference.labels["test"], 10)
        assert numbers(compared.pop(label))[0] == pytest.approx(by_chance, abs=0.05)
    assert set(compared) == set(expected)
    exact = []
    for label, cell in compared.items():
        assert_close(label, cell, expected[label])
        exact.append(abs(numbers(cell)[0] - expected[label][0]) < 0.006)
    assert np.mean(exact) > 0.9


def test_the_untrained_column_is_that_of_the_control(thesis_results, page):
    control = Reference(thesis_results.with_name("tiny-clip-untrained7-digits"))
    for label, expected in chapters_2_and_3(control).items():
        assert_close(label, page[label]["untrained"], expected)
    assert not page["5 purity, image embeddings"]["untrained"]  # not run for the control


@pytest.mark.parametrize("k", SETS)
def test_the_rank_of_a_prompt_set(k, reference, page):
    prompts = reference.prompts(f"generic{k}").astype(np.float64)
    sigma = np.linalg.svd(normalize(prompts), compute_uv=False)
    directions = np.random.RandomState(42).standard_normal(prompts.shape)
    random_sigma = np.linalg.svd(normalize(directions), compute_uv=False)
    ranks = np.exp([entropy(sigma), entropy(random_sigma)])
    row = page[f"{k}"]
    assert row["singular values"] == f"{sigma[0]:.3g} … {sigma[-1]:.2g}"
    shown = [float(row[column]) for column in ("effective rank", "of random directions")]
    assert shown == pytest.approx(ranks, abs=0.051)
    random = [100 * reference.svm(reference.random_cosines(k, seed)) for seed in SEEDS]
    expected = {
        "SVM, τ 1 (%)": (100 * reference.svm(reference.cosines(prompts)),),
        "random: mean": (float(np.mean(random)),),
        "random: lowest–highest": (min(random), max(random)),
    }
    for column, values in expected.items():
        assert_close("(%)", row[column].replace("–", " "), values)


@pytest.mark.parametrize("k", SETS)
def test_prompts_whitened_and_random_are_compared_seed_by_seed(k, reference, page):
    prompts = reference.prompts(f"generic{k}")

    def accuracies(name: str, features: dict[int, Splits]) -> Array:
        found = [
            reference.accuracy_at_chosen_tau(
                logreg, features[seed], name.format(seed), FEWSHOT_TAUS
            )[0]
            for seed in SEEDS
        ]
        return np.array(found)

    plain = accuracies(
        f"generic{k}.logits.fewshot-{{}}", dict.fromkeys(SEEDS, reference.cosines(prompts))
    )
    whitened = accuracies(
        f"generic{k}.whitened.fewshot-{{}}", dict.fromkeys(SEEDS, reference.whitened(prompts))
    )
    random = accuracies(
        f"random{k}-{{}}.fewshot", {seed: reference.random_cosines(k, seed) for seed in SEEDS}
    )
    expected = {
        "as they are (%)": (plain.mean(),),
        "whitened (%)": (whitened.mean(),),
        "random (%)": (random.mean(),),
    }
    for column, other in (("random − as they are", plain), ("random − whitened", whitened)):
        difference = random - other
        expected[column] = (difference.mean(), difference.min(), difference.max())
    for column, values in expected.items():
        assert_close("(%)", page[f"{k} prompts"][column], values)


def test_the_two_best_temperatures_are_compared_on_the_same_images(reference, thesis_results):
    result = read(str(reference.folder / "generic32.logits.sweep.h5"))
    order = np.argsort(-result.runs["acc1"], kind="stable")[:2]
    first, second = np.asarray(result.splits["test"].predicted)[order] == reference.labels["test"]
    only_first, only_second = (first & ~second).sum(), (second & ~first).sum()
    p = binomtest(only_first, only_first + only_second).pvalue if only_first + only_second else 1.0
    difference = 100 * (only_first - only_second) / len(first)
    best, next_best = result.runs["temperature"][order]
    text = " ".join((thesis_results / "report.md").read_text().split())
    assert (
        f"{only_first} are right with τ {best:g} alone and {only_second} with τ {next_best:g} "
        f"alone: a difference of {difference:+.2f} points ("
    ) in text
    assert f"McNemar's exact test: p = {p:.2g})" in text


def test_only_the_grid_of_cosines_is_constant_along_c_over_tau_squared(reference, page):
    """scikit-learn fits every (tau, C) on its own; clipkit solves each C / tau^2 once."""
    cosines = reference.cosines(reference.prompts("generic32"))
    for features, name, Cs in (
        ("cosine / τ", "c-tau-grid", {0.25, 1, 4, 16}),
        ("softmax(cosine / τ)", "c-tau-grid-probs", {256, 1024, 4096, 16384}),
    ):
        runs = read(str(reference.folder / f"generic32.logits.{name}.h5")).rows()
        assert {run["C"] for run in runs} == Cs
        assert len(runs) == 20
        agree = []
        by_ratio: dict[float, list[float]] = {}
        for run in runs:
            tau, C = run["temperature"], run["C"]
            if name == "c-tau-grid":
                expected = reference.svm(cosines, tau, C)
            else:
                logits = scaled(cosines, tau)
                probabilities = {split: softmax(z, axis=1) for split, z in logits.items()}
                expected = reference.svm(probabilities, C=C)
            agree.append(abs(run["acc1"] - expected) < 1.01 / 60)
            by_ratio.setdefault(round(C / tau**2, 3), []).append(100 * run["acc1"])
        assert sum(agree) >= 18  # the intercept is free if every row is at its bound
        accuracies = [100 * run["acc1"] for run in runs]
        span = (min(accuracies), max(accuracies))
        difference = max(max(group) - min(group) for group in by_ratio.values())
        cells = page[features]
        assert numbers(cells["accuracy over the grid (%)"]) == pytest.approx(span, abs=0.006)
        cell = cells["largest difference at one C / τ² (points)"]
        assert float(cell) == pytest.approx(difference, abs=0.006)
        assert (cell == "0.00") == (name == "c-tau-grid")


def test_the_classes_of_highest_and_lowest_f1(thesis_results, reference):
    model = make_pipeline(StandardScaler(), svm())
    model.fit(reference.embeddings["train"], reference.labels["train"])
    predicted = model.predict(reference.embeddings["test"])
    f1 = f1_score(reference.labels["test"], predicted, average=None)
    text = " ".join((thesis_results / "report.md").read_text().split())
    sentence = re.search(r"F1 of the best classes: (.+?); of the worst: (.+?)\. ", text)
    assert sentence is not None
    for part, expected in zip(sentence.groups(), (sorted(f1)[:-6:-1], sorted(f1)[:5]), strict=True):
        classes = re.findall(r"(\S+) (\d\.\d\d)", part)
        assert [float(value) for _, value in classes] == pytest.approx(expected, abs=0.0051)
        for name, value in classes:
            assert float(value) == pytest.approx(f1[reference.names.index(name)], abs=0.0051)


def test_chapter_6_shows_what_its_results_hold(thesis_results, page):
    (held,) = read(thesis_results / "img.attributes.h5").rows()
    assert numbers(page["class"]["probe"]) == pytest.approx(
        [100 * held[name] for name in ("probe", "probe_low", "probe_high")], abs=0.051
    )
    (explained,) = read(thesis_results / "img.variance.h5").rows()
    assert numbers(page["class"]["share"]) == pytest.approx([100 * explained["share"]], abs=0.0051)
    shots = read(thesis_results / "img.shots.h5").runs
    of_one = 100 * shots["acc1"][shots["shots"] == 1]
    expected = [of_one.mean(), of_one.min(), of_one.max()]
    shown = numbers(page["1"]["accuracy (%)"].replace("–", " "))
    assert shown == pytest.approx(expected, abs=0.0051)
    for row in read(thesis_results / "classes.logits.calibrate.h5").rows():
        label = f"τ {row['temperature']:.4g}"
        if row["fitted"]:
            (label,) = [name for name in page if name.startswith(f"{label}, fitted (")]
        shown = numbers(page[label]["information (nats)"])
        assert shown == pytest.approx([row["information"]], abs=0.00051)


def test_probes_are_compared_with_zeroshot_on_the_same_images(thesis_results, page):
    right = {}
    for name in ("img.svm", "img.logreg", "classes.logits.zeroshot"):
        scored = read(thesis_results / f"{name}.h5").splits["test"]
        right[name] = scored.predicted[0] == scored.labels
    zeroshot = right.pop("classes.logits.zeroshot")
    labels = ("SVM on embeddings", "logistic regression on embeddings")
    for label, of_probe in zip(labels, right.values(), strict=True):
        cells = page[label]
        only = [int((of_probe & ~zeroshot).sum()), int((zeroshot & ~of_probe).sum())]
        assert numbers(cells["only this"] + " " + cells["only zero-shot"]) == only
        difference, low, high = numbers(cells["difference (points)"].replace("+", ""))
        assert difference == pytest.approx(100 * (only[0] - only[1]) / len(zeroshot), abs=0.0051)
        assert low <= difference <= high
        p = binomtest(only[0], sum(only)).pvalue
        assert p * 0.99 <= float(cells["p"]) <= min(1, 8 * p) * 1.06  # by Holm's method


def test_salads_are_shown_beside_random_directions(thesis_results, page):
    accuracy = [
        read(thesis_results / f"salad32-{seed}.logits.fewshot-{seed}.h5").rows()[-1]["acc1"]
        for seed in SEEDS
    ]
    row = page["32 salads"]
    assert float(row["as they are (%)"]) == pytest.approx(100 * np.mean(accuracy), abs=0.0051)
    assert row["random (%)"] == page["32 prompts"]["random (%)"]


def test_a_report_shows_every_picture(thesis_results):
    text = (thesis_results / "report.md").read_text()
    names = re.findall(r"!\[.+\]\((.+)\)", text)
    assert sorted(names) == sorted(path.name for path in thesis_results.glob("*.png"))
    assert len(names) == 18
