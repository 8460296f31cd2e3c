"""OpenCLIP's models: each gives what plain open_clip gives from the same folder."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from clip_factory import cosines, edit_json, noise_images, tiny_siglip2, write_json, write_tokenizer
from factories import refused
from open_clip.push_to_hf_hub import save_for_hf
from safetensors.torch import load_file, save_file
from shell import clipkit, ok

from clipkit import features, models
from clipkit.errors import ClipkitError, UsageError
from clipkit.models import open_clip_names
from clipkit.models.architecture import read_architecture
from clipkit.models.hub import find

TEXTS = ["a photo of a cat", "A dog's  ball, “red” &amp; round.", "two", "naïve ﬁsh_tank!"]
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
PLAIN = {"embed_dim": 16, "vision_cfg": VIT, "text_cfg": TEXT}
HF = {"hf_tokenizer_name": "org/model"}
SIGLIP_TEXT = {
    **{**TEXT, **HF, "context_length": 16, "vocab_size": 512, "no_causal_mask": True},
    **{"tokenizer_kwargs": {"clean": "canonicalize"}, "proj_bias": True, "pool_type": "last"},
    **{"norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"}},
}
SIGLIP = {
    **{"embed_dim": 64, "init_logit_bias": -10, "custom_text": True, "text_cfg": SIGLIP_TEXT},
    "vision_cfg": {
        **{"image_size": 160, "timm_model_name": "test_vit", "timm_model_pretrained": True},
        **{"timm_pool": "map", "timm_proj": "none"},
    },
}
COCA_TEXT = {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True}


def trunk(name: str, image_size: int, pool: str, projection: str | None = None) -> dict[str, Any]:
    """Return the settings of a model whose image tower is one of timm."""
    vision = {"timm_model_name": name, "image_size": image_size, "timm_model_pretrained": True}
    vision |= {"timm_pool": pool, "timm_proj": projection}
    return {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT, "custom_text": True}


# folder -> model_cfg
ZOO: dict[str, dict[str, Any]] = {
    "clip": PLAIN,
    "quickgelu": {**PLAIN, "quick_gelu": True},
    "custom": {**PLAIN, "custom_text": True},
    "clipa": {
        "embed_dim": 16,
        "vision_cfg": {**VIT, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
        "text_cfg": {**TEXT, "pool_type": "last", "no_causal_mask": True},
    },
    "coca": {
        **{"embed_dim": 16, "custom_text": True, "text_cfg": COCA_TEXT},
        "vision_cfg": {
            **{**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        },
        "multimodal_cfg": {**TEXT, "context_length": 76, "attn_pooler_heads": 2},
    },
    "siglip": SIGLIP,
    "resnet": {**PLAIN, "vision_cfg": {"image_size": 64, "layers": [1, 1, 2, 1], "width": 16}},
    "eva02": trunk("eva02_tiny_patch14_224", 224, "token"),
    "convnext": {**trunk("test_convnext", 160, "", "linear"), "custom_text": False},
    "mobileclip2": trunk("fastvit_t8", 256, "avg"),
    "pe-core": trunk("vit_pe_core_tiny_patch16_384", 384, "map"),
    "wide-images": {**PLAIN, "vision_cfg": {**VIT, "image_size": [16, 32]}},
}
SIGLIP_PIXELS = {
    **{"mode": "RGB", "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"},
    **{"resize_mode": "squash", "fill_color": 0},
}
PIXELS = {
    "siglip": SIGLIP_PIXELS,
    "coca": {"interpolation": "bilinear", "resize_mode": "longest", "fill_color": 7},
}


class NoTokenizer:
    """OpenAI's tokenizer, of which open_clip writes no file."""

    def save_pretrained(self, folder: Path) -> None:
        pass


def write_model(folder: Path, config: dict[str, Any], seed: int = 0) -> Path:
    """Write a model with random weights as open_clip publishes one."""
    folder.mkdir(parents=True)
    write_json(folder / "open_clip_config.json", model_cfg=config)
    torch.manual_seed(seed)
    model = open_clip.create_model(
        f"local-dir:{folder}",
        load_weights=False,
        pretrained_text=False,
        force_preprocess_cfg=PIXELS.get(folder.name),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))  # layer scales may start at zero
    save_for_hf(model, NoTokenizer(), config, folder, safe_serialization=True)
    if config["text_cfg"].get("tokenizer_kwargs"):
        gemma = tiny_siglip2(folder.with_name(f"{folder.name}-tokenizer"))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(gemma / name, folder)
    return folder


@pytest.fixture(scope="module", params=ZOO)
def zoo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("zoo") / request.param, ZOO[request.param])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "clip", PLAIN)


def by_open_clip(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the embeddings of the noise images, one by one, and of TEXTS by plain open_clip."""
    name = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    model.eval()
    with torch.inference_mode():
        images = [
            model.encode_image(preprocess(image)[None], normalize=False) for image in noise_images()
        ]
        texts = model.encode_text(open_clip.get_tokenizer(name)(TEXTS), normalize=False)
    return torch.cat(images).numpy(), texts.numpy()


def load(folder: Path, tower: Any, precision: str = "fp32", **options: Any) -> models.Encoder:
    return models.load(str(folder), tower=tower, device="cpu", precision=precision, **options)


def test_embeddings_are_those_of_plain_open_clip(zoo: Path) -> None:
    images, texts = by_open_clip(zoo)
    image, text = load(zoo, "image"), load(zoo, "text")
    rows = np.concatenate([image.encode_images(picture) for picture in noise_images()])
    np.testing.assert_array_equal(rows, images)
    np.testing.assert_array_equal(text.encode_texts(TEXTS), texts)
    three, one = image.encode_images(noise_images()[:3]), rows[:3]
    np.testing.assert_allclose(three, one, atol=1e-6 * np.abs(one).max())
    assert image.dim == text.dim == images.shape[1]


def test_half_precision_is_close(zoo: Path) -> None:
    images, texts = by_open_clip(zoo)
    assert cosines(load(zoo, "image", "bf16").encode_images(noise_images()), images).min() >= 0.999
    assert cosines(load(zoo, "text", "bf16").encode_texts(TEXTS), texts).min() >= 0.999
