"""Every number of a report, found again with numpy and scikit-learn from the feature files alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, f1_score, normalized_mutual_info_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from test_report import tables

from clipkit.features import read

TAUS = (1, 0.5, 0.07, 0.05, 0.03, 0.02)
SEEDS = (42, 1)
SETS = (16, 32, 415)
Numbers = tuple[float, ...]


class ByHand:
    """Embeddings and prompts of a results folder, and the thesis's protocol written plainly."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        images = read(folder / "img.h5")
        self.x, self.y = (
            {s: getattr(images.splits[s], k) for s in ("train", "test")}
            for k in ("features", "labels")
        )
        self.names = images.class_names

    def cosines(self, prompts: str | Any) -> dict[str, Any]:
        t = read(self.folder / f"{prompts}.h5").features if isinstance(prompts, str) else prompts
        t = t / np.linalg.norm(t, axis=1, keepdims=True)
        return {s: x / np.linalg.norm(x, axis=1, keepdims=True) @ t.T for s, x in self.x.items()}

    def random(self, k: int, seed: int) -> dict[str, Any]:
        return self.cosines(
            np.random.RandomState(seed).standard_normal((k, self.x["train"].shape[1]))
        )

    def accuracy(self, model: Any, z: dict[str, Any]) -> float:
        return float(
            (model.fit(z["train"], self.y["train"]).predict(z["test"]) == self.y["test"]).mean()
        )

    def svm(self, z: dict[str, Any], tau: float = 1, C: float = 1) -> float:
        return self.accuracy(
            SVC(kernel="linear", C=C, random_state=42), {s: v / tau for s, v in z.items()}
        )

    def chosen(self, make: Any, z: dict[str, Any], name: str) -> tuple[float, float]:
        """Accuracy on test at the tau that a result says is best on its validation rows, and that tau."""
        result = read(self.folder / f"{name}.h5")
        ids, y = set(result.splits["val"].ids), self.y["train"]
        assert len(ids) == 10  # one of the six of each class
        held = np.array([i in ids for i in read(self.folder / "img.h5").splits["train"].ids])
        (told,) = result.runs["temperature"][result.runs["eval_split"] == "test"].tolist()
        scores = {}
        for tau in TAUS:
            model = make().fit(z["train"][~held] / tau, y[~held])
            scores[tau] = (model.predict(z["train"][held] / tau) == y[held]).sum()
        assert scores[told] >= max(scores.values()) - 1  # a row on the margin may fall either way
        return self.accuracy(make(), {s: v / told for s, v in z.items()}), told

    def interval(self, accuracy: float) -> Numbers:
        n = len(self.y["test"])
        low, high = binomtest(round(accuracy * n), n).proportion_ci(method="wilson")
        return (100 * accuracy, 100 * low, 100 * high)


def logreg() -> Pipeline:
    """Centred, for speed alone: the intercept is free."""
    return make_pipeline(StandardScaler(with_std=False), LogisticRegression(max_iter=10_000))


def probabilities(z: Any, tau: float) -> Any:
    e = np.exp(z.astype(np.float64) / tau)
    return e / e.sum(axis=1, keepdims=True)


def chapters_2_and_3(hand: ByHand) -> Iterator[tuple[str, Numbers]]:
    scaler = StandardScaler().fit(hand.x["train"])
    scaled = {s: scaler.transform(x) for s, x in hand.x.items()}
    yield "2.2 baseline: SVM on standardised image embeddings (%)", hand.interval(hand.svm(scaled))
    yield "2.2 logistic regression on the same (%)", hand.interval(hand.accuracy(logreg(), scaled))
    order = np.argsort(-hand.cosines("classes")["test"], axis=1)
    right = order == hand.y["test"][:, None]
    yield '2.3 zero-shot, "a photo of a {class}" (%)', hand.interval(right[:, 0].mean())
    yield (
        "2.3 zero-shot, class among the first five (%)",
        hand.interval(right[:, :5].any(axis=1).mean()),
    )
    z = hand.cosines("generic32")
    yield "3.1 SVM on the cosines of 32 generic prompts (%)", hand.interval(hand.svm(z))
    yield "3.1 logistic regression on the same (%)", hand.interval(hand.accuracy(logreg(), z))
    yield "3.1 SVM, 16 targeted prompts (%)", hand.interval(hand.svm(hand.cosines("generic16")))
    for k in (32, 16):
        p = probabilities(hand.cosines(f"generic{k}")["test"], 1)
        label = f"3.2 mean entropy, {k} prompts (nats; at most ln {k} = {np.log(k):.4f})"
        yield label, (-(p * np.log(p)).sum(axis=1).mean(),)


def chapter_4(hand: ByHand) -> Iterator[tuple[str, Numbers]]:
    z = hand.cosines("generic32")
    at = {tau: hand.svm(z, tau) for tau in TAUS}
    for tau in TAUS:
        p = probabilities(z["test"], tau)
        yield f"4.1 SVM at τ {tau} (%)", hand.interval(at[tau])
        yield f"4.1 mean entropy at τ {tau} (nats)", (-(p * np.log(p)).sum(axis=1).mean(),)
        yield f"4.1 mean confidence at τ {tau} (%)", (100 * p.max(axis=1).mean(),)
    best = max(TAUS, key=lambda tau: at[tau])
    label = "4.1 the best of these by test accuracy (%; the thesis's way, optimistic)"
    yield label, (*hand.interval(at[best]), best)
    found, tau = hand.chosen(lambda: SVC(kernel="linear"), z, "generic32.logits.svm-val")
    yield "4.1 τ chosen on a validation split (%)", (*hand.interval(found), tau)
    yield "4.2 SVM (%)", (*hand.interval(found), tau)
    found, tau = hand.chosen(logreg, z, "generic32.logits.logreg-val")
    yield "4.2 logistic regression (%)", (*hand.interval(found), tau)
    mlp = read(hand.folder / "generic32.logits.mlp-val.h5")
    right = (mlp.splits["test"].predicted[0] == hand.y["test"]).mean()
    tau = mlp.runs["temperature"][mlp.runs["eval_split"] == "test"][0]
    yield "4.2 MLP, 256 hidden units (%)", (*hand.interval(right), tau)
    for k in SETS[1:]:
        z = hand.cosines(f"generic{k}")
        p = probabilities(z["test"], 1)
        yield f"4.3 SVM, {k} prompts, τ 1 (%)", hand.interval(hand.svm(z))
        label = f"4.3 mean entropy, {k} prompts (nats; at most ln {k} = {np.log(k):.4f})"
        yield label, (-(p * np.log(p)).sum(axis=1).mean(),)


def chapter_5(hand: ByHand) -> Iterator[tuple[str, Numbers]]:
    sources = {"image embeddings": hand.x["test"]}
    sources |= {f"{k} prompts": hand.cosines(f"generic{k}")["test"] for k in (32, 415)}
    y = hand.y["test"]
    for what, values in sources.items():
        runs = [KMeans(10, random_state=seed, n_init=10).fit_predict(values) for seed in SEEDS]
        purities = [sum(np.bincount(y[run == c]).max() for c in range(10)) / len(y) for run in runs]
        others = {"NMI": normalized_mutual_info_score, "ARI": adjusted_rand_score}
        measured = {"purity": purities} | {
            name: [f(y, run) for run in runs] for name, f in others.items()
        }
        for name, found in measured.items():
            yield f"5 {name}, {what}", (found[0], min(found), max(found))


def numbers(cell: str) -> Numbers:
    return tuple(float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", cell))


@pytest.fixture(scope="module")
def page(ran: Path) -> dict[str, dict[str, str]]:
    return tables((ran / "report.md").read_text())


def close(label: str, cell: str, expected: Numbers, rows: int = 60) -> None:
    """The numbers of a cell: accuracies to a row, of which the interval may make a little more."""
    found = numbers(cell)
    assert len(found) == len(expected), (label, cell, expected)
    tolerance = 130 / rows if "(%" in label else 2e-4
    np.testing.assert_allclose(found, expected, atol=tolerance, err_msg=label)


def test_every_comparison(ran: Path, page: dict[str, dict[str, str]]) -> None:
    hand = ByHand(ran)
    expected = dict([*chapters_2_and_3(hand), *chapter_4(hand), *chapter_5(hand)])
    compared = {label: cells["here"] for label, cells in page.items() if "here" in cells}
    assert set(compared) == set(expected)
    for label, cell in compared.items():
        close(label, cell, expected[label])
    exact = [
        numbers(cell)[0] == pytest.approx(expected[label][0], abs=0.006)
        for label, cell in compared.items()
    ]
    assert np.mean(exact) > 0.9  # all but a row here and there that lies on the margin


def test_the_untrained_column_is_the_twins(ran: Path, page: dict[str, dict[str, str]]) -> None:
    twin = ran.with_name("tiny-clip-untrained7-digits")
    expected = dict(chapters_2_and_3(ByHand(twin)))
    for label, values in expected.items():
        close(label, page[label]["untrained"], values)
    assert not page["5 purity, image embeddings"]["untrained"]  # the twin has not run that chapter


def test_the_rank_of_each_prompt_set(ran: Path, page: dict[str, dict[str, str]]) -> None:
    hand = ByHand(ran)
    for k in SETS:
        row, z = page[f"{k}"], hand.cosines(f"generic{k}")
        t = read(ran / f"generic{k}.h5").features.astype(np.float64)
        sigma = np.linalg.svd(t / np.linalg.norm(t, axis=1, keepdims=True), compute_uv=False)
        p = sigma / sigma.sum()
        assert row["singular values"] == f"{sigma[0]:.3g} … {sigma[-1]:.2g}"
        draw = np.random.RandomState(42).standard_normal(t.shape)
        q = np.linalg.svd(draw / np.linalg.norm(draw, axis=1, keepdims=True), compute_uv=False)
        ranks = [np.exp(-(share * np.log(share)).sum()) for share in (p, q / q.sum())]
        assert numbers(row["effective rank (random)"]) == pytest.approx(ranks, abs=0.051)
        close("(%)", row["SVM, τ 1 (%)"], hand.interval(hand.svm(z)))
        drawn = [100 * hand.svm(hand.random(k, seed)) for seed in SEEDS]
        close("(%)", row["random, SVM, τ 1 (%)"], (float(np.mean(drawn)), min(drawn), max(drawn)))
        for column, features, name in (
            ("logistic regression (%)", z, f"generic{k}.logits.few"),
            ("random, logistic regression (%)", hand.random(k, 42), f"random{k}-42.few"),
        ):
            found, tau = hand.chosen(logreg, features, name)
            close("(%)", row[column], (*hand.interval(found), tau))


def test_the_grid_is_constant_along_c_over_tau_squared_and_only_of_cosines(
    ran: Path, page: dict[str, dict[str, str]]
) -> None:
    """scikit-learn fits every (tau, C) on its own; clipkit solves each C / tau^2 once."""
    hand = ByHand(ran)
    z = hand.cosines("generic32")
    for label, name, Cs, bend in (
        ("cosine / τ", "trade", (0.25, 1, 4, 16), lambda v, tau: v / tau),
        ("softmax(cosine / τ)", "trade-probs", (256, 1024, 4096, 16384), probabilities),
    ):
        runs = read(ran / f"generic32.logits.{name}.h5").runs
        assert len(runs["acc1"]) == 20
        agree, lines = [], {}
        for tau, C, found in zip(runs["temperature"], runs["C"], runs["acc1"], strict=True):
            assert C in Cs
            expected = hand.accuracy(
                SVC(kernel="linear", C=C), {s: bend(v, tau) for s, v in z.items()}
            )
            agree.append(abs(found - expected) < 1.01 / 60)
            lines.setdefault(round(C / tau**2, 3), []).append(found)
        assert (
            sum(agree) >= 18
        )  # where every row is a support vector at its bound, the intercept is anyone's
        spread = max(max(line) - min(line) for line in lines.values())
        cells = page[label]
        assert numbers(cells["largest difference at one C / τ² (points)"]) == pytest.approx(
            (100 * spread,), abs=0.006
        )
        span = (100 * min(runs["acc1"]), 100 * max(runs["acc1"]))
        assert numbers(cells["accuracy over the grid (%)"]) == pytest.approx(span, abs=0.006)
    assert page["cosine / τ"]["largest difference at one C / τ² (points)"] == "0.00"


def test_the_classes_of_highest_and_lowest_f1(ran: Path) -> None:
    hand = ByHand(ran)
    scaler = StandardScaler().fit(hand.x["train"])
    svm = SVC(kernel="linear").fit(scaler.transform(hand.x["train"]), hand.y["train"])
    f1 = f1_score(hand.y["test"], svm.predict(scaler.transform(hand.x["test"])), average=None)
    (told,) = [
        text
        for text in (ran / "report.md").read_text().split("\n\n")
        if text.startswith("Baseline, F1")
    ]
    parts = " ".join(told.split()).split("; of the worst: ")
    best, worst = (re.findall(r"(\S+) (\d\.\d\d)", part) for part in parts)
    assert [float(value) for _, value in best] == pytest.approx(sorted(f1)[:-6:-1], abs=0.0051)
    assert [float(value) for _, value in worst] == pytest.approx(sorted(f1)[:5], abs=0.0051)
    for name, value in best + worst:
        assert float(value) == pytest.approx(f1[hand.names.index(name)], abs=0.0051)


def test_every_picture_is_there(ran: Path) -> None:
    text = (ran / "report.md").read_text()
    shown = re.findall(r"!\[.+\]\((.+)\)", text)
    assert sorted(shown) == sorted(path.name for path in ran.glob("*.png"))
    assert len(shown) == 16
