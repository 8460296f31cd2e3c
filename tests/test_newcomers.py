"""What newcomers type: the error has a hint, and whoever follows it gets on."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from factories import write_photos
from shell import clipkit, ok


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder of photos, what the bundled model makes of them, and tables."""
    folder = tmp_path_factory.mktemp("newcomers")
    lines = ["filename,colour,size"]
    for number, (name, colour) in enumerate(write_photos(folder / "photos")):
        lines.append(f"{name},{colour},{('small', 'large')[number // 3 % 2]}")
    (folder / "table.csv").write_text("\n".join(lines))
    (folder / "words.tsv").write_text("colour: red\ta red thing\ncolour: blue\ta blue thing\n")
    (folder / "noheader.csv").write_text("cat,a small cat\ndog,a big dog\n")
    features = np.random.default_rng(0).normal(size=(40, 64)).astype("f4")
    np.savez(folder / "theirs.npz", train_features=features)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CLIPKIT_MODEL", "tiny")
        for line in (
            "embed photos --split-off test=0.5 -o img.h5",
            "textembed generic16 -o txt.h5",
            "textembed --classes img.h5 -o classes.h5",
            "logits img.h5 txt.h5 -o logits.h5",
            "logits img.h5 classes.h5 -o z-logits.h5",
            "probe logits.h5 -o p.h5",
            "zeroshot z-logits.h5 -o z.h5",
            "convert theirs.npz theirs.h5",
        ):
            ok(*line.split())
    return folder


@pytest.fixture
def here(world, monkeypatch, tmp_path):
    for path in world.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPKIT_MODEL", "tiny")


# What is typed, and what is typed next, as the hint says
FOLLOWED = (
    ("train img.h5", "probe img.h5"),
    ("evaluate img.h5", "probe img.h5"),
    ("linear-probe img.h5", "probe img.h5"),
    ("search img.h5 -q cat", "nearest img.h5 -q cat"),
    ("LOGITS img.h5 txt.h5 -o x.h5", "logits img.h5 txt.h5 -o x.h5"),
    ("probe img.h5 --C 1", "probe img.h5 -C 1"),
    ("probe img.h5 --classifier KNN", "probe img.h5 --classifier knn"),
    ("probe img.h5 --classifier logistic-regression", "probe img.h5 --classifier logreg"),
    ("probe img.h5 --classifier knn --k 3", "probe img.h5 --classifier knn -k 3"),
    ("probe img.h5 --tau 1", None),
    ("probe logits.h5 --tau 1", "probe logits.h5 --temperature 1"),
    ("probe logits.h5 -t 1 0.07", "probe logits.h5 -t 1,0.07"),
    ("probe img.h5 --columns acc1 C", "probe img.h5 --columns acc1,C"),
    ("probe img.h5 -C 0", "probe img.h5 -C 0.001"),
    ("probe img.h5 --split test", "probe img.h5 --eval-split test"),
    ("cluster img.h5 --n_clusters 2", "cluster img.h5 -k 2"),
    ("entropy logits.h5 -t 0", "entropy logits.h5 -t 0.001"),
    ("zeroshot z-logits.h5 --split val", "zeroshot z-logits.h5 --split test"),
    ("nearest img.h5 'a red car'", "nearest img.h5 -q 'a red car'"),
    ("nearest photos.h5 'a red car'", None),
    ("logits img.h5 generic16", "textembed generic16 -o generic16.h5"),
    ("logits img.h5 words.tsv", "textembed --classes words.tsv --template '{}' -o words.h5"),
    ("logits imgs.h5 txt.h5", "logits img.h5 txt.h5"),
    ("logits img txt.h5", "logits img.h5 txt.h5"),
    ("logits theirs.h5 txt.h5", "convert theirs.npz theirs.h5 --model tiny --force"),
    ("compare p.h5 logits.h5", "probe logits.h5 -o logits.probe.h5"),
    ("compare z.h5 z-logits.h5", "zeroshot z-logits.h5 -o z-logits.zeroshot.h5"),
    (
        "attributes img.h5 --table table.csv --metric accuracy",
        "attributes img.h5 --table table.csv --metric recall",
    ),
    (
        "attributes img.h5 --table table.csv --attribute color",
        "attributes img.h5 --table table.csv --attribute colour",
    ),
    (
        "probe img.h5 --table table.csv --attribute colour,size",
        "probe img.h5 --table table.csv --attribute 'colour*size'",
    ),
    ("plot photos", "plot images photos"),
    ("plot shapes", "plot images shapes"),
    ("plot confusion z.h5 out.png", "plot confusion z.h5 -o out.png"),
    ("embed DIGITS --limit 20 -o d.h5", "embed digits --limit 20 -o d.h5"),
    ("embed photos -m TINY -o d.h5", "embed photos -m tiny -o d.h5"),
    ("embed photos --split-off 0.2 -o d.h5", "embed photos --split-off test=0.2 -o d.h5"),
    ("split img.h5 --split-off 0.2 -o d.h5", None),
    ("textembed noheader.csv", None),
    ("list dataset", "list datasets"),
)


@pytest.mark.parametrize(("line", "following"), FOLLOWED)
def test_a_hint_leads_on(line, following, here):
    said = clipkit(*shlex.split(line)).stderr
    assert "; hint: " in said
    if following is None:
        return
    expected = shlex.split(following)
    for word in expected:  # what is new on the line stands in the hint
        if word not in shlex.split(line) and word not in ("theirs.npz", "tiny"):
            assert word in said.partition("; hint: ")[2], word
    again = clipkit(*expected)
    assert again.exit_code == 0, again.stderr


def test_sentences_that_fill_a_template_are_warned_of(here, tmp_path):
    (tmp_path / "mine.txt").write_text("a photo of a cat\na photo of a dog\n")
    words = ("textembed", "--classes", "mine.txt", "-o", "mine.h5", "-f")
    warned = ok(*words).stderr
    assert "as in 'a photo of a a photo of a cat'; hint: " in warned
    assert "as in" not in ok(*words, "--template", "{}").stderr
    assert "as in 'one a photo of a cat'" in ok(*words, "--template", "one {}").stderr
