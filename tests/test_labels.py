"""Several labels of an image, and numbers: `attributes --metric`."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import MODEL, fails_with, saved
from scipy.stats import kendalltau, norm
from scipy.stats import t as student
from shell import fails, ok
from sklearn.metrics import average_precision_score, mean_absolute_error, roc_auc_score

from clipkit.analysis.attributes import recalls
from clipkit.analysis.compare import score_comparison
from clipkit.analysis.results import make_result
from clipkit.features import FeatureFile, Split
from clipkit.statistics.score_metrics import METRICS, ap_by_chance, ridge

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
    found, empty = recalls.measure(
        file, words(), table=table, columns=["smiling", "hat"], metric=metric
    ).rows()
    unit = file.splits["test"].features / np.linalg.norm(
        file.splits["test"].features, axis=1, keepdims=True
    )
    assert found["zeroshot"] == pytest.approx(reference(label(), unit[:, 0]))
    assert (found["metric"], found["positives"]) == (metric, N // 4)
    assert found["chance"] == pytest.approx(0.5 if metric == "auroc" else ap_by_chance(label()))
    assert found["zeroshot_low"] < found["zeroshot"] < found["zeroshot_high"]
    assert found["names"] == pytest.approx(found["zeroshot"])  # a probe of one cosine keeps it
    assert found["probe"] == pytest.approx(found["zeroshot"], abs=0.06)
    assert found["reach"] == pytest.approx(1, abs=0.25)
    assert (empty["attribute"], empty["positives"]) == ("hat", 0)
    assert np.isnan(empty["probe"])


def test_one_word_among_few_others_is_missing_its_control_and_does_not_fail_it(table, capsys):
    """Of 30 others, the best word has a p of 1 / 31: too much for one test of 2.5 %."""
    of_others = words()
    generator = np.random.default_rng(2)
    of_others.features = np.vstack([of_others.features, generator.normal(size=(60, 6))])
    of_others.features[2:, 0] = -1  # none says what the word says
    of_others.texts = [*of_others.texts, *(f"other {number}" for number in range(60))]
    of_others.class_index = [0, 1, *[-1] * 60]

    def row_with(others):
        few = replace(of_others, features=of_others.features[: 2 + others])
        few.texts, few.class_index = few.texts[: 2 + others], few.class_index[: 2 + others]
        settings = {"columns": ["smiling"], "metric": "auroc"}
        return recalls.measure(images(), few, table=table, **settings).rows()[0]

    assert np.isnan(row_with(30)["other_words_p"])
    assert (
        "fewer than 39 other texts to compare with the words of smiling" in capsys.readouterr().err
    )
    assert row_with(60)["other_words_p"] == pytest.approx(1 / 62)  # the word "age" is an other
    assert "other texts" not in capsys.readouterr().err
    of_others.features[2:12, 0] = 1  # ten that say as much
    of_others.features[2:12, 1:] = 0
    assert row_with(30)["other_words_p"] > 0.3
    assert "other texts" not in capsys.readouterr().err


@pytest.mark.parametrize("names", [("No", "yes"), ("no", "Yes"), ("FALSE", "true")])
def test_the_positive_value_is_known_in_any_case(names, tmp_path):
    path = tmp_path / "t.csv"
    lines = [f"{row}.png,{names[value]}\n" for row, value in enumerate(label())]
    lines[:2] = f"0.png,{names[1].title()}\n", f"1.png,{names[0].upper()}\n"
    path.write_text("id,smiling\n" + "".join(lines))
    (row,) = recalls.measure(images(), words(), table=str(path), metric="auroc").rows()
    assert (row["values"], row["positives"], row["rows"]) == (2, N // 4, N)
    assert row["zeroshot"] > 0.7


def test_the_mean_of_the_average_precisions_is_of_the_labels_that_have_one(table, capsys):
    recalls.measure(images(), table=table, columns=["smiling", "hat"], metric="ap")
    assert "(1 labels)" in capsys.readouterr().err


def test_all_orders_have_the_stated_average_precision():
    values = []
    for places in itertools.combinations(range(8), 3):
        values.append(average_precision_score(np.isin(range(8), places), -np.arange(8)))
    assert ap_by_chance(np.arange(8) < 3) == pytest.approx(np.mean(values))


@pytest.mark.parametrize("metric", ["auroc", "ap", "r2", "mae", "spearman", "kendalltau"])
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


@pytest.mark.parametrize("metric", ["r2", "mae", "spearman", "kendalltau"])
@pytest.mark.parametrize("rows", [10, 37, 100])
def test_perfect_predictions_of_numbers_have_no_interval(metric, rows):
    numbers = np.arange(rows) / 7
    assert np.isnan(METRICS[metric].interval(numbers, numbers)).all()


def measure_few_positives(folder, positives: int, seed: int, metric: str = "auroc"):
    """Return the run of a label whose positive rows have a score one deviation higher."""
    generator = np.random.default_rng(seed)
    values = (np.arange(N) < positives).astype(int)
    file = FeatureFile("images", [{"command": "embed", "model": MODEL}])
    for name in ("train", "test"):  # the cosine with the first axis rises with the score
        X = np.stack([generator.normal(size=N) + values, np.full(N, 8.0)], axis=1)
        file.splits[name] = Split(X.astype("f4"), ids=[f"{row}.png" for row in range(N)])
    its_words = FeatureFile("texts", file.history, texts=["rare"], class_names=["rare"])
    its_words.features, its_words.class_index = np.eye(2)[:1].astype("f4"), [0]
    path = folder / "rare.csv"
    path.write_text("id,rare\n" + "".join(f"{i}.png,{value}\n" for i, value in enumerate(values)))
    options = {"table": str(path), "columns": ["rare"], "random": 0}
    return recalls.measure(file, its_words, metric=metric, **options).rows()[0]


@pytest.mark.exhaustive
def test_the_interval_of_a_rare_label_holds_the_true_auroc_in_most_draws(tmp_path):
    truth = norm.cdf(1 / np.sqrt(2))
    found = [measure_few_positives(tmp_path, 8, seed) for seed in range(150)]
    covered = np.mean([row["zeroshot_low"] <= truth <= row["zeroshot_high"] for row in found])
    assert covered > 0.9  # one of 1.96 standard errors holds it in 81 %


@pytest.mark.parametrize("metric", ["auroc", "ap"])
def test_one_positive_image_has_no_interval(metric, tmp_path):
    row = measure_few_positives(tmp_path, 1, 0, metric)
    assert row["zeroshot"] > 0
    assert np.isnan([row[f"zeroshot_{end}"] for end in ("low", "high")]).all()


def test_a_number_has_the_r2_of_its_share_of_the_signal_and_permuted_ones_have_none(table):
    generator = np.random.default_rng(0)
    file = images()
    for split in file.splits.values():
        split.features = split.features.copy()
        split.features[:, 1] = number() + generator.normal(size=N)  # half of it is signal
    (row,) = recalls.measure(file, words(), table=table, columns=["age"], metric="r2").rows()
    assert row["probe"] == pytest.approx(0.5, abs=0.1)
    assert row["probe_low"] < row["probe"] < row["probe_high"]
    assert row["null95"] < 0.05
    assert row["names"] == pytest.approx(row["probe"], abs=0.1)
    assert np.isnan(row["zeroshot"])
    (row,) = recalls.measure(file, words(), table=table, columns=["age"], metric="spearman").rows()
    assert row["zeroshot"] == pytest.approx(row["probe"], abs=0.1)


@pytest.mark.long
def test_numbers_have_scikit_learns_mae_and_scipys_tau_with_their_nulls(table):
    file, control = images(), images()
    control.history = [{"command": "embed", "model": {**MODEL, "untrained": 7}}]
    for split in control.splits.values():
        split.features = split.features[:, [0, 3, 2, 3, 4, 5]]
    X, X_scored = (file.splits[name].features for name in ("train", "test"))
    predicted = ridge(X, number()[:, None], X_scored)[:, 0]
    options = {"table": table, "columns": ["age"], "controls": [control]}
    (row,) = recalls.measure(file, words(), metric="mae", **options).rows()
    assert row["probe"] == pytest.approx(mean_absolute_error(number(), predicted), abs=1e-12)
    assert np.isnan([row["chance"], row["zeroshot"], row["reach"]]).all()
    assert row["probe_low"] < row["probe"] < row["probe_high"] < row["null5"] < row["null"]
    assert 0 < row["gain_low"] < row["gain"] == row["control"] - row["probe"]
    (row,) = recalls.measure(file, words(), metric="kendalltau", **options).rows()
    assert row["probe"] == pytest.approx(kendalltau(number(), predicted).statistic, abs=1e-12)
    unit = X_scored[:, 1] / np.linalg.norm(X_scored, axis=1)
    assert row["zeroshot"] == pytest.approx(kendalltau(number(), unit).statistic, abs=1e-3)
    assert 0 < row["null95"] < row["probe_low"]


def test_a_column_of_lists_is_a_label_for_each_element(tmp_path):
    lines = []
    for row, value in enumerate(label()):
        lines.append({"id": f"{row}.png", "tags": ["face", "smile"] if value else ["face"]})
    lines[7]["tags"] = None
    path = tmp_path / "tags.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = recalls.measure(images(), table=str(path), metric="auroc").rows()
    assert [row["attribute"] for row in found] == ["tags: face", "tags: smile"]
    assert [row["rows"] for row in found] == [N - 1, N - 1]
    assert [row["positives"] for row in found] == [N - 1, N // 4]
    parquet = tmp_path / "tags.parquet"
    pq.write_table(pa.Table.from_pylist(lines), parquet)
    same = recalls.measure(images(), table=str(parquet), metric="auroc").rows()
    assert repr(same) == repr(found)
    path.write_text(path.read_text() + '{"id": "last.png", "tags": "face"}\n')
    with fails_with(f"line {N + 1}: expected a list in tags, got face"):
        recalls.measure(images(), table=str(path), metric="auroc")


def test_lists_that_unpack_to_much_more_than_the_file_are_refused(tmp_path):
    lists = [["x" * 10**5]] * 200
    table = pa.table({"id": [f"{row}.png" for row in range(len(lists))], "tags": lists})
    pq.write_table(table, tmp_path / "tags.parquet")
    with fails_with("texts: expected to unpack to at most"):
        recalls.measure(images(), table=str(tmp_path / "tags.parquet"), metric="auroc")


def test_other_columns_are_left_out_or_refused_if_they_are_named(table, tmp_path):
    path = saved(tmp_path / "img.h5", images())
    line = ["attributes", path, "--table", table]
    assert "left out the numbers of age" in ok(*line, "--metric", "auroc").stderr
    assert "in age" in fails(*line, "--metric", "ap", "--attribute", "age")
    assert "expected numbers in hat" in fails(*line, "--metric", "r2", "--attribute", "hat")
    file, wrong = Path(table), tmp_path / "wrong.csv"
    rows = [line.split(",") for line in file.read_text().splitlines()]
    height = ["height", "inf", *(row[3] for row in rows[2:])]
    wrong.write_text(
        "".join(f"{','.join([*row, h])}\n" for row, h in zip(rows, height, strict=True))
    )
    noted = ok("attributes", path, "--table", wrong, "--metric", "r2").stderr
    assert "left out height: expected numbers, got 'inf'" in noted
    assert "smiling" not in noted
    assert "expected --table for auroc" in fails(
        "attributes", path, "--metric", "auroc", exit_code=2
    )
    assert "unknown metric" in fails(*line, "--metric", "f1", exit_code=2)


def measure_labels(folder, seed: int = 0, metric: str = "auroc") -> FeatureFile:
    """Measure two labels; every tenth image has no value of the second, except for ap."""
    cells = label()[::-1].astype(str)
    cells[:: 10 if metric != "ap" else N] = ""
    cells[0] = "0"
    lines = map("{}.png,{},{}".format, range(N), label(), cells)
    path = folder / "labels.csv"
    path.write_text("id,smiling,last\n" + "\n".join(lines))
    return recalls.measure(images(seed=seed), words(), table=str(path), metric=metric, random=1)


@pytest.mark.parametrize("metric", ["auroc", "ap"])
def test_two_results_are_compared_in_pairs_of_equal_images(metric, tmp_path):
    results = [measure_labels(tmp_path, seed, metric) for seed in (0, 1)]
    both = [images(seed=seed).splits["test"].features.astype("f8") for seed in (0, 1)]
    scores = [X[:, 0] / np.linalg.norm(X, axis=1) for X in both]
    results[1].splits["test"] = results[1].splits["test"].take(np.arange(N)[::-1])
    zeroshot, smiling, _, probe, first, second = score_comparison.compare(results).rows()
    covariance = METRICS[metric].covariance(label(), scores)
    variance = covariance.trace() - 2 * covariance[0, 1]
    half = student.ppf(0.975, N // 4 - 1) * np.sqrt(variance)
    values = [METRICS[metric].value(label(), one) for one in scores]
    assert smiling["difference"] == pytest.approx(values[0] - values[1])
    assert smiling["high"] - smiling["low"] == pytest.approx(2 * half)
    assert (first["attribute"], second["attribute"]) == ("smiling", "last")
    for row, number in ((first, 0), (second, 1)):
        reported = [result.rows()[number]["probe"] for result in results]
        assert [row["value_a"], row["value_b"]] == pytest.approx(reported)
    assert second["rows"] == (N if metric == "ap" else N - N // 10 + 1)
    assert probe["difference"] == pytest.approx((first["difference"] + second["difference"]) / 2)
    assert (probe["attribute"], zeroshot["attribute"]) == ("2 of 2", "1 of 2")
    assert zeroshot["low"] == pytest.approx(smiling["low"])


@pytest.mark.long
def test_the_interval_of_the_mean_difference_covers_that_of_labels_that_depend_on_each_other():
    generator = np.random.default_rng(0)
    ids = [f"{row}.png" for row in range(150)]
    lifts = np.array([[0.4, 1.0, 1.6], [1.3, 0.9, 0.2]])
    truth = np.diff(norm.cdf(lifts[::-1] / np.sqrt(2)).mean(axis=1))
    covered = 0
    for _ in range(100):
        labels = (generator.normal(size=150) + generator.normal(size=(3, 150)) > 1.4).astype(int)
        shared = generator.normal(size=(3, 150)) + generator.normal(size=150)
        results = []
        for lift in lifts:
            noise = (shared + np.sqrt(2) * generator.normal(size=(3, 150))) / 2
            places = np.argsort(np.argsort(lift[:, None] * labels + noise)) + 1
            ranks = np.stack([labels + 1, places, places], axis=1).reshape(9, 150)
            history = [{"command": "attributes", "metric": "auroc"}]
            result = make_result(history, [{"attribute": name} for name in "abc"])
            result.splits["test"] = Split(ids=ids, predicted=ranks)
            results.append(result)
        mean = score_comparison.compare(results).rows()[0]
        covered += mean["low"] <= truth <= mean["high"]
    assert covered >= 90


@pytest.mark.long
def test_results_without_equal_ranks_are_not_compared(tmp_path):
    a = saved(tmp_path / "a.h5", measure_labels(tmp_path))
    unkept, ap = measure_labels(tmp_path), measure_labels(tmp_path, 0, "ap")
    unkept.splits = {}
    others = measure_labels(tmp_path)
    others.splits["test"].predicted[0, :4] = 1
    for file, message in (
        (
            unkept,
            "clipkit attributes stores ranks only for fewer than 1,048,576 images",
        ),
        (ap, "expected auroc, got ap"),
        (others, "a and b: smiling: expected equal values in both, got others"),
    ):
        assert message in fails("compare", a, saved(tmp_path / "b.h5", file))
    assert "or more, got one" in fails("compare", a, exit_code=2)
    assert "expected no --run" in fails("compare", a, a, "--run", 1, exit_code=2)
    ok("convert", a, tmp_path / "a.csv")  # without the ranks
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 3


def test_a_label_has_the_same_numbers_whatever_other_labels_there_are(tmp_path):
    together = measure_labels(tmp_path).rows()
    table = str(tmp_path / "labels.csv")
    for row in together:
        options = {"columns": [row["attribute"]], "metric": "auroc", "random": 1}
        (alone,) = recalls.measure(images(), words(), table=table, **options).rows()
        np.testing.assert_equal(alone, row)
