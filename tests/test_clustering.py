"""k-means is scikit-learn's, and measures of agreement ignore the numbers of clusters."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet
import pytest
from factories import feature_file, result_file, saved, write_feature_file
from hypothesis import given, settings
from hypothesis import strategies as st
from shell import ok, rows
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score
from sklearn.metrics.cluster import contingency_matrix
from threadpoolctl import threadpool_limits

from clipkit.analysis import cluster, results
from clipkit.analysis.cluster import clustering
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.features import Split, read, row_ids, validate


@pytest.mark.parametrize(("k", "seed"), [(10, 42), (10, 7), (40, 42)])
def test_kmeans_is_scikit_learns_with_ten_starts_on_one_thread(k, seed):
    X = load_digits().data[:600].astype(np.float32) + 50
    assignments = clustering.kmeans(X, k, seed=seed)
    with threadpool_limits(1):
        expected = KMeans(k, random_state=seed, n_init=10).fit(X).labels_
    assert assignments.dtype == np.int64
    assert np.array_equal(assignments, expected)


def test_one_cluster_holds_all_rows_and_as_many_clusters_as_rows_hold_one_each():
    X = np.random.default_rng(0).random((6, 3))
    assert clustering.kmeans(X, 1).tolist() == [0] * 6
    assert sorted(clustering.kmeans(X, 6)) == list(range(6))


@pytest.mark.parametrize(
    ("features", "k", "error", "message"),
    [
        (np.eye(3), 0, UsageError, "k: expected at least 1, got 0"),
        (np.eye(3), 4, ClipkitError, "expected at least as many rows as clusters, got 3 and 4"),
        (np.eye(2)[[0, 1] * 5], 3, ClipkitError, "as many distinct rows as clusters, got 2 and 3"),
    ],
)
def test_more_clusters_than_distinct_rows_are_refused(features, k, error, message):
    with pytest.raises(error, match=message):
        clustering.kmeans(features, k)


@settings(max_examples=5)
@given(
    st.lists(st.tuples(st.integers(-2, 3), st.integers(0, 4)), min_size=1, max_size=40),
    st.permutations(range(5)),
)
@pytest.mark.long
def test_agreement_ignores_how_clusters_are_numbered(pairs, numbers):
    labels, assignments = np.array(pairs).T
    counts = contingency_matrix(labels, assignments)
    agreement = clustering.agreement(labels, assignments)
    assert agreement["purity"] == pytest.approx(counts.max(axis=0).sum() / len(labels))
    renumbered = np.array(numbers)[assignments]
    assert clustering.agreement(labels, renumbered) == pytest.approx(agreement)
    perfect = clustering.agreement(labels, labels)
    assert [perfect[name] for name in ("purity", "nmi", "ari", "ami")] == pytest.approx([1] * 4)


@pytest.mark.long
def test_a_result_has_a_run_per_split_and_k(capsys):
    file = feature_file("images")
    assert [(row["split"], row["k"]) for row in clustering.cluster(file).rows()] == [("test", 2)]
    result = clustering.cluster(file, ["train", "test"], [2, 5])
    points = [(row["split"], row["k"]) for row in result.rows()]
    assert points == [("train", 2), ("train", 5), ("test", 2), ("test", 5)]
    assert result.splits["train"].predicted.shape == (2, 6)
    assert capsys.readouterr().err == ""
    clustering.cluster(file, k=[6])
    assert "test: each of the 6 rows is a separate cluster" in capsys.readouterr().err


def test_commas_separate_several_numbers_of_clusters(tmp_path):
    write_feature_file(tmp_path / "img.h5")
    out = ok("cluster", tmp_path / "img.h5", "-k", "4,2", "--columns", "k", "--no-header").stdout
    assert out.split() == ["2", "4"]


@pytest.mark.parametrize("k", [2, 4])
def test_labels_keep_their_names_and_clusters_are_numbers(k, tmp_path):
    write_feature_file(tmp_path / "img.h5")
    ok("cluster", tmp_path / "img.h5", "-k", k, "-o", tmp_path / "c.h5")
    result = read(tmp_path / "c.h5")
    clusters = result.splits["test"].predicted[0].tolist()
    assert result.class_names == results.cluster_counts(result).class_names == ["cat", "dog"]
    ok("convert", tmp_path / "c.h5", tmp_path / "c.csv")
    rows = [line.split(",") for line in (tmp_path / "c.csv").read_text().splitlines()[1:]]
    assert [row[2] for row in rows] == [["cat", "dog"][c] for c in result.splits["test"].labels]
    assert [int(row[3]) for row in rows] == clusters
    ok("convert", tmp_path / "c.h5", tmp_path / "c.parquet")
    columns = pyarrow.parquet.read_table(tmp_path / "c.parquet").to_pydict()
    assert columns["predicted"] == clusters


def test_only_clusters_may_be_numbered_beyond_the_classes():
    predicted = [[0, 1, 2]]
    clusters = result_file([], [0, 1, 1], predicted, [{"command": "cluster"}], ["cat", "dog"])
    validate(clusters)
    clusters.history = [{"command": "probe"}]
    with pytest.raises(ClipkitError, match=r"test/predicted: expected values in 0\.\.1 "):
        validate(clusters)


@pytest.mark.long
def test_agreement_by_chance_is_that_of_permuted_labels():
    labels = np.arange(300) % 5
    random = np.random.RandomState(0)
    clusters = random.randint(20, size=300)
    agreement = clustering.agreement(labels, clusters)
    permuted = [clustering.agreement(random.permutation(labels), clusters) for _ in range(20)]
    for name in ("purity", "nmi"):
        values = [row[name] for row in permuted]
        assert agreement[f"{name}_chance"] == pytest.approx(np.mean(values), abs=np.std(values))
    assert agreement["ami"] == pytest.approx(adjusted_mutual_info_score(labels, clusters))
    fixed = np.random.RandomState(0)
    amis = [adjusted_mutual_info_score(fixed.permutation(labels), clusters) for _ in range(20)]
    assert agreement["ami_sd"] == pytest.approx(np.std(amis, ddof=1))
    assert clustering.agreement(labels, clusters) == agreement  # the same permutations every time


def test_without_labels_k_is_required_and_agreement_is_nan():
    file = feature_file("images", datasets={"class_names": None})
    file.splits["test"] = replace(file.splits["test"], labels=None)
    with pytest.raises(ClipkitError, match="test: expected labels to count classes, got none"):
        clustering.cluster(file)
    (row,) = clustering.cluster(file, k=[2]).rows()
    assert all(np.isnan(value) for name, value in row.items() if name not in ("split", "k"))
    assert clustering.cluster(file, ["train"]).rows()[0]["k"] == 2


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_size_of_features_does_not_change_the_clusters(size):
    features = np.random.RandomState(0).standard_normal((40, 3)).astype(np.float32)
    expected = clustering.kmeans(features, 4)
    assert adjusted_rand_score(clustering.kmeans(features * np.float32(size), 4), expected) == 1


def test_a_random_partition_lies_within_a_few_deviations_of_permuted_labels():
    labels, assignments = np.random.default_rng(0).integers(0, 8, (2, 400))
    agreement = clustering.agreement(labels, assignments)
    for name in ("ami", "ari"):
        assert 0 < abs(agreement[name]) < 4 * agreement[f"{name}_sd"]


@pytest.mark.parametrize(("limit", "starts"), [("LARGE", "one start"), ("MIDDLE", "3 starts")])
def test_many_rows_start_from_a_sample_and_are_nearly_as_good(monkeypatch, capsys, limit, starts):
    X = load_digits().data.astype(np.float32) / 3
    file = feature_file()
    file.splits = {"test": Split(X, None, row_ids(len(X)))}
    expected = clustering.cluster(file, k=[10])
    monkeypatch.setattr(clustering, limit, 1000)
    digest = file.digest
    found = clustering.cluster(file, k=[10])
    assert file.digest == digest == found.history[-1]["inputs"]["features"]
    assert f"{starts} from the centres of a sample" in capsys.readouterr().err
    assert [result.history[-1].get("init") for result in (expected, found)] == [None, "sample"]
    inertia = []
    for result in (expected, found):
        clusters = result.splits["test"].predicted[0]
        means = np.stack([X[clusters == number].mean(axis=0) for number in range(10)])
        inertia.append(((X - means[clusters]) ** 2).sum())
    assert inertia[1] == pytest.approx(inertia[0], rel=0.02)


@pytest.mark.parametrize(
    ("spread", "verdict", "because"),
    [
        (5, "above chance", ""),
        (0, "not decided against chance", "of permutations reach it"),
    ],
)
def test_the_verdict_holds_the_ari_against_permuted_labels(spread, verdict, because, tmp_path):
    random = np.random.default_rng(1)
    labels = np.arange(48) % 3
    X = spread * np.eye(3)[labels] + random.standard_normal((48, 3))
    file = feature_file()
    file.class_names = list("abc")
    file.splits = {"test": Split(X.astype(np.float32), labels, row_ids(48))}
    path = saved(tmp_path / "x.h5", file)
    (row,) = rows(ok("cluster", path, "--columns", "ari,verdict,because,needs").stdout)
    assert row["verdict"] == verdict
    assert because in row["because"]
    table = ok("cluster", path, "--format", "table").stderr
    assert f"ARI of classes and 3 clusters of test: {float(row['ari']):.2f} on 48 rows, " in table


def test_drawn_tables_give_the_ari_of_permuted_labels():
    labels, assignments = np.random.default_rng(0).integers(0, 4, (2, 60))
    labels[:20] = assignments[:20]
    ari, drawn = clustering.ari_by_chance(labels, assignments)
    assert ari == pytest.approx(adjusted_rand_score(labels, assignments))
    agreement = clustering.agreement(labels, assignments)
    assert drawn.mean() == pytest.approx(0, abs=0.005)
    assert drawn.std() == pytest.approx(agreement["ari_sd"], rel=0.5)


def test_images_without_labels_have_no_verdict():
    file = feature_file()
    file.splits = {"test": Split(np.eye(12, dtype=np.float32), None, row_ids(12))}
    assert cluster.ANALYSIS.claims(clustering.cluster(file, k=[3])) == []
