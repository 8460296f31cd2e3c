"""Figures: what they hold (scales, lines, labels, values), and the bytes that they are saved as."""

import importlib
import math
import pkgutil
import re
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.text import Text
from PIL import Image

from clipkit import plots
from clipkit.base.errors import UsageError
from clipkit.plots import LayerCurve, LayerPoints, Points, Sweep
from clipkit.statistics.metrics import reliability

ODD_NAMES = [
    "pickup_truck",
    "_hidden",
    "$x^2$",
    "$unclosed",
    r"\frac{1}",
    "a\nb\x1b[31m",
    "猫",
    "x" * 300,
    "",
    "&<b>",
]
TAU = [0.02, 1.0, 0.07, 0.5]  # in no order
RNG = np.random.default_rng(42)


def test_type_checkers_are_told_of_the_modules_that_have_public_functions():
    """What the package finds while it is imported, and what the lines for type checkers name."""
    found = set()
    for module in pkgutil.iter_modules(plots.__path__):
        if hasattr(importlib.import_module(f"clipkit.plots.{module.name}"), "__all__"):
            found.add(module.name)
    text = Path(plots.__file__).read_text()
    assert set(re.findall(r"^    from clipkit\.plots\.(\w+) import \*", text, re.M)) == found


@pytest.fixture
def low_resolution(monkeypatch):
    """Save pictures faster."""
    monkeypatch.setattr("clipkit.plots.style.DPI", 40)


def png(fig):
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        plots.save(fig, file.name)
        return file.read()


def odd_names(n):
    return [f"{ODD_NAMES[i % 10]}{i if i >= 10 else ''}" for i in range(n)]


def texts(fig):
    """Return everything that is written on a figure."""
    return [text.get_text() for text in fig.findobj(matplotlib.text.Text)]


def tick_texts(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def first_x(lines):
    return [line.get_xdata()[0] for line in lines]


def sweep(
    label="svm, C = 1, test",
    accuracy=(0.63, 0.29, 0.64, 0.51),
    entropy=(2.8957, 3.4656, 3.4206, 3.4649),
):
    width = np.array([0.01, 0.02, 0.03, 0.04])
    return Sweep(label, TAU, accuracy, entropy, accuracy - width, accuracy + width)


def layer_curve(label, depth=4):
    shares = np.linspace(0, 1, depth + 1)
    trained = LayerPoints(range(depth + 1), shares, shares - 0.1, shares + 0.1, (0.9, 0.8, 1.0))
    control = LayerPoints([0, depth], [0.1, 0.2], [0.1, 0.1], [0.1, 0.3], seeds=2)
    return LayerCurve(label, depth, 0.1, trained, control)


SOME = np.random.default_rng(0)
TEN, SHARP, FLAT = odd_names(10), SOME.random(50), SOME.random(50) / 1e4
COUNTS, SHARES = SOME.integers(0, 9, (10, 12)), SOME.random((3, 10, 3))
# Each draws a picture, always the same.
EXAMPLES = {
    "confusion": lambda: plots.confusion(COUNTS[:, :10], TEN, title="Of $all$ and _none_"),
    "clusters": lambda: plots.clusters(COUNTS, TEN),
    "temperature": lambda: plots.temperature([sweep(), sweep("_knn $k$")], 32),
    "entropy": lambda: plots.entropy({1.0: 3.4656 - FLAT, 0.02: SHARP}, 32),
    "confidence": lambda: plots.confidence({1.0: 0.032 + FLAT, 0.02: SHARP}, 32),
    "reliability": lambda: plots.reliability({1.0: reliability(SHARP, SHARP < 0.5)}),
    "layers": lambda: plots.layers([layer_curve("_a $x$"), layer_curve(TEN[7], depth=12)]),
    "spectrum": lambda: plots.spectrum({"a": [3, 2, 1, 0], "$x$": [2, 1]}, {"a": 2.5, "$x$": 1.5}),
    "logits": lambda: plots.logits(SHARES[..., 0], TEN[:3], TEN),
    "similarity": lambda: plots.similarity(SHARES[..., 1], TEN[:3], TEN, centred=True),
    "classes": lambda: plots.classes(SHARP[:40], odd_names(40), support=range(40)),
    "compare": lambda: plots.compare(SHARES, SHARES[:2], TEN[2:5], groups=TEN, null5=[0.1] * 3),
    "contact_sheet": lambda: plots.contact_sheet(np.zeros((10, 8, 8, 3), np.uint8), TEN),
}


# -- saving --------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.usefixtures("low_resolution")
def test_the_same_figure_gives_the_same_bytes(name, tmp_path):
    endings = {"png": b"\x89PNG"}
    if name in ("confusion", "spectrum"):  # with and without pixels
        endings |= {"svg": b"<?xml", "pdf": b"%PDF", "jpg": b"\xff\xd8", "webp": b"RIFF"}
    for ending, magic in endings.items():
        path, same = tmp_path / f"{name}.{ending}", tmp_path / "same"
        plots.save(EXAMPLES[name](), path)
        plots.save(EXAMPLES[name](), same, ending)
        assert path.read_bytes() == same.read_bytes()
        assert path.read_bytes().startswith(magic)
        assert b"Date" not in path.read_bytes()
        assert str(tmp_path).encode() not in path.read_bytes()


def test_a_png_has_200_dots_per_inch(tmp_path):
    fig = plots.classes([0.5, 0.75], ["cat", "dog"], support=[1, 1])
    plots.save(fig, str(tmp_path / "classes.PNG"))
    with Image.open(tmp_path / "classes.PNG") as image:
        assert image.size == tuple((fig.get_size_inches() * 200).astype(int))
        assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)


@pytest.mark.parametrize("name", ["tau.gif", "tau", "png", "archive.png.gz"])
def test_another_ending_is_a_usage_error_that_names_the_five(name, tmp_path):
    expected = r"\.png, \.jpg, \.webp, \.svg or \.pdf, got '.*"
    with pytest.raises(UsageError, match=expected + name):
        plots.save(Figure(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_matplotlibrc_changes_nothing_and_is_not_changed():
    before = dict(matplotlib.rcParams.copy())
    expected = png(plots.confusion([[9, 1], [2, 8]], ["$a$", "b"]))
    assert dict(matplotlib.rcParams.copy()) == before
    user = {"font.size": 30, "text.usetex": True, "axes.grid": False, "savefig.bbox": "tight"}
    with matplotlib.rc_context(user):
        assert png(plots.confusion([[9, 1], [2, 8]], ["$a$", "b"])) == expected


@pytest.mark.long
@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.usefixtures("low_resolution")
def test_names_and_prompts_are_shown_literally(name):
    fig = EXAMPLES[name]()
    png(fig)
    labels_in_lines = [axes.xaxis.label for axes in fig.axes]  # clipkit breaks them itself
    for text in fig.findobj(matplotlib.text.Text):
        assert "$" not in text.get_text() or not text.get_parse_math()
        assert "\x1b" not in text.get_text()
        assert "\n" not in text.get_text() or text in labels_in_lines
        assert len(text.get_text()) < 100
    if name == "confusion":
        labels = tick_texts(fig.axes[0].yaxis)
        shown = ["pickup_truck", "_hidden", "$x^2$", "$unclosed", r"\frac{1}", "a b [31m"]
        assert labels[:6] == shown
        assert labels[7] == "x" * 23 + "…"


# -- any size ------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(("C", "K"), [(1, 1), (2, 33), (31, 129), (200, 415)])
@pytest.mark.usefixtures("low_resolution")
def test_any_number_of_classes_and_prompts_can_be_drawn(C, K):
    values = RNG.random((C, K))
    values[0] = np.nan
    counts = RNG.integers(0, 3, (C, K))
    counts[0] = 0
    classes, prompts = odd_names(C), odd_names(K)
    png(plots.confusion(np.diag(np.arange(C)), classes))
    png(plots.clusters(counts, classes))
    png(plots.similarity(values, classes, prompts))
    png(plots.similarity(values, classes, prompts, centred=True))
    png(plots.logits(values[:30], classes[:30], prompts))
    png(plots.classes(values[:, 0], classes, support=np.arange(C)))
    png(plots.entropy({0.5: np.full(9, math.log(K)), 0.1: [], 0.01: [np.nan, 0.0]}, K))
    png(plots.confidence({0.5: np.full(9, 1 / K), 0.1: [], 0.01: [np.nan, 1.0]}, K))
    png(plots.spectrum({"prompts": RNG.random(K)}, {"prompts": (1 + K) / 2}))
    png(plots.compare(RNG.random((2, C, 3)), RNG.random((1, C, 3)), "ab", groups=classes))


@pytest.mark.usefixtures("low_resolution")
@pytest.mark.long
def test_single_runs_and_missing_values_can_be_drawn():
    nothing = [np.nan] * 4
    png(plots.temperature([sweep(f"{i}", RNG.random(4)) for i in range(25)]))
    png(plots.temperature([sweep("none", nothing, nothing)], 32))
    png(plots.temperature([Sweep("one", [1.0], [0.5], [3.4], [0.4], [0.6])], 32))
    png(plots.contact_sheet(np.zeros((1, 4, 6, 3), np.uint8)))


# -- what each picture holds ---------------------------------------------------------------------


def test_confusion_rows_are_percentages_of_the_true_class():
    counts = [[80, 20, 0], [10, 30, 0], [0, 0, 0]]
    ax = plots.confusion(counts, ["cat", "dog", "owl"]).axes[0]
    image = ax.images[0]
    expected = [[80, 20, 0], [25, 75, 0], [np.nan] * 3]
    np.testing.assert_allclose(image.get_array().filled(np.nan), expected)
    assert image.get_clim() == (0, 100)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted class", "true class")
    assert "78.57 %" in ax.get_title(loc="left")
    assert sorted(t.get_text() for t in ax.texts) == ["20.0", "25.0", "75.0", "80.0"]
    assert tick_texts(ax.xaxis) == tick_texts(ax.yaxis) == ["cat", "dog", "owl"]
    grouped = plots.confusion([[8, 2], [1, 3]], ["pet", "bird"], class_accuracy=0.5).axes[0]
    assert (grouped.get_xlabel(), grouped.get_ylabel()) == ("predicted group", "true group")
    assert "by class 50.00 %" in grouped.get_title(loc="left")


def test_a_class_of_few_images_has_their_numbers_and_no_percentages():
    ax = plots.confusion([[5, 1], [10, 30]], ["cat", "dog"]).axes[0]
    assert [t.get_text() for t in ax.texts] == ["5 of 6", "1 of 6", "25.0", "75.0"]


@pytest.mark.parametrize("C", [60, 61])
def test_names_of_columns_that_cannot_be_read_are_not_drawn(C):
    names = [f"class {number}" for number in range(C)]
    for ax in (
        plots.similarity(RNG.normal(0.2, 0.01, (C, 3)), names, ["a", "b", "c"]).axes[0],
        plots.clusters(np.eye(C, dtype=int), names).axes[0],
    ):
        assert len(tick_texts(ax.xaxis)) == (C if C <= 60 else 0)
        assert ("61, too many for their names" in ax.get_xlabel()) == (C > 60)


def test_confusion_of_many_classes_shows_the_largest_confusions_by_name():
    counts = 9 * np.eye(100, dtype=int)
    counts[3, 7], counts[7, 3], counts[5, 6] = 4, 1, 2
    ax = plots.confusion(counts, [f"class_{i}" for i in range(100)]).axes[0]
    assert tick_texts(ax.yaxis) == [
        "class_3 as class_7",
        "class_5 as class_6",
        "class_7 as class_3",
    ]
    assert [bar.get_width() for bar in ax.patches] == [4, 2, 1]
    assert ax.texts[0].get_text().strip() == "4 of 13"
    many = plots.confusion(np.ones((41, 41)), odd_names(41)).axes[0]
    assert len(many.patches) == 0  # of 1,640 equal ones, none is named by accident
    assert "1,640 other confusions of at most 1 image" in many.get_title(loc="left")
    counts[10, 11:41] = 2  # ties with the second, so that 20 would cut them
    ax = plots.confusion(counts, [f"class_{i}" for i in range(100)]).axes[0]
    assert tick_texts(ax.yaxis) == ["class_3 as class_7"]
    assert "32 other confusions of at most 2 images" in ax.get_title(loc="left")
    png(plots.confusion(np.eye(41), odd_names(41)))  # without any confusion


def test_of_many_prompts_those_that_differ_the_most_are_shown_by_name():
    prompts = [f"prompt {i}" for i in range(1203)]
    values = np.zeros((1203, 2))
    values[::41, 0] = 0.5
    expected = prompts[::41]
    similarity = plots.similarity(values.T, ["cat", "dog"], prompts)
    assert tick_texts(similarity.axes[0].yaxis) == expected


def test_clusters_are_numbers_below_the_classes_that_they_match():
    names = ["cat", "dog", "owl"]
    ax = plots.clusters([[0, 2, 8, 0], [6, 0, 0, 2], [0, 4, 0, 0]], names).axes[0]
    assert tick_texts(ax.xaxis) == ["2 (cat)", "0 (dog)", "1 (owl)", "3"]
    expected = [[80, 0, 20, 0], [0, 75, 0, 25], [0, 0, 100, 0]]
    np.testing.assert_allclose(ax.images[0].get_array(), expected)
    assert "0.9091" in ax.get_title(loc="left")
    fewer = plots.clusters([[0, 4], [3, 1], [5, 0]], names)
    assert tick_texts(fewer.axes[0].xaxis) == ["1 (cat)", "0 (owl)"]
    without_images = plots.clusters([[3, 0], [0, 0]], names[:2])
    assert tick_texts(without_images.axes[0].xaxis) == ["0 (cat)", "1"]


def test_temperature_falls_on_a_log_axis_and_the_best_point_is_starred():
    fig = plots.temperature([sweep()], 32)
    accuracy, entropy = fig.axes
    for ax in (accuracy, entropy):
        assert ax.get_xscale() == "log"
        assert ax.xaxis_inverted()
    curve, star, _ = accuracy.lines
    np.testing.assert_allclose(curve.get_xydata(), [[0.02, 63], [0.07, 64], [0.5, 51], [1, 29]])
    segments = np.array(accuracy.collections[0].get_segments())  # the intervals
    np.testing.assert_allclose(segments[:, :, 1], [[62, 64], [61, 67], [47, 55], [27, 31]])
    assert star.get_xydata().tolist() == [[0.07, 64.0]]
    assert star.get_marker() == "*"
    assert [t.get_text() for t in accuracy.texts] == ["64.00 %", "svm, C = 1, test"]
    several = plots.temperature([sweep(), sweep("mlp", RNG.random(4) / 2)], 32)
    assert "svm, C = 1, test: 64.0 %" in texts(several)
    assert fig.legends == several.legends == []
    assert tick_texts(entropy.xaxis) == ["1", "0.5", "0.07", "0.02"]


WIDE = ([0.0, 0.4, 0.5, 0.4], [0.2, 0.6, 0.7, 0.6])  # limits of intervals


def test_a_band_covers_the_temperatures_that_the_highest_is_not_decided_against():
    equal = sweep("svm", [0.1, 0.2, 0.2, 0.1])  # at 0.02, 1, 0.07 and 0.5
    _, star, band = plots.temperature([equal]).axes[0].lines
    assert star.get_xdata().tolist() == [0.07, 1]  # a tie
    assert band.get_xdata().tolist() == [0.07]
    wide = Sweep("svm", [4, 3, 2, 1], [0.1, 0.5, 0.6, 0.5], [1] * 4, *WIDE)
    assert plots.temperature([wide]).axes[0].lines[-1].get_xdata().tolist() == [1, 2, 3]


def test_a_sweep_shows_chance_and_its_control_without_a_star():
    numbers = ([1, 2], [0.3, 0.2], [1, 1], [0.2, 0.1], [0.4, 0.3])
    control = Sweep("untrained a", *numbers, chance=0.25, is_control=True)
    fig = plots.temperature([Sweep("a", *numbers, chance=0.25), control])
    lines = fig.axes[0].lines
    assert [line.get_marker() for line in lines].count("*") == 1
    (control,) = [line for line in lines if line.get_linestyle() == "--"]
    assert control.get_markerfacecolor() == "white"
    assert lines[-1].get_ydata() == [25, 25]


def test_an_entropy_that_all_sweeps_share_is_one_line_below_its_maximum():
    shared = plots.temperature([sweep("svm"), sweep("logreg")], 32).axes[1]
    assert len(shared.lines) == 2
    assert shared.lines[1].get_ydata() == pytest.approx([math.log(32)] * 2)
    assert shared.get_ylim()[0] < 2.8957 < math.log(32) < shared.get_ylim()[1]
    other = sweep("other prompts", entropy=[1.0, 2.0, 3.0, 3.0])
    assert len(plots.temperature([sweep("svm"), other], 32).axes[1].lines) == 3


def test_points_of_several_curves_at_one_x_are_set_apart_in_order():
    sweeps = [sweep(f"{i}") for i in range(20)]
    ax = plots.temperature(sweeps).axes[0]
    curves = np.array([line.get_xdata() for line in ax.lines[::3]])
    assert (np.diff(curves, axis=0) < 0).all()  # τ falls to the right
    logs = np.log(curves)
    assert (logs[0, :-1] < logs[-1, 1:]).all()  # no curve reaches the next temperature
    np.testing.assert_allclose(logs.mean(axis=0), np.log(sorted(TAU)), atol=1e-12)
    low, high = sorted(ax.get_xlim())
    assert low < curves.min() < curves.max() < high
    for bars, x in zip(ax.collections, curves, strict=True):
        np.testing.assert_allclose(np.array(bars.get_segments())[:, 0, 0], x)

    draws = [plots.ShotCurve(f"{i}", [1, 2], [0.1, 0.2], [0, 0.1], [0.2, 0.3]) for i in range(2)]
    left, right = (line.get_xdata() for line in plots.shots(draws).axes[0].lines)
    assert (left < [1, 2]).all()
    assert (right > [1, 2]).all()


def test_near_maximal_entropies_are_shown_as_their_distance_from_the_maximum():
    near = math.log(32) - np.linspace(1e-4, 2e-4, 100)
    ax = plots.entropy({1.0: near}, 32).axes[0]
    assert ax.xaxis_inverted()  # the maximum stays on the right
    assert first_x(ax.lines) == pytest.approx([1.5, 0])
    assert max(map(len, tick_texts(ax.xaxis))) <= 5


def test_entropy_panels_fall_in_temperature_and_share_an_axis():
    values = {0.02: 1 + RNG.random(500), 1.0: np.full(500, 3.4656), 0.07: 3 + RNG.random(500) / 9}
    fig = plots.entropy(values, 32)
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["τ = 1", "τ = 0.07", "τ = 0.02"]
    assert fig.axes[1].get_xlim() == fig.axes[2].get_xlim()
    edges = fig.axes[1].patches[0].get_data().edges
    np.testing.assert_allclose(np.diff(edges), edges[1] - edges[0])
    for ax, tau in zip(fig.axes[1:], (0.07, 0.02), strict=True):
        assert first_x(ax.lines) == pytest.approx([values[tau].mean(), math.log(32)])
        data = ax.patches[0].get_data()
        np.testing.assert_array_equal(data.edges, edges)
        expected = np.histogram(values[tau], edges)[0] / 5  # percent of 500
        np.testing.assert_allclose(data.values, expected)
        low, high = ax.get_xlim()
        assert low < values[tau].min()
        assert math.log(32) < high


def test_a_panel_whose_values_lie_in_one_bin_has_an_axis_of_its_own():
    flat = 3.45 + RNG.random(500) / 100
    top, bottom = plots.entropy({1.0: flat, 0.02: 3 * RNG.random(500)}, 32).axes
    assert top.get_xlabel() != bottom.get_xlabel()
    assert np.count_nonzero(top.patches[0].get_data().values) > 20
    low, high = top.get_xlim()
    assert high - low < 0.02
    assert low < flat.min()
    assert math.log(32) < high  # the bound is close, so it is shown
    sharp = 0.99 + RNG.random(500) / 200
    top, bottom = plots.confidence({0.1: RNG.random(500), 0.01: sharp}, 32).axes
    assert bottom.get_xlim()[0] > 90  # the bound is far away


def test_confidence_marks_one_over_k():
    values = {1.0: 1 / 32 + RNG.random(500) / 300, 0.02: 0.2 + RNG.random(500) / 2}
    flat, sharp = plots.confidence(values, 32).axes
    assert not flat.xaxis_inverted()
    assert first_x(flat.lines) == pytest.approx([100 * (values[1.0].mean() - 1 / 32), 0])
    assert first_x(sharp.lines) == pytest.approx([100 * values[0.02].mean(), 3.125])


def test_logits_are_dots_in_a_row_per_prompt():
    cosines = [[0.1, 0.3], [0.2, np.nan]]
    ax = plots.logits(cosines, ["cat", "dog"], ["a pet", "a wing"]).axes[0]
    assert tick_texts(ax.yaxis) == ["a pet", "a wing"]
    assert ax.yaxis_inverted()
    assert [line.get_linestyle() for line in ax.lines] == ["None", "None"]
    np.testing.assert_array_equal([line.get_xdata() for line in ax.lines], cosines)
    rows = np.array([line.get_ydata() for line in ax.lines])
    assert (rows[0] < rows[1]).all()  # apart, but nearest to their row
    assert (np.abs(rows - [0, 1]) < 0.5).all()


def test_of_many_prompts_the_forty_that_differ_the_most_are_drawn_in_their_order():
    prompts = [f"a photo of thing {i}" for i in range(60)]
    rising = np.arange(60) / 100
    fig = plots.logits([rising, -rising], ["cat", "dog"], prompts)
    assert tick_texts(fig.axes[0].yaxis) == prompts[20:]
    alone = plots.logits([-rising], ["cat"], prompts)
    assert tick_texts(alone.axes[0].yaxis) == prompts[:40]


def test_similarity_has_one_row_per_prompt_and_can_be_centred_on_its_mean():
    means = np.array([[0.1, 0.2, 0.3], [0.2, 0.2, np.nan]])
    names, prompts = ["cat", "dog"], ["p", "q", "r"]
    ax = plots.similarity(means, names, prompts).axes[0]
    np.testing.assert_allclose(ax.images[0].get_array().filled(np.nan), means.T)
    assert (tick_texts(ax.xaxis), tick_texts(ax.yaxis)) == (names, prompts)
    image = plots.similarity(means, names, prompts, centred=True).axes[0].images[0]
    expected = [[-0.05, 0.05], [0, 0], [0, np.nan]]
    np.testing.assert_allclose(image.get_array().filled(np.nan), expected, atol=1e-15)
    assert image.get_clim() == pytest.approx((-0.05, 0.05))


def test_classes_are_sorted_and_the_mean_is_marked():
    f1, support = [0.2, np.nan, 0.9, 0.4], [10, 0, 2000, 5]
    ax = plots.classes(f1, ["a", "b", "c", "d"], support=support).axes[0]
    assert tick_texts(ax.yaxis) == ["c (2,000)", "d (5)", "a (10)"]
    assert ax.yaxis_inverted()  # best on top
    assert [bar.get_width() for bar in ax.patches] == [0.9, 0.4, 0.2]
    assert first_x(ax.lines) == pytest.approx([0.5])
    assert "1 without images" in ax.get_title(loc="left")


@pytest.mark.long
def test_of_many_classes_the_fifteen_best_and_worst_are_shown():
    names = [f"class_{i}" for i in range(100)]
    fig = plots.classes(np.arange(100) / 100, names, support=[1] * 100)
    best, worst = names[:-16:-1], names[14::-1]
    labels = tick_texts(fig.axes[0].yaxis)
    assert labels[:15] + labels[16:] == [f"{name} (1)" for name in best + worst]
    assert labels[15] == "70 classes between"
    thirty = plots.classes(np.arange(30) / 100, names[:30], support=[1] * 30)
    assert len(thirty.axes[0].patches) == 30


def test_of_classes_with_equal_f1_none_is_shown_by_accident():
    names = [f"class_{i}" for i in range(100)]
    f1 = np.ones(100)
    f1[:39] = 0
    f1[39:60] = np.linspace(0.1, 0.9, 21)
    ax = plots.classes(f1, names, support=[1] * 100).axes[0]
    labels, numbers = tick_texts(ax.yaxis), [text.get_text() for text in ax.texts]
    assert (labels[0], numbers[0]) == ("40 classes, each", "1.00")
    assert (labels[-1], numbers[-1]) == ("39 classes, each", "0.00")
    assert labels[1:-1] == [f"class_{i} (1)" for i in range(59, 38, -1)]
    f1[45:75] = 0.5  # a tie that the fifteen best would cut
    labels = tick_texts(plots.classes(f1, names, support=[1] * 100).axes[0].yaxis)
    assert not {f"class_{i} (1)" for i in range(45, 75)} & set(labels)
    equal = plots.classes(np.full(100, 0.5), names, support=[1] * 100).axes[0]
    assert tick_texts(equal.yaxis) == ["100 classes, each"]


def test_the_line_of_the_mean_runs_through_no_number():
    fig = plots.classes([0.9, 0.5, 0.48, 0.1], list("abcd"), support=[1] * 4)
    png(fig)
    (ax,) = fig.axes
    mean = ax.lines[0].get_window_extent()
    for text in ax.texts:
        assert not mean.overlaps(text.get_window_extent())


def test_compared_results_share_the_lines_of_groups_the_worst_of_the_first_at_the_top():
    accuracy = np.array([[[0.9, 0.8, 1.0], [0.5, 0.4, 0.6]], [[0.7, 0.6, 0.8], [0.6, 0.5, 0.7]]])
    difference = np.array([[[0.2, 0.1, 0.3], [-0.1, -0.2, 0.0]]])
    fig = plots.compare(accuracy, difference, ["a", "b"], groups=["x", "y"], null5=[0.55, np.nan])
    left, right = fig.axes
    assert tick_texts(left.yaxis) == ["y", "x"]
    points = {
        line.get_color(): line.get_xdata() for line in left.lines if line.get_marker() != "None"
    }
    np.testing.assert_allclose(list(points.values()), [[50, 90], [60, 70]])
    np.testing.assert_allclose(right.lines[0].get_xdata(), [-10, 20])
    assert [text.get_text() for text in left.texts] == ["a", "b"]
    assert fig.legends == []
    assert 55 in [pytest.approx(x) for x in first_x(left.lines)]
    assert len(plots.compare([[[0.5, 0.4, 0.6]]], [], ["a"]).axes) == 1


def test_two_models_are_named_above_their_dots_on_the_sides_where_these_are():
    low, high = ([0.2], [0.2], [0.2]), ([0.9], [0.9], [0.9])
    for first, second, sides in ((low, high, ["right", "left"]), (high, low, ["left", "right"])):
        pair = {"words": (Points(*first), Points(*second))}
        fig = plots.dumbbells(["hue"], pair, {"words": [True]}, ("a", "b"), chance=[0.1])
        (ax,) = fig.axes
        assert [text.get_text() for text in ax.texts] == ["a", "b"]
        assert [text.get_ha() for text in ax.texts] == sides
        assert ax.get_title("left") == "filled: decided; empty: not decided; strokes: chance"
        assert fig.legends == []
    pair["words"][0].values[0] = np.nan
    fig = plots.dumbbells(["hue"], pair, {"words": [False]}, ("a", "b"))
    assert len(fig.legends) == 1


def test_spectrum_is_logarithmic_and_marks_the_effective_rank():
    fig = plots.spectrum({"generic32": [1, 100, 10, 0]}, {"generic32": 1.5})
    ax = fig.axes[0]
    assert ax.get_yscale() == "log"
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [100, 10, 1, np.nan])
    assert ax.lines[1].get_xydata()[0] == pytest.approx([1.5, 10**1.5])


def test_a_contact_sheet_places_every_image_under_its_title():
    images = RNG.integers(0, 255, (20, 4, 8, 3), np.uint8)
    names = list("abcdefghijklmnopqrst")
    ax = plots.contact_sheet(images, names).axes[0]
    assert [t.get_text() for t in ax.texts] == names
    for image, drawn in zip(images, ax.images, strict=True):
        np.testing.assert_array_equal(drawn.get_array(), image)
    left, _, _, top = np.transpose([drawn.get_extent() for drawn in ax.images])
    assert (len(set(left)), len(set(top))) == (8, 3)
    assert all(text.get_position()[1] < y for text, y in zip(ax.texts, top, strict=True))


def test_names_that_look_alike_have_their_numbers_in_front():
    names = ["crane", "cock", "crane", "x" * 30 + "1", "x" * 30 + "2"]
    labels = tick_texts(plots.confusion(np.eye(5), names).axes[0].yaxis)
    long = "x" * 23 + "…"
    assert labels == ["0: crane", "cock", "2: crane", f"3: {long}", f"4: {long}"]
    fig = plots.logits(np.zeros((4, 2)), ["x" * 90 + "1", "x" * 90 + "2", "cat", "cat"], ["p", "q"])
    assert len({text.get_text() for text in fig.legends[0].get_texts()}) == 4


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
@pytest.mark.usefixtures("low_resolution")
@pytest.mark.long
def test_names_of_any_script_are_drawn_without_a_warning(ending, tmp_path):
    names = ["عربي", "עברית", "हिन्दी", "😀", "\u202eabc", "\ud800", "\ufeff", "a\tb"]
    names.append("e" + "\u0301" * 30)
    fig = plots.confusion(np.eye(len(names)), names, title="\u2028".join(names))
    plots.save(fig, tmp_path / f"p.{ending}")  # pytest makes a warning an error


@pytest.mark.long
def test_a_figure_does_not_grow_without_end(tmp_path):
    many = plots.temperature([sweep(f"{i}", RNG.random(4)) for i in range(99)])
    assert len(many.legends[0].get_texts()) == 60
    with pytest.raises(UsageError, match="expected at most 20 temperatures to draw, got 21"):
        plots.entropy({0.1 + i: [0.5] for i in range(21)}, 32)
    matrix = plots.confusion(RNG.random((30, 30)), [str(i) for i in range(30)])
    assert not matrix.axes[0].texts
    assert matrix.get_size_inches().max() < 25


def test_a_large_png_has_fewer_dots(tmp_path):
    fig = Figure(figsize=(40, 30))
    plots.save(fig, tmp_path / "large.png")
    with Image.open(tmp_path / "large.png") as image:
        assert math.prod(image.size) == pytest.approx(12e6, rel=1e-3)


# -- subtitle, size and resolution ---------------------------------------------------------------

SOURCE = "untrained clip-vit-base-patch32 on shapes, test, prompts: a photo of a {}, 2,000 images"


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.long
@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.usefixtures("low_resolution")
def test_a_subtitle_stands_between_title_and_axes_and_nothing_overlaps(name):
    fig = EXAMPLES[name]()
    width, height = fig.get_size_inches()
    plots.finish(fig, SOURCE)
    assert SOURCE in " ".join(texts(fig)).replace("\n", " ")
    assert fig.get_figwidth() == width
    assert fig.get_figheight() > height
    assert plots.overlapping_texts(fig) == []
    subtitle = fig.texts[-1].get_window_extent()
    assert subtitle.x1 <= fig.bbox.x1
    for ax in fig.axes:
        assert ax.get_tightbbox().y1 < subtitle.y0


@pytest.mark.long
def test_a_chosen_size_is_the_size_of_the_picture_and_everything_is_wrapped_to_it(tmp_path):
    fig = plots.temperature([sweep("s" * 60), sweep("_t")], 32, title="a long title " * 9)
    plots.finish(fig, SOURCE, (5, 6.5))
    plots.save(fig, tmp_path / "p.webp", dpi=40)
    with Image.open(tmp_path / "p.webp") as image:
        assert image.size == (200, 260)
    assert plots.overlapping_texts(fig) == []
    for artist in (*fig.texts, *fig.legends[0].get_texts()):
        assert artist.get_window_extent().x1 <= fig.bbox.x1


@pytest.mark.parametrize("size", [(1, 5), (5, 41), (np.nan, 5), (2, 2)])
def test_a_size_that_cannot_be_drawn_is_a_usage_error(size):
    fig = plots.confusion(np.eye(12), ["a name of a class"] * 12, title="A title " * 5)
    with pytest.raises(UsageError, match=r"expected (sides of 2 to 40|a size with room)"):
        plots.finish(fig, SOURCE, size)


@pytest.mark.parametrize(
    ("size", "dpi", "ending", "message"),
    [
        ((3, 2), 19, "png", "dpi: expected 20 to 1,200, got 19"),
        ((3, 2), np.nan, "jpg", "dpi: expected 20 to 1,200, got nan"),
        ((9, 9), 1200, "png", "at most 50 million pixels, got 9.0 x 9.0 inches at 1200 dots per"),
        ((30, 2), 600, "webp", "at most 16,383 pixels in a .webp, got 18,000"),
    ],
)
def test_a_resolution_that_cannot_be_saved_is_a_usage_error(size, dpi, ending, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        plots.save(Figure(figsize=size), tmp_path / f"p.{ending}", dpi=dpi)
    assert not list(tmp_path.iterdir())


def test_characters_that_no_font_has_are_named_in_one_warning(tmp_path, capsys):
    fig = plots.confusion([[2, 0], [0, 2]], ["猫 cat", "犬"])
    fig.suptitle("猫")
    for text in fig.findobj(Text):
        text.set_fontfamily("DejaVu Sans")  # whatever fonts there are
    plots.save(fig, tmp_path / "x.png")
    (line,) = capsys.readouterr().err.splitlines()
    assert "no font that clipkit uses has them" in line
    assert "猫" in line
    assert "犬" in line
    assert "hint: install" in line
    plots.save(plots.confusion([[2, 0], [0, 2]], ["cat", "dog"]), tmp_path / "y.png")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("family", "text"), [("Noto Sans CJK JP", "猫と犬"), ("Noto Sans Devanagari", "हिन्दी")]
)
def test_an_installed_font_draws_what_the_first_one_lacks(family, text, tmp_path, capsys):
    if family not in fontManager.get_font_names():
        pytest.skip(f"{family} is not installed")
    plots.save(plots.confusion([[2, 0], [0, 2]], [text, "cat"]), tmp_path / "x.svg")
    assert capsys.readouterr().err == ""
