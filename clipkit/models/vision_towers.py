"""The vision tower of a generative model: hidden states of its layers, without a question."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from clipkit.base.errors import ClipkitError
from clipkit.features.history import drop_none
from clipkit.models.acceleration import DTYPES
from clipkit.models.architecture import check_range
from clipkit.models.families import count_tokens
from clipkit.models.generative import Checkpoint
from clipkit.models.hub import ModelFiles, combine_digests
from clipkit.models.libraries import library_version, named
from clipkit.models.options import RunOptions
from clipkit.models.preprocessing import Preprocessor, library_processor
from clipkit.models.towers import LayerTower, Stack, choose_layers, widened

TOWERS = ("vision_tower", "visual", "vision_model")  # by transformers' names
LANGUAGE_PARTS = ("language_model", "text_model")  # which no image passes
LAST = (-1,)
Inputs = dict[str, Any]


def load(
    files: ModelFiles, options: RunOptions, device: torch.device, precision: str
) -> dict[str, Any]:
    """Return the fields of an `Encoder` of images by a generative model's vision tower."""
    dtype = DTYPES[precision]
    model, parts = Checkpoint(files).load(options.untrained, torch.device("cpu"), dtype)
    with named(files.name):
        inner, tower = _find_tower(model)
        check_range(files, tower, precision)
        for part in LANGUAGE_PARTS:
            if hasattr(inner, part):
                setattr(inner, part, None)  # frees its memory
        inner.to(device)
        stack = _find_layers(tower)
        chosen = choose_layers(
            _runner(inner),
            stack,
            "image",
            options.layers or LAST,
            pool=options.pool,
            norm=options.norm,
        )
        preprocessor = TiledImages(library_processor(files), device, dtype)
    known = {
        "name": files.name,
        "library": library_version("transformers"),
        "digest": combine_digests(parts),
        "weights": parts["weights"],
        "tower": "image",
        "vision_tower": True,
        "precision": precision,
        "device": device.type,
        "preprocessing": preprocessor.details(),
        "untrained": options.untrained,
    }
    return {
        "details": drop_none(known),
        "parts": parts,
        "_tower": VisionTower(**vars(chosen)),
        "_device": device,
        "_preprocessor": preprocessor,
    }


def _find_tower(model: Any) -> tuple[Any, Any]:
    """Return the module that encodes images, with its vision tower."""
    for inner in (getattr(model, "model", None), model):
        for name in TOWERS:
            if hasattr(inner, "get_image_features") and hasattr(inner, name):
                return inner, getattr(inner, name)
    raise ClipkitError(
        f"expected a model with a vision tower that is known, got {type(model).__name__}",
        "name the tower by Python code of your own: docs/encoders.md shows how",
    )


def _find_layers(tower: Any) -> Stack:
    """Return the layers of a tower: its first list of modules."""
    lists = [module for module in tower.modules() if isinstance(module, torch.nn.ModuleList)]
    if not lists:
        raise ClipkitError(f"expected a vision tower with layers, got {type(tower).__name__}")
    prefix = count_tokens(tower)
    return Stack(list(lists[0]), None, prefix=prefix, has_cls=prefix > 0)


def _runner(inner: Any) -> Callable[..., Any]:
    """Return a function that gives the inputs of an image processor to a model's vision tower."""
    encode = inner.get_image_features
    names = inspect.signature(encode).parameters

    def run(**inputs: Any) -> Any:
        return encode(**{name: value for name, value in inputs.items() if name in names})

    return run


class TiledImages(Preprocessor):
    """Prepares each image by a model's own processor, as one image, as tiles or as patches."""

    def __init__(self, processor: Any, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(device, dtype)
        self.processor = processor

    def resize_and_crop(self, images: Sequence[Image.Image]) -> Inputs:
        """Return the inputs of each of B images."""
        prepared = []
        for image in images:
            inputs = self.processor(images=[image.convert("RGB")], return_tensors="pt")
            prepared.append(dict(inputs))
        return {"images": prepared}

    def _move(self, value: Any) -> Any:
        if isinstance(value, list):
            return [{key: self._move(part) for key, part in inputs.items()} for inputs in value]
        return super()._move(value)

    def details(self) -> dict[str, Any]:
        """Return the settings of the image processor, in types that JSON has."""
        settings: dict[str, Any] = json.loads(self.processor.to_json_string())
        return settings


@dataclass(frozen=True)
class VisionTower(LayerTower):
    """A vision tower that returns pooled hidden states: inputs of B images -> (B, D).

    Images of one tile are encoded together, and others one by one, since their tiles or patches
    stand in one row. The mean is taken over all tokens of an image.
    """

    @torch.inference_mode()
    def states(self, inputs: Inputs) -> dict[int, torch.Tensor]:
        """Return the pooled hidden state (B, width) of each layer."""
        states = [super(VisionTower, self).states(batch) for batch in _batches(inputs["images"])]
        return {layer: torch.cat([state[layer] for state in states]) for layer in self.layers}

    def _pool(self, state: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        """Pool the tokens (B, T, width) of B images, or all tiles or patches of a single one."""
        if state.ndim == 4:
            raise ClipkitError(
                "expected a vision tower with layers that return tokens, got one with maps",
                "name the tower by Python code of your own: docs/encoders.md shows how",
            )
        tokens = state if state.ndim == 3 else state.reshape(1, -1, state.shape[-1])
        wanted = slice(1) if self.pool == "cls" else slice(self.stack.prefix, None)
        tokens = tokens[:, wanted]
        if len(tokens) != inputs["count"]:  # tiles
            tokens = tokens.reshape(1, -1, tokens.shape[-1])
        return widened(tokens).mean(dim=1)


def _batches(images: Sequence[Inputs]) -> Iterator[Inputs]:
    """Yield the inputs of images that can be encoded together, with their `count`."""
    are_plain = all(
        [*inputs] == ["pixel_values"] and inputs["pixel_values"].ndim == 4 for inputs in images
    )
    shapes = {inputs["pixel_values"].shape for inputs in images}
    if are_plain and len(shapes) == 1 and next(iter(shapes))[0] == 1:
        pixels = torch.cat([inputs["pixel_values"] for inputs in images])
        yield {"pixel_values": pixels, "count": len(images)}
        return
    for inputs in images:
        yield {**inputs, "count": 1}
