"""Near copies: `embed --near`, `convert --near` and `--no-near`."""

import numpy as np
import pytest
from PIL import Image
from scipy.sparse.csgraph import connected_components
from shell import fails, ok

from clipkit import features
from clipkit.statistics import near
from clipkit.statistics.near import near_components


def brute_force(X, cosine):
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    return connected_components(unit @ unit.T >= cosine, directed=False)[1]


def is_one_partition(a, b):
    return len(set(a)) == len(set(b)) == len(set(zip(a.tolist(), b.tolist(), strict=True)))


def gap(X, about):
    """Return a cosine near `about` that is farthest from those of all pairs of rows."""
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    values = np.unique(unit @ unit.T)
    values = values[abs(values - about) < 0.01]
    widest = np.diff(values).argmax()
    assert values[widest + 1] - values[widest] > 10 * near.ROUNDING
    return (values[widest] + values[widest + 1]) / 2


@pytest.mark.parametrize("at_once", [1, 7, 64, 2048])
@pytest.mark.parametrize(("width", "about"), [(2, 0.98), (3, 0.98), (4, 0.9), (16, 0.7)])
def test_near_rows_are_the_components_of_all_pairs(width, about, at_once, monkeypatch):
    monkeypatch.setattr(near, "AT_ONCE", at_once)
    for seed in range(3):
        random = np.random.RandomState(seed)
        X = random.standard_normal((150, width)) * random.uniform(0.01, 100, (150, 1))
        cosine = gap(X, about)
        found = near_components(X, cosine)
        assert is_one_partition(found, brute_force(X, cosine))


def test_chains_stars_and_rows_of_zeros(monkeypatch):
    monkeypatch.setattr(near, "AT_ONCE", 32)
    angles = np.random.RandomState(0).permutation(np.linspace(0, 3, 300))
    chain = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    step = 3 / 299
    assert near_components(chain, np.cos(1.2 * step)).max() == 0
    assert near_components(chain, np.cos(0.8 * step)).max() == 299
    star = np.vstack([np.ones(100), np.eye(100) + 0.2])  # the first is near all others
    assert near_components(star, 0.8).max() == 0
    assert near_components(np.zeros((3, 2)), 0.5).tolist() == [0, 1, 2]
    pairs = []
    near_components(chain, 0.9, lambda *done: pairs.append(done))
    assert pairs[-1] == (300 * 301 // 2,) * 2


def write_photos(folder):
    """Write six images, each once, twice and as a near copy."""
    random = np.random.RandomState(0)
    folder.mkdir()
    for number in range(6):
        pixels = random.randint(0, 250, (24, 24, 3)).astype(np.uint8)
        for name in ("a", "b"):
            Image.fromarray(pixels).save(folder / f"{name}{number}.png")
        Image.fromarray(pixels + (pixels[..., :1] % 2).astype(np.uint8)).save(
            folder / f"c{number}.png"
        )


def clusters_of(path):
    """Return the names in each cluster."""
    split = features.read(path).splits["all"]
    found = {}
    for row_id, number in zip(split.ids, split.cluster, strict=True):
        found.setdefault(number, []).append(row_id[:2])
    return sorted(map(sorted, found.values()))


def test_embed_writes_near_copies_and_no_equal_ones_without(tmp_path):
    write_photos(tmp_path / "photos")
    triples = [[f"{name}{number}" for name in "abc"] for number in range(6)]
    embed = ("embed", tmp_path / "photos", "--model", "tiny", "-o")
    # a cosine that joins all is refused, and the run continues with another one
    line = fails(*embed, tmp_path / "a.h5", "--near", 0.5)
    assert "--near 0.5: expected at least 2 clusters of images, got 1; hint: give a larger" in line
    done = ok(*embed, tmp_path / "a.h5", "--near", 0.999)
    assert "resuming at 18 of 18" in done.stderr
    those = "those with cosines of at least 0.999 are clusters"
    assert f"18 images, 6 independent: {those}" in done.stderr
    assert clusters_of(tmp_path / "a.h5") == triples
    assert features.read(tmp_path / "a.h5").history[0]["near"] == 0.999
    # parts give the same bytes
    for part in ("1/2", "2/2"):
        ok(*embed, tmp_path / "b.h5", "--near", 0.999, "--part", part)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()

    done = ok(*embed, tmp_path / "c.h5")
    assert "18 images, 12 independent: equal ones are clusters" in done.stderr
    done = ok(*embed, tmp_path / "d.h5", "--no-near")
    assert "independent" not in done.stderr
    file = features.read(tmp_path / "d.h5")
    assert file.splits["all"].cluster is None
    assert file.history[0]["no_near"] is True
    line = fails(*embed, tmp_path / "e.h5", "--no-near", "--near", 0.9, exit_code=2)
    assert "expected --near or --no-near, got both" in line


def test_convert_joins_near_copies_with_the_clusters_of_a_file(tmp_path):
    X = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0.01], [1, 1, 0], [-1, 0, 0]], np.float32)
    np.savez(tmp_path / "a.npz", train_features=X[:3], test_features=X[3:])
    done = ok("convert", tmp_path / "a.npz", tmp_path / "a.h5", "--near", 0.99)
    assert "6 images, 5 independent: those with cosines of at least 0.99" in done.stderr
    file = features.read(tmp_path / "a.h5")
    numbers = np.concatenate([file.splits[split].cluster for split in ("train", "test")])
    assert is_one_partition(numbers, np.array([0, 1, 2, 1, 3, 4]))
    assert file.history[-1]["near"] == 0.99
    np.savez(tmp_path / "b.npz", features=X, cluster=np.array([7, 7, 8, 9, 9, 4]))
    ok("convert", tmp_path / "b.npz", tmp_path / "b.h5", "--near", 0.99)
    numbers = features.read(tmp_path / "b.h5").splits["all"].cluster
    assert is_one_partition(numbers, np.array([0, 0, 1, 0, 0, 2]))
    # without it, the file's own clusters stay
    ok("convert", tmp_path / "b.npz", tmp_path / "c.h5")
    numbers = features.read(tmp_path / "c.h5").splits["all"].cluster
    assert is_one_partition(numbers, np.array([0, 0, 1, 2, 2, 3]))

    np.savez(tmp_path / "t.npz", features=X, texts=list("abcdef"))
    line = fails("convert", tmp_path / "t.npz", tmp_path / "t.h5", "--near", 0.9, exit_code=2)
    assert "--near is for images" in line
    line = fails("convert", tmp_path / "a.npz", tmp_path / "x.h5", "--near", 2, exit_code=2)
    assert "--near: expected at most 1, got 2" in line
