"""Link functions: a class is all that one needs, in commands, pictures and the page."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from factories import MODEL, messages, refused
from scipy.special import softmax
from shell import clipkit, ok, rows
from test_calibrate import logits_file, saved

from clipkit import plots
from clipkit.analysis.calibrate import calibration
from clipkit.analysis.zeroshot import classification
from clipkit.base.errors import UsageError
from clipkit.features import read
from clipkit.report import predictions
from clipkit.statistics import links
from clipkit.statistics.links import LINKS, Link, Sigmoid, Softmax


class Sparsemax(Link):
    """The point of the simplex that is nearest to the logits (Martins and Astudillo 2016)."""

    name = "sparsemax"
    description = "the nearest point of the simplex"
    plural = "sparse ones"

    @classmethod
    def is_own(cls, history):
        return history.model.get("link") == cls.name

    def probabilities(self, cosines, temperature):
        z = np.asarray(cosines, np.float64) / temperature
        falling = -np.sort(-z, axis=-1)
        counts = np.arange(1, z.shape[-1] + 1)
        sums = falling.cumsum(axis=-1) - 1
        size = (counts * falling > sums).sum(axis=-1, keepdims=True)
        return np.maximum(z - np.take_along_axis(sums, size - 1, axis=-1) / size, 0)

    def entropy_and_confidence(self, prepared, temperature):
        p = self.probabilities(prepared, temperature)
        return -(p * np.log(np.where(p > 0, p, 1))).sum(axis=-1), p.max(axis=-1)


class DoubleSoftmax(Softmax):
    """The softmax of twice the logits, whose fitted temperature is twice the softmax's."""

    name = "double"
    plural = "double ones"

    @classmethod
    def is_own(cls, history):
        return history.model.get("link") == cls.name

    def probabilities(self, cosines, temperature):
        return super().probabilities(cosines, temperature / 2)

    def nll(self, below, labels, beta):
        nll, slope, curvature = super().nll(below, labels, 2 * beta)
        return nll, 2 * slope, 4 * curvature

    def score(self, below, labels, temperature):
        return super().score(below, labels, temperature / 2)


@pytest.fixture
def own(monkeypatch):
    """Return a function that returns logits of a model that was trained with a dummy link."""
    monkeypatch.setitem(LINKS, "sparsemax", Sparsemax)
    monkeypatch.setitem(LINKS, "double", DoubleSoftmax)

    def logits(name, **options):
        file = logits_file(**options)
        file.history[0]["model"] = {**MODEL, "link": name}
        return file

    return logits


REGISTERED = """
from clipkit.__main__ import main
from clipkit.statistics.links import LINKS
from test_links import Sparsemax
LINKS["sparsemax"] = Sparsemax
main()
"""


@pytest.mark.exhaustive
def test_the_command_line_knows_a_new_link(tmp_path):
    def run(*words):
        line = [sys.executable, "-c", REGISTERED, *map(str, words)]
        return subprocess.run(line, cwd=Path(__file__).parent, capture_output=True, text=True)

    path = saved(tmp_path, logits_file())
    done = run("entropy", path, "--link", "sparsemax", "-t", "0.1", "-o", tmp_path / "result.h5")
    assert (done.returncode, messages(done.stderr)) == (0, "")
    result = read(tmp_path / "result.h5")
    assert result.history[-1]["link"] == "sparsemax"
    z = read(path).splits["test"].features.astype(np.float64) / 0.1
    p = np.stack([nearest_in_simplex(row) for row in z])
    test = {row["split"]: row for row in result.rows()}["test"]
    logs = np.log(np.where(p > 0, p, 1))
    assert test["mean_entropy"] == pytest.approx(-(p * logs).sum(axis=1).mean())
    assert test["max_entropy"] == pytest.approx(np.log(5))
    assert test["mean_confidence"] == pytest.approx(p.max(axis=1).mean())
    assert [row["link"] for row in result.rows()] == ["sparsemax"] * len(result.rows())
    ok("entropy", path, "-t", "0.1", "-o", tmp_path / "softmax.h5")
    both = rows(ok("info", "--runs", tmp_path / "result.h5", tmp_path / "softmax.h5").stdout)
    assert {row["link"] for row in both} == {"sparsemax", ""}
    (first, *_) = rows(run("entropy", path, "--link", "sparsemax", "--per-image").stdout)
    assert first["link"] == "sparsemax"
    page = run("report", tmp_path / "result.h5").stdout
    assert "sparsemax" in page
    assert "softmax|sigmoid|sparsemax" in run("entropy", "--help").stdout.replace("\n", "")


def nearest_in_simplex(z):
    """Return the nearest point of the simplex, by bisection of the threshold."""
    low, high = z.max() - 1, z.max()
    for _ in range(80):
        middle = (low + high) / 2
        if np.maximum(z - middle, 0).sum() > 1:
            low = middle
        else:
            high = middle
    return np.maximum(z - low, 0)


def test_the_models_own_link_is_used_at_its_own_temperature(own, tmp_path):
    path = saved(tmp_path, own("sparsemax"))
    done = ok("entropy", path, "-t", "model", "--split", "test", "--format", "tsv")
    assert "the model's own probabilities are sparse ones (--link sparsemax)" in done.stderr
    entropies, _ = Sparsemax().entropy_and_confidence(read(path).cosines("test"), 0.01)
    (row,) = rows(done.stdout)
    assert float(row["mean_entropy"]) == pytest.approx(entropies.mean())
    both = clipkit("entropy", path, "-t", "1,model")
    refused(both, 2, "are sparse ones, got -t 1,model", "--link softmax or --link sparsemax")


def test_calibrate_and_pictures_fit_the_likelihood_of_a_models_own_link(own, tmp_path):
    (*_, expected) = calibration.calibrate(logits_file()).rows()
    (*_, found) = calibration.calibrate(own("double")).rows()
    for name in ("temperature", "low", "high"):
        assert found[name] == pytest.approx(2 * expected[name], rel=1e-4)
    for name in ("nll", "brier", "mean_confidence", "ece"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4)
    fitted = calibration.fitted_on_train(own("double"), "test")
    assert fitted == pytest.approx(2 * calibration.fitted_on_train(logits_file(), "test"), rel=1e-4)


def test_a_link_without_a_likelihood_is_scored_but_not_fitted(own, tmp_path):
    path = saved(tmp_path, own("sparsemax"))
    refused(
        clipkit("calibrate", path), 1, "expected probabilities with a likelihood", "sparse ones"
    )
    assert not calibration.can_fit_on_train(read(path), "test")
    scores = calibration.read_scores(read(path), "test")
    found = calibration.score_probabilities(scores, 0.1)
    p = Sparsemax().probabilities(read(path).cosines("test"), 0.1)
    outcomes = np.eye(5)[scores.labels]
    assert found.brier == pytest.approx(((p - outcomes) ** 2).sum(axis=1).mean())
    np.testing.assert_allclose(found.confidence, p.max(axis=1))
    with np.errstate(divide="ignore"):
        assert found.nll == pytest.approx(-np.log(p[outcomes == 1]).mean())


@pytest.mark.long
def test_pictures_draw_the_models_own_distribution(own):
    file = own("sparsemax")
    p = Sparsemax().probabilities(file.cosines("test"), 0.1)
    figure = plots.draw(file, "confidence", split="test", temperature=["0.1"])
    title = "the top prompt gets {:.1f} % on average over 300 images"
    assert title.format(100 * p.max(axis=1).mean()) in figure.get_suptitle()
    assert figure.axes[0].get_title("right") == f"mean {100 * p.max(axis=1).mean():.2f} %"
    figure = plots.draw(file, "reliability", split="test")
    assert len(figure.axes) == 1  # no temperature can be fitted


def test_the_page_scores_predictions_by_the_models_own_distribution(own):
    file = own("sparsemax", n=20)
    result = classification.evaluate(file)
    shown = predictions.read_predictions(result, "test", [file])
    p = Sparsemax().probabilities(file.cosines("test"), 0.01)
    np.testing.assert_allclose(shown.scores, p.max(axis=1))
    assert shown.score_name == "probability, the sparsemax over the classes at temperature 0.01"


def test_every_link_agrees_with_its_own_probabilities():
    cosines = np.random.default_rng(0).uniform(-1, 1, (50, 7)).astype(np.float32)
    for link in (Softmax(), Sigmoid(-2.0)):
        p = link.probabilities(cosines, 0.1)
        entropies, confidence = link.entropy_and_confidence(link.prepare(cosines), 0.1)
        terms = -p * np.log(p)
        expected = terms.sum(axis=1)
        if not link.is_distribution:
            expected = (terms - (1 - p) * np.log1p(-p)).mean(axis=1)
        np.testing.assert_allclose(entropies, expected, rtol=1e-9)
        np.testing.assert_allclose(confidence, p.max(axis=1))
    np.testing.assert_allclose(
        Softmax().probabilities(cosines, 0.1), softmax(cosines / 0.1, axis=1), rtol=1e-5
    )


def test_the_softmax_scores_as_any_link_does():
    random = np.random.default_rng(0)
    below = links.below_highest(random.uniform(-1, 1, (50, 7)))
    labels = random.integers(7, size=50)
    confidence, *sums = Softmax().score(below, labels, 0.1)
    expected_confidence, *expected = Link.score(Softmax(), below, labels, 0.1)
    np.testing.assert_allclose(confidence, expected_confidence)
    assert sums == pytest.approx(expected)


def test_only_a_model_that_learned_a_bias_has_sigmoids():
    file = logits_file()
    assert links.own_link(file.history).name == "softmax"
    with pytest.raises(UsageError, match="expected a model with a logit_bias"):
        links.find("sigmoid", file.history, file.display_name)
    file.history[0]["model"] = {**MODEL, "logit_bias": -10.0}
    assert links.own_link(file.history).bias == -10.0
    assert links.distribution(file.history).name == "softmax"
    file.history.append({"command": "logits", "random": 7})
    assert links.own_link(file.history).name == "softmax"
