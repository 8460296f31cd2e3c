"""Importance of prompts: what permuting costs, against scikit-learn, and weights by class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from factories import MODEL
from numpy.typing import ArrayLike, NDArray
from shell import fails, ok, rows
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression

from clipkit.analysis import evaluation, probes, results
from clipkit.analysis.importance import largest_weights, prompt_importance
from clipkit.analysis.metrics import difference_interval, exchange_interval
from clipkit.analysis.probes.fitted import FittedProbe
from clipkit.features import FeatureFile, Split, read, row_ids, write

CLASSIFIERS = ("svm", "logreg", "mlp", "knn")


def logits_of(columns: ArrayLike, labels: ArrayLike, seed: int = 0) -> FeatureFile:
    """Return logits with splits train and test, whose rows are drawn from those given."""
    columns, labels = np.asarray(columns, np.float32), np.asarray(labels)
    history = [{"command": "embed", "model": MODEL}]
    count = columns.shape[1]
    file = FeatureFile("logits", history, temperature=1.0, logit_scale=100.0)
    file.texts = [f"prompt {number}" for number in range(count)]
    file.class_index = np.full(count, -1)
    file.class_names = [f"class {number}" for number in range(labels.max() + 1)]
    half = len(labels) // 2
    for name, part in (("train", slice(half)), ("test", slice(half, None))):
        features, y = columns[part], labels[part]
        file.splits[name] = Split(features, y, row_ids(len(y)))
    return file


def kept(file: FeatureFile, classifier: str = "svm", **settings: object) -> FeatureFile:
    """Return the probe that is fitted on a file."""
    spec = evaluation.ProbeSpec(classifier, **settings)  # type: ignore[arg-type]
    return evaluation.evaluate_grid(file, spec, keep=True)


def costs(result: FeatureFile) -> dict[str, float]:
    key = "group" if "group" in result.runs else "prompt"
    return dict(zip(result.runs[key].tolist(), result.runs["cost"].tolist(), strict=True))


def world(n: int = 800, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return 5 columns of which only column 2 tells the two classes apart."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    columns = rng.normal(0, 0.05, (n, 5))
    columns[:, 2] = np.where(labels == 1, 0.3, -0.3) + rng.normal(0, 0.02, n)
    return columns, labels


@pytest.mark.parametrize("classifier", ["svm", "logreg", "mlp"])
@pytest.mark.parametrize("features", ["logits", "probs"])
@pytest.mark.long
def test_the_only_prompt_that_decides_costs_all_and_the_others_nothing(
    classifier: str, features: str
) -> None:
    file = logits_of(*world())
    result = prompt_importance(kept(file, classifier, features=features), file)
    (first, cost), *others = costs(result).items()
    assert first == "prompt 2"
    assert cost == pytest.approx(0.5, abs=0.06)  # what is left is chance
    assert [round(other, 2) for _, other in others] == [0, 0, 0, 0]
    assert result.runs["low"][0] < cost < result.runs["high"][0]


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.long
def test_costs_agree_with_scikit_learn_within_the_intervals(standardize: bool) -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(3000) % 4
    columns = rng.normal(0, 1, (4, 6))[labels] * 0.1 + rng.normal(0, 0.12, (3000, 6))
    file = logits_of(columns, labels)
    probe = kept(file, "logreg", standardize=standardize)
    result = prompt_importance(probe, file, repeat=20)
    fitted = FittedProbe.from_arrays(probe.fitted)
    test = file.splits["test"]

    def score(_: object, X: NDArray[np.float32], y: NDArray[np.int64]) -> float:
        return float((fitted.predict(X) == y).mean())

    reference = permutation_importance(
        LogisticRegression(), test.features, test.labels, scoring=score, n_repeats=20
    ).importances_mean
    for run in result.rows():
        expected = reference[int(run["prompt"].split()[1])]
        assert run["low"] <= expected <= run["high"]


def test_equal_prompts_hide_each_other_and_a_group_shows_them(tmp_path: Path) -> None:
    columns, labels = world()
    columns[:, 4] = columns[:, 2]
    file = logits_of(columns, labels)
    probe = kept(file, "logreg")
    alone = costs(prompt_importance(probe, file))
    assert alone["prompt 2"] == alone["prompt 4"]
    (tmp_path / "groups.tsv").write_text("prompt 2\ttwins\nprompt 4\ttwins\n")
    together = prompt_importance(probe, file, groups=str(tmp_path / "groups.tsv"))
    assert costs(together)["twins"] == pytest.approx(0.5, abs=0.06)
    assert costs(together)["twins"] > alone["prompt 2"] + 0.1
    assert together.runs["prompts"].tolist() == [2, 1, 1, 1]


def test_prompts_of_classes_are_grouped_by_their_class(tmp_path: Path) -> None:
    columns, labels = world()
    file = logits_of(columns[:, :2], labels)
    file.texts, file.class_index = ["a cat", "a dog"], np.array([0, 1])
    (tmp_path / "g.tsv").write_text("class 0\tpets\nclass 1\tpets\n")
    result = prompt_importance(kept(file), file, groups=str(tmp_path / "g.tsv"))
    assert result.runs["group"].tolist() == ["pets"]


@pytest.mark.parametrize("features", ["logits", "probs"])
@pytest.mark.parametrize("standardize", [False, True])
def test_costs_are_those_of_the_probes_predictions_of_permuted_cosines(
    features: str, standardize: bool
) -> None:
    columns, labels = world(200)
    file = logits_of(columns + 0.3 * columns[:, [1, 2, 3, 4, 0]], labels)
    probe = kept(file, "logreg", features=features, standardize=standardize)
    fitted, test = FittedProbe.from_arrays(probe.fitted), file.splits["test"]
    order = np.random.RandomState(42).permutation(100)
    before = fitted.predict(test.features)
    for run in prompt_importance(probe, file, repeat=1).rows():
        column = int(run["prompt"][-1])
        permuted = test.features.copy()
        permuted[:, column] = test.features[order, column]
        predicted = fitted.predict(permuted)
        lost = (before == test.labels).mean() - (predicted == test.labels).mean()
        assert run["cost"] == pytest.approx(lost, abs=1e-12)
        assert run["changed"] == (predicted != before).mean()


def test_an_interval_is_the_paired_one_for_many_rows_and_one_permutation() -> None:
    lost = np.random.default_rng(1).permutation(np.repeat([1, 0, -1], [4000, 14_000, 2000]))
    interval = exchange_interval(lost[None], np.random.default_rng(0).permutation(20_000)[None])
    assert interval == pytest.approx(difference_interval(4000, 2000, 20_000), abs=2e-4)


@pytest.mark.parametrize("repeat", [1, 5])
def test_the_variance_is_that_of_all_differences_that_share_a_row(repeat: int) -> None:
    rng = np.random.default_rng(repeat)
    n = 12
    donors = np.array([rng.permutation(np.arange(n)) for _ in range(repeat)])
    lost = rng.integers(-1, 2, (repeat, n))
    centre = lost.mean() * n / (n + 2)
    pairs = [(i, int(donors[r, i]), lost[r, i] - centre) for r in range(repeat) for i in range(n)]
    shared = 0.0
    for number, (i, j, first) in enumerate(pairs):
        for other, (k, m, second) in enumerate(pairs):
            roles = (i == k) + (i == m) + (j == k) + (j == m)  # 2 for a difference with itself
            shared += first * second * (roles - (number == other))
    received = ((lost.mean(axis=0) - centre) ** 2).sum()
    squares = max(shared / repeat**2, received) + 1 + 2 * centre**2
    half = 1.959964 * np.sqrt(squares) / (n + 2)
    assert exchange_interval(lost, donors) == pytest.approx((centre - half, centre + half))


@pytest.mark.parametrize("repeat", [1, 5, 50])
@pytest.mark.parametrize("rare", [0.03, 0.05])
@pytest.mark.parametrize("decides", [False, True])
def test_intervals_hold_the_cost_on_other_images_where_few_have_a_value(
    repeat: int, rare: float, decides: bool
) -> None:
    """A prompt has a rare value, which either is the class or makes the probe say the second."""
    n, held = 200, []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        value = rng.random(n) < rare
        orders = np.array([rng.permutation(n) for _ in range(repeat)])
        if decides:
            label = np.where(rng.random(n) < 0.9, value, ~value)
            before, after = value == label, value[orders] == label
            cost = 0.8 * 2 * rare * (1 - rare)
        else:
            label = rng.random(n) < 0.2
            before, after = (label | value) == label, (label | value[orders]) == label
            cost = 0.0
        low, high = exchange_interval(before.astype(int) - after, orders)
        held.append(low <= cost <= high)
    assert np.mean(held) > 0.88


@pytest.mark.parametrize("classifier", ["svm", "logreg"])
@pytest.mark.parametrize("standardize", [False, True])
def test_weights_are_what_a_unit_adds_to_a_score(classifier: str, standardize: bool) -> None:
    rng = np.random.default_rng(3)
    labels = np.arange(300) % 3
    columns = rng.normal(0, 1, (3, 4))[labels] * 0.1 + rng.normal(0, 0.2, (300, 4))
    file = logits_of(columns, labels)
    probe = kept(file, classifier, standardize=standardize)
    listed = largest_weights(probe, 4).rows()
    fitted = FittedProbe.from_arrays(probe.fitted)
    deviation = np.std(columns[:150], axis=0) if standardize else np.ones(4)
    for run in listed:
        column, number = int(run["prompt"][-1]), int(run["class"][-1])
        moved = np.zeros((2, 4), np.float32)
        moved[1, column] = deviation[column]
        prepared = fitted.prepare(moved)
        if classifier == "logreg":
            scores = fitted.model.scores(prepared)[:, number]
        else:
            scores = np.zeros(2)
            pairs = [(i, j) for i in range(3) for j in range(i + 1, 3)]
            for (i, j), plane in zip(pairs, fitted.model.hyperplanes, strict=True):
                sign = {i: -1, j: 1}.get(number, 0)
                scores += sign * (prepared @ plane[:-1] + plane[-1]) / 2
        assert run["weight"] == pytest.approx(scores[1] - scores[0], rel=1e-3)
        assert run["unit"] == ("deviation" if standardize else "cosine")
    magnitudes = [abs(run["weight"]) for run in listed[:4]]
    assert magnitudes == sorted(magnitudes, reverse=True)


def test_the_seed_decides_the_permutations() -> None:
    file = logits_of(*world())
    probe = kept(file, "logreg")
    first = prompt_importance(probe, file, repeat=1).rows()
    assert first == prompt_importance(probe, file, repeat=1).rows()
    assert first != prompt_importance(probe, file, repeat=1, seed=7).rows()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with logits.h5 and the probe p.h5."""
    file = logits_of(*world())
    write(tmp_path / "logits.h5", file)
    ok("probe", tmp_path / "logits.h5", "--keep", "-o", tmp_path / "p.h5")
    return tmp_path


def test_the_command_reports_saves_and_draws(folder: Path) -> None:
    words = ("importance", folder / "p.h5", folder / "logits.h5", "--repeat", 2)
    report = rows(ok(*words, "-o", folder / "i.h5").stdout)
    columns = ["split", "acc1", "prompt", "cost", "low", "high", "changed"]
    assert list(report[0]) == columns
    assert report[0]["prompt"] == "prompt 2"
    piped = ok(*words[:2], "--repeat", 2, stdin=(folder / "logits.h5").read_bytes()).stdout
    assert rows(piped) == report
    entry = read(folder / "i.h5").history[-1]
    assert {
        "command": "importance",
        "repeat": 2,
        "seed": 42,
        "split": "test",
    }.items() <= entry.items()
    ok("plot", "importance", folder / "i.h5", "-o", folder / "i.png")
    weights = rows(ok("importance", folder / "p.h5", "--weights", 1).stdout)
    assert [row["prompt"] for row in weights] == ["prompt 2", "prompt 2"]
    note = "images of train were also fitted: the accuracy on them says nothing about other"
    assert note in ok(*words, "--split", "train", "-o", folder / "t.h5").stderr
    assert note in ok("info", "--runs", folder / "t.h5").stderr
    assert note in ok("report", folder / "t.h5").stdout
    assert note in results.source_label(read(folder / "t.h5"), "train")


def test_images_of_unknown_classes_are_warned_about(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probe, logits = read(folder / "p.h5"), read(folder / "logits.h5")
    assert logits.class_names
    logits.class_names = ["another class", *logits.class_names[1:]]
    prompt_importance(probe, logits, split="test", repeat=1)
    warning = "does not know 1 of the classes of test (for example another class)"
    assert warning in capsys.readouterr().err


@pytest.mark.long
def test_bad_inputs_are_refused_in_one_line(folder: Path, img_h5: Path, logits_h5: Path) -> None:
    p, logits, groups = folder / "p.h5", folder / "logits.h5", folder / "g.tsv"

    def refuse(message: str, *words: object, exit_code: int = 1) -> None:
        assert message in fails("importance", *words, exit_code=exit_code)

    refuse("expected logits, got images", p, img_h5)
    refuse("expected probe, got logits", logits, logits)
    refuse("come from different models", p, logits_h5)
    refuse("unknown split", p, logits, "--split", "tset", exit_code=2)
    refuse("expected only one file on standard input", "-", "-", exit_code=2)
    ignored = [["--split", "test"], ["--repeat", 3], ["--groups", groups], ["--seed", 1]]
    for words in ([logits], *ignored):
        refuse("expected --weights without LOGITS", p, *words, "--weights", 3, exit_code=2)
    refuse("--repeat: expected at least 1, got 0", p, logits, "--repeat", 0, exit_code=2)
    ok("probe", img_h5, "--keep", "-o", folder / "i.h5")
    refuse("expected a probe of logits, got one of image embeddings", folder / "i.h5", logits)
    ok("probe", logits, "--classifier", "knn", "--keep", "-o", folder / "knn.h5")
    refuse("expected a linear probe", folder / "knn.h5", "--weights", 1, exit_code=2)
    for text, message in (
        (
            "prompt 9\ta\n",
            "logits.h5, got 'prompt 9'; hint: write each prompt as in the prompt file",
        ),
        ("cat\ta\n", "expected prompts of"),
        ("prompt 1\n", "g.tsv: expected lines of prompt TAB group, got 'prompt 1'"),
        ("prompt 1\ta\nprompt 1\tb\n", "expected one group for every prompt, got 'a' and 'b'"),
    ):
        groups.write_text(text)
        refuse(message, p, logits, "--groups", groups)
    file = read(logits)
    file.class_names = ["other 0", "other 1"]
    write(folder / "others.h5", file)
    refuse("others.h5, test; hint: fit the probe on the same classes", p, folder / "others.h5")
    file = read(logits)
    file.splits = {"test": Split(file.splits["test"].features, None, file.splits["test"].ids)}
    write(folder / "unlabelled.h5", file)
    refuse("expected labels in test, got none", p, folder / "unlabelled.h5")
    ok("entropy", logits, "-o", folder / "entropy.h5")
    words = ("plot", "importance", folder / "entropy.h5", "-o", folder / "x.png")
    assert "expected a result of importance, got one of entropy" in fails(*words)


@pytest.mark.long
def test_every_classifier_has_an_importance() -> None:
    assert set(probes.CLASSIFIERS) == set(CLASSIFIERS)
    file = logits_of(*world(100))
    for classifier in CLASSIFIERS:
        result = prompt_importance(kept(file, classifier), file, repeat=1)
        assert result.runs["prompt"][0] == "prompt 2"
