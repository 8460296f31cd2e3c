"""Models of timm: an image tower, with weights as stored or at random."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import timm
import torch
from torch.nn.modules.module import register_module_module_registration_hook

from clipkit.base.errors import ClipkitError, UsageError, unknown
from clipkit.base.names import select
from clipkit.models.architecture import (
    Architecture,
    Tensors,
    check_memory,
    check_stored_tensors,
    refuse_misfits,
    without_buffers,
)
from clipkit.models.hub import ModelFiles
from clipkit.models.libraries import quiet_loading
from clipkit.models.preprocessing import MAX_EDGE, TransformPreprocessor
from clipkit.models.tokenizer import Tokenizer
from clipkit.models.towers import Stack, Tower, TowerName

WRAPPER = "timm_model."  # before the names of tensors, if transformers saved them
MAX_MODULES = 20_000  # the largest model of timm 1.0.31 has 2,541; building a billion never ends
MAX_SETTING = 2**16  # of a number in config.json; the widest layers have 10,000 units
# Arguments of timm's factories that say more than the architecture: what is read, and to where.
REFUSED_ARGUMENTS = {
    *("cache_dir", "checkpoint_path", "device", "dtype", "exportable", "feature_cfg"),
    *("features_only", "kwargs_filter", "model_cfg", "no_jit", "pretrained", "pretrained_cfg"),
    *("pretrained_cfg_overlay", "pretrained_filter_fn", "pretrained_model_args"),
    *("pretrained_strict", "scriptable"),
}
# Settings of the transform, as timm.data.resolve_data_config returns them.
SETTINGS = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
# timm's names of layers 1 that layer 0 enters
FIRST_STAGES: tuple[str, ...] = ("stages.0", "layer1", "s1")
PVT = "PyramidVisionTransformerV2"  # its layer 1 takes a map with channels last, and returns none


class TimmModel(Architecture):
    """A model of timm, as config.json describes it."""

    library = "timm"
    towers = ("image",)

    def __init__(self, files: ModelFiles, kind: str, *, is_wrapped: bool = False) -> None:
        self.files = files
        self.kind = kind
        self.prefix = WRAPPER * is_wrapped

    @classmethod
    def read(cls, files: ModelFiles) -> TimmModel:
        """Read config.json."""
        content = files.read_json("config.json")
        kind = str(content["architecture"])
        if not timm.is_model(kind):
            raise ClipkitError(
                f"{files.name}: expected an architecture that timm {timm.__version__} knows, "
                f"got {kind!r}",
                unknown("architecture", kind, timm.list_models()).hint,
            )
        with quiet_loading(f"config.json of {files.name}"):
            _check_config(content)
        model = cls(files, kind, is_wrapped="model_type" in content)
        sizes: dict[str, tuple[int, ...]] = {}
        for tensors in (model.outline.named_parameters(), model.outline.named_buffers()):
            sizes |= {name: tuple(tensor.shape) for name, tensor in tensors}
        check_memory(files, sizes)
        return model

    @property
    def dim(self) -> int:
        """The embedding size D."""
        return int(getattr(self.outline, "head_hidden_size", self.outline.num_features))

    def new_model(self) -> Any:
        """Return the model without its classifier, as timm initialises it."""
        return self._create(num_classes=0)

    def _create(self, **options: int) -> Any:
        # timm reads config.json itself, since it completes pretrained_cfg by model_args.
        # Without `pretrained`, it reads nothing else.
        loading = quiet_loading(f"the architecture of {self.files.name}")
        with loading, _few_modules(), self.files.side_folder() as folder:
            return timm.create_model(f"local-dir:{folder}", pretrained=False, **options)

    def prefixes(self, tower: TowerName) -> tuple[str, ...]:
        """Return how the names of the tensors start."""
        return ("",)

    def check_stored(self, *towers: TowerName) -> None:
        """Compare names, shapes and types of the stored tensors, except those that are not used.

        These are the classifier's tensors, and buffers that the model computes itself. Files of
        earlier versions of timm hold such buffers, for example for Swin.
        """
        sizes = self.sizes()
        with torch.device("meta"):
            with_classifier = self._create()
        unused = {name for name, _ in self.outline.named_buffers()}
        unused |= with_classifier.state_dict().keys()
        ignored = {self.prefix + name for name in unused - sizes.keys()}
        expected = {self.prefix + name: size for name, size in sizes.items()}
        check_stored_tensors(self.files, expected, ("",), ignored=ignored)

    def build(self, tower: TowerName, tensors: Tensors) -> Tower:
        """Build the image tower with the given weights, in float32 and evaluation mode."""
        model = self.new_model()
        plain = {name.removeprefix(self.prefix): tensor for name, tensor in tensors.items()}
        weights = select(plain, self.sizes())
        with quiet_loading(f"the weights of {self.files.name}"):
            missing = model.load_state_dict(weights, strict=False).missing_keys
        # BatchNorm counts its batches in training only, and the count may be missing
        refuse_misfits(self.files, missing=without_buffers(missing))
        return Tower(PooledModel(model.eval()), pooling(model))

    def stack(self, tower: Tower) -> Stack:
        """Return the blocks of a vision transformer, or the stages of a convolutional network."""
        return find_stack(tower.model.model)

    def preprocessor(self, device: torch.device, dtype: torch.dtype) -> TransformPreprocessor:
        """Return timm's own transform for evaluation."""
        with quiet_loading(f"the transform of {self.files.name}"):
            settings = self._transform_settings()
            transform = timm.data.create_transform(**settings, is_training=False)
        edge = max(settings["input_size"][1:])
        return TransformPreprocessor(transform, settings, edge, device, dtype)

    def _transform_settings(self) -> dict[str, Any]:
        """Return the transform's settings; refuse those that are random or fill the memory."""
        resolved = timm.data.resolve_data_config(model=self.outline)
        settings = {name: resolved[name] for name in SETTINGS}
        channels, *edges = settings["input_size"]
        if channels != 3:
            raise ValueError(f"expected 3 channels in input_size, got {channels}")
        resized = max(edges) / settings["crop_pct"]
        if not (min(edges) >= 1 and 1 <= resized <= MAX_EDGE):
            raise ValueError(
                f"expected edges of 1 to {MAX_EDGE} pixels before the crop, got input_size "
                f"{list(edges)} and crop_pct {settings['crop_pct']:g}"
            )
        if settings["interpolation"] == "random":
            raise ValueError("expected one kind of interpolation, got 'random'")
        return settings

    def tokenizer(self, *, clean: bool) -> Tokenizer:
        """Raise a UsageError: there is no text tower."""
        raise UsageError(f"{self.files.name}: expected a model with a text tower, got {self.kind}")

    def describe_towers(self) -> dict[str, dict[str, Any]]:
        """Return what is known of layers and patches, and width, pooling and image size."""
        image = describe_trunk(self.outline)
        with quiet_loading(f"the transform of {self.files.name}"):
            image["image_size"] = max(self._transform_settings()["input_size"][1:])
        image["embedding"] = pooling(self.outline)
        return {"image": image}


ADAPTER = TimmModel


class PooledModel(torch.nn.Module):
    """A model of timm that returns the embeddings (B, D) which its classifier would get."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Embed pixels (B, 3, H, W)."""
        features = self.model.forward_features(pixel_values)
        embeddings: torch.Tensor = self.model.forward_head(features, pre_logits=True)
        if embeddings.ndim != 2:
            raise ValueError(
                "expected a model with pooling (global_pool), got features of the shape "
                f"{tuple(embeddings.shape)}"
            )
        return embeddings


def pooling(model: Any) -> str:
    """Return timm's name of the pooling that makes the embedding, such as ``token`` or ``avg``."""
    for owner in (model, getattr(model, "head", None)):
        pool = getattr(owner, "global_pool", None)
        name = getattr(pool, "pool_type", pool)
        if isinstance(name, str) and name:
            return name
    return "pooled"


def find_stack(model: Any) -> Stack:
    """Return the layers of a model of timm: its blocks, or the stages of a feature pyramid."""
    if not hasattr(model, "forward_intermediates"):
        raise UsageError(
            f"expected a model of timm with forward_intermediates, got {type(model).__name__}"
        )
    if hasattr(model, "fc_norm"):  # blocks that pass tokens on, which can be pooled one by one
        stack = Stack(list(model.blocks), None)
    else:
        states = HiddenStates(model)
        stack = Stack(states.names, None, lowest=states.lowest, states=states)
        if states.is_map:  # timm normalises a map before it pools
            return stack
    embedding = getattr(model, "embeds", model)  # of a NaFlexVit
    return replace(
        stack,
        norm=_norm_or_none(model.norm),
        pooled_norm=_norm_or_none(getattr(model, "fc_norm", None)),
        prefix=model.num_prefix_tokens,
        has_cls=embedding.cls_token is not None,
    )


class HiddenStates:
    """Reads hidden states by timm's `forward_intermediates`, and layer 0 as the input of layer 1.

    They are tokens (B, T, width), or maps (B, width, H, W) if `is_map`. `names` are timm's names
    of layers 1 to n.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        parameters = inspect.signature(model.forward_intermediates).parameters
        self.options: dict[str, Any] = {"intermediates_only": True, "stop_early": True}
        names = [feature["module"] for feature in model.feature_info]
        if "extra_blocks" in parameters:  # every stage, not the last one of each resolution
            self.options["extra_blocks"] = True
            names = ["stem", *(f"blocks.{number}" for number in range(len(model.blocks)))]
        first = FIRST_STAGES
        if "extra_blocks" in parameters:
            first = ("blocks.0",)
        self.stems = int(len(names) > 1 and names[1] in first)  # maps that timm has before layer 1
        self.names = names[self.stems :]
        is_nhwc = getattr(model, "output_fmt", "") == "NHWC" or type(model).__name__ == PVT
        self.lowest = int(self.names[0] not in first or is_nhwc)
        prefix = "return_prefix_tokens" in parameters and model.num_prefix_tokens > 0
        self.is_map = not prefix
        if prefix:
            self.options |= {"return_prefix_tokens": True, "output_fmt": "NLC"}

    def __call__(self, layers: Collection[int], *, pixel_values: Any) -> dict[int, torch.Tensor]:
        """Return the hidden states of some layers. Layers above the highest are not computed."""
        inputs: list[Any] = []
        later = sorted(set(layers) - {0})
        indices = [layer - 1 + self.stems for layer in later] or [self.stems]
        with contextlib.ExitStack() as hooks:
            if 0 in layers:
                first = self.model.get_submodule(self.names[0])
                hook = first.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
                hooks.callback(hook.remove)
            found = self.model.forward_intermediates(pixel_values, indices=indices, **self.options)
        states = {}
        if inputs:
            states[0] = _as_map(inputs[0], found[0])
        for layer, state in zip(later, found, strict=False):
            states[layer] = state
            if isinstance(state, tuple):  # the patches, and the tokens before them
                states[layer] = torch.cat(state[::-1], dim=1)
        return states


def _as_map(state: torch.Tensor, later: torch.Tensor) -> torch.Tensor:
    """Return the input of layer 1 as a map (B, width, H, W) with the proportions of a later one."""
    if state.ndim == 3:  # tokens
        return state.mT[..., None]
    (height, width), (later_height, later_width) = state.shape[2:], later.shape[2:]
    if height * later_width != width * later_height:
        raise UsageError("expected layers from 1 on, got 0, which is no map (B, width, H, W)")
    return state


def _norm_or_none(norm: Any) -> Any:
    """Return a norm of timm; None if it is an Identity: either tokens or their mean are normed."""
    return None if isinstance(norm, torch.nn.Identity) else norm


def describe_trunk(model: Any) -> dict[str, Any]:
    """Return the number of layers, the width, and the size of the patches if there are any."""
    described: dict[str, Any] = {}
    with contextlib.suppress(UsageError):
        described["layers"] = len(find_stack(model).layers)
    described["width"] = model.num_features
    patch_size = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if patch_size:
        described["patch_size"] = max(patch_size) if isinstance(patch_size, tuple) else patch_size
    return described


def _check_config(content: dict[str, Any]) -> None:
    """Refuse arguments that do not belong to an architecture, and numbers without bound."""
    arguments = content.get("model_args") or {}
    refused = sorted(REFUSED_ARGUMENTS & arguments.keys())
    if refused:
        raise ValueError(f"expected settings of an architecture in model_args, got {refused[0]}")
    _check_numbers("model_args", arguments)
    settings = content.get("pretrained_cfg", content)
    if not isinstance(settings, dict):
        raise ValueError(f"expected an object in pretrained_cfg, got {json.dumps(settings)}")
    for name in SETTINGS:
        _check_numbers(name, settings.get(name))


def _check_numbers(name: str, value: Any) -> None:
    """Refuse numbers that are too large, in lists and objects, too."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for entry in value:
            _check_numbers(name, entry)
    elif isinstance(value, int | float) and not abs(value) <= MAX_SETTING:
        raise ValueError(f"expected numbers of at most {MAX_SETTING:,} in {name}, got {value:g}")


@contextlib.contextmanager
def _few_modules() -> Iterator[None]:
    """Stop the construction of a model that has more modules than any known one."""
    count = 0

    def check(*_: object) -> None:
        nonlocal count
        count += 1
        if count > MAX_MODULES:
            raise ValueError(f"expected at most {MAX_MODULES:,} modules")

    hook = register_module_module_registration_hook(check)
    try:
        yield
    finally:
        hook.remove()
