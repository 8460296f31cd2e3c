"""The kinds of models of transformers that clipkit reads, and how each is used."""

from __future__ import annotations

from dataclasses import dataclass

from clipkit.models.towers import CLS, MEAN, TowerName


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
    padding : str
        How texts are padded.
    """

    config: str
    model: str
    towers: dict[TowerName, str]
    outputs: dict[TowerName, str]
    padding: str = ""

    @property
    def is_dual(self) -> bool:
        """Whether there is a text tower."""
        return "text" in self.towers


def _vision(name: str, output: str = "pooler_output") -> Family:
    """Return a model for images alone."""
    model = f"{name}Model"
    return Family(f"{name}Config", model, {"image": model}, {"image": output})


DUAL_ENCODERS = {
    "clip": Family(
        config="CLIPConfig",
        model="CLIPModel",
        towers={"image": "CLIPVisionModelWithProjection", "text": "CLIPTextModelWithProjection"},
        outputs={"image": "image_embeds", "text": "text_embeds"},
        padding="longest",  # attention is causal: an embedding does not depend on what follows
    ),
    "siglip": Family(
        config="SiglipConfig",
        model="SiglipModel",
        towers={"image": "SiglipVisionModel", "text": "SiglipTextModel"},
        outputs={"image": "pooler_output", "text": "pooler_output"},
        padding="max_length",  # it attends to the padding, and was trained with all of it
    ),
}
VISION_MODELS = {
    "aimv2_vision_model": _vision("Aimv2Vision"),
    "clip_vision_model": _vision("CLIPVision"),
    "convnext": _vision("ConvNext"),
    "convnextv2": _vision("ConvNextV2"),
    "dinov2": _vision("Dinov2"),
    "dinov2_with_registers": _vision("Dinov2WithRegisters"),
    "dinov3_convnext": _vision("DINOv3ConvNext"),
    "dinov3_vit": _vision("DINOv3ViT"),
    "ijepa": _vision("IJepa", MEAN),
    "radio": _vision("Radio", "summary"),
    "siglip_vision_model": _vision("SiglipVision"),
    "vit": _vision("ViT"),
    "vit_mae": _vision("ViTMAE", CLS),
}
FAMILIES = DUAL_ENCODERS | VISION_MODELS
# A CLIP saved without its text tower may have kept the projection.
PROJECTED = {
    "clip_vision_model": Family(
        "CLIPVisionConfig",
        "CLIPVisionModelWithProjection",
        {"image": "CLIPVisionModelWithProjection"},
        {"image": "image_embeds"},
    ),
}
# A checkpoint of a classifier lacks the pooler, which transformers would draw at random.
OPTIONAL_POOLERS = {"vit": "pooler."}
# The setting that says whether there is a pooler. Without it, the embedding is the mean of patches.
POOLER_SETTINGS = {"aimv2_vision_model": "use_head", "siglip_vision_model": "vision_use_head"}
