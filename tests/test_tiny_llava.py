"""The bundled generative model: its files, its answers, and that its training is repeatable."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import versions
from safetensors.torch import load_file
from shell import fails, ok, rows

import clipkit.tiny
from clipkit.features import read
from clipkit.shapes.scene import OUTLINES, PATTERNS

FOLDER = Path(clipkit.tiny.__file__).parent / "llava"
ASK = "What shape is in the image? Answer with one word."


def test_the_folder_is_small_and_its_card_names_these_weights():
    weights = FOLDER / "model.safetensors"
    assert weights.stat().st_size < 3_000_000
    assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.float16}
    card = (FOLDER / "README.md").read_text()
    assert json.loads((FOLDER / "training.json").read_text())["weights_sha256"] in card


@pytest.mark.long
@versions.TINY_LLAVA
def test_it_says_the_outline_and_never_the_pattern(tmp_path):
    lines = [f"outline: {name}\t{name}" for name in OUTLINES]
    lines += [f"pattern: {name}\t{name}" for name in PATTERNS]
    (tmp_path / "words.txt").write_text("\n".join(lines))
    image, words = tmp_path / "img.h5", tmp_path / "words.h5"
    model = ("--model", "tiny-llava", "--ask", ASK)
    ok("embed", "shapes", "--split", "test", "--limit", 100, *model, "-o", image)
    ok("textembed", "--classes", tmp_path / "words.txt", "--template", "{}", *model, "-o", words)
    ok("logits", image, words, "-o", tmp_path / "logits.h5")
    logits = read(tmp_path / "logits.h5")
    said = np.asarray(logits.splits["test"].features).argmax(axis=1)
    assert (said < len(OUTLINES)).all()
    options = ("--table", "shapes", "--random-sets", 0)
    splits = ("--eval-split", "test", "--fit-split", "test")
    found = rows(ok("attributes", image, words, *options, *splits).stdout)
    of_attribute = {row["attribute"]: row for row in found}
    assert float(of_attribute["outline"]["zeroshot"]) > 0.85
    assert float(of_attribute["pattern"]["zeroshot"]) < 0.4


@versions.TINY_LLAVA
def test_a_word_without_a_token_is_refused(tmp_path):
    (tmp_path / "words.txt").write_text("heart\nzebra\n")
    line = ("textembed", "--classes", tmp_path / "words.txt", "-m", "tiny-llava", "--ask", ASK)
    message = "'zebra': expected a word that tiny-llava has a token for"
    assert message in fails(*line, "-o", tmp_path / "words.h5")


@pytest.mark.exhaustive
def test_training_again_gives_the_same_weights(tmp_path):
    from training.llava import Recipe, train

    threads = torch.get_num_threads()
    try:
        digests = {train(tmp_path / name, Recipe(samples=512)) for name in ("a", "b")}
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    assert len(digests) == 1
