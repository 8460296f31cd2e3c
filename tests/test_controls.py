"""What the thesis lacks: random directions, few shots, grids of temperature and C, spectra."""

from dataclasses import replace

import numpy as np
import pytest
from factories import MODEL, fails_with, random_features, write_feature_file
from shell import fails, ok
from sklearn.preprocessing import normalize

from clipkit.base.errors import UsageError
from clipkit.features import Split, read, row_ids, similarity, write


def test_random_directions_are_cosines_with_a_seeded_draw(img_h5, tmp_path):
    for name, seed in (("a.h5", 1), ("b.h5", 1), ("c.h5", 2)):
        ok("logits", img_h5, "--random", 20, "--seed", seed, "-t", 0.5, "-o", tmp_path / name)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    logits, other = read(tmp_path / "a.h5"), read(tmp_path / "c.h5")
    x = read(img_h5).splits["test"].features
    t = np.random.RandomState(1).standard_normal((20, x.shape[1]))
    found = logits.splits["test"].features
    np.testing.assert_allclose(found * 0.5, normalize(x) @ normalize(t).T, atol=1e-6)
    assert np.abs(other.splits["test"].features - found).max() > 0.1
    assert set(logits.class_index.tolist()) == {-1}
    assert logits.history[-1]["random"] == 20
    assert logits.logit_scale == read(img_h5).history[0]["model"]["logit_scale"]
    with fails_with("temperature: expected", UsageError):
        similarity.compute_random_logits(read(img_h5), 20, temperature=0)


def test_whitened_cosines_hold_the_same_information_without_the_spectrum(img_h5, txt_h5, tmp_path):
    ok("logits", img_h5, txt_h5, "--whiten", "-o", tmp_path / "x.h5")
    images, texts, logits = read(img_h5), read(txt_h5), read(tmp_path / "x.h5")
    unit = normalize(texts.features.astype(float))
    U, S, _ = np.linalg.svd(unit, full_matrices=False)
    expected = normalize(images.splits["test"].features) @ unit.T @ (U / S)
    assert logits.texts[0] == "principal direction 0"
    assert logits.history[-1]["whiten"] is True
    twice = {"features": np.vstack([texts.features] * 2), "texts": texts.texts * 2}
    repeated = replace(texts, **twice, class_index=None)  # which span nothing more
    doubled = similarity.compute_logits(images, repeated, whiten=True)
    for file in (logits, doubled):
        assert np.allclose(np.abs(file.cosines("test")), np.abs(expected), atol=1e-5)
    near = np.array([[1, 0, 0], [1, 1e-4, 0], [1, 0, 1e-8]])
    assert len(similarity.whitened(replace(texts, features=near)).features) == 2


def test_random_directions_spread_evenly():
    directions = similarity.random_directions(20_000, 3, seed=0)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    np.testing.assert_allclose(directions.mean(axis=0), 0, atol=0.02)
    covariance = directions.T @ directions / len(directions)
    np.testing.assert_allclose(covariance, np.eye(3) / 3, atol=0.02)


def test_singular_values_and_rank_are_numpys(txt_h5):
    embeddings = read(txt_h5).features.astype(np.float64)
    values = similarity.singular_values(embeddings)
    expected = np.linalg.svd(normalize(embeddings), compute_uv=False)
    np.testing.assert_allclose(values, expected, atol=1e-7)
    p = values / values.sum()
    assert similarity.effective_rank(values) == pytest.approx(np.prod(p**-p))


def test_rows_are_normalised_in_float64_each_for_itself():
    rows = np.random.default_rng(0).standard_normal((1000, 512)).astype(np.float32)
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    expected = (rows / lengths).astype(np.float32)
    np.testing.assert_array_equal(similarity.normalize(rows), expected)
    np.testing.assert_array_equal(similarity.normalize(rows[7:100]), expected[7:100])


def test_a_zero_vector_is_named_by_file_split_and_row(tmp_path, img_h5):
    features = np.ones((9100, 512), np.float32)  # two blocks
    features[9000] = 0
    splits = {"test": Split(features, ids=row_ids(9100))}
    write(tmp_path / "zero.h5", replace(read(img_h5), splits=splits))
    line = fails("logits", tmp_path / "zero.h5", "--random", 3, "-o", tmp_path / "x.h5")
    assert "zero.h5: test: expected rows that are not zero, got zeros in row 9000" in line


@pytest.mark.parametrize("command", [["logits", "--random", 3], ["probe"], ["cluster"]])
@pytest.mark.parametrize("seed", [-1, 2**32, "nan", "", "1,-1"])
def test_seeds_are_those_of_numpy(img_h5, command, seed):
    line = fails(*command, img_h5, "--seed", seed, exit_code=2)
    assert "seed: expected whole numbers between 0 and 4294967295, got '" in line


@pytest.mark.long
def test_the_files_of_several_seeds_equal_those_of_each_alone(img_h5, tmp_path):
    (tmp_path / "alone").mkdir()
    several = {"logits": ["--random", 5], "cluster": [], "probe": ["--shots", 2]}
    for command, options in several.items():
        source = img_h5
        if command == "probe":
            source = tmp_path / "logits-{seed}.h5"
        words = [command, source, *options, "--seed"]
        output = f"{command}-{{seed}}.h5"
        printed = ok(*words, "3,1", "-o", tmp_path / output).stdout
        alone = [ok(*words, seed, "-o", tmp_path / "alone" / output).stdout for seed in (1, 3)]
        names = {path.name for path in tmp_path.glob(f"{command}-*.h5")}
        assert names == {f"{command}-1.h5", f"{command}-3.h5"}
        for name in names:
            assert (tmp_path / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
        if command != "logits":
            header, *rows = printed.splitlines()
            assert header == f"seed\t{alone[0].splitlines()[0]}"
            expected = zip(("1", "3"), alone, strict=True)
            assert rows == [f"{seed}\t{text.splitlines()[1]}" for seed, text in expected]


def test_several_seeds_need_a_name_for_each_output(img_h5, txt_h5, tmp_path):
    (tmp_path / "x-2.h5").touch()
    cases = [
        (["cluster", img_h5, "-o", "x.h5"], "expected an output such as 'x-{seed}.h5', got x.h5"),
        (["logits", img_h5, "--random", 3], "expected an output such as 'x-{seed}.h5', got -"),
        (["probe", img_h5, "-o", tmp_path / "x-{seed}.h5"], "x-2.h5 exists"),
        (["logits", img_h5, txt_h5], "expected --random for several seeds, got 2"),
        (["probe", img_h5, "--per-image"], "expected one seed to print classes or images, got 2"),
    ]
    for words, message in cases:
        assert message in fails(*words, "--seed", "1,2", exit_code=2)
    assert [path.name for path in tmp_path.iterdir()] == ["x-2.h5"]


@pytest.mark.parametrize("command", ["attributes", "variance"])
@pytest.mark.parametrize("of_model", [{}, {"model": {**MODEL, "untrained": 7}}])
def test_a_history_that_names_no_model_may_be_that_of_a_control(tmp_path, command, of_model):
    images = write_feature_file(tmp_path / "img.h5")
    seeds = {"train": 5, "test": 6}
    other = {f"{name}/features": random_features(seed=seed) for name, seed in seeds.items()}
    history = {"history": [{"command": "embed", **of_model}]}
    control = write_feature_file(tmp_path / "c.h5", attributes=history, datasets=other)
    stderr = ok(command, images, "--control", control).stderr
    assert ("c.h5: the history names no model" in stderr) == (not of_model)


def test_the_spectrum_of_images_is_numpys_and_of_a_gaussian_that_of_its_null(img_h5):
    X = np.asarray(read(img_h5).splits["test"].features, np.float64)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    values = similarity.singular_values(X)
    expected = np.linalg.svd(unit, compute_uv=False)
    assert len(X) > X.shape[1]
    np.testing.assert_allclose(values, expected, rtol=1e-9)
    assert similarity.singular_values(np.repeat(np.eye(3), 5, axis=0)[:10])[2] == 0
    for n, width in ((200, 64), (40, 64)):
        nulls = [similarity.gaussian_singular_values(n, width, seed) for seed in range(40)]
        drawn = [similarity.random_directions(n, width, seed) for seed in range(40)]
        drawn = [np.linalg.svd(one, compute_uv=False) for one in drawn]
        np.testing.assert_allclose(np.mean(nulls, 0), np.mean(drawn, 0), rtol=0.03)
        assert np.square(nulls[0]).sum() == pytest.approx(n)
