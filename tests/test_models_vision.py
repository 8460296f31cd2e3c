"""Vision models without a text tower: each gives what plain transformers gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from clip_factory import (
    check_untrained_control,
    cosines,
    edit_json,
    edit_tensors,
    embed_noise,
    noise_images,
    some_quick,
    write_json,
    write_processor,
)
from factories import refused
from shell import clipkit, ok
from transformers import AutoImageProcessor

from clipkit import features, models
from clipkit.base.errors import ClipkitError, UsageError

VIT = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"intermediate_size": 64, "image_size": 32, "patch_size": 8},
}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
RADIO = {**VIT, "max_img_size": 64, "num_cls_tokens": 3, "num_registers": 2, "summary_idxs": [0, 2]}
DECODER = {
    **{"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1},
    **{"decoder_num_attention_heads": 2, "decoder_intermediate_size": 16},
}
QUICK = ("clip-vision", "dinov2", "convnext")
NO_NORM = {"do_normalize": False}
# folder -> the class that saved it, its settings, the class that reads it, and its embedding
ZOO: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "aimv2": ("Aimv2VisionModel", VIT, "Aimv2VisionModel", "pooler_output"),
    "aimv2-headless": (
        *("Aimv2VisionModel", {**VIT, "use_head": False}),
        *("Aimv2VisionModel", "mean"),
    ),
    "clip-vision": ("CLIPVisionModel", VIT, "CLIPVisionModel", "pooler_output"),
    "clip-projected": (
        *("CLIPVisionModelWithProjection", {**VIT, "projection_dim": 16}),
        *("CLIPVisionModelWithProjection", "image_embeds"),
    ),
    "convnext": ("ConvNextModel", STAGES, "ConvNextModel", "pooler_output"),
    "convnextv2": ("ConvNextV2Model", STAGES, "ConvNextV2Model", "pooler_output"),
    "dinov2": ("Dinov2Model", VIT, "Dinov2Model", "pooler_output"),
    "dinov2-classifier": ("Dinov2ForImageClassification", VIT, "Dinov2Model", "pooler_output"),
    "dinov2-registers": (
        *("Dinov2WithRegistersModel", {**VIT, "num_register_tokens": 4}),
        *("Dinov2WithRegistersModel", "pooler_output"),
    ),
    "dinov3": (
        *("DINOv3ViTModel", {**VIT, "num_register_tokens": 4}),
        *("DINOv3ViTModel", "pooler_output"),
    ),
    "dinov3-convnext": ("DINOv3ConvNextModel", STAGES, "DINOv3ConvNextModel", "pooler_output"),
    "ijepa": ("IJepaModel", VIT, "IJepaModel", "mean"),
    "metaclip2-vision": ("MetaClip2VisionModel", VIT, "MetaClip2VisionModel", "pooler_output"),
    "metaclip2-projected": (
        *("MetaClip2VisionModelWithProjection", {**VIT, "projection_dim": 16}),
        *("MetaClip2VisionModelWithProjection", "image_embeds"),
    ),
    "radio": ("RadioModel", RADIO, "RadioModel", "summary"),
    "siglip-vision": ("SiglipVisionModel", VIT, "SiglipVisionModel", "pooler_output"),
    "siglip-headless": (
        *("SiglipVisionModel", {**VIT, "vision_use_head": False}),
        *("SiglipVisionModel", "mean"),
    ),
    "vit": ("ViTModel", VIT, "ViTModel", "pooler_output"),
    "vit-classifier": ("ViTForImageClassification", VIT, "ViTModel", "cls"),
    "vit-mae": ("ViTMAEForPreTraining", {**VIT, **DECODER}, "ViTMAEModel", "cls"),
}


def write_model(folder: Path, name: str, seed: int = 0) -> Path:
    """Write a small model of the zoo with random weights and an image processor."""
    saved_by, settings, _, _ = ZOO[name]
    if not hasattr(transformers, saved_by):
        pytest.skip(f"transformers {transformers.__version__} has no {saved_by}")
    kind = getattr(transformers, saved_by)
    torch.manual_seed(seed)
    model = kind(kind.config_class(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))  # layer scales may start at zero
    model.save_pretrained(folder)
    write_processor(folder, 32)
    if name == "radio":  # it normalises images itself
        edit_json(folder / "preprocessor_config.json", lambda content: content.update(NO_NORM))
    return folder


@pytest.fixture(scope="module", params=some_quick(ZOO, QUICK))
def zoo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("zoo") / request.param, request.param)


def by_transformers(folder: Path) -> np.ndarray:
    """Return the embeddings of the noise images by plain transformers."""
    _, _, read_by, embedding = ZOO[folder.name]
    processor = AutoImageProcessor.from_pretrained(folder)
    model = getattr(transformers, read_by).from_pretrained(folder).eval()
    rows = []
    for image in noise_images():
        pixels = processor(images=image, return_tensors="pt")["pixel_values"]
        options = {}
        if read_by == "ViTMAEModel":
            model.config.mask_ratio = 0.0
            options = {"noise": torch.arange(16)[None]}
        with torch.no_grad():
            outputs = model(pixel_values=pixels, **options)
        if embedding == "cls":
            rows.append(outputs.last_hidden_state[:, 0])
        elif embedding == "mean":
            rows.append(outputs.last_hidden_state.mean(dim=1))
        else:
            rows.append(outputs[embedding])
    return torch.cat(rows).numpy()


def test_embeddings_are_those_of_plain_transformers(zoo: Path) -> None:
    encoder = models.load(str(zoo), tower="image", device="cpu", precision="fp32")
    expected = by_transformers(zoo)
    rows = np.concatenate([encoder.encode_images(image) for image in noise_images()])
    np.testing.assert_array_equal(rows, expected)
    together = encoder.encode_images(noise_images())
    np.testing.assert_allclose(together, expected, atol=1e-5 * np.abs(expected).max())
    assert encoder.dim == expected.shape[1]
    assert "logit_scale" not in encoder.details


def test_half_precision_is_close(zoo: Path) -> None:
    assert cosines(embed_noise(zoo, precision="bf16"), by_transformers(zoo)).min() >= 0.999


def test_the_untrained_control_has_the_architecture_and_no_weights(zoo: Path) -> None:
    check_untrained_control(zoo)


def test_a_model_is_described_without_a_text_tower(zoo: Path) -> None:
    described = models.describe_model(str(zoo))
    assert described["image"]["layers"] in (2, 4)
    assert described["parameters"] > 1000
    assert not {"text", "temperature"} & described.keys()


def test_images_that_are_normalised_twice_are_warned_of(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_model(tmp_path / "radio", "radio")
    encoder = models.load(str(folder), tower="image")
    assert encoder.details["preprocessing"]["do_normalize"] is False
    assert "normalises images" not in capfd.readouterr()[1]
    write_processor(folder, 32)
    models.load(str(folder), tower="image")
    assert "the model does so again; expected do_normalize false" in capfd.readouterr()[1]


def test_half_a_pooler_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "vit", "vit")
    edit_tensors(folder, lambda tensors: tensors.pop("pooler.dense.bias"))
    with pytest.raises(ClipkitError, match=r"missing: pooler\.dense\.bias"):
        models.load(str(folder), tower="image")


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "dinov2", "dinov2")


def test_a_text_tower_that_a_model_lacks_is_refused_in_one_line(dino: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a model with a text tower, got dinov2"):
        models.load(str(dino), tower="text")
    refused(clipkit("textembed", "-m", dino, "-o", tmp_path / "t.h5", stdin=b"a dot\n"), 2)


def check_commands_for_images_alone(model: Path, folder: Path) -> None:
    """Check that probe and cluster take a model's embeddings, and that logits refuses them."""
    images, texts = folder / "img.h5", folder / "txt.h5"
    ok("embed", "digits", "--limit", 40, "-m", model, "-o", images)
    ok("textembed", "-m", "tiny", "-o", texts, stdin=b"a dot\na line\n")
    assert features.read(str(images)).splits["test"].features.shape == (40, 32)
    ok("probe", images)
    ok("cluster", images)
    ok("logits", images, "--random", 4, "-o", folder / "random.h5")
    done = clipkit("logits", images, texts, "-o", folder / "logits.h5")
    refused(done, 1, "expected images of a model with a text tower", "for images alone")
    refused(clipkit("zeroshot", images), 1, "hint: use them with: clipkit probe, cluster, variance")


def test_probe_and_cluster_take_the_embeddings_and_logits_do_not(
    dino: Path, tmp_path: Path
) -> None:
    check_commands_for_images_alone(dino, tmp_path)


@pytest.mark.long
def test_weights_that_do_not_fit_are_refused_in_one_line(dino: Path, tmp_path: Path) -> None:
    import shutil

    def copy(name: str) -> Path:
        return Path(shutil.copytree(dino, tmp_path / name))

    missing = copy("missing")
    edit_tensors(missing, lambda tensors: tensors.pop("layernorm.weight"))
    more = copy("more")
    extra = {"embeddings.extra": torch.zeros(3)}
    edit_tensors(more, lambda tensors: tensors.update(extra))
    larger = copy("larger")
    edit_json(larger / "config.json", lambda config: config.update(num_hidden_layers=500))
    whole = copy("whole")
    edit_tensors(whole, lambda tensors: tensors.update({"classifier.weight": torch.zeros(3)}))
    unknown = copy("unknown")
    write_json(unknown / "config.json", model_type="bert")
    for folder, message in (
        (missing, "missing: layernorm.weight"),
        (more, "unexpected: embeddings.extra"),
        (larger, "expected weights that fit config.json"),
        (unknown, "got model_type 'bert'"),
    ):
        with pytest.raises(ClipkitError, match=message):
            models.load(str(folder), tower="image")
    models.load(str(whole), tower="image")  # a head is left out
