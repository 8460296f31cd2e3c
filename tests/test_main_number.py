"""The main number of unequal classes: their mean recall, in tables, claims and comparisons.

`python tests/test_main_number.py WORLDS` prints the rates of docs/tests.md.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from scipy.special import ndtr
from shell import ok
from test_siblings import file_of

import clipkit
from clipkit import features
from clipkit.analysis.results import chance, majority
from clipkit.statistics import claims, main_number, metrics
from clipkit.statistics.claims import ABOVE, BELOW

WEIGHTS = {  # of the classes
    "90/10": np.array([0.9, 0.1]),
    "70/30": np.array([0.7, 0.3]),
    "ten, by Zipf": 1 / np.arange(1, 11) / np.sum(1 / np.arange(1, 11)),
}
KINDS = {  # clusters, rows of each, and how alike these are
    "60": (60, 1, 0.0),
    "600": (600, 1, 0.0),
    "150 x 2": (150, 2, 1.0),
    "30 x 10": (30, 10, 1.0),
    "40 x 10 frames": (40, 10, 0.9),
}
WORLDS = 100


class World:
    """Labels (N,) of clusters, and numbers (N,) that are as alike as the rows of a cluster."""

    def __init__(self, seed, weights, shape):
        self.random = np.random.default_rng(seed)
        self.weights, self.shape = weights, shape
        count, size, _ = shape
        index = np.repeat(np.arange(count), size)
        self.labels = self.random.choice(len(self.weights), count, p=self.weights)[index]
        self.clusters = index if size > 1 else None
        self.classes = np.unique(self.labels)

    def luck(self):
        """Draw uniform numbers (N,)."""
        count, size, alike = self.shape
        shared = np.repeat(self.random.standard_normal(count), size)
        own = self.random.standard_normal(count * size)
        return ndtr(np.sqrt(alike) * shared + np.sqrt(1 - alike) * own)

    def guess(self, shares):
        """Draw predictions (N,) that do not depend on the labels."""
        return np.searchsorted(np.cumsum(shares), self.luck()).clip(0, len(shares) - 1)


def claim_of(labels, right, clusters=None):
    return claims.accuracy_claims("", right, 0.9, None, "", clusters=clusters, labels=labels)[0]


def is_said(world, shares):
    """Return whether a mean recall is above chance for predictions that know nothing."""
    right = world.guess(shares) == world.labels
    recall = main_number.mean_recall(world.labels, right, world.clusters)
    return recall.low > recall.chance


def holds_recall(world):
    """Return whether the interval of a mean recall holds it."""
    recalls = np.linspace(0.8, 0.5, len(world.weights))
    right = world.luck() < recalls[world.labels]
    recall = main_number.mean_recall(world.labels, right, world.clusters)
    return recall.low <= recalls[world.classes].mean() <= recall.high


def pair(world, a, b):
    """Return the test of two results of which half of the clusters share their luck."""
    luck, others = world.luck(), world.luck()
    count, size, _ = world.shape
    is_shared = np.repeat(world.random.random(count) < 0.5, size)
    right = luck < a[world.labels], np.where(is_shared, luck, others) < b[world.labels]
    return main_number.paired_recall_test(world.labels, *right, world.clusters)


def differ(world):
    same = np.full(len(world.weights), 0.6)
    return pair(world, same, same).log10_p <= np.log10(0.05)


def holds_difference(world):
    a, b = np.linspace(0.8, 0.4, len(world.weights)), np.full(len(world.weights), 0.5)
    test = pair(world, a, b)
    return test.low <= (a - b)[world.classes].mean() <= test.high


RATES = {
    "above chance, all classes named alike": lambda world: is_said(
        world, np.full(len(world.weights), 1 / len(world.weights))
    ),
    "above chance, named as they occur": lambda world: is_said(world, world.weights),
    "two results differ": differ,
}
COVERAGES = {
    "the interval of a mean recall": holds_recall,
    "the interval of a difference": holds_difference,
}
NOMINAL = {"two results differ": 0.05}


def rate(measure, weights, shape, worlds):
    """Return the mean of a measure over the worlds in which several classes occur."""
    drawn = [World(seed, weights, shape) for seed in range(worlds)]
    return float(np.mean([measure(world) for world in drawn if len(world.classes) > 1]))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([100] * 10, False),
        ([980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009], False),  # MNIST
        ([570, 30], True),
        ([30, 10], True),
        ([7, 3], False),  # a coin gives as much
        ([60, 40], False),
        ([600, 400], True),
        ([5], False),
    ],
)
def test_classes_are_unequal_if_a_draw_of_equal_ones_would_hardly_be(counts, expected):
    labels = np.repeat(np.arange(len(counts)), counts)
    assert main_number.is_unequal(labels) == expected
    found = main_number.unless_equal(labels)
    assert (found is not None) == expected


def test_draws_of_equal_classes_are_rarely_unequal():
    random = np.random.default_rng(0)
    found = [main_number.is_unequal(random.integers(0, 20, 200)) for _ in range(1000)]
    assert np.mean(found) <= 0.02


@pytest.mark.parametrize(("share", "recall"), [(0.95, 0.9), (0.8, 0.7)])
def test_a_classifier_of_unequal_classes_is_above_chance_by_its_mean_recall(share, recall):
    """Though it is right less often than the most frequent class alone."""
    random = np.random.default_rng(0)
    said = []
    for _ in range(50):
        labels = random.choice(2, 600, p=[share, 1 - share])
        right = random.random(600) < recall
        assert right.mean() < majority(labels)
        said.append(claim_of(labels, right).verdict)
    assert said.count(BELOW) == 0
    assert said.count(ABOVE) == 50


def test_equal_classes_are_judged_by_their_accuracy():
    labels, right = np.arange(100) % 2, np.arange(100) < 80
    with_labels = claims.accuracy_claims("", right, 0.5, None, "", labels=labels)
    assert with_labels == claims.accuracy_claims("", right, 0.5, None, "")


def test_the_paired_test_finds_the_better_of_two_and_is_exact_for_few_clusters():
    labels = np.repeat([0, 1], [90, 10])
    a, b = np.ones(100, bool), labels == 0
    test = main_number.paired_recall_test(labels, a, b)
    assert test.low > 0.2
    assert 10**test.log10_p < 0.01
    few = main_number.paired_recall_test(labels, a, b, np.arange(100) // 34)
    assert 10**few.log10_p > 0.05
    assert few.low <= 0 < few.high
    none = main_number.paired_recall_test(labels, a, a)
    assert none.log10_p == 0
    assert none.low <= 0 <= none.high


def write_images(path, seed, noise, shares=(0.8, 0.15, 0.05)):
    splits = {}
    for number, split in enumerate(("train", "test")):
        labels = np.random.default_rng(number).choice(3, 300, p=shares)
        random = np.random.default_rng(10 * seed + number)
        X = np.eye(3)[labels] + noise * random.standard_normal((300, 3))
        splits[split] = (X, labels, None)
    features.write(path, file_of("images", splits, names="abc"))


def test_tables_claims_and_comparisons_of_unequal_classes_are_of_the_mean_recall(tmp_path):
    for number, noise in enumerate((0.3, 1.0)):
        write_images(tmp_path / f"{number}.h5", number, noise)
        command = ("probe", tmp_path / f"{number}.h5", "--format", "table")
        done = ok(*command, "-o", tmp_path / f"p{number}.h5")
    assert "Mean recall on test:" in done.stderr
    split = features.read(tmp_path / "p0.h5").splits["test"]
    (row,) = json.loads(ok("probe", tmp_path / "0.h5", "--format", "json").stdout)
    names = list(row)
    assert names.index("mean_per_class_recall") < names.index("acc1")
    assert row["recall_chance"] == pytest.approx(1 / 3)
    assert row["majority"] == pytest.approx(majority(split.labels))
    assert row["chance"] == pytest.approx(chance(split.labels, split.predicted[0]))
    assert row["mean_per_class_recall_low"] < row["mean_per_class_recall"]
    (claim,) = row["claims"]
    assert claim["value"] == row["mean_per_class_recall"]
    assert claim["verdict"] == ABOVE
    both = ("compare", tmp_path / "p0.h5", tmp_path / "p1.h5")
    compared = ok(*both, "--format", "json")
    (row,) = json.loads(compared.stdout)
    assert row["metric"] == "mean_per_class_recall"
    assert row["difference"] == pytest.approx(row["recall_a"] - row["recall_b"])
    for number, name in enumerate("ab"):
        one = features.read(tmp_path / f"p{number}.h5").splits["test"]
        recall = metrics.mean_per_class_recall(one.labels, one.predicted[0])
        assert row[f"recall_{name}"] == pytest.approx(recall)
    assert "of mean recall on 300 rows" in ok(*both, "--format", "table").stderr
    said = ok(*both, "--leaderboard", "--format", "table").stderr
    assert "On the same 300 rows, by mean recall: p1 is below p0" in said
    board = ok(*both, "--leaderboard")
    header, first, _ = (line.split("\t") for line in board.stdout.splitlines())
    assert float(dict(zip(header, first, strict=True))["recall_chance"]) == pytest.approx(1 / 3)


def test_a_page_and_pictures_of_unequal_classes_are_of_the_mean_recall(tmp_path):
    names = []
    for number, noise in enumerate((0.3, 1.0)):
        write_images(tmp_path / f"{number}.h5", number, noise)
        names.append(tmp_path / f"p{number}.h5")
        ok("probe", tmp_path / f"{number}.h5", "-o", names[-1])
    shots = tmp_path / "shots.h5"
    ok("probe", tmp_path / "0.h5", "--shots", "1,4", "-o", shots)
    ok("compare", *names, "-o", tmp_path / "both.h5")
    ok("report", *names, shots, tmp_path / "both.h5", "-o", tmp_path / "page.md")
    page = " ".join((tmp_path / "page.md").read_text().split())
    recall = scored_recall(names[0])
    assert f"**{100 * recall:.2f} %** is the mean recall of 300 images of 3 classes" in page
    assert "above chance (33.33 %)" in page
    assert "Paired differences of mean recall from p0.h5" in page
    assert "McNemar" not in page
    for picture, path, words in (
        ("shots", shots, "mean recall (%)"),
        ("compare", tmp_path / "both.h5", "mean recall (%)"),
        ("confusion", names[0], f"mean recall {100 * recall:.2f} %"),
    ):
        ok("plot", picture, path, "-o", tmp_path / "a.svg", "--force")
        assert words in (tmp_path / "a.svg").read_text()


def scored_recall(path):
    split = features.read(path).splits["test"]
    return metrics.mean_per_class_recall(split.labels, split.predicted[0])


def test_equal_classes_have_the_columns_that_they_had_unless_others_are_named(tmp_path):
    write_images(tmp_path / "a.h5", 0, 0.5, shares=(1 / 3, 1 / 3, 1 / 3))
    (row,) = json.loads(ok("probe", tmp_path / "a.h5", "--format", "json").stdout)
    assert not {"majority", "recall_chance", "mean_per_class_recall_low"} & row.keys()
    named = ok("probe", tmp_path / "a.h5", "--columns", "majority,recall_chance")
    share, by_chance = map(float, named.stdout.splitlines()[1].split("\t"))
    assert share > by_chance == pytest.approx(1 / 3)


@pytest.mark.parametrize("Cs", [[1e-4, 10.0], "1e-4..10:33"])
def test_val_chooses_by_the_mean_recall_of_unequal_classes(Cs):
    """A probe that names the frequent class for every image is more accurate."""
    random = np.random.default_rng(2)
    labels = np.repeat([0, 1], [170, 30])
    splits = {}
    for split in ("train", "val", "test"):
        X = labels[:, None] * np.eye(20)[0] + random.standard_normal((200, 20))
        splits[split] = (X, labels, None)
    *tried, chosen = clipkit.probe(
        file_of("images", splits), classifier="logreg", C=Cs, val="val"
    ).rows()
    by_recall = max(tried, key=lambda row: row["mean_per_class_recall"])
    assert max(row["acc1"] for row in tried) > by_recall["acc1"]
    assert (chosen["eval_split"], chosen["C"]) == ("test", by_recall["C"])


@pytest.mark.exhaustive
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=list(WEIGHTS))
@pytest.mark.parametrize("shape", KINDS.values(), ids=list(KINDS))
def test_mean_recalls_hold_their_nominal_rates(weights, shape):
    for name, measure in RATES.items():
        nominal = NOMINAL.get(name, 0.025)
        allowed = nominal + 2.5 * np.sqrt(nominal * (1 - nominal) / WORLDS)
        assert rate(measure, weights, shape, WORLDS) <= allowed
    for measure in COVERAGES.values():
        assert rate(measure, weights, shape, WORLDS) >= 0.93 - 2.5 * np.sqrt(0.93 * 0.07 / WORLDS)


if __name__ == "__main__":
    worlds = int(sys.argv[1])
    print("classes", "measure", *KINDS, sep="\t")
    for of_classes, weights in WEIGHTS.items():
        for name, measure in (RATES | COVERAGES).items():
            found = [f"{100 * rate(measure, weights, one, worlds):.1f}" for one in KINDS.values()]
            print(of_classes, name, *found, sep="\t", flush=True)
