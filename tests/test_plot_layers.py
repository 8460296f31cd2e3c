"""`clipkit plot layers`: which results make which lines, what is drawn, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from factories import result_file, saved
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from shell import fails, ok

from clipkit import plots
from clipkit.analysis.metrics import wilson
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.features import FeatureFile
from clipkit.plots import LayerCurve, LayerPoints
from clipkit.plots.layer_curves import layer_curves

N = 20
LABELS = np.repeat([0, 1], [12, 8])


def result(
    correct: int = 10,
    layer: int | None = None,
    *,
    layers: int = 4,
    name: str = "org/m",
    untrained: int | None = None,
    pool: str = "cls",
    relabel: dict[str, Any] | None = None,
    labels: Any = LABELS,
    dataset: str = "shapes",
    classifier: str = "svm",
    C: float = 1.0,
    runs: int = 1,
    split: str = "test",
    **members: Any,
) -> FeatureFile:
    """Return a result of a probe with a number of correct predictions, of N."""
    model: dict[str, Any] = {"name": name, "weights": f"sha256:{name}{untrained}", **members}
    if layer is not None:
        model |= {"layer": layer, "layers": layers, "pool": pool, "norm": False}
    if untrained is not None:
        model["untrained"] = untrained
    history: list[dict[str, Any]] = [
        {"command": "embed", "model": model, "dataset": {"name": dataset}}
    ]
    if relabel is not None:
        history.append({"command": "relabel", **relabel})
    history.append({"command": "probe", "classifier": classifier, "C": [C], "clipkit": "1"})
    predicted = np.where(np.arange(N) < correct, labels, 1 - np.asarray(labels))
    row = {"classifier": classifier, "C": C, "eval_split": split, "acc1": correct / N}
    file = result_file([row] * runs, labels, [predicted] * runs, history, ["cat", "dog"])
    file.splits = {split: file.splits["test"]}
    file.display_name = f"{'' if untrained is None else 'untrained/'}l{layer}.h5"
    return file


def line(*correct: int, **settings: Any) -> list[FeatureFile]:
    """Return results of layers 0, 1, ..."""
    return [result(number, layer, **settings) for layer, number in enumerate(correct)]


COLOURS = {"column": "colour"}


def curve_of(files: list[FeatureFile]) -> tuple[LayerCurve, str]:
    """Return the only line of some results, and the source of the picture."""
    ((curve,), source) = layer_curves(files)
    return curve, source


def test_a_line_has_the_accuracy_of_each_layer_with_wilsons_interval():
    curve, source = curve_of([result(15, 4), result(5, 0), result(10, 2)])  # in no order
    points = curve.trained
    assert (curve.label, curve.depth, curve.chance) == ("m", 4, 12 / N)
    assert points.layers == [0, 2, 4]
    assert points.values == (0.25, 0.5, 0.75)
    intervals = [wilson(accuracy, N) for accuracy in points.values]
    assert [*zip(points.low, points.high, strict=True)] == intervals
    assert source == "m on shapes, test, CLS token, labels: classes, svm"


def test_the_untrained_control_and_the_embeddings_belong_to_the_line_of_their_model():
    files = [*line(5, 15), *line(4, 6, untrained=7), result(18), result(7, untrained=7)]
    curve, source = curve_of(files)
    assert (curve.control.values, curve.control.seeds) == ((0.2, 0.3), 1)
    assert curve.trained.embedding == (0.9, *wilson(0.9, N))
    assert curve.control.embedding == (0.35, *wilson(0.35, N))
    assert source.startswith("m and untrained m on shapes, test")


def test_an_embedding_belongs_to_the_lines_of_all_poolings_but_only_of_its_labels():
    lines = [*line(5, 15), *line(6, 7, pool="mean"), *line(1, 2, relabel=COLOURS)]
    curves, _ = layer_curves([*lines, result(18)])
    embeddings = [curve.trained.embedding for curve in curves]
    assert embeddings == [(0.9, *wilson(0.9, N))] * 2 + [None]


def test_several_controls_are_drawn_as_their_mean_and_range():
    controls = [*line(4, 6, untrained=7), *line(8, 6, untrained=8)]
    control = curve_of([*line(5, 15), *controls])[0].control
    assert control.seeds == 2
    assert control.values == pytest.approx((0.3, 0.3))
    assert (control.low, control.high) == ((0.2, 0.3), (0.4, 0.3))


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


ANOTHER = "l1.h5: expected the model of l0.h5, got another one of the same name"


NO_LAYER = "lNone.h5: expected a result of a model's layer, got one without"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([result(5)], NO_LAYER),
        ([*line(5, 6), result(9, name="org/n")], NO_LAYER),
        ([*line(5, 6), result(9, projection="none")], NO_LAYER),
        ([result(5, 5)], "l5.h5: expected a layer of a model, got layer 5 of 4"),
        ([result(5, True)], "expected a layer of a model, got layer True of 4"),
        ([*line(5, 6), result(5, 1)], "l1.h5: expected one result of layer 1 for a line, got also"),
        ([*line(5, 6), result(5), result(5)], "lNone.h5: expected one result of the embedding for"),
        ([result(5, 0), result(5, 1, dataset="digits")], "expected results on shapes, got one on"),
        ([result(5, 0), result(5, 1, labels=1 - LABELS)], "l1.h5: expected the test images and la"),
        ([result(5, 0), result(5, 1, weights="sha256:other")], ANOTHER),
        ([result(5, 0), result(5, 1, layers=6)], ANOTHER),
        ([result(5, 0, runs=2)], "l0.h5: expected one run on test, got 2"),
        ([result(5, 0), result(5, 1, split="val")], "unknown split of l1.h5 'test'"),
    ],
)  # fmt: skip
def test_what_does_not_belong_into_one_picture_is_refused(files, message):
    with pytest.raises(ClipkitError) as caught:
        layer_curves(files)
    assert message in caught.value.message


def recalls(layer: int | None, eval_split: str = "test", **recall: float) -> FeatureFile:
    """Return a result of `attributes` with a recall of each. That of the control is half of it."""
    file = result(5, layer)
    rows = []
    for name, value in recall.items():
        row = {"attribute": name, "chance": 0.1, "reach": np.nan}
        for column, number in (("probe", value), ("control", value / 2)):
            row |= {column: number, f"{column}_low": number - 0.05, f"{column}_high": number}
        for column in ("zeroshot", "random"):
            row |= {column: np.nan, f"{column}_low": np.nan, f"{column}_high": np.nan}
        rows.append(row)
    file.splits = {}
    file.history[-1] = {"command": "attributes", "eval_split": eval_split}
    file.set_rows(rows)
    return file


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


@pytest.mark.parametrize("word", ["recall", "accuracy"])
def test_the_picture_says_what_its_numbers_are(word, tmp_path):
    file = recalls(1, hue=0.2) if word == "recall" else result(5, 1)
    ok("plot", "layers", saved(tmp_path / "l1.h5", file), "-o", tmp_path / "p.svg")
    assert word in (tmp_path / "p.svg").read_text()


def test_recalls_are_not_mixed_with_accuracies_or_other_splits_or_rows():
    with pytest.raises(UsageError, match="expected results of probe or of attributes, got both"):
        layer_curves([recalls(0, hue=0.2), result(5, 1)])
    with pytest.raises(ClipkitError, match=r"l1.h5: expected recalls on test, got val"):
        layer_curves([recalls(0, hue=0.2), recalls(1, "val", hue=0.2)])
    other = recalls(1, hue=0.2)
    other.history[0]["dataset"]["splits"] = {"test": {"rows": "cd"}}
    with pytest.raises(ClipkitError, match=r"l1.h5: expected the test images and labels of l0.h5"):
        layer_curves([recalls(0, hue=0.2), other])


def points(*values: float, **fields: Any) -> LayerPoints:
    layers = range(len(values))
    low, high = ([value + add for value in values] for add in (-0.05, 0.05))
    return LayerPoints(layers, values, low, high, **fields)


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


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
    of_class, of_colour, *_ = legend(fig)
    assert "90.0 % at layer 2" in of_class
    assert "70.0 % at layer 1" in of_colour
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


def test_lines_that_share_an_embedding_have_a_part_of_its_mark_and_differ_in_colour_or_marker():
    embedding = (0.7, 0.6, 0.8)
    names = map(str, range(49))
    curves = [LayerCurve(name, 1, 0.1, points(0.1, 0.5, embedding=embedding)) for name in names]
    (ax,) = plots.layers(curves).axes
    lines, chance = ax.lines[:49], ax.lines[49]  # of all
    assert len({(each.get_color(), each.get_marker()) for each in lines}) == 49
    marks = ax.collections[49 : 2 * 49]
    colors = [to_hex(mark.get_color()[0]).upper() for mark in marks]
    assert colors == [each.get_color() for each in lines]
    assert chance.get_color() not in colors
    first, second = (mark.get_segments()[0] for mark in marks[:2])
    assert first[1, 0] == second[0, 0]


def test_models_of_different_depth_are_drawn_by_the_share_of_their_depth():
    small, large = (LayerCurve("m", depth, 0.1, points(*[0.1] * depth, 0.3)) for depth in (2, 4))
    fig = plots.layers([small, large])
    (ax,) = fig.axes
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0, 50, 100], atol=1)
    np.testing.assert_allclose(ax.lines[1].get_xdata(), [0, 25, 50, 75, 100], atol=1)
    assert "depth" in ax.get_xlabel()
    assert legend(fig)[0].endswith("layer 2 of 2")


@pytest.mark.parametrize(("depth", "last", "count"), [(4, 4, 5), (12, 12, 13), (27, 26, 14)])
@pytest.mark.long
def test_layers_are_labelled_where_there_is_room(depth, last, count):
    fig = plots.layers([LayerCurve("m", depth, 0.1, points(*np.linspace(0, 1, depth + 1)))])
    ticks = fig.axes[0].get_xticks()
    assert (len(ticks), ticks[-1]) == (count, last)
    plots.finish(fig, "subtitle")
    assert plots.overlapping_texts(fig) == []


@pytest.mark.long
def test_the_command_draws_files_and_refuses_in_one_line(tmp_path):
    files = [*line(5, 15), result(18), result(9, name="org/n")]
    paths = [saved(tmp_path / f"{number}.h5", file) for number, file in enumerate(files)]
    pictures = set()
    for count in (1, 2, 3):
        ok("plot", "layers", *paths[:count], "-f", "-o", tmp_path / "p.png")
        pictures.add((tmp_path / "p.png").read_bytes())
    assert len(pictures) == 3
    error = fails("plot", "layers", *paths, "-o", tmp_path / "no.png")
    assert "hint: make one with: clipkit embed DATASET --layers 0,2,4 -o 'img.l{layer}." in error
    assert not (tmp_path / "no.png").exists()
