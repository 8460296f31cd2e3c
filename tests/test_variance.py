"""`variance`: analytic worlds, nulls, and what the bundled world is known to hold."""

import numpy as np
import pytest
from factories import fails_with, feature_file
from scipy import stats
from sklearn.linear_model import LinearRegression

import clipkit
from clipkit.analysis.variance.shares import Regressions
from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.features import Split, row_ids

RNG = np.random.default_rng(0)


def images(features, labels=None):
    """Return a file of images with one split."""
    features = np.asarray(features, np.float32)
    file = feature_file(datasets={"class_names": None})
    labels = None if labels is None else np.asarray(labels)
    file.splits = {"test": Split(features, labels, row_ids(len(features)))}
    return file


def write_table(path, **columns):
    names = ["id", *columns]
    cells = zip(row_ids(len(next(iter(columns.values())))), *columns.values(), strict=True)
    lines = [",".join(map(str, line)) for line in [names, *cells]]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def shares(file, table, *names, **options):
    result = clipkit.variance(file, table=table, attribute=names, **options)
    return {row["attribute"]: row for row in result.rows()}


def regressions(X, **columns):
    model = Regressions(np.ones(len(X), bool), columns)
    centred = X - X.mean(axis=0)
    model.add(0, centred)
    model.total = centred.T @ centred
    return model


def regression(X, codes):
    return regressions(X, a=np.asarray(codes))


def share_of(X, codes, *directions):
    """Return the share of an attribute, or its share of each direction."""
    model = regression(X, codes)
    return model.share(model.explained([]), model.explained(["a"]), *directions)


@pytest.mark.parametrize("repeat", [1, 250])
def test_known_worlds_of_two_attributes_add_up(tmp_path, repeat):
    """One-hot a, and twice one-hot b: their variances are as 1 to 4, and nothing is left over."""
    a, b = np.divmod(np.tile(np.arange(4), 2 * repeat), 2)
    table = write_table(tmp_path / "t.csv", a=a, b=b)
    found = shares(images(np.hstack([np.eye(2)[a], 2 * np.eye(2)[b]])), table, "a", "b", "a*b")
    xor = shares(images(np.eye(2)[a ^ b]), table, "a", "b", "a*b")
    assert xor["a*b"]["share"] == pytest.approx(1)
    assert found["a*b"]["share"] == pytest.approx(0, abs=1e-9)
    if repeat > 1:
        of_a = (found["a"]["share"], found["a"]["unique"])
        assert of_a == pytest.approx((0.2, 0.2), abs=1e-3)
        assert found["b"]["share"] == pytest.approx(0.8, abs=1e-3)
        assert (xor["a"]["share"], xor["b"]["share"]) == pytest.approx((0, 0), abs=1e-3)
        assert xor["a*b"]["unique"] == pytest.approx(1, abs=2e-3)


def test_shares_are_those_of_an_analysis_of_variance():
    codes = RNG.integers(0, 4, 120)
    X = RNG.standard_normal((120, 3)) + codes[:, None] * [0.5, 0, -0.2]
    for column, share in zip(X.T, share_of(X, codes, np.eye(3)), strict=True):
        F = stats.f_oneway(*[column[codes == k] for k in range(4)]).statistic
        eta = 3 * F / (3 * F + 116)  # SSB / SST by F = (SSB / 3) / (SSW / 116)
        assert share == pytest.approx(1 - (1 - eta) * 119 / 116, abs=1e-12)


def test_directions_of_any_orthonormal_basis_add_up_to_the_whole_embedding():
    codes = RNG.integers(0, 5, 300)
    X = RNG.standard_normal((300, 6)) * [5, 3, 1, 1, 0.5, 0.1] + np.eye(6)[codes]
    basis = np.linalg.qr(RNG.standard_normal((6, 6)))[0]
    spread = np.einsum("kd,de,ke->k", basis, regression(X, codes).total, basis)
    weighted = (spread * share_of(X, codes, basis)).sum() / spread.sum()
    assert weighted == pytest.approx(share_of(X, codes), abs=1e-12)


def test_the_share_of_a_random_attribute_is_0_on_average_and_beta_distributed():
    """Of one column, eta squared is Beta(2, 997.5) for 5 values of 2,000 rows: mean 4 / 1,999."""
    column = RNG.standard_normal((2000, 1))
    draws = [share_of(column, RNG.integers(0, 5, 2000)) for _ in range(300)]
    assert np.mean(draws) == pytest.approx(0, abs=3e-4)
    model = regression(column, RNG.integers(0, 5, 2000))
    none, attribute = model.explained([]), model.explained(["a"])
    null95 = model.null_quantile(none, attribute)
    expected = stats.beta(2, 997.5).ppf(0.95)
    assert 1 - (1 - null95) * 1995 / 1999 == pytest.approx(expected, rel=1e-9)
    assert model.null_quantile(none, attribute, np.ones((1, 1))) == pytest.approx(null95, abs=1e-12)


@pytest.mark.long
def test_the_null_of_whole_embeddings_is_that_of_shuffled_values():
    X = RNG.standard_normal((400, 5)) * [6, 3, 2, 1, 1]
    codes = np.arange(400) % 4
    model = regression(X, codes)
    null95 = model.null_quantile(model.explained([]), model.explained(["a"]))
    shuffled = [share_of(X, RNG.permutation(codes)) for _ in range(1000)]
    assert null95 == pytest.approx(np.quantile(shuffled, 0.95), rel=0.15)


@pytest.mark.long
@pytest.mark.parametrize("n", [60, 400])
def test_one_random_column_in_twenty_exceeds_the_null_of_what_it_alone_explains(n):
    """The others explain the two largest axes, so the residuals have another spectrum."""
    above = []
    for _ in range(600):
        a, b = RNG.integers(0, 3, n), RNG.integers(0, 2, n)
        X = RNG.standard_normal((n, 8)) * [1, 1, 2, 1, 1, 0.5, 0.5, 0.5]
        X[:, :2] += 6 * np.stack([a, b], axis=1)
        random = np.where(RNG.random(n) < 0.5, a, RNG.integers(0, 3, n))
        model = regressions(X, a=a, b=b, random=random)
        others, every = model.explained(["a", "b"]), model.explained(["a", "b", "random"])
        above.append(model.share(others, every) > model.null_quantile(others, every))
    assert 0.02 < np.mean(above) < 0.085


def test_a_column_of_few_rows_moves_nothing_that_others_explain(tmp_path, capsys, monkeypatch):
    """One that is known for 15 of 600 images moved the unique share of another to .06."""
    monkeypatch.setattr(console, "_verbose", True)
    X, a, b = RNG.standard_normal((600, 20)), RNG.integers(0, 2, 600), RNG.integers(0, 3, 600)
    few = [str(row % 2) if row < 15 else "" for row in range(600)]
    alone = shares(images(X), write_table(tmp_path / "t.csv", a=a, b=b))
    found = shares(images(X), write_table(tmp_path / "u.csv", a=a, few=few, b=b))
    assert found["a"] == pytest.approx(alone["a"], nan_ok=True)
    assert found["b"]["unique_rows"] == 600
    assert (found["few"]["rows"], found["few"]["unique_rows"]) == (15, 0)
    assert np.isnan(found["few"]["unique"])
    assert "unique: left out few: too few images would have all" in capsys.readouterr().err


def test_what_an_attribute_alone_explains_needs_two_rows_a_parameter(tmp_path):
    X, names = RNG.standard_normal((40, 3)), [f"n{row % 21}" for row in range(40)]
    found = shares(images(X), write_table(tmp_path / "t.csv", a=np.arange(40) % 2, name=names))
    assert np.isfinite(found["a"]["unique"])
    assert found["name"]["unique_rows"] == 0
    assert all(np.isnan(found["name"][name]) for name in ("unique", "unique_null95"))


def test_a_column_without_values_is_empty_and_warned_of(tmp_path, capsys):
    X, a = RNG.standard_normal((60, 3)), np.arange(60) % 3
    alone = shares(images(X), write_table(tmp_path / "t.csv", a=a), "a")
    table = write_table(tmp_path / "u.csv", a=a, nothing=[""] * 60)
    found = shares(images(X), table, "a", "nothing", "a*nothing")
    assert found["a"] == pytest.approx(alone["a"], nan_ok=True)
    for name in ("nothing", "a*nothing"):
        assert [found[name][key] for key in ("values", "rows", "unique_rows")] == [0, 0, 0]
        assert all(np.isnan(found[name][key]) for key in ("share", "unique", "null95"))
    warning = "clipkit: warning: no row of test has a value of nothing, a*nothing"
    assert capsys.readouterr().err.splitlines() == [warning]
    texts = feature_file("texts", datasets={"features": np.eye(3, dtype="f4")})
    cells = clipkit.variance(images(X), texts, table=table, attribute=["a", "nothing"]).rows()
    assert [cell["above"] for cell in cells if cell["attribute"] == "nothing"] == [False] * 3
    with pytest.raises(ClipkitError, match="test: expected rows with a value of 'nothing', got"):
        shares(images(X), table, "nothing")


def test_a_prompt_measures_an_attribute_if_its_share_is_above_both_nulls(tmp_path):
    """Of one axis, every random direction has the same share, which is luck alone."""
    a = np.arange(80) % 2
    X = np.stack([np.ones(80), 0.1 * RNG.standard_normal(80)], axis=1)
    texts = feature_file("texts", datasets={"features": RNG.standard_normal((3, 2))})
    table = write_table(tmp_path / "t.csv", a=a)
    for row in clipkit.variance(images(X), texts, table=table, attribute=["a"], null=1).rows():
        assert row["above"] == (row["share"] > max(row["random99"], row["null95"]))
        eta = stats.beta(1 / 2, 78 / 2).ppf(0.95)
        assert row["null95"] == pytest.approx(1 - (1 - eta) * 79 / 78, abs=1e-9)


def test_rows_without_a_value_are_left_out_of_that_attribute(tmp_path):
    X, a = RNG.standard_normal((60, 3)), np.arange(60) % 3
    some = [str(value) if row < 40 else "" for row, value in enumerate(a)]
    found = shares(images(X), write_table(tmp_path / "t.csv", some=some, all=a, again=a))
    assert [found[name]["rows"] for name in ("some", "all")] == [40, 60]
    alone = shares(images(X[:40]), write_table(tmp_path / "u.csv", some=a[:40]))
    assert found["some"]["share"] == pytest.approx(alone["some"]["share"], abs=1e-12)
    assert found["all"]["share"] == found["again"]["share"]
    assert found["all"]["unique"] == pytest.approx(0, abs=1e-9)  # `again` says the same


@pytest.mark.parametrize("values", [["one"] * 40, [f"n{row}" for row in range(40)]])
def test_an_attribute_of_one_value_or_of_as_many_as_rows_has_no_share(tmp_path, values):
    table = write_table(tmp_path / "t.csv", a=values)
    row = shares(images(RNG.standard_normal((40, 3))), table)["a"]
    assert all(np.isnan(row[name]) for name in ("share", "unique", "null95"))


def test_too_many_values_are_refused():
    with pytest.raises(ClipkitError, match="expected at most 5,000 values in all"):
        clipkit.variance(images(np.ones((12_000, 1)), np.arange(12_000) // 2))


def adjusted_r2(X, columns):
    """Return the adjusted R squared of all columns of X together, by scikit-learn."""
    residuals = X - LinearRegression().fit(columns, X).predict(columns)
    n, parameters = len(X), columns.shape[1] + 1
    return 1 - (residuals**2).sum() / (n - parameters) / (X.var(axis=0).sum() * n / (n - 1))


def test_a_number_explains_what_a_linear_regression_does_and_is_measured_beside_categories(
    tmp_path, capsys
):
    n, generator = 300, np.random.default_rng(0)
    age, sex, few = generator.normal(40, 9, n), generator.integers(0, 2, n), np.arange(n) % 4
    X = generator.standard_normal((n, 5))
    X[:, 0] += age / 9 + sex
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    file = images(X)
    X = np.asarray(file.splits["test"].features, np.float64)  # of length 1 but for rounding
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    table = write_table(tmp_path / "t.csv", age=age, sex=sex, few=few)
    found = shares(file, table)
    assert np.isnan(found["age"]["values"])
    assert found["age"]["share"] == pytest.approx(adjusted_r2(X, age[:, None]), abs=1e-12)
    others = np.column_stack([sex, np.eye(4)[few][:, 1:]])
    unique = adjusted_r2(X, np.column_stack([others, age])) - max(0, adjusted_r2(X, others))
    assert found["age"]["unique"] == pytest.approx(unique, abs=1e-12)
    assert found["age"]["null95"] < 0.02
    assert found["few"]["values"] == 4
    line = shares(file, table, "few", numbers=True)["few"]
    assert line["share"] == pytest.approx(adjusted_r2(X, few[:, None]), abs=1e-12)
    ages = [f"{value}" if row else "NA" for row, value in enumerate(age)]
    table = write_table(tmp_path / "u.csv", age=ages, sex=sex)
    row = shares(file, table, "age")["age"]
    assert (row["rows"], row["share"]) == (
        n - 1,
        pytest.approx(adjusted_r2(X[1:], age[1:, None]), abs=1e-12),
    )
    assert "1 cells, first 'NA' of age, are read as no value" in capsys.readouterr().err
    with fails_with("expected an interaction of categories, got the numbers of age", UsageError):
        shares(file, table, "age*sex")


def test_one_random_number_in_twenty_exceeds_its_null():
    generator, above = np.random.default_rng(0), []
    for _ in range(400):
        X = generator.standard_normal((200, 8)) * [3, 2, 1, 1, 1, 0.5, 0.5, 0.5]
        model = regression(X, generator.standard_t(5, 200))
        none, number = model.explained([]), model.explained(["a"])
        above.append(model.share(none, number) > model.null_quantile(none, number))
    assert 0.025 < np.mean(above) < 0.085


def test_equal_numbers_explain_nothing_in_spite_of_rounding():
    model = regression(np.random.default_rng(0).standard_normal((37, 4)), np.full(37, 0.1))
    assert model.count_values("a") == 1
    assert np.isnan(model.share(model.explained([]), model.explained(["a"])))


def test_blocks_of_rows_explain_what_all_rows_at_once_do(tmp_path, monkeypatch):
    X, a = RNG.standard_normal((500, 6)) + 3, RNG.integers(0, 3, 500)
    some = [str(row % 4) if row % 5 else "" for row in range(500)]
    table = write_table(tmp_path / "t.csv", a=a, some=some)
    whole = shares(images(X), table)
    monkeypatch.setattr("clipkit.base.matrices.block_rows", lambda width: 70)
    blocks = shares(images(X), table)
    for name in ("a", "some"):
        for column in ("share", "null95", "unique", "unique_null95"):
            assert blocks[name][column] == pytest.approx(whole[name][column], rel=1e-9)
