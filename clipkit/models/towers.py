"""Run one tower of a model, and take the embedding from what it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

TowerName = Literal["image", "text"]

NO_TEXT = "which is for images alone"  # why a model has no text tower
CLS = "CLS token"  # of the last layer
MEAN = "mean of patches"
PADDING_MASK = "pixel_attention_mask"  # (B, T) among the inputs: 1 for a patch, 0 for padding


@dataclass(frozen=True)
class Tower:
    """A tower of a library: inputs -> embeddings (B, D).

    `model` returns embeddings, or outputs by name. `output` is then the name of the embeddings, or
    `CLS` or `MEAN`. A model whose embedding is the mean of its patches has no other tokens.
    """

    model: Any
    output: str

    @torch.inference_mode()
    def __call__(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Embed pixels or tokens."""
        outputs = self.model(**inputs)
        if isinstance(outputs, torch.Tensor):
            return outputs
        if self.output not in (CLS, MEAN):
            embeddings: torch.Tensor = outputs[self.output]
            return embeddings
        tokens: torch.Tensor = outputs["last_hidden_state"]  # (B, T, width)
        if self.output == CLS:
            return tokens[:, 0]
        return mean_of_patches(tokens, inputs.get(PADDING_MASK))


def mean_of_patches(patches: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the mean (B, width) of patches (B, T, width), without padding if there is a mask."""
    if mask is None:
        return patches.mean(dim=1)
    mask = mask[..., None]  # (B, T, 1)
    return (patches * mask).sum(dim=1) / mask.sum(dim=1)


def last_token(ids: torch.Tensor) -> torch.Tensor:
    """Return the position (B) of the last of T token ids (B, T)."""
    return ids.new_full(ids.shape[:1], ids.shape[1] - 1)


def largest_token(ids: torch.Tensor) -> torch.Tensor:
    """Return the position (B) of the largest token id: CLIP's end token has the largest number."""
    return ids.argmax(dim=1)


def find_token(ids: torch.Tensor, token: int) -> torch.Tensor:
    """Return the position (B) of the first of the ids (B, T) that is `token`."""
    return (ids == token).int().argmax(dim=1)


@dataclass(frozen=True)
class Stack:
    """The layers of a tower, in order. What passes from one to the next are the hidden states.

    Hidden state 0 is the input of the first layer, hidden state n the output of layer n, before
    `norm`.

    Attributes
    ----------
    layers : sequence of torch.nn.Module
        Each returns (B, T, width), or (B, width, H, W) if `is_map`; or a tuple that starts so.
    norm : torch.nn.Module or None
        What the model applies to the tokens (B, T, width) of the last hidden state.
    pooled_norm : torch.nn.Module or None
        What it applies to their mean (B, width), or to that of a map.
    prefix : int
        The number of tokens before the patches: CLS, registers, summaries.
    has_cls : bool
        Whether the first of them is a CLS token.
    is_map : bool
        Whether hidden states are maps of patches, as in a ConvNeXt.
    pooled_token : callable or None
        Of a text tower: token ids (B, T) -> the position (B) of the token that the model pools.
    """

    layers: Sequence[torch.nn.Module]
    norm: Any
    pooled_norm: Any = field(default=None, kw_only=True)
    prefix: int = 0
    has_cls: bool = False
    is_map: bool = False
    pooled_token: Callable[[torch.Tensor], torch.Tensor] | None = None


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
