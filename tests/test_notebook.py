"""Results, figures and progress in the cells of a notebook."""

import builtins
import contextlib
import io
import pickle
import subprocess
import sys
import time
import types
from html.parser import HTMLParser

import numpy as np
import pytest
from factories import fails_with, feature_file, result_file
from PIL import Image
from shell import ok

from clipkit import plots, report, write
from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.features import FeatureFile, history_entry

EVIL = [
    '<script>alert("1")</script>',
    '"><img src=x onerror=alert(1)>',
    "[x](javascript:alert(1)) </style></div>",
    "*a* `b` | c &amp; \x1b[31m\n# d",
]
PLAIN = [f"{animal}, with a name as long as theirs" for animal in ("cat", "dog", "fox", "hen")]


class Tags(HTMLParser):
    """The tags of a cell, each with its attributes, and its text."""

    def __init__(self, html):
        super().__init__()
        self.tags = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, tuple(attributes)))

    def handle_data(self, data):
        self.text += data


def probe(names):
    """Return a result of 200 images of four classes: 90 % right at one temperature, 80 % at one.

    The wrong ones are of the last class, and predicted as the first.
    """
    labels = np.arange(200) // 50
    predicted = [np.where(np.arange(200) < right, labels, (labels + 1) % 4) for right in (180, 160)]
    settings = {"classifier": "svm", "fit_split": "train", "eval_split": "test"}
    rows = [settings | {"temperature": temperature} for temperature in (1.0, 0.07)]
    history = [
        history_entry("embed", model={"name": names[3]}, dataset={"name": names[1]}),
        history_entry("textembed", prompts={"name": names[2]}, templates=names),
        history_entry("probe", classifier="svm"),
    ]
    return result_file(rows, labels, predicted, history, names)


def nearest(names):
    """Return a result whose rows have texts, labels and ids."""
    result = FeatureFile("result", [history_entry("nearest", dataset={"name": names[1]})])
    result.set_rows(
        [
            {"query": name, "rank": 1, "id": names[-1 - row], "label": name, "cosine": row / 8}
            for row, name in enumerate(names)
        ]
    )
    return result


def test_a_result_is_the_table_of_a_report_with_chance_interval_and_what_it_says():
    cell = Tags(probe(PLAIN)._repr_html_())
    assert "90.00 (85.06–93.43)" in cell.text  # Wilson's interval
    assert "one run" in cell.text
    assert "are right by a probe (svm, fitted on labelled images of train)" in cell.text
    assert "above chance (25.00\N{NO-BREAK SPACE}%)" in cell.text
    assert "Chance is what the predictions give if they are permuted;" in cell.text
    assert cell.text.index("90.00 (") < cell.text.index("above chance")
    page = Tags(report.as_html(report.Page("", report.of_result(probe(PLAIN)).blocks)))
    assert [tag for tag in page.tags if tag[0] == "td"] == [
        tag for tag in cell.tags if tag[0] == "td"
    ]


@pytest.mark.parametrize("make", [probe, nearest])
def test_a_name_cannot_put_html_into_a_cell(make):
    evil, plain = make(EVIL), make(PLAIN)
    evil.display_name, plain.display_name = "<b>.h5", "b.h5"
    cell = Tags(evil._repr_html_())
    assert cell.tags == Tags(plain._repr_html_()).tags
    assert "<script>alert" in cell.text
    assert "\x1b" not in cell.text
    assert not {"script", "img", "a", "link"} & {tag for tag, _ in cell.tags}
    assert not any(name.startswith("on") for _, attributes in cell.tags for name, _ in attributes)


def test_a_cell_has_the_first_rows_of_many_and_says_so():
    result = nearest(PLAIN * 30)
    cell = Tags(result._repr_html_())
    assert sum(tag == "tr" for tag, _ in cell.tags) == 101
    assert "this result has 120 rows. The table has the first 100." in cell.text
    assert len(nearest(PLAIN * 9000)._repr_html_() or "") < 60_000


@pytest.mark.parametrize("kind", ["images", "texts", "logits"])
def test_what_has_no_table_in_a_report_has_none_in_a_cell(kind):
    assert feature_file(kind)._repr_html_() is None
    assert FeatureFile("result")._repr_html_() is None


def test_a_figure_is_a_sharp_picture_of_readable_size():
    figure = plots.confusion([[9, 1], [2, 8]], ["cat", "$dog$"], title="Zero-shot")
    for shown in (figure, pickle.loads(pickle.dumps(figure))):
        content, size = shown._repr_png_()
        with Image.open(io.BytesIO(content)) as picture:
            width, height = picture.size
        assert size.pop("alt") == "Zero-shot"
        assert size == {"width": 500, "height": round(100 * figure.get_figheight())}
        assert (width, height) == pytest.approx((2 * size["width"], 2 * size["height"]), abs=2)


@pytest.mark.long
def test_a_figure_is_drawn_without_pyplot_which_would_show_it_again():
    program = "from clipkit import plots; plots.confusion([[1]], ['a'])._repr_png_()"
    check = "import sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", f"{program}; {check}"], check=True)


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("plot classes FILE", {"picture": "classes"}),
        ("plot FILE", {}),
        ("plot confusion FILE --run 1", {"picture": "confusion", "run": 1}),
        ("plot confusion FILE --title T", {"picture": "confusion", "title": "T"}),
    ],
)
def test_draw_draws_what_the_command_draws(tmp_path, line, options):
    path = tmp_path / "probe.h5"
    write(path, probe(PLAIN))
    words = line.replace("FILE", str(path)).split()
    ok(*words, "-o", tmp_path / "a.png")
    plots.save(plots.draw(path, **options), tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()


@pytest.mark.long
def test_draw_draws_a_path_a_file_and_a_list_alike(tmp_path):
    path = tmp_path / "probe.h5"
    write(path, probe(PLAIN))
    pictures = []
    for files in (path, probe(PLAIN), [probe(PLAIN)]):
        figure = plots.draw(files, picture="classes")
        plots.save(figure, tmp_path / "a.png", dpi=40)
        pictures.append((tmp_path / "a.png").read_bytes())
    assert pictures[0] == pictures[1] == pictures[2]


def test_draw_draws_images_of_a_data_set():
    assert (
        plots.draw([], "images", dataset="shapes")
        .get_suptitle()
        .startswith("40 images from shapes")
    )


@pytest.mark.parametrize(
    ("files", "picture", "options", "message", "error"),
    [
        (3, None, {}, "files: expected a feature file", UsageError),
        ([], None, {}, "files: expected a feature file, got none", UsageError),
        ("logits", "confusio", {}, "unknown picture 'confusio'", UsageError),
        ("logits", "confusion", {}, "expected result, got logits", ClipkitError),
        ("texts", "nearest", {}, "expected logits, got texts", ClipkitError),
        ("logits", "nearest", {}, "the picture nearest needs images", UsageError),
        ("logits logits", "entropy", {}, "the picture entropy draws one file, got 2", UsageError),
        ("logits", "entropy", {"spilt": "a"}, "unknown option of the picture entropy", UsageError),
        ("logits", "entropy", {"split": "a"}, "unknown split", UsageError),
    ],
)
def test_wrong_arguments_of_draw_are_refused_in_one_line(files, picture, options, message, error):
    if isinstance(files, str):
        files = [feature_file(kind) for kind in files.split()]
    with fails_with(message, error):
        plots.draw(files, picture, **options)


def test_a_result_without_a_picture_is_refused():
    with fails_with("no picture shows a result of nearest", UsageError):
        plots.draw(nearest(PLAIN))


@pytest.fixture
def cell(monkeypatch):
    """The displays of a cell, as a kernel of Jupyter gives them; each is a list of its updates."""
    displays = []

    class Handle:
        def __init__(self, shown):
            self.updates = [shown]
            displays.append(self.updates)

        def update(self, shown):
            self.updates.append(shown)

    class ZMQInteractiveShell:
        """The shell of a notebook's kernel, by whose name Rich recognises it."""

    def display(bar, *, display_id):
        assert display_id
        return Handle(bar)

    module = types.ModuleType("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    monkeypatch.setattr(console, "FIRST_LINE_SECONDS", 0.1)
    monkeypatch.setattr(console, "NEXT_BAR_SECONDS", 0.1)
    return displays


def wait_for(displays):
    deadline = time.monotonic() + 60
    while not displays and time.monotonic() < deadline:
        time.sleep(0.01)


def test_long_work_shows_one_bar_in_a_notebook_and_notes_stay(cell, capsys):
    assert console.is_watched()
    with console.progress("embedding <b>digits</b>", "images") as update:
        update(30, 120)
        console.note("a note")
        wait_for(cell)
        update(120, 120)
    (updates,) = cell
    assert len(updates) > 1
    shown = updates[-1]._repr_mimebundle_([], [])
    assert "120/120" in shown["text/plain"]
    assert "embedding &lt;b&gt;digits&lt;/b&gt;" in shown["text/html"]
    assert capsys.readouterr().err == "clipkit: a note\n"


def test_short_work_and_quiet_work_show_no_bar_in_a_notebook(cell, monkeypatch):
    monkeypatch.setattr(console, "_quiet", True)
    with console.progress("working"):
        time.sleep(0.3)
    monkeypatch.setattr(console, "_quiet", False)
    monkeypatch.setattr(console, "FIRST_LINE_SECONDS", 1000)
    with console.progress("working"):
        pass
    assert cell == []


@pytest.mark.long
def test_work_that_fails_in_a_notebook_ends_its_bar(cell):
    with contextlib.suppress(ZeroDivisionError), console.progress("working"):
        wait_for(cell)
        raise ZeroDivisionError
    (updates,) = cell
    count = len(updates)
    time.sleep(0.3)
    assert len(updates) == count


def test_a_script_is_no_notebook(cell, monkeypatch):
    monkeypatch.delattr(builtins, "get_ipython")  # IPython is imported, and runs no cell
    assert not console.is_watched()
