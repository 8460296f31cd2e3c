"""What a command says of inputs in the wrong place, and that its hints work when followed."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from factories import refused, saved, write_feature_file
from shell import clipkit, fails, ok, rows
from test_columns import write_world
from typer.testing import CliRunner

from clipkit.cli import app
from clipkit.features import read

KINDS = ("images", "texts", "logits", "result", "probe")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A folder with a feature file of each kind, and files of other programs."""
    folder = tmp_path_factory.mktemp("mixed")
    for kind in KINDS:
        write_feature_file(folder / f"{kind}.h5", kind)
    (folder / "photos").mkdir()
    (folder / "table.csv").write_text("id,colour\n0.png,red\n1.png,blue\n")
    (folder / "items.csv").write_text("item,image,text,correct\n0,0.png,a,1\n0,0.png,b,0\n")
    (folder / "captions.tsv").write_text("image\tcaption\n0.png\ta cat\n")
    (folder / "prompts.txt").write_text("a cat\n")
    return folder


@pytest.fixture
def here(mixed, monkeypatch):
    monkeypatch.chdir(mixed)


SWAPPED = (
    ("logits texts.h5 images.h5", "images", "logits images.h5 texts.h5"),
    ("align texts.h5 images.h5", "images", "align images.h5 texts.h5"),
    ("predict images.h5 probe.h5", "probe", "predict probe.h5 images.h5"),
    ("plot nearest shapes logits.h5", "logits", "plot nearest logits.h5 shapes"),
    ("describe result.h5 --result logits.h5", "logits", "describe logits.h5 --result result.h5"),
)


@pytest.mark.parametrize(("line", "kind", "meant"), SWAPPED)
def test_two_files_in_each_others_place_are_to_be_swapped(line, kind, meant, here):
    """What is then said of these files, if anything, is no more about their kinds."""
    assert fails_in_any_way(line).endswith(f"; hint: swap the two: {kind}.h5 holds the {kind}\n")
    followed = clipkit(*meant.split()).stderr
    assert "swap" not in followed
    assert f"expected {kind}" not in followed


def fails_in_any_way(line):
    """Run a command that must be refused in one line, for data or for usage; return the line."""
    result = clipkit(*line.split())
    assert result.exit_code in (1, 2)
    return refused(result, result.exit_code)


# One of several kinds is right, and the other place would not take the first
@pytest.mark.parametrize(
    "line",
    [
        "logits logits.h5 images.h5",
        "logits texts.h5 texts.h5",
        "retrieve result.h5 images.h5",
        "predict texts.h5 probe.h5",
        "logits texts.h5 -",
        "logits texts.h5 missing.h5",
    ],
)
def test_two_files_are_not_to_be_swapped_if_that_would_not_help(line, here):
    assert "swap" not in fails(*line.split(), stdin=b"")


MADE = (
    (
        "logits photos texts.h5 -t 0.5",
        "embed photos --model m -o photos.h5 && clipkit logits photos.h5 texts.h5 -t 0.5",
    ),
    (
        "logits shapes texts.h5",
        "embed shapes --model m -o shapes.h5 && clipkit logits shapes.h5 texts.h5",
    ),
    ("probe photos -C 2", "embed photos -o photos.h5 && clipkit probe photos.h5 -C 2"),
    (
        "logits images.h5 prompts.txt",
        "textembed prompts.txt --model m -o prompts.h5 && clipkit logits images.h5 prompts.h5",
    ),
    (
        "zeroshot images.h5 cifar10 --per-class",
        "textembed --classes cifar10 --model m -o cifar10.classes.h5 && "
        "clipkit zeroshot images.h5 cifar10.classes.h5 --per-class",
    ),
    (
        "entropy images.h5 generic16",
        "textembed generic16 --model m -o generic16.h5 && clipkit entropy images.h5 generic16.h5",
    ),
    (
        "retrieve images.h5 captions.tsv",
        "textembed --captions captions.tsv --model m -o captions.h5 && "
        "clipkit retrieve images.h5 captions.h5",
    ),
    (
        "align images.h5 captions.tsv",
        "textembed --captions captions.tsv -o captions.h5 && clipkit align images.h5 captions.h5",
    ),
)


@pytest.mark.parametrize(("line", "maker"), MADE)
def test_what_is_no_feature_file_yet_is_refused_with_the_line_that_makes_one(line, maker, here):
    assert f"; hint: make one with: clipkit {maker}" in fails(*line.split())


WRONG_KIND = (
    ("logits images.h5 logits.h5", "logits.h5: expected texts, got logits"),
    ("retrieve images.h5 images.h5", "images.h5: expected texts, got images"),
    ("entropy images.h5", "images.h5: expected logits, got images"),
    ("zeroshot images.h5", "images.h5: expected logits, got images"),
    ("calibrate result.h5", "result.h5: expected logits, got result"),
    ("cluster texts.h5", "texts.h5: expected images or logits, got texts"),
    ("threshold images.h5", "images.h5: expected logits, got images"),
    ("describe images.h5", "images.h5: expected logits, got images"),
    ("compare result.h5 logits.h5", "logits.h5: expected result, got logits"),
    ("predict result.h5 logits.h5", "result.h5: expected probe, got result"),
    ("importance probe.h5 images.h5", "images.h5: expected logits, got images"),
    ("variance texts.h5", "texts.h5: expected images, got texts"),
    ("relabel images.h5 logits.h5", "logits.h5: expected text, got a feature file"),
    ("align images.h5 logits.h5", "logits.h5: expected images or texts, got logits"),
    ("concat images.h5 texts.h5", "expected one kind, got images and texts"),
)


@pytest.mark.parametrize(("line", "message"), WRONG_KIND)
def test_a_file_of_another_kind_is_refused_with_both_kinds(line, message, here):
    assert message in fails_in_any_way(line)


@pytest.mark.parametrize("words", ["probe images.h5 one two", "entropy images.h5 texts.h5 two"])
def test_an_argument_too_many_is_refused_by_its_name(words, here):
    command, *_, extra = words.split()
    message = fails(*words.split(), exit_code=2)
    hint = f"the arguments are: clipkit {command} [FILE] [TEXTS]"
    expected = f"expected no further argument, got {extra!r}; hint: {hint}\n"
    assert message == f"clipkit {command}: {expected}"


def test_hints_are_the_same_for_python_m(here):
    program = {"prog_name": "python -m clipkit"}
    run = CliRunner().invoke(app, ["entropy", "logits.h5", "texts.h5", "two"], **program)
    assert run.stderr.endswith("; hint: the arguments are: clipkit entropy [FILE] [TEXTS]\n")


# ---- Hints that are followed ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with files that belong together, results of them, and files of other programs."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    images = read(folder / "img.h5")
    for split in images.splits.values():
        split.features = np.ones_like(split.features)
    saved(folder / "constant.h5", images)
    yes_and_no = read(folder / "words.h5")
    yes_and_no.class_names = ["flag: yes", "flag: no"]
    yes_and_no.class_index = np.arange(len(yes_and_no.texts)) % 2
    saved(folder / "yes.h5", yes_and_no)
    yes_and_no.class_names = ["flag: 1", "flag: 0"]
    saved(folder / "one.h5", yes_and_no)
    captions = [f"{row_id},caption of {row_id}" for row_id in images.splits["test"].ids[:20]]
    (folder / "captions.csv").write_text("\n".join(["image,caption", *captions, ""]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in (
            "logits img.h5 txt.h5 -o logits.h5",
            "logits unknown.h5 txt.h5 -o unknown-logits.h5",
            "zeroshot logits.h5 -o z.h5",
            "retrieve img.h5 captions.h5 -o r.h5",
            "choose img.h5 items.h5 --items items.csv -o c.h5",
            "threshold logits.h5 -o cuts.h5",
        ):
            ok(*line.split())
    return folder


@pytest.fixture
def there(world, monkeypatch):
    monkeypatch.chdir(world)


FOLLOWED = (
    ("plot confusion img.h5", "make one by probe or zeroshot", "plot confusion z.h5"),
    ("plot confusion r.h5", "clipkit plot r.h5", "plot r.h5"),
    ("plot classes c.h5", "clipkit plot c.h5", "plot c.h5"),
    ("plot cuts.h5", "clipkit plot threshold draws logits", "plot threshold logits.h5"),
    ("attributes img.h5 table.csv", "--table table.csv", "attributes img.h5 --table table.csv"),
    ("align captions.h5 img.h5", "swap the two", "align img.h5 captions.h5"),
    ("convert img.h5", "clipkit convert img.h5 img.npz", "convert img.h5 img.npz"),
    ("convert img.h5 photos", "clipkit convert img.h5 photos.npz", "convert img.h5 photos.npz"),
    ("threshold logits.h5 --fpr 5%", "write a share: 0.05", "threshold logits.h5 --fpr 0.05"),
    ("threshold logits.h5 --fpr 5", "write a share: 0.05", "threshold logits.h5 --fpr 0.05"),
    (
        "probe logits.h5 -C 1e-3:1e2 --val 0.2",
        "for N values: 1e-3..1e2:6",
        "probe logits.h5 -C 1e-3..1e2:6 --val 0.2",
    ),
    (
        "attributes img.h5 --table table.csv --attribute flag --metric auroc,ap",
        "run it with --metric auroc and --metric ap",
        "attributes img.h5 --table table.csv --attribute flag --metric ap",
    ),
    (
        "textembed captions.csv --model tiny",
        "--captions captions.csv",
        "textembed --captions captions.csv --model tiny",
    ),
    ("align constant.h5 img.h5", "leave it out", "align img.h5 ctl.h5"),
    (
        "threshold logits.h5 --unknown unknown-logits.h5 --fpr 0.1",
        "--unknown keeps 95 % of the known images",
        "threshold logits.h5 --unknown unknown-logits.h5",
    ),
    (
        "threshold logits.h5 --at 0.5 --fpr 0.1",
        "leave out one of them",
        "threshold logits.h5 --at 0.5",
    ),
)


@pytest.mark.parametrize(("line", "hint", "followed"), FOLLOWED)
def test_a_hint_works_when_it_is_followed(line, hint, followed, there):
    assert hint in fails_in_any_way(line).partition("; hint: ")[2]
    ok(*followed.split())


@pytest.mark.long
def test_a_file_without_a_picture_of_its_own_names_what_can_be_drawn(there):
    drawn = ok("plot", "img.h5")
    assert drawn.stderr.startswith("clipkit: drawing spectrum; also: clipkit plot images DATASET\n")
    also = ok("plot", "logits.h5").stderr
    assert ", or clipkit plot nearest logits.h5 DATASET\n" in also
    Path("m'q.h5").write_bytes(Path("logits.h5").read_bytes())
    quoted = ok("plot", "m'q.h5", "-o", "quoted.png").stderr.rpartition(", or ")[2]
    assert shlex.split(quoted) == ["clipkit", "plot", "nearest", "m'q.h5", "DATASET"]


def test_a_layer_without_differences_is_left_out_of_three(there):
    printed = ok("align", "constant.h5", "img.h5", "ctl.h5", "--columns", "a,b")
    assert set(printed.stdout.splitlines()[1:]) == {"img\tctl"}
    assert "left out constant.h5: all rows are equal" in printed.stderr


def test_too_few_errors_are_counted(there):
    result = read("z.h5")
    split = result.splits["test"]
    split.predicted = split.labels[None].copy()
    split.predicted[0, :9] = (split.labels[:9] + 1) % 7
    saved("nine.h5", result)
    message = fails("describe", "logits.h5", "--result", "nine.h5", "--split", "test")
    assert (
        "expected at least 10 errors and as many other images, got 9 of 105 in 'errors'" in message
    )


def test_words_of_other_values_are_noted_with_a_value_that_works(there):
    options = ("--table", "table.csv", "--attribute", "flag", "--columns", "zeroshot")
    noted = ok("attributes", "img.h5", "yes.h5", *options)
    assert "expected classes called 'flag: 0', got 'flag: yes' and others" in noted.stderr
    followed = ok("attributes", "img.h5", "one.h5", *options)
    assert float(followed.stdout.splitlines()[1]) > 0


# ---- What was done without a word ----------------------------------------------------------------


def test_the_threshold_for_unknown_images_is_one_for_all_classes(there):
    ok("threshold", "logits.h5", "--unknown", "unknown-logits.h5", "-o", "detected.h5")
    (cut,) = [row["threshold"] for row in read("detected.h5").rows()][:1]
    expected = ok("zeroshot", "logits.h5", "--threshold", repr(cut)).stdout
    assert ok("zeroshot", "logits.h5", "--threshold", "detected.h5").stdout == expected
    ok("threshold", "img.h5", "--unknown", "unknown.h5", "-o", "of-images.h5")
    message = fails("zeroshot", "logits.h5", "--threshold", "of-images.h5")
    assert "expected a threshold of cosines with prompts, got one of embeddings" in message


def test_a_recall_among_all_candidates_is_warned_of(there):
    warned = ok("retrieve", "img.h5", "captions.h5", "-k", "5,105,300").stderr
    assert "recall@105, recall@300 of 105 images is 1 for any model" in warned
    assert "recall@300 of 210 texts is 1 for any model" in warned


def test_seeds_have_a_mean_and_a_deviation(there):
    ended = ok("probe", "img.h5", "--shots", "2,4", "--classifier", "logreg", "--seed", "1,2,3")
    accuracies = [100 * float(row["acc1"]) for row in rows(ended.stdout)]
    notes = [line for line in ended.stderr.splitlines() if " seeds (" in line]
    assert len(notes) == 2
    for place, note in enumerate(notes):
        of_seeds = np.array(accuracies[place::2])
        mean, deviation = f"{of_seeds.mean():.2f} %", f"{of_seeds.std(ddof=1):.2f} %"
        settings = f"logreg, C 1, train-{(2, 4)[place]}-shot, test"
        expected = f"accuracy of 3 seeds ({settings}): mean {mean}, standard deviation {deviation}"
        assert note == f"clipkit: {expected}"


def test_rows_of_several_results_name_their_files(there):
    printed = rows(ok("info", "--runs", "z.h5", "r.h5").stdout)
    assert {row["file"] for row in printed} == {"z.h5", "r.h5"}
    assert "file" not in rows(ok("info", "--runs", "z.h5").stdout)[0]


def test_pixels_beyond_the_last_patch_are_warned_of(tmp_path):
    words = ("embed", "shapes", "--model", "tiny", "--limit", "4")
    warned = ok(*words, "--image-size", "50", "-o", tmp_path / "a.h5").stderr
    assert "tiny does not see the last 2 rows and columns of pixels" in warned
    assert "hint: --image-size 48 or 56\n" in warned
    assert "does not see" not in ok(*words, "--image-size", "48", "-o", tmp_path / "b.h5").stderr
