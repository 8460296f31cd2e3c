"""The bundled model: what is in its folder, what it knows, and that training it again gives the same weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

import clipkit.tiny
from clipkit import shapes
from clipkit.errors import UsageError
from clipkit.tiny import train

FOLDER = Path(clipkit.tiny.__file__).parent
PROMPTS = Path(clipkit.__file__).parents[1] / "prompts" / "generic32.txt"
SEED = 7  # not the default one


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model() -> Any:
    return CLIPModel.from_pretrained(FOLDER).float().eval()


def test_the_folder_is_complete_small_and_half_precision():
    for name in (
        "config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    ):
        json.loads((FOLDER / name).read_text())
    weights = FOLDER / "model.safetensors"
    assert weights.stat().st_size < 8_000_000
    with safe_open(weights, "pt") as tensors:
        assert {tensors.get_tensor(name).dtype for name in tensors.keys()} == {torch.float16}


def test_the_card_warns_and_records_these_weights():
    card = (FOLDER / "README.md").read_text()
    assert "nothing about CLIP" in " ".join(card.split("\n\n")[1].split())
    assert json.loads((FOLDER / "training.json").read_text())["weights_sha256"] in card


def test_plain_transformers_loads_every_weight(caplog):
    with caplog.at_level(logging.WARNING):
        _, report = CLIPModel.from_pretrained(FOLDER, output_loading_info=True)
    assert not any(report.values())


@pytest.mark.parametrize(
    "text", ["", "a photo of a striped ball", "ÉCREVISSE 🦀", "\x00\u2028", "a" * 20]
)
def test_every_byte_is_a_token(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text.lower().strip()


@settings(max_examples=100, deadline=None)
@given(text=st.text())
def test_nothing_is_out_of_vocabulary(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id is None
    assert None not in ids
    assert max(ids) == tokenizer.eos_token_id
    bare = "".join(text.split())
    assert len(ids) > 2 or not bare


def test_the_end_token_is_where_the_text_tower_looks(tokenizer, model):
    assert model.config.text_config.eos_token_id == tokenizer.eos_token_id == len(tokenizer) - 1
    assert model.config.text_config.pad_token_id == tokenizer.pad_token_id
    alone, padded = (
        text_features(model, tokenizer, texts)[0]
        for texts in (["a ball"], ["a ball", "a much longer text"])
    )
    np.testing.assert_allclose(alone, padded, atol=1e-5)


def test_known_prompts_are_far_shorter_than_the_context(tokenizer, model):
    texts = [
        *PROMPTS.read_text().splitlines(),
        *(f"a photo of a {name}" for name in shapes.CLASS_NAMES),
    ]
    assert max(len(ids) for ids in tokenizer(texts)["input_ids"]) <= 20
    assert tokenizer.model_max_length == model.config.text_config.max_position_embeddings == 77


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    """Training fixes PyTorch's threads and algorithms for its process; the other tests keep theirs."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def text_features(model: Any, tokenizer: Any, texts: list[str]) -> np.ndarray:
    with torch.no_grad():
        hidden = model.text_model(
            **tokenizer(texts, padding=True, return_tensors="pt")
        ).pooler_output
        return model.text_projection(hidden).numpy()


def image_features(model: Any, split: str, n: int) -> np.ndarray:
    processor = AutoImageProcessor.from_pretrained(FOLDER)
    parts = []
    for start in range(0, n, 250):
        images = shapes.render(np.arange(start, start + 250), split=split, seed=SEED, size=64)
        with torch.no_grad():
            hidden = model.vision_model(
                **processor(list(images), return_tensors="pt")
            ).pooler_output
            parts.append(model.visual_projection(hidden).numpy())
    return np.concatenate(parts)


def figures(model: Any, tokenizer: Any, train_images: int, test_images: int) -> dict[str, float]:
    """The thesis's protocol."""
    fit, score = (
        image_features(model, split, n)
        for split, n in (("train", train_images), ("test", test_images))
    )
    y, truth = shapes.labels("train", train_images, SEED), shapes.labels("test", test_images, SEED)

    def svm(X: np.ndarray, Z: np.ndarray) -> float:
        return float(SVC(kernel="linear", C=1.0, random_state=42).fit(X, y).score(Z, truth))

    classes = unit(
        text_features(model, tokenizer, [f"a photo of a {name}" for name in shapes.CLASS_NAMES])
    )
    generic = unit(text_features(model, tokenizer, PROMPTS.read_text().splitlines())).T
    scaler = StandardScaler().fit(fit)
    return {
        "supervised": svm(scaler.transform(fit), scaler.transform(score)),
        "zero-shot": float(((unit(score) @ classes.T).argmax(1) == truth).mean()),
        "agnostic, tau 1": svm(unit(fit) @ generic, unit(score) @ generic),
        "agnostic, tau 0.02": svm(unit(fit) @ generic / 0.02, unit(score) @ generic / 0.02),
    }


def test_what_it_knows_is_ordered_as_in_clip(model, tokenizer):
    """The bands of the model card, on a fifth of its sample."""
    found = figures(model, tokenizer, 4000, 1000)
    assert 0.5 < found["zero-shot"] < 0.9
    assert found["supervised"] > max(0.68, found["zero-shot"] + 0.03)
    assert 0.1 < found["agnostic, tau 1"] < found["zero-shot"]
    assert found["agnostic, tau 0.02"] > found["agnostic, tau 1"] + 0.1


def test_an_untrained_twin_knows_little(model, tokenizer):
    torch.manual_seed(0)
    found = figures(CLIPModel(model.config).float().eval(), tokenizer, 1000, 500)
    assert found["supervised"] < 0.1
    assert found["zero-shot"] < 0.05
    assert max(found["agnostic, tau 1"], found["agnostic, tau 0.02"]) < 0.1


SHORT = train.Recipe(seed=3, samples=8 * 16, batch=16, warmup=2)


def test_training_again_gives_the_same_weights(tmp_path):
    digests = [train.train(tmp_path / name, SHORT) for name in ("one", "two")]
    assert digests[0] == digests[1]
    assert digests[0] != train.train(tmp_path / "three", train.Recipe(**{**vars(SHORT), "seed": 4}))
    assert CLIPModel.from_pretrained(tmp_path / "one").config.projection_dim == 64
    assert not (tmp_path / "one" / "checkpoint.pt").exists()


@pytest.mark.parametrize("stop", [1, 5])
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, stop):
    whole = train.train(tmp_path / "whole", SHORT)
    assert train.train(tmp_path / "parts", SHORT, stop_after=stop) is None
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    assert train.train(tmp_path / "parts", SHORT) == whole


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    train.train(tmp_path, SHORT, stop_after=1)
    with pytest.raises(UsageError, match=r"checkpoint\.pt must come from the same command"):
        train.train(tmp_path, train.Recipe(**{**vars(SHORT), "samples": 160}))


def test_the_command_prints_the_digest(tmp_path, capsys):
    assert train.main(["--out", str(tmp_path), "--samples", "256"]) == 0
    digest, path = capsys.readouterr().out.split()
    assert path == str(tmp_path / "model.safetensors")
    assert json.loads((tmp_path / "training.json").read_text())["weights_sha256"] == digest
