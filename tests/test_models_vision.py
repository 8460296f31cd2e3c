"""Vision models without a text tower: each gives what plain transformers gives."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import clips
from factories.zoo import (
    QUICK,
    VISION_ZOO,
    changed,
    fails_to_load,
    load,
    read_vision_model,
    stored,
    without_tensor,
    write_vision_model,
)
from shell import fails, ok
from transformers import AutoImageProcessor

from clipkit import features, models
from clipkit.base.errors import UsageError


@pytest.fixture(scope="module", params=clips.some_quick(VISION_ZOO, QUICK))
def zoo(request, tmp_path_factory) -> Path:
    return write_vision_model(tmp_path_factory.mktemp("zoo") / request.param, request.param)


def by_transformers(folder: Path) -> np.ndarray:
    """Return the embeddings of the noise images by plain transformers."""
    embedding = VISION_ZOO[folder.name][2]
    processor = AutoImageProcessor.from_pretrained(folder)
    model = read_vision_model(folder)
    options = {}
    if folder.name == "vit-mae":
        model.config.mask_ratio = 0.0
        options = {"noise": torch.arange(16)[None]}
    rows = []
    for image in clips.noise_images():
        pixels = processor(images=image, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            outputs = model(pixel_values=pixels, **options)
        if embedding == "cls":
            rows.append(outputs.last_hidden_state[:, 0])
        elif embedding == "mean":
            rows.append(outputs.last_hidden_state.mean(dim=1))
        else:
            rows.append(outputs[embedding])
    return torch.cat(rows).numpy()


def test_embeddings_are_those_of_plain_transformers(zoo):
    encoder = load(zoo)
    expected = by_transformers(zoo)
    rows = np.concatenate([encoder.encode_images(image) for image in clips.noise_images()])
    np.testing.assert_array_equal(rows, expected)
    together = encoder.encode_images(clips.noise_images())
    np.testing.assert_allclose(together, expected, atol=1e-5 * np.abs(expected).max())
    assert encoder.dim == expected.shape[1]
    assert "logit_scale" not in encoder.details


def test_half_precision_is_close(zoo):
    half = clips.embed_noise(zoo, precision="bf16")
    assert clips.cosines(half, by_transformers(zoo)).min() >= 0.999


def test_the_untrained_control_has_the_architecture_and_no_weights(zoo):
    clips.check_untrained_control(zoo)


def test_a_model_is_described_without_a_text_tower(zoo):
    described = models.describe_model(str(zoo))
    assert described["image"]["layers"] in (2, 4)
    assert described["parameters"] > 1000
    assert not {"text", "temperature"} & described.keys()


def test_images_that_are_normalised_twice_are_warned_of(tmp_path, capfd):
    folder = write_vision_model(tmp_path / "radio", "radio")
    assert load(folder).details["preprocessing"]["do_normalize"] is False
    assert "normalises images" not in capfd.readouterr()[1]
    clips.write_processor(folder, 32)
    load(folder)
    assert "the model does so again; expected do_normalize false" in capfd.readouterr()[1]


@pytest.fixture(scope="module")
def dino(tmp_path_factory) -> Path:
    return write_vision_model(tmp_path_factory.mktemp("models") / "dinov2", "dinov2")


def test_a_text_tower_that_a_model_lacks_is_refused_in_one_line(dino):
    with pytest.raises(UsageError, match="expected a model with a text tower, got dinov2"):
        load(dino, "text")


@pytest.mark.long
def test_probe_and_cluster_take_the_embeddings_and_logits_do_not(dino, tmp_path):
    images, texts = tmp_path / "img.h5", tmp_path / "txt.h5"
    ok("embed", "digits", "--limit", 40, "-m", dino, "-o", images)
    ok("textembed", "-m", "tiny", "-o", texts, stdin=b"a dot\na line\n")
    assert features.read(images).splits["test"].features.shape == (40, 32)
    ok("probe", images)
    ok("cluster", images)
    ok("logits", images, "--random", 4, "-o", tmp_path / "random.h5")
    line = fails("logits", images, texts, "-o", tmp_path / "logits.h5")
    assert "expected images of a model with a text tower" in line
    assert "clipkit probe, cluster, variance" in fails("zeroshot", images)
    fails("textembed", "-m", dino, "-o", tmp_path / "t.h5", stdin=b"a dot\n", exit_code=2)


@pytest.mark.long
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_tensor("layernorm.weight"), "missing: layernorm.weight"),
        (stored(embeddings__extra=torch.zeros(3)), "unexpected: embeddings.extra"),
        (changed("config.json", num_hidden_layers=500), "expected weights that fit config.json"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(damage, message, dino, tmp_path):
    folder = shutil.copytree(dino, tmp_path / "model")
    stored(classifier__weight=torch.zeros(3))(folder)
    load(folder)  # a head is left out
    damage(folder)
    fails_to_load(folder, message)
