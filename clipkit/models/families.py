"""The kinds of models of transformers that clipkit reads, and how each is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from clipkit.models.towers import CLS, MEAN, TowerName


class Layout(NamedTuple):
    """Where a tower has its layers, by dotted paths below its vision_model, text_model or itself.

    Attributes
    ----------
    layers : tuple of str
        The paths of the layers in different versions of transformers.
    norm : str
        The path of the final norm, or "" if there is none.
    tokens : tuple of int or str
        The numbers of tokens before the patches, CLS first, or the settings that hold them.
    is_map : bool
        Whether hidden states are maps of patches.
    text_token : {"end", "last", ""}
        The token that a text tower pools.
    """

    layers: tuple[str, ...]
    norm: str
    tokens: tuple[int | str, ...] = ()
    is_map: bool = False
    text_token: str = ""


@dataclass(frozen=True)
class Family:
    """One kind of model: the names of its classes in transformers, and how it is used.

    Attributes
    ----------
    config, model : str
        The classes of the configuration and of the whole model.
    towers : dict of str to str
        The class of each tower. A model without a text tower has one for images alone.
    outputs : dict of str to str
        The name under which a tower returns its embedding, or `CLS` or `MEAN`.
    layouts : dict of str to Layout
        Where a tower has its layers.
    padding : str
        How texts are padded.
    """

    config: str
    model: str
    towers: dict[TowerName, str]
    outputs: dict[TowerName, str]
    layouts: dict[TowerName, Layout]
    padding: str = ""

    @property
    def is_dual(self) -> bool:
        """Whether there is a text tower."""
        return "text" in self.towers


CLIP_IMAGE = Layout(("encoder.layers",), "post_layernorm", tokens=(1,))
CLIP_TEXT = Layout(("encoder.layers",), "final_layer_norm", text_token="end")
SIGLIP_IMAGE = Layout(("encoder.layers",), "post_layernorm")
SIGLIP_TEXT = Layout(("encoder.layers",), "final_layer_norm", text_token="last")
VIT = Layout(("layers", "encoder.layer"), "layernorm", tokens=(1,))
CONVNEXT = Layout(("encoder.stages",), "layernorm", is_map=True)


def _vision(name: str, layout: Layout, output: str = "pooler_output") -> Family:
    """Return a model for images alone."""
    model = f"{name}Model"
    return Family(f"{name}Config", model, {"image": model}, {"image": output}, {"image": layout})


DUAL_ENCODERS = {
    "clip": Family(
        config="CLIPConfig",
        model="CLIPModel",
        towers={"image": "CLIPVisionModelWithProjection", "text": "CLIPTextModelWithProjection"},
        outputs={"image": "image_embeds", "text": "text_embeds"},
        layouts={"image": CLIP_IMAGE, "text": CLIP_TEXT},
        padding="longest",  # attention is causal: an embedding does not depend on what follows
    ),
    "siglip": Family(
        config="SiglipConfig",
        model="SiglipModel",
        towers={"image": "SiglipVisionModel", "text": "SiglipTextModel"},
        outputs={"image": "pooler_output", "text": "pooler_output"},
        layouts={"image": SIGLIP_IMAGE, "text": SIGLIP_TEXT},
        padding="max_length",  # it attends to the padding, and was trained with all of it
    ),
}
VISION_MODELS = {
    "aimv2_vision_model": _vision("Aimv2Vision", Layout(("encoder.layers",), "rms_norm")),
    "clip_vision_model": _vision("CLIPVision", CLIP_IMAGE),
    "convnext": _vision("ConvNext", CONVNEXT),
    "convnextv2": _vision("ConvNextV2", CONVNEXT),
    "dinov2": _vision("Dinov2", VIT),
    "dinov2_with_registers": _vision(
        "Dinov2WithRegisters", VIT._replace(tokens=(1, "num_register_tokens"))
    ),
    "dinov3_convnext": _vision(
        "DINOv3ConvNext", Layout(("model.stages",), "layer_norm", is_map=True)
    ),
    "dinov3_vit": _vision(
        "DINOv3ViT", Layout(("model.layer",), "norm", tokens=(1, "num_register_tokens"))
    ),
    "ijepa": _vision("IJepa", VIT._replace(tokens=()), MEAN),
    "radio": _vision(
        "Radio", Layout(("encoder.layer",), "", tokens=("num_summary_tokens",)), "summary"
    ),
    "siglip_vision_model": _vision("SiglipVision", SIGLIP_IMAGE),
    "vit": _vision("ViT", VIT),
    "vit_mae": _vision("ViTMAE", VIT, CLS),
}
FAMILIES = DUAL_ENCODERS | VISION_MODELS
# A CLIP saved without its text tower may have kept the projection.
PROJECTED = {
    "clip_vision_model": Family(
        "CLIPVisionConfig",
        "CLIPVisionModelWithProjection",
        {"image": "CLIPVisionModelWithProjection"},
        {"image": "image_embeds"},
        {"image": CLIP_IMAGE},
    ),
}
# A checkpoint of a classifier lacks the pooler, which transformers would draw at random.
OPTIONAL_POOLERS = {"vit": "pooler."}
# The setting that says whether there is a pooler. Without it, the embedding is the mean of patches.
POOLER_SETTINGS = {"aimv2_vision_model": "use_head", "siglip_vision_model": "vision_use_head"}
