"""Models of transformers: their towers, with weights as stored or at random."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import transformers

from clipkit.errors import ClipkitError
from clipkit.models.architecture import Architecture
from clipkit.models.families import (
    FAMILIES,
    OPTIONAL_POOLERS,
    POOLER_SETTINGS,
    PROJECTED,
    Family,
)
from clipkit.models.guards import single_line_errors
from clipkit.models.hub import ModelFiles
from clipkit.models.layouts import find_stack, inner_model
from clipkit.models.preprocessing import ImagePreprocessor, load_image_processor
from clipkit.models.tokenizer import Tokenizer
from clipkit.models.towers import CLS, MEAN, Stack, Tower, TowerName, UnmaskedPatches
from clipkit.models.weights import (
    SCALARS,
    Tensors,
    check_stored_size,
    check_stored_tensors,
    refuse_misfits,
)

PREFIXES = {
    "image": ("vision_model.", "visual_projection."),
    "text": ("text_model.", "text_projection."),
}
MAX_LAYERS = 1000  # per tower; the largest known models have 64, and building a billion never ends


class TransformersModel(Architecture):
    """A model of transformers: its family and its configuration."""

    library = "transformers"

    def __init__(self, files: ModelFiles, family: Family, config: Any) -> None:
        self.files = files
        self.family = family
        self.config = config
        self.kind = config.model_type
        self.towers = tuple(family.towers)

    @classmethod
    def read(cls, files: ModelFiles) -> TransformersModel:
        """Read config.json."""
        content = files.read_json("config.json")
        model_type = content.get("model_type")
        family = FAMILIES.get(str(model_type))
        if family is None:
            raise ClipkitError(
                f"{files.name}: expected a model of one of the types {', '.join(FAMILIES)}, "
                f"got {model_type!r}"
            )
        projected = PROJECTED.get(str(model_type))
        if projected and content.get("architectures") == [projected.model]:
            family = projected
        with single_line_errors(f"config.json of {files.name}"):
            config = getattr(transformers, family.config).from_dict(content)
            model = cls(files, family, config)
            for tower in family.towers:
                layers = number_of_layers(model.tower_config(tower))
                if not 1 <= layers <= MAX_LAYERS:
                    raise ValueError(
                        f"expected 1 to {MAX_LAYERS} layers per tower, "
                        f"got num_hidden_layers {layers}"
                    )
        return model

    @property
    def dim(self) -> int | None:
        """The embedding size D of a dual encoder."""
        if not self.is_dual:
            return None
        if self.kind == "siglip":
            return int(self.config.vision_config.hidden_size)
        return int(self.config.projection_dim)

    def tower_config(self, tower: TowerName) -> Any:
        """Return the configuration of one tower."""
        if not self.is_dual:
            return self.config
        return self.config.vision_config if tower == "image" else self.config.text_config

    def new_model(self) -> Any:
        """Return all towers as transformers initialises them."""
        with single_line_errors(f"the architecture of {self.files.name}"):
            return getattr(transformers, self.family.model)(self.config)

    def prefixes(self, tower: TowerName) -> tuple[str, ...]:
        """Return how the names of a tower's tensors start."""
        return (*PREFIXES[tower], *SCALARS) if self.is_dual else ("",)

    def check_stored(self, *towers: TowerName) -> None:
        """Compare names, shapes and types of a dual encoder's tensors, and the size of others."""
        if self.is_dual:
            prefixes = tuple(prefix for tower in towers for prefix in PREFIXES[tower])
            check_stored_tensors(self.files, self.sizes(), prefixes)
        else:
            check_stored_size(self.files, self.sizes())

    def build(self, tower: TowerName, tensors: Tensors) -> Tower:
        """Build one tower with the given weights, in float32 and evaluation mode."""
        family = self.family
        config = self.tower_config(tower)
        weights = tensors
        if self.is_dual:
            config.projection_dim = self.dim  # the tower's own value may be a mere default
            prefixes = PREFIXES[tower]
            weights = {key: value for key, value in tensors.items() if key.startswith(prefixes)}
        tower_class = getattr(transformers, family.towers[tower])
        with single_line_errors(f"the weights of {self.files.name}"):
            model, report = tower_class.from_pretrained(
                None,
                config=config,
                state_dict=dict(weights),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
            )
        model.eval()
        output = family.outputs[tower]
        setting = POOLER_SETTINGS.get(config.model_type)
        if setting and not self.is_dual and not getattr(config, setting):
            output = MEAN
        missing = set(report["missing_keys"])
        pooler = OPTIONAL_POOLERS.get(config.model_type)
        if pooler and missing and all(key.startswith(pooler) for key in missing):
            output = CLS
            missing = set()
        refuse_misfits(
            self.files,
            missing=missing,
            mismatched=[key for key, *_shapes in report["mismatched_keys"]],
            unexpected=[] if self.is_dual else _inside(model, report["unexpected_keys"]),
        )
        if config.model_type == "vit_mae":
            model = UnmaskedPatches(model)
        return Tower(model, output)

    def stack(self, tower: Tower) -> Stack:
        """Return the layers of a tower."""
        return find_stack(tower.model)

    def without_projection(self, tower: Tower) -> Tower:
        """Return an image tower that ends with its pooler."""
        if tower.output != "image_embeds":
            return super().without_projection(tower)
        return Tower(inner_model(tower.model), "pooler_output")

    def preprocessor(self, device: torch.device, dtype: torch.dtype) -> ImagePreprocessor:
        """Return the model's own image processor."""
        processor = load_image_processor(self.files)
        image_size = self.config.vision_config.image_size if self.is_dual else None
        with single_line_errors(f"the image processor of {self.files.name}"):
            return ImagePreprocessor(processor, device, dtype, image_size)

    def tokenizer(self, *, clean: bool) -> Tokenizer:
        """Return the model's own tokenizer."""
        return Tokenizer(self.files, self.config, self.family.padding, clean=clean)

    def describe_towers(self) -> dict[str, dict[str, Any]]:
        """Return the layers, widths, heads and parameters of each tower, and what it takes."""
        if not self.is_dual:
            return {"image": _describe_vision(self.config)}
        vision = self.config.vision_config
        text = self.config.text_config
        return {
            "image": {
                **self._describe_tower(vision, "image"),
                "patch_size": vision.patch_size,
                "image_size": vision.image_size,
            },
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
            "parameters": self.parameters(*PREFIXES[tower]),
        }


ADAPTER = TransformersModel


def number_of_layers(config: Any) -> int:
    """Return the number of layers of a tower: of a ConvNeXt, those of all stages."""
    depths = getattr(config, "depths", None)
    return int(config.num_hidden_layers) if depths is None else sum(depths)


def _describe_vision(config: Any) -> dict[str, int]:
    widths = getattr(config, "hidden_sizes", None) or [config.hidden_size]
    stages = getattr(config, "depths", None)
    layers = len(stages) if stages else config.num_hidden_layers
    image = {"layers": int(layers), "width": widths[-1]}
    for name in ("num_attention_heads", "patch_size", "image_size"):
        if isinstance(getattr(config, name, None), int):
            image[name.removeprefix("num_attention_")] = getattr(config, name)
    return image


def _inside(model: Any, keys: Iterable[str]) -> list[str]:
    """Return those of the unknown tensors that do not belong to a head outside of the model."""
    children = {name for name, _ in model.named_children()}
    inner = []
    for key in keys:
        within = key.removeprefix(f"{model.base_model_prefix}.")
        if within.partition(".")[0] in children:
            inner.append(key)
    return inner
