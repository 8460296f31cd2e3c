"""Preprocess images for SigLIP 2 NaFlex, which sees each image in its own aspect ratio.

Its processor cuts an image into patches and pads these to one number, so that images of several
shapes fit into one batch. A mask tells the patches from the padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from clipkit.models.preprocessing import describe_processor
from clipkit.models.towers import PADDING_MASK

INPUTS = ("pixel_values", PADDING_MASK, "spatial_shapes")
MAX_PATCHES = 2**16  # of an image


class NaflexPreprocessor:
    """Prepares images by the model's own processor; see `Preprocessor`."""

    def __init__(self, processor: Any, device: torch.device, dtype: torch.dtype) -> None:
        if tuple(processor.model_input_names) != INPUTS:
            raise ValueError(f"expected Siglip2ImageProcessor, got {type(processor).__name__}")
        if not 1 <= processor.max_num_patches <= MAX_PATCHES:
            raise ValueError(
                f"expected a max_num_patches of 1 to {MAX_PATCHES}, got {processor.max_num_patches}"
            )
        self.processor = processor
        self.device = device
        self.dtype = dtype

    def resize_and_crop(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """Cut B images of any sizes into at most N patches of P x P pixels, in a thread.

        Returns
        -------
        dict
            ``pixel_values`` (B, N, 3 P P) in float32, ``pixel_attention_mask`` (B, N), and
            ``spatial_shapes`` (B, 2), the rows and columns of each image's patches.
        """
        converted = [image.convert("RGB") for image in images]
        outputs = self.processor(images=converted, return_tensors="pt")
        inputs: dict[str, torch.Tensor] = {name: outputs[name] for name in INPUTS}
        if self.device.type == "cuda":
            inputs = {name: tensor.pin_memory() for name, tensor in inputs.items()}
        return inputs

    def normalize(self, pixels: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Move the inputs to the model; the processor has normalised them."""
        inputs = {name: pixels[name].to(self.device, non_blocking=True) for name in INPUTS}
        inputs["pixel_values"] = inputs["pixel_values"].to(self.dtype)
        return inputs

    def example(self) -> Image.Image:
        """Return an image that is no square, so that all patches and some padding are tried."""
        edge = self.processor.patch_size * int(self.processor.max_num_patches**0.5)
        return Image.new("RGB", (2 * edge, edge), "gray")

    def example_size(self) -> None:
        """Return None: inputs have no single size."""

    def details(self) -> dict[str, Any]:
        """Return the settings that decide the result, in types that JSON has."""
        processor = self.processor
        return describe_processor(
            processor,
            patch_size=processor.patch_size,
            max_num_patches=processor.max_num_patches,
        )
