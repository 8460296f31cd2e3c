"""`clipkit plot`: every picture as a user draws it, and what each refuses."""

import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories import MODEL, random_features, result_file, saved, split, write_feature_file
from PIL import Image
from shell import clipkit, fails, ok

from clipkit import datasets, plots
from clipkit.analysis import results
from clipkit.base.errors import UsageError
from clipkit.features import FeatureFile, read
from clipkit.plots import style
from clipkit.plots.confusion import draw_classes, draw_confusion
from clipkit.plots.images import draw_contact_sheet
from clipkit.plots.spectrum import draw_spectra, spectra

OTHER_PICTURES = ("choose", "images", "nearest", "retrieve", "threshold")  # which other tests draw
PICTURES = [name for name in plots.PICTURES if name not in OTHER_PICTURES]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Make small logits of two classes, and what the commands make of them."""
    folder = tmp_path_factory.mktemp("plots")
    rows = split("test", 20) | {"test/features": random_features(20, 3, seed=5) / 10}
    for name in ("logits", "class-logits"):
        write_feature_file(folder / f"{name}.h5", "logits", datasets=rows)
    unlabelled = rows | {"test/labels": None}
    write_feature_file(folder / "unlabelled.h5", "logits", datasets=unlabelled)
    write_feature_file(folder / "images.h5", datasets=split("test", 20) | images_of(20))
    for name in ("txt", "more"):
        write_feature_file(folder / f"{name}.h5", "texts")
    (folder / "old.png").touch()
    (folder / "groups.tsv").write_text("cat\tpet\ndog\tpet\n")
    for command, source, *options, name in (
        ("zeroshot", "logits", "zeroshot"),
        ("zeroshot", "unlabelled", "unlabelled-zeroshot"),
        ("entropy", "logits", "entropy"),
        ("cluster", "logits", "-k", 2, "-k", 3, "clusters"),
        ("cluster", "logits", "-k", 6, "six-clusters"),
        ("probe", "logits", "-t", "1,0.01", "probe"),
        ("probe", "logits", "-t", "1,0.5", "--val", 0.25, "val"),
        ("probe", "logits", "-t", "1,0.5", "-C", "1,4", "--val", 0.25, "grid"),
        ("probe", "logits", "-t", "1,0.1", "-C", "1,4", "--features", "probs", "probs"),
        ("probe", "logits", "--shots", "1,2", "--repeat", 2, "shots"),
        ("attributes", "images", "attributes"),
        ("variance", "images", "variance"),
        ("variance", "images", folder / "txt.h5", "prompts"),
    ):
        ok(command, folder / f"{source}.h5", *options, "-o", folder / f"{name}.h5")
    of_layer = [{"command": "embed", "model": {**MODEL, "layer": 1, "layers": 2, "pool": "cls"}}]
    layer = {"attributes": {"history": of_layer}, "datasets": split("test", 20) | images_of(20)}
    write_feature_file(folder / "images-of-layer.h5", **layer)
    ok("probe", folder / "images-of-layer.h5", "-o", folder / "img.l1.svm.h5")
    pair = (folder / "zeroshot.h5", folder / "probe.h5", "--run", 0)
    ok("compare", *pair, "-o", folder / "compare.h5")
    ok("compare", *pair, "--groups", folder / "groups.tsv", "-o", folder / "groups.h5")
    ok("compare", folder / "zeroshot.h5", "-o", folder / "single.h5")
    ok("probe", folder / "logits.h5", "--keep", "-o", folder / "kept.h5")
    costs = ("importance", folder / "kept.h5", folder / "logits.h5")
    ok(*costs, "-o", folder / "importance.h5")
    (folder / "prompt-groups.tsv").write_text("a\tfirst\nb\tfirst\n")
    groups = folder / "prompt-groups.tsv"
    ok(*costs, "--groups", groups, "-o", folder / "prompt-groups.h5")
    (folder / "needed.py").write_text(example_of_own_question())
    ok("run", folder / "needed.py", folder / "logits.h5", "-o", folder / "needed.h5")
    return folder


def example_of_own_question():
    """Return the file of docs/own-analysis.md."""
    page = Path(__file__).parents[1] / "docs" / "own-analysis.md"
    return page.read_text().split("```py\n")[1].split("```")[0]


def example_file(picture, folder):
    """Return the first file of a picture's example."""
    name = shlex.split(plots.PICTURES[picture].example)[3]
    return next(folder.glob(name))


def images_of(n):
    return {"test/features": random_features(n, 4)}


def draw(folder, out, *words):
    """Draw a picture of files in the folder and return its bytes."""
    paths = [folder / word if (folder / word).exists() else word for word in words]
    ok("plot", *paths, "-f", "-o", out)
    return out.read_bytes()


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.long
def test_a_picture_of_standard_input_goes_to_standard_output(picture, folder):
    result = ok("plot", picture, stdin=example_file(picture, folder).read_bytes())
    assert result.stdout_bytes.startswith(b"\x89PNG")


@pytest.mark.long
@pytest.mark.parametrize(
    "lines",
    [
        ["confusion probe.h5 --run 0", "confusion probe.h5 --run 1", "classes probe.h5"],
        ["confusion zeroshot.h5", "confusion zeroshot.h5 --split train"],
        ["confusion zeroshot.h5", "confusion zeroshot.h5 --groups groups.tsv"],
        ["classes zeroshot.h5", "classes zeroshot.h5 --groups groups.tsv"],
        ["clusters clusters.h5", "clusters clusters.h5 --run 1", "clusters six-clusters.h5"],
        ["compare compare.h5", "compare groups.h5", "compare single.h5"],
        ["temperature val.h5", "temperature val.h5 --split test"],
        ["temperature probe.h5", "temperature probe.h5 val.h5", "temperature probs.h5"],
        ["temperature grid.h5", "temperature grid.h5 --title T"],
        ["entropy logits.h5", "entropy logits.h5 -t 1,0.5", "entropy logits.h5 -t 2"],
        ["confidence logits.h5", "confidence logits.h5 --split train"],
        ["reliability logits.h5", "reliability logits.h5 --bins 3", "reliability logits.h5 -t 9"],
        ["entropy logits.h5", "entropy logits.h5 --size 6x4", "entropy logits.h5 --dpi 90"],
        ["reliability logits.h5", "reliability logits.h5 -t fitted"],
        ["logits logits.h5", "logits logits.h5 --image 3.png", "logits logits.h5 --class dog"],
        ["similarity logits.h5", "similarity logits.h5 --centred"],
        ["spectrum txt.h5", "spectrum txt.h5 more.h5"],
        ["shots shots.h5", "shots shots.h5 --zeroshot zeroshot.h5"],
        ["variance variance.h5", "variance prompts.h5"],
        ["importance importance.h5", "importance prompt-groups.h5"],
        ["images digits", "images digits --split train"],
    ],
)  # fmt: skip
def test_options_and_files_change_the_picture(lines, folder, tmp_path):
    pictures = {draw(folder, tmp_path / "p.png", *line.split()) for line in lines}
    assert len(pictures) == len(lines)


@pytest.mark.parametrize(
    ("line", "same"),
    [
        ("clusters clusters.h5", "clusters clusters.h5 --run 0"),
        ("temperature grid.h5", "--force --split=val temperature grid.h5"),  # with several runs
        ("entropy logits.h5", "-t model entropy logits.h5 --split test"),
        ("reliability logits.h5", "reliability logits.h5 -t model,fitted --split test --bins 15"),
        ("logits logits.h5", "logits logits.h5 --class cat --class dog"),
        ("images digits", "images digits --root . --split test"),
    ],
)
@pytest.mark.long
def test_defaults_are_what_the_help_says_and_options_may_come_first(line, same, folder, tmp_path):
    out = tmp_path / "p.png"
    assert draw(folder, out, *line.split()) == draw(folder, out, *same.split())


@pytest.mark.long
@pytest.mark.parametrize(
    ("file", "picture"),
    [
        ("zeroshot.h5", "confusion"),
        ("logits.h5", "entropy"),
        ("txt.h5", "spectrum"),
        ("shots.h5", "shots"),
    ],
)
def test_a_file_alone_is_drawn_as_what_it_is_for(file, picture, folder, tmp_path):
    named = draw(folder, tmp_path / "named.png", picture, str(folder / file))
    run = ok("plot", "-o", tmp_path / "a.png", folder / file)
    assert (tmp_path / "a.png").read_bytes() == named
    assert f"drawing {picture}; also: " in run.stderr or picture == "spectrum"


@pytest.mark.parametrize(
    ("maker", "hint"),
    [
        (
            "entropy",
            "clipkit plot entropy draws logits; clipkit report shows the table of a result",
        ),
        ("describe", "clipkit report shows its table; clipkit plot --help lists all pictures"),
    ],
)
def test_a_file_without_a_picture_is_refused_with_where_to_look(maker, hint, tmp_path):
    history = {"history": [{"command": maker}]}
    result = write_feature_file(tmp_path / "r.h5", "result", attributes=history)
    message = fails("plot", result, exit_code=2)
    assert f"no picture shows a result of {maker}; hint: {hint}\n" in message


@pytest.mark.long
def test_a_file_has_one_first_picture_if_it_has_several(folder):
    for path in folder.glob("*.h5"):
        pictures = plots.pictures_of(file := read(path))
        pictures = [one for one in pictures if not one.needs_images]
        assert sum(one.is_first(file) for one in pictures) == (len(pictures) > 1), path


def test_a_picture_of_one_of_several_runs_says_which(folder):
    shots, sweep = read(folder / "shots.h5"), read(folder / "probe.h5")
    figure, source = draw_confusion(shots, run=0)
    assert "shots 1, draw 0" in style.title_of(figure) + source
    figure, source = draw_classes(sweep)
    label = style.title_of(figure) + source
    assert "the most accurate of 2 runs" in label
    assert "temperature " in label


def test_effective_ranks_of_unequal_numbers_of_vectors_are_not_drawn(tmp_path, capsys):
    more, few = (
        write_feature_file(tmp_path / f"{n}.h5", datasets=split("test", n) | images_of(n))
        for n in (20, 12)
    )
    alike = [read(more), replace(read(more), display_name="copy.h5")]
    for files, has_ranks in ((alike, True), ([read(more), read(few)], False)):
        figure, _ = draw_spectra(files)
        title = style.title_of(figure)
        found = (r"\) uses [\d.]+ of \d+ dimensions, ", r"One direction has [\d.]+ % of ")
        assert re.search(found[not has_ranks], title)
        assert ("; a Gaussian sample uses " in title) == has_ranks
        ranks = [re.fullmatch(r"[\d.]+", text.get_text()) for text in figure.axes[0].texts]
        assert any(ranks) == has_ranks  # beside the marks
        assert ("no effective ranks" in capsys.readouterr().err) != has_ranks


@pytest.mark.long
def test_matplotlib_is_imported_only_to_draw():
    program = (
        "import sys; from typer.testing import CliRunner; from clipkit import cli, plots\n"
        "for picture in plots.PICTURES:\n"
        "    assert CliRunner().invoke(cli.app, ['plot', picture, '--help']).exit_code == 0\n"
        "print('matplotlib' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout == "False\n", run.stderr


def test_plot_alone_lists_every_picture():
    result = clipkit("plot")
    assert result.exit_code == 2
    overview = result.stdout + result.stderr
    assert "\n clipkit plot temperature probe.h5 -o tau.png" in overview
    for picture in plots.PICTURES:
        assert f"│ {picture} " in overview


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("wordcloud", 2, f"hint: known: {', '.join(plots.PICTURES)}\n"),
        (
            "confusion zeroshot.h5 zeroshot.h5",
            2,
            "got 'zeroshot.h5'; hint: the arguments are: clipkit plot confusion [FILE]",
        ),
        ("temperature grid.h5 -o old.png", 2, "old.png"),
        ("confusion nosuch.h5 -o p.gif", 2, "p.gif"),
        ("confusion zeroshot.h5 --size 7", 2, "size: expected WxH in inches, got '7'"),
        ("confusion zeroshot.h5 --size nanx5", 2, "nan"),
        ("logits logits.h5 --prompt nosuch", 2, "unknown prompt of logits.h5 'nosuch'"),
        ("reliability logits.h5 -t fitted --split train", 2, "temperature 'fitted': expected a"),
        ("confusion logits.h5", 1, "expected result, got logits"),
        ("confusion entropy.h5", 1, "expected predicted classes, got a result of entropy"),
        ("confusion unlabelled-zeroshot.h5", 1, "unlabelled-zeroshot.h5"),
        ("confusion zeroshot.h5 --run 1", 2, "run: expected 0 on test, got 1"),
        ("confusion zeroshot.h5 --groups nosuch.tsv", 1, "nosuch.tsv"),
        ("clusters probe.h5", 1, "expected clusters, got a result of probe; hint: keep them with"),
        ("compare zeroshot.h5", 1, "expected a result of compare, got one of zeroshot; hint: make"),
        ("importance entropy.h5", 1, "expected a result of importance, got one of entropy"),
        ("shots probe.h5", 1, "expected a result of probe --shots"),
        ("temperature val.h5 --split vall", 2, "'vall'; hint: did you mean val?"),
        ("temperature grid.h5 --run 1", 2, "No such option: --run"),
        ("entropy txt.h5", 1, "expected logits, got texts"),
        ("reliability unlabelled.h5", 1, "test: "),
        ("logits logits.h5 --image nosuch", 2, "hint: known: 0.png, 1.png, 10.png, 11.png, "),
        ("logits logits.h5 --class cta", 2, "unknown class 'cta'; hint: did you mean cat"),
        ("layers zeroshot.h5", 1, "expected a result of probe, got one of zeroshot; hint: make"),
        ("spectrum txt.h5 txt.h5", 2, "expected files with different names, got txt twice"),
        ("images digits --split=", 2, "unknown split"),
        ("images", 2, "Missing argument 'DATASET'; hint: for example: clipkit plot images shapes"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused_in_one_line(line, code, message, folder, monkeypatch):
    monkeypatch.chdir(folder)
    words = line.split()
    if "-o" not in words:
        words += ["-o", "refused.png"]
    assert message in fails("plot", *words, exit_code=code)
    assert not (folder / "refused.png").exists()


@pytest.mark.long
def test_a_broken_image_is_a_grey_tile_with_a_warning(tmp_path):
    image = tmp_path / "a.png"
    Image.new("RGB", (8, 8), "red").save(image)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (line,) = ok("plot", "images", tmp_path, "-o", tmp_path / "out.pdf").stderr.splitlines()
    assert line.startswith("clipkit: warning: all/broken.png is a grey tile: ")


def test_an_image_that_is_not_square_keeps_its_shape_and_its_id_if_it_has_no_label(tmp_path):
    sizes = {"square": (50, 50), "tall": (40, 120), "thread": (200, 2), "wide": (120, 40)}
    for name, size in sizes.items():
        Image.new("RGB", size, "black").save(tmp_path / f"{name}_20260102_030405.png")
    figure, _ = draw_contact_sheet(datasets.load([str(tmp_path)]))
    tiles = np.array([image.get_array() for image in figure.axes[0].images])
    dark = (tiles == 0).all(axis=-1)
    drawn = [(int(tile.any(axis=0).sum()), int(tile.any(axis=1).sum())) for tile in dark]
    assert drawn == [(96, 96), (32, 96), (96, 1), (96, 32)]
    assert dark[1, :, 32:64].all()
    assert (tiles[1, :, :32] == 255).all()
    titles = [text.get_text() for text in figure.axes[0].texts]
    assert titles == ["…_030405.png"] * 4


@pytest.mark.long
@pytest.mark.parametrize("picture", ["attributes", "variance"])
def test_a_result_without_history_or_split_is_drawn_or_refused(picture, folder, tmp_path):
    result = read(folder / f"{picture}.h5")
    result.history = []
    result.runs.pop("split", None)
    line = ("plot", picture, saved(tmp_path / "r.h5", result), "-o", tmp_path / "p.png")
    assert "bug" not in ok(*line).stderr


@pytest.mark.long
@pytest.mark.parametrize("ending", ["jpg", "webp"])
def test_size_and_resolution_are_those_of_the_options(ending, folder, tmp_path):
    out = tmp_path / f"p.{ending}"
    draw(folder, out, *["classes", "zeroshot.h5", "--size", "6x4.5", "--dpi", "50"])
    with Image.open(out) as image:
        assert image.size == (300, 225)
    words = ("plot", "temperature", folder / "probe.h5", "-o", tmp_path / "p.png", "--size", "3x4")
    warning = "clipkit: warning: texts overlap at a size of 3x4; hint: choose a larger --size"
    assert warning in ok(*words).stderr


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.long
def test_every_picture_names_its_model_its_split_and_its_prompts(picture, folder, tmp_path):
    run = ok("plot", picture, example_file(picture, folder), "-o", tmp_path / "p.svg")
    assert not run.stderr  # texts do not overlap
    texts = re.findall("<!-- (.*) -->", (tmp_path / "p.svg").read_text())
    (subtitle,) = [text for text in texts if f": {MODEL['name']}, " in f": {text}"]
    if picture != "spectrum":
        assert ", test" in subtitle or ", val" in subtitle
    if picture in ("temperature", "entropy", "reliability", "logits", "shots", "spectrum"):
        assert " prompts" in subtitle


def test_a_trained_model_and_its_control_never_share_a_legend_text():
    texts = []
    for model, folder in (({}, "a"), ({"untrained": 7}, "b")):
        history = [{"command": "textembed", "model": {"name": "org/m", **model}}]
        text = FeatureFile("texts", history, texts=["p", "q"], display_name=f"{folder}/txt.h5")
        text.features = random_features(2, 5)
        texts.append(text)
    assert list(spectra(texts)) == ["m: txt (2)", "untrained m: txt (2)"]
    assert results.sources_label(texts) == "m and untrained m, 2 prompts"


def test_a_source_names_each_part_once_and_shortens_long_lists():
    dataset = {"name": "shapes"}
    files = [
        FeatureFile("images", [{"command": "embed", "model": {"name": name}, "dataset": dataset}])
        for name in "aabcde"
    ]
    assert results.source_label(files[0], "test") == "a on shapes, test"
    label = results.sources_label(files, ["test", "test", "val"])
    assert label == "a, b, c and 2 more on shapes, test and val"
    assert results.source_label(FeatureFile("images", []), "all") == "no model, all"
    files[0].history.append({"command": "textembed", "prompts": "generic32.txt"})
    assert results.source_label(files[0]) == "a on shapes, prompts: generic32.txt"


def confused(counts, names):
    """Return a result with the given confusion matrix (true, predicted)."""
    true, predicted = np.indices(np.shape(counts)).reshape(2, -1).repeat(np.ravel(counts), axis=1)
    return result_file([{"acc1": 0.5}], true, [predicted], [{"command": "probe"}], names)


def finding(draw, counts, groups=None):
    """Return the title of the picture of a confusion matrix (true, predicted)."""
    result = confused(counts, ["cat", "dog", "car"][: len(counts)])
    return draw(result, None, None, groups)[0].get_suptitle()


def test_the_title_of_a_confusion_says_which_value_of_a_table_errors_share(tmp_path):
    counts = 20 * np.eye(12, dtype=int)
    for number in range(4):
        counts[number, 4 + number] = 10
    result = confused(counts, [f"class{n}" for n in range(12)])
    ids = result.splits["test"].ids
    coats = np.repeat(["banded", "striped", "solid"], 4)[result.splits["test"].labels]
    table = {"id": ids, "coat": coats.tolist(), "place": ["left", "right"] * (len(ids) // 2)}
    title = " ".join(draw_confusion(result, table=table)[0].get_suptitle().split())
    assert title == (
        "40 of 120 banded images are called striped: 100 % of all errors, in 4 of 4 classes"
    )
    assert "banded" not in draw_confusion(result)[0].get_suptitle()
    with pytest.raises(UsageError, match="expected --groups or --table, got both"):
        draw_confusion(result, groups="groups.tsv", table=table)


def test_a_finding_names_what_stands_out_and_nothing_in_a_tie(tmp_path):
    counts = [[1, 9, 0], [1, 9, 0], [0, 0, 10]]
    assert finding(draw_confusion, counts) == "9 of 10 images of cat are predicted as dog"
    assert finding(draw_classes, counts) == "cat: 1 of 10 right, all other classes 95 %"
    few = [[6, 4, 0], [1, 9, 0], [0, 0, 10]]  # 4 against 1, and 6 of 10 against 19 of 20
    assert "predicted as" not in finding(draw_confusion, few)
    assert "right" not in finding(draw_classes, few)
    for tied in (np.eye(3, dtype=int).tolist(), [[1, 1], [1, 1]]):
        assert "predicted as" not in finding(draw_confusion, tied)
        assert "right" not in finding(draw_classes, tied)
    groups = tmp_path / "groups.tsv"
    groups.write_text("cat\tanimal\ndog\tanimal\ncar\tthing\n")
    grouped = finding(draw_confusion, [[6, 3, 1], [2, 8, 0], [0, 1, 9]], str(groups)).split()
    expected = "Errors that keep the group: 71 % of 7, not decided against chance (65 %;"  # 5 of 7
    assert grouped[: len(expected.split())] == expected.split()
