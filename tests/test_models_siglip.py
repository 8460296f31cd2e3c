"""SigLIP: its SentencePiece tokenizer, and probabilities that are sigmoids."""

import json
import math

import numpy as np
import pytest
import torch
from factories import fails_with, refused
from factories.clips import (
    assert_close,
    edit_json,
    edit_tensors,
    in_memory,
    published_siglip,
    tiny_siglip,
    tiny_siglip2,
    write_json,
)
from factories.zoo import fails_to_load, load
from shell import clipkit, ok
from transformers import AutoImageProcessor, AutoTokenizer, SiglipModel

from clipkit import datasets, features
from clipkit.models import tokenizer
from clipkit.statistics import links, softmax

PROMPTS = ["a photo of a cat", "Something ROUND, and open!", "the digit 7"]
SCALE, BIAS = 10.0, -2.0


@pytest.fixture(scope="module", params=[tiny_siglip, published_siglip])
def siglip_dir(request, tmp_path_factory):
    """A small SigLIP, with CLIP's tokenizer and with one of SentencePiece."""
    write_model = request.param
    folder = write_model(tmp_path_factory.mktemp("models") / "siglip")
    scalars = {"logit_scale": torch.tensor([math.log(SCALE)]), "logit_bias": torch.tensor([BIAS])}
    edit_tensors(folder, lambda tensors: tensors.update(scalars))
    return folder


@pytest.fixture(scope="module")
def siglip_logits(siglip_dir):
    """Logits of ten digits and three prompts, made by the commands."""
    model = ("-m", siglip_dir, "--precision", "fp32")
    digits = ("embed", "digits", "--split", "test", "--limit", 10)
    ok(*digits, *model, "-o", siglip_dir / "img.h5")
    prompts = "\n".join(PROMPTS).encode()
    ok("textembed", *model, "-o", siglip_dir / "txt.h5", stdin=prompts)
    ok("logits", siglip_dir / "img.h5", siglip_dir / "txt.h5", "-o", siglip_dir / "logits.h5")
    return siglip_dir / "logits.h5"


def transformers_probabilities(folder):
    """Return the probability (10, 3) of each digit and prompt by plain transformers."""
    split = datasets.load("digits", splits=["test"], limit=10).splits["test"]
    images = [split.image(i) for i in range(10)]
    pixels = AutoImageProcessor.from_pretrained(folder)(images=images, return_tensors="pt")
    tokenize = AutoTokenizer.from_pretrained(folder)
    tokens = tokenize(PROMPTS, padding="max_length", return_tensors="pt")["input_ids"]
    model = in_memory(SiglipModel.from_pretrained(folder))
    with torch.no_grad():
        outputs = model(input_ids=tokens, pixel_values=pixels["pixel_values"])
    return torch.sigmoid(outputs.logits_per_image).double()


def entropy(logits, *options):
    """Return the report of the command, one dict per row."""
    return json.loads(ok("entropy", logits, *options, "--format", "json").stdout)


@pytest.mark.long
def test_probabilities_and_their_entropy_are_those_of_transformers(siglip_dir, siglip_logits):
    expected = transformers_probabilities(siglip_dir)
    logits = features.read(siglip_logits)
    probabilities = softmax.sigmoid(logits.cosines("test"), 1 / SCALE, BIAS)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)

    (row,) = entropy(siglip_logits, "-t", "model")
    entropies = torch.distributions.Bernoulli(probs=expected).entropy()
    assert row["mean_entropy"] == pytest.approx(entropies.mean().item(), rel=1e-4)
    assert row["mean_confidence"] == pytest.approx(expected.max(1).values.mean().item(), rel=1e-4)
    assert row["max_entropy"] == pytest.approx(math.log(2))
    assert row["temperature"] == pytest.approx(1 / SCALE)


@pytest.mark.long
def test_the_link_is_the_models_own_only_for_its_own_temperature(siglip_logits):
    def entropies(*options):
        return [row["mean_entropy"] for row in entropy(siglip_logits, *options)]

    by_sigmoid = entropies("-t", 0.1, "--link", "sigmoid")
    assert entropies("-t", "model") == pytest.approx(by_sigmoid)
    by_softmax = pytest.approx(entropies("-t", 0.1))
    assert entropies("-t", "model", "--link", "softmax") == by_softmax
    both = [*entropies("-t", 1, "--link", "sigmoid"), *by_sigmoid]
    assert entropies("-t", "1,model", "--link", "sigmoid") == pytest.approx(both)
    result = clipkit("entropy", siglip_logits, "-t", "1,model")
    refused(result, 2, "expected -t model alone or --link", "got -t 1,model")
    options = ("-t", "model", "--split", "test", "-o", siglip_logits.with_name("entropy.h5"))
    ok("entropy", siglip_logits, *options)
    saved = features.read(siglip_logits.with_name("entropy.h5"))
    assert (saved.history[-1]["link"], saved.history[-1]["splits"]) == ("sigmoid", ["test"])
    assert saved.model()["logit_bias"] == BIAS


def test_the_entropy_of_certain_probabilities_is_zero():
    (pair,) = softmax.mean_entropy_and_confidence([[1.0, -1.0]], [1e-4], links.Sigmoid(-15.0))
    assert pair == (0.0, 1.0)
    with fails_with("expected a matrix (N, D), got 1 dimensions"):
        softmax.mean_entropy_and_confidence([1.0, -1.0], [1.0])


@pytest.mark.parametrize("missing", [["sentencepiece", "protobuf"], ["protobuf"]])
@pytest.mark.long
def test_missing_packages_of_the_tokenizer_are_named(missing, tmp_path, monkeypatch):
    folder = tiny_siglip(tmp_path / "model")
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    write_json(folder / "tokenizer_config.json", tokenizer_class="SiglipTokenizer")
    (folder / "spiece.model").write_bytes(b"not to be read without its library")
    monkeypatch.setattr(tokenizer, "is_installed", lambda package: package not in missing)
    error = fails_to_load(folder, f"got no {' and no '.join(missing)}", "text")
    assert error.hint == "install them: pip install 'clipkit-vl[siglip]'"


# SigLIP 2, which was trained on lower-cased texts without punctuation


@pytest.fixture(scope="module")
def siglip2_dir(tmp_path_factory):
    """A small SigLIP 2 of fixed resolution."""
    return tiny_siglip2(tmp_path_factory.mktemp("models") / "siglip2")


def transformers_embeddings(folder, texts):
    """Return the embeddings of texts by plain transformers, which keeps case and punctuation."""
    padding = {"padding": "max_length", "padding_side": "right", "max_length": 64}
    tokens = AutoTokenizer.from_pretrained(folder)(texts, **padding, return_tensors="pt")
    with torch.no_grad():
        model = in_memory(SiglipModel.from_pretrained(folder))
        return model.get_text_features(input_ids=tokens["input_ids"]).pooler_output.numpy()


def test_texts_for_siglip_2_are_cleaned_as_open_clip_cleans_them_or_kept_if_asked(siglip2_dir):
    open_clip = pytest.importorskip("open_clip")
    cleaned = [open_clip.tokenizer.canonicalize_text(text) for text in PROMPTS]
    assert cleaned != PROMPTS
    cleaning, keeping = load(siglip2_dir, "text"), load(siglip2_dir, "text", clean=False)
    assert cleaning.details["cleaning"] == "canonicalize"
    assert "cleaning" not in keeping.details
    for encoder, texts in ((cleaning, cleaned), (keeping, PROMPTS)):
        expected = transformers_embeddings(siglip2_dir, texts)
        assert_close(encoder.encode_texts(PROMPTS), expected)


def test_a_prompt_of_punctuation_alone_is_refused_by_siglip_2(siglip2_dir):
    command = ("textembed", "-m", siglip2_dir, "-o", siglip2_dir / "none.h5")
    done = clipkit(*command, stdin=b"a dot\n?!\n")
    refused(done, 1, "line 2: ", "--no-clean")
    ok(*command, "--no-clean", stdin=b"a dot\n?!\n")


def test_siglip_1_and_clip_take_texts_as_they_are(tmp_path):
    for name in ("tiny", published_siglip(tmp_path / "siglip")):
        assert "cleaning" not in load(name, "text").details


def test_texts_are_padded_on_the_right_and_a_tokenizer_that_pads_left_is_warned_of(tmp_path, capfd):
    folder = tiny_siglip2(tmp_path / "siglip2")
    expected = load(folder, "text").encode_texts(PROMPTS)
    assert "pads texts on the left" not in capfd.readouterr()[1]
    edit_json(folder / "tokenizer_config.json", lambda settings: settings.pop("padding_side"))
    assert AutoTokenizer.from_pretrained(folder).padding_side == "left"
    np.testing.assert_array_equal(load(folder, "text").encode_texts(PROMPTS), expected)
    assert capfd.readouterr()[1].count("pads texts on the left") == 1
