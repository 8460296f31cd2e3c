"""The bundled model: its files, its accuracy, and that training it again gives the same weights."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import versions
from hypothesis import given, settings
from hypothesis import strategies as st
from processors import PROCESSORS
from safetensors.torch import load_file
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

import clipkit.tiny
from clipkit import shapes
from clipkit.base.errors import UsageError

FOLDER = Path(clipkit.tiny.__file__).parent
PROMPTS = Path(clipkit.__file__).parents[1] / "prompts" / "generic32.txt"
SEED = 7  # of images that the model was not trained on


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    return CLIPModel.from_pretrained(FOLDER).float().eval()


# Files


def test_the_folder_is_complete_small_and_half_precision(caplog):
    for name in ("config", "preprocessor_config", "tokenizer", "tokenizer_config", "training"):
        json.loads((FOLDER / f"{name}.json").read_text())
    weights = FOLDER / "model.safetensors"
    assert weights.stat().st_size < 8_000_000
    assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.float16}
    with caplog.at_level(logging.WARNING):
        _, report = CLIPModel.from_pretrained(FOLDER, output_loading_info=True)
    assert not any(report.values())


def test_the_model_card_warns_and_names_these_weights():
    card = (FOLDER / "README.md").read_text()
    assert "nothing about CLIP" in " ".join(card.split("\n\n")[1].split())
    assert json.loads((FOLDER / "training.json").read_text())["weights_sha256"] in card


# The tokenizer


@settings(max_examples=100)
@given(text=st.text())
def test_every_text_has_tokens_and_ends_with_the_largest_id(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id is None
    assert None not in ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids.index(tokenizer.eos_token_id) == len(ids) - 1
    assert max(ids) == tokenizer.eos_token_id
    assert len(ids) > 2 or not text.split()


@versions.TINY_TOKENS
def test_the_text_tower_reads_the_end_token_and_ignores_padding(tokenizer, model):
    config = model.config.text_config
    assert config.eos_token_id == tokenizer.eos_token_id == len(tokenizer) - 1
    assert config.pad_token_id == tokenizer.pad_token_id
    alone = text_features(model, tokenizer, ["a ball"])[0]
    padded = text_features(model, tokenizer, ["a ball", "a much longer text"])[0]
    np.testing.assert_allclose(alone, padded, atol=1e-5)


# Accuracy


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def text_features(model, tokenizer, texts):
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.text_projection(model.text_model(**tokens).pooler_output).numpy()


def image_features(model, split, n):
    processor = AutoImageProcessor.from_pretrained(FOLDER)
    parts = []
    for start in range(0, n, 250):
        images = shapes.render(np.arange(start, start + 250), split=split, seed=SEED, size=64)
        pixels = processor(list(images), return_tensors="pt")
        with torch.no_grad():
            hidden = model.vision_model(**pixels).pooler_output
            parts.append(model.visual_projection(hidden).numpy())
    return np.concatenate(parts)


def accuracies(model, tokenizer, train_images, test_images):
    """Return accuracies by the thesis's protocol."""
    train = image_features(model, "train", train_images)
    test = image_features(model, "test", test_images)
    y_train = shapes.labels(np.arange(train_images), split="train", seed=SEED)
    y_test = shapes.labels(np.arange(test_images), split="test", seed=SEED)

    def svm(X_train, X_test):
        classifier = SVC(kernel="linear", C=1.0, random_state=42).fit(X_train, y_train)
        return float(classifier.score(X_test, y_test))

    class_prompts = [f"a photo of a {name}" for name in shapes.CLASS_NAMES]
    classes = unit(text_features(model, tokenizer, class_prompts)).T
    generic = unit(text_features(model, tokenizer, PROMPTS.read_text().splitlines())).T
    scaler = StandardScaler().fit(train)
    return {
        "supervised": svm(scaler.transform(train), scaler.transform(test)),
        "zero-shot": float(((unit(test) @ classes).argmax(1) == y_test).mean()),
        "generic, tau 1": svm(unit(train) @ generic, unit(test) @ generic),
        "generic, tau 0.02": svm(unit(train) @ generic / 0.02, unit(test) @ generic / 0.02),
    }


@pytest.mark.exhaustive
def test_the_accuracies_are_ordered_as_in_clip(model, tokenizer):
    """On a fifth of the model card's images."""
    accuracy = accuracies(model, tokenizer, 4000, 1000)
    assert 0.5 < accuracy["zero-shot"] < 0.9
    assert accuracy["supervised"] > max(0.68, accuracy["zero-shot"] + 0.03)
    assert 0.1 < accuracy["generic, tau 1"] < accuracy["zero-shot"]
    assert accuracy["generic, tau 0.02"] > accuracy["generic, tau 1"] + 0.1


LOGITS = """
from clipkit.cli import app
for line in (
    "embed shapes --limit 8 --model tiny -o img.h5",
    "textembed generic32 --model tiny -o txt.h5",
    "logits img.h5 txt.h5 -o logits.h5",
):
    try:
        app(line.split())
    except SystemExit as end:
        assert not end.code
"""


@pytest.mark.long
@pytest.mark.whole
def test_embeddings_and_cosines_have_the_same_bits_on_every_processor(tmp_path):
    found = {}
    machines = {"native": {}, "one thread": {"OMP_NUM_THREADS": "1"}, **PROCESSORS}
    for name, variables in machines.items():
        folder = tmp_path / name
        folder.mkdir()
        environment = {**os.environ, **variables}
        subprocess.run([sys.executable, "-c", LOGITS], cwd=folder, env=environment, check=True)
        found[name] = [(folder / file).read_bytes() for file in ("img.h5", "txt.h5", "logits.h5")]
    assert [name for name in found if found[name] != found["native"]] == []


# Training


@pytest.fixture
def training():
    """Import the training, which changes PyTorch's threads and algorithms; restore them."""
    from training import train

    threads = torch.get_num_threads()
    yield train
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.mark.exhaustive
def test_training_again_gives_the_same_weights_also_after_interruptions(tmp_path, training):
    recipe = training.Recipe(seed=3, samples=8 * 16, batch=16, warmup=2)
    digest = training.train(tmp_path / "whole", recipe)
    assert CLIPModel.from_pretrained(tmp_path / "whole").config.projection_dim == 64
    assert training.train(tmp_path / "other", replace(recipe, seed=4)) != digest
    for stop in (1, 5):
        assert training.train(tmp_path / "parts", recipe, stop_after=stop) is None
        assert not (tmp_path / "parts" / "model.safetensors").exists()
    with pytest.raises(UsageError, match="expected a checkpoint of the same recipe"):
        training.train(tmp_path / "parts", replace(recipe, seed=4))
    assert training.train(tmp_path / "parts", recipe) == digest
    assert not (tmp_path / "parts" / "checkpoint.pt").exists()
