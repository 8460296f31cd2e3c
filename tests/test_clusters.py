"""Rows that depend on each other: `--cluster`, its intervals and tests, and what can be shown."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories import result_file, row_ids
from scipy.stats import binomtest, multinomial, norm
from shell import fails, ok, rows
from test_retrieve import make_files, make_pairs

from clipkit import features
from clipkit.analysis import relabeling, row_clusters
from clipkit.analysis.compare import comparison, score_comparison
from clipkit.analysis.results import make_result
from clipkit.analysis.retrieve import retrieval
from clipkit.features import FeatureFile
from clipkit.features.history import History
from clipkit.features.model import Split
from clipkit.statistics import dependence, metrics
from clipkit.statistics.score_metrics import RANKED

RIGHT = np.random.default_rng(0).random((2, 100)) < [[0.8], [0.6]]


def result(right, command="zeroshot"):
    """Return a result that predicts the right one of two classes where `right` says so."""
    labels = np.arange(len(right)) % 2
    run = {"split": "test", "acc1": float(np.mean(right))}
    predicted = np.where(right, labels, 1 - labels)[None]
    return result_file([run], labels, predicted, [{"command": command}], ["cat", "dog"])


def logits(right):
    """Return logits whose most similar prompt is the right one of two where `right` says so."""
    labels = np.arange(len(right)) % 2
    cosines = np.full((len(right), 2), 0.1, "<f4")
    cosines[np.arange(len(right)), np.where(right, labels, 1 - labels)] = 0.2
    rows = Split(features=cosines, labels=labels, ids=row_ids(len(right)))
    return FeatureFile(
        "logits",
        History([{"command": "logits"}]),
        {"test": rows},
        texts=["a cat", "a dog"],
        class_index=np.arange(2),
        class_names=["cat", "dog"],
        temperature=1.0,
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with results and logits of 100 rows, and of each row three times, and tables."""
    monkeypatch.chdir(tmp_path)
    for name, right in (("a", RIGHT[0]), ("b", RIGHT[1])):
        features.write(f"{name}.h5", result(right))
        features.write(f"{name}3.h5", result(np.concatenate([right] * 3)))
    features.write("logits.h5", logits(RIGHT[0]))
    features.write("logits3.h5", logits(np.concatenate([RIGHT[0]] * 3)))
    write_table("alone.csv", range(100))
    write_table("two.csv", [row % 100 for row in range(200)])
    write_table("three.csv", [row % 100 for row in range(300)])
    return tmp_path


def write_table(path, patients):
    ids = row_ids(len(patients))
    lines = [f"{row_id},p{value},x" for row_id, value in zip(ids, patients, strict=True)]
    Path(path).write_text("\n".join(["id,patient,other", *lines]) + "\n")


def report(*words):
    (row,) = rows(ok(*words).stdout)
    return {name: value for name, value in row.items() if name not in ("a", "b")}


STATISTICS = "low high mde80 p log10_p acc1_low acc1_high"


@pytest.mark.parametrize("words", [("compare", "a", "b"), ("compare", "a"), ("zeroshot", "logits")])
def test_copies_of_rows_count_once(words, folder):
    command, *names = words
    before = report(command, *[f"{name}.h5" for name in names])
    copies = report(
        command, *[f"{name}3.h5" for name in names], "--table", "three.csv", "--cluster", "patient"
    )
    assert copies["clusters"] == "100"
    for name in before.keys() & set(STATISTICS.split()):
        assert float(copies[name]) == pytest.approx(float(before[name]), rel=1e-6), name


def test_clusters_of_images_are_drawn_with_their_texts(tmp_path):
    images, texts = make_files(make_pairs(60, 2, noise=2.0))
    table = tmp_path / "t.csv"
    table.write_text("id,photographer\n" + "".join(f"{i}.jpg,{i // 5}\n" for i in range(60)))
    before = retrieval.retrieve(images, texts).rows()
    after = retrieval.retrieve(images, texts, table=str(table), cluster="photographer")
    for row, other in zip(before, after.rows(), strict=True):
        assert other.pop("clusters") == 12
        assert row["recall"] == other["recall"]
        assert (row["mrr_low"], row["mrr_high"]) != (other["mrr_low"], other["mrr_high"])
    assert after.history[-1]["cluster"] == "photographer"
    labels = np.arange(60) // 5
    split = replace(images.splits["test"], labels=labels)
    of_class = retrieval.retrieve(replace(images, splits={"test": split}), texts, cluster="class")
    assert of_class.rows() == after.rows()


def test_images_of_a_class_that_have_texts_are_a_cluster():
    images, texts = make_files(make_pairs(60, 2, noise=2.0))
    images.splits["test"].labels = np.arange(60) // 5
    texts.class_index = np.where(texts.class_index < 5, -1, texts.class_index)
    assert set(retrieval.retrieve(images, texts, cluster="class").runs["clusters"]) == {11}


def test_p_is_the_share_of_all_signs_of_the_clusters():
    random = np.random.RandomState(0)
    for _ in range(50):
        differences = random.randint(-4, 5, random.randint(2, 12))
        signs = np.array(list(itertools.product([1, -1], repeat=len(differences))))
        sums = np.abs(signs @ np.abs(differences))
        expected = (sums >= abs(differences.sum())).mean()
        found = 10 ** dependence.paired_test_log10(differences)
        assert found == pytest.approx(expected, rel=1e-9)
    assert dependence.paired_test_log10([1] * 31 + [-1] * 30) == 0


def test_a_p_value_of_clusters_too_small_for_a_float_has_its_logarithm():
    """With 1,600 clusters of one size and some of another, by exact whole numbers."""
    differences = np.repeat([1, 2, -3], [900, 700, 5])
    ways = np.zeros(1, object) + 1
    for size in np.abs(differences).tolist():
        ways = np.concatenate([ways, [0] * size]) + np.concatenate([[0] * size, ways])
    fewest = 15  # of 2,315 rows, those of the negative clusters
    exact = 2 * sum(ways[: fewest + 1].tolist())
    digits = str(exact)
    expected = np.log10(float(f"0.{digits}")) + len(digits) - 1605 * np.log10(2)
    assert dependence.paired_test_log10(differences) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("discordant", "n", "expected"),
    [(0.318, 1000, 0.0508), (0.1, 10_000, 0.0089), (0, 100, None), (0.05, 50, None)],
)
def test_the_difference_that_a_set_would_show(discordant, n, expected):
    found = dependence.detectable_difference(discordant, n)
    if expected is None:
        assert np.isnan(found)
    else:
        assert round(found, 4) == expected
        by_formula = 0.0
        for _ in range(20):
            variance = discordant - by_formula**2
            by_formula = (1.96 * discordant**0.5 + 0.842 * variance**0.5) / n**0.5
        assert found == pytest.approx(by_formula, rel=0.03)


def test_a_difference_that_is_shown_with_80_percent_power_is_that_of_all_tables():
    n, discordant = 40, 0.5
    difference = dependence.detectable_difference(discordant, n)
    shares = [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant]
    power = 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            if b + c and binomtest(b, b + c).pvalue < 0.05:
                power += multinomial.pmf([b, c, n - b - c], n, shares)
    assert power == pytest.approx(0.8, abs=1e-9)


# ---- Clusters that results name ------------------------------------------------------------------


def make_choices(random, images, items, correlation):
    """Return two results of `choose` of equally good models: some items of each image."""
    n = images * items
    files = []
    for _ in range(2):
        of_image = np.repeat(random.standard_normal(images), items)
        latent = np.sqrt(correlation) * of_image
        latent += np.sqrt(1 - correlation) * random.standard_normal(n)
        file = result(latent < 0.5, "choose")
        file.splits["test"].cluster = np.repeat(np.arange(images), items)
        files.append(file)
    return files


def share_below_5_percent(worlds, images, items, correlation):
    random = np.random.RandomState(0)
    small = []
    for _ in range(worlds):
        files = make_choices(random, images, items, correlation)
        (row,) = comparison.compare(comparison.pair(files)).rows()
        assert row["clusters"] == images
        small.append(row["p"] < 0.05)
    return np.mean(small)


@pytest.mark.long
def test_equally_good_models_rarely_differ_in_items_of_shared_images():
    assert share_below_5_percent(20, 40, 6, 0.5) <= 0.15  # counted one by one: 0.2


@pytest.mark.exhaustive
@pytest.mark.parametrize(("images", "items", "correlation"), [(100, 6, 0.4), (60, 10, 0.5)])
def test_equally_good_models_differ_in_5_percent_of_worlds(images, items, correlation):
    assert 0.02 <= share_below_5_percent(400, images, items, correlation) <= 0.07


def test_a_coarser_cluster_joins_those_that_both_results_name(folder):
    random = np.random.RandomState(0)
    first, second = make_choices(random, 50, 2, 0.4)
    write_table("t.csv", [0, 1, 1, *range(3, 100)])
    second.splits["test"].cluster[-3:] = 49  # joins the last two images
    paired = comparison.pair([first, second], table="t.csv", cluster="patient")
    assert len(np.unique(paired.clusters)) == 48
    assert len(np.unique(comparison.pair([first, second]).clusters)) == 49
    for file in (first, second):
        file.splits["test"].cluster = None
    assert comparison.pair([first, second]).clusters is None


def test_few_clusters_never_differ_and_a_note_says_so(folder):
    write_table("t.csv", [row % 5 for row in range(100)])
    done = ok("compare", "a.h5", "b.h5", "--table", "t.csv", "--cluster", "patient")
    assert "5 clusters decide no difference, since p is at least 2 / 2^5" in done.stderr
    (row,) = rows(done.stdout)
    assert float(row["p"]) >= 1 / 16
    assert float(row["low"]) <= 0 <= float(row["high"])
    assert row["mde80"] == ""
    row_clusters.note_few(np.zeros(4, int), "a")


def draw_world(random, clusters=60, spread=1.0):
    """Return which rows two equally accurate results get right, and the cluster of each row."""
    sizes = random.poisson(8, clusters) + 1
    cluster_of = np.repeat(np.arange(clusters), sizes)
    of_cluster = random.standard_normal((2, clusters)) * spread
    latent = of_cluster[:, cluster_of] + random.standard_normal((2, len(cluster_of)))
    return latent > -0.5 * np.sqrt(1 + spread**2), cluster_of


def simulate(worlds):
    """Return how often p is below 5 % and intervals hold, by cluster and by row."""
    random = np.random.RandomState(0)
    true = 0.6914624612740131  # Phi(0.5)
    counts = np.zeros((2, 3))
    for _ in range(worlds):
        right, clusters = draw_world(random)
        for number, of_rows in enumerate((clusters, None)):
            row = comparison.compare_right(*right, of_rows)
            n = metrics.effective_rows(right[0], of_rows)
            low, high = metrics.wilson(right[0].mean(), n)
            counts[number] += row["p"] < 0.05, row["low"] <= 0 <= row["high"], low <= true <= high
    return counts / worlds


def sizes_of(kind, clusters, random):
    if kind == "1 to 20":
        return random.randint(1, 21, clusters)
    if kind == "one large":
        return np.concatenate([[3 * clusters], np.full(clusters - 1, 3)])
    return np.full(clusters, 3)


def draw_sizes(random, kind, clusters, difference=0.0):
    """Return what two results get right, one of them more, and the cluster of each row."""
    index = np.repeat(np.arange(clusters), sizes_of(kind, clusters, random))
    latent = random.standard_normal((2, clusters))[:, index]
    latent = 0.6 * latent + 0.8 * random.standard_normal((2, len(index)))
    accuracy = 0.7 + np.array([[difference / 2], [-difference / 2]])
    return latent < norm.ppf(accuracy), index


KINDS = ["equal", "1 to 20", "one large"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clusters", [3, 6, 14, 15, 40])
def test_the_interval_leaves_0_out_exactly_if_p_is_at_most_5_percent(kind, clusters):
    random = np.random.RandomState(0)
    for number in range(8):
        right, index = draw_sizes(random, kind, clusters, difference=number / 16)
        row = comparison.compare_right(*right, index)
        assert (row["low"] <= 0 <= row["high"]) == (row["p"] > 0.05)
        assert row["low"] <= row["difference"] <= row["high"]
        assert np.isnan(row["mde80"]) or clusters >= 6


def test_the_interval_holds_the_means_that_no_choice_of_signs_rejects():
    """By trying all signs for many means."""
    random = np.random.RandomState(0)
    for _ in range(20):
        clusters = random.randint(7, 11)
        sizes = random.randint(1, 8, clusters)
        sums = np.array([random.randint(-size, size + 1) for size in sizes])
        signs = np.array(list(itertools.product([1, -1], repeat=clusters)))
        is_different = dependence.paired_test_log10(sums) <= np.log10(0.05)
        low, high = dependence.flip_interval(sums, sizes, is_different=is_different)
        for mean in np.linspace(-1, 1, 201) + 1e-4:
            residuals = sums - mean * sizes
            p = (np.abs(signs @ residuals) >= abs(residuals.sum()) - 1e-9).mean()
            assert (low <= mean <= high) == (p > 0.05)


def simulate_sizes(worlds, kind, clusters):
    """Return how often equally good results differ, intervals hold the difference, and power."""
    random = np.random.RandomState(0)
    size, mde80 = [], []
    for _ in range(worlds):
        right, index = draw_sizes(random, kind, clusters)
        row = comparison.compare_right(*right, index)
        size.append(row["p"] <= 0.05)
        mde80.append(row["mde80"])
    return np.mean(size), *simulate_difference(2 * worlds, kind, clusters, float(np.mean(mde80)))


def simulate_difference(worlds, kind, clusters, difference):
    """Return how often intervals hold a difference, and how often p is at most 5 %."""
    random = np.random.RandomState(1)
    held, found = [], []
    for _ in range(worlds):
        right, index = draw_sizes(random, kind, clusters, difference)
        sizes, gained = np.bincount(index), right[0].astype(int) - right[1]
        sums = np.bincount(index, gained).astype(int)
        is_different = dependence.paired_test_log10(sums) <= np.log10(0.05)
        low, high = dependence.flip_interval(sums, sizes, is_different=is_different)
        held.append(low <= difference <= high)
        found.append(is_different)
    return np.mean(held), np.mean(found)


@pytest.mark.long
def test_clusters_of_other_sizes_have_the_power_that_is_promised():
    size, held, power = simulate_sizes(40, "1 to 20", 20)
    assert size <= 0.15
    assert held >= 0.85
    assert 0.6 <= power <= 0.97


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("clusters", [15, 60])
def test_rates_of_clusters_are_as_they_say(kind, clusters):
    size, held, power = simulate_sizes(400, kind, clusters)
    assert 0.01 <= size <= 0.07
    assert 0.92 <= held <= 0.98
    assert 0.74 <= power <= 0.86


def test_few_or_unequal_clusters_are_noted(capsys):
    row_clusters.note_few(np.repeat(np.arange(100), 3), "a")
    assert not capsys.readouterr().err
    row_clusters.note_few(np.concatenate([np.zeros(100, int), np.arange(1, 101)]), "a")
    unequal = "101 clusters of unequal size are as few as 4 of one size: intervals say little"
    assert unequal in capsys.readouterr().err


@pytest.mark.long
def test_a_set_of_clusters_has_no_more_false_positives_than_it_says():
    by_cluster, by_row = simulate(100)
    assert by_cluster[0] <= 0.1
    assert np.all((by_cluster[1:] >= 0.9) & (by_cluster[1:] < 1))
    assert by_row[0] > 0.1
    assert by_row[2] < 0.85


def test_captions_of_an_image_are_compared_together(folder):
    for name, noise in (("good", 0.5), ("bad", 0.8)):
        files = make_files(make_pairs(100, 3, noise))
        features.write(f"{name}.h5", retrieval.retrieve(*files, k=[1, 5]))
    row = report("compare", "good.h5", "bad.h5", "--split", "image_retrieval")
    assert (row["rows"], row["clusters"]) == ("300", "100")
    lines = [f"{i}.jpg,{i % 50},{i}\n" for i in range(100)]
    Path("t.csv").write_text("id,half,alone\n" + "".join(lines))
    words = ("good.h5", "bad.h5", "--split", "image_retrieval", "--table", "t.csv", "--cluster")
    assert report("compare", *words, "alone") == row
    assert report("compare", *words, "half")["clusters"] == "50"
    row = report("compare", "good.h5", "bad.h5", "--split", "text_retrieval")
    assert "clusters" not in row


def test_a_probe_says_if_it_was_fitted_on_clusters_that_it_scores(folder):
    random = np.random.RandomState(0)
    images = random.standard_normal((100, 4)).astype("<f4")
    split = Split(features=images, labels=np.arange(100) % 2, ids=row_ids(100))
    features.write("img.h5", FeatureFile("images", History([{"command": "embed"}]), {"all": split}))
    write_table("t.csv", [row // 2 for row in range(100)])
    shared = ok("probe", "img.h5", "--table", "t.csv", "--cluster", "patient", "-o", "p.h5").stderr
    assert "img.h5: val: patient:" in shared
    assert "clusters were also fitted, so that others may be predicted worse" in shared
    assert features.read("p.h5").history[-1]["cluster"] == "patient"
    apart = ok("probe", "img.h5", "--table", "alone.csv", "--cluster", "patient").stderr
    assert "also fitted" not in apart


def test_a_result_names_what_its_intervals_count_together(folder):
    write_table("t.csv", [row // 2 for row in range(100)])
    ok("zeroshot", "logits.h5", "--table", "t.csv", "--cluster", "patient", "-o", "z.h5")
    note = "Images with the same patient are counted together."
    assert note in ok("info", "--runs", "z.h5").stderr
    run = features.read("z.h5").rows()[0]
    page = " ".join(ok("report", "z.h5").stdout.split())
    assert note in page
    assert f"({100 * run['acc1_low']:.2f}–{100 * run['acc1_high']:.2f})" in page
    assert "signs of whole clusters" not in page  # there is nothing to pair
    kept = report("compare", "z.h5")
    assert kept["clusters"] == "50"
    assert kept == report("compare", "z.h5", "--table", "t.csv", "--cluster", "patient")
    grouped = relabeling.use_groups(features.read("z.h5"), ["pet", "animal"])
    split = grouped.splits["test"]
    right = split.labels == split.predicted[0]
    low, _ = metrics.wilson(right.mean(), metrics.effective_rows(right, split.cluster))
    assert grouped.runs["acc1_low"] == [pytest.approx(low)]


def test_a_report_counts_copies_of_images_once(folder):
    def lines(name, copies, *options):
        for side, right in zip("ab", RIGHT, strict=True):
            features.write(
                f"{side}.logits.h5", logits(np.concatenate([right] * copies)), force=True
            )
            ok("zeroshot", f"{side}.logits.h5", *options, "-f", "-o", f"{side}-{name}.h5")
        page = ok("report", f"a-{name}.h5", f"b-{name}.h5").stdout
        return [line for line in page.splitlines() if f"-{name}" in line]

    once = lines("one", 1)
    copies = lines("two", 2, "--table", "two.csv", "--cluster", "patient")
    numbers = re.compile(r"-?[\d.]+ \([^)]*\)")  # with their intervals
    assert [numbers.findall(line) for line in copies if numbers.search(line)] == [
        numbers.findall(line) for line in once if numbers.search(line)
    ]
    (p,) = [line.split("|")[-2] for line in once if "to" in line and line.startswith("|")]
    assert [line.split("|")[-2] for line in copies if "to" in line and line.startswith("|")] == [p]


def test_rows_without_a_value_are_alone_and_few_clusters_are_noted(folder):
    patients = [row % 5 for row in range(100)]
    write_table("few.csv", patients)
    words = ("zeroshot", "logits.h5", "--cluster", "patient", "--table")
    stderr = ok(*words, "few.csv").stderr
    assert stderr == (
        "clipkit: logits.h5: test: patient: 5 clusters are few: intervals may be too narrow\n"
    )
    Path("few.csv").write_text(Path("few.csv").read_text().replace(",p0,", ",,"))
    done = ok(*words, "few.csv")
    assert "patient: 20 of 100 rows have no group: each is a separate group" in done.stderr
    assert rows(done.stdout)[0]["clusters"] == "24"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("compare a.h5 b.h5 --table alone.csv --cluster patients", 2, "did you mean patient?"),
        ("zeroshot logits.h5 --cluster patient", 2, "expected --table for --cluster patient"),
        ("zeroshot logits3.h5 --table alone.csv --cluster patient", 1, "have no line in alone.csv"),
        ("compare a3.h5 b3.h5 --table alone.csv --cluster patient", 1, "have no line in alone.csv"),
        ("probe logits3.h5 --table alone.csv --cluster patient", 1, "have no line in alone.csv"),
        ("compare a.h5 b.h5 --table alone.csv --cluster other", 1, "at least 2 groups, got 1"),
        (
            "compare a.h5 b.h5 --table alone.csv --cluster patient --list neither",
            2,
            "expected --list without",
        ),
        ("retrieve img.h5 txt.h5 --table alone.csv", 2, "expected --cluster for --table, got none"),
    ],
)
def test_clusters_that_are_not_known_are_refused_in_one_line(words, code, message, folder):
    for name, file in zip(("img", "txt"), make_files(make_pairs(10, 1, 0.5)), strict=True):
        features.write(f"{name}.h5", file)
    assert message in fails(*words.split(), exit_code=code)


# ---- Ranks of attributes -------------------------------------------------------------------------


def ranked(metric, truth, scores, clusters=None):
    """Return a result of `attributes` that ranks rows by scores (N,) of a probe."""
    of_rows = [np.unique(values, return_inverse=True)[1] + 1 for values in (truth, scores)]
    predicted = np.stack([of_rows[0], np.zeros(len(truth), np.int64), of_rows[1]])
    result = make_result([{"command": "attributes", "metric": metric}], [{"attribute": "size"}])
    ids = row_ids(len(truth))
    result.splits["test"] = Split(ids=ids, predicted=predicted, cluster=clusters)
    return result


def two_rankings(metric, rows, random):
    """Return the truth (N,) of rows and two scores of it, which are equally good."""
    truth = random.standard_normal(rows)
    if metric in ("auroc", "ap"):
        truth = (truth > 0.5).astype(float)
    return truth, truth + 1.5 * random.standard_normal((2, rows))


@pytest.mark.parametrize("metric", RANKED)
def test_ranks_of_each_row_several_times_with_its_cluster_are_those_of_each_once(metric):
    truth, scores = two_rankings(metric, 90, np.random.RandomState(3))
    copies, numbers = np.tile(np.arange(90), 4), np.tile(np.arange(90)[::-1] + 7, 4)
    once = [ranked(metric, truth, of_model) for of_model in scores]
    rows = [ranked(metric, truth[copies], of_model[copies], numbers) for of_model in scores]
    for before, after in zip(compared(once), compared(rows), strict=True):
        assert after["rows"] == 4 * before["rows"]
        for name in ("value_a", "value_b", "difference"):
            assert after[name] == pytest.approx(before[name])
        width = before["high"] - before["low"]
        assert width > 0
        # draws of clusters in another order are other draws
        assert after["high"] - after["low"] == pytest.approx(width, rel=0.2)
        assert after["high"] + after["low"] == pytest.approx(before["high"] + before["low"])


def compared(results):
    return score_comparison.compare(results).rows()


@pytest.mark.long
@pytest.mark.parametrize("metric", RANKED)
def test_two_equal_rankings_of_copies_rarely_differ(metric):
    different = 0
    for world in range(100):
        truth, scores = two_rankings(metric, 40, np.random.RandomState(world))
        copies = np.repeat(np.arange(40), 5)
        results = [ranked(metric, truth[copies], one[copies], copies) for one in scores]
        row = compared(results)[0]
        different += not row["low"] <= 0 <= row["high"]
    assert different <= 12  # a rate of 5 % exceeds it in 0.2 % of cases
