"""Models of transformers: their towers, with weights as stored or at random."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch

from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.models.architecture import (
    TAKEN,
    Architecture,
    Tensors,
    check_number_of_layers,
    check_stored_size,
    logit_scale,
    refuse_misfits,
    without_buffers,
)
from clipkit.models.families import (
    FAMILIES,
    SUFFIX_TOKENS,
    Family,
    count_tokens,
    family_of_tower,
    find_family,
    find_stack,
    inner_model,
)
from clipkit.models.hub import ModelFiles
from clipkit.models.libraries import import_library, quiet_loading, single_line_errors
from clipkit.models.preprocessing import (
    ImagePreprocessor,
    NaflexPreprocessor,
    Preprocessor,
    load_image_processor,
    resize_processor,
)
from clipkit.models.tokenizer import Tokenizer
from clipkit.models.towers import (
    CLS,
    MEAN,
    MEAN_OF_MAP,
    MEAN_OF_TOKENS,
    SIZE_HINT,
    Stack,
    Tower,
    TowerName,
    widened,
)

CONFIGS = {"image": "vision_config", "text": "text_config"}
PREFIXES = {
    "image": ("vision_model.", "visual_projection."),
    "text": ("text_model.", "text_projection."),
}
# What a tower does not need, and what may not be read for it
OTHER_PARTS = {
    "image": ("text_model", "text_encoder", "text_projection", "text_proj", "logit_scale"),
    "text": ("vision_model", "image_model", "visual_projection", "vision_proj", "logit_scale"),
}
HIDING_TOKEN = "mask_token"  # stands for patches that are hidden in training
FACTS = {  # what `describe_model` calls a setting
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "parameters": "",
    "patch_size": "patch_size",
    "image_size": "image_size",
    "context_length": "max_position_embeddings",
    "vocabulary": "vocab_size",
}


class TransformersModel(Architecture):
    """A model of transformers: its family and its configuration."""

    library = "transformers"
    taken: ClassVar = {**TAKEN, "image": (*TAKEN["image"], "image_size")}

    def __init__(self, files: ModelFiles, family: Family, config: Any) -> None:
        self.files = files
        self.family = family
        self.config = config
        self.kind = config.model_type
        self.towers = tuple(family.towers)
        self.no_text = family.no_text
        self.is_tested = family.is_tested
        self.image_size: int | None = None
        self.hint: str | None = None

    @classmethod
    def read(cls, files: ModelFiles) -> TransformersModel:
        """Read config.json."""
        content = files.read_json("config.json")
        family = find_family(files.name, content)
        with quiet_loading(f"config.json of {files.name}"):
            _check_version(files, content["model_type"], family)
            settings = content[family.section] if family.section else content
            config = _class(family.config).from_dict(settings)
            model = cls(files, family, config)
            for tower in family.towers:
                layers = number_of_layers(model.tower_config(tower))
                check_number_of_layers("num_hidden_layers", layers)
        if family.section:
            console.note(
                f"{files.name}: a classifier; its vision model is read, without a projection, so "
                "that its embeddings cannot be compared with texts"
            )
        return model

    @property
    def dim(self) -> int | None:
        """The embedding size D of a model with a part for images and one for texts."""
        if not hasattr(self.config, "vision_config"):
            return None
        if self.family.projected:
            return int(self.config.image_text_hidden_size)
        if self.family.outputs.get("image") == "pooler_output":
            return int(self.config.vision_config.hidden_size)
        return getattr(self.config, "projection_dim", None)

    def tower_config(self, tower: TowerName) -> Any:
        """Return the configuration of one tower."""
        return getattr(self.config, CONFIGS[tower], self.config)

    def new_model(self) -> Any:
        """Return all towers as transformers initialises them."""
        with quiet_loading(f"the architecture of {self.files.name}"):
            return _class(self.family.model)(self.config)

    def resize(self, edge: int) -> None:
        """Let the image tower take images of another edge, in pixels, before it is built."""
        if family_of_tower(self.tower_config("image")).naflex:
            raise UsageError(
                f"{self.files.name}: expected a model that takes --image-size, got one that takes "
                "images in their aspect ratios",
                "leave --image-size out",
            )
        patch = getattr(self.tower_config("image"), "patch_size", 1)
        rest = edge % patch if isinstance(patch, int) and patch > 0 else 0
        if rest:
            whole = [size for size in (edge - rest, edge - rest + patch) if size]
            console.warn(
                f"{self.files.name} does not see the last {rest} rows and columns of pixels: its "
                f"patches have {patch} x {patch}; hint: --image-size "
                f"{' or '.join(map(str, whole))}"
            )
        self.image_size = edge
        self.hint = SIZE_HINT

    def prefixes(self, tower: TowerName) -> tuple[str, ...]:
        """Return how the names of a tower's tensors start."""
        if self.family.projected:
            return tuple(f"{part}." for part in self.family.projected[tower])
        is_dual = self.is_tested and hasattr(self.config, "vision_config")
        return PREFIXES[tower] if is_dual else ("",)

    def check_stored(self, *towers: TowerName) -> None:
        """Compare names, shapes and types of the tensors; in a single tower, only their size."""
        if self.family.is_whole:
            check_stored_size(self.files, self.sizes())
        else:
            super().check_stored(*towers)

    def build(self, tower: TowerName, tensors: Tensors) -> Tower:
        """Build one tower with the given weights, in float32 and evaluation mode."""
        model, lacks_pooler = self._load_tower(tower, tensors)
        model.eval()
        if self.image_size:
            _interpolate_positions(model)
            _interpolate_positions(inner_model(model))
        if self.family.is_own:
            return self._own_tower(model, tower, has_pooler=not lacks_pooler)
        output = CLS if lacks_pooler else self._output(tower)
        if self.family.hides_patches:
            model = UnmaskedPatches(model)
        return Tower(model, output)

    def _load_tower(self, tower: TowerName, tensors: Tensors) -> tuple[Any, bool]:
        """Return the model of a tower with its weights, and whether these lack the pooler."""
        config = self.config
        if not self.family.is_whole:
            config = self.tower_config(tower)
            config.projection_dim = self.dim  # the tower's own value may be a mere default
        prefixes = self.prefixes(tower)
        tower_class = _class(self.family.towers[tower])
        with quiet_loading(f"the weights of {self.files.name}"):
            model, report = tower_class.from_pretrained(
                None,
                config=config,
                state_dict={key: tensors[key] for key in tensors if key.startswith(prefixes)},
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
            )
        missing = set()
        for key in report["missing_keys"]:
            is_of_other_part = not set(OTHER_PARTS[tower]).isdisjoint(key.split(".")[:2])
            if key.startswith(prefixes) and not is_of_other_part:
                missing.add(key)
        pooler = {key for key in model.state_dict() if key.startswith("pooler.")}
        lacks_pooler = bool(missing) and missing == pooler
        if lacks_pooler:
            missing = set()
        unexpected = []
        if self.family.is_whole:
            unexpected = _inside(model, report["unexpected_keys"])
        mismatched = [key for key, *_shapes in report["mismatched_keys"]]
        refuse_misfits(self.files, missing=missing, mismatched=mismatched, unexpected=unexpected)
        return model, lacks_pooler

    def _output(self, tower: TowerName) -> str:
        """Return the output of a tower that is its embedding; the mean if it has no pooler."""
        setting = self.family.pooler_setting
        if setting and not getattr(self.config, setting, True):
            return MEAN
        return self.family.outputs.get(tower, "")

    def _own_tower(self, model: Any, tower: TowerName, *, has_pooler: bool) -> Tower:
        """Return one tower of a model that its own methods use."""
        for name in OTHER_PARTS[tower]:
            if hasattr(model, name):
                setattr(model, name, None)  # frees its memory, which may hold no weights
        if self.family.projected:
            encoder, projection = (getattr(model, part) for part in self.family.projected[tower])
            setattr(model, f"get_{tower}_features", partial(_project_first, encoder, projection))
        own = OwnTower(model, tower, has_pooler=has_pooler)
        with single_line_errors(f"encode with {self.files.name}", self.hint):
            return Tower(own, own.find_rule(self._example(model, tower)))

    @torch.inference_mode()
    def _example(self, model: Any, tower: TowerName) -> dict[str, torch.Tensor]:
        """Return one image as a model takes it, or tokens of one text."""
        if tower == "text":
            return {"input_ids": torch.zeros((1, 2), dtype=torch.long)}
        weight = next(model.parameters())
        preprocessor = self.preprocessor(weight.device, weight.dtype)
        images = preprocessor.resize_and_crop([preprocessor.example()])
        pixels: Any = preprocessor.normalize(images)
        return {"pixel_values": pixels}

    def logit_scale(self, tensors: Tensors) -> dict[str, float]:
        """Return the scale and any bias of logits; kinds that are not tested may have none."""
        if self.family.projected:
            return {}
        if self.is_tested or not self.is_dual:
            return super().logit_scale(tensors)
        prefix = f"{self.outline.base_model_prefix}."
        named = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
        if "temperature" in named:  # ALIGN divides cosines by it
            named["logit_scale"] = -named["temperature"].log()
        if "logit_scale" not in named:
            return {}
        return logit_scale(self.files, named)

    def stack(self, tower: Tower) -> Stack:
        """Return the layers of a tower."""
        inner = inner_model(tower.model)
        family = FAMILIES.get(inner.config.model_type, self.family)  # of the tower alone
        if not family.is_own:
            return find_stack(tower.model)
        own: OwnTower = tower.model
        if own.tower == "text":
            return Stack([inner] * number_of_layers(inner.config), None)
        with single_line_errors("return hidden states", self.hint):
            return own.find_stack(self._example(inner, own.tower))

    def without_projection(self, tower: Tower) -> Tower:
        """Return an image tower that ends with its pooler."""
        if tower.output != "image_embeds":
            return super().without_projection(tower)
        return Tower(inner_model(tower.model), "pooler_output")

    def preprocessor(self, device: torch.device, dtype: torch.dtype) -> Preprocessor:
        """Return the model's own image processor."""
        processor = load_image_processor(self.files)
        if self.family.normalizes and getattr(processor, "do_normalize", False):
            console.warn(
                f"{self.files.name}: its image processor normalises images, and the model does so "
                "again; expected do_normalize false in preprocessor_config.json"
            )
        config = self.tower_config("image")
        kind = family_of_tower(config)
        with single_line_errors(f"load the image processor of {self.files.name}"):
            if kind.naflex:
                return NaflexPreprocessor(processor, device, dtype)
            image_size = self.image_size
            if image_size:
                resize_processor(processor, image_size)
            elif not self.family.is_whole:
                image_size = config.image_size
            return ImagePreprocessor(processor, device, dtype, image_size, kind.crops_as_openai)

    def tokenizer(self, *, clean: bool) -> Tokenizer:
        """Return the model's own tokenizer."""
        return Tokenizer(self.files, self.config, self.family.padding, clean=clean)

    def describe_towers(self) -> dict[str, dict[str, Any]]:
        """Return the layers, widths, heads and parameters of each tower, and what it takes."""
        return {tower: self._describe_tower(tower) for tower in self.towers}

    def _describe_tower(self, tower: TowerName) -> dict[str, int]:
        """Return what is known of a tower. The stages of a model count as its layers."""
        config = self.tower_config(tower)
        facts = {name: getattr(config, setting, None) for name, setting in FACTS.items()}
        if hasattr(config, "depths"):
            facts["layers"] = len(config.depths)
        if hasattr(config, "hidden_sizes"):
            facts["width"] = config.hidden_sizes[-1]
        if self.prefixes(tower) != ("",):
            facts["parameters"] = self.parameters(tower)
        return {name: value for name, value in facts.items() if isinstance(value, int)}


ADAPTER = TransformersModel


class OwnTower(torch.nn.Module):
    """A tower that its model's own methods use: pixels or tokens -> embeddings (B, D).

    The embedding is what `get_image_features` or `get_text_features` returns. Without these
    methods, it is what the pooler returns. Without a pooler, the last hidden states are pooled:
    tokens (B, T, width) to the CLS token, if there is one, or else to their mean, and maps to the
    mean.

    `has_pooler` is false if the weights lack the pooler. The first `prefix` tokens are no patches.
    """

    def __init__(self, model: Any, tower: TowerName, *, has_pooler: bool = True) -> None:
        super().__init__()
        self.model = model
        self.tower = tower
        self.has_pooler = has_pooler
        method = f"get_{tower}_features"
        self.method = f"{tower}_embeds" if hasattr(model, method) else "pooler_output"
        self.run = getattr(model, method, model)
        self.prefix = 1 if tower == "text" else count_tokens(inner_model(model))
        self.is_channels_last = False

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Embed pixels or tokens."""
        return self._pool(self._outputs(inputs)[1])

    @torch.inference_mode()
    def find_rule(self, example: dict[str, torch.Tensor]) -> str:
        """Return what the model embeds a square image by."""
        rule, output = self._outputs(example)
        self.is_channels_last = _is_channels_last(output)
        pool = CLS if self.prefix else MEAN_OF_TOKENS
        if output.ndim == 4:
            pool = MEAN_OF_MAP
        if rule == "last_hidden_state":
            return pool
        if math.prod(output.shape[2:]) != 1:
            rule += f", {pool}"
        return rule

    def _outputs(self, inputs: dict[str, torch.Tensor]) -> tuple[str, torch.Tensor]:
        """Return the output of B images or texts that becomes their embedding, and its name."""
        outputs = self.run(**inputs)
        if isinstance(outputs, torch.Tensor):
            return self.method, outputs
        pooled = outputs.get("pooler_output")
        if pooled is not None and self.has_pooler:
            return self.method, pooled
        if "feature_maps" in outputs:  # of a backbone, by stage
            return "last_hidden_state", outputs["feature_maps"][-1]
        return "last_hidden_state", outputs["last_hidden_state"]

    def _pool(self, output: torch.Tensor) -> torch.Tensor:
        """Pool vectors, tokens or a map to (B, D)."""
        if output.ndim == 2:
            return output
        if output.ndim == 4:
            return widened(_as_map(output, self.is_channels_last)).mean(dim=(-2, -1))
        return output[:, 0] if self.prefix else widened(output).mean(dim=1)

    def find_stack(self, example: dict[str, torch.Tensor]) -> Stack:
        """Return the hidden states of a square image as layers."""
        with torch.inference_mode():
            states = self._states(example)
        is_last = [_is_channels_last(state) for state in states]

        def find(numbers: Sequence[int], **inputs: torch.Tensor) -> dict[int, torch.Tensor]:
            found = self._states(inputs)
            return {number: _as_map(found[number], is_last[number]) for number in numbers}

        # of stages, only the last may have a CLS token
        prefix = self.prefix if states[0].shape == states[-1].shape else 0
        suffix = count_tokens(inner_model(self.model), SUFFIX_TOKENS)
        layers = [self.model] * (len(states) - 1)
        return Stack(layers, None, prefix=prefix, suffix=suffix, has_cls=prefix > 0, states=find)

    def _states(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        states = inner_model(self)(**inputs, output_hidden_states=True).get("hidden_states")
        if not states:
            raise ValueError("expected a model that returns hidden states, got one without")
        return tuple(states)


def _is_channels_last(state: torch.Tensor) -> bool:
    """Return whether a map is (B, H, W, C): the map of a square image has two equal sides."""
    return state.ndim == 4 and state.shape[1] == state.shape[2] != state.shape[3]


def _as_map(state: torch.Tensor, is_channels_last: bool) -> torch.Tensor:
    """Return a map as (B, width, H, W); tokens as they are."""
    return state.movedim(-1, 1) if is_channels_last else state


class UnmaskedPatches(torch.nn.Module):
    """A ViT-MAE that sees all patches, in their order, while a plain one hides most of them."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        model.config.mask_ratio = 0.0

    def forward(self, pixel_values: torch.Tensor, **options: Any) -> Any:
        """Run the model with ascending noise, by which it sorts the patches."""
        height, width = self.model.embeddings.patch_embeddings.patch_size
        rows, columns = pixel_values.shape[-2] // height, pixel_values.shape[-1] // width
        noise = torch.arange(rows * columns, device=pixel_values.device)
        return self.model(pixel_values, noise=noise.expand(len(pixel_values), -1), **options)


def _interpolate_positions(model: Any) -> None:
    """Let the methods of a model interpolate the positions of patches, if they offer it."""
    for name in ("forward", "get_image_features"):
        method = getattr(model, name, None)
        if method and "interpolate_pos_encoding" in inspect.signature(method).parameters:
            setattr(model, name, partial(method, interpolate_pos_encoding=True))


def _class(name: str) -> Any:
    """Return a class of transformers, which takes long to import."""
    return getattr(import_library("transformers"), name)


def number_of_layers(config: Any) -> int:
    """Return the number of layers of a tower; some models have them in stages."""
    depths = getattr(config, "depths", None)
    return sum(depths) if depths else int(getattr(config, "num_hidden_layers", 1))


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


def _project_first(encoder: Any, projection: Any, **inputs: torch.Tensor) -> torch.Tensor:
    """Return the projection (B, D) of the first token of the last hidden state."""
    embeddings: torch.Tensor = projection(encoder(**inputs).last_hidden_state[:, 0])
    return embeddings


def _inside(model: Any, keys: Iterable[str]) -> list[str]:
    """Return the unknown tensors that belong to the model, not to a head outside of it."""
    children = {name for name, _ in model.named_children()}
    inner = []
    for key in without_buffers(keys):
        child, _, _ = key.removeprefix(f"{model.base_model_prefix}.").partition(".")
        if child in children and not key.endswith(f".{HIDING_TOKEN}"):
            inner.append(key)
    return inner
