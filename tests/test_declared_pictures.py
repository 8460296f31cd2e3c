"""Declared pictures: what each plot type draws of a result's rows, and what JSON may say."""

import json
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.text import Text

from clipkit import analysis, datasets, plots
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.base.pictures import TYPES, Curves, Distributions, Dots, Matrix, Sheet, from_json
from clipkit.features import FeatureFile
from clipkit.features.columns import NATS, NOTHING, NUMBER, SHARE, TEXT, Column
from clipkit.plots import style

COLUMNS = {
    column.name: column
    for column in (
        Column("speed", SHARE, NOTHING, title="agility", has_interval=True),
        Column("speed_low", SHARE, NOTHING),
        Column("speed_high", SHARE, NOTHING),
        Column("luck", SHARE, NOTHING),
        Column("size", NUMBER, NOTHING),
        Column("doubt", NATS, NOTHING),
        Column("animal", TEXT, NOTHING),
        Column("kind", TEXT, NOTHING),
    )
}
DECLARATIONS = [
    Dots(label="animal", values=("speed",), reference="luck", group="kind"),
    Dots(label="animal", values=("speed", "luck")),
    Curves(x="size", values=("speed",), reference="luck", group="kind", is_log=True),
    Curves(x="size", values=("speed", "luck")),
    Matrix(row="animal", column="kind", value="speed"),
    Distributions(x="doubt", group="kind", reference="luck"),
    Distributions(x="speed"),
]
ODD_NAMES = ["_hidden", "$x^2$", "$unclosed", r"\frac{1}", "a\nb\x1b[31m", "x" * 300, "", "&<b>"]
EACH = pytest.mark.parametrize("declaration", DECLARATIONS, ids=lambda one: type(one).__name__)


def result(rows):
    """Return a result of a dummy question."""
    file = FeatureFile("result", [{"command": "dummy"}])
    file.set_rows(rows)
    return file


def rows_of(n, names=None):
    """Return n rows of a dummy question: of two kinds, and two rows at each size."""
    rng = np.random.default_rng(1)
    rows = []
    for number in range(n):
        speed = float(rng.uniform(0.1, 0.9))
        row = {"animal": f"animal {number}", "kind": f"kind {number % 2}"}
        row |= {"size": 1.0 + number // 2, "speed": speed, "luck": 0.5, "doubt": speed * 3}
        row |= {"speed_low": speed - 0.1, "speed_high": speed + 0.1}
        if names:
            row["animal"] = names[number % len(names)]
        rows.append(row)
    return rows


def draw(declaration, rows, **options):
    figure, source = plots.draw_declared(declaration, result(rows), columns=COLUMNS, **options)
    style.finish(figure, source)
    return figure


def written(figure):
    """Return everything that is written on a figure, and so that it can be saved."""
    style.render(figure, "png", dpi=40)
    return [text.get_text() for text in figure.findobj(Text)]


@EACH
@pytest.mark.parametrize("n", [1, 2, 12])
def test_each_plot_type_draws_a_dummy_question_without_overlapping_texts(declaration, n):
    figure = draw(declaration, rows_of(n))
    assert written(figure)
    assert style.overlapping_texts(figure) == []


@EACH
@pytest.mark.long
def test_many_rows_are_cut_and_said_to_be(declaration):
    figure = draw(declaration, rows_of(500))
    assert max(figure.get_size_inches()) <= 40
    text = " ".join(written(figure))
    if isinstance(declaration, Dots):
        assert "60 of 500 rows: the largest agility" in text
    if isinstance(declaration, Matrix):
        assert "30 of 500 rows: the largest values" in text


@EACH
def test_axes_have_the_title_and_the_unit_of_the_column(declaration):
    text = written(draw(declaration, rows_of(12)))
    expected = "agility (%)"
    if declaration.as_json().get("x") == "doubt":
        expected = "doubt (nats)"
    if len(declaration.as_json().get("values", [])) == 2:
        expected = "value (%)"
    assert expected in text


def test_shares_are_drawn_in_percent_with_their_intervals():
    rows = rows_of(2)
    axes = draw(Dots(label="animal", values=("speed",)), rows).axes[0]
    (dots,) = axes.lines
    (lines,) = axes.collections
    for row, x, segment in zip(rows, dots.get_xdata(), lines.get_segments(), strict=True):
        assert x == pytest.approx(100 * row["speed"])
        assert segment[:, 0] == pytest.approx([x - 10, x + 10])


@EACH
def test_what_is_not_a_number_is_not_drawn(declaration):
    rows = rows_of(6)
    for name in ("speed", "speed_low", "speed_high", "luck", "doubt"):
        rows[1] = rows[1] | {name: np.nan}
        rows[2] = rows[2] | {name: np.inf}
    assert written(draw(declaration, rows))
    for row in rows:
        row |= {"speed": np.nan, "luck": np.nan, "doubt": np.nan, "size": np.nan}
    assert written(draw(declaration, rows))


@EACH
def test_odd_names_are_shown_literally_and_cut(declaration):
    rows = rows_of(len(ODD_NAMES), ODD_NAMES)
    for row, name in zip(rows, ODD_NAMES, strict=True):
        row["kind"] = name
    figure = draw(declaration, rows)
    text = written(figure)
    assert not any("\x1b" in one or len(one) > 300 for one in text)
    if isinstance(declaration, Dots | Matrix):
        assert "$x^2$" in text


def test_a_finding_stands_in_place_of_the_title_which_moves_below_it():
    figure = draw(DECLARATIONS[0], rows_of(3), title="Cats are faster")
    assert plots.title_of(figure) == "Cats are faster"
    assert any("Agility of each animal" in text for text in written(figure))


def test_curves_are_named_where_they_end_apart_from_each_other():
    rows = rows_of(8)
    for row in rows:
        row["speed"] = 0.5
    figure = draw(Curves(x="size", values=("speed",), group="kind"), rows)
    assert figure.legends == []
    assert {"kind 0", "kind 1"} <= set(written(figure))
    assert style.overlapping_texts(figure) == []


@pytest.mark.parametrize("case", ["one ends early", "too many"])
def test_curves_without_room_for_their_names_have_a_legend(case):
    rows = rows_of(32)
    for number, row in enumerate(rows):
        if case == "one ends early" and row["kind"] == "kind 0":
            row["size"] /= 100
        if case == "too many":
            row["kind"] = f"kind {number % 16}"
    figure = draw(Curves(x="size", values=("speed",), group="kind"), rows)
    assert len(figure.legends) == 1


def test_a_single_kind_of_dots_needs_no_legend():
    assert draw(Dots(label="animal", values=("speed",)), rows_of(3)).legends == []


def test_columns_of_the_command_are_known_by_its_name():
    file = FeatureFile("result", [{"command": "choose"}])
    file.set_rows([{"split": "test", "category": "order", "accuracy": 0.5}])
    figure, _ = plots.draw_declared(Dots(label="category", values=("accuracy",)), file)
    assert "right (%)" in written(figure)


def test_references_groups_and_further_values_that_a_result_lacks_are_left_out():
    rows = [{"animal": "cat", "speed": 0.5, "size": 1.0}, {"animal": "ox", "speed": 0.2, "size": 2}]
    for declaration in DECLARATIONS[:4]:
        text = written(draw(declaration, rows))
        assert "agility (%)" in text
        assert "luck" not in text


@pytest.fixture(scope="module")
def shapes():
    return datasets.load(["shapes"], splits=["test"], limit=6)


def test_a_sheet_shows_the_images_of_the_rows(shapes):
    ids = list(shapes.splits["test"].ids)
    rows = [{"split": "test", "id": row_id, "animal": f"cat {row_id}"} for row_id in ids[:3]]
    figure = draw(Sheet(id="id", label="animal"), rows, dataset=shapes)
    assert len(figure.axes[0].images) == 3
    assert style.overlapping_texts(figure) == []
    first = np.asarray(figure.axes[0].images[0].get_array())
    assert (first[::3, ::3] != first[0, 0]).any()


def test_a_sheet_needs_a_data_set_that_has_its_images(shapes):
    rows = [{"split": "test", "id": "none\x1b"}]
    with pytest.raises(UsageError, match="a sheet needs the images of a data set"):
        draw(Sheet(id="id"), rows)
    with pytest.raises(ClipkitError, match=r"expected an image none$"):
        draw(Sheet(id="id"), rows, dataset=shapes)


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        (Dots(label="animal", values=("weight",)), "expected a column weight to draw"),
        (Dots(label="animal", values=("kind",)), "runs/kind: expected numbers to draw"),
        (Dots(label="animal", values=("speed", "doubt")), "expected columns of one unit"),
        (Matrix(row="kind", column="kind", value="speed"), "expected one row for each kind and"),
    ],
)
def test_columns_that_cannot_be_drawn_are_refused(declaration, message):
    with pytest.raises(ClipkitError, match=message):
        draw(declaration, rows_of(6))


def test_a_result_without_rows_is_refused():
    with pytest.raises(ClipkitError, match="expected a result with rows to draw"):
        plots.draw_declared(DECLARATIONS[0], FeatureFile("result", [{"command": "dummy"}]))


@pytest.mark.parametrize("declaration", [*DECLARATIONS, Sheet(id="id")], ids=repr)
def test_a_declaration_is_the_same_after_json(declaration):
    assert from_json(json.loads(json.dumps(declaration.as_json()))) == declaration


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "picture: expected an object, got NoneType"),
        ([1], "picture: expected an object, got list"),
        ({}, f"picture: expected a type of {', '.join(TYPES)}, got NoneType"),
        ({"type": "Declaration"}, f"picture: expected a type of {', '.join(TYPES)}, got"),
        ({"type": ["Dots"]}, f"picture: expected a type of {', '.join(TYPES)}, got list"),
        ({"type": "Dots", "label": "a"}, "picture: Dots needs values"),
        (
            {"type": "Sheet", "id": "a", "x\n": "b"},
            "picture: Sheet has no 'x\\n'; known: title, stated, id, label",
        ),
        ({"type": "Sheet", "id": ""}, "picture: Sheet.id: expected a column, got ''"),
        ({"type": "Sheet", "id": 3}, "picture: Sheet.id: expected a column, got int"),
        ({"type": "Sheet", "id": "x" * 999}, "picture: Sheet.id: expected a column, got 'xxx"),
        ({"type": "Dots", "label": "a", "values": "b"}, "expected 1 to 5 names of columns, got"),
        ({"type": "Dots", "label": "a", "values": []}, "expected 1 to 5 names of columns, got"),
        ({"type": "Dots", "label": "a", "values": ["b"] * 6}, "expected 1 to 5 names of columns"),
        ({"type": "Dots", "label": "a", "values": [{}]}, "expected a column, got dict"),
        ({"type": "Dots", "label": ["a"], "values": ["b"]}, "expected a column, got tuple"),
        (
            {"type": "Curves", "x": "a", "values": ["b"], "is_log": 1},
            "picture: Curves.is_log: expected true or false, got int",
        ),
    ],
)
def test_json_that_is_no_declaration_is_refused_in_one_line(content, message):
    with pytest.raises(ClipkitError) as caught:
        from_json(content)
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 200


def test_declarations_load_neither_numpy_nor_matplotlib():
    code = (
        "import sys\n"
        "import clipkit.base.pictures\n"
        "print(sorted({'matplotlib', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ---- The package's questions ---------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in analysis.names() if analysis.find(name).picture])
def test_a_question_that_declares_its_picture_has_a_command_that_says_what_it_draws(name):
    picture = plots.PICTURES[name]
    declared = analysis.find(name).picture
    for one in declared if isinstance(declared, tuple) else (declared,):
        assert one.title
        assert one.title in picture.draw.__doc__
        known = {
            column.name for record in analysis.find(name).columns for column in record.family()
        }
        assert set(one.needed) <= known


def test_rows_are_sorted_by_the_first_value_if_asked():
    rows = rows_of(12)
    figure = draw(Dots("animal", ("speed",), is_sorted=True), rows)
    (dots, *_) = figure.axes[0].lines
    found = dots.get_xdata().tolist()
    assert found == sorted(found, reverse=True)
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == [row["animal"] for row in sorted(rows, key=lambda row: -row["speed"])]


def test_a_matrix_writes_numbers_in_decided_cells_alone():
    rows = rows_of(6)
    for number, row in enumerate(rows):
        row["is_above"] = number == 4
    figure = draw(Matrix("animal", "kind", "speed", "is_above"), rows)
    (text,) = figure.axes[0].texts
    assert text.get_text() == f"{100 * rows[4]['speed']:.0f}"


def test_the_title_of_a_declaration_says_what_is_drawn():
    figure = draw(Dots("animal", ("speed",), title="the agility of animals"), rows_of(3))
    assert plots.title_of(figure) == "The agility of animals"
    with pytest.raises(ClipkitError, match="expected a short text"):
        Dots("animal", ("speed",), title="x" * 1000)


def test_the_rest_of_a_long_finding_begins_the_subtitle():
    animals = ", ".join(f"animal {number} (9.9 points)" for number in range(9))
    finding = f"9 of 9 animals are faster: {animals}; none is slower"
    figure = draw(DECLARATIONS[0], rows_of(3), title=finding)
    title = figure.get_suptitle()
    assert len(title.splitlines()) == 2
    assert title.endswith("points) …")
    subtitle = figure.texts[-1].get_text().replace("\n", " ")
    rest = subtitle.partition(". Agility of each animal")[0]
    assert f"{plots.title_of(figure)[:-2]}, {rest[2:]}" == finding
    assert style.finding_of(figure) == finding  # a page has it as text
    assert not plots.overlapping_texts(figure)


def test_a_picture_of_several_columns_may_name_its_axis_and_state_what_all_rows_share():
    rows = [{**row, "herd": 12} for row in rows_of(3)]
    declared = Dots("animal", ("speed", "luck"), axis="pace", stated=("herd", "kind", "absent"))
    figure = draw(declared, rows)
    assert figure.axes[0].get_xlabel().startswith("pace")
    assert figure.texts[-1].get_text().endswith("; herd 12")


def test_a_column_of_a_control_is_called_so_and_its_interval_may_have_other_names():
    records = (
        Column("speed", SHARE, NOTHING, control="still"),
        Column("still", SHARE, NOTHING, interval=("least", "most")),
    )
    columns = {column.name: column for record in records for column in record.family()}
    rows = rows_of(2)
    for row in rows:
        row |= {"still": 0.2, "least": 0.1, "most": 0.3}
        del row["speed_low"], row["speed_high"]
    declaration = Dots("animal", ("speed", "still"))
    figure, _ = plots.draw_declared(declaration, result(rows), columns=columns)
    assert figure.axes[0].get_title("left") == "lines: of controls, the range"
    assert "untrained control" in written(figure)
    ends = [line.get_segments()[0][:, 0].tolist() for line in figure.axes[0].collections[-1:]]
    assert ends == [pytest.approx([10, 30])]
