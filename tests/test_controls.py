"""What the thesis lacks: random directions, few shots, the grid of temperature and C, the spectrum of a prompt set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from shell import clipkit, ok, rows

from clipkit import similarity
from clipkit.features import read


def test_random_directions_are_cosines_with_a_seeded_draw(img_h5: Path, tmp_path: Path) -> None:
    for name, seed in (("a.h5", 1), ("b.h5", 1), ("c.h5", 2)):
        ok("logits", img_h5, "--random", 20, "--seed", seed, "-t", 0.5, "-o", tmp_path / name)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    made, other = read(tmp_path / "a.h5"), read(tmp_path / "c.h5")
    x = read(img_h5).splits["test"].features
    t = np.random.RandomState(1).standard_normal((20, x.shape[1]))
    expected = x @ t.T / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(t, axis=1)
    np.testing.assert_allclose(made.splits["test"].features * 0.5, expected, atol=1e-6)
    assert np.abs(other.splits["test"].features - made.splits["test"].features).max() > 0.1
    assert set(made.class_index.tolist()) == {-1}
    assert made.history[-1]["random"] == 20
    assert made.logit_scale == read(img_h5).history[0]["model"]["logit_scale"]


def test_random_directions_from_a_pipe_are_probed(img_h5: Path) -> None:
    piped = clipkit("logits", "-", "--random", 5, stdin=img_h5.read_bytes())
    (row,) = rows(ok("probe", stdin=piped.stdout_bytes).stdout)
    assert row["fit_split"] == "train"


def test_random_directions_take_no_texts(img_h5: Path, txt_h5: Path) -> None:
    result = clipkit("logits", img_h5, txt_h5, "--random", 5)
    assert result.exit_code == 2
    assert "either TEXTS or --random" in result.stderr


def test_random_directions_spread_evenly() -> None:
    drawn = similarity.random_directions(20_000, 3, seed=0)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1)
    np.testing.assert_allclose(drawn.mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose(drawn.T @ drawn / len(drawn), np.eye(3) / 3, atol=0.02)


def test_few_shots_are_a_draw_of_every_class_and_the_same_every_time(
    img_h5: Path, tmp_path: Path
) -> None:
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    from clipkit import metrics

    ok("probe", img_h5, "--shots", 3, "-o", tmp_path / "few.h5")
    found = read(tmp_path / "few.h5")
    splits = read(img_h5).splits
    drawn = metrics.few_shot(splits["train"].labels, 3, seed=42)
    assert np.bincount(splits["train"].labels[drawn]).tolist() == [3] * 10
    x, y = splits["train"].features[drawn], splits["train"].labels[drawn]
    scaler = StandardScaler().fit(x)
    svm = SVC(kernel="linear").fit(scaler.transform(x), y)
    expected = svm.predict(scaler.transform(splits["test"].features))
    assert (found.splits["test"].predicted[0] == expected).mean() > 0.98
    assert found.runs["fit_split"].tolist() == ["train-3-shot"]
    assert found.history[-1]["shots"] == 3


def test_few_shots_leave_the_validation_rows_out(logits_h5: Path, tmp_path: Path) -> None:
    words = ("probe", logits_h5, "-t", "1,0.1", "--shots", 2, "--val", 0.25)
    ok(*words, "-o", tmp_path / "few.h5")
    found = read(tmp_path / "few.h5")
    assert found.runs["fit_split"].tolist() == [
        "train-val-2-shot",
        "train-val-2-shot",
        "train-2-shot",
    ]
    assert len(found.splits["val"]) == 30


def test_more_shots_than_rows_are_all_rows(img_h5: Path) -> None:
    few, all_rows = (
        rows(ok("probe", img_h5, *words).stdout)[0] for words in (["--shots", 999], [])
    )
    assert few["acc1"] == all_rows["acc1"]


def test_singular_values_and_rank_are_numpys(txt_h5: Path) -> None:
    embeddings = read(txt_h5).features.astype(np.float64)
    values = similarity.singular_values(embeddings)
    gram = np.linalg.eigvalsh(
        (unit := embeddings / np.linalg.norm(embeddings, axis=1)[:, None]) @ unit.T
    )[::-1]
    np.testing.assert_allclose(values, np.sqrt(np.maximum(gram, 0)), atol=1e-7)
    np.testing.assert_allclose((values**2).sum(), len(embeddings))
    p = values / values.sum()
    assert similarity.effective_rank(values) == pytest.approx(np.prod(p**-p))
    assert 1 < similarity.effective_rank(values) < len(values)
