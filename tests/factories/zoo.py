"""Small models that several test modules write, load and damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.nn import functional

from clipkit import models
from clipkit.base.errors import ClipkitError
from factories.clips import (
    SMALL_TOWER,
    edit_json,
    edit_tensors,
    in_memory,
    write_json,
    write_processor,
)
from factories.clips import SMALL_VISION as VIT

Damage = Callable[[Path], Any]
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
RADIO = {**VIT, "max_img_size": 64, "num_cls_tokens": 3, "num_registers": 2, "summary_idxs": [0, 2]}
DECODER = {
    **{"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1},
    **{"decoder_num_attention_heads": 2, "decoder_intermediate_size": 16},
}
REGISTERS = {**VIT, "num_register_tokens": 4}
PROJECTED = {**VIT, "projection_dim": 16}
# folder -> the class that saved it, its settings, and its embedding
VISION_ZOO: dict[str, tuple[str, dict[str, Any], str]] = {
    "aimv2": ("Aimv2VisionModel", VIT, "pooler_output"),
    "aimv2-headless": ("Aimv2VisionModel", {**VIT, "use_head": False}, "mean"),
    "clip-vision": ("CLIPVisionModel", VIT, "pooler_output"),
    "clip-projected": ("CLIPVisionModelWithProjection", PROJECTED, "image_embeds"),
    "convnext": ("ConvNextModel", STAGES, "pooler_output"),
    "convnextv2": ("ConvNextV2Model", STAGES, "pooler_output"),
    "dinov2": ("Dinov2Model", VIT, "pooler_output"),
    "dinov2-classifier": ("Dinov2ForImageClassification", VIT, "pooler_output"),
    "dinov2-registers": ("Dinov2WithRegistersModel", REGISTERS, "pooler_output"),
    "dinov3": ("DINOv3ViTModel", REGISTERS, "pooler_output"),
    "dinov3-unregistered": ("DINOv3ViTModel", VIT, "pooler_output"),
    "dinov3-convnext": ("DINOv3ConvNextModel", STAGES, "pooler_output"),
    "ijepa": ("IJepaModel", VIT, "mean"),
    "metaclip2-vision": ("MetaClip2VisionModel", VIT, "pooler_output"),
    "metaclip2-projected": ("MetaClip2VisionModelWithProjection", PROJECTED, "image_embeds"),
    "radio": ("RadioModel", RADIO, "summary"),
    "siglip-vision": ("SiglipVisionModel", VIT, "pooler_output"),
    "siglip-headless": ("SiglipVisionModel", {**VIT, "vision_use_head": False}, "mean"),
    "vit": ("ViTModel", VIT, "pooler_output"),
    "vit-classifier": ("ViTForImageClassification", VIT, "cls"),
    "vit-mae": ("ViTMAEForPreTraining", {**VIT, **DECODER}, "cls"),
}
WINDOWS = {"embed_dim": 16, "num_heads": [1, 2], "window_size": 4, "depths": [1, 1]}
SWIN = {**WINDOWS, "image_size": 32, "patch_size": 4}
RESNET = {**STAGES, "embedding_size": 8}
HEADS = {"num_attention_heads": [1, 2, 3, 4], "mlp_ratios": [2, 2, 2, 2]}
HIERA = {
    **{"embed_dim": 16, "image_size": [32, 32], "depths": [1, 1], "num_heads": [1, 2]},
    **{"query_stride": [2, 2], "patch_size": [7, 7], "patch_stride": [4, 4]},
    **{"patch_padding": [3, 3], "num_query_pool": 1, "masked_unit_size": [4, 4]},
}
SAM = {**VIT, "output_channels": 16, "global_attn_indexes": [1], "window_size": 2, "mlp_dim": 64}
EFFICIENT = {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320}
WORDS = {**SMALL_TOWER, "vocab_size": 100}
BLIP = {**WORDS, "encoder_hidden_size": 32, "bos_token_id": 1, "sep_token_id": 2}
# Read by the models' own methods, with a row in the table
OWN_ZOO: dict[str, tuple[str, dict[str, Any], str]] = {
    "beit": ("BeitModel", VIT, "pooler_output"),
    "deit": ("DeiTModel", VIT, "pooler_output"),
    "deit-classifier": ("DeiTForImageClassificationWithTeacher", VIT, "cls"),
    "mlcd": ("MLCDVisionModel", VIT, "pooler_output"),
    "resnet": ("ResNetModel", RESNET, "pooler_output"),
    "swin": ("SwinForImageClassification", SWIN, "pooler_output"),
}
DUAL = {"vision_config": VIT, "text_config": SMALL_TOWER}
# Classes that people publish of a kind whose row has another class
CLASSES_ZOO: dict[str, tuple[str, dict[str, Any], str]] = {
    "clip-classifier": ("CLIPForImageClassification", DUAL, "pooler_output"),
    "siglip-classifier": ("SiglipForImageClassification", DUAL, "pooler_output"),
    "vit-hiding": ("ViTForMaskedImageModeling", VIT | {"encoder_stride": 8}, "cls"),
}
HGNET = {
    **{"stem_channels": [3, 8, 8], "stage_in_channels": [8, 16], "stage_numb_of_layers": [2, 2]},
    **{"stage_mid_channels": [8, 8], "stage_out_channels": [16, 32], "stage_num_blocks": [1, 1]},
    **{"stage_downsample": [False, True], "stage_light_block": [False, True]},
    **{"stage_kernel_size": [3, 3], "depths": [1, 1], "hidden_sizes": [16, 32]},
    "embedding_size": 8,
}
UNTESTED_ZOO: dict[str, tuple[str, dict[str, Any], str]] = {
    "align": (
        "AlignModel",
        {"text_config": WORDS, "vision_config": EFFICIENT, "projection_dim": 320},
        "features",
    ),
    "blip": ("BlipModel", {"text_config": BLIP, "vision_config": VIT}, "features"),
    "data2vec": ("Data2VecVisionModel", VIT, "cls"),
    "efficientnet": ("EfficientNetModel", EFFICIENT, "pooler_output"),
    "hiera": ("HieraModel", HIERA, "pooler_output"),
    "internvl": (
        "InternVLVisionModel",
        {**VIT, "image_size": [32, 32], "patch_size": [8, 8]},
        "cls",
    ),
    "mobilenet": ("MobileNetV2Model", {"depth_multiplier": 0.25}, "pooler_output"),
    "owlvit": (
        "OwlViTForObjectDetection",
        {"text_config": WORDS, "vision_config": VIT, "projection_dim": 16},
        "features",
    ),
    "pvt": ("PvtModel", {**STAGES, **HEADS, "image_size": 32}, "cls"),
    "pvt-v2": ("PvtV2Model", {**STAGES, **HEADS, "image_size": 32}, "map"),
    "regnet": ("RegNetModel", {**RESNET, "groups_width": 4}, "pooler_output"),
    "sam": ("SamVisionModel", SAM, "map"),
    "hgnet-v2": ("HGNetV2ForImageClassification", HGNET, "map"),
    "swinv2": ("Swinv2Model", SWIN, "pooler_output"),
    "yolos": (
        "YolosForObjectDetection",
        {**VIT, "image_size": [32, 32], "num_detection_tokens": 5},
        "cls",
    ),
}
READ_BY = {  # where another class reads the tower than the one that saved it
    "deit-classifier": "DeiTModel",
    "owlvit": "OwlViTModel",
    "swin": "SwinModel",
    "yolos": "YolosModel",
    "hgnet-v2": "HGNetV2Backbone",
    "vit-hiding": "ViTModel",
    "clip-classifier": "CLIPVisionModel",
    "siglip-classifier": "SiglipVisionModel",
    "dinov2-classifier": "Dinov2Model",
    "vit-classifier": "ViTModel",
    "vit-mae": "ViTMAEModel",
}
WHOLE_ZOO = VISION_ZOO | OWN_ZOO | CLASSES_ZOO | UNTESTED_ZOO
# architecture, settings in model_args, and changes of pretrained_cfg
TIMM_VIT_ARGUMENTS = {
    **{"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
}
TIMM_INPUT = {"input_size": [3, 32, 32]}
OPEN_CLIP: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {
        **{"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    },
    "text_cfg": {
        **{"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    },
}
TIMM_VIT = ("vit_tiny_patch16_224.augreg_in21k", TIMM_VIT_ARGUMENTS, TIMM_INPUT)


def load(folder: Path | str, tower: Any = "image", **options: Any) -> models.Encoder:
    """Load a tower; in float32 on the CPU unless the test says otherwise."""
    return models.load(str(folder), tower=tower, **{"device": "cpu", "precision": "fp32"} | options)


def stir(model: Any) -> None:
    """Add noise to a model's parameters: layer scales may start near zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))


def write_vision_model(folder: Path, name: str) -> Path:
    """Write a small model of the zoo with random weights and an image processor."""
    saved_by, settings, _ = WHOLE_ZOO[name]
    if not hasattr(transformers, saved_by):
        pytest.skip(f"transformers {transformers.__version__} has no {saved_by}")
    kind = getattr(transformers, saved_by)
    torch.manual_seed(0)
    model = kind(kind.config_class(**settings)).eval()
    stir(model)
    model.save_pretrained(folder)
    write_processor(folder, 32)
    if name == "radio":  # it normalises images itself
        edit_json(folder / "preprocessor_config.json", lambda c: c.update(do_normalize=False))
    return folder


def read_vision_model(folder: Path) -> Any:
    """Return a model of the zoo by plain transformers."""
    kind = READ_BY.get(folder.name, WHOLE_ZOO[folder.name][0])
    return in_memory(getattr(transformers, kind).from_pretrained(folder))


def write_timm_model(
    folder: Path, architecture: str, arguments: dict[str, Any], settings: dict[str, Any]
) -> Path:
    """Write a small model with random weights, as timm publishes models."""
    import timm
    from timm.models import save_for_hf

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = timm.create_model(architecture, pretrained_cfg_overlay=settings, **arguments)
        stir(model)
        for key, buffer in model.named_buffers():
            if key.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn_like(buffer))
    save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
    return folder


class NoTokenizer:
    """OpenAI's tokenizer, of which open_clip writes no file."""

    def save_pretrained(self, folder: Path) -> None:
        """Write nothing."""


def write_open_clip_model(
    folder: Path, config: dict[str, Any] = OPEN_CLIP, pixels: dict[str, Any] | None = None
) -> Path:
    """Write a small model with random weights, as OpenCLIP publishes models."""
    import open_clip
    from open_clip.push_to_hf_hub import save_for_hf

    folder.mkdir(parents=True)
    write_json(folder / "open_clip_config.json", model_cfg=config)
    torch.manual_seed(0)
    model = open_clip.create_model(
        f"local-dir:{folder}",
        load_weights=False,
        pretrained_text=False,
        force_preprocess_cfg=pixels,
    )
    stir(model)
    save_for_hf(model, NoTokenizer(), config, folder, safe_serialization=True)
    return folder


def changed(file: str, *sections: str, **values: Any) -> Damage:
    """Return a change of some values in a section of a model's JSON file."""

    def change(content: dict[str, Any]) -> None:
        for section in sections:
            content = content[section]
        content.update(values)

    return lambda folder: edit_json(folder / file, change)


def stored(**tensors: Any) -> Damage:
    """Return a change of tensors; two underscores in a name stand for a dot."""
    names = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    return lambda folder: edit_tensors(folder, lambda content: content.update(names))


def without_tensor(name: str) -> Damage:
    return lambda folder: edit_tensors(folder, lambda content: content.pop(name))


def fails_to_load(
    folder: Path | str, message: str, tower: Any = "image", **options: Any
) -> ClipkitError:
    """Check that a model is refused in one line, and return the error."""
    with pytest.raises(ClipkitError, match=message) as error:
        load(folder, tower, **options)
    assert "\n" not in error.value.message
    return error.value


class PlainLinear:
    """What a packed linear layer computes, by PyTorch's plain operations, on any processor."""

    def __init__(self, weight: Any, bias: Any, activation: str = "none", algorithm: str = ""):
        self.weight, self.bias = weight.to(torch.bfloat16), bias.to(torch.bfloat16)
        self.activation, self.algorithm = activation, algorithm

    def __call__(self, x: Any) -> Any:
        product = functional.linear(x, self.weight, self.bias)
        if self.activation == "swish":
            return functional.silu(product)
        if self.activation == "gelu":
            return functional.gelu(product, approximate=self.algorithm)
        return torch.relu(product) if self.activation == "relu" else product

    def add_to(self, residual: Any, x: Any) -> Any:
        return residual + self(x)
