"""Models made on the spot: small ones, a full-size one, and one in the form the first checkpoints were published in."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

MERGES = 49152 - 256 - 2  # rules of the published vocabulary
START, END = "<|startoftext|>", "<|endoftext|>"
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def write_json(path: Path, /, **content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def write_tokenizer(folder: Path, length: int = 77) -> None:
    """CLIP's whole vocabulary, in the form of vocab.json and merges.txt."""
    package = importlib.util.find_spec("open_clip")
    assert package is not None
    assert package.origin is not None
    with gzip.open(
        Path(package.origin).with_name("bpe_simple_vocab_16e6.txt.gz"), "rt", encoding="utf-8"
    ) as stream:
        merges = stream.read().split("\n")[1 : MERGES + 1]
    letters = sorted(ByteLevel.alphabet())
    tokens = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *(merge.replace(" ", "") for merge in merges),
    ]
    write_json(
        folder / "vocab.json", **{token: index for index, token in enumerate([*tokens, START, END])}
    )
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    write_json(
        folder / "tokenizer_config.json",
        tokenizer_class="CLIPTokenizer",
        model_max_length=length,
        **special,
    )


def write_processor(folder: Path, size: int) -> None:
    write_json(
        folder / "preprocessor_config.json",
        image_processor_type="CLIPImageProcessor",
        do_resize=True,
        size={"shortest_edge": size},
        resample=3,
        do_center_crop=True,
        crop_size={"height": size, "width": size},
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=MEAN,
        image_std=STD,
        do_convert_rgb=True,
    )


def write_model(folder: Path, kind: Any, config: Any, seed: int) -> Path:
    """A whole model with random weights, its tokenizer and its processor."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = kind(config)
    config.architectures = [kind.__name__]
    config.save_pretrained(folder)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(folder, config.text_config.max_position_embeddings)
    write_processor(folder, config.vision_config.image_size)
    return folder


def tower(width: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }


def tiny_clip(
    folder: Path, seed: int = 0, *, width: int = 32, dim: int = 16, image_size: int = 32
) -> Path:
    """A CLIP of two layers a tower with the whole vocabulary, made and loaded in a blink."""
    vision = {**tower(width), "image_size": image_size, "patch_size": image_size // 4}
    return write_model(
        folder,
        CLIPModel,
        CLIPConfig(text_config=tower(width), vision_config=vision, projection_dim=dim),
        seed,
    )


def tiny_siglip(folder: Path, seed: int = 0) -> Path:
    """A SigLIP of two layers a tower; its tokenizer is CLIP's."""
    text = {
        **tower(32),
        "vocab_size": 49408,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 49407,
    }
    vision = {**tower(32), "image_size": 32, "patch_size": 8}
    return write_model(
        folder, SiglipModel, SiglipConfig(text_config=text, vision_config=vision), seed
    )


def vit_b32(folder: Path, seed: int = 0) -> Path:
    """A full-size CLIP ViT-B/32 with random weights and the whole vocabulary."""
    return write_model(folder, CLIPModel, CLIPConfig(), seed)


def openai_form(folder: Path, seed: int = 0) -> Path:
    """A small CLIP as the first checkpoints were published: old configuration files, buffers among the weights."""
    tiny_clip(folder, seed, image_size=224)
    weights = load_file(folder / "model.safetensors")
    for name, count in (("text_model", 77), ("vision_model", 17)):
        weights[f"{name}.embeddings.position_ids"] = torch.arange(count)[None]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
        "projection_dim": 512,
    }
    config["vision_config"] |= {"projection_dim": 512}
    config |= {"torch_dtype": "float32", "transformers_version": None}
    config.pop("dtype", None)
    write_json(folder / "config.json", **config)
    write_json(
        folder / "preprocessor_config.json",
        crop_size=224,
        do_center_crop=True,
        do_normalize=True,
        do_resize=True,
        feature_extractor_type="CLIPFeatureExtractor",
        image_mean=MEAN,
        image_std=STD,
        resample=3,
        size=224,
    )
    return folder


@pytest.fixture(scope="session")
def tiny_clip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP with random weights and CLIP's whole vocabulary."""
    return tiny_clip(tmp_path_factory.mktemp("models") / "tiny-clip")


@pytest.fixture(scope="session")
def vit_b32_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full-size ViT-B/32 with random weights (600 MB)."""
    return vit_b32(tmp_path_factory.mktemp("models") / "vit-b-32")
