"""Images and texts in place of logits, from files and pipes, and a pipe that nobody reads.

What every question gives of them is a promise of the contract: see test_questions.
"""

import numpy as np
import pytest
from factories import saved
from shell import fails, ok, rows, shell

import clipkit
from clipkit import analysis, features, plots
from clipkit.base import matrices
from clipkit.base.matrices import BlockMatrix
from clipkit.commands.samples import Samples
from clipkit.features import similarity

TAKING_LOGITS = (
    *("calibrate", "cluster", "describe", "entropy", "importance"),
    *("predict", "probe", "threshold", "zeroshot"),
)


@pytest.fixture
def sample_files(tmp_path):
    """Paths of images, of texts of their classes, and of their logits."""
    samples = Samples(tmp_path)
    files = {"img": samples.images, "classes": samples.class_texts, "logits": samples.logits}
    return {name: saved(tmp_path / f"{name}.h5", file) for name, file in files.items()}


def test_all_questions_about_logits_take_images_and_texts():
    found = {name for name in analysis.names() if analysis.find(name).pairing}
    assert found == set(TAKING_LOGITS)


@pytest.mark.long
def test_a_result_is_that_of_the_logits_file_to_the_last_byte(sample_files, tmp_path):
    images, texts = sample_files["img"], sample_files["classes"]
    for command in ("zeroshot", "entropy", "calibrate", "cluster", "probe"):
        of_pair, of_logits = tmp_path / f"{command}-a.h5", tmp_path / f"{command}-b.h5"
        printed = ok(command, images, texts, "-o", of_pair).stdout
        ok("logits", images, texts, "-o", tmp_path / "l.h5", "--force")
        assert ok(command, tmp_path / "l.h5", "-o", of_logits).stdout == printed
        assert of_pair.read_bytes() == of_logits.read_bytes()


def test_texts_come_from_a_pipe_and_images_too(sample_files):
    images, texts = sample_files["img"], sample_files["classes"]
    expected = ok("zeroshot", images, texts).stdout
    assert ok("zeroshot", images, "-", stdin=texts.read_bytes()).stdout == expected
    assert ok("zeroshot", "-", texts, stdin=images.read_bytes()).stdout == expected


def test_python_takes_images_and_texts_as_the_command_does(sample_files):
    images, texts = sample_files["img"], sample_files["classes"]
    expected = clipkit.zeroshot(sample_files["logits"])
    assert clipkit.zeroshot(images, texts).digest == expected.digest
    in_memory = clipkit.zeroshot(clipkit.read(images), texts=clipkit.read(texts))
    assert in_memory.digest == expected.digest


@pytest.mark.long
def test_a_picture_of_logits_is_drawn_of_images_and_texts(sample_files, tmp_path):
    images, texts = sample_files["img"], sample_files["classes"]
    ok("plot", "similarity", images, texts, "-o", tmp_path / "a.png")
    ok("plot", "similarity", sample_files["logits"], "-o", tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert plots.draw([images, texts], "entropy").axes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("classes img", "img.h5: expected texts, got images; hint: swap the two"),
        ("logits classes", "expected images before "),
        ("img no", "cannot read no: there is no such file"),
        ("img classes img", "expected no further argument"),
        ("- -", "expected only one file on standard input"),
    ],
)
def test_what_is_no_pair_is_refused_in_one_line(words, message, sample_files):
    names = [sample_files.get(word, word) for word in words.split()]
    exit_code = 1 if "swap" in message or "cannot read" in message else 2
    assert message in fails("zeroshot", *names, exit_code=exit_code)


def test_large_logits_are_computed_in_blocks_once(sample_files, monkeypatch):
    images = features.read(sample_files["img"])
    texts = features.read(sample_files["classes"])
    expected = clipkit.zeroshot(similarity.compute_logits(images, texts))
    monkeypatch.setattr(matrices, "SMALL", 0)
    count = []
    products = similarity.products

    def counted(rows, directions):
        count.append(len(rows))
        return products(rows, directions)

    monkeypatch.setattr(similarity, "products", counted)
    assert clipkit.zeroshot(images, texts).digest == expected.digest
    assert sum(count) == sum(map(len, images.splits.values()))


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_a_matrix_as_stored_has_the_blocks_of_a_file(size, monkeypatch):
    X = np.arange(60, dtype=np.float32).reshape(20, 3)
    monkeypatch.setattr(matrices, "block_rows", lambda width: 6)
    parts = [X[start : start + size] for start in range(0, len(X), size)]
    stored = matrices.as_stored(BlockMatrix(X.shape, lambda: iter(parts)))
    assert stored.sha256 is None
    assert [len(block) for block in stored.iter_blocks()] == [6, 6, 6, 2]
    assert (stored.read() == X).all()
    assert stored.sha256 == features.model.sha256_of([X])


@pytest.mark.parametrize("line", ["cat classes.h5 | clipkit zeroshot logits.h5"])
def test_a_feature_file_on_a_pipe_that_is_not_read_is_said(line, sample_files):
    done = shell(line, sample_files["img"].parent)
    assert done.returncode == 0
    assert "the feature file on standard input was not read" in done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "ls img.h5 | while read f; do clipkit info $f; done",
        "clipkit info img.h5 < classes.h5",
        "clipkit info img.h5 < /dev/null",
        "clipkit info img.h5 <&-",
        "cat classes.h5 | clipkit zeroshot img.h5 -",
    ],
)
def test_a_pipe_that_is_read_or_holds_no_feature_file_is_not_said(line, sample_files):
    done = shell(line, sample_files["img"].parent)
    assert (done.returncode, "not read" in done.stderr) == (0, False)


def test_the_most_costly_prompts_are_printed(sample_files, tmp_path):
    images, texts = sample_files["img"], sample_files["classes"]
    ok("probe", images, texts, "--keep", "-o", tmp_path / "p.h5")
    every = rows(ok("importance", tmp_path / "p.h5", images, texts).stdout)
    assert rows(ok("importance", tmp_path / "p.h5", images, texts, "--top", 2).stdout) == every[:2]
