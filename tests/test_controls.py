"""What the thesis lacks: random directions, few shots, grids of temperature and C, spectra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from shell import clipkit, fails, ok, rows

from clipkit import similarity
from clipkit.features import read


def test_random_directions_are_cosines_with_a_seeded_draw(img_h5: Path, tmp_path: Path) -> None:
    for name, seed in (("a.h5", 1), ("b.h5", 1), ("c.h5", 2)):
        ok("logits", img_h5, "--random", 20, "--seed", seed, "-t", 0.5, "-o", tmp_path / name)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    logits, other = read(tmp_path / "a.h5"), read(tmp_path / "c.h5")
    x = read(img_h5).splits["test"].features
    t = np.random.RandomState(1).standard_normal((20, x.shape[1]))
    expected = x @ t.T / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(t, axis=1)
    np.testing.assert_allclose(logits.splits["test"].features * 0.5, expected, atol=1e-6)
    assert np.abs(other.splits["test"].features - logits.splits["test"].features).max() > 0.1
    assert set(logits.class_index.tolist()) == {-1}
    assert logits.history[-1]["random"] == 20
    assert logits.logit_scale == read(img_h5).history[0]["model"]["logit_scale"]


def test_random_directions_from_a_pipe_are_probed(img_h5: Path) -> None:
    piped = clipkit("logits", "-", "--random", 5, stdin=img_h5.read_bytes())
    (row,) = rows(ok("probe", stdin=piped.stdout_bytes).stdout)
    assert row["fit_split"] == "train"


def test_random_directions_take_no_texts(img_h5: Path, txt_h5: Path) -> None:
    line = fails("logits", img_h5, txt_h5, "--random", 5, exit_code=2)
    assert "TEXTS and --random exclude each other" in line


def test_random_directions_spread_evenly() -> None:
    directions = similarity.random_directions(20_000, 3, seed=0)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    np.testing.assert_allclose(directions.mean(axis=0), 0, atol=0.02)
    covariance = directions.T @ directions / len(directions)
    np.testing.assert_allclose(covariance, np.eye(3) / 3, atol=0.02)


def test_few_shots_name_their_fit_split(img_h5: Path) -> None:
    (row,) = rows(ok("probe", img_h5, "--shots", 3, "--seed", 1).stdout)
    assert row["fit_split"] == "train-3-shot"


def test_singular_values_and_rank_are_numpys(txt_h5: Path) -> None:
    embeddings = read(txt_h5).features.astype(np.float64)
    unit = embeddings / np.linalg.norm(embeddings, axis=1)[:, None]
    eigenvalues = np.linalg.eigvalsh(unit @ unit.T)[::-1]
    values = similarity.singular_values(embeddings)
    np.testing.assert_allclose(values, np.sqrt(np.maximum(eigenvalues, 0)), atol=1e-7)
    np.testing.assert_allclose((values**2).sum(), len(embeddings))
    p = values / values.sum()
    assert similarity.effective_rank(values) == pytest.approx(np.prod(p**-p))
    assert 1 < similarity.effective_rank(values) < len(values)


@pytest.mark.parametrize("features", ["logits", "probs"])
def test_a_grid_is_drawn_from_the_split_with_the_most_runs(
    features: str, logits_h5: Path, tmp_path: Path
) -> None:
    grid = ("probe", logits_h5, "-t", "1,0.5,0.25", "-C", "1,4", "--features", features)
    for name, words in (("grid", []), ("val", ["--val", 0.25])):
        ok(*grid, *words, "-o", tmp_path / f"{name}.h5")
        ok("plot", "grid", tmp_path / f"{name}.h5", "-o", tmp_path / f"{name}.png")


def test_a_sweep_that_is_no_grid_is_refused(probe_h5: Path, tmp_path: Path) -> None:
    grid = ("plot", "grid", probe_h5, "-o", tmp_path / "grid.png")
    assert "expected a grid" in fails(*grid)
    assert "unknown split" in fails(*grid, "--split", "val", exit_code=2)


def test_one_split_of_a_sweep_is_drawn(logits_h5: Path, tmp_path: Path) -> None:
    ok("probe", logits_h5, "-t", "1,0.5", "--val", 0.25, "-o", tmp_path / "val.h5")
    pictures = set()
    for split in ([], ["--split", "val"], ["--split", "test"]):
        ok("plot", "temperature", tmp_path / "val.h5", *split, "-f", "-o", tmp_path / "p.png")
        pictures.add((tmp_path / "p.png").read_bytes())
    assert len(pictures) == 3
    temperature = ("plot", "temperature", tmp_path / "val.h5", "-o", tmp_path / "no.png")
    assert "'vall'; hint: did you mean val?" in fails(*temperature, "--split", "vall", exit_code=2)


def test_clusters_are_drawn_for_any_run_and_number(
    img_h5: Path, probe_h5: Path, tmp_path: Path
) -> None:
    few, many = tmp_path / "few.h5", tmp_path / "many.h5"
    ok("cluster", img_h5, "-k", 4, "-k", 10, "-o", few)
    ok("cluster", img_h5, "-k", 12, "-o", many)
    pictures = set()
    for words in ([few], [few, "--run", 1], [many]):
        ok("plot", "clusters", *words, "-f", "-o", tmp_path / "p.png")
        pictures.add((tmp_path / "p.png").read_bytes())
    assert len(pictures) == 3
    line = fails("plot", "clusters", few, "--run", 2, "-o", tmp_path / "no.png", exit_code=2)
    assert "run: expected" in line
    line = fails("plot", "clusters", probe_h5, "-o", tmp_path / "no.png")
    assert "expected clusters" in line
    assert "hint: keep them with: clipkit cluster" in line


def test_several_spectra_are_drawn_under_different_names(txt_h5: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.h5"
    other.write_bytes(txt_h5.read_bytes())
    ok("plot", "spectrum", txt_h5, "-o", tmp_path / "one.png")
    ok("plot", "spectrum", "-o", tmp_path / "piped.png", stdin=txt_h5.read_bytes())
    ok("plot", "spectrum", txt_h5, other, "-o", tmp_path / "two.png")
    line = fails("plot", "spectrum", txt_h5, txt_h5, "-o", tmp_path / "same.png", exit_code=2)
    assert "expected files with different names" in line
