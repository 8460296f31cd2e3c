"""What is recognised of an attribute within the values of a confounder."""

import csv

import numpy as np
import pytest

from clipkit.analysis.attributes import recalls
from clipkit.features import FeatureFile, Split
from clipkit.statistics import confounders, metrics
from clipkit.statistics.claims import LEARNED, NOT_DECIDED, ONLY_THROUGH, group_of
from clipkit.statistics.score_metrics import METRICS

RNG = np.random.default_rng(5)


def associated(noise, share, random=RNG):
    """Return labels that equal others in a share of the rows, and else do not."""
    return np.where(random.random(len(noise)) < share, noise, 1 - noise)


@pytest.mark.parametrize("share", [0.65, 0.8, 0.95])
def test_predictions_of_a_confounder_are_at_chance_within_its_values(share):
    covered, above, held = [], [], []
    for _ in range(400):
        noise = RNG.integers(0, 2, 400)
        hour = associated(noise, share)
        predicted = np.where(RNG.random(400) < 0.93, noise, 1 - noise)
        found = confounders.recall_given(hour, predicted, noise)
        covered.append(found.low <= 0.5 <= found.high)
        above.append(found.low > 0.5)
        own = confounders.recall_given(noise, predicted, hour)
        held.append(own.low > 0.5)
    assert np.mean(held) >= 0.95
    assert np.mean(covered) >= 0.93
    assert np.mean(above) <= 0.04


def test_one_stratum_has_the_recall_of_all_rows():
    labels, predicted = RNG.integers(0, 3, (2, 300))
    found = confounders.recall_given(labels, predicted, np.zeros(300, np.int64))
    assert found.value == pytest.approx(metrics.mean_per_class_recall(labels, predicted))
    assert found[1:] == pytest.approx(metrics.recall_interval(labels, predicted))


def test_rows_that_are_there_several_times_count_once():
    labels, predicted, strata = RNG.integers(0, 2, (3, 200))
    once = confounders.recall_given(labels, predicted, strata)
    rows = (np.repeat(values, 3) for values in (labels, predicted, strata, np.arange(200)))
    assert confounders.recall_given(*rows) == pytest.approx(once)
    of_all = metrics.recall_interval(labels, predicted)
    rows = (np.repeat(values, 3) for values in (labels, predicted, np.arange(200)))
    assert metrics.recall_interval(*rows) == pytest.approx(of_all)
    a, b = np.repeat(labels, 3), np.repeat(associated(labels, 0.8), 3)
    assert confounders.cramers_v_low(a, b, 3) == pytest.approx(
        confounders.cramers_v_low(a[::3], b[::3])
    )


@pytest.mark.long
def test_videos_whose_frames_have_both_values_of_a_confounder_are_at_chance_within_them():
    """A guess for each video says nothing of its hour, which goes with the noise of its frames."""
    video = np.repeat(np.arange(40), 10)
    above, covered = [], []
    for _ in range(200):
        noise = RNG.integers(0, 2, 400)
        hour = np.where(RNG.random(400) < 0.3, noise, RNG.integers(0, 2, 40)[video])
        right_of_noise = np.where(RNG.random(400) < 0.85, noise, 1 - noise)
        guess = np.where(RNG.random(400) < 0.5, RNG.integers(0, 2, 40)[video], right_of_noise)
        found = confounders.recall_given(hour, guess, noise, video)
        above.append(found.low > 0.5)
        covered.append(found.low <= 0.5 <= found.high)
    assert np.mean(above) <= 0.055  # by luck above it in less than 1 % of cases
    assert np.mean(covered) >= 0.88


def test_values_that_a_stratum_lacks_do_not_raise_its_chance():
    """Who knows only the stratum, of two of four values, guesses one of two."""
    strata = RNG.integers(0, 2, 2000)
    labels = 2 * strata + RNG.integers(0, 2, 2000)
    guesses = 2 * strata + RNG.integers(0, 2, 2000)
    found = confounders.recall_given(labels, guesses, strata)
    assert found.low < 0.25 < found.high
    perfect = confounders.recall_given(labels, labels, strata)
    assert perfect.value == pytest.approx(1)
    assert np.isnan(confounders.recall_given(strata, strata, strata).low)


@pytest.mark.parametrize("metric", ["auroc", "ap"])
def test_scores_of_a_confounder_are_at_chance_within_its_values(metric):
    above = []
    for _ in range(40):
        noise = RNG.integers(0, 2, 400)
        hour = associated(noise, 0.8).astype(float)
        scores = noise + RNG.normal(size=400)
        found = confounders.score_given(METRICS[metric], hour, scores, noise)
        above.append(found.low > METRICS[metric].chance(hour))
        own = confounders.score_given(METRICS[metric], noise.astype(float), scores, hour)
        assert own.low > METRICS[metric].chance(noise.astype(float))
    assert np.mean(above) <= 0.15  # of 40, 6 are above by luck in less than 1 % of cases


@pytest.mark.parametrize("metric", ["r2", "spearman", "kendalltau"])
def test_numbers_are_held_without_what_a_confounder_says_of_them(metric):
    above = []
    for _ in range(20):
        size = RNG.normal(size=300)
        price = np.exp(size) + 0.5 * RNG.normal(size=300)
        scores = size + 0.3 * RNG.normal(size=300)
        found = confounders.number_given(METRICS[metric], metric, price, scores, size)
        above.append(found.low > 0)
        own = confounders.number_given(METRICS[metric], metric, size, scores, RNG.normal(size=300))
        assert own.low > 0.5
    assert np.mean(above) <= 0.25


def test_numbers_that_are_there_several_times_count_once():
    truth, noise, confounder = RNG.normal(size=(3, 200))
    rows = truth, truth + noise, confounder
    once = confounders.number_given(METRICS["r2"], "r2", *rows)
    thrice = (np.repeat(values, 3) for values in (*rows, np.arange(200)))
    assert confounders.number_given(METRICS["r2"], "r2", *thrice) == pytest.approx(once, rel=0.01)


@pytest.mark.parametrize(("share", "is_one"), [(0.5, False), (0.54, False), (0.8, True)])
def test_a_confounder_is_one_whose_association_is_above_a_tenth(share, is_one):
    found = []
    for _ in range(200):
        noise = RNG.integers(0, 2, 800)
        found.append(confounders.cramers_v_low(noise, associated(noise, share)) > confounders.LEAST)
    assert np.mean(found) >= 0.97 if is_one else np.mean(found) <= 0.05


def test_an_attribute_is_a_part_of_one_that_has_it():
    outline = np.arange(12) % 3
    pattern = np.arange(12) // 3 % 2
    both = 2 * outline + pattern
    assert confounders.determines(both, outline)
    assert not confounders.determines(outline, both)
    assert not confounders.determines(outline, outline + 5)  # another name for the same


def files(noise, width=16):
    """Return images of two splits that hold `noise`, and a control that holds nothing."""
    n = len(noise) // 2
    made = []
    for strength, model in ((3, {}), (0, {"untrained": 0})):
        X = RNG.normal(size=(2 * n, width)).astype("f4")
        X[:, 0] += strength * noise
        splits = {}
        for name, rows in (("train", slice(0, n)), ("test", slice(n, None))):
            splits[name] = Split(X[rows], None, list(map(str, range(n))))
        history = [{"command": "embed", "model": {"name": "a", **model}}]
        made.append(FeatureFile("images", history, splits))
    return made


def write_table(path, columns):
    n = len(columns["noise"]) // 2
    with path.open("w") as file:
        lines = csv.writer(file)
        lines.writerow(["id", "split", *columns])
        for split, start in (("train", 0), ("test", n)):
            for row in range(n):
                values = ["ab"[column[start + row]] for column in columns.values()]
                lines.writerow([row, split, *values])
    return str(path)


@pytest.mark.long
@pytest.mark.parametrize("share", [0.65, 0.8, 0.95, 1.0])
def test_an_attribute_that_only_goes_with_another_one_is_not_said_to_be_learned(tmp_path, share):
    """Also if the other one was not chosen: any column of the table may be a confounder."""
    noise = RNG.integers(0, 2, 800)
    images, control = files(noise)
    hour = associated(noise, share)
    table = write_table(tmp_path / "t.csv", {"noise": noise, "hour": hour})
    result = recalls.measure(images, table=table, columns=["hour"], controls=[control])
    (row,) = result.rows()
    assert row["given_name"] == "noise"
    assert group_of(row)[0] in (f"{ONLY_THROUGH} noise", NOT_DECIDED)
    (row,) = recalls.measure(images, table=table, columns=["noise"], controls=[control]).rows()
    assert group_of(row)[0] == (LEARNED if share < 1 else NOT_DECIDED)
