"""The kinds of models of transformers that clipkit reads, and how each is used."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from clipkit.base.errors import ClipkitError
from clipkit.models.libraries import import_library, quiet_loading
from clipkit.models.towers import (
    CLS,
    MEAN,
    NO_TEXT,
    Stack,
    TowerName,
    find_token,
    largest_token,
    last_token,
)


@dataclass(frozen=True)
class Family:
    """One kind of model: the names of its classes in transformers, and how it is used.

    `config` and `model` are the classes of the configuration and of the whole model, and `towers`
    the class of each tower that clipkit reads. `outputs` are the names under which towers return
    their embeddings, or `CLS` or `MEAN`. `padding` says how texts are padded; if it is empty, they
    have an attention mask. `example` is a published repository; empty if only users save such
    models. `since` is the first version of transformers that has the classes, if clipkit's oldest
    one lacks them. `no_text` says why a tower is missing. `is_own` tells whether the model's
    own methods give the embeddings, by the rule of `OwnTower`.

    `pooled` is the token that the text tower pools, `END_TOKEN` or `LAST_TOKEN`; with `LEGACY_END`
    as its number, it may have a `legacy_end`. `pooler_setting` says in the configuration whether
    there is a pooler, without which the embedding is the mean of patches. A model that is `naflex`
    takes images in their aspect ratios, as patches with a mask. One that `crops_as_openai` was
    trained on the centre crop of OpenAI's code. One that `normalizes` does what else its image
    processor does. One that `hides_patches` does so at random, which `UnmaskedPatches` prevents.

    The configuration is in a `section` of config.json if a model with a vision tower alone has that
    of both towers. `projected` are the encoder and the projection of each tower of a class that has
    no methods for embeddings: these are the projected first tokens.
    """

    config: str
    model: str
    towers: dict[TowerName, str]
    outputs: dict[TowerName, str]
    padding: str = ""
    example: str = ""
    since: str = ""
    no_text: str = NO_TEXT
    is_own: bool = False
    is_tested: bool = True
    pooled: str = ""
    legacy_end: bool = False
    pooler_setting: str = ""
    naflex: bool = False
    crops_as_openai: bool = False
    normalizes: bool = False
    hides_patches: bool = False
    section: str = ""
    projected: dict[TowerName, tuple[str, str]] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether the class of the whole model reads a tower."""
        return self.model in self.towers.values()


def _dual(
    name: str, padding: str, pooled: str, example: str, *, has_projection: bool = True
) -> Family:
    """Return a dual encoder: towers end in projections, as in CLIP, or poolers, as in SigLIP."""
    ending = ""
    outputs: dict[TowerName, str] = {"image": "pooler_output", "text": "pooler_output"}
    if has_projection:
        ending = "WithProjection"
        outputs = PROJECTIONS
    towers: dict[TowerName, str] = {
        "image": f"{name}VisionModel{ending}",
        "text": f"{name}TextModel{ending}",
    }
    return Family(
        f"{name}Config",
        f"{name}Model",
        towers,
        outputs,
        padding=padding,
        example=example,
        pooled=pooled,
    )


def _vision(name: str, example: str = "", *, output: str = "pooler_output", **more: Any) -> Family:
    """Return a model for images alone."""
    model = f"{name}Model"
    return Family(
        f"{name}Config", model, {"image": model}, {"image": output}, example=example, **more
    )


def _own_dual(name: str, example: str) -> Family:
    """Return a dual encoder that is used by its own methods."""
    model = f"{name}Model"
    towers: dict[TowerName, str] = {"image": model, "text": model}
    return Family(f"{name}Config", model, towers, PROJECTIONS, example=example, is_own=True)


END_TOKEN = "end token"
LAST_TOKEN = "last token"
PROJECTIONS: dict[TowerName, str] = {"image": "image_embeds", "text": "text_embeds"}
# Attention of texts is causal in CLIP: an embedding does not depend on the padding that follows.
# SigLIP attends to the padding, and was trained with all of it.
FAMILIES = {
    "clip": _dual("CLIP", "longest", END_TOKEN, "openai/clip-vit-base-patch32"),
    "metaclip_2": _dual(
        "MetaClip2", "longest", END_TOKEN, "facebook/metaclip-2-worldwide-huge-quickgelu"
    ),
    "siglip": _dual(
        "Siglip", "max_length", LAST_TOKEN, "google/siglip2-base-patch16-224", has_projection=False
    ),
    "siglip2": _dual(
        "Siglip2",
        "max_length",
        LAST_TOKEN,
        "google/siglip2-base-patch16-naflex",
        has_projection=False,
    ),
    "altclip": _own_dual("AltCLIP", "BAAI/AltCLIP"),
    "chinese_clip": _own_dual("ChineseCLIP", "OFA-Sys/chinese-clip-vit-base-patch16"),
    "clip_text_model": Family(
        "CLIPTextConfig",
        "CLIPTextModel",
        {"text": "CLIPTextModel"},
        {"text": "pooler_output"},
        padding="longest",
        no_text="which is for texts alone",
        pooled=END_TOKEN,
        legacy_end=True,
    ),
    "aimv2": _vision(
        "Aimv2",
        "apple/aimv2-large-patch14-224-lit",
        output="image_embeds",
        is_own=True,
        # without an attention mask it attends to the padding, with one only to earlier tokens
        no_text="with text embeddings that depend on their padding, so that only images are read",
    ),
    "aimv2_vision_model": _vision(
        "Aimv2Vision", "apple/aimv2-large-patch14-224", pooler_setting="use_head"
    ),
    "beit": _vision("Beit", "microsoft/beit-base-patch16-224", is_own=True),
    "clip_vision_model": _vision("CLIPVision", crops_as_openai=True),
    "convnext": _vision("ConvNext", "facebook/convnext-tiny-224"),
    "convnextv2": _vision("ConvNextV2", "facebook/convnextv2-tiny-1k-224"),
    "deit": _vision("DeiT", "facebook/deit-base-distilled-patch16-224", is_own=True),
    "dinov2": _vision("Dinov2", "facebook/dinov2-base"),
    "dinov2_with_registers": _vision("Dinov2WithRegisters", "facebook/dinov2-with-registers-base"),
    "dinov3_convnext": _vision("DINOv3ConvNext", "facebook/dinov3-convnext-tiny-pretrain-lvd1689m"),
    "dinov3_vit": _vision("DINOv3ViT", "facebook/dinov3-vits16-pretrain-lvd1689m"),
    "ijepa": _vision("IJepa", "facebook/ijepa_vith14_1k", output=MEAN),
    "metaclip_2_vision_model": _vision("MetaClip2Vision", crops_as_openai=True),
    "mlcd": _vision("MLCDVision", "DeepGlint-AI/mlcd-vit-bigG-patch14-448", is_own=True),
    "mlcd_vision_model": _vision("MLCDVision", is_own=True),
    "radio": _vision(
        "Radio", "nvidia/C-RADIOv4-H", output="summary", since="5.13", normalizes=True
    ),
    "resnet": _vision("ResNet", "microsoft/resnet-50", is_own=True),
    "siglip_vision_model": _vision("SiglipVision", pooler_setting="vision_use_head"),
    "siglip2_vision_model": _vision("Siglip2Vision", pooler_setting="vision_use_head", naflex=True),
    "swin": _vision("Swin", "microsoft/swin-tiny-patch4-window7-224", is_own=True),
    "vit": _vision("ViT", "google/vit-base-patch16-224-in21k"),
    "vit_mae": _vision("ViTMAE", "facebook/vit-mae-base", output=CLS, hides_patches=True),
}
# The classes that people publish of a kind whose row has another class
CLASSES = {
    "BlipForImageTextRetrieval": Family(
        "BlipConfig",
        "BlipForImageTextRetrieval",
        {"image": "BlipForImageTextRetrieval", "text": "BlipForImageTextRetrieval"},
        PROJECTIONS,
        example="Salesforce/blip-itm-base-coco",
        is_own=True,
        projected={
            "image": ("vision_model", "vision_proj"),
            "text": ("text_encoder", "text_proj"),
        },
    ),
}
REFUSED_CLASSES = {
    "Blip2ForImageTextRetrieval": "which compares a text with the nearest of an image's 32 vectors",
}
CLASSIFIER = "ForImageClassification"
# With this eos_token_id, which the first published configurations of CLIP hold, transformers takes
# the largest token for the end.
LEGACY_END = 2
# The parameters that are tokens before the patches.
PREFIX_TOKENS = {
    *("cls_token", "class_token", "class_embedding"),
    *("cls_register_token", "distillation_token", "register_tokens"),
}
# The parameters that are tokens behind the patches.
SUFFIX_TOKENS = {"detection_tokens"}
UNKNOWN = Family("", "", {}, {})


def find_family(name: str, content: Mapping[str, Any]) -> Family:
    """Return how the model of a config.json is used: by the table, or else by its own methods."""
    kind = str(content.get("model_type"))
    saved = content.get("architectures")
    class_name = str(saved[0]) if isinstance(saved, list) and saved else ""
    if class_name in REFUSED_CLASSES:
        raise ClipkitError(
            f"{name}: expected a model with one embedding per image, got {class_name}, "
            f"{REFUSED_CLASSES[class_name]}",
            "choose one vector by Python code of your own: docs/encoders.md shows how",
        )
    family = CLASSES.get(class_name) or _of_classifier(kind, class_name) or FAMILIES.get(kind)
    family = family or _untested(kind)
    if family is None:
        raise ClipkitError(
            f"{name}: expected a model that clipkit reads, got model_type "
            f"{content.get('model_type')!r}",
            "clipkit reads models of OpenCLIP (open_clip_config.json), of timm, generative ones of "
            "transformers (AutoModelForImageTextToText), and those of its models that take images "
            f"and return an embedding or hidden states, such as {', '.join(FAMILIES)}; any other "
            "one by Python code of your own: docs/encoders.md",
        )
    # a model saved without its other tower may have kept the projection
    projected = f"{family.model}WithProjection"
    if content.get("architectures") == [projected] and len(family.towers) == 1:
        (tower,) = family.towers
        outputs = {tower: PROJECTIONS[tower]}
        family = replace(family, model=projected, towers={tower: projected}, outputs=outputs)
    return family


def _of_classifier(kind: str, class_name: str) -> Family | None:
    """Return the vision tower of a classifier that was made of a dual encoder, if it is one."""
    dual, vision = FAMILIES.get(kind), FAMILIES.get(f"{kind}_vision_model")
    if dual is None or vision is None:
        return None
    if class_name != dual.model.removesuffix("Model") + CLASSIFIER:
        return None
    return replace(vision, section="vision_config")


def _untested(kind: str) -> Family | None:
    """Describe a kind without a row, if transformers' own class says that it embeds images."""
    transformers = import_library("transformers")
    auto = transformers.models.auto
    config = auto.configuration_auto.CONFIG_MAPPING_NAMES.get(kind)
    name = auto.modeling_auto.MODEL_MAPPING_NAMES.get(kind)
    model = getattr(transformers, name, None) if isinstance(name, str) else None
    towers: dict[TowerName, str] = {"image": str(name)}
    if hasattr(model, "get_image_features") and hasattr(model, "get_text_features"):
        towers["text"] = str(name)
    elif getattr(model, "main_input_name", None) != "pixel_values" or _takes_videos(model):
        return None
    return Family(config, str(name), towers, {}, is_own=True, is_tested=False)


def _takes_videos(model: Any) -> bool:
    return hasattr(model.config_class(), "num_frames")


def find_stack(model: Any) -> Stack:
    """Return the layers of a tower's model: its first list of modules, and its last norm."""
    model = inner_model(model)
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    norms = [module for name, module in model.named_children() if name.endswith("norm")]
    prefix = count_tokens(model)
    return Stack(
        layers=list(lists[0]),
        norm=norms[-1] if norms else None,
        prefix=prefix,
        has_cls=prefix > 0,
        pooled_token=_pooled_token(model.config),
    )


def count_tokens(model: Any, names: Collection[str] = PREFIX_TOKENS) -> int:
    """Return the number of tokens that are parameters of these names: each is one, or a row."""
    count = 0
    for name, parameter in model.named_parameters():
        owner, _, last = name.rpartition(".")
        if last in names and owner != "head":  # which has the token that pools
            count += parameter.numel() // parameter.shape[-1]
    return count


def inner_model(model: Any) -> Any:
    """Return the model that has the layers, without its projection."""
    while not hasattr(model, "config"):  # a wrapper of clipkit's
        model = model.model
    for part in ("vision_model", "image_model", "text_model", "text_encoder"):
        if getattr(model, part, None) is not None:
            return getattr(model, part)
    return model


def family_of_tower(config: Any) -> Family:
    """Return the kind of a tower by its configuration: its own row, or that of its dual encoder."""
    kind = str(config.model_type)
    dual = kind.removesuffix("_vision_model").removesuffix("_text_model")
    return FAMILIES.get(kind) or FAMILIES.get(dual, UNKNOWN)


def _pooled_token(config: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return a function from token ids (B, T) to the position (B) of the token that is pooled."""
    pooled = family_of_tower(config).pooled
    if pooled == END_TOKEN:
        return end_token(config)
    return last_token if pooled == LAST_TOKEN else None


def end_token(config: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function from token ids (B, T) to the position (B) of the end token."""
    if ends_with_largest(config):
        return largest_token
    return partial(find_token, token=config.eos_token_id)


def ends_with_largest(config: Any) -> bool:
    """Return whether the end token of a text tower is the largest one."""
    return family_of_tower(config).legacy_end and config.eos_token_id == LEGACY_END


def is_generative(config: Mapping[str, Any]) -> bool:
    """Whether the model of a config.json answers questions about images, as transformers says.

    A kind such as BLIP has such models and others. Then the class that was saved decides.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type in FAMILIES:
        return False
    with quiet_loading("the library transformers"):
        from transformers.models.auto import modeling_auto
    name = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(model_type)
    return name is not None and name in (config.get("architectures") or [name])
