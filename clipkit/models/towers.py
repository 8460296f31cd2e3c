"""Run one tower of transformers, and take the embedding from what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from clipkit.models.families import CLS, MEAN


@dataclass(frozen=True)
class Tower:
    """A tower of transformers: inputs -> embeddings (B, D).

    `output` is the name under which the model returns embeddings, or `CLS` or `MEAN`. A model whose
    embedding is the mean of its patches has no other tokens.
    """

    model: Any
    output: str

    @torch.inference_mode()
    def __call__(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Embed pixels or tokens."""
        outputs = self.model(**inputs)
        if self.output not in (CLS, MEAN):
            embeddings: torch.Tensor = outputs[self.output]
            return embeddings
        tokens: torch.Tensor = outputs["last_hidden_state"]  # (B, T, width)
        if self.output == CLS:
            return tokens[:, 0]
        return tokens.mean(dim=1)


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
