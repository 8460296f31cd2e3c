"""Models of transformers: their towers, with weights as stored or at random."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from clipkit.base import console
from clipkit.base.errors import ClipkitError
from clipkit.models.architecture import (
    Architecture,
    Tensors,
    check_number_of_layers,
    check_stored_size,
    refuse_misfits,
)
from clipkit.models.families import (
    FAMILIES,
    NAFLEX,
    OPTIONAL_POOLERS,
    POOLER_SETTINGS,
    PROJECTED,
    Family,
    find_stack,
    inner_model,
)
from clipkit.models.hub import ModelFiles
from clipkit.models.libraries import import_library, quiet_loading
from clipkit.models.tokenizer import Tokenizer
from clipkit.models.towers import (
    CLS,
    MEAN,
    Stack,
    Tower,
    TowerName,
)

if TYPE_CHECKING:
    from clipkit.models.preprocessing import Preprocessor

PREFIXES = {
    "image": ("vision_model.", "visual_projection."),
    "text": ("text_model.", "text_projection."),
}


class TransformersModel(Architecture):
    """A model of transformers: its family and its configuration."""

    library = "transformers"

    def __init__(self, files: ModelFiles, family: Family, config: Any) -> None:
        self.files = files
        self.family = family
        self.config = config
        self.kind = config.model_type
        self.towers = tuple(family.towers)
        self.no_text = family.no_text

    @classmethod
    def read(cls, files: ModelFiles) -> TransformersModel:
        """Read config.json."""
        content = files.read_json("config.json")
        model_type = content["model_type"]
        family = FAMILIES[model_type]
        projected = PROJECTED.get(model_type)
        if projected and content.get("architectures") == [projected.model]:
            family = projected
        with quiet_loading(f"config.json of {files.name}"):
            _check_version(files, model_type, family)
            config = _class(family.config).from_dict(content)
            model = cls(files, family, config)
            for tower in family.towers:
                layers = number_of_layers(model.tower_config(tower))
                check_number_of_layers("num_hidden_layers", layers)
        return model

    @property
    def dim(self) -> int | None:
        """The embedding size D of a model with a part for images and one for texts."""
        if self.family.is_one_tower:
            return None
        if self.family.outputs["image"] == "pooler_output":
            return int(self.config.vision_config.hidden_size)
        return int(self.config.projection_dim)

    def tower_config(self, tower: TowerName) -> Any:
        """Return the configuration of one tower."""
        if self.family.is_one_tower:
            return self.config
        return self.config.vision_config if tower == "image" else self.config.text_config

    def new_model(self) -> Any:
        """Return all towers as transformers initialises them."""
        with quiet_loading(f"the architecture of {self.files.name}"):
            return _class(self.family.model)(self.config)

    def prefixes(self, tower: TowerName) -> tuple[str, ...]:
        """Return how the names of a tower's tensors start."""
        return ("",) if self.family.is_one_tower else PREFIXES[tower]

    def check_stored(self, *towers: TowerName) -> None:
        """Compare names, shapes and types of the tensors; of one tower alone, only their size."""
        if self.family.is_one_tower:
            check_stored_size(self.files, self.sizes())
        else:
            super().check_stored(*towers)

    def build(self, tower: TowerName, tensors: Tensors) -> Tower:
        """Build one tower with the given weights, in float32 and evaluation mode."""
        family = self.family
        config = self.tower_config(tower)
        if not family.is_one_tower:
            config.projection_dim = self.dim  # the tower's own value may be a mere default
        tower_class = _class(family.towers[tower])
        with quiet_loading(f"the weights of {self.files.name}"):
            model, report = tower_class.from_pretrained(
                None,
                config=config,
                state_dict=self._tower_weights(tower, tensors),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
            )
        model.eval()
        output = family.outputs[tower]
        setting = POOLER_SETTINGS.get(config.model_type)
        if setting and family.is_one_tower and not getattr(config, setting, True):
            output = MEAN
        missing = set(report["missing_keys"])
        if missing and missing == _pooler_keys(model):
            output = CLS
            missing = set()
        refuse_misfits(
            self.files,
            missing=missing,
            mismatched=[key for key, *_shapes in report["mismatched_keys"]],
            unexpected=_inside(model, report["unexpected_keys"]) if family.is_one_tower else [],
        )
        if config.model_type == "vit_mae":
            model = UnmaskedPatches(model)
        if family.projection:
            model = ProjectedTower(model, tensors[f"{family.projection}.weight"])
        return Tower(model, output)

    def _tower_weights(self, tower: TowerName, tensors: Tensors) -> Tensors:
        """Return the weights of one tower by the names that its class has for them."""
        if self.family.is_one_tower:
            return dict(tensors)
        prefixes = PREFIXES[tower]
        if not self.family.projection:
            return {key: value for key, value in tensors.items() if key.startswith(prefixes)}
        # the class of a tower without a projection knows nothing of a larger model either
        prefix = prefixes[0]
        weights = {}
        for key, value in tensors.items():
            if key.startswith(prefix):
                weights[key.removeprefix(prefix)] = value
        return weights

    def stack(self, tower: Tower) -> Stack:
        """Return the layers of a tower."""
        return find_stack(tower.model)

    def without_projection(self, tower: Tower) -> Tower:
        """Return an image tower that ends with its pooler."""
        if tower.output != "image_embeds":
            return super().without_projection(tower)
        return Tower(inner_model(tower.model), "pooler_output")

    def preprocessor(self, device: torch.device, dtype: torch.dtype) -> Preprocessor:
        """Return the model's own image processor."""
        # imported here, since texts need no torchvision
        from clipkit.models.preprocessing import (
            ImagePreprocessor,
            NaflexPreprocessor,
            load_image_processor,
        )

        processor = load_image_processor(self.files)
        if self.kind == "radio" and getattr(processor, "do_normalize", False):
            console.warn(
                f"{self.files.name}: its image processor normalises images, and the model does so "
                "again; expected do_normalize false in preprocessor_config.json"
            )
        config = self.tower_config("image")
        with quiet_loading(f"the image processor of {self.files.name}"):
            if config.model_type == NAFLEX:
                return NaflexPreprocessor(processor, device, dtype)
            image_size = None if self.family.is_one_tower else config.image_size
            return ImagePreprocessor(processor, device, dtype, image_size)

    def tokenizer(self, *, clean: bool) -> Tokenizer:
        """Return the model's own tokenizer."""
        return Tokenizer(self.files, self.config, self.family.padding, clean=clean)

    def describe_towers(self) -> dict[str, dict[str, Any]]:
        """Return the layers, widths, heads and parameters of each tower, and what it takes."""
        vision = self.tower_config("image")
        if self.family.is_one_tower:
            return {"image": _describe_vision(vision)}
        image = self._describe_tower(vision, "image")
        image["patch_size"] = vision.patch_size
        if vision.model_type != NAFLEX:  # which takes images of any size
            image["image_size"] = vision.image_size
        if not self.is_dual:
            return {"image": image}
        text = self.config.text_config
        return {
            "image": image,
            "text": {
                **self._describe_tower(text, "text"),
                "context_length": text.max_position_embeddings,
                "vocabulary": text.vocab_size,
            },
        }

    def _describe_tower(self, config: Any, tower: TowerName) -> dict[str, int]:
        return {
            "layers": config.num_hidden_layers,
            "width": config.hidden_size,
            "heads": config.num_attention_heads,
            "parameters": self.parameters(tower),
        }


ADAPTER = TransformersModel


class ProjectedTower(torch.nn.Module):
    """An image tower and the projection of its pooler: pixels -> embeddings (B, D)."""

    def __init__(self, model: Any, projection: torch.Tensor) -> None:
        super().__init__()
        self.model = model
        width, dim = projection.shape[::-1]
        self.projection = torch.nn.Linear(width, dim, bias=False)
        self.projection.weight = torch.nn.Parameter(projection.float(), requires_grad=False)

    def forward(self, pixel_values: torch.Tensor) -> Any:
        """Project what the pooler returns."""
        return self.projection(self.model(pixel_values=pixel_values).pooler_output)


class UnmaskedPatches(torch.nn.Module):
    """A ViT-MAE that sees all patches, in their order; by itself, it hides most of them."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        model.config.mask_ratio = 0.0

    def forward(self, pixel_values: torch.Tensor, **options: Any) -> Any:
        """Run the model with ascending noise, by which it sorts the patches."""
        patches = self.model.embeddings.patch_embeddings.num_patches
        noise = torch.arange(patches, device=pixel_values.device)
        return self.model(pixel_values, noise=noise.expand(len(pixel_values), -1), **options)


def _class(name: str) -> Any:
    """Return a class of transformers, which takes long to import."""
    return getattr(import_library("transformers"), name)


def number_of_layers(config: Any) -> int:
    """Return the number of layers of a tower; a ConvNeXt has them in stages."""
    depths = getattr(config, "depths", None)
    return int(config.num_hidden_layers) if depths is None else sum(depths)


def _describe_vision(config: Any) -> dict[str, int]:
    """Return what is known of a tower without a part for texts; a ConvNeXt's layers are stages."""
    stages = getattr(config, "depths", None)
    if stages:
        image = {"layers": len(stages), "width": config.hidden_sizes[-1]}
    else:
        image = {"layers": int(config.num_hidden_layers), "width": config.hidden_size}
    for name in ("num_attention_heads", "patch_size", "image_size"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            image[name.removeprefix("num_attention_")] = value
    return image


def _check_version(files: ModelFiles, kind: str, family: Family) -> None:
    """Refuse a kind of model that the installed transformers lacks."""
    transformers = import_library("transformers")
    if hasattr(transformers, family.config) and hasattr(transformers, family.model):
        return
    since = f"transformers {family.since} or newer" if family.since else "a newer transformers"
    raise ClipkitError(
        f"{files.name}: expected {since}, which has {kind}, got {transformers.__version__}",
        "upgrade it: pip install --upgrade transformers",
    )


def _pooler_keys(model: Any) -> set[str]:
    """Return the names of the tensors of a pooler that a checkpoint may lack."""
    pooler = OPTIONAL_POOLERS.get(model.config.model_type)
    if pooler is None:
        return set()
    return {key for key in model.state_dict() if key.startswith(pooler)}


def _inside(model: Any, keys: Iterable[str]) -> list[str]:
    """Return the unknown tensors that belong to the model, not to a head outside of it."""
    children = {name for name, _ in model.named_children()}
    inner = []
    for key in keys:
        child, _, _ = key.removeprefix(f"{model.base_model_prefix}.").partition(".")
        if child in children:
            inner.append(key)
    return inner
