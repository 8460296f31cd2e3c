"""Where the towers of transformers have their layers, their final norm and their patches."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch

from clipkit.base.errors import ClipkitError
from clipkit.models.families import LEGACY_END
from clipkit.models.towers import Stack, find_token, largest_token, last_token


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


CLIP_IMAGE = Layout(("encoder.layers",), "post_layernorm", tokens=(1,))
CLIP_TEXT = Layout(("encoder.layers",), "final_layer_norm", text_token="end")
SIGLIP_IMAGE = Layout(("encoder.layers",), "post_layernorm")
SIGLIP_TEXT = Layout(("encoder.layers",), "final_layer_norm", text_token="last")
VIT = Layout(("layers", "encoder.layer"), "layernorm", tokens=(1,))
CONVNEXT = Layout(("encoder.stages",), "layernorm", is_map=True)

# By the tower's own model_type.
LAYOUTS = {
    "aimv2_vision_model": Layout(("encoder.layers",), "rms_norm"),
    "clip_text_model": CLIP_TEXT,
    "clip_vision_model": CLIP_IMAGE,
    "convnext": CONVNEXT,
    "convnextv2": CONVNEXT,
    "dinov2": VIT,
    "dinov2_with_registers": VIT._replace(tokens=(1, "num_register_tokens")),
    "dinov3_convnext": Layout(("model.stages",), "layer_norm", is_map=True),
    "dinov3_vit": Layout(("model.layer",), "norm", tokens=(1, "num_register_tokens")),
    "ijepa": VIT._replace(tokens=()),
    "metaclip_2_text_model": CLIP_TEXT,
    "metaclip_2_vision_model": CLIP_IMAGE,
    "radio": Layout(("encoder.layer",), "", tokens=("num_summary_tokens",)),
    "siglip2_text_model": SIGLIP_TEXT,
    "siglip2_vision_model": SIGLIP_IMAGE,
    "siglip_text_model": SIGLIP_TEXT,
    "siglip_vision_model": SIGLIP_IMAGE,
    "vit": VIT,
    "vit_mae": VIT,
}


def find_stack(model: Any) -> Stack:
    """Return the layers of a tower's model."""
    model = inner_model(model)
    config = model.config
    layout = LAYOUTS[config.model_type]
    norm = operator.attrgetter(layout.norm)(model) if layout.norm else None
    return Stack(
        layers=_first_of(model, layout.layers),
        norm=None if layout.is_map else norm,
        pooled_norm=norm if layout.is_map else None,
        prefix=sum(_number_of_tokens(config, count) for count in layout.tokens),
        has_cls=bool(layout.tokens),
        is_map=layout.is_map,
        pooled_token=_pooled_token(config, layout.text_token),
    )


def inner_model(model: Any) -> Any:
    """Return the model whose parts a `Layout` names, without its projection."""
    while not hasattr(model, "config"):  # a wrapper of clipkit's
        model = model.model
    return getattr(model, "vision_model", getattr(model, "text_model", model))


def _first_of(model: Any, paths: Iterable[str]) -> Any:
    """Return what is at the first of some dotted paths that the model has."""
    for path in paths:
        with contextlib.suppress(AttributeError):
            return operator.attrgetter(path)(model)
    raise ClipkitError(f"expected layers at {' or '.join(paths)} of {type(model).__name__}")


def _number_of_tokens(config: Any, count: int | str) -> int:
    return count if isinstance(count, int) else int(getattr(config, count))


def _pooled_token(config: Any, which: str) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return a function from token ids (B, T) to the position (B) of the token that is pooled."""
    if which == "last":
        return last_token
    return end_token(config) if which == "end" else None


def end_token(config: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function from token ids (B, T) to the position (B) of the end token."""
    if config.model_type == "clip_text_model" and config.eos_token_id == LEGACY_END:
        return largest_token
    return partial(find_token, token=config.eos_token_id)
