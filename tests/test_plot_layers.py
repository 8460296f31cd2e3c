"""`clipkit plot layers`: which results make which lines, what is drawn, and what is refused."""

import numpy as np
import pytest
from factories import saved
from factories.results import LAYER_LABELS
from factories.results import layer_result as result
from shell import ok

from clipkit import plots
from clipkit.analysis.layer_curves import layer_curves
from clipkit.base.errors import ClipkitError
from clipkit.plots import LayerCurve, LayerPoints
from clipkit.plots.layers import draw_layers
from clipkit.report import expected
from clipkit.statistics.metrics import wilson


def line(*correct, **settings):
    """Return results of layers 0, 1, ..."""
    return [result(number, layer, **settings) for layer, number in enumerate(correct)]


COLOURS = {"column": "colour"}


def curve_of(files):
    """Return the only line of some results, and the source of the picture."""
    ((curve,), source) = layer_curves(files)
    return curve, source


def test_a_line_has_the_accuracy_of_each_layer_with_wilsons_interval():
    files = [result(15, 4), result(5, 0), result(10, 2)]  # in no order
    curve, source = curve_of(files)
    points = curve.trained
    assert (curve.label, curve.depth) == ("m", 4)
    splits = [file.splits["test"] for file in files]
    permuted = [(one.predicted[0][:, None] == one.labels).mean() for one in splits]
    assert curve.chance == pytest.approx(max(permuted))
    assert points.layers == [0, 2, 4]
    assert points.values == (0.25, 0.5, 0.75)
    intervals = [wilson(accuracy, 20) for accuracy in points.values]
    assert [*zip(points.low, points.high, strict=True)] == intervals
    assert source == "m on shapes, test, CLS token, labels: classes, svm"


def test_the_untrained_control_and_the_embeddings_belong_to_the_line_of_their_model():
    files = [*line(5, 15), *line(4, 6, untrained=7), result(18), result(7, untrained=7)]
    curve, source = curve_of(files)
    assert (curve.control.values, curve.control.seeds) == ((0.2, 0.3), 1)
    assert curve.trained.embedding == (0.9, *wilson(0.9, 20))
    assert curve.control.embedding == (0.35, *wilson(0.35, 20))
    assert source.startswith("m and untrained m on shapes, test")
    control = curve_of([*files, *line(8, 6, untrained=8)])[0].control
    assert control.seeds == 2
    assert control.values == pytest.approx((0.3, 0.3))
    assert (control.low, control.high) == ((0.2, 0.3), (0.4, 0.3))


def test_an_embedding_belongs_to_the_lines_of_all_poolings_but_only_of_its_labels():
    lines = [*line(5, 15), *line(6, 7, pool="mean"), *line(1, 2, relabel=COLOURS)]
    curves, _ = layer_curves([*lines, result(18)])
    embeddings = [curve.trained.embedding for curve in curves]
    assert embeddings == [(0.9, *wilson(0.9, 20))] * 2 + [None]


@pytest.mark.parametrize(
    ("others", "labels"),
    [
        ({"name": "org/n"}, ["m", "n"]),
        ({"pool": "mean"}, ["CLS token", "mean of patches"]),
        ({"classifier": "knn"}, ["svm", "knn"]),
        ({"C": 0.1}, ["C 1.0", "C 0.1"]),
        ({"relabel": COLOURS}, ["classes", "colour"]),
        ({"relabel": {"shuffle": True}}, ["classes", "classes, shuffled"]),
        ({"relabel": {"inputs": {"groups": "x"}}}, ["classes", "groups of classes"]),
        ({"name": "org/n", "pool": "mean"}, ["m, CLS token", "n, mean of patches"]),
    ],
)
def test_lines_are_named_by_what_differs(others, labels):
    curves, source = layer_curves([*line(5, 15), *line(6, 7, **others)])
    assert [curve.label for curve in curves] == labels
    assert not set(labels) & set(source.split(", "))


def test_accuracies_of_a_result_by_groups_are_those_of_its_rows():
    """`relabel --groups` adds its entry after that of `probe`."""
    files = line(5, 15)
    for file in files:
        file.history.append({"command": "relabel", "inputs": {"groups": "sha256:1"}})
    curve, source = curve_of(files)
    assert curve.trained.values == (0.25, 0.75)
    assert "labels: groups of classes" in source


def recalls(layer, eval_split="test", rows="ab", **recall):
    """Return a result of `attributes` with a recall of each. That of the control is half of it."""
    file = result(5, layer)
    file.history[0]["dataset"]["splits"] = {"test": {"rows": rows}}
    runs = []
    for name, value in recall.items():
        row = {"attribute": name, "chance": 0.1, "reach": np.nan}
        for column, number in (("probe", value), ("control", value / 2)):
            row |= {column: number, f"{column}_low": number - 0.05, f"{column}_high": number}
        for column in ("zeroshot", "random"):
            row |= {column: np.nan, f"{column}_low": np.nan, f"{column}_high": np.nan}
        row |= {"other_words": np.nan, "other_words95": np.nan}
        runs.append(row)
    file.splits = {}
    file.history[-1] = {"command": "attributes", "eval_split": eval_split}
    file.set_rows(runs)
    return file


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ([result(5)], "lNone.h5"),
        ([*line(5, 6), result(9, name="org/n")], "lNone.h5"),
        ([*line(5, 6), result(9, projection="none")], "lNone.h5"),
        ([result(5, 5)], "l5.h5"),
        ([result(5, True)], "layer True of 4"),
        ([*line(5, 6), result(5, 1)], "l1.h5"),
        ([*line(5, 6), result(5), result(5)], "lNone.h5"),
        ([result(5, 0), result(5, 1, dataset="digits")], "results on shapes"),
        ([result(5, 0), result(5, 1, labels=1 - LAYER_LABELS)], "l1.h5"),
        ([result(5, 0), result(5, 1, weights="sha256:other")], "l1.h5"),
        ([result(5, 0), result(5, 1, layers=6)], "l1.h5"),
        ([result(5, 0, runs=2)], "l0.h5"),
        ([result(5, 0), result(5, 1, split="val")], "l1.h5"),
        ([recalls(0, hue=0.2), result(5, 1)], "probe or of attributes, got both"),
        ([recalls(0, hue=0.2), recalls(1, "val", hue=0.2)], "l1.h5"),
        ([recalls(0, hue=0.2), recalls(1, hue=0.2, rows="cd")], "l1.h5"),
    ],
)
def test_what_does_not_belong_into_one_picture_is_refused(files, name):
    with pytest.raises(ClipkitError, match=name):
        layer_curves(files)


def test_recalls_of_attributes_have_a_line_each_with_the_control_beside_it():
    files = [recalls(0, hue=0.2, size=0.4), recalls(2, hue=0.6, size=0.8), recalls(None, hue=0.5)]
    (first, second), source = layer_curves(files)
    assert (first.label, second.label) == ("hue", "size")
    assert first.trained.layers == [0, 2]
    assert first.trained.values == first.trained.high == (0.2, 0.6)
    assert first.trained.low == pytest.approx((0.15, 0.55))
    assert first.trained.embedding == (0.5, 0.45, 0.5)
    assert first.control.values == (0.1, 0.3)
    assert second.trained.embedding is None
    assert first.chance == second.chance == 0.1
    assert source == "m on shapes, test, CLS token"


def asked(layer, at, **members):
    """Return recalls of a generative model's layer, or of what it says with a recall of 0.3."""
    file = recalls(layer, hue=0.5)
    model = file.history[0]["model"]
    model.pop("pool", None)
    model |= {"at": at, "question": "Which hue?", **members}
    if members:
        file.runs |= {f"zeroshot{end}": np.array([0.3]) for end in ("", "_low", "_high")}
    return file


def test_what_a_generative_model_says_is_a_star_beside_what_its_last_token_holds():
    files = [asked(layer, at) for at in ("last", "image") for layer in (0, 4)]
    files.append(asked(None, "last", similarity="dot product"))
    (last, image), source = layer_curves(files)
    assert (last.label, image.label) == ("last token", "image tokens")
    assert (last.trained.said, image.trained.said) == ((0.3, 0.3, 0.3), None)
    assert (last.trained.embedding[0], image.trained.embedding) == (0.5, None)
    assert source == 'm on shapes, test, "Which hue?", labels: hue'
    figure = plots.layers([last, image])
    assert figure.axes[0].get_title("left").endswith("star: what the model says")


def points(*values, **fields):
    layers = range(len(values))
    low, high = ([value + add for value in values] for add in (-0.05, 0.05))
    return LayerPoints(layers, values, low, high, **fields)


def test_a_control_is_dashed_in_the_colour_of_its_model():
    curves = [
        LayerCurve("class", 2, 0.1, points(0.1, 0.3, 0.9), points(0.1, 0.1, 0.2)),
        LayerCurve("colour", 2, 0.2, points(0.2, 0.7, 0.6)),
    ]
    fig = plots.layers(curves)
    (ax,) = fig.axes
    first, control, second, *chances = ax.lines
    assert first.get_color() == control.get_color() == chances[0].get_color()
    assert second.get_color() == chances[1].get_color() != first.get_color()
    assert [each.get_linestyle() for each in ax.lines] == ["-", "--", "-", ":", ":"]
    assert control.get_markerfacecolor() == "white"
    np.testing.assert_allclose(first.get_ydata(), [10, 30, 90])
    assert [each.get_ydata()[0] for each in chances] == [10, 20]
    assert [text.get_text() for text in ax.texts] == ["class: 90.0 %", "colour: 70.0 %"]
    assert "dashed: untrained control; dotted: chance" in ax.get_title("left")
    wide = plots.layers([curve._replace(label=f"{curve.label} {'long ' * 12}") for curve in curves])
    of_class, of_colour = wide.legends[0].get_texts()
    assert "90.00 % at layer 2" in of_class.get_text()
    assert "70.00 % at layer 1" in of_colour.get_text()
    x = np.array([each.get_xdata() for each in (first, control, second)])
    assert (np.diff(x, axis=0) > 0).all()
    np.testing.assert_allclose(x.mean(axis=0), [0, 1, 2], atol=1e-12)
    assert np.ptp(x, axis=0).max() < 0.5  # no line reaches the next layer


def test_intervals_and_embeddings_are_drawn():
    trained = points(0.1, 0.5, embedding=(0.7, 0.6, 0.8))
    (ax,) = plots.layers([LayerCurve("m", 1, 0.1, trained, points(0.1, 0.1, seeds=2))]).axes
    bars, control_bars, mark, interval = ax.collections
    np.testing.assert_allclose(np.array(bars.get_segments())[:, :, 1], [[5, 15], [45, 55]])
    np.testing.assert_allclose(np.array(control_bars.get_segments())[:, :, 1], [[5, 15]] * 2)
    ((left, right),) = mark.get_segments()
    assert left[1] == right[1] == 70
    ((low, high),) = interval.get_segments()
    assert [low[1], high[1]] == pytest.approx([60, 80])
    assert max(1, left[0]) < low[0] < right[0]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "1", "embedding"]


@pytest.mark.parametrize(("depth", "last", "count"), [(4, 4, 5), (12, 12, 13), (27, 26, 14)])
@pytest.mark.long
def test_layers_are_labelled_where_there_is_room(depth, last, count):
    fig = plots.layers([LayerCurve("m", depth, 0.1, points(*np.linspace(0, 1, depth + 1)))])
    ticks = fig.axes[0].get_xticks()
    assert (len(ticks), ticks[-1]) == (count, last)
    plots.finish(fig, "subtitle")
    assert plots.overlapping_texts(fig) == []


def test_models_of_different_depth_are_drawn_by_the_share_of_their_depth():
    small, large = (LayerCurve("m", depth, 0.1, points(*[0.1] * depth, 0.3)) for depth in (2, 4))
    (ax,) = plots.layers([small, large]).axes
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0, 50, 100], atol=1)
    np.testing.assert_allclose(ax.lines[1].get_xdata(), [0, 25, 50, 75, 100], atol=1)


def test_the_title_of_several_lines_says_where_each_is_highest():
    files = [recalls(layer, hue=0.2 * layer, tone=0.3) for layer in (1, 2)]
    title = plots.title_of(draw_layers(files)[0])
    assert title == "hue: 40.00 % at layer 2, best of 2; tone: 30.00 % at each of 2"


@pytest.mark.long
def test_the_command_draws_files_and_says_what_its_numbers_are(tmp_path):
    accuracies = [*line(5, 15), result(18)]
    for word, files in (("accuracy", accuracies), ("recall", [recalls(1, hue=0.2)])):
        paths = [saved(tmp_path / f"{number}.h5", file) for number, file in enumerate(files)]
        ok("plot", "layers", *paths, "-f", "-o", tmp_path / "p.svg")
        assert word in (tmp_path / "p.svg").read_text()


# Results at several sizes of images


def at_size(correct, size, **settings):
    file = result(correct, **settings)
    if size is not None:
        file.history[0]["dataset"]["downsample"] = size
    return file


def test_layers_at_two_sizes_have_a_curve_per_size():
    files = [at_size(n, 16, layer=n) for n in (1, 2)] + [result(n + 3, layer=n) for n in (1, 2)]
    curves, _ = layer_curves(files)
    assert [curve.trained.values for curve in curves] == [(0.05, 0.1), (0.2, 0.25)]
    assert curves[0].label == "images of 16 pixels"


def test_a_row_without_a_size_fits_no_images_that_were_made_smaller():
    where = {"command": "probe", "dataset": "shapes"}
    named = {"native.h5": at_size(5, None), "small.h5": at_size(5, 16)}
    for more, name in (({}, "native.h5"), ({"downsample": "16"}, "small.h5")):
        figure = expected.Figure("section", "", {**where, **more}, "acc1", 0.25, "", "")
        blocks, _ = expected.compare_figures([figure], named, "t.tsv")
        assert blocks[-1].sources == [name]
